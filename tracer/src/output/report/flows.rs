//! Flows, and the ways that their packets took.

use std::collections::{BTreeMap, HashMap};

use hdrhistogram::Histogram;

use super::sample::Sample;
use crate::output::{
    path::{Line, main_lines, netns},
    record::{Direction, Flow, Journey, Nat, OutcomeKind, Rule},
};

/// Flows that are shown, ways of one, and packets of a way that are shown whole.
const FLOWS: usize = 1_000;
const WAYS: usize = 12;
const EXAMPLES: usize = 2;
/// Packets of a way whose times give the median of a step.
const TIMED: usize = 32;

/// All flows.
#[derive(Debug, Default)]
pub(super) struct Flows {
    by_id: BTreeMap<u64, Told>,
    /// Packets of flows beyond those that are shown.
    pub others: u64,
}

/// A flow and what is known of it.
#[derive(Debug)]
pub(super) struct Told {
    /// As its originating side sent it.
    pub flow: Flow,
    /// Who its source is.
    pub src_name: Option<String>,
    /// Who its destination is.
    pub dst_name: Option<String>,
    /// What NAT made of its first rewritten packet.
    pub nat: Option<Nat>,
    /// Packets of its own direction and of the reply's.
    pub packets: [u64; 2],
    /// Their bytes.
    pub bytes: [u64; 2],
    /// Packets by how they ended.
    pub outcomes: HashMap<OutcomeKind, u64>,
    /// ns that packets took that arrived.
    pub times: Times,
    /// Their ways, as they were first taken.
    pub ways: Vec<Way>,
    /// Packets of ways beyond those that are shown.
    pub other_ways: u64,
    index: HashMap<Vec<(String, String)>, usize>,
}

/// Packets of one direction that passed the same places and ended alike.
#[derive(Debug)]
pub(super) struct Way {
    /// Their direction.
    pub direction: Direction,
    /// How they ended.
    pub kind: OutcomeKind,
    /// Where.
    pub steps: Vec<Step>,
    /// How many.
    pub count: u64,
    /// Of a drop: reason, and who decided.
    pub cause: Option<(String, Option<String>)>,
    /// Some of them, whole.
    pub examples: Vec<Journey>,
}

/// A line of a way.
#[derive(Debug)]
pub(super) struct Step {
    /// What the namespace is called.
    pub netns: String,
    /// Interface, with what it leads to.
    pub device: String,
    /// Point.
    pub point: String,
    /// What the point told of the first packet.
    pub detail: String,
    /// It is the one that the outcome is about.
    pub is_end: bool,
    /// ns since the step before.
    pub times: Sample<u64>,
}

/// A distribution of ns, exact to two digits.
#[derive(Debug, Default)]
pub(super) struct Times(Option<Histogram<u64>>);

impl Times {
    fn add(&mut self, ns: u64) {
        if self.0.is_none() {
            // Two digits are always accepted.
            self.0 = Histogram::new(2).ok();
        }
        if let Some(times) = &mut self.0 {
            // It grows by itself as far as a u64 goes.
            let _ = times.record(ns);
        }
    }

    /// The time that this part of them (0 to 1) did not exceed; `None` of none.
    pub fn at(&self, quantile: f64) -> Option<u64> {
        self.0.as_ref().map(|times| times.value_at_quantile(quantile))
    }
}

impl Flows {
    /// Takes a journey.
    pub fn add(&mut self, journey: &Journey) {
        let id = journey.flow.id;
        if self.by_id.len() >= FLOWS && !self.by_id.contains_key(&id) {
            self.others += 1;
            return;
        }
        self.by_id.entry(id).or_insert_with(|| Told::new(&journey.flow)).add(journey);
    }

    /// The flows: those with drops first, then by packets.
    pub fn by_worth(&self) -> Vec<&Told> {
        let mut flows: Vec<_> = self.by_id.values().collect();
        flows.sort_by_key(|flow| {
            (std::cmp::Reverse((flow.dropped(), flow.packets[0] + flow.packets[1])), flow.flow.id)
        });
        flows
    }
}

