//! What the view knows: flows, the paths of their packets, causes of drops, and the last journeys of each.
//!
//! Pure: journeys in, figures out, at times that the caller tells. Everything is bounded, and what was
//! given up is counted.

mod cause;
mod flow;
mod path;
mod rate;
#[cfg(test)]
mod tests;
mod times;

pub use cause::{Cause, Drops};
pub use flow::{Flow, Side, State};
pub use path::{Line, Node, Paths};
pub use rate::Rate;
pub use times::Times;

use std::{collections::VecDeque, num::NonZeroUsize, sync::Arc};

use lru::LruCache;

use crate::output::record::{Direction, Journey};
use flow::Kept;

/// What is kept at most.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Flows; the one that was silent for longest goes first.
    pub flows: NonZeroUsize,
    /// Nodes of paths, of all flows together: each takes about 1 KB.
    pub nodes: usize,
    /// Causes of drops.
    pub causes: NonZeroUsize,
    /// Journeys of one flow.
    pub journeys_of_a_flow: usize,
    /// Journeys of all flows: each takes about 8 KB.
    pub journeys: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            flows: NonZeroUsize::new(65_536).unwrap_or(NonZeroUsize::MIN),
            nodes: 24_576,
            causes: NonZeroUsize::new(500).unwrap_or(NonZeroUsize::MIN),
            journeys_of_a_flow: 100,
            journeys: 8_192,
        }
    }
}

/// Both directions' paths of a flow.
#[derive(Clone, Debug, Default)]
pub struct FlowPaths {
    /// As the side that began sends.
    pub original: Paths,
    /// As the other side answers.
    pub reply: Paths,
}

impl FlowPaths {
    fn add(&mut self, journey: &Arc<Journey>, all: bool, cause: Option<&Cause>) {
        let paths = match journey.direction {
            Direction::Original => &mut self.original,
            Direction::Reply => &mut self.reply,
        };
        paths.add(journey, all, cause);
    }

    fn nodes(&self) -> usize {
        self.original.nodes + self.reply.nodes
    }

    /// Packets in these figures.
    pub fn packets(&self) -> u64 {
        self.original.packets + self.reply.packets
    }
}

/// What was counted, of all flows that ever were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Journeys.
    pub journeys: u64,
    /// Of them, dropped.
    pub dropped: u64,
    /// Flows that were forgotten, for there were too many.
    pub flows_forgotten: u64,
    /// Causes of drops that were.
    pub causes_forgotten: u64,
}

/// All of it.
#[derive(Clone, Debug)]
pub struct Model {
    limits: Limits,
    flows: LruCache<u64, Flow>,
    paths: LruCache<u64, FlowPaths>,
    /// Nodes of all paths.
    nodes: usize,
    causes: LruCache<Cause, Drops>,
    /// Of what flow each kept journey is, oldest first, with its serial number: also of some that are kept
    /// no more.
    kept: VecDeque<(u64, u64)>,
    /// Journeys that are kept.
    held: usize,
    serial: u64,
    counts: Counts,
    /// Every hop is a node, rather than every step.
    all_hops: bool,
}

impl Default for Model {
    fn default() -> Self {
        Self::new(Limits::default(), false)
    }
}

impl Model {
    /// Nothing yet.
    pub fn new(limits: Limits, all_hops: bool) -> Self {
        Self {
            limits,
            // They grow as they fill; the bound is kept below.
            flows: LruCache::unbounded(),
            paths: LruCache::unbounded(),
            nodes: 0,
            causes: LruCache::unbounded(),
            kept: VecDeque::new(),
            held: 0,
            serial: 0,
            counts: Counts::default(),
            all_hops,
        }
    }

    /// Takes a journey that came at `now`, ns since the view began.
    pub fn add(&mut self, journey: Arc<Journey>, now: u64) {
        let id = journey.flow.id;
        let cause = Cause::of(&journey);
        self.counts.journeys += 1;
        self.counts.dropped += u64::from(cause.is_some());
        if !self.flows.contains(&id) && self.flows.len() >= self.limits.flows.get() {
            self.forget_silent();
        }
        self.flows.get_or_insert_mut(id, || Flow::of(&journey)).add(&journey, now);
        self.lay(&journey, cause.as_ref());
        if let Some(cause) = cause {
            self.count_drop(cause, &journey, now);
        }
        self.keep(journey);
    }

