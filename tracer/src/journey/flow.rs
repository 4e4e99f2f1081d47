//! Flows: both directions of a conversation under one id, before and after NAT.
//!
//! The table maps every tuple a conversation was seen with to its flow and the side that sends
//! it. A packet registers the tuple it is first seen with and, when it is rewritten on its way,
//! the tuple it becomes; both also in reverse. So the answer is known by whichever of these it
//! is first seen with, also at the NIC, before its NAT is undone.

use std::{collections::HashMap, net::IpAddr, num::NonZeroUsize};

use lru::LruCache;

use crate::event::{Family, Headers};

/// Number of a flow in this trace, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowId(pub u64);

/// Which side of a flow sent a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The side that began.
    Original,
    /// The other side.
    Reply,
}

impl Direction {
    /// The other direction.
    pub fn reverse(self) -> Self {
        match self {
            Direction::Original => Direction::Reply,
            Direction::Reply => Direction::Original,
        }
    }
}

/// A flow, as its originating side sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// Its number.
    pub id: FlowId,
    /// Link family.
    pub family: Family,
    /// IP protocol number.
    pub proto: u8,
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Source port, or the identifier of an ICMP echo.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
}

/// What identifies a conversation in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    family: Family,
    proto: u8,
    src: (IpAddr, u16),
    dst: (IpAddr, u16),
}

impl Key {
    /// The key of a packet, by its [`ends`].
    pub(super) fn of(headers: &Headers) -> Self {
        let (src, dst) = ends(headers);
        Self { family: headers.family, proto: headers.proto, src, dst }
    }

    fn reverse(self) -> Self {
        Self { src: self.dst, dst: self.src, ..self }
    }

    fn flow(self, id: FlowId) -> Flow {
        let arp = self.family == Family::Arp;
        Flow {
            id,
            family: self.family,
            proto: self.proto,
            src: self.src.0,
            dst: self.dst.0,
            sport: if arp { 0 } else { self.src.1 },
            dport: if arp { 0 } else { self.dst.1 },
        }
    }
}

const ICMP: u8 = 1;
const TCP: u8 = 6;
const ICMPV6: u8 = 58;
const ARP_REQUEST: u8 = 1;
const ARP_REPLY: u8 = 2;
const TCP_SYN: u8 = 0x02;
const TCP_ACK: u8 = 0x10;

/// Sender and receiver, each with what takes the place of a port. The identifier of an ICMP echo
/// belongs to the side that asked, in both directions; so does the question of an ARP exchange.
/// With that, an answer's ends are its question's in reverse, whatever the protocol.
pub(super) fn ends(h: &Headers) -> ((IpAddr, u16), (IpAddr, u16)) {
    match (h.family, h.proto, h.l4_kind) {
        (Family::Ipv4, ICMP, 0) | (Family::Ipv6, ICMPV6, 129) => ((h.src, 0), (h.dst, h.sport)),
        (Family::Arp, _, ARP_REPLY) => ((h.src, 0), (h.dst, 1)),
        (Family::Arp, ..) => ((h.src, 1), (h.dst, 0)),
        _ => ((h.src, h.sport), (h.dst, h.dport)),
    }
}

/// The direction that a packet tells by itself, whatever was seen before.
fn told_direction(h: &Headers) -> Option<Direction> {
    match (h.family, h.proto) {
        (Family::Arp, _) => match h.l4_kind {
            ARP_REQUEST => Some(Direction::Original),
            ARP_REPLY => Some(Direction::Reply),
            _ => None,
        },
        (Family::Ipv4, ICMP) => match h.l4_kind {
            8 => Some(Direction::Original),
            0 => Some(Direction::Reply),
            _ => None,
        },
        (Family::Ipv6, ICMPV6) => match h.l4_kind {
            128 => Some(Direction::Original),
            129 => Some(Direction::Reply),
            _ => None,
        },
        (_, TCP) if h.later_fragment => None,
        (_, TCP) => match (h.l4_kind & TCP_SYN != 0, h.l4_kind & TCP_ACK != 0) {
            (true, false) => Some(Direction::Original),
            (true, true) => Some(Direction::Reply),
            _ => None,
        },
        _ => None,
    }
}

/// A packet's place in a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Membership {
    pub(super) flow: FlowId,
    pub(super) direction: Direction,
}

/// Most tuples kept of one flow; NAT needs four.
const KEYS_OF_A_FLOW: usize = 8;

