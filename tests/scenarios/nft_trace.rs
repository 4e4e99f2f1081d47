//! `--nft-trace`: the very rule that dropped a packet, and a rule set that is afterwards as it was.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use lab::{
    Capability, Journey, Lab, Netns, Records, Trace, notes,
    topology::{self, C1, C1_V6, UPLINK, WORLD, WORLD_V6},
    traffic::{self, at},
};
use rustix::process::Signal;
use serde_json::Value;

/// A port that nobody listens at.
const PORT: u16 = 9999;

fn is_probe(journey: &Journey) -> bool {
    journey.proto() == "udp" && journey.flow("dport") == PORT.to_string()
}

/// Traces two datagrams from c1 to an address.
fn probe(lab: &Lab, address: &str) -> Result<Records> {
    Trace::during(lab, &["--ip", C1, "--ip", C1_V6, "--nft-trace"], || {
        traffic::udp_send(lab.netns("c1")?, at(address, PORT)?, 2)
    })
}

/// The handle of the rule with this text in it.
fn handle(netns: &Netns, text: &str) -> Result<u64> {
    let rules = netns.run("nft", &["-a", "list", "ruleset"])?;
    let line = rules.lines().find(|line| line.contains(text)).context("no such rule")?;
    Ok(line.rsplit(' ').next().context("no handle")?.parse()?)
}

/// The rule sets of all namespaces of the lab.
fn rulesets(lab: &Lab) -> Result<Vec<String>> {
    lab.spaces().map(|(_, netns)| netns.run("nft", &["-a", "list", "ruleset"])).collect()
}

fn assert_rule(rule: &Value, chain: &str, handle: u64) {
    assert_eq!(rule["table"], "lab", "{rule}");
    assert_eq!(rule["chain"], chain, "{rule}");
    assert_eq!(rule["handle"], handle, "{rule}");
    assert_eq!(rule["policy"], false, "{rule}");
}

#[test]
fn a_traced_rule_in_a_chain_that_was_jumped_to() -> Result<()> {
    let lab = Lab::standard()?;
    let host = lab.netns("host")?;
    host.nft(
        "add chain inet lab sub
         add rule inet lab sub udp dport 9998 drop
         add rule inet lab sub udp dport 9999 counter drop
         add rule inet lab fwd.lxdbr0 udp dport 1-65535 jump sub",
    )?;
    let handle = handle(host, "udp dport 9999")?;
    for address in [WORLD, WORLD_V6] {
        let records = probe(&lab, address)?;
        let journey = records.assert_dropped(is_probe, "host nf_forward", "NETFILTER_DROP");
        let outcome = &journey.record["outcome"];
        assert_rule(&outcome["rule"], "sub", handle);
        assert_eq!(outcome["rule"]["hook"], "forward", "{outcome}");
        // Where the kernel side sees who decides, nobody asks what was traced.
        let is_traced = outcome["evidence"]["nft_trace"] == true;
        assert_eq!(is_traced, !records.knows_rules(), "{outcome}");
        let drops = &records.summary["drops"];
        assert_eq!(drops[0]["rule"], format!("inet lab sub handle {handle}"), "{drops}");
        assert_eq!(drops[0]["count"], 2, "{drops}");
        records.assert_nothing_lost();
    }
    Ok(())
}

#[test]
fn a_policy() -> Result<()> {
    let lab = Lab::standard()?;
    lab.netns("host")?.nft(
        "add rule inet lab fwd.lxdbr0 udp dport 9998 drop
         add chain inet lab fwd.lxdbr0 { policy drop; }",
    )?;
    let records = probe(&lab, WORLD)?;
    let journey = records.assert_dropped(is_probe, "host nf_forward", "NETFILTER_DROP");
    let rule = &journey.record["outcome"]["rule"];
    assert_eq!(rule["chain"], "fwd.lxdbr0", "{rule}");
    assert_eq!((&rule["policy"], &rule["handle"]), (&Value::Bool(true), &Value::Null), "{rule}");
    Ok(())
}

/// Two chains without a gap between them: no observer can tell them apart.
#[test]
fn one_of_two_chains_of_one_priority() -> Result<()> {
    let lab = Lab::standard()?;
    let host = lab.netns("host")?;
    host.nft(
        "add chain inet lab other { type filter hook forward priority 0; }
         add rule inet lab other udp dport 9999 reject",
    )?;
    let handle = handle(host, "udp dport 9999")?;
    let records = probe(&lab, WORLD)?;
    let journey = records.assert_dropped(is_probe, "host nf_forward", "NETFILTER_DROP");
    assert_rule(&journey.record["outcome"]["rule"], "other", handle);
    Ok(())
}

/// A frame that never sees the IP layer of the host: there is no observer in hooks of the bridge.
#[test]
fn a_rule_of_the_bridge() -> Result<()> {
    let lab = Lab::standard()?;
    let host = lab.netns("host")?;
    host.nft(
        "add table bridge lab
         add chain bridge lab pass { type filter hook forward priority 0; }
         add rule bridge lab pass ether type ip udp dport 9999 drop",
    )?;
    let handle = handle(host, "udp dport 9999")?;
    let records = probe(&lab, topology::C2)?;
    let journey = records.assert_dropped(is_probe, "host:veth-c1 *", "NETFILTER_DROP");
    let rule = &journey.record["outcome"]["rule"];
    assert_rule(rule, "pass", handle);
    assert_eq!(rule["family"], "bridge", "{rule}");
    Ok(())
}

