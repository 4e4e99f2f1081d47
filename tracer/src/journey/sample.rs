//! Events written by hand, for tests.

use std::{net::IpAddr, num::NonZeroU32};

use super::{Assembler, Benign, Journey, Limits};
use crate::event::{
    Connection, ConntrackState, Decider, Event, Family, Headers, Hook, HookFamily, InHook, Origin,
    PacketId, Place, RuleOrPolicy, Tuple, Verdict, What,
};

pub(crate) const MS: u64 = 1_000_000;
pub(crate) const LIMITS: Limits =
    Limits { in_flight: 64, flows: 64, ended: 64, settle_after: 100 * MS, lost_after: 1_000 * MS };

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// UDP over the family of the addresses.
pub(crate) fn udp(src: &str, sport: u16, dst: &str, dport: u16) -> Headers {
    let (src, dst) = (ip(src), ip(dst));
    Headers {
        family: if src.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 },
        proto: 17,
        src,
        dst,
        sport,
        dport,
        l4_kind: 0,
        l4_code: 0,
        seq: 0,
        ack: 0,
        ip_id: 1,
        ttl: 64,
        later_fragment: false,
        more_fragments: false,
        fragment_id: 0,
    }
}

/// TCP with these flags.
pub(crate) fn tcp(src: &str, sport: u16, dst: &str, dport: u16, flags: u8) -> Headers {
    Headers { proto: 6, l4_kind: flags, ..udp(src, sport, dst, dport) }
}

/// ICMP of this type.
pub(crate) fn icmp(src: &str, dst: &str, kind: u8, id: u16, seq: u32) -> Headers {
    Headers { proto: 1, l4_kind: kind, seq, ..udp(src, id, dst, 0) }
}

/// ARP with this operation.
pub(crate) fn arp(src: &str, dst: &str, operation: u8) -> Headers {
    Headers { family: Family::Arp, proto: 0, l4_kind: operation, ..udp(src, 0, dst, 0) }
}

pub(crate) fn hook(hook: Hook, passed: u8) -> InHook {
    InHook { hook, family: HookFamily::Ipv4, passed }
}

pub(crate) fn enter(at: Hook) -> What {
    What::HookEnter { hook: hook(at, 0), iif: 0, oif: 0 }
}

pub(crate) fn exit(at: Hook) -> What {
    What::HookExit { hook: hook(at, 9), spent: 500 }
}

pub(crate) fn enter_of(family: HookFamily, at: Hook) -> What {
    What::HookEnter { hook: InHook { family, ..hook(at, 0) }, iif: 0, oif: 0 }
}

pub(crate) fn exit_of(family: HookFamily, at: Hook) -> What {
    What::HookExit { hook: InHook { family, ..hook(at, 9) }, spent: 500 }
}

/// A verdict of a rule.
pub(crate) fn decide(family: HookFamily, at: Hook, verdict: Verdict) -> What {
    let by = Box::new(Decider::Nftables { table: 1, chain: 2, rule: RuleOrPolicy::Rule(12) });
    What::Verdict { hook: InHook { family, ..hook(at, 0) }, by, verdict }
}

pub(crate) fn conntrack(state: ConntrackState) -> What {
    What::Conntrack { state, status: Some(0x18e), mark: Some(5), zone: Some(0), connection: None }
}

/// What connection tracking knows of a connection: both its tuples, in the form of packets.
pub(crate) fn tracked(original: Headers, reply: Headers, is_reply: bool) -> What {
    let tuple = |h: Headers| Tuple { src: h.src, dst: h.dst, sport: h.sport, dport: h.dport };
    let connection = Connection {
        family: original.family,
        proto: original.proto,
        original: tuple(original),
        reply: tuple(reply),
        is_reply,
    };
    What::Conntrack {
        state: ConntrackState::Established,
        status: None,
        mark: None,
        zone: None,
        connection: Some(Box::new(connection)),
    }
}

/// Queued to a socket.
pub(crate) fn queued() -> What {
    What::Socket { pid: None, comm: None }
}

pub(crate) fn drop(reason: u32, in_hook: Option<InHook>) -> What {
    What::Drop { reason: Some(reason), location: 0xffff_0000 + u64::from(reason), hook: in_hook }
}

pub(crate) fn consume() -> What {
    What::Consume { by: None }
}

pub(crate) fn socket() -> What {
    What::Socket { pid: NonZeroU32::new(42), comm: Some("nc".into()) }
}

pub(crate) fn route(oif: u32, error: i32, kind: u8) -> What {
    What::Route { table: 254, gateway: None, oif, kind, error, reverse: false }
}

