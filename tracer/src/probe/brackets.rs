//! Where observers stand at a netfilter hook: one before everything, one behind everything, and one
//! in each gap between the priorities of base chains, so that a packet that passed one observer and
//! not the next died in the chains between them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::event::{Hook, HookFamily, InHook};

/// The first observer: the kernel refuses the very lowest priority (`bpf_nf_check_pf_and_hooks`).
pub const FIRST: i32 = i32::MIN + 1;
/// The last observer, likewise. Only conntrack's confirmation comes behind it.
pub const LAST: i32 = i32::MAX - 1;
/// Most observers between the first and the last: so many programs the kernel side has.
pub const MOST_BETWEEN: usize = 12;

/// The priorities at which something sits in a hook.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Occupied {
    /// Of base chains.
    pub chains: BTreeSet<i32>,
    /// Of the kernel's own functions: they are told apart from chains, not from each other.
    pub kernel: BTreeSet<i32>,
}

/// What sits in each hook, for each family.
pub type HookOccupants = HashMap<(HookFamily, Hook), Occupied>;

/// Where observers between the first and the last are wanted: gaps between what sits in the hook.
/// Neighbours without a gap share one bracket.
pub fn gaps(occupied: &Occupied) -> Vec<Interval> {
    let all: BTreeSet<i32> = occupied.chains.union(&occupied.kernel).copied().collect();
    let all: Vec<i32> =
        all.into_iter().filter(|priority| (FIRST..=LAST).contains(priority)).collect();
    all.windows(2)
        .filter_map(|pair| {
            let [after, before] = *pair else { return None };
            let tells = occupied.chains.contains(&after) || occupied.chains.contains(&before);
            (tells && i64::from(before) - i64::from(after) > 1)
                .then_some(Interval { after, before })
        })
        .take(MOST_BETWEEN)
        .collect()
}

/// An open interval of priorities. Of a packet's place: it passed the observer at `after`, and not
/// the one at `before`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    /// Its lower end.
    pub after: i32,
    /// Its upper end.
    pub before: i32,
}

impl Interval {
    /// Whether this priority lies within.
    pub fn contains(self, priority: i32) -> bool {
        self.after < priority && priority < self.before
    }
}

/// The observers of one hook: their numbers and where they stand. Numbers are in no order: one
/// that is placed between others while packets are on their way changes nobody's number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placed(BTreeMap<u8, i32>);

/// Number of the last observer of a hook, which no packet carries: it is past the hook then.
const LAST_NUMBER: u8 = u8::MAX;

impl Placed {
    /// The first at one, the last at the other priority, and those between.
    pub fn new(first: i32, last: i32, between: impl IntoIterator<Item = (u8, i32)>) -> Self {
        let mut all = BTreeMap::from([(0, first), (LAST_NUMBER, last)]);
        all.extend(between);
        Self(all)
    }

    /// Between which two a packet was that passed observer `passed` last.
    fn interval(&self, passed: u8) -> Option<Interval> {
        let after = *self.0.get(&passed)?;
        let behind = self.0.values().copied().filter(|priority| *priority > after);
        Some(Interval { after, before: behind.min()? })
    }
}

/// The observers that were placed, by namespace inode, family and hook.
#[derive(Clone, Debug, Default)]
pub struct Brackets {
    placed: HashMap<(u32, HookFamily, Hook), Placed>,
}

impl Brackets {
    /// Notes where observers stand.
    pub fn insert(&mut self, netns: u32, family: HookFamily, hook: Hook, placed: Placed) {
        self.placed.insert((netns, family, hook), placed);
    }

    /// Whether observers stand in a namespace.
    pub fn stand_in(&self, netns: u32) -> bool {
        self.placed.keys().any(|(inode, ..)| *inode == netns)
    }

    /// Where a packet was that passed the observer that `at` names and no other; `None` where no
    /// observers stand.
    pub fn interval(&self, netns: u32, at: InHook) -> Option<Interval> {
        self.placed.get(&(netns, at.family, at.hook))?.interval(at.passed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hook: Hook, passed: u8) -> InHook {
        InHook { hook, family: HookFamily::Ipv4, passed }
    }

    fn observers(chains: &[i32], kernel: &[i32]) -> Vec<(i32, i32)> {
        let set = |priorities: &[i32]| priorities.iter().copied().collect();
        let gaps = gaps(&Occupied { chains: set(chains), kernel: set(kernel) });
        gaps.into_iter().map(|gap| (gap.after, gap.before)).collect()
    }

    #[test]
    fn a_lone_chain_needs_no_observer_between() {
        assert!(observers(&[0], &[]).is_empty());
    }

    #[test]
    fn every_gap_beside_a_chain_has_one() {
        assert_eq!(observers(&[-150, 0, 50], &[]), [(-150, 0), (0, 50)]);
        assert_eq!(observers(&[-100], &[-400, -200]), [(-200, -100)]);
    }

    #[test]
    fn the_kernels_own_functions_are_not_told_apart_from_each_other() {
        assert!(observers(&[], &[-400, -200]).is_empty());
    }

    #[test]
    fn chains_without_a_gap_share_a_bracket() {
        assert!(observers(&[0, 1], &[]).is_empty());
    }

    #[test]
    fn extremes_do_not_overflow() {
        assert!(observers(&[i32::MIN, 0, i32::MAX], &[]).is_empty());
    }

    #[test]
    fn an_interval_spans_from_the_passed_observer_to_the_next() {
        let mut brackets = Brackets::default();
        let placed = Placed::new(FIRST, LAST, [(1, -149), (2, 1)]);
        brackets.insert(7, HookFamily::Ipv4, Hook::Forward, placed);

        let interval = |passed| brackets.interval(7, at(Hook::Forward, passed));

        assert_eq!(interval(0), Some(Interval { after: FIRST, before: -149 }));
        assert_eq!(interval(1), Some(Interval { after: -149, before: 1 }));
        assert_eq!(interval(2), Some(Interval { after: 1, before: LAST }));
        assert_eq!(interval(3), None, "no such observer");
        assert_eq!(brackets.interval(8, at(Hook::Forward, 0)), None);
    }

    #[test]
    fn an_observer_that_came_later_stands_between_older_ones() {
        let placed = Placed::new(FIRST, LAST, [(1, -149), (2, 51), (3, 1)]);

        assert_eq!(placed.interval(1), Some(Interval { after: -149, before: 1 }));
        assert_eq!(placed.interval(3), Some(Interval { after: 1, before: 51 }));
        assert_eq!(placed.interval(2), Some(Interval { after: 51, before: LAST }));
    }
}
