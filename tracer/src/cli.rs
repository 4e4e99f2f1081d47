//! The command line.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::{Shell, engine::ArgValueCandidates};

use crate::{
    probe::{Mechanism, RING_BYTES},
    select::{self, Address, MacAddress, NetnsRef, PortRange, Protocol, container::ContainerRef},
};

/// Trace the path of a container's packets across this host
///
/// Shows where packets go (container, veth, bridge, netfilter, routing, qdisc, NIC), what happens
/// to them on the way, and where and why they stop. Without a selection it follows every packet.
#[derive(Debug, Parser)]
#[command(name = "pathtrace", version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// Something else than a trace.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The trace.
    #[command(flatten)]
    pub trace: TraceArgs,
}

/// What else pathtrace does.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Show what this kernel offers: each point, the mechanism chosen, or why there is none
    Probes {
        /// Only by these mechanisms
        #[arg(long, value_name = "NAME", value_delimiter = ',')]
        mechanism: Vec<Mechanism>,
    },
    /// List what this host runs: containers and namespaces with their interfaces and addresses
    Containers {
        /// As aligned columns, or one JSON object a line
        #[arg(short, long, value_enum, default_value_t = ListFormat::Text)]
        output: ListFormat,
    },
    /// Write a capture file's flows, journeys, drops and times as one HTML page, for a ticket
    Report {
        /// What -w FILE has recorded; several are merged by time
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// The page; - is stdout
        #[arg(short, long, value_name = "PAGE")]
        output: PathBuf,
    },
    /// Print the JSON Schema of the JSON output
    Schema,
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// A trace: what to follow, and how to show it.
#[derive(Debug, Args)]
pub struct TraceArgs {
    /// Which packets.
    #[command(flatten)]
    pub select: SelectArgs,

    /// How journeys are shown; `auto` is the live view on a terminal, text otherwise
    #[arg(short, long, value_enum, default_value_t = Format::Auto, help_heading = "Output")]
    pub output: Format,
    /// Show only journeys that ended in a drop
    #[arg(long, help_heading = "Output")]
    pub drops: bool,
    /// In text and in the live view: every point, or one line a layer and interface
    #[arg(long, value_enum, default_value_t = Hops::Main, help_heading = "Output")]
    pub hops: Hops,
    /// In text: end with how long packets took, by segments of their way (JSON always has it)
    #[arg(long, help_heading = "Output")]
    pub latency: bool,
    /// Stop after N finished journeys (with --drops: after N drops)
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), help_heading = "Output")]
    pub count: Option<u64>,
    /// Stop after a time, e.g. 5s, 500ms, 2m
    #[arg(long, conflicts_with = "read", value_name = "TIME", value_parser = duration, help_heading = "Output")]
    pub duration: Option<Duration>,
    /// Capture N bytes of each packet at every point and show them in JSON (with -w and without this:
    /// 65535, for the file only)
    #[arg(short, long, conflicts_with = "read", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65535), help_heading = "Output")]
    pub snaplen: Option<u32>,
    /// Show addresses only, not the names of the namespaces that own them
    #[arg(short = 'n', help_heading = "Output")]
    pub no_names: bool,
    /// In the live view: nothing but ASCII, as where the locale is not UTF-8
    #[arg(long, help_heading = "Output")]
    pub ascii: bool,
    /// Capture files.
    #[command(flatten)]
    pub files: FileArgs,
    /// More of the tool's own log on stderr (-v: info, -vv: debug)
    #[arg(short, action = clap::ArgAction::Count, help_heading = "Output")]
    pub verbose: u8,

    /// Have the kernel trace its rules (nf_tables), to name the very rule that dropped a packet
    ///
    /// This changes the rule set: while it traces, pathtrace adds a table of its own to every
    /// network namespace on the path, which marks the selected packets (meta nftrace). It drops
    /// nothing, is removed on every exit, and costs the traced packets time. Drops by the rules of
    /// nftables and iptables-nft are named so, by those of legacy iptables are not.
    #[arg(long, conflicts_with = "read", help_heading = "Rules")]
    pub nft_trace: bool,

    /// Size of the buffer between kernel and pathtrace: a power of two [default: 16M, or 64M where whole
    /// packets are captured]
    #[arg(long, value_name = "BYTES", value_parser = ring_size, help_heading = "Limits")]
    pub ring_size: Option<u32>,

    /// Above so many events a second tell less: first not the middle of journeys, then only some packets;
    /// drops are always told
    #[arg(long, conflicts_with = "read", value_name = "RATE", default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1000..=100_000_000), help_heading = "Limits")]
    pub max_events: u32,
    /// The same, above so many percent of one processor
    #[arg(long, conflicts_with = "read", value_name = "PERCENT", default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=100_000), help_heading = "Limits")]
    pub max_cpu: u32,

    /// Watch only by these mechanisms, for tests and diagnosis
    #[arg(long, value_name = "NAME", value_delimiter = ',', help_heading = "Limits")]
    pub mechanism: Vec<Mechanism>,

    /// Also write every event to this file, as JSON lines: what test fixtures are made of
    #[arg(long, conflicts_with = "read", value_name = "FILE", hide = true)]
    pub dump_events: Option<PathBuf>,
}

