//! What sits in the netfilter hooks of one namespace: nftables base chains, legacy iptables
//! tables, and the kernel's own parts, each with its priority. Two observers at a hook bracket
//! what lies between their priorities; this names it.
//!
//! Base chains come from a dump of [`nftables`], legacy tables
//! from `/proc/net/ip_tables_names`. Priorities are `enum nf_ip_hook_priorities` of
//! linux/netfilter_ipv4.h, which IPv6 shares.

use std::{fs, io};

use serde::{Deserialize, Serialize};

use super::{Error, netns::Netns, nftables, owner::Owner};
use crate::event::{Hook, HookFamily};

/// A base chain of nftables.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseChain {
    /// Family of its table.
    pub family: Family,
    /// Name of its table.
    pub table: String,
    /// Its own name.
    pub name: String,
    /// `filter`, `nat` or `route`.
    pub kind: String,
    /// The hook; `None` for one that is not of IP packets' way through the stack (ingress, egress,
    /// all of `arp` and `netdev`).
    pub hook: Option<Hook>,
    /// Its declared priority. Where a `nat` chain really runs is told by [`Chains::at`].
    pub priority: i32,
    /// What happens to packets that no rule decided about.
    pub policy: Policy,
    /// Its handle, unique in the table.
    pub handle: u64,
}

/// `NFPROTO_*`, as nft names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// IPv4 and IPv6.
    Inet,
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
    /// ARP.
    Arp,
    /// One device's ingress or egress.
    Netdev,
    /// Frames in a bridge.
    Bridge,
}

impl Family {
    /// The family of this `NFPROTO_*` (linux/netfilter.h).
    pub fn from_number(number: u8) -> Option<Self> {
        match i32::from(number) {
            libc::NFPROTO_INET => Some(Self::Inet),
            libc::NFPROTO_IPV4 => Some(Self::Ip),
            libc::NFPROTO_IPV6 => Some(Self::Ip6),
            libc::NFPROTO_ARP => Some(Self::Arp),
            libc::NFPROTO_NETDEV => Some(Self::Netdev),
            libc::NFPROTO_BRIDGE => Some(Self::Bridge),
            _ => None,
        }
    }

    /// Its `NFPROTO_*`.
    pub fn number(self) -> u8 {
        let number = match self {
            Self::Inet => libc::NFPROTO_INET,
            Self::Ip => libc::NFPROTO_IPV4,
            Self::Ip6 => libc::NFPROTO_IPV6,
            Self::Arp => libc::NFPROTO_ARP,
            Self::Netdev => libc::NFPROTO_NETDEV,
            Self::Bridge => libc::NFPROTO_BRIDGE,
        };
        number as u8
    }

    /// nft's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Inet => "inet",
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
            Self::Arp => "arp",
            Self::Netdev => "netdev",
            Self::Bridge => "bridge",
        }
    }

    /// The hook of this number. The bridge's five have the numbers of the IP hooks.
    fn hook(self, number: u32) -> Option<Hook> {
        match self {
            Self::Arp | Self::Netdev => None,
            _ => Hook::from_number(u8::try_from(number).ok()?),
        }
    }

    /// The hook of this number, those that are not of IP packets' way through the stack as well:
    /// `inet` has the ingress of a device as a sixth (`NF_INET_INGRESS`).
    pub fn hook_of(self, number: u8) -> Option<Hook> {
        match self {
            Self::Inet if number == 5 => Some(Hook::Ingress),
            Self::Inet | Self::Ip => Hook::of(HookFamily::Ipv4, number),
            Self::Ip6 => Hook::of(HookFamily::Ipv6, number),
            Self::Arp => Hook::of(HookFamily::Arp, number),
            Self::Netdev => Hook::of(HookFamily::Netdev, number),
            Self::Bridge => Hook::of(HookFamily::Bridge, number),
        }
    }

    /// Whether chains of this family see packets in hooks of that one.
    pub fn sits_in(self, hooks: HookFamily) -> bool {
        match self {
            Self::Inet => matches!(hooks, HookFamily::Ipv4 | HookFamily::Ipv6),
            Self::Ip => hooks == HookFamily::Ipv4,
            Self::Ip6 => hooks == HookFamily::Ipv6,
            Self::Arp => hooks == HookFamily::Arp,
            Self::Netdev => hooks == HookFamily::Netdev,
            Self::Bridge => hooks == HookFamily::Bridge,
        }
    }

    fn sees(self, packets: Packets) -> bool {
        match self {
            Self::Inet => packets != Packets::Bridged,
            Self::Ip => packets == Packets::Ipv4,
            Self::Ip6 => packets == Packets::Ipv6,
            Self::Bridge => packets == Packets::Bridged,
            Self::Arp | Self::Netdev => false,
        }
    }
}

