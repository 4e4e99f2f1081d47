//! Hosts with real container runtimes: LXD, LXC, Docker, Podman.
//!
//! ```text
//!  container ── the runtime's bridge ── host  198.51.100.1 ── 198.51.100.2  world  203.0.113.8
//! ```
//!
//! A [`Host`] is a [`Lab`] of two namespaces whose `host` is a machine of its own: with its own
//! processes, mounts, cgroups and devices, and in-memory folders at the places where daemons keep
//! theirs. They are Debian's own, started the way their services start them, and write nothing that
//! stays: whatever ends the process of the scenario ends the host's first process, and with it all
//! others, their mounts, and their cgroups. Containers are of busybox, and become namespaces of the
//! lab by their names.

pub mod docker;
pub mod lxc;
pub mod lxd;
pub mod podman;

use std::{
    env,
    fmt::{self, Display},
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    Lab, Netns, command, notes,
    pace::patience,
    topology::{UPLINK, WORLD, WORLD_LINK},
};

/// Makes the cgroups and namespaces, then runs [`HOST`] in them.
const CGROUPS: &str = include_str!("cgroups.sh");
/// The first process of a host.
const HOST: &str = include_str!("host.sh");
/// Makes the containers' root.
const IMAGE: &str = include_str!("image.sh");

/// Where the containers' root is, in a host.
const ROOT: &str = "/run/image/rootfs";

/// Where Debian's packages have their commands. Somebody's own are elsewhere.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// Names the runtimes, separated by commas, whose scenarios must not be skipped.
const MUST_RUN: &str = "PATHTRACE_TEST_MUST_RUN";

/// How long a daemon may take to answer, and a container to be up.
const PATIENCE: Duration = Duration::from_secs(30);

/// A container runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    /// LXD, with a bridge of its own.
    Lxd,
    /// LXC, with the bridge of lxc-net.
    Lxc,
    /// Docker.
    Docker,
    /// Docker, whose published ports are reached by rules only, from its own bridges too.
    DockerWithoutProxy,
    /// Podman, run by root.
    Podman,
}

impl Runtime {
    /// The command that is there where it is installed.
    fn program(self) -> &'static str {
        match self {
            Runtime::Lxd => "lxd",
            Runtime::Lxc => "lxc-start",
            Runtime::Docker | Runtime::DockerWithoutProxy => "dockerd",
            Runtime::Podman => "podman",
        }
    }

    fn is_installed(self) -> bool {
        PATH.split(':').any(|folder| Path::new(folder).join(self.program()).exists())
    }

    fn start(self, host: &Host) -> Result<()> {
        match self {
            Runtime::Lxd => lxd::start(host),
            Runtime::Lxc => lxc::start(host),
            Runtime::Docker => docker::start(host, &[]),
            Runtime::DockerWithoutProxy => docker::start(host, &["--userland-proxy=false"]),
            Runtime::Podman => podman::start(host),
        }
    }

    /// Whether a scenario that needs it must not be left out.
    fn must_run(self) -> bool {
        let name = self.to_string().to_lowercase();
        env::var(MUST_RUN).is_ok_and(|list| list.split(',').any(|one| one.trim() == name))
    }

    /// What is done without it: the scenario is skipped, unless that is not allowed.
    fn is_not_there(self, why: impl Display) -> Result<()> {
        ensure!(!self.must_run(), "{self} is needed ({MUST_RUN}): {why:#}");
        notes::skipped(&format!("it needs {self}: {why:#}"));
        Ok(())
    }
}

impl Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Runtime::Lxd => "LXD",
            Runtime::Lxc => "LXC",
            Runtime::Docker | Runtime::DockerWithoutProxy => "Docker",
            Runtime::Podman => "Podman",
        })
    }
}

/// A machine with container runtimes, and the world beyond its uplink `eth-up`.
#[derive(Debug)]
pub struct Host {
    lab: Lab,
    /// Its first process, which ends when its input does.
    first: Child,
}

impl Host {
    /// A host with these runtimes, started one after another. None where one is not to be had here,
    /// which is told and counted then. Waits until no other lab is traced. For the first lines of a
    /// scenario:
    ///
    /// ```no_run
    /// # use lab::runtimes::{Host, Runtime};
    /// # fn scenario() -> anyhow::Result<()> {
    /// let Some(mut host) = Host::with(&[Runtime::Docker])? else { return Ok(()) };
    /// # Ok(())
    /// # }
    /// ```
    pub fn with(runtimes: &[Runtime]) -> Result<Option<Self>> {
        if let Some(runtime) = runtimes.iter().find(|runtime| !runtime.is_installed()) {
            runtime.is_not_there(format!("{} is not installed", runtime.program()))?;
            return Ok(None);
        }
        let host = Self::raise()?;
        for runtime in runtimes {
            if let Err(why) = runtime.start(&host) {
                runtime.is_not_there(why)?;
                return Ok(None);
            }
        }
        Ok(Some(host))
    }

