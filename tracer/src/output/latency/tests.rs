//! Journeys written by hand, a microsecond from hop to hop, and what is measured of them.

use super::*;
use crate::{
    event::{Event, Place, What},
    explain::{DeviceName, NetnsName},
    journey::sample::*,
};

const C1: u32 = 1;
const HOST: u32 = 2;
const PORT: u32 = 5;
const OTHER_PORT: u32 = 6;
const BRIDGE: u32 = 7;
const NIC: u32 = 3;

struct Lab;

impl Names for Lab {
    fn netns(&self, inode: u32) -> NetnsName {
        NetnsName { own: inode == HOST, ..NetnsName::default() }
    }

    fn device(&self, place: Place) -> DeviceName {
        let is_port = place.netns == HOST && [PORT, OTHER_PORT].contains(&place.ifindex);
        let bridge = is_port.then(|| "br0".to_owned());
        DeviceName { bridge, ..DeviceName::default() }
    }
}

/// From a container through bridge, route and a qdisc to the network.
fn out(id: u64, sport: u16) -> Packet {
    let (kind, handle) = ("tbf", 0x8001_0000);
    packet(id, udp("10.0.0.2", sport, "203.0.113.8", 53))
        .at(C1, 2)
        .see(enter(Hook::Output))
        .see(What::DevXmit)
        .at(HOST, PORT)
        .see(What::DevReceive)
        .at(HOST, BRIDGE)
        .see(What::DevReceive)
        .see(route(NIC, 0, 1))
        .see(enter(Hook::Forward))
        .at(HOST, NIC)
        .see(What::QdiscEnqueue { kind: kind.into(), handle })
        .see(What::QdiscDequeue { kind: kind.into(), handle })
        .see(What::DevXmit)
}

/// And an answer's way.
fn back(id: u64) -> Packet {
    packet(id, udp("203.0.113.8", 53, "10.0.0.2", 4000))
        .at(HOST, NIC)
        .see(What::DevReceive)
        .see(route(BRIDGE, 0, 1))
        .see(enter(Hook::Forward))
        .at(HOST, BRIDGE)
        .see(What::DevXmit)
        .at(HOST, PORT)
        .see(What::DevXmit)
        .at(C1, 2)
        .see(What::DevReceive)
        .see(enter(Hook::Input))
        .see(exit(Hook::Input))
        .see(queued())
        .see(consume())
}

fn measure(events: Vec<Event>) -> record::Latency {
    let mut latency = Latency::default();
    for journey in journeys(events) {
        latency.add(&journey, &Lab);
    }
    latency.figures()
}

/// Segments with their longest times, in whole µs.
fn maxima(figures: &BTreeMap<Segment, record::Times>) -> Vec<(Segment, u64)> {
    figures.iter().map(|(segment, times)| (*segment, times.max_ns / 1_000)).collect()
}

#[test]
fn a_packet_to_the_network_is_timed_from_the_container_to_the_nic() {
    let figures = measure(out(1, 4000).events());
    assert_eq!(
        maxima(&figures.host),
        [
            (Segment::ContainerToBridge, 2),
            (Segment::BridgeToRoute, 2),
            (Segment::RouteToNic, 4),
            (Segment::QdiscWait, 1),
            (Segment::Whole, 8),
        ]
    );
}

#[test]
fn a_packet_from_the_network_is_timed_until_the_containers_stack_has_it() {
    let figures = measure(back(1).events());
    assert_eq!(
        maxima(&figures.host),
        [
            (Segment::NicToRoute, 1),
            (Segment::RouteToBridge, 3),
            (Segment::BridgeToContainer, 2),
            (Segment::Whole, 6),
        ]
    );
}

