//! A table of ours in the rule set of a namespace, whose rules have the kernel trace the selected
//! packets (`meta nftrace set 1`). It is the one thing that pathtrace changes, and only on request.
//!
//! The table belongs to the socket that made it (`NFT_TABLE_F_OWNER`, Linux 5.12): nobody else can
//! change it, and the kernel removes it when the socket closes, however this process ends. On older
//! kernels it is removed at the end, and after SIGKILL by the next start: its name tells whose it is.
//!
//! A rule here is made of the expressions that the kernel knows (linux/netfilter/nf_tables.h). The
//! table in the words of nft, for `--ip 10.0.3.17` where the namespace does NAT:
//!
//! ```text
//! table inet pathtrace-4711-981235 {
//!   chain prerouting { type filter hook prerouting priority …    # before all others
//!     ip saddr 10.0.3.17 meta nftrace set 1 accept
//!     ip daddr 10.0.3.17 meta nftrace set 1 accept }
//!   chain output     { … the same at output }
//!   chain forward    { … the same at forward: what DNAT has sent there }
//!   chain replies    { type filter hook prerouting priority -199     # behind conntrack
//!     ct original ip saddr 10.0.3.17 meta nftrace set 1 accept     # answers to what was masqueraded
//!     ct reply ip saddr 10.0.3.17 meta nftrace set 1 accept }      # more of what DNAT sends there
//! }
//! ```
//!
//! To trace more packets than were selected is harmless, so only the simple parts of a selection
//! are translated.

use std::{collections::HashMap, io, net::IpAddr};

use anyhow::Context as _;
use aya::util::KernelVersion;
use ipnet::IpNet;
use tracer_common::filter::{Ports, Values};

use super::brackets;
use crate::{
    host::{
        chains::{Chains, Family},
        netlink::{Connection, Order, attribute, attributes, nested, string_of},
        netns::Netns,
        owner::Owner,
    },
    select::Selection,
};

/// Before all other chains. Before that stands only the first observer of the hook.
const BEFORE_ALL: i32 = brackets::FIRST + 1;
/// Right behind connection tracking.
const BEHIND_CONNTRACK: i32 = -199;
/// Most addresses of containers, and combinations of an address and a port, that are told apart.
const MOST_COMBINATIONS: usize = 64;

/// Which packets the kernel is to trace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// Either address; empty for all.
    addresses: Vec<IpNet>,
    /// Either port; empty for all.
    ports: Vec<(u16, u16)>,
    /// IP protocol.
    proto: Option<u8>,
}

impl Marks {
    /// At least those that are selected, and their answers. Of several flags with addresses or
    /// ports one is enough: a packet that matches has one of each. `None`: no packet is, as long as no
    /// selected container has an address.
    pub fn of(selection: &Selection) -> Option<Self> {
        let filter = &selection.filter;
        let given = [&filter.port, &filter.sport, &filter.dport];
        let ports = given.into_iter().map(values).find(|ports| !ports.is_empty());
        let range = |Ports { first, last }| (first, last);
        let ports: Vec<_> = ports.into_iter().flatten().map(range).collect();
        let addresses: Vec<_> = if selection.containers.is_empty() {
            // In the order of these flags.
            let given = [filter.ip.len, filter.src.len, filter.dst.len];
            let given = given.into_iter().find(|n| *n > 0);
            selection.addresses.iter().copied().take(given.unwrap_or(0) as usize).collect()
        } else {
            let all = selection.containers.addresses();
            if all.is_empty() {
                return None;
            }
            // Each is a rule that every packet passes: of many, all packets are marked sooner.
            let few = all.iter().copied().filter(|_| all.len() <= MOST_COMBINATIONS);
            few.map(IpNet::from).collect()
        };
        let proto = match values(&filter.proto).as_slice() {
            [one] if one.family == 0 => Some(one.number),
            _ => None,
        };
        let ports = if addresses.len().max(1) * ports.len() > MOST_COMBINATIONS {
            Vec::new()
        } else {
            ports
        };
        Some(Self { addresses, ports, proto })
    }
}

