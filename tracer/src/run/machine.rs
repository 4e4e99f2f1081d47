//! This machine as evidence and names: what `host` knows and where observers stand, behind the
//! questions that `explain` and `output` ask.

use std::{
    borrow::Cow,
    cell::RefCell,
    collections::HashMap,
    net::IpAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    event::{Decider, Family, HookFamily, InHook, Place, RuleOrPolicy, Verdict},
    explain::{
        BaseChain, Bracket, ContainerName, Decision, DeviceName, Died, Evidence, KernelNames,
        Names, NetnsName,
    },
    host::{
        chains::{self, Chains, Occupant, Packets, Policy},
        containers::{Containers, Process},
        drop_reasons::DropReasons,
        netns::Netns,
        route_tables::RouteTables,
        routing_rule::RoutingRule,
        ruleset::Tools,
        snapshot::Snapshot,
        symbols::{Function, Symbols},
        sysctl,
    },
    journey::{Decided, HopDetail, Journey, Outcome},
    probe::brackets::{self, Brackets, Interval},
};

use super::{nft_trace::Drops, rules::Rules};

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
    /// What people call containers, by their whole names.
    labels: HashMap<String, String>,
    /// When the routing rules of a namespace were seen to have changed.
    rerouted: HashMap<u32, u64>,
    /// Where observers stand.
    pub brackets: Brackets,
    /// The rules of the namespaces on the path, and of those where a packet was dropped.
    pub rules: Rules,
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
            labels: HashMap::new(),
            rerouted: HashMap::new(),
            brackets: Brackets::default(),
            rules: Rules::new(Tools::find()),
            traced: RefCell::default(),
            kernel,
            chains: Answers::default(),
            sysctls: Answers::default(),
        };
        machine.look_like(snapshot, 0);
        machine
    }

    /// Namespaces and links.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// These containers run now.
    pub fn know(&mut self, containers: Containers) {
        self.snapshot.know(containers);
        self.labels = labels(&self.snapshot);
    }

    /// The machine has changed; it was seen so at this time of CLOCK_MONOTONIC.
    pub fn look_like(&mut self, mut snapshot: Snapshot, now: u64) {
        snapshot.follow(&self.snapshot);
        self.labels = labels(&snapshot);
        for (inode, namespace) in &snapshot.namespaces {
            let before = self.snapshot.namespaces.get(inode);
            if before.is_some_and(|before| before.rules != namespace.rules) {
                self.rerouted.insert(*inode, now);
            }
        }
        self.rerouted.retain(|inode, _| snapshot.namespaces.contains_key(inode));
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

    /// Whether more could be told of a journey's end if rules were read again; sees to it that they
    /// are.
    pub fn wants_rules(&mut self, journey: &Journey) -> bool {
        let Outcome::Dropped { hop, reason, in_hook, .. } = journey.outcome else { return false };
        let Some(hop) = journey.hops.get(hop) else { return false };
        let by = match &hop.detail {
            HopDetail::Netfilter { decided: Some(decided), .. } => Some(&*decided.by),
            _ => None,
        };
        let is_netfilter = reason
            .and_then(|number| self.reason(number))
            .is_some_and(|name| name.ends_with("NETFILTER_DROP"));
        if by.is_none() && in_hook.is_none() && !is_netfilter {
            return false;
        }
        let netns = hop.place.netns;
        if let Some(Decider::Legacy { family: HookFamily::Bridge, table, .. }) = by {
            self.rules.use_ebtables(netns, table);
        }
        let legacy = match (by, in_hook) {
            (Some(Decider::Legacy { rule, .. }), _) => rule.is_none(),
            (None, Some(at)) => self.bracket(netns, at).is_some_and(|bracket| {
                bracket.chains.iter().any(|chain| chain.backend != "nftables")
            }),
            _ => false,
        };
        let time = journey.start.saturating_add(hop.at);
        let wants = self.rules.could_tell(netns, time, by, legacy);
        if wants {
            self.rules.want(netns);
        }
        wants
    }

    /// The chains and legacy tables of a hook between two priorities, in order.
    fn occupants(&self, netns: u32, at: InHook, after: i32, before: i32) -> Option<Vec<BaseChain>> {
        let packets = match at.family {
            HookFamily::Ipv4 => Packets::Ipv4,
            HookFamily::Ipv6 => Packets::Ipv6,
            HookFamily::Bridge => Packets::Bridged,
            HookFamily::Arp | HookFamily::Netdev => return None,
        };
        let chains = self.chains(netns)?;
        let between = chains.between(at.hook, packets, after, before);
        let hook = at.hook.name();
        let chains = between.iter().filter_map(|entry| match &entry.what {
            Occupant::Chain(chain) => Some(BaseChain {
                backend: "nftables".into(),
                family: chain.family.name().into(),
                table: chain.table.clone(),
                chain: chain.name.clone(),
                hook: hook.into(),
                priority: Some(entry.priority),
                policy_drops: Some(chain.policy == Policy::Drop),
            }),
            Occupant::Legacy { table } => Some(BaseChain {
                backend: "iptables-legacy".into(),
                family: if packets == Packets::Ipv6 { "ip6" } else { "ip" }.into(),
                table: (*table).into(),
                chain: hook.to_uppercase(),
                hook: hook.into(),
                priority: Some(entry.priority),
                policy_drops: None,
            }),
            Occupant::Kernel(_) => None,
        });
        Some(chains.collect())
    }

    fn label(&self, container: &str) -> String {
        self.labels.get(container).map_or(container, String::as_str).to_owned()
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
        let names = self.snapshot.names(Place { netns: inode, ifindex: 0 });
        let unnamed = names.process.filter(|_| names.netns.or(names.container).is_none());
        NetnsName {
            name: names.netns.map(str::to_owned),
            container: names.container.map(str::to_owned),
            process: unnamed.cloned(),
            label: names
                .container
                .map(|full| self.label(full))
                .or_else(|| names.netns.map(str::to_owned))
                .or_else(|| unnamed.map(|Process { pid, comm }| format!("{comm}[{pid}]"))),
            own: inode == self.snapshot.own,
        }
    }

    fn device(&self, place: Place) -> DeviceName {
        let names = self.snapshot.names(place);
        DeviceName {
            name: names.link.map(str::to_owned),
            bridge: names.bridge.map(str::to_owned),
            leads_to: names
                .leads_to
                .map(|full| ContainerName { full: full.to_owned(), label: self.label(full) }),
        }
    }

    fn owner(&self, address: IpAddr) -> Option<String> {
        let inode = (*self.owners.get(&address)?)?;
        self.netns(inode).label
    }

    fn routing_rules(&self, netns: u32, time: u64) -> &[RoutingRule] {
        if self.rerouted.get(&netns).is_some_and(|since| time < *since) {
            return &[];
        }
        self.snapshot.namespaces.get(&netns).map_or(&[], |namespace| &namespace.rules)
    }

    fn route_tables(&self) -> Cow<'_, RouteTables> {
        Cow::Borrowed(&self.snapshot.tables)
    }

    fn is_in_vrf(&self, place: Place) -> bool {
        self.snapshot.is_in_vrf(place)
    }
}

