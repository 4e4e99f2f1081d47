//! What the user side sets before loading (constants to the verifier), and the maps.

use core::{arch::asm, hint::black_box};

use crate::call::Kept;

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
};
use tracer_common::{
    config::{Arguments, Offsets, Settings, State},
    event::{Loss, Spared, Tuple},
    expression::View,
    filter::{Filter, Halves, MAX_CONTAINER_ADDRESSES},
    track::{Decision, Flow, Followed, Published, Sent, telling},
};

/// Offsets of kernel fields.
#[unsafe(no_mangle)]
pub static OFFSETS: Offsets = Offsets::ABSENT;

/// Which arguments of kernel functions are what.
#[unsafe(no_mangle)]
pub static ARGUMENTS: Arguments = Arguments::UNKNOWN;

/// One field of [`ARGUMENTS`].
macro_rules! argument {
    ($field:ident) => {
        // SAFETY: a live static; volatile, or the compiler would fold the default in.
        unsafe { core::ptr::read_volatile(&raw const $crate::globals::ARGUMENTS.$field) }
    };
}
pub(crate) use argument;

/// Settings of this trace.
#[unsafe(no_mangle)]
pub static SETTINGS: Settings = Settings {
    snaplen: 0,
    capture_everywhere: 0,
    drop_reasons: 0,
    consume_locations: 0,
    follow_replies: 0,
    wake_bytes: 0,
    pause_bytes: 0,
    rules_are_listed: 0,
    expression: 0,
    expression_bytes: 0,
};

/// Which packets to follow.
#[unsafe(no_mangle)]
pub static FILTER: Filter = Filter::ANY;

/// The filter, as a pointer that the compiler cannot see through: it would fold the defaults in.
#[inline(always)]
pub fn filter() -> &'static Filter {
    black_box(&FILTER)
}

/// Addresses of the selected containers. The user side keeps them.
#[map]
pub static CONTAINERS: HashMap<Halves, u8> =
    HashMap::with_max_entries(MAX_CONTAINER_ADDRESSES as u32, 0);

/// Whether either address is one of a selected container's. A BPF subprogram, for the stack of its own.
#[inline(never)]
pub fn is_of_container(src: &Halves, dst: &Halves) -> bool {
    CONTAINERS.get_ptr(src).is_some() || CONTAINERS.get_ptr(dst).is_some()
}

/// One field of [`SETTINGS`].
macro_rules! setting {
    ($field:ident) => {
        // SAFETY: a live static; volatile, or the compiler would fold the default in.
        unsafe { core::ptr::read_volatile(&raw const $crate::globals::SETTINGS.$field) }
    };
}
pub(crate) use setting;

/// What changes while the trace runs.
#[map]
pub static STATE: Array<State> = Array::with_max_entries(1, 0);

/// The state of the trace.
#[inline(always)]
pub fn state() -> Option<*mut State> {
    STATE.get_ptr_mut(0)
}

/// Events to the user side. Sized by the user side.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(16 << 20, 0);

/// Followed packets by the address of their `struct sk_buff`. Sized by the user side.
/// Not an LRU: that would forget packets without telling.
#[map]
pub static FOLLOWED: HashMap<u64, Followed> = HashMap::with_max_entries(65_536, 0);

/// How many addresses [`is_maybe_followed`] tells apart.
const BEGUN: usize = 8192;

/// Not 0 where a packet at such an address was ever begun to be followed.
static mut EVER_BEGUN: [u8; BEGUN] = [0; BEGUN];

/// `struct sk_buff`s are 256 bytes apart.
#[inline(always)]
fn begun_slot(address: u64) -> *mut u8 {
    let low: u32;
    // SAFETY: copies a register. The verifier takes half of a pointer for a number and lets us
    // calculate with it; the compiler would calculate with the whole, which it refuses.
    unsafe { asm!("{} = {}", out(wreg) low, in(wreg) address as u32, options(pure, nomem)) };
    let index = (low >> 8) as usize & (BEGUN - 1);
    // SAFETY: within the array.
    unsafe { (&raw mut EVER_BEGUN).cast::<u8>().add(index) }
}

/// Whether a packet at this address may be followed: most are not, and this costs a hundredth of a
/// look-up in [`FOLLOWED`].
#[inline(always)]
pub fn is_maybe_followed(address: u64) -> bool {
    // SAFETY: a byte of a live static, that only ever goes from 0 to 1.
    unsafe { begun_slot(address).read_volatile() != 0 }
}

