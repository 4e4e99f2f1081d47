//! What is special about frames: VLAN tags, devices that end on this machine, and what is left of
//! packets in the kernel side's table when they are gone.

use std::{net::Ipv4Addr, thread, time::Duration};

use anyhow::Result;
use lab::{
    Capability, Journey, Lab, Records, Trace,
    frames::{self, Tap},
    pace::{patience, slowness},
    topology::{C1, C2, WORLD},
    traffic::{self, at},
};
use pnet_base::MacAddr;

/// What a bridge that does not filter VLANs passes on: `c2`'s address is nobody's, so it floods.
const TO_ANYONE: MacAddr = MacAddr(0x02, 0, 0, 0, 0, 0x99);
const FROM: MacAddr = MacAddr(0x02, 0, 0, 0, 0, 0x11);

fn tagged(lab: &Lab, tags: &[u16]) -> Result<()> {
    let (from, to): (Ipv4Addr, Ipv4Addr) = (C1.parse()?, C2.parse()?);
    let frame = frames::tagged_udp((FROM, from, 4000), (TO_ANYONE, to, 5000), tags, b"tagged")?;
    frames::send(lab.netns("c1")?, "eth0", &frame)
}

#[test]
fn vlan_tags_are_looked_through() -> Result<()> {
    let lab = Lab::standard()?;
    for tags in [&[][..], &[100], &[100, 200]] {
        let records = Trace::during(&lab, &["--ip", C2, "--dport", "5000"], || tagged(&lab, tags))?;
        let found = records.select(|j| j.flow("src") == C1 && j.flow("dport") == "5000");
        assert!(!found.is_empty(), "with tags {tags:?}: nothing in\n{records}");
        let steps = ["c1:eth0 dev_xmit", "host:veth-c1 dev_receive"];
        assert!(found.iter().any(|j| steps.iter().all(|s| j.hops().iter().any(|h| h == s))));
    }
    Ok(())
}

#[test]
fn a_packet_that_leaves_by_a_device_that_ends_here_is_transmitted() -> Result<()> {
    let lab = Lab::standard()?;
    let host = lab.netns("host")?;
    let _tap = Tap::create(host, "tap0")?;
    host.ip("addr add 192.0.2.1/24 dev tap0
         link set tap0 up
         neigh replace 192.0.2.2 lladdr 02:00:00:00:00:22 dev tap0 nud permanent")?;

    let records = Trace::during(&lab, &["--ip", C1, "--proto", "udp"], || {
        traffic::udp_send(lab.netns("c1")?, at("192.0.2.2", 9)?, 3)
    })?;

    let journeys = records.of("udp", "original");
    assert_eq!(journeys.len(), 3, "{records}");
    for journey in journeys {
        journey.assert_passes(&["c1:eth0 dev_xmit", "host nf_forward", "host:tap0 dev_xmit"]);
        journey.assert_ends("transmitted", "host:tap0 dev_xmit");
        assert_eq!(journey.record["nat"]["src"], "192.0.2.1", "{journey}");
    }
    Ok(())
}

#[test]
fn packets_that_are_gone_leave_the_table() -> Result<()> {
    let lab = Lab::standard()?;
    let (c1, world) = (lab.netns("c1")?, lab.netns("world")?);
    let trace = Trace::start(&lab, &["-v", "--ip", C1])?;

    traffic::ping(c1, WORLD, 3)?;
    traffic::tcp(c1, world, at(WORLD, 8080)?, 1 << 20)?;
    traffic::udp_echo(c1, world, at(WORLD, 5353)?, 20)?;
    traffic::udp_send(c1, at(WORLD, 9999)?, 5)?;
    // TCP frees without a tracepoint: its packets are removed once they count as delivered.
    thread::sleep(patience(Duration::from_secs(1)));
    trace.signal(rustix::process::Signal::INT)?;
    let ended = trace.wait()?;

    let holds = "the table of followed packets holds ";
    let line = ended.stderr.lines().find_map(|line| line.split_once(holds)).map(|(_, n)| n);
    assert_eq!(line, Some("0 at the end"), "{}", ended.stderr);
    Ok(())
}

#[test]
fn segments_that_the_host_cuts_do_not_take_over_delivered_packets() -> Result<()> {
    let lab = Lab::standard()?;
    if lab.lacks(&[Capability::Delivery])? {
        return Ok(());
    }
    let (c1, host, world) = (lab.netns("c1")?, lab.netns("host")?, lab.netns("world")?);
    // A device that takes no large segments: the kernel cuts them, in memory just given back.
    host.ip("link set eth-up gso_max_segs 1")?;

    let records = Trace::during(&lab, &["--ip", C1, "--proto", "tcp"], || {
        traffic::tcp(c1, world, at(WORLD, 8080)?, 1 << 20)
    })?;

    let replies = records.of("tcp", "reply");
    assert!(replies.len() > 3, "{records}");
    for reply in replies {
        // On a slow machine TCP sends some twice, and drops the second itself.
        let dropped_by_tcp = slowness() > 1 && reply.reason().starts_with("TCP_");
        assert!(reply.outcome() == "delivered" || dropped_by_tcp, "{reply}");
        reply.assert_avoids("host:eth-up dev_xmit");
    }
    if lab.has(Capability::Point("segment"))? {
        assert_pieces(&records, "tcp", "segment");
    }
    Ok(())
}

#[test]
fn fragments_are_told_as_pieces_of_their_packet() -> Result<()> {
    let lab = Lab::standard()?;
    if lab.lacks(&[Capability::Point("fragment")])? {
        return Ok(());
    }
    let (c1, host, world) = (lab.netns("c1")?, lab.netns("host")?, lab.netns("world")?);
    host.ip("link set eth-up mtu 1000")?;
    // What c1 sends may be fragmented on its way.
    c1.sysctl("net.ipv4.ip_no_pmtu_disc", "1")?;

    let records = Trace::during(&lab, &["--ip", C1, "--proto", "udp"], || {
        let server = traffic::udp_socket(world, at(WORLD, 7)?)?;
        traffic::udp_client(c1, at(WORLD, 7)?)?.send(&[0; 1400])?;
        assert_eq!(server.recv(&mut [0; 2000])?, 1400);
        Ok(())
    })?;

    let pieces = assert_pieces(&records, "udp", "fragment");
    assert_eq!(pieces, 2, "{records}");
    assert!(records.select(|journey| journey.outcome() == "dropped").is_empty(), "{records}");
    Ok(())
}

/// Asserts that there are packets that were cut from one that the trace tells of, and that they were
/// sent by the uplink in its stead; their number.
fn assert_pieces(records: &Records, proto: &str, point: &str) -> usize {
    let id = |journey: &Journey| journey.record["packet"]["id"].clone();
    let pieces = records.select(|journey| !journey.record["packet"]["parent"].is_null());
    let pieces: Vec<_> =
        pieces.into_iter().filter(|piece| piece.hops()[0].ends_with(point)).collect();
    assert!(!pieces.is_empty(), "{records}");
    for piece in &pieces {
        let parent = records.select(|other| id(other) == piece.record["packet"]["parent"]);
        assert_eq!(parent.len(), 1, "the packet that this one was cut from: {piece}");
        assert_eq!(parent[0].proto(), proto, "{}", parent[0]);
        piece.assert_passes(&["host:eth-up dev_xmit"]);
    }
    pieces.len()
}
