//! What is known of the rules of namespaces, now and when a packet was dropped.
//!
//! The rules of a namespace are read in a thread of their own, when it is first asked for them and
//! when the kernel announces a change, at most once a second. Each reading stands for the time from
//! the change before it to the change behind it, so that a packet is explained by the rules that it
//! met. A handle is not enough for that: a rule that is replaced (`nft replace rule`) leaves its
//! handle to the next.

use std::{
    cell::RefCell,
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::task::{JoinHandle, spawn_blocking};

use crate::{
    event::{Decider, Hook, HookFamily, InHook, Place, RuleOrPolicy},
    explain::{BaseChain, Decision},
    host::{
        self,
        chains::{Family, Policy},
        netns::Netns,
        ruleset::{
            Base, Chain, Rule, Ruleset, Table, Tools,
            ways::{self, Packet, Way},
        },
    },
};

/// How soon the rules of a namespace are read again.
const PAUSE: u64 = Duration::from_secs(1).as_nanos() as u64;
/// How much later a change may be noticed than it was made.
const NOTICED: u64 = Duration::from_millis(50).as_nanos() as u64;
/// Most readings of a namespace that are kept: so many seconds at least, which is longer than the end
/// of a packet waits to be explained.
const MOST_READINGS: usize = 8;
/// How often it is tried again to have rules listed, where that failed.
const MOST_FAILURES: u32 = 3;
/// Most answers that are remembered.
const MOST_ANSWERS: usize = 1_024;
/// Most namespaces whose rules are kept that are not followed.
const MOST_BESIDE: usize = 1_024;

/// The rules of namespaces, by inode.
pub struct Rules {
    tools: Arc<Tools>,
    known: HashMap<u32, Known>,
    /// Which are to be read, by whom nobody waits.
    wanted: BTreeSet<u32>,
    /// A reading under way, and of which.
    reading: Option<(u32, JoinHandle<Read>)>,
    /// Answers of [`Rules::ways`].
    answers: RefCell<HashMap<Asked, Option<Vec<Decision>>>>,
}

/// What came of reading.
pub struct Read {
    netns: u32,
    began: u64,
    ended: u64,
    rules: Result<Ruleset, host::Error>,
}

/// What an answer depends on.
#[derive(PartialEq, Eq, Hash)]
struct Asked {
    netns: u32,
    readings: Vec<u64>,
    packet: Packet,
    chains: Vec<(String, String)>,
}

#[derive(Default)]
struct Known {
    /// The oldest first.
    readings: VecDeque<Reading>,
    /// When the last reading began, whatever came of it.
    tried: Option<u64>,
    /// How often in a row the programs that list rules failed.
    failures: u32,
    /// When the last change was noticed.
    changed: u64,
    /// Whether changes are announced.
    followed: bool,
    /// Tables of ebtables that are known to be in use.
    ebtables: BTreeSet<String>,
}

struct Reading {
    began: u64,
    ended: u64,
    /// When the change before it was noticed.
    from: u64,
    /// When the change behind it was.
    until: Option<u64>,
    rules: Ruleset,
}

impl Rules {
    /// Nothing is known yet.
    pub fn new(tools: Tools) -> Self {
        Self {
            tools: Arc::new(tools),
            known: HashMap::new(),
            wanted: BTreeSet::new(),
            reading: None,
            answers: RefCell::default(),
        }
    }

    /// The rules of exactly these namespaces are followed from now on: a change of them is told.
    pub fn follow(&mut self, namespaces: impl Iterator<Item = u32>) {
        let followed: HashSet<u32> = namespaces.collect();
        for (inode, known) in &mut self.known {
            known.followed &= followed.contains(inode);
        }
        if self.known.len() > followed.len() + MOST_BESIDE {
            self.known.retain(|_, known| known.followed);
        }
        for inode in followed {
            let known = self.known.entry(inode).or_default();
            // They may have changed while nobody listened.
            if !known.followed {
                self.wanted.insert(inode);
            }
            known.followed = true;
        }
    }

    /// The rules of a namespace have changed: when that was noticed first, and last.
    pub fn changed(&mut self, netns: u32, first: u64, last: u64) {
        let known = self.known.entry(netns).or_default();
        known.changed = last;
        if let Some(reading) = known.readings.back_mut() {
            reading.until.get_or_insert(first);
        }
        self.wanted.insert(netns);
    }

    /// The rules of a namespace should be read.
    pub fn want(&mut self, netns: u32) {
        self.wanted.insert(netns);
    }

    /// A table of ebtables is in use.
    pub fn use_ebtables(&mut self, netns: u32, table: &str) {
        self.known.entry(netns).or_default().ebtables.insert(table.to_owned());
    }

    /// Handles of a table of nftables and of a base chain in it, by their names, and the chain's hook:
    /// as at this time, for a table that is loaded again gets other handles.
    pub fn base(
        &self,
        netns: u32,
        time: u64,
        family: Family,
        (table, chain): (&str, &str),
    ) -> Option<(u64, u64, Hook)> {
        let mut readings = self.known.get(&netns)?.readings.iter().rev();
        let of = |reading: &Reading| {
            let table = reading.rules.table(family.name(), table)?;
            let chain = table.chain(chain)?;
            Some((table.handle, chain.handle, chain.base.as_ref()?.hook?))
        };
        let mut possible = readings.clone().filter(|reading| reading.may_be_of(time));
        possible.find_map(of).or_else(|| readings.find_map(of))
    }

    /// Whether rules are being read.
    pub fn is_reading(&self) -> bool {
        self.reading.is_some()
    }

    /// Begins to read, if something is to be read and nothing is being read.
    pub fn read_on(&mut self, now: fn() -> u64) {
        if self.reading.is_some() {
            return;
        }
        let time = now();
        let may = |netns: &&u32| {
            let tried = self.known.get(netns).and_then(|known| known.tried);
            tried.is_none_or(|tried| time.saturating_sub(tried) >= PAUSE)
        };
        let Some(netns) = self.wanted.iter().find(may).copied() else { return };
        self.wanted.remove(&netns);
        let known = self.known.entry(netns).or_default();
        known.tried = Some(time);
        let (tools, ebtables) = (self.tools.clone(), known.ebtables.clone());
        let task = spawn_blocking(move || {
            let began = now();
            let rules = read(netns, &ebtables, &tools);
            Read { netns, began, ended: now(), rules }
        });
        self.reading = Some((netns, task));
    }

    /// The next reading that comes to its end; never without one under way. Dropping the future
    /// loses nothing.
    pub async fn read(&mut self) -> Option<Read> {
        let Some((_, reading)) = &mut self.reading else { return std::future::pending().await };
        let read = reading.await;
        self.reading = None;
        read.inspect_err(|e| log::warn!("reading rules failed: {e}")).ok()
    }

    /// Takes what was read. A namespace whose base chains are others than before.
    pub fn take(&mut self, read: Option<Read>) -> Option<u32> {
        let Read { netns, began, ended, rules } = read?;
        let known = self.known.entry(netns).or_default();
        let rules = match rules {
            Ok(rules) => rules,
            Err(e) => {
                log::info!("{e}");
                return None;
            }
        };
        log::debug!(
            "{} rules of namespace {netns} read in {} ms",
            rules.len(),
            ended.saturating_sub(began) / 1_000_000
        );
        known.failures = if rules.incomplete { known.failures + 1 } else { 0 };
        let from = known.changed.min(began);
        let until = (known.changed > began).then_some(known.changed);
        if let Some(last) = known.readings.back_mut()
            && last.until.is_none()
            && known.followed
            && last.rules.tables == rules.tables
        {
            // The same; but counters of legacy tables may have moved.
            if last.rules.legacy == rules.legacy {
                last.ended = ended;
                return None;
            }
            last.until = Some(began);
        }
        let before = known.readings.back().map(|last| last.rules.bases());
        let moved = before.is_some_and(|before| before != rules.bases());
        known.readings.push_back(Reading { began, ended, from, until, rules });
        if known.readings.len() > MOST_READINGS {
            known.readings.pop_front();
        }
        moved.then_some(netns)
    }

    /// Whether reading the rules of a namespace again could tell more of a packet that died there at
    /// this time: by a decider, or, without one, in one of these base chains.
    pub fn could_tell(&self, netns: u32, time: u64, by: Option<&Decider>, legacy: bool) -> bool {
        let Some(known) = self.known.get(&netns) else { return true };
        let under_way = self.reading.as_ref().is_some_and(|(inode, _)| *inode == netns);
        let read_since = !under_way && known.tried.is_some_and(|tried| tried >= time);
        let Some(last) = known.readings.back() else { return !read_since };
        match by {
            Some(Decider::Nftables { table, rule, .. }) => {
                let is_known = match rule {
                    RuleOrPolicy::Rule(handle) => known.find(*table, *handle, time).is_some(),
                    _ => known.readings.iter().any(|r| r.rules.tables.contains_key(table)),
                };
                (!is_known || known.is_behind(time)) && !read_since
            }
            Some(Decider::Legacy { rule: Some(_), .. }) | None if !legacy => {
                (known.is_behind(time) || !known.followed) && !read_since
            }
            Some(Decider::Conntrack | Decider::Confirm) => false,
            // Its counters.
            _ => last.began < time && !read_since,
        }
    }

    /// By name, who decided at this time.
    pub fn decided(&self, netns: u32, time: u64, at: InHook, by: &Decider) -> Option<Decision> {
        let known = self.known.get(&netns)?;
        match by {
            Decider::Nftables { table, chain, rule } => {
                known.nftables(at, time, (*table, *chain), *rule)
            }
            Decider::Legacy { family, table, rule } => known.legacy(at, *family, table, *rule),
            Decider::Conntrack | Decider::Confirm => None,
        }
    }

    /// The ways in which one of these base chains can have dropped a packet at this time.
    pub fn ways(
        &self,
        netns: u32,
        time: u64,
        packet: &Packet,
        chains: &[BaseChain],
    ) -> Option<Vec<Decision>> {
        let known = self.known.get(&netns)?;
        let possible: Vec<_> = known.readings.iter().filter(|r| r.may_be_of(time)).collect();
        // A flood is of few kinds of packets; but counters say something of each.
        let legacy = chains.iter().any(|chain| chain.backend != "nftables");
        let key = Asked {
            netns,
            readings: possible.iter().map(|reading| reading.began).collect(),
            packet: packet.clone(),
            chains: chains.iter().map(|chain| (chain.table.clone(), chain.chain.clone())).collect(),
        };
        if !legacy && let Some(answer) = self.answers.borrow().get(&key) {
            return answer.clone();
        }
        let answer = known.ways(&possible, time, packet, chains);
        let mut answers = self.answers.borrow_mut();
        if answers.len() >= MOST_ANSWERS {
            answers.clear();
        }
        if !legacy {
            answers.insert(key, answer.clone());
        }
        answer
    }

    /// The base chains that frames of a bridge meet, and those of a device, in a namespace; where
    /// nobody observes the hooks of IP there, these too.
    pub fn unobserved(&self, place: Place, device: Option<&str>, ip: bool) -> Vec<BaseChain> {
        let Some(last) = self.known.get(&place.netns).and_then(|known| known.readings.back())
        else {
            return Vec::new();
        };
        let meets = |table: &Table, base: &Base| match table.family {
            Family::Bridge | Family::Arp => true,
            _ if !base.devices.is_empty() => {
                device.is_some_and(|device| base.devices.iter().any(|d| d == device))
            }
            _ => ip,
        };
        let tables = last.rules.tables.values();
        tables
            .flat_map(|table| {
                let bases = table.chains.iter().filter_map(move |chain| {
                    let base = chain.base.as_ref()?;
                    meets(table, base).then(|| base_chain(table, &chain.name, Some(base)))
                });
                bases.collect::<Vec<_>>()
            })
            .collect()
    }
}

fn read(netns: u32, ebtables: &BTreeSet<String>, tools: &Tools) -> Result<Ruleset, host::Error> {
    let netns = Netns::by_inode(netns)?;
    let mut rules = Ruleset::read(&netns, tools)?;
    for table in ebtables {
        if let Err(e) = rules.add_ebtables(&netns, table, tools) {
            log::info!("{e}");
        }
    }
    Ok(rules)
}

impl Known {
    /// Whether rules have changed that a packet at this time may have met, and were not read since; or
    /// could not be listed, which is tried again.
    fn is_behind(&self, time: u64) -> bool {
        self.readings.back().is_none_or(|last| {
            let changed = self.changed > last.began
                && last.until.is_some_and(|until| time.saturating_add(NOTICED) > until);
            changed || (1..MOST_FAILURES).contains(&self.failures)
        })
    }

    /// A rule as it may have been at that time. Its text is left out where it may have been another:
    /// a rule that is replaced leaves its handle to the next.
    fn find(&self, table: u64, rule: u64, time: u64) -> Option<Found<'_>> {
        let mut found: Option<Found<'_>> = None;
        let possible = self.readings.iter().rev().filter(|reading| reading.may_be_of(time));
        for now in possible.filter_map(|reading| Found::of(reading, table, rule)) {
            match &mut found {
                None => found = Some(now),
                Some(found) if found.rule.text != now.rule.text => found.is_certain = false,
                Some(_) => {}
            }
        }
        // One that came and went between two readings of its time is still itself.
        let mut all = self.readings.iter().rev();
        found.or_else(|| all.find_map(|reading| Found::of(reading, table, rule)))
    }

    fn nftables(
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
    fn ways(
        &self,
        readings: &[&Reading],
        time: u64,
        packet: &Packet,
        chains: &[BaseChain],
    ) -> Option<Vec<Decision>> {
        let mut all: Vec<Decision> = Vec::new();
        for reading in readings {
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

    fn legacy(
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
            rules
                .legacy
                .iter()
                .find(|t| t.family.name() == chain.family && t.name == chain.table)?
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
    /// one behind it, if any did.
    fn keep_counted(&self, ways: &mut Vec<Way<'_>>, time: u64, of: &Table) {
        let table = |reading: &'_ Reading| {
            reading.rules.legacy.iter().position(|t| t.family == of.family && t.name == of.name)
        };
        let before = self.readings.iter().rev().find(|reading| reading.ended <= time);
        let after = self.readings.iter().find(|reading| reading.began >= time);
        let (Some(before), Some(after)) = (before, after) else { return };
        let (Some(first), Some(second)) = (table(before), table(after)) else { return };
        let (first, second) = (&before.rules.legacy[first], &after.rules.legacy[second]);
        let of_policy = |table: &Table, name: &str| table.chain(name)?.base.as_ref()?.packets;
        let of_rule = |table: &Table, rule: &Rule| {
            let (_, found) = table.rule(rule.handle)?;
            found.packets.filter(|_| found.text == rule.text)
        };
        let moved = |way: &Way<'_>| match way {
            Way::Policy(chain) => of_policy(first, &chain.name).zip(of_policy(second, &chain.name)),
            Way::Rule(_, rule) => of_rule(first, rule).zip(of_rule(second, rule)),
        };
        let has_moved = |way: &Way<'_>| moved(way).is_none_or(|(first, second)| second > first);
        if ways.iter().any(has_moved) {
            ways.retain(has_moved);
        }
    }
}

impl Reading {
    /// Whether these may have been the rules at that time.
    fn may_be_of(&self, time: u64) -> bool {
        self.from.saturating_sub(NOTICED) <= time && self.until.is_none_or(|until| time <= until)
    }
}

/// A rule, and where it stands.
struct Found<'a> {
    table: &'a Table,
    within: &'a Chain,
    rule: &'a Rule,
    is_certain: bool,
}

impl<'a> Found<'a> {
    fn of(reading: &'a Reading, table: u64, rule: u64) -> Option<Self> {
        let table = reading.rules.tables.get(&table)?;
        let (within, rule) = table.rule(rule)?;
        Some(Self { table, within, rule, is_certain: true })
    }
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
fn base_chain(table: &Table, name: &str, base: Option<&Base>) -> BaseChain {
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
pub fn legacy_backend(family: Family) -> &'static str {
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::host::ruleset::{End, Test};

    const S: u64 = 1_000_000_000;

    fn rule(handle: u64, text: &str, tests: Vec<Test>, end: End, packets: u64) -> Rule {
        Rule { handle, text: Some(text.into()), tests, end, packets: Some(packets) }
    }

    fn base(policy: Policy) -> Base {
        Base {
            kind: "filter".into(),
            hook: Some(Hook::Forward),
            priority: 0,
            policy,
            packets: Some(0),
            devices: Vec::new(),
        }
    }

    fn table(family: Family, name: &str, handle: u64, rules: Vec<Rule>) -> Table {
        let forward =
            Chain { name: "FORWARD".into(), handle: 1, base: Some(base(Policy::Accept)), rules };
        let (chains, maps) = (vec![forward], BTreeMap::new());
        Table { family, name: name.into(), handle, chains, maps, read: true }
    }

    fn nftables(text: &str) -> Ruleset {
        let rules = vec![rule(5, text, Vec::new(), End::Drop, 0)];
        let table = table(Family::Inet, "t", 7, rules);
        Ruleset { tables: BTreeMap::from([(7, table)]), ..Ruleset::default() }
    }

    fn read(rules: &mut Rules, at: u64, what: Ruleset) {
        rules.known.entry(1).or_default().tried = Some(at);
        rules.take(Some(Read { netns: 1, began: at, ended: at + S / 10, rules: Ok(what) }));
    }

    fn forward() -> InHook {
        InHook { hook: Hook::Forward, family: HookFamily::Ipv4, passed: 0 }
    }

    fn text_at(rules: &Rules, time: u64) -> Option<String> {
        let rule = RuleOrPolicy::Rule(5);
        let by = Decider::Nftables { table: 7, chain: 1, rule };
        rules.decided(1, time, forward(), &by).unwrap().text
    }

    fn suspect(backend: &str) -> BaseChain {
        BaseChain {
            backend: backend.into(),
            family: if backend == "nftables" { "inet" } else { "ip" }.into(),
            table: if backend == "nftables" { "t" } else { "filter" }.into(),
            chain: "FORWARD".into(),
            hook: "forward".into(),
            priority: Some(0),
            policy_drops: None,
        }
    }

    #[test]
    fn a_replaced_rule_has_its_text_though_the_handle_stays() {
        let mut rules = Rules::new(Tools::default());
        rules.follow([1].into_iter());
        read(&mut rules, S, nftables("first"));
        rules.changed(1, 5 * S, 5 * S);
        assert_eq!(text_at(&rules, 3 * S).as_deref(), Some("first"));
        let by = Decider::Nftables { table: 7, chain: 1, rule: RuleOrPolicy::Rule(5) };
        assert!(rules.could_tell(1, 6 * S, Some(&by), false), "it has changed");
        assert!(!rules.could_tell(1, 3 * S, Some(&by), false));
        read(&mut rules, 7 * S, nftables("second"));
        assert!(!rules.could_tell(1, 6 * S, Some(&by), false));
        assert_eq!(text_at(&rules, 3 * S).as_deref(), Some("first"));
        assert_eq!(text_at(&rules, 6 * S).as_deref(), Some("second"));
        // Whether it was before or behind the change cannot be told.
        assert_eq!(text_at(&rules, 5 * S - NOTICED / 2), None);
        let ways = |time| rules.ways(1, time, &Packet::default(), &[suspect("nftables")]).unwrap();
        assert_eq!(ways(3 * S)[0].text.as_deref(), Some("first"));
        assert_eq!(ways(6 * S)[0].text.as_deref(), Some("second"));
        assert_eq!(ways(5 * S - NOTICED / 2).len(), 2);
    }

    #[test]
    fn a_rule_that_is_gone_keeps_its_text() {
        let mut rules = Rules::new(Tools::default());
        rules.follow([1].into_iter());
        read(&mut rules, S, nftables("gone"));
        rules.changed(1, 2 * S, 2 * S);
        read(&mut rules, 3 * S, Ruleset::default());
        assert_eq!(text_at(&rules, S + S / 2).as_deref(), Some("gone"));
    }

    #[test]
    fn a_table_that_is_loaded_again_had_other_handles_before() {
        let mut rules = Rules::new(Tools::default());
        read(&mut rules, 10 * S, nftables("x"));
        rules.changed(1, 20 * S, 20 * S);
        let again = table(Family::Inet, "t", 8, Vec::new());
        read(
            &mut rules,
            21 * S,
            Ruleset { tables: BTreeMap::from([(8, again)]), ..Ruleset::default() },
        );
        let base = |time, name| rules.base(1, time, Family::Inet, ("t", name));
        assert_eq!(base(15 * S, "FORWARD"), Some((7, 1, Hook::Forward)));
        assert_eq!(base(25 * S, "FORWARD"), Some((8, 1, Hook::Forward)));
        assert_eq!(base(25 * S, "other"), None);
    }

    #[test]
    fn what_is_not_known_is_asked_for_once_and_not_again_for_the_same_packet() {
        let mut rules = Rules::new(Tools::default());
        let by = Decider::Nftables { table: 7, chain: 1, rule: RuleOrPolicy::Rule(9) };
        assert!(rules.could_tell(1, S, Some(&by), false));
        rules.follow([1].into_iter());
        read(&mut rules, S, nftables("first"));
        assert!(rules.could_tell(1, 2 * S, Some(&by), false), "it may have been added since");
        assert!(!rules.could_tell(1, S / 2, Some(&by), false), "it was read since");
        let unknown = rules.decided(1, 2 * S, forward(), &by).unwrap();
        assert_eq!((unknown.handle, unknown.text), (Some(9), None));
        let elsewhere = Decider::Nftables { table: 8, chain: 1, rule: RuleOrPolicy::Policy };
        assert_eq!(rules.decided(1, S, forward(), &elsewhere), None);
        assert!(!rules.could_tell(1, 9 * S, Some(&Decider::Conntrack), false));
    }

    #[test]
    fn what_could_not_be_listed_is_tried_again_a_few_times() {
        let mut rules = Rules::new(Tools::default());
        rules.follow([1].into_iter());
        for second in 1..=3 {
            read(&mut rules, second * S, Ruleset { incomplete: true, ..nftables("x") });
            let again = rules.could_tell(1, second * S + 1, None, false);
            assert_eq!(again, second < 3, "{second}");
        }
    }

    #[test]
    fn of_legacy_rules_the_one_that_counted_decided() {
        let with = |first, second| {
            let tests = || vec![Test::Unclear];
            let all = vec![
                rule(1, "-A FORWARD -m a -j DROP", tests(), End::Drop, first),
                rule(2, "-A FORWARD -m b -j DROP", tests(), End::Drop, second),
            ];
            let legacy = vec![table(Family::Ip, "filter", 0, all)];
            Ruleset { legacy, ..Ruleset::default() }
        };
        let mut rules = Rules::new(Tools::default());
        rules.follow([1].into_iter());
        read(&mut rules, S, with(3, 3));
        let ways = |rules: &Rules| {
            let ways = rules.ways(1, 2 * S, &Packet::default(), &[suspect("iptables-legacy")]);
            ways.unwrap().iter().map(|way| way.number.unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(ways(&rules), [1, 2]);
        assert!(rules.could_tell(1, 2 * S, None, true));
        read(&mut rules, 3 * S, with(3, 4));
        assert!(!rules.could_tell(1, 2 * S, None, true));
        assert_eq!(ways(&rules), [2]);
        let by =
            Decider::Legacy { family: HookFamily::Ipv4, table: "filter".into(), rule: Some(2) };
        let decided = rules.decided(1, 2 * S, forward(), &by).unwrap();
        assert_eq!((decided.number, decided.handle, decided.inferred), (Some(2), None, false));
    }

    #[test]
    fn the_base_chain_is_found_where_the_kernel_does_not_tell_it() {
        let mut all = nftables("x");
        let table = all.tables.get_mut(&7).unwrap();
        let jump = End::Jump("sub".into());
        table.chains[0].rules = vec![rule(6, "jump sub", Vec::new(), jump, 0)];
        let rules = vec![rule(5, "drop", Vec::new(), End::Drop, 0)];
        table.chains.push(Chain { name: "sub".into(), handle: 2, base: None, rules });
        let mut rules = Rules::new(Tools::default());
        read(&mut rules, S, all);
        let by = Decider::Nftables { table: 7, chain: 0, rule: RuleOrPolicy::Rule(5) };
        let decided = rules.decided(1, 2 * S, forward(), &by).unwrap();
        assert_eq!(
            (decided.chain.chain.as_str(), decided.within.as_deref()),
            ("FORWARD", Some("sub"))
        );
        assert_eq!(decided.chain.priority, Some(0));
        let by = Decider::Nftables { table: 7, chain: 0, rule: RuleOrPolicy::Policy };
        let decided = rules.decided(1, 2 * S, forward(), &by).unwrap();
        assert_eq!((decided.policy, decided.chain.chain.as_str()), (Some(true), "FORWARD"));
    }
}
