//! One flow, both ways, before and after NAT: followed from the NIC on, whoever began.

use std::{net::UdpSocket, thread, time::Duration};

use anyhow::Result;
use lab::{
    Journey, Lab, Records, Trace,
    pace::patience,
    topology::{self, C1, C1_V6, C2, UPLINK, WORLD, WORLD_LINK, WORLD_V6},
    traffic::{self, at},
};
use serde_json::{Value, json};

/// The host publishes a port of c1.
const PUBLISHED: &str = "table ip nat {
    chain pre { type nat hook prerouting priority dstnat; ip daddr 198.51.100.1 tcp dport 8080 dnat to 10.0.100.252:80; }
    chain hairpin { type nat hook postrouting priority srcnat; ip saddr 10.0.100.0/24 ip daddr 10.0.100.252 masquerade; }
}";

fn ids(journeys: &[&Journey]) -> Vec<Value> {
    let mut ids: Vec<_> = journeys.iter().map(|j| j.record["flow"]["id"].clone()).collect();
    ids.dedup();
    ids
}

/// Asserts that all are of one flow, which is this one, as its first side sends it.
fn assert_one_flow(records: &Records, proto: &str, (src, dst): (&str, &str)) {
    let all = records.select(|journey| journey.proto() == proto);
    assert!(!all.is_empty(), "{records}");
    assert_eq!(ids(&all).len(), 1, "{records}");
    for journey in all {
        assert_eq!(
            (journey.flow("src").as_str(), journey.flow("dst").as_str()),
            (src, dst),
            "{journey}"
        );
    }
}

/// What the hop of this step tells of a journey.
fn detail<'a>(journey: &'a Journey, step: &str) -> &'a Value {
    let hop = journey.hops().iter().position(|hop| hop == step);
    let hop = hop.unwrap_or_else(|| panic!("no {step}: {journey}"));
    &journey.record["hops"][hop]["detail"]
}

#[test]
fn a_published_port_is_followed_from_the_first_packet_at_the_nic() -> Result<()> {
    let lab = Lab::standard()?;
    lab.netns("host")?.nft(PUBLISHED)?;
    let records = Trace::during(&lab, &["--ip", C1, "--proto", "tcp"], || {
        let published = at(UPLINK, 8080)?;
        // The listener is c1's, on another port than is connected to.
        let listener = traffic::listen(lab.netns("c1")?, at(C1, 80)?)?;
        lab.netns("world")?.enter(|| std::net::TcpStream::connect(published))??;
        drop(listener.accept()?);
        Ok(())
    })?;

    assert_one_flow(&records, "tcp", (WORLD_LINK, UPLINK));
    let syn = records.of("tcp", "original")[0];
    assert!(
        syn.record["packet"]["info"].as_str().is_some_and(|info| info.starts_with("SYN")),
        "{syn}"
    );
    syn.assert_passes(&[
        "world nf_output",
        "world:eth0 dev_xmit",
        "host:eth-up dev_receive",
        "host:eth-up nf_prerouting",
        "host nat",
        "host nf_forward",
        "host:veth-c1 dev_xmit",
        "c1:eth0 dev_receive",
    ]);
    assert_eq!(syn.record["nat"]["dst"], C1, "{syn}");
    assert_eq!(syn.record["nat"]["dport"], 80, "{syn}");
    for answer in records.of("tcp", "reply") {
        answer.assert_passes(&[
            "c1:eth0 dev_xmit",
            "host nat",
            "host:eth-up dev_xmit",
            "world:eth0 dev_receive",
        ]);
        assert_eq!(answer.record["nat"]["src"], UPLINK, "{answer}");
    }
    records.assert_nothing_lost();
    Ok(())
}

