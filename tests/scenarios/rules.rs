//! Who dropped a packet in netfilter: the rule by its table, chain, handle and text, the policy, or
//! something that is no rule. Where the kernel tells who decided, it must be told exactly; where it
//! does not, what the rules leave as the only way must be told as inferred.

use std::{
    os::unix::fs::PermissionsExt,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use lab::{
    Journey, Lab, Netns, Records, Trace, frames, notes,
    pace::patience,
    topology::{self, C1, C1_V6, C2, HOST, HOST_MAC, WORLD, WORLD_V6},
    trace::{self, Output},
    traffic::{self, at},
};
use serde_json::json;

/// A port that nobody listens at.
const PORT: u16 = 9999;

/// Where the checksum of a UDP datagram is in its Ethernet frame.
const UDP_CHECKSUM: usize = 14 + 20 + 6;

fn is_probe(journey: &Journey) -> bool {
    journey.proto() == "udp" && journey.flow("dport") == PORT.to_string()
}

fn send(lab: &Lab, address: &str) -> Result<()> {
    traffic::udp_send(lab.netns("c1")?, at(address, PORT)?, 2)
}

/// Traces two datagrams from c1 to an address.
fn probe(lab: &Lab, address: &str) -> Result<Records> {
    let own = if address.contains(':') { C1_V6 } else { C1 };
    Trace::during(lab, &["--ip", own], || send(lab, address))
}

/// Traces a refused connection from c1 to an address.
fn connect(lab: &Lab, address: &str) -> Result<Records> {
    Trace::during(lab, &["--ip", C1], || {
        let to = at(address, 8080)?;
        let client = lab.netns("c1")?;
        let refused = client.enter(|| {
            std::net::TcpStream::connect_timeout(&to, Duration::from_millis(500)).is_err()
        })?;
        assert!(refused, "nobody listens, and a rule rejects");
        Ok(())
    })
}

/// Whether a command is there.
fn have(program: &str) -> bool {
    let there = Command::new(program).arg("--version").output().is_ok();
    if !there {
        notes::skipped(&format!("{program} is not installed"));
    }
    there
}

#[test]
fn a_rule_in_a_chain_that_was_jumped_to() -> Result<()> {
    let lab = Lab::standard()?;
    let host = lab.netns("host")?;
    host.nft(
        "add chain inet lab acl.c1
         add rule inet lab acl.c1 udp dport 53 accept
         add rule inet lab acl.c1 udp dport 9999 counter drop comment \"no probes\"
         add rule inet lab fwd.lxdbr0 iifname lxdbr0 jump acl.c1",
    )?;
    let handle = host.nft_handle("inet lab", "acl.c1", "dport 9999")?;
    let records = probe(&lab, WORLD)?;
    let journey = records.assert_dropped(is_probe, "host nf_forward", "NETFILTER_DROP");
    records.assert_rule(
        journey,
        &json!({
            "backend": "nftables", "family": "inet", "table": "lab", "chain": "acl.c1",
            "base_chain": "fwd.lxdbr0", "hook": "forward", "priority": 0, "handle": handle,
            "policy": false, "text": "udp dport 9999 counter drop comment \"no probes\"",
        }),
    );
    let why = format!("rule {handle} of chain inet lab acl.c1 (udp dport 9999 counter drop");
    assert!(journey.why().starts_with(&why), "{}", journey.why());
    let counted = records.summary["drops"][0]["rule"].as_str();
    assert_eq!(counted, Some(format!("inet lab acl.c1 handle {handle}").as_str()));
    Ok(())
}

#[test]
fn a_verdict_map() -> Result<()> {
    let lab = Lab::standard()?;
    let host = lab.netns("host")?;
    host.nft(
        "add map inet lab ports { type inet_service : verdict; }
         add element inet lab ports { 53 : accept, 9999 : drop }
         add rule inet lab fwd.lxdbr0 udp dport vmap @ports
         add rule inet lab fwd.lxdbr0 tcp dport vmap { 22 : drop, 80 : accept }",
    )?;
    let handle = host.nft_handle("inet lab", "fwd.lxdbr0", "@ports")?;
    let records = probe(&lab, WORLD)?;
    let journey = records.assert_dropped(is_probe, "host nf_forward", "NETFILTER_DROP");
    records.assert_rule(
        journey,
        &json!({ "chain": "fwd.lxdbr0", "handle": handle, "text": "udp dport vmap @ports" }),
    );
    Ok(())
}

#[test]
fn a_set() -> Result<()> {
    let lab = Lab::standard()?;
    let host = lab.netns("host")?;
    host.nft(&format!(
        "add set inet lab bad {{ type ipv4_addr; }}
         add element inet lab bad {{ {WORLD}, 192.0.2.1 }}
         add rule inet lab fwd.lxdbr0 ip saddr {{ 10.0.100.0/26, 192.0.2.0/24 }} drop
         add rule inet lab fwd.lxdbr0 ip daddr @bad drop"
    ))?;
    let handle = host.nft_handle("inet lab", "fwd.lxdbr0", "@bad")?;
    let records = probe(&lab, WORLD)?;
    let journey = records.assert_dropped(is_probe, "host nf_forward", "NETFILTER_DROP");
    records.assert_rule(journey, &json!({ "handle": handle, "text": "ip daddr @bad drop" }));
    Ok(())
}

#[test]
fn rejected_with_icmp() -> Result<()> {
    let lab = Lab::standard()?;
    let host = lab.netns("host")?;
    host.nft("add rule inet lab fwd.lxdbr0 udp dport 9999 reject with icmp type host-prohibited")?;
    let records = probe(&lab, WORLD)?;
    let journey = records.assert_dropped(is_probe, "host nf_forward", "NETFILTER_DROP");
    records.assert_rule(journey, &json!({ "chain": "fwd.lxdbr0", "policy": false }));
    assert!(journey.why().contains("rejected it with icmp host-prohibited"), "{}", journey.why());
    Ok(())
}

#[test]
fn rejected_with_a_tcp_reset() -> Result<()> {
    let lab = Lab::standard()?;
    let host = lab.netns("host")?;
    host.nft("add rule inet lab in.lxdbr0 tcp dport 8080 reject with tcp reset")?;
    let handle = host.nft_handle("inet lab", "in.lxdbr0", "8080")?;
    let records = connect(&lab, HOST)?;
    let journey = records.assert_dropped(
        |journey| journey.proto() == "tcp",
        "host nf_input",
        "NETFILTER_DROP",
    );
    records.assert_rule(journey, &json!({ "chain": "in.lxdbr0", "handle": handle }));
    assert!(journey.why().contains("rejected it with tcp reset"), "{}", journey.why());
    Ok(())
}

#[test]
fn the_policy() -> Result<()> {
    let lab = Lab::standard()?;
    let host = lab.netns("host")?;
    host.nft(
        "add chain inet lab fwd.lxdbr0 { policy drop; }
         add rule inet lab fwd.lxdbr0 udp dport 53 accept
         add rule inet lab fwd.lxdbr0 tcp dport 22 drop",
    )?;
    let records = probe(&lab, WORLD)?;
    let journey = records.assert_dropped(is_probe, "host nf_forward", "NETFILTER_DROP");
    records.assert_rule(
        journey,
        &json!({ "chain": "fwd.lxdbr0", "handle": null, "policy": true, "text": null }),
    );
    let why = "no rule of chain inet lab fwd.lxdbr0 at forward in the host accepted it";
    assert!(journey.why().starts_with(why), "{}", journey.why());
    assert_eq!(records.summary["drops"][0]["rule"], "inet lab fwd.lxdbr0 policy");
    Ok(())
}

#[test]
fn the_same_handle_in_two_tables() -> Result<()> {
    let lab = Lab::standard()?;
    let host = lab.netns("host")?;
    host.nft(
        "add table inet one
         add chain inet one forward { type filter hook forward priority -10; }
         add rule inet one forward udp dport 53 drop
         add table inet two
         add chain inet two forward { type filter hook forward priority 10; }
         add rule inet two forward udp dport 9999 drop",
    )?;
    let handle = host.nft_handle("inet two", "forward", "9999")?;
    assert_eq!(host.nft_handle("inet one", "forward", "53")?, handle);
    let records = probe(&lab, WORLD)?;
    let journey = records.assert_dropped(is_probe, "host nf_forward", "NETFILTER_DROP");
    records.assert_rule(
        journey,
        &json!({ "table": "two", "priority": 10, "handle": handle, "text": "udp dport 9999 drop" }),
    );
    Ok(())
}

#[test]
fn a_rule_that_is_replaced_while_tracing() -> Result<()> {
    let lab = Lab::standard()?;
    let host = lab.netns("host")?;
    host.nft("add rule inet lab fwd.lxdbr0 udp dport 9999 drop comment \"first\"")?;
    let first = host.nft_handle("inet lab", "fwd.lxdbr0", "first")?;
    let trace = Trace::start(&lab, &["--ip", C1])?;
    send(&lab, WORLD)?;
    thread::sleep(Duration::from_millis(1_500));
    host.nft(&format!(
        "replace rule inet lab fwd.lxdbr0 handle {first} udp dport 9999 drop comment \"second\""
    ))?;
    // A kernel may leave the handle to the rule that comes instead.
    let second = host.nft_handle("inet lab", "fwd.lxdbr0", "second")?;
    thread::sleep(Duration::from_millis(500));
    send(&lab, WORLD)?;
    let records = trace.stop(&lab)?;
    records.assert_dropped(is_probe, "host nf_forward", "NETFILTER_DROP");
    let dropped = records.select(is_probe);
    assert_eq!(dropped.len(), 4, "{records}");
    for (journey, (handle, name)) in dropped.into_iter().zip([
        (first, "first"),
        (first, "first"),
        (second, "second"),
        (second, "second"),
    ]) {
        let text = format!("udp dport 9999 drop comment \"{name}\"");
        records.assert_rule(journey, &json!({ "handle": handle, "text": text }));
    }
    Ok(())
}

#[test]
fn a_rule_that_was_just_added() -> Result<()> {
    let lab = Lab::standard()?;
    let trace = Trace::start(&lab, &["--ip", C1])?;
    lab.netns("host")?.nft("add rule inet lab fwd.lxdbr0 udp dport 9999 drop")?;
    send(&lab, WORLD)?;
    let records = trace.stop(&lab)?;
    let journey = records.assert_dropped(is_probe, "host nf_forward", "NETFILTER_DROP");
    records.assert_rule(journey, &json!({ "text": "udp dport 9999 drop" }));
    Ok(())
}

#[test]
fn ten_thousand_rules() -> Result<()> {
    let lab = Lab::standard()?;
    let host = lab.netns("host")?;
    let mut rules = String::new();
    for n in 0..10_000 {
        rules += &format!(
            "add rule inet lab fwd.lxdbr0 ip daddr 10.{}.{}.{} udp dport {} counter drop\n",
            n >> 16,
            (n >> 8) & 255,
            n & 255,
            n + 1
        );
    }
    rules += "add rule inet lab fwd.lxdbr0 udp dport 9999 drop\n";
    host.nft(&rules)?;
    let handle = host.nft_handle("inet lab", "fwd.lxdbr0", "\tudp dport 9999")?;
    let start = Instant::now();
    let records = Trace::during(&lab, &["--ip", C1], || {
        // An emulated machine takes long to list as many.
        thread::sleep(patience(Duration::from_secs(5)));
        for _ in 0..100 {
            send(&lab, WORLD)?;
        }
        Ok(())
    })?;
    println!("traced in {:?}", start.elapsed());
    let journey = records.assert_dropped(is_probe, "host nf_forward", "NETFILTER_DROP");
    records.assert_rule(journey, &json!({ "handle": handle, "text": "udp dport 9999 drop" }));
    records.assert_nothing_lost();
    Ok(())
}

/// What Docker does to a host with LXD on it: both have a chain at the hook, and the one that drops
/// has the last word.
#[test]
fn lxd_accepts_and_dockers_policy_drops() -> Result<()> {
    let lab = Lab::standard()?;
    let host = lab.netns("host")?;
    host.nft(
        "add rule inet lab fwd.lxdbr0 iifname lxdbr0 accept
         add rule inet lab fwd.lxdbr0 oifname lxdbr0 accept
         add table ip filter
         add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }
         add chain ip filter DOCKER-USER
         add rule ip filter DOCKER-USER counter return
         add rule ip filter FORWARD counter jump DOCKER-USER
         add rule ip filter FORWARD oifname docker0 ct state established,related accept",
    )?;
    let records = probe(&lab, WORLD)?;
    let journey = records.assert_dropped(is_probe, "host nf_forward", "NETFILTER_DROP");
    records.assert_rule(
        journey,
        &json!({ "family": "ip", "table": "filter", "chain": "FORWARD", "policy": true }),
    );
    let outcome = &journey.record["outcome"];
    assert_eq!(outcome["evidence"]["accepted_by"], json!(["inet lab fwd.lxdbr0"]), "{outcome}");
    let why = journey.why();
    assert!(why.contains("chain inet lab fwd.lxdbr0 at forward in the host accepts it"), "{why}");
    assert!(why.contains("ip filter FORWARD (Docker sets it to drop) drops it"), "{why}");
    let advice = outcome["advice"].to_string();
    assert!(advice.contains("iptables -I DOCKER-USER -i lxdbr0 -j ACCEPT"), "{advice}");
    assert_eq!(records.summary["drops"][0]["rule"], "ip filter FORWARD policy");
    Ok(())
}

