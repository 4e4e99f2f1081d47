//! How long packets take on the segments of their way: of this host as a whole, and of each flow.
//!
//! A segment lies between two points of the host's own namespace, or between that and the sender's or the
//! receiver's. Only points that every kernel shows bound one, so that figures of two kernels compare.
//! What a process takes to read a packet that has arrived is in none of them.

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, num::NonZeroUsize};

use hdrhistogram::{Counter, Histogram};
use lru::LruCache;
use tracer_common::point::Point;

use super::{
    describe,
    record::{self, Segment},
};
use crate::{
    event::{Family, Hook, HookFamily},
    explain::Names,
    journey::{Flow, FlowId, Hop, HopDetail, Journey, Outcome},
};

/// Flows whose figures are kept. A segment takes 6 KB where times stay below 0.1 ms, 12 KB where they
/// reach 1 s: 10 MB in all as a rule, 30 MB at worst.
const FLOWS: NonZeroUsize = NonZeroUsize::new(256).unwrap();
/// Of these, the most active ones are told.
const FLOWS_TOLD: usize = 20;
/// Significant digits of a figure.
const DIGITS: u8 = 2;

/// Takes journeys, gives figures.
#[derive(Debug)]
pub struct Latency {
    host: Segments<u64>,
    flows: LruCache<FlowId, FlowTimes>,
    forgotten: u64,
    incomplete: u64,
}

#[derive(Debug)]
struct FlowTimes {
    flow: Flow,
    journeys: u64,
    segments: Segments<u32>,
}

/// A histogram for each segment that was passed.
#[derive(Debug)]
struct Segments<C: Counter>(BTreeMap<Segment, Histogram<C>>);

impl<C: Counter> Default for Segments<C> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<C: Counter> Segments<C> {
    fn add(&mut self, &(segment, ns): &(Segment, u64)) {
        if !self.0.contains_key(&segment)
            && let Ok(empty) = Histogram::new(DIGITS)
        {
            self.0.insert(segment, empty);
        }
        if let Some(times) = self.0.get_mut(&segment) {
            // It grows by itself as far as a u64 goes.
            let _ = times.record(ns);
        }
    }

    fn figures(&self) -> BTreeMap<Segment, record::Times> {
        let figures = |times: &Histogram<C>| record::Times {
            count: times.len(),
            p50_ns: times.value_at_quantile(0.50),
            p90_ns: times.value_at_quantile(0.90),
            p99_ns: times.value_at_quantile(0.99),
            max_ns: times.max(),
        };
        self.0.iter().map(|(segment, times)| (*segment, figures(times))).collect()
    }
}

impl Default for Latency {
    fn default() -> Self {
        Self { host: Segments::default(), flows: LruCache::new(FLOWS), forgotten: 0, incomplete: 0 }
    }
}

impl Latency {
    /// Counts a journey in. One with a hole is only counted: what bounds a segment may be missing.
    pub fn add(&mut self, journey: &Journey, names: &(impl Names + ?Sized)) {
        if !journey.complete {
            self.incomplete += 1;
            return;
        }
        let times = times(journey, names);
        if times.is_empty() {
            return;
        }
        times.iter().for_each(|time| self.host.add(time));
        let flow = journey.flow;
        if !self.flows.contains(&flow.id) {
            let new = FlowTimes { flow, journeys: 0, segments: Segments::default() };
            self.forgotten += u64::from(self.flows.push(flow.id, new).is_some());
        }
        if let Some(known) = self.flows.get_mut(&flow.id) {
            known.journeys += 1;
            times.iter().for_each(|time| known.segments.add(time));
        }
    }

    /// The figures so far; of flows, the most active ones.
    pub fn figures(&self) -> record::Latency {
        let mut flows: Vec<&FlowTimes> = self.flows.iter().map(|(_, times)| times).collect();
        flows.sort_by_key(|times| (std::cmp::Reverse(times.journeys), times.flow.id));
        let told = flows.iter().take(FLOWS_TOLD).map(|times| times.figures()).collect();
        record::Latency {
            host: self.host.figures(),
            flows: told,
            flows_untold: flows.len().saturating_sub(FLOWS_TOLD) as u64,
            flows_forgotten: self.forgotten,
            incomplete: self.incomplete,
        }
    }
}

impl FlowTimes {
    fn figures(&self) -> record::FlowLatency {
        let flow = &self.flow;
        let addressed = flow.family != Family::Other;
        let ports = describe::has_ports(flow.family, flow.proto);
        record::FlowLatency {
            flow: flow.id.0,
            proto: describe::protocol(flow.family, flow.proto),
            src: addressed.then(|| flow.src.to_string()),
            dst: addressed.then(|| flow.dst.to_string()),
            sport: ports.then_some(flow.sport),
            dport: ports.then_some(flow.dport),
            journeys: self.journeys,
            segments: self.segments.figures(),
        }
    }
}

