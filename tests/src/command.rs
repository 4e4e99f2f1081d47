//! Commands run to their end, with errors of one line.

use std::{
    ffi::OsStr,
    io::Write,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

/// Runs a command to its end and returns what it printed. An error tells the command and the first
/// line of what it said.
pub fn run<S: AsRef<OsStr>>(program: &str, args: &[S]) -> Result<String> {
    finish(Command::new(program).args(args), "")
}

/// Like [`run`], for a prepared command that reads `input`.
pub fn finish(command: &mut Command, input: &str) -> Result<String> {
    let shown = show(command);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{shown} did not start (is it installed? cargo xtask setup)"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A command that does not read its input is no error: its status tells.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().with_context(|| shown.clone())?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{shown}: {}", said.trim().lines().next().unwrap_or("failed without a word"));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Namespaces, bridges and rules are root's.
pub fn require_root() -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "the lab needs root to make network namespaces; run it through cargo xtask, or as root"
    );
    Ok(())
}

fn show(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy()];
    words.extend(command.get_args().map(OsStr::to_string_lossy));
    words.join(" ")
}
