//! One test a rule, then properties over many packets.

use std::collections::BTreeMap;

use proptest::{prelude::*, sample::subsequence};
use tracer_common::point::Point;

use super::{sample::*, *};
use crate::event::{
    ConntrackState, Consumer, Family, Hook,
    HookFamily::{Arp, Bridge, Ipv4, Netdev},
    Origin, What,
};

const SYN: u8 = 0x02;
const SYN_ACK: u8 = 0x12;
const ACK: u8 = 0x10;

fn one(packet: Packet) -> Journey {
    let mut all = journeys(packet.events());
    assert_eq!(all.len(), 1);
    all.remove(0)
}

fn points(journey: &Journey) -> Vec<&'static str> {
    journey.hops.iter().map(|hop| hop.point.name()).collect()
}

fn accepted(journey: &Journey, hop: usize) -> Option<bool> {
    match journey.hops[hop].detail {
        HopDetail::Netfilter { accepted, .. } => accepted,
        ref other => panic!("{other:?}"),
    }
}

fn ping() -> Packet {
    packet(1, icmp("10.0.0.2", "203.0.113.8", 8, 7, 1))
}

#[test]
fn what_a_program_reads_from_a_device_was_transmitted() {
    let journey = one(ping().see(What::DevXmit).see(socket()).see(consume()));
    assert_eq!(journey.outcome, Outcome::Transmitted { hop: 0 });
    assert_eq!(journey.hops[1].point, Point::Socket);
}

#[test]
fn a_read_that_ends_a_packet_names_the_reader() {
    struct Reads;
    impl Benign for Reads {
        fn end(&self, _: Option<u32>, _: u64, _: &Headers, _: bool) -> Option<BenignEnd> {
            None
        }
        fn is_read(&self, location: u64) -> bool {
            location == 7
        }
    }
    let by = |location| Some(Box::new(Consumer { location, pid: 42, comm: "dnsmasq".into() }));
    let ended = |location| {
        let packet = packet(1, udp("10.0.0.1", 1, "10.0.0.2", 53)).see(enter(Hook::Input));
        let packet = packet.see(exit(Hook::Input)).see(What::Consume { by: by(location) });
        journeys_with(Reads, packet.events()).remove(0)
    };

    let (read, other) = (ended(7), ended(8));

    let detail = HopDetail::Socket { pid: Some(42), comm: Some("dnsmasq".into()) };
    assert_eq!((&read.hops[1].detail, &read.outcome), (&detail, &Outcome::Delivered { hop: 1 }));
    assert_eq!(other.outcome, Outcome::Delivered { hop: 0 });
}

#[test]
fn silence_after_a_loss_is_not_taken_for_an_end() {
    let (mut assembler, mut done) = (Assembler::new(LIMITS, ()), Vec::new());
    let sent = packet(1, udp("10.0.0.1", 1, "10.0.0.2", 2)).see(What::DevXmit).events();
    for event in sent {
        assembler.push(event, &mut done);
    }

    assembler.lost_events(MS);
    assembler.advance(10_000 * MS, &mut done);

    assert!(!done[0].complete);
    assert!(matches!(done[0].outcome, Outcome::Lost { .. }), "{:?}", done[0].outcome);
}

#[test]
fn a_loss_before_the_last_event_leaves_a_whole_journey_alone() {
    let (mut assembler, mut done) = (Assembler::new(LIMITS, ()), Vec::new());
    assembler.lost_events(1);
    let sent = packet(1, udp("10.0.0.1", 1, "10.0.0.2", 2)).see(What::DevXmit).events();
    for event in sent {
        assembler.push(event, &mut done);
    }

    assembler.advance(10_000 * MS, &mut done);

    assert!(done[0].complete);
    assert!(matches!(done[0].outcome, Outcome::Transmitted { .. }), "{:?}", done[0].outcome);
}

#[test]
fn a_segment_that_others_were_merged_into_at_its_socket_keeps_its_own_length() {
    let mut events = packet(1, tcp("10.0.0.1", 1, "10.0.0.2", 2, 0x18))
        .see(What::DevReceive)
        .see(exit(Hook::Input))
        .see(socket())
        .events();
    events[2].len = 50_000;

    assert_eq!(journeys(events)[0].length, 84);
}

#[test]
fn a_forwarded_packet_is_transmitted() {
    let journey = one(ping()
        .see(enter(Hook::Output))
        .see(enter(Hook::Postrouting))
        .see(What::DevXmit)
        .see(What::DevReceive)
        .see(enter(Hook::Forward))
        .see(What::DevXmit)
        .see(consume()));
    assert_eq!(journey.outcome, Outcome::Transmitted { hop: 5 });
    assert_eq!([accepted(&journey, 0), accepted(&journey, 4)], [Some(true); 2]);
    assert!(journey.complete);
    assert_eq!(journey.leftover, None);
    assert_eq!((journey.length, journey.duration), (98, 6_000));
}

#[test]
fn input_left_and_consumed_is_delivered() {
    let journey = one(ping()
        .see(What::DevReceive)
        .see(enter(Hook::Input))
        .see(exit(Hook::Input))
        .see(consume()));
    assert_eq!(points(&journey), ["dev_receive", "nf_input", "consume"]);
    assert_eq!(journey.outcome, Outcome::Delivered { hop: 1 });
    assert!(matches!(
        journey.hops[1].detail,
        HopDetail::Netfilter { accepted: Some(true), spent: Some(500), hook, .. } if hook.passed == 9
    ));
}

#[test]
fn the_socket_is_where_it_was_delivered() {
    let journey =
        one(ping().see(enter(Hook::Input)).see(exit(Hook::Input)).see(socket()).see(consume()));
    assert_eq!(journey.outcome, Outcome::Delivered { hop: 1 });
    assert_eq!(journey.hops[1].point, Point::Socket);
}

#[test]
fn consumed_elsewhere_is_consumed() {
    let journey = one(packet(1, arp("10.0.0.1", "10.0.0.2", 1))
        .see(What::DevReceive)
        .see(What::TcIngress)
        .see(consume()));
    assert_eq!(journey.outcome, Outcome::Consumed { hop: 1 });
}

#[test]
fn a_drop_in_a_hook_is_about_that_hook() {
    let journey = one(ping()
        .see(enter(Hook::Prerouting))
        .see(route(3, 0, 1))
        .see(enter(Hook::Forward))
        .see(drop(12, Some(hook(Hook::Forward, 2)))));
    assert!(matches!(journey.outcome, Outcome::Dropped { hop: 2, in_hook: Some(_), .. }));
    assert_eq!((accepted(&journey, 0), accepted(&journey, 2)), (Some(true), Some(false)));
    assert!(
        matches!(journey.hops[2].detail, HopDetail::Netfilter { hook, .. } if hook.passed == 2)
    );
    assert_eq!(points(&journey).last(), Some(&"drop"));
}

#[test]
fn a_drop_in_a_hook_whose_entry_was_lost_makes_the_hop() {
    let mut events = ping()
        .see(What::DevReceive)
        .see(enter(Hook::Forward))
        .see(drop(12, Some(hook(Hook::Forward, 1))))
        .events();
    events.remove(1);
    let journey = journeys(events).remove(0);
    assert_eq!(points(&journey), ["dev_receive", "nf_forward", "drop"]);
    assert!(matches!(journey.outcome, Outcome::Dropped { hop: 1, .. }));
    assert!(!journey.complete);
}

#[test]
fn a_drop_elsewhere_is_about_the_hop_before() {
    let journey =
        one(ping().see(enter(Hook::Prerouting)).see(route(0, -101, 0)).see(drop(80, None)));
    assert!(matches!(journey.outcome, Outcome::Dropped { hop: 1, .. }));
    assert_eq!(accepted(&journey, 0), Some(true));
    let journey = one(ping().see(drop(80, None)));
    assert!(matches!(journey.outcome, Outcome::Dropped { hop: 0, .. }));
}

#[test]
fn a_clone_begins_with_where_it_came_from() {
    let journey = one(ping().cloned_from(5).see(What::DevXmit).see(consume()));
    assert_eq!(journey.hops[0].detail, HopDetail::Born { parent: PacketId(5) });
    assert_eq!(points(&journey), ["clone", "dev_xmit", "consume"]);
    assert_eq!(journey.outcome, Outcome::Transmitted { hop: 1 });
}

#[test]
fn nat_is_seen_at_the_exit_and_follows_its_hook() {
    let journey = one(packet(1, udp("10.0.0.2", 4000, "203.0.113.8", 53))
        .see(enter(Hook::Postrouting))
        .becomes(udp("198.51.100.10", 4001, "203.0.113.8", 53))
        .see(exit(Hook::Postrouting))
        .see(What::DevXmit)
        .see(consume()));
    assert_eq!(points(&journey), ["nf_postrouting", "nat", "dev_xmit", "consume"]);
    assert_eq!(
        journey.hops[1].detail,
        HopDetail::Nat {
            kind: NatKind::Snat,
            from: (ip("10.0.0.2"), 4000),
            to: (ip("198.51.100.10"), 4001)
        }
    );
    assert_eq!(
        journey.nat,
        Rewritten { src: Some(ip("198.51.100.10")), sport: Some(4001), dst: None, dport: None }
    );
    assert_eq!(journey.flow.src, ip("10.0.0.2"));
}

