//! The path of the selected flow, drawn: each step with packets, time and what it changed; where packets
//! died, how many, why and by which rule.

use std::ops::Range;

use ratatui::{
    style::{Modifier, Style},
    text::{Line, Span},
};

use super::{
    cells::{amount, cut, fit, right, time, wrap},
    model::{Flow, FlowPaths, Line as Path, Node, Paths},
    theme::{BAD, CHANGE, DOUBT, FAINT, GOOD, STRONG},
};
use crate::output::{
    escape::escape,
    path,
    record::{Hop, Journey, OutcomeKind},
};

/// Columns of a point's name: the longest is `bridge_forward`.
const POINT: usize = 14;
/// Columns of a count and of a time.
const COUNT: usize = 5;
const TIME: usize = 6;
/// A heading within the pane.
const UNDER: Style = Style::new().add_modifier(Modifier::UNDERLINED);
/// Lines that a detail takes at most.
const DETAIL_LINES: usize = 3;

/// The lines of the pane, and those of them at which packets died first.
#[derive(Debug, Default)]
pub(super) struct Drawn {
    /// All lines.
    pub lines: Vec<Line<'static>>,
    /// The first node where packets were dropped, with what is told of it.
    pub died: Option<Range<usize>>,
}

impl Drawn {
    /// The first line to be shown so that one sees where packets died.
    pub fn sight(&self, height: usize) -> usize {
        let Some(died) = &self.died else { return 0 };
        // All of it if it fits, its beginning in any case.
        died.end.saturating_sub(height).min(died.start)
    }
}

/// Draws it.
pub(super) fn draw(flow: &Flow, paths: Option<&FlowPaths>, width: u16) -> Drawn {
    let width = usize::from(width);
    let mut drawn = Drawn::default();
    let out = &mut drawn.lines;
    let who = format!("{} {} → {}", flow.proto, flow.src.long(), flow.dst.long());
    for line in wrap(&who, width) {
        out.push(Line::styled(line, STRONG));
    }
    let Some(paths) = paths else { return drawn };
    let known = paths.packets();
    if known < flow.packets() {
        let text = format!("paths of its last {known} packets, of {}", flow.packets());
        out.push(Line::styled(cut(&text, width), DOUBT));
    }
    for (arrow, word, paths) in [("→", "original", &paths.original), ("←", "reply", &paths.reply)]
    {
        if paths.packets > 0 {
            direction(&mut drawn, arrow, word, paths, width);
        }
    }
    drawn
}

fn direction(drawn: &mut Drawn, arrow: &str, word: &str, paths: &Paths, width: usize) {
    let packets = if paths.packets == 1 { "packet" } else { "packets" };
    let mut head = format!("{arrow} {word}: {} {packets}", paths.packets);
    let drops: u64 = paths.starts.iter().map(drops).sum();
    if drops > 0 {
        head.push_str(&format!(", {drops} dropped"));
    }
    let head = fit(&head, width);
    drawn.lines.push(Line::styled(head, STRONG.patch(UNDER)));
    // Interfaces have as much room as the longest name needs, if there is that much.
    let longest = paths.starts.iter().map(longest_device).max().unwrap_or(0);
    let fixed = 2 + 1 + POINT + 1 + COUNT + 1 + TIME;
    let device = longest.clamp(4, width.saturating_sub(fixed).max(4));
    let Drawn { lines: out, died } = drawn;
    let mut drawing = Drawing { out, died, width, device, netns: None };
    for start in &paths.starts {
        drawing.line(start, "", "");
    }
    if paths.unfit > 0 {
        let text = format!("  {} packets went ways that are not drawn", paths.unfit);
        drawn.lines.push(Line::styled(cut(&text, width), DOUBT));
    }
}

fn drops(line: &Path) -> u64 {
    let of = |node: &Node| node.ends.drops() + node.branches.iter().map(drops).sum::<u64>();
    line.nodes.iter().map(of).sum()
}

