//! Which interfaces and namespaces the packets of some addresses cross. Pure: a [`Snapshot`] in,
//! places out.
//!
//! From the link that owns an address the way goes along peers (veth), to the bridge or bond that
//! a link belongs to, and in every namespace that it comes to, on to the uplinks. Not along a
//! bridge's other ports: those lead to neighbours, not to the address.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;

use super::{
    link::Link,
    snapshot::{Namespace, Snapshot},
};
use crate::event::Place;

/// Where packets can be seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Path {
    /// Interfaces, none of them loopback, sorted.
    pub places: Vec<Place>,
    /// Inodes of the namespaces that are crossed, sorted. May name one without an interface in
    /// `places`: an address of a loopback device is delivered there.
    pub namespaces: Vec<u32>,
}

impl Path {
    /// The way of packets from or to these addresses.
    ///
    /// An address that no namespace owns is somewhere out there. Beside one that is owned it only
    /// adds the links towards its subnet: packets that have both cross the owned one's path anyway.
    /// Alone, or with no address at all, the path is all that this machine can pass on: this
    /// namespace's bridges and ports, the namespaces behind them, and its uplinks. For addresses
    /// that are alternatives, ask one by one and [`merge`](Self::merge).
    pub fn of(addresses: &[IpNet], snapshot: &Snapshot) -> Self {
        let mut walk = Walk::new(addresses, snapshot);
        let owners: Vec<_> =
            snapshot.links().filter(|(_, link)| owns_any(link, addresses)).collect();
        if owners.is_empty() {
            walk.everything();
        }
        for (place, link) in owners {
            walk.visit(place);
            walk.arrive(place.netns);
            if link.is_loopback() {
                // An address of no interface: its packets use any.
                walk.visit_all(snapshot.links().filter(|(p, _)| p.netns == place.netns));
            }
            if link.is_bridge() {
                // Packets of the bridge's own address use any port.
                walk.visit_all(
                    snapshot
                        .links()
                        .filter(|(p, l)| p.netns == place.netns && l.master == Some(place.ifindex)),
                );
            }
        }
        Self {
            places: walk.places.into_iter().collect(),
            namespaces: walk.namespaces.into_iter().collect(),
        }
    }

    /// Both ways.
    #[must_use]
    pub fn merge(self, other: Self) -> Self {
        let places: BTreeSet<_> = self.places.into_iter().chain(other.places).collect();
        let namespaces: BTreeSet<_> = self.namespaces.into_iter().chain(other.namespaces).collect();
        Self { places: places.into_iter().collect(), namespaces: namespaces.into_iter().collect() }
    }
}

/// Whether the link has one of these addresses. 127.0.0.1 and ::1 are everyone's, and so tell
/// nothing.
fn owns_any(link: &Link, addresses: &[IpNet]) -> bool {
    let own = link.addresses.iter().map(IpNet::addr).filter(|a| !a.is_loopback());
    own.into_iter().any(|own| addresses.iter().any(|net| net.contains(&own)))
}

struct Walk<'a> {
    snapshot: &'a Snapshot,
    addresses: Vec<IpAddr>,
    places: BTreeSet<Place>,
    namespaces: BTreeSet<u32>,
}

impl<'a> Walk<'a> {
    fn new(addresses: &[IpNet], snapshot: &'a Snapshot) -> Self {
        // A whole net is behind no link in particular; the default route's `0.0.0.0/0` least of all.
        let single = addresses.iter().filter(|net| net.prefix_len() == net.max_prefix_len());
        let addresses = single.map(IpNet::addr).collect();
        Self { snapshot, addresses, places: BTreeSet::new(), namespaces: BTreeSet::new() }
    }

