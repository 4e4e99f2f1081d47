//! tc programs: the boundary of tc on an interface, and the packet's bytes. They only observe.

use aya_ebpf::{
    bindings::TC_ACT_UNSPEC, helpers::generated::bpf_skb_load_bytes, programs::TcContext,
};
use tracer_common::point::Point;

use crate::{
    emit::{Capture, Report, emit},
    packet::Headers,
    skb::{Probe, Skb},
    track::{At, Source, known, known_or_begun},
};

/// The packet of a tc program. Its context *is* the `struct sk_buff` at run time: the verifier
/// only rewrites accesses to it, so its address joins with every other point's.
struct TcPacket<'a> {
    ctx: &'a TcContext,
    skb: Skb<Probe>,
}

impl<'a> TcPacket<'a> {
    #[inline(always)]
    fn new(ctx: &'a TcContext) -> Self {
        Self { ctx, skb: Skb::new(ctx.skb.skb.cast()) }
    }
}

impl Source for TcPacket<'_> {
    #[inline(always)]
    fn address(&self) -> u64 {
        self.skb.address()
    }

    #[inline(always)]
    fn len(&self) -> u32 {
        self.ctx.len()
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: the context of a tc program is a live `__sk_buff`.
        unsafe { (*self.ctx.skb.skb).ifindex }
    }

    #[inline(always)]
    fn netns(&self) -> u32 {
        self.skb.dev().netns()
    }

    #[inline(always)]
    fn headers(&self) -> Headers {
        let skb = self.skb;
        let ethernet = if skb.dev().is_ethernet() { skb.ethernet_header() } else { None };
        Headers {
            ethernet,
            network: skb.network_header(),
            end: skb.linear_end(),
            protocol: skb.protocol(),
        }
    }
}

impl Capture for TcPacket<'_> {
    const ALWAYS: bool = true;

    #[inline(always)]
    unsafe fn capture(&self, into: *mut u8, max: u32) -> (u32, bool) {
        let len = self.ctx.len();
        let n = if len < max { len } else { max };
        if n == 0 || n > max {
            return (0, false);
        }
        // SAFETY: `into` has room for `max` bytes; page fragments are looked into by the helper.
        let code = unsafe { bpf_skb_load_bytes(self.ctx.skb.skb.cast(), 0, into.cast(), n) };
        (if code == 0 { n } else { 0 }, self.skb.dev().is_ethernet())
    }
}

/// tc egress: a life can begin here (packets that did not pass LOCAL_OUT).
#[inline(always)]
pub fn egress(ctx: &TcContext) -> i32 {
    let packet = TcPacket::new(ctx);
    if let Some(sighting) = known_or_begun(&packet, At::Way) {
        emit(&packet, &sighting, &Report::plain(Point::TcEgress));
    }
    TC_ACT_UNSPEC
}

/// tc ingress: `dev_receive` was just before.
#[inline(always)]
pub fn ingress(ctx: &TcContext) -> i32 {
    let packet = TcPacket::new(ctx);
    if let Some(sighting) = known(packet.address()) {
        emit(&packet, &sighting, &Report::plain(Point::TcIngress));
    }
    TC_ACT_UNSPEC
}
