//! The programs that print rules: where they are, and how one is run so that it can neither hang
//! nor fill the memory.

use std::{
    env,
    io::{self, ErrorKind, Read},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process_group};

/// How long a program may take. nft takes a third of a second for ten thousand rules.
const PATIENCE: Duration = Duration::from_secs(30);

/// Most bytes that are taken of what it prints: a hundred times those ten thousand rules.
const MOST_BYTES: u64 = 256 << 20;

/// How often it is looked whether a program has ended that has printed all.
const POLL: Duration = Duration::from_millis(1);

/// Where such programs are where PATH does not say so: that of a service often leaves these out.
const SYSTEM: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];

/// A program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tool {
    path: PathBuf,
    patience: Duration,
}

/// The programs that there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tools {
    /// `nft`.
    pub nft: Option<Tool>,
    /// `iptables-legacy-save`.
    pub iptables_save: Option<Tool>,
    /// `ip6tables-legacy-save`.
    pub ip6tables_save: Option<Tool>,
    /// `ebtables-legacy`.
    pub ebtables: Option<Tool>,
}

impl Tools {
    /// Those of this machine.
    pub fn find() -> Self {
        let is_legacy = |tool: &Tool| {
            let real = tool.path.canonicalize().unwrap_or_default();
            !real.to_string_lossy().contains("-nft")
        };
        let first = |names: &[&str]| {
            names.iter().find_map(|name| Tool::find(name).filter(|tool| is_legacy(tool)))
        };
        Self {
            nft: Tool::find("nft"),
            // The plain name is the legacy program, unless it leads to that of nftables.
            iptables_save: first(&["iptables-legacy-save", "iptables-save"]),
            ip6tables_save: first(&["ip6tables-legacy-save", "ip6tables-save"]),
            ebtables: first(&["ebtables-legacy", "ebtables"]),
        }
    }
}

impl Tool {
    /// The program at this path.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), patience: PATIENCE }
    }

    /// The same, given this long.
    #[must_use]
    pub fn within(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    fn find(name: &str) -> Option<Self> {
        let path = env::var_os("PATH").unwrap_or_default();
        let places = env::split_paths(&path).chain(SYSTEM.iter().map(PathBuf::from));
        places.map(|place| place.join(name)).find(|path| path.is_file()).map(Self::at)
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it prints, run in the calling thread's namespace.
    ///
    /// # Errors
    /// When it does not start, fails, or takes or prints too much.
    pub fn run(&self, arguments: &[&str]) -> io::Result<String> {
        let name = self.path.display();
        let mut child = Command::new(&self.path)
            .args(arguments)
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // So that what it starts itself can be ended with it.
            .process_group(0)
            .spawn()
            .map_err(|e| io::Error::new(e.kind(), format!("{name} does not start: {e}")))?;
        let Some(stdout) = child.stdout.take() else {
            return Err(io::Error::other(format!("{name} has no output")));
        };
        let (tell, told) = mpsc::channel();
        let reader = thread::Builder::new().name("rules".into()).spawn(move || {
            let mut bytes = Vec::new();
            let read = stdout.take(MOST_BYTES + 1).read_to_end(&mut bytes);
            // Nobody listens any more where it took too long.
            let _ = tell.send(read.map(|_| bytes));
        });
        if let Err(e) = reader {
            end(&mut child);
            return Err(e);
        }
        let bytes = match told.recv_timeout(self.patience) {
            Ok(read) => read,
            Err(_) => {
                let text = format!("{name} took more than {:?}", self.patience);
                Err(io::Error::new(ErrorKind::TimedOut, text))
            }
        };
        let bytes = match bytes {
            Ok(bytes) if bytes.len() as u64 <= MOST_BYTES => bytes,
            Ok(_) => {
                end(&mut child);
                return Err(io::Error::other(format!("{name} prints more than is read")));
            }
            Err(e) => {
                end(&mut child);
                return Err(e);
            }
        };
        // It has closed its output, and is to end by that.
        let start = Instant::now();
        let status = loop {
            match child.try_wait()? {
                Some(status) => break status,
                None if start.elapsed() < self.patience => thread::sleep(POLL),
                None => {
                    end(&mut child);
                    return Err(io::Error::other(format!("{name} does not end")));
                }
            }
        };
        if !status.success() {
            return Err(io::Error::other(format!("{name} ended with {status}")));
        }
        // Names of chains are bytes to the kernel: what is not UTF-8 is replaced.
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// Ends a program and what it started.
fn end(child: &mut Child) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // It may have ended by itself.
        let _ = kill_process_group(pid, Signal::KILL);
    }
    let _ = child.kill();
    let _ = child.wait();
}
