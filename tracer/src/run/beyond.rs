//! Beyond NAT: packets that do not look like selected ones yet, and will. What the kernel side learns
//! from packets that it sees leave, it cannot know of connections that were there before, and of
//! addresses that the host publishes.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use tokio::task::{JoinHandle, spawn_blocking};
use tracer_common::{
    event::{Tuple, family},
    filter::{Filter, Halves, halves, has_ports},
    track::{Flow, Published},
};

use crate::{
    event::{self, Connection, Family},
    host::{
        conntrack,
        netns::Netns,
        ruleset::{Redirection, Target},
        snapshot::Snapshot,
    },
    select::{Selection, expression::Expression, mapped},
};

/// Most ports of a published range that are followed.
const MOST_PORTS: usize = 1_024;
/// Most tuples of connections that are followed: half of the kernel side's table, which has to have room
/// for what it learns.
const MOST_TUPLES: usize = 8_192;

/// Which packets are selected, by what is known of them before they come.
#[derive(Clone)]
struct Wanted {
    filter: Filter,
    /// Addresses of selected containers.
    containers: Arc<BTreeSet<Halves>>,
    expression: Option<Arc<Expression>>,
}

impl Wanted {
    fn matches(&self, packet: &Tuple) -> bool {
        let of_container = |src: &Halves, dst: &Halves| {
            self.containers.contains(src) || self.containers.contains(dst)
        };
        self.filter.matches_packet(packet, of_container)
            && self.expression.as_ref().is_none_or(|expression| expression.would_match(packet))
    }

    /// Whether packets may be selected by their addresses.
    fn may_name_addresses(&self) -> bool {
        self.filter.names_addresses() || self.expression.is_some()
    }
}

/// What is selected, and what of it is followed beyond NAT.
pub struct Beyond {
    wanted: Wanted,
    published: BTreeSet<Published>,
    reading: Option<JoinHandle<Vec<Flow>>>,
    /// Tuples that are not followed.
    left_out: u64,
    /// Ports of published ranges that are not followed.
    unpublished: u64,
}

impl Beyond {
    /// Nothing yet, for packets that were selected so.
    pub fn new(selection: &Selection) -> Self {
        Self {
            wanted: Wanted {
                filter: selection.filter,
                containers: Arc::new(of_containers(selection)),
                expression: selection.expression.clone(),
            },
            published: BTreeSet::new(),
            reading: None,
            left_out: 0,
            unpublished: 0,
        }
    }

    /// The selected containers have other addresses.
    pub fn select(&mut self, selection: &Selection) {
        self.wanted.containers = Arc::new(of_containers(selection));
    }

    /// Begins to read the connections that these namespaces track, in a thread of its own.
    pub fn read_connections(&mut self, namespaces: Vec<Netns>) {
        // Without addresses most packets match wherever they are met, and the host's connections are
        // nobody's in particular.
        if !self.wanted.may_name_addresses() {
            return;
        }
        let selected = self.wanted.clone();
        self.reading = Some(spawn_blocking(move || {
            let wanted = |connection: &Connection| !rewritten(&selected, connection).is_empty();
            let mut all = Vec::new();
            for netns in &namespaces {
                match conntrack::connections(netns, wanted) {
                    Ok(connections) => {
                        all.extend(connections.iter().flat_map(|c| rewritten(&selected, c)));
                    }
                    Err(e) => log::info!("{e}; of those only new ones are followed beyond NAT"),
                }
            }
            all
        }));
    }

    /// Tuples of packets to follow, once they are read; never when nothing is read.
    pub async fn connections(&mut self) -> Vec<Flow> {
        let Some(reading) = &mut self.reading else { return std::future::pending().await };
        let read = reading.await;
        self.reading = None;
        let mut flows = read.unwrap_or_default();
        self.left_out += flows.len().saturating_sub(MOST_TUPLES) as u64;
        flows.truncate(MOST_TUPLES);
        flows
    }

    /// Whether connections are being read.
    pub fn is_reading(&self) -> bool {
        self.reading.is_some()
    }

    /// Addresses that are published for selected ones, if they are others than before.
    pub fn publish(
        &mut self,
        redirections: impl Iterator<Item = (u32, Redirection)>,
        snapshot: &Snapshot,
    ) -> Option<&BTreeSet<Published>> {
        let mut now = BTreeSet::new();
        let mut left_out = 0;
        // Without addresses most packets match anyway; who sends is not known before it does.
        let filter = &self.wanted.filter;
        if self.wanted.may_name_addresses() && filter.src.is_empty() && filter.sport.is_empty() {
            for (netns, redirection) in redirections {
                let addresses = match redirection.address {
                    Some(address) => vec![address],
                    None => own_addresses(snapshot, netns, &redirection),
                };
                // Every namespace has a loopback of its own.
                for address in addresses.into_iter().filter(|address| !address.is_loopback()) {
                    left_out += self.add(&mut now, address, &redirection);
                }
            }
        }
        self.unpublished = left_out;
        let changed = now != self.published;
        self.published = now;
        changed.then_some(&self.published)
    }