    /// Forgets everything that was counted, but not what is being shown.
    pub fn clear(&mut self) {
        *self = Self::new(self.limits, self.all_hops);
    }

    /// How many flows there are.
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// A flow.
    pub fn flow(&self, id: u64) -> Option<&Flow> {
        self.flows.peek(&id)
    }

    /// All of them, in no order.
    pub fn flows(&self) -> impl Iterator<Item = &Flow> {
        self.flows.iter().map(|(_, flow)| flow)
    }

    /// The paths of a flow, as far as they are known.
    pub fn paths(&self, id: u64) -> Option<&FlowPaths> {
        self.paths.peek(&id)
    }

    /// Drops by cause, the newest first.
    pub fn drops(&self) -> impl ExactSizeIterator<Item = (&Cause, &Drops)> {
        self.causes.iter()
    }

    /// What was counted.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Whether every hop is a node.
    pub fn shows_all_hops(&self) -> bool {
        self.all_hops
    }

    /// Shows every hop as a node, or every step: of the journeys that are kept, from here on all.
    pub fn show_all_hops(&mut self, all: bool) {
        if self.all_hops != all {
            self.all_hops = all;
            self.paths.clear();
            self.nodes = 0;
        }
    }

    /// The paths of this flow are to be known and to stay: somebody looks at them.
    pub fn look_at(&mut self, id: u64) {
        if self.paths.get(&id).is_some() {
            return;
        }
        let Some(flow) = self.flows.peek(&id) else { return };
        let mut paths = FlowPaths::default();
        for journey in flow.journeys().rev() {
            paths.add(journey, self.all_hops, Cause::of(journey).as_ref());
        }
        self.nodes += paths.nodes();
        self.paths.put(id, paths);
        self.bound_nodes();
    }

    fn lay(&mut self, journey: &Arc<Journey>, cause: Option<&Cause>) {
        let paths = self.paths.get_or_insert_mut(journey.flow.id, FlowPaths::default);
        let before = paths.nodes();
        paths.add(journey, self.all_hops, cause);
        self.nodes += paths.nodes() - before;
        self.bound_nodes();
    }

    fn bound_nodes(&mut self) {
        while self.nodes > self.limits.nodes && self.paths.len() > 1 {
            let Some((_, gone)) = self.paths.pop_lru() else { break };
            self.nodes -= gone.nodes();
        }
    }

    fn count_drop(&mut self, cause: Cause, journey: &Arc<Journey>, now: u64) {
        if let Some(drops) = self.causes.get_mut(&cause) {
            drops.count += 1;
            drops.newest.clone_from(journey);
            drops.at = now;
            return;
        }
        if self.causes.len() >= self.limits.causes.get() {
            self.causes.pop_lru();
            self.counts.causes_forgotten += 1;
        }
        self.causes.put(cause, Drops { count: 1, newest: journey.clone(), at: now });
    }

    fn keep(&mut self, journey: Arc<Journey>) {
        let id = journey.flow.id;
        let Some(flow) = self.flows.peek_mut(&id) else { return };
        self.serial += 1;
        flow.recent.push_back(Kept { serial: self.serial, journey });
        self.held += 1;
        self.kept.push_back((id, self.serial));
        if flow.recent.len() > self.limits.journeys_of_a_flow {
            flow.recent.pop_front();
            self.held -= 1;
        }
        while self.held > self.limits.journeys {
            let Some((id, serial)) = self.kept.pop_front() else { break };
            if self.is_kept(id, serial)
                && let Some(flow) = self.flows.peek_mut(&id)
            {
                flow.recent.pop_front();
                self.held -= 1;
            }
        }
        // Those that a busy flow replaced by its own are still in the list.
        if self.kept.len() > 4 * self.limits.journeys {
            let kept = std::mem::take(&mut self.kept);
            self.kept = kept.into_iter().filter(|&(id, serial)| self.is_kept(id, serial)).collect();
        }
    }

    fn is_kept(&self, id: u64, serial: u64) -> bool {
        let oldest = self.flows.peek(&id).and_then(|flow| flow.recent.front());
        oldest.is_some_and(|kept| kept.serial <= serial)
    }

    fn forget_silent(&mut self) {
        let Some((id, flow)) = self.flows.pop_lru() else { return };
        self.held -= flow.recent.len();
        if let Some(paths) = self.paths.pop(&id) {
            self.nodes -= paths.nodes();
        }
        self.counts.flows_forgotten += 1;
    }
}