    /// The machine, its world, and the way between them.
    fn raise() -> Result<Self> {
        let mut lab = Lab::alone()?;
        lab.add("host")?;
        lab.add("world")?;
        let (host, world) = (lab.netns("host")?, lab.netns("world")?);
        host.ip(&format!(
            "link add eth-up type veth peer name eth0 netns {}
             addr add {UPLINK}/24 dev eth-up
             link set eth-up up
             route add default via {WORLD_LINK}",
            world.name()
        ))?;
        world.ip(&format!(
            "addr add {WORLD_LINK}/24 dev eth0
             addr add {WORLD}/32 dev lo
             link set eth0 up"
        ))?;
        world.settle()?;
        let mut first = Command::new("sh");
        first.args(["-c", CGROUPS, "cgroups", host.name()]).arg(world.path()).arg(HOST);
        first.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut first = host.enter(|| first.spawn())?.context("sh did not start")?;
        let mut pid = String::new();
        BufReader::new(first.stdout.take().context("no stdout")?).read_line(&mut pid)?;
        let Ok(pid) = pid.trim().parse() else {
            let said = first.wait_with_output()?.stderr;
            bail!("no host: {}", String::from_utf8_lossy(&said).trim().replace('\n', "; "));
        };
        let machine = host.as_machine_of(pid)?;
        lab.adopt("host", machine);
        let host = Self { lab, first };
        host.run("sh", &["-c", IMAGE, "image", ROOT])?;
        Ok(host)
    }

    /// The lab that it is, for what traces it.
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// The namespace `host`, `world`, or of the container of this name.
    pub fn netns(&self, short: &str) -> Result<&Netns> {
        self.lab.netns(short)
    }

    /// Runs a command of this host to its end and returns what it printed.
    pub fn run<S: AsRef<std::ffi::OsStr>>(&self, program: &str, args: &[S]) -> Result<String> {
        self.feed(program, args, "")
    }

    /// As [`Host::run`], for a command that reads `input`.
    fn feed<S: AsRef<std::ffi::OsStr>>(
        &self,
        program: &str,
        args: &[S],
        input: &str,
    ) -> Result<String> {
        let mut command = self.command(program);
        command.args(args);
        self.netns("host")?.enter(|| command::finish(&mut command, input))?
    }

    /// Starts a daemon of this host, and waits until it answers.
    fn serve(&self, daemon: &str, args: &[&str], answers: impl Fn() -> Result<()>) -> Result<()> {
        let log = format!("/run/{daemon}.log");
        // It becomes a child of the host's first process, not of the scenario's.
        let words = [daemon].iter().chain(args).copied().collect::<Vec<_>>().join(" ");
        self.run("sh", &["-c", &format!("{words} >{log} 2>&1 </dev/null &")])?;
        wait_until(answers).with_context(|| {
            let log = self.run("tail", &["-n", "1", &log]).unwrap_or_default();
            format!("{daemon} did not start; it says: {}", log.trim())
        })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["/run/enter", program]);
        command.env_clear().envs([("PATH", PATH), ("HOME", "/run/root"), ("LC_ALL", "C.UTF-8")]);
        command
    }

    /// Takes in the network namespace of a process of this host as that of the container `name`.
    fn adopt(&mut self, name: &str, pid: &str) -> Result<&Netns> {
        let path = format!("/proc/{}/ns/net", pid.trim());
        let file = self.netns("host")?.enter(|| File::open(&path))?;
        let file = file.with_context(|| format!("container {name} runs no process"))?;
        let netns = Netns::of_file(name, file)?;
        Ok(self.lab.adopt(name, netns))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Before the namespaces go: daemons are killed, and take nothing down themselves.
        drop(self.first.stdin.take());
        let _ = self.first.wait();
    }
}

/// Waits until something is so.
fn wait_until(is_so: impl Fn() -> Result<()>) -> Result<()> {
    let start = Instant::now();
    loop {
        match is_so() {
            Ok(()) => return Ok(()),
            Err(why) if start.elapsed() > patience(PATIENCE) => return Err(why),
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}
