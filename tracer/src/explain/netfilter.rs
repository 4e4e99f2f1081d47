//! Which base chain dropped a packet: the one between the last observer that it passed and the
//! next one, which it did not reach.

use serde_json::{Value, json};

use super::{BaseChain, Decision, Evidence, Explanation, words::Words};
use crate::event::InHook;

/// Priorities of the kernel's own work at a hook.
const OWN: &[(i32, &str)] = &[
    (-400, "defragmentation"),
    (-200, "connection tracking (a packet that fits no connection, or a full table)"),
    (-100, "destination NAT"),
    (100, "source NAT"),
    (300, "connection tracking helpers"),
];

pub(super) fn explain(
    explanation: &mut Explanation,
    netns: u32,
    hook: InHook,
    words: &Words,
    evidence: &(impl Evidence + ?Sized),
) {
    let name = hook.hook.name();
    let list = "{exec}nft list ruleset";
    let Some(bracket) = evidence.bracket(netns, hook) else {
        explanation.why = words.sentence(&format!(
            "netfilter dropped it at {name} in {{netns}}; the base chains there are not known"
        ));
        explanation.advice.extend(words.fill("{exec}nft list ruleset"));
        return;
    };
    explanation.between = Some((bracket.after, bracket.before));
    explanation.evidence.insert(
        "priorities".to_owned(),
        json!({ "after": bracket.after, "before": bracket.before }),
    );
    match bracket.chains.as_slice() {
        [] => {
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
            explanation.advice.extend(words.fill(list));
        }
        [chain] => {
            let (what, policy) = match chain.policy_drops {
                Some(false) => ("a rule of", Some(false)),
                Some(true) => ("a rule of, or the drop policy of,", None),
                None => ("a rule or the policy of", None),
            };
            explanation.why = words
                .sentence(&format!("{what} {} at {name} in {{netns}} dropped it", show(chain)));
            explanation.advice.extend(words.fill(&command(chain)));
            explanation.rule =
                Some(Decision { chain: chain.clone(), handle: None, policy, text: None });
        }
        chains => {
            let shown: Vec<_> = chains.iter().map(show).collect();
            explanation.why = words.sentence(&format!(
                "one of {} at {name} in {{netns}} dropped it",
                shown.join(" and ")
            ));
            explanation
                .advice
                .extend(chains.iter().filter_map(|chain| words.fill(&command(chain))));
            explanation.evidence.insert("chains".to_owned(), Value::from(shown));
        }
    }
}

fn show(chain: &BaseChain) -> String {
    let text = format!("chain {} {} {}", chain.family, chain.table, chain.chain);
    let text =
        if chain.backend == "nftables" { text } else { format!("{text} ({})", chain.backend) };
    // Names of chains are not templates.
    text.replace(['{', '}'], "_")
}

fn command(chain: &BaseChain) -> String {
    let word = |name: &str| super::quoted(name).replace(['{', '}'], "_");
    let (table, name) = (word(&chain.table), word(&chain.chain));
    if chain.backend == "nftables" {
        format!("{{exec}}nft -a list chain {} {table} {name}", word(&chain.family))
    } else {
        let tool = if chain.family == "ip6" { "ip6tables-legacy" } else { "iptables-legacy" };
        format!("{{exec}}{tool} -t {table} -vnL {name} --line-numbers")
    }
}
