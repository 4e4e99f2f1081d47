//! What is said of chains and their rules: how they are called in a sentence, what a rule did, and the
//! command that shows it.

use super::{BaseChain, Decision};
use crate::event::Verdict;

/// What a rule did to a packet.
pub(super) fn done(verdict: Verdict, text: Option<&str>) -> String {
    let action = text.map(action).unwrap_or_default();
    match (verdict, action) {
        (Verdict::Drop, Action::Rejects(Some(with))) => format!("rejected it with {with}"),
        (Verdict::Drop, Action::Rejects(None)) => "rejected it".to_owned(),
        (Verdict::Drop, Action::Queues(queue)) => {
            format!("handed it to a program by {queue}, which dropped it or is not there")
        }
        (Verdict::Queue, Action::Queues(queue)) => format!("handed it to a program by {queue}"),
        (Verdict::Queue, _) => "handed it to a program".to_owned(),
        (Verdict::Stolen, _) => "took it".to_owned(),
        (Verdict::Drop, Action::Other) => "dropped it".to_owned(),
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Action {
    Rejects(Option<String>),
    Queues(String),
    #[default]
    Other,
}

/// What a rule does, by its text as nft or iptables print it.
fn action(text: &str) -> Action {
    // What stands in quotation marks is somebody's comment.
    let plain: String = text.split('"').step_by(2).collect();
    let words: Vec<_> = plain.split_whitespace().collect();
    let at = |word: &str| words.iter().rposition(|w| *w == word);
    let after = |index: usize| words.get(index..).unwrap_or_default();
    if let Some(index) =
        at("REJECT").filter(|index| index.checked_sub(1).map(|j| words[j]) == Some("-j"))
    {
        let with = after(index).iter().skip_while(|w| **w != "--reject-with").nth(1);
        return Action::Rejects(with.map(|with| (*with).to_owned()));
    }
    if let Some(index) = at("NFQUEUE") {
        let number = after(index).iter().skip_while(|w| **w != "--queue-num").nth(1);
        return Action::Queues(format!("queue {}", number.copied().unwrap_or("0")));
    }
    if let Some(index) = at("reject") {
        let with =
            after(index + 1).iter().skip_while(|w| **w == "with").take_while(|w| **w != "comment");
        let with: Vec<_> = with.copied().collect();
        return Action::Rejects((!with.is_empty()).then(|| with.join(" ")));
    }
    if let Some(index) = at("queue") {
        let number = after(index + 1).iter().find(|w| w.starts_with(|c: char| c.is_ascii_digit()));
        return Action::Queues(format!("queue {}", number.copied().unwrap_or("0")));
    }
    Action::Other
}

/// `inet lab fwd.lxdbr0`
pub(super) fn path(chain: &BaseChain) -> String {
    format!("{} {} {}", chain.family, chain.table, chain.chain)
}

/// A base chain in a sentence.
pub(super) fn show(chain: &BaseChain) -> String {
    let text = match chain.chain.as_str() {
        "" => format!("table {} {}", chain.family, chain.table),
        _ => format!("chain {}", path(chain)),
    };
    if chain.backend == "nftables" { text } else { format!("{text} ({})", chain.backend) }
}

/// The chain that a rule stands in, in a sentence.
pub(super) fn named(decision: &Decision) -> String {
    let chain = decision.within.clone().unwrap_or_else(|| decision.chain.chain.clone());
    show(&BaseChain { chain, ..decision.chain.clone() })
}

pub(super) fn list(chains: &[BaseChain], and: &str) -> String {
    let shown: Vec<_> = chains.iter().map(show).collect();
    match shown.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} {and} {last}", rest.join(", ")),
        _ => shown.concat(),
    }
}

pub(super) fn legacy_tool(family: &str) -> &'static str {
    match family {
        "ip6" => "ip6tables-legacy",
        "bridge" => "ebtables-legacy",
        _ => "iptables-legacy",
    }
}

/// The command that shows a chain, as a template.
pub(super) fn command(chain: &BaseChain, within: Option<&str>) -> String {
    // Names of chains are not templates.
    let word = |name: &str| super::quoted(name).replace(['{', '}'], "_");
    let (table, name) = (word(&chain.table), word(within.unwrap_or(&chain.chain)));
    if chain.backend == "nftables" {
        let (what, name) = if name == "''" { ("table", "") } else { ("chain", name.as_str()) };
        let command = format!("{{exec}}nft -a list {what} {} {table} {name}", word(&chain.family));
        return command.trim_end().to_owned();
    }
    match legacy_tool(&chain.family) {
        tool @ "ebtables-legacy" => format!("{{exec}}{tool} -t {table} -L {name} --Ln --Lc"),
        tool => format!("{{exec}}{tool} -t {table} -vnL {name} --line-numbers"),
    }
}
