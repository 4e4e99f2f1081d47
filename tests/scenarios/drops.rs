//! Each way to lose a packet: told as `dropped`, at the right hop, with the kernel's reason, and
//! nothing else told so.

use std::{thread, time::Duration};

use anyhow::Result;
use lab::{
    Capability, Journey, Lab, Records, Trace,
    frames::Client,
    notes,
    pace::patience,
    topology::{C1, C1_V6, HOST, HOST_MAC, UPLINK, UPLINK_MAC, WORLD},
    traffic::{self, at},
};

/// A port that nobody listens at.
const PORT: u16 = 9999;

/// Where the host forwards: behind the routing decision.
const FORWARDING: [&str; 2] = ["host ip_forward", "host route"];

fn is_probe(journey: &Journey) -> bool {
    journey.proto() == "udp" && journey.flow("dport") == PORT.to_string()
}

/// Traces two datagrams from c1 to an address.
fn probe(lab: &Lab, address: &str) -> Result<Records> {
    Trace::during(lab, &["--ip", C1], || traffic::udp_send(lab.netns("c1")?, at(address, PORT)?, 2))
}

/// Asserts which base chain is told to have decided, on a kernel that tells a hook's chains apart.
fn assert_chain(lab: &Lab, journey: &Journey, hook: &str, chain: &str) -> Result<()> {
    if !lab.has(Capability::ChainByChain)? {
        notes::left_out("the chain behind a drop");
        return Ok(());
    }
    let rule = &journey.record["outcome"]["rule"];
    assert_eq!(rule["table"], "lab", "{journey}");
    assert_eq!(rule["chain"], chain, "{journey}");
    assert_eq!(rule["hook"], hook, "{journey}");
    Ok(())
}

#[test]
fn nft_rule_in_forward() -> Result<()> {
    let lab = Lab::standard()?;
    lab.netns("host")?.nft("add rule inet lab fwd.lxdbr0 udp dport 9999 drop")?;
    let records = probe(&lab, WORLD)?;
    let journey = records.assert_dropped(is_probe, "host nf_forward", "NETFILTER_DROP");
    assert_chain(&lab, journey, "forward", "fwd.lxdbr0")?;
    if lab.has(Capability::Reason("NETFILTER_DROP"))? {
        assert_eq!(records.summary["drops"][0]["reason"], "NETFILTER_DROP", "{}", records.summary);
    }
    assert_eq!(records.summary["drops"][0]["count"], 2, "{}", records.summary);
    Ok(())
}

#[test]
fn nft_chain_policy() -> Result<()> {
    let lab = Lab::standard()?;
    lab.netns("host")?.nft("add chain inet lab fwd.lxdbr0 { policy drop; }")?;
    let records = probe(&lab, WORLD)?;
    let journey = records.assert_dropped(is_probe, "host nf_forward", "NETFILTER_DROP");
    assert_chain(&lab, journey, "forward", "fwd.lxdbr0")
}

#[test]
fn nft_rule_in_input() -> Result<()> {
    let lab = Lab::standard()?;
    lab.netns("host")?.nft("add rule inet lab in.lxdbr0 udp dport 9999 drop")?;
    let records = probe(&lab, HOST)?;
    let journey = records.assert_dropped(is_probe, "host nf_input", "NETFILTER_DROP");
    assert_chain(&lab, journey, "input", "in.lxdbr0")
}

#[test]
fn an_answer_of_dhcp_that_comes_before_the_address() -> Result<()> {
    const LEASED: &str = "10.0.100.77";
    let lab = Lab::standard()?;
    let (host, c1) = (lab.netns("host")?, lab.netns("c1")?);
    c1.ip("link set eth0 address 00:16:3e:00:00:77")?;
    host.ip(&format!("neigh replace {LEASED} lladdr 00:16:3e:00:00:77 dev lxdbr0"))?;
    let mut client = Client::open(c1, "eth0")?;
    let server = traffic::udp_socket(host, at(HOST, 67)?)?;

    let records = Trace::during(&lab, &["--dst", LEASED, "--proto", "udp"], || {
        server.send_to(b"an offer", at(LEASED, 68)?)?;
        client.wait_for(b"an offer")
    })?;

    // A bridge that has not learned the address yet gives it to the other container too.
    let dropped = records.select(|j| j.outcome() == "dropped" && j.end().starts_with("c1:"));
    assert_eq!(dropped.len(), 1, "IP has no use for it: {records}");
    assert!(dropped[0].why().contains("a DHCP client gets it before IP does"), "{records}");
    Ok(())
}

