//! Whose namespaces are: the names of containers, put beside what is theirs.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    super::{
        containers::{Container, Containers},
        link::Link,
    },
    Namespace, Snapshot,
};

impl Snapshot {
    /// The container whose this namespace is.
    pub fn container_of(&self, inode: u32) -> Option<&Container> {
        self.containers.owners().remove(&inode).filter(|_| inode != self.own)
    }

    /// What runs here now.
    pub fn know(&mut self, containers: Containers) {
        self.containers = containers;
        self.name_containers();
    }

    /// Takes over what a snapshot knows that was shown until now: a look takes a while, in which
    /// containers were named, and what vanished meanwhile keeps that name.
    pub fn follow(&mut self, before: &Self) {
        for (inode, known) in before.past.iter().chain(&before.namespaces) {
            let both = [self.namespaces.get_mut(inode), self.past.get_mut(inode)];
            both.into_iter().flatten().for_each(|namespace| namespace.inherit(known));
        }
        self.know(before.containers.clone());
    }

    /// The namespaces that links of this one lead to, by the names of the links.
    pub fn behind(&self) -> BTreeMap<String, u32> {
        let links = self.namespaces.get(&self.own).into_iter().flat_map(|n| n.links.values());
        let far = links.filter(|link| link.is_paired()).filter_map(|link| {
            Some((link.name.clone(), link.peer?.netns.filter(|netns| *netns != self.own)?))
        });
        far.collect()
    }

    /// What anything is or was called: containers, and namespaces that are no container's.
    pub fn all_names(&self) -> BTreeSet<&str> {
        let every = self.namespaces.values().chain(self.past.values());
        let of_namespaces = every.filter_map(|n| n.container.as_deref().or(n.name.as_deref()));
        let leads = self.links().filter_map(|(_, link)| link.container.as_deref());
        of_namespaces.chain(leads).collect()
    }

    /// Puts the names of containers beside what is theirs.
    pub(super) fn name_containers(&mut self) {
        let mut labels: BTreeMap<u32, String> =
            self.containers.owners().into_iter().map(|(n, owner)| (n, owner.label())).collect();
        // Those that use the host's network do not own it.
        labels.remove(&self.own);
        for (inode, namespace) in &mut self.namespaces {
            let is_own = *inode == self.own;
            // One that stops leaves its name to what is left of its namespace.
            let owner = labels.get(inode).cloned();
            namespace.container = owner.or_else(|| namespace.container.take());
            let process = self.containers.processes.get(inode).filter(|_| !is_own);
            namespace.process = process.cloned().or_else(|| namespace.process.take());
            for link in namespace.links.values_mut() {
                let peer = link.is_paired().then_some(link.peer).flatten();
                let far = peer.and_then(|peer| peer.netns).filter(|far| far != inode);
                let tap = || self.containers.behind_tap(&link.name).filter(|_| is_own);
                link.container =
                    far.and_then(|far| labels.get(&far).cloned()).or_else(|| Some(tap()?.label()));
            }
        }
    }
}

impl Namespace {
    /// Takes over whose it was, where that is not known better.
    pub(super) fn inherit(&mut self, known: &Self) {
        if self.may_be(known) {
            self.container = self.container.take().or_else(|| known.container.clone());
            self.process = self.process.take().or_else(|| known.process.clone());
        }
    }

    /// Whether it may be what was known by its inode before. Inodes are used again at once; what has
    /// another link in place of the former ones is something else.
    fn may_be(&self, known: &Self) -> bool {
        let is_here = |link: &Link| self.link(link.ifindex).is_some_and(|own| own.mac == link.mac);
        let mut former = known.links.values().filter(|link| !link.is_loopback()).peekable();
        former.peek().is_none() || former.any(is_here)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            super::containers::Process,
            tests::{lab, place},
        },
        *,
    };
    use crate::event::Place;

    fn owned_by(name: &str, netns: u32) -> Containers {
        let container = serde_json::json!({
            "runtime": "lxd", "name": name, "told": "api", "running": true, "netns": netns,
        });
        Containers {
            list: vec![serde_json::from_value(container).unwrap()],
            processes: BTreeMap::from([(netns, Process { pid: 7, comm: "nginx".into() })]),
            ..Containers::default()
        }
    }

    #[test]
    fn a_container_names_its_namespace_and_what_leads_there() {
        let (host, container) = lab();
        let (h, c) = (host.netns().inode, container.netns().inode);
        let mut snapshot = Snapshot::take().unwrap();
        snapshot.know(owned_by("web1", c));
        let (v0, eth0) = (place(&snapshot, h, "v0"), place(&snapshot, c, "eth0"));
        assert_eq!(snapshot.names(eth0).container, Some("lxd:web1"));
        assert_eq!(snapshot.names(eth0).process.map(|p| p.comm.as_str()), Some("nginx"));
        assert_eq!(snapshot.names(eth0).leads_to, None);
        assert_eq!(snapshot.names(v0).leads_to, Some("lxd:web1"));
        assert_eq!(snapshot.container_of(c).map(Container::label), Some("lxd:web1".into()));
        assert!(snapshot.all_names().contains("lxd:web1"));

        snapshot.know(owned_by("web2", c));
        assert_eq!(snapshot.names(eth0).container, Some("lxd:web2"), "it was renamed");
    }

    #[test]
    fn a_container_with_the_hosts_network_does_not_own_it() {
        let mut snapshot = Snapshot::take().unwrap();
        let own = snapshot.own;
        snapshot.know(owned_by("web1", own));
        assert_eq!(snapshot.names(Place { netns: own, ifindex: 1 }).container, None);
        assert_eq!(snapshot.container_of(own), None);
    }

    #[test]
    fn what_stops_and_vanishes_keeps_its_container() {
        let (_host, container) = lab();
        let c = container.netns().inode;
        let mut snapshot = Snapshot::take().unwrap();
        let eth0 = place(&snapshot, c, "eth0");
        snapshot.know(owned_by("web1", c));
        snapshot.know(Containers::default());
        snapshot.refresh().unwrap();
        assert_eq!(snapshot.names(eth0).container, Some("lxd:web1"), "it has stopped");
        drop(container);
        snapshot.refresh().unwrap();
        assert_eq!(snapshot.names(eth0).container, Some("lxd:web1"), "it has vanished");
    }

    #[test]
    fn what_is_named_while_a_look_is_under_way_keeps_that_name() {
        let (_host, container) = lab();
        let c = container.netns().inode;
        let mut shown = Snapshot::take().unwrap();
        let mut looked = shown.clone();
        let eth0 = place(&shown, c, "eth0");
        drop(container);
        looked.refresh().unwrap();
        shown.know(owned_by("web1", c));
        looked.follow(&shown);
        assert_eq!(looked.names(eth0).container, Some("lxd:web1"));
        assert!(!looked.namespaces.contains_key(&c));
    }
}
