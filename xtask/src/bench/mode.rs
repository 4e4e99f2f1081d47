//! What is attached while the load runs.

use std::{
    borrow::Cow,
    collections::BTreeSet,
    fs::File,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use lab::{
    Lab, Netns, Trace,
    records::account_for_events,
    terminal::Terminal,
    topology::C1,
    trace::{Output, UNLIMITED},
};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::NamedTempFile;

use super::{
    peer::{Peer, Ready},
    rates::Cost,
    workload::slowly,
};
use crate::setup;

/// An address that nobody has.
const NOBODY: &str = "192.0.2.77";

/// What may be attached.
pub struct Mode {
    /// As the table names it.
    pub name: Cow<'static, str>,
    tool: Tool,
}

enum Tool {
    Nothing,
    /// pathtrace with these arguments, and where its output goes.
    Pathtrace(&'static [&'static str], Out),
    /// pathtrace's live view with these arguments, in a terminal.
    View(&'static [&'static str]),
    /// Another program, how it is called, and what it needs in nftables.
    Other {
        program: Cow<'static, str>,
        command: Cow<'static, [Cow<'static, str>]>,
        ready: Ready,
        rule: Option<&'static str>,
    },
}

/// Where pathtrace's output goes.
#[derive(Clone, Copy)]
enum Out {
    /// JSON lines to a file.
    Json,
    /// Text to nobody.
    Text,
    /// A capture file, and nothing else.
    Capture,
}

macro_rules! pathtrace {
    ($name:literal, $out:ident, $($arg:expr),*) => {
        Mode { name: Cow::Borrowed($name), tool: Tool::Pathtrace(&[$($arg),*], Out::$out) }
    };
}

macro_rules! other {
    ($name:literal, [$program:expr $(, $word:expr)*], $ready:expr, $rule:expr) => {
        other!($name, $program, [$program $(, $word)*], $ready, $rule)
    };
    ($name:literal, $program:expr, [$($word:expr),*], $ready:expr, $rule:expr) => {
        Mode {
            name: Cow::Borrowed($name),
            tool: Tool::Other {
                program: Cow::Borrowed($program),
                command: Cow::Borrowed(&[$(Cow::Borrowed($word)),*]),
                ready: $ready,
                rule: $rule,
            },
        }
    };
}

/// bpftrace with the program that follows. Without tracefs it finds no tracepoint, says so, and runs all the same.
const WITH_TRACEFS: &str = r#"
    at=/sys/kernel/tracing
    [ -d $at/events/net ] || mount -t tracefs tracefs $at || exit
    exec bpftrace -e "$0"
"#;

/// Nothing comes first: the others are compared with it.
pub const MODES: [Mode; 13] = [
    Mode { name: Cow::Borrowed("nothing"), tool: Tool::Nothing },
    pathtrace!("pathtrace, matching nothing", Json, "--ip", NOBODY),
    pathtrace!("pathtrace, matching all, summary", Json, "--ip", C1, "--drops"),
    pathtrace!("pathtrace, matching all, JSON", Json, "--ip", C1),
    pathtrace!("pathtrace, matching all, text", Text, "--ip", C1),
    pathtrace!("pathtrace, matching all, -w", Capture, "--ip", C1),
    Mode {
        name: Cow::Borrowed("pathtrace, matching all, live view"),
        tool: Tool::View(&["--ip", C1]),
    },
    pathtrace!("pathtrace --nft-trace, all, text", Text, "--ip", C1, "--nft-trace"),
    other!(
        "tcpdump -i any, matching nothing",
        ["tcpdump", "-i", "any", "-n", "host", NOBODY],
        Ready::Says("listening on"),
        None
    ),
    other!(
        "tcpdump -i any, matching all",
        ["tcpdump", "-i", "any", "-n", "host", C1],
        Ready::Says("listening on"),
        None
    ),
    other!(
        "nft monitor trace, matching nothing",
        ["nft", "monitor", "trace"],
        Ready::AfterAWhile,
        Some("ip saddr 192.0.2.77 meta nftrace set 1")
    ),
    other!(
        "nft monitor trace, matching all",
        ["nft", "monitor", "trace"],
        Ready::AfterAWhile,
        Some("ip saddr 10.0.100.252 meta nftrace set 1")
    ),
    other!(
        "bpftrace, two tracepoints counted",
        "bpftrace",
        [
            "unshare",
            "--mount",
            "sh",
            "-c",
            WITH_TRACEFS,
            r#"BEGIN { printf("ready\n"); }
               tracepoint:net:net_dev_start_xmit, tracepoint:net:netif_receive_skb
               { @[probe] = count(); }"#
        ],
        Ready::Says("ready"),
        None
    ),
];

