//! Follows the identity of packets: one look-up by skb address decides whether a packet is known.
//!
//! The kernel reuses skb addresses at once, and not every free has a tracepoint. So an entry is
//! believed at the start of a packet's life (egress, reception) only when the packet itself looks
//! the same, and never again once it was delivered.

use aya_ebpf::helpers::{bpf_get_smp_processor_id, bpf_ktime_get_ns};
use tracer_common::{
    config::State,
    event::{Loss, Tuple, family},
    filter::{Filter, has_ports},
    track::{Flow, Followed},
};

use crate::{
    globals::{CURRENT, FOLLOWED, LEARNED, count, filter, setting, state},
    packet::Headers,
    skb::{Access as _, Probe, offset},
};

/// What a packet carries that a learned tuple is compared with.
#[inline(always)]
fn flow_of(t: &Tuple) -> Flow {
    let (sport, dport) = (t.sport, t.dport);
    Flow { src: t.src, dst: t.dst, sport, dport, family: t.family, proto: t.proto, pad: 0 }
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
    /// Where its headers lie.
    fn headers(&self) -> Headers;
}

/// A packet that is followed, at one point.
pub struct Sighting {
    /// Its entry.
    pub followed: *mut Followed,
    /// It began here.
    pub begin: bool,
    /// It matched as the answer to a followed flow.
    pub learned: bool,
    /// The packet it was cloned from, or 0.
    pub parent: u64,
    /// Addresses or ports differ from those at its last sighting.
    pub rewritten: bool,
}

impl Sighting {
    #[inline(always)]
    fn known(followed: *mut Followed) -> Self {
        Self { followed, begin: false, learned: false, parent: 0, rewritten: false }
    }
}

/// A packet in the midst of its life: followed already, or none of ours.
#[inline(always)]
pub fn known(address: u64) -> Option<Sighting> {
    FOLLOWED.get_ptr_mut(&address).map(Sighting::known)
}

/// A packet at a point where a life can begin: known, or one to follow from now on.
#[inline(always)]
pub fn known_or_begun<S: Source>(source: &S) -> Option<Sighting> {
    let address = source.address();
    let mut fresh = Followed::default();
    let mut parsed = false;
    if let Some(followed) = FOLLOWED.get_ptr_mut(&address) {
        parsed = source.headers().parse(&mut fresh.tuple);
        // SAFETY: a live map value; only the CPU that handles the packet touches it.
        let known = unsafe { &mut *followed };
        if known.delivered == 0 && (!parsed || is_same(&known.tuple, &fresh.tuple)) {
            let mut sighting = Sighting::known(followed);
            if parsed {
                sighting.rewritten = take_rewritten(known, &fresh.tuple);
                known.tuple = fresh.tuple;
            }
            return Some(sighting);
        }
        // Another packet's memory by now.
        let _ = FOLLOWED.remove(&address);
    }
    begin(source, parsed, fresh)
}

/// A packet at its end: known and still itself, or one that matches and was not seen before.
#[inline(always)]
pub fn known_or_begun_at_end<S: Source>(source: &S, may_begin: bool) -> Option<Sighting> {
    let address = source.address();
    let mut fresh = Followed::default();
    if let Some(followed) = FOLLOWED.get_ptr_mut(&address) {
        // SAFETY: as in `known_or_begun`.
        let known = unsafe { &mut *followed };
        if known.delivered == 0
            || (source.headers().parse(&mut fresh.tuple) && is_same(&known.tuple, &fresh.tuple))
        {
            return Some(Sighting::known(followed));
        }
        let _ = FOLLOWED.remove(&address);
        return None;
    }
    if may_begin { begin(source, false, fresh) } else { None }
}

/// Parses the packet again; true when its addresses or ports are others than before.
#[inline(always)]
pub fn reparse<S: Source>(source: &S, known: &mut Followed) -> bool {
    let mut tuple = Tuple::default();
    source.headers().parse(&mut tuple) && take_rewritten(known, &tuple)
}

/// Takes over addresses and ports that NAT has rewritten; whether there were any.
#[inline(always)]
fn take_rewritten(known: &mut Followed, now: &Tuple) -> bool {
    let before = &known.tuple;
    if before.src == now.src
        && before.dst == now.dst
        && before.sport == now.sport
        && before.dport == now.dport
    {
        return false;
    }
    known.tuple = *now;
    if setting!(follow_replies) != 0 {
        learn(&known.tuple);
    }
    true
}

