//! What is said of drops, by hand-made journeys and evidence.

use super::*;
use crate::{
    event::{Headers, Hook, InHook, What},
    host::symbols::Function,
    journey::{Benign, BenignEnd, sample::*},
};

/// A host where everything asked for is known.
#[derive(Default)]
struct Host {
    reason: &'static str,
    function: &'static str,
    netns: NetnsName,
    chains: Vec<BaseChain>,
    sysctl: Option<&'static str>,
}

impl KernelNames for Host {
    fn reason(&self, _: u32) -> Option<&str> {
        Some(self.reason)
    }

    fn symbol(&self, _: u64) -> Option<Function<'_>> {
        Some(Function { name: self.function, offset: 0xbe, module: None })
    }
}

impl Names for Host {
    fn netns(&self, _: u32) -> NetnsName {
        self.netns.clone()
    }

    fn device(&self, place: Place) -> DeviceName {
        DeviceName { name: Some(format!("eth{}", place.ifindex)), bridge: None }
    }
}

impl Evidence for Host {
    fn bracket(&self, _: u32, _: InHook) -> Option<Bracket> {
        Some(Bracket { after: Some(-1), before: Some(1), chains: self.chains.clone() })
    }

    fn sysctl(&self, _: u32, _: &str) -> Option<String> {
        self.sysctl.map(str::to_owned)
    }
}

fn host(reason: &'static str, function: &'static str) -> Host {
    let netns = NetnsName { name: Some("c1".to_owned()), ..NetnsName::default() };
    Host { reason, function, netns, ..Host::default() }
}

fn chain(table: &str, policy_drops: Option<bool>) -> BaseChain {
    BaseChain {
        backend: "nftables".to_owned(),
        family: "inet".to_owned(),
        table: table.to_owned(),
        chain: "forward".to_owned(),
        hook: "forward".to_owned(),
        priority: Some(0),
        policy_drops,
    }
}

fn explained(host: &Host, packet: Packet) -> Explanation {
    let journey = journeys(packet.events()).remove(0);
    explain(&journey, host).unwrap()
}

fn query() -> Packet {
    packet(1, udp("10.0.0.2", 4000, "203.0.113.8", 53)).see(What::DevReceive)
}

fn in_forward() -> Packet {
    query().see(enter(Hook::Forward)).see(drop(12, Some(hook(Hook::Forward, 2))))
}

#[test]
fn the_chain_between_the_observers_decided() {
    let one = |policy| Host {
        chains: vec![chain("fw", policy)],
        ..host("NETFILTER_DROP", "nft_do_chain")
    };
    let said = explained(&one(Some(true)), in_forward());
    assert_eq!(said.reason.as_deref(), Some("NETFILTER_DROP"));
    assert_eq!(said.location.as_deref(), Some("nft_do_chain+0xbe"));
    assert_eq!(said.between, Some((Some(-1), Some(1))));
    assert_eq!(
        said.why,
        "a rule of, or the drop policy of, chain inet fw forward at forward in namespace c1 dropped it"
    );
    assert_eq!(said.advice, ["ip netns exec c1 nft -a list chain inet fw forward"]);
    assert_eq!(said.rule.unwrap().policy, None);
    let said = explained(&one(Some(false)), in_forward());
    assert_eq!(said.rule.unwrap().policy, Some(false));
    assert!(said.why.starts_with("a rule of chain"));
}

#[test]
fn several_chains_are_named_and_none_is_blamed() {
    let chains = vec![chain("fw", None), chain("docker {x}", None)];
    let said = explained(&Host { chains, ..host("NETFILTER_DROP", "nf_hook_slow") }, in_forward());
    assert_eq!(said.rule, None);
    assert!(said.why.contains("chain inet fw forward and chain inet docker {x} forward"));
    assert_eq!(said.evidence["chains"].as_array().unwrap().len(), 2);
    let said = explained(&host("NETFILTER_DROP", "nf_hook_slow"), in_forward());
    assert!(said.why.starts_with("no base chain at forward"));
}

#[test]
fn forwarding_that_is_off_is_told_with_its_setting() {
    let host = Host { sysctl: Some("0"), ..host("SKB_DROP_REASON_IP_INADDRERRORS", "ip_error") };
    let said = explained(&host, query().see(drop(1, None)));
    assert_eq!(said.reason.as_deref(), Some("IP_INADDRERRORS"));
    assert_eq!(
        said.why,
        "203.0.113.8 is not an address of namespace c1, and IP forwarding is off for eth2 there"
    );
    assert_eq!(said.advice, ["ip netns exec c1 sysctl -w net.ipv4.ip_forward=1"]);
    assert_eq!(said.evidence["net.ipv4.ip_forward"], "0");
    assert_eq!(said.evidence["net.ipv4.conf.eth2.forwarding"], "0");
}

