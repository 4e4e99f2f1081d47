//! What every namespace looks like at one time: for names beside hops, and for paths.
//!
//! It is a value: a recording carries it, and look-ups ask nobody. What has vanished since it was
//! first read keeps its name, because its packets are still being told about.

mod owners;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    Error,
    containers::{Containers, Process, Sources},
    link::{Link, Links},
    netns::Netns,
    peers::Search,
    route_tables::RouteTables,
    routing_rule::RoutingRule,
};
use crate::event::Place;

/// Most namespaces whose names are kept after they have vanished.
const MOST_PAST: usize = 1024;

/// All namespaces with their links.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Inode of the namespace that pathtrace runs in.
    pub own: u32,
    /// By inode.
    pub namespaces: BTreeMap<u32, Namespace>,
    /// What runs in them, as far as it was looked at.
    #[serde(default)]
    pub containers: Containers,
    /// Names of routing tables.
    #[serde(default)]
    pub tables: RouteTables,
    /// What was there at an earlier time and has vanished. Names only: no path leads here.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    past: BTreeMap<u32, Namespace>,
}

/// A network namespace with its links.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespace {
    /// Its name under `/run/netns`, or `host` for pathtrace's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The container whose it is, as `RUNTIME:NAME`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Its oldest process, unless it is pathtrace's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
    /// Its links, by index.
    pub links: BTreeMap<u32, Link>,
    /// Indices of the links that default routes of any table and family leave by, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub uplinks: Vec<u32>,
    /// The rules that say which routing table is looked up, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<RoutingRule>,
}

/// What people call a place; `None` where it has no name or is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Names<'a> {
    /// The network namespace.
    pub netns: Option<&'a str>,
    /// The container that owns the namespace, as `RUNTIME:NAME`.
    pub container: Option<&'a str>,
    /// The oldest process in it.
    pub process: Option<&'a Process>,
    /// The link.
    pub link: Option<&'a str>,
    /// The bridge that the link is a port of.
    pub bridge: Option<&'a str>,
    /// The container that the link leads to from outside, as `RUNTIME:NAME`.
    pub leads_to: Option<&'a str>,
}

impl Snapshot {
    /// Reads everything. A namespace that vanishes meanwhile, or that cannot be read, is left out.
    ///
    /// # Errors
    /// When not even this process's own namespace can be read.
    pub fn take() -> Result<Self, Error> {
        let mut snapshot = Self::default();
        snapshot.refresh()?;
        Ok(snapshot)
    }

    /// The same, with what runs in the namespaces. Takes as long as [`Containers::read`].
    ///
    /// # Errors
    /// As [`take`](Self::take).
    pub fn take_all(sources: &Sources) -> Result<Self, Error> {
        let mut snapshot = Self::take()?;
        let containers = Containers::read(sources, &snapshot.behind());
        snapshot.know(containers);
        Ok(snapshot)
    }

    /// Reads everything again.
    ///
    /// # Errors
    /// As [`take`](Self::take); the snapshot is then as it was.
    pub fn refresh(&mut self) -> Result<(), Error> {
        let all = Netns::all()?;
        let own = Netns::own()?;
        let mut now = BTreeMap::from([(own.inode, Namespace::read(&own)?)]);
        for netns in all.iter().filter(|n| n.inode != own.inode) {
            match Namespace::read(netns) {
                Ok(namespace) => drop(now.insert(netns.inode, namespace)),
                Err(e) if e.is_gone() => {}
                Err(e) => log::warn!("{e}; its interfaces are shown without names"),
            }
        }
        self.own = own.inode;
        self.tables = RouteTables::read();
        let before = std::mem::replace(&mut self.namespaces, now);
        for (inode, namespace) in &mut self.namespaces {
            before.get(inode).into_iter().for_each(|known| namespace.inherit(known));
        }
        // Inodes are used again: what comes under one that has vanished is something else.
        let namespaces = &self.namespaces;
        self.past.retain(|inode, _| before.contains_key(inode) || !namespaces.contains_key(inode));
        for (inode, namespace) in before {
            self.remember(inode, namespace);
        }
        let inodes: Vec<_> = self.namespaces.keys().copied().collect();
        self.resolve_peers(&inodes, &all);
        self.name_containers();
        Ok(())
    }

