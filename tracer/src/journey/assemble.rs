//! Events of many packets, in any order, into journeys.
//!
//! Of a packet in the making the events are only kept, in the packet's own order; hops are made
//! from them when it ends, by [`super::hops`]. So the order in which events arrive can make no
//! difference, and a journey costs its events, nothing more.

use std::{cmp::Reverse, collections::hash_map::Entry, mem, num::NonZeroUsize};

use foldhash::{HashMap, HashMapExt as _, fast::RandomState};
use lru::LruCache;
use priority_queue::PriorityQueue;

use super::{
    Benign, BenignEnd, Branch, Branches, Event, HopDetail, Journey, LostWhy, Outcome, Parent,
    flow::{FlowTable, Key, Membership},
    fragments::{Datagram, Fragments},
    hops::{End, Path},
    is_delivery, is_for_here,
    sightings::{Seen, Sightings},
};
use crate::event::{Headers, Hook, HookFamily, Origin, PacketId, Place, What};

/// The bounds of an [`Assembler`].
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most journeys in the making. When another one begins beyond it, the one whose time would
    /// run out first is ended.
    pub in_flight: usize,
    /// Most flows remembered.
    pub flows: usize,
    /// Most ended packets remembered, to tell their late events from new packets.
    pub ended: usize,
    /// How long a delivered journey, or one whose end came before some of its events, waits for
    /// what may still follow, ns.
    pub settle_after: u64,
    /// Silence after which a journey without an end is lost, ns.
    pub lost_after: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            in_flight: 32_768,
            flows: 65_536,
            ended: 65_536,
            settle_after: 200_000_000,
            // Longer than a neighbour is asked for before its packets are dropped (3 s).
            lost_after: 5_000_000_000,
        }
    }
}

/// IP protocols whose packets are a port's, and so one socket's unless they are multicast.
const WITH_PORTS: [u8; 5] = [6, 17, 33, 132, 136];

/// Most events of one packet; one that has more goes in circles.
const EVENTS_OF_A_PACKET: usize = 4096;

/// Most journeys that have ended whose memory is kept for others.
const SPARE: usize = 1024;

/// What an [`Assembler`] has seen and given up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Events taken.
    pub received: u64,
    /// Events that came twice.
    pub duplicate: u64,
    /// Events that came after their journey had ended.
    pub late: u64,
    /// The same, where it was to be expected: a slow reader took a packet from its socket after
    /// the journey had been settled as delivered.
    pub expected_late: u64,
    /// Journeys ended early because there were too many at once, or because one had no end of
    /// events.
    pub evicted: u64,
    /// Packets of which nothing but a harmless end was seen, and such as turned out to be none of those that
    /// are followed: no journeys.
    pub hidden: u64,
    /// Flows, and packets of which fragments were seen, forgotten because there were too many.
    pub flows_evicted: u64,
}

/// Puts journeys together.
#[derive(Debug)]
pub struct Assembler<B = ()> {
    limits: Limits,
    benign: B,
    making: HashMap<PacketId, Box<Making>>,
    /// What journeys that have ended leave to others: their memory.
    spare: Vec<Sightings>,
    /// When to look at each journey in the making: its deadline when it was last scheduled,
    /// which is never later than the deadline it has by now.
    deadlines: Deadlines,
    /// The journeys in the making that have a parent, by that.
    children: HashMap<PacketId, Vec<PacketId>>,
    /// Packets that ended, and whether their reader may still be heard of.
    ended: LruCache<PacketId, bool>,
    flows: FlowTable,
    fragments: Fragments,
    finished: u64,
    /// How far time has come, by events and by what was told.
    now: u64,
    /// The latest time before which events are known to have been lost.
    last_loss: Option<u64>,
    counts: Counts,
}

/// Which journey is looked at when, the first one first; at one time, by its packet.
type Deadlines = PriorityQueue<PacketId, Reverse<(u64, PacketId)>, RandomState>;

/// Why a journey is ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// Its end was seen, or it was silent for long enough.
    Over,
    /// The trace ends.
    TraceEnded,
    /// No room.
    Evicted,
}

