//! A network namespace of a lab.

use std::{
    fs::{self, File},
    os::{fd::AsFd, unix::fs::MetadataExt},
    panic,
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::{command, pace::patience};

/// How long interfaces may take to be up.
const PATIENCE: Duration = Duration::from_secs(5);

/// A named network namespace.
#[derive(Debug)]
pub struct Netns {
    name: String,
    inode: u32,
    file: File,
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
        // The kernel numbers namespaces with 32 bits.
        let inode = file.metadata()?.ino() as u32;
        Ok(Self { name: name.into(), inode, file })
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
        let batch = &mut Command::new("ip");
        command::finish(batch.args(["-n", &self.name, "-batch", "-"]), commands)
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
                words.next() != Some("lo") && words.next() != Some("UP")
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
    /// starts, are too.
    pub fn enter<R: Send>(&self, work: impl FnOnce() -> R + Send) -> Result<R> {
        let joined = thread::scope(|scope| {
            scope
                .spawn(|| {
                    let kind = Some(LinkNameSpaceType::Network);
                    move_into_link_name_space(self.file.as_fd(), kind)
                        .with_context(|| format!("{} not entered (are you root?)", self.name))?;
                    Ok(work())
                })
                .join()
        });
        joined.unwrap_or_else(|panicked| panic::resume_unwind(panicked))
    }
}
