//! Golden text and JSON of hand-made journeys, and the schema that they must fit.

use std::num::NonZeroU32;

use serde_json::Value;

use super::{
    record::{Events, LeftOut, LostEvents, MissingPoint, Record, Start, WatchedPoint},
    *,
};
use crate::{
    event::{
        ConntrackState, Event, Family, Headers, Hook, HookFamily, InHook, Origin, Place, Verdict,
        What,
    },
    explain::{
        BaseChain, Bracket, ContainerName, DeviceName, Evidence, KernelNames, Names, NetnsName,
        explain,
    },
    host::{containers::Process, snapshot::Snapshot, symbols::Function},
    journey::{Assembler, Chronicle, Journey, sample::*},
};

/// `c1` (1), the host (2), and a container with a hostile name (3).
struct Lab;

impl KernelNames for Lab {
    fn reason(&self, number: u32) -> Option<&str> {
        (number == 12).then_some("NETFILTER_DROP")
    }

    fn symbol(&self, _: u64) -> Option<Function<'_>> {
        Some(Function { name: "nf_hook_slow", offset: 0xbe, module: None })
    }
}

impl Names for Lab {
    fn netns(&self, inode: u32) -> NetnsName {
        let name = |text: &str| Some(text.to_owned());
        match inode {
            1 => NetnsName {
                name: name("netns-7"),
                container: name("lxd:c1"),
                label: name("c1"),
                ..NetnsName::default()
            },
            2 => NetnsName {
                name: name("host"),
                label: name("host"),
                own: true,
                ..NetnsName::default()
            },
            4 => NetnsName {
                process: Some(Process { pid: 7, comm: "ngi\x1b[31mnx".to_owned() }),
                label: name("ngi\x1b[31mnx[7]"),
                ..NetnsName::default()
            },
            _ => NetnsName {
                container: name("docker:ev\x1b[31mil"),
                label: name("ev\x1b[31mil"),
                ..NetnsName::default()
            },
        }
    }

    fn device(&self, place: Place) -> DeviceName {
        let name = match (place.netns, place.ifindex) {
            (_, 2) => "eth0",
            (2, 5) => "veth5",
            (2, 6) => "veth6",
            (2, 7) => "lxdbr0",
            _ => return DeviceName::default(),
        };
        let bridge = (name == "veth5").then(|| "lxdbr0".to_owned());
        let leads_to = (name == "veth5")
            .then(|| ContainerName { full: "lxd:c1".to_owned(), label: "c1".to_owned() });
        DeviceName { name: Some(name.to_owned()), bridge, leads_to }
    }
}

impl Evidence for Lab {
    fn bracket(&self, _: u32, _: InHook) -> Option<Bracket> {
        let chain = BaseChain {
            backend: "nftables".to_owned(),
            family: "inet".to_owned(),
            table: "lxd".to_owned(),
            chain: "fwd.lxdbr0".to_owned(),
            hook: "forward".to_owned(),
            priority: Some(0),
            policy_drops: Some(false),
        };
        Some(Bracket { after: Some(-1), before: Some(1), chains: vec![chain] })
    }

    fn sysctl(&self, _: u32, _: &str) -> Option<String> {
        None
    }
}

pub(super) fn record(events: Vec<Event>) -> record::Journey {
    build(&journeys(events).remove(0))
}

fn build(journey: &Journey) -> record::Journey {
    let clock = Clock { offset: 1_767_323_045_000_000_006 - 10_000 };
    Builder::new(&Lab, clock, true).journey(journey, explain(journey, &Lab).as_ref())
}

pub(crate) fn dropped() -> record::Journey {
    record(
        packet(1, icmp("10.0.100.252", "203.0.113.8", 8, 7, 1))
            .see(What::DevQueue)
            .see(What::TcEgress)
            .see(What::DevXmit)
            .at(2, 5)
            .see(What::DevReceive)
            .see(What::TcIngress)
            .at(2, 7)
            .see(What::DevReceive)
            .see(enter(Hook::Prerouting))
            .see(route(2, 0, 1))
            .see(What::HookEnter {
                hook: InHook { hook: Hook::Forward, family: HookFamily::Ipv4, passed: 0 },
                iif: 7,
                oif: 2,
            })
            .see(drop(12, Some(hook(Hook::Forward, 2))))
            .events(),
    )
}

