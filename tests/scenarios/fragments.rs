//! Fragments: of one flow with their packet, and followed on as the packet that they are put together to.

use anyhow::Result;
use lab::{
    Capability, Journey, Lab, Records, Trace,
    topology::{self, C1, C2, HOST, WORLD},
    traffic::{self, at},
};

/// Bytes of a datagram that makes three fragments at an MTU of 1500.
const LARGE: usize = 4_000;

/// A large datagram from c1 to a socket of `server` at this address, and one back.
fn asked_and_answered(lab: &Lab, server: &str, address: &str) -> Result<Records> {
    let select = ["--ip", C1, "--ip", address, "--proto", "udp"];
    let records = Trace::during(lab, &select, || {
        let socket = traffic::udp_socket(lab.netns(server)?, at(address, 7)?)?;
        let client = traffic::udp_client(lab.netns("c1")?, at(address, 7)?)?;
        client.send(&[0; LARGE])?;
        let mut buffer = [0; 2 * LARGE];
        let (length, from) = socket.recv_from(&mut buffer)?;
        assert_eq!(length, LARGE);
        socket.send_to(&buffer[..length], from)?;
        assert_eq!(client.recv(&mut buffer)?, LARGE);
        Ok(())
    })?;
    records.assert_nothing_lost();
    Ok(records)
}

/// Asserts that all of it is one flow from c1, with ports.
fn assert_one_flow(records: &Records, address: &str) {
    assert!(!records.journeys.is_empty(), "{records}");
    for journey in &records.journeys {
        let flow = &journey.record["flow"];
        assert_eq!(flow["id"], records.journeys[0].record["flow"]["id"], "{journey}{records}");
        assert_eq!((&flow["src"], &flow["dst"]), (&C1.into(), &address.into()), "{journey}");
        let forth = &flow["dport"] == 7 && flow["sport"].is_u64();
        assert!(forth, "{flow} of {journey}");
        let sent_by_c1 = journey.record["packet"]["src"] == C1
            || journey.record["packet"]["src"] == topology::UPLINK;
        let direction = if sent_by_c1 { "original" } else { "reply" };
        assert_eq!(journey.direction(), direction, "{journey}");
    }
}

/// The packet that was put together in this namespace, of those that go in this direction, and asserts that the
/// other fragments of it are told to have ended in it there.
fn put_together<'a>(records: &'a Records, netns: &str, direction: &str) -> &'a Journey {
    let id = |journey: &Journey| journey.record["packet"]["id"].clone();
    let is_whole = |journey: &&Journey| {
        let parts = records.select(|part| part.record["packet"]["whole"] == id(journey));
        !parts.is_empty() && parts.iter().all(|part| part.end().starts_with(netns))
    };
    let of = records.of("udp", direction);
    let whole: Vec<_> = of.into_iter().filter(is_whole).collect();
    let [whole] = whole[..] else { panic!("put together {direction} in {netns}: {records}") };
    for part in records.select(|part| part.record["packet"]["whole"] == id(whole)) {
        assert_eq!(part.outcome(), "consumed", "{part}");
        let of = whole.record["packet"]["fragments"].as_array().expect("what it was made from");
        assert!(of.contains(&id(part)), "{of:?} without {part}");
    }
    whole
}

#[test]
fn fragments_to_a_local_socket_are_delivered_as_the_packet_that_they_become() -> Result<()> {
    let lab = Lab::standard()?;

    let records = asked_and_answered(&lab, "host", HOST)?;

    assert_one_flow(&records, HOST);
    let asked = put_together(&records, "host", "original");
    asked.assert_passes(&[
        "c1:eth0 dev_xmit",
        "host:veth-c1 dev_receive",
        "host:lxdbr0 nf_prerouting",
        "host:lxdbr0 nf_input",
    ]);
    asked.assert_delivered("host");
    let answered = put_together(&records, "c1", "reply");
    answered.assert_passes(&["host:lxdbr0 dev_xmit", "c1:eth0 dev_receive", "c1:eth0 nf_input"]);
    answered.assert_delivered("c1");
    assert!(records.select(|journey| journey.outcome() == "lost").is_empty(), "{records}");
    Ok(())
}

#[test]
fn fragments_go_through_a_bridge_as_a_whole_and_are_cut_again() -> Result<()> {
    let lab = Lab::standard()?;
    if lab.lacks(&[Capability::BridgeNetfilter])? {
        return Ok(());
    }
    topology::bridged_through_ip_hooks(lab.netns("host")?, true)?;

    let records = asked_and_answered(&lab, "c2", C2)?;

    assert_one_flow(&records, C2);
    let first = put_together(&records, "host", "original");
    first.assert_passes(&[
        "c1:eth0 dev_xmit",
        "host:veth-c1 dev_receive",
        "host:lxdbr0 nf_prerouting",
        "host:lxdbr0 nf_forward",
        "host:veth-c2 dev_xmit",
        "c2:eth0 dev_receive",
    ]);
    assert_ne!(first.end(), "host:lxdbr0 nf_prerouting", "{first}");
    put_together(&records, "host", "reply");
    put_together(&records, "c2", "original").assert_delivered("c2");
    put_together(&records, "c1", "reply").assert_delivered("c1");
    assert!(records.select(|journey| journey.outcome() == "lost").is_empty(), "{records}");
    Ok(())
}

#[test]
fn fragments_behind_nat_are_followed_although_they_tell_no_ports() -> Result<()> {
    let lab = Lab::standard()?;

    let records = Trace::during(&lab, &["--ip", C1, "--port", "7"], || {
        let socket = traffic::udp_socket(lab.netns("world")?, at(WORLD, 7)?)?;
        let client = traffic::udp_client(lab.netns("c1")?, at(WORLD, 7)?)?;
        client.send(&[0; LARGE])?;
        let mut buffer = [0; 2 * LARGE];
        let (length, from) = socket.recv_from(&mut buffer)?;
        socket.send_to(&buffer[..length], from)?;
        assert_eq!(client.recv(&mut buffer)?, LARGE);
        Ok(())
    })?;

    assert_one_flow(&records, WORLD);
    let rewritten = put_together(&records, "host", "original");
    rewritten.assert_passes(&["c1:eth0 dev_xmit", "host nat", "host:eth-up dev_xmit"]);
    let nats = rewritten.hops().iter().filter(|hop| hop.ends_with(" nat")).count();
    assert_eq!(nats, 1, "{rewritten}");
    put_together(&records, "world", "original").assert_delivered("world");
    let answered = put_together(&records, "host", "reply");
    answered.assert_passes(&["world:eth0 dev_xmit", "host nat", "host:veth-c1 dev_xmit"]);
    put_together(&records, "c1", "reply").assert_delivered("c1");
    records.assert_nothing_lost();
    Ok(())
}
