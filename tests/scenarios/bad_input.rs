//! Wrong arguments, and things that go away while tracing.

use std::{
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use aya::programs::{loaded_links, loaded_programs};
use lab::{
    Capability, Lab, Trace,
    pace::patience,
    topology::{self, C1, WORLD},
    trace::{self, binary},
    traffic,
};
use rustix::process::Signal;

/// Exit status of bad usage.
const USAGE: i32 = 2;
/// Exit status of a trace that could not be.
const FAILED: i32 = 1;

#[test]
fn refused_with_a_reason() -> Result<()> {
    let lab = Lab::standard()?;
    let cases: [(&[&str], i32, &str); 7] = [
        (&["--iface", "nosuch0"], FAILED, "nosuch0"),
        (&["--netns", "nosuch"], FAILED, "nosuch"),
        (&["--ip", "10.0.0.0/33"], USAGE, "10.0.0.0/33"),
        (&["--ip", "10.0.0"], USAGE, "10.0.0"),
        (&["--port", "70000"], USAGE, "70000"),
        (&["--ring-size", "0"], USAGE, "0"),
        (&["--proto", "nosuch"], USAGE, "nosuch"),
    ];
    for (args, status, named) in cases {
        let ended = trace::run(&lab, args)?;
        assert_eq!(ended.status.code(), Some(status), "{args:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(named), "{args:?} is not named: {}", ended.stderr);
        assert!(!ended.stderr.contains("panicked"), "{args:?}: {}", ended.stderr);
        assert!(ended.lines.is_empty(), "{args:?}: results on stdout: {:?}", ended.lines);
        if status == FAILED {
            assert_eq!(ended.stderr.trim().lines().count(), 1, "{args:?}: {}", ended.stderr);
        }
    }
    Ok(())
}

#[test]
fn contradictory_flags() -> Result<()> {
    let lab = Lab::standard()?;
    for args in [&["--proto", "icmp", "--port", "53"][..], &["-o", "json", "-o", "text"]] {
        let ended = trace::run(&lab, args)?;
        assert_eq!(ended.status.code(), Some(USAGE), "{args:?}: {}", ended.stderr);
    }
    Ok(())
}

#[test]
fn an_absurd_ring_is_refused_or_told() -> Result<()> {
    let lab = Lab::standard()?;
    let ended = trace::run(&lab, &["--ring-size", "1152921504606846976"])?;
    assert!(!ended.status.success(), "{}", ended.stderr);
    assert!(ended.status.code().is_some(), "killed: {}", ended.status);
    assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
    Ok(())
}

#[test]
fn a_container_gone_while_tracing() -> Result<()> {
    let mut lab = Lab::standard()?;
    let trace = Trace::start(&lab, &["--ip", C1])?;
    assert_eq!(traffic::ping(lab.netns("c1")?, WORLD, 1)?, 1);
    let c1 = lab.netns("c1")?.inode();
    lab.delete("c1")?;
    thread::sleep(patience(Duration::from_millis(500)));
    let records = trace.stop(&lab)?;
    let seen = records.journeys.iter().any(|journey| {
        let hops = journey.record["hops"].as_array();
        hops.is_some_and(|hops| hops.iter().any(|hop| hop["netns"]["inode"] == c1))
    });
    assert!(seen, "{records}");
    Ok(())
}

/// A container's interfaces go with its namespace, whose last user must not be pathtrace: one that
/// is started again at once wants their names.
#[test]
fn a_container_gone_while_tracing_is_let_go() -> Result<()> {
    let mut lab = Lab::standard()?;
    let trace = Trace::start(&lab, &["--ip", C1])?;
    lab.delete("c1")?;
    let start = Instant::now();
    while lab.netns("host")?.run("ip", &["link", "show", "veth-c1"]).is_ok() {
        assert!(start.elapsed() < patience(Duration::from_secs(1)), "veth-c1 is still there");
        thread::sleep(Duration::from_millis(20));
    }
    topology::container(&mut lab, "c1", C1, topology::C1_V6)?;
    // It is noticed within two seconds.
    thread::sleep(patience(Duration::from_millis(2500)));
    assert_eq!(traffic::ping(lab.netns("c1")?, WORLD, 1)?, 1);
    trace.stop(&lab)?.assert_delivered("icmp", "original", &["c1 nf_output", "world nf_input"]);
    Ok(())
}

#[test]
fn stdout_closed_by_its_reader() -> Result<()> {
    let lab = Lab::standard()?;
    let mut command = Command::new("bash");
    command.args(["-c", r#""$0" -o json --ip "$1" | head -n 1; exit "${PIPESTATUS[0]}""#]);
    command.arg(binary()?).arg(C1);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = lab.netns("host")?.enter(|| command.spawn())??;
    let start = Instant::now();
    while child.try_wait()?.is_none() && start.elapsed() < patience(Duration::from_secs(30)) {
        traffic::ping(lab.netns("c1")?, WORLD, 1)?;
    }
    let ended = child.try_wait()?;
    if ended.is_none() {
        child.kill()?;
    }
    let output = child.wait_with_output()?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(ended.is_some_and(|status| status.success()), "{ended:?}: {stderr}");
    assert!(output.stdout.starts_with(b"{\"type\":\"start\""));
    assert!(!stderr.contains("panicked"), "{stderr}");
    Ok(())
}

#[test]
fn two_at_once_see_the_same() -> Result<()> {
    let lab = Lab::standard()?;
    let args = ["--ip", C1, "--proto", "icmp"];
    let traces = [Trace::start(&lab, &args)?, Trace::start(&lab, &args)?];
    assert_eq!(traffic::ping(lab.netns("c1")?, WORLD, 3)?, 3);
    for trace in traces {
        let records = trace.stop(&lab)?;
        assert_eq!(records.of("icmp", "original").len(), 3, "{records}");
        assert_eq!(records.of("icmp", "reply").len(), 3, "{records}");
        records.assert_nothing_lost();
    }
    Ok(())
}

#[test]
fn killed_it_leaves_nothing_behind() -> Result<()> {
    let lab = Lab::standard()?;
    let before = filters(&lab)?;
    let trace = Trace::start(&lab, &["--ip", C1, "-s", "64"])?;
    let (programs, links) = (trace.programs(), trace.links());
    assert!(!programs.is_empty(), "no programs found in /proc/{}/fdinfo", trace.pid());
    trace.signal(Signal::KILL)?;
    let ended = trace.wait()?;
    assert!(!ended.status.success());
    if !lab.has(Capability::TcByLink)? {
        // Filters of clsact outlive their process: the next one finds and removes them.
        Trace::start(&lab, &["--ip", C1])?.stop(&lab)?;
    }
    // The kernel frees programs a moment after their last user is gone.
    let start = Instant::now();
    loop {
        let left: Vec<String> = loaded_programs()
            .flatten()
            .filter(|program| programs.contains(&program.id()))
            .map(|program| program.name_as_str().unwrap_or("?").to_owned())
            .chain(
                loaded_links()
                    .flatten()
                    .filter(|link| links.contains(&link.id()))
                    .map(|link| format!("link {}", link.id())),
            )
            .collect();
        if left.is_empty() {
            break;
        }
        assert!(start.elapsed() < patience(Duration::from_secs(10)), "left behind: {left:?}");
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(filters(&lab)?, before);
    assert_eq!(traffic::ping(lab.netns("c1")?, WORLD, 1)?, 1);
    Ok(())
}

/// The qdiscs and filters of every interface of the lab, as tc lists them.
fn filters(lab: &Lab) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for (short, netns) in lab.spaces() {
        let qdiscs = netns.run("tc", &["qdisc", "show"]).context("tc")?;
        all.push(format!("{short}: {qdiscs}"));
        for line in netns.run("ip", &["-brief", "link"])?.lines() {
            let name = line.split([' ', '@']).next().unwrap_or_default();
            for side in ["ingress", "egress"] {
                let filters = netns.run("tc", &["filter", "show", "dev", name, side]);
                all.push(format!("{short}:{name} {side} {}", filters.unwrap_or_default()));
            }
        }
    }
    Ok(all)
}
