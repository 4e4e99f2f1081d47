//! Netfilter hooks, bracketed by BPF netfilter links: one observer before every base chain, one
//! behind, and one in each gap between their priorities. Where a kernel has no such links, and for
//! the hooks of bridges and devices, which have none on any: the function that walks a hook.
//!
//! Only entering a hook is an event of its own. What lies between is kept with the packet and told
//! when it dies there; leaving is told where something changed, and for LOCAL_IN, where a packet's
//! way through the host ends.
//!
//! Who decides in a hook (a chain, a table, connection tracking) is kept with the packet while it
//! does, from [`deciding`] to [`decided`], and told where that was not to accept it.

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_ktime_get_ns;
use tracer_common::{
    event::{
        detail::{Detail as _, Hook, Netfilter, Verdict},
        flags, verdict,
    },
    point::Point,
    track::{Decision, Followed, telling},
};

use super::{Packet, conntrack, keep, may_begin, nftables};
use crate::{
    call::{Call, Kept},
    emit::{Capture, Report, emit},
    globals::{DECISIONS, state},
    skb::{Access, Dev, Direct, Net, Pointer, Probe, Skb, offset, read_into, unknown},
    track::{
        At, Sighting, clear_current, entry, known, known_or_begun, reparse, set_leaving,
        still_known,
    },
};

const NF_ACCEPT: i32 = 1;

const PRE_ROUTING: u8 = 0;
const LOCAL_IN: u8 = 1;
const FORWARD: u8 = 2;
const LOCAL_OUT: u8 = 3;
const POST_ROUTING: u8 = 4;

const NFPROTO_IPV4: u8 = 2;
const NFPROTO_NETDEV: u8 = 5;
const NFPROTO_IPV6: u8 = 10;
/// `NF_VERDICT_MASK`: above it stand the number of a queue, or an errno.
const VERDICT: u32 = 0xff;

/// `struct bpf_nf_ctx`: what a netfilter program is called with. Both pointers are BTF-typed.
#[repr(C)]
pub struct NetfilterContext {
    state: *const u8,
    skb: *const u8,
}

/// What is told of a `struct nf_hook_state`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct State {
    iif: u32,
    oif: u32,
    netns: u32,
    /// The interface that the hook is about: where the packet came in, else where it goes out.
    ifindex: u32,
    hook: u8,
    pf: u8,
    /// The [`Point`]'s number.
    point: u8,
    /// One of [`on_way`].
    on_way: u8,
    /// Not 0: a life can begin here: where a task sends, and behind DNAT, which can turn a packet into
    /// one to follow.
    begins: u8,
    pad: [u8; 3],
}

/// Where on its way a hook of IP has a packet.
mod on_way {
    /// It is no hook of IP.
    pub const NOWHERE: u8 = 0;
    /// PRE_ROUTING.
    pub const COMING: u8 = 1;
    /// FORWARD: behind the routing decision.
    pub const THROUGH: u8 = 2;
    /// LOCAL_IN: behind the routing decision.
    pub const IN: u8 = 3;
    /// LOCAL_OUT and POST_ROUTING: what comes next is the neighbour.
    pub const OUT: u8 = 4;
}

impl State {
    #[inline(always)]
    fn read<A: Access>(at: *const u8) -> Self {
        let dev = |offset| Dev::<A>::new(A::read::<Pointer>(at, offset).0);
        let (hook, pf): (u8, u8) = (A::read(at, offset!(nf_hook)), A::read(at, offset!(nf_pf)));
        let (iif, oif) = (dev(offset!(nf_in)).ifindex(), dev(offset!(nf_out)).ifindex());
        let comes_in = hook <= FORWARD && iif != 0;
        let is_ip = matches!(pf, NFPROTO_IPV4 | NFPROTO_IPV6);
        Self {
            iif,
            oif,
            netns: Net::<A>::new(A::read::<Pointer>(at, offset!(nf_net)).0).inode(),
            ifindex: if comes_in || oif == 0 { iif } else { oif },
            hook,
            pf,
            point: point_of(pf, hook) as u8,
            on_way: match hook {
                _ if !is_ip => on_way::NOWHERE,
                PRE_ROUTING => on_way::COMING,
                FORWARD => on_way::THROUGH,
                LOCAL_IN => on_way::IN,
                _ => on_way::OUT,
            },
            begins: begins_at(pf, hook) as u8,
            pad: [0; 3],
        }
    }

    /// The state that a kernel function was called with.
    #[inline(always)]
    fn probed(at: *const u8) -> Self {
        let mut state = Self::default();
        probe_state(at, &mut state);
        state
    }

