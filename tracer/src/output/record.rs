//! The records that are shown, whole names joined in: what `-o json` prints a line of, what
//! `pathtrace schema` describes, and what text is rendered from.

use std::{borrow::Cow, collections::BTreeMap};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    containers::{Container, Namespace},
    fact::Facts,
    shared::Shared,
};
use crate::{event::Captured, host::containers::Process};

/// One line of `-o json`, or of `pathtrace containers -o json`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Record {
    /// The first line.
    Start(Start),
    /// A finished journey.
    Journey(Box<Journey>),
    /// The last line.
    Summary(Summary),
    /// Of `pathtrace containers`: a container.
    Container(Container),
    /// Of `pathtrace containers`: a network namespace that is no container's.
    Namespace(Namespace),
}

/// [`Record`] of a trace without owning what it holds; the same bytes.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Line<'a> {
    Start(&'a Start),
    Journey(&'a Journey),
    Summary(&'a Summary),
}

/// Which of several capture files, read together, a record is from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Source {
    /// The file, as it was named.
    pub file: String,
    /// The host that was traced; empty where the file does not tell it any more.
    pub host: String,
}

/// The trace begins: everything is attached.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Start {
    /// Version of pathtrace.
    pub version: String,
    /// Release of the running kernel.
    pub kernel: String,
    /// When, RFC 3339 UTC, nanoseconds.
    pub time: String,
    /// The points that are watched.
    pub points: Vec<WatchedPoint>,
    /// The points that this kernel cannot show.
    pub missing: Vec<MissingPoint>,
    /// What is told with other points: who decided in a hook, which rule.
    pub details: Vec<Detail>,
    /// The file that it is from; only where several are read together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
}

/// Something that is told with points, and how it is watched.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Detail {
    /// `nft_chain`, `nft_rule`, `legacy_table` or `confirm`.
    pub detail: String,
    /// As of a point; absent where it is not watched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mechanism: Option<String>,
    /// Why it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// A point and how it is watched.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct WatchedPoint {
    /// Name of the point.
    pub point: String,
    /// `tp_btf`, `tcx`, `clsact` or `netfilter_link`.
    pub mechanism: String,
}

/// A point that is not watched.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct MissingPoint {
    /// Name of the point.
    pub point: String,
    /// Why not.
    pub why: String,
}

/// One packet's way.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Journey {
    /// Number of the journey in this trace, from 1.
    pub id: u64,
    /// When it was first seen, RFC 3339 UTC, nanoseconds.
    pub time: String,
    /// ns from its first to its last hop.
    pub duration_ns: u64,
    /// Whether it went the way of the flow's first packet.
    pub direction: Direction,
    /// The flow, as its originating side sent it.
    pub flow: Flow,
    /// This packet, as it was first seen.
    pub packet: Packet,
    /// What NAT rewrote: the last value, `null` where nothing was.
    pub nat: Nat,
    /// Bytes of the packet.
    pub length: u32,
    /// What was seen, in order.
    pub hops: Vec<Hop>,
    /// The packets that were made from this one, in the order in which they were: journeys of their own.
    /// Those that began later than 300 ms after its last hop are told by their `parent` only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub branches: Vec<Branch>,
    /// How many more branches there were than are listed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub branches_left_out: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// Whether every event of the packet was received.
    pub complete: bool,
    /// Hops are left out on purpose: there were more events than `--max-events` and `--max-cpu` allow.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub thinned: bool,
    /// The file that it is from; only where several are read together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
}

/// The direction of a packet in its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// As the side that began sends.
    Original,
    /// As the other side answers.
    Reply,
}

impl Direction {
    /// Its name in JSON and text.
    pub fn name(self) -> &'static str {
        match self {
            Direction::Original => "original",
            Direction::Reply => "reply",
        }
    }
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// A packet that was made from the journey's packet.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Branch {
    /// Its id, as `id` of its `packet`.
    pub packet: String,
    /// Number of its journey, where that was shown before this one; else that one's
    /// `parent_journey` tells this one's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub journey: Option<u64>,
    /// How it was made: `clone`, `copy`, `segment` or `fragment`.
    pub origin: Cow<'static, str>,
    /// Index in `hops` of where it left.
    pub hop: usize,
    /// The network namespace where it was first seen.
    pub netns: Shared<Netns>,
    /// The interface where it was first seen; `null` where it had none yet.
    pub dev: Option<Shared<Dev>>,
    /// How it ended; `null` where it was still on its way.
    pub outcome: Option<BranchEnd>,
}

