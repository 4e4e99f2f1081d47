//! What this machine looks like: network namespaces, links, containers, netfilter chains, kernel
//! symbols, names of drop reasons, sysctls. It reads and tells; it decides nothing, and it changes nothing.
//!
//! - [`netns`]: the network namespaces, and how to run code inside one;
//! - [`link`]: links, addresses and uplinks of one namespace;
//! - [`routing_rule`], [`route_tables`]: which routing table is looked up, and what it is called;
//! - [`snapshot`]: all of that at once, for names;
//! - [`path`]: which of these interfaces the packets of some addresses cross;
//! - [`containers`]: the containers, what they are called, and whose each namespace is;
//! - [`watch`]: told when that changes;
//! - [`conntrack`]: the connections that a namespace tracks;
//! - [`chains`]: what sits in a namespace's netfilter hooks, by priority;
//! - `nftables`: tables, chains and rules, as the kernel tells them;
//! - [`ruleset`]: the rules in these chains, with their handles and texts;
//! - [`nft_trace`]: told which rule or policy of nf_tables dropped a packet, where that is traced;
//! - [`sysctl`]: a setting, as seen inside a namespace;
//! - [`owner`]: whose something is that can outlive its process;
//! - [`clock`]: its clocks;
//! - [`kernel`], [`symbols`], [`drop_reasons`]: the kernel that runs.

pub mod chains;
pub mod clock;
pub mod conntrack;
pub mod containers;
pub mod drop_reasons;
mod error;
pub mod kernel;
pub mod link;
pub(crate) mod netlink;
pub mod netns;
pub mod nft_trace;
mod nftables;
pub mod owner;
pub mod path;
mod peers;
pub mod route_tables;
pub mod routing_rule;
pub mod ruleset;
pub mod snapshot;
pub mod symbols;
pub mod sysctl;
#[cfg(test)]
pub(crate) mod testing;
pub mod watch;

pub use error::Error;
