//! `cargo xtask bench`: what tracing costs, measured in the lab.
//!
//! The same loads from c1 to the world are run untraced, with pathtrace attached and matching nothing, with
//! pathtrace matching every packet, and the first also with what else people use; in turns, so that a machine
//! that slows down slows all of them.

mod idle;
mod mode;
mod peer;
mod programs;
mod rates;
mod workload;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use lab::{Lab, pace::slowness};

use self::{
    mode::{Ended, MODES},
    rates::Rates,
    workload::{ROUND, Speed, WORKLOADS, Workload},
};
use crate::{
    build, root, setup,
    vm::{self, Job, Kernel, Outcome, PassOn, quote},
};

/// How often the first workload is measured under each mode; the others, and all in an emulated machine, less
/// often: it takes long enough.
const ROUNDS: usize = 5;
const FEWER_ROUNDS: usize = 3;

/// What a guest has, and how long all may take in it.
const CPUS: u32 = 2;
const MEM: u32 = 2048;
const PATIENCE: Duration = Duration::from_secs(90 * 60);

/// Where to measure.
#[derive(Args)]
pub struct Bench {
    /// On another kernel, in a virtual machine, and other tools in the same run: a series as 6.12;
    /// again for more
    #[arg(long = "kernel", value_name = "SERIES", value_delimiter = ',')]
    kernels: Vec<vm::Series>,
    /// Only what being attached costs where there is nothing to trace, with few rules and with many
    #[arg(long)]
    idle: bool,
    /// Only the first load, small datagrams of one flow: with all that it is compared with, in minutes
    #[arg(long, conflicts_with = "idle")]
    quick: bool,
    /// Another tool to compare with, run in the lab's host: its command, as 'retis collect -p …'; again for
    /// more
    #[arg(long = "peer", value_name = "COMMAND", conflicts_with_all = ["kernels", "idle"])]
    peers: Vec<String>,
    /// Only how many events a second one core takes and writes: from memory, with nothing attached
    #[arg(long, conflicts_with_all = ["kernels", "idle", "quick"])]
    consumer: bool,
    /// Measure this binary here, without setting up and building: what a guest is told
    #[arg(long, hide = true)]
    binary: Option<PathBuf>,
}

/// Measures and prints.
pub fn run(bench: &Bench) -> Result<()> {
    if let Some(binary) = &bench.binary {
        return measure(binary, bench);
    }
    if bench.consumer {
        return consumer();
    }
    setup::run()?;
    let binary = build::run()?;
    if bench.kernels.is_empty() {
        root::become_root()?;
        return measure(&binary, bench);
    }
    setup::tools_to_compare_with()?;
    vm::prepare()?;
    for kernel in vm::kernels(&bench.kernels, false)? {
        println!("\n{}", kernel.release());
        measure_in_guest(&kernel, &binary, bench)?;
    }
    Ok(())
}

/// Has criterion measure what user space makes of events.
fn consumer() -> Result<()> {
    let status = build::cargo()
        .args(["bench", "--package", "tracer", "--bench", "consumer"])
        .status()
        .context("cargo did not start")?;
    ensure!(status.success(), "it was not measured; what cargo says is above");
    Ok(())
}

/// Has this program measure in a guest.
fn measure_in_guest(kernel: &Kernel, binary: &Path, bench: &Bench) -> Result<()> {
    let word = |path: &Path| quote(&path.to_string_lossy());
    let myself = std::env::current_exe().context("this program's path is not known")?;
    let binary = std::path::absolute(binary)?;
    let script = format!(
        "export PATHTRACE_TEST_SLOWNESS=3\nexec {} bench --binary {}{}{}",
        word(&myself),
        word(&binary),
        if bench.idle { " --idle" } else { "" },
        if bench.quick { " --quick" } else { "" }
    );
    let job = Job { script, timeout: PATIENCE, cpus: CPUS, mem: MEM, kvm: false };
    match vm::attend(kernel, &job, &mut PassOn)? {
        (Outcome::Exited(0), _) => Ok(()),
        (outcome, _) => bail!("not measured on {}: {outcome:?}", kernel.release()),
    }
}

fn measure(binary: &Path, bench: &Bench) -> Result<()> {
    let lab = Lab::standard()?;
    let rounds = if slowness() > 1 { FEWER_ROUNDS } else { ROUNDS };
    // What is not measured: the machine's own beginning.
    load(&lab)?;
    if bench.idle {
        return idle::measure(&lab, binary, rounds);
    }

    let peers = mode::peers(&bench.peers)?;
    let modes: Vec<_> = MODES.iter().chain(&peers).filter(|mode| mode.is_possible()).collect();
    let workloads = WORKLOADS.get(..if bench.quick { 1 } else { WORKLOADS.len() });
    for &workload in workloads.unwrap_or_default() {
        let with_others = workload == WORKLOADS[0];
        let rounds = if with_others { rounds } else { rounds.min(FEWER_ROUNDS) };
        let modes: Vec<_> =
            modes.iter().copied().filter(|mode| with_others || !mode.is_other()).collect();
        let mut all = Rates::new(workload, modes.iter().map(|mode| mode.name.clone().into_owned()));
        // Its complaint is shown when it is to be measured.
        let lines: Vec<_> =
            modes.iter().map(|mode| mode.lines_of_a_packet(&lab, binary).ok().flatten()).collect();
        for number in 1..=rounds {
            for (index, mode) in modes.iter().enumerate() {
                let attached = match mode.attach(&lab, binary) {
                    Ok(attached) => attached,
                    // What others need of a kernel is theirs to say; pathtrace must work.
                    Err(error) if mode.is_other() => {
                        println!("round {number} of {rounds}: {:<34} {error:#}", mode.name);
                        continue;
                    }
                    Err(error) => return Err(error),
                };
                let speed = workload.run(&lab)?;
                let ended = attached.end()?;
                // Before and behind other loads packets are sent that are none of theirs.
                let told = match workload {
                    Workload::Udp { .. } => told(&ended, lines.get(index).copied().flatten()),
                    _ => None,
                };
                all.add(index, &speed, ended.cost, told);
            }
            println!("{workload}: round {number} of {rounds}");
        }
        println!("\n{all}");
    }
    if !bench.quick {
        idle::measure(&lab, binary, rounds)?;
    }
    for mode in modes.iter().filter(|mode| mode.has_programs()) {
        programs::measure(&lab, binary, mode)?;
    }
    Ok(())
}

/// Packets a second of which all was told: those of which pathtrace says so, or as many as another tool's lines
/// suffice for, of which one takes `lines`.
fn told(ended: &Ended, lines: Option<f64>) -> Option<f64> {
    let printed = ended.lines.map(|lines| lines as f64).zip(lines.filter(|lines| *lines >= 1.0));
    let packets = printed.map(|(all, each)| all / each).or(ended.packets.map(|n| n as f64))?;
    Some(packets / ROUND.as_secs_f64())
}

/// Small datagrams of one flow for a round: what the rest is measured with.
fn load(lab: &Lab) -> Result<Speed> {
    WORKLOADS[0].run(lab)
}
