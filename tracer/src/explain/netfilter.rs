//! Who dropped a packet in a netfilter hook: whoever was seen to decide. Where nobody was watched,
//! the base chain between the last observer that the packet passed and the next one, which it did
//! not reach; and where only one thing there can drop such a packet, that.

use serde_json::{Value, json};

use super::{
    BaseChain, Bracket, Decision, Died, Evidence, Explanation,
    chains::{command, done, legacy_tool, list, named, path, show},
    words::Words,
};
use crate::{
    event::{Decider, Family, HookFamily, InHook, Place, Verdict},
    host::ruleset::ways::Packet,
    journey::{Decided, Direction, HopDetail, Journey},
};

/// Priorities of the kernel's own work at a hook.
const OWN: &[(i32, &str)] = &[
    (-400, "defragmentation"),
    (-200, "connection tracking (a packet that fits no connection, or a full table)"),
    (-100, "destination NAT"),
    (100, "source NAT"),
    (300, "connection tracking helpers"),
];

/// The hop where a packet was dropped, as far as netfilter is concerned.
pub(super) struct Hop<'a> {
    journey: &'a Journey,
    /// Index of the hop.
    hop: usize,
    place: Place,
    /// The hook; `None` where it was in none that is watched.
    at: Option<InHook>,
    decided: Option<Decided>,
    iif: u32,
    oif: u32,
}

impl<'a> Hop<'a> {
    pub(super) fn of(journey: &'a Journey, hop: usize, died_in: Option<InHook>) -> Self {
        let place = journey.hops.get(hop).map_or(super::NOWHERE, |hop| hop.place);
        let mut found = Self { journey, hop, place, at: died_in, decided: None, iif: 0, oif: 0 };
        // What the chains of a hook rewrote stands behind it.
        let detail = journey.hops.get(..=hop).and_then(|hops| {
            let mut hops = hops.iter().rev().map(|hop| &hop.detail);
            hops.find(|detail| !matches!(detail, HopDetail::Nat { .. }))
        });
        if let Some(HopDetail::Netfilter { hook, iif, oif, decided, .. }) = detail {
            found.at = died_in.or(decided.as_ref().map(|_| *hook));
            found.decided.clone_from(decided);
            (found.iif, found.oif) = (*iif, *oif);
        }
        found
    }

    /// Where nobody was seen to decide, asks who was traced to; whether somebody was.
    pub(super) fn ask_trace(&mut self, evidence: &(impl Evidence + ?Sized)) -> bool {
        if self.decided.is_some() {
            return false;
        }
        let Some((at, decided)) = evidence.traced(self.place.netns, self.at, self.journey) else {
            return false;
        };
        (self.at, self.decided) = (Some(at), Some(decided));
        true
    }

    /// The packet as the chains of that hook may have seen it: what was rewritten on the way may
    /// have been so before or behind them.
    fn packet(&self, evidence: &(impl Evidence + ?Sized)) -> Packet {
        let headers = &self.journey.headers;
        let ip = matches!(headers.family, Family::Ipv4 | Family::Ipv6);
        let mut packet = Packet {
            version: match headers.family {
                Family::Ipv4 => Some(4),
                Family::Ipv6 => Some(6),
                Family::Arp => Some(0),
                Family::Other => None,
            },
            proto: ip.then_some(headers.proto),
            iif: self.name(self.iif, evidence),
            oif: self.name(self.oif, evidence),
            ..Packet::default()
        };
        if !ip {
            return packet;
        }
        packet.src.push(headers.src);
        packet.dst.push(headers.dst);
        let ports = matches!(headers.proto, 6 | 17 | 33 | 132 | 136) && !headers.later_fragment;
        if ports {
            packet.sport.push(headers.sport);
            packet.dport.push(headers.dport);
        }
        for hop in &self.journey.hops {
            let HopDetail::Nat { kind, to: (address, port), .. } = hop.detail else { continue };
            let (addresses, numbers) = match kind {
                crate::journey::NatKind::Snat => (&mut packet.src, &mut packet.sport),
                crate::journey::NatKind::Dnat => (&mut packet.dst, &mut packet.dport),
            };
            addresses.push(address);
            if ports {
                numbers.push(port);
            }
        }
        packet
    }

    fn name(&self, ifindex: u32, evidence: &(impl Evidence + ?Sized)) -> Option<String> {
        let place = Place { netns: self.place.netns, ifindex };
        (ifindex != 0).then(|| evidence.device(place).name).flatten()
    }

    fn time(&self) -> u64 {
        let after = self.journey.hops.get(self.hop).map_or(0, |hop| hop.at);
        self.journey.start.saturating_add(after)
    }
}

