//! Several tables, several uplinks, several namespaces with the same addresses.

use std::{collections::BTreeSet, thread, time::Duration};

use anyhow::Result;
use lab::{
    Journey, Lab, Trace,
    pace::patience,
    topology::{C1, C2, HOST, WORLD},
    traffic::{self, at},
};

/// Link-layer address of the host's second uplink.
const SECOND_MAC: &str = "00:16:3e:00:00:03";

/// Another link between host and world, that nothing leads over yet.
fn second_uplink(lab: &Lab) -> Result<()> {
    let (host, world) = (lab.netns("host")?, lab.netns("world")?);
    host.ip(&format!(
        "link add eth-up2 address {SECOND_MAC} type veth peer name eth1 netns {}
         addr add 192.0.2.1/24 dev eth-up2
         link set eth-up2 up",
        world.name()
    ))?;
    world.ip("addr add 192.0.2.2/24 dev eth1\nlink set eth1 up")?;
    host.settle()
}

#[test]
fn the_rule_that_chose_the_table_is_told() -> Result<()> {
    let lab = Lab::standard()?;
    second_uplink(&lab)?;
    lab.netns("host")?.ip(&format!(
        "route add default via 192.0.2.2 dev eth-up2 table 100
         rule add from 10.77.0.0/16 lookup 100 priority 90
         rule add from {C1} ipproto icmp lookup 100 priority 100"
    ))?;

    let records = Trace::during(&lab, &["--ip", C1], || {
        assert_eq!(traffic::ping(lab.netns("c1")?, WORLD, 1)?, 1);
        traffic::udp_echo(lab.netns("c1")?, lab.netns("world")?, at(WORLD, 5353)?, 1)
    })?;

    let echo = records.of("icmp", "original")[0];
    echo.assert_passes(&[
        "host route",
        "host nf_forward",
        "host:eth-up2 dev_xmit",
        "world nf_input",
    ]);
    let route = decision(echo, "eth-up2");
    assert_eq!(route["table"], "100", "{echo}");
    assert_eq!(route["rule"]["priority"], 100, "{route}");
    assert_eq!(route["rule"]["text"], format!("from {C1} ipproto icmp lookup 100"), "{route}");

    let datagram = records.of("udp", "original")[0];
    datagram.assert_passes(&["host nf_forward", "host:eth-up dev_xmit"]);
    let route = decision(datagram, "eth-up");
    assert_eq!((&route["table"], &route["rule"]["priority"]), (&"main".into(), &32_766.into()));
    Ok(())
}

#[test]
fn the_type_of_a_route_is_told() -> Result<()> {
    let lab = Lab::standard()?;
    let records = Trace::during(&lab, &["--ip", C1, "--proto", "icmp"], || {
        assert_eq!(traffic::ping(lab.netns("c1")?, WORLD, 1)?, 1);
        Ok(())
    })?;
    let echo = records.of("icmp", "original")[0];
    assert_eq!(decision(echo, "eth-up")["type"], "unicast", "{echo}");
    assert!(echo.details("world route").iter().any(|route| route["type"] == "local"), "{echo}");
    Ok(())
}

#[test]
fn the_first_packet_to_where_nobody_expected_it_is_delivered() -> Result<()> {
    let lab = Lab::standard()?;
    // No one reads it: all that is told of its delivery, where functions are not watched, is where the route leads.
    let _bound = traffic::udp_socket(lab.netns("c2")?, at(C2, 5353)?)?;
    let records = Trace::during(&lab, &["--ip", C1, "--proto", "udp"], || {
        traffic::udp_send(lab.netns("c1")?, at(C2, 5353)?, 1)
    })?;
    records.of("udp", "original")[0].assert_delivered("c2");
    Ok(())
}

