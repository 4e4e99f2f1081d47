//! The rules that say which routing table is looked up (`ip rule`), of one namespace.

use std::fmt::{Display, Formatter};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{
    netlink::{Connection, Message, attributes, ip_of, string_of, u16_of, u32_of},
    route_tables::RouteTables,
};

/// Of linux/fib_rules.h, which libc does not have.
const FR_ACT_TO_TBL: u8 = 1;
const FR_ACT_GOTO: u8 = 2;
const FR_ACT_NOP: u8 = 3;
const FR_ACT_BLACKHOLE: u8 = 6;
const FR_ACT_UNREACHABLE: u8 = 7;
const FR_ACT_PROHIBIT: u8 = 8;
const FIB_RULE_INVERT: u32 = 0x2;
const FRA_DST: u16 = 1;
const FRA_SRC: u16 = 2;
const FRA_IIFNAME: u16 = 3;
const FRA_GOTO: u16 = 4;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_TUN_ID: u16 = 12;
const FRA_SUPPRESS_IFGROUP: u16 = 13;
const FRA_SUPPRESS_PREFIXLEN: u16 = 14;
const FRA_TABLE: u16 = 15;
const FRA_FWMASK: u16 = 16;
const FRA_OIFNAME: u16 = 17;
const FRA_L3MDEV: u16 = 19;
const FRA_UID_RANGE: u16 = 20;
const FRA_PROTOCOL: u16 = 21;
const FRA_IP_PROTO: u16 = 22;
const FRA_SPORT_RANGE: u16 = 23;
const FRA_DPORT_RANGE: u16 = 24;
const FRA_PAD: u16 = 18;
const FRA_FLOW: u16 = 11;

/// A rule that says which routing table is looked up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RoutingRule {
    /// Of IPv6; else of IPv4.
    pub is_v6: bool,
    /// Its priority; the least is asked first.
    pub priority: u32,
    /// It holds for what its selectors do not select.
    pub inverted: bool,
    /// Source.
    pub from: Option<IpNet>,
    /// Destination.
    pub to: Option<IpNet>,
    /// Name of the incoming interface.
    pub iif: Option<String>,
    /// Name of the outgoing interface that a socket is bound to.
    pub oif: Option<String>,
    /// Mark of the packet, and its mask.
    pub mark: Option<(u32, u32)>,
    /// IP protocol.
    pub proto: Option<u8>,
    /// Source ports.
    pub sport: Option<(u16, u16)>,
    /// Destination ports.
    pub dport: Option<(u16, u16)>,
    /// Users.
    pub uids: Option<(u32, u32)>,
    /// Type of service.
    pub tos: u8,
    /// It selects by something else, too, which is not read.
    pub unread: bool,
    /// A default route that it finds does not count, or one no longer than this.
    pub suppress_prefix: Option<u32>,
    /// What it does.
    pub action: Action,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Looks a table up.
    Lookup(u32),
    /// Looks up the table of the VRF that the interface belongs to.
    LookupVrf,
    /// Goes on with the rule of that priority.
    Goto(u32),
    /// Nothing.
    #[default]
    Nop,
    /// Drops, or says that there is no way; the number is `FR_ACT_*`.
    Refuse(u8),
}

impl RoutingRule {
    /// Those of a namespace, in the order in which they are asked.
    pub(super) fn read(connection: &mut Connection) -> std::io::Result<Vec<Self>> {
        let mut rules = connection.dump(libc::RTM_GETRULE, &[0; HEADER], |message| {
            (message.kind == libc::RTM_NEWRULE).then(|| parse(message)).flatten()
        })?;
        // Stable: of the same priority, the kernel tells them in their order.
        rules.sort_by_key(|rule| (rule.is_v6, rule.priority));
        Ok(rules)
    }

    /// Whether this is one of the rules that every namespace begins with.
    pub fn is_original(&self) -> bool {
        let plain = |priority, table| Self {
            is_v6: self.is_v6,
            priority,
            action: Action::Lookup(table),
            ..Self::default()
        };
        [(0, 255), (32_766, 254), (32_767, 253)]
            .into_iter()
            .any(|(priority, table)| *self == plain(priority, table))
    }

