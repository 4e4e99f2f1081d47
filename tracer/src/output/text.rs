//! Text for people: a block a journey, the path a line a hop, the outcome last, the summary at
//! the end. Everything that came from outside is escaped; no meaning is in colour alone.

mod branches;
mod latency;

use std::{fmt::Write as _, io::Write};

use super::{
    Sink, SinkError,
    escape::escape,
    path::{Line, all_lines, duration, end, ended, main_lines, named, place, plain},
    record::{Journey, LeftOut, LostEvents, Nat, OutcomeKind, Start, Summary},
};
use anstyle::{AnsiColor, Style};

/// How much of the path is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hops {
    /// Every point.
    All,
    /// One line a layer and device.
    #[default]
    Main,
}

/// Writes blocks of text. Give it something buffered.
#[derive(Debug)]
pub struct Text<W: Write> {
    out: W,
    hops: Hops,
    latency: bool,
    styles: Styles,
}

/// Whether to use colour on this stream: a terminal that has it, and no `NO_COLOR`.
pub fn use_colour(stream: &impl anstream::stream::RawStream) -> bool {
    anstream::AutoStream::choice(stream) != anstream::ColorChoice::Never
}

#[derive(Debug, Default)]
struct Styles {
    head: Style,
    good: Style,
    bad: Style,
    doubt: Style,
    faint: Style,
}

impl Styles {
    fn colour() -> Self {
        let bold = |colour: AnsiColor| colour.on_default().bold();
        Self {
            head: Style::new().bold(),
            good: bold(AnsiColor::Green),
            bad: bold(AnsiColor::Red),
            doubt: bold(AnsiColor::Yellow),
            faint: Style::new().dimmed(),
        }
    }
}

impl<W: Write> Text<W> {
    /// Writes to `out`, in colour or without.
    pub fn new(out: W, hops: Hops, colour: bool) -> Self {
        let styles = if colour { Styles::colour() } else { Styles::default() };
        Self { out, hops, latency: false, styles }
    }

    /// Whether the summary tells how long packets took.
    pub fn with_latency(mut self, latency: bool) -> Self {
        self.latency = latency;
        self
    }

    /// What was written to.
    pub fn into_inner(self) -> W {
        self.out
    }

    fn write_path(&mut self, journey: &Journey, lines: &[Line]) -> Result<(), SinkError> {
        let width = |of: fn(&Line) -> &str| {
            lines.iter().map(|line| of(line).chars().count()).max().unwrap_or(0)
        };
        let (time, place, point) = (width(|l| &l.time), width(|l| &l.place), width(|l| &l.point));
        let branches = branches::lines(journey);
        // Each stands behind the line of the hop at which it left, under the places.
        let indent = 2 + time + 2;
        let last = lines.len().saturating_sub(1);
        for (index, line) in lines.iter().enumerate() {
            let text = format!(
                "  {:>time$}  {:place$}  {:point$}  {}",
                line.time, line.place, line.point, line.detail
            );
            writeln!(self.out, "{}", text.trim_end())?;
            let next = lines.get(index + 1).map_or(usize::MAX, |next| next.hops.0);
            let from = if index == 0 { 0 } else { line.hops.0 };
            let mut here =
                branches.iter().filter(|branch| (from..next).contains(&branch.hop)).peekable();
            while let Some(branch) = here.next() {
                let fork = if index == last && here.peek().is_none() { "└─" } else { "├─" };
                writeln!(self.out, "{:indent$}{fork} {}", "", branch.text)?;
            }
        }
        if journey.branches_left_out > 0 {
            let doubt = self.styles.doubt;
            writeln!(
                self.out,
                "{:indent$}{doubt}{} more branches are not listed{doubt:#}",
                "", journey.branches_left_out
            )?;
        }
        Ok(())
    }

    fn write_outcome(&mut self, journey: &Journey) -> Result<(), SinkError> {
        let outcome = &journey.outcome;
        let (mark, word) = ended(outcome.kind);
        let style = match outcome.kind {
            OutcomeKind::Transmitted | OutcomeKind::Delivered | OutcomeKind::Consumed => {
                self.styles.good
            }
            OutcomeKind::Dropped => self.styles.bad,
            OutcomeKind::Lost => self.styles.doubt,
        };
        write!(self.out, "  {style}{mark} {word}{style:#}")?;
        if let Some(hop) = journey.hops.get(outcome.hop) {
            write!(self.out, " at {} ({})", place(hop), hop.point)?;
        }
        if let Some(reason) = &outcome.reason {
            write!(self.out, ": {}", escape(reason))?;
        }
        if let Some(location) = &outcome.location {
            write!(self.out, " in {}", escape(location))?;
        }
        if let Some(whole) = &journey.packet.whole {
            write!(self.out, ": put together with other fragments to packet {whole}")?;
        }
        writeln!(self.out)?;
        let faint = self.styles.faint;
        if let Some(rule) = &outcome.rule {
            write!(
                self.out,
                "    {faint}by{faint:#}  {}, {}",
                escape(&rule.line()),
                escape(&rule.hook)
            )?;
            if let Some(base) = &rule.base_chain {
                write!(self.out, " from {}", escape(base))?;
            }
            if let Some(priority) = rule.priority {
                write!(self.out, " priority {priority}")?;
            }
            if let Some(text) = &rule.text {
                write!(self.out, ": {}", escape(text))?;
            }
            if rule.inferred {
                write!(self.out, " {faint}(inferred){faint:#}")?;
            }
            writeln!(self.out)?;
        }
        if let Some(why) = &outcome.why {
            writeln!(self.out, "    {faint}why{faint:#} {}", escape(why))?;
        }
        // Of the evidence only settings are not in the sentence already; their names are dotted.
        for (name, value) in outcome.evidence.iter().filter(|(name, _)| name.contains('.')) {
            writeln!(
                self.out,
                "    {faint}is{faint:#}  {} = {}",
                escape(name),
                plain(&value.clone().into())
            )?;
        }
        for advice in &outcome.advice {
            writeln!(self.out, "    {faint}try{faint:#} {}", escape(advice))?;
        }
        if !journey.complete {
            let doubt = self.styles.doubt;
            writeln!(self.out, "    {doubt}incomplete{doubt:#}: events of this packet were lost")?;
        }
        if journey.thinned {
            let doubt = self.styles.doubt;
            writeln!(
                self.out,
                "    {doubt}thinned{doubt:#}: hops are left out, there is too much"
            )?;
        }
        Ok(())
    }
}