#[test]
fn a_rule_that_is_added_while_tracing_is_known() -> Result<()> {
    let lab = Lab::standard()?;
    second_uplink(&lab)?;
    let host = lab.netns("host")?;
    host.ip("route add default via 192.0.2.2 dev eth-up2 table 100")?;
    let records = Trace::during(&lab, &["--ip", C1, "--proto", "icmp"], || {
        assert_eq!(traffic::ping(lab.netns("c1")?, WORLD, 1)?, 1);
        host.ip("rule add iif lxdbr0 lookup 100 priority 50")?;
        thread::sleep(patience(Duration::from_secs(1)));
        assert_eq!(traffic::ping(lab.netns("c1")?, WORLD, 1)?, 1);
        Ok(())
    })?;
    let echoes = records.of("icmp", "original");
    assert!(decision(echoes[0], "eth-up").get("rule").is_none(), "none but the original ones");
    assert_eq!(decision(echoes[1], "eth-up2")["rule"]["priority"], 50);
    Ok(())
}

/// The look-up that chose an interface.
fn decision<'a>(journey: &'a Journey, oif: &str) -> &'a serde_json::Value {
    let found = journey.details("host route").into_iter().find(|detail| detail["oif"] == oif);
    found.unwrap_or_else(|| panic!("no way by {oif}: {journey}"))
}

#[test]
fn a_reply_that_comes_by_the_other_uplink_is_dropped_by_the_reverse_path_filter() -> Result<()> {
    let lab = Lab::standard()?;
    second_uplink(&lab)?;
    let (host, world) = (lab.netns("host")?, lab.netns("world")?);
    host.nft("flush chain inet lab pstrt.lxdbr0\n")?;
    host.sysctl("net.ipv4.conf.eth-up2.rp_filter", "1")?;
    // What the world asks for it with is filtered, too.
    world.ip(&format!(
        "route add 10.0.100.0/24 via 192.0.2.1
         neigh replace 192.0.2.1 lladdr {SECOND_MAC} dev eth1 nud permanent"
    ))?;

    let records = Trace::during(&lab, &["--ip", C1, "--proto", "icmp"], || {
        assert_eq!(traffic::ping(lab.netns("c1")?, WORLD, 2)?, 0);
        Ok(())
    })?;

    for echo in records.of("icmp", "original") {
        echo.assert_passes(&["host nf_forward", "host:eth-up dev_xmit", "world nf_input"]);
    }
    let reply = records.assert_dropped(
        |journey| journey.direction() == "reply",
        "host:eth-up2 *",
        "IP_RPFILTER",
    );
    assert!(reply.why().contains("eth-up2"), "{}", reply.why());
    Ok(())
}

#[test]
fn each_interface_of_a_container_is_told_apart() -> Result<()> {
    let lab = Lab::standard()?;
    let (host, c1) = (lab.netns("host")?, lab.netns("c1")?);
    host.ip(&format!(
        "link add br-two type bridge mcast_snooping 0
         addr add 10.0.200.1/24 dev br-two
         link set br-two up
         link add veth-c1b type veth peer name eth1 netns {}
         link set veth-c1b master br-two up",
        c1.name()
    ))?;
    c1.ip("addr add 10.0.200.2/24 dev eth1\nlink set eth1 up")?;
    c1.settle()?;
    let records =
        Trace::during(&lab, &["--ip", C1, "--ip", "10.0.200.2", "--proto", "icmp"], || {
            assert_eq!(traffic::ping(c1, HOST, 1)?, 1);
            assert_eq!(traffic::ping(c1, "10.0.200.1", 1)?, 1);
            Ok(())
        })?;
    let to = |address: &str| records.select(|j| j.direction() == "original" && j.is_to(address));
    for (address, steps) in [
        (HOST, ["c1:eth0 dev_xmit", "host:veth-c1 dev_receive", "host:lxdbr0 nf_input"]),
        ("10.0.200.1", ["c1:eth1 dev_xmit", "host:veth-c1b dev_receive", "host:br-two nf_input"]),
    ] {
        let journeys = to(address);
        assert_eq!(journeys.len(), 1, "{records}");
        journeys[0].assert_passes(&steps).assert_delivered("host");
    }
    Ok(())
}

