//! Packets of a container through the host to the world and back, and to its neighbour.

use anyhow::Result;
use lab::{
    Capability, Lab, Trace,
    topology::{self, C1, C2, UPLINK, WORLD},
    traffic::{self, at},
};

/// From c1 through bridge, routing, rules and NAT to the world.
const OUT: [&str; 14] = [
    "c1 nf_output",
    "c1:eth0 dev_queue",
    "c1:eth0 dev_xmit",
    "host:veth-c1 dev_receive",
    "host:lxdbr0 dev_receive",
    "host:lxdbr0 nf_prerouting",
    "host route",
    "host nf_forward",
    "host nf_postrouting",
    "host nat",
    "host:eth-up dev_queue",
    "host:eth-up dev_xmit",
    "world:eth0 dev_receive",
    "world nf_input",
];

/// The answer, followed from the world on: before NAT is undone.
const BACK: [&str; 12] = [
    "world nf_output",
    "world:eth0 dev_xmit",
    "host:eth-up dev_receive",
    "host:eth-up nf_prerouting",
    "host nat",
    "host route",
    "host nf_forward",
    "host nf_postrouting",
    "host:lxdbr0 dev_xmit",
    "host:veth-c1 dev_xmit",
    "c1:eth0 dev_receive",
    "c1 nf_input",
];

#[test]
fn ping_and_its_reply() -> Result<()> {
    let lab = Lab::standard()?;
    let records = Trace::during(&lab, &["--ip", C1, "--proto", "icmp"], || {
        assert_eq!(traffic::ping(lab.netns("c1")?, WORLD, 3)?, 3);
        Ok(())
    })?;
    records.assert_delivered("icmp", "original", &OUT);
    records.assert_delivered("icmp", "reply", &BACK);
    assert_eq!(records.of("icmp", "original").len(), 3, "{records}");
    assert_eq!(records.of("icmp", "reply").len(), 3, "{records}");
    let flow = &records.journeys[0].record["flow"]["id"];
    for journey in &records.journeys {
        assert_eq!(&journey.record["flow"]["id"], flow, "one flow, both directions: {journey}");
        assert!(journey.flow("src") == C1 && journey.is_to(WORLD), "as sent: {journey}");
    }
    for journey in records.of("icmp", "original") {
        assert_eq!(journey.record["nat"]["src"], UPLINK, "{journey}");
    }
    for journey in records.of("icmp", "reply") {
        assert_eq!(journey.record["nat"]["dst"], C1, "{journey}");
    }
    records.assert_nothing_lost();
    if lab.has(Capability::Delivery)? {
        assert_eq!(records.summary["outcomes"]["delivered"], 6, "{}", records.summary);
    }
    Ok(())
}

#[test]
fn tcp_connection_with_a_megabyte() -> Result<()> {
    let lab = Lab::standard()?;
    let records = Trace::during(&lab, &["--ip", C1, "--proto", "tcp"], || {
        traffic::tcp(lab.netns("c1")?, lab.netns("world")?, at(WORLD, 8080)?, 1_000_000)
    })?;
    records.assert_delivered("tcp", "original", &OUT);
    records.assert_delivered("tcp", "reply", &BACK);
    let bytes: u64 = records
        .of("tcp", "original")
        .iter()
        .filter_map(|journey| journey.record["length"].as_u64())
        .sum();
    records.assert_nothing_lost();
    assert!(bytes > 1_000_000, "{bytes} bytes in the journeys of a megabyte:\n{records}");
    Ok(())
}

#[test]
fn udp_both_ways() -> Result<()> {
    let lab = Lab::standard()?;
    let records = Trace::during(&lab, &["--ip", C1, "--port", "5353"], || {
        traffic::udp_echo(lab.netns("c1")?, lab.netns("world")?, at(WORLD, 5353)?, 5)
    })?;
    records.assert_delivered("udp", "original", &OUT);
    records.assert_delivered("udp", "reply", &BACK);
    assert_eq!(records.of("udp", "original").len(), 5, "{records}");
    assert_eq!(records.of("udp", "reply").len(), 5, "{records}");
    Ok(())
}

#[test]
fn two_containers_on_one_bridge() -> Result<()> {
    let lab = Lab::standard()?;
    let records = Trace::during(&lab, &["--src", C1, "--dst", C2, "--proto", "icmp"], || {
        assert_eq!(traffic::ping(lab.netns("c1")?, C2, 2)?, 2);
        Ok(())
    })?;
    records.assert_delivered(
        "icmp",
        "original",
        &[
            "c1:eth0 dev_xmit",
            "host:veth-c1 dev_receive",
            "host:veth-c2 dev_xmit",
            "c2:eth0 dev_receive",
            "c2 nf_input",
        ],
    );
    for journey in &records.journeys {
        journey.assert_avoids("host route").assert_avoids("host nf_forward");
    }
    Ok(())
}

#[test]
fn bridged_packets_in_the_hooks_of_ip() -> Result<()> {
    let lab = Lab::standard()?;
    if lab.lacks(&[Capability::BridgeNetfilter])? {
        return Ok(());
    }
    topology::bridged_through_ip_hooks(lab.netns("host")?, true)?;
    let records = Trace::during(&lab, &["--src", C1, "--dst", C2, "--proto", "icmp"], || {
        assert_eq!(traffic::ping(lab.netns("c1")?, C2, 1)?, 1);
        Ok(())
    })?;
    records.assert_delivered(
        "icmp",
        "original",
        &["host:veth-c1 dev_receive", "host nf_forward", "host:veth-c2 dev_xmit", "c2 nf_input"],
    );
    Ok(())
}