pub(crate) fn translated() -> record::Journey {
    let queue = |enqueue: bool| {
        let (kind, handle) = ("fq_codel".into(), 0x8001_0000);
        if enqueue {
            What::QdiscEnqueue { kind, handle }
        } else {
            What::QdiscDequeue { kind, handle }
        }
    };
    record(
        packet(1, tcp("10.0.100.252", 4000, "203.0.113.8", 80, 0x02))
            .at(2, 7)
            .see(What::DevReceive)
            .see(What::Route {
                table: 254,
                gateway: None,
                oif: 7,
                kind: 1,
                error: 0,
                reverse: true,
            })
            .see(What::Route {
                table: 254,
                gateway: Some(ip("198.51.100.1")),
                oif: 2,
                kind: 1,
                error: 0,
                reverse: false,
            })
            .see(enter(Hook::Forward))
            .see(enter(Hook::Postrouting))
            .becomes(tcp("198.51.100.10", 4001, "203.0.113.8", 80, 0x02))
            .see(exit(Hook::Postrouting))
            .at(2, 2)
            .see(What::Neigh { state: 2, lladdr: Some([2, 0, 0, 0, 0, 1]) })
            .see(What::DevQueue)
            .see(queue(true))
            .see(queue(false))
            .see(What::DevXmit)
            .see(consume())
            .events(),
    )
}

/// Through a bridge with chains and br_netfilter to a neighbour, to a port nobody listens at.
pub(super) fn bridged() -> record::Journey {
    let bridge = |hook| enter_of(HookFamily::Bridge, hook);
    record(
        packet(1, udp("10.0.100.252", 4000, "10.0.100.253", 53))
            .at(2, 5)
            .see(What::DevReceive)
            .see(What::BridgeRx)
            .see(bridge(Hook::Prerouting))
            .see(enter(Hook::Prerouting))
            .see(conntrack(ConntrackState::New))
            .see(bridge(Hook::Prerouting))
            .see(What::BridgeFlood)
            .at(2, 6)
            .see(What::BridgeForward)
            .see(bridge(Hook::Forward))
            .see(What::DevQueue)
            .see(What::DevXmit)
            .at(1, 2)
            .see(What::DevReceive)
            .see(What::IpReceive)
            .see(enter(Hook::Prerouting))
            .see(What::Conntrack {
                state: ConntrackState::Untracked,
                status: None,
                mark: None,
                zone: None,
                connection: None,
            })
            .see(route(1, 0, 2))
            .see(What::IpLocalDeliver)
            .see(enter(Hook::Input))
            .see(exit(Hook::Input))
            .see(queued())
            .see(consume())
            .events(),
    )
}

/// A request that a bridge floods to two ports and to itself, the copies, and an answer cut into pieces.
fn branching() -> Vec<record::Journey> {
    let request = || arp("10.0.100.252", "10.0.100.253", 1);
    let flooded =
        packet(1, request()).at(2, 5).see(What::DevReceive).at(2, 7).see(What::DevReceive);
    let first = packet(2, request()).cloned_from(1).starting(10_100).at(2, 6).see(What::DevXmit);
    let second = packet(3, request()).cloned_from(1).starting(10_200).at(2, 8).see(What::DevXmit);
    let large = packet(4, tcp("10.0.0.1", 1, "10.0.0.2", 2, 0x10)).at(1, 2).see(What::DevQueue);
    let pieces = [5, 6, 7].map(|id| {
        let piece = packet(id, tcp("10.0.0.1", 1, "10.0.0.2", 2, 0x10)).at(1, 2);
        piece.made_from(4, Origin::Segment).starting(41_000 + id).see(What::DevXmit)
    });
    let [one, two, three] = pieces.map(|piece| piece.see(consume()).events());
    let events = [
        flooded.see(consume()).events(),
        first.at(1, 2).see(What::DevReceive).see(drop(12, None)).events(),
        second.events(),
        large.events(),
        [one, two, three].concat(),
    ];
    let mut assembler = Assembler::new(LIMITS, ());
    let (mut done, mut out) = (Vec::new(), Vec::new());
    events.into_iter().flatten().for_each(|event| assembler.push(event, &mut done));
    let mut chronicle = Chronicle::new(0, 1);
    done.drain(..).for_each(|journey| chronicle.push(journey));
    chronicle.release(20_000, &assembler, &mut out);
    assembler.finish(&mut done);
    done.into_iter().for_each(|journey| chronicle.push(journey));
    chronicle.finish(&assembler, &mut out);
    out.iter().map(build).collect()
}