#[derive(Debug)]
struct Entry {
    flow: Flow,
    keys: Vec<Key>,
    /// The packet that began it was not seen yet as it was sent, only answers or what NAT made
    /// of it: how it was sent is deduced from these.
    deduced: bool,
}

/// The flows of a trace, the least recently used forgotten when there are too many.
#[derive(Debug)]
pub(super) struct FlowTable {
    keys: HashMap<Key, Membership>,
    flows: LruCache<FlowId, Entry>,
    made: u64,
    evicted: u64,
}

impl FlowTable {
    pub(super) fn new(most: usize) -> Self {
        Self {
            keys: HashMap::new(),
            flows: LruCache::new(NonZeroUsize::new(most).unwrap_or(NonZeroUsize::MIN)),
            made: 0,
            evicted: 0,
        }
    }

    /// Flows forgotten because there were too many.
    pub(super) fn evicted(&self) -> u64 {
        self.evicted
    }

    /// The flow that a packet belongs to by its headers, a new one if there is none yet. `begin`:
    /// this is where the packet was first seen.
    pub(super) fn join(&mut self, headers: &Headers, begin: bool) -> Membership {
        let key = Key::of(headers);
        let told = told_direction(headers);
        if let Some(known) = self.keys.get(&key).copied()
            && told.is_none_or(|direction| direction == known.direction)
        {
            self.flows.promote(&known.flow);
            return known;
        }
        let direction = told.unwrap_or(Direction::Original);
        let forward = if direction == Direction::Original { key } else { key.reverse() };
        self.made += 1;
        let flow = FlowId(self.made);
        let deduced = direction == Direction::Reply || !begin;
        let entry = Entry { flow: forward.flow(flow), keys: Vec::with_capacity(4), deduced };
        if let Some((old, entry)) = self.flows.push(flow, entry) {
            self.evicted += 1;
            for key in entry.keys {
                self.forget(key, old);
            }
        }
        let membership = Membership { flow, direction };
        self.register(key, membership);
        membership
    }

    /// A packet of `member` that began as `first` has become `now`. The packet's flow is
    /// returned: another one when `now` turns out to be the answer to an older question.
    pub(super) fn learn(
        &mut self,
        member: Membership,
        first: &Headers,
        now: &Headers,
    ) -> Membership {
        let key = Key::of(now);
        let answers = self.keys.get(&key).copied().filter(|owner| {
            owner.flow != member.flow
                && owner.direction == Direction::Reply
                && told_direction(now) != Some(Direction::Original)
        });
        if let Some(owner) = answers {
            self.register(Key::of(first), owner);
            return owner;
        }
        self.register(key, member);
        member
    }

    /// What a flow looks like, told by a packet of it that began as `first` and ended as `last`.
    /// Where only answers were seen, the question is what the last answer became, in reverse:
    /// by then its NAT was undone. A flow that was forgotten is made up from the packet.
    pub(super) fn describe(&mut self, member: Membership, first: &Headers, last: &Headers) -> Flow {
        let reply = member.direction == Direction::Reply;
        let deduced = || {
            let of = if reply && !last.later_fragment { last } else { first };
            let key = Key::of(of);
            if reply { key.reverse().flow(member.flow) } else { key.flow(member.flow) }
        };
        match self.flows.peek_mut(&member.flow) {
            Some(entry) => {
                if entry.deduced {
                    entry.flow = deduced();
                }
                entry.flow
            }
            None => deduced(),
        }
    }

    /// The flow that the table has for these headers by now, `member` when it has none.
    pub(super) fn settle(&self, member: Membership, headers: &Headers) -> Membership {
        self.keys.get(&Key::of(headers)).copied().unwrap_or(member)
    }

    fn register(&mut self, key: Key, member: Membership) {
        let back = Membership { direction: member.direction.reverse(), ..member };
        for (key, member) in [(key.reverse(), back), (key, member)] {
            let Some(entry) = self.flows.peek_mut(&member.flow) else { return };
            if !entry.keys.contains(&key) {
                entry.keys.push(key);
            }
            let surplus = (entry.keys.len() > KEYS_OF_A_FLOW).then(|| entry.keys.remove(0));
            self.keys.insert(key, member);
            if let Some(oldest) = surplus {
                self.forget(oldest, member.flow);
            }
        }
    }

    fn forget(&mut self, key: Key, flow: FlowId) {
        if self.keys.get(&key).is_some_and(|member| member.flow == flow) {
            self.keys.remove(&key);
        }
    }
}
