//! pathtrace, run in a lab.

use std::{
    collections::BTreeSet,
    env, fs,
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{
    Lab, Netns, Records,
    pace::{patience, slowness},
    records::{Names, account_for_events},
    sight,
};

/// How long it may take to attach, and to end.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long it does nothing when it is at rest.
const SETTLED_FOR: Duration = Duration::from_secs(2);

/// A running pathtrace, killed when this is dropped.
#[derive(Debug)]
pub struct Trace {
    child: Child,
    lines: Option<JoinHandle<Vec<String>>>,
    errors: Option<JoinHandle<String>>,
    /// Where it also writes a capture file, which must tell the same as it prints.
    file: Option<TempDir>,
}

/// Name of that file.
const FILE: &str = "trace.pcapng";

/// Arguments with which it tells all that it sees, however much and on however slow a machine.
pub const UNLIMITED: [&str; 4] = ["--max-events", "100000000", "--max-cpu", "100000"];

/// What becomes of what pathtrace prints.
pub enum Output {
    /// Its lines become [`Ended::lines`].
    Keep,
    /// Each line is given away as it comes: for more than memory holds.
    Each(Read),
    /// It goes elsewhere.
    To(Stdio),
}

/// Takes a line.
pub type Read = Box<dyn FnMut(&str) + Send>;

/// How a pathtrace ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit status.
    pub status: ExitStatus,
    /// The lines of stdout that were kept.
    pub lines: Vec<String>,
    /// All of stderr.
    pub stderr: String,
}

/// The binary: `$PATHTRACE`, or what `cargo xtask build` makes.
pub fn binary() -> Result<PathBuf> {
    let path = env::var_os("PATHTRACE").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/release/pathtrace")),
        PathBuf::from,
    );
    ensure!(path.exists(), "{} is not there to be tested; run: cargo xtask build", path.display());
    Ok(path)
}

/// Set to `all` or `none`: so many scenarios' traces write files, instead of half of them.
const WRITE: &str = "PATHTRACE_TEST_WRITE";

/// Whether the running scenario's traces write files. Slow machines take the other half, so that a scenario that
/// runs on both kinds is traced in both ways.
fn is_to_write() -> bool {
    match env::var(WRITE).as_deref() {
        Ok("all") => return true,
        Ok("none") => return false,
        _ => {}
    }
    let thread = thread::current();
    let sum: u32 = thread.name().unwrap_or_default().bytes().map(u32::from).sum();
    sum.is_multiple_of(2) == (slowness() == 1)
}

impl Trace {
    /// Starts `pathtrace -o json ARGS` in the lab's host, and waits until it traces. It may take what it needs
    /// of this machine, unless the arguments say how much. Half of the scenarios, chosen by their names, have it
    /// write a capture file, too, unless they have one: read back at the end, that must tell the same. The
    /// others trace as users do, without what is attached only for bytes.
    pub fn start(lab: &Lab, args: &[&str]) -> Result<Self> {
        let mut command = Command::new(binary()?);
        command.args(["-o", "json"]);
        if !args.iter().any(|arg| arg.starts_with("--max-")) {
            command.args(UNLIMITED);
        }
        let file =
            if args.contains(&"-w") || !is_to_write() { None } else { Some(tempfile::tempdir()?) };
        if let Some(directory) = &file {
            command.arg("-w").arg(directory.path().join(FILE));
        }
        command.args(args);
        let mut trace = Self::spawn(lab.netns("host")?, command, Output::Keep)?;
        trace.file = file;
        Ok(trace)
    }

    /// Traces what `work` does.
    pub fn during(lab: &Lab, args: &[&str], work: impl FnOnce() -> Result<()>) -> Result<Records> {
        let trace = Self::start(lab, args)?;
        work()?;
        trace.stop(lab)
    }