#[test]
fn nat_is_seen_later_when_the_exit_is_lost() {
    let journey = one(packet(1, udp("192.0.2.1", 4000, "198.51.100.10", 8080))
        .see(enter(Hook::Prerouting))
        .becomes(udp("192.0.2.1", 4000, "10.0.0.2", 80))
        .see(route(3, 0, 1))
        .see(What::DevXmit)
        .see(consume()));
    assert_eq!(points(&journey), ["nf_prerouting", "nat", "route", "dev_xmit", "consume"]);
    assert!(matches!(journey.hops[1].detail, HopDetail::Nat { kind: NatKind::Dnat, .. }));
    assert_eq!(journey.nat.dst, Some(ip("10.0.0.2")));
    assert_eq!(journey.nat.dport, Some(80));
}

#[test]
fn rewritten_and_dropped_in_one_hook_is_one_hook() {
    let journey = one(packet(1, udp("192.0.2.1", 4000, "198.51.100.10", 8080))
        .see(enter(Hook::Prerouting))
        .becomes(udp("192.0.2.1", 4000, "10.0.0.2", 80))
        .see(drop(12, Some(hook(Hook::Prerouting, 5)))));
    assert_eq!(points(&journey), ["nf_prerouting", "nat", "drop"]);
    assert_eq!(accepted(&journey, 0), Some(false));
    assert!(matches!(journey.outcome, Outcome::Dropped { hop: 0, .. }));
}

#[test]
fn no_room_is_no_reason_to_call_a_sent_packet_lost() {
    let limits = Limits { in_flight: 1, ..LIMITS };
    let mut assembler = Assembler::new(limits, ());
    let mut done = Vec::new();
    for (id, start) in [(1, 0), (2, 50 * MS), (3, 500 * MS)] {
        let sent = packet(id, udp("10.0.0.1", id as u16, "10.0.0.2", 2)).starting(start);
        for event in sent.see(What::DevXmit).events() {
            assembler.push(event, &mut done);
        }
    }
    assert!(matches!(done[0].outcome, Outcome::Lost { why: LostWhy::Evicted, .. }));
    assert!(matches!(done[1].outcome, Outcome::Transmitted { .. }));
}

#[test]
fn both_sides_rewritten_are_two_hops() {
    let journey = one(packet(1, udp("10.0.0.2", 1, "10.0.0.3", 2))
        .see(enter(Hook::Output))
        .becomes(udp("10.0.0.4", 1, "10.0.0.5", 2))
        .see(exit(Hook::Output)));
    assert_eq!(points(&journey), ["nf_output", "nat", "nat"]);
}

#[test]
fn the_identifier_of_an_echo_belongs_to_who_asked() {
    let journey = one(ping()
        .see(enter(Hook::Postrouting))
        .becomes(icmp("198.51.100.10", "203.0.113.8", 8, 9, 1))
        .see(exit(Hook::Postrouting)));
    assert_eq!((journey.nat.sport, journey.nat.dport), (Some(9), None));
    let journey = one(packet(2, icmp("203.0.113.8", "198.51.100.10", 0, 9, 1))
        .see(enter(Hook::Prerouting))
        .becomes(icmp("203.0.113.8", "10.0.0.2", 0, 7, 1))
        .see(exit(Hook::Prerouting)));
    assert_eq!((journey.nat.dst, journey.nat.dport), (Some(ip("10.0.0.2")), Some(7)));
    assert_eq!(journey.nat.sport, None);
}

#[test]
fn time_in_a_qdisc_is_by_handle() {
    let queue = |enqueue, handle| {
        let kind = "tbf".into();
        if enqueue {
            What::QdiscEnqueue { kind, handle }
        } else {
            What::QdiscDequeue { kind, handle }
        }
    };
    let journey = one(ping()
        .see(queue(true, 1))
        .see(queue(true, 2))
        .see(queue(false, 2))
        .see(queue(false, 1))
        .see(queue(false, 3)));
    let delays: Vec<_> = journey.hops[2..]
        .iter()
        .map(|hop| match hop.detail {
            HopDetail::Qdisc { delay, .. } => delay,
            _ => None,
        })
        .collect();
    assert_eq!(delays, [Some(1_000), Some(3_000), None]);
}

#[test]
fn silence_ends_a_journey_by_what_it_had_come_to() {
    let mut assembler = Assembler::new(LIMITS, ());
    let mut done = Vec::new();
    let all = [
        packet(1, udp("10.0.0.1", 1, "10.0.0.2", 2))
            .starting(0)
            .see(enter(Hook::Input))
            .see(exit(Hook::Input)),
        packet(2, udp("10.0.0.1", 2, "10.0.0.2", 2)).starting(0).see(What::DevXmit),
        packet(3, udp("10.0.0.1", 3, "10.0.0.2", 2)).starting(0).see(What::DevQueue),
    ];
    for event in all.into_iter().flat_map(Packet::events) {
        assembler.push(event, &mut done);
    }
    assembler.advance(100 * MS, &mut done);
    assert!(done.is_empty());
    assembler.advance(101 * MS, &mut done);
    assert!(matches!(done[..], [Journey { outcome: Outcome::Delivered { hop: 0 }, .. }]));
    assert!(done[0].leftover.is_some());
    assembler.advance(1_001 * MS, &mut done);
    assert!(matches!(done[1].outcome, Outcome::Transmitted { hop: 0 }));
    assert!(matches!(done[2].outcome, Outcome::Lost { hop: 0, why: LostWhy::Silent }));
    assert_eq!((assembler.in_flight(), done.len()), (0, 3));
}

#[test]
fn a_slow_reader_is_no_defect() {
    let mut assembler = Assembler::new(LIMITS, ());
    let mut done = Vec::new();
    let mut events = packet(1, udp("10.0.0.1", 1, "10.0.0.2", 2))
        .see(enter(Hook::Input))
        .see(exit(Hook::Input))
        .see(socket())
        .see(consume())
        .see(What::DevXmit)
        .events()
        .into_iter();
    for event in events.by_ref().take(2) {
        assembler.push(event, &mut done);
    }
    assembler.advance(10_000 * MS, &mut done);
    for event in events {
        assembler.push(event, &mut done);
    }
    assert_eq!(done.len(), 1);
    let counts = assembler.counts();
    assert_eq!((counts.received, counts.expected_late, counts.late), (5, 2, 1));
}

#[test]
fn an_end_waits_for_what_it_overtook() {
    let mut assembler = Assembler::new(LIMITS, ());
    let mut done = Vec::new();
    let events =
        ping().starting(0).see(What::DevReceive).see(What::TcIngress).see(drop(3, None)).events();
    assembler.push(events[2].clone(), &mut done);
    assembler.push(events[0].clone(), &mut done);
    assert!(done.is_empty());
    assembler.push(events[1].clone(), &mut done);
    assert_eq!(points(&done[0]), ["dev_receive", "tc_ingress", "drop"]);
    assert!(done[0].complete);

    let mut assembler = Assembler::new(LIMITS, ());
    assembler.push(events[0].clone(), &mut done);
    assembler.push(events[2].clone(), &mut done);
    assembler.advance(99 * MS, &mut done);
    assert_eq!(done.len(), 1);
    assembler.advance(101 * MS, &mut done);
    assert!(!done[1].complete);
    assert!(matches!(done[1].outcome, Outcome::Dropped { hop: 0, .. }));
}

#[test]
fn the_end_of_the_trace_ends_everything() {
    let all = journeys(
        [
            packet(1, udp("10.0.0.1", 1, "10.0.0.2", 2)).see(What::DevQueue),
            packet(2, udp("10.0.0.1", 2, "10.0.0.2", 2)).see(What::DevXmit),
            packet(3, udp("10.0.0.1", 3, "10.0.0.2", 2)).see(exit(Hook::Input)),
        ]
        .into_iter()
        .flat_map(Packet::events),
    );
    assert!(matches!(all[0].outcome, Outcome::Lost { why: LostWhy::TraceEnded, .. }));
    assert!(matches!(all[1].outcome, Outcome::Transmitted { .. }));
    assert!(matches!(all[2].outcome, Outcome::Delivered { .. }));
    assert_eq!(all.iter().map(|j| j.number).collect::<Vec<_>>(), [1, 2, 3]);
}

#[test]
fn memory_is_bounded() {
    let mut assembler = Assembler::new(LIMITS, ());
    let mut done = Vec::new();
    for n in 1..=1_000 {
        let headers = udp("10.0.0.1", n as u16, "10.0.0.2", 2);
        for event in packet(n, headers).see(What::DevQueue).events() {
            assembler.push(event, &mut done);
        }
        assert!(assembler.in_flight() <= LIMITS.in_flight);
    }
    assert_eq!(assembler.counts().evicted, 936);
    assert_eq!(assembler.counts().flows_evicted, 936);
    assert!(matches!(done[0].outcome, Outcome::Lost { why: LostWhy::Evicted, .. }));
    assert_eq!(done[0].id, PacketId(1));
}

