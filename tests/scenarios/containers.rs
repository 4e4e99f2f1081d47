//! Containers by name, as a runtime tells them that the lab plays.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use anyhow::{Context, Result, ensure};
use lab::{
    Journey, Lab, Records, Trace,
    pace::slowness,
    topology::{self, C1, C2, HOST, WORLD},
    trace::{self, Output},
    traffic,
};
use serde_json::{Value, json};

/// An address that no container of the lab has at first.
const LATER: &str = "10.0.100.77";

/// A Docker that runs `web1` in c1. Its socket goes with this value.
struct Docker(PathBuf);

impl Docker {
    fn start(lab: &Lab) -> Result<Self> {
        let socket = std::env::temp_dir().join(format!("pathtrace-{}.sock", lab.prefix()));
        let listener = UnixListener::bind(&socket)?;
        let sandbox = Path::new("/run/netns").join(lab.netns("c1")?.name());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // Whoever asks may go before it is answered.
                let _ = answer(stream, &sandbox);
            }
        });
        Ok(Self(socket))
    }

    /// `pathtrace ARGS` that knows of it.
    fn pathtrace(&self, args: &[&str]) -> Result<Command> {
        let mut command = Command::new(trace::binary()?);
        command.args(args).env("DOCKER_HOST", format!("unix://{}", self.0.display()));
        Ok(command)
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn answer(mut stream: UnixStream, sandbox: &Path) -> Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    while let Some(first) = lines.next() {
        let first = first?;
        lines.find(|line| line.as_ref().map_or(true, String::is_empty));
        let id = "7".repeat(64);
        let body = if first.contains("/containers/json") {
            json!([{"Id": id, "Names": ["/web1"], "State": "running"}])
        } else {
            json!({"Id": id, "NetworkSettings": {"SandboxKey": sandbox}})
        }
        .to_string();
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
    }
    Ok(())
}

/// Starts to trace what `web1` sends and receives as ICMP.
fn trace_web1(lab: &Lab, docker: &Docker) -> Result<Trace> {
    let command = docker.pathtrace(&["-o", "json", "--container", "web1", "--proto", "icmp"])?;
    Trace::spawn(lab.netns("host")?, command, Output::Keep)
}

/// The journeys of ICMP from or to this address.
fn with<'a>(records: &'a Records, address: &str) -> Vec<&'a Journey> {
    let ends = |journey: &Journey| [journey.flow("src"), journey.flow("dst")];
    records.select(|j| j.proto() == "icmp" && ends(j).iter().any(|end| end == address))
}

#[test]
fn a_container_is_selected_and_named_by_what_its_runtime_calls_it() -> Result<()> {
    let lab = Lab::standard()?;
    let docker = Docker::start(&lab)?;
    let trace = trace_web1(&lab, &docker)?;
    assert_eq!(traffic::ping(lab.netns("c2")?, C1, 2)?, 2);
    assert_eq!(traffic::ping(lab.netns("host")?, C2, 2)?, 2);
    let records = trace.stop(&lab)?;

    let pings = records.of("icmp", "original");
    assert_eq!(pings.len(), 2, "those of c2 and the host are not selected: {records}");
    for ping in pings {
        let hops = ping.record["hops"].as_array().context("no hops")?;
        let of = |name: &str| hops.iter().find(|hop| hop["dev"]["name"] == name);
        let (inside, outside) = (of("eth0"), of("veth-c1").context("not seen at veth-c1")?);
        assert!(inside.is_some());
        assert_eq!(outside["dev"]["container"], "docker:web1");
        let last = hops.last().context("no hop")?;
        assert_eq!(last["netns"]["container"], "docker:web1");
    }
    Ok(())
}

