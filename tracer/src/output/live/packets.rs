//! The packets of a flow, and one packet: its hops and its bytes.

use std::{fmt::Write as _, sync::Arc};

use ratatui::{
    style::Style,
    text::{Line, Span},
};

use super::{
    cells::{bytes, cut, fit, scroll, wrap},
    model::{Flow, Model},
    theme::{BAD, DOUBT, FAINT, GOOD, SELECTED, STRONG},
};
use crate::output::{
    Hops, Sink as _, Text,
    escape::escape,
    path::place,
    record::{Direction, Hop, Journey, OutcomeKind},
};

/// Bytes of a line of the dump.
const DUMPED: usize = 16;

/// The packets of a flow, as a list.
#[derive(Clone, Debug)]
pub(super) struct List {
    /// Number of the flow.
    pub flow: u64,
    /// The one that is selected: it stays when others come.
    pub selected: Option<Arc<Journey>>,
    /// The first one in sight.
    pub top: usize,
    /// How many are in sight.
    pub height: usize,
}

impl List {
    /// Of this flow; the newest is selected.
    pub fn of(flow: &Flow) -> Self {
        let selected = flow.journeys().next().cloned();
        Self { flow: flow.id, selected, top: 0, height: 0 }
    }

    /// Where the selected one stands now.
    pub fn position(&self, flow: &Flow) -> usize {
        let selected = self.selected.as_ref();
        let same = |known: &Arc<Journey>| selected.is_some_and(|other| Arc::ptr_eq(known, other));
        flow.journeys().position(same).unwrap_or(0)
    }

    /// Selects the one at this place, or the nearest that there is.
    pub fn select_at(&mut self, model: &Model, position: usize) {
        if let Some(flow) = model.flow(self.flow) {
            let position = position.min(flow.journeys().len().saturating_sub(1));
            self.selected = flow.journeys().nth(position).cloned().or(self.selected.take());
        }
    }
}

/// One packet.
#[derive(Clone, Debug)]
pub(super) struct Single {
    /// Its journey.
    pub journey: Arc<Journey>,
    /// The hop whose bytes are shown.
    pub hop: usize,
    /// The first line in sight.
    pub top: usize,
    /// How many are in sight.
    pub height: usize,
}

impl Single {
    /// This one, at its first hop.
    pub fn of(journey: Arc<Journey>) -> Self {
        Self { journey, hop: 0, top: 0, height: 0 }
    }

    /// Goes to this hop, or the nearest that there is.
    pub fn select_at(&mut self, hop: usize) {
        self.hop = hop.min(self.journey.hops.len().saturating_sub(1));
    }
}

/// The lines of the list, the head first.
pub(super) fn list(list: &mut List, model: &Model, width: u16, height: u16) -> Vec<Line<'static>> {
    let width = usize::from(width);
    let Some(flow) = model.flow(list.flow) else {
        return vec![Line::styled(
            "this flow was forgotten: too many others came (Esc: back)",
            DOUBT,
        )];
    };
    list.height = usize::from(height).saturating_sub(1);
    let (position, count) = (list.position(flow), flow.journeys().len());
    list.top = scroll(list.top, position, count, list.height);
    let head = format!("  {:>8} {:15}   {:>6}  {:12}  packet", "number", "time", "bytes", "end");
    let mut lines = vec![Line::styled(cut(&head, width), FAINT)];
    for journey in flow.journeys().skip(list.top).take(list.height) {
        let (mark, word, style) = outcome(journey.outcome.kind);
        let arrow = match journey.direction {
            Direction::Original => "→",
            Direction::Reply => "←",
        };
        let time = journey.time.get(11..26).unwrap_or(&journey.time);
        let front = format!(
            "{:>8} {:15} {arrow} {:>6}  {word:12}",
            format!("#{}", journey.id),
            escape(time),
            journey.length
        );
        let info = match &journey.outcome.reason {
            Some(reason) => format!("{}  {}", escape(&journey.packet.info), escape(reason)),
            None => escape(&journey.packet.info).into_owned(),
        };
        let line = Line::from(vec![
            Span::styled(format!("{mark} "), style),
            Span::raw(cut(&format!("{front}  {info}"), width.saturating_sub(2))),
        ]);
        let is_selected = list.selected.as_ref().is_some_and(|known| Arc::ptr_eq(known, journey));
        lines.push(if is_selected { line.style(SELECTED) } else { line });
    }
    lines
}

