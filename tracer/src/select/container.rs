//! `--container`: from a name to the addresses of what is called so, now and while it is traced.

use std::{collections::BTreeSet, fmt, net::IpAddr, str::FromStr};

use anyhow::{anyhow, bail};
use clap_complete::engine::CompletionCandidate;
use tracer_common::filter::MAX_CONTAINER_ADDRESSES;

use crate::host::{
    containers::{Container, Containers, Runtime, Sources},
    snapshot::{Namespace, Snapshot},
};

/// How alike two names are that one may have been meant as the other.
const ALIKE: f64 = 0.75;

/// Most names that an error tells.
const MOST_TOLD: usize = 8;

/// How a container is named on the command line: `[RUNTIME:]NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerRef {
    runtime: Option<Runtime>,
    /// `NAME` or `PROJECT/NAME`; of Docker and Podman also an id, or its first digits.
    name: String,
}

impl fmt::Display for ContainerRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.runtime {
            Some(runtime) => write!(f, "{}:{}", runtime.name(), self.name),
            None => f.write_str(&self.name),
        }
    }
}

impl FromStr for ContainerRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let of = |name: &str| Runtime::ALL.into_iter().find(|runtime| runtime.name() == name);
        let (runtime, name) = match text.split_once(':') {
            Some((runtime, name)) => (
                Some(of(runtime).ok_or_else(|| {
                    let all = Runtime::ALL.map(Runtime::name).join(", ");
                    format!("{runtime:?} is no runtime; there are {all}")
                })?),
                name,
            ),
            None => (None, text),
        };
        if name.is_empty() {
            return Err("a container has a name: NAME or RUNTIME:NAME".into());
        }
        Ok(Self { runtime, name: name.into() })
    }
}

/// The selected containers, and the addresses that their packets are known by. Both change while a
/// trace runs: a container gets another address, or is started again.
#[derive(Clone, Debug, Default)]
pub struct Selected {
    containers: Vec<One>,
    addresses: BTreeSet<IpAddr>,
    /// Addresses that had no room.
    refused: u64,
}

/// One of them.
#[derive(Clone, Debug)]
struct One {
    /// What it alone is called.
    name: ContainerRef,
    /// Its namespace; none while it does not run, and of a virtual machine.
    netns: Option<u32>,
    is_machine: bool,
    /// Its namespace is another than was looked at last.
    moved: bool,
    /// As they were seen last: it may come back with the same.
    addresses: Vec<IpAddr>,
}

impl Selected {
    /// Finds these containers on this machine.
    ///
    /// # Errors
    /// When one is not there, does not run, or could be several.
    pub fn resolve(wanted: &[ContainerRef]) -> anyhow::Result<Self> {
        let mut selected = Self::default();
        if wanted.is_empty() {
            return Ok(selected);
        }
        let snapshot = Snapshot::take_all(&Sources::of_this_machine().with_addresses())?;
        for wanted in wanted {
            selected.containers.push(One::of(wanted.find(&snapshot.containers)?, snapshot.own)?);
        }
        selected.look(&snapshot);
        for one in selected.containers.iter().filter(|one| one.addresses.is_empty()) {
            let name = one.name.to_string();
            log::warn!("{} has no address yet; it is followed once it has", name.escape_debug());
        }
        Ok(selected)
    }

    /// Whether none was selected.
    pub fn is_empty(&self) -> bool {
        self.containers.is_empty()
    }

    /// Their addresses, but for those of loopback.
    pub fn addresses(&self) -> &BTreeSet<IpAddr> {
        &self.addresses
    }

    /// Their namespaces.
    pub fn namespaces(&self) -> impl Iterator<Item = u32> {
        self.containers.iter().filter_map(|one| one.netns)
    }

    /// Whether there are virtual machines among them: only a runtime tells their addresses.
    pub fn has_machines(&self) -> bool {
        self.containers.iter().any(|one| one.is_machine)
    }

    /// Addresses that had no room.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// The machine looks like this now; whether an address or a namespace is another.
    pub fn look(&mut self, snapshot: &Snapshot) -> bool {
        let mut moved = false;
        for one in &mut self.containers {
            let seen = one.netns.and_then(|netns| snapshot.namespaces.get(&netns));
            if let Some(namespace) = seen {
                one.addresses = addresses(namespace);
                moved |= one.moved;
                one.moved = false;
            }
        }
        let all: BTreeSet<_> =
            self.containers.iter().flat_map(|one| one.addresses.iter().copied()).collect();
        self.refused = all.len().saturating_sub(MAX_CONTAINER_ADDRESSES) as u64;
        let all = all.into_iter().take(MAX_CONTAINER_ADDRESSES).collect();
        let changed = all != self.addresses;
        self.addresses = all;
        changed || moved
    }

