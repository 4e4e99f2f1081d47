//! Connection tracking and address translation.

use tracer_common::{
    config::ABSENT,
    event::{
        Connection, decider,
        detail::{Conntrack, Detail as _},
        flags,
    },
    point::Point,
    track::Decision,
};

use super::{Packet, keep, netfilter};
use crate::{
    call::{Call, Kept},
    emit::{Report, emit, emit_with},
    globals::TRACKING,
    skb::{Access, Probe, Skb, offset},
    track::{Sighting, reparse},
};

/// `NF_ACCEPT`.
const ACCEPT: u32 = 1;
/// `NFCT_INFOMASK`: the lowest bits of `_nfct`.
const INFO: u64 = 7;
/// Bytes of `struct hlist_nulls_node`.
const NODE: u64 = 16;

/// `nf_conntrack_in(skb, state)`: looks the packet up.
#[inline(always)]
pub fn enter(call: impl Call) {
    let decision = Decision { decider: decider::CONNTRACK, ..Decision::default() };
    netfilter::deciding(call.argument(0), call.argument(1) as *const u8, decision);
}

/// What the end of the function needs: of `nf_conntrack_in`, `__nf_conntrack_confirm`, and
/// `nf_nat_manip_pkt(skb, ct, type, direction)`.
#[inline(always)]
pub fn keep_packet(call: impl Call) -> Option<Kept> {
    keep(call.argument(0), [0; 2])
}

/// The packet has, or has not, a connection.
#[inline(always)]
pub fn leave(kept: &Kept, result: u64) {
    // Not both ways in turn: old verifiers would walk the second for each way through the first.
    if result as u32 != ACCEPT {
        return netfilter::decided(kept, result);
    }
    if let Some(sighting) = kept.sighting() {
        let packet = Packet::on_its_device(Skb::<Probe>::new(kept.skb as *const u8));
        tell(&packet, &sighting, packet.skb.connection());
        netfilter::accepted(&sighting, kept.skb);
    }
}

/// Tells what a packet is to its connection, at the end of a hook of family `pf`: where the function that
/// finds it is not watched, or was passed before the packet was followed. A packet without one is
/// invalid where others have one; else there may be no connection tracking at all.
#[inline(always)]
pub fn found<A: Access>(packet: &Packet<A>, sighting: &Sighting, pf: u8) {
    let tagged = packet.skb.connection();
    let here = u64::from(packet.netns) | u64::from(pf) << 32;
    let is_tracking = TRACKING.get_ptr(&here).is_some();
    if tagged == 0 && !is_tracking {
        return;
    }
    if !is_tracking {
        let _ = TRACKING.insert(&here, &1, 0);
    }
    tell(packet, sighting, tagged);
}

/// `tagged`: the connection, and in the lowest bits what the packet is to it.
#[inline(always)]
fn tell<A: Access>(packet: &Packet<A>, sighting: &Sighting, tagged: u64) {
    // SAFETY: a live map value; only the CPU that handles the packet touches it.
    unsafe { (*sighting.followed).tracked = 1 };
    let connection = (tagged & !INFO) as *const u8;
    let mut detail = Conntrack {
        info: (tagged & INFO) as u8,
        tracked: !connection.is_null() as u8,
        ..Conntrack::default()
    };
    let report = |detail: Conntrack, flags| Report {
        point: Point::Conntrack as u8,
        flags,
        detail: detail.to_wire(),
    };
    if connection.is_null() || offset!(nf_conn_status) == ABSENT {
        return emit(packet, sighting, &report(detail, 0));
    }
    detail.known = 1;
    detail.status = Probe::read::<u64>(connection, offset!(nf_conn_status)) as u32;
    detail.mark = Probe::read(connection, offset!(nf_conn_mark));
    detail.zone = Probe::read(connection, offset!(nf_conn_zone));
    // Behind the `struct hlist_nulls_node` of the first half.
    let tuples = connection as u64 + u64::from(offset!(nf_conn_tuples)) + NODE;
    let report = report(detail, flags::CONNECTION);
    emit_with::<_, { size_of::<Connection>() }>(packet, sighting, &report, tuples);
}

/// `__nf_conntrack_confirm(skb)`: makes a new connection known, behind all chains of a hook.
#[inline(always)]
pub fn confirm(call: impl Call) {
    let decision = Decision { decider: decider::CONFIRM, ..Decision::default() };
    netfilter::deciding_behind(call.argument(0), decision);
}

/// The packet was rewritten.
#[inline(always)]
pub fn rewritten(kept: &Kept, _: u64) {
    let Some(sighting) = kept.sighting() else { return };
    let packet = Packet::on_its_device(Skb::<Probe>::new(kept.skb as *const u8));
    // SAFETY: a live map value; only the CPU that handles the packet touches it.
    if reparse(&packet, unsafe { &mut *sighting.followed }) {
        emit(&packet, &sighting, &Report::plain(Point::Nat));
    }
}
