//! LXD as it is: its bridge, forwards, proxies, access control lists, filters, DHCP and DNS.

use std::collections::BTreeSet;

use anyhow::Result;
use lab::{
    Journey, Records, Trace,
    runtimes::{Host, Runtime, docker, lxd},
    topology::{C1, HOST, UPLINK, WORLD, WORLD_LINK},
    traffic::{self, at},
};
use serde_json::json;

/// From the container to the world.
const OUT: [&str; 12] = [
    "c1 nf_output",
    "c1:eth0 dev_queue",
    "c1:eth0 dev_xmit",
    "host dev_receive",
    "host:lxdbr0 dev_receive",
    "host route",
    "host nf_forward",
    "host nf_postrouting",
    "host nat",
    "host:eth-up dev_xmit",
    "world:eth0 dev_receive",
    "world nf_input",
];

/// The answer, from the world on.
const BACK: [&str; 11] = [
    "world nf_output",
    "world:eth0 dev_xmit",
    "host:eth-up dev_receive",
    "host:eth-up nf_prerouting",
    "host nat",
    "host route",
    "host nf_forward",
    "host nf_postrouting",
    "host:lxdbr0 dev_xmit",
    "c1:eth0 dev_receive",
    "c1 nf_input",
];

/// A port that nobody listens at.
const PORT: u16 = 9999;

fn is_probe(journey: &Journey) -> bool {
    journey.proto() == "udp" && journey.flow("dport") == PORT.to_string()
}

/// A host with LXD and c1 in it.
fn host_of_c1() -> Result<Option<Host>> {
    let Some(mut host) = Host::with(&[Runtime::Lxd])? else { return Ok(None) };
    lxd::launch(&mut host, "c1", C1)?;
    Ok(Some(host))
}

/// Traces two datagrams from c1 to the world.
fn probe(host: &Host) -> Result<Records> {
    Trace::during(host.lab(), &["--ip", C1], || {
        traffic::udp_send(host.netns("c1")?, at(WORLD, PORT)?, 2)
    })
}

#[test]
fn an_lxd_container_reaches_the_world_and_is_answered() -> Result<()> {
    let Some(host) = host_of_c1()? else { return Ok(()) };
    let (c1, world) = (host.netns("c1")?, host.netns("world")?);
    let records = Trace::during(host.lab(), &["--ip", C1], || {
        assert_eq!(traffic::ping(c1, WORLD, 2)?, 2);
        traffic::tcp(c1, world, at(WORLD, 8080)?, 100_000)?;
        traffic::udp_echo(c1, world, at(WORLD, 5353)?, 2)
    })?;
    for proto in ["icmp", "tcp", "udp"] {
        records.assert_delivered(proto, "original", &OUT);
        records.assert_delivered(proto, "reply", &BACK);
    }
    for journey in records.of("udp", "original") {
        assert_eq!(journey.record["nat"]["src"], UPLINK, "{journey}");
        journey.assert_container("c1", "lxd:c1");
    }
    records.assert_nothing_lost();
    Ok(())
}

#[test]
fn an_lxd_network_forward_is_followed_from_the_nic() -> Result<()> {
    let Some(host) = host_of_c1()? else { return Ok(()) };
    host.run("lxc", &["network", "forward", "create", "lxdbr0", UPLINK])?;
    let port = ["network", "forward", "port", "add", "lxdbr0", UPLINK, "tcp", "8080", C1, "80"];
    host.run("lxc", &port)?;
    assert_published(&host, 8080)
}

#[test]
fn an_lxd_proxy_by_nat_is_followed_from_the_nic() -> Result<()> {
    let Some(host) = host_of_c1()? else { return Ok(()) };
    let listen = format!("listen=tcp:{UPLINK}:8081");
    let connect = format!("connect=tcp:{C1}:80");
    let device = ["config", "device", "add", "c1", "web", "proxy", &listen, &connect, "nat=true"];
    host.run("lxc", &device)?;
    assert_published(&host, 8081)
}

/// Asserts that c1's server is reached through this port of the host, and both ways are seen whole.
fn assert_published(host: &Host, port: u16) -> Result<()> {
    let records = Trace::during(host.lab(), &["--ip", C1], || {
        traffic::http_get(host.netns("world")?, at(UPLINK, port)?).map(drop)
    })?;
    let inwards = ["world:eth0 dev_xmit", "host:eth-up dev_receive", "host nat", "c1 nf_input"];
    records.assert_delivered("tcp", "original", &inwards);
    let outwards = ["c1:eth0 dev_xmit", "host nat", "host:eth-up dev_xmit", "world nf_input"];
    records.assert_delivered("tcp", "reply", &outwards);
    for journey in records.of("tcp", "original") {
        assert_eq!((journey.flow("src"), journey.flow("dst")), (WORLD_LINK.into(), UPLINK.into()));
        assert_eq!(journey.record["nat"]["dst"], C1, "{journey}");
        assert_eq!(journey.record["nat"]["dport"], 80, "{journey}");
    }
    Ok(())
}

