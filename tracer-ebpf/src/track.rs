//! Follows the identity of packets: one look-up by skb address decides whether a packet is known.
//!
//! The kernel reuses skb addresses at once, and not every free has a tracepoint. So an entry is
//! believed at the start of a packet's life (egress, reception) only when the packet itself looks
//! the same, and never again once it was delivered.

use core::ptr::NonNull;

use aya_ebpf::{
    bindings::BPF_RB_AVAIL_DATA,
    helpers::{bpf_get_smp_processor_id, bpf_ktime_get_ns},
};
use aya_log_ebpf::debug;
use tracer_common::{
    config::State,
    event::{Loss, Tuple, family, flags, origin},
    filter::{Filter, has_ports},
    track::{Flow, Followed, ID_TIME_SHIFT, Published, Sent, has_same_ends, telling},
};

use crate::{
    expression,
    globals::{
        CURRENT, Current, EVENTS, FOLLOWED, FRAGMENTS, LEARNED, PUBLISHED, QUOTED, SENT,
        add_untold, count, filter, is_maybe_followed, is_of_container, set_maybe_followed, setting,
        state,
    },
    packet::{Bytes, Headers},
    skb::{Access as _, Probe, offset, read_into, unknown},
};

/// What a packet carries that a learned tuple is compared with.
#[inline(always)]
fn flow_of(t: &Tuple) -> Flow {
    let (sport, dport) = (t.sport, t.dport);
    Flow { src: t.src, dst: t.dst, sport, dport, family: t.family, proto: t.proto, pad: 0 }
}

/// What all fragments of the packet of `t`, which is one, have in common.
#[inline(always)]
fn datagram_of(t: &Tuple) -> Flow {
    Flow { sport: t.fragment_id, dport: 0, ..flow_of(t) }
}

/// What an answer to `t` carries. An ICMP echo keeps its identifier in `sport` both ways.
#[inline(always)]
fn answering(t: &Tuple) -> Flow {
    let (sport, dport) = if has_ports(t) { (t.dport, t.sport) } else { (t.sport, t.dport) };
    Flow { src: t.dst, dst: t.src, sport, dport, family: t.family, proto: t.proto, pad: 0 }
}

/// Where and what a packet is at one point.
pub trait Source {
    /// Address of its skb.
    fn address(&self) -> u64;
    /// `skb->len`.
    fn len(&self) -> u32;
    /// Index of the interface where it is; 0 for none.
    fn ifindex(&self) -> u32;
    /// Inode of the namespace where it is; 0 when it cannot be told here.
    fn netns(&self) -> u32;
    /// How its bytes are read.
    fn bytes(&self) -> impl Bytes;
    /// Where its headers lie.
    fn headers(&self) -> Headers;
    /// The same, without the link-layer header: all that it takes to know a packet again.
    fn network(&self) -> Headers;
    /// Where the network header lies of what it carries as a tunnel's packet; 0 where it does not.
    fn tunneled(&self) -> u64;
    /// Whether it matches the expression, which there is: not 0 where it does.
    fn evaluate(&self) -> u64;
}

/// A packet that is followed, at one point.
pub struct Sighting {
    /// Its entry.
    pub followed: *mut Followed,
}

impl Sighting {
    /// Of a packet that was followed before.
    #[inline(always)]
    pub fn known(followed: *mut Followed) -> Self {
        Self { followed }
    }
}

/// A packet in the midst of its life: followed already, or none of ours. One that was delivered has
/// no more life: what is at its address is another.
#[inline(always)]
pub fn known(address: u64) -> Option<Sighting> {
    still_known(entry(address))
}

/// [`known`], of what [`entry`] has found.
#[inline(always)]
pub fn still_known(entry: Option<NonNull<Followed>>) -> Option<Sighting> {
    let followed = entry?.as_ptr();
    // SAFETY: a live map value.
    if unsafe { (*followed).delivered } != 0 {
        return None;
    }
    Some(Sighting::known(followed))
}

