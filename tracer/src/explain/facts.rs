//! What explaining needs to know of this machine, as traits: whoever knows it implements them.

use std::{borrow::Cow, net::IpAddr};

use crate::{
    event::{Decider, InHook, Place},
    host::{
        containers::Process, route_tables::RouteTables, routing_rule::RoutingRule,
        ruleset::ways::Packet, symbols::Function,
    },
    journey::{Decided, Journey},
};

/// Names of the kernel that traced.
pub trait KernelNames {
    /// Name of a drop reason, with or without `SKB_DROP_REASON_`.
    fn reason(&self, number: u32) -> Option<&str>;
    /// The function that an address is in.
    fn symbol(&self, address: u64) -> Option<Function<'_>>;
}

/// Knows nothing.
impl KernelNames for () {
    fn reason(&self, _: u32) -> Option<&str> {
        None
    }

    fn symbol(&self, _: u64) -> Option<Function<'_>> {
        None
    }
}

impl<T: KernelNames + ?Sized> KernelNames for std::sync::Arc<T> {
    fn reason(&self, number: u32) -> Option<&str> {
        (**self).reason(number)
    }

    fn symbol(&self, address: u64) -> Option<Function<'_>> {
        (**self).symbol(address)
    }
}

/// The name of a drop reason as it is shown: `NETFILTER_DROP`.
pub fn reason_name(names: &(impl KernelNames + ?Sized), number: u32) -> String {
    match names.reason(number) {
        Some(name) => name.strip_prefix("SKB_DROP_REASON_").unwrap_or(name).to_owned(),
        None => format!("reason {number}"),
    }
}

/// A place in the kernel as it is shown: `nf_hook_slow+0xbe`, or the address without a name.
pub fn location_name(names: &(impl KernelNames + ?Sized), address: u64) -> String {
    match names.symbol(address) {
        Some(function) => function.to_string(),
        None => format!("{address:#x}"),
    }
}

/// A network namespace, as people know it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetnsName {
    /// Name under /run/netns; `host` for the namespace that pathtrace runs in.
    pub name: Option<String>,
    /// `RUNTIME:NAME` of the container that owns it.
    pub container: Option<String>,
    /// Its oldest process: what it is known by without a name and a container.
    pub process: Option<Process>,
    /// What people call it: the container without its runtime, where that tells it from all others.
    pub label: Option<String>,
    /// It is the namespace that pathtrace runs in.
    pub own: bool,
}

/// An interface, as people know it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceName {
    /// Its name.
    pub name: Option<String>,
    /// The bridge that it is a port of.
    pub bridge: Option<String>,
    /// The container that it leads to from outside.
    pub leads_to: Option<ContainerName>,
}

/// A container, as people know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerName {
    /// `RUNTIME:NAME`.
    pub full: String,
    /// The same without its runtime, where that tells it from all others.
    pub label: String,
}

/// Names of namespaces and interfaces.
pub trait Names {
    /// A network namespace by its inode.
    fn netns(&self, inode: u32) -> NetnsName;
    /// An interface.
    fn device(&self, place: Place) -> DeviceName;
    /// The name of the namespace that owns an address; `None` where none or several do.
    fn owner(&self, _: IpAddr) -> Option<String> {
        None
    }
    /// The rules of a namespace that say which routing table is looked up, in their order; as they were
    /// at a time of CLOCK_MONOTONIC, none where that is not known.
    fn routing_rules(&self, _netns: u32, _time: u64) -> &[RoutingRule] {
        &[]
    }
    /// Names of routing tables.
    fn route_tables(&self) -> Cow<'_, RouteTables> {
        Cow::Owned(RouteTables::default())
    }
    /// Whether an interface is a VRF, or belongs to one.
    fn is_in_vrf(&self, _: Place) -> bool {
        false
    }
}

/// Knows nothing.
impl Names for () {
    fn netns(&self, _: u32) -> NetnsName {
        NetnsName::default()
    }

    fn device(&self, _: Place) -> DeviceName {
        DeviceName::default()
    }
}