/// Follows the packet from here on, if it matches. `fresh.tuple` holds it when `parsed`.
#[inline(always)]
fn begin<S: Source>(source: &S, parsed: bool, mut fresh: Followed) -> Option<Sighting> {
    // SAFETY: a live map value of integers.
    let State { armed, learned: replies } = unsafe { *state()? };
    if armed == 0 {
        return None;
    }
    let filter = filter();
    let placed = (filter.netns.is_empty() && filter.iface.is_empty())
        || filter.matches_place(source.netns(), source.ifindex());
    let answers = setting!(follow_replies) != 0 && replies != 0;
    if !placed && !answers {
        return None;
    }
    if !parsed && !source.headers().parse(&mut fresh.tuple) {
        return None;
    }
    let matches = placed
        && matches_packet(filter, &fresh.tuple)
        && (filter.mac.is_empty() || filter.matches_macs(source.headers().macs()));
    let learned = !matches && answers && is_answer(&fresh.tuple);
    if !matches && !learned {
        return None;
    }
    fresh.id = next_id();
    fresh.netns = source.netns();
    let address = source.address();
    if FOLLOWED.insert(&address, &fresh, 0).is_err() {
        count(Loss::TrackingFull);
        return None;
    }
    let followed = FOLLOWED.get_ptr_mut(&address)?;
    Some(Sighting { followed, begin: true, learned, parent: parent(address), rewritten: false })
}

/// A BPF subprogram: it is long, and many points end in it.
#[inline(never)]
fn matches_packet(filter: &Filter, tuple: &Tuple) -> bool {
    filter.matches_packet(tuple)
}

/// Whether two sightings are of one packet: all that the way through a host leaves alone.
#[inline(always)]
fn is_same(before: &Tuple, now: &Tuple) -> bool {
    before.family == now.family
        && before.proto == now.proto
        && before.ip_id == now.ip_id
        && before.seq == now.seq
        && before.ack == now.ack
        && before.l4_kind == now.l4_kind
        && before.later_fragment == now.later_fragment
        && now.ttl <= before.ttl
}

/// Unique for the trace: the time in the upper bits, the CPU in the lower 12. One CPU cannot begin
/// two packets at one reading of its clock: beginning one takes longer than any clock's tick.
/// (The BPF target has no atomic add in `core`, and a plain per-CPU count can be interrupted.)
#[inline(always)]
fn next_id() -> u64 {
    // SAFETY: no preconditions.
    unsafe { (bpf_ktime_get_ns() << 12) | u64::from(bpf_get_smp_processor_id() & 0xfff) }
}

/// The id of the followed packet that this CPU is handling, if the skb at `address` shares its
/// bytes: then it is a clone of it. Clones are made while their original is being handled.
#[inline(always)]
fn parent(address: u64) -> u64 {
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
    unsafe { (*known).id }
}

/// Remembers what an answer to a packet with this (rewritten) tuple will carry.
#[inline(never)]
fn learn(tuple: &Tuple) {
    if !matches!(tuple.family, family::IPV4 | family::IPV6) {
        return;
    }
    // SAFETY: no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    if LEARNED.insert(&answering(tuple), &now, 0).is_err() {
        count(Loss::LearnedFull);
    } else if let Some(state) = state() {
        // SAFETY: a live map value; it only ever goes from 0 to 1.
        unsafe { (*state).learned = 1 };
    }
}

/// Whether a packet answers a followed flow that left with rewritten addresses.
#[inline(never)]
fn is_answer(tuple: &Tuple) -> bool {
    let Some(last_seen) = LEARNED.get_ptr_mut(&flow_of(tuple)) else { return false };
    // SAFETY: a live map value; racing writers all write about now.
    unsafe { *last_seen = bpf_ktime_get_ns() };
    true
}

/// The skb that this CPU takes through a part of the stack whose tracepoints name no skb.
#[inline(always)]
pub fn current() -> Option<u64> {
    // SAFETY: this CPU's slot.
    CURRENT.get_ptr(0).map(|slot| unsafe { *slot }).filter(|skb| *skb != 0)
}

/// This CPU now handles the skb at `address`; 0 for one that is not followed.
#[inline(always)]
pub fn set_current(address: u64) {
    if let Some(slot) = CURRENT.get_ptr_mut(0) {
        // SAFETY: this CPU's slot.
        unsafe { *slot = address };
    }
}

/// This CPU is done with the skb at `address` as [`current`].
#[inline(always)]
pub fn clear_current(address: u64) {
    if current() == Some(address) {
        set_current(0);
    }
}
