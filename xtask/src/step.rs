//! A long step: told on stderr when it begins and ends, quiet unless it fails.

use std::{
    io::Read,
    process::{Child, Command, Stdio},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// How often a running step says that it is still running.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Runs a command that takes long, for at most `limit`. When it fails, what it said last is shown.
pub fn run(what: &str, command: &mut Command, limit: Duration) -> Result<()> {
    eprintln!("{what} …");
    let start = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{what}: {} did not start", program(command)))?;
    let output = [gather(child.stdout.take()), gather(child.stderr.take())];
    let mut told = start;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if start.elapsed() > limit {
            end(&mut child)?;
            break None;
        }
        if told.elapsed() > HEARTBEAT {
            told = Instant::now();
            eprintln!("{what} … {} s so far", start.elapsed().as_secs());
        }
        thread::sleep(Duration::from_millis(50));
    };
    if status.is_some_and(|status| status.success()) {
        eprintln!("{what}: done in {:.1} s", start.elapsed().as_secs_f32());
        return Ok(());
    }
    let why = match status {
        Some(status) => status.to_string(),
        None => {
            // Its own children may hold the pipes open: what they say is not waited for.
            bail!("{what}: {} did not end in {} s", program(command), limit.as_secs())
        }
    };
    let said: String = output.into_iter().filter_map(|output| output.join().ok()).collect();
    let last: Vec<&str> = said.lines().collect();
    let last = last.get(last.len().saturating_sub(20)..).unwrap_or_default().join("\n    ");
    bail!("{what}: {} failed ({why}), saying:\n    {last}", program(command))
}

fn program(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

fn gather(pipe: Option<impl Read + Send + 'static>) -> JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What was read before an error is still worth showing.
            let _ = pipe.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn end(child: &mut Child) -> Result<()> {
    child.kill()?;
    child.wait()?;
    Ok(())
}
