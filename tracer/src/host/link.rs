//! Links, addresses and uplinks of one network namespace, by rtnetlink dumps (`ip -d link`,
//! `ip address`, `ip route show table all`), and the namespaces that its links lead to.

use std::{collections::BTreeMap, io, os::fd::AsRawFd};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{
    Error,
    netlink::{
        Connection, Message, attribute, attributes, i32_of, ip_of, string_of, u16_of, u32_of,
    },
    netns::Netns,
    routing_rule::RoutingRule,
};

/// A link, as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Index in its namespace.
    pub ifindex: u32,
    /// Name.
    pub name: String,
    /// Kind, as `ip -d link` names it (`veth`, `bridge`, `vlan`); `None` for a device of its own
    /// driver and for loopback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Index of the bridge, bond or VRF that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub master: Option<u32>,
    /// Where its packets come out (veth, netkit) or go on (VLAN, macvlan): `IFLA_LINK`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<Peer>,
    /// Ethernet address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<[u8; 6]>,
    /// Whether it is administratively up.
    pub up: bool,
    /// MTU, bytes.
    pub mtu: u32,
    /// ARPHRD_* (1 Ethernet, 772 loopback).
    pub arp_type: u16,
    /// Its addresses, with the prefix of their subnets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpNet>,
    /// The container that it leads to, seen from outside: `RUNTIME:NAME`. Not the kernel's to tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
}

/// The other link that a link names by `IFLA_LINK`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Index in its own namespace.
    pub ifindex: u32,
    /// The kernel's number, in the namespace of the link, for the peer's; `None` when they are in
    /// the same namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nsid: Option<i32>,
    /// Inode of the peer's namespace, once known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<u32>,
}

impl Link {
    /// Whether packets reach it that are not received anew: it stands above another interface, whose packets the
    /// kernel gives it without passing `netif_receive_skb`'s tracepoint again (`another_round` of
    /// `__netif_receive_skb_core`, net/core/dev.c).
    pub fn receives_unseen(&self) -> bool {
        const ABOVE_OTHERS: [&str; 8] =
            ["vlan", "macvlan", "macvtap", "ipvlan", "ipvtap", "bond", "team", "netkit"];
        self.kind.as_deref().is_some_and(|kind| ABOVE_OTHERS.contains(&kind))
    }

    /// Whether it is a loopback device.
    pub fn is_loopback(&self) -> bool {
        self.arp_type == libc::ARPHRD_LOOPBACK
    }

    /// Whether it is a VRF, which has a routing table of its own.
    pub fn is_vrf(&self) -> bool {
        self.kind.as_deref() == Some("vrf")
    }

    /// Whether it is a bridge.
    pub fn is_bridge(&self) -> bool {
        self.kind.as_deref() == Some("bridge")
    }

    /// Whether it is one end of a pair: a packet sent here is received by the peer, and the
    /// other way round.
    pub fn is_paired(&self) -> bool {
        matches!(self.kind.as_deref(), Some("veth" | "netkit" | "vxcan"))
    }
}

/// The links of one namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Links {
    /// By index.
    pub links: BTreeMap<u32, Link>,
    /// Indices of the links that default routes of any table and family leave by, sorted.
    pub uplinks: Vec<u32>,
    /// The rules that say which routing table is looked up, in their order.
    pub rules: Vec<RoutingRule>,
}

impl Links {
    /// Reads them. [`Peer::netns`] is filled in for peers in the same namespace.
    ///
    /// # Errors
    /// When the namespace is gone, may not be entered, or the kernel does not answer.
    pub fn read(netns: &Netns) -> Result<Self, Error> {
        let mut connection = connect(netns)?;
        let mut read = || {
            let mut links = links(&mut connection)?;
            for (ifindex, address) in addresses(&mut connection)? {
                if let Some(link) = links.get_mut(&ifindex) {
                    link.addresses.push(address);
                }
            }
            for peer in links.values_mut().filter_map(|link| link.peer.as_mut()) {
                peer.netns = peer.nsid.is_none().then_some(netns.inode);
            }
            let rules = RoutingRule::read(&mut connection).unwrap_or_default();
            Ok(Self { links, uplinks: uplinks(&mut connection)?, rules })
        };
        read().map_err(|e: io::Error| Error::new(format!("read links of {}", netns.label()), e))
    }
}