impl<W: Write> Sink for Text<W> {
    fn start(&mut self, _: &Start) -> Result<(), SinkError> {
        Ok(())
    }

    fn journey(&mut self, journey: &Journey) -> Result<(), SinkError> {
        let head = self.styles.head;
        writeln!(self.out, "{head}{}{head:#}", header(journey))?;
        let lines = match self.hops {
            Hops::All => all_lines(journey),
            Hops::Main => main_lines(journey),
        };
        self.write_path(journey, &lines)?;
        self.write_outcome(journey)?;
        writeln!(self.out)?;
        Ok(())
    }

    fn summary(&mut self, summary: &Summary) -> Result<(), SinkError> {
        let head = self.styles.head;
        let o = &summary.outcomes;
        writeln!(
            self.out,
            "{head}{} journey{} in {}{head:#}: {} transmitted, {} delivered, {} dropped, {} consumed, {} lost",
            summary.journeys,
            if summary.journeys == 1 { "" } else { "s" },
            duration(summary.duration_ns),
            o.transmitted,
            o.delivered,
            o.dropped,
            o.consumed,
            o.lost
        )?;
        for drop in &summary.drops {
            write!(self.out, "  {:>8} × {}", drop.count, escape(&drop.reason))?;
            match &drop.rule {
                Some(rule) => writeln!(self.out, "  {}", escape(rule))?,
                None => writeln!(self.out)?,
            }
        }
        writeln!(self.out, "  {} events received", summary.events.received)?;
        let doubt = self.styles.doubt;
        for (count, what) in
            losses(&summary.events.lost).into_iter().filter(|(count, _)| *count != 0)
        {
            writeln!(self.out, "  {doubt}{count} {what}{doubt:#}")?;
        }
        for (count, what) in left_out(&summary.events.left_out) {
            writeln!(self.out, "  {doubt}{count} {what}{doubt:#}")?;
        }
        if self.latency {
            write!(self.out, "{}", latency::Table(&summary.latency))?;
        }
        self.flush()
    }

    fn flush(&mut self) -> Result<(), SinkError> {
        Ok(self.out.flush()?)
    }
}

/// What was left out on purpose, and in which words that is told.
pub(super) fn left_out(left_out: &LeftOut) -> impl Iterator<Item = (u64, String)> {
    let LeftOut { packets, events, one_of, bytes } = *left_out;
    let all = [
        (events, "events left out: more than may be (--max-events, --max-cpu)".to_owned()),
        (
            packets,
            format!("packets not told, none of them dropped: 1 of {one_of} was, at the least"),
        ),
        (bytes, "captured bytes cut off packets: too many waited to be written".to_owned()),
    ];
    all.into_iter().filter(|(count, _)| *count != 0)
}

/// What was lost, and in which words that is told.
pub fn losses(lost: &LostEvents) -> [(u64, &'static str); 12] {
    [
        (lost.ring_full, "events lost: the ring buffer was full"),
        (lost.tracking_full, "packets not followed: the table of followed packets was full"),
        (lost.behind, "packets not followed: events came faster than they were taken"),
        (lost.probe_missed, "sightings missed: a program could not run"),
        (lost.learned_full, "replies not followed: the table of learned replies was full"),
        (lost.addresses_full, "addresses of selected containers not followed: too many"),
        (lost.journeys_evicted, "journeys ended early: too many at once"),
        (lost.flows_evicted, "flows forgotten: too many at once"),
        (lost.late, "events too late or twice"),
        (lost.undecodable, "records that could not be read"),
        (lost.unaccounted, "events lost: the kernel has counted them, and they did not come"),
        (lost.nft_trace, "traced rules lost: the kernel told of them faster than they were taken"),
    ]
}

/// `#17 icmp 10.0.0.2 → 203.0.113.8  echo request id 7 seq 1  98 bytes  flow 3 original  snat 198.51.100.10`
fn header(journey: &Journey) -> String {
    let packet = &journey.packet;
    let mut text = format!(
        "#{} {} {} → {}",
        journey.id,
        journey.flow.proto,
        named(end(packet.src.as_deref(), packet.sport), packet.src_name.as_deref()),
        named(end(packet.dst.as_deref(), packet.dport), packet.dst_name.as_deref())
    );
    if !packet.info.is_empty() {
        let _ = write!(text, "  {}", escape(&packet.info));
    }
    if !packet.fragments.is_empty() {
        let _ = write!(text, "  put together to packet {}", packet.id);
    }
    let _ = write!(
        text,
        "  {} bytes  flow {} {}",
        journey.length,
        journey.flow.id,
        journey.direction.name()
    );
    let Nat { src, sport, dst, dport } = &journey.nat;
    for (kind, address, port, before) in
        [("snat", src, sport, &packet.src), ("dnat", dst, dport, &packet.dst)]
    {
        if address.is_some() || port.is_some() {
            let address = address.as_deref().or(before.as_deref());
            let _ = write!(text, "  {kind} {}", end(address, *port));
        }
    }
    text
}
