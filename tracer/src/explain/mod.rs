//! A journey that did not arrive + evidence of the machine → why, and what to do about it.
//!
//! `facts` says what evidence is, `causes` is the table of what the kernel's reasons mean,
//! `netfilter` finds who decided in a hook, and [`HarmlessEnds`] knows the drops that are none.

mod benign;
mod causes;
mod chains;
mod facts;
mod netfilter;
pub mod routing;
#[cfg(test)]
mod tests;
mod words;

pub use benign::HarmlessEnds;
pub use facts::{
    BaseChain, Bracket, ContainerName, Decision, DeviceName, Died, Evidence, KernelNames, Names,
    NetnsName, location_name, reason_name,
};

use std::net::IpAddr;

use serde_json::{Map, Value};
use tracer_common::point::Point;

use crate::{
    event::{Family, Headers, Hook, InHook, Place},
    journey::{Direction, Hop, HopDetail, Journey, LostWhy, Outcome},
};
use causes::Case;
pub(crate) use words::quoted;
use words::{Words, place_name, run_in};

/// Why a journey did not arrive.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Explanation {
    /// The kernel's name of the drop reason.
    pub reason: Option<String>,
    /// Where in the kernel it was dropped, `function+0xoffset`.
    pub location: Option<String>,
    /// The rule, policy or base chain that decided.
    pub rule: Option<Decision>,
    /// The priorities between which it died in a netfilter hook.
    pub between: Option<(Option<i32>, Option<i32>)>,
    /// One sentence.
    pub why: String,
    /// Commands to check, settings to change.
    pub advice: Vec<String>,
    /// What the sentence rests on.
    pub evidence: Map<String, Value>,
}

/// Explains a journey that was dropped or lost; `None` for one that arrived.
pub fn explain(journey: &Journey, evidence: &(impl Evidence + ?Sized)) -> Option<Explanation> {
    match journey.outcome {
        Outcome::Dropped { hop, reason: number, location, in_hook } => {
            let reason = number.map(|number| reason_name(evidence, number));
            let mut explanation = Explanation {
                location: Some(location_name(evidence, location)),
                reason,
                ..Explanation::default()
            };
            let place = journey.hops.get(hop).map_or(NOWHERE, |hop| hop.place);
            let mut words = words(journey, place, evidence);
            let mut hook = netfilter::Hop::of(journey, hop, in_hook);
            // Within a hook a packet can also die of something else, such as reassembly.
            let otherwise = number.and_then(|number| evidence.reason(number)).is_some_and(|name| {
                !["NETFILTER_DROP", "NOT_SPECIFIED"].iter().any(|n| name.ends_with(n))
            });
            if !otherwise && hook.ask_trace(evidence) {
                explanation.evidence.insert("nft_trace".to_owned(), true.into());
            }
            if otherwise || !netfilter::explain(&mut explanation, &hook, &mut words, evidence) {
                let at = (location, in_hook.is_some());
                dropped(&mut explanation, journey, at, place, &words, evidence);
            }
            Some(explanation)
        }
        Outcome::Lost { hop, why } => {
            let point = journey.hops.get(hop).map_or("its start", |hop| hop.point.name());
            let why = match why {
                LostWhy::Silent => format!("nothing more was heard of it after {point}"),
                LostWhy::TraceEnded => {
                    format!("the trace ended while it was on its way, after {point}")
                }
                LostWhy::Evicted => {
                    format!("too many packets were on their way at once: given up after {point}")
                }
            };
            let why = if journey.complete { why } else { format!("{why}; events of it were lost") };
            let mut explanation = Explanation { why, ..Explanation::default() };
            let place = journey.hops.get(hop).map_or(NOWHERE, |hop| hop.place);
            let mut words = words(journey, place, evidence);
            let hook = netfilter::Hop::of(journey, hop, None);
            netfilter::kept(&mut explanation, &hook, &mut words, evidence);
            Some(explanation)
        }
        Outcome::Transmitted { .. } | Outcome::Delivered { .. } | Outcome::Consumed { .. } => None,
    }
}

const NOWHERE: Place = Place { netns: 0, ifindex: 0 };

fn dropped(
    explanation: &mut Explanation,
    journey: &Journey,
    (location, in_hook): (u64, bool),
    place: Place,
    words: &Words,
    evidence: &(impl Evidence + ?Sized),
) {
    let Headers { family, proto, sport, dport, .. } = journey.headers;
    let case = Case {
        family,
        proto,
        route: Case::route_of(journey.hops.iter().map(|hop| &hop.detail)),
        in_hook,
        confirming: !in_hook && is_confirming(journey),
        clone: is_copy(&journey.hops),
        dhcp_answer: family == Family::Ipv4 && (proto, sport, dport) == (17, 67, 68),
    };
    let symbol = evidence.symbol(location);
    let function = symbol.as_ref().map(|symbol| symbol.in_source());
    let Some(cause) = causes::find(explanation.reason.as_deref(), function, &case) else {
        let reason = explanation.reason.as_deref().unwrap_or("no reason");
        let at = explanation.location.as_deref().unwrap_or("an unknown place");
        explanation.why = words.sentence(&format!("the kernel dropped it in {at} ({reason})"));
        return;
    };
    explanation.why = words.sentence(cause.why);
    if cause.why.contains("{mtu}")
        && let Some((_, mtu)) = smaller_mtu(journey, place.netns, evidence)
    {
        explanation.evidence.insert("mtu".to_owned(), mtu.into());
    }
    explanation.advice = cause.advice.iter().filter_map(|advice| words.fill(advice)).collect();
    for name in cause.sysctls.iter().filter_map(|name| words.fill(name)) {
        if let Some(value) = evidence.sysctl(place.netns, &name) {
            explanation.evidence.insert(name, Value::String(value));
        }
    }
}