#[test]
fn a_rule_of_iptables_nft() -> Result<()> {
    if !have("iptables-nft") {
        return Ok(());
    }
    let lab = Lab::standard()?;
    let host = lab.netns("host")?;
    for rule in ["-p udp --dport 53 -j ACCEPT", "-p udp --dport 9999 -j DROP"] {
        let args: Vec<_> = ["-A", "FORWARD"].into_iter().chain(rule.split(' ')).collect();
        host.run("iptables-nft", &args)?;
    }
    let handle = host.nft_handle("ip filter", "FORWARD", "9999")?;
    let records = probe(&lab, WORLD)?;
    let journey = records.assert_dropped(is_probe, "host nf_forward", "NETFILTER_DROP");
    records.assert_rule(
        journey,
        &json!({
            "backend": "nftables", "family": "ip", "table": "filter", "chain": "FORWARD",
            "handle": handle,
        }),
    );
    let text = journey.rule()["text"].as_str().unwrap_or_default();
    assert!(text.contains("udp dport 9999") && text.ends_with("drop"), "{text}");
    Ok(())
}

fn legacy(host: &Netns, tool: &str) -> Result<()> {
    for rule in [
        "-N USER",
        "-A FORWARD -j USER",
        "-A USER -m mark --mark 7 -j DROP",
        "-A USER -p udp -m udp --dport 53 -j DROP",
        "-A USER -p udp -m udp --dport 9000:9999 -m comment --comment probes -j DROP",
    ] {
        host.run(tool, &rule.split(' ').collect::<Vec<_>>())?;
    }
    Ok(())
}

