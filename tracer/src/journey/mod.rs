//! Events in, journeys and flows out. Pure: no I/O, no clock of its own, no kernel, no names.
//! Time is the events' own time; [`Assembler::advance`] tells how far it has come.

mod assemble;
mod branch;
mod chronicle;
mod flow;
mod fragments;
mod hops;
#[cfg(test)]
pub(crate) mod sample;
mod sightings;
#[cfg(test)]
mod tests;

pub use assemble::{Assembler, Counts, Limits};
pub use branch::{Branch, Branches, Parent};
pub use chronicle::Chronicle;
pub use flow::{Direction, Flow, FlowId};

use std::net::IpAddr;

use compact_str::CompactString;
use tracer_common::point::Point;

use crate::event::{
    Captured, Connection, ConntrackState, Decider, Event, Family, Headers, Hook, HookFamily,
    InHook, PacketId, Place, Verdict, What,
};

/// One packet's way, from where it was first seen to its end.
#[derive(Clone, Debug)]
pub struct Journey {
    /// Number of this journey in this trace, from 1: in order of completion, and once it has been
    /// through a [`Chronicle`], in order of its start.
    pub number: u64,
    /// The packet.
    pub id: PacketId,
    /// The packet that it was made from: cloned, copied, or cut.
    pub parent: Option<Parent>,
    /// The packets that were made from it, as far as they were heard of before it is given out.
    pub branches: Branches,
    /// The packet that it was put together to, with the others of its fragments: where this one ended.
    pub whole: Option<PacketId>,
    /// The other fragments that it was put together from, as far as they were followed, when it was the last
    /// to come. Each time that it was.
    pub fragments: Vec<PacketId>,
    /// The flow it belongs to.
    pub flow: Flow,
    /// Which side of the flow sent it.
    pub direction: Direction,
    /// What was rewritten on the way.
    pub nat: Rewritten,
    /// The packet's headers where it was first seen.
    pub headers: Headers,
    /// CLOCK_MONOTONIC of the first hop, ns.
    pub start: u64,
    /// ns from the first to the last hop.
    pub duration: u64,
    /// Bytes of the packet where it was longest (with its link-layer header, if that was seen).
    pub length: u32,
    /// What was seen, in order.
    pub hops: Vec<Hop>,
    /// How it ended.
    pub outcome: Outcome,
    /// Whether every event of this packet was received.
    pub complete: bool,
    /// Whether hops of it are left out, for there were more events than there may be.
    pub thinned: bool,
    /// Address of the `struct sk_buff`, and whether the kernel side may still hold the packet in
    /// its table of followed packets (its end had no event that removes it).
    pub leftover: Option<u64>,
}

impl Journey {
    /// Index of the hop at which a branch left: the last one that is not later than its first hop.
    pub fn left_at(&self, branch: &Branch) -> usize {
        let not_later = |hop: &Hop| self.start.saturating_add(hop.at) <= branch.start;
        self.hops.iter().rposition(not_later).unwrap_or(0)
    }
}

/// Knows what the end of a packet means: the drops that are none, frees that the kernel reports as drops although the
/// packet had done its work, and the ends that are a task's read. What they are is a matter of names, which journeys do not have; see
/// [`crate::explain`].
pub trait Benign {
    /// How a packet really ended that was dropped outside of a netfilter hook; `None` where it
    /// was truly dropped. `clone`: it is a copy of another packet (but no piece of one).
    fn end(
        &self,
        reason: Option<u32>,
        location: u64,
        headers: &Headers,
        clone: bool,
    ) -> Option<BenignEnd>;

    /// Whether code at this address is done with a packet because a task has read it from its
    /// socket.
    fn is_read(&self, _location: u64) -> bool {
        false
    }

    /// Whether this reason says no more than that the packet was freed.
    fn is_unspecified(&self, reason: Option<u32>) -> bool {
        reason.is_none()
    }
}

/// How a packet ended whose drop is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BenignEnd {
    /// The stack had taken it.
    Delivered,
    /// It was of no use here, and nobody misses it.
    Consumed,
}

/// Behind LOCAL_IN of IP the stack has the packet. A bridge's hook of that name is followed by the
/// reception on the bridge's own device.
fn is_delivery(hook: &InHook) -> bool {
    hook.hook == Hook::Input && matches!(hook.family, HookFamily::Ipv4 | HookFamily::Ipv6)
}

/// A look-up that says a packet of IP is for this namespace: its stack takes it, or somebody is heard to drop it. Where
/// no hook of the namespace was seen, they are not watched, or not yet, and it may be all that tells of the delivery.
fn is_for_here(what: &What, headers: &Headers) -> bool {
    // RTN_LOCAL, RTN_BROADCAST (include/uapi/linux/rtnetlink.h).
    matches!(what, What::Route { kind: 2 | 3, error: 0, reverse: false, .. })
        // To ask for an address, ARP looks it up as well.
        && matches!(headers.family, Family::Ipv4 | Family::Ipv6)
        // A fragment waits here for the others.
        && !headers.is_fragment()
}

/// Every drop is one.
impl Benign for () {
    fn end(&self, _: Option<u32>, _: u64, _: &Headers, _: bool) -> Option<BenignEnd> {
        None
    }
}

