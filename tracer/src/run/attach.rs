//! Keeps the probes where the selected packets' path is: at the start, and when interfaces or
//! namespaces come and go.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    time::{Duration, Instant},
};

use ipnet::IpNet;

use crate::{
    cli::SelectArgs,
    event::{Hook, HookFamily, Place},
    host::{
        chains::{Chains, Occupant, Packets},
        netns::Netns,
        path::Path,
        snapshot::Snapshot,
    },
    probe::{HookOccupants, Occupied, Probes},
    select::Selection,
};

use super::nft_trace::NftTrace;

/// Most combinations of addresses whose paths are walked one by one.
const MOST_COMBINATIONS: usize = 256;

/// Most interfaces beside the path that are watched because packets went there.
const MOST_MET: usize = 1024;

/// How long a namespace that comes while tracing is followed before it is on the path: its links and
/// addresses come after it.
const NEW: Duration = Duration::from_secs(10);

/// Knows what the path is made of.
pub struct Attacher {
    /// What addresses were given by flag.
    given: Vec<Vec<IpNet>>,
    /// Each the addresses of one packet that could match.
    combinations: Vec<Vec<IpNet>>,
    namespaces: Vec<u32>,
    interfaces: Vec<Place>,
    /// The namespaces there are, and when those came that were not there at first.
    known: BTreeMap<u32, Option<Instant>>,
    /// Those that came last.
    came: Vec<u32>,
    /// Where packets went that nobody had expected there: neighbours on a bridge.
    met: BTreeSet<Place>,
    /// The namespaces that are watched.
    expected: HashSet<u32>,
    /// What could not be watched and was told already.
    told: BTreeSet<String>,
}

/// How much is watched.
#[derive(Clone, Copy, Debug, Default)]
pub struct Watched {
    /// Interfaces.
    pub interfaces: usize,
    /// Namespaces.
    pub namespaces: usize,
}

impl Attacher {
    /// For packets that were selected so.
    pub fn new(select: &SelectArgs, selection: &Selection) -> Self {
        let given = [&select.ip, &select.src, &select.dst];
        let given = given.map(|flag| flag.iter().map(|address| address.0).collect());
        let mut attacher = Self {
            given: given.to_vec(),
            combinations: Vec::new(),
            namespaces: Vec::new(),
            interfaces: selection
                .interfaces
                .iter()
                .map(|&(netns, ifindex)| Place { netns, ifindex })
                .collect(),
            known: BTreeMap::new(),
            came: Vec::new(),
            met: BTreeSet::new(),
            expected: HashSet::new(),
            told: BTreeSet::new(),
        };
        attacher.select(selection);
        attacher
    }

    /// The selected containers have other addresses or namespaces.
    pub fn select(&mut self, selection: &Selection) {
        let containers = &selection.containers;
        let of_containers = containers.addresses().iter().copied().map(IpNet::from).collect();
        self.combinations = combinations(&self.given, of_containers);
        let named = selection.namespaces.iter().map(|netns| netns.inode);
        self.namespaces = named.chain(containers.namespaces()).collect();
    }

    /// The namespaces that came between the last two looks. What became of them between the look
    /// and their being followed is told by nobody.
    pub fn came(&self) -> &[u32] {
        &self.came
    }

    /// Lets go of a namespace that is gone: one that comes under its inode is another.
    pub fn forget(&mut self, probes: &mut Probes, gone: u32) {
        self.known.remove(&gone);
        self.met.retain(|place| place.netns != gone);
        probes.retain(|place| place.netns != gone, |netns| netns != gone);
    }

    /// A packet was seen here. Whether this is news: the way of others is watched from now on.
    pub fn meet(&mut self, place: Place) -> bool {
        let is_new = !self.expected.contains(&place.netns)
            && place.ifindex != 0
            && self.known.contains_key(&place.netns)
            && self.met.len() < MOST_MET
            && self.met.insert(place);
        if is_new && self.met.len() == MOST_MET {
            self.tell(format!(
                "packets were met at {MOST_MET} interfaces beside the path; of further ones less is \
                 seen"
            ));
        }
        is_new
    }

    fn get_to_know(&mut self, snapshot: &Snapshot) {
        let is_first = self.known.is_empty();
        self.known.retain(|inode, _| snapshot.namespaces.contains_key(inode));
        let inodes = snapshot.namespaces.keys().copied();
        self.came = inodes.filter(|inode| !self.known.contains_key(inode)).collect();
        let since = (!is_first).then(Instant::now);
        self.known.extend(self.came.iter().map(|inode| (*inode, since)));
        if is_first {
            self.came.clear();
        }
    }

    fn is_new(&self, inode: u32) -> bool {
        self.known.get(&inode).is_some_and(|since| since.is_some_and(|at| at.elapsed() < NEW))
    }

