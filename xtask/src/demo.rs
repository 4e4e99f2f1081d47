//! `cargo xtask demo`: pathtrace at work on a small network, from nothing.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use lab::{
    Journey, Lab, Records, Trace,
    topology::{C1, WORLD},
    trace::Output,
    traffic,
};
use rustix::process::Signal;

use crate::{build, root, setup};

/// A rule like those that operators look for.
const DROP: &str = "add rule inet lab fwd.lxdbr0 ip daddr 203.0.113.8 udp dport 9999 drop";

/// A journey that the demo's traffic must show.
struct Expected {
    what: &'static str,
    is: fn(&Journey) -> bool,
    outcome: &'static str,
}

const EXPECTED: [Expected; 7] = [
    Expected { what: "echo request", is: |j| is(j, "icmp", "original"), outcome: "delivered" },
    Expected { what: "echo reply", is: |j| is(j, "icmp", "reply"), outcome: "delivered" },
    Expected { what: "TCP out", is: |j| is(j, "tcp", "original"), outcome: "delivered" },
    Expected { what: "TCP back", is: |j| is(j, "tcp", "reply"), outcome: "delivered" },
    Expected { what: "UDP out", is: |j| is_udp(j, "original", "5353"), outcome: "delivered" },
    Expected { what: "UDP back", is: |j| is_udp(j, "reply", "5353"), outcome: "delivered" },
    Expected { what: "UDP to 9999", is: |j| is_udp(j, "original", "9999"), outcome: "dropped" },
];

fn is(journey: &Journey, proto: &str, direction: &str) -> bool {
    journey.proto() == proto && journey.direction() == direction
}

fn is_udp(journey: &Journey, direction: &str, port: &str) -> bool {
    is(journey, "udp", direction) && journey.flow("dport") == port
}

/// Raises the lab, traces traffic in it, prints the journeys and checks them.
pub fn run() -> Result<()> {
    setup::run()?;
    let binary = build::run()?;
    root::become_root()?;

    println!("raising the lab: c1 {C1} on a bridge, a host that masquerades, a world at {WORLD}");
    let lab = Lab::standard()?;
    lab.netns("host")?.nft(DROP)?;
    println!("with one rule that drops: {DROP}\n\n$ pathtrace --ip {C1}");

    let mut command = Command::new(binary);
    command.args(["--ip", C1, "--output", "text"]);
    let shown = Trace::spawn(lab.netns("host")?, command, Output::To(Stdio::inherit()))?;
    let checked = Trace::start(&lab, &["--ip", C1])?;
    traffic(&lab)?;
    let records = checked.stop(&lab)?;
    shown.signal(Signal::INT)?;
    let ended = shown.wait()?;
    ensure!(ended.status.success(), "pathtrace ended with {}: {}", ended.status, ended.stderr);
    drop(lab);

    check(&records)
}

fn traffic(lab: &Lab) -> Result<()> {
    let (c1, world) = (lab.netns("c1")?, lab.netns("world")?);
    let at = |port: u16| format!("{WORLD}:{port}").parse().context("no address");
    let answers = traffic::ping(c1, WORLD, 2)?;
    ensure!(answers == 2, "the lab does not work: {answers} of 2 echo requests answered");
    traffic::tcp(c1, world, at(8080)?, 10_000)?;
    traffic::udp_echo(c1, world, at(5353)?, 2)?;
    traffic::udp_send(c1, at(9999)?, 2)
}

fn check(records: &Records) -> Result<()> {
    println!();
    let mut missing = Vec::new();
    for Expected { what, is, outcome } in EXPECTED {
        let journeys = records.select(is);
        let seen = journeys.iter().filter(|journey| journey.outcome() == outcome).count();
        println!("{what:>12}: {seen} of {} {outcome}", journeys.len());
        if seen == 0 || seen < journeys.len() {
            missing.push(what);
        }
    }
    ensure!(missing.is_empty(), "not as expected: {}", missing.join(", "));
    println!("demo: every packet's way was seen, and the lab is gone");
    Ok(())
}
