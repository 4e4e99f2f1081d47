//! In which ways could a base chain drop a packet? Its rules are walked as the kernel would, with
//! what is known of the packet; where a comparison is not understood, or its value is not known,
//! both are possible.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{Chain, End, Field, Rule, Table, Test, Values};
use crate::host::chains::Policy;

/// Most rules that are walked for one packet.
const MOST_RULES: usize = 65_536;

/// Chains may jump as deep as this (`NFT_JUMP_STACK_SIZE`); the kernel refuses loops.
const MOST_DEEP: usize = 16;

/// What is known of a packet where it was dropped. Each field has the values that it may have had;
/// none for one that is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Packet {
    /// Version of IP; 0 for none.
    pub version: Option<u8>,
    /// IP protocol number.
    pub proto: Option<u8>,
    /// Source addresses.
    pub src: Vec<IpAddr>,
    /// Destination addresses.
    pub dst: Vec<IpAddr>,
    /// Source ports.
    pub sport: Vec<u16>,
    /// Destination ports.
    pub dport: Vec<u16>,
    /// The interface that it came in by.
    pub iif: Option<String>,
    /// The interface that it is to leave by.
    pub oif: Option<String>,
}

/// One way to be dropped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Way<'a> {
    /// By a rule of a chain.
    Rule(&'a Chain, &'a Rule),
    /// By the base chain's policy.
    Policy(&'a Chain),
}

/// The ways in which this base chain could have dropped a packet; `None` when it cannot be told.
pub fn of<'a>(table: &'a Table, base: &'a Chain, packet: &Packet) -> Option<Vec<Way<'a>>> {
    if !table.read {
        return None;
    }
    let chains = table.chains.iter().map(|chain| (chain.name.as_str(), chain)).collect();
    let mut walk =
        Walk { table, chains, packet, done: BTreeMap::new(), ways: Vec::new(), rules: 0 };
    let goes_on = walk.chain(base, 0)?;
    if goes_on && base.base.as_ref().is_some_and(|base| base.policy == Policy::Drop) {
        walk.ways.push(Way::Policy(base));
    }
    Some(walk.ways)
}

/// Whether something holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Holds {
    No,
    Maybe,
    Yes,
}

struct Walk<'a, 'p> {
    table: &'a Table,
    chains: BTreeMap<&'a str, &'a Chain>,
    packet: &'p Packet,
    /// Chains that were walked, and whether a packet can come to their end.
    done: BTreeMap<&'a str, bool>,
    ways: Vec<Way<'a>>,
    rules: usize,
}

impl<'a> Walk<'a, '_> {
    /// Walks a chain; whether a packet can come to its end, undecided.
    fn chain(&mut self, chain: &'a Chain, depth: usize) -> Option<bool> {
        if let Some(goes_on) = self.done.get(chain.name.as_str()) {
            return Some(*goes_on);
        }
        if depth > MOST_DEEP {
            return None;
        }
        let mut leaves = false;
        for rule in &chain.rules {
            self.rules += 1;
            if self.rules > MOST_RULES {
                return None;
            }
            let holds = all(&rule.tests, self.packet);
            if holds == Holds::No {
                continue;
            }
            let after = self.end(chain, rule, &rule.end, depth)?;
            leaves |= after.leaves;
            if holds == Holds::Yes && !after.next {
                self.done.insert(&chain.name, leaves);
                return Some(leaves);
            }
        }
        self.done.insert(&chain.name, true);
        Some(true)
    }

    fn end(
        &mut self,
        chain: &'a Chain,
        rule: &'a Rule,
        end: &'a End,
        depth: usize,
    ) -> Option<After> {
        match end {
            End::Continue => Some(After { next: true, leaves: false }),
            End::Accept | End::Queue { bypass: true } => Some(After { next: false, leaves: false }),
            End::Drop | End::Reject | End::Queue { bypass: false } => {
                self.found(chain, rule);
                Some(After { next: false, leaves: false })
            }
            End::Return => Some(After { next: false, leaves: true }),
            End::Jump(to) => {
                let to = *self.chains.get(to.as_str())?;
                Some(After { next: self.chain(to, depth + 1)?, leaves: false })
            }
            End::Goto(to) => {
                let to = *self.chains.get(to.as_str())?;
                Some(After { next: false, leaves: self.chain(to, depth + 1)? })
            }
            End::OneOf(choices) => {
                // None of them may be the packet's.
                let mut sum = After { next: true, leaves: false };
                for (test, end) in choices {
                    let holds = holds(test, self.packet);
                    if holds == Holds::No {
                        continue;
                    }
                    let after = self.end(chain, rule, end, depth)?;
                    sum.leaves |= after.leaves;
                    sum.next |= after.next;
                    if holds == Holds::Yes {
                        return Some(After { next: after.next, leaves: sum.leaves });
                    }
                }
                Some(sum)
            }
            End::Map(name) => {
                let mut sum = After { next: true, leaves: false };
                for end in self.table.maps.get(name)? {
                    let after = self.end(chain, rule, end, depth)?;
                    sum.leaves |= after.leaves;
                }
                Some(sum)
            }
            End::Unknown => {
                self.found(chain, rule);
                Some(After { next: true, leaves: true })
            }
        }
    }

    fn found(&mut self, chain: &'a Chain, rule: &'a Rule) {
        let way = Way::Rule(chain, rule);
        let is_new = !self
            .ways
            .iter()
            .any(|known| matches!(known, Way::Rule(_, of) if std::ptr::eq(*of, rule)));
        if is_new {
            self.ways.push(way);
        }
    }
}

