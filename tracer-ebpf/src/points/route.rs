//! Routing decisions. Their tracepoints carry no skb: the decision belongs to the packet that this
//! CPU is taking from its reception to LOCAL_IN or FORWARD, and only when the addresses agree.

use aya_ebpf::programs::BtfTracePointContext;
use tracer_common::{event::detail::Route, point::Point};

use super::{Packet, report};
use crate::{
    skb::{Access, Pointer, Probe, Skb, offset, read_into},
    track::{Sighting, arriving, known},
};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// tp_btf `fib_table_lookup(table, flow, next hop, error)`; `next hop` is null without a route.
#[inline(always)]
pub fn fib4<A: Access>(ctx: &BtfTracePointContext) {
    let Some(skb) = arriving() else { return };
    let flow: *const u8 = ctx.arg(1);
    let saddr: u32 = A::read(flow, offset!(flowi4_saddr));
    let daddr: u32 = A::read(flow, offset!(flowi4_daddr));
    let Some(look_up) = LookUp::of(skb, &mapped(saddr), &mapped(daddr)) else { return };
    let next_hop: *const u8 = ctx.arg(2);
    let mut detail = Route {
        table: ctx.arg::<u32>(0),
        error: ctx.arg::<i32>(3),
        reverse: look_up.reverse as u8,
        ..Route::default()
    };
    if !next_hop.is_null() {
        detail.oif = A::read(next_hop, offset!(nhc_oif));
        detail.kind = kind::<A>(next_hop);
        gateway(next_hop as u64, &mut detail);
    }
    look_up.report(detail);
}

/// tp_btf `fib6_table_lookup(net, result, table, flow)`.
#[inline(always)]
pub fn fib6<A: Access>(ctx: &BtfTracePointContext) {
    let Some(skb) = arriving() else { return };
    let flow: *const u8 = ctx.arg(3);
    let address = |offset: u32| {
        let mut bytes = [0; 16];
        read_into((flow as u64).wrapping_add(u64::from(offset)), &mut bytes);
        bytes
    };
    let (saddr, daddr) = (address(offset!(flowi6_saddr)), address(offset!(flowi6_daddr)));
    let Some(look_up) = LookUp::of(skb, &saddr, &daddr) else { return };
    let result: *const u8 = ctx.arg(1);
    let table: *const u8 = ctx.arg(2);
    let mut detail = Route {
        table: A::read(table, offset!(fib6_table_id)),
        kind: A::read(result, offset!(fib6_result_type)),
        reverse: look_up.reverse as u8,
        ..Route::default()
    };
    let next_hop = A::read::<Pointer>(result, offset!(fib6_result_nh)).0 as u64;
    if next_hop != 0 {
        let common = next_hop.wrapping_add(u64::from(offset!(fib6_nh_common)));
        detail.oif = Probe::read(common as *const u8, offset!(nhc_oif));
        gateway(common, &mut detail);
    }
    look_up.report(detail);
}

/// A look-up for a followed packet.
struct LookUp {
    skb: u64,
    packet: Sighting,
    /// It is for its way back, not forward.
    reverse: bool,
}

impl LookUp {
    /// From `saddr` to `daddr`; `None`: not for this packet.
    #[inline(always)]
    fn of(skb: u64, saddr: &[u8; 16], daddr: &[u8; 16]) -> Option<Self> {
        let packet = known(skb)?;
        // SAFETY: a live map value; only the CPU that handles the packet touches it.
        let tuple = unsafe { &(*packet.followed).tuple };
        let forward = tuple.src == *saddr && tuple.dst == *daddr;
        let reverse = tuple.src == *daddr && tuple.dst == *saddr;
        (forward || reverse).then_some(Self { skb, packet, reverse: !forward })
    }

    #[inline(always)]
    fn report(&self, detail: Route) {
        let source = Packet::on_its_device(Skb::<Probe>::new(self.skb as *const u8));
        report(&source, &self.packet, Point::Route, detail);
    }
}

/// The type of the route whose next hop this is, a `struct fib_nh_common`, which leads a `struct fib_nh`
/// (`include/net/ip_fib.h`, Linux 5.2). 0 where it is not told: of a next hop that is an object of its own, which
/// has no route, and where it is of IPv6.
#[inline(always)]
fn kind<A: Access>(next_hop: *const u8) -> u8 {
    if A::read::<u8>(next_hop, offset!(nhc_family)) != AF_INET {
        return 0;
    }
    // What cannot be read is 0.
    let route = Probe::read::<Pointer>(next_hop, offset!(fib_nh_route)).0;
    Probe::read(route, offset!(fib_info_type))
}

/// Reads the gateway of a `struct fib_nh_common`.
#[inline(always)]
fn gateway(common: u64, detail: &mut Route) {
    let at = common as *const u8;
    match Probe::read::<u8>(at, offset!(nhc_gw_family)) {
        AF_INET => {
            detail.gateway = mapped(Probe::read(at, offset!(nhc_gw)));
            detail.gateway_family = 4;
        }
        AF_INET6 => {
            read_into(common.wrapping_add(u64::from(offset!(nhc_gw))), &mut detail.gateway);
            detail.gateway_family = 6;
        }
        _ => {}
    }
}

/// An IPv4 address in network order, IPv4-mapped.
#[inline(always)]
fn mapped(v4: u32) -> [u8; 16] {
    let [a, b, c, d] = v4.to_ne_bytes();
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}
