//! The steps of the IP stack, alike for IPv4 and IPv6.

use tracer_common::point::Point;

use super::{Packet, may_begin, seen, tell_seen};
use crate::{
    call::Call,
    emit::{Report, emit},
    skb::{Net, Probe, Skb},
    track::{At, clear_current, entry, forget_arrived, known, known_or_begun, set_leaving},
};

/// `ip_rcv(skb, …)`, `ipv6_rcv(skb, …)`. A packet that came in a tunnel comes here again.
#[inline(always)]
pub fn receive(call: impl Call) {
    seen_and_marked(call.argument(0), Point::IpReceive, 0);
}

/// `ip_forward(skb)`, `ip6_forward(skb)`: behind the routing decision.
#[inline(always)]
pub fn forward(call: impl Call) {
    let skb = call.argument(0);
    clear_current(skb);
    seen(skb, Point::IpForward);
}

/// `ip_local_deliver(skb)`, `ip6_input(skb)`: behind the routing decision.
#[inline(always)]
pub fn deliver(call: impl Call) {
    let skb = call.argument(0);
    clear_current(skb);
    seen_and_marked(skb, Point::IpLocalDeliver, 1);
}

/// Reports a packet, if it is followed, and keeps whether the stack has it for itself.
#[inline(always)]
fn seen_and_marked(skb: u64, point: Point, arrived: u8) {
    if let Some(sighting) = known(skb) {
        // SAFETY: a live map value; only the CPU that handles the packet touches it.
        let followed = unsafe { &mut *sighting.followed };
        followed.arrived = arrived & (followed.tunneled == 0) as u8;
        tell_seen(skb, &sighting, point);
    }
}

/// `ip_output(net, sk, skb)`, `ip6_output(net, sk, skb)`: the first point that a task's packet meets
/// where nothing is hooked. What comes next is the neighbour, whose tracepoints name no skb.
#[inline(always)]
pub fn output(call: impl Call) {
    let skb = call.argument(2);
    forget_arrived(skb);
    let (entry, at) = (entry(skb), Skb::<Probe>::new(skb as *const u8));
    if entry.is_none() && !may_begin(at, false) {
        return;
    }
    let netns = Net::<Probe>::new(call.argument(0) as *const u8).inode();
    let packet = Packet { netns, ..Packet::in_queue(at) };
    if let Some(sighting) = known_or_begun(&packet, entry, At::Way) {
        set_leaving(skb);
        emit(&packet, &sighting, &Report::plain(Point::IpOutput));
    }
}