impl<B: Benign> Assembler<B> {
    /// An empty one. `benign` knows the drops that are none.
    pub fn new(limits: Limits, benign: B) -> Self {
        let ended = NonZeroUsize::new(limits.ended).unwrap_or(NonZeroUsize::MIN);
        Self {
            limits,
            benign,
            making: HashMap::new(),
            spare: Vec::new(),
            deadlines: PriorityQueue::with_default_hasher(),
            children: HashMap::new(),
            ended: LruCache::new(ended),
            flows: FlowTable::new(limits.flows),
            fragments: Fragments::new(limits.flows),
            finished: 0,
            now: 0,
            last_loss: None,
            counts: Counts::default(),
        }
    }

    /// What was seen and given up so far.
    pub fn counts(&self) -> Counts {
        let flows_evicted = self.flows.evicted() + self.fragments.forgotten();
        Counts { flows_evicted, ..self.counts }
    }

    /// Journeys in the making.
    pub fn in_flight(&self) -> usize {
        self.making.len()
    }

    /// No deadline outlives its journey.
    #[cfg(test)]
    pub(super) fn nothing_kept(&self) -> bool {
        self.deadlines.is_empty() && self.making.is_empty() && self.children.is_empty()
    }

    /// What was made from this packet and is still on its way; copies for sockets that listen to what
    /// passes are none.
    pub(super) fn on_their_way(&self, parent: PacketId) -> impl Iterator<Item = Branch> {
        let children = self.children.get(&parent).into_iter().flatten();
        children.filter_map(|id| {
            let making = self.making.get(id)?;
            let (first, (_, origin)) = (making.seen.first()?, making.parent?);
            (!making.is_copy_for_a_tap()).then_some(Branch {
                packet: *id,
                origin,
                number: None,
                start: first.time,
                first: first.place,
                ended: None,
            })
        })
    }

    /// Takes one event; journeys that it completes are appended to `done`.
    pub fn push(&mut self, mut event: Event, done: &mut Vec<Journey>) {
        self.counts.received += 1;
        self.now = self.now.max(event.time);
        let id = event.id;
        if let (Some(parent), Origin::Segment | Origin::Fragment) = (event.parent, event.origin)
            && let Some(cut) = self.making.get_mut(&parent)
        {
            cut.pieces = true;
        }
        if event.foreign {
            self.forget(id);
            return;
        }
        let is_new = !self.making.contains_key(&id);
        if is_new && let Some(&reader_expected) = self.ended.peek(&id) {
            if reader_expected && matches!(event.what, What::Socket { .. } | What::Consume { .. }) {
                self.counts.expected_late += 1;
            } else {
                self.counts.late += 1;
            }
            return;
        }
        // A copy of an error quotes what the error does, and is not asked for it.
        if let (Some(parent), None) = (event.parent, &event.quoted)
            && event.headers.is_icmp_error()
            && let Some(error) = self.making.get(&parent)
        {
            event.quoted = error.quoted.clone();
        }
        if is_new {
            while self.making.len() >= self.limits.in_flight.max(1) {
                let Some(first) = self.next_deadline(u64::MAX) else { break };
                self.end(first, Cause::Evicted, done);
            }
            let key = self.fragments.key(&event.headers, event.time);
            let member = match &event.quoted {
                Some(quoted) => self.flows.quoting(quoted),
                None => self.flows.join(&event.headers, key, event.begin, sender(&event)),
            };
            let due = event.time.saturating_add(self.limits.lost_after);
            self.deadlines.push(id, Reverse((due, id)));
            let seen = self.spare.pop().unwrap_or_default();
            self.making.insert(id, Box::new(Making::new(&event, seen, member, key)));
        }
        let Some(making) = self.making.get_mut(&id) else { return };
        if let (Some(parent), None) = (event.parent, making.parent) {
            self.children.entry(parent).or_default().push(id);
        }
        let (headers, time, place) = (event.headers, event.time, event.place);
        let connection = match &event.what {
            What::Conntrack { connection: Some(connection), .. } => Some(**connection),
            _ => None,
        };
        if let Some(quoted) = &event.quoted {
            // Another event may have come first.
            if !making.seen.is_empty() {
                making.member = self.flows.quoting(quoted);
            }
            making.quoted = Some(quoted.clone());
        }
        if !making.insert(event) {
            self.counts.duplicate += 1;
            return;
        }
        // What an error is addressed with is no flow's, and its connection the one of what it quotes.
        let told = making.quoted.is_none()
            && !headers.later_fragment
            && (headers.family, headers.proto) == (making.headers.family, making.headers.proto);
        let put_together = match Datagram::of(&headers) {
            Some(datagram) => {
                self.fragments.see(datagram, &headers, id, time);
                making.fragment = Some((datagram, time));
                None
            }
            None => making.fragment.take_if(|(_, then)| told && *then <= time),
        };
        if put_together.is_some() && making.headers.later_fragment {
            // Only now it tells what it belongs to.
            (making.headers, making.found_by, making.key) =
                (headers, Key::of(&headers), Key::of(&headers));
            making.member = self.flows.join(&headers, making.found_by, false, None);
        } else if told && Key::of(&headers) != making.key {
            making.key = Key::of(&headers);
            making.member = self.flows.learn(making.member, making.found_by, &headers);
        }
        if let (Some(connection), None) = (connection, &making.quoted) {
            making.member = self.flows.connect(making.member, &headers, &connection);
        }
        if making.end_seen && making.seen.is_whole() && !making.may_have_become_another() {
            self.end(id, Cause::Over, done);
        } else if making.seen.len() >= EVENTS_OF_A_PACKET {
            self.end(id, Cause::Evicted, done);
        } else {
            making.hasten(id, &self.limits, &mut self.deadlines);
        }
        if let Some((datagram, _)) = put_together {
            self.put_together(id, datagram, (time, place), done);
        }
    }