impl Told {
    fn new(flow: &Flow) -> Self {
        Self {
            flow: flow.clone(),
            src_name: None,
            dst_name: None,
            nat: None,
            packets: [0; 2],
            bytes: [0; 2],
            outcomes: HashMap::new(),
            times: Times::default(),
            ways: Vec::new(),
            other_ways: 0,
            index: HashMap::new(),
        }
    }

    /// Packets that were dropped.
    pub fn dropped(&self) -> u64 {
        self.outcomes.get(&OutcomeKind::Dropped).copied().unwrap_or(0)
    }

    fn add(&mut self, journey: &Journey) {
        let packet = &journey.packet;
        let (from, to) = match journey.direction {
            Direction::Original => (&packet.src_name, &packet.dst_name),
            Direction::Reply => (&packet.dst_name, &packet.src_name),
        };
        for (known, name) in [(&mut self.src_name, from), (&mut self.dst_name, to)] {
            if known.is_none() {
                known.clone_from(name);
            }
        }
        let nat = &journey.nat;
        let rewritten =
            nat.src.is_some() || nat.dst.is_some() || nat.sport.is_some() || nat.dport.is_some();
        if rewritten && journey.direction == Direction::Original && self.nat.is_none() {
            self.nat = Some(nat.clone());
        }
        let direction = usize::from(journey.direction == Direction::Reply);
        self.packets[direction] += 1;
        self.bytes[direction] += u64::from(journey.length);
        let kind = journey.outcome.kind;
        *self.outcomes.entry(kind).or_default() += 1;
        if matches!(kind, OutcomeKind::Delivered | OutcomeKind::Transmitted) {
            self.times.add(journey.duration_ns);
        }
        self.pass(journey);
    }

    fn pass(&mut self, journey: &Journey) {
        let lines = main_lines(journey);
        let end = format!("{:?} {:?}", journey.direction, journey.outcome.kind);
        let reason = journey.outcome.reason.clone().unwrap_or_default();
        let mut key: Vec<_> =
            lines.iter().map(|line| (line.place.clone(), line.point.clone())).collect();
        key.push((end, reason));
        let at = match self.index.get(&key) {
            Some(at) => *at,
            None if self.ways.len() >= WAYS => {
                self.other_ways += 1;
                return;
            }
            None => {
                self.index.insert(key, self.ways.len());
                self.ways.push(Way::new(journey, &lines));
                self.ways.len() - 1
            }
        };
        if let Some(way) = self.ways.get_mut(at) {
            way.add(journey, &lines);
        }
    }
}

impl Way {
    fn new(journey: &Journey, lines: &[Line]) -> Self {
        let outcome = &journey.outcome;
        let dropped = outcome.kind == OutcomeKind::Dropped;
        Self {
            direction: journey.direction,
            kind: outcome.kind,
            steps: lines.iter().map(|line| Step::new(journey, line)).collect(),
            count: 0,
            cause: dropped.then(|| {
                let reason = outcome.reason.clone().unwrap_or_else(|| "unknown".to_owned());
                (reason, outcome.rule.as_ref().map(Rule::line))
            }),
            examples: Vec::new(),
        }
    }

    fn add(&mut self, journey: &Journey, lines: &[Line]) {
        self.count += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push(journey.clone());
        }
        let mut before = 0;
        for (step, line) in self.steps.iter_mut().zip(lines) {
            let at = journey.hops.get(line.hops.0).map_or(before, |hop| hop.t_ns);
            step.times.add(at.saturating_sub(before));
            before = at;
        }
    }
}

impl Step {
    fn new(journey: &Journey, line: &Line) -> Self {
        let netns = journey.hops.get(line.hops.0).map(|hop| netns(&hop.netns)).unwrap_or_default();
        let device = line.place.strip_prefix(&netns).unwrap_or(&line.place);
        Self {
            device: device.trim_start_matches(':').to_owned(),
            netns,
            point: line.point.clone(),
            detail: line.detail.clone(),
            is_end: (line.hops.0..=line.hops.1).contains(&journey.outcome.hop),
            times: Sample::of(TIMED),
        }
    }
}
