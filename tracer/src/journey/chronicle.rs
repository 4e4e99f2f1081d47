//! Finished journeys in the order in which they began. They finish out of order: one whose end
//! has a tracepoint at once, one that a stack took silently only after a while. While they are held,
//! they learn of their branches.

use std::{collections::BTreeMap, num::NonZeroUsize};

use foldhash::{HashMap, HashMapExt as _};
use lru::LruCache;

use super::{Assembler, Benign, Branch, Journey, Parent};
use crate::event::PacketId;

/// Most journeys remembered that were given out, so that those branching from them can name them.
const GIVEN: NonZeroUsize = NonZeroUsize::new(65_536).expect("it is not 0");

/// Holds finished journeys back for a while, and gives them out in order of their start.
#[derive(Debug)]
pub struct Chronicle {
    hold: u64,
    most: usize,
    /// By start, with the time at which each may go.
    held: BTreeMap<(u64, PacketId), (u64, Box<Journey>)>,
    /// The start of each that is held.
    starts: HashMap<PacketId, u64>,
    given: u64,
    /// The numbers of the last ones given out.
    numbers: LruCache<PacketId, u64>,
}

impl Chronicle {
    /// Holds each journey for `hold` ns after its last hop, so that those that began before it can
    /// come first; and no more than `most` at a time.
    pub fn new(hold: u64, most: usize) -> Self {
        Self {
            hold,
            most,
            held: BTreeMap::new(),
            starts: HashMap::new(),
            given: 0,
            numbers: LruCache::new(GIVEN),
        }
    }

    /// Takes a finished journey, in the order in which the assembler finished them.
    pub fn push(&mut self, journey: Journey) {
        if let Some((parent, branch)) = Branch::of(&journey)
            && let Some(start) = self.starts.get(&parent)
            && let Some((_, parent)) = self.held.get_mut(&(*start, parent))
        {
            parent.branches.add(branch);
        }
        self.starts.insert(journey.id, journey.start);
        let last = journey.start.saturating_add(journey.duration);
        let key = (journey.start, journey.id);
        self.held.insert(key, (last.saturating_add(self.hold), Box::new(journey)));
    }

    /// Gives out the journeys that need wait no longer, numbered, oldest start first; `making` knows the
    /// branches that are still on their way. Time is CLOCK_MONOTONIC, ns.
    pub fn release<B: Benign>(&mut self, now: u64, making: &Assembler<B>, out: &mut Vec<Journey>) {
        while let Some(first) = self.held.first_entry() {
            let (due, _) = first.get();
            if *due > now && self.held.len() <= self.most {
                return;
            }
            if let Some((_, (_, journey))) = self.held.pop_first() {
                self.give(*journey, making, out);
            }
        }
    }

    /// Gives out all that is left.
    pub fn finish<B: Benign>(&mut self, making: &Assembler<B>, out: &mut Vec<Journey>) {
        while let Some((_, (_, journey))) = self.held.pop_first() {
            self.give(*journey, making, out);
        }
    }

    fn give<B: Benign>(
        &mut self,
        mut journey: Journey,
        making: &Assembler<B>,
        out: &mut Vec<Journey>,
    ) {
        self.given += 1;
        self.starts.remove(&journey.id);
        for branch in making.on_their_way(journey.id) {
            journey.branches.add(branch);
        }
        let mut number = |id| self.numbers.peek(&id).copied();
        journey.branches.settle(&mut number);
        journey.parent =
            journey.parent.map(|parent| Parent { number: number(parent.packet), ..parent });
        self.numbers.push(journey.id, self.given);
        out.push(Journey { number: self.given, ..journey });
    }
}

#[cfg(test)]
mod tests {
    use super::{super::sample::*, *};
    use tracer_common::point::Point;

    use crate::{
        event::{Event, Place, What},
        journey::Outcome,
    };

    /// A journey that began at this time, µs, and took 1 µs.
    fn journey(id: u64, start: u64) -> Journey {
        let packet = packet(id, arp("10.0.0.1", "10.0.0.2", 1)).starting(start * 1_000);
        journeys(packet.see(What::DevReceive).see(consume()).events()).pop().unwrap()
    }

    /// No journey is in the making.
    fn nothing() -> Assembler {
        Assembler::new(LIMITS, ())
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

        chronicle.release(2_000_000, &nothing(), &mut out);

        assert_eq!(starts(&out), [(1, 1000), (2, 1050)]);
    }

    #[test]
    fn a_journey_waits_for_those_that_may_have_begun_before_it() {
        let mut chronicle = Chronicle::new(100_000, 10);
        let mut out = Vec::new();
        chronicle.push(journey(1, 1000));

        chronicle.release(1_050_000, &nothing(), &mut out);
        assert_eq!(starts(&out), []);
        chronicle.release(1_101_000, &nothing(), &mut out);

        assert_eq!(starts(&out), [(1, 1000)]);
    }

    #[test]
    fn no_more_are_held_than_allowed() {
        let mut chronicle = Chronicle::new(100_000, 1);
        let mut out = Vec::new();
        chronicle.push(journey(1, 1000));
        chronicle.push(journey(2, 1010));

        chronicle.release(1_020_000, &nothing(), &mut out);

        assert_eq!(starts(&out), [(1, 1000)]);
    }

