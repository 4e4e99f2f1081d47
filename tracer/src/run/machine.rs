//! This machine as evidence and names: what `host` knows and where observers stand, behind the
//! questions that `explain` and `output` ask.

use std::{
    cell::RefCell,
    collections::HashMap,
    net::IpAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    event::{HookFamily, InHook, Place},
    explain::{
        BaseChain, Bracket, DeviceName, Evidence, KernelNames, Names, NetnsName, TracedDrop,
    },
    host::{
        chains::{self, Chains, Occupant, Packets, Policy},
        drop_reasons::DropReasons,
        netns::Netns,
        snapshot::Snapshot,
        symbols::{Function, Symbols},
        sysctl,
    },
    journey::Journey,
    probe::brackets::{self, Brackets, Interval},
};

use super::nft_trace::Drops;

/// How long an answer of the machine is good: a flood of drops asks once, a person who has just
/// changed a rule sees the new one.
const FRESH: Duration = Duration::from_secs(1);

/// Most answers remembered.
const MOST_ANSWERS: usize = 4096;

/// Names that the running kernel gives to numbers.
#[derive(Debug, Default)]
pub struct KernelFacts {
    /// Drop reasons; `None` for a kernel without.
    pub reasons: Option<DropReasons>,
    /// Functions.
    pub symbols: Symbols,
}

impl KernelNames for KernelFacts {
    fn reason(&self, number: u32) -> Option<&str> {
        self.reasons.as_ref()?.name(number)
    }

    fn symbol(&self, address: u64) -> Option<Function<'_>> {
        self.symbols.resolve(address)
    }
}

/// What is known of this machine.
pub struct Machine {
    snapshot: Snapshot,
    /// Which namespace owns an address, by inode; `None` where several do. Empty when not wanted.
    owners: HashMap<IpAddr, Option<u32>>,
    names_addresses: bool,
    /// Where observers stand.
    pub brackets: Brackets,
    /// What rule tracing told, where it is on. To be asked is to use it up.
    pub traced: RefCell<Drops>,
    kernel: Arc<KernelFacts>,
    chains: Answers<u32, Option<Rc<Chains>>>,
    sysctls: Answers<(u32, String), Option<String>>,
}

impl Machine {
    /// A machine that looks like `snapshot`. Whether it names the owners of addresses is a matter
    /// of taste.
    pub fn new(snapshot: Snapshot, kernel: Arc<KernelFacts>, names_addresses: bool) -> Self {
        let mut machine = Self {
            snapshot: Snapshot::default(),
            owners: HashMap::new(),
            names_addresses,
            brackets: Brackets::default(),
            traced: RefCell::default(),
            kernel,
            chains: Answers::default(),
            sysctls: Answers::default(),
        };
        machine.look_like(snapshot);
        machine
    }

    /// Namespaces and links.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// The machine has changed.
    pub fn look_like(&mut self, snapshot: Snapshot) {
        self.owners.clear();
        if self.names_addresses {
            for (place, link) in snapshot.links() {
                for net in &link.addresses {
                    self.owners
                        .entry(net.addr())
                        .and_modify(|owner| *owner = owner.filter(|known| *known == place.netns))
                        .or_insert(Some(place.netns));
                }
            }
        }
        self.snapshot = snapshot;
    }

    fn chains(&self, netns: u32) -> Option<Rc<Chains>> {
        self.chains.get(netns, || {
            let read = Netns::by_inode(netns).and_then(|netns| Chains::read(&netns));
            read.inspect_err(|e| log::info!("{e}")).ok().map(Rc::new)
        })
    }
}

impl KernelNames for Machine {
    fn reason(&self, number: u32) -> Option<&str> {
        self.kernel.reason(number)
    }

    fn symbol(&self, address: u64) -> Option<Function<'_>> {
        self.kernel.symbol(address)
    }
}

impl Names for Machine {
    fn netns(&self, inode: u32) -> NetnsName {
        let name = self.snapshot.names(Place { netns: inode, ifindex: 0 }).netns;
        NetnsName {
            name: name.map(str::to_owned),
            container: None,
            own: inode == self.snapshot.own,
        }
    }

