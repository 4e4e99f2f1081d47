//! nftables: which chain decides about a packet, and which rule.
//!
//! A rule is a header and its expressions, one behind the other. The expression that sets a verdict is
//! the last of its rule, so the header is found by walking back from it: it is where a header's
//! length leads exactly to the expression's end. Its handle is the rule's, unique in the table; the
//! user side knows whether there is such a rule.

use tracer_common::{event::decider, track::Decision};

use super::{keep, netfilter};
use crate::{
    call::{Call, Kept},
    globals::{setting, state},
    skb::{Access as _, Pointer, Probe, offset},
    track::known,
};
use tracer_common::config::ABSENT;

/// `NFT_REG_VERDICT`.
const VERDICT_REGISTER: u8 = 0;
/// `NF_DROP`, as a verdict of an expression.
const DROP: u32 = 0;
/// Bytes of `struct nft_expr` before what belongs to its kind: a pointer to its operations.
const EXPRESSION_HEADER: u64 = 8;
/// Of `struct nft_immediate_expr`: a `struct nft_data` of 16 bytes, then the register.
const IMMEDIATE_REGISTER: u64 = 16;
/// How far back a rule's header is looked for, in words. A rule may be longer (`dlen` has 12 bits), few
/// are; the verifier walks each step, at every load.
const MOST_WORDS: u64 = 1280 / 8;
/// What stands for the handle of a rule whose header was not found.
pub const UNKNOWN: u64 = u64::MAX;

/// The packet of a `struct nft_pktinfo`.
#[inline(always)]
fn packet_of(pkt: u64) -> u64 {
    Probe::read(pkt as *const u8, offset!(nft_pkt_skb))
}

/// The hook state of a `struct nft_pktinfo`.
#[inline(always)]
fn state_of(pkt: u64) -> *const u8 {
    let at = pkt as *const u8;
    if offset!(nft_pkt_state) != ABSENT {
        Probe::read::<Pointer>(at, offset!(nft_pkt_state)).0
    } else {
        Probe::read::<Pointer>(at, offset!(nft_pkt_xt_state)).0
    }
}

/// Whether all that sets verdicts is watched: then no rule means the policy.
#[inline(always)]
pub fn is_watched() -> bool {
    // SAFETY: a live map value of integers.
    state().is_some_and(|state| unsafe { (*state).rules } != 0)
}

/// `nft_do_chain(pkt, priv)`: a base chain begins. `priv` is its `struct nft_chain`.
#[inline(always)]
pub fn enter(call: impl Call) {
    let pkt = call.argument(0);
    let skb = packet_of(pkt);
    if known(skb).is_none() {
        return;
    }
    let chain = call.argument(1) as *const u8;
    let table = Probe::read::<Pointer>(chain, offset!(nft_chain_table)).0;
    let decision = Decision {
        table: Probe::read::<u64>(table, offset!(nft_table_handle)).to_ne_bytes(),
        chain: Probe::read(chain, offset!(nft_chain_handle)),
        decider: decider::NFTABLES,
        ..Decision::default()
    };
    netfilter::deciding(skb, state_of(pkt), decision);
}

/// What the end of a chain needs.
#[inline(always)]
pub fn keep_chain(call: impl Call) -> Option<Kept> {
    keep(packet_of(call.argument(0)), [0; 2])
}

/// `nft_immediate_eval(expr, regs, pkt)`: sets a register, or the verdict, to a constant.
#[inline(always)]
pub fn immediate(call: impl Call) {
    let skb = packet_of(call.argument(2));
    if known(skb).is_none() {
        return;
    }
    let expression = call.argument(0);
    let data = (expression + EXPRESSION_HEADER) as *const u8;
    let register: u8 = Probe::read(data, IMMEDIATE_REGISTER as u32);
    let code: u32 = Probe::read(data, 0);
    if register == VERDICT_REGISTER && code == DROP {
        netfilter::deciding_rule(skb, rule_of(expression));
    }
}

/// An expression that decides for good whenever it is reached: a reject, a queue.
#[inline(always)]
pub fn terminal(call: impl Call) {
    let skb = packet_of(call.argument(2));
    if known(skb).is_some() {
        netfilter::deciding_rule(skb, rule_of(call.argument(0)));
    }
}

/// What the end of an expression needs that may set the verdict: a look-up in a verdict map, a
/// target of iptables.
#[inline(always)]
pub fn keep_expression(call: impl Call) -> Option<Kept> {
    keep(packet_of(call.argument(2)), [call.argument(0), call.argument(1)])
}

/// Such an expression has come to its end. Before it the verdict was to go on with the rule.
#[inline(always)]
pub fn leave_expression(kept: &Kept, _: u64) {
    let [expression, registers] = kept.more;
    // `struct nft_regs` begins with the verdict's code.
    let code: u32 = Probe::read(registers as *const u8, 0);
    if code == DROP || code & 0xffff == QUEUE {
        netfilter::deciding_rule(kept.skb, rule_of(expression));
    }
}

/// `NF_QUEUE`.
const QUEUE: u32 = 3;

/// The handle of the rule that ends with this expression, or [`UNKNOWN`].
#[inline(never)]
fn rule_of(expression: u64) -> u64 {
    let operations = Probe::read::<u64>(expression as *const u8, 0);
    let size: u32 = Probe::read(operations as *const u8, offset!(nft_ops_size));
    if size == 0 {
        return UNKNOWN;
    }
    let end = expression + u64::from(size);
    let listed = setting!(rules_are_listed) != 0;
    let mut back = 1;
    while back < MOST_WORDS {
        let data = expression - (back - 1) * 8;
        let header: u64 = Probe::read((data - 8) as *const u8, 0);
        // `struct nft_rule`: handle:42, genmask:2, dlen:12, udata:1.
        // `struct nft_rule_dp`: is_last:1, dlen:12, handle:42.
        let (length, handle) = if listed {
            ((header >> 44) & 0xfff, header & HANDLE)
        } else {
            ((header >> 1) & 0xfff, (header >> 13) & HANDLE)
        };
        if handle != 0 && data + length == end && (listed || header & 1 == 0) {
            return handle;
        }
        back += 1;
    }
    UNKNOWN
}

/// A handle has 42 bits.
const HANDLE: u64 = (1 << 42) - 1;
