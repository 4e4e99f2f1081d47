//! Bridges: received by a port, forwarded to one, flooded, passed up, sent by the bridge itself.

use tracer_common::point::Point;

use super::{Packet, seen};
use crate::{
    call::Call,
    emit::{Report, emit},
    skb::{Access as _, Dev, Pointer, Probe, Skb, offset},
    track::known,
};

/// `br_handle_frame(pskb)`: the device is the port's.
#[inline(always)]
pub fn receive(call: impl Call) {
    seen(Probe::read(call.argument(0) as *const u8, 0), Point::BridgeRx);
}

/// `__br_forward(to, skb, local_orig)`: to one port, which the packet's device does not tell yet.
#[inline(always)]
pub fn forward(call: impl Call) {
    let skb = call.argument(1);
    let Some(sighting) = known(skb) else { return };
    let to = call.argument(0) as *const u8;
    let dev = Dev::<Probe>::new(Probe::read::<Pointer>(to, offset!(port_dev)).0);
    let skb = Skb::<Probe>::new(skb as *const u8);
    let packet = if dev.is_none() { Packet::on_its_device(skb) } else { Packet::on(dev, skb) };
    emit(&packet, &sighting, &Report::plain(Point::BridgeForward));
}

/// `br_flood(br, skb, …)`.
#[inline(always)]
pub fn flood(call: impl Call) {
    seen(call.argument(1), Point::BridgeFlood);
}

/// `br_pass_frame_up(skb, …)`.
#[inline(always)]
pub fn pass_up(call: impl Call) {
    seen(call.argument(0), Point::BridgeLocal);
}

/// `br_dev_xmit(skb, dev)`.
#[inline(always)]
pub fn xmit(call: impl Call) {
    seen(call.argument(0), Point::BridgeXmit);
}
