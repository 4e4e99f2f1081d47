//! From what a person selects to the [`Filter`] that the kernel side evaluates.

pub mod container;
pub mod expression;
pub mod recorded;

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    path::PathBuf,
    str::FromStr,
    sync::Arc,
};

use container::Selected;
use expression::Expression;

use ipnet::IpNet;
use tracer_common::{
    event::family,
    filter::{Filter, Iface, MAX_VALUES, Net, Ports, Proto, Values},
};

use crate::{
    cli::SelectArgs,
    host::{link::Links, netns::Netns},
};

/// An address, or a range of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address(pub IpNet);

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = if text.contains('/') {
            text.parse().ok()
        } else {
            text.parse::<IpAddr>().ok().map(IpNet::from)
        };
        parsed.map(Address).ok_or_else(|| {
            "not an address or a range, as 10.0.0.1, 10.0.0.0/24, fd00::1 or fd00::/64".into()
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.prefix_len() == self.0.max_prefix_len() {
            write!(f, "{}", self.0.addr())
        } else {
            write!(f, "{}", self.0)
        }
    }
}

impl Address {
    fn net(self) -> Net {
        let (address, bits) = match self.0 {
            IpNet::V4(v4) => (v4.addr().to_ipv6_mapped(), 96 + u32::from(v4.prefix_len())),
            IpNet::V6(v6) => (v6.addr(), u32::from(v6.prefix_len())),
        };
        Net::new(Ipv6Addr::octets(&address), bits)
    }

    fn is_ipv4(self) -> bool {
        self.0.addr().is_ipv4()
    }
}

/// One port, or a range of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange(Ports);

impl FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let port = |text: &str| {
            text.parse::<u16>().map_err(|_| format!("{text:?} is not a port from 0 to 65535"))
        };
        let (first, last) = (port(first)?, port(last)?);
        if first > last {
            return Err(format!("no port is from {first} to {last}; write {last}-{first}"));
        }
        Ok(Self(Ports { first, last }))
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ports { first, last } = self.0;
        if first == last { write!(f, "{first}") } else { write!(f, "{first}-{last}") }
    }
}

/// A protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocol(Proto);

impl FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = match text.to_ascii_lowercase().as_str() {
            "arp" => return Ok(Self(Proto { family: family::ARP, number: 0 })),
            "icmp" => 1,
            "tcp" => 6,
            "udp" => 17,
            "icmp6" => 58,
            "sctp" => 132,
            other => other.parse().map_err(|_| {
                "not tcp, udp, icmp, icmp6, sctp, arp or a number from 0 to 255".to_owned()
            })?,
        };
        Ok(Self(Proto { family: 0, number }))
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match (self.0.family, self.0.number) {
            (family::ARP, _) => "arp",
            (_, 1) => "icmp",
            (_, 6) => "tcp",
            (_, 17) => "udp",
            (_, 58) => "icmp6",
            (_, 132) => "sctp",
            (_, number) => return write!(f, "{number}"),
        };
        f.write_str(name)
    }
}

impl Protocol {
    fn has_ports(self) -> bool {
        self.0.family == 0 && matches!(self.0.number, 6 | 17 | 33 | 132 | 136)
    }

    /// Whether packets of this protocol exist in the family: ICMP and ARP are IPv4's, ICMPv6 IPv6's.
    fn exists_in(self, ipv4: bool) -> bool {
        match (self.0.family, self.0.number) {
            (family::ARP, _) | (_, 1) => ipv4,
            (_, 58) => !ipv4,
            _ => true,
        }
    }
}

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MacAddress([u8; 6]);

impl FromStr for MacAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bytes: Option<Vec<u8>> = text
            .split([':', '-'])
            .map(|part| (part.len() <= 2).then(|| u8::from_str_radix(part, 16).ok())?)
            .collect();
        bytes
            .and_then(|bytes| <[u8; 6]>::try_from(bytes).ok())
            .map(MacAddress)
            .ok_or_else(|| "not a link-layer address, as 00:16:3e:12:34:56".into())
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// How a network namespace is named on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetnsRef {
    /// A name under /run/netns.
    Name(String),
    /// The file of a namespace.
    Path(PathBuf),
    /// Its inode.
    Inode(u32),
    /// That of a process.
    Pid(u32),
}

impl FromStr for NetnsRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(pid) = text.strip_prefix("pid:") {
            return pid.parse().map(Self::Pid).map_err(|_| format!("{pid:?} is not a process id"));
        }
        Ok(if text.is_empty() {
            return Err("a namespace has a name, a path, an inode, or is pid:N".into());
        } else if text.contains('/') {
            Self::Path(text.into())
        } else {
            text.parse().map_or_else(|_| Self::Name(text.into()), Self::Inode)
        })
    }
}

