//! Matches packets with a pcap-filter expression. What it says stands in two subprograms that are room
//! alone here: the user side writes the translated expression into the object before it is loaded
//! (`tracer/src/probe/expression`). Each is called with a [`View`] of the packet's start.

use core::arch::asm;

use aya_ebpf::helpers::bpf_ktime_get_ns;
use tracer_common::{
    event::{Loss, Tuple},
    expression::{VIEW_BYTES, View, headers, mode},
};

use crate::{
    emit::bounded,
    globals::{VIEW, count, setting},
    packet::{Bytes, Frame, Tag},
    skb::unknown,
    track::Source,
};

/// Bytes of the two link-layer addresses, behind which a tag has its place.
const ADDRESSES: usize = 12;
/// Bytes of a tag.
const TAG: usize = 4;

/// Whether the packet matches, from its link-layer header on where it has one here, else from its network
/// header on. True without an expression.
#[inline(always)]
pub fn matches<S: Source>(source: &S) -> bool {
    if setting!(expression) == mode::NONE {
        return true;
    }
    // The verifier is to know nothing of why: it would walk what follows once for each reason.
    unknown(source.evaluate()) != 0
}

/// Runs the expression over the packet of the skb at `address`: not 0 where it matches.
#[inline(always)]
pub fn evaluate(bytes: impl Bytes, frame: &Frame, address: u64) -> u64 {
    let Some(view) = VIEW.get_ptr_mut(0) else { return 0 };
    let has_link = frame.headers.ethernet != 0;
    let from = if has_link { frame.headers.ethernet } else { frame.headers.network };
    if from == 0 || from >= frame.headers.end {
        return 0;
    }
    // SAFETY: this CPU's view. What interrupts us here may write to it, which is found out below.
    unsafe { (*view).owner = address };
    let filled = if has_link && setting!(expression) == mode::TAGS && frame.tag != Tag::NONE {
        fill_tagged(bytes, frame, from, view)
    } else {
        fill(bytes, frame, from, view)
    };
    if !filled {
        return 0;
    }
    let verdict = if has_link { link_program(view) } else { network_program(view) };
    // SAFETY: this CPU's view; volatile, or it would be what was written above.
    if unsafe { (&raw const (*view).owner).read_volatile() } != address {
        count(Loss::Disturbed);
        return 0;
    }
    verdict
}

/// Copies the packet as it is.
#[inline(always)]
fn fill(bytes: impl Bytes, frame: &Frame, from: u64, view: *mut View) -> bool {
    let linear = (frame.headers.end - from) as u32;
    let n = bounded::<VIEW_BYTES>(linear, setting!(expression_bytes));
    // SAFETY: this CPU's view, whose bytes are at least as many.
    unsafe {
        (*view).captured = n;
        (*view).length = linear.wrapping_add(frame.paged);
        bytes.copy(from, (&raw mut (*view).bytes).cast(), n)
    }
}

/// Copies the packet, with the tag where it belongs.
#[inline(always)]
fn fill_tagged(bytes: impl Bytes, frame: &Frame, from: u64, view: *mut View) -> bool {
    let linear = (frame.headers.end - from) as u32;
    let n = bounded::<VIEW_BYTES>(linear, setting!(expression_bytes));
    // SAFETY: this CPU's view. Behind where the rest goes is room for as many bytes as are copied.
    unsafe {
        let to: *mut u8 = (&raw mut (*view).bytes).cast();
        (*view).captured = (n + TAG as u32).min(VIEW_BYTES as u32);
        (*view).length = linear.wrapping_add(frame.paged).wrapping_add(TAG as u32);
        if !bytes.copy(from, to.add(TAG), n) {
            return false;
        }
        let addresses: [u8; ADDRESSES] = to.add(TAG).cast::<[u8; ADDRESSES]>().read();
        to.cast::<[u8; ADDRESSES]>().write(addresses);
        to.add(ADDRESSES).cast::<[u8; TAG]>().write(frame.tag.bytes());
    }
    true
}

/// Whether a packet with these addresses and ports, and nothing else that is known of it, would match: an
/// answer that is still to come. True without an expression. A BPF subprogram: it is long.
#[inline(never)]
pub fn would_match(tuple: &Tuple) -> bool {
    if setting!(expression) == mode::NONE {
        return true;
    }
    let Some(view) = VIEW.get_ptr_mut(0) else { return false };
    // SAFETY: no preconditions.
    let owner = unsafe { bpf_ktime_get_ns() };
    // SAFETY: this CPU's view, whose bytes are more than these. What interrupts us is found out below.
    let verdict = unsafe {
        (*view).owner = owner;
        let length = headers(tuple, &mut *(&raw mut (*view).bytes).cast()) as u32;
        (*view).captured = length;
        (*view).length = length;
        unknown(network_program(view))
    };
    // SAFETY: as in `evaluate`.
    verdict != 0 && unsafe { (&raw const (*view).owner).read_volatile() } == owner
}

/// Instructions that there is room for: `ROOM` of `tracer/src/probe/expression`, which finds the room by
/// the symbols of these functions.
macro_rules! room {
    ($view:ident, $distinct:literal) => {{
        let verdict: u64;
        // SAFETY: only what the user side writes here is ever run, and that reads and writes the view
        // within its bounds, as the verifier finds.
        unsafe {
            asm!(
                ".rept 2048",
                concat!("r0 = ", $distinct),
                ".endr",
                in("r1") $view,
                out("r0") verdict,
                out("r2") _, out("r3") _, out("r4") _, out("r5") _,
            );
        }
        verdict
    }};
}

/// The expression for packets that begin with an Ethernet header: not 0 where they match.
#[inline(never)]
fn link_program(view: *mut View) -> u64 {
    room!(view, "1")
}

/// The expression for packets that begin with an IP header.
#[inline(never)]
fn network_program(view: *mut View) -> u64 {
    room!(view, "2")
}
