//! Netfilter hooks, bracketed by BPF netfilter links: one observer before every base chain, one
//! behind, and one in each gap between their priorities.
//!
//! Only entering a hook is an event of its own. What lies between is kept with the packet and told
//! when it dies there; leaving is told where something changed, and for LOCAL_IN, where a packet's
//! way through the host ends.

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_ktime_get_ns;
use tracer_common::{
    event::{
        detail::{Detail as _, Hook, Netfilter},
        flags,
    },
    point::Point,
};

use super::Packet;
use crate::{
    emit::{Report, emit},
    skb::{Access as _, Dev, Direct, Net, Pointer, Skb, offset},
    track::{At, clear_current, known, known_or_begun, reparse, set_leaving},
};

const NF_ACCEPT: i32 = 1;

const PRE_ROUTING: u8 = 0;
const LOCAL_IN: u8 = 1;
const FORWARD: u8 = 2;
const LOCAL_OUT: u8 = 3;
const POST_ROUTING: u8 = 4;

/// `struct bpf_nf_ctx`: what a netfilter program is called with. Both pointers are BTF-typed.
#[repr(C)]
pub struct NetfilterContext {
    state: *const u8,
    skb: *const u8,
}

/// `struct nf_hook_state`.
struct State {
    hook: u8,
    pf: u8,
    iif: u32,
    oif: u32,
    netns: u32,
}

impl State {
    #[inline(always)]
    fn read(at: *const u8) -> Self {
        let dev = |offset| Dev::<Direct>::new(Direct::read::<Pointer>(at, offset).0);
        Self {
            hook: Direct::read(at, offset!(nf_hook)),
            pf: Direct::read(at, offset!(nf_pf)),
            iif: dev(offset!(nf_in)).ifindex(),
            oif: dev(offset!(nf_out)).ifindex(),
            netns: Net::<Direct>::new(Direct::read::<Pointer>(at, offset!(nf_net)).0).inode(),
        }
    }

    #[inline(always)]
    fn point(&self) -> Point {
        match self.hook {
            PRE_ROUTING => Point::NfPrerouting,
            LOCAL_IN => Point::NfInput,
            FORWARD => Point::NfForward,
            LOCAL_OUT => Point::NfOutput,
            _ => Point::NfPostrouting,
        }
    }

    /// The interface that the hook is about: where the packet came in, else where it goes out.
    #[inline(always)]
    fn ifindex(&self) -> u32 {
        if self.hook <= FORWARD { self.iif } else { self.oif }
    }
}

/// The hook that the packet is in.
#[inline(always)]
fn hook_of(ctx: *mut c_void) -> u8 {
    let ctx: *const NetfilterContext = ctx.cast();
    // SAFETY: the context of a netfilter program is a live `struct bpf_nf_ctx`.
    Direct::read(unsafe { (*ctx).state }, offset!(nf_hook))
}

/// Address of the packet.
#[inline(always)]
fn skb_of(ctx: *mut c_void) -> u64 {
    let ctx: *const NetfilterContext = ctx.cast();
    // SAFETY: as in `hook_of`.
    unsafe { (*ctx).skb as u64 }
}

#[inline(always)]
fn packet_and_state(ctx: *mut c_void) -> (Packet<Direct>, State) {
    let ctx: *const NetfilterContext = ctx.cast();
    // SAFETY: the context of a netfilter program is a live `struct bpf_nf_ctx`.
    let (state, skb) = unsafe { ((*ctx).state, (*ctx).skb) };
    let state = State::read(state);
    let skb = Skb::new(skb);
    (Packet { skb, ifindex: state.ifindex(), netns: state.netns, arriving: false }, state)
}

/// The first observer of a hook.
#[inline(always)]
pub fn enter(ctx: *mut c_void) -> i32 {
    // Most packets are none of ours: nothing more is read of them than it takes to know.
    if matches!(hook_of(ctx), PRE_ROUTING | POST_ROUTING) && known(skb_of(ctx)).is_none() {
        return NF_ACCEPT;
    }
    let (packet, state) = packet_and_state(ctx);
    // A life can begin where a task sends, and behind DNAT, which can turn a packet into one to follow.
    let sighting = match state.hook {
        LOCAL_OUT | LOCAL_IN | FORWARD => known_or_begun(&packet, At::Fresh),
        _ => known(packet.skb.address()),
    };
    let Some(sighting) = sighting else { return NF_ACCEPT };
    // SAFETY: a live map value; only the CPU that handles the packet touches it.
    let followed = unsafe { &mut *sighting.followed };
    followed.hook = Hook { in_hook: 1, hook: state.hook, pf: state.pf, passed: 0 };
    // SAFETY: no preconditions.
    followed.hook_since = unsafe { bpf_ktime_get_ns() };
    // Behind POST_ROUTING comes the neighbour, whose tracepoints name no skb; LOCAL_IN and FORWARD
    // are behind the routing decision.
    match state.hook {
        LOCAL_IN | FORWARD => clear_current(packet.skb.address()),
        PRE_ROUTING => {}
        _ => set_leaving(packet.skb.address()),
    }
    let detail = Netfilter { hook: followed.hook, iif: state.iif, oif: state.oif, spent: 0 };
    emit(&packet, &sighting, &Report { point: state.point(), flags: 0, detail: detail.to_wire() });
    NF_ACCEPT
}

/// An observer between two base chains.
#[inline(always)]
pub fn pass(ctx: *mut c_void, number: u8) -> i32 {
    if let Some(sighting) = known(skb_of(ctx)) {
        // SAFETY: a live map value; only the CPU that handles the packet touches it.
        unsafe { (*sighting.followed).hook.passed = number };
    }
    NF_ACCEPT
}

/// The last observer of a hook: behind it only conntrack's confirmation is left.
#[inline(always)]
pub fn exit(ctx: *mut c_void) -> i32 {
    let Some(sighting) = known(skb_of(ctx)) else { return NF_ACCEPT };
    let (packet, state) = packet_and_state(ctx);
    // SAFETY: a live map value; only the CPU that handles the packet touches it.
    let followed = unsafe { &mut *sighting.followed };
    let in_hook = followed.hook;
    let changed = state.hook != FORWARD && reparse(&packet, followed);
    if changed || state.hook == LOCAL_IN {
        // SAFETY: no preconditions.
        let spent = unsafe { bpf_ktime_get_ns() } - followed.hook_since;
        let detail = Netfilter { hook: in_hook, iif: 0, oif: 0, spent: spent as u32 };
        let report =
            Report { point: state.point(), flags: flags::HOOK_EXIT, detail: detail.to_wire() };
        emit(&packet, &sighting, &report);
    }
    followed.hook.in_hook = 0;
    if state.hook == LOCAL_IN {
        followed.delivered = 1;
    }
    NF_ACCEPT
}
