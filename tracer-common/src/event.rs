//! The wire layout of what the kernel side sends: one [`Event`] a record, and, where
//! [`Event::captured`] is not 0, that many bytes of the packet right behind it.
//!
//! Addresses and ports keep the values of the packet: addresses as bytes, ports in host order.

/// What a packet says of itself: addresses, ports and what tells two packets of a flow apart.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// Source address, an IPv4 address in its IPv4-mapped form (`::ffff:a.b.c.d`).
    /// For ARP the sender's protocol address.
    pub src: [u8; 16],
    /// Destination address, in the same form. For ARP the target's protocol address.
    pub dst: [u8; 16],
    /// Source port, host order; 0 where the protocol has none. For an ICMP echo its identifier.
    pub sport: u16,
    /// Destination port, host order; 0 where the protocol has none.
    pub dport: u16,
    /// One of [`family`].
    pub family: u8,
    /// IP protocol number; 0 for ARP.
    pub proto: u8,
    /// ICMP type, TCP flags, or the low byte of ARP's operation.
    pub l4_kind: u8,
    /// ICMP code.
    pub l4_code: u8,
    /// TCP sequence number, or the sequence number of an ICMP echo. Host order.
    pub seq: u32,
    /// TCP acknowledgement number. Host order.
    pub ack: u32,
    /// IPv4 identification, or the low 16 bits of the IPv6 flow label. Host order.
    pub ip_id: u16,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// 1 for a fragment that is not the first: it has no ports.
    pub later_fragment: u8,
    /// Of a fragment, what all fragments of its packet have in common: IPv4's identification, or the low
    /// 16 bits of that of IPv6's fragment header. Host order.
    pub fragment_id: u16,
    /// 1 for a fragment that is not the last: more follow.
    pub more_fragments: u8,
    /// Unused, 0.
    pub pad: u8,
}

/// Values of [`Tuple::family`].
pub mod family {
    /// Neither IP nor ARP.
    pub const OTHER: u8 = 0;
    /// IPv4.
    pub const IPV4: u8 = 4;
    /// IPv6.
    pub const IPV6: u8 = 6;
    /// ARP.
    pub const ARP: u8 = 1;
}

/// Whether this is an ICMP error, which quotes the packet that it is about: by [`Tuple::family`],
/// [`Tuple::proto`] and [`Tuple::l4_kind`].
#[inline(always)]
pub const fn is_icmp_error(family: u8, proto: u8, kind: u8) -> bool {
    match (family, proto) {
        // Unreachable, source quench, redirect, time exceeded, parameter problem.
        (family::IPV4, 1) => matches!(kind, 3 | 4 | 5 | 11 | 12),
        // Unreachable, too big, time exceeded, parameter problem.
        (family::IPV6, 58) => matches!(kind, 1..=4),
        _ => false,
    }
}

/// Bits of [`Event::flags`].
pub mod flags {
    /// The first event of this packet id that there was room for.
    pub const BEGIN: u8 = 1;
    /// The packet matched only because it answers a followed flow (learned reverse tuple).
    pub const LEARNED: u8 = 2;
    /// Netfilter: this event was sent when the hook was left, not when it was entered.
    pub const HOOK_EXIT: u8 = 4;
    /// Netfilter: who decided about the packet in the hook, where that was not to accept it. The
    /// detail is a [`Verdict`](super::detail::Verdict).
    pub const VERDICT: u8 = 8;
    /// Conntrack: the bytes behind the event are the connection's tuples, not the packet's bytes:
    /// a [`Connection`](super::Connection).
    pub const CONNECTION: u8 = 16;
    /// The packet is in a tunnel's: the tuple is its own, not that of the packet around it.
    pub const TUNNELED: u8 = 32;
    /// The packet turns out to be none of those that are followed: it looked like an answer to one before
    /// its NAT was undone. This is its last event.
    pub const FOREIGN: u8 = 64;
    /// Events of this packet are left out: there are more than there may be. They are counted as
    /// [`Spared`](super::Spared), and not in [`Event::seq`](super::Event::seq).
    pub const THINNED: u8 = 128;
}

