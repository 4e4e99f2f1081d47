//! `--container`: from a name to the addresses of what is called so.

use std::{fmt, net::IpAddr, str::FromStr};

use anyhow::{anyhow, bail};
use clap_complete::engine::CompletionCandidate;
use tracer_common::filter::MAX_VALUES;

use crate::host::{
    containers::{Container, Containers, Runtime, Sources},
    netns::Netns,
    snapshot::Snapshot,
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

/// What containers lead to.
#[derive(Debug, Default)]
pub struct Found {
    /// Their addresses.
    pub addresses: Vec<IpAddr>,
    /// Their namespaces.
    pub namespaces: Vec<Netns>,
}

/// Finds these containers on this machine.
///
/// # Errors
/// When one is not there, does not run, could be several, or has no address.
pub fn resolve(wanted: &[ContainerRef]) -> anyhow::Result<Found> {
    let mut found = Found::default();
    if wanted.is_empty() {
        return Ok(found);
    }
    let snapshot = Snapshot::take_all(&Sources::of_this_machine())?;
    for wanted in wanted {
        let container = wanted.find(&snapshot.containers)?;
        let (netns, addresses) = addresses(container, &snapshot)?;
        let new = addresses.into_iter().filter(|address| !found.addresses.contains(address));
        let new: Vec<_> = new.collect();
        found.addresses.extend(new);
        found.namespaces.push(Netns::by_inode(netns)?);
    }
    let n = found.addresses.len();
    if n > MAX_VALUES {
        bail!(
            "the given containers have {n} addresses; {MAX_VALUES} is the most: use --netns or --ip"
        );
    }
    Ok(found)
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

/// The namespace of a container, and its addresses there but for those of loopback.
fn addresses(container: &Container, snapshot: &Snapshot) -> anyhow::Result<(u32, Vec<IpAddr>)> {
    let label = container.label();
    let label = label.escape_debug();
    if !container.running {
        bail!("{label} does not run; start it, or select by --ip");
    }
    let Some(netns) = container.netns else {
        bail!("no network namespace of {label} is known; select by --ip or --mac");
    };
    if netns == snapshot.own {
        bail!("{label} uses the network of the host; select by --ip or --port");
    }
    let links = snapshot.namespaces.get(&netns).into_iter().flat_map(|n| n.links.values());
    let addresses: Vec<_> = links
        .filter(|link| !link.is_loopback())
        .flat_map(|link| link.addresses.iter().map(|net| net.addr()))
        .collect();
    if addresses.is_empty() {
        bail!("{label} has no address yet; wait for it, or select by --netns {netns}");
    }
    Ok((netns, addresses))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{link::Link, snapshot::Namespace};

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

    #[test]
    fn all_addresses_but_loopback_are_taken_and_without_any_is_an_error() {
        let link = |name: &str, arp_type: u16, addresses: &[&str]| -> Link {
            let json = serde_json::json!({
                "ifindex": arp_type, "name": name, "up": true, "mtu": 1500,
                "arp_type": arp_type, "addresses": addresses,
            });
            serde_json::from_value(json).unwrap()
        };
        let lo = link("lo", 772, &["127.0.0.1/8"]);
        let eth0 = link("eth0", 1, &["10.0.0.7/24", "fe80::7/64", "fd00::7/64"]);
        let of = |links: Vec<Link>| {
            let links = links.into_iter().map(|link| (link.ifindex, link)).collect();
            let mut snapshot = Snapshot::default();
            snapshot.own = 1;
            snapshot.namespaces.insert(7, Namespace { links, ..Namespace::default() });
            snapshot
        };
        let web1 = container(Runtime::Lxd, "web1", true);
        let (netns, found) = addresses(&web1, &of(vec![lo.clone(), eth0])).unwrap();
        let expected = ["10.0.0.7", "fe80::7", "fd00::7"].map(|a| a.parse::<IpAddr>().unwrap());
        assert_eq!((netns, found.as_slice()), (7, &expected[..]));

        let error = addresses(&web1, &of(vec![lo])).unwrap_err().to_string();
        assert!(error.contains("no address"), "{error}");
        let stopped = container(Runtime::Lxd, "db", false);
        let error = addresses(&stopped, &of(vec![])).unwrap_err().to_string();
        assert!(error.contains("start it"), "{error}");
        let of_host = Container { netns: Some(1), ..web1 };
        let error = addresses(&of_host, &of(vec![])).unwrap_err().to_string();
        assert!(error.contains("network of the host"), "{error}");
    }
}
