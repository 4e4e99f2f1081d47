//! The scenarios on other kernels: built once here, run in guests, which see the same files.

use std::{
    cmp::Reverse,
    panic,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::count::Count;
use crate::{
    build,
    vm::{self, Job, Kernel, Outcome, Sink, Stream, quote},
};

/// How many times slower a guest is, for the purposes of the scenarios: of what they wait for, most
/// is not the processor.
const SLOWNESS: u32 = 3;

/// How long the scenarios of one guest may take.
const PATIENCE: Duration = Duration::from_secs(30 * 60);

/// Programs share a guest as long as they have no more scenarios than this together: a guest takes half a minute to
/// boot, and what ran in one that fell over is run again.
const SHARE: usize = 8;

/// The folder of scenarios with container runtimes, which are run on this machine only.
const NOT_IN_GUESTS: &str = "/scenarios/runtimes/";

/// Processors and memory of a guest. Two guests of one processor do half as much again as one of two,
/// and cannot fall over the emulator's fault, which takes a second processor.
const CPUS: u32 = 1;
const MEM: u32 = 3072;

/// A scenario program: what cargo calls it, and where it is.
pub struct Program {
    name: String,
    path: PathBuf,
}

impl Program {
    /// How many scenarios it has whose name contains one of these; all, without names.
    fn count(&self, names: &[String]) -> Result<usize> {
        let mut list = Command::new(&self.path);
        let listed = list.args(["--list", "--format", "terse"]).args(names).output();
        let listed = listed.with_context(|| format!("{} did not start", self.name))?;
        Ok(String::from_utf8_lossy(&listed.stdout)
            .lines()
            .filter(|line| line.ends_with(": test"))
            .count())
    }
}

/// Builds the scenarios.
pub fn programs() -> Result<Vec<Program>> {
    let mut cargo = build::cargo();
    // Every target that is declared in `tests/Cargo.toml`, not the lab's own unit tests.
    cargo.args(["test", "--package", "lab", "--test", "*", "--no-run"]);
    let output = cargo.arg("--message-format=json-render-diagnostics").stderr(Stdio::inherit());
    let output = output.output().context("cargo did not start")?;
    ensure!(output.status.success(), "the scenarios were not built; the messages are above");
    let programs = executables(&String::from_utf8_lossy(&output.stdout));
    ensure!(!programs.is_empty(), "cargo names no scenarios");
    Ok(programs)
}

/// The programs that cargo's messages name, of those for guests.
fn executables(messages: &str) -> Vec<Program> {
    let mut programs: Vec<Program> = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["reason"] == "compiler-artifact")
        .filter(|message| {
            let source = message["target"]["src_path"].as_str();
            source.is_none_or(|source| !source.contains(NOT_IN_GUESTS))
        })
        .filter_map(|message| {
            let name = message["target"]["name"].as_str()?.to_owned();
            Some(Program { name, path: message["executable"].as_str()?.into() })
        })
        .collect();
    programs.sort_by(|one, other| one.name.cmp(&other.name));
    programs
}

/// What runs in one guest, of these programs with as many scenarios each: those with most first, so that the last
/// guests are short ones.
fn share(mut programs: Vec<(usize, &Program)>) -> Vec<Vec<&Program>> {
    programs.sort_by_key(|(count, _)| Reverse(*count));
    let mut guests: Vec<(usize, Vec<&Program>)> = Vec::new();
    for (count, program) in programs {
        match guests.last_mut() {
            Some((all, together)) if *all + count <= SHARE => {
                *all += count;
                together.push(program);
            }
            _ => guests.push((count, vec![program])),
        }
    }
    guests.sort_by_key(|(all, _)| Reverse(*all));
    guests.into_iter().map(|(_, together)| together).collect()
}

