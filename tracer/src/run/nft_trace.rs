//! The kernel's own rule tracing, where it is asked for: tables that mark the selected packets in
//! the namespaces of the path, what the kernel then tells of drops, and which journey that is of.

use std::{
    collections::{BTreeMap, HashSet, VecDeque, btree_map::Entry},
    net::IpAddr,
    num::NonZeroUsize,
};

use lru::LruCache;

use crate::{
    host::{
        chains::Chains,
        netns::Netns,
        nft_trace::{Listener, Packet, TracedDrop},
        snapshot::Snapshot,
    },
    journey::Journey,
    probe::nft_trace::{Marks, Surroundings, Tables, sweep},
    select::Selection,
};

/// Messages taken from one namespace in one turn.
const TURN: usize = 16_384;
/// Most packets whose drop is remembered until it is asked for.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();
/// Most drops of packets that look the same.
const ALIKE: usize = 256;
/// A drop that nobody has asked for by then is of a packet that is not followed, ns.
const WANTED: u64 = 1_000_000_000;
/// The kernel tells of a verdict before the packet is freed; clocks of two CPUs may differ, ns.
const SLACK: u64 = 1_000_000;

/// Tables and listeners of a trace.
pub struct NftTrace {
    tables: Tables,
    /// By the namespace's inode.
    listeners: BTreeMap<u32, Listener>,
    /// Messages of the kernel that were lost.
    lost: u64,
    told: HashSet<u32>,
}

impl NftTrace {
    /// Nothing is traced yet.
    ///
    /// # Errors
    /// When `/proc` is not there.
    pub fn new(selection: &Selection) -> anyhow::Result<Self> {
        let tables = Tables::new(Marks::of(selection))?;
        Ok(Self { tables, listeners: BTreeMap::new(), lost: 0, told: HashSet::new() })
    }

    /// The selected containers have other addresses: from the next [`follow`](Self::follow) on.
    pub fn select(&mut self, selection: &Selection) {
        self.tables.mark(Marks::of(selection));
    }

    /// Traces in exactly these namespaces. What cannot be is handed to `tell`, in one line.
    pub fn follow(
        &mut self,
        path: &[(&Netns, Chains)],
        snapshot: &Snapshot,
        mut tell: impl FnMut(&Netns, anyhow::Error),
    ) {
        let is_wanted = |inode| path.iter().any(|(netns, _)| netns.inode == inode);
        self.tables.retain(is_wanted);
        self.listeners.retain(|inode, _| is_wanted(*inode));
        let all: Vec<_> =
            path.iter().map(|(netns, chains)| (*netns, chains, Surroundings::of(chains))).collect();
        let nat: Vec<u32> =
            all.iter().filter(|(.., s)| s.nat).map(|(netns, ..)| netns.inode).collect();
        for (netns, chains, surroundings) in all {
            let aliases = aliases(snapshot, nat.iter().copied().filter(|n| *n != netns.inode));
            match self.watch(netns, Surroundings { aliases, ..surroundings }) {
                Ok(()) => self.warn_of_legacy(netns, chains),
                Err(e) => tell(netns, e),
            }
        }
    }

    fn watch(&mut self, netns: &Netns, surroundings: Surroundings) -> anyhow::Result<()> {
        if let Entry::Vacant(place) = self.listeners.entry(netns.inode) {
            place.insert(Listener::open(netns)?);
        }
        if self.tables.place(netns, surroundings)? {
            log::info!("added table {} to the rules of {}", self.tables.name(), netns.label());
        }
        Ok(())
    }

    fn warn_of_legacy(&mut self, netns: &Netns, chains: &Chains) {
        let is_legacy = !chains.iptables.is_empty() || !chains.ip6tables.is_empty();
        if is_legacy && self.told.insert(netns.inode) {
            log::warn!(
                "{} has legacy iptables rules: where a logger is set up, the kernel logs each of \
                 them that a traced packet passes",
                netns.label()
            );
        }
    }