/// A base chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseChain {
    /// `nftables`, `iptables-legacy` or `ebtables-legacy`.
    pub backend: String,
    /// `ip`, `ip6`, `inet`, `bridge`, `arp` or `netdev`.
    pub family: String,
    /// Table.
    pub table: String,
    /// Chain.
    pub chain: String,
    /// Hook.
    pub hook: String,
    /// Priority, where the base chain is known.
    pub priority: Option<i32>,
    /// Whether its policy is to drop, where that is known.
    pub policy_drops: Option<bool>,
}

/// What stands between two neighbouring observers of a netfilter hook.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bracket {
    /// Priority of the observer that the packet passed.
    pub after: Option<i32>,
    /// Priority of the next observer, which it did not reach.
    pub before: Option<i32>,
    /// The base chains between them.
    pub chains: Vec<BaseChain>,
}

/// What decided: a rule, the policy of a base chain, or something in that chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The base chain.
    pub chain: BaseChain,
    /// The chain that the rule stands in, where that is another one.
    pub within: Option<String>,
    /// Handle of the rule, where it is known; legacy rules have none.
    pub handle: Option<u64>,
    /// Number of a legacy rule in its chain, from 1, where it is known.
    pub number: Option<u64>,
    /// Whether the chain's policy decided; `None` where it is not known.
    pub policy: Option<bool>,
    /// Text of the rule, where it is known.
    pub text: Option<String>,
    /// It was not seen to decide: nothing else there could have dropped the packet.
    pub inferred: bool,
    /// Docker keeps a chain for others' rules in this table.
    pub docker: bool,
}

/// A packet that was dropped by something between observers, or where none stand.
#[derive(Clone, Debug)]
pub struct Died<'a> {
    /// Where.
    pub place: Place,
    /// In which hook; `None` where no observers stand.
    pub at: Option<InHook>,
    /// When, ns of CLOCK_MONOTONIC.
    pub time: u64,
    /// What is known of the packet.
    pub packet: &'a Packet,
}

/// Evidence of this machine for what happened to a packet.
pub trait Evidence: KernelNames + Names {
    /// What stands between the last observer that a packet passed and the next one.
    fn bracket(&self, netns: u32, hook: InHook) -> Option<Bracket>;
    /// A kernel setting of a namespace, by its dotted name as `sysctl` takes it
    /// (`net.ipv4.ip_forward`; a dot within the name of an interface is written `/`).
    fn sysctl(&self, netns: u32, name: &str) -> Option<String>;
    /// The MTU of an interface, bytes, as it is now.
    fn mtu(&self, _: Place) -> Option<u32> {
        None
    }
    /// The rule or policy that is known to have decided, by name; `None` where its table is not
    /// known.
    fn decided(&self, _died: &Died<'_>, _at: InHook, _by: &Decider) -> Option<Decision> {
        None
    }
    /// All that sits in a hook, in order.
    fn chains_at(&self, _netns: u32, _at: InHook) -> Vec<BaseChain> {
        Vec::new()
    }
    /// The ways in which one of these base chains can have dropped a packet, going by its rules at
    /// that time; `None` where that cannot be told.
    fn ways(&self, _died: &Died<'_>, _chains: &[BaseChain]) -> Option<Vec<Decision>> {
        None
    }
    /// The base chains that a packet can have met where no observers stand: of frames in a bridge,
    /// and of a device's ingress and egress.
    fn unobserved(&self, _place: Place) -> Vec<BaseChain> {
        Vec::new()
    }
    /// Who dropped the packet of this journey in a namespace, and in which hook, where the kernel was
    /// asked to trace that. `died_in` is the hook where it died, if that was seen.
    fn traced(
        &self,
        _netns: u32,
        _died_in: Option<InHook>,
        _: &Journey,
    ) -> Option<(InHook, Decided)> {
        None
    }
}

/// Knows nothing.
impl Evidence for () {
    fn bracket(&self, _: u32, _: InHook) -> Option<Bracket> {
        None
    }

    fn sysctl(&self, _: u32, _: &str) -> Option<String> {
        None
    }
}
