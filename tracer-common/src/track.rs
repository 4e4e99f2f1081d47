//! The layout of the kernel side's tables: followed packets, learned reverse tuples, published addresses.

use crate::event::{Tuple, detail::Hook, family, origin};

/// What is known of a followed packet: a value of the map `FOLLOWED`, whose key is the address of
/// the packet's `struct sk_buff`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Followed {
    /// Its id.
    pub id: u64,
    /// When it entered the netfilter hook that it is in, ns.
    pub hook_since: u64,
    /// The namespace where it was last seen, by inode.
    pub netns: u32,
    /// How many events it had; wraps.
    pub events: u16,
    /// It was taken by a stack or a socket: the next life at this address is another packet's.
    pub delivered: u8,
    /// A socket event was sent.
    pub read: u8,
    /// The netfilter hook that it is in.
    pub hook: Hook,
    /// How it came from `parent`: one of [`origin`].
    pub origin: u8,
    /// It has been seen: its first event was sent. Before that it is known from its parent alone.
    pub seen: u8,
    /// Somebody is deciding about it in the hook: there is a [`Decision`].
    pub deciding: u8,
    /// The stack of a namespace has it for itself: what is sent at this address is another packet, for
    /// not every end has a tracepoint.
    pub arrived: u8,
    /// The packet that it was made from; 0 for none.
    pub parent: u64,
    /// It is in a tunnel's packet: who takes that does not take it.
    pub tunneled: u8,
    /// It was told what it is to its connection.
    pub tracked: u8,
    /// Why it is followed: [`flags::LEARNED`](crate::event::flags::LEARNED), or another bit; and
    /// [`flags::FOREIGN`](crate::event::flags::FOREIGN) once that was found wrong.
    pub begun: u8,
    /// It was given to a driver, and not received since.
    pub sent: u8,
    /// How much of it is told: one of [`telling`].
    pub telling: u8,
    /// An event of it was told.
    pub told: u8,
    /// Unused, 0.
    pub pad: [u8; 2],
    /// The packet as it was last parsed.
    pub tuple: Tuple,
}

/// How far the time (CLOCK_MONOTONIC, ns) at which a packet began is shifted to the left in its id; below it is
/// the CPU.
pub const ID_TIME_SHIFT: u32 = 12;

/// Values of [`Followed::telling`]: how much is told of a packet, the more there are the less.
pub mod telling {
    use crate::{
        event::flags::{CONNECTION, HOOK_EXIT, VERDICT},
        point::Point,
    };

    /// Every event.
    pub const ALL: u8 = 0;
    /// Where it begins, what changes it, where it leaves a device, and its end.
    pub const ENDS: u8 = 1;
    /// Nothing, unless it is dropped: that, and by whom.
    pub const DROP: u8 = 2;
    /// The same, for there was no room: what is not told is lost.
    pub const BEHIND: u8 = 3;

    /// Whether an event with this [`Point`]'s number and these flags is left out. `captures`: bytes of packets
    /// are kept, which are had at tc.
    #[inline(always)]
    pub const fn leaves_out(telling: u8, point: u8, flags: u8, captures: bool) -> bool {
        const DROP_POINT: u8 = Point::Drop as u8;
        const SENT: u8 = Point::DevXmit as u8;
        const SOCKET: u8 = Point::Socket as u8;
        const CONSUME: u8 = Point::Consume as u8;
        const NAT: u8 = Point::Nat as u8;
        const EGRESS: u8 = Point::TcEgress as u8;
        const INGRESS: u8 = Point::TcIngress as u8;
        let decides = point == DROP_POINT || flags & VERDICT != 0;
        match telling {
            ALL => false,
            ENDS => {
                let changes = flags & (CONNECTION | HOOK_EXIT) != 0 || point == NAT;
                let ends = matches!(point, SENT | SOCKET | CONSUME);
                let captured = captures && matches!(point, EGRESS | INGRESS);
                !(decides || changes || ends || captured)
            }
            _ => !decides,
        }
    }
}

