//! What is said of drops, by hand-made journeys and evidence.

use super::*;
use crate::{
    event::{Decider, Headers, Hook, HookFamily, InHook, RuleOrPolicy, Verdict, What},
    host::{containers::Process, symbols::Function},
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
    mtu: Option<u32>,
    decided: Option<Decision>,
    ways: Option<Vec<Decision>>,
    beside: Vec<BaseChain>,
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
        DeviceName { name: Some(format!("eth{}", place.ifindex)), ..DeviceName::default() }
    }
}

impl Evidence for Host {
    fn bracket(&self, _: u32, _: InHook) -> Option<Bracket> {
        Some(Bracket { after: Some(-1), before: Some(1), chains: self.chains.clone() })
    }

    fn sysctl(&self, _: u32, _: &str) -> Option<String> {
        self.sysctl.map(str::to_owned)
    }

    fn mtu(&self, _: Place) -> Option<u32> {
        self.mtu
    }

    fn decided(&self, _: &Died<'_>, _: InHook, _: &Decider) -> Option<Decision> {
        self.decided.clone()
    }

    fn chains_at(&self, _: u32, _: InHook) -> Vec<BaseChain> {
        self.beside.clone()
    }

    fn ways(&self, _: &Died<'_>, chains: &[BaseChain]) -> Option<Vec<Decision>> {
        let ways = self.ways.clone()?;
        let of = |way: &Decision| chains.iter().any(|chain| chain.table == way.chain.table);
        Some(ways.into_iter().filter(of).collect())
    }