    /// Starts a command in a namespace, and waits until it traces.
    pub fn spawn(netns: &Netns, mut command: Command, output: Output) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut read: Option<Read> = None;
        match output {
            Output::To(stdout) => drop(command.stdout(stdout)),
            Output::Each(each) => read = Some(each),
            Output::Keep => {}
        }
        let mut child = netns.enter(|| command.spawn())?.context("pathtrace did not start")?;
        let stderr = BufReader::new(child.stderr.take().context("no stderr")?);
        let lines = child.stdout.take().map(|stdout| {
            thread::spawn(move || {
                let lines = BufReader::new(stdout).lines().map_while(Result::ok);
                match read {
                    None => lines.collect(),
                    Some(mut read) => {
                        lines.for_each(|line| read(&line));
                        Vec::new()
                    }
                }
            })
        });
        let (ready, is_ready) = mpsc::channel();
        let errors = thread::spawn(move || {
            let mut all = String::new();
            for line in stderr.lines().map_while(Result::ok) {
                if line.starts_with("tracing") {
                    let _ = ready.send(());
                }
                all.push_str(&line);
                all.push('\n');
            }
            all
        });
        let mut trace = Self { child, lines, errors: Some(errors), file: None };
        match is_ready.recv_timeout(patience(PATIENCE)) {
            Ok(()) => Ok(trace),
            Err(RecvTimeoutError::Timeout) => {
                let _ = trace.child.kill();
                let ended = trace.wait()?;
                bail!("pathtrace did not say `tracing` in time: {}", ended.stderr)
            }
            Err(RecvTimeoutError::Disconnected) => {
                let ended = trace.wait()?;
                bail!("pathtrace ended with {}: {}", ended.status, ended.stderr)
            }
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ids of the BPF programs that it holds.
    pub fn programs(&self) -> BTreeSet<u32> {
        held(self.pid(), "prog_id:")
    }

    /// Ids of the BPF links that it holds.
    pub fn links(&self) -> BTreeSet<u32> {
        held(self.pid(), "link_id:")
    }

    /// Waits until it has nothing to do any more: it listed the rules, and no tool of its runs.
    pub fn settle(&self) -> Result<()> {
        let start = Instant::now();
        let mut before = cpu_time(self.pid())?;
        loop {
            thread::sleep(SETTLED_FOR);
            let now = cpu_time(self.pid())?;
            // Its timer goes on; reading what a tool has printed takes all of a processor.
            let is_busy = now - before > SETTLED_FOR / 2;
            if !is_busy && !has_children(self.pid()) {
                return Ok(());
            }
            ensure!(start.elapsed() < patience(PATIENCE), "pathtrace does not come to rest");
            before = now;
        }
    }

    /// How many descriptors it has open.
    pub fn descriptors(&self) -> Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.pid()))?.count())
    }

    /// What it has used of processors so far.
    pub fn used(&self) -> Result<Duration> {
        cpu_time(self.pid())
    }

    /// Its resident memory, bytes.
    pub fn memory(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = kilobytes.and_then(|text| text.split_whitespace().next()?.parse().ok());
        kilobytes.map(|n: u64| n << 10).context("no resident memory")
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.context("no process id")?, signal).context("pathtrace not signalled")
    }

    /// Waits for its end; kills it when it takes too long, which is an error.
    pub fn wait(mut self) -> Result<Ended> {
        let start = Instant::now();
        let status = loop {
            match self.child.try_wait()? {
                Some(status) => break status,
                None if start.elapsed() > patience(PATIENCE) => {
                    bail!("pathtrace did not end in time")
                }
                None => thread::sleep(Duration::from_millis(5)),
            }
        };
        let lines = self.lines.take().and_then(|lines| lines.join().ok()).unwrap_or_default();
        let stderr = self.errors.take().and_then(|errors| errors.join().ok()).unwrap_or_default();
        if let Some(directory) = self.file.take().filter(|_| status.success()) {
            same_as_printed(&directory.path().join(FILE), &lines)?;
        }
        Ok(Ended { status, lines, stderr })
    }

    /// Ends it as Ctrl-C does, once what it was about to see is seen, and reads its records.
    pub fn stop(self, lab: &Lab) -> Result<Records> {
        // Packets' ends may come a moment after the traffic's last answer.
        thread::sleep(patience(Duration::from_millis(300)));
        self.signal(Signal::INT)?;
        self.wait()?.records(lab)
    }
}

/// Reads a capture file back: byte for byte what was printed while it was written.
fn same_as_printed(file: &Path, lines: &[String]) -> Result<()> {
    let output = Command::new(binary()?).args(["-o", "json", "-r"]).arg(file).output()?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() && stderr.is_empty(), "the file was not read back: {stderr}");
    let read = String::from_utf8(output.stdout).context("no text")?;
    let differs = read.lines().zip(lines).position(|(read, printed)| read != printed);
    if let Some(at) = differs {
        bail!("line {at} of the file is not what was printed: {:?}", read.lines().nth(at));
    }
    let count = read.lines().count();
    ensure!(count == lines.len(), "{count} lines in the file, {} were printed", lines.len());
    Ok(())
}

/// What a process has used of processors.
fn cpu_time(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let behind_name = stat.rsplit_once(')').context("no name in stat")?.1;
    let fields: Vec<&str> = behind_name.split_whitespace().collect();
    let ticks: u64 =
        [11, 12].iter().filter_map(|&index| fields.get(index)?.parse::<u64>().ok()).sum();
    // Linux counts them to user space in hundredths of a second (USER_HZ).
    Ok(Duration::from_millis(10 * ticks))
}

/// Whether a process runs others.
fn has_children(pid: u32) -> bool {
    fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten().any(|task| {
        fs::read_to_string(task.path().join("children")).is_ok_and(|list| !list.is_empty())
    })
}

/// What the descriptors of a process tell. (Reading that of a link by fprobe without cookies kills Linux
/// 6.18.)
fn held(pid: u32, key: &str) -> BTreeSet<u32> {
    fs::read_dir(format!("/proc/{pid}/fdinfo"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| fs::read_to_string(entry.path()).ok())
        .filter_map(|info| {
            info.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok())
        })
        .collect()
}

impl Drop for Trace {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    /// Its records; an error when it did not end well, or does not know where an event is that was told.
    pub fn records(&self, lab: &Lab) -> Result<Records> {
        ensure!(self.status.success(), "pathtrace ended with {}: {}", self.status, self.stderr);
        let names: Names =
            lab.spaces().map(|(short, netns)| (netns.inode().into(), short.into())).collect();
        let records = Records::read(&self.lines, &names, || sight::ruled(lab))?;
        account_for_events(&records.summary)?;
        Ok(records)
    }
}

/// Runs pathtrace in the lab's host to its end, for command lines that it refuses.
pub fn run(lab: &Lab, args: &[&str]) -> Result<Ended> {
    let mut command = Command::new(binary()?);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = lab.netns("host")?.enter(|| command.spawn())??;
    let start = Instant::now();
    let status = loop {
        match child.try_wait()? {
            Some(status) => break status,
            None if start.elapsed() > patience(PATIENCE) => {
                child.kill()?;
                child.wait()?;
                bail!("pathtrace {} did not end in time", args.join(" "))
            }
            None => thread::sleep(Duration::from_millis(5)),
        }
    };
    let stdout = io::read_to_string(child.stdout.take().context("no stdout")?)?;
    let stderr = io::read_to_string(child.stderr.take().context("no stderr")?)?;
    Ok(Ended { status, lines: stdout.lines().map(str::to_owned).collect(), stderr })
}