impl fmt::Display for NetnsRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Inode(inode) => write!(f, "{inode}"),
            Self::Pid(pid) => write!(f, "pid:{pid}"),
        }
    }
}

impl NetnsRef {
    fn resolve(&self) -> Result<Netns, crate::host::Error> {
        match self {
            Self::Name(name) => Netns::by_name(name),
            Self::Path(path) => Netns::by_path(path),
            Self::Inode(inode) => Netns::by_inode(*inode),
            Self::Pid(pid) => Netns::of_pid(*pid),
        }
    }
}

/// What was selected, found on this machine.
#[derive(Clone, Debug)]
pub struct Selection {
    /// For the kernel side.
    pub filter: Filter,
    /// Every address that was named by flag.
    pub addresses: Vec<IpNet>,
    /// The containers that were named, and their addresses.
    pub containers: Selected,
    /// Every namespace that was named, but for those of containers.
    pub namespaces: Vec<Netns>,
    /// Every interface that was named, as a namespace's inode and an index.
    pub interfaces: Vec<(u32, u32)>,
    /// What packets must match beside `filter`.
    pub expression: Option<Arc<Expression>>,
}

/// What is wrong with a selection by itself, whatever the machine: flags that can never hold
/// together, or too many values.
pub fn contradiction(select: &SelectArgs) -> Option<String> {
    for (flag, n) in [
        ("--ip", select.ip.len()),
        ("--src", select.src.len()),
        ("--dst", select.dst.len()),
        ("--port", select.port.len()),
        ("--sport", select.sport.len()),
        ("--dport", select.dport.len()),
        ("--proto", select.proto.len()),
        ("--mac", select.mac.len()),
        ("--iface", select.iface.len()),
        ("--netns", select.netns.len()),
        ("--container", select.container.len()),
    ] {
        if n > MAX_VALUES {
            return Some(format!("{flag} is given {n} times; {MAX_VALUES} is the most"));
        }
    }
    let ports = [&select.port, &select.sport, &select.dport].into_iter().any(|p| !p.is_empty());
    if ports && !select.proto.is_empty() && !select.proto.iter().any(|p| p.has_ports()) {
        return Some("ports are selected, but no packet of the given --proto has ports".into());
    }
    let families = |addresses: &[Address]| {
        (
            addresses.is_empty() || addresses.iter().any(|a| a.is_ipv4()),
            addresses.is_empty() || addresses.iter().any(|a| !a.is_ipv4()),
        )
    };
    let all = [&select.ip, &select.src, &select.dst].map(|a| families(a));
    let (v4, v6) = (all.iter().all(|f| f.0), all.iter().all(|f| f.1));
    if !v4 && !v6 {
        return Some("no packet has both an IPv4 and an IPv6 address, as selected".into());
    }
    let possible = |p: &Protocol| (v4 && p.exists_in(true)) || (v6 && p.exists_in(false));
    if !select.proto.is_empty() && !select.proto.iter().any(possible) {
        return Some(
            "the given --proto does not exist in the family of the given addresses".into(),
        );
    }
    None
}

/// A selection as it is typed on the command line; empty where every packet is selected.
pub fn words(select: &SelectArgs) -> String {
    let SelectArgs {
        ip,
        src,
        dst,
        port,
        sport,
        dport,
        proto,
        mac,
        iface,
        container,
        netns,
        expression,
    } = select;
    let quoted = |value: String| match shlex::try_quote(&value) {
        Ok(quoted) => quoted.into_owned(),
        Err(_) => value,
    };
    let mut words: Vec<String> = Vec::new();
    let mut put = |flag: &str, values: Vec<String>| {
        for value in values {
            words.extend([flag.to_owned(), quoted(value)]);
        }
    };
    fn each<T: ToString>(values: &[T]) -> Vec<String> {
        values.iter().map(ToString::to_string).collect()
    }
    put("--ip", each(ip));
    put("--src", each(src));
    put("--dst", each(dst));
    put("--port", each(port));
    put("--sport", each(sport));
    put("--dport", each(dport));
    put("--proto", each(proto));
    put("--mac", each(mac));
    put("--iface", each(iface));
    put("--container", each(container));
    put("--netns", each(netns));
    if !expression.is_empty() {
        words.push(quoted(expression.join(" ")));
    }
    words.join(" ")
}