fn values<T: Copy>(values: &Values<T>) -> Vec<T> {
    values.items.iter().copied().take(values.len as usize).collect()
}

/// What of a namespace decides what its table is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// Chains of the bridge family are there.
    pub bridge: bool,
    /// It does NAT, so connection tracking is at work already.
    pub nat: bool,
    /// Addresses that NAT elsewhere may give to selected packets.
    pub aliases: Vec<IpAddr>,
}

impl Surroundings {
    /// Of a namespace with these chains.
    pub fn of(chains: &Chains) -> Self {
        let legacy = [&chains.iptables, &chains.ip6tables].into_iter().flatten();
        Self {
            bridge: chains.base.iter().any(|chain| chain.family == Family::Bridge),
            nat: chains.base.iter().any(|chain| chain.kind == "nat")
                || legacy.into_iter().any(|table| table == "nat"),
            aliases: Vec::new(),
        }
    }
}

/// The tables of one trace, by the namespace's inode.
pub struct Tables {
    /// `None`: nothing is marked.
    marks: Option<Marks>,
    name: String,
    placed: HashMap<u32, Placed>,
}

/// What is in one namespace. Goes with this value.
struct Placed {
    surroundings: Surroundings,
    /// What the table belongs to.
    connection: Connection,
    /// What is to be done at the end, where the kernel does not do it.
    removal: Option<Vec<Order>>,
}

impl Drop for Placed {
    fn drop(&mut self) {
        if let Some(removal) = &self.removal {
            // A namespace that is gone has taken its tables along.
            let _ = self.connection.batch(removal);
        }
    }
}

impl Tables {
    /// None yet.
    ///
    /// # Errors
    /// When `/proc` is not there.
    pub fn new(marks: Option<Marks>) -> io::Result<Self> {
        Ok(Self { marks, name: Owner::own()?.table(), placed: HashMap::new() })
    }

    /// Other packets are to be marked: what is placed goes, if it marks others.
    pub fn mark(&mut self, marks: Option<Marks>) {
        if self.marks != marks {
            self.marks = marks;
            self.placed.clear();
        }
    }

    /// Places a table in a namespace, or another in its stead where `surroundings` changed; whether
    /// there was something to do.
    ///
    /// # Errors
    /// When the namespace is gone, or the kernel refuses.
    pub fn place(&mut self, netns: &Netns, surroundings: Surroundings) -> anyhow::Result<bool> {
        if self.placed.get(&netns.inode).is_some_and(|p| p.surroundings == surroundings) {
            return Ok(false);
        }
        self.placed.remove(&netns.inode);
        let Some(marks) = &self.marks else { return Ok(false) };
        let placed = netns
            .enter(|| self.make(marks, surroundings))?
            .with_context(|| format!("cannot add a table to the rules of {}", netns.label()))?;
        self.placed.insert(netns.inode, placed);
        Ok(true)
    }

    /// What they are called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Removes those of other namespaces.
    pub fn retain(&mut self, is_wanted: impl Fn(u32) -> bool) {
        self.placed.retain(|netns, _| is_wanted(*netns));
    }

    /// In the calling thread's namespace.
    fn make(&self, marks: &Marks, surroundings: Surroundings) -> io::Result<Placed> {
        let mut connection = Connection::netfilter()?;
        let mut families = vec![Family::Inet];
        families.extend(surroundings.bridge.then_some(Family::Bridge));
        let make = |owner| -> Vec<Order> {
            let table = |family: &Family| self.table(*family, marks, &surroundings, owner);
            families.iter().flat_map(table).collect()
        };
        let made = match connection.batch(&make(true)) {
            // A kernel without owners of tables.
            Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => {
                connection.batch(&make(false)).map(|()| false)
            }
            made => made.map(|()| true),
        };
        let removal = (!made?).then(|| families.iter().map(|f| remove(*f, &self.name)).collect());
        Ok(Placed { surroundings, connection, removal })
    }

