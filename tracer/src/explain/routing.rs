//! Which rule (`ip rule`) had a routing table looked up. The kernel tells the table only; the rule is told
//! where one alone can have led there.

#[cfg(test)]
mod tests;

use std::net::IpAddr;

use ipnet::IpNet;

use super::facts::Names;
use crate::{
    event::Family,
    host::routing_rule::{Action, RoutingRule},
    journey::{Hop, HopDetail, Journey, NatKind},
};

/// The rule behind a look-up of the way on, at this hop; `None` where it is not certain, or where the
/// namespace has no rules but those that it began with: then the kernel does not ask them.
pub fn rule<'a>(
    journey: &Journey,
    at: usize,
    names: &'a (impl Names + ?Sized),
) -> Option<&'a RoutingRule> {
    let hop = journey.hops.get(at)?;
    let HopDetail::Route { table, reverse: false, .. } = hop.detail else { return None };
    let is_v6 = match journey.headers.family {
        Family::Ipv4 => false,
        Family::Ipv6 => true,
        Family::Arp | Family::Other => return None,
    };
    let time = journey.start.saturating_add(hop.at);
    let rules: Vec<_> = names
        .routing_rules(hop.place.netns, time)
        .iter()
        .filter(|rule| rule.is_v6 == is_v6)
        .collect();
    if rules.iter().all(|rule| rule.is_original()) {
        return None;
    }
    // A jump hides rules from the order.
    if rules.iter().any(|rule| matches!(rule.action, Action::Goto(_))) {
        return None;
    }
    let lookup = Lookup::of(journey, at, hop, names);
    // Look-ups one after another are those of one decision: each rule is asked once.
    let asked = match at.checked_sub(1).map(|before| &journey.hops[before]) {
        Some(Hop { detail: HopDetail::Route { reverse: false, .. }, place, .. })
            if *place == hop.place =>
        {
            let before = rule(journey, at - 1, names)?;
            rules.iter().position(|rule| std::ptr::eq(*rule, before)).map_or(0, |index| index + 1)
        }
        _ => 0,
    };
    let mut candidates = rules
        .iter()
        .skip(asked)
        .map(|rule| (rule, lookup.fits(rule, table)))
        .filter(|(_, fits)| *fits != Fits::No);
    match (candidates.next()?, candidates.next()) {
        ((rule, Fits::Yes), _) | ((rule, _), None) => Some(rule),
        _ => None,
    }
}

/// Whether a rule leads a packet to a table, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fits {
    Yes,
    Perhaps,
    No,
}

/// What is looked up.
struct Lookup {
    src: IpAddr,
    dst: IpAddr,
    proto: u8,
    ports: Option<(u16, u16)>,
    iif: Option<String>,
    /// The interface belongs to a VRF.
    in_vrf: bool,
}

impl Lookup {
    /// The packet as it is at this hop: after what was rewritten before.
    fn of(journey: &Journey, at: usize, hop: &Hop, names: &(impl Names + ?Sized)) -> Self {
        let headers = &journey.headers;
        let (mut src, mut dst) = ((headers.src, headers.sport), (headers.dst, headers.dport));
        for hop in journey.hops.iter().take(at) {
            match hop.detail {
                HopDetail::Nat { kind: NatKind::Snat, to, .. } => src = to,
                HopDetail::Nat { kind: NatKind::Dnat, to, .. } => dst = to,
                _ => {}
            }
        }
        let has_ports = matches!(headers.proto, 6 | 17 | 33 | 132) && !headers.later_fragment;
        Self {
            src: src.0,
            dst: dst.0,
            proto: headers.proto,
            ports: has_ports.then_some((src.1, dst.1)),
            iif: names.device(hop.place).name,
            in_vrf: names.is_in_vrf(hop.place),
        }
    }

    fn fits(&self, rule: &RoutingRule, table: u32) -> Fits {
        let leads_there = match rule.action {
            Action::Lookup(its) => its == table,
            Action::LookupVrf => self.in_vrf,
            Action::Goto(_) | Action::Nop | Action::Refuse(_) => false,
        };
        if !leads_there {
            return Fits::No;
        }
        match (self.selects(rule), rule.inverted) {
            (Fits::Perhaps, _) => Fits::Perhaps,
            (Fits::Yes, false) | (Fits::No, true) => Fits::Yes,
            _ => Fits::No,
        }
    }

    fn selects(&self, rule: &RoutingRule) -> Fits {
        let within = |net: Option<IpNet>, address| net.is_none_or(|net| net.contains(&address));
        let in_range = |range: Option<(u16, u16)>, port: fn((u16, u16)) -> u16| {
            range.is_none_or(|(first, last)| {
                self.ports.is_some_and(|ports| (first..=last).contains(&port(ports)))
            })
        };
        let is_plain = within(rule.from, self.src)
            && within(rule.to, self.dst)
            && rule.proto.is_none_or(|proto| proto == self.proto)
            && in_range(rule.sport, |ports| ports.0)
            && in_range(rule.dport, |ports| ports.1);
        // What comes in is bound to no socket, and so to no interface to go out by; a VRF is one.
        let bound = (rule.oif.is_some() && !self.in_vrf)
            || rule.iif.as_ref().is_some_and(|iif| {
                self.iif.as_ref().is_some_and(|known| known != iif) && !self.in_vrf
            });
        if !is_plain || bound {
            return Fits::No;
        }
        let unknown = rule.mark.is_some()
            || rule.uids.is_some()
            || rule.tos != 0
            || rule.unread
            || (self.in_vrf && (rule.iif.is_some() || rule.oif.is_some()))
            || (rule.iif.is_some() && self.iif.is_none());
        if unknown { Fits::Perhaps } else { Fits::Yes }
    }
}