    /// These run now: one that was started again has another namespace.
    pub fn know(&mut self, containers: &Containers, own: u32) {
        for one in &mut self.containers {
            let Some(found) = one.name.find(containers).ok().filter(|found| found.running) else {
                continue;
            };
            if one.is_machine && !found.addresses.is_empty() {
                one.addresses.clone_from(&found.addresses);
            }
            let netns = found.netns.filter(|netns| *netns != own);
            if netns.is_some() && netns != one.netns {
                one.netns = netns;
                one.moved = true;
            }
        }
    }

    /// This namespace is gone: one that comes under its inode is another.
    pub fn forget(&mut self, gone: u32) {
        for one in self.containers.iter_mut().filter(|one| one.netns == Some(gone)) {
            one.netns = None;
        }
    }
}

impl One {
    /// Those of its namespace are not looked at yet.
    fn of(container: &Container, own: u32) -> anyhow::Result<Self> {
        let label = container.label();
        let label = label.escape_debug();
        if !container.running {
            bail!("{label} does not run; start it, or select by --ip");
        }
        let is_machine = container.netns.is_none();
        if is_machine && container.addresses.is_empty() {
            bail!(
                "neither a network namespace nor an address of {label} is known; select by --ip or --mac"
            );
        }
        if container.netns == Some(own) {
            bail!("{label} uses the network of the host; select by --ip or --port");
        }
        let name = ContainerRef { runtime: Some(container.runtime), name: container.short() };
        let (netns, addresses) = (container.netns, container.addresses.clone());
        Ok(Self { name, netns, is_machine, moved: false, addresses })
    }
}

/// The addresses of a namespace, but for those of loopback.
fn addresses(namespace: &Namespace) -> Vec<IpAddr> {
    let links = namespace.links.values().filter(|link| !link.is_loopback());
    links.flat_map(|link| link.addresses.iter().map(|net| net.addr())).collect()
}

/// What runs now, for a shell that completes.
pub fn candidates() -> Vec<CompletionCandidate> {
    let snapshot = Snapshot::take_all(&Sources::of_this_machine());
    let all = snapshot.map(|snapshot| snapshot.containers.list).unwrap_or_default();
    let names = |c: &Container| {
        let is_alone = all.iter().filter(|other| other.short() == c.short()).count() == 1;
        if is_alone { c.short() } else { c.label() }
    };
    let running = all.iter().filter(|container| container.running);
    running
        .map(|c| CompletionCandidate::new(names(c)).help(Some(c.runtime.name().into())))
        .collect()
}

impl ContainerRef {
    /// Whether a record's `RUNTIME:NAME` is this one.
    pub(super) fn is_full(&self, full: &str) -> bool {
        full.split_once(':').is_some_and(|(runtime, name)| {
            self.runtime.is_none_or(|wanted| wanted.name() == runtime)
                && (name == self.name || name.rsplit_once('/').is_some_and(|(_, n)| n == self.name))
        })
    }

    /// Whether what text calls a container is this one: `NAME`, or `RUNTIME:NAME`.
    pub(super) fn is_label(&self, label: &str) -> bool {
        self.is_full(label) || self.runtime.is_none() && label == self.name
    }

    /// The container that is called so. Running ones come first.
    fn find<'a>(&self, containers: &'a Containers) -> anyhow::Result<&'a Container> {
        let of_runtime = |c: &&Container| self.runtime.is_none_or(|runtime| runtime == c.runtime);
        let all: Vec<_> = containers.list.iter().filter(of_runtime).collect();
        let called: [fn(&Container, &str) -> bool; 3] = [
            |c, name| c.short() == name,
            |c, name| c.name == name,
            |c, name| name.len() >= 12 && c.id.as_ref().is_some_and(|id| id.starts_with(name)),
        ];
        let so_called = called.iter().map(|is| {
            let mut so: Vec<_> = all.iter().copied().filter(|c| is(c, &self.name)).collect();
            if so.iter().any(|container| container.running) {
                so.retain(|container| container.running);
            }
            so
        });
        let candidates = so_called.into_iter().find(|so| !so.is_empty()).unwrap_or_default();
        match candidates.as_slice() {
            [] => Err(self.unknown(&all, containers)),
            [one] => Ok(one),
            several => bail!("{:?} is several: {}; say which", self.name, told(several)),
        }
    }

    fn unknown(&self, all: &[&Container], containers: &Containers) -> anyhow::Error {
        let alike = |c: &&Container| {
            c.name.contains(&self.name) || strsim::jaro_winkler(&c.name, &self.name) >= ALIKE
        };
        let near: Vec<_> = all.iter().copied().filter(alike).collect();
        let of = self.runtime.map_or(String::new(), |runtime| format!(" of {runtime}"));
        let near = match near.as_slice() {
            [] => String::new(),
            near => format!("there is {}; ", told(near)),
        };
        let problems = containers.problems.iter().map(|problem| format!("; {}", problem.text));
        let problems: String = problems.collect();
        anyhow!(
            "no container{of} is called {:?}; {near}`pathtrace containers` lists all{problems}",
            self.name
        )
    }
}