fn assert_legacy(records: &Records, family: &str) {
    let journey = records.assert_dropped(is_probe, "host nf_forward", "NETFILTER_DROP");
    let rule = journey.rule();
    assert_eq!(rule["backend"], "iptables-legacy", "{rule}");
    assert_eq!(rule["family"], family, "{rule}");
    assert_eq!((&rule["table"], &rule["hook"]), (&json!("filter"), &json!("forward")), "{rule}");
    // By its counter: that of the rule with a mark did not move.
    assert_eq!(
        (&rule["chain"], &rule["base_chain"]),
        (&json!("USER"), &json!("FORWARD")),
        "{rule}"
    );
    assert_eq!((&rule["number"], &rule["handle"]), (&json!(3), &json!(null)), "{rule}");
    let text = rule["text"].as_str().unwrap_or_default();
    assert!(text.starts_with("-A USER -p udp") && text.ends_with("-j DROP"), "{text}");
    assert_eq!(records.summary["drops"][0]["rule"], format!("{family} filter USER rule 3"));
}

#[test]
fn a_rule_of_iptables_legacy() -> Result<()> {
    if !have("iptables-legacy") {
        return Ok(());
    }
    let lab = Lab::standard()?;
    legacy(lab.netns("host")?, "iptables-legacy")?;
    assert_legacy(&probe(&lab, WORLD)?, "ip");
    Ok(())
}