/// The policy of a base chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// They are dropped.
    Drop,
    /// They go on.
    Accept,
}

/// Which packets pass a hook: each kind has its own list of what sits there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Packets {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
    /// Frames in a bridge.
    Bridged,
}

/// Something that sits in a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The priority at which it runs; lower is earlier.
    pub priority: i32,
    /// What it is.
    pub what: Occupant<'a>,
}

/// What sits in a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Occupant<'a> {
    /// A base chain of nftables.
    Chain(&'a BaseChain),
    /// The built-in chain of this hook in a legacy iptables table.
    Legacy {
        /// `filter`, `nat`, `mangle`, `raw` or `security`.
        table: &'a str,
    },
    /// A part of the kernel; it may be there or not, this is its place.
    Kernel(&'static str),
}

/// The chains of one namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chains {
    /// Base chains of nftables, of all families (iptables-nft's as well).
    pub base: Vec<BaseChain>,
    /// Legacy iptables tables that are in use, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub iptables: Vec<String>,
    /// Legacy ip6tables tables that are in use.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ip6tables: Vec<String>,
}

const RAW: i32 = -300;
const DEFRAG: i32 = -400;
const CONNTRACK: i32 = -200;
const MANGLE: i32 = -150;
const NAT_DST: i32 = -100;
const FILTER: i32 = 0;
const SECURITY: i32 = 50;
const NAT_SRC: i32 = 100;
const CONFIRM: i32 = i32::MAX;
/// `NF_BR_PRI_BRNF` of linux/netfilter_bridge.h. Hands frames to the IP hooks where
/// bridge-nf-call-iptables says so.
const BRIDGE_NF: i32 = 0;
const BRIDGE_NF_NAME: &str = "br_netfilter";

impl Chains {
    /// Reads them. A kernel without nf_tables or without iptables has none of these.
    ///
    /// # Errors
    /// When the namespace is gone, may not be entered, or the kernel does not answer.
    pub fn read(netns: &Netns) -> Result<Self, Error> {
        let read = || {
            Ok(Self {
                base: base_chains()?,
                iptables: legacy_tables("ip_tables_names")?,
                ip6tables: legacy_tables("ip6_tables_names")?,
            })
        };
        let what = || format!("read netfilter chains of {}", netns.label());
        netns.enter(read)?.map_err(|e: io::Error| Error::new(what(), e))
    }

    /// What these packets meet at a hook, in order.
    pub fn at(&self, hook: Hook, packets: Packets) -> Vec<Entry<'_>> {
        let base = self.base.iter().filter(|c| c.hook == Some(hook) && c.family.sees(packets));
        let chains =
            base.map(|chain| Entry { priority: runs_at(chain), what: Occupant::Chain(chain) });
        let tables = match packets {
            Packets::Ipv4 => &self.iptables[..],
            Packets::Ipv6 => &self.ip6tables,
            Packets::Bridged => &[],
        };
        let legacy = tables.iter().filter_map(|table| {
            let priority = legacy_priority(table, hook)?;
            Some(Entry { priority, what: Occupant::Legacy { table } })
        });
        let kernel = kernel_parts(hook, packets)
            .iter()
            .map(|(priority, name)| Entry { priority: *priority, what: Occupant::Kernel(name) });
        let mut entries: Vec<_> = chains.chain(legacy).chain(kernel).collect();
        entries.sort_by_key(|entry| entry.priority);
        entries
    }

    /// What these packets meet at a hook between two priorities, both left out: what an observer
    /// at `after` has behind it when the next one is at `before`.
    pub fn between(&self, hook: Hook, packets: Packets, after: i32, before: i32) -> Vec<Entry<'_>> {
        let mut entries = self.at(hook, packets);
        entries.retain(|entry| after < entry.priority && entry.priority < before);
        entries
    }
}

