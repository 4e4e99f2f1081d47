//! Who decided about a packet, by name: the rule or the policy that the kernel told, or the ways that
//! a base chain's rules leave.

use super::{Found, Known, Reading};
use crate::{
    event::{HookFamily, InHook, RuleOrPolicy},
    explain::{BaseChain, Decision},
    host::{
        chains::{Family, Policy},
        ruleset::{
            Base, Chain, Rule, Ruleset, Table,
            ways::{self, Packet, Way},
        },
    },
};

impl Known {
    pub(super) fn nftables(
        &self,
        at: InHook,
        time: u64,
        (handle, chain): (u64, u64),
        rule: RuleOrPolicy,
    ) -> Option<Decision> {
        if let RuleOrPolicy::Rule(number) = rule
            && let Some(Found { table, within, rule, is_certain }) = self.find(handle, number, time)
        {
            let base = base_of(table, at, chain, within);
            let decision = decision(table, base.map(|chain| chain.name.as_str()), at);
            let decision = by_rule(decision, within, rule);
            let text = decision.text.filter(|_| is_certain);
            return Some(Decision { text, ..decision });
        }
        // A table of the newest reading that has it.
        let mut readings = self.readings.iter().rev();
        let table = readings.find_map(|reading| reading.rules.tables.get(&handle))?;
        let base = table.chain_of(chain).filter(|chain| chain.base.is_some()).or_else(|| {
            let mut at = table.at(at).map(|(chain, _)| chain);
            at.next().filter(|_| at.next().is_none())
        });
        if base.is_none() && !matches!(rule, RuleOrPolicy::Rule(_)) {
            return None;
        }
        let decision = decision(table, base.map(|chain| chain.name.as_str()), at);
        Some(match rule {
            // Known to have decided, but not what it says.
            RuleOrPolicy::Rule(number) => {
                Decision { handle: Some(number), policy: Some(false), ..decision }
            }
            RuleOrPolicy::Policy => Decision { policy: Some(true), ..decision },
            RuleOrPolicy::Unknown => decision,
        })
    }

    /// The ways by any of these readings; `None` where there is none, or one cannot tell.
    pub(super) fn ways(
        &self,
        readings: &[&Reading],
        time: u64,
        packet: &Packet,
        chains: &[BaseChain],
    ) -> Option<Vec<Decision>> {
        let mut all: Vec<Decision> = Vec::new();
        // Tables of ebtables are read from when they are known to be in use.
        let readings: Vec<_> = readings.iter().filter(|reading| reading.has_read(chains)).collect();
        for reading in &readings {
            for chain in chains {
                for way in self.ways_in(reading, time, packet, chain)? {
                    if !all.contains(&way) {
                        all.push(way);
                    }
                }
            }
        }
        (!readings.is_empty()).then_some(all)
    }

    pub(super) fn legacy(
        &self,
        at: InHook,
        family: HookFamily,
        name: &str,
        number: Option<u64>,
    ) -> Option<Decision> {
        let family = match family {
            HookFamily::Ipv6 => Family::Ip6,
            HookFamily::Bridge => Family::Bridge,
            HookFamily::Arp => Family::Arp,
            _ => Family::Ip,
        };
        let hook = at.hook.name();
        let table = self.readings.iter().rev().find_map(|r| r.rules.legacy(family, name));
        let base = table.and_then(|table| table.at(at).next());
        let chain = BaseChain {
            backend: legacy_backend(family).into(),
            family: family.name().into(),
            table: name.into(),
            chain: base.map_or_else(|| hook.to_uppercase(), |(chain, _)| chain.name.clone()),
            hook: hook.into(),
            priority: base.map(|(_, base)| base.runs_at()),
            policy_drops: base.map(|(_, base)| base.policy == Policy::Drop),
        };
        let decision = bare(chain);
        let rule = number.and_then(|number| table?.rule(number));
        Some(match rule {
            Some((within, rule)) => by_rule(decision, within, rule),
            None => decision,
        })
    }

    /// The ways of one base chain, by one reading.
    fn ways_in(
        &self,
        reading: &Reading,
        time: u64,
        packet: &Packet,
        chain: &BaseChain,
    ) -> Option<Vec<Decision>> {
        let rules = &reading.rules;
        let is_legacy = chain.backend != "nftables";
        let table = if is_legacy {
            legacy_table(rules, chain)?
        } else {
            match rules.table(&chain.family, &chain.table) {
                Some(table) => table,
                // It came after this reading, or went before.
                None => return Some(Vec::new()),
            }
        };
        let sees = match (table.family, packet.version) {
            (_, None) | (Family::Bridge | Family::Netdev, _) => true,
            (Family::Ip, Some(version)) => version == 4,
            (Family::Ip6, Some(version)) => version == 6,
            (Family::Inet, Some(version)) => version != 0,
            (Family::Arp, Some(version)) => version == 0,
        };
        if !sees {
            return Some(Vec::new());
        }
        let Some(base) = table.chain(&chain.chain) else { return Some(Vec::new()) };
        let mut ways = ways::of(table, base, packet)?;
        if is_legacy && ways.len() > 1 {
            self.keep_counted(&mut ways, time, table);
        }
        let docker = keeps_docker(table);
        let decisions = ways.into_iter().map(|way| {
            let policy_drops = base.base.as_ref().map(|base| base.policy == Policy::Drop);
            let chain = BaseChain { policy_drops, ..chain.clone() };
            let decision = Decision { inferred: true, docker, ..bare(chain) };
            match way {
                Way::Policy(_) => Decision { policy: Some(true), ..decision },
                Way::Rule(within, rule) => by_rule(decision, within, rule),
            }
        });
        Some(decisions.collect())
    }