/// The look-up of the reverse path.
pub(crate) fn reverse_route() -> What {
    What::Route { table: 254, gateway: None, oif: 2, kind: 1, error: 0, reverse: true }
}

/// The events of one packet, microseconds apart.
pub(crate) struct Packet {
    id: u64,
    parent: Option<u64>,
    origin: Origin,
    start: u64,
    headers: Headers,
    place: Place,
    events: Vec<Event>,
}

pub(crate) fn packet(id: u64, headers: Headers) -> Packet {
    let place = Place { netns: 1, ifindex: 2 };
    let (parent, origin) = (None, Origin::Clone);
    Packet { id, parent, origin, start: id * 10_000, headers, place, events: Vec::new() }
}

impl Packet {
    pub(crate) fn cloned_from(self, parent: u64) -> Self {
        self.made_from(parent, Origin::Clone)
    }

    pub(crate) fn made_from(mut self, parent: u64, origin: Origin) -> Self {
        (self.parent, self.origin) = (Some(parent), origin);
        self
    }

    pub(crate) fn at(mut self, netns: u32, ifindex: u32) -> Self {
        self.place = Place { netns, ifindex };
        self
    }

    /// The last event is of an ICMP error, which quotes this.
    pub(crate) fn quoting(mut self, quoted: Headers) -> Self {
        if let Some(event) = self.events.last_mut() {
            event.quoted = Some(Box::new(quoted));
        }
        self
    }

    /// With the last event the packet was found to be none of those that are followed.
    pub(crate) fn foreign(mut self) -> Self {
        if let Some(event) = self.events.last_mut() {
            event.foreign = true;
        }
        self
    }

    pub(crate) fn starting(mut self, time: u64) -> Self {
        self.start = time;
        self
    }

    /// From here on the packet looks like this.
    pub(crate) fn becomes(mut self, headers: Headers) -> Self {
        self.headers = headers;
        self
    }

    pub(crate) fn see(mut self, what: What) -> Self {
        let n = self.events.len();
        self.events.push(Event {
            time: self.start + n as u64 * 1_000,
            id: PacketId(self.id),
            seq: n as u16,
            begin: n == 0,
            parent: (n == 0).then(|| self.parent.map(PacketId)).flatten(),
            origin: self.origin,
            learned: false,
            foreign: false,
            quoted: None,
            thinned: false,
            tunneled: false,
            skb: 0xffff_8881_47cb_7900,
            place: self.place,
            cpu: (n % 2) as u16,
            len: 84 + 14 * u32::from(matches!(what, What::DevXmit)),
            headers: self.headers,
            what,
            bytes: None,
        });
        self
    }

    pub(crate) fn events(self) -> Vec<Event> {
        self.events
    }
}

/// The first, a middle and the last fragment of a packet.
pub(crate) fn cut(whole: Headers) -> [Headers; 3] {
    let first = Headers { fragment_id: 9, more_fragments: true, ..whole };
    let middle = Headers { later_fragment: true, sport: 0, dport: 0, ..first };
    [first, middle, Headers { more_fragments: false, ..middle }]
}

/// What is seen when three fragments arrive and are put together by a hook: the first one is done with, the
/// last one becomes the whole.
pub(crate) fn put_together(whole: Headers) -> Vec<Event> {
    let [first, middle, last] = cut(whole);
    let arrives =
        |id, headers| packet(id, headers).see(What::DevReceive).see(enter(Hook::Prerouting));
    let mut events = arrives(1, first).events();
    events.extend(arrives(2, middle).events());
    events.extend(arrives(3, last).events());
    let last_seen = events.last().unwrap().time;
    let done = arrives(1, first).see(consume()).events().pop().unwrap();
    events.push(Event { time: last_seen + 1, ..done });
    let on = arrives(3, last).becomes(whole).see(exit(Hook::Prerouting)).see(enter(Hook::Input));
    events.extend(on.see(exit(Hook::Input)).see(socket()).see(consume()).events().split_off(2));
    events
}

/// The journeys of these events, without a word about time before the end.
pub(crate) fn journeys(events: impl IntoIterator<Item = Event>) -> Vec<Journey> {
    journeys_with((), events)
}

/// The same, with a classifier.
pub(crate) fn journeys_with(
    benign: impl Benign,
    events: impl IntoIterator<Item = Event>,
) -> Vec<Journey> {
    let mut assembler = Assembler::new(LIMITS, benign);
    let mut done = Vec::new();
    for event in events {
        assembler.push(event, &mut done);
    }
    assembler.finish(&mut done);
    done
}