fn longest_device(line: &Path) -> usize {
    let of = |node: &Node| {
        let own = node.hop().map_or(0, |hop| device(hop).chars().count());
        node.branches.iter().map(longest_device).max().unwrap_or(0).max(own)
    };
    line.nodes.iter().map(of).max().unwrap_or(0)
}

struct Drawing<'a> {
    out: &'a mut Vec<Line<'static>>,
    died: &'a mut Option<Range<usize>>,
    width: usize,
    device: usize,
    /// The namespace that the last line was in.
    netns: Option<String>,
}

impl Drawing<'_> {
    /// Nodes below each other; a branch hangs on the line that goes on beside it.
    fn line(&mut self, line: &Path, prefix: &str, first: &str) {
        let mut first = Some(first.to_owned());
        if line.made {
            let lead = first.take().unwrap_or_default();
            let lead = if lead.is_empty() { prefix } else { &lead };
            self.push(lead, "made of it here:".to_owned(), FAINT);
        }
        for (index, node) in line.nodes.iter().enumerate() {
            let is_last = index + 1 == line.nodes.len();
            let goes_on = !is_last;
            let lead = first.take().filter(|lead| !lead.is_empty());
            self.node(node, prefix, lead.as_deref().unwrap_or(prefix), goes_on);
            let below = format!("{prefix}{}", if goes_on { "│ " } else { "  " });
            for (position, branch) in node.branches.iter().enumerate() {
                let ends = is_last && position + 1 == node.branches.len();
                let hook = format!("{prefix}{}", if ends { "└─" } else { "├─" });
                let inside = if ends { format!("{prefix}  ") } else { below.clone() };
                let netns = self.netns.clone();
                self.line(branch, &inside, &hook);
                self.netns = netns;
            }
        }
    }

    fn node(&mut self, node: &Node, prefix: &str, lead: &str, goes_on: bool) {
        let Some(hop) = node.hop() else { return };
        let begins = self.out.len();
        let netns = path::netns(&hop.netns);
        let mut lead = lead;
        if self.netns.as_deref() != Some(&*netns) {
            let head = format!("{lead}┌ {netns} ");
            let room = self.width.saturating_sub(head.chars().count());
            self.out.push(Line::from(vec![
                Span::styled(cut(&head, self.width), STRONG),
                Span::styled("─".repeat(room), FAINT),
            ]));
            self.netns = Some(netns);
            lead = prefix;
        }
        let ends = &node.ends;
        let (mark, style) = match ends.drops() {
            0 if ends.lost > 0 => ("?", DOUBT),
            0 if !ends.well.is_empty() => ("✓", GOOD),
            0 => ("●", Style::new()),
            _ => ("✗", BAD),
        };
        let took = node.times.percentile(50).map(|ns| format!("+{}", time(ns)));
        let used = lead.chars().count();
        // Deeper lines have their columns where the others have them.
        let device_width = self.device.saturating_sub(used).max(4);
        let mut spans = vec![
            Span::styled(lead.to_owned(), FAINT),
            Span::styled(format!("{mark} "), style),
            Span::styled(fit(&device(hop), device_width), Style::new()),
            Span::raw(" "),
            Span::styled(fit(node.point(), POINT), Style::new()),
            Span::raw(" "),
            Span::styled(right(&amount(node.packets), COUNT), STRONG),
            Span::raw(" "),
            Span::styled(right(&took.unwrap_or_default(), TIME), FAINT),
        ];
        let below =
            format!("{prefix}{}", if goes_on || !node.branches.is_empty() { "│ " } else { "  " });
        let detail = detail(node);
        let taken = used + 2 + device_width + 1 + POINT + 1 + COUNT + 1 + TIME + 2;
        let room = self.width.saturating_sub(taken);
        let style = if changes(node) { CHANGE } else { Style::new() };
        if detail.is_empty() {
            self.out.push(Line::from(spans));
        } else if detail.chars().count() <= room {
            spans.push(Span::styled(format!("  {detail}"), style));
            self.out.push(Line::from(spans));
        } else {
            self.out.push(Line::from(spans));
            self.wrapped(&below, "  ", &detail, style);
        }
        self.ends(node, &below);
        if self.died.is_none() && ends.drops() > 0 {
            *self.died = Some(begins..self.out.len());
        }
    }

    fn ends(&mut self, node: &Node, below: &str) {
        for (kind, count) in &node.ends.well {
            let word = match kind {
                OutcomeKind::Transmitted => "left the host",
                OutcomeKind::Delivered => "delivered",
                _ => "consumed",
            };
            self.push(below, format!("✓ {} {word}", amount(*count)), GOOD);
        }
        if node.ends.lost > 0 {
            self.push(below, format!("? {} not seen again", amount(node.ends.lost)), DOUBT);
        }
        for (cause, count, newest) in &node.ends.dropped {
            let location = newest.outcome.location.as_deref().map(escape);
            let location = location.map(|at| format!(" in {at}")).unwrap_or_default();
            let head = format!("✗ {} dropped: {}{location}", amount(*count), cause.reason);
            self.wrapped(below, "", &head, BAD);
            for (word, text) in explanation(newest) {
                self.wrapped(below, "  ", &format!("{word} {text}"), Style::new());
            }
        }
        if node.ends.dropped_otherwise > 0 {
            let count = amount(node.ends.dropped_otherwise);
            self.push(below, format!("✗ {count} dropped for other reasons"), BAD);
        }
    }

    fn push(&mut self, below: &str, text: String, style: Style) {
        let room = self.width.saturating_sub(below.chars().count());
        self.out.push(Line::from(vec![
            Span::styled(below.to_owned(), FAINT),
            Span::styled(cut(&text, room), style),
        ]));
    }

    fn wrapped(&mut self, below: &str, indent: &str, text: &str, style: Style) {
        let room = self.width.saturating_sub(below.chars().count() + indent.len());
        let lines = wrap(text, room);
        let more = lines.len() > DETAIL_LINES;
        for (index, line) in lines.into_iter().take(DETAIL_LINES).enumerate() {
            let ended = more && index + 1 == DETAIL_LINES;
            let line = if ended { cut(&format!("{line} …"), room) } else { line };
            self.push(below, format!("{indent}{line}"), style);
        }
    }
}