    /// Tuples of connections, and ports of published ranges, that are not followed.
    pub fn left_out(&self) -> u64 {
        self.left_out + self.unpublished
    }

    /// Adds an address with those of its ports that are published for selected packets; how many had no
    /// room.
    fn add(&self, to: &mut BTreeSet<Published>, address: IpAddr, redirection: &Redirection) -> u64 {
        let Redirection { protos, ports, to: target, .. } = redirection;
        let address = mapped(address);
        if protos.is_empty() && ports.is_empty() {
            // Every packet to the address is meant. One of the host's own is not published so.
            let Filter { proto, port, dport, .. } = &self.wanted.filter;
            let only_addresses = proto.is_empty()
                && port.is_empty()
                && dport.is_empty()
                && self.wanted.expression.is_none();
            if redirection.address.is_some() && only_addresses && self.selects(target, 0, 0) {
                to.insert(Published { address, ..Published::default() });
            }
            return 0;
        }
        let all = ports.iter().flat_map(|(first, last)| *first..=*last);
        let all = all.flat_map(|port| protos.iter().map(move |proto| (port, *proto)));
        let mut left_out = 0;
        let mut room = MOST_PORTS;
        for (port, proto) in all {
            if !self.selects(target, port, proto) {
                continue;
            }
            match room.checked_sub(1) {
                Some(less) => {
                    room = less;
                    to.insert(Published { address, port, proto, pad: [0; 5] });
                }
                None => left_out += 1,
            }
        }
        left_out
    }

    /// Whether a packet is selected that was sent on so, whoever has sent it.
    fn selects(&self, target: &Target, port: u16, proto: u8) -> bool {
        [target.first, target.last].into_iter().any(|address| {
            self.wanted.matches(&Tuple {
                dst: mapped(address),
                dport: target.port.unwrap_or(port),
                family: if address.is_ipv4() { family::IPV4 } else { family::IPV6 },
                proto,
                ..Tuple::default()
            })
        })
    }
}

/// The addresses of a namespace that packets can be sent to which are redirected there.
fn own_addresses(snapshot: &Snapshot, netns: u32, redirection: &Redirection) -> Vec<IpAddr> {
    let is_v4 = |address: &IpAddr| address.is_ipv4();
    let wanted = is_v4(&redirection.to.first);
    let links = snapshot.links().filter(|(place, _)| place.netns == netns);
    links
        .flat_map(|(_, link)| link.addresses.iter().map(IpNet::addr))
        .filter(|address| is_v4(address) == wanted)
        .collect()
}

/// The tuples that a connection's packets come with and that do not match, although these packets do
/// before or behind NAT.
fn rewritten(wanted: &Wanted, connection: &Connection) -> Vec<Flow> {
    let Connection { family, proto, original, reply, .. } = *connection;
    let packet = |tuple: event::Tuple| Tuple {
        src: mapped(tuple.src),
        dst: mapped(tuple.dst),
        sport: tuple.sport,
        dport: tuple.dport,
        family: if family == Family::Ipv6 { family::IPV6 } else { family::IPV4 },
        proto,
        ..Tuple::default()
    };
    let back = |tuple: event::Tuple| {
        let of = packet(tuple);
        // The identifier of an ICMP echo is the same both ways.
        let (sport, dport) = if has_ports(&of) { (of.dport, of.sport) } else { (of.sport, 0) };
        Tuple { src: of.dst, dst: of.src, sport, dport, ..of }
    };
    let leaves_as = [(packet(original), back(reply)), (packet(reply), back(original))];
    let matches = |tuple: &Tuple| wanted.matches(tuple);
    if !leaves_as.iter().any(|(comes, leaves)| matches(comes) || matches(leaves)) {
        return Vec::new();
    }
    let others = leaves_as.iter().map(|(comes, _)| comes).filter(|comes| !matches(comes));
    let flow = |t: &Tuple| Flow {
        src: t.src,
        dst: t.dst,
        sport: t.sport,
        dport: t.dport,
        family: t.family,
        proto: t.proto,
        pad: 0,
    };
    others.map(flow).collect()
}

