//! Sends events: reserves ring-buffer memory, fills it in place, counts what did not fit.

use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::{bpf_get_smp_processor_id, bpf_ktime_get_ns, generated::bpf_probe_read_kernel},
};
use tracer_common::{
    event::{self, DetailWire, Event, Loss, Spared, flags, origin},
    point::Point,
    track::{Followed, telling},
};

use crate::{
    globals::{EVENTS, FOLLOWED, add_untold, count, offer, setting, spare, state},
    track::{Sighting, Source},
};

/// Size classes of captured bytes: `reserve` wants constants.
const SMALL: usize = 128;
const MEDIUM: usize = 2048;
const LARGE: usize = 65_536;

/// What a point has to say.
pub struct Report {
    /// Which [`Point`], by its number.
    pub point: u8,
    /// Bits of [`flags`] beyond those that the sighting gives.
    pub flags: u8,
    /// The point's detail.
    pub detail: DetailWire,
}

impl Report {
    /// Of a point with nothing more to say.
    #[inline(always)]
    pub fn plain(point: Point) -> Self {
        Self { point: point as u8, flags: 0, detail: [0; 4] }
    }
}

/// Copies packet bytes out of a context.
pub trait Capture: Source {
    /// Whether bytes are captured here even when not asked for everywhere.
    const ALWAYS: bool;

    /// Copies at most `max` bytes (not 0, at most `N`) of the packet to `into`.
    ///
    /// # Safety
    /// `into` has room for `N` bytes, and `N` is a power of two.
    unsafe fn capture<const N: usize>(&self, into: *mut u8, max: u32) -> Captured;
}

/// What was copied behind an event; the fields of [`Event`] that tell of it.
pub struct Captured {
    /// How many bytes.
    pub len: u32,
    /// As in [`Event`].
    pub link: u8,
    /// As in [`Event`].
    pub vlan: u16,
    /// As in [`Event`].
    pub before: i16,
}

impl Captured {
    /// Nothing.
    pub const NONE: Self = Self::bytes(0);

    /// So many bytes that are no packet's.
    #[inline(always)]
    const fn bytes(len: u32) -> Self {
        Self { len, link: 0, vlan: 0, before: 0 }
    }
}

/// [`Event::link`]: with the link-layer header or without, and a tag of this ethertype beside the bytes.
#[inline(always)]
pub fn link(header: bool, vlan_proto: u16) -> u8 {
    let tag = match vlan_proto {
        0 => 0,
        0x88a8 => event::link::TAG | event::link::SERVICE,
        _ => event::link::TAG,
    };
    header as u8 * event::link::HEADER | tag
}

/// The lesser of two lengths, which is not 0 and at most `N`, in a form that every kernel's verifier
/// can bound: from comparisons alone, not all find that it is not 0.
#[inline(always)]
pub fn bounded<const N: usize>(len: u32, max: u32) -> u32 {
    let n = core::hint::black_box(if len < max { len } else { max });
    (n.wrapping_sub(1) & (N as u32 - 1)) + 1
}

#[repr(C)]
struct Record<const N: usize> {
    event: Event,
    bytes: [u8; N],
}

/// Whether an event is not to be sent, for there are more than there may be. Then it is counted.
#[inline(always)]
fn is_left_out<S: Source>(source: &S, sighting: &Sighting, report: &Report) -> bool {
    // SAFETY: a live map value; only the CPU that handles the packet touches it.
    let known = unsafe { &mut *sighting.followed };
    if known.telling == telling::ALL {
        return false;
    }
    let untold = known.telling >= telling::DROP && known.told == 0;
    if known.begun & flags::FOREIGN != 0 {
        if untold {
            tell_after_all(known);
            let _ = FOLLOWED.remove(&source.address());
        }
        return untold;
    }
    let begins = known.told == 0 && !untold;
    let captures = setting!(snaplen) != 0;
    if begins || !telling::leaves_out(known.telling, report.point, report.flags, captures) {
        return false;
    }
    // A piece has numbers of its own, which are read when it is told of.
    if known.origin < origin::SEGMENT {
        known.seen = 1;
    }
    if known.telling != telling::BEHIND {
        spare(Spared::Events);
    }
    true
}

/// Of this packet nothing was to be told; what is made of others was not counted.
#[inline(always)]
fn tell_after_all(known: &Followed) {
    if known.origin == origin::NONE {
        add_untold(known.telling, u64::MAX);
    }
}

