//! IPv6 out and in, and the resolution of link-layer addresses.

use anyhow::Result;
use lab::{
    Lab, Trace,
    topology::{C1, C1_V6, HOST, WORLD_V6},
    traffic::{self, at},
};

#[test]
fn ipv6_out() -> Result<()> {
    let lab = Lab::standard()?;
    let records = Trace::during(&lab, &["--ip", C1_V6], || {
        let (c1, world) = (lab.netns("c1")?, lab.netns("world")?);
        assert_eq!(traffic::ping(c1, WORLD_V6, 2)?, 2);
        traffic::tcp(c1, world, at(WORLD_V6, 8080)?, 10_000)
    })?;
    for proto in ["icmp6", "tcp"] {
        let echo_or_tcp = |direction: &str| {
            let journeys = records.of(proto, direction);
            // Neighbour discovery is ICMPv6 too.
            let journeys = journeys.into_iter().filter(|journey| journey.is_to(WORLD_V6));
            journeys.collect::<Vec<_>>()
        };
        assert!(!echo_or_tcp("original").is_empty() && !echo_or_tcp("reply").is_empty());
        for journey in echo_or_tcp("original") {
            journey.assert_passes(&[
                "c1:eth0 dev_xmit",
                "host:veth-c1 dev_receive",
                "host:lxdbr0 nf_prerouting",
                "host route",
                "host nf_forward",
                "host nat",
                "host:eth-up dev_xmit",
                "world:eth0 dev_receive",
            ]);
            journey.assert_delivered("world");
            assert_eq!(journey.record["nat"]["src"], "2001:db8:1::1", "{journey}");
        }
        for journey in echo_or_tcp("reply") {
            journey.assert_passes(&[
                "world:eth0 dev_xmit",
                "host:eth-up nf_prerouting",
                "host nf_forward",
                "host:veth-c1 dev_xmit",
                "c1:eth0 dev_receive",
            ]);
            journey.assert_delivered("c1");
        }
    }
    Ok(())
}

#[test]
fn ipv6_in() -> Result<()> {
    let lab = Lab::standard()?;
    let (c1, world) = (lab.netns("c1")?, lab.netns("world")?);
    world.ip("route add fd00:100::/64 via 2001:db8:1::1")?;
    let records = Trace::during(&lab, &["--ip", C1_V6, "--proto", "udp"], || {
        traffic::udp_echo(world, c1, at(C1_V6, 5353)?, 3)
    })?;
    records.assert_delivered(
        "udp",
        "original",
        &[
            "world:eth0 dev_xmit",
            "host:eth-up dev_receive",
            "host:eth-up nf_prerouting",
            "host route",
            "host nf_forward",
            "host:lxdbr0 dev_xmit",
            "host:veth-c1 dev_xmit",
            "c1:eth0 dev_receive",
        ],
    );
    records.assert_delivered(
        "udp",
        "reply",
        &["c1:eth0 dev_xmit", "host nf_forward", "host:eth-up dev_xmit", "world:eth0 dev_receive"],
    );
    Ok(())
}

#[test]
fn arp_resolution() -> Result<()> {
    let lab = Lab::standard()?;
    let c1 = lab.netns("c1")?;
    let records = Trace::during(&lab, &["--ip", C1, "--proto", "arp"], || {
        c1.ip("neigh flush all")?;
        assert_eq!(traffic::ping(c1, HOST, 1)?, 1);
        Ok(())
    })?;
    let from = |address: &str| {
        let found =
            records.select(|journey| journey.proto() == "arp" && sender(journey) == address);
        assert!(!found.is_empty(), "no ARP from {address} in:\n{records}");
        found
    };
    // The request is flooded: its copies end at other ports, one at the bridge itself.
    let to_bridge =
        |journey: &&lab::Journey| journey.hops().iter().any(|hop| hop == "host:lxdbr0 dev_receive");
    let request = from(C1).into_iter().find(to_bridge);
    let request = request.unwrap_or_else(|| panic!("no request at the bridge in:\n{records}"));
    assert!(["consumed", "delivered"].contains(&request.outcome()), "{request}");
    let reply = from(HOST)[0];
    reply.assert_passes(&["host:lxdbr0 dev_xmit", "host:veth-c1 dev_xmit", "c1:eth0 dev_receive"]);
    assert!(["consumed", "delivered"].contains(&reply.outcome()), "{reply}");
    assert!(records.select(|journey| journey.outcome() == "dropped").is_empty(), "{records}");
    Ok(())
}

/// Who sent a journey's packet: a reply belongs to the flow of its request.
fn sender(journey: &lab::Journey) -> String {
    journey.flow(if journey.direction() == "reply" { "dst" } else { "src" })
}
