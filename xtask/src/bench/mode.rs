//! What is attached while the load runs.

use std::{
    collections::BTreeSet,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::Result;
use lab::{Lab, Trace, topology::C1, trace::Output};
use rustix::process::Signal;

use super::peer::{Peer, Ready};
use crate::setup;

/// An address that nobody has.
const NOBODY: &str = "192.0.2.77";

/// What may be attached.
pub struct Mode {
    /// As the table names it.
    pub name: &'static str,
    tool: Tool,
}

enum Tool {
    Nothing,
    /// pathtrace with these arguments.
    Pathtrace(&'static [&'static str]),
    /// Another program with its arguments, and what it needs in nftables.
    Other {
        command: &'static [&'static str],
        ready: Ready,
        rule: Option<&'static str>,
    },
}

/// Nothing comes first: the others are compared with it.
pub const MODES: [Mode; 9] = [
    Mode { name: "nothing", tool: Tool::Nothing },
    Mode { name: "pathtrace, matching nothing", tool: Tool::Pathtrace(&["--ip", NOBODY]) },
    Mode { name: "pathtrace, matching all", tool: Tool::Pathtrace(&["--ip", C1]) },
    Mode {
        name: "pathtrace --nft-trace, all",
        tool: Tool::Pathtrace(&["--ip", C1, "--nft-trace"]),
    },
    Mode {
        name: "tcpdump -i any, matching nothing",
        tool: Tool::Other {
            command: &["tcpdump", "-i", "any", "-n", "host", NOBODY],
            ready: Ready::Says("listening on"),
            rule: None,
        },
    },
    Mode {
        name: "tcpdump -i any, matching all",
        tool: Tool::Other {
            command: &["tcpdump", "-i", "any", "-n", "host", C1],
            ready: Ready::Says("listening on"),
            rule: None,
        },
    },
    Mode {
        name: "nft monitor trace, matching nothing",
        tool: Tool::Other {
            command: &["nft", "monitor", "trace"],
            ready: Ready::AfterAWhile,
            rule: Some("ip saddr 192.0.2.77 meta nftrace set 1"),
        },
    },
    Mode {
        name: "nft monitor trace, matching all",
        tool: Tool::Other {
            command: &["nft", "monitor", "trace"],
            ready: Ready::AfterAWhile,
            rule: Some("ip saddr 10.0.100.252 meta nftrace set 1"),
        },
    },
    Mode {
        name: "bpftrace, two tracepoints counted",
        tool: Tool::Other {
            command: &[
                "bpftrace",
                "-e",
                r#"BEGIN { printf("ready\n"); }
                   tracepoint:net:net_dev_start_xmit, tracepoint:net:netif_receive_skb
                   { @[probe] = count(); }"#,
            ],
            ready: Ready::Says("ready"),
            rule: None,
        },
    },
];

impl Mode {
    /// pathtrace attached, and no packet for it.
    pub fn matching_nothing() -> &'static Self {
        &MODES[1]
    }

    /// Whether the program is installed.
    pub fn is_possible(&self) -> bool {
        match &self.tool {
            Tool::Nothing | Tool::Pathtrace(_) => true,
            Tool::Other { command, .. } => {
                command.first().is_some_and(|c| setup::find(c).is_some())
            }
        }
    }

    /// Whether it is pathtrace.
    pub fn is_pathtrace(&self) -> bool {
        matches!(self.tool, Tool::Pathtrace(_))
    }

    /// Whether it is another tool.
    pub fn is_other(&self) -> bool {
        matches!(self.tool, Tool::Other { .. })
    }

    /// Attaches it in the lab's host.
    pub fn attach<'a>(&self, lab: &'a Lab, binary: &Path) -> Result<Attached<'a>> {
        let host = lab.netns("host")?;
        match &self.tool {
            Tool::Nothing => Ok(Attached::Nothing),
            Tool::Pathtrace(args) => {
                let mut command = Command::new(binary);
                command.args(*args).args(["-o", "text"]);
                Trace::spawn(host, command, Output::To(Stdio::null())).map(Attached::Pathtrace)
            }
            Tool::Other { command, ready, rule } => {
                Peer::start(host, command, ready, *rule).map(Attached::Other)
            }
        }
    }
}

/// What is attached.
pub enum Attached<'a> {
    /// Nothing.
    Nothing,
    /// pathtrace.
    Pathtrace(Trace),
    /// Another tool.
    Other(Peer<'a>),
}

impl Attached<'_> {
    /// Ends it as Ctrl-C does.
    pub fn end(self) -> Result<()> {
        match self {
            Attached::Nothing => Ok(()),
            Attached::Pathtrace(trace) => {
                trace.signal(Signal::INT)?;
                trace.wait().map(drop)
            }
            Attached::Other(peer) => peer.end(),
        }
    }

    /// Waits until pathtrace has nothing to do but to wait for packets.
    pub fn settle(&self) -> Result<()> {
        match self {
            Attached::Pathtrace(trace) => trace.settle(),
            Attached::Nothing | Attached::Other(_) => Ok(()),
        }
    }

    /// Ids of pathtrace's BPF programs; none of another's.
    pub fn programs(&self) -> BTreeSet<u32> {
        match self {
            Attached::Pathtrace(trace) => trace.programs(),
            Attached::Nothing | Attached::Other(_) => BTreeSet::new(),
        }
    }
}