/// Opens rtnetlink inside a namespace.
fn connect(netns: &Netns) -> Result<Connection, Error> {
    netns
        .enter(Connection::route)?
        .map_err(|e| Error::new(format!("open rtnetlink in {}", netns.label()), e))
}

fn links(connection: &mut Connection) -> io::Result<BTreeMap<u32, Link>> {
    let mut request = vec![0; size_of::<libc::ifinfomsg>()];
    let skip = (libc::RTEXT_FILTER_SKIP_STATS as u32).to_ne_bytes();
    request.extend(attribute(libc::IFLA_EXT_MASK, &skip));
    let links = connection.dump(libc::RTM_GETLINK, &request, |message| {
        (message.kind == libc::RTM_NEWLINK).then(|| parse_link(message.body)).flatten()
    })?;
    Ok(links.into_iter().map(|link| (link.ifindex, link)).collect())
}

/// `struct ifinfomsg { u8 family, pad; u16 type; i32 index; u32 flags, change; }` and attributes.
fn parse_link(body: &[u8]) -> Option<Link> {
    let mut link = Link {
        ifindex: u32_of(body.get(4..8)?)?,
        name: String::new(),
        kind: None,
        master: None,
        peer: None,
        mac: None,
        up: u32_of(body.get(8..12)?)? & libc::IFF_UP as u32 != 0,
        mtu: 0,
        arp_type: u16_of(body.get(2..4)?)?,
        addresses: Vec::new(),
        container: None,
    };
    let (mut peer, mut nsid) = (None, None);
    for (kind, value) in attributes(body.get(16..)?) {
        match kind {
            libc::IFLA_IFNAME => link.name = string_of(value),
            libc::IFLA_LINKINFO => link.kind = link_kind(value),
            libc::IFLA_MASTER => link.master = u32_of(value),
            libc::IFLA_LINK => peer = u32_of(value).filter(|ifindex| *ifindex != 0),
            libc::IFLA_LINK_NETNSID => nsid = i32_of(value),
            libc::IFLA_ADDRESS => link.mac = value.try_into().ok(),
            libc::IFLA_MTU => link.mtu = u32_of(value).unwrap_or(0),
            _ => {}
        }
    }
    link.peer = peer.map(|ifindex| Peer { ifindex, nsid, netns: None });
    Some(link)
}

fn link_kind(info: &[u8]) -> Option<String> {
    let kind = attributes(info).find(|(kind, _)| *kind == libc::IFLA_INFO_KIND);
    kind.map(|(_, value)| string_of(value))
}

fn addresses(connection: &mut Connection) -> io::Result<Vec<(u32, IpNet)>> {
    connection.dump(libc::RTM_GETADDR, &[0; size_of::<libc::ifaddrmsg>()], |message| {
        (message.kind == libc::RTM_NEWADDR).then(|| parse_address(message.body)).flatten()
    })
}

/// `struct ifaddrmsg { u8 family, prefixlen, flags, scope; u32 index; }` and attributes. On a
/// point-to-point link `IFA_ADDRESS` is the far end, and `IFA_LOCAL` this one.
fn parse_address(body: &[u8]) -> Option<(u32, IpNet)> {
    let prefix = *body.get(1)?;
    let ifindex = u32_of(body.get(4..8)?)?;
    let (mut local, mut address) = (None, None);
    for (kind, value) in attributes(body.get(8..)?) {
        match kind {
            libc::IFA_LOCAL => local = ip_of(value),
            libc::IFA_ADDRESS => address = ip_of(value),
            _ => {}
        }
    }
    Some((ifindex, IpNet::new(local.or(address)?, prefix).ok()?))
}