#[test]
fn a_rule_of_ip6tables_legacy() -> Result<()> {
    if !have("ip6tables-legacy") {
        return Ok(());
    }
    let lab = Lab::standard()?;
    legacy(lab.netns("host")?, "ip6tables-legacy")?;
    assert_legacy(&probe(&lab, WORLD_V6)?, "ip6");
    Ok(())
}

#[test]
fn the_policy_of_iptables_legacy() -> Result<()> {
    if !have("iptables-legacy") {
        return Ok(());
    }
    let lab = Lab::standard()?;
    lab.netns("host")?.run("iptables-legacy", &["-P", "FORWARD", "DROP"])?;
    let records = probe(&lab, WORLD)?;
    let journey = records.assert_dropped(is_probe, "host nf_forward", "NETFILTER_DROP");
    let rule = journey.rule();
    assert_eq!((&rule["chain"], &rule["policy"]), (&json!("FORWARD"), &json!(true)), "{rule}");
    Ok(())
}

#[test]
fn a_rule_of_the_bridge_family() -> Result<()> {
    let lab = Lab::standard()?;
    let host = lab.netns("host")?;
    topology::bridged_through_ip_hooks(host, false)?;
    host.nft(
        "add table bridge lab
         add chain bridge lab forward { type filter hook forward priority -200; }
         add rule bridge lab forward ip daddr 10.0.100.7 drop
         add rule bridge lab forward udp dport 9999 drop",
    )?;
    let handle = host.nft_handle("bridge lab", "forward", "9999")?;
    let records = probe(&lab, C2)?;
    let journey = records.assert_dropped(is_probe, "host *", "NETFILTER_DROP");
    records.assert_rule(
        journey,
        &json!({
            "backend": "nftables", "family": "bridge", "table": "lab", "chain": "forward",
            "hook": "forward", "priority": -200, "handle": handle, "text": "udp dport 9999 drop",
        }),
    );
    Ok(())
}