    /// As `ip rule` shows it, without its priority.
    pub fn text<'a>(&'a self, tables: &'a RouteTables) -> impl Display + 'a {
        Text { rule: self, tables }
    }
}

/// Bytes of `struct fib_rule_hdr { u8 family, dst_len, src_len, tos, table, res1, res2, action; u32 flags; }`
const HEADER: usize = 12;

fn parse(message: &Message<'_>) -> Option<RoutingRule> {
    let body = message.body;
    let family = i32::from(*body.first()?);
    if !matches!(family, libc::AF_INET | libc::AF_INET6) {
        return None;
    }
    let flags = u32_of(body.get(8..HEADER)?)?;
    let (to_len, from_len, action) = (*body.get(1)?, *body.get(2)?, *body.get(7)?);
    let mut rule = RoutingRule {
        is_v6: family == libc::AF_INET6,
        inverted: flags & FIB_RULE_INVERT != 0,
        tos: *body.get(3)?,
        ..RoutingRule::default()
    };
    let (mut table, mut target, mut vrf) = (u32::from(*body.get(4)?), None, false);
    let (mut mark, mut mask) = (None, u32::MAX);
    let net = |value: &[u8], length| IpNet::new(ip_of(value)?, length).ok();
    for (kind, value) in attributes(body.get(HEADER..)?) {
        match kind {
            FRA_DST => rule.to = net(value, to_len),
            FRA_SRC => rule.from = net(value, from_len),
            FRA_IIFNAME => rule.iif = Some(string_of(value)),
            FRA_OIFNAME => rule.oif = Some(string_of(value)),
            FRA_GOTO => target = u32_of(value),
            FRA_PRIORITY => rule.priority = u32_of(value)?,
            FRA_FWMARK => mark = u32_of(value),
            FRA_FWMASK => mask = u32_of(value)?,
            FRA_SUPPRESS_PREFIXLEN => {
                rule.suppress_prefix = u32_of(value).filter(|length| *length != u32::MAX);
            }
            FRA_TABLE => table = u32_of(value)?,
            FRA_L3MDEV => vrf = value.first().is_some_and(|on| *on != 0),
            FRA_UID_RANGE => {
                rule.uids = Some((u32_of(value.get(..4)?)?, u32_of(value.get(4..8)?)?))
            }
            FRA_IP_PROTO => rule.proto = value.first().copied(),
            FRA_SPORT_RANGE => rule.sport = ports(value),
            FRA_DPORT_RANGE => rule.dport = ports(value),
            FRA_SUPPRESS_IFGROUP if u32_of(value) == Some(u32::MAX) => {}
            FRA_TUN_ID if value.iter().all(|byte| *byte == 0) => {}
            FRA_FLOW | FRA_PAD | FRA_PROTOCOL => {}
            _ => rule.unread = true,
        }
    }
    rule.mark = mark.map(|mark| (mark, mask));
    rule.action = match action {
        FR_ACT_TO_TBL if vrf => Action::LookupVrf,
        FR_ACT_TO_TBL => Action::Lookup(table),
        FR_ACT_GOTO => Action::Goto(target?),
        FR_ACT_NOP => Action::Nop,
        other => Action::Refuse(other),
    };
    Some(rule)
}

fn ports(value: &[u8]) -> Option<(u16, u16)> {
    Some((u16_of(value.get(..2)?)?, u16_of(value.get(2..4)?)?))
}

struct Text<'a> {
    rule: &'a RoutingRule,
    tables: &'a RouteTables,
}