    /// This packet is none of those that are followed.
    fn forget(&mut self, id: PacketId) {
        if let Some(making) = self.making.remove(&id) {
            self.deadlines.remove(&id);
            self.reuse(making.seen);
        }
        self.ended.push(id, false);
        self.counts.hidden += 1;
    }

    /// The packet `whole` is at this place what the fragments of `datagram` have become that were waiting
    /// there.
    fn put_together(
        &mut self,
        whole: PacketId,
        datagram: Datagram,
        (time, place): (u64, Place),
        done: &mut Vec<Journey>,
    ) {
        let mut others = Vec::new();
        for id in self.fragments.of(&datagram).into_iter().filter(|id| *id != whole) {
            let Some(making) = self.making.get_mut(&id) else { continue };
            if !making.waits_with(datagram, place.netns, time) {
                continue;
            }
            others.push(id);
            making.joined = Some((whole, time));
            if making.end_seen && making.seen.is_whole() {
                self.end(id, Cause::Over, done);
            } else {
                making.hasten(id, &self.limits, &mut self.deadlines);
            }
        }
        if let Some(making) = self.making.get_mut(&whole) {
            making.fragments.extend(others);
        }
    }

    /// Time has come to `now` (CLOCK_MONOTONIC, ns): ends what has been silent for too long.
    /// Events older than `now` that are still on their way will be late.
    pub fn advance(&mut self, now: u64, done: &mut Vec<Journey>) {
        self.now = self.now.max(now);
        while let Some(id) = self.next_deadline(now) {
            self.end(id, Cause::Over, done);
        }
    }

    /// Events were lost before `now` (ns), it is not known of which packets. A journey that has had
    /// none since then may lack its end.
    pub fn lost_events(&mut self, now: u64) {
        self.last_loss = self.last_loss.max(Some(now));
    }

    /// The trace ends: every journey in the making is ended.
    pub fn finish(&mut self, done: &mut Vec<Journey>) {
        let mut rest: Vec<_> = self.making.iter().map(|(id, m)| (m.began(), *id)).collect();
        rest.sort_unstable();
        for (_, id) in rest {
            self.end(id, Cause::TraceEnded, done);
        }
    }

    /// The journey whose deadline comes first, if that is not after `now`. Deadlines that have
    /// moved on since they were scheduled are scheduled again on the way.
    fn next_deadline(&mut self, now: u64) -> Option<PacketId> {
        loop {
            let (_, &Reverse((scheduled, id))) = self.deadlines.peek()?;
            if scheduled > now {
                return None;
            }
            let Some(making) = self.making.get_mut(&id) else {
                self.deadlines.remove(&id);
                continue;
            };
            let due = making.due(&self.limits);
            if due <= scheduled {
                return Some(id);
            }
            self.deadlines.push(id, Reverse((due, id)));
        }
    }