/// Runs the scenarios whose name contains one of `names` under each of these kernels, in as many guests at a time as
/// there are processors for.
pub fn run_all(
    kernels: &[Kernel],
    programs: &[Program],
    names: &[String],
    binary: &Path,
) -> Result<Vec<Count>> {
    let binary = std::path::absolute(binary)?;
    let mut chosen = Vec::new();
    for program in programs {
        match program.count(names)? {
            0 => {}
            count => chosen.push((count, program)),
        }
    }
    let shared = share(chosen);
    let jobs: Vec<_> = shared
        .iter()
        .flat_map(|programs| (0..kernels.len()).map(move |kernel| (kernel, programs)))
        .collect();
    let (next, counts) = (AtomicUsize::new(0), Mutex::new(vec![Count::default(); kernels.len()]));
    let work = || -> Result<()> {
        while let Some(&(kernel, programs)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let count = run(&kernels[kernel], programs, names, &binary)?;
            let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
            counts[kernel].add_all(&count);
        }
        Ok(())
    };
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let at_a_time = (processors / CPUS as usize).max(1);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..at_a_time).map(|_| scope.spawn(work)).collect();
        let ended = workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(|panic| panic::resume_unwind(panic)));
        ended.collect::<Result<()>>()
    })?;
    Ok(counts.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// Runs those of some programs in one guest.
fn run(kernel: &Kernel, programs: &[&Program], names: &[String], binary: &Path) -> Result<Count> {
    let start = Instant::now();
    let series = kernel.series();
    let scenarios = programs.iter().map(|p| p.name.as_str()).collect::<Vec<_>>().join(", ");
    let script = script(programs, names, binary);
    let job = Job { script, timeout: PATIENCE, cpus: CPUS, mem: MEM, kvm: false };
    let mut lines = Lines::of(series);
    let (outcome, _) = vm::attend(kernel, &job, &mut lines)?;
    let mut count = lines.end();
    if count.failed() == 0 && outcome != Outcome::Exited(0) {
        eprintln!("error: {scenarios} did not run to its end on {}: {outcome:?}", kernel.release());
        count.add_failure();
    }
    println!("{series:>5} | {scenarios}: {count} in {} s", start.elapsed().as_secs());
    Ok(count)
}

/// Runs them, then tells what was not tried.
fn script(programs: &[&Program], names: &[String], binary: &Path) -> String {
    let path = |path: &Path| quote(&path.to_string_lossy());
    let filter = names.iter().map(|name| quote(name)).collect::<Vec<_>>().join(" ");
    let runs: String = programs
        .iter()
        .map(|p| format!("{} --test-threads 2 {filter} || status=$?\n", path(&p.path)))
        .collect();
    // What a scenario needs and the kernel does not load by itself. And two threads, so that each
    // test has one of its own, with its name.
    format!(
        "for module in br_netfilter tun; do modprobe -q $module; done
export PATHTRACE={} PATHTRACE_TEST_SLOWNESS={SLOWNESS} PATHTRACE_TEST_NOTES=/run/notes
export RUST_LIB_BACKTRACE=0 PATHTRACE_OWN_MACHINE=1
status=0
{runs}if [ -e /run/notes ]; then cat /run/notes; fi
exit $status",
        path(binary)
    )
}

/// Passes on what the scenarios print, each line with its kernel, and counts.
#[derive(Default)]
struct Lines {
    kernel: String,
    count: Count,
    /// Of stdout and stderr, the beginning of a line whose end has not come yet.
    rest: [Vec<u8>; 2],
}

impl Lines {
    fn of(kernel: &str) -> Self {
        Self { kernel: kernel.to_owned(), ..Self::default() }
    }

    fn read(&mut self, stream: Stream, bytes: &[u8]) {
        for byte in bytes {
            match byte {
                b'\n' => self.end_line(stream),
                _ => self.rest[stream as usize].push(*byte),
            }
        }
    }

    fn end(mut self) -> Count {
        self.end_line(Stream::Out);
        self.end_line(Stream::Err);
        self.count
    }

    fn end_line(&mut self, stream: Stream) {
        let line = std::mem::take(&mut self.rest[stream as usize]);
        let line = String::from_utf8_lossy(&line);
        if line.is_empty() {
            return;
        }
        println!("{:>5} | {line}", self.kernel);
        if stream == Stream::Out {
            self.count.add(&line);
        }
    }
}

impl Sink for Lines {
    fn take(&mut self, stream: Stream, bytes: &[u8]) -> Result<()> {
        self.read(stream, bytes);
        Ok(())
    }

    fn begin_again(&mut self) {
        *self = Self::of(&self.kernel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_for_guests_are_told_by_cargo() {
        let messages = r#"
            {"reason":"compiler-artifact","target":{"name":"serde"},"executable":null}
            {"reason":"compiler-artifact","target":{"name":"path"},"executable":"/t/path-1"}
            {"reason":"compiler-artifact","target":{"name":"drops"},"executable":"/t/drops-1"}
            {"reason":"compiler-artifact","executable":"/t/lxd-1", "target":{"name":"lxd","src_path":"/p/tests/scenarios/runtimes/lxd.rs"}}
            {"reason":"build-finished","success":true}"#;
        let programs = executables(messages);
        let names: Vec<&str> = programs.iter().map(|program| program.name.as_str()).collect();
        assert_eq!(names, ["drops", "path"]);
        let both: Vec<_> = programs.iter().collect();
        let script = script(&both, &["it's".to_owned()], Path::new("/t/pathtrace"));
        for program in ["drops", "path"] {
            let run = format!(r"'/t/{program}-1' --test-threads 2 'it'\''s' || status=$?");
            assert!(script.contains(&run), "{script}");
        }
    }

    #[test]
    fn small_programs_share_a_guest_and_the_longest_come_first() {
        let program = |name: &str| Program { name: name.to_owned(), path: PathBuf::new() };
        let [a, b, c, d] = ["a", "b", "c", "d"].map(program);
        let shared = share(vec![(2, &a), (3, &b), (10, &c), (4, &d)]);
        let names: Vec<Vec<&str>> =
            shared.iter().map(|guest| guest.iter().map(|p| p.name.as_str()).collect()).collect();
        assert_eq!(names, [vec!["c"], vec!["d", "b"], vec!["a"]]);
    }

    #[test]
    fn lines_are_counted_that_come_in_pieces() {
        let mut lines = Lines::default();
        for piece in ["test result: ok. 4 pas", "sed; 1 failed; 0 ignored\nskipped: a", ": why\n"] {
            lines.read(Stream::Out, piece.as_bytes());
        }
        assert_eq!(lines.end().to_string(), "3 passed, 1 failed, 1 skipped");
    }

    #[test]
    fn a_guest_that_is_run_again_is_counted_once() {
        let mut lines = Lines::default();
        for _ in 0..2 {
            lines.begin_again();
            lines.read(Stream::Out, b"test result: ok. 4 passed; 0 failed\nhalf a li");
        }
        assert_eq!(lines.end().to_string(), "4 passed, 0 failed");
    }
}