/// A side of the host, by the interface there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    /// A port of a bridge.
    Port,
    /// Any other: the network's, or that of a container without a bridge.
    Nic,
}

/// Where a packet crossed the edge of the host.
#[derive(Clone, Copy, Debug)]
struct Edge {
    side: Side,
    hop: usize,
}

/// The segments that a journey passed, and how long each took.
fn times(journey: &Journey, names: &(impl Names + ?Sized)) -> Vec<(Segment, u64)> {
    let hops = &journey.hops;
    let mut times: Vec<(Segment, u64)> = hops
        .iter()
        .filter_map(|hop| match hop.detail {
            HopDetail::Qdisc { delay: Some(delay), .. } => Some((Segment::QdiscWait, delay)),
            _ => None,
        })
        .collect();
    let mut put = |segment: Option<Segment>, from: Option<usize>, to: Option<usize>| {
        let at = |hop: Option<usize>| hops.get(hop?).map(|hop| hop.at);
        if let (Some(segment), Some(from), Some(to)) = (segment, at(from), at(to)) {
            times.push((segment, to.saturating_sub(from)));
        }
    };
    let arrived = arrived(journey);
    // What was made of another packet begins on the way.
    let start = (journey.parent.is_none() && !hops.is_empty()).then_some(0);
    put(Some(Segment::Whole), start, arrived);

    let in_host = |hop: &Hop| names.netns(hop.place.netns).own;
    let edge = |hop: usize| {
        let bridge = names.device(hops[hop].place).bridge;
        Edge { side: if bridge.is_some() { Side::Port } else { Side::Nic }, hop }
    };
    let came = hops.iter().position(|hop| in_host(hop) && hop.point == Point::DevReceive).map(edge);
    let left = hops.iter().rposition(|hop| in_host(hop) && hop.point == Point::DevXmit).map(edge);
    // Between its edges: what it meets in the host before or behind them is the container's.
    let within = came.map_or(0, |edge| edge.hop)..left.map_or(hops.len(), |edge| edge.hop);
    // ARP has routes looked up, but goes by none.
    let is_routed = matches!(journey.headers.family, Family::Ipv4 | Family::Ipv6);
    let decided = decision(hops, |index, hop| is_routed && within.contains(&index) && in_host(hop));
    let starts_elsewhere = hops.first().is_some_and(|hop| !in_host(hop));
    let ends_elsewhere = arrived.and_then(|hop| hops.get(hop)).is_some_and(|hop| !in_host(hop));

    if let Some(came) = came {
        let from_container = starts_elsewhere && came.side == Side::Port;
        put(from_container.then_some(Segment::ContainerToBridge), start, Some(came.hop));
        let segment = match came.side {
            Side::Port => Segment::BridgeToRoute,
            Side::Nic => Segment::NicToRoute,
        };
        put(Some(segment), Some(came.hop), decided);
    }
    if let Some(left) = left {
        let segment = match left.side {
            Side::Port => Segment::RouteToBridge,
            Side::Nic => Segment::RouteToNic,
        };
        put(Some(segment), decided, Some(left.hop));
        let to_container = ends_elsewhere && left.side == Side::Port;
        put(to_container.then_some(Segment::BridgeToContainer), Some(left.hop), arrived);
    }
    if let (Some(came), Some(left), None) = (came, left, decided) {
        let bridged = came.side == Side::Port && left.side == Side::Port && came.hop < left.hop;
        put(bridged.then_some(Segment::Bridge), Some(came.hop), Some(left.hop));
    }
    times
}

/// The hop at which it had arrived: before a socket's reader has it.
fn arrived(journey: &Journey) -> Option<usize> {
    let end = match journey.outcome {
        Outcome::Transmitted { hop } | Outcome::Delivered { hop } => hop,
        Outcome::Dropped { .. } | Outcome::Consumed { .. } | Outcome::Lost { .. } => return None,
    };
    journey
        .hops
        .get(..=end)?
        .iter()
        .rposition(|hop| !matches!(hop.point, Point::Socket | Point::Drop | Point::Consume))
}

/// The routing decision: the last look-up of the way on. The hook behind it where none is seen, for
/// a socket and early demultiplexing know their ways.
fn decision(hops: &[Hop], within: impl Fn(usize, &Hop) -> bool) -> Option<usize> {
    let last = |wanted: fn(&HopDetail) -> bool| {
        let mut hops = hops.iter().enumerate();
        hops.rfind(|(index, hop)| within(*index, hop) && wanted(&hop.detail))
            .map(|(index, _)| index)
    };
    last(|detail| matches!(detail, HopDetail::Route { reverse: false, error: 0, .. })).or_else(
        || {
            last(|detail| {
                matches!(detail, HopDetail::Netfilter { hook, bridged: false, .. }
                if matches!(hook.family, HookFamily::Ipv4 | HookFamily::Ipv6)
                    && matches!(hook.hook, Hook::Forward | Hook::Input | Hook::Output))
            })
        },
    )
}