    fn end(&mut self, id: PacketId, cause: Cause, done: &mut Vec<Journey>) {
        let Some(mut making) = self.making.remove(&id) else { return };
        self.deadlines.remove(&id);
        if let Some((parent, _)) = making.parent {
            self.forget_child(parent, id);
        }
        if cause == Cause::Evicted {
            self.counts.evicted += 1;
        }
        let quiet = self.now.saturating_sub(making.last_seen) >= self.limits.settle_after;
        let (whole, events) = (making.seen.is_whole(), making.seen.len());
        let (pieces, for_a_tap) = (making.pieces, making.is_copy_for_a_tap());
        // The first event by the packet's order, not by arrival.
        let Some(first) = making.seen.first() else { return };
        let (headers, start, parent) = (*making.seen.headers(first), first.time, making.parent);
        let Some(last) = making.seen.last() else { return };
        let (skb, last_headers) = (making.seen.skb(), *making.seen.headers(last));
        let (told, last_seen) = (making.member, making.last_seen);
        let whole_packet = making.became();
        let thinned = making.seen.is_thinned();
        let quoted = making.quoted.take();
        let branches = mem::take(&mut making.branches);
        let fragments = mem::take(&mut making.fragments);
        // The first fragment may have come after this one.
        let found_by = match making.headers.later_fragment {
            true => self.fragments.key(&making.headers, start),
            false => making.found_by,
        };
        let last_key = match last_headers.later_fragment {
            true => found_by,
            false => Key::of(&last_headers),
        };

        let path = Path::new(parent, pieces, making.seen.drain(), &self.benign);
        self.reuse(making.seen);
        // A gap within tells itself; one behind the last event that came does not.
        let cut = path.end == End::None && self.last_loss >= Some(last_seen);
        let outcome = match (path.end, whole_packet) {
            (End::None | End::Consume | End::Benign(_), Some(_)) => {
                Outcome::Consumed { hop: path.last_before_end() }
            }
            _ => outcome(&path, cause, quiet && !cut, cut, pieces),
        };
        let reader_expected = path.end == End::None
            && matches!(outcome, Outcome::Delivered { .. } | Outcome::Transmitted { .. });
        self.ended.push(id, reader_expected);
        let alone = events == 1 && matches!(path.end, End::Consume | End::Benign(_));
        if whole && (alone || for_a_tap && !matches!(path.end, End::Drop { .. })) {
            self.counts.hidden += 1;
            return;
        }
        self.finished += 1;
        let receiver = match outcome {
            Outcome::Delivered { hop } => path.hops.get(hop).map(|hop| hop.place.netns),
            _ => None,
        };
        let (member, flow) = match quoted {
            Some(quoted) => (told, self.flows.describe_quoted(told, &quoted)),
            None => {
                let member = self.flows.settle(told, found_by, last_key, receiver);
                let first_key = if headers.later_fragment { found_by } else { Key::of(&headers) };
                (member, self.flows.describe(member, first_key, last_key))
            }
        };
        let journey = Journey {
            number: self.finished,
            id,
            parent: parent.map(|(packet, origin)| Parent { packet, origin, number: None }),
            branches,
            whole: whole_packet.filter(|_| matches!(outcome, Outcome::Consumed { .. })),
            fragments,
            flow,
            direction: member.direction,
            nat: path.nat,
            headers,
            start,
            duration: path.hops.last().map_or(0, |hop| hop.at),
            length: path.length,
            outcome,
            complete: whole && !cut,
            thinned,
            leftover: (path.end == End::None).then_some(skb),
            hops: path.hops,
        };
        if let Some((parent, branch)) = Branch::of(&journey)
            && let Some(parent) = self.making.get_mut(&parent)
        {
            parent.branches.add(branch);
        }
        done.push(journey);
    }

    /// Keeps the memory of a journey that has ended for another one.
    fn reuse(&mut self, seen: Sightings) {
        if self.spare.len() < SPARE {
            self.spare.push(seen.cleared());
        }
    }

    fn forget_child(&mut self, parent: PacketId, id: PacketId) {
        if let Entry::Occupied(mut children) = self.children.entry(parent) {
            children.get_mut().retain(|child| *child != id);
            if children.get().is_empty() {
                children.remove();
            }
        }
    }
}

