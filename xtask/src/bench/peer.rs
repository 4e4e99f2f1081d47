//! Another tool, run in the lab's host as an operator would.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError, Sender},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use lab::{Netns, pace::patience};
use rustix::process::{Pid, Signal, kill_process};

/// How long a tool may take to attach, and to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long it takes a tool to attach that does not tell.
const A_WHILE: Duration = Duration::from_millis(700);

/// How it is known that a tool is attached.
pub enum Ready {
    /// It prints this.
    Says(&'static str),
    /// It does not tell.
    AfterAWhile,
}

/// The tool while it runs; with it goes what was made for it.
pub struct Peer<'a> {
    child: Child,
    netns: &'a Netns,
    has_rule: bool,
}

impl<'a> Peer<'a> {
    /// Starts a command, and waits until it is attached. `rule` is put before all others of the
    /// namespace.
    pub fn start(
        netns: &'a Netns,
        command: &[&str],
        ready: &Ready,
        rule: Option<&str>,
    ) -> Result<Self> {
        let (program, args) = command.split_first().context("no command")?;
        if let Some(rule) = rule {
            netns.nft(&format!(
                "table inet bench {{
                     chain first {{
                         type filter hook prerouting priority -350;
                         {rule};
                     }}
                 }}"
            ))?;
        }
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child =
            netns.enter(|| command.spawn())?.with_context(|| format!("{program} not run"))?;
        let mut peer = Self { child, netns, has_rule: rule.is_some() };
        let (sender, said) = mpsc::channel();
        if let Some(stdout) = peer.child.stdout.take() {
            read(stdout, ready, sender.clone());
        }
        if let Some(stderr) = peer.child.stderr.take() {
            read(stderr, ready, sender);
        }
        if let Ready::AfterAWhile = ready {
            thread::sleep(patience(A_WHILE));
            return Ok(peer);
        }
        match said.recv_timeout(patience(PATIENCE)) {
            Ok(Ok(())) => Ok(peer),
            Ok(Err(why)) => bail!("{program}: {why}"),
            Err(RecvTimeoutError::Timeout) => bail!("{program} did not attach in time"),
            Err(RecvTimeoutError::Disconnected) => bail!("{program} ended at once"),
        }
    }

    /// Ends it as Ctrl-C does.
    pub fn end(mut self) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.context("no process id")?, Signal::INT).context("not signalled")?;
        let start = Instant::now();
        while self.child.try_wait()?.is_none() && start.elapsed() < patience(PATIENCE) {
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Peer<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if self.has_rule {
            let _ = self.netns.nft("delete table inet bench");
        }
    }
}

/// Reads all that a tool prints, so that it does not wait for a reader, and tells when it is ready,
/// or that it ended before with the last that it said.
fn read(from: impl Read + Send + 'static, ready: &Ready, to: Sender<Result<(), String>>) {
    let wanted = match ready {
        Ready::Says(what) => Some(*what),
        Ready::AfterAWhile => None,
    };
    thread::spawn(move || {
        let (mut from, mut line, mut last) = (BufReader::new(from), Vec::new(), String::new());
        let mut waits = wanted.is_some();
        while from.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            if waits {
                last = String::from_utf8_lossy(&line).trim().to_owned();
                if wanted.is_some_and(|wanted| last.contains(wanted)) {
                    waits = false;
                    let _ = to.send(Ok(()));
                }
            }
            line.clear();
        }
        if waits && !last.is_empty() {
            let _ = to.send(Err(last));
        }
    });
}
