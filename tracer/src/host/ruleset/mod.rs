//! The rules of one network namespace: tables, chains and rules of nftables with their handles, and
//! of legacy iptables, ip6tables and ebtables with their numbers; what each rule says, and how it
//! ends.
//!
//! Tables, chains and the handles of rules come from the kernel ([`dump`]). What a rule says is told
//! by the programs that print rules, run inside the namespace and given a limited time ([`tool`]):
//! `nft -a` for its text ([`text`]), `nft -j` for what it compares and where it leads
//! ([`structure`]), `iptables-legacy-save` for legacy tables ([`legacy`]). Without them the names of
//! tables and chains are known all the same. [`ways`] tells which rules can drop a packet.

mod dump;
mod legacy;
mod redirect;
mod structure;
#[cfg(test)]
mod tests;
mod text;
pub mod tool;
pub mod ways;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    sync::Arc,
};

use super::{
    Error,
    chains::{Family, Policy, priority_of},
    netns::Netns,
};
use crate::event::{Hook, HookFamily, InHook};
pub use redirect::{Redirection, Target};
pub use tool::Tools;

/// The rules of one namespace.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ruleset {
    /// Tables of nftables by their handle, which is unique in the namespace.
    pub tables: BTreeMap<u64, Table>,
    /// Legacy tables that are in use; they have no handle.
    pub legacy: Vec<Table>,
    /// A program that lists rules is there and did not.
    pub incomplete: bool,
}

/// A table.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// Its family.
    pub family: Family,
    /// Its name.
    pub name: String,
    /// Its handle; 0 for a legacy table.
    pub handle: u64,
    /// Its chains.
    pub chains: Vec<Chain>,
    /// What its maps of verdicts lead to, by name.
    pub maps: BTreeMap<String, Vec<End>>,
    /// Whether what its rules say is known.
    pub read: bool,
}

/// A chain.
#[derive(Clone, Debug, PartialEq)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// Its handle, unique in the table; 0 for a legacy chain.
    pub handle: u64,
    /// Where it sits, if it is a base chain.
    pub base: Option<Base>,
    /// Its rules, in order.
    pub rules: Vec<Rule>,
}

/// Where a base chain sits, and what becomes of packets that no rule decided about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// `filter`, `nat` or `route`.
    pub kind: String,
    /// Its hook; `None` for one that is not known here.
    pub hook: Option<Hook>,
    /// Its declared priority.
    pub priority: i32,
    /// Its policy.
    pub policy: Policy,
    /// Packets that met the policy; legacy tables count them.
    pub packets: Option<u64>,
    /// The devices of a chain of ingress or egress.
    pub devices: Vec<String>,
}

/// A rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Its handle, unique in the table; for a legacy rule, its number in the table, from 1.
    pub handle: u64,
    /// As `nft` or `iptables-save` prints it.
    pub text: Option<Arc<str>>,
    /// What must hold of a packet for the rule to come to its end.
    pub tests: Vec<Test>,
    /// What it does then.
    pub end: End,
    /// Packets that came to its end; legacy tables count them.
    pub packets: Option<u64>,
}

/// What a rule leads to.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum End {
    /// Nothing: the next rule.
    Continue,
    /// This base chain accepts.
    Accept,
    /// The packet is dropped.
    Drop,
    /// It is dropped, and its sender told.
    Reject,
    /// It is handed to a program; dropped where there is none, if not `bypass`.
    Queue {
        /// Accepted where there is no program.
        bypass: bool,
    },
    /// Back to the chain that jumped here, or to the policy.
    Return,
    /// On with a chain, and back here from its end.
    Jump(String),
    /// On with a chain.
    Goto(String),
    /// One of these, by a comparison.
    OneOf(Vec<(Test, End)>),
    /// One of a map's, by name.
    Map(String),
    /// It cannot be told: it may be any of these.
    #[default]
    Unknown,
}

/// A comparison.
#[derive(Clone, Debug, PartialEq)]
pub enum Test {
    /// The version of IP.
    Version(u8),
    /// A field of the packet is, or is not, one of these.
    Field {
        /// Which.
        field: Field,
        /// Values.
        values: Values,
        /// It is none of them.
        negated: bool,
    },
    /// All of these.
    All(Vec<Test>),
    /// Something that is not understood here.
    Unclear,
}

/// A field that can be compared here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// IP protocol number.
    Proto,
    /// Source address.
    Src,
    /// Destination address.
    Dst,
    /// Source port.
    Sport,
    /// Destination port.
    Dport,
    /// Name of the interface that it came in by.
    Iif,
    /// Name of the interface that it is to leave by.
    Oif,
}

/// Values to compare with.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Ranges of numbers.
    Numbers(Vec<(u64, u64)>),
    /// Ranges of addresses.
    Addresses(Vec<(IpAddr, IpAddr)>),
    /// Names; one that ends in `*` stands for all that begin so.
    Names(Vec<String>),
}