/// How a journey ended; `quiet`: nothing of it was on its way any more when it was ended; `cut`:
/// events may be missing at its end, so that silence tells nothing, nor does a look-up of what follows
/// it; `pieces`: others, which were cut from it, went on in its stead.
fn outcome(path: &Path, cause: Cause, quiet: bool, cut: bool, pieces: bool) -> Outcome {
    let last = path.last_before_end();
    let is_seen = |hop: &usize| !matches!(path.hops[*hop].detail, HopDetail::Route { .. });
    let delivered =
        path.taken.filter(|hop| !cut || is_seen(hop)).map(|hop| Outcome::Delivered { hop });
    let sent = path.sent.filter(|_| !cut).map(|hop| Outcome::Transmitted { hop });
    match path.end {
        End::Drop { hop, reason, location, in_hook } => {
            Outcome::Dropped { hop, reason, location, in_hook }
        }
        End::Benign(BenignEnd::Delivered) => Outcome::Delivered { hop: path.taken.unwrap_or(last) },
        End::Benign(BenignEnd::Consumed) => Outcome::Consumed { hop: last },
        End::Consume => delivered.or(sent).unwrap_or(Outcome::Consumed { hop: last }),
        End::None if delivered.is_none() && sent.is_none() && (pieces || path.is_stolen()) => {
            Outcome::Consumed { hop: last }
        }
        // A packet that is on a wire of this host would have been heard of again.
        End::None => match cause {
            Cause::Over => {
                delivered.or(sent).unwrap_or(Outcome::Lost { hop: last, why: LostWhy::Silent })
            }
            Cause::TraceEnded => {
                delivered.or(sent).unwrap_or(Outcome::Lost { hop: last, why: LostWhy::TraceEnded })
            }
            Cause::Evicted => delivered
                .or(sent.filter(|_| quiet))
                .unwrap_or(Outcome::Lost { hop: last, why: LostWhy::Evicted }),
        },
    }
}

/// The namespace that has just sent the packet of this event, if it is seen doing so.
fn sender(event: &Event) -> Option<u32> {
    let sends = match &event.what {
        What::HookEnter { hook, .. } => {
            hook.hook == Hook::Output && matches!(hook.family, HookFamily::Ipv4 | HookFamily::Ipv6)
        }
        What::TcEgress | What::DevQueue => true,
        _ => false,
    };
    // Who forwards a packet that was put together cuts it again, in the name of its sender.
    let begins = event.begin && event.parent.is_none() && !event.headers.later_fragment;
    (begins && event.place.netns != 0 && sends).then_some(event.place.netns)
}

/// Whether a packet that this was seen of has ended.
fn is_end(what: &What) -> bool {
    matches!(what, What::Drop { .. } | What::Consume { .. })
}

/// A journey in the making.
#[derive(Debug)]
struct Making {
    seen: Sightings,
    parent: Option<(PacketId, Origin)>,
    /// What was made from it, and has ended.
    branches: Branches,
    member: Membership,
    /// The headers of the event that was received first, or of the whole packet that it became.
    headers: Headers,
    /// What its flow was found by: theirs, or what the first fragment of its packet tells.
    found_by: Key,
    /// The last tuple that the flow table was told.
    key: Key,
    /// It is a fragment of this packet, and when it was last seen as such, ns.
    fragment: Option<(Datagram, u64)>,
    /// Where it waited, another one has become the packet that it is a fragment of; when that was seen, ns.
    joined: Option<(PacketId, u64)>,
    /// The others that it became a packet with.
    fragments: Vec<PacketId>,
    /// It is an ICMP error: the packet that it quotes.
    quoted: Option<Box<Headers>>,
    end_seen: bool,
    /// It was cut into others.
    pieces: bool,
    last_seen: u64,
}

impl Making {
    fn new(event: &Event, seen: Sightings, member: Membership, found_by: Key) -> Self {
        Self {
            seen,
            parent: None,
            branches: Branches::default(),
            member,
            headers: event.headers,
            found_by,
            key: found_by,
            fragment: None,
            joined: None,
            fragments: Vec::new(),
            quoted: None,
            end_seen: false,
            pieces: false,
            last_seen: 0,
        }
    }