/// What is kept of the packet that is, or was, at this address. (Not an `Option` of a plain pointer: the
/// compiler would copy the payload of a `None`, which the verifier does not let it read.)
#[inline(always)]
pub fn entry(address: u64) -> Option<NonNull<Followed>> {
    if !is_maybe_followed(address) {
        return None;
    }
    NonNull::new(FOLLOWED.get_ptr_mut(&address)?)
}

/// What is sent is not what had arrived at the same address.
#[inline(always)]
pub fn forget_arrived(address: u64) {
    // SAFETY: a live map value.
    if entry(address).is_some_and(|followed| unsafe { (*followed.as_ptr()).arrived } != 0) {
        let _ = FOLLOWED.remove(&address);
    }
}

/// Where a packet is met.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// On its way: what was followed before may have been rewritten since.
    Way,
    /// Sent by a task, received by a device, or in a hook behind one that is watched: nothing has
    /// rewritten it unseen.
    Fresh,
    /// At its end.
    End,
}

/// Whether a packet that is not followed may be one to follow. Most of a host's end here: nothing more is
/// read of them than it takes to know.
#[inline(always)]
pub fn may_begin(bytes: impl Bytes, headers: &Headers) -> bool {
    // SAFETY: a live map value of integers.
    let Some(state) = state().map(|state| unsafe { *state }) else { return false };
    state.armed != 0 && (may_answer(&state) || headers.may_match(bytes, filter()))
}

/// Whether any packet may answer a followed flow.
#[inline(always)]
fn may_answer(state: &State) -> bool {
    setting!(follow_replies) != 0 && (state.learned | state.published) != 0
}

/// A packet at a point where a life can begin: known, or one to follow from now on. `entry`: what [`entry`] has
/// found; where that is nothing, [`may_begin`] holds.
#[inline(always)]
pub fn known_or_begun<S: Source>(
    source: &S,
    entry: Option<NonNull<Followed>>,
    at: At,
) -> Option<Sighting> {
    if let Some(followed) = entry.map(NonNull::as_ptr) {
        // SAFETY: a live map value; only the CPU that handles the packet touches it.
        if is_itself(source, unsafe { &mut *followed }, at) {
            return Some(Sighting::known(followed));
        }
        // Another packet's memory by now.
        let _ = FOLLOWED.remove(&source.address());
        // What dies where another one was has passed no point before: none of ours.
        if at == At::End {
            return None;
        }
    }
    let chance = Chance::of(source)?;
    let mut fresh = Followed::default();
    if !source.headers().parse(source.bytes(), &mut fresh.tuple) {
        return None;
    }
    begin(source, chance, &mut fresh)
}

/// Whether a packet is the one that is followed at its address; then what has become of it is taken over.
#[inline(always)]
fn is_itself<S: Source>(source: &S, known: &mut Followed, at: At) -> bool {
    if known.delivered != 0 && at != At::End {
        return false;
    }
    if is_still(source, known) {
        known.tunneled = 0;
        return true;
    }
    let mut now = Tuple::default();
    if source.headers().parse(source.bytes(), &mut now) && is_same(known, &now, at == At::Fresh) {
        match at {
            At::Way => {
                take_rewritten(known, &now);
            }
            At::Fresh => known.tuple = now,
            At::End => {}
        }
        known.tunneled = 0;
        if known.tuple.more_fragments != 0 {
            expect_fragments(&known.tuple);
        }
        return true;
    }
    is_tunneled(source, known, &mut now)
}