/// Where a packet of this journey was to leave its namespace.
fn way_out(journey: &Journey) -> Option<(Option<IpAddr>, Place)> {
    journey.hops.iter().rev().find_map(|hop| match hop.detail {
        HopDetail::Route { gateway, oif, reverse: false, error: 0, .. } => {
            Some((gateway, Place { netns: hop.place.netns, ifindex: oif }))
        }
        _ => None,
    })
}

/// The interface by which it was to leave this namespace, and its MTU, where that is too small for it. A route
/// may have a smaller one.
fn smaller_mtu(
    journey: &Journey,
    netns: u32,
    evidence: &(impl Evidence + ?Sized),
) -> Option<(String, u32)> {
    let (_, out) = way_out(journey).filter(|(_, out)| out.netns == netns)?;
    let mtu = evidence.mtu(out).filter(|mtu| *mtu < journey.length)?;
    Some((evidence.device(out).name?, mtu))
}

/// Whether a packet with these hops is another as a whole, which went on beside it. A driver's copy, which is first
/// met as it is received, goes on alone.
fn is_copy(hops: &[Hop]) -> bool {
    match hops {
        [first, second, ..] if first.point == Point::Copy => second.point != Point::DevReceive,
        [first, ..] => matches!(first.point, Point::Clone | Point::Copy),
        [] => false,
    }
}

/// Whether the last thing that happened to the packet was to be accepted by all chains of a hook
/// where conntrack confirms connections, behind them (`nf_confirm`).
fn is_confirming(journey: &Journey) -> bool {
    let mut before_the_end = journey
        .hops
        .iter()
        .rev()
        .map(|hop| &hop.detail)
        .skip_while(|detail| matches!(detail, HopDetail::Drop { .. } | HopDetail::Nat { .. }));
    matches!(
        before_the_end.next(),
        Some(HopDetail::Netfilter {
            hook: InHook { hook: Hook::Input | Hook::Postrouting, .. },
            accepted: Some(true),
            ..
        })
    )
}

/// An interface within the dotted name of a setting: its own dots become slashes there.
fn in_setting(device: &str) -> String {
    device.replace('.', "/")
}

/// The names of one packet, for sentences and commands.
fn words(journey: &Journey, place: Place, evidence: &(impl Evidence + ?Sized)) -> Words {
    let mut words = Words::default();
    let headers = &journey.headers;
    let netns = evidence.netns(place.netns);
    words.set("netns", place_name(&netns, place.netns));
    if let Some(prefix) = run_in(&netns) {
        words.set("exec", prefix);
    }
    let device = evidence.device(place);
    if let Some(name) = &device.name {
        words.set("dev", quoted(name));
        words.set("conf", quoted(&in_setting(name)));
        words.set("setting", in_setting(name));
    }
    if let Some(bridge) = &device.bridge {
        words.set("bridge", quoted(bridge));
    }
    // Where it died it may already have been rewritten.
    let src = journey.nat.src.unwrap_or(headers.src);
    let dst = journey.nat.dst.unwrap_or(headers.dst);
    words.set("src", src.to_string());
    words.set("dst", dst.to_string());
    let dport = journey.nat.dport.unwrap_or(headers.dport);
    if dport != 0 {
        words.set("dport", dport.to_string());
    }
    words.set("proto", headers.proto.to_string());
    words.set("ttl", headers.ttl.to_string());
    words.set("length", journey.length.to_string());
    words.set("cpu", journey.hops.last().map_or(0, |hop| hop.cpu).to_string());

    let mtu = smaller_mtu(journey, place.netns, evidence);
    let mtu = mtu.map(|(name, mtu)| format!(" ({} takes {mtu})", quoted(&name)));
    words.set("mtu", mtu.unwrap_or_default());
    let (gateway, out) = way_out(journey).unwrap_or((None, place));
    words.set("gateway", gateway.map_or_else(String::new, |gateway| format!(" {gateway}")));
    words.set("nexthop", gateway.unwrap_or(dst).to_string());
    if let Some(name) = evidence.device(out).name.or(device.name) {
        words.set("oif", quoted(&name));
        words.set("oif_setting", in_setting(&name));
    }
    let qdisc = journey.hops.iter().rev().find_map(|hop| match &hop.detail {
        HopDetail::Qdisc { kind, .. } => Some(kind.as_str()),
        _ => None,
    });
    words.set("qdisc", qdisc.map_or_else(String::new, |kind| format!(" (qdisc {kind})")));
    let side = match journey.direction {
        Direction::Original => "packet",
        Direction::Reply => "reply",
    };
    words.set("packet", side);
    words
}