fn text(hops: Hops, journey: &record::Journey) -> String {
    let mut text = Text::new(Vec::new(), hops, false);
    text.journey(journey).unwrap();
    String::from_utf8(text.into_inner()).unwrap()
}

fn json(journey: &record::Journey) -> Value {
    let mut json = Json::new(Vec::new());
    json.journey(journey).unwrap();
    let line = String::from_utf8(json.into_inner()).unwrap();
    assert_eq!(line.matches('\n').count(), 1);
    serde_json::from_str(&line).unwrap()
}

pub(crate) fn start() -> Start {
    Start {
        version: "0.1.0".to_owned(),
        kernel: "6.18.44".to_owned(),
        time: Clock::default().wall(6),
        points: vec![WatchedPoint { point: "drop".to_owned(), mechanism: "tp_btf".to_owned() }],
        missing: vec![MissingPoint { point: "socket".to_owned(), why: "no".to_owned() }],
        details: vec![],
        source: None,
    }
}

#[test]
fn a_dropped_packet_as_text() {
    assert_eq!(
        text(Hops::Main, &dropped()),
        "\
#1 icmp 10.0.100.252 → 203.0.113.8  echo request id 7 seq 1  98 bytes  flow 1 original
    +0 ns  c1:eth0          dev_xmit
  +3.0 µs  host:veth5 (c1)  dev_receive
  +5.0 µs  host:lxdbr0      dev_receive
  +6.0 µs  host:lxdbr0      nf_prerouting  accept
  +7.0 µs  host:lxdbr0      route          dev eth0 table main
  +8.0 µs  host:lxdbr0      nf_forward     drop
  ✗ dropped at host:lxdbr0 (nf_forward): NETFILTER_DROP in nf_hook_slow+0xbe
    by  inet lxd fwd.lxdbr0, forward priority 0
    why a rule of chain inet lxd fwd.lxdbr0 at forward in the host dropped it
    try nft -a list chain inet lxd fwd.lxdbr0

"
    );
}

#[test]
fn branches_stand_where_they_left() {
    let shown = branching();
    assert_eq!(
        text(Hops::Main, &shown[0]),
        "\
#1 arp 10.0.100.252 → 10.0.100.253  who has 10.0.100.253? tell 10.0.100.252  84 bytes  flow 1 original
    +0 ns  host:veth5 (c1)  dev_receive
           ├─ clone → host:veth6  ✗ dropped at c1:eth0
           ├─ clone → host:if8  still on its way
  +1.0 µs  host:lxdbr0      dev_receive
  ✓ consumed at host:lxdbr0 (dev_receive)

"
    );
    assert!(text(Hops::Main, &shown[1]).contains("\n    +0 ns  host:veth6  clone        of #1\n"));
}

#[test]
fn branches_that_went_the_same_way_are_one_line() {
    let shown = branching();
    let large = shown.iter().find(|journey| journey.branches.len() == 3).unwrap();
    let text = text(Hops::Main, large);
    let lines: Vec<_> = text.lines().skip(1).collect();
    assert_eq!(lines[0], "  +0 ns  c1:eth0  dev_queue");
    assert!(lines[1].starts_with("         └─ 3 segments"), "{text}");
    assert!(lines[1].ends_with(" → c1:eth0  ✓ transmitted at c1:eth0"), "{text}");
    assert_eq!(lines.len(), 4);
}

#[test]
fn branches_as_json() {
    let shown = branching();
    let parent = json(&shown[0]);
    let branch = &parent["branches"][0];
    assert_eq!((&branch["packet"], &branch["origin"]), (&"2".into(), &"clone".into()));
    assert_eq!((&branch["hop"], &branch["dev"]["name"]), (&0.into(), &"veth6".into()));
    assert_eq!(branch["outcome"]["kind"], "dropped");
    assert_eq!(branch["outcome"]["dev"]["name"], "eth0");
    assert_eq!(parent["branches"][1]["outcome"], Value::Null);
    assert!(parent.get("branches_left_out").is_none());
    let clone = json(&shown[1]);
    assert_eq!(
        (&clone["packet"]["parent"], &clone["packet"]["parent_journey"]),
        (&"1".into(), &1.into())
    );
    assert!(clone.get("branches").is_none());
}