/// Finds what was selected on this machine.
///
/// # Errors
/// When a namespace, an interface or a container is not there.
pub fn resolve(
    select: &SelectArgs,
    expression: Option<Arc<Expression>>,
) -> anyhow::Result<Selection> {
    let mut filter = addresses_and_ports(select);
    fill(
        &mut filter.mac,
        select.mac.iter().map(|MacAddress([a, b, c, d, e, f])| [*a, *b, *c, *d, *e, *f, 0, 0]),
    );
    let namespaces = select.netns.iter().map(NetnsRef::resolve).collect::<Result<Vec<_>, _>>()?;
    fill(&mut filter.netns, namespaces.iter().map(|n| n.inode));
    let interfaces = interfaces(&select.iface, &namespaces)?;
    if interfaces.len() > MAX_VALUES {
        anyhow::bail!("--iface names {} interfaces; {MAX_VALUES} is the most", interfaces.len());
    }
    fill(&mut filter.iface, interfaces.iter().map(|&(netns, ifindex)| Iface { netns, ifindex }));
    let containers = Selected::resolve(&select.container)?;
    filter.container = u64::from(!containers.is_empty());
    let addresses = [&select.ip, &select.src, &select.dst].into_iter().flatten().map(|a| a.0);
    let addresses = addresses.collect();
    Ok(Selection { filter, addresses, containers, namespaces, interfaces, expression })
}

/// What is selected by what a packet says of itself.
fn addresses_and_ports(select: &SelectArgs) -> Filter {
    let mut filter = Filter::ANY;
    fill(&mut filter.ip, select.ip.iter().map(|a| a.net()));
    fill(&mut filter.src, select.src.iter().map(|a| a.net()));
    fill(&mut filter.dst, select.dst.iter().map(|a| a.net()));
    fill(&mut filter.port, select.port.iter().map(|p| p.0));
    fill(&mut filter.sport, select.sport.iter().map(|p| p.0));
    fill(&mut filter.dport, select.dport.iter().map(|p| p.0));
    fill(&mut filter.proto, select.proto.iter().map(|p| p.0));
    filter
}

fn interfaces(names: &[String], within: &[Netns]) -> anyhow::Result<Vec<(u32, u32)>> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let own = [Netns::own()?];
    let within = if within.is_empty() { &own } else { within };
    let mut found = Vec::new();
    for name in names {
        let before = found.len();
        for netns in within {
            let links = Links::read(netns)?.links;
            found.extend(
                links.values().filter(|l| l.name == *name).map(|l| (netns.inode, l.ifindex)),
            );
        }
        if found.len() == before {
            let where_ = within.iter().map(Netns::label).collect::<Vec<_>>().join(", ");
            anyhow::bail!(
                "no interface {name:?} in namespace {where_}; `ip link` lists those there are, \
                 --netns looks into another namespace"
            );
        }
    }
    Ok(found)
}