    /// Reads one namespace again, or for the first time; forgets it when it is gone.
    ///
    /// # Errors
    /// When it is there and cannot be read; the snapshot is then as it was.
    pub fn refresh_namespace(&mut self, inode: u32) -> Result<(), Error> {
        let all = Netns::all()?;
        let read = all.iter().find(|n| n.inode == inode).map(Namespace::read);
        let now = match read {
            Some(Err(e)) if !e.is_gone() => return Err(e),
            Some(Ok(mut namespace)) => {
                let known = self.namespaces.get(&inode);
                known.into_iter().for_each(|known| namespace.inherit(known));
                Some(namespace)
            }
            _ => None,
        };
        let before = match now {
            Some(now) => self.namespaces.insert(inode, now),
            None => self.namespaces.remove(&inode),
        };
        match before {
            Some(before) => self.remember(inode, before),
            None => drop(self.past.remove(&inode)),
        }
        self.resolve_peers(&[inode], &all);
        self.name_containers();
        Ok(())
    }

    /// What people call this place. Cheap: meant for every hop shown.
    pub fn names(&self, place: Place) -> Names<'_> {
        let now = self.namespaces.get(&place.netns);
        let past = self.past.get(&place.netns);
        let find = |ifindex: u32| [now, past].into_iter().flatten().find_map(|n| n.link(ifindex));
        let link = find(place.ifindex);
        let master = link.and_then(|link| find(link.master?));
        let namespace = now.or(past);
        Names {
            netns: namespace.and_then(|namespace| namespace.name.as_deref()),
            container: namespace.and_then(|namespace| namespace.container.as_deref()),
            process: namespace.and_then(|namespace| namespace.process.as_ref()),
            link: link.map(|link| link.name.as_str()),
            bridge: master.filter(|m| m.is_bridge()).map(|bridge| bridge.name.as_str()),
            leads_to: link.and_then(|link| link.container.as_deref()),
        }
    }

    /// The link at this place.
    pub fn link(&self, place: Place) -> Option<&Link> {
        self.namespaces.get(&place.netns)?.link(place.ifindex)
    }

    /// Whether the link is a VRF, or belongs to one.
    pub fn is_in_vrf(&self, place: Place) -> bool {
        let Some(link) = self.link(place) else { return false };
        let master = link.master.and_then(|ifindex| self.link(Place { ifindex, ..place }));
        link.is_vrf() || master.is_some_and(Link::is_vrf)
    }

    /// The place of the link's peer, where it is known.
    pub fn peer(&self, place: Place) -> Option<Place> {
        let peer = self.link(place)?.peer?;
        Some(Place { netns: peer.netns?, ifindex: peer.ifindex })
    }

    /// Every link with its place.
    pub fn links(&self) -> impl Iterator<Item = (Place, &Link)> {
        self.namespaces.iter().flat_map(|(netns, namespace)| {
            let place = |ifindex: &u32| Place { netns: *netns, ifindex: *ifindex };
            namespace.links.iter().map(move |(ifindex, link)| (place(ifindex), link))
        })
    }

    /// Keeps the names of what was and is no longer.
    fn remember(&mut self, inode: u32, mut before: Namespace) {
        if let Some(now) = self.namespaces.get(&inode) {
            before.links.retain(|ifindex, _| !now.links.contains_key(ifindex));
            if before.links.is_empty() {
                return;
            }
        }
        let past = self.past.entry(inode).or_default();
        past.name = before.name.or(past.name.take());
        past.container = before.container.or(past.container.take());
        past.process = before.process.or(past.process.take());
        past.links.extend(before.links);
        while self.past.len() > MOST_PAST {
            self.past.pop_first();
        }
    }

    /// Finds the namespaces that peers of these namespaces' links are in.
    fn resolve_peers(&mut self, inodes: &[u32], all: &[Netns]) {
        let mut search = Search::new(self.own, all, self.links());
        for inode in inodes {
            let Some(namespace) = self.namespaces.get(inode) else { continue };
            let found = search.namespaces_of(*inode, namespace.links.values());
            let links = self.namespaces.get_mut(inode).map(|n| n.links.values_mut());
            for peer in links.into_iter().flatten().filter_map(|link| link.peer.as_mut()) {
                if let Some(netns) = peer.nsid.and_then(|nsid| found.get(&nsid)) {
                    peer.netns = Some(*netns);
                }
            }
        }
    }
}

