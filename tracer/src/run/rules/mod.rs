//! What is known of the rules of namespaces, now and when a packet was dropped.
//!
//! The rules of a namespace are read in a thread of their own, when it is first asked for them and
//! when the kernel announces a change, at most once a second. Each reading stands for the time from
//! the change before it to the change behind it, so that a packet is explained by the rules that it
//! met. A handle is not enough for that: a rule that is replaced (`nft replace rule`) leaves its handle
//! to the next. What the kernel tells at once (names and handles) is known first, what programs tell of
//! the rules when they have.

mod decide;
#[cfg(test)]
mod tests;

use std::{
    cell::RefCell,
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use decide::base_chain;
use tokio::{sync::mpsc, task::spawn_blocking};

use crate::{
    event::{Decider, Hook, InHook, Place, RuleOrPolicy},
    explain::{BaseChain, Decision},
    host::{
        self,
        chains::Family,
        netns::Netns,
        ruleset::{Base, Chain, Redirection, Rule, Ruleset, Table, Tools, ways::Packet},
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
    /// A reading under way, of which, and what comes of it.
    reading: Option<(u32, mpsc::UnboundedReceiver<Read>)>,
    /// Answers of [`Rules::ways`].
    answers: RefCell<HashMap<Asked, Option<Vec<Decision>>>>,
}

/// What came of reading.
pub struct Read {
    netns: u32,
    began: u64,
    ended: u64,
    /// Names and handles only; the rest follows.
    brief: bool,
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
    /// What the rules say is still to come.
    brief: bool,
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
        // Without a change, the names are those that are known.
        let names = known.readings.back().is_none_or(|last| last.until.is_some());
        let (tools, ebtables) = (self.tools.clone(), known.ebtables.clone());
        let (results, reading) = mpsc::unbounded_channel();
        spawn_blocking(move || {
            let tell = |brief, read: &dyn Fn() -> Result<Ruleset, host::Error>| {
                let began = now();
                let rules = read();
                // Nobody hears it when the trace is over.
                let _ = results.send(Read { netns, began, ended: now(), brief, rules });
            };
            if names {
                tell(true, &|| Ruleset::read_names(&Netns::by_inode(netns)?));
            }
            tell(false, &|| read(netns, &ebtables, &tools));
        });
        self.reading = Some((netns, reading));
    }

    /// The next reading that comes to its end; never without one under way. Dropping the future
    /// loses nothing.
    pub async fn read(&mut self) -> Option<Read> {
        let Some((_, reading)) = &mut self.reading else { return std::future::pending().await };
        let read = reading.recv().await;
        if read.as_ref().is_none_or(|read| !read.brief) {
            self.reading = None;
        }
        read
    }

    /// Takes what was read. A namespace whose base chains are others than before.
    pub fn take(&mut self, read: Option<Read>) -> Option<u32> {
        let Read { netns, began, ended, brief, rules } = read?;
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
        let before = known.readings.back().map(|last| last.rules.bases());
        let moved = before.is_some_and(|before| before != rules.bases());
        let mut from = known.changed.min(began);
        if !brief {
            known.failures = if rules.incomplete { known.failures + 1 } else { 0 };
            // The same rules, of which more is known now.
            if let Some(names) =
                known.readings.pop_back_if(|last| last.brief && last.until.is_none())
            {
                from = names.from;
            }
        }
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
        known.readings.push_back(Reading { began, ended, from, until, brief, rules });
        if known.readings.len() > MOST_READINGS {
            known.readings.pop_front();
        }
        moved.then_some(netns)
    }

    /// What the rules of followed namespaces publish for others, by namespace, as it was last read.
    pub fn redirections(&self) -> impl Iterator<Item = (u32, Redirection)> + '_ {
        self.known.iter().filter(|(_, known)| known.followed).flat_map(|(netns, known)| {
            let last = known.readings.iter().rev().find(|reading| !reading.brief);
            let all = last.into_iter().flat_map(|reading| reading.rules.redirections());
            all.map(|redirection| (*netns, redirection))
        })
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
            changed || last.brief || (1..MOST_FAILURES).contains(&self.failures)
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
