//! Queueing disciplines.

use aya_ebpf::programs::BtfTracePointContext;
use tracer_common::{event::detail::Qdisc, point::Point};

use super::{Packet, report_known};
use crate::{
    skb::{Access, Pointer, Skb, offset, read_into},
    track::known,
};

/// tp_btf `qdisc_enqueue(qdisc, txq, skb)`: after the qdisc has taken it.
#[inline(always)]
pub fn enqueue<A: Access>(ctx: &BtfTracePointContext) {
    report::<A>(ctx.arg(0), ctx.arg(2), Point::QdiscEnqueue);
}

/// tp_btf `qdisc_dequeue(qdisc, txq, packets, skb)`: `skb` is null when the qdisc gave none.
#[inline(always)]
pub fn dequeue<A: Access>(ctx: &BtfTracePointContext) {
    report::<A>(ctx.arg(0), ctx.arg(3), Point::QdiscDequeue);
}

#[inline(always)]
fn report<A: Access>(qdisc: *const u8, skb: *const u8, point: Point) {
    if skb.is_null() || known(skb as u64).is_none() {
        return;
    }
    let ops = A::read::<Pointer>(qdisc, offset!(qdisc_ops)).0;
    let mut kind = [0; 16];
    read_into((ops as u64).wrapping_add(u64::from(offset!(qdisc_ops_id))), &mut kind);
    let detail = Qdisc {
        kind,
        handle: A::read(qdisc, offset!(qdisc_handle)),
        parent: A::read(qdisc, offset!(qdisc_parent)),
    };
    report_known(&Packet::on_its_device(Skb::<A>::new(skb)), point, detail);
}
