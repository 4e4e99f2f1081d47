//! Another tool, run in the lab's host as an operator would.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, RecvTimeoutError, Sender},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use lab::{Netns, pace::patience};
use rustix::process::{Pid, Signal, kill_process};

/// How long a tool may take to attach, and to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long it takes a tool to attach that does not tell.
const A_WHILE: Duration = Duration::from_millis(700);

/// How long a tool prints nothing that has told all that it had: libpcap holds packets back for up to a second.
const QUIET: Duration = Duration::from_millis(1500);

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
    /// Lines that it has printed so far.
    lines: Arc<AtomicU64>,
    /// Who reads them.
    reader: Option<JoinHandle<()>>,
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
        let lines = Arc::default();
        let mut peer = Self { child, netns, has_rule: rule.is_some(), lines, reader: None };
        let (sender, said) = mpsc::channel();
        if let Some(stdout) = peer.child.stdout.take() {
            peer.reader = Some(read(stdout, ready, sender.clone(), peer.lines.clone()));
        }
        if let Some(stderr) = peer.child.stderr.take() {
            read(stderr, ready, sender, Arc::default());
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

    /// Ends it as Ctrl-C does, once it has told all that it had: how many lines it has printed.
    pub fn end(mut self) -> Result<u64> {
        let start = Instant::now();
        let mut lines = self.lines.load(Ordering::Relaxed);
        while start.elapsed() < patience(PATIENCE) {
            thread::sleep(patience(QUIET));
            let more = self.lines.load(Ordering::Relaxed);
            if more == lines {
                break;
            }
            lines = more;
        }
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.context("no process id")?, Signal::INT).context("not signalled")?;
        let start = Instant::now();
        while self.child.try_wait()?.is_none() && start.elapsed() < patience(PATIENCE) {
            thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        // What it wrote last, it wrote when it ended. A child of its own may hold the pipe open.
        while self.reader.as_ref().is_some_and(|reader| !reader.is_finished())
            && start.elapsed() < patience(PATIENCE)
        {
            thread::sleep(Duration::from_millis(5));
        }
        Ok(self.lines.load(Ordering::Relaxed))
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

/// Reads and counts all that a tool prints, so that it does not wait for a reader, and tells when it is ready,
/// or that it ended before with the last that it said.
fn read(
    from: impl Read + Send + 'static,
    ready: &Ready,
    to: Sender<Result<(), String>>,
    lines: Arc<AtomicU64>,
) -> JoinHandle<()> {
    let wanted = match ready {
        Ready::Says(what) => Some(*what),
        Ready::AfterAWhile => None,
    };
    thread::spawn(move || {
        let (mut from, mut line, mut last) = (BufReader::new(from), Vec::new(), String::new());
        let mut waits = wanted.is_some();
        while from.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            lines.fetch_add(1, Ordering::Relaxed);
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
    })
}