/// A packet that ended right behind a driver: a value of the map `SENT`, whose key is the packet as it was
/// last parsed.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Its id; 0 where another one ended at that time that looked the same.
    pub id: u64,
    /// When it ended, ns.
    pub time: u64,
}

/// Who is deciding about a packet in a netfilter hook: a value of the map `DECISIONS`, whose key is
/// the address of the packet's skb. It stands while [`Followed::deciding`] says so.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// As in [`Verdict`](crate::event::detail::Verdict).
    pub table: [u8; 8],
    /// As there.
    pub chain: u64,
    /// As there.
    pub rule: u64,
    /// One of [`decider`](crate::event::decider).
    pub decider: u8,
    /// The hook was not known of before: it is left when this decision is made.
    pub entered: u8,
    /// Unused, 0.
    pub pad: [u8; 6],
}

/// A learned reverse tuple: a key of the map `LEARNED`, whose value is when it was last seen (ns).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flow {
    /// Source address, IPv4 in its IPv4-mapped form.
    pub src: [u8; 16],
    /// Destination address, in the same form.
    pub dst: [u8; 16],
    /// Source port or ICMP echo identifier, host order.
    pub sport: u16,
    /// Destination port, host order.
    pub dport: u16,
    /// One of [`family`](crate::event::family).
    pub family: u8,
    /// IP protocol number.
    pub proto: u8,
    /// Unused, 0.
    pub pad: u16,
}

/// An address that a host publishes for a followed one (DNAT): a key of the map `PUBLISHED`. Packets to
/// it are followed from wherever they are first seen.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Published {
    /// The address, IPv4 in its IPv4-mapped form.
    pub address: [u8; 16],
    /// Port, host order; 0 for every packet to the address.
    pub port: u16,
    /// IP protocol number; 0 with port 0.
    pub proto: u8,
    /// Unused, 0.
    pub pad: [u8; 5],
}

/// Flags of TCP that receive offload sets in the segment that takes in others: FIN and PSH.
const MERGED_FLAGS: u8 = 0x01 | 0x08;

impl Followed {
    /// Whether the packet that is now at this address can be the one that was last seen here: all
    /// that the way through a host leaves alone is as it was. `fresh`: addresses and ports too, for
    /// this is a place where nothing can have rewritten them unseen.
    ///
    /// Skb addresses are used again at once, and many packets tell nothing of themselves but
    /// addresses and ports (UDP that must not be fragmented has the identification 0).
    #[inline(always)]
    pub fn is(&self, now: &Tuple, fresh: bool) -> bool {
        let before = &self.tuple;
        // A piece that was not seen yet has numbers of its own.
        if self.seen == 0 && self.origin >= origin::SEGMENT {
            return before.family == now.family
                && before.proto == now.proto
                && before.src == now.src
                && before.dst == now.dst;
        }
        let merged = if now.proto == 6 { MERGED_FLAGS } else { 0 };
        let rewritable =
            (!fresh || self.hook.in_hook != 0) && matches!(now.family, family::IPV4 | family::IPV6);
        if before.family != now.family
            || before.proto != now.proto
            || before.ip_id != now.ip_id
            || now.ttl > before.ttl
        {
            return false;
        }
        // The last fragment to come becomes the whole packet, at its own address, and has the first one's
        // headers from then on (`skb_morph` in `inet_frag_reasm_prepare` of net/ipv4/inet_fragment.c, since
        // Linux 5.1; before, in `ip_frag_reasm`). IPv4 does that between two hooks as well (`ip_local_deliver`);
        // its identification is the packet's own, while IPv6's flow label is that of many.
        if before.later_fragment != 0 && now.later_fragment == 0 {
            return rewritable
                || now.family == family::IPV4 && before.src == now.src && before.dst == now.dst;
        }
        before.seq == now.seq
            && before.ack == now.ack
            && before.l4_kind | merged == now.l4_kind | merged
            && before.l4_code == now.l4_code
            && before.later_fragment == now.later_fragment
            && (rewritable || has_same_ends(before, now))
    }
}

