//! What others were made from a packet on its way. A packet and those made from it are journeys of their
//! own, which end in any order: each that ends is told to its parent where that is, in the making or
//! held by the [`Chronicle`](super::Chronicle).

use super::{Journey, Outcome};
use crate::event::{Origin, PacketId, Place};

/// Most branches that a journey lists; a flood of a bridge has one a port, a large segment some 45.
const MOST: usize = 256;

/// What a packet was made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parent {
    /// That packet.
    pub packet: PacketId,
    /// How it was made.
    pub origin: Origin,
    /// Number of that packet's journey, where it has been given out before this one.
    pub number: Option<u64>,
}

/// A packet that was made from another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Branch {
    /// That packet.
    pub packet: PacketId,
    /// How it was made.
    pub origin: Origin,
    /// Number of its journey, where it has been given out before its parent's.
    pub number: Option<u64>,
    /// CLOCK_MONOTONIC of its first hop, ns.
    pub start: u64,
    /// Where it was first seen.
    pub first: Place,
    /// How it ended, and where that was; `None` while it is on its way.
    pub ended: Option<(Outcome, Place)>,
}

impl Branch {
    /// This journey as a branch of its parent; `None` where it has none.
    pub(super) fn of(journey: &Journey) -> Option<(PacketId, Self)> {
        let parent = journey.parent?;
        let place = |hop: usize| journey.hops.get(hop).map(|hop| hop.place);
        let branch = Self {
            packet: journey.id,
            origin: parent.origin,
            number: None,
            start: journey.start,
            first: place(0)?,
            ended: place(journey.outcome.hop()).map(|at| (journey.outcome.clone(), at)),
        };
        Some((parent.packet, branch))
    }
}

/// The branches of a packet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Branches {
    list: Vec<Branch>,
    left_out: u64,
}

impl Branches {
    /// Adds one; beyond [`MOST`] it is only counted.
    pub(super) fn add(&mut self, branch: Branch) {
        if self.list.len() < MOST {
            self.list.push(branch);
        } else {
            self.left_out += 1;
        }
    }

    /// Brings them into the order in which they began, and gives them the numbers that `number` knows.
    pub(super) fn settle(&mut self, mut number: impl FnMut(PacketId) -> Option<u64>) {
        self.list.sort_by_key(|branch| (branch.start, branch.packet));
        for branch in &mut self.list {
            branch.number = number(branch.packet);
        }
    }

    /// Them, those that began first in front.
    pub fn iter(&self) -> std::slice::Iter<'_, Branch> {
        self.list.iter()
    }

    /// How many more there were than are listed.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }
}
