//! Which trace a file is of: kept in its section header.

use serde::{Deserialize, Serialize};

use crate::{explain::quoted, output::record::Start};

/// Where, by what and when a file was recorded.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Section {
    /// Name of the host.
    pub host: String,
    /// Its machine, as `uname -m`.
    pub machine: String,
    /// The command line.
    pub command: Vec<String>,
    /// Inode of the network namespace that pathtrace ran in.
    pub netns: u32,
    /// Names the trace, the same in all files of one rotation.
    pub trace: String,
    /// Which file of a rotation this is, from 0.
    #[serde(default)]
    pub part: u32,
    /// The trace's first record.
    pub start: Start,
}

/// Where a trace runs: what of a [`Section`] is known before it begins.
#[derive(Clone, Debug)]
pub struct Scene {
    /// As in [`Section`].
    pub host: String,
    /// As in [`Section`].
    pub machine: String,
    /// As in [`Section`].
    pub command: Vec<String>,
    /// As in [`Section`].
    pub netns: u32,
}

impl Scene {
    /// This process, on this machine.
    ///
    /// # Errors
    /// When its network namespace cannot be told.
    pub fn here() -> Result<Self, crate::host::Error> {
        let uname = rustix::system::uname();
        Ok(Self {
            host: uname.nodename().to_string_lossy().into_owned(),
            machine: uname.machine().to_string_lossy().into_owned(),
            command: std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect(),
            netns: crate::host::netns::Netns::own()?.inode,
        })
    }

    /// The section of a trace that begins.
    pub fn begin(self, start: &Start) -> Section {
        let Self { host, machine, command, netns } = self;
        let trace = format!("{host} {} {}", start.time, std::process::id());
        Section { host, machine, command, netns, trace, part: 0, start: start.clone() }
    }
}

impl Section {
    /// What a reader of the file is told first: the host and the command line.
    pub(super) fn comment(&self) -> String {
        let command: Vec<String> = self.command.iter().map(|arg| quoted(arg)).collect();
        format!("host {}: {}", self.host, command.join(" "))
    }
}