/// A packet at this address is about to be followed.
#[inline(always)]
pub fn set_maybe_followed(address: u64) {
    // SAFETY: as in `is_maybe_followed`.
    unsafe { begun_slot(address).write_volatile(1) }
}

/// Tuples that an answer to a followed flow will carry → when last seen (ns).
#[map]
pub static LEARNED: HashMap<Flow, u64> = HashMap::with_max_entries(16_384, 0);

/// First fragments that were followed: source, destination, protocol, and the identification in place of
/// the source port. The fragments behind them tell nothing else. An LRU, for they come soon.
#[map]
pub static FRAGMENTS: LruHashMap<Flow, u8> = LruHashMap::with_max_entries(4096, 0);

/// Packets that ended right behind a driver, by what they look like: what a driver receives next may be a copy.
/// An LRU, for that comes at once.
#[map]
pub static SENT: LruHashMap<Tuple, Sent> = LruHashMap::with_max_entries(4096, 0);

/// What ICMP errors quote, by their id: the user side looks it up when it is told of one. While that is looked at, the
/// error's own tuple is here, by the complement of its id. An LRU, for each is read once, and soon.
#[map]
pub static QUOTED: LruHashMap<u64, Tuple> = LruHashMap::with_max_entries(4096, 0);

/// Addresses that are published for followed ones.
#[map]
pub static PUBLISHED: HashMap<Published, u8> = HashMap::with_max_entries(4096, 0);

/// Namespaces in which packets of a family have been found to be tracked: a packet without a connection
/// there fits none. By inode, and `NFPROTO_*` above it. The user side takes out those whose rules change.
#[map]
pub static TRACKING: LruHashMap<u64, u8> = LruHashMap::with_max_entries(1024, 0);

/// What was given up, by [`Loss`].
#[map]
pub static LOST: PerCpuArray<u64> = PerCpuArray::with_max_entries(Loss::COUNT, 0);

/// Events that were offered: each is received, or counted among what was given up.
#[map]
pub static OFFERED: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// What was left out, by [`Spared`].
#[map]
pub static SPARED: PerCpuArray<u64> = PerCpuArray::with_max_entries(Spared::COUNT, 0);

/// Calls that followed packets are in, by their place on the stack. An LRU: a return that is missed
/// (a kretprobe has a bounded number of them) must not keep its place for ever, and what is kept is
/// checked against the packet.
#[map]
pub static CALLS: LruHashMap<u64, Kept> = LruHashMap::with_max_entries(4096, 0);

/// Who is deciding about followed packets, by the address of their skb. An LRU: decisions are short,
/// and what is forgotten is told as not known.
#[map]
pub static DECISIONS: LruHashMap<u64, Decision> = LruHashMap::with_max_entries(4096, 0);

/// What a CPU is taking through a part of the stack whose tracepoints name no skb.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Current {
    /// The skb; 0 for none that is followed.
    pub skb: u64,
    /// 1: it is past its routing decision.
    pub leaving: u64,
}

/// What each CPU is handling.
#[map]
pub static CURRENT: PerCpuArray<Current> = PerCpuArray::with_max_entries(1, 0);

/// What each CPU matches with an expression.
#[map]
pub static VIEW: PerCpuArray<View> = PerCpuArray::with_max_entries(1, 0);

/// Counts one loss.
#[inline(always)]
pub fn count(loss: Loss) {
    add(LOST.get_ptr_mut(loss as u32), 1);
}

/// Counts one event that is offered.
#[inline(always)]
pub fn offer() {
    add(OFFERED.get_ptr_mut(0), 1);
}

/// Counts what is left out.
#[inline(always)]
pub fn spare(what: Spared) {
    add(SPARED.get_ptr_mut(what as u32), 1);
}

/// A packet of which nothing is to be told is one more, or with `u64::MAX` one less: it was dropped, and told.
/// The sum over all CPUs is what counts.
#[inline(always)]
pub fn add_untold(how: u8, n: u64) {
    match how {
        telling::DROP => add(SPARED.get_ptr_mut(Spared::Packets as u32), n),
        telling::BEHIND => add(LOST.get_ptr_mut(Loss::Behind as u32), n),
        _ => {}
    }
}

#[inline(always)]
fn add(slot: Option<*mut u64>, n: u64) {
    if let Some(slot) = slot {
        // SAFETY: adds to this CPU's slot, a live map value. In one step, for a program that runs in an interrupt
        // may count in the midst of it; and core has no `fetch_add` for this target.
        unsafe { asm!("lock *(u64 *)({} + 0) += {}", in(reg) slot, in(reg) n) };
    }
}