/// The lines of one packet: what it is, its hops, its end, and its bytes at the selected hop.
pub(super) fn single(single: &mut Single, width: u16, height: u16) -> Vec<Line<'static>> {
    let width = usize::from(width);
    single.height = usize::from(height);
    let journey = &single.journey;
    let mut text = Text::new(Vec::new(), Hops::All, false);
    // Writing into memory does not fail.
    let _ = text.journey(journey);
    let text = String::from_utf8_lossy(&text.into_inner()).into_owned();
    let mut told = text.lines().filter(|line| !line.is_empty());
    let mut lines: Vec<Line<'static>> = told
        .next()
        .map(|head| wrap(head, width))
        .unwrap_or_default()
        .into_iter()
        .map(|line| Line::styled(line, STRONG))
        .collect();
    let first = lines.len();
    for (index, line) in told.enumerate() {
        let style = if index == single.hop { SELECTED } else { Style::new() };
        if index < journey.hops.len() {
            lines.push(Line::styled(fit(line, width), style));
        } else {
            lines.extend(wrap(line, width).into_iter().map(Line::raw));
        }
    }
    lines.push(Line::raw(""));
    lines.extend(dump(&journey.hops, single.hop, width));
    let shown = first + single.hop;
    // The hops scroll with the selection; behind the last one, all of the rest is shown.
    let is_last = single.hop + 1 >= journey.hops.len();
    let wanted = if is_last { lines.len().saturating_sub(1) } else { shown };
    let top = scroll(single.top, wanted, lines.len(), single.height);
    single.top = top.min(shown);
    lines.split_off(single.top)
}

fn outcome(kind: OutcomeKind) -> (char, &'static str, Style) {
    match kind {
        OutcomeKind::Transmitted => ('✓', "left host", GOOD),
        OutcomeKind::Delivered => ('✓', "delivered", GOOD),
        OutcomeKind::Consumed => ('✓', "consumed", GOOD),
        OutcomeKind::Dropped => ('✗', "dropped", BAD),
        OutcomeKind::Lost => ('?', "not seen", DOUBT),
    }
}

/// The bytes of a packet at a hop, or where they were captured last before it.
fn dump(hops: &[Hop], at: usize, width: usize) -> Vec<Line<'static>> {
    let captured = hops.iter().take(at + 1).rev().find_map(|hop| Some((hop, data(hop)?)));
    let Some((hop, (data, length))) = captured else {
        let text = "no bytes were captured up to here; -s N captures them at every point";
        return wrap(text, width).into_iter().map(|line| Line::styled(line, FAINT)).collect();
    };
    let head = match length {
        Some(length) if length as usize > data.len() => {
            format!("{} of {length} bytes at {} ({})", data.len(), place(hop), hop.point)
        }
        _ => format!("{} bytes at {} ({})", data.len(), place(hop), hop.point),
    };
    let mut lines = vec![Line::styled(cut(&head, width), STRONG)];
    for (row, chunk) in data.chunks(DUMPED).enumerate() {
        let mut line = format!("  {:04x} ", row * DUMPED);
        for column in 0..DUMPED {
            line.push_str(if column % 8 == 0 { " " } else { "" });
            match chunk.get(column) {
                // Writing to a String cannot fail.
                Some(byte) => drop(write!(line, " {byte:02x}")),
                None => line.push_str("   "),
            }
        }
        line.push_str("  ");
        let shown = |byte: &u8| if (0x20..0x7f).contains(byte) { char::from(*byte) } else { '.' };
        line.extend(chunk.iter().map(shown));
        lines.push(Line::raw(cut(&line, width)));
    }
    lines
}

/// The bytes of a hop, and how many the packet has.
fn data(hop: &Hop) -> Option<(Vec<u8>, Option<u32>)> {
    if let Some(captured) = &hop.captured {
        return Some((captured.data.to_vec(), Some(captured.length)));
    }
    // What was read from a file has them as digits.
    let digits = hop.data.as_deref()?;
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let data: Option<Vec<u8>> = digits.as_bytes().chunks(2).map(byte).collect();
    Some((data?, None))
}

/// The title of the list.
pub(super) fn list_title(list: &List, model: &Model) -> String {
    let Some(flow) = model.flow(list.flow) else { return " Packets ".to_owned() };
    let (kept, all) = (flow.journeys().len() as u64, flow.packets());
    let who = super::flows::who(flow);
    let which = match all {
        1 => "1 packet".to_owned(),
        _ if kept < all => format!("last {kept} of {all} packets"),
        _ => format!("{all} packets"),
    };
    format!(" {} {who}: {which} ", flow.proto)
}

/// The title of one packet.
pub(super) fn single_title(single: &Single) -> String {
    let journey = &single.journey;
    format!(
        " Packet #{}, hop {} of {}, {} ",
        journey.id,
        single.hop + 1,
        journey.hops.len(),
        bytes_of(journey)
    )
}

fn bytes_of(journey: &Journey) -> String {
    match journey.length {
        0..1024 => format!("{} bytes", journey.length),
        length => bytes(length.into()),
    }
}