    /// Puts an event in its place; `false` when it is there already.
    fn insert(&mut self, event: Event) -> bool {
        let Event { time, begin, parent, origin, .. } = event;
        let is_end = is_end(&event.what);
        if !self.seen.insert(event) {
            return false;
        }
        if begin && self.parent.is_none() {
            self.parent = parent.map(|parent| (parent, origin));
        }
        self.last_seen = self.last_seen.max(time);
        self.end_seen |= is_end;
        true
    }

    /// The last thing that was seen of it on its way.
    fn last_on_way(&self) -> Option<&Seen> {
        self.seen.iter().rev().find(|seen| !is_end(&seen.what))
    }

    /// A fragment that the kernel was done with. Which packet it was put together to is seen a moment later.
    fn may_have_become_another(&self) -> bool {
        self.fragment.is_some()
            && self.joined.is_none()
            && self.seen.last().is_some_and(|seen| matches!(seen.what, What::Consume { .. }))
    }

    /// Whether it is a fragment of this packet, and was in this namespace at this time.
    fn waits_with(&self, packet: Datagram, netns: u32, time: u64) -> bool {
        self.fragment.is_some_and(|(datagram, _)| datagram == packet)
            && self.last_on_way().is_some_and(|seen| seen.place.netns == netns && seen.time <= time)
    }

    /// The packet that it is a part of now, unless it was cut from that again.
    fn became(&self) -> Option<PacketId> {
        let (whole, then) = self.joined?;
        self.last_on_way().is_none_or(|seen| seen.time <= then).then_some(whole)
    }

    /// A copy that went nowhere but to a socket that listens to what passes: a tap's is first heard
    /// of when it is read, a raw socket's is of a protocol that has no ports. Each packet would
    /// have one, and where packets go is told of those themselves.
    fn is_copy_for_a_tap(&self) -> bool {
        let Some(first) = self.seen.first() else { return false };
        let listens = match first.what {
            What::Socket { pid: None, .. } => !WITH_PORTS.contains(&self.seen.headers(first).proto),
            _ => true,
        };
        let only_sockets = || {
            self.seen
                .iter()
                .all(|seen| matches!(seen.what, What::Socket { .. }) || is_end(&seen.what))
        };
        matches!(self.parent, Some((_, Origin::Clone | Origin::Copy))) && listens && only_sockets()
    }

    fn began(&self) -> u64 {
        self.seen.first().map_or(0, |seen| seen.time)
    }

    /// It has ended, or may have ended unseen: what follows, follows soon.
    fn settles(&self) -> bool {
        let taken = self.seen.last().is_some_and(|seen| match &seen.what {
            What::HookExit { hook, .. } => is_delivery(hook),
            What::Socket { .. } => true,
            // A fragment waits here for the others.
            What::IpLocalDeliver => !self.seen.headers(seen).is_fragment(),
            What::Route { .. } => self.is_routed_here(),
            _ => false,
        });
        self.end_seen || taken || self.became().is_some()
    }

    /// The last that was seen of it are look-ups, one of which leads to a namespace whose hooks are not watched. For
    /// the way back there may be others behind that.
    fn is_routed_here(&self) -> bool {
        let look_ups =
            self.seen.iter().rev().take_while(|seen| matches!(seen.what, What::Route { .. }));
        let mut here = look_ups.filter(|seen| is_for_here(&seen.what, self.seen.headers(seen)));
        here.next().is_some_and(|route| !self.has_met_hooks_of(route.place.netns))
    }

    fn has_met_hooks_of(&self, netns: u32) -> bool {
        let mut here = self.seen.iter().filter(|seen| seen.place.netns == netns);
        here.any(|seen| matches!(seen.what, What::HookEnter { .. }))
    }

    /// When to end it, unless something else is heard of it.
    fn due(&self, limits: &Limits) -> u64 {
        let patience = if self.settles() { limits.settle_after } else { limits.lost_after };
        self.last_seen.saturating_add(patience)
    }

    /// Brings its deadline forward, where it is due sooner than was thought.
    fn hasten(&self, id: PacketId, limits: &Limits, deadlines: &mut Deadlines) {
        if self.settles() {
            let due = self.last_seen.saturating_add(limits.settle_after);
            deadlines.push_increase(id, Reverse((due, id)));
        }
    }
}
