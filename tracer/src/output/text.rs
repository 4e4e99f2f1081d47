//! Text for people: a block a journey, the path a line a hop, the outcome last, the summary at
//! the end. Everything that came from outside is escaped; no meaning is in colour alone.

mod latency;

use std::{fmt::Write as _, io::Write};

use anstyle::{AnsiColor, Style};
use serde_json::Value;

use super::{
    Sink, SinkError,
    escape::escape,
    record::{Hop, Journey, Nat, Netns, OutcomeKind, Start, Summary},
};

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

/// One line of the path.
struct Line {
    time: String,
    place: String,
    point: String,
    detail: String,
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

    fn write_path(&mut self, lines: &[Line]) -> Result<(), SinkError> {
        let width = |of: fn(&Line) -> &str| {
            lines.iter().map(|line| of(line).chars().count()).max().unwrap_or(0)
        };
        let (time, place, point) = (width(|l| &l.time), width(|l| &l.place), width(|l| &l.point));
        for line in lines {
            let text = format!(
                "  {:>time$}  {:place$}  {:point$}  {}",
                line.time, line.place, line.point, line.detail
            );
            writeln!(self.out, "{}", text.trim_end())?;
        }
        Ok(())
    }

    fn write_outcome(&mut self, journey: &Journey) -> Result<(), SinkError> {
        let outcome = &journey.outcome;
        let (mark, word, style) = match outcome.kind {
            OutcomeKind::Transmitted => ("✓", "transmitted", self.styles.good),
            OutcomeKind::Delivered => ("✓", "delivered", self.styles.good),
            OutcomeKind::Consumed => ("✓", "consumed", self.styles.good),
            OutcomeKind::Dropped => ("✗", "dropped", self.styles.bad),
            OutcomeKind::Lost => ("?", "lost", self.styles.doubt),
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
            writeln!(self.out, "    {faint}is{faint:#}  {} = {}", escape(name), plain(value))?;
        }
        for advice in &outcome.advice {
            writeln!(self.out, "    {faint}try{faint:#} {}", escape(advice))?;
        }
        if !journey.complete {
            let doubt = self.styles.doubt;
            writeln!(self.out, "    {doubt}incomplete{doubt:#}: events of this packet were lost")?;
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
            Hops::All => journey.hops.iter().map(every).collect(),
            Hops::Main => main_lines(journey),
        };
        self.write_path(&lines)?;
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
        let lost = &summary.events.lost;
        let losses = [
            (lost.ring_full, "events lost: the ring buffer was full"),
            (lost.tracking_full, "packets not followed: the table of followed packets was full"),
            (lost.behind, "packets not followed: events came faster than they were taken"),
            (lost.probe_missed, "sightings missed: a program could not run"),
            (lost.learned_full, "replies not followed: the table of learned replies was full"),
            (lost.journeys_evicted, "journeys ended early: too many at once"),
            (lost.flows_evicted, "flows forgotten: too many at once"),
            (lost.late, "events too late or twice"),
            (lost.undecodable, "records that could not be read"),
            (
                lost.nft_trace,
                "traced rules lost: the kernel told of them faster than they were taken",
            ),
        ];
        writeln!(self.out, "  {} events received", summary.events.received)?;
        let doubt = self.styles.doubt;
        for (count, what) in losses.into_iter().filter(|(count, _)| *count != 0) {
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

fn named(end: String, name: Option<&str>) -> String {
    match name {
        Some(name) => format!("{end} ({})", escape(name)),
        None => end,
    }
}

fn end(address: Option<&str>, port: Option<u16>) -> String {
    match (address, port) {
        (None, _) => "?".to_owned(),
        (Some(address), None) => address.to_owned(),
        (Some(address), Some(port)) if address.contains(':') => format!("[{address}]:{port}"),
        (Some(address), Some(port)) => format!("{address}:{port}"),
    }
}

fn netns(netns: &Netns) -> String {
    match &netns.label {
        Some(label) => escape(label).into_owned(),
        None if netns.inode == 0 => "?".to_owned(),
        None => netns.inode.to_string(),
    }
}

/// `c1:eth0`, `host:veth5 (c1)`
fn place(hop: &Hop) -> String {
    let netns = netns(&hop.netns);
    let Some(dev) = &hop.dev else { return netns };
    let device = match &dev.name {
        Some(name) => format!("{netns}:{}", escape(name)),
        None => format!("{netns}:if{}", dev.ifindex),
    };
    match &dev.leads_to {
        Some(container) => format!("{device} ({})", escape(container)),
        None => device,
    }
}

fn line(hop: &Hop, point: impl Into<String>, detail: String) -> Line {
    Line {
        time: format!("+{}", duration(hop.t_ns)),
        place: place(hop),
        point: point.into(),
        detail,
    }
}

fn every(hop: &Hop) -> Line {
    line(hop, &*hop.point, details(hop))
}

/// One line a layer and device: tc, queue and driver of a device are its one line, and so is what
/// a bridge does with a packet; rewrites and connection tracking belong to the hook that they are
/// in; steps of IP, look-ups of the way back, sockets without a reader and the end itself have none,
/// unless the outcome is about them.
fn main_lines(journey: &Journey) -> Vec<Line> {
    /// What the last line stands for, as far as another hop can join it.
    struct Open {
        group: &'static str,
        place: String,
    }
    let hops = &journey.hops;
    let mut lines: Vec<Line> = Vec::new();
    let mut open: Option<Open> = None;
    let mut flooded = false;
    for (index, hop) in hops.iter().enumerate() {
        let group = match &*hop.point {
            "drop" | "consume" => continue,
            "socket" if hop.detail.is_empty() => continue,
            "ip_receive" | "ip_forward" | "ip_local_deliver" | "ip_output"
                if index != journey.outcome.hop =>
            {
                continue;
            }
            "route" if hop.detail.get("reverse").is_some() && index != journey.outcome.hop => {
                continue;
            }
            _ if hop.layer == "bridge" => {
                let more = goes_on_in_bridge(&hops[index + 1..]);
                flooded |= hop.point == "bridge_flood" && more;
                if more {
                    continue;
                }
                "bridge"
            }
            "dev_queue" | "tc_egress" | "qdisc_enqueue" | "qdisc_dequeue" | "dev_xmit" => "egress",
            "dev_receive" | "tc_ingress" => "ingress",
            _ if hop.layer == "netfilter" => "hook",
            _ => "",
        };
        let here = place(hop);
        let joins = open.as_ref().is_some_and(|open| {
            open.group == group
                && match group {
                    "hook" => matches!(&*hop.point, "nat" | "conntrack"),
                    "egress" | "ingress" => open.place == here,
                    _ => false,
                }
        });
        let detail = match &*hop.point {
            "qdisc_enqueue" => String::new(),
            "conntrack" if joins => tracked(hop),
            _ if group == "bridge" && std::mem::take(&mut flooded) => "flooded".to_owned(),
            _ => details(hop),
        };
        match lines.last_mut().filter(|_| joins) {
            Some(last) => {
                if group == "egress" {
                    hop.point.as_ref().clone_into(&mut last.point);
                }
                if !detail.is_empty() {
                    if !last.detail.is_empty() {
                        last.detail.push_str(", ");
                    }
                    last.detail.push_str(&detail);
                }
            }
            None => lines.push(line(hop, &*hop.point, detail)),
        }
        open = Some(Open { group, place: here });
    }
    lines
}

/// Whether the bridge does more with the packet: its line is its last word, wherever hooks and
/// look-ups stand between.
fn goes_on_in_bridge(later: &[Hop]) -> bool {
    let next = later.iter().find(|hop| !matches!(&*hop.layer, "netfilter" | "ip"));
    next.is_some_and(|hop| hop.layer == "bridge")
}

/// `ct established`, with the mark if there is one.
fn tracked(hop: &Hop) -> String {
    let mut text =
        format!("ct {}", hop.detail.get("state").map(plain).as_deref().unwrap_or_default());
    if let Some(mark) = mark(hop) {
        let _ = write!(text, " {mark}");
    }
    text
}

fn mark(hop: &Hop) -> Option<String> {
    let mark = hop.detail.get("mark").and_then(Value::as_u64).filter(|mark| *mark != 0)?;
    Some(format!("mark {mark:#x}"))
}

/// What the point told, in words.
fn details(hop: &Hop) -> String {
    let get = |key: &str| hop.detail.get(key).map(plain);
    let number = |key: &str| hop.detail.get(key).and_then(Value::as_u64);
    let mut parts: Vec<String> = Vec::new();
    let mut put = |part: Option<String>| parts.extend(part);
    match &*hop.point {
        "nat" => {
            put(get("kind").map(|kind| {
                format!(
                    "{kind} {} → {}",
                    get("from").unwrap_or_default(),
                    get("to").unwrap_or_default()
                )
            }));
        }
        "conntrack" => {
            put(get("state"));
            let status = hop.detail.get("status").and_then(Value::as_array);
            let status: Vec<_> = status.into_iter().flatten().map(plain).collect();
            put((!status.is_empty()).then(|| status.join(",")));
            put(mark(hop));
        }
        "route" => {
            put(get("error").map(|error| format!("no route: {error}")));
            put(get("gateway").map(|gateway| format!("via {gateway}")));
            put(get("oif").map(|oif| format!("dev {oif}")));
            put(get("type").filter(|kind| kind != "unicast"));
            put(get("table").map(|table| format!("table {table}")));
            let rule = |key: &str| hop.detail.get("rule").and_then(|rule| rule.get(key)).map(plain);
            if let (Some(priority), Some(text)) = (rule("priority"), rule("text")) {
                put(Some(format!("by rule {priority}: {text}")));
            }
            put(get("reverse").map(|_| "way back".to_owned()));
        }
        "neigh" => {
            put(get("state"));
            put(get("lladdr"));
        }
        "qdisc_enqueue" | "qdisc_dequeue" => {
            put(get("kind"));
            put(get("handle"));
            put(number("delay_ns").map(|delay| format!("waited {}", duration(delay))));
        }
        "socket" => {
            put(get("comm"));
            put(get("pid").map(|pid| format!("pid {pid}")));
        }
        "clone" | "copy" | "segment" | "fragment" => {
            put(get("parent").map(|parent| format!("of packet {parent}")))
        }
        "drop" | "consume" => {
            put(get("reason"));
            put(get("location"));
        }
        _ => {
            put(get("family").filter(|family| family == "bridge"));
            put(get("bridged").map(|_| "bridged".to_owned()));
            put(get("verdict"));
            put(number("spent_ns").map(|spent| format!("in {}", duration(spent))));
        }
    }
    if hop.tunneled {
        parts.push("in a tunnel".to_owned());
    }
    parts.join(" ")
}

/// A value of a detail, safe to print.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => escape(text).into_owned(),
        other => escape(&other.to_string()).into_owned(),
    }
}

/// `850 ns`, `12.3 µs`, `4.1 ms`, `2.0 s`
fn duration(ns: u64) -> String {
    let scaled = |unit: u64, name: &str| {
        let tenths = ns / (unit / 10);
        format!("{}.{} {name}", tenths / 10, tenths % 10)
    };
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => scaled(1_000, "µs"),
        1_000_000..1_000_000_000 => scaled(1_000_000, "ms"),
        _ => scaled(1_000_000_000, "s"),
    }
}