#[test]
fn an_lxd_proxy_by_a_process_is_two_flows() -> Result<()> {
    let Some(host) = host_of_c1()? else { return Ok(()) };
    let listen = format!("listen=tcp:{UPLINK}:8082");
    let connect = "connect=tcp:127.0.0.1:80";
    host.run("lxc", &["config", "device", "add", "c1", "web", "proxy", &listen, connect])?;
    let records = Trace::during(host.lab(), &["--port", "8082", "--port", "80"], || {
        traffic::http_get(host.netns("world")?, at(UPLINK, 8082)?).map(drop)
    })?;
    let to =
        |port: &str| records.select(|j| j.flow("dport") == port && j.direction() == "original");
    let (outer, inner) = (to("8082"), to("80"));
    assert!(!outer.is_empty() && !inner.is_empty(), "{records}");
    // One process of LXD reads what comes in at the host, and the answers within the container.
    let readers = |journeys: &[&Journey], step: &str| -> BTreeSet<Option<u64>> {
        let details = journeys.iter().flat_map(|journey| journey.details(step));
        details.map(|detail| detail["pid"].as_u64()).collect()
    };
    let answers = records.select(|j| j.flow("dport") == "80" && j.direction() == "reply");
    let reader = readers(&outer, "host socket");
    assert_eq!(reader.len(), 1, "{records}");
    assert_eq!(readers(&answers, "c1 socket"), reader, "{records}");
    for journey in outer {
        journey.assert_passes(&["host:eth-up dev_receive", "host nf_input"]);
        journey.assert_delivered("host");
        journey.assert_avoids("host nf_forward").assert_avoids("c1 *");
    }
    for journey in inner {
        journey.assert_passes(&["c1:lo dev_xmit", "c1:lo dev_receive"]).assert_delivered("c1");
        journey.assert_avoids("host *");
    }
    Ok(())
}

#[test]
fn a_rule_of_an_lxd_acl_is_named() -> Result<()> {
    let Some(host) = host_of_c1()? else { return Ok(()) };
    host.run("lxc", &["network", "acl", "create", "strict"])?;
    let to = format!("destination={WORLD}/32");
    host.run("lxc", &["network", "acl", "rule", "add", "strict", "egress", "action=drop", &to])?;
    host.run("lxc", &["network", "set", "lxdbr0", "security.acls=strict"])?;
    let records = probe(&host)?;
    let journey = records.assert_dropped(is_probe, "host nf_forward", "NETFILTER_DROP");
    let fields = json!({ "family": "inet", "table": "lxd", "hook": "forward", "policy": false });
    records.assert_rule(journey, &fields);
    let text = journey.rule()["text"].as_str().unwrap_or_default();
    assert!(text.contains(WORLD) && text.ends_with("drop"), "{}", journey.rule());
    Ok(())
}

#[test]
fn what_lxds_mac_filter_drops_is_told() -> Result<()> {
    let Some(host) = host_of_c1()? else { return Ok(()) };
    filter(&host, "security.mac_filtering=true")?;
    let c1 = host.netns("c1")?;
    c1.ip("link set eth0 address 00:16:3e:66:66:66")?;
    know_the_host(&host)?;
    assert_filtered(&probe(&host)?);
    Ok(())
}