/// Behind masquerading a packet has none of the addresses that were selected, and its answer gets
/// them back in the midst of a hook.
#[test]
fn what_nat_has_rewritten() -> Result<()> {
    let lab = Lab::standard()?;
    let (host, world) = (lab.netns("host")?, lab.netns("world")?);
    world.nft(
        "table inet lab {
            chain in { type filter hook input priority 0; udp dport 9999 drop
            }
        }",
    )?;
    let records = probe(&lab, WORLD)?;
    let journey = records.assert_dropped(is_probe, "world nf_input", "NETFILTER_DROP");
    assert_eq!(journey.record["nat"]["src"], UPLINK, "{journey}");
    assert_rule(&journey.record["outcome"]["rule"], "in", handle(world, "udp dport 9999")?);

    world.nft("flush chain inet lab in")?;
    host.nft(
        "add chain inet lab pre { type filter hook prerouting priority -150; }
         add rule inet lab pre icmp type echo-reply drop",
    )?;
    let records = Trace::during(&lab, &["--ip", C1, "--nft-trace"], || {
        assert_eq!(traffic::ping(lab.netns("c1")?, WORLD, 1)?, 0);
        Ok(())
    })?;
    let reply = |journey: &Journey| journey.proto() == "icmp" && journey.direction() == "reply";
    let journey = records.assert_dropped(reply, "host nf_prerouting", "NETFILTER_DROP");
    assert_rule(&journey.record["outcome"]["rule"], "pre", handle(host, "echo-reply")?);
    Ok(())
}

#[test]
fn the_rule_set_is_afterwards_as_it_was() -> Result<()> {
    let lab = Lab::standard()?;
    let before = rulesets(&lab)?;
    let owned = lab.has(Capability::OwnedTables)?;
    for signal in [Signal::INT, Signal::TERM, Signal::KILL] {
        let trace = Trace::start(&lab, &["--ip", C1, "--nft-trace"])?;
        let name = format!("table inet pathtrace-{}-", trace.pid());
        for (short, netns) in lab.spaces().filter(|(short, _)| *short != "c2") {
            let rules = netns.run("nft", &["list", "ruleset"])?;
            assert!(rules.contains(&name), "none in {short}: {rules}");
        }
        if owned {
            // It is nobody else's to remove.
            let c1 = lab.netns("c1")?;
            c1.nft("flush ruleset")?;
            assert!(c1.run("nft", &["list", "ruleset"])?.contains(&name));
        } else {
            notes::left_out("a table that is its process's own");
        }
        trace.signal(signal)?;
        trace.wait()?;
        if !owned && signal == Signal::KILL {
            // The next start removes what is left.
            Trace::start(&lab, &["--ip", C1])?.stop(&lab)?;
        }
        assert_eq!(rulesets(&lab)?, before, "after {signal:?}");
    }
    assert_eq!(traffic::ping(lab.netns("c1")?, WORLD, 1)?, 1);
    Ok(())
}

#[test]
fn without_it_no_table_is_added() -> Result<()> {
    let lab = Lab::standard()?;
    let before = rulesets(&lab)?;
    let trace = Trace::start(&lab, &["--ip", C1])?;
    assert_eq!(rulesets(&lab)?, before);
    trace.stop(&lab)?;
    Ok(())
}

#[test]
fn two_at_once_name_the_same_rule() -> Result<()> {
    let lab = Lab::standard()?;
    let host = lab.netns("host")?;
    host.nft("add rule inet lab fwd.lxdbr0 udp dport 9999 drop")?;
    let (before, handle) = (rulesets(&lab)?, handle(host, "udp dport 9999")?);
    let args = ["--ip", C1, "--nft-trace"];
    let traces = [Trace::start(&lab, &args)?, Trace::start(&lab, &args)?];
    traffic::udp_send(lab.netns("c1")?, at(WORLD, PORT)?, 2)?;
    for trace in traces {
        let records = trace.stop(&lab)?;
        let journey = records.assert_dropped(is_probe, "host nf_forward", "NETFILTER_DROP");
        assert_rule(&journey.record["outcome"]["rule"], "fwd.lxdbr0", handle);
    }
    assert_eq!(rulesets(&lab)?, before);
    Ok(())
}

#[test]
fn a_container_that_comes_and_goes() -> Result<()> {
    let mut lab = Lab::standard()?;
    let trace = Trace::start(&lab, &["--ip", C1, "--nft-trace"])?;
    lab.delete("c1")?;
    let start = Instant::now();
    while lab.netns("host")?.run("ip", &["link", "show", "veth-c1"]).is_ok() {
        assert!(start.elapsed() < Duration::from_secs(2), "veth-c1 is still there");
        thread::sleep(Duration::from_millis(20));
    }
    topology::container(&mut lab, "c1", C1, C1_V6)?;
    // It is noticed within two seconds.
    thread::sleep(Duration::from_millis(2500));
    let c1 = lab.netns("c1")?;
    c1.nft(
        "table inet lab {
            chain out { type filter hook output priority 0; udp dport 9999 drop
            }
        }",
    )?;
    traffic::udp_send(c1, at(WORLD, PORT)?, 1)?;
    let records = trace.stop(&lab)?;
    let journey = records.assert_dropped(is_probe, "c1 nf_output", "NETFILTER_DROP");
    assert_rule(&journey.record["outcome"]["rule"], "out", handle(lab.netns("c1")?, "9999")?);
    Ok(())
}
