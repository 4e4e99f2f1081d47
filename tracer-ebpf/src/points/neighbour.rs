//! Neighbours: a packet waits for, or asks for, the link-layer address of its next hop. Their
//! tracepoints carry no skb: the event belongs to the packet that this CPU is taking from
//! POST_ROUTING to egress, and only when the neighbour is that packet's destination or gateway.

use aya_ebpf::programs::BtfTracePointContext;
use tracer_common::{
    event::{detail::Neigh, family},
    point::Point,
};

use super::{Packet, report_known};
use crate::{
    call::Call,
    skb::{Access, Dev, Pointer, Probe, Skb, offset, read_into},
    track::{known, leaving},
};

/// `NUD_CONNECTED` (permanent, noarp, reachable), probe, stale and delay: the address is known.
const NUD_VALID: u8 = 0x80 | 0x40 | 0x02 | 0x10 | 0x04 | 0x08;

/// tp_btf `neigh_event_send_done(neigh, rc)`: `__neigh_event_send`, where the neighbour is not
/// known to be reachable.
#[inline(always)]
pub fn event_send<A: Access>(ctx: &BtfTracePointContext) {
    let Some(skb) = leaving() else { return };
    let neigh: *const u8 = ctx.arg(0);
    if !is_next_hop(skb, neigh) {
        return;
    }
    let state: u8 = A::read(neigh, offset!(neigh_state));
    let detail = describe(neigh, state);
    let dev = Dev::<A>::new(A::read::<Pointer>(neigh, offset!(neigh_dev)).0);
    let packet = Packet::on(dev, Skb::<Probe>::new(skb as *const u8));
    report_known(&packet, Point::Neigh, detail);
}

/// `neigh_resolve_output(neigh, skb)`: the packet's next hop is not known to be reachable.
#[inline(always)]
pub fn resolve(call: impl Call) {
    let skb = call.argument(1);
    if known(skb).is_none() {
        return;
    }
    let neigh = call.argument(0) as *const u8;
    let dev = Dev::<Probe>::new(Probe::read::<Pointer>(neigh, offset!(neigh_dev)).0);
    let packet = Packet::on(dev, Skb::<Probe>::new(skb as *const u8));
    report_known(&packet, Point::Neigh, describe(neigh, Probe::read(neigh, offset!(neigh_state))));
}

/// What is known of a neighbour in this state.
#[inline(always)]
fn describe(neigh: *const u8, state: u8) -> Neigh {
    let mut detail = Neigh { state, ..Neigh::default() };
    if state & NUD_VALID != 0 {
        read_into((neigh as u64).wrapping_add(u64::from(offset!(neigh_ha))), &mut detail.lladdr);
        detail.known = 1;
    }
    detail
}

/// Whether this neighbour is the destination of the packet, or the gateway of its route.
#[inline(always)]
fn is_next_hop(skb: u64, neigh: *const u8) -> bool {
    let Some(sighting) = known(skb) else { return false };
    // SAFETY: a live map value; only the CPU that handles the packet touches it.
    let packet = unsafe { &(*sighting.followed).tuple };
    let key_at = (neigh as u64).wrapping_add(u64::from(offset!(neigh_key)));
    // `_skb_refdst`: the lowest bit says that no reference is held.
    let route = Probe::read::<u64>(skb as *const u8, offset!(skb_dst)) & !1;
    if packet.family == family::IPV4 {
        let mut key = [0; 4];
        if !read_into(key_at, &mut key) {
            return false;
        }
        let [.., a, b, c, d] = packet.dst;
        if key == [a, b, c, d] {
            return true;
        }
        let gateway: u32 = Probe::read(route as *const u8, offset!(rtable_gw4));
        route != 0 && gateway != 0 && gateway.to_ne_bytes() == key
    } else {
        let mut key = [0; 16];
        if !read_into(key_at, &mut key) {
            return false;
        }
        if key == packet.dst {
            return true;
        }
        let mut gateway = [0; 16];
        route != 0
            && read_into(route.wrapping_add(u64::from(offset!(rt6_gateway))), &mut gateway)
            && gateway == key
    }
}
