//! Flows: both directions of a conversation under one id, before and after NAT.
//!
//! The table maps every tuple a conversation was seen with to its flow and the side that sends
//! it. A packet registers the tuple it is first seen with and, when it is rewritten on its way,
//! the tuple it becomes; both also in reverse. So the answer is known by whichever of these it
//! is first seen with, also at the NIC, before its NAT is undone. Connection tracking tells both
//! tuples at once, and which side began; so does what an ICMP error quotes.
//!
//! Two namespaces may have the same addresses. What a namespace sends is told apart by that, and what
//! it receives by what it has sent.

use std::{hash::BuildHasher as _, mem, net::IpAddr, num::NonZeroUsize};

use foldhash::fast::RandomState;
use hashbrown::{HashTable, hash_table};
use lru::LruCache;

use crate::event::{Connection, Family, Headers, Tuple};

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

    /// The key of packets that carry this tuple of a connection. The identifier of an ICMP echo is in
    /// both its tuples; it belongs to the side that asked.
    fn of_tuple(connection: &Connection, tuple: Tuple, is_reply: bool) -> Self {
        let Connection { family, proto, .. } = *connection;
        let Tuple { src, dst, sport, dport } = tuple;
        let (src, dst) = if is_reply && matches!(proto, ICMP | ICMPV6) {
            ((src, dport), (dst, sport))
        } else {
            ((src, sport), (dst, dport))
        };
        Self { family, proto, src, dst }
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
const TCP_RST: u8 = 0x04;
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
    // What tells it is in the first fragment.
    if h.later_fragment {
        return None;
    }
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
        (_, TCP) => match (h.l4_kind & TCP_SYN != 0, h.l4_kind & TCP_ACK != 0) {
            (true, false) => Some(Direction::Original),
            (true, true) => Some(Direction::Reply),
            _ => None,
        },
        _ => None,
    }
}

fn is_reset(h: &Headers) -> bool {
    h.proto == TCP && !h.later_fragment && h.l4_kind & TCP_RST != 0
}

/// A packet's place in a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Membership {
    pub(super) flow: FlowId,
    pub(super) direction: Direction,
}

/// Most tuples kept of one flow; NAT needs four, and again for each namespace that does it.
const KEYS_OF_A_FLOW: usize = 16;

/// How many a flow has that is masqueraded: both directions before and after NAT, and what each side is
/// seen to send.
const USUAL_KEYS: usize = 6;

/// Which packets of a key: those that this namespace sends, or, with 0, any.
type Sender = u32;
const ANY: Sender = 0;

/// A tuple that a flow was seen with.
#[derive(Clone, Copy, Debug)]
struct Known {
    key: Key,
    sender: Sender,
    /// Of the side that sends it.
    direction: Direction,
}

impl Known {
    fn is(&self, key: Key, sender: Sender) -> bool {
        (self.key, self.sender) == (key, sender)
    }
}

/// Whose a tuple is: the flow, and which of its tuples it is. Idle flows are many, and have several
/// each: so tuples are kept with the flow only, and this is one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Owner(u64);

impl Owner {
    fn new(flow: FlowId, at: usize) -> Self {
        Self(flow.0 * KEYS_OF_A_FLOW as u64 + at as u64)
    }

    fn flow(self) -> FlowId {
        FlowId(self.0 / KEYS_OF_A_FLOW as u64)
    }

    fn known(self, flows: &LruCache<FlowId, Entry>) -> Option<&Known> {
        let at = (self.0 % KEYS_OF_A_FLOW as u64) as usize;
        flows.peek(&self.flow())?.keys.get(at)
    }
}

#[derive(Debug)]
struct Entry {
    flow: Flow,
    /// At most [`KEYS_OF_A_FLOW`].
    keys: Vec<Known>,
    /// Which of them gives way to the next one, when there are as many.
    oldest: u8,
    /// The packet that began it was not seen yet as it was sent, only answers or what NAT made
    /// of it: how it was sent is deduced from these.
    deduced: bool,
    /// Which side began is more than a guess: a packet or connection tracking said so.
    told: bool,
    /// The namespaces that send, of the side that began and of the other; [`ANY`] where not known.
    senders: [Sender; 2],
}

impl Entry {
    /// How its packets were sent was not seen.
    fn is_guessed(&self) -> bool {
        self.deduced || (!self.told && self.senders == [ANY; 2])
    }