    fn unobserved(&self, _: Place) -> Vec<BaseChain> {
        self.beside.clone()
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

fn rule(table: &str, handle: Option<u64>, text: Option<&str>) -> Decision {
    Decision {
        chain: chain(table, Some(handle.is_none())),
        within: None,
        handle,
        number: None,
        policy: Some(handle.is_none()),
        text: text.map(str::to_owned),
        inferred: false,
        docker: false,
    }
}

fn seen(verdict: Verdict) -> What {
    let rule = RuleOrPolicy::Rule(12);
    let by = Decider::Nftables { table: 7, chain: 1, rule };
    What::Verdict { hook: hook(Hook::Forward, 2), by: Box::new(by), verdict }
}

fn by(by: Decider) -> Packet {
    let by = Box::new(by);
    let verdict = What::Verdict { hook: hook(Hook::Forward, 2), by, verdict: Verdict::Drop };
    let at = Some(hook(Hook::Forward, 2));
    query().see(enter(Hook::Forward)).see(verdict).see(drop(12, at))
}

fn watched(decided: Decision, verdict: Verdict) -> Explanation {
    let host = Host { decided: Some(decided), ..host("NETFILTER_DROP", "nft_do_chain") };
    let at = Some(hook(Hook::Forward, 2));
    explained(&host, query().see(enter(Hook::Forward)).see(seen(verdict)).see(drop(12, at)))
}

#[test]
fn a_rule_that_was_seen_to_decide_is_told_with_its_text() {
    let text = "udp dport { 53, 9999 } drop";
    let said = watched(rule("lab", Some(12), Some(text)), Verdict::Drop);
    let expected = "rule 12 of chain inet lab forward (udp dport { 53, 9999 } drop) dropped it at \
                    forward in namespace c1";
    assert_eq!(said.why, expected);
    assert_eq!(said.between, None, "the bracket is not needed");
    let within = Decision { within: Some("acl".into()), ..rule("lab", Some(12), None) };
    let said = watched(within, Verdict::Drop);
    assert_eq!(said.why, "rule 12 of chain inet lab acl dropped it at forward in namespace c1");
    assert_eq!(said.advice, ["ip netns exec c1 nft -a list chain inet lab acl"]);
}

#[test]
fn what_a_rule_did_is_told_from_its_text() {
    let why = |text, verdict| watched(rule("lab", Some(12), Some(text)), verdict).why;
    for (text, verdict, expected) in [
        ("tcp dport 80 reject with tcp reset", Verdict::Drop, "rejected it with tcp reset"),
        ("reject with icmp host-prohibited # x", Verdict::Drop, "rejected it with icmp host"),
        ("reject comment \"drop\"", Verdict::Drop, ") rejected it at"),
        ("drop comment \"reject with x\"", Verdict::Drop, ") dropped it at"),
        ("-A F -j REJECT --reject-with icmp-port-unreachable", Verdict::Drop, "with icmp-port-unr"),
        ("-A F -j REJECT", Verdict::Drop, ") rejected it at"),
        ("queue to 3", Verdict::Drop, "to a program by queue 3, which dropped it or is not there"),
        ("-A F -j NFQUEUE --queue-num 4", Verdict::Queue, "handed it to a program by queue 4 at"),
        ("queue flags bypass to 5", Verdict::Queue, "handed it to a program by queue 5 at"),
        ("synproxy", Verdict::Stolen, ") took it at"),
        ("\" { } {netns} \\", Verdict::Drop, "(\" { } {netns} \\) dropped it"),
    ] {
        let why = why(text, verdict);
        assert!(why.contains(expected), "{text}: {why}");
    }
}

#[test]
fn a_packet_that_a_program_holds_is_told_where() {
    let host = Host {
        decided: Some(rule("lab", Some(12), Some("queue to 3"))),
        ..host("NETFILTER_DROP", "nf_queue")
    };
    let said = explained(&host, query().see(enter(Hook::Forward)).see(seen(Verdict::Queue)));
    assert!(said.why.contains("handed it to a program by queue 3"), "{}", said.why);
}

#[test]
fn a_policy_is_told_as_one() {
    let said = watched(rule("fw", None, None), Verdict::Drop);
    let expected = "no rule of chain inet fw forward at forward in namespace c1 accepted it, and \
                    its policy drops";
    assert_eq!(said.why, expected);
}

#[test]
fn a_chain_that_accepts_does_not_save_from_another_that_drops() {
    let docker = Decision { docker: true, ..rule("filter", None, None) };
    let host = Host {
        decided: Some(docker),
        beside: vec![chain("lxd", Some(false)), chain("filter", Some(true))],
        ways: Some(Vec::new()),
        ..host("NETFILTER_DROP", "nft_do_chain")
    };
    let at = hook(Hook::Forward, 0);
    let packet = query()
        .see(What::HookEnter { hook: at, iif: 7, oif: 2 })
        .see(seen(Verdict::Drop))
        .see(drop(12, Some(at)));
    let said = explained(&host, packet);
    assert!(said.why.starts_with("chain inet lxd forward at forward"), "{}", said.why);
    assert!(said.why.contains("filter forward (Docker sets it to drop) drops it"), "{}", said.why);
    assert_eq!(said.evidence["accepted_by"], serde_json::json!(["inet lxd forward"]));
    let command = "ip netns exec c1 iptables -I DOCKER-USER -i eth7 -j ACCEPT";
    assert!(said.advice.iter().any(|advice| advice == command), "{:?}", said.advice);
}

#[test]
fn the_only_way_to_be_dropped_is_inferred() {
    let inferred = |table, handle, text| {
        let rule = rule(table, handle, text);
        Decision { inferred: true, ..rule }
    };
    let bracketed = |ways| Host {
        chains: vec![chain("one", Some(false)), chain("two", Some(true))],
        ways,
        ..host("NETFILTER_DROP", "nft_do_chain")
    };
    let one = inferred("two", Some(3), Some("drop"));
    let said = explained(&bracketed(Some(vec![one.clone()])), in_forward());
    assert!(said.why.ends_with("; nothing else there can drop such a packet"), "{}", said.why);
    assert!(said.rule.unwrap().inferred);
    let more = inferred("two", Some(4), Some("drop"));
    let said = explained(&bracketed(Some(vec![one.clone(), more])), in_forward());
    let rule = said.rule.unwrap();
    assert_eq!((rule.handle, rule.policy, rule.inferred), (None, Some(false), true));
    let other = inferred("one", Some(3), Some("drop"));
    let said = explained(&bracketed(Some(vec![one, other])), in_forward());
    assert_eq!(said.rule, None, "two chains can have done it");
    assert_eq!(explained(&bracketed(Some(Vec::new())), in_forward()).rule, None);
    assert_eq!(explained(&bracketed(None), in_forward()).rule, None);
}

#[test]
fn of_a_chain_that_was_seen_to_decide_the_only_way_is_taken() {
    let base = chain("filter", Some(false));
    let seen = Decision { policy: None, ..rule("filter", None, None) };
    let way = Decision { inferred: true, number: Some(2), ..rule("filter", None, Some("-j DROP")) };
    let with = |ways| Host {
        decided: Some(Decision { chain: base.clone(), ..seen.clone() }),
        ways,
        ..host("NETFILTER_DROP", "ipt_do_table")
    };
    let legacy =
        || by(Decider::Legacy { family: HookFamily::Ipv4, table: "filter".into(), rule: None });
    let way = Decision { policy: Some(false), ..way };
    let said = explained(&with(Some(vec![way])), legacy());
    assert!(said.why.starts_with("rule 2 of chain inet filter forward (-j DROP)"), "{}", said.why);
    let said = explained(&with(None), legacy());
    let expected = "a rule of chain inet filter forward at forward in namespace c1 dropped it";
    assert_eq!(said.why, expected);
    assert!(!said.rule.unwrap().inferred);
}

#[test]
fn a_drop_where_nobody_observes_is_inferred_from_one_chain() {
    let bridge = BaseChain { family: "bridge".into(), ..chain("lab", Some(false)) };
    let way = Decision {
        chain: bridge.clone(),
        inferred: true,
        ..rule("lab", Some(3), Some("udp dport 53 drop"))
    };
    let host = Host {
        beside: vec![bridge],
        ways: Some(vec![way]),
        ..host("NETFILTER_DROP", "nft_do_chain")
    };
    let said = explained(&host, query().see(drop(12, None)));
    assert!(said.why.starts_with("rule 3 of chain bridge lab forward"), "{}", said.why);
    assert!(said.rule.unwrap().inferred);
    let elsewhere = Host { ways: Some(Vec::new()), ..host };
    let said = explained(&elsewhere, query().see(drop(12, None)));
    assert!(said.why.contains("a rule of the bridge family"), "{}", said.why);
}

#[test]
fn connection_tracking_is_told_by_what_it_counts() {
    let with = |sysctl| Host { sysctl, ..host("NETFILTER_DROP", "nf_hook_slow") };
    let said = explained(&with(Some("8")), by(Decider::Conntrack));
    assert!(said.why.contains("no room for another connection: 8 of 8"), "{}", said.why);
    assert_eq!(said.evidence["net.netfilter.nf_conntrack_max"], "8");
    let said = explained(&with(None), by(Decider::Conntrack));
    assert!(said.why.contains("it fits no connection"), "{}", said.why);
    let said = explained(&with(None), by(Decider::Confirm));
    assert!(said.why.starts_with("another packet of its connection was quicker"), "{}", said.why);
    let family = HookFamily::Bridge;
    let legacy = Decider::Legacy { family, table: "fil ter".into(), rule: None };
    let said = explained(&with(None), by(legacy));
    assert!(said.why.contains("legacy table bridge 'fil ter' dropped it"), "{}", said.why);
    assert_eq!(said.advice, ["ip netns exec c1 ebtables-legacy -t 'fil ter' -L"]);
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
fn an_answer_of_dhcp_is_for_a_packet_socket() {
    let said = |reason, function, sport| {
        let packet = packet(1, udp("10.0.0.2", sport, "203.0.113.8", 68)).see(What::DevReceive);
        explained(&host(reason, function), packet.see(drop(1, None)))
    };
    for (reason, function) in [("IP_INADDRERRORS", "ip_error"), ("NO_SOCKET", "__udp4_lib_rcv")] {
        let answer = said(reason, function, 67);
        assert!(
            answer.why.contains("gets it before IP does, by a packet socket"),
            "{}",
            answer.why
        );
        assert_eq!(answer.advice, ["ip netns exec c1 ss -0ap"]);
        assert!(!said(reason, function, 4000).why.contains("DHCP"));
    }
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
        (
            "NOT_SPECIFIED",
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
fn the_mtu_that_is_too_small_is_told() {
    let packet = || {
        packet(1, udp("10.0.0.2", 4000, "203.0.113.8", 53))
            .see(What::DevReceive)
            .see(route(3, 0, 1))
            .see(drop(1, None))
    };
    let said = |mtu| {
        let host = Host { mtu: Some(mtu), ..host("PKT_TOO_BIG", "ip_forward") };
        explained(&host, packet())
    };
    let small = said(60);
    assert!(small.why.contains("the next link (eth3 takes 60) and may not"), "{}", small.why);
    assert_eq!(small.evidence["mtu"], 60);
    // A route's is smaller still, which is not known.
    let large = said(1500);
    assert!(large.why.contains("the next link and may not"), "{}", large.why);
    assert_eq!(large.evidence.get("mtu"), None);
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
            ..NetnsName::default()
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
    assert_eq!(
        run(None, Some("lxd:p 2/c9"), false).as_deref(),
        Some("lxc exec --project 'p 2' c9 -- ")
    );
    assert_eq!(run(None, None, false), None);
    let process = Some(Process { pid: 7, comm: "nginx".to_owned() });
    let unnamed = NetnsName { process, ..NetnsName::default() };
    assert_eq!(run_in(&unnamed).as_deref(), Some("nsenter -n -t 7 "));
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
    assert_eq!(end("NOT_SPECIFIED", "__udp4_lib_rcv", &udp, true), Some(BenignEnd::Consumed));
    assert_eq!(end("NOT_SPECIFIED", "__udp4_lib_rcv", &udp, false), None);
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
    let solicitation =
        Headers { family: crate::event::Family::Ipv6, proto: 58, l4_kind: 135, ..reply };
    assert_eq!(end("icmpv6_rcv", &solicitation, false), Some(Delivered));
    assert_eq!(end("ip6_input", &solicitation, false), None);
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
