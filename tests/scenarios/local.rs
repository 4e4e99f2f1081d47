//! Packets between a container and the host itself.

use anyhow::Result;
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
    let front = traffic::udp_socket(host, at(HOST, 5300)?)?;
    let back = traffic::udp_client(host, at(WORLD, 53)?)?;
    let server = traffic::udp_socket(world, at(WORLD, 53)?)?;
    let client = traffic::udp_client(c1, at(HOST, 5300)?)?;

    let records =
        Trace::during(&lab, &["--proto", "udp", "--port", "5300", "--port", "53"], || {
            let mut buffer = [0; 64];
            client.send(b"where is it?")?;
            let (length, asker) = front.recv_from(&mut buffer)?;
            back.send(&buffer[..length])?;
            let (length, proxy) = server.recv_from(&mut buffer)?;
            server.send_to(&buffer[..length], proxy)?;
            let length = back.recv(&mut buffer)?;
            front.send_to(&buffer[..length], asker)?;
            client.recv(&mut buffer)?;
            Ok(())
        })?;

    let flow = |port: &str| records.select(|journey| journey.flow("dport") == port);
    let (asked, passed_on) = (flow("5300"), flow("53"));
    assert_eq!((asked.len(), passed_on.len()), (2, 2), "each way of each: {records}");
    asked[0].assert_passes(&TO_HOST).assert_delivered("host");
    asked[1].assert_passes(&TO_CONTAINER).assert_delivered("c1");
    passed_on[0]
        .assert_passes(&["host nf_output", "host:eth-up dev_xmit"])
        .assert_delivered("world");
    passed_on[1].assert_passes(&["host:eth-up dev_receive"]).assert_delivered("host");
    let ids =
        [asked[0], asked[1], passed_on[0], passed_on[1]].map(|j| j.record["flow"]["id"].clone());
    assert!(ids[0] == ids[1] && ids[2] == ids[3] && ids[0] != ids[2], "{ids:?}");
    // Where the kernel tells who read, it is one process that read both.
    let readers: Vec<_> = [asked[0], passed_on[1]]
        .iter()
        .flat_map(|journey| journey.details("host socket"))
        .filter_map(|detail| detail["pid"].as_u64())
        .collect();
    assert!(readers.iter().all(|pid| *pid == u64::from(std::process::id())), "{readers:?}");
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
    Ok(())
}