#[test]
fn a_packet_that_is_only_bridged_has_no_routing_decision() {
    let figures = measure(
        packet(1, udp("10.0.0.2", 4000, "10.0.0.3", 53))
            .at(C1, 2)
            .see(What::DevXmit)
            .at(HOST, PORT)
            .see(What::DevReceive)
            .at(HOST, OTHER_PORT)
            .see(What::DevXmit)
            .at(9, 2)
            .see(What::DevReceive)
            .see(enter(Hook::Input))
            .see(exit(Hook::Input))
            .events(),
    );
    assert_eq!(
        maxima(&figures.host),
        [
            (Segment::ContainerToBridge, 1),
            (Segment::Bridge, 1),
            (Segment::BridgeToContainer, 2),
            (Segment::Whole, 4),
        ]
    );
}

#[test]
fn where_no_lookup_is_seen_the_hook_behind_it_bounds_the_segment() {
    let figures = measure(
        packet(1, udp("10.0.0.2", 4000, "10.0.0.1", 53))
            .at(C1, 2)
            .see(What::DevXmit)
            .at(HOST, PORT)
            .see(What::DevReceive)
            .at(HOST, BRIDGE)
            .see(What::DevReceive)
            .see(enter(Hook::Input))
            .see(exit(Hook::Input))
            .events(),
    );
    assert_eq!(figures.host[&Segment::BridgeToRoute].max_ns / 1_000, 2);
}

#[test]
fn a_dropped_packet_counts_as_far_as_it_came() {
    let figures = measure(
        packet(1, udp("10.0.0.2", 4000, "203.0.113.8", 53))
            .at(C1, 2)
            .see(What::DevXmit)
            .at(HOST, PORT)
            .see(What::DevReceive)
            .see(drop(12, None))
            .events(),
    );
    assert_eq!(maxima(&figures.host), [(Segment::ContainerToBridge, 1)]);
}

#[test]
fn a_journey_with_a_hole_is_counted_and_not_timed() {
    let mut events = out(1, 4000).events();
    events.remove(4);
    let figures = measure(events);
    assert!(figures.host.is_empty() && figures.flows.is_empty(), "{figures:?}");
    assert_eq!(figures.incomplete, 1);
}

#[test]
fn both_directions_of_a_flow_are_told_together_and_the_most_active_flow_first() {
    let quiet = out(1, 5000).events();
    let busy = [out(2, 4000).events(), out(3, 4000).events(), back(4).events()].concat();
    let figures = measure([quiet, busy].concat());
    let told: Vec<_> = figures.flows.iter().map(|flow| (flow.sport, flow.journeys)).collect();
    assert_eq!(told, [(Some(4000), 3), (Some(5000), 1)]);
    assert_eq!(figures.flows[0].segments[&Segment::Whole].count, 3);
    assert_eq!(figures.flows[0].segments[&Segment::RouteToBridge].count, 1);
    assert_eq!(figures.host[&Segment::Whole].count, 4);
}

#[test]
fn of_too_many_flows_the_silent_ones_go_and_are_counted() {
    let mut latency = Latency::default();
    let most = FLOWS.get() as u64;
    for id in 1..=most + 10 {
        for mut journey in journeys(out(id, 4000).events()) {
            journey.flow.id = FlowId(id);
            latency.add(&journey, &Lab);
        }
    }
    let figures = latency.figures();
    assert_eq!(figures.flows_forgotten, 10);
    assert_eq!(figures.flows.len() as u64 + figures.flows_untold, most);
    assert_eq!(figures.host[&Segment::Whole].count, most + 10);
    assert!(figures.flows.iter().all(|flow| flow.flow > 10), "the oldest went");
}

#[test]
fn quantiles_are_those_of_the_times() {
    let mut segments = Segments::<u32>::default();
    (1..=1_000).for_each(|us| segments.add(&(Segment::QdiscWait, us * 1_000)));
    let times = segments.figures()[&Segment::QdiscWait];
    let near = |ns: u64, us: u64| (us * 990..=us * 1_010).contains(&ns);
    assert_eq!(times.count, 1_000);
    assert!(near(times.p50_ns, 500) && near(times.p90_ns, 900), "{times:?}");
    assert!(near(times.p99_ns, 990) && near(times.max_ns, 1_000), "{times:?}");
}