    #[test]
    fn the_end_gives_out_everything_in_order() {
        let mut chronicle = Chronicle::new(100_000, 10);
        let mut out = Vec::new();
        chronicle.push(journey(2, 1010));
        chronicle.push(journey(1, 1000));

        chronicle.finish(&nothing(), &mut out);

        assert_eq!(starts(&out), [(1, 1000), (2, 1010)]);
    }

    /// A request that a bridge floods: received at 10 µs of the trace, sent to the last port at 14 µs.
    fn flooded() -> Packet {
        let flooded = packet(1, arp("10.0.0.1", "10.0.0.2", 1)).at(2, 5);
        flooded.see(What::DevReceive).see(What::BridgeRx).see(What::BridgeFlood).see(What::Nat)
    }

    /// A copy of it, which leaves by this port.
    fn flooded_to(port: u32, start: u64) -> Packet {
        let copy = packet(u64::from(port), arp("10.0.0.1", "10.0.0.2", 1)).at(2, port);
        copy.cloned_from(1).starting(start).see(What::DevXmit)
    }

    /// What is given out of these events, the first `before` of which come before anything is.
    fn told(events: Vec<Event>, before: usize) -> Vec<Journey> {
        let mut assembler = Assembler::new(LIMITS, ());
        let mut chronicle = Chronicle::new(100_000, 10);
        let (mut done, mut out) = (Vec::new(), Vec::new());
        for (n, event) in events.into_iter().enumerate() {
            if n == before {
                done.drain(..).for_each(|journey| chronicle.push(journey));
                chronicle.release(1_000_000, &assembler, &mut out);
            }
            assembler.push(event, &mut done);
        }
        assembler.finish(&mut done);
        done.drain(..).for_each(|journey| chronicle.push(journey));
        chronicle.finish(&assembler, &mut out);
        out
    }

    #[test]
    fn a_packet_tells_what_was_made_of_it_and_where_it_left() {
        let parent = flooded().at(2, 9).see(What::DevXmit).see(consume()).events();
        let early = flooded_to(7, 12_100).see(consume()).events();
        let late = flooded_to(6, 12_200).at(3, 2).see(drop(9, None)).events();

        let (arrives, leaves) = parent.split_at(4);
        let out = told([arrives, &early, leaves, &late].concat(), usize::MAX);

        let branches: Vec<_> = out[0].branches.iter().collect();
        let ways: Vec<_> =
            branches.iter().map(|b| (b.packet.0, b.first.ifindex, out[0].left_at(b))).collect();
        assert_eq!(ways, [(7, 7, 2), (6, 6, 2)]);
        assert_eq!(out[0].hops[2].point, Point::BridgeFlood);
        let (outcome, place) = branches[1].ended.as_ref().unwrap();
        assert!(matches!(outcome, Outcome::Dropped { .. }));
        assert_eq!(*place, Place { netns: 2, ifindex: 6 });
        let parents: Vec<_> = out.iter().map(|j| j.parent.and_then(|p| p.number)).collect();
        assert_eq!(parents, [None, Some(1), Some(1)]);
        assert!(out[1].branches.iter().next().is_none());
    }

    #[test]
    fn a_branch_that_is_on_its_way_when_its_parent_is_told_has_no_end() {
        let parent = flooded().see(consume()).events();
        let slow = flooded_to(7, 12_100).events();
        let tapped = packet(8, arp("10.0.0.1", "10.0.0.2", 1)).cloned_from(1);
        let tapped = tapped.starting(12_300).see(socket()).events();
        let end = flooded_to(7, 12_100).see(consume()).events().split_off(1);
        let before = [parent, slow, tapped].concat();

        let out = told([before.clone(), end].concat(), before.len());

        let ends: Vec<_> = out[0].branches.iter().map(|b| (b.packet.0, &b.ended)).collect();
        assert_eq!(ends, [(7, &None)]);
        assert_eq!(out[1].parent.unwrap().number, Some(1));
    }

    #[test]
    fn a_branch_that_was_told_before_its_parent_is_named_by_its_number() {
        let parent = flooded().events();
        let quick = flooded_to(7, 12_100).see(consume()).events();
        let before = [parent, quick].concat();
        let end = flooded().see(consume()).events().split_off(4);

        let out = told([before.clone(), end].concat(), before.len());

        assert_eq!((out[0].id.0, out[0].parent.unwrap().number), (7, None));
        let numbers: Vec<_> = out[1].branches.iter().map(|b| b.number).collect();
        assert_eq!(numbers, [Some(1)]);
    }

    #[test]
    fn branches_beyond_the_bound_are_counted() {
        let mut parent = flooded().see(consume()).events();
        let end = parent.split_off(4);
        let copies = (10..310).flat_map(|port| flooded_to(port, 12_100).see(consume()).events());

        let out = told(parent.into_iter().chain(copies).chain(end).collect(), usize::MAX);

        let told: Vec<_> =
            out.iter().map(|j| (j.branches.iter().len(), j.branches.left_out())).collect();
        assert_eq!(told.iter().max(), Some(&(256, 44)));
    }
}
