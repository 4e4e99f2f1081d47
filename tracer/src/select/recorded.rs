//! Which journeys of a capture file are selected: the same flags as for a trace, answered by what the
//! records tell.

use std::{
    cell::Cell,
    net::{IpAddr, Ipv6Addr},
    path::Path,
};

use anyhow::bail;
use tracer_common::{
    event::{Tuple, family},
    filter::Filter,
};

use super::{
    MacAddress, NetnsRef, addresses_and_ports, container::ContainerRef, expression,
    expression::Expression,
};
use crate::{
    cli::SelectArgs,
    event,
    output::record::{Hop, Journey, Netns},
};

/// Where namespaces have names.
const NAMED: [&str; 2] = ["/run/netns", "/var/run/netns"];
/// Bytes of the link-layer addresses of an Ethernet header.
const MACS: usize = 12;

/// A selection of recorded journeys.
#[derive(Debug)]
pub struct Recorded {
    filter: Filter,
    expression: Option<Expression>,
    mac: Vec<[u8; 6]>,
    iface: Vec<String>,
    container: Vec<ContainerRef>,
    netns: Vec<Place>,
    /// The namespaces that pathtrace ran in.
    own: Vec<u32>,
    /// Journeys of which no link-layer address is recorded.
    without_macs: Cell<u64>,
    /// Journeys of which no bytes are recorded.
    without_bytes: Cell<u64>,
}

/// A namespace, as a record tells it.
#[derive(Debug)]
enum Place {
    Name(String),
    Inode(u32),
}

impl Recorded {
    /// What is selected; `own` are the namespaces that pathtrace ran in.
    ///
    /// # Errors
    /// When a flag asks for what only the machine itself could tell.
    pub fn new(
        select: &SelectArgs,
        expression: Option<Expression>,
        own: impl Iterator<Item = u32>,
    ) -> anyhow::Result<Self> {
        let place = |netns: &NetnsRef| match netns {
            NetnsRef::Name(name) => Ok(Place::Name(name.clone())),
            NetnsRef::Inode(inode) => Ok(Place::Inode(*inode)),
            NetnsRef::Path(path) => match named(path) {
                Some(name) => Ok(Place::Name(name)),
                None => bail!(
                    "--netns {}: a capture file knows namespaces by name and inode only",
                    path.display()
                ),
            },
            NetnsRef::Pid(pid) => {
                bail!("--netns pid:{pid}: a capture file knows namespaces by name and inode only")
            }
        };
        Ok(Self {
            filter: addresses_and_ports(select),
            expression,
            mac: select.mac.iter().map(|MacAddress(mac)| *mac).collect(),
            iface: select.iface.clone(),
            container: select.container.clone(),
            netns: select.netns.iter().map(place).collect::<Result<_, _>>()?,
            own: own.collect(),
            without_macs: Cell::new(0),
            without_bytes: Cell::new(0),
        })
    }

    /// Whether this journey is selected: its packet as it was first seen or as NAT made it, and where it was.
    pub fn matches(&self, journey: &Journey) -> bool {
        self.matches_place(journey)
            && (self.container.is_empty()
                || self.container.iter().any(|wanted| touches(wanted, journey)))
            && forms(journey).iter().any(|tuple| self.filter.matches_packet(tuple, |_, _| false))
            && self.matches_mac(journey)
            && self.matches_expression(journey)
    }

    /// What could not be told of some journeys, in a sentence.
    pub fn untold(&self) -> Option<String> {
        let lacking = [
            (self.without_macs.get(), "no link-layer address of them, which --mac asks for"),
            (self.without_bytes.get(), "no bytes of them, which the expression asks for"),
        ];
        let told: Vec<String> = lacking
            .iter()
            .filter(|(n, _)| *n > 0)
            .map(|(n, what)| format!("{n} journeys are left out: the file has {what}"))
            .collect();
        (!told.is_empty()).then(|| told.join("; "))
    }

    /// Whether the packet matches as it was captured anywhere.
    fn matches_expression(&self, journey: &Journey) -> bool {
        let Some(wanted) = &self.expression else { return true };
        let mut all = journey.hops.iter().filter_map(|hop| hop.captured.as_ref()).peekable();
        if all.peek().is_none() {
            self.without_bytes.set(self.without_bytes.get() + 1);
            return false;
        }
        all.any(|captured| {
            let event::Captured { link_header, length, data } = captured;
            let (link_header, length) = (*link_header, *length);
            wanted.matches(&expression::Captured { bytes: data, link_header, length })
        })
    }