#[test]
fn addresses_that_a_container_gets_later_are_followed_both_ways() -> Result<()> {
    let lab = Lab::standard()?;
    let docker = Docker::start(&lab)?;
    let c1 = lab.netns("c1")?;
    c1.ip(&format!("addr del {C1}/24 dev eth0"))?;
    let trace = trace_web1(&lab, &docker)?;

    c1.ip(&format!(
        "addr add {LATER}/24 dev eth0
         route add default via {HOST}"
    ))?;
    trace.settle()?;
    assert_eq!(traffic::ping(c1, WORLD, 2)?, 2);
    let records = trace.stop(&lab)?;

    let out = [
        "c1:eth0 nf_output",
        "host:veth-c1 dev_receive",
        "host nf_forward",
        "world:eth0 dev_receive",
    ];
    let back = ["host:eth-up dev_receive", "host:veth-c1 dev_xmit", "c1:eth0 nf_input"];
    for (direction, steps, to) in [("original", &out[..], "world"), ("reply", &back, "c1")] {
        let journeys = records.of("icmp", direction);
        assert_eq!(journeys.len(), 2, "{records}");
        for journey in journeys {
            journey.assert_passes(steps).assert_delivered(to);
        }
    }
    Ok(())
}

#[test]
fn addresses_that_a_container_loses_are_anothers() -> Result<()> {
    let lab = Lab::standard()?;
    let docker = Docker::start(&lab)?;
    let (c1, c2) = (lab.netns("c1")?, lab.netns("c2")?);
    c1.ip(&format!("addr add {LATER}/24 dev eth0"))?;
    let trace = trace_web1(&lab, &docker)?;
    assert_eq!(traffic::ping_with(c1, C2, &["-c", "1", "-I", LATER])?, 1);

    c1.ip(&format!("addr del {LATER}/24 dev eth0"))?;
    c2.ip(&format!("addr add {LATER}/24 dev eth0"))?;
    trace.settle()?;
    assert_eq!(traffic::ping_with(c2, HOST, &["-c", "2", "-I", LATER])?, 2);
    assert_eq!(traffic::ping(c1, C2, 1)?, 1);
    let records = trace.stop(&lab)?;

    assert_eq!(with(&records, LATER).len(), 2, "a request and its reply: {records}");
    assert_eq!(with(&records, C1).len(), 2, "what it still has: {records}");
    Ok(())
}

#[test]
fn a_container_that_is_started_again_is_still_followed() -> Result<()> {
    let mut lab = Lab::standard()?;
    let docker = Docker::start(&lab)?;
    let trace = trace_web1(&lab, &docker)?;

    // As a runtime does that stops it.
    lab.netns("host")?.ip("link del veth-c1")?;
    lab.delete("c1")?;
    topology::container(&mut lab, "c1", LATER, "fd00:100::77")?;
    // The runtime is asked a moment after the namespace was noticed.
    let apart = (0.5 * f64::from(slowness())).to_string();
    assert_eq!(traffic::ping_with(lab.netns("c1")?, WORLD, &["-c", "12", "-i", &apart])?, 12);
    let records = trace.stop(&lab)?;

    for (direction, to) in [("original", "world"), ("reply", "c1")] {
        let journeys = records.of("icmp", direction);
        journeys.last().context("none in this direction")?.assert_delivered(to);
    }
    Ok(())
}

#[test]
fn containers_are_listed_with_what_leads_to_them() -> Result<()> {
    let lab = Lab::standard()?;
    let docker = Docker::start(&lab)?;
    let mut command = docker.pathtrace(&["containers", "-o", "json"])?;
    let output = lab.netns("host")?.enter(|| command.output())??;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    let lines: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let web1 = lines.iter().find(|line| line["name"] == "web1").context("web1 is not listed")?;
    assert_eq!((&web1["type"], &web1["runtime"]), (&"container".into(), &"docker".into()));
    let eth0 = &web1["interfaces"][0];
    assert_eq!(eth0["peer"]["name"], "veth-c1");
    assert_eq!(eth0["peer"]["bridge"], "lxdbr0");
    let addresses = eth0["addresses"].as_array().context("no addresses")?;
    assert!(addresses.iter().any(|a| a.as_str().is_some_and(|a| a.starts_with(C1))), "{eth0}");
    Ok(())
}

#[test]
fn a_container_that_is_not_there_is_an_error_that_tells_near_names() -> Result<()> {
    let lab = Lab::standard()?;
    let docker = Docker::start(&lab)?;
    let mut command = docker.pathtrace(&["--container", "wbe1"])?;
    let output = lab.netns("host")?.enter(|| command.output())??;
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("docker:web1") && said.contains("pathtrace containers"), "{said}");
    Ok(())
}