    /// What makes the table of a family.
    fn table(
        &self,
        family: Family,
        of: &Marks,
        surroundings: &Surroundings,
        owner: bool,
    ) -> Vec<Order> {
        let hook = |number: libc::c_int| number as u32;
        let (prerouting, forward, output) = (
            hook(libc::NF_INET_PRE_ROUTING),
            hook(libc::NF_INET_FORWARD),
            hook(libc::NF_INET_LOCAL_OUT),
        );
        let marks = by_packet(family, of, &surroundings.aliases);
        let mut chains = vec![
            ("prerouting", prerouting, BEFORE_ALL, marks.clone()),
            ("output", output, BEFORE_ALL, marks.clone()),
        ];
        if surroundings.nat && family == Family::Inet && !of.addresses.is_empty() {
            let replies = by_connection(of);
            chains.push(("forward", forward, BEFORE_ALL, marks));
            chains.push(("replies", prerouting, BEHIND_CONNTRACK, replies));
        }
        let mut orders = vec![new_table(family, &self.name, owner)];
        for (chain, hook, priority, rules) in chains {
            orders.push(new_chain(family, &self.name, chain, hook, priority));
            orders.extend(rules.into_iter().map(|rule| new_rule(family, &self.name, chain, &rule)));
        }
        orders
    }
}

/// Whether a table can stay behind on this kernel.
pub fn may_leave_tables() -> bool {
    KernelVersion::current().is_ok_and(|version| version < KernelVersion::new(5, 12, 0))
}

/// Removes tables of processes that are gone from a namespace: how many.
///
/// # Errors
/// When the namespace is gone, or the kernel refuses.
pub fn sweep(netns: &Netns) -> anyhow::Result<usize> {
    let swept = netns.enter(|| {
        let mut connection = Connection::netfilter()?;
        let left = connection.dump(message(libc::NFT_MSG_GETTABLE), &[0; 4], |message| {
            let family = Family::from_number(*message.body.first()?)?;
            let mut attributes = attributes(message.body.get(4..)?);
            let name = string_of(attributes.find(|(kind, _)| *kind == TABLE_NAME)?.1);
            let is_left = Owner::of_table(&name).is_some_and(|owner| !owner.is_alive());
            is_left.then(|| remove(family, &name))
        })?;
        if !left.is_empty() {
            connection.batch(&left)?;
        }
        io::Result::Ok(left.len())
    })??;
    Ok(swept)
}

/// Rules that mark by a packet's addresses, ports and protocol.
fn by_packet(family: Family, marks: &Marks, aliases: &[IpAddr]) -> Vec<Vec<Expression>> {
    let ports: Vec<Vec<Expression>> = if marks.ports.is_empty() {
        vec![Vec::new()]
    } else {
        let either = |&range: &(u16, u16)| [port(0, range), port(2, range)];
        marks.ports.iter().flat_map(either).collect()
    };
    let mut addresses: Vec<_> =
        marks.addresses.iter().flat_map(|net| either_address(family, *net)).collect();
    // NAT may have changed ports as well.
    let mut aliases: Vec<_> = aliases
        .iter()
        .filter(|_| !addresses.is_empty())
        .flat_map(|alias| either_address(family, IpNet::from(*alias)))
        .map(|address| rule(&[&address, &protocol(marks)]))
        .collect();
    if addresses.is_empty() {
        addresses.push(Vec::new());
    }
    let mut rules: Vec<_> = addresses
        .iter()
        .flat_map(|address| ports.iter().map(|port| rule(&[address, &protocol(marks), port])))
        .collect();
    rules.append(&mut aliases);
    rules
}

