//! Packets between a container and the host itself.

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::TcpStream,
    process,
};

use anyhow::{Context, Result};
use lab::{
    Lab, Trace,
    topology::{C1, HOST, WORLD},
    traffic::{self, at},
};
use serde_json::json;

/// Without a look-up of a route: an established connection's socket knows it.
const TO_HOST: [&str; 5] = [
    "c1:eth0 dev_xmit",
    "host:veth-c1 dev_receive",
    "host:lxdbr0 dev_receive",
    "host:lxdbr0 nf_prerouting",
    "host:lxdbr0 nf_input",
];

const TO_CONTAINER: [&str; 6] = [
    "host nf_output",
    "host nf_postrouting",
    "host:lxdbr0 dev_xmit",
    "host:veth-c1 dev_xmit",
    "c1:eth0 dev_receive",
    "c1 nf_input",
];

#[test]
fn container_to_a_socket_of_the_host() -> Result<()> {
    let lab = Lab::standard()?;
    let records = Trace::during(&lab, &["--ip", C1], || {
        let (c1, host) = (lab.netns("c1")?, lab.netns("host")?);
        for port in 8080..8085 {
            traffic::tcp(c1, host, at(HOST, port)?, 10)?;
        }
        traffic::udp_echo(c1, host, at(HOST, 5353)?, 3)
    })?;
    for proto in ["tcp", "udp"] {
        records.assert_delivered(proto, "original", &TO_HOST);
        records.assert_delivered(proto, "reply", &TO_CONTAINER);
    }
    for datagram in records.of("udp", "original") {
        datagram.assert_avoids("host nf_forward");
    }
    // Who reads is told where the kernel tells it: of TCP's data that was not merged with other,
    // if it is read soon.
    let segments = records.of("tcp", "original");
    assert!(segments.iter().any(|segment| segment.end() == "host:- socket"), "{records}");
    Ok(())
}

#[test]
fn host_to_a_container() -> Result<()> {
    let lab = Lab::standard()?;
    let records = Trace::during(&lab, &["--ip", C1], || {
        let (c1, host) = (lab.netns("c1")?, lab.netns("host")?);
        assert_eq!(traffic::ping(host, C1, 2)?, 2);
        traffic::tcp(host, c1, at(C1, 8080)?, 10_000)
    })?;
    for proto in ["icmp", "tcp"] {
        records.assert_delivered(proto, "original", &TO_CONTAINER);
        records.assert_delivered(proto, "reply", &TO_HOST);
    }
    Ok(())
}

#[test]
fn the_host_refuses_a_container_and_is_refused() -> Result<()> {
    let lab = Lab::standard()?;
    let (host, c1) = (lab.netns("host")?, lab.netns("c1")?);
    host.nft(
        "add chain inet lab out { type filter hook output priority filter; policy accept; }
         add rule inet lab in.lxdbr0 udp dport 9001 drop
         add rule inet lab out udp dport 9002 drop\n",
    )?;
    let handles = [("in.lxdbr0", "9001"), ("out", "9002")]
        .map(|(chain, text)| host.nft_handle("inet lab", chain, text));

    let records = Trace::during(&lab, &["--ip", C1, "--proto", "udp"], || {
        traffic::udp_send(c1, at(HOST, 9001)?, 1)?;
        traffic::udp_send(host, at(C1, 9002)?, 1)
    })?;

    let to = |port: &str| records.select(|journey| journey.flow("dport") == port);
    for ((port, hop), handle) in
        [("9001", "host:lxdbr0 nf_input"), ("9002", "host nf_output")].into_iter().zip(handles)
    {
        let refused = to(port);
        assert_eq!(refused.len(), 1, "{records}");
        refused[0].assert_ends("dropped", hop);
        records.assert_rule(refused[0], &json!({ "backend": "nftables", "handle": handle? }));
    }
    Ok(())
}