impl Evidence for Machine {
    fn mtu(&self, place: Place) -> Option<u32> {
        self.snapshot.link(place).map(|link| link.mtu)
    }

    fn bracket(&self, netns: u32, at: InHook) -> Option<Bracket> {
        let interval = self.brackets.interval(netns, at)?;
        let chains = self.occupants(netns, at, interval.after, interval.before)?;
        let Interval { after, before } = interval;
        Some(Bracket {
            after: (after != brackets::FIRST).then_some(after),
            before: (before != brackets::LAST).then_some(before),
            chains,
        })
    }

    fn decided(&self, died: &Died<'_>, at: InHook, by: &Decider) -> Option<Decision> {
        self.rules.decided(died.place.netns, died.time, at, by)
    }

    fn chains_at(&self, netns: u32, at: InHook) -> Vec<BaseChain> {
        self.occupants(netns, at, i32::MIN, i32::MAX).unwrap_or_default()
    }

    fn ways(&self, died: &Died<'_>, chains: &[BaseChain]) -> Option<Vec<Decision>> {
        self.rules.ways(died.place.netns, died.time, died.packet, chains)
    }

    fn unobserved(&self, place: Place) -> Vec<BaseChain> {
        let ip = !self.brackets.stand_in(place.netns);
        self.rules.unobserved(place, self.device(place).name.as_deref(), ip)
    }

    fn traced(
        &self,
        netns: u32,
        died_in: Option<InHook>,
        journey: &Journey,
    ) -> Option<(InHook, Decided)> {
        let told = self.traced.borrow_mut().take(netns, journey)?;
        let time = journey.start.saturating_add(journey.duration);
        let names = (told.table.as_str(), told.base.as_str());
        let (table, chain, hook) = self.rules.base(netns, time, told.family, names)?;
        let family = match (told.family, journey.headers.family) {
            (chains::Family::Bridge, _) => HookFamily::Bridge,
            (chains::Family::Netdev, _) => HookFamily::Netdev,
            (_, Family::Ipv6) => HookFamily::Ipv6,
            _ => HookFamily::Ipv4,
        };
        let at = died_in.unwrap_or(InHook { hook, family, passed: 0 });
        if hook != at.hook {
            return None;
        }
        let rule = told.rule.map_or(RuleOrPolicy::Policy, RuleOrPolicy::Rule);
        let by = Box::new(Decider::Nftables { table, chain, rule });
        Some((at, Decided { by, verdict: Verdict::Drop }))
    }

    fn sysctl(&self, netns: u32, name: &str) -> Option<String> {
        self.sysctls.get((netns, name.to_owned()), || {
            let read = Netns::by_inode(netns).and_then(|netns| sysctl::read(&netns, name));
            read.inspect_err(|e| log::info!("{e}")).ok()
        })
    }
}

/// What to call each container: its name, where nothing else is called so.
fn labels(snapshot: &Snapshot) -> HashMap<String, String> {
    let short = |name: &str| name.split_once(':').map_or(name, |(_, short)| short).to_owned();
    let mut uses: HashMap<String, u32> = HashMap::new();
    let names = snapshot.all_names();
    for name in &names {
        *uses.entry(short(name)).or_default() += 1;
    }
    let alone = names.into_iter().filter(|name| uses.get(&short(name)) == Some(&1));
    alone.map(|name| (name.to_owned(), short(name))).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_called_by_its_runtime_only_where_its_name_is_not_enough() {
        let names = serde_json::json!({"own": 1, "namespaces": {
            "1": {"name": "host", "links": {}},
            "2": {"container": "lxd:web1", "name": "netns-2", "links": {}},
            "3": {"container": "docker:web1", "links": {}},
            "4": {"container": "docker:db", "links": {}},
            "5": {"container": "lxd:p2/db", "links": {}},
            "6": {"container": "podman:host", "links": {}},
        }});
        let labels = labels(&serde_json::from_value(names).unwrap());
        let label = |name: &str| labels.get(name).map_or(name, String::as_str).to_owned();
        for (name, expected) in [
            ("lxd:web1", "lxd:web1"),
            ("docker:web1", "docker:web1"),
            ("docker:db", "db"),
            ("lxd:p2/db", "p2/db"),
            ("podman:host", "podman:host"),
        ] {
            assert_eq!(label(name), expected);
        }
    }
}
