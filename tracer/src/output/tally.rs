//! Counts journeys for the summary, and takes their times.

use std::collections::HashMap;

use super::{
    latency::Latency,
    record::{DropCount, Events, Outcome, OutcomeKind, Outcomes, Rule, Summary},
};
use crate::{explain::Names, journey};

/// Most causes of drops told apart; what comes after them is counted as `other`.
const CAUSES: usize = 1_000;

/// Journeys by outcome, drops by cause, times by segment.
#[derive(Debug, Default)]
pub struct Tally {
    outcomes: Outcomes,
    drops: HashMap<(String, Option<String>), u64>,
    latency: Latency,
}

impl Tally {
    /// Takes the times of a journey, whose outcome [`Tally::add`] counts.
    pub fn time(&mut self, journey: &journey::Journey, names: &(impl Names + ?Sized)) {
        self.latency.add(journey, names);
    }

    /// Counts a journey that ended so.
    pub fn add(&mut self, outcome: &Outcome) {
        let count = match outcome.kind {
            OutcomeKind::Transmitted => &mut self.outcomes.transmitted,
            OutcomeKind::Delivered => &mut self.outcomes.delivered,
            OutcomeKind::Dropped => &mut self.outcomes.dropped,
            OutcomeKind::Consumed => &mut self.outcomes.consumed,
            OutcomeKind::Lost => &mut self.outcomes.lost,
        };
        *count += 1;
        if outcome.kind == OutcomeKind::Dropped {
            let reason = outcome.reason.as_deref().unwrap_or("unknown").to_owned();
            let cause = (reason, outcome.rule.as_ref().map(Rule::line));
            let cause = if self.drops.len() < CAUSES || self.drops.contains_key(&cause) {
                cause
            } else {
                ("other".to_owned(), None)
            };
            *self.drops.entry(cause).or_default() += 1;
        }
    }

    /// Journeys counted so far.
    pub fn journeys(&self) -> u64 {
        let o = &self.outcomes;
        o.transmitted + o.delivered + o.dropped + o.consumed + o.lost
    }

    /// The summary of a trace that took this long.
    pub fn summary(&self, duration_ns: u64, events: Events) -> Summary {
        let mut drops: Vec<_> = self
            .drops
            .iter()
            .map(|((reason, rule), count)| DropCount {
                reason: reason.clone(),
                rule: rule.clone(),
                count: *count,
            })
            .collect();
        drops.sort_by(|a, b| {
            b.count.cmp(&a.count).then_with(|| (&a.reason, &a.rule).cmp(&(&b.reason, &b.rule)))
        });
        Summary {
            duration_ns,
            journeys: self.journeys(),
            outcomes: self.outcomes,
            drops,
            events,
            latency: self.latency.figures(),
        }
    }
}

impl Rule {
    /// The rule in one line: `inet lxd fwd.lxdbr0 handle 12`, `ip filter FORWARD policy`.
    pub fn line(&self) -> String {
        let chain = format!("{} {} {}", self.family, self.table, self.chain);
        match (self.handle, self.number, self.policy) {
            (Some(handle), ..) => format!("{chain} handle {handle}"),
            (None, Some(number), _) => format!("{chain} rule {number}"),
            (None, None, Some(true)) => format!("{chain} policy"),
            (None, None, _) => chain,
        }
    }
}
