//! Where observers stand at a netfilter hook: one before everything, one behind everything, and one
//! in each gap between the priorities of base chains, so that a packet that passed one observer and
//! not the next died in the chains between them.

use std::collections::{BTreeSet, HashMap};

use crate::event::{Family, Hook, InHook};

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
pub type HookOccupants = HashMap<(Family, Hook), Occupied>;

/// The priorities of the observers between the first and the last. Neighbours without a gap share
/// one bracket.
pub fn between(occupied: &Occupied) -> Vec<i32> {
    let all: BTreeSet<i32> = occupied.chains.union(&occupied.kernel).copied().collect();
    let all: Vec<i32> =
        all.into_iter().filter(|priority| (FIRST..=LAST).contains(priority)).collect();
    all.windows(2)
        .filter_map(|pair| {
            let [low, high] = *pair else { return None };
            let tells = occupied.chains.contains(&low) || occupied.chains.contains(&high);
            (tells && i64::from(high) - i64::from(low) > 1).then(|| low + 1)
        })
        .take(MOST_BETWEEN)
        .collect()
}

/// An open interval of priorities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    /// The packet passed the observer here.
    pub after: i32,
    /// It did not pass the one here.
    pub before: i32,
}

impl Interval {
    /// Whether a base chain of this priority lies within.
    pub fn contains(self, priority: i32) -> bool {
        self.after < priority && priority < self.before
    }
}

/// The observers that were placed, by namespace inode, family and hook.
#[derive(Clone, Debug, Default)]
pub struct Brackets {
    placed: HashMap<(u32, Family, Hook), Vec<i32>>,
}

impl Brackets {
    /// Notes that observers stand between the first and the last at these priorities.
    pub fn insert(&mut self, netns: u32, family: Family, hook: Hook, between: Vec<i32>) {
        self.placed.insert((netns, family, hook), between);
    }

    /// Where a packet was that passed the observer that `at` names and no other; `None` where no
    /// observers stand.
    pub fn interval(&self, netns: u32, at: InHook) -> Option<Interval> {
        let between = self.placed.get(&(netns, at.family, at.hook))?;
        let position = |n: usize| match n {
            0 => Some(FIRST),
            n => between.get(n - 1).copied(),
        };
        let passed = usize::from(at.passed);
        Some(Interval { after: position(passed)?, before: position(passed + 1).unwrap_or(LAST) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hook: Hook, passed: u8) -> InHook {
        InHook { hook, family: Family::Ipv4, passed }
    }

    fn observers(chains: &[i32], kernel: &[i32]) -> Vec<i32> {
        let set = |priorities: &[i32]| priorities.iter().copied().collect();
        between(&Occupied { chains: set(chains), kernel: set(kernel) })
    }

    #[test]
    fn a_lone_chain_needs_no_observer_between() {
        assert_eq!(observers(&[0], &[]), [0; 0]);
    }

    #[test]
    fn every_gap_beside_a_chain_has_one() {
        assert_eq!(observers(&[-150, 0, 50], &[]), [-149, 1]);
        assert_eq!(observers(&[-100], &[-400, -200]), [-199]);
    }

    #[test]
    fn the_kernels_own_functions_are_not_told_apart_from_each_other() {
        assert_eq!(observers(&[], &[-400, -200]), [0; 0]);
    }

    #[test]
    fn chains_without_a_gap_share_a_bracket() {
        assert_eq!(observers(&[0, 1], &[]), [0; 0]);
    }

    #[test]
    fn extremes_do_not_overflow() {
        assert_eq!(observers(&[i32::MIN, 0, i32::MAX], &[]), [0; 0]);
    }

    #[test]
    fn an_interval_spans_from_the_passed_observer_to_the_next() {
        let mut brackets = Brackets::default();
        brackets.insert(7, Family::Ipv4, Hook::Forward, vec![-149, 1]);

        let interval = |passed| brackets.interval(7, at(Hook::Forward, passed));

        assert_eq!(interval(0), Some(Interval { after: FIRST, before: -149 }));
        assert_eq!(interval(1), Some(Interval { after: -149, before: 1 }));
        assert_eq!(interval(2), Some(Interval { after: 1, before: LAST }));
        assert_eq!(brackets.interval(8, at(Hook::Forward, 0)), None);
    }
}
