//! `cargo xtask bench`: what tracing costs, measured in the lab.
//!
//! The same load, small UDP datagrams from c1 to the world, is run untraced, with pathtrace
//! attached and matching nothing, with pathtrace matching every packet, and with the kernel tracing
//! its rules for each of them as well; in turns, so that a machine that slows down slows all.

use std::{
    collections::HashSet,
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result};
use aya::{
    programs::loaded_programs,
    sys::{Stats, enable_stats},
};
use lab::{
    Lab, Trace,
    topology::{C1, WORLD},
    trace::Output,
    traffic,
};
use rustix::process::Signal;

use crate::{build, root, setup};

const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(2);
const PORT: u16 = 7;

/// What is attached during a round.
struct Mode {
    name: &'static str,
    args: Option<&'static [&'static str]>,
}

const MODES: [Mode; 4] = [
    Mode { name: "not traced", args: None },
    Mode { name: "matching nothing", args: Some(&["--ip", "192.0.2.77", "-o", "text"]) },
    Mode { name: "matching all, -o text", args: Some(&["--ip", C1, "-o", "text"]) },
    Mode { name: "same with --nft-trace", args: Some(&["--ip", C1, "-o", "text", "--nft-trace"]) },
];

/// Measures and prints.
pub fn run() -> Result<()> {
    setup::run()?;
    let binary = build::run()?;
    root::become_root()?;
    let lab = Lab::standard()?;
    round(&lab, &binary, &MODES[0])?;

    let mut rates: [Vec<f64>; MODES.len()] = Default::default();
    for number in 1..=ROUNDS {
        for (mode, rates) in MODES.iter().zip(&mut rates) {
            let rate = round(&lab, &binary, mode)?;
            println!("round {number} of {ROUNDS}: {:<22} {rate:>9.0} packets/s", mode.name);
            rates.push(rate);
        }
    }
    println!("\n{:<22} {:>10} {:>21} {:>10}", "", "median", "least to most", "of untraced");
    let untraced = median(&mut rates[0]);
    for (mode, rates) in MODES.iter().zip(&mut rates) {
        let (median, least, most) = (median(rates), rates.first().copied(), rates.last().copied());
        println!(
            "{:<22} {median:>8.0}/s {:>9.0} to {:>7.0}/s {:>9.1} %",
            mode.name,
            least.unwrap_or_default(),
            most.unwrap_or_default(),
            100.0 * median / untraced
        );
    }
    for mode in &MODES[1..] {
        programs(&lab, &binary, mode)?;
    }
    Ok(())
}

/// One round's packets per second.
fn round(lab: &Lab, binary: &Path, mode: &Mode) -> Result<f64> {
    let trace = attach(lab, binary, mode)?;
    let rate = load(lab)?;
    end(trace)?;
    Ok(rate)
}

fn load(lab: &Lab) -> Result<f64> {
    let address = format!("{WORLD}:{PORT}").parse().context("no address")?;
    traffic::udp_rate(lab.netns("c1")?, lab.netns("world")?, address, ROUND)
}

fn attach(lab: &Lab, binary: &Path, mode: &Mode) -> Result<Option<Trace>> {
    let Some(args) = mode.args else { return Ok(None) };
    let mut command = Command::new(binary);
    command.args(args);
    Trace::spawn(lab.netns("host")?, command, Output::To(Stdio::null())).map(Some)
}

fn end(trace: Option<Trace>) -> Result<()> {
    let Some(trace) = trace else { return Ok(()) };
    trace.signal(Signal::INT)?;
    trace.wait().map(drop)
}

/// What each program costs a run, by the kernel's own statistics, their cost included.
fn programs(lab: &Lab, binary: &Path, mode: &Mode) -> Result<()> {
    // Counts from here on, and no more once it is closed.
    let counting = enable_stats(Stats::RunTime).context("the kernel keeps no BPF statistics")?;
    let trace = attach(lab, binary, mode)?;
    let own = trace.as_ref().map_or_else(HashSet::new, |trace| programs_of(trace.pid()));
    load(lab)?;
    println!("\n{}: ns a run\n{:<22} {:>12} {:>8}", mode.name, "program", "runs", "ns");
    for program in loaded_programs().flatten().filter(|program| own.contains(&program.id())) {
        let (runs, time) = (program.run_count(), program.run_time());
        if runs > 0 {
            let name = program.name_as_str().unwrap_or("?").to_owned();
            println!("{name:<22} {runs:>12} {:>8.0}", time.as_nanos() as f64 / runs as f64);
        }
    }
    drop(counting);
    end(trace)
}

/// The ids of the BPF programs that a process holds.
fn programs_of(pid: u32) -> HashSet<u32> {
    fs::read_dir(format!("/proc/{pid}/fdinfo"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| fs::read_to_string(entry.path()).ok())
        .filter_map(|info| {
            info.lines().find_map(|line| line.strip_prefix("prog_id:")?.trim().parse().ok())
        })
        .collect()
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
