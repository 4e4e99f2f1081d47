//! Connection tracking and address translation.

use tracer_common::{
    event::{
        decider,
        detail::{Conntrack, Detail as _},
    },
    point::Point,
    track::Decision,
};

use super::{Packet, keep, netfilter};
use crate::{
    call::{Call, Kept},
    emit::{Report, emit},
    skb::{Access as _, Probe, Skb, offset},
    track::reparse,
};
use tracer_common::config::ABSENT;

/// `NF_ACCEPT`.
const ACCEPT: u32 = 1;
/// `NFCT_INFOMASK`: the lowest bits of `_nfct`.
const INFO: u64 = 7;

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
        let at = kept.skb as *const u8;
        let tagged: u64 = Probe::read(at, offset!(skb_nfct));
        let connection = (tagged & !INFO) as *const u8;
        let known = !connection.is_null() && offset!(nf_conn_status) != ABSENT;
        let mut detail = Conntrack {
            info: (tagged & INFO) as u8,
            tracked: !connection.is_null() as u8,
            known: known as u8,
            ..Conntrack::default()
        };
        if known {
            detail.status = Probe::read::<u64>(connection, offset!(nf_conn_status)) as u32;
            detail.mark = Probe::read(connection, offset!(nf_conn_mark));
        }
        let packet = Packet::on_its_device(Skb::<Probe>::new(at));
        let report = Report { point: Point::Conntrack as u8, flags: 0, detail: detail.to_wire() };
        emit(&packet, &sighting, &report);
        netfilter::accepted(&sighting, kept.skb);
    }
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