/// Sends one event of a followed packet.
#[inline(always)]
pub fn emit<S: Capture>(source: &S, sighting: &Sighting, report: &Report) {
    if is_left_out(source, sighting, report) {
        return;
    }
    let snaplen = setting!(snaplen);
    if snaplen == 0 || !(S::ALWAYS || setting!(capture_everywhere) != 0) {
        send::<S, 0>(source, sighting, report, |_| Captured::NONE);
        return;
    }
    // Where whole packets are to be had, room for as much as there is, not for as much as there may be: of
    // 64 KiB each, the ring would be full with a few hundred. Elsewhere only the linear part is, which is
    // seldom longer, and a choice that the verifier cannot make would have it walk this thrice.
    let wanted = if S::ALWAYS { snaplen.min(source.len()) } else { snaplen };
    if wanted <= SMALL as u32 {
        capture::<S, SMALL>(source, sighting, report, snaplen);
    } else if wanted <= MEDIUM as u32 || !S::ALWAYS {
        capture::<S, MEDIUM>(source, sighting, report, snaplen);
    } else {
        capture::<S, LARGE>(source, sighting, report, snaplen);
    }
}

/// Sends one event with what a kernel structure holds behind it, in place of the packet's bytes.
/// The report's flags say so; where it could not be read nothing is behind it.
#[inline(always)]
pub fn emit_with<S: Source, const N: usize>(
    source: &S,
    sighting: &Sighting,
    report: &Report,
    structure: u64,
) {
    if is_left_out(source, sighting, report) {
        return;
    }
    send::<S, N>(source, sighting, report, |into| {
        // SAFETY: `into` has room for `N` bytes; the helper checks the address itself.
        let code = unsafe { bpf_probe_read_kernel(into.cast(), N as u32, structure as *const _) };
        Captured::bytes(if code == 0 { N as u32 } else { 0 })
    });
}

#[inline(always)]
fn capture<S: Capture, const N: usize>(
    source: &S,
    sighting: &Sighting,
    report: &Report,
    snaplen: u32,
) {
    send::<S, N>(source, sighting, report, |into| {
        // SAFETY: `into` has room for `N` bytes, a power of two, and no more are asked for.
        unsafe { source.capture::<N>(into, snaplen.min(N as u32)) }
    });
}

/// `fill` writes at most `N` bytes behind the event.
#[inline(always)]
fn send<S: Source, const N: usize>(
    source: &S,
    sighting: &Sighting,
    report: &Report,
    fill: impl FnOnce(*mut u8) -> Captured,
) {
    // SAFETY: a live map value of integers.
    if state().is_none_or(|state| unsafe { (*state).over } != 0) {
        return;
    }
    offer();
    // SAFETY: a live map value; only the CPU that handles the packet touches it.
    let known = unsafe { &mut *sighting.followed };
    let seq = known.events;
    // Also when the event is refused below: the gap tells the journey of it.
    known.events = seq.wrapping_add(1);
    let netns = match source.netns() {
        0 => known.netns,
        netns => netns,
    };
    known.netns = netns;
    let begin = known.told == 0;
    if known.seen == 0 && known.origin >= origin::SEGMENT && known.tunneled == 0 {
        // A piece has numbers of its own, which its parent's maker wrote after it was made. Those of one in a
        // tunnel's packet are not looked for.
        source.headers().parse(source.bytes(), &mut known.tuple);
    }
    known.seen = 1;
    let Some(mut entry) = EVENTS.reserve::<Record<N>>(0) else {
        count(Loss::RingFull);
        return;
    };
    known.told = 1;
    if begin {
        tell_after_all(known);
    }
    let record = entry.as_mut_ptr();
    // SAFETY: `record` is the reserved memory, wide enough for a `Record<N>`; written field by
    // field, for a copy of the struct would not fit the BPF stack.
    unsafe {
        let e = &raw mut (*record).event;
        (*e).time = bpf_ktime_get_ns();
        (*e).id = known.id;
        (*e).parent = known.parent;
        (*e).skb = source.address();
        (*e).netns = netns;
        (*e).ifindex = source.ifindex();
        (*e).len = source.len();
        (*e).seq = seq;
        (*e).cpu = bpf_get_smp_processor_id() as u16;
        (*e).point = report.point;
        (*e).flags = report.flags
            | if begin { flags::BEGIN | (known.begun & flags::LEARNED) } else { 0 }
            | (known.begun & flags::FOREIGN)
            | if known.telling != telling::ALL { flags::THINNED } else { 0 }
            | if known.tunneled != 0 { flags::TUNNELED } else { 0 };
        (*e).origin = known.origin;
        (*e).tuple = known.tuple;
        (*e).detail = report.detail;
        let captured = fill((&raw mut (*record).bytes).cast());
        (*e).captured = captured.len;
        (*e).link = captured.link;
        (*e).vlan = captured.vlan;
        (*e).before = captured.before;
    }
    // Once when the watermark is crossed, not at every event beyond it: a reader that is behind is
    // awake, and a wake-up is an interrupt.
    let waiting = EVENTS.query(u64::from(BPF_RB_AVAIL_DATA));
    let mark = u64::from(setting!(wake_bytes));
    let wake = if waiting >= mark && waiting - mark < size_of::<Record<N>>() as u64 {
        BPF_RB_FORCE_WAKEUP
    } else {
        BPF_RB_NO_WAKEUP
    };
    entry.submit(u64::from(wake));
    if known.begun & flags::FOREIGN != 0 {
        let _ = FOLLOWED.remove(&source.address());
    }
}
