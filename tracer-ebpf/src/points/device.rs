//! Network devices: handed to egress, given to the driver, received.

use aya_ebpf::programs::BtfTracePointContext;
use tracer_common::{event::detail::Hook, point::Point};

use super::{Packet, may_begin};
use crate::{
    emit::{Report, emit},
    skb::{Access, Dev, Skb},
    track::{At, clear_current, entry, find_original, known, known_or_begun, set_arriving},
};

/// tp_btf `net_dev_queue(skb)`: `__dev_queue_xmit`, behind tc egress.
#[inline(always)]
pub fn queue<A: Access>(ctx: &BtfTracePointContext) {
    let skb = Skb::<A>::new(ctx.arg(0));
    let entry = entry(skb.address());
    if entry.is_none() && !may_begin(skb, false) {
        return;
    }
    let packet = Packet::on_its_device(skb);
    if let Some(sighting) = known_or_begun(&packet, entry, At::Way) {
        clear_current(packet.skb.address());
        emit(&packet, &sighting, &Report::plain(Point::DevQueue));
    }
}

/// tp_btf `net_dev_start_xmit(skb, dev)`: `xmit_one`, right before the driver.
#[inline(always)]
pub fn xmit<A: Access>(ctx: &BtfTracePointContext) {
    let skb = Skb::<A>::new(ctx.arg(0));
    if let Some(sighting) = known(skb.address()) {
        // SAFETY: a live map value; only the CPU that handles the packet touches it.
        unsafe { (*sighting.followed).sent = 1 };
        let packet = Packet::on(Dev::<A>::new(ctx.arg(1)), skb);
        emit(&packet, &sighting, &Report::plain(Point::DevXmit));
    }
}

/// tp_btf `netif_receive_skb(skb)`: the top of `__netif_receive_skb_core`, before it sets the
/// network header.
#[inline(always)]
pub fn receive<A: Access>(ctx: &BtfTracePointContext) {
    let skb = Skb::<A>::new(ctx.arg(0));
    let entry = entry(skb.address());
    if entry.is_none() && !may_begin(skb, true) {
        set_arriving(0);
        return;
    }
    let packet = Packet { arriving: true, ..Packet::on_its_device(skb) };
    let Some(sighting) = known_or_begun(&packet, entry, At::Fresh) else {
        set_arriving(0);
        return;
    };
    set_arriving(packet.skb.address());
    // SAFETY: a live map value; only the CPU that handles the packet touches it.
    let followed = unsafe { &mut *sighting.followed };
    followed.hook = Hook { in_hook: 0, hook: 0, pf: 0, passed: 0 };
    followed.sent = 0;
    if followed.seen == 0 && followed.parent == 0 {
        find_original(followed);
    }
    emit(&packet, &sighting, &Report::plain(Point::DevReceive));
}