/// A packet that is followed, if what is at its address is still itself. For points that other
/// packets pass too which never came by a point where a life begins: those of other families of
/// sockets.
#[inline(always)]
pub fn known_itself<S: Source>(source: &S) -> Option<Sighting> {
    let address = source.address();
    let followed = entry(address)?.as_ptr();
    // SAFETY: as in `known_or_begun`.
    let known = unsafe { &mut *followed };
    if is_still(source, known) {
        return Some(Sighting::known(followed));
    }
    let headers = source.headers();
    let mut tuple = Tuple::default();
    if headers.parse(source.bytes(), &mut tuple) && is_same(known, &tuple, false) {
        // What has become whole in the stack, where nothing is hooked.
        if known.tuple.fragment_id != tuple.fragment_id {
            known.tuple = tuple;
        }
        return Some(Sighting::known(followed));
    }
    if is_tunneled(source, known, &mut tuple) {
        return Some(Sighting::known(followed));
    }
    let _ = FOLLOWED.remove(&address);
    None
}

/// Whether this is plainly the followed packet, as it was when it was last parsed or further on its way: then its time
/// to live is taken over. Else it may be the packet still.
#[inline(always)]
fn is_still<S: Source>(source: &S, known: &mut Followed) -> bool {
    let left = source.network().time_to_live_of_same(source.bytes(), &known.tuple);
    if left > u64::from(known.tuple.ttl) {
        return false;
    }
    known.tuple.ttl = left as u8;
    true
}

/// [`Followed::is`], of whose reasons the verifier knows nothing.
#[inline(always)]
fn is_same(known: &Followed, now: &Tuple, fresh: bool) -> bool {
    unknown(u64::from(compare(known, now, fresh))) != 0
}

/// A BPF subprogram: it is long, and many points end in it.
#[inline(never)]
fn compare(known: &Followed, now: &Tuple, fresh: bool) -> bool {
    known.is(now, fresh)
}

/// Whether what is at a followed packet's address is a tunnel's packet that carries it. `scratch` is
/// written to: the stack has no room for more.
#[inline(always)]
fn is_tunneled<S: Source>(source: &S, known: &mut Followed, scratch: &mut Tuple) -> bool {
    let bytes = source.bytes();
    let Some(inner) = source.network().tunneled(bytes, source.tunneled()) else { return false };
    if !inner.parse(bytes, scratch) || !is_same(known, scratch, true) {
        return false;
    }
    known.tunneled = 1;
    true
}

/// Parses the packet again; true when its addresses or ports are others than before.
#[inline(always)]
pub fn reparse<S: Source>(source: &S, known: &mut Followed) -> bool {
    if is_still(source, known) {
        return false;
    }
    let mut tuple = Tuple::default();
    // What a tunnel has put around it is no rewrite.
    source.headers().parse(source.bytes(), &mut tuple)
        && is_same(known, &tuple, false)
        && take_rewritten(known, &tuple)
}

/// Takes over what a hook or a program has rewritten; whether addresses or ports were.
#[inline(always)]
fn take_rewritten(known: &mut Followed, now: &Tuple) -> bool {
    let rewritten = !has_same_ends(&known.tuple, now);
    if rewritten && setting!(follow_replies) != 0 {
        known.begun |= learn(&known.tuple, now, known.begun);
    }
    known.tuple = *now;
    rewritten
}

/// Why a packet that is not known might be followed, before it is parsed.
#[derive(Clone, Copy)]
struct Chance {
    /// It is where packets are to be followed from.
    placed: bool,
    /// It may answer a followed flow.
    answers: bool,
}

impl Chance {
    /// `None`: there is none.
    #[inline(always)]
    fn of<S: Source>(source: &S) -> Option<Self> {
        // SAFETY: a live map value of integers.
        let state = unsafe { *state()? };
        if state.armed == 0 {
            return None;
        }
        let filter = filter();
        let placed = (filter.netns.is_empty() && filter.iface.is_empty())
            || filter.matches_place(source.netns(), source.ifindex());
        let answers = may_answer(&state);
        (placed || answers).then_some(Self { placed, answers })
    }
}

