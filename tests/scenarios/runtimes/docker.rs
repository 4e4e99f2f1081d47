//! Docker as it is: published ports, its own networks, and what it isolates.

use anyhow::Result;
use lab::{
    Journey, Trace,
    runtimes::{Host, Runtime, docker},
    topology::{UPLINK, WORLD, WORLD_LINK},
    traffic::{self, at},
};
use serde_json::json;

/// The first container on `docker0`.
const WEB: &str = "172.17.0.2";

#[test]
fn a_published_port_of_docker_is_followed_from_the_nic() -> Result<()> {
    let Some(mut host) = Host::with(&[Runtime::Docker])? else { return Ok(()) };
    docker::run(&mut host, "web", &["-p", "8080:80"])?;
    let records = Trace::during(host.lab(), &["--ip", WEB, "--proto", "tcp"], || {
        traffic::http_get(host.netns("world")?, at(UPLINK, 8080)?).map(drop)
    })?;
    let inwards = [
        "world:eth0 dev_xmit",
        "host:eth-up dev_receive",
        "host:eth-up nf_prerouting",
        "host nat",
        "host route",
        "host nf_forward",
        "host:docker0 dev_xmit",
        "web:eth0 dev_receive",
        "web nf_input",
    ];
    records.assert_delivered("tcp", "original", &inwards);
    let outwards = [
        "web:eth0 dev_xmit",
        "host:docker0 dev_receive",
        "host nf_forward",
        "host nat",
        "host:eth-up dev_xmit",
        "world nf_input",
    ];
    records.assert_delivered("tcp", "reply", &outwards);
    for journey in records.of("tcp", "original") {
        assert_eq!((journey.flow("src"), journey.flow("dst")), (WORLD_LINK.into(), UPLINK.into()));
        assert_eq!(journey.record["nat"]["dst"], WEB, "{journey}");
        assert_eq!(journey.record["nat"]["dport"], 80, "{journey}");
        journey.assert_container("web", "docker:web");
    }
    records.assert_nothing_lost();
    Ok(())
}

#[test]
fn a_published_port_from_within_goes_through_dockers_proxy() -> Result<()> {
    let Some(mut host) = Host::with(&[Runtime::Docker])? else { return Ok(()) };
    docker::run(&mut host, "web", &["-p", "8080:80"])?;
    docker::run(&mut host, "client", &[])?;
    let records = Trace::during(host.lab(), &["--port", "8080", "--port", "80"], || {
        traffic::http_get(host.netns("client")?, at(UPLINK, 8080)?).map(drop)
    })?;
    // Docker rewrites nothing that comes from its bridges: its proxy answers, and asks.
    let to =
        |port: &str| records.select(|j| j.flow("dport") == port && j.direction() == "original");
    let (outer, inner) = (to("8080"), to("80"));
    assert!(!outer.is_empty() && !inner.is_empty(), "{records}");
    for journey in outer {
        journey.assert_passes(&["client:eth0 dev_xmit", "host:docker0 dev_receive"]);
        journey.assert_delivered("host");
    }
    for journey in inner {
        journey.assert_passes(&["host nf_output", "host:docker0 dev_xmit", "web:eth0 dev_receive"]);
        journey.assert_delivered("web");
    }
    Ok(())
}

#[test]
fn a_hairpin_of_docker_is_one_flow() -> Result<()> {
    let Some(mut host) = Host::with(&[Runtime::DockerWithoutProxy])? else { return Ok(()) };
    docker::run(&mut host, "web", &["-p", "8080:80"])?;
    docker::run(&mut host, "client", &[])?;
    let both = ["--ip", WEB, "--ip", "172.17.0.3", "--proto", "tcp"];
    let records = Trace::during(host.lab(), &both, || {
        traffic::http_get(host.netns("client")?, at(UPLINK, 8080)?).map(drop)
    })?;
    let there = [
        "client:eth0 dev_xmit",
        "host nat",
        "host nf_forward",
        "web:eth0 dev_receive",
        "web nf_input",
    ];
    records.assert_delivered("tcp", "original", &there);
    let back = ["web:eth0 dev_xmit", "host nat", "client:eth0 dev_receive", "client nf_input"];
    records.assert_delivered("tcp", "reply", &back);
    for journey in records.of("tcp", "original") {
        assert!(journey.is_to(UPLINK), "{journey}");
        assert_eq!(journey.record["nat"]["dst"], WEB, "{journey}");
    }
    Ok(())
}

#[test]
fn a_network_of_docker_reaches_the_world() -> Result<()> {
    let Some(mut host) = Host::with(&[Runtime::Docker])? else { return Ok(()) };
    host.run("docker", &["network", "create", "--subnet", "172.30.0.0/24", "own"])?;
    docker::run(&mut host, "one", &["--network", "own", "--ip", "172.30.0.9"])?;
    docker::run(&mut host, "other", &["--network", "own", "--ip", "172.30.0.10"])?;
    let both = ["--ip", "172.30.0.9", "--ip", "172.30.0.10"];
    let records = Trace::during(host.lab(), &both, || {
        assert_eq!(traffic::ping(host.netns("one")?, WORLD, 1)?, 1);
        traffic::http_get(host.netns("one")?, at("172.30.0.10", 80)?).map(drop)
    })?;
    let out = ["one:eth0 dev_xmit", "host nf_forward", "host nat", "world nf_input"];
    records.assert_delivered("icmp", "original", &out);
    let back = ["world:eth0 dev_xmit", "host nat", "host nf_forward", "one nf_input"];
    records.assert_delivered("icmp", "reply", &back);
    let across = ["one:eth0 dev_xmit", "other:eth0 dev_receive", "other nf_input"];
    records.assert_delivered("tcp", "original", &across);
    for journey in records.of("tcp", "original") {
        journey.assert_avoids("host route");
    }
    Ok(())
}

#[test]
fn what_docker_isolates_names_its_rule() -> Result<()> {
    let Some(mut host) = Host::with(&[Runtime::Docker])? else { return Ok(()) };
    host.run("docker", &["network", "create", "--subnet", "172.30.0.0/24", "own"])?;
    docker::run(&mut host, "web", &[])?;
    docker::run(&mut host, "client", &["--network", "own", "--ip", "172.30.0.9"])?;
    let records = Trace::during(host.lab(), &["--ip", "172.30.0.9"], || {
        traffic::udp_send(host.netns("client")?, at(WEB, 9999)?, 2)
    })?;
    let is_probe = |journey: &Journey| journey.flow("dport") == "9999";
    let journey = records.assert_dropped(is_probe, "host nf_forward", "NETFILTER_DROP");
    let fields = json!({
        "family": "ip", "table": "filter", "chain": "DOCKER-ISOLATION-STAGE-2",
        "hook": "forward", "policy": false,
    });
    records.assert_rule(journey, &fields);
    journey.assert_container("client", "docker:client");
    Ok(())
}
