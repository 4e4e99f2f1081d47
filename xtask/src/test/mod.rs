//! `cargo xtask test`: every test, on this kernel and on others, and one line that counts them.

mod count;
mod guests;

use std::{
    env, fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context, Result};
use clap::Args;
use count::Count;

use crate::{build, root, setup, vm};

/// Which tests, and where.
#[derive(Args)]
pub struct Test {
    /// Only tests whose name contains one of these
    names: Vec<String>,
    /// Then the scenarios on other kernels, in virtual machines: series as 5.10,6.1, or all of the
    /// matrix without any
    #[arg(long, value_name = "SERIES", value_delimiter = ',', num_args = 0..=1)]
    kernels: Option<Vec<vm::Series>>,
    /// Only on the other kernels, not on this one
    #[arg(long, requires = "kernels")]
    only_kernels: bool,
}

/// Runs them; the last line counts them.
pub fn run(test: &Test) -> Result<ExitCode> {
    setup::for_tests()?;
    let binary = build::run()?;
    let names = &test.names;
    let mut all = Count::default();
    let mut told = Vec::new();
    let kernels = match &test.kernels {
        None => Vec::new(),
        Some(series) => {
            vm::prepare()?;
            vm::kernels(series, false)?
        }
    };
    if !test.only_kernels {
        let count = here(names, &binary)?;
        all.add_kernel(&count, "here");
        told.push((format!("this kernel, {}", lab::capability::release()?), count));
    }
    if !kernels.is_empty() {
        let programs = guests::programs()?;
        let counts = guests::run_all(&kernels, &programs, names, &binary)?;
        for (kernel, count) in kernels.iter().zip(counts) {
            all.add_kernel(&count, kernel.series());
            told.push((format!("{}, {}", kernel.series(), kernel.release()), count));
        }
    }
    for (kernel, count) in &told {
        if told.len() > 1 {
            println!("{kernel}: {count}");
        }
        for note in count.notes() {
            println!("    {note}");
        }
    }
    println!("{all}");
    let good = all.failed() == 0 && all.passed() > 0;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Every test of the workspace, on the running kernel.
fn here(names: &[String], binary: &Path) -> Result<Count> {
    let notes = Notes::new();
    let mut cargo = build::cargo();
    cargo.args(["test", "--workspace", "--no-fail-fast", "--"]).args(names);
    cargo.env("PATHTRACE", binary).env("PATHTRACE_TEST_NOTES", &notes.0);
    if !root::is_root() {
        cargo.env(runner_variable()?, "sudo --preserve-env");
    }
    // Backtraces of a scenario's error are the test harness's, not the scenario's.
    cargo.env("RUST_LIB_BACKTRACE", "0");
    let mut child = cargo.stdout(Stdio::piped()).spawn().context("cargo did not start")?;
    let mut count = Count::default();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            let line = line?;
            println!("{line}");
            count.add(&line);
        }
    }
    let status = child.wait()?;
    if count.failed() == 0 && !status.success() {
        eprintln!("error: the tests were not all run: cargo test ended with {status}");
        count.add_failure();
    }
    for note in notes.read()?.lines() {
        count.add(note);
    }
    Ok(count)
}

/// The file in which scenarios tell what they do not try. It is theirs: they may be another user's.
struct Notes(PathBuf);

impl Notes {
    fn new() -> Self {
        Self(env::temp_dir().join(format!("pathtrace-notes-{}", std::process::id())))
    }

    fn read(&self) -> Result<String> {
        if !self.0.exists() {
            return Ok(String::new());
        }
        fs::read_to_string(&self.0).with_context(|| format!("{} not read", self.0.display()))
    }
}

impl Drop for Notes {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// The variable by which cargo learns what to start test programs with.
fn runner_variable() -> Result<String> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("-vV").output().context("rustc did not start")?;
    let version = String::from_utf8_lossy(&output.stdout).into_owned();
    let host = version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .context("rustc -vV tells no host")?;
    Ok(format!("CARGO_TARGET_{}_RUNNER", host.replace('-', "_").to_uppercase()))
}