/// Follows the packet in `fresh.tuple` from here on, if it matches.
#[inline(always)]
fn begin<S: Source>(source: &S, chance: Chance, fresh: &mut Followed) -> Option<Sighting> {
    fresh.id = next_id();
    // The verifier is to know nothing of why: it would walk what follows once for each reason.
    let why = unknown(why_follow(source, chance, fresh));
    if why == 0 {
        return None;
    }
    fresh.telling = how_much_to_tell(fresh.id);
    // Better a whole journey less than holes in all.
    if fresh.telling < telling::DROP
        && EVENTS.query(u64::from(BPF_RB_AVAIL_DATA)) > u64::from(setting!(pause_bytes))
    {
        fresh.telling = telling::BEHIND;
    }
    fresh.netns = source.netns();
    fresh.begun = why;
    let address = source.address();
    set_maybe_followed(address);
    if FOLLOWED.insert(&address, &*fresh, 0).is_err() {
        count(Loss::TrackingFull);
        debug!(&(), "no room to follow packet {:x}", fresh.id);
        return None;
    }
    add_untold(fresh.telling, 1);
    debug!(&(), "follows packet {:x}", fresh.id);
    let followed = FOLLOWED.get_ptr_mut(&address)?;
    // SAFETY: a live map value; only the CPU that handles the packet touches it.
    unsafe { (*followed).parent = parent(address, &fresh.tuple) };
    if fresh.tuple.more_fragments != 0 {
        expect_fragments(&fresh.tuple);
    }
    Some(Sighting::known(followed))
}

/// One of [`telling`], for a packet with this id: chosen by its hash, so that no pattern in the order of packets
/// meets one in the choice.
#[inline(always)]
fn how_much_to_tell(id: u64) -> u8 {
    let Some(state) = state() else { return telling::ALL };
    // SAFETY: a live map value of integers.
    let State { telling, one_of, .. } = unsafe { *state };
    if one_of > 1 && (id.wrapping_mul(GOLDEN) >> 32) as u32 & (one_of - 1) != 0 {
        return telling::DROP;
    }
    telling as u8
}

/// 2^64 by the golden ratio: what multiplicative hashing multiplies with (Knuth, The Art of Computer
/// Programming, 6.4).
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// It matches by itself.
const MATCHES: u8 = 1;

/// Why to follow the packet in `fresh.tuple`: [`MATCHES`], or [`flags::LEARNED`]; 0: not at all.
#[inline(always)]
fn why_follow<S: Source>(source: &S, chance: Chance, fresh: &mut Followed) -> u8 {
    let filter = filter();
    let matches = chance.placed
        && matches_packet(filter, &fresh.tuple)
        && (filter.mac.is_empty() || filter.matches_macs(source.headers().macs(source.bytes())))
        && expression::matches(source);
    let mut learned = !matches && chance.answers && is_answer(&fresh.tuple);
    let quoted = source.network().quoted(source.bytes(), &fresh.tuple);
    if quoted != 0 {
        if !quotes_followed(source, quoted, chance, fresh, matches || learned) {
            return 0;
        }
        learned = !matches;
    }
    match (matches, learned) {
        (true, _) => MATCHES,
        (false, true) => flags::LEARNED,
        (false, false) => 0,
    }
}

/// A packet was made from a followed one: it is followed too, as another, and told of when it is
/// first seen anywhere. `origin`: one of [`origin`].
#[inline(always)]
pub fn inherit(parent: u64, child: u64, origin: u8) {
    if child == 0 || child == parent {
        return;
    }
    let Some(followed) = FOLLOWED.get_ptr(&parent) else { return };
    // SAFETY: a live map value.
    let mut fresh = unsafe { *followed };
    fresh.parent = fresh.id;
    fresh.id = next_id();
    fresh.origin = origin;
    fresh.events = 0;
    fresh.begun = 0;
    fresh.seen = 0;
    fresh.told = 0;
    fresh.read = 0;
    fresh.deciding = 0;
    set_maybe_followed(child);
    if FOLLOWED.insert(&child, &fresh, 0).is_err() {
        count(Loss::TrackingFull);
    }
}