#[test]
fn a_rule_of_ebtables_legacy() -> Result<()> {
    if !have("ebtables-legacy") {
        return Ok(());
    }
    let lab = Lab::standard()?;
    let host = lab.netns("host")?;
    if host.run("ebtables-legacy", &["-L"]).is_err() {
        notes::skipped("this kernel has no tables of ebtables");
        return Ok(());
    }
    topology::bridged_through_ip_hooks(host, false)?;
    for port in ["53", "9999"] {
        let rule = ["-A", "FORWARD", "-p", "ip", "--ip-proto", "udp", "--ip-dport", port];
        host.run("ebtables-legacy", &[&rule[..], &["-j", "DROP"]].concat())?;
    }
    let records = probe(&lab, C2)?;
    let journey = records.assert_dropped(is_probe, "host *", "NETFILTER_DROP");
    let rule = journey.rule();
    assert_eq!(
        (&rule["backend"], &rule["family"], &rule["table"], &rule["hook"]),
        (&json!("ebtables-legacy"), &json!("bridge"), &json!("filter"), &json!("forward")),
        "{}",
        journey.record["outcome"]
    );
    assert_eq!((&rule["chain"], &rule["number"]), (&json!("FORWARD"), &json!(2)), "{rule}");
    let text = rule["text"].as_str().unwrap_or_default();
    assert!(text.contains("9999") && text.contains("DROP"), "{text}");
    Ok(())
}

#[test]
fn a_queue_that_no_program_reads() -> Result<()> {
    let lab = Lab::standard()?;
    let host = lab.netns("host")?;
    if host.nft("add rule inet lab fwd.lxdbr0 udp dport 9999 queue num 7").is_err() {
        notes::skipped("this kernel has no queues of netfilter");
        return Ok(());
    }
    let handle = host.nft_handle("inet lab", "fwd.lxdbr0", "9999")?;
    let records = probe(&lab, WORLD)?;
    let journey = records.assert_dropped(is_probe, "host nf_forward", "");
    records.assert_rule(journey, &json!({ "chain": "fwd.lxdbr0", "handle": handle }));
    assert!(journey.why().contains("handed it to a program by queue 7"), "{}", journey.why());
    Ok(())
}

