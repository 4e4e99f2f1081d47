//! `pathtrace containers`: what this host runs, and how it is connected.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::Serialize;

use super::{escape::escape, record::Record};
use crate::{
    event::Place,
    host::{
        self,
        containers::{Process, Published, Runtime},
        link::Link,
        snapshot::Snapshot,
    },
};

/// A container that runs.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Container {
    /// What manages it.
    pub runtime: Runtime,
    /// Its name; where only an id is known, the first 12 digits of that.
    pub name: String,
    /// Its project, where that is not the default one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// Its first process; `null` where it is not known.
    pub pid: Option<u32>,
    /// Inode of its network namespace; `null` for a virtual machine, and where it is not known.
    pub netns: Option<u32>,
    /// It uses the network of the host.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub host_network: bool,
    /// Its interfaces, loopback left out; none where it uses the network of the host.
    pub interfaces: Vec<Interface>,
    /// Networks that it is in, as its runtime calls them.
    pub networks: Vec<String>,
    /// Ports of the host that lead to it.
    pub published: Vec<Published>,
}

/// A network namespace that is no container's.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Namespace {
    /// Inode.
    pub inode: u32,
    /// Name under /run/netns, or `host` for the one that pathtrace runs in.
    pub name: Option<String>,
    /// Its oldest process; `null` for the one that pathtrace runs in.
    pub process: Option<Process>,
    /// No process is in it: only a file holds it.
    pub orphaned: bool,
    /// Its interfaces, loopback left out; for `host`, also those that lead to what is listed itself.
    pub interfaces: Vec<Interface>,
}

/// An interface.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Interface {
    /// Its name; `null` for that of a virtual machine, of which only the host's side is known.
    pub name: Option<String>,
    /// Its kind, as `ip -d link` names it; `null` for a device of its own driver.
    pub kind: Option<String>,
    /// Addresses, with the prefix of their subnets.
    pub addresses: Vec<String>,
    /// The bridge that it is a port of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bridge: Option<String>,
    /// The bond, VRF or other device that it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub master: Option<String>,
    /// Its other end: of a veth pair, or the tap of a virtual machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<Other>,
    /// It has another end, in a namespace that nothing leads to.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub peer_unreachable: bool,
    /// What it is on: the device below a VLAN or macvlan.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<Other>,
}

/// An interface that another one leads to.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Other {
    /// Inode of its namespace.
    pub netns: u32,
    /// Its name.
    pub name: String,
    /// The bridge that it is a port of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bridge: Option<String>,
    /// What its namespace is called in text; empty for the one that pathtrace runs in.
    #[serde(skip)]
    within: String,
}

/// What runs here: containers, then other namespaces, pathtrace's own last.
pub fn list(snapshot: &Snapshot) -> Vec<Record> {
    let running = snapshot.containers.list.iter().filter(|container| container.running);
    let containers: Vec<_> = running.map(|one| container(snapshot, one)).collect();
    let taken: BTreeSet<u32> = containers.iter().filter_map(|c| c.netns).collect();
    let mut namespaces: Vec<_> = snapshot
        .namespaces
        .keys()
        .filter(|inode| **inode == snapshot.own || !taken.contains(inode))
        .map(|inode| namespace(snapshot, *inode))
        .collect();
    namespaces.sort_by(|a, b| {
        let rank = |n: &Namespace| (n.inode == snapshot.own, n.name.is_none());
        (rank(a), &a.name, a.inode).cmp(&(rank(b), &b.name, b.inode))
    });
    let containers = containers.into_iter().map(Record::Container);
    containers.chain(namespaces.into_iter().map(Record::Namespace)).collect()
}

fn container(snapshot: &Snapshot, one: &host::containers::Container) -> Container {
    let host_network = one.netns == Some(snapshot.own);
    let netns = one.netns.filter(|_| !host_network);
    let mut interfaces = netns.map_or_else(Vec::new, |netns| interfaces(snapshot, netns));
    if one.netns.is_none() {
        interfaces.extend(one.host_interfaces.iter().map(|tap| tapped(snapshot, tap)));
    }
    Container {
        runtime: one.runtime,
        name: one.name.clone(),
        project: one.project.clone(),
        pid: one.pid,
        netns: one.netns,
        host_network,
        interfaces,
        networks: one.networks.clone(),
        published: one.published.clone(),
    }
}

fn namespace(snapshot: &Snapshot, inode: u32) -> Namespace {
    let known = snapshot.namespaces.get(&inode);
    let process = known.and_then(|namespace| namespace.process.clone());
    let is_own = inode == snapshot.own;
    Namespace {
        inode,
        name: known.and_then(|namespace| namespace.name.clone()),
        orphaned: !is_own && process.is_none(),
        process,
        interfaces: interfaces(snapshot, inode),
    }
}

fn interfaces(snapshot: &Snapshot, inode: u32) -> Vec<Interface> {
    let links = snapshot.namespaces.get(&inode).into_iter().flat_map(|n| n.links.values());
    links
        .filter(|link| !link.is_loopback())
        .map(|link| {
            let there = link.peer.and_then(|peer| {
                other(snapshot, Place { netns: peer.netns?, ifindex: peer.ifindex })
            });
            let place = Place { netns: inode, ifindex: link.ifindex };
            let master = link.master.and_then(|ifindex| snapshot.link(Place { ifindex, ..place }));
            let (bridge, master) = match master {
                Some(master) if master.is_bridge() => (Some(master.name.clone()), None),
                master => (None, master.map(|master| master.name.clone())),
            };
            let peer_unreachable = link.is_paired() && there.is_none();
            let (peer, parent) = if link.is_paired() { (there, None) } else { (None, there) };
            Interface {
                name: Some(link.name.clone()),
                kind: link.kind.clone(),
                addresses: addresses(link),
                bridge,
                master,
                peer,
                peer_unreachable,
                parent,
            }
        })
        .collect()
}