#[test]
fn fragments_name_the_packet_that_they_are_put_together_to() {
    let events = put_together(udp("10.0.100.252", 4000, "10.0.100.1", 53));
    let mut all = journeys(events);
    all.sort_by_key(|journey| journey.id);
    let [first, _, whole] = &all.iter().map(build).collect::<Vec<_>>()[..] else { panic!() };
    assert_eq!(first.packet.whole.as_deref(), Some("3"));
    assert_eq!(whole.packet.fragments, ["1", "2"]);
    let told = text(Hops::Main, first);
    assert!(
        told.contains("(nf_prerouting): put together with other fragments to packet 3\n"),
        "{told}"
    );
    let told = text(Hops::Main, whole);
    assert!(told.contains("later fragment, IP id 1  put together to packet 3  84 bytes"), "{told}");
}

#[test]
fn a_translated_packet_as_text() {
    assert_eq!(
        text(Hops::Main, &translated()),
        "\
#1 tcp 10.0.100.252:4000 → 203.0.113.8:80  SYN seq 0  98 bytes  flow 1 original  snat 198.51.100.10:4001
    +0 ns  host:lxdbr0  dev_receive
  +2.0 µs  host:lxdbr0  route           via 198.51.100.1 dev eth0 table main
  +3.0 µs  host:lxdbr0  nf_forward      accept
  +4.0 µs  host:lxdbr0  nf_postrouting  accept in 500 ns, snat 10.0.100.252:4000 → 198.51.100.10:4001
  +6.0 µs  host:eth0    neigh           REACHABLE 02:00:00:00:00:01
  +7.0 µs  host:eth0    dev_xmit        fq_codel 8001: waited 1.0 µs
  ✓ transmitted at host:eth0 (dev_xmit)

"
    );
}

#[test]
fn every_hop_as_text() {
    assert_eq!(
        text(Hops::All, &translated()),
        "\
#1 tcp 10.0.100.252:4000 → 203.0.113.8:80  SYN seq 0  98 bytes  flow 1 original  snat 198.51.100.10:4001
     +0 ns  host:lxdbr0  dev_receive
   +1.0 µs  host:lxdbr0  route           dev lxdbr0 table main way back
   +2.0 µs  host:lxdbr0  route           via 198.51.100.1 dev eth0 table main
   +3.0 µs  host:lxdbr0  nf_forward      accept
   +4.0 µs  host:lxdbr0  nf_postrouting  accept in 500 ns
   +5.0 µs  host:lxdbr0  nat             snat 10.0.100.252:4000 → 198.51.100.10:4001
   +6.0 µs  host:eth0    neigh           REACHABLE 02:00:00:00:00:01
   +7.0 µs  host:eth0    dev_queue
   +8.0 µs  host:eth0    qdisc_enqueue   fq_codel 8001:
   +9.0 µs  host:eth0    qdisc_dequeue   fq_codel 8001: waited 1.0 µs
  +10.0 µs  host:eth0    dev_xmit
  +11.0 µs  host:eth0    consume
  ✓ transmitted at host:eth0 (dev_xmit)

"
    );
}

#[test]
fn a_bridge_is_one_line() {
    assert_eq!(
        text(Hops::Main, &bridged()),
        "\
#1 udp 10.0.100.252:4000 → 10.0.100.253:53  98 bytes  flow 1 original
     +0 ns  host:veth5 (c1)  dev_receive
   +2.0 µs  host:veth5 (c1)  nf_prerouting   bridge accept
   +3.0 µs  host:veth5 (c1)  nf_prerouting   bridged accept, ct new mark 0x5
   +7.0 µs  host:veth6       bridge_forward  flooded
   +8.0 µs  host:veth6       nf_forward      bridge accept
   +9.0 µs  host:veth6       dev_xmit
  +11.0 µs  c1:eth0          dev_receive
  +13.0 µs  c1:eth0          nf_prerouting   accept, ct untracked
  +15.0 µs  c1:eth0          route           dev 1 local table main
  +17.0 µs  c1:eth0          nf_input        accept in 500 ns
  ✓ delivered at c1:eth0 (socket)

"
    );
    let all = text(Hops::All, &bridged());
    assert!(
        all.contains("  new seen_reply,assured,confirmed,src_nat_done,dst_nat_done mark 0x5\n"),
        "{all}"
    );
    for point in ["bridge_rx", "bridge_flood", "ip_receive", "ip_local_deliver", "socket"] {
        assert!(all.contains(point), "{all}");
    }
}