/// How a branch ended; its own journey tells more.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct BranchEnd {
    /// As of a journey.
    pub kind: OutcomeKind,
    /// The network namespace where it ended.
    pub netns: Shared<Netns>,
    /// The interface where it ended.
    pub dev: Option<Shared<Dev>>,
}

/// A flow: the same id for both directions.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Flow {
    /// Number of the flow in this trace, from 1.
    pub id: u64,
    /// `tcp`, `udp`, `icmp`, `icmp6`, `sctp`, `arp`, or the IP protocol's number.
    pub proto: String,
    /// Source address; `null` for a packet that is neither IP nor ARP.
    pub src: Option<String>,
    /// Destination address.
    pub dst: Option<String>,
    /// Source port.
    pub sport: Option<u16>,
    /// Destination port.
    pub dport: Option<u16>,
    /// ICMP type of this packet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icmp_type: Option<u8>,
    /// ICMP code of this packet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icmp_code: Option<u8>,
    /// Identifier of an ICMP echo.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icmp_id: Option<u16>,
    /// Sequence number of this ICMP echo.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icmp_seq: Option<u16>,
}

/// A packet as it was first seen; unlike its flow, in its own direction.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Packet {
    /// Its id in this trace, hexadecimal; `parent` of a copy or a piece refers to it. Text, for not
    /// every reader of JSON has integers of 64 bits.
    pub id: String,
    /// The packet that this one was cloned, copied or cut from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Number of that packet's journey, where that was finished before this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent_journey: Option<u64>,
    /// Of a fragment: the packet that it was put together to, which goes on in its stead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub whole: Option<String>,
    /// Of a packet that was put together from fragments: the others, as far as they were followed. The last
    /// one to come becomes the whole packet, so this one began as a fragment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fragments: Vec<String>,
    /// Source address; `null` for a packet that is neither IP nor ARP.
    pub src: Option<String>,
    /// Destination address.
    pub dst: Option<String>,
    /// The container or namespace that owns the source address, where exactly one does, as text calls
    /// it; absent with `-n`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub src_name: Option<String>,
    /// The container or namespace that owns the destination address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dst_name: Option<String>,
    /// Source port.
    pub sport: Option<u16>,
    /// Destination port.
    pub dport: Option<u16>,
    /// Time to live, or hop limit; `null` where it has none.
    pub ttl: Option<u8>,
    /// What it is, in words: `echo request id 7 seq 1`, `SYN seq 1000`.
    pub info: String,
}

/// What NAT rewrote.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct Nat {
    /// Source address.
    pub src: Option<String>,
    /// Source port.
    pub sport: Option<u16>,
    /// Destination address.
    pub dst: Option<String>,
    /// Destination port.
    pub dport: Option<u16>,
}

/// One sighting.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Hop {
    /// ns since the journey's start.
    pub t_ns: u64,
    /// Name of the point.
    pub point: Cow<'static, str>,
    /// Its layer.
    pub layer: Cow<'static, str>,
    /// The network namespace.
    pub netns: Shared<Netns>,
    /// The interface; `null` where the packet had none yet.
    pub dev: Option<Shared<Dev>>,
    /// CPU.
    pub cpu: u16,
    /// What the point told; a key is absent where its value is not known. By point:
    /// `nf_*` `family` (`ip`, `ip6`, `bridge`, `arp`, `netdev`), `verdict` (`accept`, `drop`,
    /// `queue`, `stolen`), `bridged` (`true`: a hook of IP that a bridge runs), `iif`, `oif`,
    /// `spent_ns`, `priority`; `conntrack` `state` (`new`, `established`, `related`, `invalid`,
    /// `untracked`), `status` (names of its bits), `mark`, `zone` where it is not 0, `original` and `reply`
    /// (its tuples: `src`, `sport`, `dst`, `dport`, of ICMP `icmp_id`); `nat` `kind`, `from`, `to`; `route`
    /// `table`, `gateway`, `oif`, `type`, `error`, `reverse`, `rule` (`priority` and `text` as of `ip rule`;
    /// where one alone can have led to the table); `neigh` `state`, `lladdr`; `qdisc_*`
    /// `kind`, `handle`, `delay_ns`; `socket` `pid`, `comm`; `clone`, `copy`, `segment` and
    /// `fragment` `parent`; `drop` `reason`, `location`.
    #[schemars(with = "Map<String, Value>")]
    pub detail: Facts,
    /// It is in a tunnel's packet here.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tunneled: bool,
    /// The packet's bytes here, as hexadecimal digits; only with `--snaplen`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// The same bytes, as they were captured: what capture files are made of.
    #[serde(skip)]
    pub captured: Option<Captured>,
}