/// Explains a drop in netfilter; whether it was one.
pub(super) fn explain(
    explanation: &mut Explanation,
    hop: &Hop<'_>,
    words: &mut Words,
    evidence: &(impl Evidence + ?Sized),
) -> bool {
    if let (Some(Decided { by, verdict }), Some(at)) = (&hop.decided, hop.at) {
        return decided(explanation, (by, *verdict), at, hop, words, evidence);
    }
    let Some(at) = hop.at else {
        let is_netfilter = explanation.reason.as_deref() == Some("NETFILTER_DROP");
        return is_netfilter && unobserved(explanation, hop, words, evidence);
    };
    let Some(bracket) = evidence.bracket(hop.place.netns, at) else {
        let name = at.hook.name();
        explanation.why = words.sentence(&format!(
            "netfilter dropped it at {name} in {{netns}}; the base chains there are not known"
        ));
        explanation.advice.extend(words.fill("{exec}nft list ruleset"));
        return true;
    };
    bracketed(explanation, &bracket, at, hop, words, evidence);
    true
}

/// A packet that is neither dropped nor went on: some program has it.
pub(super) fn kept(
    explanation: &mut Explanation,
    hop: &Hop<'_>,
    words: &mut Words,
    evidence: &(impl Evidence + ?Sized),
) {
    if let (Some(Decided { by, verdict: verdict @ (Verdict::Queue | Verdict::Stolen) }), Some(at)) =
        (&hop.decided, hop.at)
    {
        decided(explanation, (by, *verdict), at, hop, words, evidence);
    }
}

/// Somebody was seen to decide; whether something can be said of that.
fn decided(
    explanation: &mut Explanation,
    (by, verdict): (&Decider, Verdict),
    at: InHook,
    hop: &Hop<'_>,
    words: &mut Words,
    evidence: &(impl Evidence + ?Sized),
) -> bool {
    let netns = hop.place.netns;
    match by {
        Decider::Nftables { .. } | Decider::Legacy { .. } => {
            let packet = hop.packet(evidence);
            let died = Died { place: hop.place, at: Some(at), time: hop.time(), packet: &packet };
            let Some(decision) = evidence.decided(&died, at, by) else {
                let name = at.hook.name();
                let (whose, list) = match by {
                    Decider::Legacy { family, table, .. } => {
                        words.set("table", super::quoted(table));
                        let tool = legacy_tool(family.name());
                        let whose = format!("legacy table {} {{table}}", family.name());
                        (whose, format!("{{exec}}{tool} -t {{table}} -L"))
                    }
                    _ => ("a chain of nftables".to_owned(), "{exec}nft list ruleset".to_owned()),
                };
                let what = done(verdict, None);
                let sentence =
                    format!("{whose} {what} at {name} in {{netns}}; its rules are not known");
                explanation.why = words.sentence(&sentence);
                explanation.advice.extend(words.fill(&list));
                return true;
            };
            let chain_only =
                decision.handle.or(decision.number).is_none() && decision.policy.is_none();
            if chain_only && verdict == Verdict::Drop && !decision.chain.chain.is_empty() {
                // The chain is known; of its rules there may be but one.
                let chains = [decision.chain];
                let ways = evidence.ways(&died, &chains);
                suspects(explanation, &chains, ways, at, hop, words, evidence);
                return true;
            }
            rule(explanation, decision, verdict, at, hop, words, evidence);
        }
        Decider::Conntrack => conntrack(explanation, netns, at, words, evidence),
        Decider::Confirm => {
            explanation.why = words.sentence(
                "another packet of its connection was quicker: connection tracking in {netns} knows \
                 the connection already, and drops the one that came second",
            );
            explanation.advice.extend(words.fill("{exec}conntrack -S   # insert_failed, drop"));
        }
    }
    true
}

