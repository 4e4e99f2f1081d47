//! Ways that are not a veth on a bridge, masqueraded: other kinds of links. What comes in by a link that sits
//! on another one is received once, by the lower: there is no `dev_receive` of the upper.

use anyhow::Result;
use lab::{
    Capability, Lab, Netns, Records, Trace,
    topology::{UPLINK, WORLD, WORLD_LINK},
    traffic,
};

/// Pings, and traces that.
fn pinged(lab: &Lab, from: &str, address: &str, to: &str) -> Result<Records> {
    let records = Trace::during(lab, &["--ip", address, "--proto", "icmp"], || {
        assert_eq!(traffic::ping(lab.netns(from)?, to, 2)?, 2);
        Ok(())
    })?;
    assert_eq!(records.of("icmp", "original").len(), 2, "{records}");
    assert_eq!(records.of("icmp", "reply").len(), 2, "{records}");
    records.assert_nothing_lost();
    Ok(records)
}

/// A container whose interface sits on the host's uplink itself.
fn on_the_uplink(lab: &mut Lab, kind: &str, address: &str) -> Result<()> {
    lab.add("m1")?;
    let (host, container) = (lab.netns("host")?, lab.netns("m1")?);
    host.ip(&format!(
        "link add link eth-up name over type {kind}
         link set over netns {}",
        container.name()
    ))?;
    container.ip(&format!(
        "addr add {address}/24 dev over
         link set over up
         route add default via {WORLD_LINK}"
    ))?;
    container.settle()
}

/// A ping from there to the world, and back.
fn pinged_over_the_uplink(
    link: &'static str,
    mode: &str,
    address: &str,
) -> Result<Option<Records>> {
    let mut lab = Lab::standard()?;
    if lab.lacks(&[Capability::Link(link)])? {
        return Ok(None);
    }
    on_the_uplink(&mut lab, &format!("{link} mode {mode}"), address)?;
    let records = pinged(&lab, "m1", address, WORLD)?;
    records.assert_delivered(
        "icmp",
        "original",
        &[
            "m1 nf_output",
            "m1:over dev_xmit",
            "host:eth-up dev_xmit",
            "world:eth0 dev_receive",
            "world nf_input",
        ],
    );
    records.assert_delivered(
        "icmp",
        "reply",
        // What stands above another interface receives where tc alone sees it.
        &["world:eth0 dev_xmit", "host:eth-up dev_receive", "m1:over tc_ingress", "m1 nf_input"],
    );
    Ok(Some(records))
}

#[test]
fn a_container_on_macvlan_leaves_by_the_link_below() -> Result<()> {
    let records = pinged_over_the_uplink("macvlan", "bridge", "198.51.100.30")?;
    for journey in records.iter().flat_map(|records| &records.journeys) {
        journey.assert_avoids("host nf_forward");
    }
    Ok(())
}

#[test]
fn a_container_on_ipvlan_leaves_by_the_link_below() -> Result<()> {
    pinged_over_the_uplink("ipvlan", "l2", "198.51.100.31").map(drop)
}

/// A container on a veth of its own, without a bridge.
fn beside_the_bridge(lab: &mut Lab) -> Result<(&Netns, &Netns)> {
    lab.add("r1")?;
    let (host, container) = (lab.netns("host")?, lab.netns("r1")?);
    host.ip(&format!(
        "link add veth-r1 type veth peer name eth0 netns {}
         link set veth-r1 up",
        container.name()
    ))?;
    container.ip("link set eth0 up")?;
    host.settle()?;
    Ok((host, container))
}

const OVER_A_VETH: [&str; 9] = [
    "r1 nf_output",
    "r1:eth0 dev_xmit",
    "host:veth-r1 dev_receive",
    "host:veth-r1 nf_prerouting",
    "host route",
    "host nf_forward",
    "host:eth-up dev_xmit",
    "world:eth0 dev_receive",
    "world nf_input",
];