/// A network namespace.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Netns {
    /// Inode.
    pub inode: u32,
    /// Name under /run/netns, or `host` for the one that pathtrace runs in.
    pub name: Option<String>,
    /// `RUNTIME:NAME` of the container that owns it, `RUNTIME:PROJECT/NAME` outside the default
    /// project.
    pub container: Option<String>,
    /// Its oldest process, where it has neither name nor container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
    /// What text calls it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
}

/// An interface.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Dev {
    /// Index in its namespace.
    pub ifindex: u32,
    /// Name, where it is known.
    pub name: Option<String>,
    /// The bridge that it is a port of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bridge: Option<String>,
    /// `RUNTIME:NAME` of the container that it leads to, seen from outside: through a veth pair, or as
    /// the tap of a virtual machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// What text calls that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leads_to: Option<String>,
}

/// How a journey ended.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Outcome {
    /// `transmitted`, `delivered`, `dropped`, `consumed` or `lost`.
    pub kind: OutcomeKind,
    /// Index in `hops`.
    pub hop: usize,
    /// The kernel's name of the drop reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Where in the kernel, `function+0xoffset`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// The rule or the base chain that decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<Rule>,
    /// One sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Commands or settings that help.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub advice: Vec<String>,
    /// What the sentence rests on.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub evidence: Map<String, Value>,
}

/// Kinds of outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OutcomeKind {
    /// Left by a device that ends on this host.
    Transmitted,
    /// A socket, or the stack of a namespace, took it.
    Delivered,
    /// Dropped.
    Dropped,
    /// Ended without a drop and without delivery.
    Consumed,
    /// No end was seen.
    Lost,
}

/// A rule, or the policy of a base chain, that decided; where only that is known, the base chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Rule {
    /// `nftables` (iptables-nft's too), `iptables-legacy` (ip6tables' too) or `ebtables-legacy`.
    pub backend: String,
    /// `ip`, `ip6`, `inet`, `bridge`, `arp` or `netdev`.
    pub family: String,
    /// Table.
    pub table: String,
    /// The chain that the rule stands in, or whose policy it is.
    pub chain: String,
    /// The base chain that led there, where that is another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_chain: Option<String>,
    /// Hook.
    pub hook: String,
    /// Priority of the base chain; `null` where several lead to the rule.
    pub priority: Option<i32>,
    /// Handle of the rule; `null` where only the chain is known, and for a legacy rule.
    pub handle: Option<u64>,
    /// Number of a legacy rule in its chain, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub number: Option<u64>,
    /// The chain's policy decided; `null` where it is not known whether a rule or the policy did.
    pub policy: Option<bool>,
    /// Text of the rule, where it is known.
    pub text: Option<String>,
    /// It was not seen to decide: going by the rules, nothing else there could have dropped the
    /// packet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub inferred: bool,
}

/// The last line: what was traced.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Summary {
    /// ns from "tracing" to the end.
    pub duration_ns: u64,
    /// Journeys finished (all of them, also those that `--drops` did not show).
    pub journeys: u64,
    /// How they ended.
    pub outcomes: Outcomes,
    /// Drops by cause, most first.
    pub drops: Vec<DropCount>,
    /// Events received and lost.
    pub events: Events,
    /// How long packets took, by segments of their way.
    pub latency: Latency,
}

/// How long packets took, by segments of their way; a segment that no packet passed is absent. Dropped
/// packets count as far as they came.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct Latency {
    /// Of all flows.
    pub host: BTreeMap<Segment, Times>,
    /// Of the most active flows, most journeys first.
    pub flows: Vec<FlowLatency>,
    /// Flows that are not among these.
    pub flows_untold: u64,
    /// Flows whose figures were given up, for there were too many: those silent for longest. In `host`
    /// they are.
    pub flows_forgotten: u64,
    /// Journeys that are in no figure, for events of them were lost.
    pub incomplete: u64,
}

/// How long the packets of a flow took, both directions of it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct FlowLatency {
    /// Number of the flow, as `id` of a journey's `flow`.
    pub flow: u64,
    /// As of a journey's `flow`; so are the addresses and ports.
    pub proto: String,
    /// Source address.
    pub src: Option<String>,
    /// Destination address.
    pub dst: Option<String>,
    /// Source port.
    pub sport: Option<u16>,
    /// Destination port.
    pub dport: Option<u16>,
    /// Its journeys in these figures.
    pub journeys: u64,
    /// By segment.
    pub segments: BTreeMap<Segment, Times>,
}