/// A rule or policy decided, seen or inferred.
fn rule(
    explanation: &mut Explanation,
    decision: Decision,
    verdict: Verdict,
    at: InHook,
    hop: &Hop<'_>,
    words: &mut Words,
    evidence: &(impl Evidence + ?Sized),
) {
    let name = at.hook.name();
    words.set("chain", named(&decision));
    let advice = command(&decision.chain, decision.within.as_deref());
    let accepted_by = accepted_by(&decision, at, hop, evidence);
    let sentence = match (decision.policy, decision.handle.or(decision.number)) {
        (Some(true), _) if accepted_by.is_empty() => {
            format!("no rule of {{chain}} at {name} in {{netns}} accepted it, and its policy drops")
        }
        (Some(true), _) => {
            words.set("others", list(&accepted_by, "and"));
            let (accept, each) = match accepted_by.len() {
                1 => ("accepts", "that of the one says nothing to the other"),
                _ => ("accept", "that of one says nothing to another"),
            };
            let docker = if decision.docker { " (Docker sets it to drop)" } else { "" };
            format!(
                "{{others}} at {name} in {{netns}} {accept} it, but the policy of {{chain}}{docker} \
                 drops it: each base chain has a verdict of its own, and {each}"
            )
        }
        (_, Some(number)) => {
            let text = match &decision.text {
                Some(text) => {
                    words.set("rule", text.clone());
                    " ({rule})"
                }
                None => "",
            };
            let done = done(verdict, decision.text.as_deref());
            words.set("done", done);
            format!("rule {number} of {{chain}}{text} {{done}} at {name} in {{netns}}")
        }
        (policy, None) => {
            let whose = match (policy, decision.chain.policy_drops) {
                (Some(false), _) | (None, Some(false)) => "a rule of",
                (None, Some(true)) => "a rule of, or the drop policy of,",
                _ => "a rule or the policy of",
            };
            let done = done(verdict, None);
            format!("{whose} {{chain}} at {name} in {{netns}} {done}")
        }
    };
    let only = match (decision.inferred, decision.handle.or(decision.number), decision.policy) {
        (true, None, Some(true)) | (true, Some(_), _) => {
            "; nothing else there can drop such a packet"
        }
        (true, ..) => "; no other chain there can drop such a packet",
        (false, ..) => "",
    };
    explanation.why = words.sentence(&format!("{sentence}{only}"));
    explanation.advice.extend(words.fill(&advice));
    if decision.docker && decision.policy == Some(true) {
        let iif = match hop.journey.direction {
            Direction::Original => hop.iif,
            Direction::Reply => hop.oif,
        };
        if let Some(device) = hop.name(iif, evidence) {
            words.set("inside", super::quoted(&device));
            let tool = if decision.chain.family == "ip6" { "ip6tables" } else { "iptables" };
            for rule in [
                "-i {inside} -j ACCEPT",
                "-o {inside} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            ] {
                let advice = format!("{{exec}}{tool} -I DOCKER-USER {rule}");
                explanation.advice.extend(words.fill(&advice));
            }
        }
    }
    if !accepted_by.is_empty() {
        let shown: Vec<_> = accepted_by.iter().map(path).collect();
        explanation.evidence.insert("accepted_by".to_owned(), Value::from(shown));
    }
    explanation.rule = Some(decision);
}

/// The other base chains at the hook that accepted the packet: those before it, and of those beside
/// it the ones that cannot drop it.
fn accepted_by(
    decision: &Decision,
    at: InHook,
    hop: &Hop<'_>,
    evidence: &(impl Evidence + ?Sized),
) -> Vec<BaseChain> {
    let Some(priority) = decision.chain.priority else { return Vec::new() };
    let packet = hop.packet(evidence);
    let died = Died { place: hop.place, at: Some(at), time: hop.time(), packet: &packet };
    let is_same = |chain: &BaseChain| path(chain) == path(&decision.chain);
    let accepts = |chain: &BaseChain| match chain.priority {
        Some(other) if other < priority => true,
        Some(other) if other == priority => {
            let ways = evidence.ways(&died, std::slice::from_ref(chain));
            ways.is_some_and(|ways| ways.is_empty())
        }
        _ => false,
    };
    let all = evidence.chains_at(hop.place.netns, at);
    all.into_iter().filter(|chain| !is_same(chain) && accepts(chain)).collect()
}

fn conntrack(
    explanation: &mut Explanation,
    netns: u32,
    at: InHook,
    words: &mut Words,
    evidence: &(impl Evidence + ?Sized),
) {
    let name = at.hook.name();
    let mut number = |setting: &str| {
        let name = format!("net.netfilter.{setting}");
        let value = evidence.sysctl(netns, &name)?;
        let number = value.parse::<u64>().ok();
        explanation.evidence.insert(name, Value::String(value));
        number
    };
    let (count, most) = (number("nf_conntrack_count"), number("nf_conntrack_max"));
    match (count, most) {
        // Since then some may have gone.
        (Some(count), Some(most))
            if most != 0 && count.saturating_mul(20) >= most.saturating_mul(19) =>
        {
            explanation.why = words.sentence(&format!(
                "connection tracking at {name} in {{netns}} has no room for another connection: \
                 {count} of {most} are known"
            ));
            let more =
                format!("sysctl -w net.netfilter.nf_conntrack_max={}", most.saturating_mul(2));
            explanation.advice.extend(words.fill("{exec}conntrack -S   # early_drop, drop"));
            explanation.advice.push(more);
        }
        _ => {
            explanation.why = words.sentence(&format!(
                "connection tracking at {name} in {{netns}} refused it: it fits no connection, or \
                 there was no room for a new one"
            ));
            explanation
                .advice
                .extend(words.fill("{exec}conntrack -S   # invalid, drop, early_drop"));
        }
    }
}

