//! The end of a packet: dropped or consumed. Either way it is followed no longer.

use aya_ebpf::{
    helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid},
    programs::BtfTracePointContext,
};
use tracer_common::{
    event::{
        detail::{Consume, Detail as _, Drop, Hook},
        verdict,
    },
    point::Point,
};

use super::{Packet, may_begin, netfilter::tell_decision};
use crate::{
    emit::{Report, emit},
    globals::{FOLLOWED, setting},
    skb::{Access, Skb},
    track::{
        At, Sighting, clear_current, ended_behind_driver, entry, known_itself, known_or_begun,
    },
};

/// tp_btf `kfree_skb(skb, location[, reason[, rx_sk]])`.
#[inline(always)]
pub fn drop<A: Access>(ctx: &BtfTracePointContext) {
    let skb = Skb::<A>::new(ctx.arg(0));
    let entry = entry(skb.address());
    if entry.is_none() && !may_begin(skb, false) {
        return;
    }
    let packet = Packet::on_its_device(skb);
    // Packets in a socket's queue have no device: what happens to them there begins no journey.
    // Two branches to the end: the compiler would copy the payload of a `None` of either, which the
    // verifier does not let it read.
    if packet.ifindex != 0 {
        if let Some(sighting) = known_or_begun(&packet, entry, At::End) {
            report_drop(ctx, &packet, &sighting);
        }
        return;
    }
    let packet = Packet::in_queue(skb);
    if let Some(sighting) = known_itself(&packet) {
        report_drop(ctx, &packet, &sighting);
    }
}

#[inline(always)]
fn report_drop<A: Access>(ctx: &BtfTracePointContext, packet: &Packet<A>, sighting: &Sighting) {
    let location = ctx.arg::<*const u8>(1) as u64;
    let reason = if setting!(drop_reasons) != 0 { ctx.arg::<u32>(2) } else { 0 };
    // SAFETY: a live map value; only the CPU that handles the packet touches it.
    let hook: Hook = unsafe { (*sighting.followed).hook };
    tell_decision(packet, sighting, verdict::DROP);
    let detail = Drop { location, reason, hook }.to_wire();
    emit(packet, sighting, &Report { point: Point::Drop as u8, flags: 0, detail });
    forget(packet.skb.address());
}

/// tp_btf `consume_skb(skb[, location])`.
#[inline(always)]
pub fn consume<A: Access>(ctx: &BtfTracePointContext) {
    let skb = Skb::<A>::new(ctx.arg(0));
    let Some(followed) = entry(skb.address()) else { return };
    // SAFETY: a live map value; only the CPU that handles the packet touches it.
    let delivered = unsafe { (*followed.as_ptr()).delivered } != 0;
    if delivered {
        consumed(ctx, &Packet::in_queue(skb), true);
    } else {
        consumed(ctx, &Packet::on_its_device(skb), false);
    }
}

#[inline(always)]
fn consumed<A: Access>(ctx: &BtfTracePointContext, packet: &Packet<A>, delivered: bool) {
    let Some(sighting) = known_itself(packet) else { return };
    let mut detail = Consume::default();
    if delivered && setting!(consume_locations) != 0 {
        detail.location = ctx.arg::<*const u8>(1) as u64;
        detail.comm = bpf_get_current_comm().unwrap_or_default();
        detail.pid = (bpf_get_current_pid_tgid() >> 32) as u32;
    }
    let detail = detail.to_wire();
    emit(packet, &sighting, &Report { point: Point::Consume as u8, flags: 0, detail });
    // SAFETY: a live map value; only the CPU that handles the packet touches it.
    let followed = unsafe { &*sighting.followed };
    if followed.sent != 0 {
        ended_behind_driver(followed);
    }
    forget(packet.skb.address());
}

#[inline(always)]
fn forget(address: u64) {
    clear_current(address);
    let _ = FOLLOWED.remove(&address);
}
