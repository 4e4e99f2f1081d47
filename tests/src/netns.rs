//! A network namespace of a lab.

use std::{
    fs::{self, File},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    panic,
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::{
    process::{Pid, PidfdFlags, pidfd_open},
    thread::{
        LinkNameSpaceType, ThreadNameSpaceType, UnshareFlags, move_into_link_name_space,
        move_into_thread_name_spaces, unshare_unsafe,
    },
};

use crate::{command, pace::patience};

/// How long interfaces may take to be up.
const PATIENCE: Duration = Duration::from_secs(5);

/// A network namespace, known by a name.
#[derive(Debug)]
pub struct Netns {
    name: String,
    inode: u32,
    door: Door,
}

/// What is entered with a namespace.
#[derive(Debug)]
enum Door {
    /// The network namespace only.
    Network(File),
    /// The mounts, process ids and cgroups of its first process too.
    Machine(OwnedFd),
}

impl Netns {
    /// Makes a namespace of this name, with its loopback up.
    pub fn create(name: &str) -> Result<Self> {
        command::run("ip", &["netns", "add", name])?;
        let netns = Self::open(name)?;
        // Addresses of IPv6 are usable at once, without duplicate detection.
        netns.sysctl("net.ipv6.conf.default.accept_dad", "0")?;
        netns.sysctl("net.ipv6.conf.all.accept_dad", "0")?;
        // No router solicitations and no multicast listener reports of its own accord.
        netns.sysctl("net.ipv6.conf.default.router_solicitations", "0")?;
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// The namespace of this name.
    pub fn open(name: &str) -> Result<Self> {
        let path = Self::path_of(name);
        let file = File::open(&path).with_context(|| format!("{} not opened", path.display()))?;
        Self::of_file(name, file)
    }

    /// The namespace that an open file stands for, to be called this.
    pub(crate) fn of_file(name: &str, file: File) -> Result<Self> {
        // The kernel numbers namespaces with 32 bits.
        let inode = file.metadata()?.ino() as u32;
        Ok(Self { name: name.into(), inode, door: Door::Network(file) })
    }

    /// The same namespace, entered with everything else that a process of it has for its own.
    pub(crate) fn as_machine_of(&self, pid: i32) -> Result<Self> {
        let pid = Pid::from_raw(pid).context("no process id")?;
        let process = pidfd_open(pid, PidfdFlags::empty()).context("it has ended")?;
        Ok(Self { name: self.name.clone(), inode: self.inode, door: Door::Machine(process) })
    }

    /// Its name, as `ip netns` lists it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its inode, which is its identity.
    pub fn inode(&self) -> u32 {
        self.inode
    }

    /// Its path under /run/netns.
    pub fn path(&self) -> PathBuf {
        Self::path_of(&self.name)
    }

    fn path_of(name: &str) -> PathBuf {
        PathBuf::from("/run/netns").join(name)
    }

    /// Runs `ip` commands here, one a line.
    pub fn ip(&self, commands: &str) -> Result<()> {
        self.enter(|| command::finish(Command::new("ip").args(["-batch", "-"]), commands))?
            .with_context(|| format!("in {}: {}", self.name, commands.trim().replace('\n', "; ")))
            .map(drop)
    }

    /// Loads nft rules here.
    pub fn nft(&self, rules: &str) -> Result<()> {
        self.enter(|| command::finish(Command::new("nft").args(["-f", "-"]), rules))?
            .with_context(|| format!("in {}", self.name))
            .map(drop)
    }

    /// The handle of the rule whose line in nft's listing has this text; of the last, where several
    /// have it.
    pub fn nft_handle(&self, table: &str, chain: &str, text: &str) -> Result<u64> {
        let mut args = vec!["-a", "list", "chain"];
        args.extend(table.split(' '));
        args.push(chain);
        let listing = self.run("nft", &args)?;
        let line = listing.lines().rfind(|line| line.contains(text));
        line.and_then(|line| line.rsplit_once("# handle ")?.1.trim().parse().ok())
            .with_context(|| format!("no rule with {text} in chain {table} {chain}"))
    }

    /// Whether this kernel has a sysctl.
    pub fn has_sysctl(&self, key: &str) -> Result<bool> {
        let path = PathBuf::from("/proc/sys").join(key.replace('.', "/"));
        self.enter(|| path.exists())
    }

    /// Whether anything is hooked in here that decides about packets: rules, or what they rest on.
    pub fn has_rules(&self) -> Result<bool> {
        let listed = self.run("nft", &["list", "ruleset"])?;
        Ok(!listed.trim().is_empty())
    }

    /// Waits until every interface carries packets: the kernel notices a carrier within a second,
    /// and drops till then what is sent, or received by a port of a bridge.
    pub fn settle(&self) -> Result<()> {
        let start = Instant::now();
        loop {
            let links = self.run("ip", &["-brief", "link"])?;
            let down = links.lines().find(|line| {
                let mut words = line.split_whitespace();
                let (name, state) = (words.next(), words.next());
                // Some kinds do not tell their state.
                let is_up =
                    state == Some("UP") || (state == Some("UNKNOWN") && line.contains("LOWER_UP"));
                // Modules of tunnels put a device of their own into every namespace.
                let is_ours = name.is_some_and(|name| name != "lo" && !name.ends_with("@NONE"));
                is_ours && !is_up
            });
            let Some(down) = down else { break };
            let patience = patience(PATIENCE);
            ensure!(start.elapsed() < patience, "in {}: still not up: {down}", self.name);
            thread::sleep(Duration::from_millis(5));
        }
        loop {
            let ports = self.run("bridge", &["link"])?;
            let Some(port) = ports.lines().find(|port| !port.contains("state forwarding")) else {
                return Ok(());
            };
            let patience = patience(PATIENCE);
            ensure!(start.elapsed() < patience, "in {}: still not forwarding: {port}", self.name);
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Runs a command here to its end and returns what it printed.
    pub fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        self.enter(|| command::run(program, args))?
    }

    /// Sets a sysctl of this namespace, dotted as `sysctl` takes it.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = PathBuf::from("/proc/sys").join(key.replace('.', "/"));
        self.enter(|| fs::write(&path, value))?
            .with_context(|| format!("in {}: {key} not set to {value}", self.name))
    }

    /// Runs `work` on a thread that is in this namespace: its sockets, and the commands it
    /// starts, are too. Where a machine belongs to the namespace, the commands are processes of it.
    pub fn enter<R: Send>(&self, work: impl FnOnce() -> R + Send) -> Result<R> {
        let joined = thread::scope(|scope| {
            scope
                .spawn(|| {
                    self.door
                        .pass()
                        .with_context(|| format!("{} not entered (are you root?)", self.name))?;
                    Ok(work())
                })
                .join()
        });
        joined.unwrap_or_else(|panicked| panic::resume_unwind(panicked))
    }
}

impl Door {
    /// Moves the calling thread.
    fn pass(&self) -> rustix::io::Result<()> {
        match self {
            Door::Network(file) => {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            }
            Door::Machine(process) => {
                // Another root folder needs one that is the thread's own.
                // SAFETY: only FILES is unsound to unshare; the thread's descriptors stay shared.
                unsafe { unshare_unsafe(UnshareFlags::FS)? };
                let all = ThreadNameSpaceType::NETWORK
                    | ThreadNameSpaceType::MOUNT
                    | ThreadNameSpaceType::PROCESS_ID
                    | ThreadNameSpaceType::CONTROL_GROUP;
                move_into_thread_name_spaces(process.as_fd(), all)
            }
        }
    }
}
