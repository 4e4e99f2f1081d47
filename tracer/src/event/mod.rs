//! What the kernel side saw, typed: ring-buffer bytes in, [`Event`]s out.
//!
//! Past this door nobody knows whether an event came from a ring buffer or a file: [`wire`] turns
//! bytes into events, [`recording`] keeps them as JSON lines.

pub mod recording;
pub mod wire;

use std::{net::IpAddr, num::NonZeroU32};

use compact_str::CompactString;
use serde::{Deserialize, Serialize};
use tracer_common::{
    event::{family, is_icmp_error},
    point::Point,
};

/// A packet's id: unique for the life of a trace, never 0. It survives NAT and is not reused
/// when the kernel reuses the packet's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PacketId(pub u64);

/// Where a packet is: an interface of a network namespace. An ifindex alone means nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// Inode of the network namespace; 0 when the packet had no device and no socket to tell it.
    pub netns: u32,
    /// Interface index there; 0 for none.
    pub ifindex: u32,
}

/// Link family of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
    /// ARP.
    Arp,
    /// Neither.
    Other,
}

/// The packet's headers as they were at one point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Headers {
    /// Which family.
    pub family: Family,
    /// IP protocol number; 0 for ARP and others.
    pub proto: u8,
    /// Source address (ARP: sender's). Unspecified for [`Family::Other`].
    pub src: IpAddr,
    /// Destination address (ARP: target's).
    pub dst: IpAddr,
    /// Source port, or the identifier of an ICMP echo; 0 for none.
    pub sport: u16,
    /// Destination port; 0 for none.
    pub dport: u16,
    /// ICMP type, TCP flags or ARP operation.
    pub l4_kind: u8,
    /// ICMP code.
    pub l4_code: u8,
    /// TCP sequence number or ICMP echo sequence number.
    pub seq: u32,
    /// TCP acknowledgement number.
    pub ack: u32,
    /// IPv4 identification or low bits of the IPv6 flow label.
    pub ip_id: u16,
    /// Time to live or hop limit.
    pub ttl: u8,
    /// A fragment that is not the first: it has no ports.
    pub later_fragment: bool,
    /// A fragment that is not the last.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more_fragments: bool,
    /// What all fragments of a packet have in common: IPv4's identification, or the low bits of IPv6's.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub fragment_id: u16,
}

fn is_zero(number: &u16) -> bool {
    *number == 0
}

impl Headers {
    /// Whether it is a fragment of a packet.
    pub fn is_fragment(&self) -> bool {
        self.later_fragment || self.more_fragments
    }

    /// Whether it is an ICMP error, which quotes the packet that it is about.
    pub fn is_icmp_error(&self) -> bool {
        let family = match self.family {
            Family::Ipv4 => family::IPV4,
            Family::Ipv6 => family::IPV6,
            Family::Arp | Family::Other => return false,
        };
        !self.later_fragment && is_icmp_error(family, self.proto, self.l4_kind)
    }
}

/// `enum nf_inet_hooks`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hook {
    /// NF_INET_PRE_ROUTING.
    Prerouting,
    /// NF_INET_LOCAL_IN.
    Input,
    /// NF_INET_FORWARD.
    Forward,
    /// NF_INET_LOCAL_OUT.
    Output,
    /// NF_INET_POST_ROUTING.
    Postrouting,
    /// NF_NETDEV_INGRESS.
    Ingress,
    /// NF_NETDEV_EGRESS.
    Egress,
}

impl Hook {
    /// The five hooks of the IP stack and the bridge, in the kernel's numbering.
    pub const ALL: [Hook; 5] =
        [Hook::Prerouting, Hook::Input, Hook::Forward, Hook::Output, Hook::Postrouting];

    /// The hook with this number of `enum nf_inet_hooks`, which the bridge shares.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// The hook of this number in a family: netdev and ARP have numbers of their own
    /// (linux/netfilter_netdev.h, linux/netfilter_arp.h).
    pub fn of(family: HookFamily, number: u8) -> Option<Self> {
        match family {
            HookFamily::Netdev => [Hook::Ingress, Hook::Egress].get(usize::from(number)).copied(),
            HookFamily::Arp => {
                [Hook::Input, Hook::Output, Hook::Forward].get(usize::from(number)).copied()
            }
            HookFamily::Ipv4 | HookFamily::Ipv6 | HookFamily::Bridge => Self::from_number(number),
        }
    }

