//! When which packet took how long.

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

/// A sample of packets, evenly taken: where there are more than can be drawn, every second, fourth, … of them
/// stays. Drops go by the same rule; their number is told elsewhere.
#[derive(Debug)]
pub(super) struct Timeline {
    dots: Vec<Dot>,
    every: u64,
    seen: u64,
}

impl Default for Timeline {
    fn default() -> Self {
        Self { dots: Vec::new(), every: 1, seen: 0 }
    }
}

impl Timeline {
    /// Takes a journey, if it is one of those that are drawn.
    pub fn add(&mut self, journey: &Journey) {
        self.seen += 1;
        if self.seen % self.every != 0 {
            return;
        }
        let Ok(at) = journey.time.parse::<jiff::Timestamp>() else { return };
        if self.dots.len() >= MOST {
            let mut keep = false;
            self.dots.retain(|_| {
                keep = !keep;
                keep
            });
            self.every *= 2;
        }
        let (at, took) = (at.as_nanosecond(), journey.duration_ns);
        self.dots.push(Dot { at, took, kind: journey.outcome.kind });
    }

    /// Those that are drawn.
    pub fn dots(&self) -> &[Dot] {
        &self.dots
    }

    /// One of how many packets is drawn.
    pub fn every(&self) -> u64 {
        self.every
    }
}