/// Rules that mark by the addresses of a packet's connection.
fn by_connection(marks: &Marks) -> Vec<Vec<Expression>> {
    let sources = |net: &IpNet| {
        [ORIGINAL, REPLY].map(|direction| {
            let key = match net {
                IpNet::V4(_) => CT_SRC_IP,
                IpNet::V6(_) => CT_SRC_IP6,
            };
            [vec![load_ct(key, direction)], is_in(*net)].concat()
        })
    };
    let sources = marks.addresses.iter().flat_map(sources);
    sources.map(|source| rule(&[&source, &protocol(marks)])).collect()
}

/// A rule that traces what passes all of these.
fn rule(conditions: &[&[Expression]]) -> Vec<Expression> {
    let mut rule = conditions.concat();
    rule.extend(set_trace());
    // What is marked needs no further look at it; other chains still see it.
    rule.push(accept());
    rule
}

fn either_address(family: Family, net: IpNet) -> [Vec<Expression>; 2] {
    let (offsets, length) = match net {
        IpNet::V4(_) => ([12, 16], 4),
        IpNet::V6(_) => ([8, 24], 16),
    };
    offsets.map(|offset| {
        let load = load_payload(libc::NFT_PAYLOAD_NETWORK_HEADER, offset, length);
        [is_family(family, net), vec![load], is_in(net)].concat()
    })
}

fn protocol(marks: &Marks) -> Vec<Expression> {
    match marks.proto {
        Some(number) => {
            vec![load_meta(libc::NFT_META_L4PROTO), compare(libc::NFT_CMP_EQ, &[number])]
        }
        None => Vec::new(),
    }
}

/// A port at this offset of the header above IP. Where that has no ports, more is traced.
fn port(offset: u32, (first, last): (u16, u16)) -> Vec<Expression> {
    let load = load_payload(libc::NFT_PAYLOAD_TRANSPORT_HEADER, offset, 2);
    if first == last {
        return vec![load, compare(libc::NFT_CMP_EQ, &first.to_be_bytes())];
    }
    let from = compare(libc::NFT_CMP_GTE, &first.to_be_bytes());
    vec![load, from, compare(libc::NFT_CMP_LTE, &last.to_be_bytes())]
}

/// IPv4 or IPv6, as the address is. A bridge has frames, which name their protocol.
fn is_family(family: Family, net: IpNet) -> Vec<Expression> {
    let (protocol, ethertype) = match net {
        IpNet::V4(_) => (libc::NFPROTO_IPV4, libc::ETH_P_IP),
        IpNet::V6(_) => (libc::NFPROTO_IPV6, libc::ETH_P_IPV6),
    };
    let (key, value) = if family == Family::Bridge {
        (libc::NFT_META_PROTOCOL, (ethertype as u16).to_be_bytes().to_vec())
    } else {
        (libc::NFT_META_NFPROTO, vec![protocol as u8])
    };
    vec![load_meta(key), compare(libc::NFT_CMP_EQ, &value)]
}

/// The address in the register is of this network.
fn is_in(net: IpNet) -> Vec<Expression> {
    let octets = |address| match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let compare = compare(libc::NFT_CMP_EQ, &octets(net.network()));
    if net.prefix_len() == net.max_prefix_len() {
        vec![compare]
    } else {
        vec![mask(&octets(net.netmask())), compare]
    }
}

/// Attributes of linux/netfilter/nf_tables.h, those that are used.
const TABLE_NAME: u16 = 1;
const TABLE_FLAGS: u16 = 2;
/// `NFT_TABLE_F_OWNER`.
const OWNER: u32 = 2;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const LIST_ELEMENT: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const NF_ACCEPT: u32 = 1;
/// `enum nft_ct_keys`: these are told of either direction.
const CT_SRC_IP: u32 = 19;
const CT_SRC_IP6: u32 = 21;
/// `enum ip_conntrack_dir`.
const ORIGINAL: u8 = 0;
const REPLY: u8 = 1;