#[test]
fn a_hairpin_is_one_flow_through_both_rewrites() -> Result<()> {
    let lab = Lab::standard()?;
    let host = lab.netns("host")?;
    host.nft(PUBLISHED)?;
    // Else it tells c2 to go to c1 directly, which quotes the flow and is dropped: it is rewritten.
    host.sysctl("net.ipv4.conf.all.send_redirects", "0")?;
    host.sysctl("net.ipv4.conf.lxdbr0.send_redirects", "0")?;
    let records = Trace::during(&lab, &["--ip", C1, "--proto", "tcp"], || {
        let published = at(UPLINK, 8080)?;
        let listener = traffic::listen(lab.netns("c1")?, at(C1, 80)?)?;
        lab.netns("c2")?.enter(|| std::net::TcpStream::connect(published))??;
        drop(listener.accept()?);
        Ok(())
    })?;

    assert_one_flow(&records, "tcp", (C2, UPLINK));
    let syn = records.of("tcp", "original")[0];
    syn.assert_passes(&[
        "c2:eth0 dev_xmit",
        "host nat",
        "host nf_forward",
        "host nat",
        "host:veth-c1 dev_xmit",
        "c1:eth0 dev_receive",
    ]);
    assert_eq!(syn.record["nat"]["dst"], C1, "{syn}");
    assert_eq!(syn.record["nat"]["src"], topology::HOST, "{syn}");
    let answers = records.of("tcp", "reply");
    assert!(!answers.is_empty(), "{records}");
    for answer in answers {
        answer.assert_passes(&[
            "c1:eth0 dev_xmit",
            "host nat",
            "host:veth-c2 dev_xmit",
            "c2:eth0 dev_receive",
        ]);
        assert_eq!(answer.record["nat"]["src"], UPLINK, "{answer}");
        assert_eq!(answer.record["nat"]["dst"], C2, "{answer}");
    }
    Ok(())
}

#[test]
fn a_connection_that_began_before_the_trace_is_followed_from_the_nic() -> Result<()> {
    let lab = Lab::standard()?;
    let server = traffic::udp_socket(lab.netns("world")?, at(WORLD, 5353)?)?;
    let client = traffic::udp_client(lab.netns("c1")?, at(WORLD, 5353)?)?;
    let ask = |from: &UdpSocket| -> Result<std::net::SocketAddr> {
        from.send(b"?")?;
        Ok(server.recv_from(&mut [0; 8])?.1)
    };
    // One that is answered is remembered for longer than it takes to attach.
    let masqueraded = ask(&client)?;
    server.send_to(b"!", masqueraded)?;
    client.recv(&mut [0; 8])?;
    ask(&client)?;

    // The world speaks first, and nothing of it was seen before.
    let records = Trace::during(&lab, &["--ip", C1, "--proto", "udp"], || {
        server.send_to(b"!", masqueraded)?;
        client.recv(&mut [0; 8])?;
        ask(&client)?;
        Ok(())
    })?;

    assert_one_flow(&records, "udp", (C1, WORLD));
    let answer = records.of("udp", "reply");
    assert_eq!(answer.len(), 1, "{records}");
    answer[0].assert_passes(&[
        "host:eth-up dev_receive",
        "host nat",
        "host:veth-c1 dev_xmit",
        "c1:eth0 dev_receive",
    ]);
    assert_eq!(records.of("udp", "original").len(), 1, "{records}");
    Ok(())
}

#[test]
fn an_icmp_error_from_beyond_nat_belongs_to_the_flow_that_it_quotes() -> Result<()> {
    let lab = Lab::standard()?;
    let records = Trace::during(&lab, &["--ip", C1, "--proto", "udp"], || {
        let client = traffic::udp_client(lab.netns("c1")?, at(WORLD, 9)?)?;
        client.send(b"?")?;
        assert!(client.recv(&mut [0; 8]).is_err(), "port unreachable");
        Ok(())
    })?;

    let error = records.select(|journey| journey.flow("icmp_type") == "3");
    assert_eq!(error.len(), 1, "{records}");
    let (error, sent) = (error[0], records.of("udp", "original")[0]);
    assert_eq!(error.record["flow"]["id"], sent.record["flow"]["id"], "{records}");
    assert_eq!((error.proto(), error.direction()), ("udp", "reply"), "{error}");
    error.assert_passes(&[
        "world:eth0 dev_xmit",
        "host:eth-up dev_receive",
        "host nat",
        "host:veth-c1 dev_xmit",
        "c1:eth0 dev_receive",
    ]);
    assert_eq!(error.record["nat"]["dst"], C1, "{error}");
    Ok(())
}