/// How long after its original's end a copy by a driver is received at the latest, ns: a turn of the receiver's
/// polling, on a slow machine.
const COPIED_WITHIN: u64 = 10_000_000;

/// A packet has ended that was given to a driver. veth makes a copy of what an XDP program at its other end is
/// to see, where there is no room for that (`veth_convert_skb_to_xdp_buff`; before Linux 6.3 in
/// `veth_xdp_rcv_skb`), and no tracepoint tells of it. A BPF subprogram, for the stack of its own.
#[inline(never)]
pub fn ended_behind_driver(known: &Followed) {
    // SAFETY: no preconditions.
    let time = unsafe { bpf_ktime_get_ns() };
    let mut sent = Sent { id: known.id, time };
    if let Some(before) = SENT.get_ptr(&known.tuple) {
        // SAFETY: a live map value of integers.
        if time - unsafe { (*before).time } < COPIED_WITHIN {
            sent.id = 0;
        }
    }
    let _ = SENT.insert(&known.tuple, &sent, 0);
}

/// A packet was received that was not followed before: is it a driver's copy of one that has just ended?
#[inline(never)]
pub fn find_original(known: &mut Followed) {
    let Some(sent) = SENT.get_ptr(&known.tuple) else { return };
    // SAFETY: a live map value of integers.
    let Sent { id, time } = unsafe { *sent };
    let _ = SENT.remove(&known.tuple);
    // SAFETY: no preconditions.
    if unsafe { bpf_ktime_get_ns() } - time < COPIED_WITHIN && id != 0 {
        // What is made of others is not counted.
        add_untold(known.telling, u64::MAX);
        known.parent = id;
        known.origin = origin::COPY;
    }
}

/// Whether the error in `fresh.tuple` quotes, at `network`, a packet whose answer would be followed: an
/// error belongs to that. `followed`: it is in any case. What a followed one quotes is kept. The stack has no room
/// for both: the error's own is kept there too for a while, under an id that no packet has. Where that cannot be, it is
/// not followed, and counted.
#[inline(always)]
fn quotes_followed<S: Source>(
    source: &S,
    network: u64,
    chance: Chance,
    fresh: &mut Followed,
    followed: bool,
) -> bool {
    let aside = !fresh.id;
    if QUOTED.insert(&aside, &fresh.tuple, 0).is_err() {
        count(Loss::TrackingFull);
        return false;
    }
    let headers = Headers { network, ..source.network() };
    if !headers.parse(source.bytes(), &mut fresh.tuple) {
        fresh.tuple.family = family::OTHER;
    }
    reverse(&mut fresh.tuple);
    let followed = followed
        || (chance.answers && is_learned(&fresh.tuple))
        || (chance.placed
            && matches_packet(filter(), &fresh.tuple)
            && expression::would_match(&fresh.tuple));
    if followed {
        reverse(&mut fresh.tuple);
        let _ = QUOTED.insert(&fresh.id, &fresh.tuple, 0);
    }
    // SAFETY: a `Tuple` is integers without padding: as many bytes.
    let into: &mut [u8; size_of::<Tuple>()] = unsafe { &mut *(&raw mut fresh.tuple).cast() };
    let is_back = QUOTED.get_ptr(&aside).is_some_and(|own| read_into(own as u64, into));
    let _ = QUOTED.remove(&aside);
    if followed && !is_back {
        count(Loss::TrackingFull);
    }
    followed && is_back
}

/// The addresses and ports of an answer to a packet with these. An ICMP echo keeps its identifier.
#[inline(always)]
fn reverse(tuple: &mut Tuple) {
    core::mem::swap(&mut tuple.src, &mut tuple.dst);
    if has_ports(tuple) {
        core::mem::swap(&mut tuple.sport, &mut tuple.dport);
    }
}