/// Bits of [`Event::link`].
pub mod link {
    /// The captured bytes begin with an Ethernet header; else with the network header.
    pub const HEADER: u8 = 1;
    /// There is a VLAN tag that the kernel keeps beside the bytes (802.1Q).
    pub const TAG: u8 = 2;
    /// That tag is a service tag (802.1ad).
    pub const SERVICE: u8 = 4;
}

/// Values of [`Event::origin`].
pub mod origin {
    /// No other packet's.
    pub const NONE: u8 = 0;
    /// It shares the parent's bytes.
    pub const CLONE: u8 = 1;
    /// It has a copy of the parent's bytes.
    pub const COPY: u8 = 2;
    /// It was cut from a large segment.
    pub const SEGMENT: u8 = 3;
    /// It is a fragment of the parent.
    pub const FRAGMENT: u8 = 4;
}

/// Values of [`detail::Verdict::decider`].
pub mod decider {
    /// Nobody that is known.
    pub const NONE: u8 = 0;
    /// A base chain of nftables (iptables-nft's as well).
    pub const NFTABLES: u8 = 1;
    /// A table of legacy iptables.
    pub const IPTABLES: u8 = 2;
    /// A table of legacy ip6tables.
    pub const IP6TABLES: u8 = 3;
    /// A table of legacy ebtables.
    pub const EBTABLES: u8 = 4;
    /// Connection tracking, looking the packet up (`nf_conntrack_in`).
    pub const CONNTRACK: u8 = 5;
    /// Connection tracking, confirming the connection (`nf_confirm`, `__nf_conntrack_confirm`).
    pub const CONFIRM: u8 = 6;
}

/// Values of [`detail::Verdict::verdict`].
pub mod verdict {
    /// NF_DROP.
    pub const DROP: u8 = 0;
    /// NF_STOLEN.
    pub const STOLEN: u8 = 2;
    /// NF_QUEUE.
    pub const QUEUE: u8 = 3;
}

/// Half of a connection, as the kernel keeps it: `struct nf_conntrack_tuple` of
/// include/net/netfilter/nf_conntrack_tuple.h, the same from Linux 2.6.25 to 7.3.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionTuple {
    /// Source address, network order; an IPv4 address is the first four bytes, zeros follow.
    pub src: [u8; 16],
    /// Source port, or the identifier of an ICMP echo. Network order.
    pub sport: [u8; 2],
    /// `NFPROTO_*`, native order: IPv4 2, IPv6 10.
    pub l3: u16,
    /// Destination address.
    pub dst: [u8; 16],
    /// Destination port, network order; of ICMP the type and the code.
    pub dport: [u8; 2],
    /// IP protocol number.
    pub proto: u8,
    /// 0 original, 1 reply.
    pub direction: u8,
}

/// Both halves, as they stand in `nf_conn::tuplehash`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connection {
    /// As the side that began sends.
    pub original: ConnectionTuple,
    /// `struct hlist_nulls_node` of the second half. Of no use.
    pub node: [u64; 2],
    /// As the other side answers: NAT is what differs from the first half's reverse.
    pub reply: ConnectionTuple,
}

/// One sighting of a followed packet.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// CLOCK_MONOTONIC, ns.
    pub time: u64,
    /// The packet's id; unique for the life of the trace, never 0.
    pub id: u64,
    /// The id of the packet that this one was made from, with [`flags::BEGIN`]; else 0.
    pub parent: u64,
    /// Address of the `struct sk_buff`.
    pub skb: u64,
    /// Inode of the network namespace; 0 where the packet had no device yet.
    pub netns: u32,
    /// Interface index in that namespace; 0 for none.
    pub ifindex: u32,
    /// `skb->len`: bytes from the link-layer or network header on, as the layer has it.
    pub len: u32,
    /// How many bytes of the packet follow this struct.
    pub captured: u32,
    /// How many events of this packet were to be sent before this one; a gap says that events were lost.
    pub seq: u16,
    /// The CPU that handled it.
    pub cpu: u16,
    /// Wire number of the [`Point`](crate::point::Point).
    pub point: u8,
    /// Bits of [`flags`].
    pub flags: u8,
    /// What the captured bytes begin with: bits of [`link`].
    pub link: u8,
    /// How it came from `parent`: one of [`origin`].
    pub origin: u8,
    /// The packet as it is here.
    pub tuple: Tuple,
    /// The VLAN tag that is kept beside the bytes, where `link` says so: host order.
    pub vlan: u16,
    /// How many of the captured bytes lie before those that `len` counts; negative: how many of these lie
    /// before the captured ones.
    pub before: i16,
    /// What the point has to say: the struct of [`detail`] that belongs to it, else zeros.
    pub detail: DetailWire,
}

