//! The ways that a flow's packets took in one direction, laid over each other: one line of nodes, and a
//! branch where packets went another way and did not come back.

use std::{borrow::Cow, sync::Arc};

use super::{Cause, Times};
use crate::output::{
    record::{Hop, Journey, OutcomeKind},
    steps::{self, Step},
};

/// Most nodes of one direction of a flow; what does not fit is counted.
const NODES: usize = 96;
/// Most causes of drops that are told apart at one node.
const CAUSES: usize = 8;
/// A way that leaves the line comes back to it within so many steps, or it is a branch.
const ASIDE: usize = 6;

/// The ways of one direction.
#[derive(Clone, Debug, Default)]
pub struct Paths {
    /// Packets in these figures.
    pub packets: u64,
    /// Packets whose way did not fit in: their counts are as far as it did.
    pub unfit: u64,
    /// Nodes there are.
    pub nodes: usize,
    /// Ways that begin apart; the first is that of the first packet.
    pub starts: Vec<Line>,
}

/// Nodes one after the other.
#[derive(Clone, Debug, Default)]
pub struct Line {
    /// The nodes, in the order of the path.
    pub nodes: Vec<Node>,
    /// Of packets that were made of others here: clones, copies, segments, fragments.
    pub made: bool,
}

/// A step of the path: a point at an interface.
#[derive(Clone, Debug)]
pub struct Node {
    key: Key,
    /// Packets that passed it.
    pub packets: u64,
    /// How long it took to get through it from the end of the step before.
    pub times: Times,
    /// How many ended here, and how.
    pub ends: Ends,
    /// The journey that passed last, and its step here.
    pub latest: (Arc<Journey>, Step),
    /// Other ways that packets took from here.
    pub branches: Vec<Line>,
}

/// How packets ended at a node.
#[derive(Clone, Debug, Default)]
pub struct Ends {
    /// Transmitted, delivered or consumed: kind and count.
    pub well: Vec<(OutcomeKind, u64)>,
    /// No end was seen.
    pub lost: u64,
    /// Dropped, by cause: with the newest of each.
    pub dropped: Vec<(Cause, u64, Arc<Journey>)>,
    /// Dropped by further causes.
    pub dropped_otherwise: u64,
}

impl Ends {
    /// Drops of all causes.
    pub fn drops(&self) -> u64 {
        self.dropped.iter().map(|(_, count, _)| count).sum::<u64>() + self.dropped_otherwise
    }

    fn add(&mut self, journey: &Arc<Journey>, cause: Option<&Cause>) {
        match (journey.outcome.kind, cause) {
            (OutcomeKind::Dropped, Some(cause)) => {
                let has_room = self.dropped.len() < CAUSES;
                match self.dropped.iter_mut().find(|(known, ..)| known == cause) {
                    Some((_, count, newest)) => {
                        *count += 1;
                        newest.clone_from(journey);
                    }
                    None if has_room => {
                        self.dropped.push((cause.clone(), 1, journey.clone()));
                    }
                    None => self.dropped_otherwise += 1,
                }
            }
            (OutcomeKind::Dropped, None) => self.dropped_otherwise += 1,
            (OutcomeKind::Lost, _) => self.lost += 1,
            (kind, _) => match self.well.iter_mut().find(|(known, _)| *known == kind) {
                Some((_, count)) => *count += 1,
                None => self.well.push((kind, 1)),
            },
        }
    }
}

/// What makes two steps one node.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Key {
    netns: u32,
    device: u32,
    point: Cow<'static, str>,
}

impl Key {
    fn of(journey: &Journey, step: &Step) -> Self {
        let hop = &journey.hops[step.first()];
        Self {
            netns: hop.netns.inode,
            device: hop.dev.as_ref().map_or(0, |dev| dev.ifindex),
            point: journey.hops[step.named].point.clone(),
        }
    }
}

/// A step on its way into the line.
struct Coming<'a> {
    journey: &'a Arc<Journey>,
    step: Step,
    key: Key,
    /// Since the end of the step before, ns.
    took: Option<u64>,
    ends: bool,
}

impl Coming<'_> {
    fn count(&self, node: &mut Node, cause: Option<&Cause>) {
        node.packets += 1;
        if let Some(took) = self.took {
            node.times.add(took);
        }
        if self.ends {
            node.ends.add(self.journey, cause);
        }
        node.latest.0.clone_from(self.journey);
        node.latest.1.clone_from(&self.step);
    }

    fn node(&self, cause: Option<&Cause>) -> Node {
        let mut node = Node {
            key: self.key.clone(),
            packets: 0,
            times: Times::default(),
            ends: Ends::default(),
            latest: (self.journey.clone(), self.step.clone()),
            branches: Vec::new(),
        };
        self.count(&mut node, cause);
        node
    }
}

impl Node {
    /// The hop that it begins with, as the last packet saw it.
    pub fn hop(&self) -> Option<&Hop> {
        self.latest.0.hops.get(self.latest.1.first())
    }