    /// All that this machine's own namespace can pass on.
    fn everything(&mut self) {
        let own = self.snapshot.own;
        self.arrive(own);
        let Some(namespace) = self.snapshot.namespaces.get(&own) else { return };
        let is_way = |link: &Link| {
            let port_of = link.master.and_then(|master| namespace.links.get(&master));
            let leaves = link.peer.is_some_and(|peer| peer.netns != Some(own));
            link.is_bridge() || port_of.is_some_and(Link::is_bridge) || leaves
        };
        let ways = namespace.links.values().filter(|link| is_way(link));
        self.visit_all(ways.map(|link| (Place { netns: own, ifindex: link.ifindex }, link)));
    }

    fn visit_all(&mut self, links: impl Iterator<Item = (Place, &'a Link)>) {
        links.for_each(|(place, _)| self.visit(place));
    }

    /// Adds a link and all that its packets cross from there on.
    fn visit(&mut self, start: Place) {
        let mut ahead = vec![start];
        while let Some(place) = ahead.pop() {
            let Some(link) = self.snapshot.link(place).filter(|link| !link.is_loopback()) else {
                continue;
            };
            if self.places.insert(place) {
                ahead.extend(self.next(place, link));
                ahead.extend(self.enter(place.netns));
            }
        }
    }

    /// The way on from a link: its peer, the link that it belongs to, and those below it.
    fn next(&self, place: Place, link: &Link) -> Vec<Place> {
        let here = |ifindex| Place { netns: place.netns, ifindex };
        let namespace = self.snapshot.namespaces.get(&place.netns);
        let below = namespace.into_iter().flat_map(|n| n.links.values());
        let below = below.filter(|port| port.master == Some(link.ifindex) && leads_out(link, port));
        let mut next: Vec<_> = below.map(|port| here(port.ifindex)).collect();
        next.extend(self.snapshot.peer(place));
        next.extend(link.master.map(here));
        next
    }

    /// Comes to a namespace, also where its link is not shown.
    fn arrive(&mut self, netns: u32) {
        for place in self.enter(netns) {
            self.visit(place);
        }
    }

    /// The ways out of a namespace that is come to for the first time: its uplinks, and the links
    /// towards the addresses.
    fn enter(&mut self, netns: u32) -> Vec<Place> {
        let Some(namespace) = self.snapshot.namespaces.get(&netns) else { return Vec::new() };
        if !self.namespaces.insert(netns) {
            return Vec::new();
        }
        let uplinks = namespace.uplinks.iter().copied();
        let all = uplinks.chain(self.towards(namespace));
        all.map(|ifindex| Place { netns, ifindex }).collect()
    }

    fn towards(&self, namespace: &Namespace) -> Vec<u32> {
        let near = |link: &&Link| {
            self.addresses.iter().any(|a| link.addresses.iter().any(|net| net.contains(a)))
        };
        namespace.links.values().filter(near).map(|link| link.ifindex).collect()
    }
}

/// Whether packets of `upper` can leave the machine by this port of it: all slaves of a bond, and
/// of a bridge those that are no ends of containers (veth, netkit) or of virtual machines (tun).
fn leads_out(upper: &Link, port: &Link) -> bool {
    match upper.kind.as_deref() {
        Some("bond" | "team") => true,
        Some("bridge") => !port.is_paired() && port.kind.as_deref() != Some("tun"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::link::Peer;

    const HOST: u32 = 1;
    const C1: u32 = 11;
    const C2: u32 = 12;
    const WORLD: u32 = 20;

    fn link(ifindex: u32, name: &str, kind: &str, addresses: &[&str]) -> Link {
        Link {
            ifindex,
            name: name.into(),
            kind: (!kind.is_empty()).then(|| kind.into()),
            master: None,
            peer: None,
            mac: None,
            up: true,
            mtu: 1500,
            arp_type: if name == "lo" { 772 } else { 1 },
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            container: None,
        }
    }

    fn port(mut link: Link, master: u32) -> Link {
        link.master = Some(master);
        link
    }

    fn towards(mut link: Link, netns: u32, ifindex: u32) -> Link {
        link.peer = Some(Peer { ifindex, nsid: None, netns: Some(netns) });
        link
    }

    fn namespace(uplinks: &[u32], links: impl IntoIterator<Item = Link>) -> Namespace {
        let lo = link(1, "lo", "", &["127.0.0.1/8", "::1/128"]);
        let all = links.into_iter().chain([lo]).map(|l| (l.ifindex, l)).collect();
        Namespace { links: all, uplinks: uplinks.into(), ..Namespace::default() }
    }

    fn snapshot(namespaces: impl IntoIterator<Item = (u32, Namespace)>) -> Snapshot {
        let mut snapshot = Snapshot::default();
        snapshot.own = HOST;
        snapshot.namespaces.extend(namespaces);
        snapshot
    }

    /// Two containers on br0, a NIC, a second bridge nobody uses, and the host's other subnet.
    fn machine() -> Snapshot {
        let container =
            |ip, peer| namespace(&[2], [towards(link(2, "eth0", "veth", &[ip]), HOST, peer)]);
        snapshot([
            (
                HOST,
                namespace(
                    &[2],
                    [
                        link(2, "eth0", "", &["198.51.100.10/24"]),
                        link(3, "br0", "bridge", &["10.0.0.1/24", "fd00::1/64"]),
                        port(towards(link(4, "v1", "veth", &[]), C1, 2), 3),
                        port(towards(link(5, "v2", "veth", &[]), C2, 2), 3),
                        link(6, "eth1", "", &["192.168.7.1/24"]),
                        link(7, "br1", "bridge", &["10.1.0.1/24"]),
                    ],
                ),
            ),
            (C1, container("10.0.0.2/24", 4)),
            (C2, container("10.0.0.3/24", 5)),
        ])
    }

    fn of(addresses: &[&str], snapshot: &Snapshot) -> (Vec<(u32, u32)>, Vec<u32>) {
        let nets: Vec<IpNet> = addresses
            .iter()
            .map(|a| a.parse().or_else(|_| a.parse::<IpAddr>().map(IpNet::from)).unwrap())
            .collect();
        let path = Path::of(&nets, snapshot);
        (path.places.iter().map(|p| (p.netns, p.ifindex)).collect(), path.namespaces)
    }

    #[test]
    fn a_container_leads_over_its_port_and_bridge_to_the_uplink_not_to_its_neighbour() {
        let expected = (vec![(HOST, 2), (HOST, 3), (HOST, 4), (C1, 2)], vec![HOST, C1]);
        assert_eq!(of(&["10.0.0.2"], &machine()), expected);
    }

    #[test]
    fn two_containers_lead_to_both_ports() {
        let (places, namespaces) = of(&["10.0.0.2", "10.0.0.3"], &machine());
        assert_eq!(places, [(HOST, 2), (HOST, 3), (HOST, 4), (HOST, 5), (C1, 2), (C2, 2)]);
        assert_eq!(namespaces, [HOST, C1, C2]);
        assert_eq!(of(&["10.0.0.0/24"], &machine()), (places, namespaces));
    }

    #[test]
    fn another_address_adds_the_link_of_its_subnet() {
        let (places, _) = of(&["10.0.0.2", "192.168.7.9"], &machine());
        assert_eq!(places, [(HOST, 2), (HOST, 3), (HOST, 4), (HOST, 6), (C1, 2)]);
        let (remote, _) = of(&["10.0.0.2", "203.0.113.8"], &machine());
        assert_eq!(remote, [(HOST, 2), (HOST, 3), (HOST, 4), (C1, 2)]);
    }

    #[test]
    fn without_an_owned_address_it_is_all_that_the_machine_passes_on() {
        let all = vec![(HOST, 2), (HOST, 3), (HOST, 4), (HOST, 5), (HOST, 7), (C1, 2), (C2, 2)];
        let expected = (all, vec![HOST, C1, C2]);
        assert_eq!(of(&[], &machine()), expected);
        assert_eq!(of(&["203.0.113.8"], &machine()), expected);
        assert_eq!(of(&["127.0.0.1"], &machine()), expected);
    }

    #[test]
    fn the_bridges_own_address_is_reached_by_all_ports() {
        let (places, _) = of(&["fd00::1"], &machine());
        assert_eq!(places, [(HOST, 2), (HOST, 3), (HOST, 4), (HOST, 5), (C1, 2), (C2, 2)]);
    }

    #[test]
    fn an_uplink_into_another_namespace_leads_there() {
        let mut machine = machine();
        let host = machine.namespaces.get_mut(&HOST).unwrap();
        host.links.insert(2, towards(link(2, "up", "veth", &["198.51.100.10/24"]), WORLD, 9));
        let world = towards(link(9, "down", "veth", &["198.51.100.1/24"]), HOST, 2);
        machine.namespaces.insert(WORLD, namespace(&[], [world]));
        let (places, namespaces) = of(&["10.0.0.2"], &machine);
        assert_eq!(places, [(HOST, 2), (HOST, 3), (HOST, 4), (C1, 2), (WORLD, 9)]);
        assert_eq!(namespaces, [HOST, C1, WORLD]);
        assert!(of(&[], &machine).1.contains(&WORLD));
    }

    #[test]
    fn a_nested_container_leads_through_the_outer_one() {
        const INNER: u32 = 30;
        let mut machine = machine();
        let outer = machine.namespaces.get_mut(&C1).unwrap();
        outer.links.insert(3, link(3, "br0", "bridge", &["10.5.0.1/24"]));
        outer.links.insert(4, port(towards(link(4, "v", "veth", &[]), INNER, 2), 3));
        let eth0 = towards(link(2, "eth0", "veth", &["10.5.0.2/24"]), C1, 4);
        machine.namespaces.insert(INNER, namespace(&[2], [eth0]));
        let (places, namespaces) = of(&["10.5.0.2"], &machine);
        let inside = [(C1, 2), (C1, 3), (C1, 4), (INNER, 2)];
        assert_eq!(places, [&[(HOST, 2), (HOST, 3), (HOST, 4)], &inside[..]].concat());
        assert_eq!(namespaces, [HOST, C1, INNER]);
    }

    #[test]
    fn a_bridged_nic_a_bond_and_a_macvlan_lead_to_the_hardware() {
        let machine = snapshot([
            (
                HOST,
                namespace(
                    &[3],
                    [
                        port(link(2, "eth0", "", &[]), 5),
                        link(3, "br0", "bridge", &["192.0.2.1/24"]),
                        port(link(4, "tap0", "tun", &[]), 3),
                        port(link(5, "bond0", "bond", &[]), 3),
                    ],
                ),
            ),
            (C1, namespace(&[2], [towards(link(2, "m", "macvlan", &["192.0.2.5/24"]), HOST, 3)])),
        ]);
        let (places, _) = of(&["192.0.2.5"], &machine);
        assert_eq!(places, [(HOST, 2), (HOST, 3), (HOST, 5), (C1, 2)]);
    }

    #[test]
    fn an_address_on_loopback_adds_the_namespace_and_its_uplinks_but_never_loopback() {
        let lo = link(1, "lo", "", &["127.0.0.1/8", "10.255.0.1/32"]);
        let mut machine = machine();
        machine.namespaces.get_mut(&C2).unwrap().links.insert(1, lo);
        let (places, namespaces) = of(&["10.255.0.1"], &machine);
        assert_eq!(places, [(HOST, 2), (HOST, 3), (HOST, 5), (C2, 2)]);
        assert_eq!(namespaces, [HOST, C2]);
    }

    #[test]
    fn a_peer_that_is_not_known_ends_the_way() {
        let mut machine = machine();
        machine.namespaces.remove(&HOST);
        assert_eq!(of(&["10.0.0.2"], &machine), (vec![(C1, 2)], vec![C1]));
        assert_eq!(of(&[], &machine), (vec![], vec![]));
        assert_eq!(Path::of(&[], &Snapshot::default()), Path::default());
    }
}