#[test]
fn a_packet_that_goes_in_circles_is_ended() {
    let mut assembler = Assembler::new(LIMITS, ());
    let mut done = Vec::new();
    let circle = (0..10_000).fold(ping(), |packet, _| packet.see(What::DevXmit));
    for event in circle.events() {
        assembler.push(event, &mut done);
    }
    assert_eq!(done.len(), 1);
    assert!(done[0].hops.len() <= 4096);
}

struct Harmless(BenignEnd);

impl Benign for Harmless {
    fn end(&self, reason: Option<u32>, _: u64, _: &Headers, _: bool) -> Option<BenignEnd> {
        (reason == Some(3)).then_some(self.0)
    }
}

#[test]
fn a_drop_that_is_none_is_not_dropped() {
    let echo = || ping().see(enter(Hook::Input)).see(exit(Hook::Input)).see(drop(3, None));
    let journey = journeys_with(Harmless(BenignEnd::Delivered), echo().events()).remove(0);
    assert_eq!(journey.outcome, Outcome::Delivered { hop: 0 });
    assert_eq!(points(&journey), ["nf_input", "consume"]);
    assert!(matches!(journey.hops[1].detail, HopDetail::Drop { reason: Some(3), .. }));
    let journey = journeys_with(Harmless(BenignEnd::Consumed), echo().events()).remove(0);
    assert_eq!(journey.outcome, Outcome::Consumed { hop: 0 });
}

#[test]
fn a_harmless_end_alone_is_no_journey() {
    let mut assembler = Assembler::new(LIMITS, Harmless(BenignEnd::Consumed));
    let mut done = Vec::new();
    let all = [
        ping().see(drop(3, None)),
        packet(2, udp("10.0.0.1", 1, "10.0.0.2", 2)).cloned_from(1).see(consume()),
    ];
    for event in all.into_iter().flat_map(Packet::events) {
        assembler.push(event, &mut done);
    }
    assembler.finish(&mut done);
    assert!(done.is_empty());
    assert_eq!(assembler.counts().hidden, 2);
}

fn verdict_of(journey: &Journey, hop: usize) -> Option<Verdict> {
    match &journey.hops[hop].detail {
        HopDetail::Netfilter { decided, .. } => decided.as_ref().map(|decided| decided.verdict),
        other => panic!("{other:?}"),
    }
}

/// The hooks that a bridge ran for IP.
fn bridged(journey: &Journey) -> Vec<usize> {
    let is = |hop: &Hop| matches!(hop.detail, HopDetail::Netfilter { bridged: true, .. });
    (0..journey.hops.len()).filter(|&n| is(&journey.hops[n])).collect()
}

#[test]
fn hooks_of_ip_within_those_of_a_bridge_are_left_before_them() {
    let journey = one(ping()
        .see(What::DevReceive)
        .see(What::BridgeRx)
        .see(enter_of(Bridge, Hook::Prerouting))
        .see(enter(Hook::Prerouting))
        .see(conntrack(ConntrackState::New))
        .becomes(icmp("10.0.0.2", "10.0.0.9", 8, 7, 1))
        .see(exit(Hook::Prerouting))
        .see(route(3, 0, 1))
        .see(enter_of(Bridge, Hook::Prerouting))
        .see(What::BridgeForward)
        .see(enter_of(Bridge, Hook::Forward))
        .see(enter(Hook::Forward))
        .see(enter_of(Bridge, Hook::Forward))
        .see(drop(12, Some(InHook { family: Bridge, ..hook(Hook::Forward, 0) }))));
    assert_eq!(
        points(&journey),
        [
            "dev_receive",
            "bridge_rx",
            "nf_prerouting",
            "nf_prerouting",
            "conntrack",
            "nat",
            "route",
            "bridge_forward",
            "nf_forward",
            "nf_forward",
            "drop"
        ]
    );
    assert_eq!(bridged(&journey), [3, 9]);
    assert_eq!(
        [2, 3, 8, 9].map(|n| accepted(&journey, n)),
        [Some(true), Some(true), Some(false), Some(true)]
    );
    assert!(matches!(journey.outcome, Outcome::Dropped { hop: 8, .. }));
}

#[test]
fn a_drop_in_the_inner_hook_leaves_the_outer_undecided() {
    let journey = one(ping()
        .see(enter_of(Bridge, Hook::Forward))
        .see(enter(Hook::Forward))
        .see(decide(Ipv4, Hook::Forward, Verdict::Drop))
        .see(drop(12, Some(hook(Hook::Forward, 0)))));
    assert_eq!([accepted(&journey, 0), accepted(&journey, 1)], [None, Some(false)]);
    assert_eq!(verdict_of(&journey, 1), Some(Verdict::Drop));
    assert!(matches!(journey.outcome, Outcome::Dropped { hop: 1, .. }));
}

#[test]
fn a_hook_of_ip_behind_a_bridge_is_not_within_it() {
    // Not in the same hook, and passed up in between.
    let journey = one(ping()
        .see(What::BridgeRx)
        .see(enter_of(Bridge, Hook::Prerouting))
        .see(What::BridgeLocal)
        .see(enter_of(Bridge, Hook::Input))
        .see(exit_of(Bridge, Hook::Input))
        .see(What::DevReceive)
        .see(What::IpReceive)
        .see(enter(Hook::Prerouting))
        .see(enter(Hook::Input)));
    assert_eq!(bridged(&journey), [0_usize; 0]);
    assert_eq!(accepted(&journey, 1), Some(true));
    assert!(matches!(journey.outcome, Outcome::Lost { .. }), "a bridge delivers nothing");
    let sent = one(ping()
        .see(enter(Hook::Postrouting))
        .see(What::DevXmit)
        .see(What::BridgeXmit)
        .see(What::BridgeForward)
        .see(enter(Hook::Postrouting))
        .see(What::DevQueue)
        .see(What::DevXmit)
        .see(What::DevReceive)
        .see(enter(Hook::Prerouting)));
    assert_eq!(bridged(&sent), [4]);
}

#[test]
fn hooks_of_a_bridge_need_not_be_seen() {
    let journey = one(ping()
        .see(What::DevReceive)
        .see(What::BridgeRx)
        .see(enter(Hook::Prerouting))
        .see(What::BridgeForward)
        .see(enter(Hook::Forward))
        .see(enter(Hook::Postrouting))
        .see(What::DevQueue));
    assert_eq!(bridged(&journey), [2, 4, 5]);
    let arp = one(packet(1, arp("10.0.0.1", "10.0.0.2", 1))
        .see(enter_of(Bridge, Hook::Forward))
        .see(enter_of(Arp, Hook::Forward)));
    assert_eq!(bridged(&arp), [1]);
}

#[test]
fn a_hook_that_each_of_its_chains_enters_is_one_hook() {
    let journey = one(ping()
        .see(enter_of(Bridge, Hook::Prerouting))
        .see(enter_of(Bridge, Hook::Prerouting))
        .see(What::BridgeForward)
        .see(enter(Hook::Forward))
        .see(enter(Hook::Forward))
        .see(What::DevQueue));
    assert_eq!(points(&journey), ["nf_prerouting", "bridge_forward", "nf_forward", "dev_queue"]);
}

#[test]
fn connection_tracking_is_a_part_of_its_hook() {
    let journey = one(ping()
        .see(enter(Hook::Prerouting))
        .see(conntrack(ConntrackState::Invalid))
        .see(drop(12, Some(hook(Hook::Prerouting, 1)))));
    assert_eq!(points(&journey), ["nf_prerouting", "conntrack", "drop"]);
    assert_eq!(accepted(&journey, 0), Some(false));
    assert!(matches!(journey.outcome, Outcome::Dropped { hop: 0, .. }));
    // Also for an end outside of it.
    let journey = one(ping()
        .see(enter(Hook::Prerouting))
        .see(conntrack(ConntrackState::New))
        .see(drop(2, None)));
    assert!(matches!(journey.outcome, Outcome::Dropped { hop: 0, .. }));
}

#[test]
fn what_confirms_a_connection_decides_behind_the_hook() {
    let journey = one(ping()
        .see(enter(Hook::Input))
        .see(exit(Hook::Input))
        .see(decide(Ipv4, Hook::Input, Verdict::Drop))
        .see(drop(12, Some(hook(Hook::Input, 9)))));
    assert_eq!(points(&journey), ["nf_input", "drop"]);
    assert_eq!(accepted(&journey, 0), Some(false));
    assert!(matches!(journey.outcome, Outcome::Dropped { hop: 0, .. }));
}

#[test]
fn a_look_up_within_a_hook_does_not_part_it() {
    let journey = one(packet(1, udp("192.0.2.1", 4000, "198.51.100.10", 8080))
        .see(enter(Hook::Prerouting))
        .see(route(3, 0, 1))
        .becomes(udp("192.0.2.1", 4000, "10.0.0.2", 80))
        .see(exit(Hook::Prerouting)));
    assert_eq!(points(&journey), ["nf_prerouting", "route", "nat"]);
}