/// Other tools, by their commands.
pub fn peers(commands: &[String]) -> Result<Vec<Mode>> {
    let peer = |command: &String| {
        let words: Vec<_> = command.split_whitespace().map(|w| Cow::Owned(w.to_owned())).collect();
        let program = words.first().context("a peer without a command")?;
        ensure!(setup::find(program).is_some(), "{program} is not there to be compared with");
        let tool = Tool::Other {
            program: program.clone(),
            command: Cow::Owned(words),
            ready: Ready::AfterAWhile,
            rule: None,
        };
        Ok(Mode { name: Cow::Owned(command.clone()), tool })
    };
    commands.iter().map(peer).collect()
}

impl Mode {
    /// pathtrace attached, and no packet for it.
    pub fn matching_nothing() -> &'static Self {
        &MODES[1]
    }

    /// Whether the program is installed.
    pub fn is_possible(&self) -> bool {
        match &self.tool {
            Tool::View(_) => setup::find("tmux").is_some(),
            Tool::Nothing | Tool::Pathtrace(..) => true,
            Tool::Other { program, .. } => setup::find(program).is_some(),
        }
    }

    /// Whether it is pathtrace, whose programs can be told.
    pub fn has_programs(&self) -> bool {
        matches!(self.tool, Tool::Pathtrace(..))
    }

    /// Whether it is another tool.
    pub fn is_other(&self) -> bool {
        matches!(self.tool, Tool::Other { .. })
    }

    /// Lines that another tool prints of one packet of the load, when it has time to.
    pub fn lines_of_a_packet(&self, lab: &Lab, binary: &Path) -> Result<Option<f64>> {
        if !self.is_other() {
            return Ok(None);
        }
        let attached = self.attach(lab, binary)?;
        let packets = slowly(lab)?;
        ensure!(packets > 0, "no packet arrived");
        Ok(attached.end()?.lines.map(|lines| lines as f64 / packets as f64))
    }

    /// Attaches it in the lab's host.
    pub fn attach<'a>(&self, lab: &'a Lab, binary: &Path) -> Result<Attached<'a>> {
        let host = lab.netns("host")?;
        match &self.tool {
            Tool::Nothing => Ok(Attached::Nothing),
            Tool::View(args) => {
                view(host, binary, args).map(|_terminal| Attached::Viewed { _terminal })
            }
            Tool::Pathtrace(args, out) => {
                Traced::start(host, binary, args, *out).map(Attached::Pathtrace)
            }
            Tool::Other { command, ready, rule, .. } => {
                let command: Vec<&str> = command.iter().map(Cow::as_ref).collect();
                Peer::start(host, &command, ready, *rule).map(Attached::Other)
            }
        }
    }
}

/// pathtrace, attached.
pub struct Traced {
    trace: Trace,
    /// What it writes.
    output: NamedTempFile,
    out: Out,
    began: Instant,
    /// What it took to attach.
    used: Duration,
}

impl Traced {
    fn start(host: &Netns, binary: &Path, args: &[&str], out: Out) -> Result<Self> {
        let output = NamedTempFile::new()?;
        let mut command = Command::new(binary);
        let stdout = match out {
            Out::Json => {
                command.args(["-o", "json"]);
                Stdio::from(output.reopen()?)
            }
            Out::Text => {
                command.args(["-o", "text"]);
                Stdio::null()
            }
            Out::Capture => {
                command.args(["-o", "none", "-w"]).arg(output.path());
                Stdio::null()
            }
        };
        command.args(args).args(UNLIMITED);
        let trace = Trace::spawn(host, command, Output::To(stdout))?;
        let used = trace.used()?;
        Ok(Self { trace, output, out, began: Instant::now(), used })
    }