#[test]
fn a_chain_at_the_ingress_of_a_device() -> Result<()> {
    let lab = Lab::standard()?;
    let host = lab.netns("host")?;
    host.nft(
        "add table netdev lab
         add chain netdev lab in { type filter hook ingress device veth-c1 priority 0; }
         add rule netdev lab in udp dport 9999 drop",
    )?;
    let handle = host.nft_handle("netdev lab", "in", "9999")?;
    let records = probe(&lab, WORLD)?;
    let journey = records.assert_dropped(is_probe, "host:veth-c1 *", "NETFILTER_DROP");
    records.assert_rule(
        journey,
        &json!({
            "family": "netdev", "table": "lab", "chain": "in", "hook": "ingress",
            "handle": handle, "text": "udp dport 9999 drop",
        }),
    );
    Ok(())
}

#[test]
fn a_packet_that_fits_no_connection() -> Result<()> {
    let lab = Lab::standard()?;
    let host = lab.netns("host")?;
    host.nft("add rule inet lab fwd.lxdbr0 ct state invalid drop")?;
    // Connection tracking does not take one whose checksum is wrong.
    let from = ("02:00:00:00:00:09".parse()?, C1.parse()?, 4000);
    let to = (HOST_MAC.parse()?, WORLD.parse()?, PORT);
    let mut frame = frames::tagged_udp(from, to, &[], b"probe")?;
    frame[UDP_CHECKSUM] ^= 0xff;
    let records = Trace::during(&lab, &["--ip", C1], || {
        traffic::udp_echo(lab.netns("c1")?, lab.netns("world")?, at(WORLD, 7)?, 1)?;
        frames::send(lab.netns("c1")?, "eth0", &frame)
    })?;
    let journey = records.assert_dropped(is_probe, "host nf_forward", "NETFILTER_DROP");
    records.assert_rule(journey, &json!({ "text": "ct state invalid drop", "policy": false }));
    let hops = journey.record["hops"].as_array().into_iter().flatten();
    let states: Vec<_> = hops.filter(|hop| hop["point"] == "conntrack").collect();
    assert_eq!(states.len(), 1, "{journey}");
    assert_eq!(states[0]["detail"]["state"], "invalid", "{journey}");
    Ok(())
}

#[test]
fn a_packet_that_is_not_to_be_tracked() -> Result<()> {
    let lab = Lab::standard()?;
    lab.netns("host")?.nft(
        "table ip raw { chain pre { type filter hook prerouting priority raw; udp dport 7 notrack; }; }",
    )?;
    let records = Trace::during(&lab, &["--ip", C1, "--dport", "7"], || {
        traffic::udp_send(lab.netns("c1")?, at(WORLD, 7)?, 1)
    })?;
    let sent = records.of("udp", "original")[0];
    let hops = sent.record["hops"].as_array().into_iter().flatten();
    let state: Vec<_> = hops.filter(|hop| hop["point"] == "conntrack").collect();
    assert_eq!(state.len(), 1, "{sent}");
    assert_eq!(state[0]["detail"]["state"], "untracked", "{sent}");
    Ok(())
}

/// The size of the table is the whole machine's, and only a machine of our own may be given a small
/// one.
#[test]
fn a_full_table_of_connections() -> Result<()> {
    let own = std::env::var_os("PATHTRACE_OWN_MACHINE").is_some();
    if !own {
        notes::skipped("net.netfilter.nf_conntrack_max is the machine's, and others are on it");
        return Ok(());
    }
    let lab = Lab::standard()?;
    let host = lab.netns("host")?;
    let path = "/proc/sys/net/netfilter/nf_conntrack_max";
    let before = std::fs::read_to_string(path)?;
    let records = Trace::during(&lab, &["--ip", C1], || {
        traffic::udp_echo(lab.netns("c1")?, lab.netns("world")?, at(WORLD, 7)?, 1)?;
        let count = host.run("cat", &["/proc/sys/net/netfilter/nf_conntrack_count"])?;
        std::fs::write(path, count.trim())?;
        send(&lab, WORLD)
    });
    std::fs::write(path, before.trim())?;
    let records = records?;
    let journey = records.assert_dropped(is_probe, "host nf_prerouting", "NETFILTER_DROP");
    assert!(journey.rule().is_null(), "{}", journey.rule());
    assert!(journey.why().contains("connection tracking"), "{}", journey.why());
    if records.knows_rules() {
        assert!(journey.why().contains("no room for another connection"), "{}", journey.why());
    }
    Ok(())
}