    /// Keeps those ways that counted a packet between the last reading before that time and the first
    /// one behind it, if any did. Without a reading before, those that ever counted one.
    fn keep_counted(&self, ways: &mut Vec<Way<'_>>, time: u64, of: &Table) {
        let counts = |reading: Option<&Reading>, way: &Way<'_>| -> Option<u64> {
            let table = reading?.rules.legacy(of.family, &of.name)?;
            match way {
                Way::Policy(chain) => table.chain(&chain.name)?.base.as_ref()?.packets,
                Way::Rule(_, rule) => {
                    let (_, found) = table.rule(rule.handle)?;
                    found.packets.filter(|_| found.text == rule.text)
                }
            }
        };
        let before = self.readings.iter().rev().find(|reading| reading.ended <= time);
        let Some(after) = self.readings.iter().find(|reading| reading.began >= time) else {
            return;
        };
        let has_moved = |way: &Way<'_>| {
            let first = counts(before, way).unwrap_or_default();
            counts(Some(after), way).is_none_or(|second| second > first)
        };
        if ways.iter().any(has_moved) {
            ways.retain(has_moved);
        }
    }
}

impl Reading {
    /// Whether the legacy tables of these chains are in it.
    fn has_read(&self, chains: &[BaseChain]) -> bool {
        let mut legacy = chains.iter().filter(|chain| chain.backend != "nftables");
        legacy.all(|chain| legacy_table(&self.rules, chain).is_some())
    }
}

fn legacy_table<'a>(rules: &'a Ruleset, chain: &BaseChain) -> Option<&'a Table> {
    rules.legacy.iter().find(|t| t.family.name() == chain.family && t.name == chain.table)
}

/// The base chain of this handle, or the only one at the hook that can lead to the rule's chain.
fn base_of<'a>(table: &'a Table, at: InHook, handle: u64, within: &'a Chain) -> Option<&'a Chain> {
    if let Some(chain) = table.chain_of(handle).filter(|chain| chain.base.is_some()) {
        return Some(chain);
    }
    if within.base.is_some() {
        return Some(within);
    }
    let mut leading = table.at(at).map(|(chain, _)| chain).filter(|base| {
        let everything = ways::of(table, base, &Packet::default()).unwrap_or_default();
        everything.iter().any(|way| matches!(way, Way::Rule(chain, _) if chain.name == within.name))
    });
    leading.next().filter(|_| leading.next().is_none())
}

/// A base chain, as evidence.
pub(super) fn base_chain(table: &Table, name: &str, base: Option<&Base>) -> BaseChain {
    BaseChain {
        backend: "nftables".into(),
        family: table.family.name().into(),
        table: table.name.clone(),
        chain: name.into(),
        hook: base.and_then(|base| base.hook).map_or("", |hook| hook.name()).into(),
        priority: base.map(Base::runs_at),
        policy_drops: base.map(|base| base.policy == Policy::Drop),
    }
}

/// Something in this base chain decided; without a base chain, in a chain that is not known.
fn decision(table: &Table, base: Option<&str>, at: InHook) -> Decision {
    let found = base.and_then(|name| table.chain(name)).and_then(|chain| chain.base.as_ref());
    let chain = BaseChain {
        hook: at.hook.name().into(),
        ..base_chain(table, base.unwrap_or_default(), found)
    };
    Decision { docker: keeps_docker(table), ..bare(chain) }
}

fn bare(chain: BaseChain) -> Decision {
    Decision {
        chain,
        within: None,
        handle: None,
        number: None,
        policy: None,
        text: None,
        inferred: false,
        docker: false,
    }
}

/// A rule decided.
fn by_rule(decision: Decision, within: &Chain, rule: &Rule) -> Decision {
    let is_legacy = decision.chain.backend != "nftables";
    let number = within.rules.iter().position(|r| r.handle == rule.handle).map(|n| n as u64 + 1);
    Decision {
        within: (within.name != decision.chain.chain).then(|| within.name.clone()),
        handle: (!is_legacy).then_some(rule.handle),
        number: number.filter(|_| is_legacy),
        policy: Some(false),
        text: rule.text.as_deref().map(str::to_owned),
        ..decision
    }
}

/// How the backend of a legacy table is called.
fn legacy_backend(family: Family) -> &'static str {
    match family {
        Family::Bridge => "ebtables-legacy",
        Family::Arp => "arptables-legacy",
        _ => "iptables-legacy",
    }
}

/// Whether Docker keeps its chain for others' rules here.
fn keeps_docker(table: &Table) -> bool {
    table.name == "filter" && table.chain("DOCKER-USER").is_some()
}