    /// Ends it as Ctrl-C does: what it took since it was attached, and what it told.
    fn end(self) -> Result<Ended> {
        let used = self.trace.used()?.saturating_sub(self.used);
        let processor = used.as_secs_f64() / self.began.elapsed().as_secs_f64();
        let memory = self.trace.memory()?;
        self.trace.signal(Signal::INT)?;
        let ended = self.trace.wait()?;
        ensure!(ended.status.success(), "pathtrace: {}", ended.stderr);
        let told = match self.out {
            Out::Json => Some(Told::read(self.output.path())?),
            Out::Text | Out::Capture => None,
        };
        let (events, packets) = told.map(|told| (told.events, told.whole)).unzip();
        Ok(Ended { cost: Some(Cost { processor, memory, events }), packets, lines: None })
    }
}

/// What pathtrace has told in a file.
struct Told {
    /// Events received, lost and left out.
    events: [u64; 3],
    /// Journeys that were told whole.
    whole: u64,
}

impl Told {
    /// By the summary at the end of the file; an error unless all events that were offered are among those received and
    /// lost.
    fn read(file: &Path) -> Result<Self> {
        let (mut last, mut thinned) = (String::new(), 0);
        for line in BufReader::new(File::open(file)?).lines() {
            last = line?;
            // Of such a one only the end was told.
            thinned += u64::from(last.contains("\"thinned\":true"));
        }
        let summary: Value = serde_json::from_str(&last).context("no summary")?;
        account_for_events(&summary)?;
        let number = |value: &Value| value.as_u64().unwrap_or(0);
        let events = &summary["events"];
        let lost = events["lost"].as_object().context("no losses")?.values().map(number).sum();
        let left_out = number(&events["left_out"]["events"]);
        let incomplete = number(&summary["latency"]["incomplete"]);
        Ok(Self {
            events: [number(&events["received"]), lost, left_out],
            whole: number(&summary["journeys"]).saturating_sub(incomplete + thinned),
        })
    }
}

/// pathtrace in a terminal, showing what it sees.
fn view(host: &Netns, binary: &Path, args: &[&str]) -> Result<Terminal> {
    let terminal = Terminal::open(host, 120, 30)?;
    terminal.wait_for("$")?;
    terminal.line(&format!(
        "exec {} -o tui {}",
        binary.display(),
        [args, &UNLIMITED].concat().join(" ")
    ))?;
    terminal.wait_for_trace()?;
    Ok(terminal)
}

/// What is attached.
pub enum Attached<'a> {
    /// Nothing.
    Nothing,
    /// pathtrace in a terminal, which ends it.
    Viewed { _terminal: Terminal },
    /// pathtrace.
    Pathtrace(Traced),
    /// Another tool.
    Other(Peer<'a>),
}

/// What there was of it when it ended.
#[derive(Debug, Default)]
pub struct Ended {
    /// What pathtrace took.
    pub cost: Option<Cost>,
    /// Packets of which pathtrace has told the whole way.
    pub packets: Option<u64>,
    /// Lines that another tool has printed.
    pub lines: Option<u64>,
}

impl Attached<'_> {
    /// Ends it as Ctrl-C does.
    pub fn end(self) -> Result<Ended> {
        match self {
            Attached::Nothing | Attached::Viewed { .. } => Ok(Ended::default()),
            Attached::Pathtrace(traced) => traced.end(),
            Attached::Other(peer) => Ok(Ended { lines: Some(peer.end()?), ..Ended::default() }),
        }
    }

    /// Waits until pathtrace has nothing to do but to wait for packets.
    pub fn settle(&self) -> Result<()> {
        match self {
            Attached::Pathtrace(traced) => traced.trace.settle(),
            Attached::Nothing | Attached::Viewed { .. } | Attached::Other(_) => Ok(()),
        }
    }

    /// Ids of pathtrace's BPF programs; none of another's.
    pub fn programs(&self) -> BTreeSet<u32> {
        match self {
            Attached::Pathtrace(traced) => traced.trace.programs(),
            Attached::Nothing | Attached::Viewed { .. } | Attached::Other(_) => BTreeSet::new(),
        }
    }
}