/// Capture files.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Files")]
pub struct FileArgs {
    /// Record to a file that Wireshark opens and -r reads back; - is stdout
    ///
    /// pcapng: the packets with what became of them as comments, and all that is shown here. A name
    /// that ends in .pcap gets classic pcap: each packet once, where it was first seen. With
    /// --hops all the packet is in it at every point, else once a device, before and after NAT. The
    /// file can be read by its owner only.
    #[arg(short, long, value_name = "FILE")]
    pub write: Option<PathBuf>,
    /// Show what -w FILE has recorded, on any machine and without root; - is stdin. Several are merged
    /// by time
    #[arg(short, long, value_name = "FILE")]
    pub read: Vec<PathBuf>,
    /// With -w: begin another file when one is larger than N million bytes (or with k, m, g: so many
    /// KiB, MiB, GiB)
    #[arg(short = 'C', value_name = "N", value_parser = file_size, requires = "write")]
    pub file_size: Option<u64>,
    /// With -w: begin another file every N seconds. FILE is filled in with the time, as by strftime(3);
    /// without a % in it the file is written anew
    #[arg(short = 'G', value_name = "N", value_parser = clap::value_parser!(u32).range(1..), requires = "write")]
    pub file_seconds: Option<u32>,
    /// With -C: after N files write the first one anew. With -G alone: end after N files
    #[arg(short = 'W', value_name = "N", value_parser = clap::value_parser!(u32).range(1..), requires = "write")]
    pub file_count: Option<u32>,
}

/// Which packets to follow. Different flags must all hold; one flag given more than once holds for
/// either value.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Select")]
pub struct SelectArgs {
    /// Either address, before or after NAT
    #[arg(long, value_name = "ADDR[/N]")]
    pub ip: Vec<Address>,
    /// Source address
    #[arg(long, value_name = "ADDR[/N]")]
    pub src: Vec<Address>,
    /// Destination address
    #[arg(long, value_name = "ADDR[/N]")]
    pub dst: Vec<Address>,
    /// Either port
    #[arg(long, value_name = "PORT[-PORT]")]
    pub port: Vec<PortRange>,
    /// Source port
    #[arg(long, value_name = "PORT[-PORT]")]
    pub sport: Vec<PortRange>,
    /// Destination port
    #[arg(long, value_name = "PORT[-PORT]")]
    pub dport: Vec<PortRange>,
    /// Protocol: tcp, udp, icmp, icmp6, sctp, arp, or an IP protocol's number
    #[arg(long, value_name = "PROTO")]
    pub proto: Vec<Protocol>,
    /// Either link-layer address
    #[arg(long, value_name = "MAC")]
    pub mac: Vec<MacAddress>,
    /// Seen at this interface (of this network namespace, or of those given by --netns)
    #[arg(long, value_name = "NAME")]
    pub iface: Vec<String>,
    /// From or to this container: any of the addresses that it has when the trace begins
    #[arg(long, value_name = "[RUNTIME:]NAME", add = ArgValueCandidates::new(select::container::candidates))]
    pub container: Vec<ContainerRef>,
    /// Seen in this network namespace
    #[arg(long, value_name = "NAME|PATH|INODE|pid:N")]
    pub netns: Vec<NetnsRef>,
    /// A pcap-filter expression, as tcpdump takes it: 'host 10.0.3.17 and (tcp port 443 or icmp)'
    #[arg(value_name = "EXPRESSION")]
    pub expression: Vec<String>,
}

