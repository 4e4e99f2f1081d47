//! `cargo xtask test`: every test, and one line that counts them.

use std::{
    env,
    io::{BufRead, BufReader},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context, Result};

use crate::{build, root, setup};

/// Tests that passed and failed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Count {
    passed: u64,
    failed: u64,
}

/// Runs the tests whose name contains `name`, all without; the last line counts them.
pub fn run(name: Option<&str>) -> Result<ExitCode> {
    setup::run()?;
    let binary = build::run()?;
    let mut cargo = build::cargo();
    cargo.args(["test", "--workspace", "--no-fail-fast"]).args(name);
    cargo.env("PATHTRACE", &binary);
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
    if count.failed == 0 && !status.success() {
        eprintln!("error: the tests were not all run: cargo test ended with {status}");
    }
    println!("{} passed, {} failed", count.passed, count.failed);
    let good = status.success() && count.failed == 0 && count.passed > 0;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Count {
    /// Counts in `test result: ok. 4 passed; 0 failed; …`.
    fn add(&mut self, line: &str) {
        let Some((_, result)) =
            line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". "))
        else {
            return;
        };
        for part in result.split("; ") {
            match part.split_once(' ') {
                Some((number, "passed")) => self.passed += number.parse().unwrap_or(0),
                Some((number, "failed")) => self.failed += number.parse().unwrap_or(0),
                _ => {}
            }
        }
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

#[cfg(test)]
mod tests {
    use super::Count;

    #[test]
    fn counts_over_all_test_programs() {
        let mut count = Count::default();
        for line in [
            "test result: ok. 4 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.07s",
            "test a ... FAILED",
            "test result: FAILED. 1 passed; 6 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.2s",
        ] {
            count.add(line);
        }
        assert_eq!(count, Count { passed: 5, failed: 6 });
    }
}