/// The register that everything goes through.
const REGISTER: u32 = libc::NFT_REG_1 as u32;

/// An expression of a rule, as the element of a list.
type Expression = Vec<u8>;

fn expression(name: &str, data: &[Vec<u8>]) -> Expression {
    let name = attribute(EXPRESSION_NAME, format!("{name}\0").as_bytes());
    nested(LIST_ELEMENT, &[name, nested(EXPRESSION_DATA, data)])
}

fn number(kind: u16, value: u32) -> Vec<u8> {
    attribute(kind, &value.to_be_bytes())
}

fn value(kind: u16, bytes: &[u8]) -> Vec<u8> {
    nested(kind, &[attribute(DATA_VALUE, bytes)])
}

/// `NFTA_META_DREG`, `NFTA_META_KEY`.
fn load_meta(key: libc::c_int) -> Expression {
    expression("meta", &[number(1, REGISTER), number(2, key as u32)])
}

/// `NFTA_PAYLOAD_DREG`, `_BASE`, `_OFFSET`, `_LEN`.
fn load_payload(base: libc::c_int, offset: u32, length: u32) -> Expression {
    let place = [number(2, base as u32), number(3, offset), number(4, length)];
    expression("payload", &[vec![number(1, REGISTER)], place.to_vec()].concat())
}

/// `NFTA_CT_DREG`, `_KEY`, `_DIRECTION`.
fn load_ct(key: u32, direction: u8) -> Expression {
    expression("ct", &[number(1, REGISTER), number(2, key), attribute(3, &[direction])])
}

/// `NFTA_BITWISE_SREG`, `_DREG`, `_LEN`, `_MASK`, `_XOR`.
fn mask(bytes: &[u8]) -> Expression {
    let (none, length) = (vec![0; bytes.len()], bytes.len() as u32);
    let registers = [number(1, REGISTER), number(2, REGISTER), number(3, length)];
    expression("bitwise", &[registers.to_vec(), vec![value(4, bytes), value(5, &none)]].concat())
}

/// `NFTA_CMP_SREG`, `_OP`, `_DATA`.
fn compare(operator: libc::c_int, bytes: &[u8]) -> Expression {
    expression("cmp", &[number(1, REGISTER), number(2, operator as u32), value(3, bytes)])
}

/// `NFTA_IMMEDIATE_DREG`, `_DATA`; `NFTA_META_KEY`, `_SREG`.
fn set_trace() -> [Expression; 2] {
    let key = libc::NFT_META_NFTRACE as u32;
    [
        expression("immediate", &[number(1, REGISTER), value(2, &[1])]),
        expression("meta", &[number(2, key), number(3, REGISTER)]),
    ]
}

fn accept() -> Expression {
    let verdict = nested(DATA_VERDICT, &[number(VERDICT_CODE, NF_ACCEPT)]);
    let register = number(1, libc::NFT_REG_VERDICT as u32);
    expression("immediate", &[register, nested(2, &[verdict])])
}

fn message(kind: libc::c_int) -> u16 {
    (libc::NFNL_SUBSYS_NFTABLES << 8 | kind) as u16
}

/// A message of a family: `struct nfgenmsg`, then attributes.
fn order(family: Family, kind: libc::c_int, flags: libc::c_int, attributes: &[Vec<u8>]) -> Order {
    let body = [&[family.number(), 0, 0, 0][..], &attributes.concat()].concat();
    Order { kind: message(kind), flags, body }
}

fn text(kind: u16, name: &str) -> Vec<u8> {
    attribute(kind, format!("{name}\0").as_bytes())
}

fn new_table(family: Family, name: &str, owner: bool) -> Order {
    let mut attributes = vec![text(TABLE_NAME, name)];
    attributes.extend(owner.then(|| number(TABLE_FLAGS, OWNER)));
    order(family, libc::NFT_MSG_NEWTABLE, libc::NLM_F_CREATE | libc::NLM_F_EXCL, &attributes)
}

