//! `cargo xtask vm`: a command under kernels that this machine does not run.
//!
//! A guest boots one of Debian's kernels in QEMU and has this machine's root as its own, behind an
//! overlay: it sees every program that is installed here and can change none. It has no network.

mod archive;
mod console;
mod guest;
mod initramfs;
mod kernel;
mod modules;

use std::{ffi::OsString, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context, Result, ensure};
use clap::Args;

pub use self::{
    console::say,
    guest::{Job, Outcome, Sink, Stream, quote},
    kernel::{Cache, Kernel, Series},
};
use crate::{root, setup};

/// The kernels that pathtrace is tried under, oldest first: series as Debian ships them.
const MATRIX: [&str; 5] = ["5.10", "6.1", "6.12", "6.18", "newest"];

/// How often a guest is begun again whose kernel fell over a fault of the emulator.
const AGAIN: u32 = 2;

/// What is to be run, and under what.
#[derive(Args)]
pub struct Vm {
    /// Series of a kernel: 6.1, say, or newest; again for more, none for all of the matrix
    #[arg(long = "kernel", value_name = "SERIES", value_delimiter = ',')]
    kernels: Vec<Series>,
    /// Seconds after which a guest is ended, with exit status 124
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    timeout: u64,
    /// Processors of a guest
    #[arg(long, value_name = "N", default_value_t = 2)]
    cpus: u32,
    /// Memory of a guest
    #[arg(long, value_name = "MIB", default_value_t = 2048)]
    mem: u32,
    /// Keep what the guests' kernels say in this file
    #[arg(long, value_name = "FILE")]
    console: Option<PathBuf>,
    /// Use KVM: faster, where this machine's works
    #[arg(long)]
    kvm: bool,
    /// Look for newer kernels of a series that is here already
    #[arg(long)]
    refresh: bool,
    /// The command, run as root in this directory
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Runs the command under each kernel and passes on what it prints. The exit status is that of the
/// first that failed.
pub fn run(vm: Vm) -> ExitCode {
    match carry_out(vm) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(guest::NOT_BOOTED)
        }
    }
}

fn carry_out(vm: Vm) -> Result<u8> {
    prepare()?;
    let command: Vec<String> =
        vm.command.iter().map(|word| quote(&word.to_string_lossy())).collect();
    let job = Job {
        script: format!("exec {}", command.join(" ")),
        timeout: Duration::from_secs(vm.timeout),
        cpus: vm.cpus,
        mem: vm.mem,
        kvm: vm.kvm,
    };
    if let Some(file) = &vm.console {
        std::fs::write(file, "").with_context(|| format!("{} not written", file.display()))?;
    }
    let mut first_failure = 0;
    for kernel in kernels(&vm.kernels, vm.refresh)? {
        let (outcome, said) = attend(&kernel, &job, &mut PassOn)?;
        if let Some(file) = &vm.console {
            console::append(file, &kernel, &said)?;
        }
        if first_failure == 0 {
            first_failure = outcome.status();
        }
    }
    Ok(first_failure)
}

/// Becomes root, and installs what a guest needs and this machine lacks.
pub fn prepare() -> Result<()> {
    ensure!(cfg!(target_arch = "x86_64"), "guests are made for x86-64 only, which this is not");
    setup::tools_for_guests()?;
    root::become_root()
}

/// The kernels of these series, of the whole matrix without any; those not here are fetched.
pub fn kernels(series: &[Series], refresh: bool) -> Result<Vec<Kernel>> {
    let matrix = MATRIX.map(|name| name.parse());
    let all: Vec<Series> = matrix.into_iter().collect::<Result<_, _>>()?;
    let (mut cache, mut kernels) = (Cache::open()?, Vec::<Kernel>::new());
    for series in if series.is_empty() { &all } else { series } {
        let kernel = cache.get(series, refresh)?;
        // The newest may be of a series that is named as well.
        if kernels.iter().all(|other| other.release() != kernel.release()) {
            kernels.push(kernel);
        }
    }
    Ok(kernels)
}

/// Runs a job in a guest to its end, and tells how it ended and what its kernel said. A guest that
/// fell over the emulator's fault is begun again.
pub fn attend(kernel: &Kernel, job: &Job, sink: &mut dyn Sink) -> Result<(Outcome, String)> {
    let mut again = 0;
    loop {
        let ended = guest::run(kernel, job, sink)?;
        let fault = console::emulators_fault(&ended.console);
        if ended.outcome == Outcome::Died && fault && again < AGAIN {
            again += 1;
            say(
                kernel,
                &format!("fell over the emulator's int3 fault; run again, {again} of {AGAIN}"),
            );
            sink.begin_again();
            continue;
        }
        for line in console::complaints(&ended.console) {
            say(kernel, &format!("the guest's kernel says: {line}"));
        }
        let why = match ended.outcome {
            Outcome::Exited(_) => return Ok((ended.outcome, ended.console)),
            Outcome::TimedOut => format!("timeout: not done in {} s", job.timeout.as_secs()),
            Outcome::Died => "the guest's kernel died under the command".to_owned(),
            Outcome::NotBooted => "the guest did not boot".to_owned(),
        };
        let last = console::last_lines(&ended.console, &ended.emulator);
        say(kernel, &format!("{why}; its console ends:\n{last}"));
        return Ok((ended.outcome, ended.console));
    }
}

/// Passes on what the command prints.
pub struct PassOn;

impl Sink for PassOn {
    fn take(&mut self, stream: Stream, bytes: &[u8]) -> Result<()> {
        stream.pass_on(bytes)
    }

    fn begin_again(&mut self) {}
}
