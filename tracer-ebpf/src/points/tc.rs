//! tc programs: the boundary of tc on an interface, and the packet's bytes. They only observe.

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_UNSPEC},
    helpers::generated::bpf_skb_load_bytes,
    programs::TcContext,
};
use tracer_common::point::Point;

use crate::{
    emit::{Capture, Captured, Report, bounded, emit, link},
    expression,
    packet::{Bytes, Frame, Headers, Tag},
    skb::{Probe, Skb},
    track::{At, Source, entry, known, known_or_begun, may_begin},
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
    fn bytes(&self) -> impl Bytes {
        Loaded { ctx: self.ctx.skb.skb }
    }

    /// Both ways the program sees the packet from its link-layer header on, where there is one: the
    /// distance of the headers tells the rest, and nothing else of the skb needs to be read.
    #[inline(always)]
    fn headers(&self) -> Headers {
        let (link, network) = self.skb.header_offsets();
        // SAFETY: the context of a tc program is a live `__sk_buff`.
        let (protocol, len) = unsafe { ((*self.ctx.skb.skb).protocol, (*self.ctx.skb.skb).len) };
        let begin = Loaded::BEGIN;
        let between = u64::from(network.wrapping_sub(link));
        let known = network != 0 && link != 0 && network >= link;
        Headers {
            ethernet: if known && between >= ETHERNET { begin } else { 0 },
            network: if known { begin + between } else { 0 },
            end: begin + u64::from(len),
            protocol: u16::from_be(protocol as u16),
        }
    }

    #[inline(always)]
    fn network(&self) -> Headers {
        Headers { ethernet: 0, ..self.headers() }
    }

    #[inline(always)]
    fn tunneled(&self) -> u64 {
        let (link, _) = self.skb.header_offsets();
        let inner = self.skb.inner_network_offset();
        if inner == 0 || link == 0 || inner < link {
            return 0;
        }
        Loaded::BEGIN + u64::from(inner - link)
    }

    #[inline(always)]
    fn evaluate(&self) -> u64 {
        // SAFETY: the context of a tc program is a live `__sk_buff`.
        let (present, proto, tag) = unsafe {
            let skb = self.ctx.skb.skb;
            ((*skb).vlan_present, (*skb).vlan_proto, (*skb).vlan_tci)
        };
        let tag = if present != 0 { Tag::of(proto as u16, tag as u16) } else { Tag::NONE };
        // The helper reads page fragments, too.
        let frame = Frame { headers: self.headers(), paged: 0, tag };
        expression::evaluate(self.bytes(), &frame, self.address())
    }
}

/// Bytes of an Ethernet header.
const ETHERNET: u64 = 14;

/// Bytes that the helper for it looks up, in page fragments too.
#[derive(Clone, Copy)]
struct Loaded {
    ctx: *mut __sk_buff,
}

impl Loaded {
    /// What stands for the first byte: 0 means none.
    const BEGIN: u64 = 1;
}

impl Bytes for Loaded {
    #[inline(always)]
    fn read<const N: usize>(self, from: u64, into: &mut [u8; N]) -> bool {
        let offset = (from - Self::BEGIN) as u32;
        let into = into.as_mut_ptr().cast();
        // SAFETY: `into` is N bytes; the helper checks the offset itself.
        unsafe { bpf_skb_load_bytes(self.ctx.cast(), offset, into, N as u32) == 0 }
    }

    #[inline(always)]
    unsafe fn copy(self, from: u64, into: *mut u8, n: u32) -> bool {
        let offset = (from - Self::BEGIN) as u32;
        // SAFETY: by this function's contract; the helper checks the offset itself.
        unsafe { bpf_skb_load_bytes(self.ctx.cast(), offset, into.cast(), n) == 0 }
    }
}

impl Capture for TcPacket<'_> {
    const ALWAYS: bool = true;

    #[inline(always)]
    unsafe fn capture<const N: usize>(&self, into: *mut u8, max: u32) -> Captured {
        let len = self.ctx.len();
        if len == 0 {
            return Captured::NONE;
        }
        let n = bounded::<N>(len, max);
        // SAFETY: `into` has room for `N` bytes; page fragments are looked into by the helper.
        let code = unsafe { bpf_skb_load_bytes(self.ctx.skb.skb.cast(), 0, into.cast(), n) };
        if code != 0 {
            return Captured::NONE;
        }
        let tag = self.skb.tag();
        Captured {
            len: n,
            link: link(self.skb.dev().is_ethernet() != 0, tag.kind()),
            vlan: tag.content(),
            before: 0,
        }
    }
}

/// tc egress: a life can begin here (packets that did not pass LOCAL_OUT).
#[inline(always)]
pub fn egress(ctx: &TcContext) -> i32 {
    let packet = TcPacket::new(ctx);
    let entry = entry(packet.address());
    if entry.is_none() && !may_begin(packet.bytes(), &packet.headers()) {
        return TC_ACT_UNSPEC;
    }
    if let Some(sighting) = known_or_begun(&packet, entry, At::Way) {
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
