//! The steps of the IP stack, alike for IPv4 and IPv6.

use tracer_common::point::Point;

use super::seen;
use crate::{
    call::Call,
    track::{clear_current, known, set_leaving},
};

/// `ip_rcv(skb, …)`, `ipv6_rcv(skb, …)`.
#[inline(always)]
pub fn receive(call: impl Call) {
    seen(call.argument(0), Point::IpReceive);
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
    seen(skb, Point::IpLocalDeliver);
}

/// `ip_output(net, sk, skb)`, `ip6_output(net, sk, skb)`: what comes next is the neighbour, whose
/// tracepoints name no skb.
#[inline(always)]
pub fn output(call: impl Call) {
    let skb = call.argument(2);
    if known(skb).is_some() {
        set_leaving(skb);
    }
    seen(skb, Point::IpOutput);
}