#[test]
fn a_step_of_ip_has_a_line_where_it_was_the_last() {
    let ended = |what| {
        let packet = packet(1, udp("10.0.0.1", 1, "10.0.0.2", 2)).see(What::DevReceive);
        text(Hops::Main, &record(packet.see(What::IpReceive).see(what).see(drop(1, None)).events()))
    };
    let forward = ended(What::IpForward);
    assert!(forward.contains("ip_forward\n  ✗ dropped at c1:eth0 (ip_forward)"), "{forward}");
    assert!(!forward.contains("ip_receive"), "{forward}");
}

#[test]
fn what_became_of_it_in_a_hook_is_one_word() {
    let verdict = |packet: Packet| {
        json(&record(packet.see(What::DevQueue).events()))["hops"][0]["detail"]["verdict"].clone()
    };
    let entered = || packet(1, udp("10.0.0.1", 1, "10.0.0.2", 2)).see(enter(Hook::Forward));
    let decided = |verdict| entered().see(decide(HookFamily::Ipv4, Hook::Forward, verdict));
    assert_eq!(verdict(entered()), "accept");
    assert_eq!(verdict(decided(Verdict::Queue)), "queue");
    assert_eq!(verdict(decided(Verdict::Stolen)), "stolen");
    let last = json(&record(decided(Verdict::Drop).events()));
    assert_eq!(last["hops"][0]["detail"]["verdict"], "drop");
    let unknown = json(&record(entered().events()));
    assert_eq!(unknown["hops"][0]["detail"], serde_json::json!({"family": "ip"}));
}

#[test]
fn a_bridged_packet_as_json() {
    let json = json(&bridged());
    let detail = |hop: usize| json["hops"][hop]["detail"].clone();
    assert_eq!(detail(2), serde_json::json!({"family": "bridge", "verdict": "accept"}));
    assert_eq!(
        detail(3),
        serde_json::json!({"family": "ip", "verdict": "accept", "bridged": true})
    );
    assert_eq!(
        detail(4),
        serde_json::json!({
            "state": "new", "mark": 5,
            "status": ["seen_reply", "assured", "confirmed", "src_nat_done", "dst_nat_done"],
        })
    );
    assert_eq!(json["hops"][6]["layer"], "bridge");
}

#[test]
fn a_dropped_packet_as_json() {
    let json = json(&dropped());
    assert_eq!(json["type"], "journey");
    assert_eq!(json["time"], "2026-01-02T03:04:05.000000006Z");
    assert_eq!(json["flow"]["icmp_id"], 7);
    assert_eq!(json["flow"]["sport"], Value::Null);
    assert_eq!(
        json["nat"],
        serde_json::json!({"src": null, "sport": null, "dst": null, "dport": null})
    );
    assert_eq!(
        json["hops"][0]["netns"],
        serde_json::json!({"inode": 1, "name": "netns-7", "container": "lxd:c1", "label": "c1"})
    );
    assert_eq!(
        json["hops"][3]["dev"],
        serde_json::json!({"ifindex": 5, "name": "veth5", "bridge": "lxdbr0", "container": "lxd:c1", "leads_to": "c1"})
    );
    assert_eq!(
        json["hops"][8]["detail"],
        serde_json::json!({"family": "ip", "verdict": "drop", "iif": "lxdbr0", "oif": "eth0", "priority": {"after": -1, "before": 1}})
    );
    let outcome = &json["outcome"];
    assert_eq!((&outcome["kind"], &outcome["hop"]), (&"dropped".into(), &8.into()));
    assert_eq!(outcome["location"], "nf_hook_slow+0xbe");
    assert_eq!(
        outcome["rule"],
        serde_json::json!({"backend": "nftables", "family": "inet", "table": "lxd", "chain": "fwd.lxdbr0",
            "hook": "forward", "priority": 0, "handle": null, "policy": false, "text": null})
    );
    assert_eq!(
        json["hops"][9]["detail"],
        serde_json::json!({"reason": "NETFILTER_DROP", "location": "nf_hook_slow+0xbe"})
    );
}