impl Display for Text<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let Self { rule, tables } = self;
        if rule.inverted {
            f.write_str("not ")?;
        }
        match rule.from {
            Some(from) => write!(f, "from {}", Net(from))?,
            None => f.write_str("from all")?,
        }
        if let Some(to) = rule.to {
            write!(f, " to {}", Net(to))?;
        }
        if rule.tos != 0 {
            write!(f, " tos {:#x}", rule.tos)?;
        }
        match rule.mark {
            Some((mark, u32::MAX)) => write!(f, " fwmark {mark:#x}")?,
            Some((mark, mask)) => write!(f, " fwmark {mark:#x}/{mask:#x}")?,
            None => {}
        }
        for (key, name) in [("iif", &rule.iif), ("oif", &rule.oif)] {
            if let Some(name) = name {
                write!(f, " {key} {name}")?;
            }
        }
        if let Some((first, last)) = rule.uids {
            write!(f, " uidrange {first}-{last}")?;
        }
        if let Some(proto) = rule.proto {
            match proto {
                1 => f.write_str(" ipproto icmp")?,
                6 => f.write_str(" ipproto tcp")?,
                17 => f.write_str(" ipproto udp")?,
                58 => f.write_str(" ipproto ipv6-icmp")?,
                132 => f.write_str(" ipproto sctp")?,
                other => write!(f, " ipproto {other}")?,
            }
        }
        for (key, range) in [("sport", rule.sport), ("dport", rule.dport)] {
            match range {
                Some((first, last)) if first == last => write!(f, " {key} {first}")?,
                Some((first, last)) => write!(f, " {key} {first}-{last}")?,
                None => {}
            }
        }
        match rule.action {
            Action::Lookup(table) => write!(f, " lookup {}", tables.name(table))?,
            Action::LookupVrf => f.write_str(" lookup [l3mdev-table]")?,
            Action::Goto(priority) => write!(f, " goto {priority}")?,
            Action::Nop => f.write_str(" nop")?,
            Action::Refuse(FR_ACT_BLACKHOLE) => f.write_str(" blackhole")?,
            Action::Refuse(FR_ACT_UNREACHABLE) => f.write_str(" unreachable")?,
            Action::Refuse(FR_ACT_PROHIBIT) => f.write_str(" prohibit")?,
            Action::Refuse(other) => write!(f, " action {other}")?,
        }
        match rule.suppress_prefix {
            Some(length) => write!(f, " suppress_prefixlength {length}"),
            None => Ok(()),
        }
    }
}

/// A single address without its length.
struct Net(IpNet);

impl Display for Net {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        if self.0.prefix_len() == self.0.max_prefix_len() {
            self.0.addr().fmt(f)
        } else {
            self.0.fmt(f)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{snapshot::Snapshot, testing::TestNetns},
        *,
    };

    fn texts(netns: &TestNetns) -> Vec<String> {
        let snapshot = Snapshot::take().unwrap();
        let rules = &snapshot.namespaces[&netns.netns().inode].rules;
        rules
            .iter()
            .filter(|rule| !rule.is_original())
            .map(|rule| format!("{}: {}", rule.priority, rule.text(&RouteTables::default())))
            .collect()
    }

    #[test]
    fn rules_are_read_and_shown_as_ip_rule_shows_them() {
        let netns = TestNetns::new("pbr");
        for rule in [
            "from 10.0.0.0/24 to 192.0.2.1 lookup 100 priority 10",
            "not from all fwmark 0x1/0xf iif lo lookup 1000 priority 20",
            "from all ipproto tcp dport 80-90 lookup main priority 30 suppress_prefixlength 0",
            "from all uidrange 0-5 sport 53 prohibit priority 40",
            "from all goto 32766 priority 50",
        ] {
            netns.ip(&format!("rule add {rule}"));
        }
        netns.ip("-6 rule add from 2001:db8::/32 lookup 200 priority 5");
        assert_eq!(
            texts(&netns),
            [
                "10: from 10.0.0.0/24 to 192.0.2.1 lookup 100",
                "20: not from all fwmark 0x1/0xf iif lo lookup 1000",
                "30: from all ipproto tcp dport 80-90 lookup main suppress_prefixlength 0",
                "40: from all uidrange 0-5 sport 53 prohibit",
                "50: from all goto 32766",
                "5: from 2001:db8::/32 lookup 200",
            ]
        );
    }

    #[test]
    fn a_namespace_begins_with_rules_that_are_nobodys() {
        let netns = TestNetns::new("pbr0");
        assert_eq!(texts(&netns), Vec::<String>::new());
    }
}