impl Namespace {
    fn read(netns: &Netns) -> Result<Self, Error> {
        let Links { links, uplinks, rules } = Links::read(netns)?;
        Ok(Self { name: netns.name.clone(), links, uplinks, rules, ..Self::default() })
    }

    fn link(&self, ifindex: u32) -> Option<&Link> {
        self.links.get(&ifindex)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::TestNetns, *};

    pub(super) fn place(snapshot: &Snapshot, netns: u32, name: &str) -> Place {
        snapshot.links().find(|(p, l)| p.netns == netns && l.name == name).unwrap().0
    }

    /// A container behind a bridge in a namespace that is not pathtrace's own.
    pub(super) fn lab() -> (TestNetns, TestNetns) {
        let (host, container) = (TestNetns::new("h"), TestNetns::new("c"));
        host.ip("link add br0 type bridge");
        host.ip(&format!("link add v0 type veth peer name eth0 netns {}", container.name));
        host.ip("link set v0 master br0");
        (host, container)
    }

    #[test]
    fn places_have_names_and_peers_have_places() {
        let (host, container) = lab();
        let (h, c) = (host.netns().inode, container.netns().inode);
        let snapshot = Snapshot::take().unwrap();
        let (v0, eth0) = (place(&snapshot, h, "v0"), place(&snapshot, c, "eth0"));
        assert_eq!(
            snapshot.names(v0),
            Names {
                netns: Some(&host.name),
                link: Some("v0"),
                bridge: Some("br0"),
                ..Names::default()
            }
        );
        assert_eq!(snapshot.peer(v0), Some(eth0));
        assert_eq!(snapshot.peer(eth0), Some(v0));
        let lo = Place { netns: snapshot.own, ifindex: 1 };
        assert_eq!(
            snapshot.names(lo),
            Names { netns: Some("host"), link: Some("lo"), ..Names::default() }
        );
        assert_eq!(snapshot.names(Place { netns: 1, ifindex: 1 }), Names::default());
    }

    #[test]
    fn a_refresh_sees_what_is_new_and_keeps_the_names_of_what_has_gone() {
        let (host, container) = lab();
        let (h, c) = (host.netns().inode, container.netns().inode);
        let mut snapshot = Snapshot::take().unwrap();
        let (v0, eth0) = (place(&snapshot, h, "v0"), place(&snapshot, c, "eth0"));
        host.ip("link add v1 type veth peer name v2");
        snapshot.refresh_namespace(h).unwrap();
        let v1 = place(&snapshot, h, "v1");
        assert_eq!(snapshot.peer(v1), Some(place(&snapshot, h, "v2")));

        let name = container.name.clone();
        host.ip("link del v0");
        drop(container);
        snapshot.refresh_namespace(h).unwrap();
        snapshot.refresh_namespace(c).unwrap();
        assert!(snapshot.link(v0).is_none() && !snapshot.namespaces.contains_key(&c));
        assert_eq!(snapshot.names(v0).bridge, Some("br0"));
        assert_eq!(snapshot.names(eth0).netns, Some(name.as_str()));
        assert_eq!(snapshot.names(eth0).link, Some("eth0"));
    }

    #[test]
    fn a_recording_gives_back_the_same_snapshot() {
        let _lab = lab();
        let snapshot = Snapshot::take().unwrap();
        let json = serde_json::to_string(&snapshot).unwrap();
        assert_eq!(snapshot, serde_json::from_str(&json).unwrap());
    }
}