    /// Name of its point.
    pub fn point(&self) -> &str {
        &self.key.point
    }
}

impl Paths {
    /// Lays a journey's way over the others; with `all`, every hop is a step.
    pub fn add(&mut self, journey: &Arc<Journey>, all: bool, cause: Option<&Cause>) {
        self.packets += 1;
        let steps = if all {
            (0..journey.hops.len()).map(Step::single).collect()
        } else {
            steps::main(journey)
        };
        if steps.is_empty() {
            self.unfit += 1;
            return;
        }
        // The step that it ended in; the end itself may be none.
        let end = steps.iter().rposition(|step| step.first() <= journey.outcome.hop).unwrap_or(0);
        let mut before: Option<u64> = None;
        let coming: Vec<Coming<'_>> = steps
            .into_iter()
            .enumerate()
            .map(|(index, step)| {
                let at = journey.hops[step.last()].t_ns;
                let took = before.map(|before| at.saturating_sub(before));
                before = Some(at);
                let key = Key::of(journey, &step);
                Coming { journey, key, took, ends: index == end, step }
            })
            .collect();
        let mut merge = Merge { room: NODES.saturating_sub(self.nodes), cut: false, cause };
        let room = merge.room;
        let made = journey.packet.parent.is_some();
        merge.start(&mut self.starts, &coming, made);
        self.nodes += room - merge.room;
        self.unfit += u64::from(merge.cut);
    }
}

/// One journey's merging.
struct Merge<'a> {
    /// Nodes that may still be made.
    room: usize,
    /// There was none for one.
    cut: bool,
    cause: Option<&'a Cause>,
}

impl Merge<'_> {
    fn start(&mut self, starts: &mut Vec<Line>, coming: &[Coming<'_>], made: bool) {
        if made {
            // It leaves the line at its interface, or where the other came into its namespace: a bridge
            // copies what one of its ports received.
            let at = coming.first().map(|first| (first.key.netns, first.key.device));
            let whole = starts.first_mut().filter(|line| !line.made);
            let origin = whole.and_then(|line| {
                let place = |node: &Node| (node.key.netns, node.key.device);
                let same = line.nodes.iter().rposition(|node| Some(place(node)) == at);
                let netns = at.map(|(netns, _)| netns);
                let entered = line.nodes.iter().position(|node| Some(node.key.netns) == netns);
                line.nodes.get_mut(same.or(entered)?)
            });
            match origin {
                Some(node) => self.branch(&mut node.branches, coming, true),
                None => self.branch(starts, coming, true),
            }
            return;
        }
        self.branch(starts, coming, false);
    }

    /// Into the line that has a node of these steps, or into a new one.
    fn branch(&mut self, lines: &mut Vec<Line>, coming: &[Coming<'_>], made: bool) {
        let meets = |line: &Line| {
            line.made == made
                && coming
                    .iter()
                    .take(ASIDE)
                    .any(|step| line.nodes.iter().any(|node| node.key == step.key))
        };
        if let Some(line) = lines.iter_mut().find(|line| meets(line)) {
            return self.line(line, coming);
        }
        if self.room == 0 {
            self.cut = true;
            return;
        }
        let mut line = Line { nodes: Vec::new(), made };
        self.extend(&mut line, coming);
        lines.push(line);
    }

    fn extend(&mut self, line: &mut Line, coming: &[Coming<'_>]) {
        for step in coming {
            if self.room == 0 {
                self.cut = true;
                return;
            }
            self.room -= 1;
            line.nodes.push(step.node(self.cause));
        }
    }

    fn line(&mut self, line: &mut Line, coming: &[Coming<'_>]) {
        // Behind the node that was passed last.
        let mut position = 0;
        let mut rest = coming;
        while let Some((step, later)) = rest.split_first() {
            let find = |line: &Line, key: &Key| {
                let found = line.nodes[position..].iter().position(|node| node.key == *key)?;
                Some(position + found)
            };
            if let Some(found) = find(line, &step.key) {
                step.count(&mut line.nodes[found], self.cause);
                position = found + 1;
                rest = later;
                continue;
            }
            if position == line.nodes.len() {
                return self.extend(line, rest);
            }
            // It comes back: what is between belongs into the line.
            let aside = later.iter().take(ASIDE).position(|step| find(line, &step.key).is_some());
            if let Some(aside) = aside {
                for step in &rest[..=aside] {
                    if self.room == 0 {
                        self.cut = true;
                        break;
                    }
                    self.room -= 1;
                    line.nodes.insert(position, step.node(self.cause));
                    position += 1;
                }
                rest = &rest[aside + 1..];
                continue;
            }
            return match position.checked_sub(1).and_then(|last| line.nodes.get_mut(last)) {
                Some(node) => self.branch(&mut node.branches, rest, false),
                // Nothing of it is in this line: it was asked for nothing else.
                None => self.cut = true,
            };
        }
    }
}
