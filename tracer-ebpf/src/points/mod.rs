//! What each layer reports. A layer reads its own arguments and calls the verbs of
//! [`track`](crate::track) and [`emit`](crate::emit); it never filters, parses or sends by itself.

pub mod bridge;
pub mod conntrack;
pub mod device;
pub mod end;
pub mod ip;
pub mod lifecycle;
pub mod neighbour;
pub mod netfilter;
pub mod nftables;
pub mod qdisc;
pub mod route;
pub mod socket;
pub mod tc;
pub mod xtables;

use core::hint::black_box;

use tracer_common::event::detail::Detail;
use tracer_common::point::Point;

use crate::{
    call::Kept,
    emit::{Capture, Captured, Report, bounded, emit, link},
    expression,
    packet::{Bytes, Frame, Headers, Memory},
    skb::{Access, Dev, Probe, Skb},
    track::{self, Sighting, Source, entry, known},
};

/// A packet in a context that gives its `struct sk_buff`.
#[derive(Clone, Copy)]
struct Packet<A> {
    skb: Skb<A>,
    /// Index of the interface where it is.
    ifindex: u32,
    /// Namespace where it is.
    netns: u32,
    /// Its network header has not been set yet: it is where the data begins.
    arriving: bool,
    /// Where its device stands, there is one or none. Else there may be something else: to follow that costs a
    /// fault.
    on_device: bool,
}

impl<A: Access> Packet<A> {
    /// A packet that is in the queue of a socket, which keeps something else where its device was. Its socket
    /// knows the namespace.
    #[inline(always)]
    fn in_queue(skb: Skb<A>) -> Self {
        Self { skb, ifindex: 0, netns: 0, arriving: false, on_device: false }
    }

    /// A packet that is on this device, whatever its `dev` says yet.
    #[inline(always)]
    fn on<B: Access>(dev: Dev<B>, skb: Skb<A>) -> Self {
        let (ifindex, netns) = (dev.ifindex(), dev.netns());
        Self { skb, ifindex, netns, arriving: false, on_device: true }
    }

    /// A packet that is where its `dev` is.
    #[inline(always)]
    fn on_its_device(skb: Skb<A>) -> Self {
        let dev = skb.dev();
        let netns = dev.netns();
        // In queues, which not every point can tell, something else stands where the device was.
        let is_there = is_namespace(netns);
        let (ifindex, netns) = (dev.ifindex() & is_there, netns & is_there);
        Self { skb, ifindex, netns, arriving: false, on_device: true }
    }
}

/// [`track::may_begin`](crate::track::may_begin) of an skb; `arriving` as in [`Packet`].
#[inline(always)]
fn may_begin<A: Access>(skb: Skb<A>, arriving: bool) -> bool {
    track::may_begin(Memory, &network(skb, arriving))
}

/// [`Source::network`] of an skb; `arriving` as in [`Packet`].
#[inline(always)]
fn network<A: Access>(skb: Skb<A>, arriving: bool) -> Headers {
    let network = if arriving { skb.data() } else { skb.network_header() };
    Headers { ethernet: 0, network, end: skb.linear_end(), protocol: skb.protocol() }
}

/// Whether this can be a namespace's inode: they are numbered from `PROC_DYNAMIC_FIRST`, those that
/// every boot has right below it. All bits, or none.
#[inline(always)]
fn is_namespace(inode: u32) -> u32 {
    // Without a branch, as `all_unless_0`.
    let above = black_box(0xefff_feff_i64) - i64::from(inode);
    (above >> 63) as u32
}

impl<A: Access> Source for Packet<A> {
    #[inline(always)]
    fn address(&self) -> u64 {
        self.skb.address()
    }

    #[inline(always)]
    fn len(&self) -> u32 {
        self.skb.len()
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        self.ifindex
    }

    #[inline(always)]
    fn netns(&self) -> u32 {
        self.netns
    }

    #[inline(always)]
    fn bytes(&self) -> impl Bytes {
        Memory
    }