/// Where a chain really runs. The kernel hangs `nat` chains of IP into its one NAT hook, at its
/// own priority (`nf_nat_register_fn`); the declared one only orders them among themselves.
fn runs_at(chain: &BaseChain) -> i32 {
    priority_of(&chain.kind, chain.hook, chain.priority)
}

/// Where a chain of this kind at this hook really runs that declares this priority.
pub fn priority_of(kind: &str, hook: Option<Hook>, declared: i32) -> i32 {
    match (kind, hook) {
        ("nat", Some(hook)) => nat_priority(hook).unwrap_or(declared),
        _ => declared,
    }
}

fn nat_priority(hook: Hook) -> Option<i32> {
    match hook {
        Hook::Prerouting | Hook::Output => Some(NAT_DST),
        Hook::Input | Hook::Postrouting => Some(NAT_SRC),
        Hook::Forward | Hook::Ingress | Hook::Egress => None,
    }
}

/// The priority of a legacy table at a hook, `None` where it has no chain there.
pub(super) fn legacy_priority(table: &str, hook: Hook) -> Option<i32> {
    match (table, hook) {
        ("raw", Hook::Prerouting | Hook::Output) => Some(RAW),
        ("mangle", _) => Some(MANGLE),
        ("nat", hook) => nat_priority(hook),
        ("filter", Hook::Input | Hook::Forward | Hook::Output) => Some(FILTER),
        ("security", Hook::Input | Hook::Forward | Hook::Output) => Some(SECURITY),
        _ => None,
    }
}

/// The kernel's own hook functions.
fn kernel_parts(hook: Hook, packets: Packets) -> &'static [(i32, &'static str)] {
    match (packets, hook) {
        (Packets::Bridged, hook) => match hook {
            Hook::Prerouting | Hook::Forward => &[(BRIDGE_NF, BRIDGE_NF_NAME)],
            Hook::Postrouting => &[(i32::MAX, BRIDGE_NF_NAME)],
            Hook::Input | Hook::Output | Hook::Ingress | Hook::Egress => &[],
        },
        (_, Hook::Prerouting) => &[(DEFRAG, "defrag"), (CONNTRACK, "conntrack"), (NAT_DST, "nat")],
        (_, Hook::Output) => &[(DEFRAG, "defrag"), (CONNTRACK, "conntrack"), (NAT_DST, "nat")],
        (_, Hook::Input | Hook::Postrouting) => &[(NAT_SRC, "nat"), (CONFIRM, "conntrack confirm")],
        (_, Hook::Forward | Hook::Ingress | Hook::Egress) => &[],
    }
}

/// Those of the calling thread's namespace. Chains that a pathtrace brought along decide nothing, and
/// are left out.
fn base_chains() -> io::Result<Vec<BaseChain>> {
    let chains = nftables::or_none(nftables::Dump::open().and_then(|mut dump| dump.chains()))?;
    let others = chains.into_iter().filter(|chain| Owner::of_table(&chain.table).is_none());
    Ok(others.filter_map(base_chain).collect())
}

/// A base chain; `None` for one without a hook.
fn base_chain(chain: nftables::Chain) -> Option<BaseChain> {
    let nftables::Chain { family, table, name, kind, policy, handle, at } = chain;
    let nftables::At { number, priority, .. } = at?;
    let hook = family.hook(number);
    Some(BaseChain { family, table, name, kind, hook, priority, policy, handle })
}

