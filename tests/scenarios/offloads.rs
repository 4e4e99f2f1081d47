//! Packets that a veth pair does not hand on as they are.

use anyhow::Result;
use lab::{
    Capability, Journey, Lab, Records, Trace,
    offload::{self, Offload, XdpPass},
    topology::{C1, C2, WORLD},
    traffic::{self, at},
};
use serde_json::Value;

fn id(journey: &Journey) -> &Value {
    &journey.record["packet"]["id"]
}

/// Those that this one was copied to.
fn copies<'a>(records: &'a Records, of: &Journey) -> Vec<&'a Journey> {
    records.select(|copy| &copy.record["packet"]["parent"] == id(of))
}

#[test]
fn what_is_copied_for_an_xdp_program_goes_on_as_the_copy() -> Result<()> {
    let lab = Lab::standard()?;
    let (c1, host, world) = (lab.netns("c1")?, lab.netns("host")?, lab.netns("world")?);
    let _programs = [XdpPass::attach(host, "veth-c1")?, XdpPass::attach(c1, "eth0")?];

    let records = Trace::during(&lab, &["--ip", C1], || {
        assert_eq!(traffic::ping(c1, WORLD, 2)?, 2);
        traffic::udp_echo(c1, world, at(WORLD, 7)?, 2)
    })?;

    for (proto, direction, left_by, arrives) in [
        ("icmp", "original", "c1:eth0 dev_xmit", "host:veth-c1 dev_receive"),
        ("icmp", "reply", "host:veth-c1 dev_xmit", "c1:eth0 dev_receive"),
        ("udp", "original", "c1:eth0 dev_xmit", "host:veth-c1 dev_receive"),
        ("udp", "reply", "host:veth-c1 dev_xmit", "c1:eth0 dev_receive"),
    ] {
        let journeys = records.of(proto, direction);
        let flow = |journey: &Journey| journey.record["flow"]["id"].clone();
        let left: Vec<_> = journeys.iter().filter(|j| j.outcome() == "transmitted").collect();
        assert_eq!(left.len(), 2, "{records}");
        for journey in left {
            journey.assert_ends("transmitted", left_by);
            let [copy] = copies(&records, journey)[..] else { panic!("{journey}{records}") };
            assert!(copy.hops()[0].ends_with(" copy"), "{copy}");
            copy.assert_passes(&[arrives]);
            assert_eq!(flow(copy), flow(journey), "{records}");
            let end = if direction == "original" { "world" } else { "c1" };
            copy.assert_delivered(end);
        }
    }
    records.assert_nothing_lost();
    Ok(())
}

#[test]
fn what_receive_offload_puts_together_is_delivered_as_one() -> Result<()> {
    let lab = Lab::standard()?;
    if lab.lacks(&[Capability::VethReceiveOffload])? {
        return Ok(());
    }
    let (c1, c2, host) = (lab.netns("c1")?, lab.netns("c2")?, lab.netns("host")?);
    // The kernel cuts what c1 sends, and the pieces come to the host's end in one go.
    offload::set(c1, "eth0", Offload::LargeSegments, false)?;
    offload::set(host, "veth-c1", Offload::MergeReceived, true)?;

    let select = ["--ip", C1, "--ip", C2, "--proto", "tcp"];
    let records = Trace::during(&lab, &select, || traffic::tcp(c1, c2, at(C2, 7)?, 1 << 20))?;

    for journey in records.of("tcp", "original") {
        let is_good = match journey.outcome() {
            "delivered" => journey.end().starts_with("c2:"),
            // A piece that another one has taken in; what was cut; and what TCP sent once more.
            "transmitted" => journey.end() == "c1:eth0 dev_xmit",
            "consumed" => journey.end().starts_with("c1:eth0"),
            "dropped" => journey.reason().starts_with("TCP_OLD_"),
            _ => false,
        };
        assert!(is_good, "{journey}");
    }
    let merged = records.select(|journey| {
        journey.outcome() == "delivered"
            && journey.direction() == "original"
            && journey.record["length"].as_u64() > Some(1_514)
    });
    assert!(!merged.is_empty(), "{records}");
    for journey in merged {
        journey.assert_passes(&["host:veth-c1 dev_receive", "host:veth-c2 dev_xmit"]);
    }
    records.assert_nothing_lost();
    Ok(())
}