#[test]
fn what_lxds_address_filter_drops_is_told() -> Result<()> {
    let Some(host) = host_of_c1()? else { return Ok(()) };
    filter(&host, "security.ipv4_filtering=true")?;
    let c1 = host.netns("c1")?;
    c1.ip("addr add 10.0.100.77/24 dev eth0
         route replace default via 10.0.100.1 dev eth0 src 10.0.100.77")?;
    know_the_host(&host)?;
    let records = Trace::during(host.lab(), &["--ip", "10.0.100.77"], || {
        traffic::udp_send(c1, at(WORLD, PORT)?, 2)
    })?;
    assert_filtered(&records);
    Ok(())
}

/// Sets a filter of c1's interface.
fn filter(host: &Host, setting: &str) -> Result<()> {
    host.run("lxc", &["config", "device", "set", "c1", "eth0", setting]).map(drop)
}

/// Lets c1 know the host's link-layer address: its ARP requests are filtered too.
fn know_the_host(host: &Host) -> Result<()> {
    let address = host.run("cat", &["/sys/class/net/lxdbr0/address"])?;
    let known = format!("neigh replace {HOST} lladdr {} dev eth0 nud permanent", address.trim());
    host.netns("c1")?.ip(&known)
}

/// Where the kernel does not tell the rule, the family is known.
fn assert_filtered(records: &Records) {
    let dropped = records.assert_dropped(is_probe, "host *", "NETFILTER_DROP");
    if records.knows_rules() {
        let fields = json!({ "family": "bridge", "table": "lxd", "policy": false });
        records.assert_rule(dropped, &fields);
    } else {
        assert!(dropped.why().contains("rule of the bridge family"), "{}", dropped.why());
        assert!(dropped.record["outcome"].to_string().contains("nft list ruleset bridge"));
    }
}

#[test]
fn an_lxd_container_gets_its_address() -> Result<()> {
    let Some(mut host) = Host::with(&[Runtime::Lxd])? else { return Ok(()) };
    lxd::create(&host, "c1", C1)?;
    let trace = Trace::start(host.lab(), &["--port", "67", "--port", "68"])?;
    lxd::boot(&mut host, "c1")?;
    lxd::wait_for_address(&host, "c1", C1)?;
    let records = trace.stop(host.lab())?;
    let from = |address: &str| records.select(|journey| journey.flow("src") == address);
    let (requests, offers) = (from("0.0.0.0"), from(HOST));
    assert!(requests.len() >= 2, "to discover and to request: {records}");
    for request in requests {
        request.assert_passes(&["c1 dev_xmit", "host dev_receive", "host:lxdbr0 nf_input"]);
        request.assert_delivered("host");
    }
    let is_taken = |journey: &&&Journey| journey.outcome() == "delivered";
    let taken: Vec<_> = offers.iter().filter(is_taken).collect();
    assert!(taken.len() >= 2, "an offer and an acknowledgement: {records}");
    for offer in taken {
        offer.assert_passes(&["host:lxdbr0 dev_xmit", "c1 dev_receive"]).assert_delivered("c1");
    }
    Ok(())
}

#[test]
fn an_lxd_container_asks_for_a_name() -> Result<()> {
    let Some(host) = host_of_c1()? else { return Ok(()) };
    let records = Trace::during(host.lab(), &["--ip", C1, "--port", "53"], || {
        host.run("lxc", &["exec", "c1", "--", "nslookup", "c1.lxd", HOST]).map(drop)
    })?;
    let question = ["c1:eth0 dev_xmit", "host:lxdbr0 dev_receive", "host nf_input"];
    records.assert_delivered("udp", "original", &question);
    let answer = ["host nf_output", "host:lxdbr0 dev_xmit", "c1:eth0 dev_receive", "c1 nf_input"];
    records.assert_delivered("udp", "reply", &answer);
    Ok(())
}

#[test]
fn an_lxd_container_that_restarts_is_followed_on() -> Result<()> {
    let Some(mut host) = host_of_c1()? else { return Ok(()) };
    let before = host.netns("c1")?.inode();
    let trace = Trace::start(host.lab(), &["--ip", C1, "--proto", "icmp"])?;
    assert_eq!(traffic::ping(host.netns("c1")?, WORLD, 1)?, 1);
    host.run("lxc", &["stop", "-f", "c1"])?;
    lxd::boot(&mut host, "c1")?;
    lxd::wait_for_address(&host, "c1", C1)?;
    assert_ne!(host.netns("c1")?.inode(), before);
    assert_eq!(traffic::ping(host.netns("c1")?, WORLD, 1)?, 1);
    let records = trace.stop(host.lab())?;
    let of_new = records.select(|j| j.hops().iter().any(|hop| hop.starts_with("c1:")));
    assert_eq!(of_new.len(), 2, "{records}");
    for journey in of_new {
        journey.assert_passes(&["host dev_receive", "host nat"]);
        journey.assert_passes(&["host dev_receive", "host nf_forward"]);
        assert_eq!(journey.outcome(), "delivered", "{journey}");
        journey.assert_container("c1", "lxd:c1");
    }
    Ok(())
}

#[test]
fn dockers_policy_drops_what_lxd_accepts() -> Result<()> {
    // Docker first: it closes the way for others where it was the one to open it.
    let Some(mut host) = Host::with(&[Runtime::Docker, Runtime::Lxd])? else { return Ok(()) };
    docker::run(&mut host, "web", &[])?;
    lxd::launch(&mut host, "c1", C1)?;
    let records = probe(&host)?;
    let journey = records.assert_dropped(is_probe, "host nf_forward", "NETFILTER_DROP");
    let fields = json!({
        "family": "ip", "table": "filter", "chain": "FORWARD", "hook": "forward", "policy": true,
    });
    records.assert_rule(journey, &fields);
    assert!(journey.why().contains("Docker sets it to drop"), "{}", journey.why());
    Ok(())
}