/// The tables in a file of `/proc/net`, as the calling thread's namespace has it; none where the
/// kernel has no such file.
pub(super) fn legacy_tables(file: &str) -> io::Result<Vec<String>> {
    match fs::read_to_string(format!("/proc/thread-self/net/{file}")) {
        Ok(names) => Ok(names.lines().map(str::to_owned).collect()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::{super::testing::TestNetns, *};

    #[test]
    fn base_chains_of_every_family_are_read() {
        let test = TestNetns::new("chains");
        test.nft(
            "table inet t {
                chain f { type filter hook forward priority 10; policy drop; }
                chain plain { }
            }
            table ip n { chain p { type nat hook postrouting priority -7; }; }
            table bridge b { chain i { type filter hook input priority -200; }; }
            table arp a { chain o { type filter hook output priority 0; }; }
            table netdev d { chain g { type filter hook ingress device lo priority 1; }; }",
        );
        let chains = Chains::read(&test.netns()).unwrap();
        let find = |family| chains.base.iter().find(|c| c.family == family).unwrap().clone();
        let inet = find(Family::Inet);
        let expected = BaseChain {
            family: Family::Inet,
            table: "t".into(),
            name: "f".into(),
            kind: "filter".into(),
            hook: Some(Hook::Forward),
            priority: 10,
            policy: Policy::Drop,
            handle: inet.handle,
        };
        assert_eq!(inet, expected);
        assert_ne!(inet.handle, 0);
        assert_eq!(find(Family::Bridge).hook, Some(Hook::Input));
        assert_eq!((find(Family::Arp).hook, find(Family::Netdev).hook), (None, None));
        assert_eq!(chains.base.len(), 5, "{chains:?}");
        assert!(chains.iptables.is_empty());

        let nat = find(Family::Ip);
        assert_eq!((nat.priority, nat.policy), (-7, Policy::Accept));
        let after = chains.between(Hook::Postrouting, Packets::Ipv4, 0, CONFIRM);
        let names: Vec<_> = after.iter().map(|e| (e.priority, &e.what)).collect();
        assert_eq!(names[0], (NAT_SRC, &Occupant::Chain(&nat)));
        assert!(Chains::read(&Netns::own().unwrap()).is_ok());
    }

    /// What iptables-legacy does first: load the module, where it is one, and ask for a table,
    /// which makes the kernel set it up.
    fn use_legacy_filter() {
        let _ = std::process::Command::new("modprobe").args(["-q", "iptable_filter"]).status();
        let socket = raw_socket();
        let mut info = [0u8; 84];
        info[..6].copy_from_slice(b"filter");
        let mut length = info.len() as libc::socklen_t;
        // SAFETY: `info` is as large as `length` says (struct ipt_getinfo is 84 bytes); both
        // outlive the call.
        let result = unsafe {
            const IPT_SO_GET_INFO: libc::c_int = 64;
            let info = info.as_mut_ptr().cast();
            libc::getsockopt(socket.as_raw_fd(), libc::SOL_IP, IPT_SO_GET_INFO, info, &mut length)
        };
        assert_eq!(result, 0, "no legacy iptables here: {}", io::Error::last_os_error());
    }

    fn raw_socket() -> std::os::fd::OwnedFd {
        use rustix::net::{AddressFamily, SocketType, ipproto, socket};
        socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::RAW)).unwrap()
    }

    #[test]
    fn legacy_tables_are_those_of_the_namespace() {
        let (with, without) = (TestNetns::new("legacy"), TestNetns::new("nolegacy"));
        with.netns().enter(use_legacy_filter).unwrap();
        let chains = Chains::read(&with.netns()).unwrap();
        assert_eq!(chains.iptables, ["filter"]);
        assert_eq!(Chains::read(&without.netns()).unwrap(), Chains::default());
        let forward = chains.at(Hook::Forward, Packets::Ipv4);
        assert_eq!(forward, [Entry { priority: 0, what: Occupant::Legacy { table: "filter" } }]);
        assert!(chains.at(Hook::Forward, Packets::Ipv6).is_empty());
    }

    #[test]
    fn a_bracket_names_what_lies_in_it() {
        let chains = Chains { iptables: vec!["mangle".into(), "nat".into()], ..Default::default() };
        let all = chains.at(Hook::Prerouting, Packets::Ipv4);
        let priorities: Vec<_> = all.iter().map(|entry| entry.priority).collect();
        assert_eq!(priorities, [-400, -200, -150, -100, -100]);
        let bracket = chains.between(Hook::Prerouting, Packets::Ipv4, -200, -100);
        let mangle = Occupant::Legacy { table: "mangle" };
        assert_eq!(bracket, [Entry { priority: -150, what: mangle }]);
    }
}
