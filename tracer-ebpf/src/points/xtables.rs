//! Legacy iptables, ip6tables and ebtables: which table decides about a packet.

use tracer_common::{event::decider, track::Decision};

use super::{keep, netfilter};
use crate::{
    call::{Call, Kept},
    globals::argument,
    skb::{Access as _, Probe, offset},
    track::known,
};

/// `ipt_do_table`.
#[inline(always)]
pub fn enter_ip(call: impl Call) {
    enter(call, decider::IPTABLES, offset!(xt_table_name));
}

/// `ip6t_do_table`.
#[inline(always)]
pub fn enter_ip6(call: impl Call) {
    enter(call, decider::IP6TABLES, offset!(xt_table_name));
}

/// `ebt_do_table`.
#[inline(always)]
pub fn enter_bridge(call: impl Call) {
    enter(call, decider::EBTABLES, offset!(ebt_table_name));
}

#[inline(always)]
fn enter(call: impl Call, decider: u8, name: u32) {
    let skb = packet_of(call);
    if known(skb).is_none() {
        return;
    }
    let table = call.argument_at(argument!(xt_table)) as *const u8;
    let state = call.argument_at(argument!(xt_state)) as *const u8;
    let decision = Decision { table: Probe::read(table, name), decider, ..Decision::default() };
    netfilter::deciding(skb, state, decision);
}

/// What the end of a table needs.
#[inline(always)]
pub fn keep_table(call: impl Call) -> Option<Kept> {
    keep(packet_of(call), [0; 2])
}

#[inline(always)]
fn packet_of(call: impl Call) -> u64 {
    call.argument_at(argument!(xt_skb))
}