    /// The packet that is in the hook.
    #[inline(always)]
    fn packet<A>(&self, skb: Skb<A>) -> Packet<A> {
        Packet { skb, ifindex: self.ifindex, netns: self.netns, arriving: false, on_device: true }
    }

    #[inline(always)]
    fn is_ip(&self) -> bool {
        self.on_way != on_way::NOWHERE
    }
}

/// Whether a life can begin in a hook.
#[inline(always)]
fn begins_at(pf: u8, hook: u8) -> bool {
    matches!(pf, NFPROTO_IPV4 | NFPROTO_IPV6) && matches!(hook, LOCAL_OUT | LOCAL_IN | FORWARD)
}

/// A BPF subprogram, whose result reaches the caller by a copy that a helper makes: the verifier then
/// knows nothing of it, and checks what follows once, not once for each hook, family and device.
#[inline(never)]
fn probe_state(at: *const u8, state: &mut State) {
    let own = State::read::<Probe>(at);
    // SAFETY: a `State` is integers without padding: as many bytes.
    let into: &mut [u8; size_of::<State>()] = unsafe { &mut *(&raw mut *state).cast() };
    read_into(core::hint::black_box((&raw const own) as u64), into);
}

/// The point of a hook.
#[inline(always)]
fn point_of(pf: u8, hook: u8) -> Point {
    match (pf, hook) {
        (NFPROTO_NETDEV, 0) => Point::NfIngress,
        (NFPROTO_NETDEV, _) => Point::NfEgress,
        (_, PRE_ROUTING) => Point::NfPrerouting,
        (_, LOCAL_IN) => Point::NfInput,
        (_, FORWARD) => Point::NfForward,
        (_, LOCAL_OUT) => Point::NfOutput,
        _ => Point::NfPostrouting,
    }
}

/// The hook that the packet is in.
#[inline(always)]
fn hook_of(ctx: *mut c_void) -> u8 {
    let ctx: *const NetfilterContext = ctx.cast();
    // SAFETY: the context of a netfilter program is a live `struct bpf_nf_ctx`.
    Direct::read(unsafe { (*ctx).state }, offset!(nf_hook))
}

/// The packet.
#[inline(always)]
fn skb_of(ctx: *mut c_void) -> Skb<Direct> {
    let ctx: *const NetfilterContext = ctx.cast();
    // SAFETY: as in `hook_of`.
    Skb::new(unsafe { (*ctx).skb })
}

#[inline(always)]
fn packet_and_state(ctx: *mut c_void) -> (Packet<Direct>, State) {
    let at: *const NetfilterContext = ctx.cast();
    // SAFETY: as in `hook_of`.
    let state = unsafe { (*at).state };
    let state = unknown(State::read::<Direct>(state));
    let skb = skb_of(ctx);
    (state.packet(skb), state)
}

/// The first observer of a hook.
#[inline(always)]
pub fn enter(ctx: *mut c_void) -> i32 {
    let entry = entry(skb_of(ctx).address());
    let begins_nothing = matches!(hook_of(ctx), PRE_ROUTING | POST_ROUTING);
    if entry.is_none() && (begins_nothing || !may_begin(skb_of(ctx), false)) {
        return NF_ACCEPT;
    }
    let (packet, state) = packet_and_state(ctx);
    let sighting = if state.begins != 0 {
        known_or_begun(&packet, entry, At::Fresh)
    } else {
        still_known(entry)
    };
    if let Some(sighting) = sighting {
        entered(&packet, &sighting, &state);
    }
    NF_ACCEPT
}

/// A followed packet has entered a hook.
#[inline(always)]
fn entered<S: Capture>(packet: &S, sighting: &Sighting, state: &State) {
    // SAFETY: a live map value; only the CPU that handles the packet touches it.
    let followed = unsafe { &mut *sighting.followed };
    followed.hook = Hook { in_hook: 1, hook: state.hook, pf: state.pf, passed: 0 };
    followed.deciding = 0;
    // SAFETY: no preconditions.
    followed.hook_since = unsafe { bpf_ktime_get_ns() };
    // Behind POST_ROUTING comes the neighbour, whose tracepoints name no skb; LOCAL_IN and FORWARD
    // are behind the routing decision.
    match state.on_way {
        on_way::THROUGH | on_way::IN => clear_current(packet.address()),
        on_way::OUT => set_leaving(packet.address()),
        _ => {}
    }
    let detail = Netfilter { hook: followed.hook, iif: state.iif, oif: state.oif, spent: 0 };
    emit(packet, sighting, &Report { point: state.point, flags: 0, detail: detail.to_wire() });
}

