//! Drops by cause.

use std::collections::HashMap;

use crate::output::{
    path::place,
    record::{Journey, OutcomeKind, Rule},
};

/// Most causes told apart.
const MOST: usize = 500;

/// Packets that were dropped for one reason, by one rule, at one place.
#[derive(Debug)]
pub(super) struct Cause {
    /// The kernel's reason.
    pub reason: String,
    /// Where they were.
    pub place: String,
    /// Who decided, in one line, with its text.
    pub rule: Option<String>,
    /// The sentence of the first of them.
    pub why: Option<String>,
    /// What the first of them was advised.
    pub advice: Vec<String>,
    /// Flow of the first of them.
    pub flow: u64,
    /// How many.
    pub count: u64,
}

/// Causes by reason, rule and place.
#[derive(Debug, Default)]
pub(super) struct Drops {
    causes: HashMap<(String, Option<String>, String), Cause>,
    /// Dropped packets of causes beyond the most that are told apart.
    pub others: u64,
}

impl Drops {
    /// Counts a journey, if it ended in a drop.
    pub fn add(&mut self, journey: &Journey) {
        let outcome = &journey.outcome;
        if outcome.kind != OutcomeKind::Dropped {
            return;
        }
        let reason = outcome.reason.clone().unwrap_or_else(|| "unknown".to_owned());
        let rule = outcome.rule.as_ref().map(Rule::line);
        let place = journey.hops.get(outcome.hop).map(place).unwrap_or_default();
        let key = (reason, rule, place);
        if self.causes.len() >= MOST && !self.causes.contains_key(&key) {
            self.others += 1;
            return;
        }
        let (reason, _, place) = key.clone();
        let cause = self.causes.entry(key).or_insert_with(|| Cause {
            reason,
            place,
            rule: outcome.rule.as_ref().map(with_text),
            why: outcome.why.clone(),
            advice: outcome.advice.clone(),
            flow: journey.flow.id,
            count: 0,
        });
        cause.count += 1;
    }

    /// The causes, most packets first.
    pub fn by_count(&self) -> Vec<&Cause> {
        let mut causes: Vec<_> = self.causes.values().collect();
        causes.sort_by(|a, b| {
            b.count.cmp(&a.count).then_with(|| (&a.reason, &a.rule).cmp(&(&b.reason, &b.rule)))
        });
        causes
    }
}

fn with_text(rule: &Rule) -> String {
    let inferred = if rule.inferred { " (inferred)" } else { "" };
    match &rule.text {
        Some(text) => format!("{}: {text}{inferred}", rule.line()),
        None => format!("{}{inferred}", rule.line()),
    }
}