/// A BPF subprogram, for the stack of its own.
#[inline(never)]
fn is_learned(tuple: &Tuple) -> bool {
    LEARNED.get_ptr(&flow_of(tuple)).is_some()
}

/// A BPF subprogram: it is long, and many points end in it.
#[inline(never)]
fn matches_packet(filter: &Filter, tuple: &Tuple) -> bool {
    filter.matches_packet(tuple, is_of_container)
}

/// Unique for the trace: the time in the upper bits, the CPU in the lower 12. One CPU cannot begin
/// two packets at one reading of its clock: beginning one takes longer than any clock's tick.
/// (The BPF target has no atomic add in `core`, and a plain per-CPU count can be interrupted.)
#[inline(always)]
fn next_id() -> u64 {
    // SAFETY: no preconditions.
    let (time, cpu) = unsafe { (bpf_ktime_get_ns(), bpf_get_smp_processor_id()) };
    (time << ID_TIME_SHIFT) | u64::from(cpu & ((1 << ID_TIME_SHIFT) - 1))
}

/// The id of the followed packet that this CPU is handling, if the skb at `address` shares its
/// bytes: then it is a clone of it. Clones are made while their original is being handled.
#[inline(always)]
fn parent(address: u64, tuple: &Tuple) -> u64 {
    let Some(current) = current() else { return 0 };
    if current == address {
        return 0;
    }
    let Some(known) = FOLLOWED.get_ptr(&current) else { return 0 };
    let head = |skb: u64| Probe::read::<u64>(skb as *const u8, offset!(skb_head));
    let shared = head(address);
    if shared == 0 || shared != head(current) {
        return 0;
    }
    // SAFETY: a live map value.
    let known = unsafe { &*known };
    // The original may be long gone, and both its memories another's.
    if is_same(known, tuple, false) { known.id } else { 0 }
}

/// Remembers what an answer to a packet will carry that was `before` and left as `now`, if that
/// answer is to be followed: it would be, were there no NAT. `begun`: why the packet is followed. Returns
/// [`flags::FOREIGN`] if that was a mistake.
#[inline(never)]
fn learn(before: &Tuple, now: &Tuple, begun: u8) -> u8 {
    // An ICMP error has no answer. Nor has a later fragment: it is the packet that has.
    if !matches!(now.family, family::IPV4 | family::IPV6)
        || is_portless_icmp(now)
        || now.later_fragment != 0
    {
        return 0;
    }
    // A later fragment that has become the whole packet shows its ports. That is no rewrite.
    if before.later_fragment != 0 && before.src == now.src && before.dst == now.dst {
        return 0;
    }
    // It was taken for an answer to a followed flow, whose port NAT has given to another one since. What is
    // rewritten twice is known by what it is in between; what a fragment was followed for may match by now.
    if begun == flags::LEARNED
        && before.later_fragment == 0
        && !matches_packet(filter(), now)
        && !matches_packet(filter(), before)
        && !is_learned(now)
    {
        let _ = LEARNED.remove(&flow_of(before));
        return flags::FOREIGN;
    }
    let mut answer = *before;
    reverse(&mut answer);
    // The second condition: it was rewritten before, and that answer is followed.
    let would_match = matches_packet(filter(), &answer) && expression::would_match(&answer);
    if would_match || is_learned(&answer) {
        remember(now);
    }
    0
}

/// Remembers what an answer to `now` carries. A BPF subprogram, for the stack of its own.
#[inline(never)]
fn remember(now: &Tuple) {
    // SAFETY: no preconditions.
    let time = unsafe { bpf_ktime_get_ns() };
    let key = answering(now);
    if let Some(last_seen) = LEARNED.get_ptr_mut(&key) {
        // SAFETY: a live map value; racing writers all write about now.
        unsafe { *last_seen = time };
    } else if LEARNED.insert(&key, &time, 0).is_err() {
        count(Loss::LearnedFull);
        return;
    }
    if let Some(state) = state() {
        // SAFETY: a live map value; it only ever goes from 0 to 1.
        unsafe { (*state).learned = 1 };
    }
}