    /// It is not the flow of a connection that began with this: one that did was seen as it was sent.
    fn is_anothers(&self, original: Key) -> bool {
        !self.is_guessed()
            && self.keys.len() < KEYS_OF_A_FLOW
            && self.keys.iter().all(|known| known.key != original)
            && self.flow != original.flow(self.flow.id)
    }

    fn sender(&self, direction: Direction) -> Sender {
        self.senders[direction as usize]
    }

    /// Takes note of a tuple: which one it is, and the one that had its place.
    fn note(&mut self, known: Known) -> (usize, Option<Known>) {
        if let Some(at) = self.keys.iter().position(|old| old.is(known.key, known.sender)) {
            self.keys[at] = known;
            return (at, None);
        }
        if self.keys.len() < KEYS_OF_A_FLOW {
            if self.keys.len() == self.keys.capacity() {
                self.keys.reserve_exact(2);
            }
            self.keys.push(known);
            return (self.keys.len() - 1, None);
        }
        let at = usize::from(self.oldest);
        self.oldest = ((at + 1) % KEYS_OF_A_FLOW) as u8;
        (at, Some(mem::replace(&mut self.keys[at], known)))
    }
}

/// The flows of a trace, the least recently used forgotten when there are too many.
#[derive(Debug)]
pub(super) struct FlowTable {
    owners: HashTable<Owner>,
    hasher: RandomState,
    flows: LruCache<FlowId, Entry>,
    made: u64,
    evicted: u64,
}

impl FlowTable {
    pub(super) fn new(most: usize) -> Self {
        Self {
            owners: HashTable::with_capacity(most.saturating_mul(USUAL_KEYS)),
            hasher: RandomState::default(),
            flows: LruCache::new(NonZeroUsize::new(most).unwrap_or(NonZeroUsize::MIN)),
            made: 0,
            evicted: 0,
        }
    }

    /// Flows forgotten because there were too many.
    pub(super) fn evicted(&self) -> u64 {
        self.evicted
    }

    /// The flow that a packet belongs to by its headers, a new one if there is none yet. `key`: that of
    /// the headers, or of the packet that it is a fragment of. `begin`: this is where the packet was first seen. `sender`: the namespace that has just sent it, if
    /// it was seen doing so.
    pub(super) fn join(
        &mut self,
        headers: &Headers,
        key: Key,
        begin: bool,
        sender: Option<u32>,
    ) -> Membership {
        let told = told_direction(headers);
        // Others reset a connection in the name of a side (REJECT).
        let sender = sender.filter(|_| !is_reset(headers));
        if let Some(known) = self.owner(key, told, sender) {
            self.flows.promote(&known.flow);
            self.tell(known, told.is_some(), key, sender);
            return known;
        }
        let direction = told.unwrap_or(Direction::Original);
        let deduced = direction == Direction::Reply || !begin;
        let membership = self.begin(key, direction, deduced);
        self.register(key, membership);
        self.tell(membership, told.is_some(), key, sender);
        membership
    }

    /// The place of an ICMP error: in the flow of the packet that it quotes, on the way back to the
    /// side that sent that.
    pub(super) fn quoting(&mut self, quoted: &Headers) -> Membership {
        let key = Key::of(quoted);
        let known = self.member(key, ANY).unwrap_or_else(|| {
            let direction = told_direction(quoted).unwrap_or(Direction::Original);
            let membership = self.begin(key, direction, true);
            self.register(key, membership);
            membership
        });
        self.flows.promote(&known.flow);
        Membership { direction: known.direction.reverse(), ..known }
    }

    /// The flow of these packets, if they can be its.
    fn owner(&self, key: Key, told: Option<Direction>, sender: Option<u32>) -> Option<Membership> {
        let fits = |known: &Membership| told.is_none_or(|direction| direction == known.direction);
        let of = |table: &Self, sender| table.member(key, sender).filter(fits);
        let Some(sender) = sender else { return of(self, ANY) };
        if let Some(known) = of(self, sender) {
            return Some(known);
        }
        let known = of(self, ANY)?;
        let seen = self.flows.peek(&known.flow)?.sender(known.direction);
        (seen == ANY || seen == sender).then_some(known)
    }