/// What is known of a drop: the rule, a sentence, and what to do.
pub(super) fn explanation(journey: &Journey) -> Vec<(&'static str, String)> {
    let outcome = &journey.outcome;
    let mut out = Vec::new();
    if let Some(rule) = &outcome.rule {
        let mut text = rule.line();
        if let Some(rule) = &rule.text {
            text.push_str(&format!(": {rule}"));
        }
        if rule.inferred {
            text.push_str(" (inferred)");
        }
        out.push(("by", escape(&text).into_owned()));
    } else if let Some(why) = &outcome.why {
        out.push(("why", escape(why).into_owned()));
    }
    out.extend(outcome.advice.iter().map(|advice| ("try", escape(advice).into_owned())));
    out
}

/// `veth-c1 (c1)`, without its namespace.
fn device(hop: &Hop) -> String {
    let Some(dev) = &hop.dev else { return "-".to_owned() };
    match &dev.name {
        Some(name) => escape(name).into_owned(),
        None => format!("if{}", dev.ifindex),
    }
}

/// What the step told, without what goes without saying.
fn detail(node: &Node) -> String {
    let (journey, step) = &node.latest;
    let detail = path::step_details(journey, step);
    let goes_without = |part: &&str| {
        *part == "accept" || part.starts_with("accept in ") || part.starts_with("of packet ")
    };
    let said = detail.split(", ").filter(|part| !goes_without(part));
    said.collect::<Vec<_>>().join(", ")
}

/// Whether the step changed the packet.
fn changes(node: &Node) -> bool {
    let (journey, step) = &node.latest;
    step.hops.iter().any(|&index| journey.hops.get(index).is_some_and(|hop| hop.point == "nat"))
}