    fn matches_place(&self, journey: &Journey) -> bool {
        if self.netns.is_empty() && self.iface.is_empty() {
            return true;
        }
        journey.hops.iter().any(|hop| {
            let is_there = match (self.netns.as_slice(), self.iface.is_empty()) {
                ([], _) => self.own.contains(&hop.netns.inode),
                (places, _) => places.iter().any(|place| place.is(&hop.netns)),
            };
            let name = hop.dev.as_ref().and_then(|dev| dev.name.as_ref());
            is_there && (self.iface.is_empty() || name.is_some_and(|n| self.iface.contains(n)))
        })
    }

    fn matches_mac(&self, journey: &Journey) -> bool {
        if self.mac.is_empty() {
            return true;
        }
        let macs = |hop: &Hop| {
            let captured = hop.captured.as_ref().filter(|captured| captured.link_header)?;
            captured.data.first_chunk::<MACS>().copied()
        };
        let mut all = journey.hops.iter().filter_map(macs).peekable();
        if all.peek().is_none() {
            self.without_macs.set(self.without_macs.get() + 1);
            return false;
        }
        all.any(|macs| macs.chunks(6).any(|mac| self.mac.iter().any(|wanted| wanted == mac)))
    }
}

impl Place {
    fn is(&self, netns: &Netns) -> bool {
        match self {
            Self::Name(name) => netns.name.as_ref() == Some(name),
            Self::Inode(inode) => netns.inode == *inode,
        }
    }
}

fn named(path: &Path) -> Option<String> {
    let parent = path.parent()?;
    let is_named = NAMED.iter().any(|named| parent == Path::new(named));
    is_named.then(|| path.file_name().map(|name| name.to_string_lossy().into_owned()))?
}

/// Whether the packet is from or to the container, or was in it or at what leads to it.
fn touches(wanted: &ContainerRef, journey: &Journey) -> bool {
    let labels = [&journey.packet.src_name, &journey.packet.dst_name];
    labels.into_iter().flatten().any(|label| wanted.is_label(label))
        || journey.hops.iter().any(|hop| {
            let leads_to = hop.dev.as_ref().and_then(|dev| dev.container.as_ref());
            [hop.netns.container.as_ref(), leads_to]
                .into_iter()
                .flatten()
                .any(|name| wanted.is_full(name))
        })
}

/// The packet as it was first seen, and as NAT has made it.
fn forms(journey: &Journey) -> Vec<Tuple> {
    let (packet, nat) = (&journey.packet, &journey.nat);
    let sources =
        [(&packet.src, packet.sport), rewritten(&packet.src, packet.sport, &nat.src, nat.sport)];
    let targets =
        [(&packet.dst, packet.dport), rewritten(&packet.dst, packet.dport, &nat.dst, nat.dport)];
    let (family, proto) = protocol(&journey.flow.proto, packet.src.as_deref());
    let mut forms = Vec::with_capacity(4);
    for (src, sport) in sources {
        for (dst, dport) in targets {
            forms.push(Tuple {
                src: bytes(src.as_deref()),
                dst: bytes(dst.as_deref()),
                sport: sport.unwrap_or_default(),
                dport: dport.unwrap_or_default(),
                family,
                proto,
                // Such a one has no ports; nor has one of which none is told.
                later_fragment: u8::from(sport.is_none() && dport.is_none()),
                ..Tuple::default()
            });
        }
    }
    forms
}

fn rewritten<'a>(
    address: &'a Option<String>,
    port: Option<u16>,
    to: &'a Option<String>,
    to_port: Option<u16>,
) -> (&'a Option<String>, Option<u16>) {
    (if to.is_some() { to } else { address }, to_port.or(port))
}

fn bytes(address: Option<&str>) -> [u8; 16] {
    match address.and_then(|address| address.parse().ok()) {
        Some(IpAddr::V4(v4)) => v4.to_ipv6_mapped().octets(),
        Some(IpAddr::V6(v6)) => v6.octets(),
        None => Ipv6Addr::UNSPECIFIED.octets(),
    }
}

/// Family and number, by a record's name of a protocol and an address.
fn protocol(name: &str, address: Option<&str>) -> (u8, u8) {
    let number = match name {
        "icmp" => 1,
        "tcp" => 6,
        "udp" => 17,
        "icmp6" => 58,
        "sctp" => 132,
        "arp" => return (family::ARP, 0),
        number => number.parse().unwrap_or_default(),
    };
    match address {
        None => (family::OTHER, number),
        Some(address) if address.contains(':') => (family::IPV6, number),
        Some(_) => (family::IPV4, number),
    }
}