    /// Takes note of what a packet has told.
    fn tell(&mut self, member: Membership, direction: bool, key: Key, sender: Option<u32>) {
        let Some(entry) = self.flows.peek_mut(&member.flow) else { return };
        entry.told |= direction;
        let Some(sender) = sender else { return };
        entry.senders[member.direction as usize] = sender;
        self.insert(key, sender, member);
    }

    fn begin(&mut self, key: Key, direction: Direction, deduced: bool) -> Membership {
        let forward = if direction == Direction::Original { key } else { key.reverse() };
        self.made += 1;
        let flow = FlowId(self.made);
        let entry = Entry {
            flow: forward.flow(flow),
            keys: Vec::with_capacity(4),
            oldest: 0,
            deduced,
            told: false,
            senders: [ANY; 2],
        };
        if let Some((old, entry)) = self.flows.push(flow, entry) {
            self.evicted += 1;
            for (at, known) in entry.keys.into_iter().enumerate() {
                self.disown(known, Owner::new(old, at));
            }
        }
        Membership { flow, direction }
    }

    /// A packet of `member` that was found by `first` has become `now`. The packet's flow is
    /// returned: another one when `now` turns out to be the answer to an older question.
    pub(super) fn learn(&mut self, member: Membership, first: Key, now: &Headers) -> Membership {
        let key = Key::of(now);
        let answers = self.member(key, ANY).filter(|owner| {
            owner.flow != member.flow
                && owner.direction == Direction::Reply
                && told_direction(now) != Some(Direction::Original)
        });
        if let Some(owner) = answers {
            self.register(first, owner);
            return owner;
        }
        self.register(key, member);
        member
    }

    /// Connection tracking has found the connection of a packet of `member`: which side began, and the
    /// tuples of both. The packet's flow is returned: another one when that connection is known, and
    /// how the packet was sent was not seen.
    pub(super) fn connect(
        &mut self,
        mut member: Membership,
        headers: &Headers,
        connection: &Connection,
    ) -> Membership {
        let direction = if connection.is_reply { Direction::Reply } else { Direction::Original };
        let original = Key::of_tuple(connection, connection.original, false);
        let reply = Key::of_tuple(connection, connection.reply, true);
        // Each end is as it was, or as NAT makes it. Of a packet in a tunnel the tunnel's is found.
        let key = Key::of(headers);
        let (own, other) = if connection.is_reply { (reply, original) } else { (original, reply) };
        let fits = (key.family, key.proto) == (own.family, own.proto)
            && [own.src, other.dst].contains(&key.src)
            && [own.dst, other.src].contains(&key.dst);
        if !fits {
            return member;
        }
        if self.flows.peek(&member.flow).is_some_and(Entry::is_guessed) {
            let owner = [original, reply.reverse()]
                .into_iter()
                .find_map(|key| self.member(key, ANY).filter(|owner| owner.flow != member.flow));
            if let Some(owner) = owner {
                let same = direction == Direction::Original;
                let direction = if same { owner.direction } else { owner.direction.reverse() };
                member = Membership { direction, ..owner };
                self.register(key, member);
            }
        }
        if self.flows.peek(&member.flow).is_some_and(|entry| entry.is_anothers(original)) {
            let owner = self.member(original, ANY);
            let owner = owner.unwrap_or_else(|| self.begin(original, Direction::Original, false));
            let same = direction == Direction::Original;
            let direction = if same { owner.direction } else { owner.direction.reverse() };
            member = Membership { direction, ..owner };
            // NAT has given it a tuple that another flow had.
            self.register(key, member);
        }
        if let Some(entry) = self.flows.peek_mut(&member.flow) {
            let guessed = !entry.told;
            // Where it was first met, its destination had been rewritten already.
            if entry.is_guessed() && !entry.deduced && direction == member.direction {
                entry.flow = original.flow(member.flow);
            }
            entry.told = true;
            if guessed && member.direction != direction {
                member.direction = direction;
                self.turn(member.flow);
            }
        }
        // Where a packet has said otherwise, tracking began in the midst of the connection.
        let turned = member.direction != direction;
        let of = |direction: Direction| Membership {
            direction: if turned { direction.reverse() } else { direction },
            ..member
        };
        for (key, direction) in [(original, Direction::Original), (reply, Direction::Reply)] {
            if self.member(key, ANY).is_none_or(|owner| owner.flow != member.flow) {
                self.register(key, of(direction));
            }
        }
        member
    }