/// Nobody was watched: what stands between two observers.
fn bracketed(
    explanation: &mut Explanation,
    bracket: &Bracket,
    at: InHook,
    hop: &Hop<'_>,
    words: &mut Words,
    evidence: &(impl Evidence + ?Sized),
) {
    let name = at.hook.name();
    explanation.between = Some((bracket.after, bracket.before));
    explanation.evidence.insert(
        "priorities".to_owned(),
        json!({ "after": bracket.after, "before": bracket.before }),
    );
    if bracket.chains.is_empty() {
        let own: Vec<_> = OWN
            .iter()
            .filter(|(priority, _)| {
                bracket.after.is_none_or(|after| *priority > after)
                    && bracket.before.is_none_or(|before| *priority < before)
            })
            .map(|(_, what)| *what)
            .collect();
        let own = match own.as_slice() {
            [] => "something that is in no rule set".to_owned(),
            own => own.join(", or "),
        };
        explanation.why = words.sentence(&format!(
            "no base chain at {name} in {{netns}} stands where it was dropped: {own} did it"
        ));
        explanation.advice.extend(words.fill("{exec}conntrack -S"));
        explanation.advice.extend(words.fill("{exec}nft list ruleset"));
        return;
    }
    let packet = hop.packet(evidence);
    let died = Died { place: hop.place, at: Some(at), time: hop.time(), packet: &packet };
    let ways = evidence.ways(&died, &bracket.chains);
    suspects(explanation, &bracket.chains, ways, at, hop, words, evidence);
}

/// One of these base chains dropped it, in one of these ways.
fn suspects(
    explanation: &mut Explanation,
    chains: &[BaseChain],
    ways: Option<Vec<Decision>>,
    at: InHook,
    hop: &Hop<'_>,
    words: &mut Words,
    evidence: &(impl Evidence + ?Sized),
) {
    let mut ways = ways.unwrap_or_default();
    let one_chain = ways.iter().all(|way| path(&way.chain) == path(&ways[0].chain));
    let decision = match (ways.len(), chains) {
        (1, _) => ways.remove(0),
        (2.., _) if one_chain => {
            let rules = ways.iter().all(|way| way.policy == Some(false));
            let chain = ways.remove(0).chain;
            let inferred = chains.len() > 1;
            Decision { inferred, policy: rules.then_some(false), ..of(chain) }
        }
        (_, [chain]) => of(chain.clone()),
        _ => {
            words.set("chains", list(chains, "and"));
            let name = at.hook.name();
            let sentence = format!("one of {{chains}} at {name} in {{netns}} dropped it");
            explanation.why = words.sentence(&sentence);
            let advice = chains.iter().filter_map(|chain| words.fill(&command(chain, None)));
            explanation.advice.extend(advice);
            let shown: Vec<_> = chains.iter().map(show).collect();
            explanation.evidence.insert("chains".to_owned(), Value::from(shown));
            return;
        }
    };
    rule(explanation, decision, Verdict::Drop, at, hop, words, evidence);
}

/// A base chain of which no more is known than that it decided.
fn of(chain: BaseChain) -> Decision {
    let policy = (chain.policy_drops == Some(false)).then_some(false);
    Decision {
        chain,
        within: None,
        handle: None,
        number: None,
        policy,
        text: None,
        inferred: false,
        docker: false,
    }
}

/// Where no observers stand: in a bridge, and at a device's ingress and egress. Whether there is
/// something to say.
fn unobserved(
    explanation: &mut Explanation,
    hop: &Hop<'_>,
    words: &mut Words,
    evidence: &(impl Evidence + ?Sized),
) -> bool {
    let packet = hop.packet(evidence);
    let died = Died { place: hop.place, at: None, time: hop.time(), packet: &packet };
    let chains = evidence.unobserved(hop.place);
    let Some(mut ways) = evidence.ways(&died, &chains) else { return false };
    let Some(first) = ways.first().map(|way| way.chain.clone()) else { return false };
    if ways.iter().any(|way| path(&way.chain) != path(&first)) {
        return false;
    }
    let Some(at) = hook_of(&first) else { return false };
    let decision = match ways.len() {
        1 => ways.remove(0),
        _ => {
            let rules = ways.iter().all(|way| way.policy == Some(false));
            Decision { inferred: true, policy: rules.then_some(false), ..of(first) }
        }
    };
    rule(explanation, decision, Verdict::Drop, at, hop, words, evidence);
    true
}

/// The hook of a base chain where no observers stand.
fn hook_of(chain: &BaseChain) -> Option<InHook> {
    use crate::event::Hook;
    let every = Hook::ALL.into_iter().chain([Hook::Ingress, Hook::Egress]);
    let hook = every.into_iter().find(|hook| hook.name() == chain.hook)?;
    let family = if chain.family == "bridge" { HookFamily::Bridge } else { HookFamily::Netdev };
    Some(InHook { hook, family, passed: 0 })
}