    /// Takes what the kernel has told. Without waiting, and not more than a turn's worth.
    pub fn take(&mut self, now: u64, drops: &mut Drops) {
        for (netns, listener) in &mut self.listeners {
            self.lost += listener.drain(TURN, |drop| drops.insert(*netns, now, drop));
        }
    }

    /// Messages that were lost so far.
    pub fn lost(&self) -> u64 {
        self.lost
    }
}

/// Addresses of the namespaces that do NAT: what a selected packet may have elsewhere.
fn aliases(snapshot: &Snapshot, nat: impl Iterator<Item = u32>) -> Vec<IpAddr> {
    let nat: Vec<_> = nat.collect();
    let of =
        snapshot.links().filter(|(place, link)| nat.contains(&place.netns) && !link.is_loopback());
    let addresses = of.flat_map(|(_, link)| link.addresses.iter().map(|net| net.addr()));
    let is_global = |address: &IpAddr| match address {
        IpAddr::V4(v4) => !v4.is_link_local(),
        IpAddr::V6(v6) => !v6.is_unicast_link_local(),
    };
    let mut all: Vec<_> = addresses.filter(is_global).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// Removes tables that a pathtrace left in these namespaces that could not do it itself.
pub fn sweep_all(namespaces: &[Netns]) {
    for netns in namespaces {
        match sweep(netns) {
            Ok(0) => {}
            Ok(_) => log::info!("removed a table of a killed pathtrace from {}", netns.label()),
            Err(e) => log::info!("left tables are not looked for in {}: {e:#}", netns.label()),
        }
    }
}

/// Drops that the kernel told of, until the journeys that they are of are explained.
pub struct Drops {
    /// By namespace and the packet's IP identification.
    all: LruCache<(u32, u16), VecDeque<Seen>>,
    /// Drops that had to be forgotten before they were asked for.
    forgotten: u64,
}

struct Seen {
    /// When it was taken, CLOCK_MONOTONIC, ns.
    at: u64,
    drop: TracedDrop,
}

impl Default for Drops {
    fn default() -> Self {
        Self { all: LruCache::new(REMEMBERED), forgotten: 0 }
    }
}

impl Drops {
    /// Notes a drop.
    pub fn insert(&mut self, netns: u32, now: u64, drop: TracedDrop) {
        let key = (netns, drop.packet.ip_id);
        let seen = Seen { at: now, drop };
        if let Some(alike) = self.all.get_mut(&key) {
            alike.retain(|seen| seen.at + WANTED >= now);
            if alike.len() >= ALIKE {
                alike.pop_front();
                self.forgotten += 1;
            }
            alike.push_back(seen);
        } else if let Some((_, old)) = self.all.push(key, VecDeque::from([seen])) {
            self.forgotten += old.iter().filter(|seen| seen.at + WANTED >= now).count() as u64;
        }
    }

    /// The drop that ended this journey in a namespace, once.
    pub fn take(&mut self, netns: u32, journey: &Journey) -> Option<TracedDrop> {
        let end = (journey.start + journey.duration).saturating_sub(SLACK);
        let alike = self.all.get_mut(&(netns, journey.headers.ip_id))?;
        let at =
            alike.iter().position(|seen| seen.at >= end && is_of(&seen.drop.packet, journey))?;
        alike.remove(at).map(|seen| seen.drop)
    }

    /// Drops that had to be forgotten before they were asked for.
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }
}