#[test]
fn forwarding_off() -> Result<()> {
    let lab = Lab::standard()?;
    lab.netns("host")?.sysctl("net.ipv4.ip_forward", "0")?;
    probe(&lab, WORLD)?.assert_dropped(is_probe, "host route", "IP_INADDRERRORS");
    Ok(())
}

#[test]
fn no_route() -> Result<()> {
    let lab = Lab::standard()?;
    lab.netns("host")?.ip("route del default")?;
    probe(&lab, WORLD)?.assert_dropped(is_probe, "host route", "IP_INNOROUTES");
    Ok(())
}

#[test]
fn unreachable_neighbour() -> Result<()> {
    let lab = Lab::standard()?;
    // Nobody has this address: the host asks three times, then gives up.
    let records = Trace::during(&lab, &["--ip", C1, "--proto", "udp"], || {
        traffic::udp_send(lab.netns("c1")?, at("198.51.100.77", PORT)?, 1)?;
        thread::sleep(patience(Duration::from_secs(4)));
        Ok(())
    })?;
    let journey = records.assert_dropped(is_probe, "host neigh", "NEIGH_FAILED");
    journey.assert_passes(&["host nf_forward", "host nf_postrouting"]);
    Ok(())
}

#[test]
fn reverse_path_filter() -> Result<()> {
    let lab = Lab::standard()?;
    let (host, world) = (lab.netns("host")?, lab.netns("world")?);
    host.sysctl("net.ipv4.conf.all.rp_filter", "1")?;
    // The world claims an address that the host knows behind its bridge.
    world.ip(&format!(
        "addr add 10.0.100.99/32 dev lo
         route add {UPLINK}/32 dev eth0 src 10.0.100.99
         neigh replace {UPLINK} lladdr {UPLINK_MAC} dev eth0 nud permanent"
    ))?;
    let records = Trace::during(&lab, &["--src", "10.0.100.99", "--proto", "udp"], || {
        traffic::udp_send(world, at(UPLINK, PORT)?, 2)
    })?;
    records.assert_dropped(is_probe, "host route", "IP_RPFILTER");
    Ok(())
}

#[test]
fn time_to_live_exceeded() -> Result<()> {
    let lab = Lab::standard()?;
    let records = Trace::during(&lab, &["--ip", C1], || {
        traffic::udp_send_with_ttl(lab.netns("c1")?, at(WORLD, PORT)?, 2, 1)
    })?;
    records.assert_dropped(is_probe, records.first_shown(&FORWARDING), "IP_INHDR");
    Ok(())
}

#[test]
fn udp_to_a_closed_port() -> Result<()> {
    let lab = Lab::standard()?;
    probe(&lab, WORLD)?.assert_dropped(is_probe, "world nf_input", "NO_SOCKET");
    Ok(())
}

#[test]
fn qdisc_overflow() -> Result<()> {
    let lab = Lab::standard()?;
    lab.netns("host")?.run(
        "tc",
        &["qdisc", "replace", "dev", "eth-up", "root", "tbf"]
            .into_iter()
            .chain(["rate", "8kbit", "burst", "200", "limit", "300"])
            .collect::<Vec<_>>(),
    )?;
    let records = Trace::during(&lab, &["--src", C1, "--proto", "icmp"], || {
        let answers = traffic::ping_with(lab.netns("c1")?, WORLD, &["-c", "10", "-i", "0.01"])?;
        assert!(answers < 10, "the qdisc took all");
        Ok(())
    })?;
    records.assert_dropped(
        |journey| journey.proto() == "icmp",
        "host:eth-up dev_queue",
        "QDISC_DROP",
    );
    Ok(())
}

#[test]
fn too_big_and_not_to_be_fragmented() -> Result<()> {
    let lab = Lab::standard()?;
    lab.netns("host")?.ip("link set eth-up mtu 1000")?;
    let records = Trace::during(&lab, &["--src", C1, "--proto", "icmp"], || {
        let options = ["-c", "1", "-M", "do", "-s", "1200"];
        assert_eq!(traffic::ping_with(lab.netns("c1")?, WORLD, &options)?, 0);
        Ok(())
    })?;
    let hop = records.first_shown(&FORWARDING);
    records.assert_dropped(|journey| journey.proto() == "icmp", hop, "PKT_TOO_BIG");
    Ok(())
}

