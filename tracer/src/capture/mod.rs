//! Capture files: what `-w` writes and `-r` reads. `docs/files.md` describes them.
//!
//! A file is pcapng that other tools open: an interface for each device, the packets with what became of
//! them in their comments. Beside them it keeps the records that the output was made of, in blocks that other
//! tools pass over: reading them back shows what was shown, on any machine and by any later version.
//!
//! The blocks are put together and taken apart here, not by a crate: those there are (pcap-file,
//! pcap-parser) end at the first block that does not hold together, and going on behind it is most of
//! what reading is about.

mod excerpt;
mod format;
mod merge;
mod packets;
pub mod read;
mod rotate;
mod section;
mod sink;
mod target;
#[cfg(test)]
mod tests;
mod write;

pub use excerpt::excerpt;
pub use merge::{Ending, Merge, Merged};
pub use rotate::Rotation;
pub use section::{Scene, Section};
pub use sink::{CaptureSink, Plan};
pub use target::STANDARD;