#[test]
fn who_dropped_it_in_a_hook_says_where_it_died() {
    let journey = one(ping()
        .see(What::DevReceive)
        .see(decide(Netdev, Hook::Ingress, Verdict::Drop))
        .see(drop(12, None)));
    assert_eq!(points(&journey), ["dev_receive", "nf_ingress", "drop"]);
    assert_eq!(accepted(&journey, 1), Some(false));
    assert!(matches!(
        journey.outcome,
        Outcome::Dropped { hop: 1, in_hook: Some(InHook { family: Netdev, .. }), .. }
    ));
}

#[test]
fn what_a_program_decides_follows_the_queue() {
    let queue =
        || ping().see(enter(Hook::Forward)).see(decide(Ipv4, Hook::Forward, Verdict::Queue));
    let let_on = one(queue().see(enter(Hook::Postrouting)).see(What::DevXmit));
    assert_eq!((accepted(&let_on, 0), verdict_of(&let_on, 0)), (Some(true), Some(Verdict::Queue)));
    let refused = one(queue().see(drop(2, None)));
    assert_eq!(accepted(&refused, 0), Some(false));
    assert!(matches!(refused.outcome, Outcome::Dropped { hop: 0, in_hook: Some(_), .. }));
    assert!(matches!(one(queue()).outcome, Outcome::Lost { hop: 0, .. }));
}

#[test]
fn what_a_hook_gave_to_somebody_else_is_not_lost() {
    let taken = one(ping()
        .see(enter(Hook::Forward))
        .see(conntrack(ConntrackState::New))
        .see(decide(Ipv4, Hook::Forward, Verdict::Stolen)));
    assert_eq!(taken.outcome, Outcome::Consumed { hop: 0 });
    // nft's fwd sends it on before it says so.
    let sent_on = one(ping()
        .see(What::DevReceive)
        .see(enter_of(Netdev, Hook::Ingress))
        .at(1, 7)
        .see(What::DevQueue)
        .see(What::DevXmit)
        .see(decide(Netdev, Hook::Ingress, Verdict::Stolen)));
    assert_eq!(points(&sent_on), ["dev_receive", "nf_ingress", "dev_queue", "dev_xmit"]);
    assert_eq!(verdict_of(&sent_on, 1), Some(Verdict::Stolen));
    assert_eq!(sent_on.outcome, Outcome::Transmitted { hop: 3 });
}

#[test]
fn a_rewrite_is_where_it_was_made_and_once() {
    let journey = one(packet(1, udp("10.0.0.2", 4000, "203.0.113.8", 53))
        .see(enter(Hook::Postrouting))
        .becomes(udp("198.51.100.10", 4001, "203.0.113.8", 53))
        .see(What::Nat)
        .see(exit(Hook::Postrouting))
        .see(What::DevXmit)
        .see(consume()));
    assert_eq!(points(&journey), ["nf_postrouting", "nat", "dev_xmit", "consume"]);
    assert_eq!(journey.hops[1].at, 1_000);
    assert_eq!(accepted(&journey, 0), Some(true));
    // What it was before is not known.
    let mut events = ping().see(What::DevQueue).see(What::Nat).events();
    events.remove(0);
    assert_eq!(points(&journeys(events)[0]), ["nat"]);
}

#[test]
fn a_reader_completes_the_socket_that_the_packet_was_queued_to() {
    let reader = HopDetail::Socket { pid: Some(42), comm: Some("nc".into()) };
    let input = || ping().see(enter(Hook::Input)).see(exit(Hook::Input)).see(queued());
    let journey = one(input().see(socket()).see(consume()));
    assert_eq!(points(&journey), ["nf_input", "socket", "consume"]);
    assert_eq!(journey.hops[1].detail, reader);
    assert_eq!(journey.outcome, Outcome::Delivered { hop: 1 });
    assert_eq!(one(input()).outcome, Outcome::Delivered { hop: 1 });
    assert!(matches!(one(input().see(drop(6, None))).outcome, Outcome::Dropped { hop: 1, .. }));
    // Likewise when the end of the packet tells who read it.
    struct Reads;
    impl Benign for Reads {
        fn end(&self, _: Option<u32>, _: u64, _: &Headers, _: bool) -> Option<BenignEnd> {
            None
        }
        fn is_read(&self, _: u64) -> bool {
            true
        }
    }
    let by = Box::new(Consumer { location: 7, pid: 42, comm: "nc".into() });
    let packet = input().see(What::Consume { by: Some(by) });
    let journey = journeys_with(Reads, packet.events()).remove(0);
    assert_eq!(points(&journey), ["nf_input", "socket", "consume"]);
    assert_eq!(journey.hops[1].detail, reader);
}

#[test]
fn one_neighbour_told_twice_is_one_hop() {
    let neigh = |state, lladdr| What::Neigh { state, lladdr };
    let journey = one(ping()
        .see(neigh(1, None))
        .see(neigh(4, None))
        .see(neigh(4, Some([2; 6])))
        .see(What::DevQueue)
        .see(neigh(4, Some([2; 6]))));
    assert_eq!(points(&journey), ["neigh", "neigh", "dev_queue", "neigh"]);
    assert_eq!(journey.hops[1].detail, HopDetail::Neigh { state: 4, lladdr: Some([2; 6]) });
}

#[test]
fn what_no_hook_of_the_stack_sees_is_delivered_by_the_stack() {
    let local = || ping().see(What::DevReceive).see(What::IpReceive).see(What::IpLocalDeliver);
    assert_eq!(one(local()).outcome, Outcome::Delivered { hop: 2 });
    assert_eq!(one(local().see(consume())).outcome, Outcome::Delivered { hop: 2 });
    assert_eq!(one(local().see(queued())).outcome, Outcome::Delivered { hop: 3 });
    let echo = journeys_with(Harmless(BenignEnd::Delivered), local().see(drop(3, None)).events());
    assert_eq!(echo[0].outcome, Outcome::Delivered { hop: 2 });
    assert!(matches!(one(local().see(drop(9, None))).outcome, Outcome::Dropped { hop: 2, .. }));
    let refused = local().see(enter(Hook::Input)).see(drop(12, Some(hook(Hook::Input, 1))));
    assert!(matches!(one(refused).outcome, Outcome::Dropped { hop: 3, .. }));
    // LOCAL_IN has it, and has not said yet what becomes of it.
    assert!(matches!(one(local().see(enter(Hook::Input))).outcome, Outcome::Lost { .. }));
    let seen_past = local().see(enter(Hook::Input)).see(consume());
    assert_eq!(one(seen_past).outcome, Outcome::Delivered { hop: 3 });
    // What the stack took out of a tunnel goes on.
    let tunnelled = local().see(What::DevReceive).see(What::IpReceive).see(What::IpForward);
    assert!(matches!(one(tunnelled).outcome, Outcome::Lost { .. }));
}

#[test]
fn where_no_hook_is_watched_a_look_up_tells_that_it_is_delivered() {
    const LOCAL: u8 = 2;
    let routed = |kind, error| ping().see(What::DevReceive).see(route(0, error, kind));
    assert_eq!(one(routed(LOCAL, 0)).outcome, Outcome::Delivered { hop: 1 });
    // Behind it the reverse path is looked up.
    assert_eq!(one(routed(LOCAL, 0).see(reverse_route())).outcome, Outcome::Delivered { hop: 1 });
    assert!(matches!(one(routed(1, 0)).outcome, Outcome::Lost { .. }));
    assert!(matches!(one(routed(LOCAL, -22)).outcome, Outcome::Lost { .. }));
    // Refused behind it, after all.
    let refused = one(routed(LOCAL, 0).see(drop(9, None)));
    assert!(matches!(refused.outcome, Outcome::Dropped { hop: 1, .. }));
    // Where hooks are watched LOCAL_IN would have been seen; a rule may have asked for the route.
    let asked = ping().see(enter(Hook::Prerouting)).see(route(0, 0, LOCAL));
    assert!(matches!(one(asked).outcome, Outcome::Lost { .. }));
    // Whose address is asked for is looked up, too.
    let request = packet(1, arp("10.0.0.1", "10.0.0.2", 1)).see(What::DevReceive);
    let request = one(request.see(route(0, 0, LOCAL)).see(consume()));
    assert_eq!(request.outcome, Outcome::Consumed { hop: 1 });
}

#[test]
fn after_a_loss_a_look_up_tells_nothing_of_what_followed() {
    let mut assembler = Assembler::new(LIMITS, ());
    let mut done = Vec::new();
    for event in ping().see(What::DevReceive).see(route(0, 0, 2)).events() {
        assembler.push(event, &mut done);
    }
    assembler.lost_events(50 * MS);
    assembler.advance(10_000 * MS, &mut done);
    assert!(matches!(done[0].outcome, Outcome::Lost { .. }));
    assert!(!done[0].complete);
}