    /// nft's name of the hook.
    pub fn name(self) -> &'static str {
        match self {
            Hook::Prerouting => "prerouting",
            Hook::Input => "input",
            Hook::Forward => "forward",
            Hook::Output => "output",
            Hook::Postrouting => "postrouting",
            Hook::Ingress => "ingress",
            Hook::Egress => "egress",
        }
    }

    /// The point of this hook.
    pub fn point(self) -> Point {
        match self {
            Hook::Prerouting => Point::NfPrerouting,
            Hook::Input => Point::NfInput,
            Hook::Forward => Point::NfForward,
            Hook::Output => Point::NfOutput,
            Hook::Postrouting => Point::NfPostrouting,
            Hook::Ingress => Point::NfIngress,
            Hook::Egress => Point::NfEgress,
        }
    }
}

/// Whose hook it is: `NFPROTO_*`. The same packet can be in a hook of a bridge and in one of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HookFamily {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
    /// Frames in a bridge.
    Bridge,
    /// ARP.
    Arp,
    /// One device's ingress or egress.
    Netdev,
}

impl HookFamily {
    /// The family of this `NFPROTO_*` (linux/netfilter.h).
    pub fn from_number(number: u8) -> Option<Self> {
        match i32::from(number) {
            libc::NFPROTO_IPV4 => Some(Self::Ipv4),
            libc::NFPROTO_IPV6 => Some(Self::Ipv6),
            libc::NFPROTO_BRIDGE => Some(Self::Bridge),
            libc::NFPROTO_ARP => Some(Self::Arp),
            libc::NFPROTO_NETDEV => Some(Self::Netdev),
            _ => None,
        }
    }

    /// nft's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ipv4 => "ip",
            Self::Ipv6 => "ip6",
            Self::Bridge => "bridge",
            Self::Arp => "arp",
            Self::Netdev => "netdev",
        }
    }
}

/// Where in a netfilter hook a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct InHook {
    /// The hook.
    pub hook: Hook,
    /// Whose hook.
    pub family: HookFamily,
    /// Number of the last observer that it passed, 0 the first. Which priorities that observer
    /// stands between is known to [`crate::probe`].
    pub passed: u8,
}

/// Who decided about a packet in a netfilter hook. Numbers, as the kernel has them: names are joined
/// in by whoever knows the rule set.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "by")]
pub enum Decider {
    /// A base chain of nftables (iptables-nft's as well), or a chain that it leads to.
    Nftables {
        /// Handle of the table: unique in its namespace.
        table: u64,
        /// Handle of the base chain in that table; 0 where the kernel cannot tell it.
        chain: u64,
        /// Which rule.
        rule: RuleOrPolicy,
    },
    /// A table of legacy iptables, ip6tables or ebtables.
    Legacy {
        /// Whose table.
        family: HookFamily,
        /// `filter`, `nat`, `mangle`, `raw`, `security`, `broute`.
        table: String,
        /// Number of the rule in the whole table, from 1, where it is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rule: Option<u64>,
    },
    /// Connection tracking, looking the packet up: its table is full, or the packet fits nothing.
    Conntrack,
    /// Connection tracking, confirming a new connection: another packet was quicker.
    Confirm,
}

/// What of a base chain decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleOrPolicy {
    /// The rule with this handle: unique in its table. A rule that replaces it takes it over.
    Rule(u64),
    /// The base chain's policy: no rule had decided.
    Policy,
    /// One of both: what sets verdicts was not watched.
    Unknown,
}

/// What was decided, where that was not to accept the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// NF_DROP.
    Drop,
    /// NF_STOLEN: somebody else has it now.
    Stolen,
    /// NF_QUEUE: handed to a program (nfnetlink_queue).
    Queue,
}

/// How a packet came from its parent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// It shares the parent's bytes.
    #[default]
    Clone,
    /// It has a copy of them.
    Copy,
    /// It was cut from a large segment.
    Segment,
    /// It is a fragment.
    Fragment,
}

impl Origin {
    /// The point at which it began.
    pub fn point(self) -> Point {
        match self {
            Origin::Clone => Point::Clone,
            Origin::Copy => Point::Copy,
            Origin::Segment => Point::Segment,
            Origin::Fragment => Point::Fragment,
        }
    }
}