#[test]
fn a_translated_packet_as_json() {
    let json = json(&translated());
    assert_eq!(json["nat"]["src"], "198.51.100.10");
    assert_eq!(json["nat"]["sport"], 4001);
    let detail = |point: &str| {
        let hops = json["hops"].as_array().unwrap();
        hops.iter().rev().find(|hop| hop["point"] == point).unwrap()["detail"].clone()
    };
    assert_eq!(
        detail("nat"),
        serde_json::json!({"from": "10.0.100.252:4000", "to": "198.51.100.10:4001", "kind": "snat"})
    );
    assert_eq!(
        detail("route"),
        serde_json::json!({"table": "main", "gateway": "198.51.100.1", "oif": "eth0", "type": "unicast"})
    );
    assert_eq!(
        detail("neigh"),
        serde_json::json!({"state": "REACHABLE", "lladdr": "02:00:00:00:00:01"})
    );
    assert_eq!(
        detail("qdisc_dequeue"),
        serde_json::json!({"kind": "fq_codel", "handle": "8001:", "delay_ns": 1000})
    );
    assert_eq!(json["outcome"], serde_json::json!({"kind": "transmitted", "hop": 10}));
}

#[test]
fn every_line_fits_the_schema() {
    let validator = jsonschema::validator_for(&schema()).unwrap();
    let mut tally = Tally::default();
    let records = [
        dropped(),
        translated(),
        bridged(),
        record(
            packet(1, udp("10.0.0.1", 1, "10.0.0.2", 2))
                .made_from(7, Origin::Segment)
                .see(What::DevReceive)
                .see(decide(HookFamily::Netdev, Hook::Ingress, Verdict::Queue))
                .events(),
        ),
        record(packet(1, arp("10.0.0.1", "10.0.0.2", 1)).see(What::DevReceive).events()),
        branching().remove(0),
        branching().remove(1),
    ];
    let mut out = Json::new(Vec::new());
    out.start(&start()).unwrap();
    for journey in &records {
        tally.add(&journey.outcome);
        out.journey(journey).unwrap();
    }
    let passed = packet(1, udp("10.0.100.252", 4000, "203.0.113.8", 53));
    let passed = passed.at(2, 5).see(What::DevReceive).see(route(2, 0, 1)).events();
    journeys(passed).iter().for_each(|journey| tally.time(journey, &Lab));
    out.summary(&tally.summary(5, Events::default())).unwrap();
    let lines = String::from_utf8(out.into_inner()).unwrap();
    assert_eq!(lines.lines().count(), 9);
    for line in lines.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let errors: Vec<_> = validator.iter_errors(&line).map(|e| e.to_string()).collect();
        assert!(errors.is_empty(), "{errors:?} in {line}");
    }
    let summary: Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
    assert_eq!(summary["latency"]["flows"][0]["segments"]["bridge_to_route"]["count"], 1);
    assert!(!validator.is_valid(&serde_json::json!({"type": "journey"})));
}

#[test]
fn a_line_is_what_the_record_is() {
    let journey = dropped();
    let record = serde_json::to_value(Record::Journey(Box::new(journey.clone()))).unwrap();
    assert_eq!(json(&journey), record);
}

#[test]
fn hostile_names_do_not_reach_the_terminal() {
    let headers = Headers { family: Family::Other, ..udp("0.0.0.0", 0, "0.0.0.0", 0) };
    let socket =
        What::Socket { pid: NonZeroU32::new(1), comm: Some("a\x1b]0;x\x07\u{202e}".into()) };
    let journey = record(packet(1, headers).at(3, 9).see(socket).see(consume()).events());
    for hops in [Hops::All, Hops::Main] {
        let text = text(hops, &journey);
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
        assert!(!text.contains('\u{202e}'));
        assert!(text.contains("ev\\u{1b}[31mil:if9"), "{text}");
    }
}