/// ICMP that is no echo: nothing of it tells one exchange from another.
#[inline(always)]
fn is_portless_icmp(tuple: &Tuple) -> bool {
    matches!((tuple.family, tuple.proto), (family::IPV4, 1) | (family::IPV6, 58))
        && !matches!(tuple.l4_kind, 0 | 8 | 128 | 129)
}

/// A followed fragment was seen: those behind the first one are to be followed as well, which tell no ports,
/// and behind NAT no address that is selected. A BPF subprogram, for the stack of its own.
#[inline(never)]
fn expect_fragments(tuple: &Tuple) {
    if tuple.later_fragment != 0 || FRAGMENTS.insert(&datagram_of(tuple), &1, 0).is_err() {
        return;
    }
    if let Some(state) = state() {
        // SAFETY: a live map value; it only ever goes from 0 to 1.
        unsafe { (*state).learned = 1 };
    }
}

/// Whether a packet answers a followed flow that left with rewritten addresses, or is sent to an address
/// that is published for a followed one; or is a fragment behind a followed one.
#[inline(never)]
fn is_answer(tuple: &Tuple) -> bool {
    if tuple.later_fragment != 0 {
        return FRAGMENTS.get_ptr(&datagram_of(tuple)).is_some();
    }
    if let Some(last_seen) = LEARNED.get_ptr_mut(&flow_of(tuple)) {
        // SAFETY: a live map value; racing writers all write about now.
        unsafe { *last_seen = bpf_ktime_get_ns() };
        return true;
    }
    // SAFETY: a live map value of integers.
    if state().is_none_or(|state| unsafe { (*state).published } == 0) {
        return false;
    }
    let mut key = Published { address: tuple.dst, ..Published::default() };
    if PUBLISHED.get_ptr(&key).is_some() {
        return true;
    }
    (key.port, key.proto) = (tuple.dport, tuple.proto);
    has_ports(tuple) && PUBLISHED.get_ptr(&key).is_some()
}

#[inline(always)]
fn slot() -> Option<*mut Current> {
    CURRENT.get_ptr_mut(0)
}

#[inline(always)]
fn read_slot() -> Current {
    // SAFETY: this CPU's slot.
    slot().map_or(Current { skb: 0, leaving: 0 }, |slot| unsafe { *slot })
}

/// The skb that this CPU is handling.
#[inline(always)]
fn current() -> Option<u64> {
    Some(read_slot().skb).filter(|skb| *skb != 0)
}

/// The skb that this CPU takes from its reception to its routing decision.
#[inline(always)]
pub fn arriving() -> Option<u64> {
    let slot = read_slot();
    (slot.skb != 0 && slot.leaving == 0).then_some(slot.skb)
}

/// The skb that this CPU takes from its routing decision to its device.
#[inline(always)]
pub fn leaving() -> Option<u64> {
    let slot = read_slot();
    (slot.skb != 0 && slot.leaving != 0).then_some(slot.skb)
}

/// This CPU now handles the skb at `address`, which arrives; 0 for one that is not followed.
#[inline(always)]
pub fn set_arriving(address: u64) {
    if let Some(slot) = slot() {
        // SAFETY: this CPU's slot.
        unsafe { *slot = Current { skb: address, leaving: 0 } };
    }
}

/// This CPU now handles the skb at `address`, which leaves.
#[inline(always)]
pub fn set_leaving(address: u64) {
    if let Some(slot) = slot() {
        // SAFETY: this CPU's slot.
        unsafe { *slot = Current { skb: address, leaving: 1 } };
    }
}

/// This CPU is done with the skb at `address`.
#[inline(always)]
pub fn clear_current(address: u64) {
    if current() == Some(address) {
        set_arriving(0);
    }
}