/// Beyond the world a link takes no more than 1300 bytes.
fn small_beyond(lab: &mut Lab) -> Result<()> {
    lab.add("far")?;
    let (world, far) = (lab.netns("world")?, lab.netns("far")?);
    world.sysctl("net.ipv4.ip_forward", "1")?;
    world.sysctl("net.ipv6.conf.all.forwarding", "1")?;
    world.ip(&format!(
        "link add to-far mtu 1300 type veth peer name eth0 netns {far}
         addr add 192.0.2.1/24 dev to-far
         addr add 2001:db8:7::1/64 dev to-far nodad
         link set to-far up",
        far = far.name()
    ))?;
    far.ip("link set eth0 mtu 1300
         addr add 192.0.2.9/24 dev eth0
         addr add 2001:db8:7::9/64 dev eth0 nodad
         link set eth0 up
         route add default via 192.0.2.1
         route add ::/0 via 2001:db8:7::1")?;
    far.settle()?;
    world.settle()
}

#[test]
fn too_big_beyond_a_router_that_says_so() -> Result<()> {
    let mut lab = Lab::standard()?;
    small_beyond(&mut lab)?;
    for (from, to, error) in [(C1, "192.0.2.9", "3"), (C1_V6, "2001:db8:7::9", "2")] {
        let records = Trace::during(&lab, &["--ip", from, "--proto", "udp"], || {
            let client = traffic::udp_client(lab.netns("c1")?, at(to, PORT)?)?;
            client.send(&[0; 1400])?;
            thread::sleep(patience(Duration::from_millis(300)));
            Ok(())
        })?;

        let hops = ["world ip_forward", "world route"];
        let hop = records.first_shown(&hops);
        let dropped = records.assert_dropped(is_probe, hop, "PKT_TOO_BIG");
        // Without reasons (before Linux 5.17) it is not known that this was why.
        if lab.has(Capability::Reason("PKT_TOO_BIG"))? {
            assert!(dropped.why().contains("(to-far takes 1300)"), "{}", dropped.why());
            assert_eq!(dropped.record["outcome"]["evidence"]["mtu"], 1300, "{dropped}");
        }
        let errors = records.select(|journey| journey.flow("icmp_type") == error);
        let [said] = errors[..] else { panic!("{records}") };
        assert_eq!(said.record["flow"]["id"], dropped.record["flow"]["id"], "{records}");
        assert_eq!((said.proto(), said.direction()), ("udp", "reply"), "{said}");
        said.assert_passes(&["world:eth0 dev_xmit", "host nat", "c1:eth0 dev_receive"]);
        assert_eq!(said.record["nat"]["dst"], from, "{said}");
        said.assert_delivered("c1");
    }
    Ok(())
}

#[test]
fn bridge_port_blocked_by_spanning_tree() -> Result<()> {
    let lab = Lab::standard()?;
    let (c1, host) = (lab.netns("c1")?, lab.netns("host")?);
    // A spanning tree listens for a while at a new port before it forwards.
    host.ip("link set lxdbr0 type bridge stp_state 1 forward_delay 3000
         link set veth-c1 down
         link set veth-c1 up")?;
    c1.ip(&format!("neigh replace {HOST} lladdr {HOST_MAC} dev eth0 nud permanent"))?;
    let records = probe(&lab, HOST)?;
    records.assert_dropped(is_probe, "host:veth-c1 *", "BRIDGE_INGRESS_STP_STATE");
    Ok(())
}

#[test]
fn link_down() -> Result<()> {
    let lab = Lab::standard()?;
    let (host, world) = (lab.netns("host")?, lab.netns("world")?);
    // With the neighbour known the packet gets as far as the device.
    host.ip("neigh replace 198.51.100.2 lladdr 02:00:00:00:00:01 dev eth-up nud permanent")?;
    world.ip("link set eth0 down")?;
    thread::sleep(patience(Duration::from_millis(1500)));
    let records = probe(&lab, WORLD)?;
    records.assert_dropped(is_probe, "host:eth-up dev_queue", "QDISC_DROP");
    Ok(())
}

/// Between chains of priority 0 and 2 there is one place to observe from, and the first trace has it.
#[test]
fn a_second_trace_does_not_blame_another_chain() -> Result<()> {
    let lab = Lab::standard()?;
    if lab.lacks(&[Capability::ChainByChain])? {
        return Ok(());
    }
    lab.netns("host")?.nft(
        "add chain inet lab first { type filter hook forward priority 0; }
         add chain inet lab second { type filter hook forward priority 2; }
         add rule inet lab second udp dport 9999 drop",
    )?;
    let args = ["--ip", C1, "--proto", "udp"];
    let traces = [Trace::start(&lab, &args)?, Trace::start(&lab, &args)?];
    traffic::udp_send(lab.netns("c1")?, at(WORLD, 9999)?, 1)?;
    for trace in traces {
        let records = trace.stop(&lab)?;
        let outcome = &records.of("udp", "original")[0].record["outcome"];
        assert!(outcome.to_string().contains("second"), "{outcome}");
    }
    Ok(())
}