/// What can become of a packet for which a rule holds.
#[derive(Clone, Copy, Debug)]
struct After {
    /// It can come to the next rule.
    next: bool,
    /// It can leave the chain undecided.
    leaves: bool,
}

fn all(tests: &[Test], packet: &Packet) -> Holds {
    tests.iter().map(|test| holds(test, packet)).min().unwrap_or(Holds::Yes)
}

pub(super) fn holds(test: &Test, packet: &Packet) -> Holds {
    match test {
        Test::Unclear => Holds::Maybe,
        Test::All(tests) => all(tests, packet),
        Test::Version(version) => match packet.version {
            None => Holds::Maybe,
            Some(is) if is == *version => Holds::Yes,
            Some(_) => Holds::No,
        },
        Test::Field { field, values, negated } => {
            let found: BTreeSet<bool> = contained(*field, values, packet);
            match (found.contains(&true), found.contains(&false)) {
                (true, false) => {
                    if *negated {
                        Holds::No
                    } else {
                        Holds::Yes
                    }
                }
                (false, true) => {
                    if *negated {
                        Holds::Yes
                    } else {
                        Holds::No
                    }
                }
                _ => Holds::Maybe,
            }
        }
    }
}

/// Of each value that the field may have, whether it is one of these; nothing where none is known.
fn contained(field: Field, values: &Values, packet: &Packet) -> BTreeSet<bool> {
    match values {
        Values::Numbers(ranges) => {
            let is_in = |n: u64| ranges.iter().any(|(low, high)| (*low..=*high).contains(&n));
            let ports = |ports: &[u16]| ports.iter().map(|port| is_in((*port).into())).collect();
            match field {
                Field::Proto => packet.proto.iter().map(|proto| is_in((*proto).into())).collect(),
                Field::Sport => ports(&packet.sport),
                Field::Dport => ports(&packet.dport),
                _ => BTreeSet::new(),
            }
        }
        Values::Addresses(ranges) => {
            let addresses = match field {
                Field::Src => &packet.src,
                Field::Dst => &packet.dst,
                _ => return BTreeSet::new(),
            };
            let is_in = |a: &IpAddr| ranges.iter().any(|(low, high)| low <= a && a <= high);
            addresses.iter().map(is_in).collect()
        }
        Values::Names(names) => {
            let device = match field {
                Field::Iif => &packet.iif,
                Field::Oif => &packet.oif,
                _ => return BTreeSet::new(),
            };
            let is = |device: &String| {
                names.iter().any(|name| match name.strip_suffix('*') {
                    Some(begin) => device.starts_with(begin),
                    None => name == device,
                })
            };
            device.iter().map(is).collect()
        }
    }
}