/// The kernel cannot be asked for the default routes alone, so this walks all routes: about a
/// second for the million of a full BGP table.
fn uplinks(connection: &mut Connection) -> io::Result<Vec<u32>> {
    let routes =
        connection.dump(libc::RTM_GETROUTE, &[0; size_of::<RouteHeader>()], |message| {
            (message.kind == libc::RTM_NEWROUTE).then(|| default_route_links(message)).flatten()
        })?;
    let mut uplinks: Vec<_> = routes.into_iter().flatten().filter(|i| *i != 0).collect();
    uplinks.sort_unstable();
    uplinks.dedup();
    Ok(uplinks)
}

/// `struct rtmsg { u8 family, dst_len, src_len, tos, table, protocol, scope, type; u32 flags; }`
type RouteHeader = [u8; 12];

/// The links of a default route; `None` for any other. The two halves that VPNs lay over the
/// default route (`0.0.0.0/1`, `128.0.0.0/1`) count as well.
fn default_route_links(message: &Message<'_>) -> Option<Vec<u32>> {
    let body = message.body;
    if *body.get(1)? > 1 || *body.get(7)? != libc::RTN_UNICAST {
        return None;
    }
    let mut links = Vec::new();
    for (kind, value) in attributes(body.get(size_of::<RouteHeader>()..)?) {
        match kind {
            libc::RTA_OIF => links.extend(u32_of(value)),
            libc::RTA_MULTIPATH => links.extend(next_hops(value)),
            _ => {}
        }
    }
    Some(links)
}

/// `struct rtnexthop { u16 len; u8 flags, hops; i32 ifindex; }`, each with attributes.
fn next_hops(mut bytes: &[u8]) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_of(bytes.get(..2)?)?).max(8);
        let ifindex = u32_of(bytes.get(4..8)?)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(ifindex)
    })
}

/// Asks, in one namespace, by which number it knows others: the way from [`Peer::nsid`] to an
/// inode. `RTM_GETNSID` tells a number for a file, so each answer costs one question.
pub struct Numbering {
    connection: Connection,
}

/// `enum { NETNSA_NSID = 1, NETNSA_PID, NETNSA_FD }` of linux/net_namespace.h.
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;

impl Numbering {
    /// The numbers that `netns` has for others.
    ///
    /// # Errors
    /// When the namespace is gone or may not be entered.
    pub fn of(netns: &Netns) -> Result<Self, Error> {
        Ok(Self { connection: connect(netns)? })
    }