fn new_chain(family: Family, table: &str, name: &str, hook: u32, priority: i32) -> Order {
    let place = [number(HOOK_NUMBER, hook), number(HOOK_PRIORITY, priority as u32)];
    let attributes = [
        text(CHAIN_TABLE, table),
        text(CHAIN_NAME, name),
        nested(CHAIN_HOOK, &place),
        text(CHAIN_TYPE, "filter"),
    ];
    order(family, libc::NFT_MSG_NEWCHAIN, libc::NLM_F_CREATE, &attributes)
}

fn new_rule(family: Family, table: &str, chain: &str, rule: &[Expression]) -> Order {
    let attributes =
        [text(RULE_TABLE, table), text(RULE_CHAIN, chain), nested(RULE_EXPRESSIONS, rule)];
    order(family, libc::NFT_MSG_NEWRULE, libc::NLM_F_CREATE | libc::NLM_F_APPEND, &attributes)
}

fn remove(family: Family, table: &str) -> Order {
    order(family, libc::NFT_MSG_DELTABLE, 0, &[text(TABLE_NAME, table)])
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::{cli::Cli, host::testing::TestNetns, select::resolve};

    fn marks(args: &[&str]) -> Marks {
        let args = std::iter::once("pathtrace").chain(args.iter().copied());
        let select = Cli::try_parse_from(args).unwrap().trace.select;
        Marks::of(&resolve(&select, None).unwrap()).unwrap()
    }

    /// The rule set of a namespace, as nft lists it.
    fn listed(test: &TestNetns) -> String {
        let run = || std::process::Command::new("nft").args(["list", "ruleset"]).output().unwrap();
        let output = test.netns().enter(run).unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn tables(args: &[&str]) -> Tables {
        Tables::new(Some(marks(args))).unwrap()
    }

    #[test]
    fn an_expression_is_what_nft_sends() {
        // Recorded from `nft add rule … meta nftrace set 1` and `ip saddr 10.0.3.17`.
        let meta = [
            0x24, 0, 1, 0x80, 9, 0, 1, 0, b'm', b'e', b't', b'a', 0, 0, 0, 0, 0x14, 0, 2, 0x80, 8,
            0, 2, 0, 0, 0, 0, 12, 8, 0, 3, 0, 0, 0, 0, 1,
        ];
        assert_eq!(set_trace()[1], meta);
        let compare = [
            0x2c, 0, 1, 0x80, 8, 0, 1, 0, b'c', b'm', b'p', 0, 0x20, 0, 2, 0x80, 8, 0, 1, 0, 0, 0,
            0, 1, 8, 0, 2, 0, 0, 0, 0, 0, 12, 0, 3, 0x80, 8, 0, 1, 0, 10, 0, 3, 17,
        ];
        assert_eq!(super::compare(libc::NFT_CMP_EQ, &[10, 0, 3, 17]), compare);
    }

    #[test]
    fn a_selection_is_translated_as_far_as_it_is_simple() {
        let of = marks(&["--ip", "10.0.0.0/24", "--proto", "udp", "--dport", "53-54"]);
        assert_eq!(of.addresses, ["10.0.0.0/24".parse::<IpNet>().unwrap()]);
        assert_eq!((of.proto, of.ports), (Some(17), vec![(53, 54)]));
        let both = marks(&["--src", "10.0.0.1", "--dst", "10.0.0.2"]).addresses;
        assert_eq!(both, ["10.0.0.1/32".parse::<IpNet>().unwrap()]);
        assert_eq!(marks(&["--proto", "tcp", "--proto", "udp"]).proto, None);
        assert_eq!(marks(&["--proto", "arp"]).proto, None);
        assert_eq!(marks(&[]), Marks::default());
    }

    #[test]
    fn a_table_is_there_until_its_socket_closes() {
        let test = TestNetns::new("table");
        test.nft("table inet lab { chain f { type filter hook forward priority 0; }; }");
        let before = listed(&test);
        let addresses = ["--ip", "10.0.3.17", "--ip", "fd00::/64"];
        let above = ["--port", "53", "--port", "60-69", "--proto", "udp"];
        let mut tables = tables(&[&addresses[..], &above].concat());
        let chains = Chains::read(&test.netns()).unwrap();
        assert!(tables.place(&test.netns(), Surroundings::of(&chains)).unwrap());
        let now = listed(&test);
        for part in [
            "table inet pathtrace-",
            "ip saddr 10.0.3.17 udp sport 53 meta nftrace set 1 accept",
            "ip6 daddr fd00::/64 udp dport 60-69 meta nftrace set 1 accept",
            "hook prerouting",
            "hook output",
        ] {
            assert!(now.contains(part), "no {part}: {now}");
        }
        assert!(!now.contains("ct "), "connection tracking is not turned on: {now}");
        assert_eq!(Chains::read(&test.netns()).unwrap(), chains, "ours are not told");
        assert!(!tables.place(&test.netns(), Surroundings::of(&chains)).unwrap());
        assert_eq!(listed(&test), now);
        drop(tables);
        assert_eq!(listed(&test), before);
    }

    #[test]
    fn surroundings_that_change_make_another_table() {
        let test = TestNetns::new("nat");
        let mut tables = tables(&["--ip", "10.0.3.17"]);
        let place = |tables: &mut Tables| {
            let chains = Chains::read(&test.netns()).unwrap();
            let aliases = vec!["198.51.100.1".parse().unwrap()];
            tables.place(&test.netns(), Surroundings { aliases, ..Surroundings::of(&chains) })
        };
        assert!(place(&mut tables).unwrap());
        test.nft(
            "table ip n { chain p { type nat hook postrouting priority 100; masquerade; }; }
             table bridge b { chain i { type filter hook input priority -200; }; }",
        );
        assert!(place(&mut tables).unwrap());
        let now = listed(&test);
        for part in [
            "table bridge pathtrace-",
            "table inet pathtrace-",
            "ct original ip saddr 10.0.3.17",
            "ct reply ip saddr 10.0.3.17",
            "ip daddr 198.51.100.1",
        ] {
            assert!(now.contains(part), "no {part}: {now}");
        }
        tables.retain(|_| false);
        assert!(!listed(&test).contains("pathtrace"));
    }

    #[test]
    fn what_no_kernel_removes_is_removed_by_the_next() {
        let test = TestNetns::new("left");
        let place = |name: String| {
            let tables = Tables { name, ..tables(&[]) };
            let surroundings = Surroundings::default();
            let orders = tables.table(Family::Inet, &marks(&[]), &surroundings, false);
            test.netns().enter(|| Connection::netfilter()?.batch(&orders)).unwrap().unwrap();
        };
        let own = Owner::own().unwrap();
        test.nft("table inet pathtrace { }");
        place(own.table());
        place(Owner { since: own.since + 1, ..own }.table());
        place(Owner { pid: u32::MAX, since: 1 }.table());
        assert_eq!(sweep(&test.netns()).unwrap(), 2);
        let left = listed(&test);
        assert!(left.contains("table inet pathtrace {") && left.contains(&own.table()), "{left}");
        assert_eq!(left.matches("table").count(), 2, "{left}");
        assert_eq!(sweep(&test.netns()).unwrap(), 0);
    }

    #[test]
    fn a_refusal_is_told_and_changes_nothing() {
        let test = TestNetns::new("refusal");
        let orders =
            [new_table(Family::Inet, "t", false), new_chain(Family::Inet, "nosuch", "c", 0, 0)];
        let done = test.netns().enter(|| Connection::netfilter()?.batch(&orders)).unwrap();
        assert_eq!(done.unwrap_err().raw_os_error(), Some(libc::ENOENT));
        assert_eq!(listed(&test), "");
    }
}