#[test]
fn the_rule_behind_a_lookup_is_shown_beside_its_table() {
    let mut journey = translated();
    let route = journey.hops.iter_mut().rfind(|hop| hop.point == "route").unwrap();
    let rule = serde_json::json!({ "priority": 100, "text": "from all iif a\u{1b}b lookup dsl" });
    route.detail.put("rule", rule);
    let text = text(Hops::Main, &journey);
    let expected = "table main by rule 100: from all iif a\\u{1b}b lookup dsl";
    assert!(text.contains(expected), "{text}");
}

#[test]
fn colour_only_adds() {
    let journey = dropped();
    let mut out = Text::new(Vec::new(), Hops::Main, true);
    out.journey(&journey).unwrap();
    let coloured = String::from_utf8(out.into_inner()).unwrap();
    assert!(coloured.contains("\u{1b}["));
    assert_eq!(anstream::adapter::strip_str(&coloured).to_string(), text(Hops::Main, &journey));
}

#[test]
fn the_summary_counts_and_tells_losses() {
    let mut tally = Tally::default();
    for journey in [dropped(), dropped(), translated()] {
        tally.add(&journey.outcome);
    }
    let lost = LostEvents { ring_full: 3, ..LostEvents::default() };
    let summary = tally.summary(5_000_000_000, Events { received: 40, lost, ..Events::default() });
    let mut out = Text::new(Vec::new(), Hops::Main, false);
    out.summary(&summary).unwrap();
    assert_eq!(
        String::from_utf8(out.into_inner()).unwrap(),
        "\
3 journeys in 5.0 s: 1 transmitted, 0 delivered, 2 dropped, 0 consumed, 0 lost
         2 × NETFILTER_DROP  inet lxd fwd.lxdbr0
  40 events received
  3 events lost: the ring buffer was full
"
    );
}

#[test]
fn the_summary_tells_what_was_left_out() {
    let left_out = LeftOut { packets: 19, events: 812, one_of: 64, bytes: 70_000 };
    let summary = Tally::default().summary(5, Events { left_out, ..Events::default() });
    let mut out = Text::new(Vec::new(), Hops::Main, false);
    out.summary(&summary).unwrap();
    let text = String::from_utf8(out.into_inner()).unwrap();
    assert!(
        text.ends_with(
            "  812 events left out: more than may be (--max-events, --max-cpu)
  19 packets not told, none of them dropped: 1 of 64 was, at the least
  70000 captured bytes cut off packets: too many waited to be written
"
        ),
        "{text}"
    );
}

#[test]
fn a_journey_that_lacks_hops_on_purpose_says_so() {
    let journey = record::Journey { thinned: true, ..dropped() };
    assert!(text(Hops::Main, &journey).contains("thinned: hops are left out"), "{journey:?}");
}

#[test]
fn the_summary_tells_how_long_packets_took_when_it_is_asked_to() {
    let mut tally = Tally::default();
    let passed = packet(1, udp("10.0.100.252", 4000, "203.0.113.8", 53));
    let passed = passed.at(2, 5).see(What::DevReceive).see(route(2, 0, 1)).at(2, 2);
    journeys(passed.see(What::DevXmit).events())
        .iter()
        .for_each(|journey| tally.time(journey, &Lab));
    let mut out = Text::new(Vec::new(), Hops::Main, false).with_latency(true);
    out.summary(&tally.summary(5, Events::default())).unwrap();
    let text = String::from_utf8(out.into_inner()).unwrap();
    assert_eq!(
        text.split_once("\n\n").unwrap().1,
        "\
latency                     count        p50        p90        p99        max
  bridge → route                1     1.0 µs     1.0 µs     1.0 µs     1.0 µs
  route → nic                   1     1.0 µs     1.0 µs     1.0 µs     1.0 µs
  whole way                     1     2.0 µs     2.0 µs     2.0 µs     2.0 µs
flow 1 udp 10.0.100.252:4000 → 203.0.113.8:53
  bridge → route                1     1.0 µs     1.0 µs     1.0 µs     1.0 µs
  route → nic                   1     1.0 µs     1.0 µs     1.0 µs     1.0 µs
  whole way                     1     2.0 µs     2.0 µs     2.0 µs     2.0 µs
"
    );
}