/// A namespace behind a container, with rules of its own.
#[test]
fn a_rule_in_a_nested_namespace() -> Result<()> {
    let mut lab = Lab::standard()?;
    lab.add("inner")?;
    let (c1, inner) = (lab.netns("c1")?, lab.netns("inner")?);
    c1.ip(&format!(
        "link add to-inner type veth peer name eth0 netns {}
         addr add 10.7.0.1/24 dev to-inner
         link set to-inner up",
        inner.name()
    ))?;
    inner.ip("addr add 10.7.0.2/24 dev eth0
         link set eth0 up")?;
    inner.nft(
        "add table inet own
         add chain inet own in { type filter hook input priority 0; }
         add rule inet own in udp dport 53 drop
         add rule inet own in udp dport 9999 drop",
    )?;
    inner.settle()?;
    let handle = inner.nft_handle("inet own", "in", "9999")?;
    let records = Trace::during(&lab, &["--ip", "10.7.0.2"], || send(&lab, "10.7.0.2"))?;
    let journey = records.assert_dropped(is_probe, "inner *", "NETFILTER_DROP");
    records.assert_rule(
        journey,
        &json!({ "table": "own", "chain": "in", "handle": handle, "text": "udp dport 9999 drop" }),
    );
    Ok(())
}

/// Two rules could have dropped it: without the kernel's word none is blamed.
#[test]
fn of_two_rules_none_is_guessed() -> Result<()> {
    let lab = Lab::standard()?;
    let host = lab.netns("host")?;
    host.nft(
        "add rule inet lab fwd.lxdbr0 meta mark 7 drop
         add rule inet lab fwd.lxdbr0 ip ttl < 64 drop",
    )?;
    let handle = host.nft_handle("inet lab", "fwd.lxdbr0", "ttl")?;
    let records = probe(&lab, WORLD)?;
    let journey = records.assert_dropped(is_probe, "host nf_forward", "NETFILTER_DROP");
    if records.knows_rules() {
        records.assert_rule(journey, &json!({ "handle": handle }));
    } else {
        let rule = journey.rule();
        assert_eq!(
            (&rule["chain"], &rule["handle"]),
            (&json!("fwd.lxdbr0"), &json!(null)),
            "{rule}"
        );
        assert_eq!((&rule["policy"], &rule["inferred"]), (&json!(false), &json!(null)), "{rule}");
    }
    Ok(())
}

/// Packets are not held up by a program that never answers: what needs no rules is told at once, and
/// a drop without the rule's text.
#[test]
fn a_program_for_rules_that_hangs() -> Result<()> {
    let lab = Lab::standard()?;
    let host = lab.netns("host")?;
    host.nft("add rule inet lab fwd.lxdbr0 udp dport 9999 drop")?;
    let directory = std::env::temp_dir().join(format!("pathtrace-hangs-{}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    let program = directory.join("nft");
    std::fs::write(&program, "#!/bin/sh\nsleep 30\n")?;
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755))?;
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(trace::binary()?);
    command.args(["-o", "json", "--ip", C1]);
    command.env("PATH", format!("{}:{path}", directory.display()));
    let trace = Trace::spawn(host, command, Output::Keep)?;
    send(&lab, WORLD)?;
    assert_eq!(traffic::ping(lab.netns("c1")?, WORLD, 2)?, 2);
    let records = trace.stop(&lab);
    std::fs::remove_dir_all(&directory)?;
    let records = records?;
    let journey = records.assert_dropped(is_probe, "host nf_forward", "NETFILTER_DROP");
    let rule = journey.rule();
    assert_eq!((&rule["table"], &rule["text"]), (&json!("lab"), &json!(null)), "{rule}");
    assert_eq!(records.of("icmp", "reply").len(), 2, "{records}");
    records.assert_nothing_lost();
    Ok(())
}