/// Who was done with a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Consumer {
    /// Return address in the kernel.
    pub location: u64,
    /// The process that ran, in the initial PID namespace. It is the packet's reader only where
    /// the location is a socket's read.
    pub pid: u32,
    /// Its command name.
    pub comm: CompactString,
}

/// What was seen, with what only that point can tell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "point")]
pub enum What {
    /// `dev_queue`.
    DevQueue,
    /// `dev_xmit`.
    DevXmit,
    /// `dev_receive`.
    DevReceive,
    /// `tc_ingress`.
    TcIngress,
    /// `tc_egress`.
    TcEgress,
    /// `bridge_rx`.
    BridgeRx,
    /// `bridge_forward`.
    BridgeForward,
    /// `bridge_flood`.
    BridgeFlood,
    /// `bridge_local`.
    BridgeLocal,
    /// `bridge_xmit`.
    BridgeXmit,
    /// `ip_receive`.
    IpReceive,
    /// `ip_forward`.
    IpForward,
    /// `ip_local_deliver`.
    IpLocalDeliver,
    /// `ip_output`.
    IpOutput,
    /// `nat`: it has just been rewritten; [`Event::headers`] are those after that.
    Nat,
    /// `conntrack`.
    Conntrack {
        /// What the packet is to its connection.
        state: ConntrackState,
        /// Status bits of the connection (`enum ip_conntrack_status`), where known.
        status: Option<u32>,
        /// Its mark, where known.
        mark: Option<u32>,
        /// Its zone, where known; 0 is the one that all are in unless told otherwise.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        zone: Option<u16>,
        /// Both its tuples, where known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        connection: Option<Box<Connection>>,
    },
    /// Somebody decided about the packet in a netfilter hook, and not to accept it. It may come
    /// right before the `drop`; its hook is that of the last [`What::HookEnter`], or one of which
    /// nothing else was seen.
    Verdict {
        /// Where.
        hook: InHook,
        /// Who.
        by: Box<Decider>,
        /// What.
        verdict: Verdict,
    },
    /// A netfilter hook was entered.
    HookEnter {
        /// Where.
        hook: InHook,
        /// Ingress interface index, 0 for none.
        iif: u32,
        /// Egress interface index, 0 for none.
        oif: u32,
    },
    /// A netfilter hook was left: every base chain accepted. Sent for LOCAL_IN, and where the
    /// addresses or ports changed since the hook was entered.
    HookExit {
        /// Where.
        hook: InHook,
        /// ns spent in the hook.
        spent: u32,
    },
    /// `route`.
    Route {
        /// Table that answered.
        table: u32,
        /// Next hop, when not on the link.
        gateway: Option<IpAddr>,
        /// Interface index of the way, 0 for none.
        oif: u32,
        /// `RTN_*`, 0 where not told.
        kind: u8,
        /// Negative errno where there is no route, else 0.
        error: i32,
        /// The look-up of the reverse path (rp_filter).
        reverse: bool,
    },
    /// `neigh`.
    Neigh {
        /// `NUD_*` bits.
        state: u8,
        /// Link-layer address, where known.
        lladdr: Option<[u8; 6]>,
    },
    /// `qdisc_enqueue`.
    QdiscEnqueue {
        /// Kind, as `tc qdisc` names it.
        kind: CompactString,
        /// Handle, major number in the upper 16 bits.
        handle: u32,
    },
    /// `qdisc_dequeue`.
    QdiscDequeue {
        /// Kind, as `tc qdisc` names it.
        kind: CompactString,
        /// Handle, major number in the upper 16 bits.
        handle: u32,
    },
    /// `socket`.
    Socket {
        /// Process that read it, in the initial PID namespace.
        pid: Option<NonZeroU32>,
        /// Its command name.
        comm: Option<CompactString>,
    },
    /// `drop`.
    Drop {
        /// `enum skb_drop_reason` of the kernel that traced; `None` where the kernel tells none.
        reason: Option<u32>,
        /// Return address in the kernel.
        location: u64,
        /// The hook that it died in.
        hook: Option<InHook>,
    },
    /// `consume`.
    Consume {
        /// Of a packet that a stack or a socket had taken: who was done with it, where that is told.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<Box<Consumer>>,
    },
}

// Events wait in their thousands: what is larger than this, and rare, is boxed.
const _: () = assert!(size_of::<What>() <= 32);