#[test]
fn delivery_by_the_stack_is_known_as_soon_as_by_a_hook() {
    let whole = udp("10.0.0.1", 1, "10.0.0.2", 2);
    let later = Headers { later_fragment: true, ..whole };
    let first = Headers { more_fragments: true, ..whole };
    for told in [vec![What::IpLocalDeliver], vec![route(0, 0, 2), reverse_route()]] {
        let mut assembler = Assembler::new(LIMITS, ());
        let mut done = Vec::new();
        for (id, headers) in [(1, whole), (2, later), (3, first)] {
            let seen = packet(id, headers).starting(0);
            for event in told.iter().cloned().fold(seen, Packet::see).events() {
                assembler.push(event, &mut done);
            }
        }
        assembler.advance(101 * MS, &mut done);
        assert_eq!(done.iter().map(|journey| journey.id).collect::<Vec<_>>(), [PacketId(1)]);
    }
}

#[test]
fn children_begin_with_how_they_were_made() {
    for (origin, point) in [
        (Origin::Clone, "clone"),
        (Origin::Copy, "copy"),
        (Origin::Segment, "segment"),
        (Origin::Fragment, "fragment"),
    ] {
        let journey = one(ping().made_from(5, origin).see(What::DevXmit).see(consume()));
        assert_eq!(points(&journey), [point, "dev_xmit", "consume"]);
        assert_eq!(
            (journey.parent.map(|parent| parent.packet), journey.outcome),
            (Some(PacketId(5)), Outcome::Transmitted { hop: 1 })
        );
    }
}

#[test]
fn a_drivers_copy_goes_on_alone_and_its_drop_is_one() {
    struct CopiesOnly;
    impl Benign for CopiesOnly {
        fn end(&self, _: Option<u32>, _: u64, _: &Headers, clone: bool) -> Option<BenignEnd> {
            clone.then_some(BenignEnd::Consumed)
        }
    }
    let copy = |first| ping().made_from(5, Origin::Copy).see(first).see(drop(9, None)).events();
    let ended = |first| journeys_with(CopiesOnly, copy(first)).remove(0).outcome;
    assert!(matches!(ended(What::DevReceive), Outcome::Dropped { .. }));
    assert!(matches!(ended(What::DevQueue), Outcome::Consumed { .. }));
}

#[test]
fn a_packet_that_was_cut_is_done_with() {
    let ended = |origin, end: Option<What>| {
        let whole = packet(1, udp("10.0.0.1", 1, "10.0.0.2", 2)).see(What::DevQueue);
        let mut events = whole.events();
        let piece = packet(2, udp("10.0.0.1", 1, "10.0.0.2", 2)).made_from(1, origin);
        events.extend(piece.see(What::DevXmit).see(consume()).events());
        if let Some(end) = end {
            let whole = packet(1, udp("10.0.0.1", 1, "10.0.0.2", 2)).see(What::DevQueue).see(end);
            events.extend(whole.events().pop());
        }
        let mut all = journeys(events);
        all.sort_by_key(|journey| journey.id);
        all.remove(0)
    };
    let freed = || What::Drop { reason: None, location: 7, hook: None };
    for origin in [Origin::Segment, Origin::Fragment] {
        for end in [Some(consume()), Some(freed()), None] {
            assert_eq!(ended(origin, end).outcome, Outcome::Consumed { hop: 0 });
        }
        assert_eq!(points(&ended(origin, Some(freed()))), ["dev_queue", "consume"]);
        let refused = ended(origin, Some(drop(9, None)));
        assert!(matches!(refused.outcome, Outcome::Dropped { hop: 0, .. }));
    }
    assert!(matches!(ended(Origin::Clone, Some(freed())).outcome, Outcome::Dropped { .. }));
    assert!(matches!(ended(Origin::Copy, None).outcome, Outcome::Lost { .. }));
}

#[test]
fn copies_for_those_who_listen_to_all_are_no_journeys() {
    let mut assembler = Assembler::new(LIMITS, Harmless(BenignEnd::Consumed));
    let mut done = Vec::new();
    let datagram = |id| packet(id, udp("10.0.0.1", 1, "224.0.0.251", 5353));
    let all = [
        // tcpdump, and ping's raw socket.
        datagram(2).cloned_from(1).see(socket()).see(consume()),
        datagram(3).made_from(1, Origin::Copy).see(socket()),
        packet(4, icmp("10.0.0.1", "10.0.0.2", 0, 7, 1))
            .cloned_from(1)
            .see(queued())
            .see(socket())
            .see(drop(3, None)),
        // The second program that listens to a group; a copy that went on; and a refusal.
        datagram(5).cloned_from(1).see(queued()).see(socket()).see(consume()),
        datagram(6).cloned_from(1).see(What::BridgeForward).see(socket()),
        datagram(7).cloned_from(1).see(drop(9, None)),
        datagram(8).made_from(1, Origin::Segment).see(socket()).see(consume()),
    ];
    for event in all.into_iter().flat_map(Packet::events) {
        assembler.push(event, &mut done);
    }
    assembler.finish(&mut done);
    let mut shown: Vec<_> = done.iter().map(|journey| journey.id.0).collect();
    shown.sort();
    assert_eq!((shown, assembler.counts().hidden), (vec![5, 6, 7, 8], 3));
}

fn flow_of(packets: Vec<Packet>) -> Vec<(u64, Direction, Flow)> {
    let mut all = journeys(packets.into_iter().flat_map(|p| p.see(consume()).events()));
    all.sort_by_key(|journey| journey.id);
    all.iter().map(|j| (j.flow.id.0, j.direction, j.flow)).collect()
}

#[test]
fn a_reply_before_its_nat_is_undone_is_of_the_same_flow() {
    let flows = flow_of(vec![
        packet(1, tcp("10.0.0.2", 4000, "203.0.113.8", 80, SYN))
            .see(enter(Hook::Postrouting))
            .becomes(tcp("198.51.100.10", 4001, "203.0.113.8", 80, SYN))
            .see(exit(Hook::Postrouting)),
        packet(2, tcp("203.0.113.8", 80, "198.51.100.10", 4001, SYN_ACK))
            .see(enter(Hook::Prerouting))
            .becomes(tcp("203.0.113.8", 80, "10.0.0.2", 4000, SYN_ACK))
            .see(exit(Hook::Prerouting)),
        packet(3, tcp("10.0.0.2", 4000, "203.0.113.8", 80, ACK)).see(What::DevQueue),
        packet(4, tcp("203.0.113.8", 80, "10.0.0.2", 4000, ACK)).see(What::DevQueue),
    ]);
    let ids: Vec<_> = flows.iter().map(|(id, direction, _)| (*id, *direction)).collect();
    use Direction::{Original, Reply};
    assert_eq!(ids, [(1, Original), (1, Reply), (1, Original), (1, Reply)]);
    assert!(flows.iter().all(|(_, _, flow)| flow.src == ip("10.0.0.2") && flow.sport == 4000));
}

#[test]
fn a_published_port_is_one_flow() {
    let flows = flow_of(vec![
        packet(1, udp("192.0.2.1", 4000, "198.51.100.10", 8080))
            .see(enter(Hook::Prerouting))
            .becomes(udp("192.0.2.1", 4000, "10.0.0.2", 80))
            .see(exit(Hook::Prerouting)),
        packet(2, udp("10.0.0.2", 80, "192.0.2.1", 4000)).see(What::DevQueue),
    ]);
    assert_eq!((flows[1].0, flows[1].1), (1, Direction::Reply));
    assert_eq!((flows[1].2.dst, flows[1].2.dport), (ip("198.51.100.10"), 8080));
}

#[test]
fn an_answer_finds_its_question_when_its_nat_is_undone() {
    // The question's exit from POSTROUTING was lost, so the tuple it left with is not known.
    let flows = flow_of(vec![
        packet(1, udp("10.0.0.2", 4000, "203.0.113.8", 53)).see(enter(Hook::Postrouting)),
        packet(2, udp("203.0.113.8", 53, "198.51.100.10", 4001))
            .see(enter(Hook::Prerouting))
            .becomes(udp("203.0.113.8", 53, "10.0.0.2", 4000))
            .see(exit(Hook::Prerouting)),
    ]);
    assert_eq!((flows[1].0, flows[1].1), (flows[0].0, Direction::Reply));
}

#[test]
fn what_only_answers_tell_is_turned_round() {
    let flows = flow_of(vec![
        packet(1, icmp("203.0.113.8", "198.51.100.10", 0, 9, 1))
            .see(enter(Hook::Prerouting))
            .becomes(icmp("203.0.113.8", "10.0.0.2", 0, 7, 1))
            .see(exit(Hook::Prerouting)),
    ]);
    let (_, direction, flow) = flows[0];
    assert_eq!(direction, Direction::Reply);
    assert_eq!((flow.src, flow.dst, flow.sport), (ip("10.0.0.2"), ip("203.0.113.8"), 7));
}