/// The form of [`Event::detail`]: words, for the kernel side would copy bytes one by one.
pub type DetailWire = [u64; 4];

/// What [`Event::detail`] holds, by point.
pub mod detail {
    use super::DetailWire;

    /// `drop`.
    #[repr(C)]
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Drop {
        /// Return address in the kernel: who called `kfree_skb`.
        pub location: u64,
        /// `enum skb_drop_reason` of this kernel; 0 where the kernel tells none.
        pub reason: u32,
        /// The hook that the packet was in when it died; `in_hook` 0 when it was in none.
        pub hook: Hook,
    }

    /// Where in a netfilter hook the packet is.
    #[repr(C)]
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Hook {
        /// 1: between the hook's first and last observer; 0: in no hook.
        pub in_hook: u8,
        /// `enum nf_inet_hooks`: 0 PRE_ROUTING, 1 LOCAL_IN, 2 FORWARD, 3 LOCAL_OUT, 4 POST_ROUTING,
        /// which the bridge shares; for netdev 0 ingress, 1 egress; for ARP 0 in, 1 out, 2 forward.
        pub hook: u8,
        /// `NFPROTO_*`: IPv4 2, ARP 3, netdev 5, bridge 7, IPv6 10.
        pub pf: u8,
        /// Number of the last observer it passed at this hook, 0 the first. The user side knows
        /// the priority at which it placed each.
        pub passed: u8,
    }

    /// `nf_*`.
    #[repr(C)]
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Netfilter {
        /// Which hook.
        pub hook: Hook,
        /// Interface index of `nf_hook_state::in`, 0 for none.
        pub iif: u32,
        /// Interface index of `nf_hook_state::out`, 0 for none.
        pub oif: u32,
        /// With [`HOOK_EXIT`](super::flags::HOOK_EXIT): ns spent in the hook.
        pub spent: u32,
    }

    /// `nf_*` with [`flags::VERDICT`](super::flags::VERDICT).
    #[repr(C)]
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Verdict {
        /// nftables: the table's handle, native order. Legacy tables: the name, padded with zeros.
        pub table: [u8; 8],
        /// nftables: handle of the base chain; 0 where it cannot be told.
        pub chain: u64,
        /// nftables: handle of the rule. Legacy tables: number of the rule in the table, from 1. 0
        /// for none: the policy decided, or it cannot be told.
        pub rule: u64,
        /// Where.
        pub hook: Hook,
        /// One of [`decider`](super::decider).
        pub decider: u8,
        /// One of [`verdict`](super::verdict).
        pub verdict: u8,
        /// 1: what sets verdicts was watched, so that `rule` 0 means the policy.
        pub watched: u8,
        /// Unused, 0.
        pub pad: u8,
    }

    /// `conntrack`.
    #[repr(C)]
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Conntrack {
        /// The connection's status bits (`enum ip_conntrack_status`); 0 where not known.
        pub status: u32,
        /// Its mark.
        pub mark: u32,
        /// Its zone; 0 is the one that all are in unless told otherwise.
        pub zone: u16,
        /// `enum ip_conntrack_info`: 0 established, 1 related, 2 new, 3 established reply, 4 related
        /// reply, 7 untracked.
        pub info: u8,
        /// 1: the packet belongs to a connection. 0 with `info` other than 7: invalid.
        pub tracked: u8,
        /// 1: `status`, `mark` and `zone` are known.
        pub known: u8,
        /// Unused, 0.
        pub pad: [u8; 3],
    }

