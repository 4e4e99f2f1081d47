//! Packets between a container and the host itself.

use anyhow::Result;
use lab::{
    Lab, Trace,
    topology::{C1, HOST},
    traffic::{self, at},
};

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