#[test]
fn equal_tuples_of_two_namespaces_are_two_flows() -> Result<()> {
    let mut lab = Lab::standard()?;
    lab.add("host2")?;
    lab.add("x1")?;
    {
        let (host, inside) = (lab.netns("host2")?, lab.netns("x1")?);
        host.ip(&format!(
            "link add lxdbr0 type bridge mcast_snooping 0
             addr add {HOST}/24 dev lxdbr0
             link set lxdbr0 up
             link add veth-x1 type veth peer name eth0 netns {}
             link set veth-x1 master lxdbr0 up",
            inside.name()
        ))?;
        inside.ip(&format!("addr add {C1}/24 dev eth0\nlink set eth0 up"))?;
        inside.settle()?;
    }
    let records = Trace::during(&lab, &["--ip", C1, "--proto", "udp"], || {
        let pairs = [("c1", "host"), ("x1", "host2")];
        let mut sockets = Vec::new();
        for (from, to) in pairs {
            let client = traffic::udp_socket(lab.netns(from)?, at(C1, 4000)?)?;
            client.connect(at(HOST, 5353)?)?;
            sockets.push((client, traffic::udp_socket(lab.netns(to)?, at(HOST, 5353)?)?));
        }
        let mut buffer = [0; 16];
        for (client, server) in sockets.iter().chain(&sockets) {
            client.send(b"there")?;
            let (length, peer) = server.recv_from(&mut buffer)?;
            server.send_to(&buffer[..length], peer)?;
            client.recv(&mut buffer)?;
        }
        Ok(())
    })?;

    let flows_of = |netns: &str| -> BTreeSet<u64> {
        let here =
            records.select(|j| j.hops().iter().any(|hop| hop.starts_with(&format!("{netns}:"))));
        assert_eq!(here.len(), 4, "{records}");
        here.iter().filter_map(|journey| journey.record["flow"]["id"].as_u64()).collect()
    };
    let (first, second) = (flows_of("c1"), flows_of("x1"));
    assert_eq!((first.len(), second.len()), (1, 1), "both directions: {records}");
    assert!(first.is_disjoint(&second), "{first:?} {second:?}");
    Ok(())
}

/// Two veths with the same subnet: the host answers all of it by the first.
#[test]
fn a_reply_into_the_wrong_one_of_two_equal_subnets_ends_there() -> Result<()> {
    let mut lab = Lab::standard()?;
    for (container, address) in [("d1", "10.7.0.2"), ("d2", "10.7.0.3")] {
        lab.add(container)?;
        let (host, inside) = (lab.netns("host")?, lab.netns(container)?);
        host.ip(&format!(
            "link add veth-{container} type veth peer name eth0 netns {}
             addr add 10.7.0.1/24 dev veth-{container}
             link set veth-{container} up",
            inside.name()
        ))?;
        inside.ip(&format!("addr add {address}/24 dev eth0\nlink set eth0 up"))?;
        inside.settle()?;
    }
    let records = Trace::during(&lab, &["--ip", "10.7.0.3", "--proto", "icmp"], || {
        assert_eq!(traffic::ping(lab.netns("d2")?, "10.7.0.1", 1)?, 0);
        thread::sleep(patience(Duration::from_secs(4)));
        Ok(())
    })?;
    let echo = records.of("icmp", "original")[0];
    echo.assert_passes(&["d2:eth0 dev_xmit", "host:veth-d2 dev_receive"]).assert_delivered("host");
    let reply = records.assert_dropped(
        |journey| journey.direction() == "reply",
        "host neigh",
        "NEIGH_FAILED",
    );
    reply.assert_passes(&["host nf_output", "host:veth-d1 *"]).assert_avoids("host:veth-d2 *");
    Ok(())
}
