//! Packets that are made from others: identity is handed on.
//!
//! A child is followed from its making on, and told of where it is first seen. (`pskb_expand_head`
//! needs no watching: it moves a packet's bytes, and its skb stays where it is.)

use tracer_common::event::{Loss, origin};

use super::{Packet, keep};
use crate::{
    call::{Call, Kept},
    globals::count,
    skb::{Access as _, Probe, Skb, offset},
    track::{inherit, known_itself},
};

/// Most pieces that are followed of one segment: 64 KiB in pieces of 1,024 bytes.
const MOST_PIECES: usize = 64;

/// What the end of a function needs that makes another packet of its first argument. Not every end
/// of a packet has a tracepoint: what is at its address must still be itself.
#[inline(always)]
pub fn keep_parent(call: impl Call) -> Option<Kept> {
    let kept = keep(call.argument(0), [0; 2])?;
    let skb = Skb::<Probe>::new(kept.skb as *const u8);
    known_itself(&Packet::in_queue(skb))?;
    Some(kept)
}

/// `skb_clone(skb, …)` returns the clone.
#[inline(always)]
pub fn cloned(kept: &Kept, result: u64) {
    inherit(kept.skb, result, origin::CLONE);
}

/// `skb_copy(skb, …)`, `skb_copy_expand(skb, …)` and `__pskb_copy_fclone(skb, …)` return the copy.
#[inline(always)]
pub fn copied(kept: &Kept, result: u64) {
    inherit(kept.skb, result, origin::COPY);
}

/// `__skb_gso_segment(skb, …)` returns a list of the pieces, or an error, or none where nothing
/// had to be cut.
#[inline(always)]
pub fn segmented(kept: &Kept, result: u64) {
    let mut piece = result;
    let mut pieces = 0;
    // An error is among the highest addresses (`IS_ERR`).
    while pieces < MOST_PIECES && piece != 0 && piece < u64::MAX - 4095 {
        inherit(kept.skb, piece, origin::SEGMENT);
        piece = Probe::read(piece as *const u8, offset!(skb_next));
        pieces += 1;
    }
    if pieces == MOST_PIECES && piece != 0 {
        count(Loss::TrackingFull);
    }
}

/// `ip_frag_next(skb, …)`, `ip6_frag_next(skb, …)` return the next fragment, or an error.
#[inline(always)]
pub fn fragmented(kept: &Kept, result: u64) {
    if result < u64::MAX - 4095 {
        inherit(kept.skb, result, origin::FRAGMENT);
    }
}