impl Ruleset {
    /// Reads the rules of a namespace. What a program does not tell, in time or at all, is left out
    /// and logged.
    ///
    /// # Errors
    /// When the namespace is gone, may not be entered, or the kernel does not answer.
    pub fn read(netns: &Netns, tools: &Tools) -> Result<Self, Error> {
        let label = netns.label();
        let read = || {
            let mut rules = Self { tables: dump::tables()?, ..Self::default() };
            if !rules.tables.is_empty() {
                rules.say(tools, &label);
            }
            rules.legacy = legacy::tables(tools, &label)?;
            Ok(rules)
        };
        netns.enter(read)?.map_err(|e| Error::new(format!("read the rules of {label}"), e))
    }

    /// What the kernel tells at once: tables, chains and handles of nftables, and no rule's text.
    ///
    /// # Errors
    /// As of [`Ruleset::read`].
    pub fn read_names(netns: &Netns) -> Result<Self, Error> {
        let read = || Ok(Self { tables: dump::tables()?, ..Self::default() });
        let what = || format!("read the rules of {}", netns.label());
        netns.enter(read)?.map_err(|e: io::Error| Error::new(what(), e))
    }

    /// Fills in what nft tells. The rules may change between the kernel's answer and nft's: what
    /// does not belong to a rule that is known is left out.
    fn say(&mut self, tools: &Tools, label: &str) {
        let Some(nft) = &tools.nft else { return };
        // -s: without counters, which would make a text another one with every packet; -t: without
        // the elements of sets, of which there can be a million.
        match nft.run(&["-s", "-t", "-a", "list", "ruleset"]) {
            Ok(listing) => text::fill(self, &listing),
            Err(e) => {
                self.incomplete = true;
                log::info!("the text of the rules of {label} is not known: {e}");
                // It would hang a second time.
                if e.kind() == io::ErrorKind::TimedOut {
                    return;
                }
            }
        }
        match nft.run(&["-j", "list", "ruleset"]).and_then(|json| structure::fill(self, &json)) {
            Ok(()) => {}
            Err(e) => {
                self.incomplete = true;
                log::info!("what the rules of {label} compare is not known: {e}");
            }
        }
    }

    /// Adds a table of ebtables, of which the kernel does not tell whether it is in use: only one that
    /// dropped a packet is asked for.
    ///
    /// # Errors
    /// When the namespace is gone, or there is no program to ask.
    pub fn add_ebtables(&mut self, netns: &Netns, table: &str, tools: &Tools) -> Result<(), Error> {
        let what = || format!("read the rules of ebtables in {}", netns.label());
        let Some(tool) = &tools.ebtables else {
            return Err(Error::other(what(), io::ErrorKind::NotFound, "no ebtables is installed"));
        };
        let read = netns.enter(|| legacy::bridge_table(tool, table))?;
        self.legacy.push(read.map_err(|e| Error::new(what(), e))?);
        Ok(())
    }

    /// The table of nftables of this family and name.
    pub fn table(&self, family: &str, name: &str) -> Option<&Table> {
        self.tables.values().find(|t| t.family.name() == family && t.name == name)
    }

    /// The same, to change.
    fn table_mut(&mut self, family: &str, name: &str) -> Option<&mut Table> {
        self.tables.values_mut().find(|t| t.family.name() == family && t.name == name)
    }

    /// Where base chains sit: by table, chain, hook and priority.
    pub fn bases(&self) -> BTreeSet<(u64, u64, Option<Hook>, i32)> {
        let of = |table: &Table| {
            let handle = table.handle;
            let bases = table.chains.iter().filter_map(move |chain| {
                let base = chain.base.as_ref()?;
                Some((handle, chain.handle, base.hook, base.runs_at()))
            });
            bases.collect::<Vec<_>>()
        };
        self.tables.values().flat_map(of).collect()
    }

    /// A legacy table.
    pub fn legacy(&self, family: Family, name: &str) -> Option<&Table> {
        self.legacy.iter().find(|table| table.family == family && table.name == name)
    }

    /// How many rules there are.
    pub fn len(&self) -> usize {
        let tables = self.tables.values().chain(&self.legacy);
        tables.flat_map(|table| &table.chains).map(|chain| chain.rules.len()).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Base {
    /// The priority at which it really runs.
    pub fn runs_at(&self) -> i32 {
        priority_of(&self.kind, self.hook, self.priority)
    }
}

impl Table {
    /// Its base chains that sit in this hook.
    pub fn at(&self, at: InHook) -> impl Iterator<Item = (&Chain, &Base)> {
        self.chains.iter().filter_map(move |chain| {
            let base = chain.base.as_ref()?;
            let sits = match base.hook {
                // The ingress of a device is netdev's, whatever family a chain there is of.
                Some(Hook::Ingress) => at.family == HookFamily::Netdev,
                _ => self.family.sits_in(at.family),
            };
            (sits && base.hook == Some(at.hook)).then_some((chain, base))
        })
    }

    /// The chain of this name.
    pub fn chain(&self, name: &str) -> Option<&Chain> {
        self.chains.iter().find(|chain| chain.name == name)
    }

    /// The chain of this handle.
    pub fn chain_of(&self, handle: u64) -> Option<&Chain> {
        self.chains.iter().find(|chain| chain.handle == handle)
    }

    /// The rule of this handle, and its chain.
    pub fn rule(&self, handle: u64) -> Option<(&Chain, &Rule)> {
        self.chains.iter().find_map(|chain| {
            let rule = chain.rules.iter().find(|rule| rule.handle == handle)?;
            Some((chain, rule))
        })
    }
}