#[test]
fn a_source_port_that_nat_uses_again_is_another_flow() {
    let query = |id, src| {
        packet(id, udp(src, 4000, "203.0.113.8", 53))
            .see(enter(Hook::Postrouting))
            .becomes(udp("198.51.100.10", 4000, "203.0.113.8", 53))
            .see(exit(Hook::Postrouting))
    };
    let answer =
        |id| packet(id, udp("203.0.113.8", 53, "198.51.100.10", 4000)).see(What::DevReceive);
    let flows = flow_of(vec![query(1, "10.0.0.2"), answer(2), query(3, "10.0.0.3"), answer(4)]);
    assert_eq!(flows.iter().map(|f| f.0).collect::<Vec<_>>(), [1, 1, 2, 2]);
}

#[test]
fn an_answer_belongs_to_the_flow_that_connection_tracking_knows() {
    let (world, behind) = ("203.0.113.8", "198.51.100.10");
    let sent = udp("10.0.0.2", 4000, world, 53);
    let rewritten = udp(behind, 4000, world, 53);
    let query = packet(1, sent)
        .see(enter(Hook::Postrouting))
        .becomes(rewritten)
        .see(exit(Hook::Postrouting));
    let answer = udp(world, 53, behind, 4000);
    let of = |id, original, back| {
        packet(id, answer)
            .see(enter(Hook::Prerouting))
            .see(tracked(original, answer, true))
            .becomes(back)
            .see(exit(Hook::Prerouting))
    };
    let other = udp("10.0.0.3", 4000, world, 53);
    let flows = flow_of(vec![
        query,
        of(2, sent, udp(world, 53, "10.0.0.2", 4000)),
        of(3, other, udp(world, 53, "10.0.0.3", 4000)),
        of(4, other, udp(world, 53, "10.0.0.3", 4000)),
        packet(5, other).see(enter(Hook::Output)),
        packet(6, sent).see(enter(Hook::Output)),
    ]);
    let told: Vec<_> = flows.iter().map(|(id, direction, _)| (*id, *direction)).collect();
    use Direction::{Original, Reply};
    assert_eq!(
        told,
        [(1, Original), (1, Reply), (2, Reply), (2, Reply), (2, Original), (1, Original)]
    );
    assert_eq!(flows[2].2.src, ip("10.0.0.3"));
}

#[test]
fn what_was_followed_by_mistake_is_no_journey() {
    let mut assembler = Assembler::new(LIMITS, ());
    let mut done = Vec::new();
    let answer = packet(1, udp("203.0.113.8", 53, "198.51.100.10", 4000))
        .see(What::DevReceive)
        .see(enter(Hook::Prerouting))
        .becomes(udp("203.0.113.8", 53, "10.0.0.3", 4000))
        .see(exit(Hook::Prerouting))
        .foreign();
    for event in answer.events() {
        assembler.push(event, &mut done);
    }
    assert!(assembler.nothing_kept());
    assembler.finish(&mut done);
    assert!(done.is_empty());
    assert_eq!(assembler.counts().hidden, 1);
}

#[test]
fn arp_and_echo_know_who_asked() {
    let flows = flow_of(vec![
        packet(1, arp("10.0.0.2", "10.0.0.1", 2)).see(What::DevReceive),
        packet(2, arp("10.0.0.1", "10.0.0.2", 1)).see(What::DevReceive),
        packet(3, arp("10.0.0.2", "10.0.0.1", 1)).see(What::DevReceive),
        packet(4, icmp("10.0.0.2", "10.0.0.1", 8, 7, 1)).see(What::DevReceive),
        packet(5, icmp("10.0.0.1", "10.0.0.2", 8, 7, 1)).see(What::DevReceive),
        packet(6, icmp("10.0.0.1", "10.0.0.2", 0, 7, 1)).see(What::DevReceive),
    ]);
    let ids: Vec<_> = flows.iter().map(|(id, direction, _)| (*id, *direction)).collect();
    use Direction::{Original, Reply};
    assert_eq!(
        ids,
        [(1, Reply), (1, Original), (2, Original), (3, Original), (4, Original), (3, Reply)]
    );
    assert_eq!((flows[0].2.family, flows[0].2.sport), (Family::Arp, 0));
}

#[test]
fn a_fragment_without_ports_is_not_nat() {
    let whole = udp("10.0.0.2", 4000, "10.0.0.3", 53);
    let later = Headers { later_fragment: true, sport: 0, dport: 0, ..whole };
    let journey = one(packet(1, whole).see(What::DevReceive).becomes(later).see(What::DevXmit));
    assert_eq!(points(&journey), ["dev_receive", "dev_xmit"]);
}

#[test]
fn the_last_fragment_becomes_the_packet_and_the_others_end_in_it() {
    let mut all = journeys(put_together(udp("10.0.0.2", 4000, "10.0.0.3", 53)));
    all.sort_by_key(|journey| journey.id);
    let [first, middle, whole] = &all[..] else { panic!("{all:#?}") };
    for part in [first, middle] {
        assert_eq!(part.outcome, Outcome::Consumed { hop: 1 });
        assert_eq!((part.whole, &part.fragments[..]), (Some(PacketId(3)), &[][..]));
    }
    assert_eq!(whole.outcome, Outcome::Delivered { hop: 3 });
    assert_eq!(whole.whole, None);
    assert_eq!(whole.fragments, [PacketId(1), PacketId(2)]);
    assert_eq!(points(whole), ["dev_receive", "nf_prerouting", "nf_input", "socket", "consume"]);
    for journey in &all {
        let Flow { id, sport, dport, .. } = journey.flow;
        assert_eq!((id, sport, dport), (FlowId(1), 4000, 53), "{journey:#?}");
    }
}

#[test]
fn fragments_end_in_their_packet_as_soon_as_it_is_seen() {
    let mut assembler = Assembler::new(LIMITS, ());
    let mut done = Vec::new();
    let events = put_together(udp("10.0.0.2", 4000, "10.0.0.3", 53));
    let last = events.last().unwrap().time;
    for event in events {
        assembler.push(event, &mut done);
    }
    assert_eq!(done.iter().map(|journey| journey.id.0).collect::<Vec<_>>(), [1, 3]);
    assembler.advance(last + 101 * MS, &mut done);
    assert_eq!(done.iter().map(|journey| journey.id.0).collect::<Vec<_>>(), [1, 3, 2]);
    assert!(assembler.nothing_kept());
}

#[test]
fn fragments_elsewhere_and_of_other_packets_do_not_end_in_it() {
    let whole = udp("10.0.0.2", 4000, "10.0.0.3", 53);
    let [_, middle, _] = cut(whole);
    let other = Headers { fragment_id: 10, ip_id: 10, ..middle };
    let mut events = packet(4, middle).at(7, 2).see(What::DevReceive).events();
    events.extend(packet(5, other).see(What::DevReceive).events());
    events.extend(put_together(whole));
    for journey in journeys(events).iter().filter(|journey| [4, 5].contains(&journey.id.0)) {
        assert!(matches!(journey.outcome, Outcome::Lost { .. }), "{journey:#?}");
        assert_eq!(journey.whole, None);
    }
}

#[test]
fn a_fragment_that_is_cut_from_the_packet_again_goes_on() {
    let whole = udp("10.0.0.2", 4000, "10.0.0.3", 53);
    let mut events = put_together(whole);
    let on = packet(2, cut(whole)[1]).starting(900_000).see(What::DevReceive);
    let on = on.see(enter(Hook::Prerouting)).see(What::DevXmit);
    events.extend(on.events().pop());
    let all = journeys(events);
    let journey = all.iter().find(|journey| journey.id.0 == 2).unwrap();
    assert_eq!((journey.whole, journey.outcome.clone()), (None, Outcome::Transmitted { hop: 2 }));
}

#[test]
fn fragments_of_an_answer_belong_to_the_question_whichever_comes_first() {
    let question = udp("10.0.0.2", 4000, "10.0.0.3", 53);
    let [first, middle, last] = cut(udp("10.0.0.3", 53, "10.0.0.2", 4000));
    for order in [[first, middle, last], [last, middle, first]] {
        let mut events = packet(1, question).see(What::DevReceive).see(consume()).events();
        for (id, headers) in (2..).zip(order) {
            events.extend(packet(id, headers).see(What::DevReceive).events());
        }
        for journey in journeys(events) {
            let Flow { id, src, sport, dport, .. } = journey.flow;
            let told = (id, src, sport, dport);
            assert_eq!(told, (FlowId(1), ip("10.0.0.2"), 4000, 53), "{journey:#?}");
            let asks = journey.id.0 == 1;
            let direction = if asks { Direction::Original } else { Direction::Reply };
            assert_eq!(journey.direction, direction, "{journey:#?}");
        }
    }
}

#[test]
fn a_later_fragment_of_a_ping_is_no_reply() {
    let [first, middle, _] = cut(icmp("10.0.0.2", "10.0.0.3", 8, 7, 1));
    let middle = Headers { l4_kind: 0, seq: 0, ..middle };
    let flows = flow_of(vec![
        packet(1, middle).see(What::DevReceive),
        packet(2, first).see(What::DevReceive),
    ]);
    assert_eq!(flows[0].1, Direction::Original);
    assert_eq!((flows[0].0, flows[1].1), (flows[1].0, Direction::Original));
}