/// The interface of a virtual machine behind this tap.
fn tapped(snapshot: &Snapshot, tap: &str) -> Interface {
    let here = snapshot.links().find(|(p, link)| p.netns == snapshot.own && link.name == tap);
    Interface {
        name: None,
        kind: None,
        addresses: Vec::new(),
        bridge: None,
        master: None,
        peer_unreachable: here.is_none(),
        peer: here.and_then(|(place, _)| other(snapshot, place)),
        parent: None,
    }
}

fn addresses(link: &Link) -> Vec<String> {
    link.addresses.iter().map(ToString::to_string).collect()
}

fn other(snapshot: &Snapshot, place: Place) -> Option<Other> {
    let names = snapshot.names(place);
    let within = match names.container.or(names.netns) {
        _ if place.netns == snapshot.own => String::new(),
        Some(name) => format!("{name}:"),
        None => format!("{}:", place.netns),
    };
    Some(Other {
        netns: place.netns,
        name: snapshot.link(place)?.name.clone(),
        bridge: names.bridge.map(str::to_owned),
        within,
    })
}

/// One JSON object a line.
///
/// # Errors
/// None that is known.
pub fn json(listed: &[Record]) -> serde_json::Result<String> {
    let line = |record| Ok(serde_json::to_string(record)? + "\n");
    listed.iter().map(line).collect()
}

const COLUMNS: [&str; 8] =
    ["RUNTIME", "NAME", "NETNS", "PROCESS", "INTERFACE", "LEADS TO", "BRIDGE", "ADDRESSES"];

type Row = [String; COLUMNS.len()];

/// Aligned columns, a line an interface. Names are made safe for a terminal.
pub fn text(listed: &[Record]) -> String {
    let mut rows: Vec<Row> = vec![COLUMNS.map(str::to_owned)];
    for record in listed {
        match record {
            Record::Container(container) => rows.extend(container_rows(container)),
            Record::Namespace(namespace) => rows.extend(namespace_rows(namespace)),
            _ => {}
        }
    }
    let mut widths = [0; COLUMNS.len()];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let line = |row: &Row| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

fn container_rows(container: &Container) -> Vec<Row> {
    let name = match &container.project {
        Some(project) => format!("{project}/{}", container.name),
        None => container.name.clone(),
    };
    let number = |n: Option<u32>| n.map_or_else(|| "-".to_owned(), |n| n.to_string());
    let head = [
        container.runtime.name().to_owned(),
        escape(&name).into_owned(),
        if container.host_network { "host".into() } else { number(container.netns) },
        number(container.pid),
    ];
    let mut rows = interface_rows(head, &container.interfaces);
    if let Some(first) = rows.first_mut()
        && !container.published.is_empty()
    {
        let published: Vec<_> = container.published.iter().map(published).collect();
        let [.., addresses] = first;
        *addresses = format!("{addresses} ({})", published.join(", ")).trim_start().to_owned();
    }
    rows
}

/// `8080→80/tcp`
fn published(port: &Published) -> String {
    let Published { proto, host, host_port, container_port, .. } = port;
    let host = host.map_or_else(String::new, |host| match host {
        std::net::IpAddr::V4(v4) => format!("{v4}:"),
        std::net::IpAddr::V6(v6) => format!("[{v6}]:"),
    });
    format!("{host}{host_port}→{container_port}/{}", escape(proto))
}

fn namespace_rows(namespace: &Namespace) -> Vec<Row> {
    let name =
        namespace.name.as_deref().map_or_else(|| "-".into(), |name| escape(name).into_owned());
    let process = match &namespace.process {
        Some(Process { pid, comm }) => format!("{pid} ({})", escape(comm)),
        None if namespace.orphaned => "none".to_owned(),
        None => "-".to_owned(),
    };
    let head = ["-".to_owned(), name, namespace.inode.to_string(), process];
    interface_rows(head, &namespace.interfaces)
}

fn interface_rows(head: [String; 4], interfaces: &[Interface]) -> Vec<Row> {
    let [runtime, name, netns, process] = head;
    let mut rows: Vec<Row> = interfaces.iter().map(interface_row).collect();
    if rows.is_empty() {
        rows.push(Row::default());
    }
    if let Some([a, b, c, d, ..]) = rows.first_mut() {
        (*a, *b, *c, *d) = (runtime, name, netns, process);
    }
    rows
}

fn interface_row(interface: &Interface) -> Row {
    let named = |name: &Option<String>| {
        name.as_deref().map_or_else(|| "-".to_owned(), |name| escape(name).into_owned())
    };
    let whole = |other: &Other| escape(&format!("{}{}", other.within, other.name)).into_owned();
    let leads_to = match (&interface.peer, &interface.parent, &interface.master) {
        (Some(peer), ..) => whole(peer),
        (None, Some(parent), _) => format!("on {}", whole(parent)),
        (None, None, Some(master)) => format!("in {}", escape(master)),
        _ if interface.peer_unreachable => "unreachable".to_owned(),
        _ => "-".to_owned(),
    };
    let bridge = interface.bridge.clone();
    let bridge = bridge.or_else(|| interface.peer.as_ref().and_then(|peer| peer.bridge.clone()));
    let empty = String::new;
    [
        empty(),
        empty(),
        empty(),
        empty(),
        named(&interface.name),
        leads_to,
        named(&bridge),
        interface.addresses.join(", "),
    ]
}