/// An observer between two base chains.
#[inline(always)]
pub fn pass(ctx: *mut c_void, number: u8) -> i32 {
    if let Some(sighting) = known(skb_of(ctx).address()) {
        // SAFETY: a live map value; only the CPU that handles the packet touches it.
        unsafe { (*sighting.followed).hook.passed = number };
    }
    NF_ACCEPT
}

/// The last observer of a hook: behind it only conntrack's confirmation is left.
#[inline(always)]
pub fn exit(ctx: *mut c_void) -> i32 {
    let Some(sighting) = known(skb_of(ctx).address()) else { return NF_ACCEPT };
    let (packet, state) = packet_and_state(ctx);
    left(&packet, &sighting, &state);
    NF_ACCEPT
}

/// Whether connection tracking looks packets up in this hook, and nothing else tells of it.
#[inline(always)]
fn is_tracked_here(hook: &State) -> bool {
    // SAFETY: a live map value of integers.
    matches!(hook.hook, PRE_ROUTING | LOCAL_OUT)
        && state().is_some_and(|state| unsafe { (*state).tracked } == 0)
}

/// A followed packet has left a hook, accepted by all that is in it.
#[inline(always)]
fn left<A: Access>(packet: &Packet<A>, sighting: &Sighting, state: &State) {
    // SAFETY: a live map value; only the CPU that handles the packet touches it.
    let followed = unsafe { &mut *sighting.followed };
    // Before what NAT made of the packet is told, which it does because of it.
    if state.is_ip() && (followed.tracked == 0 || is_tracked_here(state)) {
        conntrack::found(packet, sighting, state.pf);
    }
    let in_hook = followed.hook;
    let changed = state.is_ip() && state.on_way != on_way::THROUGH && reparse(packet, followed);
    let is_in = state.on_way == on_way::IN;
    if changed || is_in {
        // SAFETY: no preconditions.
        let spent = unsafe { bpf_ktime_get_ns() } - followed.hook_since;
        let detail = Netfilter { hook: in_hook, iif: 0, oif: 0, spent: spent as u32 };
        let report =
            Report { point: state.point, flags: flags::HOOK_EXIT, detail: detail.to_wire() };
        emit(packet, sighting, &report);
    }
    followed.hook.in_hook = 0;
    followed.deciding = 0;
    if is_in && followed.tunneled == 0 {
        followed.delivered = 1;
    }
}

/// `nf_hook_slow(skb, state, …)`: walks a hook in which something sits.
#[inline(always)]
pub fn enter_slow(call: impl Call) {
    let at = call.argument(1) as *const u8;
    let skb = Skb::<Probe>::new(call.argument(0) as *const u8);
    let pf: u8 = Probe::read(at, offset!(nf_pf));
    if !is_walked(pf) {
        return;
    }
    let entry = entry(skb.address());
    let begins = begins_at(pf, Probe::read(at, offset!(nf_hook)));
    if entry.is_none() && (!begins || !may_begin(skb, false)) {
        return;
    }
    let state = State::probed(at);
    let packet = state.packet(skb);
    let sighting = if state.begins != 0 {
        known_or_begun(&packet, entry, At::Fresh)
    } else {
        still_known(entry)
    };
    if let Some(sighting) = sighting {
        entered(&packet, &sighting, &state);
    }
}

/// Whether hooks of this family are watched by the function that walks them.
#[inline(always)]
fn is_walked(pf: u8) -> bool {
    if !matches!(pf, NFPROTO_IPV4 | NFPROTO_IPV6) {
        return true;
    }
    // SAFETY: a live map value of integers.
    state().is_some_and(|state| unsafe { (*state).linked } == 0)
}

/// What the end of `nf_hook_slow` needs.
#[inline(always)]
pub fn keep_slow(call: impl Call) -> Option<Kept> {
    keep(call.argument(0), [call.argument(1), 0])
}

/// `nf_hook_slow` returns 1 when all accepted the packet.
#[inline(always)]
pub fn leave_slow(kept: &Kept, result: u64) {
    let state = kept.more[0] as *const u8;
    let pf: u8 = Probe::read(state, offset!(nf_pf));
    if result as u32 != 1 || !is_walked(pf) {
        return;
    }
    let Some(sighting) = kept.sighting() else { return };
    let state = State::probed(state);
    let skb = Skb::<Probe>::new(kept.skb as *const u8);
    let packet = state.packet(skb);
    // SAFETY: a live map value; only the CPU that handles the packet touches it.
    let hook = unsafe { (*sighting.followed).hook };
    // A hook within this one has been the last that was entered: nothing is known of this one.
    if (hook.pf, hook.hook) == (state.pf, state.hook) {
        left(&packet, &sighting, &state);
    }
}