#[test]
fn each_cause_says_its_sentence() {
    let said = |reason, function, packet: Packet| {
        explained(&host(reason, function), packet.see(drop(1, None))).why
    };
    for (reason, function, expected) in [
        ("IP_INNOROUTES", "ip_error", "namespace c1 has no route to 203.0.113.8"),
        (
            "IP_RPFILTER",
            "ip_rcv_finish_core.isra.0",
            "would not send an answer to 10.0.0.2 through eth2",
        ),
        ("IP_INHDR", "ip_forward", "its time to live ran out (TTL 64"),
        ("IP_INHDR", "ip_rcv_core", "its IP header is damaged"),
        ("NEIGH_FAILED", "arp_error_report", "nobody on eth2 answered for the next hop:"),
        (
            "NO_SOCKET",
            "__udp4_lib_rcv",
            "nothing in namespace c1 listens on UDP port 53 of 203.0.113.8",
        ),
        ("QDISC_OVERLIMIT", "tbf_enqueue", "the queue of eth2 in namespace c1 is full"),
        ("PKT_TOO_BIG", "ip_forward", "larger than the MTU"),
        ("BRIDGE_INGRESS_STP_STATE", "br_handle_frame_finish", "not forwarding yet"),
        ("NETFILTER_DROP", "nft_do_chain", "a rule of the bridge family"),
        ("TCP_OLD_DATA", "tcp_data_queue", "a duplicate, nothing is missing"),
        ("NOT_SPECIFIED", "veth_xmit", "the other end of eth2 did not take it"),
        ("SOMETHING_NEW", "f", "the kernel dropped it in f+0xbe (SOMETHING_NEW)"),
    ] {
        let why = said(reason, function, query());
        assert!(why.contains(expected), "{reason} in {function}: {why}");
    }
    let route = |error, kind| query().see(route(0, error, kind));
    assert!(said("NOT_SPECIFIED", "ip_error", route(-113, 7)).contains("unreachable"));
    assert!(said("NOT_SPECIFIED", "ip_error", route(-13, 8)).contains("prohibit"));
    assert!(said("NOT_SPECIFIED", "ip_error", route(-22, 6)).contains("blackhole"));
}

#[test]
fn another_reason_within_a_hook_is_not_blamed_on_a_chain() {
    let chains = vec![chain("fw", None)];
    let said = explained(&Host { chains, ..host("DUP_FRAG", "ip_frag_queue") }, in_forward());
    assert_eq!(said.rule, None);
    assert!(said.why.starts_with("it is a fragment"));
}

#[test]
fn every_template_can_be_filled() {
    let journey = journeys(query().see(drop(1, None)).events()).remove(0);
    let words = words(&journey, journey.hops[0].place, &host("", ""));
    for cause in causes::CAUSES {
        let sentence = words.sentence(cause.why);
        assert!(!sentence.is_empty() && !sentence.contains(['{', '}']), "{}", cause.why);
        for advice in cause.advice.iter().filter(|advice| !advice.contains("{bridge}")) {
            assert!(words.fill(advice).is_some(), "{advice}");
        }
        for sysctl in cause.sysctls {
            assert!(words.fill(sysctl).is_some(), "{sysctl}");
        }
    }
}

#[test]
fn commands_run_where_the_packet_was() {
    let run = |name: Option<&str>, container: Option<&str>, own| {
        run_in(&NetnsName {
            name: name.map(str::to_owned),
            container: container.map(str::to_owned),
            own,
        })
    };
    assert_eq!(run(Some("host"), None, true).as_deref(), Some(""));
    assert_eq!(run(Some("c1"), Some("lxd:c1"), false).as_deref(), Some("ip netns exec c1 "));
    assert_eq!(run(None, Some("lxd:c1"), false).as_deref(), Some("lxc exec c1 -- "));
    assert_eq!(
        run(None, Some("docker:web"), false).as_deref(),
        Some("nsenter -n -t \"$(docker inspect -f '{{.State.Pid}}' web)\" ")
    );
    assert_eq!(
        run(Some("a; rm -rf /"), None, false).as_deref(),
        Some("ip netns exec 'a; rm -rf /' ")
    );
    assert_eq!(run(None, None, false), None);
}

