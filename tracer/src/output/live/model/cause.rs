//! Why packets were dropped, and where: drops of one cause are told together.

use std::sync::Arc;

use crate::output::{
    escape::escape,
    path::place,
    record::{Journey, OutcomeKind},
};

/// What drops have in common that are told as one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cause {
    /// The kernel's reason, escaped as all of these.
    pub reason: String,
    /// The rule or chain, in one line.
    pub rule: Option<String>,
    /// Where: `host:lxdbr0`.
    pub place: String,
    /// At which point.
    pub point: String,
}

impl Cause {
    /// Why this journey ended in a drop; `None` where it did not.
    pub fn of(journey: &Journey) -> Option<Self> {
        let outcome = &journey.outcome;
        if outcome.kind != OutcomeKind::Dropped {
            return None;
        }
        let hop = journey.hops.get(outcome.hop);
        Some(Self {
            reason: escape(outcome.reason.as_deref().unwrap_or("unknown")).into_owned(),
            rule: outcome.rule.as_ref().map(|rule| escape(&rule.line()).into_owned()),
            place: hop.map(place).unwrap_or_default(),
            point: hop.map(|hop| hop.point.clone().into_owned()).unwrap_or_default(),
        })
    }
}

/// Drops of one cause.
#[derive(Clone, Debug)]
pub struct Drops {
    /// How many.
    pub count: u64,
    /// The newest.
    pub newest: Arc<Journey>,
    /// When the newest came: ns since the view began.
    pub at: u64,
}