/// Somebody begins to decide about a followed packet in the hook of `state`.
#[inline(always)]
pub fn deciding(skb: u64, state: *const u8, decision: Decision) {
    let Some(sighting) = known(skb) else { return };
    // SAFETY: a live map value; only the CPU that handles the packet touches it.
    let followed = unsafe { &mut *sighting.followed };
    let pf: u8 = Probe::read(state, offset!(nf_pf));
    let hook: u8 = Probe::read(state, offset!(nf_hook));
    let is_known =
        followed.hook.in_hook != 0 && (followed.hook.pf, followed.hook.hook) == (pf, hook);
    if !is_known {
        // A bridge does not walk its first hook by the function that is watched.
        let state = State::probed(state);
        let packet = state.packet(Skb::<Probe>::new(skb as *const u8));
        entered(&packet, &sighting, &state);
    }
    let decision = Decision { entered: !is_known as u8, ..decision };
    followed.deciding = DECISIONS.insert(&skb, &decision, 0).is_ok() as u8;
}

/// The same, behind the last observer of the hook that the packet was in.
#[inline(always)]
pub fn deciding_behind(skb: u64, decision: Decision) {
    let Some(sighting) = known(skb) else { return };
    // SAFETY: a live map value; only the CPU that handles the packet touches it.
    let followed = unsafe { &mut *sighting.followed };
    let decision = Decision { entered: (followed.hook.in_hook == 0) as u8, ..decision };
    followed.hook.in_hook = 1;
    followed.deciding = DECISIONS.insert(&skb, &decision, 0).is_ok() as u8;
}

/// What stands of a decision about a packet.
#[inline(always)]
fn decision(skb: u64, followed: &Followed) -> Option<*mut Decision> {
    if followed.deciding == 0 { None } else { DECISIONS.get_ptr_mut(&skb) }
}

/// The rule that decides about a followed packet, by its number or handle.
#[inline(always)]
pub fn deciding_rule(skb: u64, rule: u64) {
    let Some(sighting) = known(skb) else { return };
    // SAFETY: a live map value; only the CPU that handles the packet touches it.
    if let Some(decision) = decision(skb, unsafe { &*sighting.followed }) {
        // SAFETY: as above.
        unsafe { (*decision).rule = rule };
    }
}

/// The decision was made: `NF_*` verdict, as the kernel's functions return it.
#[inline(always)]
pub fn decided(kept: &Kept, result: u64) {
    // A packet that was dropped is followed no longer, or stays in the hook till it is freed.
    let Some(sighting) = kept.sighting() else { return };
    match result as u32 & VERDICT {
        0 => {}
        1 => accepted(&sighting, kept.skb),
        other => {
            let kind = if other == 3 { verdict::QUEUE } else { verdict::STOLEN };
            let skb = Skb::<Probe>::new(kept.skb as *const u8);
            tell_decision(&Packet::on_its_device(skb), &sighting, kind);
        }
    }
}

/// The decision was to accept the packet.
#[inline(always)]
pub fn accepted(sighting: &Sighting, skb: u64) {
    // SAFETY: a live map value; only the CPU that handles the packet touches it.
    let followed = unsafe { &mut *sighting.followed };
    // SAFETY: as above.
    if decision(skb, followed).is_some_and(|d| unsafe { (*d).entered } != 0) {
        followed.hook.in_hook = 0;
    }
    followed.deciding = 0;
}

/// Tells who decided about a packet, where that is known.
#[inline(always)]
pub fn tell_decision<S: Capture>(packet: &S, sighting: &Sighting, made: u8) {
    // SAFETY: a live map value; only the CPU that handles the packet touches it.
    let followed: &mut Followed = unsafe { &mut *sighting.followed };
    let hook = followed.hook;
    // Of a packet that is told only if it is dropped, nothing else that was decided is.
    let is_told = made == verdict::DROP || followed.telling < telling::DROP;
    if hook.in_hook == 0 || !is_told {
        return;
    }
    let Some(decision) = decision(packet.address(), followed) else { return };
    // SAFETY: a live map value; only the CPU that handles the packet touches it.
    let Decision { table, chain, rule, decider, .. } = unsafe { *decision };
    let watched = (rule != nftables::UNKNOWN && nftables::is_watched()) as u8;
    let rule = if rule == nftables::UNKNOWN { 0 } else { rule };
    let detail = Verdict { table, chain, rule, hook, decider, verdict: made, watched, pad: 0 };
    let report = Report {
        point: point_of(hook.pf, hook.hook) as u8,
        flags: flags::VERDICT,
        detail: detail.to_wire(),
    };
    emit(packet, sighting, &report);
    followed.deciding = 0;
}