const BACK_OVER_A_VETH: [&str; 7] = [
    "world:eth0 dev_xmit",
    "host:eth-up dev_receive",
    "host route",
    "host nf_forward",
    "host:veth-r1 dev_xmit",
    "r1:eth0 dev_receive",
    "r1 nf_input",
];

#[test]
fn a_routed_container_answers_to_a_gateway_that_is_the_hosts_proxy() -> Result<()> {
    let mut lab = Lab::standard()?;
    let (host, container) = beside_the_bridge(&mut lab)?;
    host.sysctl("net.ipv4.conf.veth-r1.proxy_arp", "1")?;
    host.sysctl("net.ipv4.neigh.veth-r1.proxy_delay", "0")?;
    host.ip("route add 10.9.0.2/32 dev veth-r1")?;
    container.ip("addr add 10.9.0.2/32 dev eth0
         route add 169.254.1.1 dev eth0 scope link
         route add default via 169.254.1.1")?;
    lab.netns("world")?.ip(&format!("route add 10.9.0.0/24 via {UPLINK}"))?;
    let records = pinged(&lab, "r1", "10.9.0.2", WORLD)?;
    records.assert_delivered("icmp", "original", &OVER_A_VETH);
    records.assert_delivered("icmp", "reply", &BACK_OVER_A_VETH);
    Ok(())
}

#[test]
fn a_point_to_point_veth_is_a_way_like_any_other() -> Result<()> {
    let mut lab = Lab::standard()?;
    let (host, container) = beside_the_bridge(&mut lab)?;
    host.ip("addr add 10.8.0.1 peer 10.8.0.2 dev veth-r1")?;
    container.ip("addr add 10.8.0.2 peer 10.8.0.1 dev eth0
         route add default via 10.8.0.1")?;
    lab.netns("world")?.ip(&format!("route add 10.8.0.0/24 via {UPLINK}"))?;
    let records = pinged(&lab, "r1", "10.8.0.2", WORLD)?;
    records.assert_delivered("icmp", "original", &OVER_A_VETH);
    records.assert_delivered("icmp", "reply", &BACK_OVER_A_VETH);
    Ok(())
}

#[test]
fn a_vlan_is_passed_and_the_link_below() -> Result<()> {
    let lab = Lab::standard()?;
    if lab.lacks(&[Capability::Link("vlan")])? {
        return Ok(());
    }
    let vlan = |netns: &Netns, lower: &str, address: &str| {
        netns.ip(&format!(
            "link add link {lower} name tagged type vlan id 5
             addr add {address}/24 dev tagged
             link set tagged up"
        ))
    };
    vlan(lab.netns("host")?, "eth-up", "192.0.2.1")?;
    vlan(lab.netns("world")?, "eth0", "192.0.2.2")?;
    lab.netns("world")?.ip("route add 10.0.100.0/24 via 192.0.2.1")?;
    let records = pinged(&lab, "c1", lab::topology::C1, "192.0.2.2")?;
    records.assert_delivered(
        "icmp",
        "original",
        &[
            "host:veth-c1 dev_receive",
            "host nf_forward",
            "host:tagged dev_xmit",
            "host:eth-up dev_xmit",
            "world:eth0 dev_receive",
            "world:tagged *",
            "world nf_input",
        ],
    );
    records.assert_delivered(
        "icmp",
        "reply",
        &["host:eth-up dev_receive", "host:tagged *", "host nf_forward", "c1 nf_input"],
    );
    Ok(())
}

#[test]
fn in_a_vrf_a_table_of_its_own_is_looked_up() -> Result<()> {
    let mut lab = Lab::standard()?;
    if lab.lacks(&[Capability::Link("vrf")])? {
        return Ok(());
    }
    let (host, container) = beside_the_bridge(&mut lab)?;
    host.ip("link add blue type vrf table 77
         link set blue up
         link set veth-r1 master blue
         link set eth-up master blue
         addr add 10.8.0.1/24 dev veth-r1")?;
    host.ip(&format!("route add default via {WORLD_LINK} table 77"))?;
    container.ip("addr add 10.8.0.2/24 dev eth0
         route add default via 10.8.0.1")?;
    lab.netns("world")?.ip(&format!("route add 10.8.0.0/24 via {UPLINK}"))?;
    let records = pinged(&lab, "r1", "10.8.0.2", WORLD)?;
    records.assert_delivered(
        "icmp",
        "original",
        &["host:veth-r1 dev_receive", "host nf_forward", "host:eth-up dev_xmit", "world nf_input"],
    );
    let echo = records.of("icmp", "original")[0];
    let lookups = echo.details("host route");
    let route = lookups.into_iter().find(|detail| detail["oif"] == "eth-up").expect("a way out");
    assert_eq!(route["table"], "77", "{echo}");
    assert_eq!(route["rule"]["text"], "from all lookup [l3mdev-table]", "{route}");
    Ok(())
}

#[test]
fn a_bond_is_passed_and_one_of_its_links() -> Result<()> {
    let lab = Lab::standard()?;
    if lab.lacks(&[Capability::Link("bond")])? {
        return Ok(());
    }
    for (netns, address) in [("host", "192.0.2.1"), ("world", "192.0.2.2")] {
        lab.netns(netns)?.ip(&format!(
            "link add both type bond mode active-backup
             addr add {address}/24 dev both"
        ))?;
    }
    let world = lab.netns("world")?;
    for link in ["one", "two"] {
        lab.netns("host")?.ip(&format!(
            "link add {link} type veth peer name {link} netns {}
             link set {link} master both",
            world.name()
        ))?;
        world.ip(&format!("link set {link} master both"))?;
    }
    for netns in ["host", "world"] {
        lab.netns(netns)?.ip("link set both up")?;
    }
    world.ip("route add 10.0.100.0/24 via 192.0.2.1")?;
    lab.netns("host")?.settle()?;
    let records = pinged(&lab, "c1", lab::topology::C1, "192.0.2.2")?;
    records.assert_delivered(
        "icmp",
        "original",
        &[
            "host nf_forward",
            "host:both dev_xmit",
            "host:one dev_xmit",
            "world:one dev_receive",
            "world nf_input",
        ],
    );
    Ok(())
}

/// Two hosts, each with a container on a bridge, that VXLAN makes one.
#[test]
fn an_overlay_is_followed_from_bridge_to_bridge() -> Result<()> {
    let mut lab = Lab::standard()?;
    if lab.lacks(&[Capability::Link("vxlan")])? {
        return Ok(());
    }
    let ends = [
        ("host", "o1", "10.6.0.1", UPLINK, WORLD_LINK),
        ("world", "o2", "10.6.0.2", WORLD_LINK, UPLINK),
    ];
    for (host, container, address, local, remote) in ends {
        lab.add(container)?;
        let (host, inside) = (lab.netns(host)?, lab.netns(container)?);
        host.ip(&format!(
            "link add overlay type bridge mcast_snooping 0
             link set overlay up
             link add vx type vxlan id 42 local {local} remote {remote} dstport 4789
             link set vx master overlay up
             link add veth-{container} type veth peer name eth0 netns {}
             link set veth-{container} master overlay up",
            inside.name()
        ))?;
        inside.ip(&format!("addr add {address}/24 dev eth0\nlink set eth0 up"))?;
        inside.settle()?;
    }
    let records = pinged(&lab, "o1", "10.6.0.1", "10.6.0.2")?;
    for echo in records.of("icmp", "original") {
        echo.assert_passes(&[
            "o1:eth0 dev_xmit",
            "host:veth-o1 dev_receive",
            "host:vx dev_xmit",
            "host:eth-up dev_xmit",
            "world:eth0 dev_receive",
            "world:vx dev_receive",
            "world:veth-o2 dev_xmit",
            "o2:eth0 dev_receive",
        ]);
    }
    records.assert_delivered(
        "icmp",
        "reply",
        &["world:vx dev_xmit", "host:vx dev_receive", "host:veth-o1 dev_xmit", "o1 nf_input"],
    );
    Ok(())
}