impl What {
    /// The point that reports this.
    pub fn point(&self) -> Point {
        match self {
            What::DevQueue => Point::DevQueue,
            What::DevXmit => Point::DevXmit,
            What::DevReceive => Point::DevReceive,
            What::TcIngress => Point::TcIngress,
            What::TcEgress => Point::TcEgress,
            What::BridgeRx => Point::BridgeRx,
            What::BridgeForward => Point::BridgeForward,
            What::BridgeFlood => Point::BridgeFlood,
            What::BridgeLocal => Point::BridgeLocal,
            What::BridgeXmit => Point::BridgeXmit,
            What::IpReceive => Point::IpReceive,
            What::IpForward => Point::IpForward,
            What::IpLocalDeliver => Point::IpLocalDeliver,
            What::IpOutput => Point::IpOutput,
            What::Nat => Point::Nat,
            What::Conntrack { .. } => Point::Conntrack,
            What::HookEnter { hook, .. }
            | What::HookExit { hook, .. }
            | What::Verdict { hook, .. } => hook.hook.point(),
            What::Route { .. } => Point::Route,
            What::Neigh { .. } => Point::Neigh,
            What::QdiscEnqueue { .. } => Point::QdiscEnqueue,
            What::QdiscDequeue { .. } => Point::QdiscDequeue,
            What::Socket { .. } => Point::Socket,
            What::Drop { .. } => Point::Drop,
            What::Consume { .. } => Point::Consume,
        }
    }
}

/// One sighting of a followed packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// CLOCK_MONOTONIC, ns.
    pub time: u64,
    /// Which packet.
    pub id: PacketId,
    /// How many events this packet had before. Orders the events of a packet; a gap is a loss.
    pub seq: u16,
    /// The first event of this id that there was room for (`seq` 0, unless some were lost).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub begin: bool,
    /// The packet that this one was made from; only with `begin`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<PacketId>,
    /// How; says something only with `parent`.
    #[serde(default, skip_serializing_if = "is_clone")]
    pub origin: Origin,
    /// It matched as the answer to a followed flow, not by the filter; only with `begin`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub learned: bool,
    /// It turns out here to be none of those that are followed; nothing more comes of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub foreign: bool,
    /// It is an ICMP error: the packet that it quotes, as far as it does; only with `begin`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quoted: Option<Box<Headers>>,
    /// Events of its packet are left out, for there were more than there may be.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub thinned: bool,
    /// It is in a tunnel's packet here: the headers are its own, not those around it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tunneled: bool,
    /// Address of the kernel's `struct sk_buff`.
    pub skb: u64,
    /// Where.
    pub place: Place,
    /// CPU that handled it.
    pub cpu: u16,
    /// `skb->len`, bytes.
    pub len: u32,
    /// The packet as it was.
    pub headers: Headers,
    /// What was seen.
    pub what: What,
    /// Captured bytes, from the link-layer header on where `link_header`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Box<Captured>>,
}

fn is_clone(origin: &Origin) -> bool {
    *origin == Origin::Clone
}

/// One direction of a connection, as connection tracking knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Tuple {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Source port, or the identifier of an ICMP echo (in both directions).
    pub sport: u16,
    /// Destination port; 0 for ICMP.
    pub dport: u16,
}

/// A connection, as the kernel tracks it: what NAT does to it is the difference between the one tuple and
/// the reverse of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Connection {
    /// IPv4 or IPv6.
    pub family: Family,
    /// IP protocol number.
    pub proto: u8,
    /// As the side that began sends.
    pub original: Tuple,
    /// As the other side answers.
    pub reply: Tuple,
    /// The packet that this was told with goes in the reply's direction.
    pub is_reply: bool,
}

/// What a packet is to its connection (`enum ip_conntrack_info`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConntrackState {
    /// The first of a connection, or more of it before an answer.
    New,
    /// Of a connection that was answered.
    Established,
    /// Of one that belongs to another.
    Related,
    /// It fits no connection.
    Invalid,
    /// Not to be tracked.
    Untracked,
}

impl ConntrackState {
    /// nft's name (`ct state`).
    pub fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Established => "established",
            Self::Related => "related",
            Self::Invalid => "invalid",
            Self::Untracked => "untracked",
        }
    }
}

/// Captured bytes of a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Captured {
    /// They begin with the link-layer header; else with the network header.
    pub link_header: bool,
    /// How long the packet is from there on, bytes: more than were captured, where it was cut.
    #[serde(default)]
    pub length: u32,
    /// The bytes.
    pub data: bytes::Bytes,
}
