//! What this machine looks like: network namespaces, links, sysctls. It reads and tells; it decides nothing, and it changes nothing.
//!
//! - [`netns`]: the network namespaces, and how to run code inside one;
//! - [`link`]: links, addresses and uplinks of one namespace;
//! - [`snapshot`]: all of that at once, for names;
//! - [`path`]: which of these interfaces the packets of some addresses cross;
//! - [`sysctl`]: a setting, as seen inside a namespace.

mod error;
pub mod link;
mod netlink;
pub mod netns;
pub mod path;
mod peers;
pub mod snapshot;
pub mod sysctl;
#[cfg(test)]
mod testing;

pub use error::Error;
