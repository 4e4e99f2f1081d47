//! The steps of the IP stack, at its functions.

use tracer_common::point::Point;

use super::Packet;
use crate::{
    emit::{Report, emit},
    skb::{Access, Skb},
    track::known,
};

/// `ip_rcv(skb, dev, pt, orig_dev)`, `ipv6_rcv`.
#[inline(always)]
pub fn receive<A: Access>(skb: Skb<A>) {
    if let Some(sighting) = known(skb.address()) {
        let packet = Packet::on_its_device(skb);
        emit(&packet, &sighting, &Report::plain(Point::IpReceive));
    }
}