    /// The other side began.
    fn turn(&mut self, flow: FlowId) {
        let Some(entry) = self.flows.peek_mut(&flow) else { return };
        let Flow { src, dst, sport, dport, .. } = entry.flow;
        entry.flow = Flow { src: dst, dst: src, sport: dport, dport: sport, ..entry.flow };
        entry.senders.reverse();
        // Of what the other side has sent only answers were seen.
        entry.deduced = true;
        for known in &mut entry.keys {
            known.direction = known.direction.reverse();
        }
    }

    /// What a flow looks like, told by a packet of it that began as `first` and ended as `last`.
    /// Where only answers were seen, the question is what the last answer became, in reverse:
    /// by then its NAT was undone. A flow that was forgotten is made up from the packet.
    pub(super) fn describe(&mut self, member: Membership, first: Key, last: Key) -> Flow {
        let reply = member.direction == Direction::Reply;
        let deduced = || {
            let key = if reply { last } else { first };
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

    /// What a flow looks like, told by a packet that quotes one of it.
    pub(super) fn describe_quoted(&self, member: Membership, quoted: &Headers) -> Flow {
        match self.flows.peek(&member.flow) {
            Some(entry) => entry.flow,
            None => Key::of(quoted).flow(member.flow),
        }
    }

    /// The flow that the table has by now for a packet that began as `first`, `member` when it has
    /// none. `receiver`: the namespace that has taken it, as `last`: what answers there is what
    /// that namespace has asked.
    pub(super) fn settle(
        &self,
        member: Membership,
        first: Key,
        last: Key,
        receiver: Option<u32>,
    ) -> Membership {
        let of = |key, sender| self.member(key, sender);
        // Who asks is known by what it sends; an answer may be one to several.
        let asked = receiver
            .filter(|_| member.direction == Direction::Reply)
            .and_then(|receiver| of(last.reverse(), receiver));
        if let Some(asked) = asked {
            return Membership { direction: asked.direction.reverse(), ..asked };
        }
        let sender =
            self.flows.peek(&member.flow).map_or(ANY, |entry| entry.sender(member.direction));
        of(first, sender).or_else(|| of(first, ANY)).unwrap_or(member)
    }

    fn register(&mut self, key: Key, member: Membership) {
        let back = Membership { direction: member.direction.reverse(), ..member };
        self.insert(key.reverse(), ANY, back);
        self.insert(key, ANY, member);
    }

    /// The flow that a tuple belongs to, and the side that sends it.
    fn member(&self, key: Key, sender: Sender) -> Option<Membership> {
        let is_it =
            |owner: &Owner| owner.known(&self.flows).is_some_and(|known| known.is(key, sender));
        let owner = *self.owners.find(self.hasher.hash_one((key, sender)), is_it)?;
        let direction = owner.known(&self.flows)?.direction;
        Some(Membership { flow: owner.flow(), direction })
    }

    /// From now on the tuple belongs to this flow.
    fn insert(&mut self, key: Key, sender: Sender, member: Membership) {
        let Membership { flow, direction } = member;
        let Some(entry) = self.flows.peek_mut(&flow) else { return };
        let (at, surplus) = entry.note(Known { key, sender, direction });
        let owner = Owner::new(flow, at);
        if let Some(surplus) = surplus {
            self.disown(surplus, owner);
        }
        let hash = self.hasher.hash_one((key, sender));
        if self.owners.find(hash, |other| *other == owner).is_some() {
            return;
        }
        let Self { owners, hasher, flows, .. } = self;
        let known = |owner: &Owner| owner.known(flows);
        let entry = owners.entry(
            hash,
            |owner| known(owner).is_some_and(|known| known.is(key, sender)),
            |owner| known(owner).map_or(0, |known| hasher.hash_one((known.key, known.sender))),
        );
        match entry {
            hash_table::Entry::Occupied(mut old) => *old.get_mut() = owner,
            hash_table::Entry::Vacant(place) => drop(place.insert(owner)),
        }
    }

    /// The tuple belongs to nobody, if this was its owner.
    fn disown(&mut self, Known { key, sender, .. }: Known, owner: Owner) {
        let hash = self.hasher.hash_one((key, sender));
        if let Ok(entry) = self.owners.find_entry(hash, |other| *other == owner) {
            entry.remove();
        }
    }
}