/// Whether addresses and ports are the same.
#[inline(always)]
pub fn has_same_ends(a: &Tuple, b: &Tuple) -> bool {
    a.src == b.src && a.dst == b.dst && a.sport == b.sport && a.dport == b.dport
}

#[cfg(feature = "user")]
mod pod {
    // SAFETY: `repr(C)`, integers only, every bit pattern valid.
    unsafe impl aya::Pod for super::Followed {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Flow {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Published {}
}

#[cfg(test)]
mod tests {
    use super::*;

    const UDP: u8 = 17;
    const TCP: u8 = 6;

    fn packet(proto: u8) -> Tuple {
        Tuple {
            src: [1; 16],
            dst: [2; 16],
            sport: 1000,
            dport: 53,
            family: family::IPV4,
            proto,
            ttl: 64,
            ..Tuple::default()
        }
    }

    fn followed(tuple: Tuple) -> Followed {
        Followed { id: 1, tuple, ..Followed::default() }
    }

    #[test]
    fn datagrams_without_an_identification_are_told_apart_by_their_ends() {
        let before = followed(packet(UDP));
        let other = Tuple { dst: [3; 16], ..packet(UDP) };
        assert!(before.is(&packet(UDP), true));
        assert!(!before.is(&other, true), "another packet at the same address");
        assert!(before.is(&other, false), "may have been rewritten on the way");
    }

    #[test]
    fn a_hook_that_was_not_left_may_have_rewritten_it() {
        let in_hook = Hook { in_hook: 1, ..Hook::default() };
        let before = Followed { hook: in_hook, ..followed(packet(UDP)) };
        assert!(before.is(&Tuple { dst: [3; 16], ..packet(UDP) }, true));
    }

    #[test]
    fn receive_offload_does_not_make_another_packet() {
        let before = followed(Tuple { l4_kind: 0x10, seq: 7, ..packet(TCP) });
        let merged = Tuple { l4_kind: 0x19, seq: 7, ..packet(TCP) };
        assert!(before.is(&merged, true));
        assert!(!before.is(&Tuple { seq: 8, ..merged }, true));
        assert!(!before.is(&Tuple { l4_kind: 0x14, ..merged }, true), "a reset");
    }

    #[test]
    fn a_hop_limit_only_falls() {
        let before = followed(packet(TCP));
        assert!(before.is(&Tuple { ttl: 63, ..packet(TCP) }, true));
        assert!(!before.is(&Tuple { ttl: 65, ..packet(TCP) }, true));
    }

    #[test]
    fn the_last_fragment_becomes_the_whole_packet() {
        let piece = Tuple {
            sport: 0,
            dport: 0,
            ip_id: 7,
            fragment_id: 7,
            later_fragment: 1,
            ..packet(UDP)
        };
        let whole = Tuple { ip_id: 7, ..packet(UDP) };
        let before = followed(piece);
        assert!(before.is(&whole, true));
        assert!(!before.is(&Tuple { ip_id: 8, ..whole }, true), "another packet");
        let rewritten = Tuple { dst: [3; 16], ..whole };
        assert!(!before.is(&rewritten, true));
        assert!(before.is(&rewritten, false), "put together and rewritten in one hook");
        assert!(!followed(whole).is(&piece, true), "what is cut begins with its first piece");
    }

    #[test]
    fn of_ipv6_no_datagram_becomes_another_of_its_flow() {
        let v6 = |later_fragment| Tuple { family: family::IPV6, later_fragment, ..packet(UDP) };
        let before = followed(v6(1));
        assert!(!before.is(&v6(0), true), "the label of the flow tells no packet");
        assert!(before.is(&v6(0), false));
    }

    #[test]
    fn nothing_rewrites_arp() {
        let question = Tuple { family: family::ARP, ..packet(0) };
        let before = followed(question);
        assert!(before.is(&question, false));
        assert!(!before.is(&Tuple { dst: [9; 16], ..question }, false));
    }
}