/// A part of a packet's way. The host is the network namespace that pathtrace runs in; a NIC is any
/// interface of it that is no port of a bridge; the routing decision is the last look-up of the way on, or
/// where there was none, the hook behind it (`nf_forward`, `nf_input`, `nf_output`).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Segment {
    /// From its first hop, in another namespace, to its reception at a port of a bridge.
    ContainerToBridge,
    /// From a port of a bridge to another one (or from one back), without a routing decision.
    Bridge,
    /// From its reception at a port of a bridge to the routing decision.
    BridgeToRoute,
    /// From its reception at a NIC to the routing decision.
    NicToRoute,
    /// From the routing decision until it was given to the driver of a port of a bridge.
    RouteToBridge,
    /// From the routing decision until it was given to the driver of a NIC; with the wait in its qdisc.
    RouteToNic,
    /// From the driver of a port of a bridge until the stack of another namespace took it.
    BridgeToContainer,
    /// From enqueued to dequeued in a qdisc, of any namespace: once for each qdisc.
    QdiscWait,
    /// From its first hop until it was delivered or transmitted.
    Whole,
}

impl Segment {
    /// What people call it.
    pub fn title(self) -> &'static str {
        match self {
            Segment::ContainerToBridge => "container → bridge",
            Segment::Bridge => "bridge",
            Segment::BridgeToRoute => "bridge → route",
            Segment::NicToRoute => "nic → route",
            Segment::RouteToBridge => "route → bridge",
            Segment::RouteToNic => "route → nic",
            Segment::BridgeToContainer => "bridge → container",
            Segment::QdiscWait => "qdisc wait",
            Segment::Whole => "whole way",
        }
    }
}

/// A distribution of times, exact to two digits.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Times {
    /// How many.
    pub count: u64,
    /// Median, ns.
    pub p50_ns: u64,
    /// 90 of 100 took no longer, ns.
    pub p90_ns: u64,
    /// 99 of 100 took no longer, ns.
    pub p99_ns: u64,
    /// The longest, ns.
    pub max_ns: u64,
}

/// Journeys by outcome.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct Outcomes {
    /// Left by a device that ends on this host.
    pub transmitted: u64,
    /// Taken by a socket or a stack.
    pub delivered: u64,
    /// Dropped.
    pub dropped: u64,
    /// Ended otherwise.
    pub consumed: u64,
    /// No end was seen.
    pub lost: u64,
}

/// Drops of one cause.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct DropCount {
    /// The kernel's reason.
    pub reason: String,
    /// The rule or chain, in one line.
    pub rule: Option<String>,
    /// How many.
    pub count: u64,
}

/// Events received and lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Events {
    /// What the kernel side had to tell, by its own count: `received`, `lost.ring_full`, `lost.undecodable` and
    /// `lost.unaccounted` together. 0 in files from before it was counted.
    #[serde(default)]
    pub offered: u64,
    /// Received.
    pub received: u64,
    /// Lost, by cause.
    pub lost: LostEvents,
    /// Left out on purpose: there was more than `--max-events` and `--max-cpu` allow, or than memory is for.
    #[serde(default)]
    pub left_out: LeftOut,
}

/// What was left out on purpose, exactly counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LeftOut {
    /// Packets that no journey tells of: none of them was dropped.
    pub packets: u64,
    /// Events, of these packets and of others.
    pub events: u64,
    /// At the least, of so many packets one was told, besides those that were dropped; 0 where nothing was
    /// left out, 1 where only the middle of journeys was.
    pub one_of: u32,
    /// Captured bytes that were cut off packets, all but the first 128 of each: too many waited to be written.
    #[serde(default)]
    pub bytes: u64,
}

/// Events or packets given up, by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LostEvents {
    /// The ring buffer was full.
    pub ring_full: u64,
    /// The table of followed packets was full.
    pub tracking_full: u64,
    /// Packets were not followed because events came faster than they were taken.
    pub behind: u64,
    /// A program could not run (the kernel's count of recursion misses).
    pub probe_missed: u64,
    /// The table of learned replies, or that of published addresses and ports, was full.
    pub learned_full: u64,
    /// Addresses of selected containers that had no room: packets that have no other are not followed.
    #[serde(default)]
    pub addresses_full: u64,
    /// The table of journeys in the making was full: journeys ended early.
    pub journeys_evicted: u64,
    /// Flows forgotten because there were too many: their later packets count as another flow.
    pub flows_evicted: u64,
    /// Events that came after their journey had ended, or twice.
    pub late: u64,
    /// Records that could not be read.
    pub undecodable: u64,
    /// Events that the kernel side has offered, and of which nothing came. Looked at when the trace ends.
    #[serde(default)]
    pub unaccounted: u64,
    /// Messages of the kernel's own rule tracing; only with `--nft-trace`.
    pub nft_trace: u64,
}