#[test]
fn connection_tracking_tells_both_tuples_of_a_connection() -> Result<()> {
    let lab = Lab::standard()?;
    let records = Trace::during(&lab, &["--ip", C1, "--proto", "udp"], || {
        traffic::udp_echo(lab.netns("c1")?, lab.netns("world")?, at(WORLD, 7)?, 2)
    })?;

    let (sent, answered) = (records.of("udp", "original"), records.of("udp", "reply"));
    let told = detail(sent[0], "host:lxdbr0 conntrack");
    let sport = &sent[0].record["flow"]["sport"];
    assert_eq!(told["state"], "new", "{}", sent[0]);
    let original = json!({ "src": C1, "sport": sport, "dst": WORLD, "dport": 7 });
    assert_eq!(told["original"], original, "{}", sent[0]);
    let told = detail(answered[0], "host:eth-up conntrack");
    assert_eq!((&told["state"], &told["original"]), (&json!("established"), &original));
    assert_eq!((&told["reply"]["src"], &told["reply"]["dst"]), (&json!(WORLD), &json!(UPLINK)));
    Ok(())
}

/// All of a port is sent by one port of the uplink, whoever sends it.
const ONE_PORT: &str = "table ip nat {
    chain post { type nat hook postrouting priority 90; ip saddr 10.0.100.0/24 udp dport 7 snat to 198.51.100.1:4000; }
}";

/// c1 asks the world by the uplink's port, then c2, when c1's connection is forgotten, then c1 again.
fn taking_turns(lab: &Lab) -> Result<()> {
    let host = lab.netns("host")?;
    let server = traffic::udp_socket(lab.netns("world")?, at(WORLD, 7)?)?;
    for container in ["c1", "c2", "c1"] {
        let client = traffic::udp_client(lab.netns(container)?, at(WORLD, 7)?)?;
        for _ in 0..2 {
            client.send(b"?")?;
            let (_, from) = server.recv_from(&mut [0; 8])?;
            assert_eq!(from, at(UPLINK, 4000)?, "the port is not free yet");
            server.send_to(b"!", from)?;
            client.recv(&mut [0; 8])?;
        }
        // Longer than the host remembers it.
        thread::sleep(patience(Duration::from_millis(2_500)));
    }
    host.settle()
}

/// A port of NAT is free again at once.
fn with_one_port() -> Result<Lab> {
    let lab = Lab::standard()?;
    let host = lab.netns("host")?;
    host.nft(ONE_PORT)?;
    for timeout in ["nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"] {
        host.sysctl(&format!("net.netfilter.{timeout}"), "1")?;
    }
    Ok(lab)
}

#[test]
fn an_answer_to_another_container_by_a_port_that_was_ours_is_not_followed() -> Result<()> {
    let lab = with_one_port()?;

    let records = Trace::during(&lab, &["--ip", C1, "--proto", "udp"], || taking_turns(&lab))?;

    for journey in &records.journeys {
        journey.assert_avoids("c2 *");
        assert_ne!(journey.record["nat"]["dst"], C2, "{journey}");
        assert_ne!(journey.outcome(), "lost", "{journey}");
    }
    let answers = records.of("udp", "reply");
    assert_eq!(answers.len(), 4, "{records}");
    for answer in answers {
        answer.assert_passes(&["world:eth0 dev_xmit", "host:eth-up dev_receive", "c1:eth0 *"]);
    }
    assert_eq!(records.of("udp", "original").len(), 4, "{records}");
    records.assert_nothing_lost();
    Ok(())
}

#[test]
fn two_containers_that_use_one_port_in_turn_are_two_flows() -> Result<()> {
    let lab = with_one_port()?;

    let records = Trace::during(&lab, &["--port", "7", "--proto", "udp"], || taking_turns(&lab))?;

    for journey in records.select(|journey| journey.proto() == "udp") {
        let container = journey.flow("src");
        let end = if container == C1 { "c1" } else { "c2" };
        assert!([C1, C2].contains(&container.as_str()), "{journey}");
        journey.assert_passes(&[&format!("{end}:eth0 *")]);
    }
    for container in [C1, C2] {
        let of = records.select(|j| j.proto() == "udp" && j.flow("src") == container);
        assert!(of.len() >= 4, "{records}");
    }
    Ok(())
}

