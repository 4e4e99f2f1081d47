//! What processes tell of containers: one walk through `/proc`.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use serde::{Deserialize, Serialize};

use super::{
    Runtime, Sources, Told,
    cgroup::{self, Called},
};

/// A process, to tell a namespace by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Its command, raw, 15 bytes at most.
    pub comm: String,
}

/// A process that says whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub runtime: Runtime,
    pub called: Called,
    pub told: Told,
    pub pid: u32,
    pub netns: u32,
}

/// All that processes tell.
#[derive(Debug, Default)]
pub(super) struct Processes {
    /// The oldest of each network namespace that is not this process's own.
    pub oldest: BTreeMap<u32, Process>,
    /// One a container and teller: its oldest process.
    pub marks: Vec<Mark>,
    /// Names of Podman's containers, by id.
    pub podman: HashMap<String, String>,
}

/// `/proc/PID/stat`.
struct Stat {
    comm: String,
    parent: u32,
    since: u64,
}

impl Processes {
    /// Walks through all of them. One that ends meanwhile is left out.
    pub(super) fn scan(sources: &Sources) -> Self {
        let mut found = Self::default();
        let of = |pid: &str| netns(&sources.proc.join(pid)).ok();
        let (own, first) = (of("self"), of("1"));
        let mut monitors: HashMap<u32, (Runtime, String)> = HashMap::new();
        let mut inside: Vec<(u32, u32, Stat)> = Vec::new();
        for entry in fs::read_dir(&sources.proc).into_iter().flatten().flatten() {
            let pid = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
            let Some(pid) = pid else { continue };
            let Some(stat) = Stat::read(sources, pid) else { continue };
            let Ok(netns) = netns(&sources.proc.join(entry.file_name())) else { continue };
            if ["lxc", "lxd", "incus", "conmon"].iter().any(|kind| stat.comm.starts_with(kind)) {
                let line = fs::read(sources.of_process(pid, "cmdline")).unwrap_or_default();
                if let Some(name) = monitored(&line) {
                    monitors.insert(pid, (manager(&stat.comm), name));
                } else if stat.comm == "conmon" {
                    found.podman.extend(of_conmon(&line));
                }
            }
            if Some(netns) != own {
                inside.push((pid, netns, stat));
            }
        }
        // Ticks are coarse: of two that began in the same, the lower id is likely the first.
        inside.sort_by_key(|(pid, _, stat)| (stat.since, *pid));
        let mut seen = HashSet::new();
        // What a container's processes made beside its namespace is not its namespace.
        let mut add = |mark: Mark| {
            if seen.insert((mark.runtime, mark.told, mark.called.clone())) {
                found.marks.push(mark);
            }
        };
        for (pid, netns, stat) in inside {
            let mark = |runtime, called, told| Mark { runtime, called, told, pid, netns };
            found.oldest.entry(netns).or_insert(Process { pid, comm: stat.comm });
            // What runs on the host itself owns no namespace.
            if Some(netns) == first {
                continue;
            }
            if let Some((runtime, name)) = monitors.get(&stat.parent) {
                add(mark(*runtime, Called::Name(name.clone()), Told::Monitor));
            }
            let cgroup = fs::read_to_string(sources.of_process(pid, "cgroup")).unwrap_or_default();
            if let Some((runtime, called)) = cgroup::container(&cgroup) {
                add(mark(runtime, called, Told::Cgroup));
            }
        }
        found
    }

    /// The namespace of the container of this id.
    pub(super) fn by_id(&self, id: &str) -> Option<u32> {
        let is_its = |mark: &&Mark| matches!(&mark.called, Called::Id(its) if its == id);
        self.marks.iter().find(is_its).map(|mark| mark.netns)
    }

    /// The namespace of the container that liblxc knows by this name.
    pub(super) fn by_lxc_name(&self, runtime: Runtime, name: &str) -> Option<u32> {
        let is_its = |mark: &&Mark| matches!(&mark.called, Called::Name(its) if its == name);
        let told_by = |told, runtime| {
            let mut marks = self.marks.iter().filter(is_its);
            marks.find(|mark| (mark.told, mark.runtime) == (told, runtime)).map(|mark| mark.netns)
        };
        told_by(Told::Monitor, runtime).or_else(|| told_by(Told::Cgroup, Runtime::Lxc))
    }
}

impl Stat {
    fn read(sources: &Sources, pid: u32) -> Option<Self> {
        // The name is whatever the process wants, and not always text.
        let bytes = fs::read(sources.of_process(pid, "stat")).ok()?;
        let text = String::from_utf8_lossy(&bytes);
        let (head, tail) = text.rsplit_once(')')?;
        let mut fields = tail.split_whitespace();
        Some(Self {
            comm: head.split_once('(')?.1.to_owned(),
            parent: fields.nth(1)?.parse().ok()?,
            since: fields.nth(17)?.parse().ok()?,
        })
    }
}

/// Inode of a process's network namespace.
fn netns(process: &Path) -> io::Result<u32> {
    let inode = fs::metadata(process.join("ns/net"))?.ino();
    u32::try_from(inode).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// The container of the monitor that calls itself `[lxc monitor] PATH NAME`.
fn monitored(line: &[u8]) -> Option<String> {
    let line = String::from_utf8_lossy(line);
    let line = line.trim_end_matches('\0').strip_prefix("[lxc monitor] ")?;
    Some(line.rsplit_once(' ')?.1.to_owned())
}

/// The program that runs a monitor.
fn manager(comm: &str) -> Runtime {
    match comm {
        _ if comm.starts_with("lxd") => Runtime::Lxd,
        _ if comm.starts_with("incus") => Runtime::Incus,
        _ => Runtime::Lxc,
    }
}

/// Id and name of the container of a `conmon -c ID … -n NAME`.
fn of_conmon(line: &[u8]) -> Option<(String, String)> {
    let words: Vec<_> = line.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
    let after = |flags: [&str; 2]| {
        let at = words.iter().position(|word| flags.contains(&word.as_ref()))?;
        Some(words.get(at + 1)?.clone().into_owned())
    };
    Some((after(["-c", "--cid"])?, after(["-n", "--name"])?))
}