#[test]
fn a_later_fragment_is_rewritten_once() {
    let [_, middle, _] = cut(udp("10.0.0.2", 4000, "10.0.0.3", 53));
    let behind = Headers { src: ip("198.51.100.1"), ..middle };
    let journey = one(packet(1, middle)
        .see(What::DevReceive)
        .becomes(behind)
        .see(What::DevQueue)
        .see(What::DevXmit));
    assert_eq!(points(&journey), ["dev_receive", "nat", "dev_queue", "dev_xmit"]);
}

#[test]
fn fragmented_packets_beyond_the_room_are_counted() {
    let mut assembler = Assembler::new(Limits { flows: 2, ..LIMITS }, ());
    let mut done = Vec::new();
    for id in 1..=3 {
        let [first, ..] = cut(udp("10.0.0.2", 4000, "10.0.0.3", 53));
        let first = Headers { fragment_id: id as u16, ..first };
        for event in packet(id, first).see(What::DevReceive).events() {
            assembler.push(event, &mut done);
        }
    }
    assert_eq!(assembler.counts().flows_evicted, 1);
}

#[test]
fn a_sighting_without_addresses_hides_no_nat() {
    let before = udp("10.0.0.2", 4000, "10.0.0.3", 53);
    let after = udp("10.0.0.9", 4000, "10.0.0.3", 53);
    let journey = one(packet(1, before)
        .see(enter(Hook::Postrouting))
        .becomes(Headers { family: Family::Other, ..udp("0.0.0.0", 0, "0.0.0.0", 0) })
        .see(What::TcEgress)
        .becomes(after)
        .see(What::DevXmit));
    assert_eq!(points(&journey), ["nf_postrouting", "tc_egress", "nat", "dev_xmit"]);
}

#[test]
fn a_recording_gives_back_its_events() {
    let events = ping()
        .see(What::DevReceive)
        .see(enter(Hook::Forward))
        .see(route(3, -101, 7))
        .see(socket())
        .see(drop(12, Some(hook(Hook::Forward, 2))))
        .events();
    let mut lines = Vec::new();
    for event in &events {
        crate::event::recording::write(&mut lines, event).unwrap();
    }
    assert_eq!(crate::event::recording::read(&lines[..]).unwrap(), events);
}

/// A packet of its own flow, at the skb address that all of them use.
fn any_packet(id: u64) -> impl Strategy<Value = Vec<Event>> {
    let middle = prop::collection::vec(0_u8..18, 0..12);
    (middle, any::<bool>(), any::<bool>(), 0_u64..50).prop_map(move |(middle, ends, nat, start)| {
        let port = 1_000 + id as u16;
        let mut packet =
            packet(id, tcp("10.0.0.2", port, "203.0.113.8", 80, SYN)).starting(start * 700);
        packet = packet.see(What::DevQueue);
        for step in middle {
            packet = match step {
                0 => packet.see(What::DevXmit),
                1 => packet.see(What::DevReceive).at(2, 7),
                2 => packet.see(enter(Hook::Forward)),
                3 => packet.see(enter(Hook::Input)).see(exit(Hook::Input)),
                4 => packet.see(route(3, 0, 1)),
                5 if nat => packet
                    .see(enter(Hook::Postrouting))
                    .becomes(tcp("198.51.100.10", port, "203.0.113.8", 80, SYN))
                    .see(exit(Hook::Postrouting)),
                6 => packet.see(What::QdiscEnqueue { kind: "fq".into(), handle: 1 }),
                7 => packet.see(What::BridgeRx).see(enter_of(Bridge, Hook::Forward)),
                8 => packet.see(enter(Hook::Prerouting)).see(conntrack(ConntrackState::New)),
                9 => packet.see(decide(Bridge, Hook::Forward, Verdict::Queue)),
                10 => packet.see(decide(Ipv4, Hook::Forward, Verdict::Stolen)),
                11 => packet.see(exit_of(Bridge, Hook::Input)),
                12 => packet.see(What::Nat),
                13 => packet.see(queued()),
                14 => packet.see(socket()),
                15 => packet.see(What::IpLocalDeliver),
                16 => packet.see(What::Neigh { state: 1, lladdr: None }),
                _ => packet.see(What::TcEgress),
            };
        }
        if ends { packet.see(drop(9, None)) } else { packet }.events()
    })
}

fn any_trace() -> impl Strategy<Value = Vec<Event>> {
    (1_u64..8).prop_flat_map(|n| (1..=n).map(any_packet).collect::<Vec<_>>()).prop_map(|packets| {
        let mut all: Vec<_> = packets.into_iter().flatten().collect();
        all.sort_by_key(|event| event.time);
        all
    })
}

/// Swaps events within a window, as several CPUs' buffers would deliver them.
fn shuffled(mut events: Vec<Event>, seeds: &[u8]) -> Vec<Event> {
    for (i, seed) in seeds.iter().enumerate() {
        let len = events.len();
        let (a, b) = (i % len, (i + usize::from(*seed) % 16) % len);
        events.swap(a, b);
    }
    events
}

/// What must not depend on the order of arrival: all but the numbers of journeys and flows.
fn by_packet(journeys: Vec<Journey>) -> BTreeMap<PacketId, String> {
    journeys
        .into_iter()
        .map(|mut journey| {
            journey.number = 0;
            journey.flow.id = FlowId(0);
            (journey.id, format!("{journey:?}"))
        })
        .collect()
}

#[test]
fn connection_tracking_tells_which_side_began_before_the_trace() {
    let asked = udp("203.0.113.8", 5000, "198.51.100.1", 8080);
    let answer = udp("10.0.0.2", 80, "203.0.113.8", 5000);
    let left = udp("198.51.100.1", 8080, "203.0.113.8", 5000);
    let first = packet(1, answer)
        .see(enter(Hook::Output))
        .see(enter(Hook::Prerouting))
        .see(tracked(asked, answer, true))
        .becomes(left)
        .see(exit(Hook::Postrouting))
        .see(What::DevXmit)
        .see(consume());
    let next = packet(2, asked).see(What::DevReceive).see(consume()).see(What::DevXmit);

    let done = journeys(first.events().into_iter().chain(next.events()));

    assert_eq!(done[0].direction, Direction::Reply);
    assert_eq!((done[0].flow.src, done[0].flow.sport), (ip("203.0.113.8"), 5000));
    assert_eq!((done[0].flow.dst, done[0].flow.dport), (ip("198.51.100.1"), 8080));
    assert_eq!(done[1].direction, Direction::Original);
    assert_eq!(done[1].flow.id, done[0].flow.id);
}

#[test]
fn a_packet_of_a_side_that_was_seen_to_begin_is_not_turned_round_by_connection_tracking() {
    let syn = tcp("10.0.0.2", 5000, "203.0.113.8", 80, SYN);
    let answer = tcp("203.0.113.8", 80, "10.0.0.2", 5000, ACK);
    let late = tracked(answer, tcp("10.0.0.2", 5000, "203.0.113.8", 80, ACK), true);
    let first = packet(1, syn).see(enter(Hook::Output)).see(late).see(What::DevXmit).see(consume());
    let back = packet(2, answer).see(What::DevReceive).see(consume()).see(What::DevXmit);

    let done = journeys(first.events().into_iter().chain(back.events()));

    assert_eq!(done[0].direction, Direction::Original);
    assert_eq!(done[1].direction, Direction::Reply);
    assert_eq!(done[1].flow.id, done[0].flow.id);
}

#[test]
fn an_answer_that_is_first_seen_at_the_nic_is_known_by_its_connection() {
    let question = udp("10.0.0.2", 5000, "203.0.113.8", 53);
    let at_nic = udp("203.0.113.8", 53, "198.51.100.1", 61000);
    let asked = packet(1, question).see(enter(Hook::Output)).see(What::DevXmit).see(consume());
    let answered = packet(2, at_nic)
        .see(What::DevReceive)
        .see(tracked(question, at_nic, true))
        .becomes(udp("203.0.113.8", 53, "10.0.0.2", 5000))
        .see(exit(Hook::Prerouting))
        .see(What::DevXmit)
        .see(consume());

    let done = journeys(asked.events().into_iter().chain(answered.events()));

    assert_eq!(done[1].flow, done[0].flow);
    assert_eq!(done[1].direction, Direction::Reply);
}

#[test]
fn a_packet_that_is_met_behind_a_rewrite_belongs_to_its_connection_from_before() {
    let asked = udp("10.0.0.3", 5000, "198.51.100.1", 8080);
    let answer = udp("10.0.0.2", 80, "10.0.0.1", 5000);
    let behind = udp("10.0.0.3", 5000, "10.0.0.2", 80);
    let met = packet(1, behind)
        .see(enter(Hook::Forward))
        .see(enter(Hook::Postrouting))
        .see(tracked(asked, answer, false))
        .becomes(udp("10.0.0.1", 5000, "10.0.0.2", 80))
        .see(exit(Hook::Postrouting))
        .see(What::DevXmit)
        .see(consume());
    let next = packet(2, asked).see(What::DevReceive).see(What::DevXmit).see(consume());

    let done = journeys(met.events().into_iter().chain(next.events()));

    assert_eq!((done[0].flow.dst, done[0].flow.dport), (ip("198.51.100.1"), 8080));
    assert_eq!(done[0].direction, Direction::Original);
    assert_eq!(done[1].flow, done[0].flow);
}