#[test]
fn ipv6_is_masqueraded_too() -> Result<()> {
    let lab = Lab::standard()?;
    let records = Trace::during(&lab, &["--ip", C1_V6, "--proto", "udp"], || {
        traffic::udp_echo(lab.netns("c1")?, lab.netns("world")?, at(WORLD_V6, 7)?, 1)
    })?;

    assert_one_flow(&records, "udp", (C1_V6, WORLD_V6));
    let answer = records.of("udp", "reply")[0];
    answer.assert_passes(&["host:eth-up dev_receive", "host nat", "c1:eth0 dev_receive"]);
    assert_eq!(answer.record["nat"]["dst"], C1_V6, "{answer}");
    Ok(())
}

#[test]
fn a_redirect_to_the_host_is_followed_both_ways() -> Result<()> {
    let lab = Lab::standard()?;
    let host = lab.netns("host")?;
    host.nft(
        "table ip nat { chain pre { type nat hook prerouting priority dstnat; \
         ip saddr 10.0.100.252 udp dport 53 redirect to :5353; }; }",
    )?;
    let records = Trace::during(&lab, &["--ip", C1, "--proto", "udp"], || {
        let server = traffic::udp_socket(host, at("0.0.0.0", 5353)?)?;
        let client = traffic::udp_client(lab.netns("c1")?, at(WORLD, 53)?)?;
        client.send(b"?")?;
        let (_, from) = server.recv_from(&mut [0; 8])?;
        server.send_to(b"!", from)?;
        client.recv(&mut [0; 8])?;
        Ok(())
    })?;

    assert_one_flow(&records, "udp", (C1, WORLD));
    let question = records.of("udp", "original")[0];
    question.assert_passes(&[
        "c1:eth0 dev_xmit",
        "host:lxdbr0 nf_prerouting",
        "host nat",
        "host nf_input",
    ]);
    assert_eq!(question.record["nat"]["dport"], 5353, "{question}");
    let answer = records.of("udp", "reply")[0];
    answer.assert_passes(&[
        "host nf_output",
        "host nat",
        "host:veth-c1 dev_xmit",
        "c1:eth0 dev_receive",
    ]);
    assert_eq!(answer.record["nat"]["src"], WORLD, "{answer}");
    Ok(())
}

#[test]
fn double_nat_of_nested_namespaces_is_one_flow() -> Result<()> {
    let mut lab = Lab::standard()?;
    lab.add("inner")?;
    let (c1, inner) = (lab.netns("c1")?, lab.netns("inner")?);
    c1.ip(&format!("link add v-inner type veth peer name eth0 netns {}\naddr add 192.168.7.1/24 dev v-inner\nlink set v-inner up", inner.name()))?;
    inner.ip(
        "addr add 192.168.7.2/24 dev eth0\nlink set eth0 up\nroute add default via 192.168.7.1",
    )?;
    c1.sysctl("net.ipv4.ip_forward", "1")?;
    c1.nft("table ip nat { chain post { type nat hook postrouting priority srcnat; ip saddr 192.168.7.0/24 masquerade; }; }")?;
    inner.settle()?;
    let records = Trace::during(&lab, &["--ip", "192.168.7.2", "--proto", "udp"], || {
        traffic::udp_echo(inner, lab.netns("world")?, at(WORLD, 7)?, 2)
    })?;

    assert_one_flow(&records, "udp", ("192.168.7.2", WORLD));
    let question = records.of("udp", "original")[0];
    question.assert_passes(&[
        "inner:eth0 dev_xmit",
        "c1 nat",
        "host nat",
        "world:eth0 dev_receive",
    ]);
    for answer in records.of("udp", "reply") {
        answer.assert_passes(&[
            "world:eth0 dev_xmit",
            "host:eth-up dev_receive",
            "host nat",
            "c1 nat",
            "inner:eth0 dev_receive",
        ]);
    }
    records.assert_nothing_lost();
    Ok(())
}
