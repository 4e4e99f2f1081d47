//! The containers that this host runs, what they are called, and which namespace each has.
//!
//! Runtimes are asked on their sockets; what no runtime tells is known from the processes: titles of
//! monitors, then cgroups. None of them is trusted to answer: each has [`Sources::patience`] in all,
//! and what goes wrong is a [`Problem`], never a failure.
//!
//! - `sources`: where to look, as a value;
//! - `http`: one question on a socket, with limits;
//! - `lxd`, `docker`: what LXD and Incus, Docker and Podman say;
//! - `processes`, `cgroup`: what processes tell;
//! - `storage`: what Podman's storage on disk tells.

mod cgroup;
mod docker;
mod http;
mod join;
mod lxd;
mod processes;
mod sources;
mod storage;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fmt, net::IpAddr};

use serde::{Deserialize, Serialize};

pub use processes::Process;
pub use sources::{Api, Sources};

/// What manages a container.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Runtime {
    /// LXD.
    Lxd,
    /// Incus.
    Incus,
    /// Docker.
    Docker,
    /// Podman.
    Podman,
    /// LXC without a manager.
    Lxc,
    /// A pod of Kubernetes, run by containerd or CRI-O.
    K8s,
    /// systemd-nspawn.
    Nspawn,
}

impl Runtime {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Lxd, Self::Incus, Self::Docker, Self::Podman, Self::Lxc, Self::K8s, Self::Nspawn];

    /// As it is written before a container's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lxd => "lxd",
            Self::Incus => "incus",
            Self::Docker => "docker",
            Self::Podman => "podman",
            Self::Lxc => "lxc",
            Self::K8s => "k8s",
            Self::Nspawn => "nspawn",
        }
    }

    /// Whether liblxc runs its containers.
    fn is_lxc(self) -> bool {
        matches!(self, Self::Lxd | Self::Incus | Self::Lxc)
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A port of the host that leads to a container.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema,
)]
pub struct Published {
    /// `tcp`, `udp` or `sctp`.
    pub proto: String,
    /// Address of the host; absent for every address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<IpAddr>,
    /// Port of the host.
    pub host_port: u16,
    /// Address in the container, where the runtime tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<IpAddr>,
    /// Port in the container.
    pub container_port: u16,
}

/// Who told of a container, most trusted first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Told {
    /// Its runtime.
    Api,
    /// The process that watches over it.
    Monitor,
    /// The cgroup of its processes. Names there collide after runs that ended badly.
    Cgroup,
}

/// A container, or a virtual machine of LXD or Incus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// What manages it.
    pub runtime: Runtime,
    /// Its name, raw; where only an id is known, the first 12 digits of that.
    pub name: String,
    /// Its id, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Its project, where that is not the default one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// Who told of it.
    pub told: Told,
    /// Whether it runs.
    pub running: bool,
    /// Its first process, as this process sees it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Inode of its network namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<u32>,
    /// It uses the network namespace of another container.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub borrows: bool,
    /// Its interfaces on the host's side, where the runtime tells them. Those of a virtual machine
    /// are its taps.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host_interfaces: Vec<String>,
    /// Addresses of a virtual machine, where its runtime was asked for them. Those of a container are in its
    /// namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// Ports of the host that lead to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub published: Vec<Published>,
    /// Networks that it is in, as the runtime calls them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<String>,
}

impl Container {
    fn new(runtime: Runtime, name: impl Into<String>, told: Told) -> Self {
        Self {
            runtime,
            name: name.into(),
            id: None,
            project: None,
            told,
            running: true,
            pid: None,
            netns: None,
            borrows: false,
            host_interfaces: Vec::new(),
            addresses: Vec::new(),
            published: Vec::new(),
            networks: Vec::new(),
        }
    }

    /// `web1`, or `PROJECT/web1` outside the default project.
    pub fn short(&self) -> String {
        match &self.project {
            Some(project) => format!("{project}/{}", self.name),
            None => self.name.clone(),
        }
    }

    /// `lxd:web1`: what no other container is called.
    pub fn label(&self) -> String {
        format!("{}:{}", self.runtime, self.short())
    }
}

/// Why a runtime could not be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Which.
    pub runtime: Runtime,
    /// What failed, why, and what to do, in one line.
    pub text: String,
}

/// What runs on this host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Containers {
    /// By runtime, project and name.
    pub list: Vec<Container>,
    /// The oldest process of each network namespace that is not the host's own, by inode.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub processes: BTreeMap<u32, Process>,
    /// Runtimes that could not be asked, or told only a part.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
}

impl Containers {
    /// Looks. `behind` tells which namespace a link of this one leads to, by its name.
    ///
    /// Takes no longer than [`Sources::patience`] and a look at each process; to be called where
    /// that may block.
    pub fn read(sources: &Sources, behind: &BTreeMap<String, u32>) -> Self {
        join::read(sources, behind)
    }

    /// Whose each namespace is, by inode. Of several in one namespace, it is that of the one that
    /// did not borrow it, as told by the most trusted, that came first.
    pub fn owners(&self) -> BTreeMap<u32, &Container> {
        let mut owners = BTreeMap::new();
        for container in self.list.iter().filter(|container| container.running) {
            let Some(netns) = container.netns else { continue };
            let owner = owners.entry(netns).or_insert(container);
            let rank = |c: &Container| (c.borrows, c.told, c.pid.is_none(), c.pid);
            if rank(container) < rank(owner) {
                *owner = container;
            }
        }
        owners
    }

    /// The virtual machine whose tap on the host this is.
    pub fn behind_tap(&self, interface: &str) -> Option<&Container> {
        let leads_there = |c: &&Container| {
            c.running && c.netns.is_none() && c.host_interfaces.iter().any(|own| own == interface)
        };
        self.list.iter().find(leads_there)
    }
}