    /// `route`.
    #[repr(C)]
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Route {
        /// Next hop; zeros when the destination is on the link.
        pub gateway: [u8; 16],
        /// Routing table.
        pub table: u32,
        /// 0, or a negative errno: no route.
        pub error: i32,
        /// Interface index of the next hop's device, 0 for none.
        pub oif: u32,
        /// [`family`](super::family) of `gateway`; 0 when there is none.
        pub gateway_family: u8,
        /// `RTN_*` of the result; 0 where the kernel does not tell.
        pub kind: u8,
        /// 1: the look-up of the reverse path (rp_filter), not of the way forward.
        pub reverse: u8,
        /// Unused, 0.
        pub pad: u8,
    }

    /// `qdisc_enqueue`, `qdisc_dequeue`.
    #[repr(C)]
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Qdisc {
        /// Name of the kind, padded with zeros (`fq_codel`).
        pub kind: [u8; 16],
        /// Handle, major number in the upper 16 bits.
        pub handle: u32,
        /// Parent, in the same form.
        pub parent: u32,
    }

    /// `neigh`.
    #[repr(C)]
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Neigh {
        /// `NUD_*` bits.
        pub state: u8,
        /// 1: `lladdr` is known.
        pub known: u8,
        /// Link-layer address (Ethernet).
        pub lladdr: [u8; 6],
    }

    /// `socket`.
    #[repr(C)]
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Socket {
        /// Name of the task that read it, padded with zeros; zeros when taken outside a task.
        pub comm: [u8; 16],
        /// Process id in the initial PID namespace; 0 when not known.
        pub pid: u32,
    }

    /// `consume`: of a packet that a stack or a socket had taken, who was done with it.
    #[repr(C)]
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Consume {
        /// Return address in the kernel; 0 where the kernel does not tell.
        pub location: u64,
        /// Name of the task that ran, padded with zeros. It is the reader only where the location
        /// is a socket's read.
        pub comm: [u8; 16],
        /// Its process id in the initial PID namespace.
        pub pid: u32,
        /// Unused, 0.
        pub pad: u32,
    }

    /// A detail as bytes and back.
    ///
    /// # Safety
    /// Implementors are `repr(C)`, valid for every bit pattern, of no greater alignment
    /// than a word, and at most [`DetailWire`]'s size.
    pub unsafe trait Detail: Copy + Default {
        /// This detail in the form of [`Event::detail`](super::Event::detail).
        #[inline(always)]
        fn to_wire(self) -> DetailWire {
            let mut wire = DetailWire::default();
            // SAFETY: by the trait's contract Self fits, and is aligned.
            unsafe { wire.as_mut_ptr().cast::<Self>().write(self) };
            wire
        }

        /// The detail that these bytes hold.
        #[inline(always)]
        fn from_wire(wire: &DetailWire) -> Self {
            // SAFETY: by the trait's contract Self fits, is aligned, and every bit pattern is one.
            unsafe { wire.as_ptr().cast::<Self>().read() }
        }
    }

    macro_rules! details { ($($name:ident),*) => { $(
        const _: () = assert!(
            size_of::<$name>() <= size_of::<DetailWire>()
                && align_of::<$name>() <= align_of::<DetailWire>()
        );
        // SAFETY: `repr(C)`, integers only, and size and alignment are asserted above.
        unsafe impl Detail for $name {}
    )* } }
    details!(Drop, Netfilter, Verdict, Conntrack, Route, Qdisc, Neigh, Socket, Consume);
}

/// The causes for which an event or a packet is given up, each counted per CPU.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The ring buffer was full: one event lost.
    RingFull = 0,
    /// The table of followed packets was full, or that of what ICMP errors quote: one packet not followed.
    TrackingFull = 1,
    /// The table of learned reverse tuples was full: replies of a flow not seen before NAT is undone.
    LearnedFull = 2,
    /// The ring buffer was filling faster than it was read: one packet of which nothing is told unless it is
    /// dropped, so that those that are told can be told whole.
    Behind = 3,
    /// A packet was being matched with an expression, and another one took its place: it was not followed
    /// from there.
    Disturbed = 4,
}

/// What is left out because there are more events than there may be, each counted per CPU.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spared {
    /// Packets of which nothing is told, for they were not dropped. What is made of them is not counted.
    Packets = 0,
    /// Events that were not sent.
    Events = 1,
}

impl Spared {
    /// How many kinds there are.
    pub const COUNT: u32 = 2;
}

impl Loss {
    /// How many causes there are.
    pub const COUNT: u32 = 5;
}