#[test]
fn an_icmp_error_belongs_to_the_flow_that_it_quotes() {
    let question = udp("10.0.0.2", 5000, "203.0.113.8", 53);
    let quoted = udp("198.51.100.1", 61000, "203.0.113.8", 53);
    let error = |to: &str| icmp("192.0.2.1", to, 3, 0, 0);
    let sent = packet(1, question)
        .see(enter(Hook::Output))
        .becomes(quoted)
        .see(exit(Hook::Postrouting))
        .see(What::DevXmit)
        .see(consume());
    let told = packet(2, error("198.51.100.1"))
        .see(What::DevReceive)
        .quoting(quoted)
        .becomes(error("10.0.0.2"))
        .see(exit(Hook::Prerouting))
        .see(exit(Hook::Input))
        .see(consume());
    // Of the same router to the same host, and of another flow.
    let other = packet(3, error("198.51.100.1"))
        .see(What::DevReceive)
        .quoting(udp("198.51.100.1", 61001, "203.0.113.8", 53))
        .see(consume())
        .see(What::DevXmit);

    let all = [sent.events(), told.events(), other.events()];
    let done = journeys(all.into_iter().flatten());

    assert_eq!(done[1].flow, done[0].flow);
    assert_eq!(done[1].direction, Direction::Reply);
    assert_ne!(done[2].flow.id, done[0].flow.id);
    assert_eq!((done[2].flow.proto, done[2].flow.sport), (17, 61001));
}

#[test]
fn a_copy_of_an_icmp_error_quotes_what_that_does() {
    let question = udp("10.0.0.2", 5000, "203.0.113.8", 53);
    let error = icmp("192.0.2.1", "10.0.0.2", 3, 0, 0);
    let sent = packet(1, question).see(enter(Hook::Output)).see(What::DevXmit).see(consume());
    let told = packet(2, error).see(What::DevReceive).quoting(question).events();
    let copy = packet(3, error).cloned_from(2).see(What::DevXmit).see(What::DevReceive);

    let done = journeys(sent.events().into_iter().chain(told).chain(copy.events()));

    assert_eq!(done.len(), 3);
    assert!(done.iter().all(|journey| journey.flow.id == done[0].flow.id), "{done:?}");
}

#[test]
fn a_reset_in_the_name_of_another_is_of_the_connection() {
    let ask = tcp("10.0.0.2", 5000, "10.0.0.3", 80, SYN);
    let sent = packet(1, ask).at(11, 2).see(enter(Hook::Output)).see(What::DevXmit).see(consume());
    let reset = tcp("10.0.0.2", 5000, "10.0.0.3", 80, 0x14);
    let reset =
        packet(2, reset).at(1, 2).see(enter(Hook::Output)).see(What::DevXmit).see(consume());

    let done = journeys(sent.events().into_iter().chain(reset.events()));

    assert_eq!(done[1].flow.id, done[0].flow.id);
}

#[test]
fn flows_of_two_namespaces_with_the_same_addresses_are_two() {
    let question = udp("10.0.0.2", 5000, "203.0.113.8", 53);
    let answer = udp("203.0.113.8", 53, "10.0.0.2", 5000);
    let asks = |id, netns| {
        packet(id, question).at(netns, 2).see(enter(Hook::Output)).see(What::DevXmit).see(consume())
    };
    let answers = |id, to| {
        let sent = packet(id, answer).at(9, 2).see(enter(Hook::Output)).see(What::DevXmit);
        sent.at(to, 2).see(What::DevReceive).see(exit(Hook::Input)).see(consume())
    };

    let all = [asks(1, 11), asks(2, 12), answers(3, 11), answers(4, 12), asks(5, 11), asks(6, 12)];
    let done = journeys(all.into_iter().flat_map(Packet::events));

    let ids: Vec<_> = done.iter().map(|journey| journey.flow.id.0).collect();
    assert_eq!(ids, [1, 2, 1, 2, 1, 2]);
    assert_eq!(done[3].direction, Direction::Reply);
}

proptest! {
    #[test]
    fn the_order_of_arrival_makes_no_difference(
        events in any_trace(),
        seeds in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let moved = shuffled(events.clone(), &seeds);
        prop_assert_eq!(by_packet(journeys(events)), by_packet(journeys(moved)));
    }

    #[test]
    fn duplicates_change_nothing(events in any_trace(), copies in prop::collection::vec(any::<prop::sample::Index>(), 0..20)) {
        let mut twice = events.clone();
        for index in copies {
            let at = index.index(twice.len());
            let copy = twice[at].clone();
            twice.insert(at, copy);
        }
        prop_assert_eq!(by_packet(journeys(events)), by_packet(journeys(twice)));
    }

    #[test]
    fn losses_are_told_and_join_nothing((events, kept) in any_trace().prop_flat_map(|events| {
        let n = events.len();
        (Just(events.clone()), subsequence(events, 0..=n))
    })) {
        let lost = |id| {
            let numbers: Vec<_> = kept.iter().filter(|e| e.id == id).map(|e| e.seq).collect();
            let last = numbers.iter().max().copied().unwrap_or(0);
            numbers.len() != usize::from(last) + 1
        };
        let all = journeys(kept.clone());
        for journey in &all {
            prop_assert_eq!(journey.complete, !lost(journey.id));
            let ports: Vec<_> = events.iter().filter(|e| e.id == journey.id).map(|e| e.headers.sport).collect();
            prop_assert!(ports.contains(&journey.headers.sport));
            prop_assert_eq!(journey.flow.sport, journey.headers.sport);
            let seen = kept.iter().filter(|e| e.id == journey.id).count();
            prop_assert!(journey.hops.len() <= seen * 3 + 1);
        }
        let mut ids: Vec<_> = all.iter().map(|journey| journey.id).collect();
        let mut expected: Vec<_> = kept.iter().map(|event| event.id).collect();
        for ids in [&mut ids, &mut expected] { ids.sort(); }
        expected.dedup();
        prop_assert_eq!(ids, expected);
    }

    #[test]
    fn nonsense_is_survived_and_forgotten(
        steps in prop::collection::vec((any_packet(1), any::<u16>(), 1_u64..90, any::<bool>(), 0_u64..4_000), 0..60),
    ) {
        let mut assembler = Assembler::new(LIMITS, ());
        let (mut done, mut now) = (Vec::new(), 0);
        for (events, seq, id, begin, pause) in steps {
            for (n, event) in events.into_iter().enumerate() {
                let seq = seq.wrapping_mul(n as u16 + 1);
                assembler.push(Event { id: PacketId(id), seq, begin, ..event }, &mut done);
                prop_assert!(assembler.in_flight() <= LIMITS.in_flight);
            }
            now += pause * MS;
            assembler.advance(now, &mut done);
        }
        assembler.finish(&mut done);
        prop_assert_eq!(assembler.in_flight(), 0);
        prop_assert!(assembler.nothing_kept());
        for journey in &done {
            prop_assert!(journey.outcome.hop() < journey.hops.len());
        }
    }

    #[test]
    fn whatever_the_clock_says_each_event_counts_once(
        events in any_trace(),
        clock in prop::collection::vec(0_u64..300, 0..40),
    ) {
        let mut assembler = Assembler::new(LIMITS, ());
        let mut done = Vec::new();
        let mut now = 0;
        let total = events.len() as u64;
        for (n, event) in events.into_iter().enumerate() {
            now += clock.get(n).copied().unwrap_or(0) * MS;
            assembler.push(event, &mut done);
            assembler.advance(now, &mut done);
        }
        assembler.finish(&mut done);
        let mut ids: Vec<_> = done.iter().map(|journey| journey.id).collect();
        ids.sort();
        ids.dedup();
        prop_assert_eq!(ids.len(), done.len());
        let counts = assembler.counts();
        prop_assert_eq!(counts.received, total);
        prop_assert_eq!(counts.duplicate, 0);
    }
}

#[test]
fn bytes_that_are_passed_on_as_they_are_are_kept_once() {
    let captured = |bytes: &[u8]| {
        let data = bytes::Bytes::copy_from_slice(bytes);
        Some(Box::new(Captured { link_header: true, length: 3, data }))
    };
    let mut events = packet(1, arp("10.0.0.1", "10.0.0.2", 1))
        .see(What::TcEgress)
        .see(What::TcIngress)
        .see(What::DevXmit)
        .see(consume())
        .events();
    for (event, bytes) in events.iter_mut().zip([b"abc", b"abc", b"abd"]) {
        event.bytes = captured(bytes);
    }

    let journey = journeys(events).pop().unwrap();

    let at = |hop: usize| &journey.hops[hop].bytes.as_ref().unwrap().data;
    assert_eq!(at(0).as_ptr(), at(1).as_ptr());
    assert_eq!((&at(1)[..], &at(2)[..]), (&b"abc"[..], &b"abd"[..]));
}