    fn device(&self, place: Place) -> DeviceName {
        let names = self.snapshot.names(place);
        DeviceName { name: names.link.map(str::to_owned), bridge: names.bridge.map(str::to_owned) }
    }

    fn owner(&self, address: IpAddr) -> Option<String> {
        let inode = (*self.owners.get(&address)?)?;
        self.netns(inode).name
    }
}

impl Evidence for Machine {
    fn bracket(&self, netns: u32, at: InHook) -> Option<Bracket> {
        let interval = self.brackets.interval(netns, at)?;
        let packets = match at.family {
            HookFamily::Ipv4 => Packets::Ipv4,
            HookFamily::Ipv6 => Packets::Ipv6,
            HookFamily::Bridge => Packets::Bridged,
            HookFamily::Arp | HookFamily::Netdev => return None,
        };
        let chains = self.chains(netns)?;
        let between = chains.between(at.hook, packets, interval.after, interval.before);
        let hook = at.hook.name();
        let chains = between
            .iter()
            .filter_map(|entry| match &entry.what {
                Occupant::Chain(chain) => Some(base_chain(chain, hook, entry.priority)),
                Occupant::Legacy { table } => Some(BaseChain {
                    backend: "iptables-legacy".into(),
                    family: if packets == Packets::Ipv6 { "ip6" } else { "ip" }.into(),
                    table: (*table).into(),
                    chain: hook.to_uppercase(),
                    hook: hook.into(),
                    priority: entry.priority,
                    policy_drops: None,
                }),
                Occupant::Kernel(_) => None,
            })
            .collect();
        let Interval { after, before } = interval;
        Some(Bracket {
            after: (after != brackets::FIRST).then_some(after),
            before: (before != brackets::LAST).then_some(before),
            chains,
        })
    }

    fn traced(&self, netns: u32, hook: Option<InHook>, journey: &Journey) -> Option<TracedDrop> {
        let told = self.traced.borrow_mut().take(netns, journey)?;
        let chains = self.chains(netns)?;
        let base = chains.base.iter().find(|chain| {
            (chain.family, &chain.table, &chain.name) == (told.family, &told.table, &told.base)
        })?;
        if hook.is_some_and(|hook| base.hook != Some(hook.hook)) {
            return None;
        }
        let base = base_chain(base, base.hook?.name(), base.priority);
        Some(TracedDrop { base, rule: told.rule.map(|rule| (rule.chain, rule.handle)) })
    }

    fn sysctl(&self, netns: u32, name: &str) -> Option<String> {
        self.sysctls.get((netns, name.to_owned()), || {
            let read = Netns::by_inode(netns).and_then(|netns| sysctl::read(&netns, name));
            read.inspect_err(|e| log::info!("{e}")).ok()
        })
    }
}

/// A base chain of nftables, as it is shown.
fn base_chain(chain: &chains::BaseChain, hook: &str, priority: i32) -> BaseChain {
    BaseChain {
        backend: "nftables".into(),
        family: chain.family.name().into(),
        table: chain.table.clone(),
        chain: chain.name.clone(),
        hook: hook.into(),
        priority,
        policy_drops: Some(chain.policy == Policy::Drop),
    }
}

/// Answers that are asked for again and again, kept while they are fresh.
struct Answers<K, V>(RefCell<HashMap<K, (Instant, V)>>);

impl<K, V> Default for Answers<K, V> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

impl<K: std::hash::Hash + Eq, V: Clone> Answers<K, V> {
    fn get(&self, key: K, ask: impl FnOnce() -> V) -> V {
        if let Some((when, answer)) = self.0.borrow().get(&key)
            && when.elapsed() < FRESH
        {
            return answer.clone();
        }
        let answer = ask();
        let mut answers = self.0.borrow_mut();
        if answers.len() >= MOST_ANSWERS {
            answers.retain(|_, (when, _)| when.elapsed() < FRESH);
        }
        if answers.len() < MOST_ANSWERS {
            answers.insert(key, (Instant::now(), answer.clone()));
        }
        answer
    }
}