#[test]
fn a_lost_journey_says_where_it_was_last_seen() {
    let journey = journeys(query().events()).remove(0);
    let said = explain(&journey, &()).unwrap();
    assert_eq!(said.why, "the trace ended while it was on its way, after dev_receive");
    assert_eq!((said.reason, said.location), (None, None));
    let journey = journeys(query().see(What::DevXmit).see(consume()).events()).remove(0);
    assert_eq!(explain(&journey, &()), None);
}

#[test]
fn nothing_known_is_still_an_explanation() {
    let journey = journeys(query().see(drop(7, None)).events()).remove(0);
    let said = explain(&journey, &()).unwrap();
    assert_eq!(said.reason.as_deref(), Some("reason 7"));
    assert!(said.why.contains("0xffff0007"));
    let journey = journeys(in_forward().events()).remove(0);
    assert!(explain(&journey, &()).is_some());
}

#[test]
fn harmless_ends_are_known_by_name() {
    let end = |reason, function, headers: &Headers, clone| {
        HarmlessEnds(host(reason, function)).end(Some(1), 2, headers, clone)
    };
    let reply = icmp("203.0.113.8", "10.0.0.2", 0, 7, 1);
    let request = icmp("10.0.0.2", "203.0.113.8", 8, 7, 1);
    assert_eq!(end("NO_SOCKET", "icmp_rcv", &reply, false), Some(BenignEnd::Delivered));
    assert_eq!(end("NO_SOCKET", "icmp_rcv", &request, false), None);
    let udp = udp("10.0.0.2", 1, "10.0.0.3", 2);
    assert_eq!(end("NO_SOCKET", "__udp4_lib_rcv", &udp, false), None);
    assert_eq!(end("OTHERHOST", "ip_rcv_core", &udp, true), Some(BenignEnd::Consumed));
    assert_eq!(end("OTHERHOST", "ip_rcv_core", &udp, false), None);
    assert_eq!(end("NOT_SPECIFIED", "tpacket_rcv", &udp, true), Some(BenignEnd::Consumed));
    assert_eq!(end("PACKET_SOCK_ERROR", "x", &udp, true), Some(BenignEnd::Consumed));
    let segment = tcp("10.0.0.2", 1, "10.0.0.3", 2, 0x11);
    assert_eq!(end("NOT_SPECIFIED", "tcp_v4_rcv", &segment, false), Some(BenignEnd::Delivered));
    assert_eq!(end("TCP_OLD_DATA", "tcp_data_queue", &segment, false), None);
    assert_eq!(end("NOT_SPECIFIED", "ip_rcv_core", &udp, false), None);
    let names = |reason| HarmlessEnds(host(reason, "x"));
    assert!(names("SKB_DROP_REASON_NOT_SPECIFIED").is_unspecified(Some(2)));
    assert!(!names("NO_SOCKET").is_unspecified(Some(3)));
}

#[test]
fn harmless_ends_are_known_where_the_kernel_tells_no_reason() {
    let end = |function, headers: &Headers, clone| {
        HarmlessEnds(host("", function)).end(None, 2, headers, clone)
    };
    use BenignEnd::{Consumed, Delivered};
    let reply = icmp("203.0.113.8", "10.0.0.2", 0, 7, 1);
    assert_eq!(end("icmp_rcv", &reply, false), Some(Delivered));
    // Nobody listens there, and nothing but the SYN tells it from the end of a connection.
    assert_eq!(end("tcp_v4_rcv", &tcp("10.0.0.2", 1, "10.0.0.3", 2, 0x02), false), None);
    assert_eq!(end("tcp_v4_rcv", &tcp("10.0.0.2", 1, "10.0.0.3", 2, 0x10), false), Some(Delivered));
    let one = udp("10.0.0.2", 1, "10.0.0.3", 2);
    assert_eq!(end("ip_rcv_core.isra.0", &one, true), Some(Consumed));
    for function in
        ["ip_rcv_core", "ip_rcv_finish", "__udp4_lib_rcv", "kfree_skb_list", "nf_hook_slow"]
    {
        assert_eq!(end(function, &one, false), None, "{function}");
    }
    let group = udp("10.0.0.2", 1, "224.0.0.251", 5353);
    for function in ["ip_rcv_finish_core", "__udp4_lib_mcast_deliver"] {
        assert_eq!(end(function, &group, false), Some(Consumed), "{function}");
    }
    let report = Headers { proto: 2, ..group };
    assert_eq!(end("igmp_rcv", &report, false), Some(Consumed));
    let piece = Headers { later_fragment: true, ..one };
    assert_eq!(end("kfree_skb_list", &piece, false), Some(Consumed));
    assert!(HarmlessEnds(host("", "x")).is_unspecified(None));
}
