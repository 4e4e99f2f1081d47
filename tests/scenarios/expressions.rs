//! Packets selected by pcap-filter expressions.

use std::{net::Ipv4Addr, process::Command};

use anyhow::Result;
use lab::{
    Lab, Records, Trace, frames,
    topology::{C1, C2, WORLD},
    trace,
    traffic::{self, at},
};
use pnet_base::MacAddr;

const USAGE: i32 = 2;
const FAILED: i32 = 1;
const TO_ANYONE: MacAddr = MacAddr(0x02, 0, 0, 0, 0, 0x99);
const FROM: MacAddr = MacAddr(0x02, 0, 0, 0, 0, 0x11);

/// Echo requests of both containers, a connection, and datagrams to two ports.
fn mixed(lab: &Lab) -> Result<()> {
    let (c1, c2, world) = (lab.netns("c1")?, lab.netns("c2")?, lab.netns("world")?);
    traffic::ping(c1, WORLD, 1)?;
    traffic::ping(c2, WORLD, 1)?;
    traffic::tcp(c1, world, at(WORLD, 8080)?, 4)?;
    traffic::udp_echo(c1, world, at(WORLD, 5353)?, 1)?;
    traffic::udp_echo(c1, world, at(WORLD, 5400)?, 1)
}

fn traced(lab: &Lab, args: &[&str]) -> Result<Records> {
    Trace::during(lab, args, || mixed(lab))
}

/// Asserts that there are journeys and that all are of these protocols.
fn assert_only(records: &Records, args: &[&str], protos: &[&str]) {
    assert!(!records.journeys.is_empty(), "nothing with {args:?}");
    for journey in &records.journeys {
        assert!(protos.contains(&journey.proto()), "with {args:?} also: {journey}");
    }
}

#[test]
fn only_what_the_expression_says() -> Result<()> {
    let lab = Lab::standard()?;
    let cases: [(&[&str], &[&str]); 6] = [
        (&["tcp port 8080"], &["tcp"]),
        (&["host", C1, "and", "not", "port", "5353", "and", "udp"], &["udp"]),
        (&["udp portrange 5300-5360"], &["udp"]),
        (&["--ip", C2, "icmp"], &["icmp"]),
        (&["--proto", "udp", "--", "host", C1, "and", "not", "port", "5353"], &["udp"]),
        (&["udp[8:4] = 0x74686572"], &["udp"]),
    ];
    for (args, protos) in cases {
        let records = traced(&lab, args)?;
        assert_only(&records, args, protos);
        records.assert_nothing_lost();
        for journey in &records.journeys {
            let has = |port: &str| journey.flow("sport") == port || journey.flow("dport") == port;
            match args {
                ["--ip", ..] => assert_eq!(journey.flow("src"), C2, "{journey}"),
                [one] if one.contains("portrange") => assert!(has("5353"), "{journey}"),
                [.., "5353", "and", "udp"] | [.., "not", "port", "5353"] => {
                    assert!(has("5400"), "{args:?}: {journey}");
                }
                _ => {}
            }
        }
    }
    Ok(())
}

#[test]
fn a_reply_is_followed_from_the_nic_as_with_flags() -> Result<()> {
    let lab = Lab::standard()?;
    let expression = format!("host {C1} and (tcp port 8080 or icmp)");
    let records = traced(&lab, &[&expression])?;
    assert_only(&records, &[&expression], &["tcp", "icmp"]);
    let replies = records.of("tcp", "reply");
    assert!(!replies.is_empty(), "{records}");
    // The first reply comes after NAT was learned of.
    for reply in records.of("icmp", "reply") {
        reply.assert_passes(&["host:eth-up dev_receive", "host:veth-c1 dev_xmit"]);
    }
    Ok(())
}

#[test]
fn bits_of_a_segment() -> Result<()> {
    let lab = Lab::standard()?;
    let records = traced(&lab, &[&format!("src host {C1} and tcp[tcpflags] & tcp-syn != 0")])?;
    assert_eq!(records.journeys.len(), 1, "{records}");
    let info = records.journeys[0].record["packet"]["info"].as_str().unwrap_or_default();
    assert!(info.contains('S') || info.to_lowercase().contains("syn"), "{info}");
    Ok(())
}

#[test]
fn lengths() -> Result<()> {
    let lab = Lab::standard()?;
    let records = Trace::during(&lab, &["udp and greater 1000"], || {
        let (c1, world) = (lab.netns("c1")?, lab.netns("world")?);
        let server = traffic::udp_socket(world, at(WORLD, 7)?)?;
        let client = traffic::udp_client(c1, at(WORLD, 7)?)?;
        for size in [100, 1100] {
            client.send(&vec![0; size])?;
            server.recv(&mut [0; 2000])?;
        }
        Ok(())
    })?;
    assert_eq!(records.of("udp", "original").len(), 1, "{records}");
    Ok(())
}

#[test]
fn ipv6_echo() -> Result<()> {
    let lab = Lab::standard()?;
    let records = Trace::during(&lab, &["icmp6[icmp6type] = icmp6-echo"], || {
        traffic::ping(lab.netns("c1")?, lab::topology::WORLD_V6, 1).map(drop)
    })?;
    assert_only(&records, &["icmp6"], &["icmp6"]);
    assert!(records.journeys.iter().all(|j| j.flow("icmp_type") == "128"), "{records}");
    Ok(())
}

