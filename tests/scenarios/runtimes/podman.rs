//! Podman, with the network that Debian's package brings.

use anyhow::{Context, Result};
use lab::{
    Trace,
    runtimes::{Host, Runtime, podman},
    topology::UPLINK,
    traffic::{self, at},
};

#[test]
fn a_published_port_of_podman_is_followed_from_the_nic() -> Result<()> {
    let Some(mut host) = Host::with(&[Runtime::Podman])? else { return Ok(()) };
    podman::run(&mut host, "web", &["-p", "8080:80"])?;
    let address = podman::address(&host, "web")?;
    let records = Trace::during(host.lab(), &["--ip", &address, "--proto", "tcp"], || {
        traffic::http_get(host.netns("world")?, at(UPLINK, 8080)?).map(drop)
    })?;
    let inwards = [
        "world:eth0 dev_xmit",
        "host:eth-up dev_receive",
        "host nat",
        "host nf_forward",
        "web nf_input",
    ];
    records.assert_delivered("tcp", "original", &inwards);
    let outwards = ["web:eth0 dev_xmit", "host nat", "host:eth-up dev_xmit", "world nf_input"];
    records.assert_delivered("tcp", "reply", &outwards);
    let first = records.of("tcp", "original").into_iter().next().context("nothing sent")?;
    assert_eq!(first.record["nat"]["dst"], address, "{first}");
    assert_eq!(first.record["nat"]["dport"], 80, "{first}");
    first.assert_container("web", "podman:web");
    Ok(())
}
