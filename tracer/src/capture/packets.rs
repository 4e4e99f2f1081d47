//! Which bytes of a journey become packets of a file, and what is said beside each.

use crate::{
    event::Captured,
    output::{
        Hops, details,
        escape::escape,
        place,
        record::{Hop, Journey, OutcomeKind},
    },
};

use super::format::link;

/// A packet of a file: a hop that has bytes.
pub(super) struct Packet<'a> {
    /// Index of the hop.
    pub index: usize,
    /// The hop.
    pub hop: &'a Hop,
    /// Its bytes.
    pub captured: &'a Captured,
    /// The first of the hops that its comment tells of, and the first of the next packet's.
    covers: (usize, usize),
}

/// The packets of a journey: one at each point that has bytes, or one each time that it is at a device,
/// and one more where an address or a port is rewritten there. Of those tc's is taken: that one has
/// all of the bytes.
pub(super) fn packets(journey: &Journey, hops: Hops) -> Vec<Packet<'_>> {
    let all = journey.hops.as_slice();
    let mut found: Vec<Packet<'_>> = Vec::new();
    let mut start = 0;
    while start < all.len() {
        let end = match hops {
            Hops::All => start + 1,
            Hops::Main => stay(all, start),
        };
        let with_bytes = (start..end).filter(|&at| all[at].captured.is_some());
        let best = with_bytes.min_by_key(|&at| &*all[at].layer != "tc");
        if let Some((index, captured)) = best.and_then(|at| Some((at, all[at].captured.as_ref()?)))
        {
            let from = found.last().map_or(0, |_| start);
            if let Some(last) = found.last_mut() {
                last.covers.1 = start;
            }
            found.push(Packet { index, hop: &all[index], captured, covers: (from, all.len()) });
        }
        start = end;
    }
    found
}

/// The first hop behind this one that is at another device, or behind a rewrite.
fn stay(hops: &[Hop], start: usize) -> usize {
    let here = |hop: &Hop| (hop.netns.inode, hop.dev.as_ref().map(|dev| dev.ifindex));
    let behind = hops[start + 1..]
        .iter()
        .position(|hop| here(hop) != here(&hops[start]) || hop.point == "nat");
    behind.map_or(hops.len(), |behind| start + 1 + behind)
}

impl Packet<'_> {
    /// Its link type.
    pub fn link(&self) -> u16 {
        match (self.captured.link_header, self.captured.data.first().map(|first| first >> 4)) {
            (true, _) => link::ETHERNET,
            (false, Some(4 | 6)) => link::RAW,
            (false, _) => link::OTHER,
        }
    }

    /// Bytes of the packet where it was captured, of which the file has these or less.
    pub fn length(&self) -> u32 {
        self.captured.length.max(self.captured.data.len() as u32)
    }

    /// `#1 hop 3 of 15, c1:eth0 tc_egress; …`: where this is, what happened to the packet from here to where
    /// the file has it next, and how it ended, where that was there.
    pub fn comment(&self, journey: &Journey) -> String {
        let hop = self.hop;
        let mut text = format!(
            "#{} flow {} {}, hop {} of {}, {} {}",
            journey.id,
            journey.flow.id,
            journey.direction.name(),
            self.index + 1,
            journey.hops.len(),
            place(hop),
            escape(&hop.point)
        );
        let (from, to) = self.covers;
        let mut here = place(hop);
        let steps: Vec<String> = journey.hops[from..to]
            .iter()
            .filter(|hop| *hop.layer != *"tc")
            .map(|hop| {
                let there = place(hop);
                let mut step = if there == here { String::new() } else { format!("{there} ") };
                here = there;
                step.push_str(&escape(&hop.point));
                let told = details(journey, hop);
                if !told.is_empty() {
                    step.push_str(&format!(" ({told})"));
                }
                step
            })
            .collect();
        if !steps.is_empty() {
            text.push_str(": ");
            text.push_str(&steps.join(", "));
        }
        if (from..to).contains(&journey.outcome.hop) {
            text.push('\n');
            text.push_str(&ending(journey));
        }
        text
    }
}

/// `dropped: NETFILTER_DROP by inet lab acl handle 8, forward at host:lxdbr0: why`.
fn ending(journey: &Journey) -> String {
    let outcome = &journey.outcome;
    let at = journey
        .hops
        .get(outcome.hop)
        .map(|hop| format!(" at {} ({})", place(hop), escape(&hop.point)))
        .unwrap_or_default();
    let kind = match outcome.kind {
        OutcomeKind::Dropped => {
            let mut text =
                format!("dropped: {}", escape(outcome.reason.as_deref().unwrap_or("unknown")));
            if let Some(rule) = &outcome.rule {
                text.push_str(&format!(" by {}, {}", escape(&rule.line()), escape(&rule.hook)));
                if let Some(rule) = &rule.text {
                    text.push_str(&format!(" ({})", escape(rule)));
                }
            }
            text.push_str(&at);
            if let Some(why) = &outcome.why {
                text.push_str(&format!(": {}", escape(why)));
            }
            text
        }
        OutcomeKind::Transmitted => format!("transmitted{at}"),
        OutcomeKind::Delivered => format!("delivered{at}"),
        OutcomeKind::Consumed => format!("consumed{at}"),
        OutcomeKind::Lost => format!("lost{at}"),
    };
    let doubt = [
        (!journey.complete).then_some("\nincomplete: events of it were lost"),
        journey.thinned.then_some("\nthinned: hops are left out, there was too much"),
    ];
    doubt.into_iter().flatten().fold(kind, |text, doubt| text + doubt)
}
