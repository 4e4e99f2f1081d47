//! What the kernel side saw, typed: ring-buffer bytes in, [`Event`]s out.
//!
//! Past this door nobody knows whether an event came from a ring buffer or a file: [`wire`] turns
//! bytes into events, [`recording`] keeps them as JSON lines.

pub mod recording;
pub mod wire;

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use tracer_common::point::Point;

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
}

impl Hook {
    /// The five hooks in the kernel's numbering.
    pub const ALL: [Hook; 5] =
        [Hook::Prerouting, Hook::Input, Hook::Forward, Hook::Output, Hook::Postrouting];

    /// The hook with this number of `enum nf_inet_hooks`.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// nft's name of the hook.
    pub fn name(self) -> &'static str {
        match self {
            Hook::Prerouting => "prerouting",
            Hook::Input => "input",
            Hook::Forward => "forward",
            Hook::Output => "output",
            Hook::Postrouting => "postrouting",
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
        }
    }
}

/// Where in a netfilter hook a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct InHook {
    /// The hook.
    pub hook: Hook,
    /// [`Family::Ipv4`] or [`Family::Ipv6`].
    pub family: Family,
    /// Number of the last observer that it passed, 0 the first. Which priorities that observer
    /// stands between is known to [`crate::probe`].
    pub passed: u8,
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
    pub comm: String,
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
        kind: String,
        /// Handle, major number in the upper 16 bits.
        handle: u32,
    },
    /// `qdisc_dequeue`.
    QdiscDequeue {
        /// Kind, as `tc qdisc` names it.
        kind: String,
        /// Handle, major number in the upper 16 bits.
        handle: u32,
    },
    /// `socket`.
    Socket {
        /// Process that read it, in the initial PID namespace.
        pid: Option<u32>,
        /// Its command name.
        comm: Option<String>,
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
        by: Option<Consumer>,
    },
}

impl What {
    /// The point that reports this.
    pub fn point(&self) -> Point {
        match self {
            What::DevQueue => Point::DevQueue,
            What::DevXmit => Point::DevXmit,
            What::DevReceive => Point::DevReceive,
            What::TcIngress => Point::TcIngress,
            What::TcEgress => Point::TcEgress,
            What::HookEnter { hook, .. } | What::HookExit { hook, .. } => hook.hook.point(),
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
    /// The first event of this id (always `seq` 0).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub begin: bool,
    /// The packet that this one was cloned from; only with `begin`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<PacketId>,
    /// It matched as the answer to a followed flow, not by the filter; only with `begin`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub learned: bool,
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
    pub bytes: Option<Captured>,
}

/// Captured bytes of a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Captured {
    /// They begin with the link-layer header; else with the network header.
    pub link_header: bool,
    /// The bytes.
    pub data: bytes::Bytes,
}