/// One sighting, as a part of a journey.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    /// ns since the journey's start.
    pub at: u64,
    /// Which point.
    pub point: Point,
    /// Where.
    pub place: Place,
    /// CPU.
    pub cpu: u16,
    /// It was in a tunnel's packet.
    pub tunneled: bool,
    /// What the point told.
    pub detail: HopDetail,
    /// Captured bytes.
    pub bytes: Option<Box<Captured>>,
}

/// What is known of a hop beyond its point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HopDetail {
    /// Nothing more.
    None,
    /// A netfilter hook.
    Netfilter {
        /// Where in which hook; `passed` is the last observer that it is known to have passed.
        hook: InHook,
        /// Ingress interface index, 0 for none.
        iif: u32,
        /// Egress interface index, 0 for none.
        oif: u32,
        /// It is IP's (or ARP's), and a bridge ran it for a frame that it forwards (br_netfilter).
        bridged: bool,
        /// `Some(true)`: every base chain accepted (it went on). `Some(false)`: it died here.
        /// `None`: not known, the journey ends or has a hole here.
        accepted: Option<bool>,
        /// ns spent in the hook, where known.
        spent: Option<u32>,
        /// Who decided not to accept it, where that is known, and what.
        decided: Option<Decided>,
    },
    /// Connection tracking; as [`What::Conntrack`](crate::event::What::Conntrack).
    Conntrack {
        /// What the packet is to its connection.
        state: ConntrackState,
        /// Status bits of the connection.
        status: Option<u32>,
        /// Its mark.
        mark: Option<u32>,
        /// Its zone.
        zone: Option<u16>,
        /// Its tuples, as they were here: NAT may still change the reply's.
        connection: Option<Box<Connection>>,
    },
    /// Addresses or ports were rewritten.
    Nat {
        /// Source or destination.
        kind: NatKind,
        /// Address and port before.
        from: (IpAddr, u16),
        /// Address and port after.
        to: (IpAddr, u16),
    },
    /// A routing decision; as [`What::Route`](crate::event::What::Route).
    Route {
        /// Table.
        table: u32,
        /// Next hop, when not on the link.
        gateway: Option<IpAddr>,
        /// Interface index of the way.
        oif: u32,
        /// `RTN_*`.
        kind: u8,
        /// Negative errno where there is no route.
        error: i32,
        /// The look-up of the reverse path.
        reverse: bool,
    },
    /// A neighbour; as [`What::Neigh`](crate::event::What::Neigh).
    Neigh {
        /// `NUD_*` bits.
        state: u8,
        /// Link-layer address.
        lladdr: Option<[u8; 6]>,
    },
    /// A queueing discipline.
    Qdisc {
        /// Kind.
        kind: CompactString,
        /// Handle.
        handle: u32,
        /// For a dequeue: ns since it was enqueued in the qdisc of that handle.
        delay: Option<u64>,
    },
    /// A socket.
    Socket {
        /// Process.
        pid: Option<u32>,
        /// Its command name.
        comm: Option<CompactString>,
    },
    /// It was made from another packet: a clone, a copy, a segment or a fragment.
    Born {
        /// That packet.
        parent: PacketId,
    },
    /// A drop; with [`Point::Consume`], one that is none (see [`Benign`]).
    Drop {
        /// Number of the reason in the kernel that traced.
        reason: Option<u32>,
        /// Return address in the kernel.
        location: u64,
        /// The hook that it died in.
        hook: Option<InHook>,
    },
}

/// A verdict other than to accept, and whose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    /// Who.
    pub by: Box<Decider>,
    /// What.
    pub verdict: Verdict,
}

/// Source or destination NAT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NatKind {
    /// The source was rewritten.
    Snat,
    /// The destination was rewritten.
    Dnat,
}

/// The last value of what NAT rewrote; `None` where nothing was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rewritten {
    /// Source address.
    pub src: Option<IpAddr>,
    /// Source port.
    pub sport: Option<u16>,
    /// Destination address.
    pub dst: Option<IpAddr>,
    /// Destination port.
    pub dport: Option<u16>,
}

/// How a journey ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Given to the driver of a device that ends on this host.
    Transmitted {
        /// Index of the hop.
        hop: usize,
    },
    /// Taken by a socket, or by the IP stack of a namespace.
    Delivered {
        /// Index of the hop.
        hop: usize,
    },
    /// Dropped by the kernel.
    Dropped {
        /// Index of the hop where it died: the netfilter hop that it died in, else the last one
        /// before `drop` itself.
        hop: usize,
        /// Number of the reason in the kernel that traced.
        reason: Option<u32>,
        /// Return address in the kernel.
        location: u64,
        /// The hook that it died in.
        in_hook: Option<InHook>,
    },
    /// Ended without a drop and without delivery.
    Consumed {
        /// Index of the hop.
        hop: usize,
    },
    /// No end was seen.
    Lost {
        /// Index of the last hop.
        hop: usize,
        /// Why there is none.
        why: LostWhy,
    },
}

/// Why no end of a journey was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LostWhy {
    /// Nothing was seen of it for [`Limits::lost_after`].
    Silent,
    /// The trace ended while it was on its way.
    TraceEnded,
    /// The table of journeys was full and this was the oldest.
    Evicted,
}

impl Outcome {
    /// Index of the hop that the outcome is about.
    pub fn hop(&self) -> usize {
        match *self {
            Outcome::Transmitted { hop }
            | Outcome::Delivered { hop }
            | Outcome::Dropped { hop, .. }
            | Outcome::Consumed { hop }
            | Outcome::Lost { hop, .. } => hop,
        }
    }
}