    #[inline(always)]
    fn headers(&self) -> Headers {
        let skb = self.skb;
        let on_ethernet = if self.on_device { skb.dev().is_ethernet() } else { 0 };
        Headers { ethernet: skb.ethernet_header() & on_ethernet, ..self.network() }
    }

    #[inline(always)]
    fn network(&self) -> Headers {
        network(self.skb, self.arriving)
    }

    #[inline(always)]
    fn tunneled(&self) -> u64 {
        self.skb.inner_network_header()
    }

    #[inline(always)]
    fn evaluate(&self) -> u64 {
        evaluate(self.skb.address(), self.on_device, self.arriving)
    }
}

/// [`Source::evaluate`] of a [`Packet`]. A BPF subprogram, for the stack of its own.
#[inline(never)]
fn evaluate(address: u64, on_device: bool, arriving: bool) -> u64 {
    // Through a helper, as in `capture`.
    let skb = Skb::<Probe>::new(address as *const u8);
    let headers = Packet { arriving, on_device, ..Packet::in_queue(skb) }.headers();
    let frame = Frame { headers, paged: skb.paged(), tag: skb.tag() };
    expression::evaluate(Memory, &frame, address)
}

impl<A: Access> Capture for Packet<A> {
    const ALWAYS: bool = false;

    #[inline(always)]
    unsafe fn capture<const N: usize>(&self, into: *mut u8, max: u32) -> Captured {
        // Through a helper: to the verifier, `head` and `data` as loaded are pointers, and what is
        // computed from them is no length that it could bound.
        let skb = Skb::<Probe>::new(self.skb.address() as *const u8);
        let headers = Packet { arriving: self.arriving, ..Packet::in_queue(skb) }.headers();
        let link_header = headers.ethernet != 0;
        let from = if link_header { headers.ethernet } else { headers.network };
        if from >= headers.end {
            return Captured::NONE;
        }
        let n = bounded::<N>((headers.end - from) as u32, max);
        // SAFETY: `into` has room for `N` bytes; the helper checks `from` itself.
        let code = unsafe {
            aya_ebpf::helpers::generated::bpf_probe_read_kernel(into.cast(), n, from as *const _)
        };
        if code != 0 {
            return Captured::NONE;
        }
        let tag = skb.tag();
        let before = skb.data().wrapping_sub(from) as i16;
        Captured { len: n, link: link(link_header, tag.kind()), vlan: tag.content(), before }
    }
}

/// Reports a packet in the midst of its life, if it is followed.
#[inline(always)]
fn report_known<S: Capture>(source: &S, point: Point, detail: impl Detail) {
    if let Some(sighting) = known(source.address()) {
        report(source, &sighting, point, detail);
    }
}

/// Reports a packet that is followed.
#[inline(always)]
fn report<S: Capture>(source: &S, sighting: &Sighting, point: Point, detail: impl Detail) {
    emit(source, sighting, &Report { point: point as u8, flags: 0, detail: detail.to_wire() });
}

/// Reports a packet that a kernel function was called with, if it is followed.
#[inline(always)]
fn seen(skb: u64, point: Point) {
    if let Some(sighting) = known(skb) {
        tell_seen(skb, &sighting, point);
    }
}

/// Reports a followed packet that a kernel function was called with.
#[inline(always)]
fn tell_seen(skb: u64, sighting: &Sighting, point: Point) {
    let packet = Packet::on_its_device(Skb::<Probe>::new(skb as *const u8));
    emit(&packet, sighting, &Report::plain(point));
}

/// What is to be kept of a call till it returns: nothing unless the packet is followed.
#[inline(always)]
fn keep(skb: u64, more: [u64; 2]) -> Option<Kept> {
    let followed = entry(skb)?.as_ptr();
    // SAFETY: a live map value.
    Some(Kept { skb, id: unsafe { (*followed).id }, more })
}

impl Kept {
    /// The packet, unless it is gone by now.
    #[inline(always)]
    fn sighting(&self) -> Option<Sighting> {
        let followed = entry(self.skb)?.as_ptr();
        // SAFETY: a live map value.
        (unsafe { (*followed).id } == self.id).then_some(Sighting::known(followed))
    }
}
