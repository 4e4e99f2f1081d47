//! Events of many packets, in any order, into journeys.

use super::{Event, Journey};

/// The bounds of an [`Assembler`].
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most journeys in the making; the oldest is ended when another one begins beyond it.
    pub in_flight: usize,
    /// Most flows remembered.
    pub flows: usize,
    /// How long a delivered journey waits for what may still follow, ns.
    pub settle_after: u64,
    /// Silence after which a journey without an end is lost, ns.
    pub lost_after: u64,
}

/// Puts journeys together.
#[derive(Debug)]
pub struct Assembler {}

impl Assembler {
    /// An empty one.
    pub fn new(_limits: Limits) -> Self {
        Self {}
    }

    /// Takes one event; journeys that it completes are appended to `done`.
    pub fn push(&mut self, _event: Event, _done: &mut Vec<Journey>) {}

    /// Time has come to `now` (CLOCK_MONOTONIC, ns): ends what has been silent for too long.
    pub fn advance(&mut self, _now: u64, _done: &mut Vec<Journey>) {}

    /// The trace ends: every journey in the making is ended.
    pub fn finish(&mut self, _done: &mut Vec<Journey>) {}
}
