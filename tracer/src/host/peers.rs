//! Which namespace the kernel means by a number.
//!
//! A link names the namespace of its peer by a number that is valid in the link's own namespace,
//! and the kernel can only be asked the other way round: what is the number of *this* one? So what
//! matters is whom to ask about first. Nearly all peers are in the namespace that pathtrace runs in, or
//! in the one that most others led to; for the rest the kernel tells the peer's Ethernet address,
//! which leaves one. The cost grows with the number of links, not with its square.

use std::collections::{HashMap, HashSet};

use super::{
    link::{Link, Numbering, Peer},
    netns::Netns,
};
use crate::event::Place;

/// What is known of all namespaces, to find peers by.
pub struct Search<'a> {
    own: u32,
    netns: HashMap<u32, &'a Netns>,
    /// By index, the links there are.
    links: HashMap<u32, Vec<Known>>,
    /// How often each namespace was an answer.
    answers: HashMap<u32, u32>,
    favourite: u32,
}

/// A link of some namespace.
struct Known {
    mac: Option<[u8; 6]>,
    netns: u32,
}

impl<'a> Search<'a> {
    /// Looks among these namespaces and links.
    pub fn new<'l>(
        own: u32,
        netns: &'a [Netns],
        links: impl Iterator<Item = (Place, &'l Link)>,
    ) -> Self {
        let mut by_index = HashMap::<u32, Vec<_>>::new();
        for (place, link) in links.filter(|(_, link)| !link.is_loopback()) {
            by_index
                .entry(place.ifindex)
                .or_default()
                .push(Known { mac: link.mac, netns: place.netns });
        }
        let netns = netns.iter().map(|n| (n.inode, n)).collect();
        Self { own, netns, links: by_index, answers: HashMap::new(), favourite: own }
    }

    /// The inode for every number that these links of a namespace name, where it can be found.
    pub fn namespaces_of<'l>(
        &mut self,
        inode: u32,
        links: impl Iterator<Item = &'l Link>,
    ) -> HashMap<i32, u32> {
        let mut far = links.filter_map(|link| link.peer).filter_map(|p| Some((p, p.nsid?)));
        let Some(first) = far.next() else { return HashMap::new() };
        let numbering = self.netns.get(&inode).and_then(|here| Numbering::of(here).ok());
        let Some(numbering) = numbering else { return HashMap::new() };
        let mut asked = Asked { numbering, of: HashSet::from([inode]), found: HashMap::new() };
        for (peer, nsid) in std::iter::once(first).chain(far) {
            self.find(&mut asked, peer, nsid);
            if let Some(answer) = asked.found.get(&nsid) {
                self.count(*answer);
            }
        }
        asked.found
    }

    /// Asks about the likely namespaces until one has this number.
    fn find(&self, asked: &mut Asked, peer: Peer, nsid: i32) {
        let same_index = self.links.get(&peer.ifindex).map_or(&[][..], Vec::as_slice);
        for likely in [self.own, self.favourite] {
            if asked.about(self.netns.get(&likely), nsid) {
                return;
            }
        }
        let mac = asked.numbering.mac_there(nsid, peer.ifindex);
        for known in same_index.iter().filter(|known| mac.is_none() || known.mac == mac) {
            if asked.about(self.netns.get(&known.netns), nsid) {
                return;
            }
        }
    }

    fn count(&mut self, answer: u32) {
        let count = self.answers.entry(answer).or_default();
        *count += 1;
        let count = *count;
        if count > self.answers.get(&self.favourite).copied().unwrap_or(0) {
            self.favourite = answer;
        }
    }
}

/// What one namespace was asked, so that it is asked about no other twice.
struct Asked {
    numbering: Numbering,
    of: HashSet<u32>,
    found: HashMap<i32, u32>,
}

impl Asked {
    /// Asks about a namespace, unless that was done; whether `nsid` is known now.
    fn about(&mut self, other: Option<&&Netns>, nsid: i32) -> bool {
        if !self.found.contains_key(&nsid)
            && let Some(other) = other
            && self.of.insert(other.inode)
            && let Some(number) = self.numbering.number(other)
        {
            self.found.insert(number, other.inode);
        }
        self.found.contains_key(&nsid)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{link::Links, testing::TestNetns},
        *,
    };

    /// Pairs of namespaces that look the same, none of them pathtrace's own: index 2 leads to index 2.
    #[test]
    fn pairs_that_look_alike_are_told_apart() {
        let pairs: Vec<_> = (0..4).map(|_| (TestNetns::new("p"), TestNetns::new("q"))).collect();
        for (p, q) in &pairs {
            p.ip(&format!(
                "link add eth0 index 77 type veth peer name eth0 index 77 netns {}",
                q.name
            ));
        }
        let netns: Vec<_> = pairs.iter().flat_map(|(p, q)| [p.netns(), q.netns()]).collect();
        let links: HashMap<_, _> =
            netns.iter().map(|n| (n.inode, Links::read(n).unwrap())).collect();
        let all = links.iter().flat_map(|(netns, links)| {
            links.links.values().map(|l| (Place { netns: *netns, ifindex: l.ifindex }, l))
        });
        let own = Netns::own().unwrap().inode;
        let mut search = Search::new(own, &netns, all);
        for pair in netns.chunks(2) {
            let (p, q) = (pair[0].inode, pair[1].inode);
            let found = search.namespaces_of(p, links[&p].links.values());
            assert_eq!(found.into_values().collect::<Vec<_>>(), [q]);
        }
    }
}
