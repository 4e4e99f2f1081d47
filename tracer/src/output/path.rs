//! A packet's path as lines of words: a line a point, or a line a layer and device. What text, the
//! report and others show of hops, addresses and times is said here, safe for a terminal.

use std::fmt::Write as _;

use super::{
    escape::escape,
    fact::Fact,
    record::{Dev, Hop, Journey, Netns, OutcomeKind},
    steps::{self, Step},
};

/// One line of the path.
pub(super) struct Line {
    /// When, since the journey's start.
    pub time: String,
    /// Namespace and interface.
    pub place: String,
    /// Name of the point that stands for the line.
    pub point: String,
    /// What the points told.
    pub detail: String,
    /// The first and the last hop that it stands for: indices in the journey's.
    pub hops: (usize, usize),
}

/// An end of a packet and who it is.
pub(super) fn named(end: String, name: Option<&str>) -> String {
    match name {
        Some(name) => format!("{end} ({})", escape(name)),
        None => end,
    }
}

/// `10.0.0.2`, `10.0.0.2:53`, `[fd00::2]:53`
pub(super) fn end(address: Option<&str>, port: Option<u16>) -> String {
    match (address, port) {
        (None, _) => "?".to_owned(),
        (Some(address), None) => address.to_owned(),
        (Some(address), Some(port)) if address.contains(':') => format!("[{address}]:{port}"),
        (Some(address), Some(port)) => format!("{address}:{port}"),
    }
}

/// A namespace by its name, else its inode.
pub(super) fn netns(netns: &Netns) -> String {
    match &netns.label {
        Some(label) => escape(label).into_owned(),
        None if netns.inode == 0 => "?".to_owned(),
        None => netns.inode.to_string(),
    }
}

/// A mark and a word for how a packet ended.
pub(super) fn ended(kind: OutcomeKind) -> (&'static str, &'static str) {
    match kind {
        OutcomeKind::Transmitted => ("✓", "transmitted"),
        OutcomeKind::Delivered => ("✓", "delivered"),
        OutcomeKind::Consumed => ("✓", "consumed"),
        OutcomeKind::Dropped => ("✗", "dropped"),
        OutcomeKind::Lost => ("?", "lost"),
    }
}

/// Where a hop is.
pub(crate) fn place(hop: &Hop) -> String {
    place_of(&hop.netns, hop.dev.as_deref())
}

/// `c1:eth0`, `host:veth5 (c1)`
pub(super) fn place_of(of: &Netns, dev: Option<&Dev>) -> String {
    let netns = netns(of);
    let Some(dev) = dev else { return netns };
    let device = match &dev.name {
        Some(name) => format!("{netns}:{}", escape(name)),
        None => format!("{netns}:if{}", dev.ifindex),
    };
    match &dev.leads_to {
        Some(container) => format!("{device} ({})", escape(container)),
        None => device,
    }
}

fn line(index: usize, hop: &Hop, detail: String) -> Line {
    Line {
        time: format!("+{}", duration(hop.t_ns)),
        place: place(hop),
        point: hop.point.to_string(),
        detail,
        hops: (index, index),
    }
}

/// A line for every hop.
pub(super) fn all_lines(journey: &Journey) -> Vec<Line> {
    let every = |(index, hop): (usize, &Hop)| line(index, hop, details(journey, hop));
    journey.hops.iter().enumerate().map(every).collect()
}

/// A line for every step.
pub(super) fn main_lines(journey: &Journey) -> Vec<Line> {
    let line = |step: &Step| {
        let (first, named) = (&journey.hops[step.first()], &journey.hops[step.named]);
        Line {
            point: named.point.to_string(),
            hops: (step.first(), step.last()),
            ..line(step.first(), first, step_details(journey, step))
        }
    };
    steps::main(journey).iter().map(line).collect()
}

/// What the points of a step told, in words.
pub(super) fn step_details(journey: &Journey, step: &Step) -> String {
    let mut text = String::new();
    for (position, &index) in step.hops.iter().enumerate() {
        let hop = &journey.hops[index];
        let detail = match &*hop.point {
            "qdisc_enqueue" => String::new(),
            "conntrack" if position > 0 => tracked(hop),
            _ if step.flooded => "flooded".to_owned(),
            _ => details(journey, hop),
        };
        if !detail.is_empty() {
            if !text.is_empty() {
                text.push_str(", ");
            }
            text.push_str(&detail);
        }
    }
    text
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
    let mark = hop.detail.get("mark").and_then(Fact::as_number).filter(|mark| *mark != 0)?;
    Some(format!("mark {mark:#x}"))
}

/// What the point told, in words.
pub(crate) fn details(journey: &Journey, hop: &Hop) -> String {
    let get = |key: &str| hop.detail.get(key).map(plain);
    let number = |key: &str| hop.detail.get(key).and_then(Fact::as_number);
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
            let status = hop.detail.get("status").into_iter().flat_map(Fact::names);
            let status: Vec<_> = status.map(escape).collect();
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
            put(match journey.packet.parent_journey {
                Some(number) => Some(format!("of #{number}")),
                None => get("parent").map(|parent| format!("of packet {parent}")),
            });
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

/// A fact, safe to print.
pub(super) fn plain(fact: &Fact) -> String {
    match fact {
        Fact::Text(text) => escape(text).into_owned(),
        other => escape(&serde_json::to_string(other).unwrap_or_default()).into_owned(),
    }
}

/// `850 ns`, `12.3 µs`, `4.1 ms`, `2.0 s`
pub(super) fn duration(ns: u64) -> String {
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