    /// Watches what of the path is not watched yet, and forgets what is gone. What cannot be
    /// watched is told once and left out.
    pub fn attach(
        &mut self,
        probes: &mut Probes,
        nft_trace: Option<&mut NftTrace>,
        snapshot: &Snapshot,
    ) -> Watched {
        let all = match Netns::all() {
            Ok(all) => all,
            Err(e) => {
                self.tell(format!("{e}; the path is not watched"));
                return Watched::default();
            }
        };
        let all: HashMap<u32, Netns> = all.into_iter().map(|n| (n.inode, n)).collect();
        self.get_to_know(snapshot);
        let path = self.path(snapshot);
        self.expected = path.namespaces.iter().copied().collect();
        probes.retain(
            |place| snapshot.link(place).is_some(),
            |netns| snapshot.namespaces.contains_key(&netns),
        );
        let mut watched = Watched::default();
        let mut known = Vec::new();
        for netns in path.namespaces.iter().filter_map(|inode| all.get(inode)) {
            let done = Chains::read(netns).map_err(anyhow::Error::from).and_then(|chains| {
                let done = probes.watch_hooks(netns, &occupants(&chains));
                known.push((netns, chains));
                done
            });
            match done {
                Ok(()) => watched.namespaces += 1,
                Err(e) => self.tell_unless_gone(netns, &e),
            }
        }
        if let Some(nft_trace) = nft_trace {
            nft_trace.follow(&known, snapshot, |netns, e| {
                if netns.open().is_ok() {
                    self.tell(format!("{e:#}; its rules are not traced"));
                }
            });
        }
        for place in path.places {
            let (Some(netns), Some(link)) = (all.get(&place.netns), snapshot.link(place)) else {
                continue;
            };
            match probes.watch_interface(netns, link) {
                Ok(()) => watched.interfaces += 1,
                Err(e) => self.tell_unless_gone(netns, &e),
            }
        }
        watched
    }

    /// The namespaces whose links decide where the path goes: those on it, this one, and new ones.
    pub fn to_follow(&self, snapshot: &Snapshot) -> Vec<Netns> {
        let path = self.path(snapshot);
        let all = Netns::all().unwrap_or_default();
        all.into_iter()
            .filter(|n| {
                n.inode == snapshot.own
                    || self.is_new(n.inode)
                    || path.namespaces.binary_search(&n.inode).is_ok()
            })
            .collect()
    }

    fn path(&self, snapshot: &Snapshot) -> Path {
        let walked = self.combinations.iter().map(|addresses| Path::of(addresses, snapshot));
        let named = Path {
            places: snapshot
                .links()
                .filter(|(place, link)| {
                    !link.is_loopback()
                        && (self.namespaces.contains(&place.netns)
                            || self.interfaces.contains(place)
                            || self.met.contains(place))
                })
                .map(|(place, _)| place)
                .collect(),
            namespaces: self
                .namespaces
                .iter()
                .copied()
                .chain(self.interfaces.iter().chain(&self.met).map(|place| place.netns))
                .collect(),
        };
        walked.fold(named, Path::merge)
    }

    fn tell_unless_gone(&mut self, netns: &Netns, error: &anyhow::Error) {
        if netns.open().is_ok() {
            self.tell(format!("{error:#}; its packets are seen at fewer points"));
        }
    }

    fn tell(&mut self, what: String) {
        if !self.told.contains(&what) {
            log::warn!("{what}");
            self.told.insert(what);
        }
    }
}

/// The addresses that one packet can have together: one of each flag that was given.
fn combinations(by_flag: &[Vec<IpNet>], of_containers: Vec<IpNet>) -> Vec<Vec<IpNet>> {
    let given = by_flag.iter().cloned().chain([of_containers]);
    let given: Vec<_> = given.filter(|nets| !nets.is_empty()).collect();
    if given.iter().map(Vec::len).product::<usize>() > MOST_COMBINATIONS {
        return given.into_iter().flatten().map(|net| vec![net]).collect();
    }
    given.iter().fold(vec![Vec::new()], |together, nets| {
        let with = |before: &Vec<IpNet>, net: &IpNet| {
            before.iter().copied().chain([*net]).collect::<Vec<_>>()
        };
        together.iter().flat_map(|before| nets.iter().map(|net| with(before, net))).collect()
    })
}

/// The priorities at which something sits in each hook.
fn occupants(chains: &Chains) -> HookOccupants {
    let mut occupants = HookOccupants::new();
    for (family, packets) in [(HookFamily::Ipv4, Packets::Ipv4), (HookFamily::Ipv6, Packets::Ipv6)]
    {
        for hook in Hook::ALL {
            let mut occupied = Occupied::default();
            for entry in chains.at(hook, packets) {
                match entry.what {
                    Occupant::Chain(_) | Occupant::Legacy { .. } => {
                        occupied.chains.insert(entry.priority)
                    }
                    Occupant::Kernel(_) => occupied.kernel.insert(entry.priority),
                };
            }
            occupants.insert((family, hook), occupied);
        }
    }
    occupants
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(addresses: &[&str]) -> Vec<IpNet> {
        addresses.iter().map(|a| IpNet::from(a.parse::<std::net::IpAddr>().unwrap())).collect()
    }

    #[test]
    fn one_flags_values_are_alternatives_and_different_flags_go_together() {
        let lengths = |flags: [&[&str]; 3], of_container: &[&str]| {
            let all = combinations(&flags.map(nets), nets(of_container));
            all.iter().map(Vec::len).collect::<Vec<_>>()
        };
        assert_eq!(lengths([&["10.0.0.1", "10.0.0.2"], &[], &[]], &[]), [1, 1]);
        assert_eq!(lengths([&[], &["10.0.0.1"], &["10.0.0.2", "10.0.0.3"]], &[]), [2, 2]);
        assert_eq!(lengths([&[], &[], &[]], &[]), [0]);
        assert_eq!(lengths([&["10.0.0.1"], &[], &[]], &["10.0.0.7", "fd00::7"]), [2, 2]);
    }
}
