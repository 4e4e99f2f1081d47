//! The lab: a small network of container, host and world, built of network namespaces by code.
//!
//! ```text
//!  c1 10.0.100.252 ─┐
//!                   ├─ lxdbr0 10.0.100.1  host  198.51.100.1 ── 198.51.100.2  world  203.0.113.8
//!  c2 10.0.100.253 ─┘       (forwards, masquerades)
//! ```
//!
//! The host is a namespace too: nothing of the machine itself is changed. [`Lab`] is torn down
//! however its process ends, [`traffic`] sends packets inside it, and [`Trace`] runs pathtrace in
//! its host and reads what it prints. The scenarios beside this library use all three. What not every
//! kernel has is a [`Capability`]. Hosts with LXD, LXC, Docker and Podman are in [`runtimes`].

pub mod capability;
pub mod command;
pub mod flood;
pub mod frames;
mod lab;
mod netns;
pub mod notes;
pub mod offload;
pub mod pace;
pub mod records;
pub mod runtimes;
mod sight;
pub mod terminal;
pub mod topology;
pub mod trace;
pub mod traffic;

pub use capability::Capability;
pub use lab::Lab;
pub use netns::Netns;
pub use records::{Journey, Records};
pub use sight::Sight;
pub use trace::Trace;