#[test]
fn a_reader_that_left_is_no_failure() {
    struct Gone;
    impl io::Write for Gone {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    assert!(matches!(Json::new(Gone).journey(&dropped()), Err(SinkError::Closed)));
    assert!(matches!(
        Text::new(Gone, Hops::All, false).journey(&dropped()),
        Err(SinkError::Closed)
    ));
}

/// A container with a hostile name, a namespace without processes, and the host.
fn inhabited() -> Snapshot {
    let link = |ifindex: u32, name: &str, kind: &str, more: Value| {
        let mut link = serde_json::json!({
            "ifindex": ifindex, "name": name, "kind": kind, "up": true, "mtu": 1500, "arp_type": 1,
        });
        if let (Some(link), Value::Object(more)) = (link.as_object_mut(), more) {
            link.extend(more);
        }
        link
    };
    let peer = |netns: u32, ifindex: u32| serde_json::json!({"ifindex": ifindex, "nsid": 0, "netns": netns});
    let snapshot = serde_json::json!({
        "own": 1,
        "namespaces": {
            "1": {"name": "host", "uplinks": [2], "links": {
                "2": link(2, "eth0", "", serde_json::json!({"addresses": ["198.51.100.1/24"]})),
                "3": link(3, "br0", "bridge", Value::Null),
                "4": link(4, "veth4", "veth", serde_json::json!({"master": 3, "peer": peer(7, 2)})),
                "5": link(5, "vlan5", "vlan", serde_json::json!({"peer": {"ifindex": 2, "netns": 1}})),
                "6": link(6, "veth6", "veth", serde_json::json!({"peer": {"ifindex": 2, "nsid": 9}})),
            }},
            "7": {"links": {"2": link(2, "eth0", "veth",
                serde_json::json!({"peer": peer(1, 4), "addresses": ["10.0.0.7/24", "fd00::7/64"]}))}},
            "8": {"name": "left", "links": {}},
        },
        "containers": {"list": [{
            "runtime": "docker", "name": "ev\u{1b}[31mil", "told": "api", "running": true, "pid": 70,
            "netns": 7, "published": [{"proto": "tcp", "host_port": 8080, "container_port": 80}],
        }, {
            "runtime": "incus", "name": "off", "told": "api", "running": false,
        }]},
    });
    let mut snapshot: Snapshot = serde_json::from_value(snapshot).unwrap();
    snapshot.know(snapshot.containers.clone());
    snapshot
}

#[test]
fn containers_are_listed_in_columns() {
    assert_eq!(
        containers::text(&containers::list(&inhabited())),
        "\
RUNTIME  NAME            NETNS  PROCESS  INTERFACE  LEADS TO                    BRIDGE  ADDRESSES
docker   ev\\u{1b}[31mil  7      70       eth0       veth4                       br0     10.0.0.7/24, fd00::7/64 (8080→80/tcp)
-        left            8      none
-        host            1      -        eth0       -                           -       198.51.100.1/24
                                         br0        -                           -
                                         veth4      docker:ev\\u{1b}[31mil:eth0  br0
                                         vlan5      on eth0                     -
                                         veth6      unreachable                 -
"
    );
}

#[test]
fn containers_as_json_fit_the_schema_and_keep_their_names() {
    let listed = containers::list(&inhabited());
    let json = containers::json(&listed).unwrap();
    let lines: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["type"], "container");
    assert_eq!(lines[0]["name"], "ev\u{1b}[31mil");
    assert_eq!(lines[0]["interfaces"][0]["peer"]["name"], "veth4");
    assert_eq!(lines[1]["orphaned"], true);
    let schema = jsonschema::validator_for(&schema()).unwrap();
    for line in lines {
        assert!(schema.is_valid(&line), "{line}");
    }
}

#[test]
fn records_that_are_read_back_are_the_same() {
    for journey in [dropped(), translated()] {
        let written = serde_json::to_string(&journey).unwrap();
        let read: record::Journey = serde_json::from_str(&written).unwrap();

        assert_eq!(serde_json::to_string(&read).unwrap(), written);
        assert_eq!(text(Hops::All, &read), text(Hops::All, &journey));
    }
}