/// A program of the host that passes on what it reads: the kernel knows two connections.
#[test]
fn a_proxy_of_the_host_ends_one_flow_and_begins_another() -> Result<()> {
    let lab = Lab::standard()?;
    let (host, c1, world) = (lab.netns("host")?, lab.netns("c1")?, lab.netns("world")?);
    let front = traffic::listen(host, at(HOST, 8080)?)?;
    let server = traffic::listen(world, at(WORLD, 80)?)?;

    let records =
        Trace::during(&lab, &["--proto", "tcp", "--port", "8080", "--port", "80"], || {
            let mut client =
                c1.enter(|| TcpStream::connect(at(HOST, 8080)?).context("no proxy"))??;
            let mut asked = front.accept()?.0;
            let mut asking =
                host.enter(|| TcpStream::connect(at(WORLD, 80)?).context("no server"))??;
            let mut answering = server.accept()?.0;
            let ends: [(&mut TcpStream, &mut TcpStream); 2] =
                [(&mut client, &mut asked), (&mut asking, &mut answering)];
            for (from, to) in ends {
                from.write_all(b"question")?;
                to.read_exact(&mut [0; 8])?;
                to.write_all(b"answer")?;
                from.read_exact(&mut [0; 6])?;
            }
            Ok(())
        })?;

    let flow = |port: &str| records.select(|journey| journey.flow("dport") == port);
    let of = |port: &str, direction: &str| {
        let journeys = flow(port).into_iter().filter(|j| j.direction() == direction);
        journeys.collect::<Vec<_>>()
    };
    for journey in of("8080", "original") {
        journey.assert_passes(&TO_HOST).assert_delivered("host");
    }
    for journey in of("8080", "reply") {
        journey.assert_passes(&TO_CONTAINER).assert_delivered("c1");
    }
    for journey in of("80", "original") {
        journey
            .assert_passes(&["host nf_output", "host:eth-up dev_xmit"])
            .assert_delivered("world");
    }
    for journey in of("80", "reply") {
        journey.assert_passes(&["world nf_output", "host:eth-up *"]).assert_delivered("host");
    }
    let ids = ["8080", "80"].map(|port| {
        let ids: BTreeSet<_> = flow(port).iter().map(|j| j.record["flow"]["id"].as_u64()).collect();
        assert_eq!(ids.len(), 1, "one flow to port {port}: {records}");
        ids
    });
    assert_ne!(ids[0], ids[1], "two connections");
    // It is one process that read both.
    for journeys in [of("8080", "original"), of("80", "reply")] {
        let readers: BTreeSet<_> = journeys
            .iter()
            .flat_map(|journey| journey.details("host socket"))
            .filter_map(|detail| detail["pid"].as_u64())
            .collect();
        assert_eq!(readers, BTreeSet::from([process::id().into()]), "{records}");
    }
    Ok(())
}

#[test]
fn a_broadcast_reaches_the_bridge_and_the_neighbours() -> Result<()> {
    let lab = Lab::standard()?;
    let (host, c1) = (lab.netns("host")?, lab.netns("c1")?);
    let server = traffic::udp_socket(host, at("0.0.0.0", 67)?)?;
    let client = traffic::udp_socket(c1, at("0.0.0.0", 68)?)?;
    client.set_broadcast(true)?;

    let records = Trace::during(&lab, &["--port", "67"], || {
        client.send_to(b"anybody?", at("255.255.255.255", 67)?)?;
        server.recv(&mut [0; 16])?;
        Ok(())
    })?;

    let sent = records.select(|journey| journey.is_to("255.255.255.255"));
    assert!(sent.iter().all(|journey| journey.record["complete"] == true), "{records}");
    let arrived =
        records.select(|journey| journey.hops().iter().any(|h| h == "host:lxdbr0 nf_input"));
    assert_eq!(arrived.len(), 1, "{records}");
    arrived[0].assert_delivered("host");
    let neighbour =
        records.select(|journey| journey.hops().iter().any(|h| h == "c2:eth0 dev_receive"));
    assert_eq!(neighbour.len(), 1, "the port to the neighbour gets one as well: {records}");
    // Nobody there misses it.
    neighbour[0].assert_ends("consumed", "c2 *");
    Ok(())
}