/// An address in the form that serves both families.
pub(crate) fn mapped(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

fn fill<T: Copy>(values: &mut Values<T>, from: impl Iterator<Item = T>) {
    for item in from {
        // `contradiction` has refused more than fit.
        values.push(item);
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use tracer_common::event::Tuple;

    use super::*;
    use crate::cli::Cli;

    fn select(args: &[&str]) -> SelectArgs {
        let args = std::iter::once("pathtrace").chain(args.iter().copied());
        Cli::try_parse_from(args).unwrap().trace.select
    }

    fn packet(src: &str, dst: &str, proto: u8, sport: u16, dport: u16) -> Tuple {
        let bytes = |text: &str| match text.parse().unwrap() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        let family = if src.contains(':') { family::IPV6 } else { family::IPV4 };
        Tuple { src: bytes(src), dst: bytes(dst), proto, sport, dport, family, ..Tuple::default() }
    }

    fn matches(args: &[&str], packet: &Tuple) -> bool {
        resolve(&select(args), None).unwrap().filter.matches_packet(packet, |_, _| false)
    }

    #[test]
    fn an_address_matches_on_either_side() {
        let there = packet("10.0.0.1", "10.0.0.2", 17, 1, 2);
        assert!(matches(&["--ip", "10.0.0.1"], &there));
        assert!(matches(&["--ip", "10.0.0.2"], &there));
        assert!(!matches(&["--ip", "10.0.0.3"], &there));
        assert!(!matches(&["--src", "10.0.0.2"], &there));
        assert!(matches(&["--dst", "10.0.0.2"], &there));
    }

    #[test]
    fn ranges_match_in_their_own_family_only() {
        let v4 = packet("10.0.0.1", "10.0.1.2", 17, 1, 2);
        let v6 = packet("fd00::1", "fd00:1::2", 17, 1, 2);
        assert!(matches(&["--ip", "10.0.1.0/24"], &v4));
        assert!(!matches(&["--ip", "10.0.2.0/24"], &v4));
        assert!(matches(&["--ip", "0.0.0.0/0"], &v4));
        assert!(!matches(&["--ip", "0.0.0.0/0"], &v6));
        assert!(matches(&["--ip", "fd00:1::/32"], &v6));
        assert!(!matches(&["--ip", "fd00:2::/32"], &v6));
    }

    #[test]
    fn different_flags_and_repeated_flags_or() {
        let web = packet("10.0.0.1", "10.0.0.2", 6, 40_000, 443);
        assert!(matches(&["--ip", "10.0.0.1", "--dport", "443"], &web));
        assert!(!matches(&["--ip", "10.0.0.1", "--dport", "80"], &web));
        assert!(matches(&["--dport", "80", "--dport", "440-450"], &web));
        assert!(matches(&["--port", "40000", "--proto", "tcp"], &web));
        assert!(!matches(&["--proto", "udp"], &web));
        assert!(matches(&["--proto", "6"], &web));
    }

    #[test]
    fn a_port_never_matches_a_packet_without_ports() {
        let ping = packet("10.0.0.1", "10.0.0.2", 1, 7, 0);
        assert!(!matches(&["--port", "7"], &ping));
        let fragment = Tuple { later_fragment: 1, ..packet("10.0.0.1", "10.0.0.2", 17, 0, 0) };
        assert!(!matches(&["--port", "0-65535"], &fragment));
    }

    #[test]
    fn arp_matches_by_its_addresses_and_by_name() {
        let arp = Tuple { family: family::ARP, ..packet("10.0.0.1", "10.0.0.2", 0, 0, 0) };
        assert!(matches(&["--ip", "10.0.0.2"], &arp));
        assert!(matches(&["--proto", "arp"], &arp));
        assert!(!matches(&["--proto", "tcp"], &arp));
        assert!(!matches(&["--proto", "0"], &arp));
    }

    #[test]
    fn selections_that_can_never_hold_are_refused() {
        for args in [
            &["--proto", "icmp", "--port", "80"][..],
            &["--proto", "arp", "--dport", "1"],
            &["--src", "10.0.0.1", "--dst", "fd00::1"],
            &["--ip", "10.0.0.1", "--proto", "icmp6"],
            &["--ip", "fd00::1", "--proto", "arp"],
        ] {
            assert!(contradiction(&select(args)).is_some(), "{args:?}");
        }
        let many: Vec<_> = (0..17).flat_map(|_| ["--port", "1"]).collect();
        assert!(contradiction(&select(&many)).is_some_and(|why| why.contains("16")));
    }

    #[test]
    fn selections_that_can_hold_are_taken() {
        for args in [
            &["--proto", "icmp", "--proto", "tcp", "--port", "80"][..],
            &["--ip", "10.0.0.1", "--ip", "fd00::1", "--proto", "icmp6"],
            &["--proto", "arp"],
            &[],
        ] {
            assert_eq!(contradiction(&select(args)), None, "{args:?}");
        }
    }

    #[test]
    fn what_is_not_a_value_is_refused_when_it_is_read() {
        for (flag, value) in [
            ("--ip", "10.0.0.0/33"),
            ("--ip", "10.0.0"),
            ("--src", "web1"),
            ("--port", "80-"),
            ("--port", "90-80"),
            ("--port", "65536"),
            ("--proto", "256"),
            ("--proto", "quic"),
            ("--mac", "00:11:22:33:44"),
            ("--mac", "00:11:22:33:44:5g"),
            ("--netns", "pid:x"),
            ("--netns", ""),
        ] {
            assert!(Cli::try_parse_from(["pathtrace", flag, value]).is_err(), "{flag} {value}");
        }
    }

    #[test]
    fn what_was_selected_is_told_as_it_was_typed() {
        let typed = [
            "--ip",
            "10.0.0.0/24",
            "--ip",
            "fd00::1",
            "--port",
            "80-90",
            "--dport",
            "53",
            "--proto",
            "tcp",
            "--proto",
            "47",
            "--mac",
            "00:16:3e:00:00:01",
            "--iface",
            "eth0",
            "--netns",
            "pid:7",
        ];
        assert_eq!(words(&select(&typed)), typed.join(" "));
        assert_eq!(words(&select(&[])), "");
        assert_eq!(words(&select(&["--iface", "a b"])), "--iface 'a b'");
    }

    #[test]
    fn namespaces_are_named_in_four_ways() {
        assert_eq!("web".parse(), Ok(NetnsRef::Name("web".into())));
        assert_eq!("/run/netns/web".parse(), Ok(NetnsRef::Path("/run/netns/web".into())));
        assert_eq!("4026531840".parse(), Ok(NetnsRef::Inode(4_026_531_840)));
        assert_eq!("pid:12".parse(), Ok(NetnsRef::Pid(12)));
    }
}