/// Whether a packet is the one of a journey: before, after or in the midst of a rewrite.
fn is_of(packet: &Packet, journey: &Journey) -> bool {
    let (headers, nat) = (&journey.headers, &journey.nat);
    fn is<T: PartialEq>(value: T, first: T, last: Option<T>) -> bool {
        value == first || Some(value) == last
    }
    packet.family == headers.family
        && packet.ip_id == headers.ip_id
        && is(packet.src, headers.src, nat.src)
        && is(packet.dst, headers.dst, nat.dst)
        && packet.transport.is_none_or(|above| {
            above.proto == headers.proto
                && above.seq == headers.seq
                && is(above.sport, headers.sport, nat.sport)
                && is(above.dport, headers.dport, nat.dport)
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::{Headers, What},
        host::{
            chains::Family,
            nft_trace::{Packet, Transport},
        },
        journey::sample::{drop, journeys, packet, udp},
    };

    fn journey(headers: Headers) -> Journey {
        journeys(packet(1, headers).see(What::DevReceive).see(drop(12, None)).events()).remove(0)
    }

    fn traced(headers: &Headers, handle: u64) -> TracedDrop {
        let Headers { family, src, dst, ip_id, proto, sport, dport, seq, .. } = *headers;
        let transport = Some(Transport { proto, sport, dport, seq });
        TracedDrop {
            packet: Packet { family, src, dst, ip_id, transport },
            family: Family::Inet,
            table: "lab".into(),
            base: "fwd".into(),
            rule: Some(handle),
        }
    }

    fn handle(drop: Option<TracedDrop>) -> Option<u64> {
        drop.and_then(|drop| drop.rule)
    }

    #[test]
    fn a_drop_is_of_the_packet_that_it_is_of_and_of_no_other() {
        let headers = udp("10.0.0.2", 4000, "203.0.113.8", 53);
        let journey = journey(headers);
        let end = journey.start + journey.duration;
        let mut drops = Drops::default();
        drops.insert(7, end, traced(&Headers { sport: 4001, ..headers }, 1));
        drops.insert(7, end, traced(&Headers { ip_id: headers.ip_id + 1, ..headers }, 2));
        drops.insert(8, end, traced(&headers, 3));
        assert_eq!(handle(drops.take(7, &journey)), None);
        drops.insert(7, end, traced(&headers, 4));
        drops.insert(7, end, traced(&headers, 5));
        assert_eq!(handle(drops.take(7, &journey)), Some(4), "the first comes first");
        assert_eq!(handle(drops.take(7, &journey)), Some(5), "each is taken once");
        assert_eq!(handle(drops.take(7, &journey)), None);
    }

    #[test]
    fn what_was_told_before_the_packet_ended_is_of_an_earlier_one() {
        let headers = udp("10.0.0.2", 4000, "203.0.113.8", 53);
        let mut journey = journey(headers);
        journey.start += 10 * SLACK;
        let mut drops = Drops::default();
        drops.insert(7, journey.start - 2 * SLACK, traced(&headers, 1));
        assert_eq!(handle(drops.take(7, &journey)), None);
    }

    #[test]
    fn a_packet_is_known_with_rewritten_addresses() {
        let headers = udp("10.0.0.2", 4000, "203.0.113.8", 53);
        let mut journey = journey(headers);
        let rewritten = Headers { src: "198.51.100.1".parse().unwrap(), sport: 1024, ..headers };
        let mut drops = Drops::default();
        let end = journey.start + journey.duration;
        drops.insert(7, end, traced(&rewritten, 1));
        assert_eq!(handle(drops.take(7, &journey)), None);
        journey.nat.src = Some(rewritten.src);
        journey.nat.sport = Some(1024);
        assert_eq!(handle(drops.take(7, &journey)), Some(1));
    }

    #[test]
    fn what_is_too_much_is_forgotten_and_counted() {
        let mut drops = Drops::default();
        let headers = udp("10.0.0.2", 4000, "203.0.113.8", 53);
        (0..ALIKE as u64 + 3).for_each(|n| drops.insert(7, 0, traced(&headers, n)));
        assert_eq!(drops.forgotten(), 3);
        drops.insert(7, 2 * WANTED, traced(&headers, 9));
        assert_eq!(drops.forgotten(), 3, "nobody had asked for the old ones");
    }
}