/// How journeys are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// The live view on a terminal, text otherwise.
    Auto,
    /// The live view.
    Tui,
    /// A block of lines for each journey.
    Text,
    /// One JSON object a line.
    Json,
    /// Not at all: -w is what is wanted.
    None,
}

/// How a list is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ListFormat {
    /// Aligned columns
    Text,
    /// One JSON object a line
    Json,
}

/// How much of a journey text shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Hops {
    /// Every point
    All,
    /// One line a layer and interface
    Main,
}

fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let seconds = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("{unit:?} is no unit of time; use ms, s, m or h")),
    };
    let number: f64 =
        number.parse().map_err(|_| "a time is a number and a unit, as 5s".to_owned())?;
    let duration = Duration::try_from_secs_f64(number * seconds).map_err(|e| e.to_string())?;
    if duration.is_zero() { Err("a trace of no time sees nothing".into()) } else { Ok(duration) }
}

/// As tcpdump's `-C` takes it.
fn file_size(text: &str) -> Result<u64, String> {
    let (number, unit) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (&text[..at], 1 << 10),
        Some((at, 'm' | 'M')) => (&text[..at], 1 << 20),
        Some((at, 'g' | 'G')) => (&text[..at], 1 << 30),
        _ => (text, 1_000_000),
    };
    let size = number.parse::<u64>().ok().and_then(|n| n.checked_mul(unit)).filter(|n| *n > 0);
    size.ok_or_else(|| "a size is a number of million bytes, or one with k, m or g".to_owned())
}

fn ring_size(text: &str) -> Result<u32, String> {
    let units = [(['k', 'K'], 1 << 10), (['m', 'M'], 1 << 20), (['g', 'G'], 1 << 30)];
    let with_unit = |(letters, factor)| Some((text.strip_suffix::<[char; 2]>(letters)?, factor));
    let (number, factor) = units.into_iter().find_map(with_unit).unwrap_or((text, 1));
    let bytes = number
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(factor))
        .ok_or("a size is a number of bytes, or one with K, M or G")?;
    let (least, most) = (*RING_BYTES.start(), *RING_BYTES.end());
    u32::try_from(bytes)
        .ok()
        .filter(|n| RING_BYTES.contains(n) && n.is_power_of_two())
        .ok_or_else(|| format!("the ring buffer takes a power of two from {least} to {most} bytes"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn times_have_units() {
        assert_eq!(duration("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        for bad in ["", "s", "0", "5 s", "-1s", "5d", "1e400"] {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn sizes_of_files_are_millions_or_have_units() {
        assert_eq!(file_size("1"), Ok(1_000_000));
        assert_eq!(file_size("64k"), Ok(65_536));
        assert_eq!(file_size("2G"), Ok(2 << 30));
        for bad in ["", "0", "k", "-1", "1.5", "1t", "99999999999999999999"] {
            assert!(file_size(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn ring_sizes_are_powers_of_two_within_bounds() {
        assert_eq!(ring_size("64K"), Ok(65_536));
        assert_eq!(ring_size("16M"), Ok(16 << 20));
        for bad in ["0", "1", "3M", "1T", "", "-1", "8G", "99999999999999999999G"] {
            assert!(ring_size(bad).is_err(), "{bad:?}");
        }
    }
}
