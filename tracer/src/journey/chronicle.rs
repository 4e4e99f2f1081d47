//! Finished journeys in the order in which they began. They finish out of order: one whose end
//! has a tracepoint at once, one that a stack took silently only after a while.

use std::collections::BTreeMap;

use super::Journey;
use crate::event::PacketId;

/// Holds finished journeys back for a while, and gives them out in order of their start.
#[derive(Debug)]
pub struct Chronicle {
    hold: u64,
    most: usize,
    /// By start, with the time at which each may go.
    held: BTreeMap<(u64, PacketId), (u64, Journey)>,
    given: u64,
}

impl Chronicle {
    /// Holds each journey for `hold` ns after its last hop, so that those that began before it can
    /// come first; and no more than `most` at a time.
    pub fn new(hold: u64, most: usize) -> Self {
        Self { hold, most, held: BTreeMap::new(), given: 0 }
    }

    /// Takes a finished journey.
    pub fn push(&mut self, journey: Journey) {
        let last = journey.start.saturating_add(journey.duration);
        let key = (journey.start, journey.id);
        self.held.insert(key, (last.saturating_add(self.hold), journey));
    }

    /// Gives out the journeys that need wait no longer, numbered, oldest start first. Time is
    /// CLOCK_MONOTONIC, ns.
    pub fn release(&mut self, now: u64, out: &mut Vec<Journey>) {
        while let Some(first) = self.held.first_entry() {
            let (due, _) = first.get();
            if *due > now && self.held.len() <= self.most {
                return;
            }
            if let Some((_, (_, journey))) = self.held.pop_first() {
                self.give(journey, out);
            }
        }
    }

    /// Gives out all that is left.
    pub fn finish(&mut self, out: &mut Vec<Journey>) {
        while let Some((_, (_, journey))) = self.held.pop_first() {
            self.give(journey, out);
        }
    }

    fn give(&mut self, journey: Journey, out: &mut Vec<Journey>) {
        self.given += 1;
        out.push(Journey { number: self.given, ..journey });
    }
}

#[cfg(test)]
mod tests {
    use super::{super::sample::*, *};
    use crate::event::What;

    /// A journey that began at this time, µs, and took 1 µs.
    fn journey(id: u64, start: u64) -> Journey {
        let packet = packet(id, arp("10.0.0.1", "10.0.0.2", 1)).starting(start * 1_000);
        journeys(packet.see(What::DevReceive).see(consume()).events()).pop().unwrap()
    }

    fn starts(journeys: &[Journey]) -> Vec<(u64, u64)> {
        journeys.iter().map(|j| (j.number, j.start / 1_000)).collect()
    }

    #[test]
    fn the_one_that_began_first_comes_first() {
        let mut chronicle = Chronicle::new(100_000, 10);
        let mut out = Vec::new();
        chronicle.push(journey(2, 1050));
        chronicle.push(journey(1, 1000));

        chronicle.release(2_000_000, &mut out);

        assert_eq!(starts(&out), [(1, 1000), (2, 1050)]);
    }

    #[test]
    fn a_journey_waits_for_those_that_may_have_begun_before_it() {
        let mut chronicle = Chronicle::new(100_000, 10);
        let mut out = Vec::new();
        chronicle.push(journey(1, 1000));

        chronicle.release(1_050_000, &mut out);
        assert_eq!(starts(&out), []);
        chronicle.release(1_101_000, &mut out);

        assert_eq!(starts(&out), [(1, 1000)]);
    }

    #[test]
    fn no_more_are_held_than_allowed() {
        let mut chronicle = Chronicle::new(100_000, 1);
        let mut out = Vec::new();
        chronicle.push(journey(1, 1000));
        chronicle.push(journey(2, 1010));

        chronicle.release(1_020_000, &mut out);

        assert_eq!(starts(&out), [(1, 1000)]);
    }

    #[test]
    fn the_end_gives_out_everything_in_order() {
        let mut chronicle = Chronicle::new(100_000, 10);
        let mut out = Vec::new();
        chronicle.push(journey(2, 1010));
        chronicle.push(journey(1, 1000));

        chronicle.finish(&mut out);

        assert_eq!(starts(&out), [(1, 1000), (2, 1010)]);
    }
}