#[test]
fn frames_by_what_is_in_their_link_layer_header() -> Result<()> {
    let lab = Lab::standard()?;
    let send = || {
        let (from, to): (Ipv4Addr, Ipv4Addr) = (C1.parse()?, C2.parse()?);
        for tags in [&[][..], &[100], &[200]] {
            let ends = ((FROM, from, 4000), (TO_ANYONE, to, 5000));
            let frame = frames::tagged_udp(ends.0, ends.1, tags, b"tagged")?;
            frames::send(lab.netns("c1")?, "eth0", &frame)?;
        }
        traffic::ping(lab.netns("c2")?, WORLD, 1).map(drop)
    };
    let begun = |records: &Records| {
        records.select(|j| j.hops()[0].starts_with("c1:eth0") && j.flow("dport") == "5000").len()
    };
    for (expression, many) in [
        ("ether host 02:00:00:00:00:11", 3),
        ("vlan", 2),
        ("vlan 100", 1),
        ("vlan 200 and udp port 5000", 1),
        ("udp port 5000 and not vlan", 1),
    ] {
        let records = Trace::during(&lab, &[expression], send)?;
        assert_eq!(begun(&records), many, "{expression}: {records}");
        let others = records.select(|j| j.proto() == "icmp");
        assert!(others.is_empty(), "{expression}: {records}");
    }
    Ok(())
}

#[test]
fn arp_alone() -> Result<()> {
    let lab = Lab::standard()?;
    lab.netns("c1")?.ip("neigh flush all")?;
    let records = traced(&lab, &["arp"])?;
    assert_only(&records, &["arp"], &["arp"]);
    Ok(())
}

#[test]
fn wrong_ones_are_refused() -> Result<()> {
    let lab = Lab::standard()?;
    let long: Vec<_> = (0..450).map(|n| format!("host 10.1.{}.{}", n / 250, n % 250)).collect();
    let long = long.join(" or ");
    for (expression, said) in [
        ("tcp port 80 and and udp", "syntax error"),
        ("tcp and arp", "rejects all packets"),
        ("ip broadcast", "netmask"),
        ("inbound", "--iface"),
        ("ip6 protochain 6", "loop"),
        ("ether[300] = 1", "byte 300"),
        (long.as_str(), "instructions"),
    ] {
        let ended = trace::run(&lab, &[expression])?;
        assert_eq!(ended.status.code(), Some(USAGE), "{expression}: {}", ended.stderr);
        assert!(ended.stderr.contains(said), "{expression}: {}", ended.stderr);
        assert!(ended.lines.is_empty(), "{expression}: results on stdout: {:?}", ended.lines);
    }
    Ok(())
}

#[test]
fn an_empty_one_selects_everything() -> Result<()> {
    let lab = Lab::standard()?;
    let records = traced(&lab, &[""])?;
    let protos = ["icmp", "tcp", "udp"];
    assert!(protos.iter().all(|p| !records.of(p, "original").is_empty()), "{records}");
    Ok(())
}

#[test]
fn without_libpcap_only_expressions_are_refused() -> Result<()> {
    let lab = Lab::standard()?;
    // An empty file in its place, in a mount namespace of the command's own.
    let hide =
        "for f in $(ldconfig -p | grep -o '/.*libpcap[.]so.*'); do mount --bind /dev/null $f; done";
    let run = |words: &str| {
        let binary = trace::binary()?.display().to_string();
        let script = format!("{hide}; exec {binary} --duration 200ms {words}");
        let mut command = Command::new("unshare");
        command.args(["--mount", "bash", "-c", &script]);
        let output = lab.netns("host")?.enter(|| command.output())??;
        anyhow::Ok((output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()))
    };
    let (code, stderr) = run("tcp port 80")?;
    assert_eq!(code, Some(FAILED), "{stderr}");
    assert!(
        stderr.contains("install libpcap0.8") && stderr.trim().lines().count() == 1,
        "{stderr}"
    );
    let (code, stderr) = run("--proto tcp")?;
    assert_eq!(code, Some(0), "{stderr}");
    Ok(())
}

#[test]
fn an_expression_costs_no_point() -> Result<()> {
    let lab = Lab::standard()?;
    let hosts: Vec<_> = (0..200).map(|n| format!("host 10.1.0.{n}")).collect();
    let missing = |args: &[&str]| -> Result<_> {
        let args = [args, &["--duration", "100ms"]].concat();
        Ok(Trace::start(&lab, &args)?.wait()?.records(&lab)?.start["missing"].clone())
    };
    // With tc, as expressions have it.
    let without = missing(&["-s", "64"])?;
    for expression in [
        "tcp port 443".to_owned(),
        "vlan 100 and tcp[((tcp[12:1] & 0xf0) >> 2):4] = 0x47455420".to_owned(),
        "udp[4:2] / (ip[8] - 64) = 0 or ether host 02:00:00:00:00:01".to_owned(),
        hosts.join(" or "),
    ] {
        assert_eq!(missing(&[&expression])?, without, "with {expression}");
    }
    Ok(())
}