/// `lxd:web1, docker:web1`
fn told(containers: &[&Container]) -> String {
    let mut names: Vec<_> =
        containers.iter().take(MOST_TOLD).map(|c| c.label().escape_debug().to_string()).collect();
    if containers.len() > MOST_TOLD {
        names.push(format!("{} more", containers.len() - MOST_TOLD));
    }
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::link::Link;

    fn container(runtime: Runtime, name: &str, running: bool) -> Container {
        let json = serde_json::json!({
            "runtime": runtime, "name": name, "told": "api", "running": running, "netns": 7,
        });
        serde_json::from_value(json).unwrap()
    }

    fn host() -> Containers {
        let project = Some("p2".to_owned());
        Containers {
            list: vec![
                container(Runtime::Lxd, "web1", true),
                Container { project, ..container(Runtime::Lxd, "web2", true) },
                container(Runtime::Docker, "web1", true),
                Container {
                    id: Some("c564d5c6d9a2d281".into()),
                    ..container(Runtime::Docker, "db", true)
                },
                container(Runtime::Lxd, "db", false),
            ],
            ..Containers::default()
        }
    }

    fn find(name: &str) -> Result<String, String> {
        let containers = host();
        let wanted: ContainerRef = name.parse()?;
        wanted.find(&containers).map(Container::label).map_err(|e| e.to_string())
    }

    #[test]
    fn a_container_is_found_by_name_runtime_project_and_id() {
        for (name, label) in [
            ("lxd:web1", "lxd:web1"),
            ("docker:web1", "docker:web1"),
            ("web2", "lxd:p2/web2"),
            ("p2/web2", "lxd:p2/web2"),
            ("lxd:p2/web2", "lxd:p2/web2"),
            ("c564d5c6d9a2", "docker:db"),
            ("lxd:db", "lxd:db"),
        ] {
            assert_eq!(find(name).as_deref(), Ok(label), "{name}");
        }
    }

    #[test]
    fn of_two_of_one_name_the_one_that_runs_is_meant() {
        assert_eq!(find("db").as_deref(), Ok("docker:db"));
    }

    #[test]
    fn an_ambiguous_name_tells_the_candidates() {
        let error = find("web1").unwrap_err();
        assert!(error.contains("lxd:web1, docker:web1"), "{error}");
    }

    #[test]
    fn an_unknown_name_tells_near_ones_and_where_all_are_listed() {
        let error = find("wbe1").unwrap_err();
        assert!(error.contains("lxd:web1") && error.contains("pathtrace containers"), "{error}");
        let error = find("podman:web1").unwrap_err();
        assert!(!error.contains("lxd:web1") && error.contains("of podman"), "{error}");
    }

    #[test]
    fn what_is_no_container_is_refused_when_it_is_read() {
        for bad in ["", "lxd:", "rkt:web"] {
            assert!(bad.parse::<ContainerRef>().is_err(), "{bad:?}");
        }
    }

    fn link(name: &str, arp_type: u16, addresses: &[&str]) -> Link {
        let json = serde_json::json!({
            "ifindex": arp_type, "name": name, "up": true, "mtu": 1500,
            "arp_type": arp_type, "addresses": addresses,
        });
        serde_json::from_value(json).unwrap()
    }

    /// A machine with one namespace beside its own.
    fn machine(netns: u32, addresses: &[&str]) -> Snapshot {
        let links = [link("lo", 772, &["127.0.0.1/8"]), link("eth0", 1, addresses)];
        let links = links.into_iter().map(|link| (link.ifindex, link)).collect();
        let mut snapshot = Snapshot::default();
        snapshot.own = 1;
        snapshot.namespaces.insert(netns, Namespace { links, ..Namespace::default() });
        snapshot
    }

    fn web1() -> Selected {
        let web1 = One::of(&container(Runtime::Lxd, "web1", true), 1).unwrap();
        Selected { containers: vec![web1], ..Selected::default() }
    }

    fn known(selected: &Selected) -> Vec<String> {
        selected.addresses().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn all_addresses_but_loopback_are_taken() {
        let mut web1 = web1();
        assert!(web1.look(&machine(7, &["10.0.0.7/24", "fe80::7/64", "fd00::7/64"])));
        assert_eq!(known(&web1), ["10.0.0.7", "fd00::7", "fe80::7"]);
    }

    #[test]
    fn addresses_come_and_go() {
        let mut web1 = web1();
        assert!(!web1.look(&machine(7, &[])));
        assert!(web1.look(&machine(7, &["10.0.0.7/24"])));
        assert!(!web1.look(&machine(7, &["10.0.0.7/24"])), "the same as before");
        assert!(web1.look(&machine(7, &["10.0.0.8/24"])));
        assert_eq!(known(&web1), ["10.0.0.8"]);
    }

    #[test]
    fn addresses_beyond_the_room_are_counted() {
        let mut web1 = web1();
        let all: Vec<_> = (0..MAX_CONTAINER_ADDRESSES + 3)
            .map(|n| format!("10.0.{}.{}/16", n / 256, n % 256))
            .collect();
        let all: Vec<_> = all.iter().map(String::as_str).collect();
        assert!(web1.look(&machine(7, &all)));
        assert_eq!((known(&web1).len(), web1.refused()), (MAX_CONTAINER_ADDRESSES, 3));
    }

    #[test]
    fn a_container_that_is_started_again_is_the_same() {
        let mut web1 = web1();
        web1.look(&machine(7, &["10.0.0.7/24"]));
        web1.forget(7);
        assert!(!web1.look(&machine(7, &["10.0.0.9/24"])), "another's that has the inode now");
        assert_eq!(known(&web1), ["10.0.0.7"], "it may come back with it");
        let again = Container { netns: Some(8), ..container(Runtime::Lxd, "web1", true) };
        let containers = |list| Containers { list, ..Containers::default() };
        web1.know(&containers(vec![again.clone()]), 1);
        assert!(web1.look(&machine(8, &["10.0.0.7/24"])), "its namespace is another");
        assert_eq!(web1.namespaces().collect::<Vec<_>>(), [8]);
        assert!(!web1.look(&machine(8, &["10.0.0.7/24"])));
        let docker = Container { netns: Some(9), ..container(Runtime::Docker, "web1", true) };
        web1.know(&containers(vec![docker]), 1);
        assert_eq!(web1.namespaces().collect::<Vec<_>>(), [8], "another of this name");
    }

    #[test]
    fn the_addresses_of_a_virtual_machine_are_those_that_its_runtime_tells() {
        let vm1 = |addresses: &[&str]| Container {
            netns: None,
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            ..container(Runtime::Lxd, "vm1", true)
        };
        let told =
            |addresses: &[&str]| Containers { list: vec![vm1(addresses)], ..Containers::default() };
        let one = One::of(&vm1(&["10.0.0.7"]), 1).unwrap();
        let mut selected = Selected { containers: vec![one], ..Selected::default() };
        assert!(selected.has_machines() && selected.look(&Snapshot::default()));
        assert_eq!(known(&selected), ["10.0.0.7"]);
        selected.know(&told(&["10.0.0.7", "10.0.0.8"]), 1);
        assert!(selected.look(&Snapshot::default()));
        assert_eq!(known(&selected), ["10.0.0.7", "10.0.0.8"]);
        selected.know(&told(&[]), 1);
        assert!(!selected.look(&Snapshot::default()), "it did not answer in time");
    }

    #[test]
    fn what_has_no_addresses_of_its_own_is_refused() {
        let refused = |container: &Container| One::of(container, 1).unwrap_err().to_string();
        assert!(refused(&container(Runtime::Lxd, "db", false)).contains("start it"));
        let web1 = container(Runtime::Lxd, "web1", true);
        let of_host = refused(&Container { netns: Some(1), ..web1.clone() });
        assert!(of_host.contains("network of the host"), "{of_host}");
        let unknown = refused(&Container { netns: None, ..web1 });
        assert!(unknown.contains("--mac"), "{unknown}");
    }
}
