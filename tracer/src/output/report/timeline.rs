//! When which packet took how long.

use super::sample::Sample;
use crate::output::record::{Journey, OutcomeKind};

/// Packets that are drawn.
const MOST: usize = 4_000;

/// A packet in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Dot {
    /// When it began, ns since the epoch.
    pub at: i128,
    /// How long it took, ns.
    pub took: u64,
    /// How it ended.
    pub kind: OutcomeKind,
}

/// A sample of all packets. Drops go by the same rule; their number is told elsewhere.
#[derive(Debug)]
pub(super) struct Timeline(pub Sample<Dot>);

impl Default for Timeline {
    fn default() -> Self {
        Self(Sample::of(MOST))
    }
}

impl Timeline {
    /// Takes a journey.
    pub fn add(&mut self, journey: &Journey) {
        if let Ok(at) = journey.time.parse::<jiff::Timestamp>() {
            let (at, took) = (at.as_nanosecond(), journey.duration_ns);
            self.0.add(Dot { at, took, kind: journey.outcome.kind });
        }
    }
}