    /// The number of `other`; `None` when it has none, or is gone.
    pub fn number(&mut self, other: &Netns) -> Option<i32> {
        let file = other.open().ok()?;
        // struct rtgenmsg { u8 family; }, padded.
        let mut request = vec![0; 4];
        request.extend(attribute(NETNSA_FD, &file.as_raw_fd().to_ne_bytes()));
        let read = |message: &Message<'_>| {
            let mut all = attributes(message.body.get(4..)?);
            all.find(|(kind, _)| *kind == NETNSA_NSID).and_then(|(_, value)| i32_of(value))
        };
        let number = self.connection.request(libc::RTM_GETNSID, &request, read).ok()??;
        // NETNSA_NSID_NOT_ASSIGNED is -1.
        (number >= 0).then_some(number)
    }

    /// The Ethernet address of a link in the namespace of this number; `None` when it has none,
    /// or the kernel does not tell.
    pub fn mac_there(&mut self, nsid: i32, ifindex: u32) -> Option<[u8; 6]> {
        // struct ifinfomsg, of which the index is at 4..8.
        let mut request = [[0; 4], ifindex.to_ne_bytes(), [0; 4], [0; 4]].concat();
        request.extend(attribute(libc::IFLA_TARGET_NETNSID, &nsid.to_ne_bytes()));
        let read = |message: &Message<'_>| parse_link(message.body)?.mac;
        self.connection.request(libc::RTM_GETLINK, &request, read).ok()?
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::TestNetns, *};

    fn named<'a>(links: &'a Links, name: &str) -> &'a Link {
        links.links.values().find(|l| l.name == name).unwrap()
    }

    #[test]
    fn links_addresses_peers_and_uplinks_are_read() {
        let (a, b) = (TestNetns::new("a"), TestNetns::new("b"));
        a.ip("link add br0 type bridge");
        a.ip(&format!("link add v0 mtu 1400 type veth peer name eth0 netns {}", b.name));
        a.ip("link set v0 master br0 up");
        a.ip("address add 10.9.0.1/24 dev br0");
        b.ip("link set eth0 address 02:00:00:00:00:07 up");
        b.ip("address add 10.9.0.2/24 dev eth0");
        b.ip("address add 2001:db8::2/64 dev eth0 nodad");
        b.ip("route add default via 10.9.0.1 table 77");
        b.ip("link add p0 type veth peer name p1");
        let (in_a, in_b) = (Links::read(&a.netns()).unwrap(), Links::read(&b.netns()).unwrap());

        let (br0, v0, eth0) = (named(&in_a, "br0"), named(&in_a, "v0"), named(&in_b, "eth0"));
        assert!(br0.is_bridge() && !br0.up && v0.up && v0.is_paired());
        assert_eq!((v0.master, v0.mtu), (Some(br0.ifindex), 1400));
        assert_eq!(br0.addresses, ["10.9.0.1/24".parse().unwrap()]);
        assert_eq!(v0.peer.unwrap().ifindex, eth0.ifindex);
        assert_eq!(eth0.peer.unwrap().ifindex, v0.ifindex);
        assert_eq!(eth0.mac, Some([2, 0, 0, 0, 0, 7]));
        assert!(eth0.addresses.contains(&"10.9.0.2/24".parse().unwrap()));
        assert!(eth0.addresses.contains(&"2001:db8::2/64".parse().unwrap()));
        assert_eq!(in_b.uplinks, [eth0.ifindex]);
        assert!(in_a.uplinks.is_empty());
        assert!(named(&in_a, "lo").is_loopback());

        let (p0, p1) = (named(&in_b, "p0"), named(&in_b, "p1"));
        let same = Peer { ifindex: p1.ifindex, nsid: None, netns: Some(b.netns().inode) };
        assert_eq!(p0.peer, Some(same));

        let number = Numbering::of(&a.netns()).unwrap().number(&b.netns());
        assert_eq!(number, v0.peer.unwrap().nsid);
        assert!(number.is_some() && v0.peer.unwrap().netns.is_none());
    }

    #[test]
    fn default_routes_of_every_form_count() {
        let test = TestNetns::new("routes");
        for (name, net) in [("d0", 1), ("d1", 2), ("d2", 3), ("d3", 4)] {
            test.ip(&format!("link add {name} type veth peer name {name}p"));
            test.ip(&format!("link set {name} up"));
            test.ip(&format!("link set {name}p up"));
            test.ip(&format!("address add 10.8.{net}.1/24 dev {name}"));
        }
        test.ip("route add default nexthop via 10.8.1.2 nexthop via 10.8.2.2");
        test.ip("-6 route add default dev d2");
        test.ip("route add 10.99.0.0/16 via 10.8.4.2");
        test.ip("route add unreachable default metric 4000");
        let links = Links::read(&test.netns()).unwrap();
        let index = |name| named(&links, name).ifindex;
        let mut expected = vec![index("d0"), index("d1"), index("d2")];
        expected.sort_unstable();
        assert_eq!(links.uplinks, expected);
    }

    #[test]
    fn truncated_messages_tell_nothing_and_do_not_panic() {
        let body = [vec![0; 16], attribute(libc::IFLA_IFNAME, b"eth0\0")].concat();
        assert_eq!(parse_link(&body).unwrap().name, "eth0");
        for length in 0..body.len() {
            let _ = (parse_link(&body[..length]), parse_address(&body[..length]));
            next_hops(&body[..length]).for_each(drop);
        }
    }
}