fn of_containers(selection: &Selection) -> BTreeSet<Halves> {
    selection.containers.addresses().iter().map(|address| halves(&mapped(*address))).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::{cli::Cli, select};

    fn beyond(arguments: &[&str]) -> Beyond {
        let all = ["pathtrace"].iter().chain(arguments);
        let select = Cli::try_parse_from(all).unwrap().trace.select;
        Beyond::new(&select::resolve(&select, None).unwrap())
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn masqueraded() -> Connection {
        let tuple =
            |src, sport, dst, dport| event::Tuple { src: ip(src), sport, dst: ip(dst), dport };
        Connection {
            family: Family::Ipv4,
            proto: 17,
            original: tuple("10.0.0.2", 5000, "203.0.113.8", 53),
            reply: tuple("203.0.113.8", 53, "198.51.100.1", 61000),
            is_reply: false,
        }
    }

    fn redirection(address: Option<&str>, ports: &[(u16, u16)]) -> Redirection {
        let to = Target { first: ip("10.0.0.2"), last: ip("10.0.0.2"), port: Some(80) };
        let protos = if ports.is_empty() { Vec::new() } else { vec![6] };
        Redirection { protos, address: address.map(ip), ports: ports.to_vec(), to }
    }

    fn published(beyond: &mut Beyond, redirection: Redirection) -> Vec<(IpAddr, u16)> {
        let all = std::iter::once((1, redirection));
        let found = beyond.publish(all, &Snapshot::default()).cloned().unwrap_or_default();
        let address = |p: &Published| match std::net::Ipv6Addr::from(p.address).to_ipv4_mapped() {
            Some(v4) => IpAddr::V4(v4),
            None => IpAddr::V6(p.address.into()),
        };
        found.iter().map(|p| (address(p), p.port)).collect()
    }

    #[test]
    fn of_a_masqueraded_connection_what_is_seen_at_the_nic_is_followed() {
        let flows = rewritten(&beyond(&["--ip", "10.0.0.2"]).wanted, &masqueraded());
        let ends: Vec<_> = flows.iter().map(|flow| (flow.sport, flow.dport)).collect();
        assert_eq!(ends, [(53, 61000)]);
        assert_eq!(rewritten(&beyond(&["--ip", "10.0.0.3"]).wanted, &masqueraded()), []);
        let everything = rewritten(&beyond(&["--ip", "203.0.113.8"]).wanted, &masqueraded());
        assert_eq!(everything, [], "each of its packets matches");
    }

    #[test]
    fn an_address_is_published_for_a_selected_one() {
        let mut c2 = beyond(&["--ip", "10.0.0.2"]);
        let host = || redirection(Some("198.51.100.1"), &[(8080, 8080)]);
        assert_eq!(published(&mut c2, host()), [(ip("198.51.100.1"), 8080)]);
        assert_eq!(published(&mut c2, host()), [], "the same as before");
        assert_eq!(
            published(&mut c2, redirection(Some("198.51.100.1"), &[])),
            [(ip("198.51.100.1"), 0)]
        );
    }

    #[test]
    fn what_is_published_for_others_or_for_other_ports_is_not_followed() {
        for arguments in [
            &["--ip", "10.0.0.3"][..],
            &["--ip", "10.0.0.2", "--port", "443"],
            &["--ip", "10.0.0.2", "--proto", "udp"],
            &["--src", "10.0.0.9", "--dst", "10.0.0.2"],
            &["--ip", "203.0.113.8", "--dst", "10.0.0.2"],
            &["--proto", "tcp"],
        ] {
            let redirection = redirection(Some("198.51.100.1"), &[(8080, 8080)]);
            assert_eq!(published(&mut beyond(arguments), redirection), [], "{arguments:?}");
        }
        let mut port = beyond(&["--ip", "10.0.0.2", "--port", "80"]);
        assert_eq!(
            published(&mut port, redirection(Some("198.51.100.1"), &[(8080, 8080)])).len(),
            1
        );
    }

    #[test]
    fn loopback_is_every_namespaces_own() {
        let docker = redirection(Some("127.0.0.1"), &[(8080, 8080)]);
        assert_eq!(published(&mut beyond(&["--ip", "10.0.0.2"]), docker), []);
    }

    #[test]
    fn ports_beyond_the_room_are_counted() {
        let mut c2 = beyond(&["--ip", "10.0.0.2"]);
        let all = published(&mut c2, redirection(Some("198.51.100.1"), &[(1, 2000)]));
        assert_eq!((all.len(), c2.left_out()), (MOST_PORTS, 2000 - MOST_PORTS as u64));
    }
}
