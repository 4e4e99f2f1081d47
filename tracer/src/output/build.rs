//! A journey + its explanation + names → the record that is shown.

use std::{cell::RefCell, collections::HashMap, fmt::Write as _, net::IpAddr};

use foldhash::fast::FixedState;
use serde_json::json;

use super::{
    describe,
    fact::{Fact, Facts},
    record,
    shared::Shared,
};
use crate::{
    event::{Captured, Connection, Family, Headers, PacketId, Place, Tuple},
    explain::{
        Decision, DeviceName, Explanation, KernelNames, Names, NetnsName, location_name,
        reason_name, routing,
    },
    journey::{Branch, Direction, Hop, HopDetail, Journey, NatKind, Outcome},
};

/// From CLOCK_MONOTONIC, which the kernel stamps events with, to the time of day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    /// ns to add: CLOCK_REALTIME − CLOCK_MONOTONIC.
    pub offset: i128,
}

impl Clock {
    /// A time of CLOCK_MONOTONIC as RFC 3339 UTC with nanoseconds.
    pub fn wall(self, monotonic: u64) -> String {
        let time = i128::from(monotonic).saturating_add(self.offset);
        let time = jiff::Timestamp::from_nanosecond(time).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        format!("{time:.9}")
    }
}

/// Makes records.
#[derive(Debug)]
pub struct Builder<'a, N: ?Sized> {
    names: &'a N,
    clock: Clock,
    data: bool,
    /// Made once each: as long as the names are borrowed, they stay what they are.
    namespaces: RefCell<HashMap<u32, Shared<record::Netns>, FixedState>>,
    devices: RefCell<HashMap<Place, Shared<record::Dev>, FixedState>>,
}

impl<'a, N: Names + KernelNames + ?Sized> Builder<'a, N> {
    /// With these names of namespaces, interfaces, reasons and functions. `data`: the captured bytes are put into
    /// the records.
    pub fn new(names: &'a N, clock: Clock, data: bool) -> Self {
        Self { names, clock, data, namespaces: RefCell::default(), devices: RefCell::default() }
    }

    /// The record of a journey.
    pub fn journey(&self, journey: &Journey, explained: Option<&Explanation>) -> record::Journey {
        let headers = &journey.headers;
        record::Journey {
            id: journey.number,
            time: self.clock.wall(journey.start),
            duration_ns: journey.duration,
            direction: match journey.direction {
                Direction::Original => record::Direction::Original,
                Direction::Reply => record::Direction::Reply,
            },
            flow: flow(journey),
            packet: self.packet(journey),
            nat: nat(journey),
            length: journey.length,
            hops: self.hops(journey, explained, headers),
            branches: journey.branches.iter().map(|branch| self.branch(journey, branch)).collect(),
            branches_left_out: journey.branches.left_out(),
            outcome: outcome(&journey.outcome, explained),
            complete: journey.complete,
            thinned: journey.thinned,
            source: None,
        }
    }

    /// How a journey ended: of its record, what costs little where nobody is to see the whole.
    pub fn outcome(&self, journey: &Journey, explained: Option<&Explanation>) -> record::Outcome {
        outcome(&journey.outcome, explained)
    }

    fn hops(
        &self,
        journey: &Journey,
        explained: Option<&Explanation>,
        headers: &Headers,
    ) -> Vec<record::Hop> {
        let between = explained
            .and_then(|explained| explained.between)
            .map(|between| (journey.outcome.hop(), between));
        journey
            .hops
            .iter()
            .enumerate()
            .map(|(index, hop)| {
                let mut detail = self.detail(hop, headers);
                if let Some(rule) = routing::rule(journey, index, self.names) {
                    let text = rule.text(&self.names.route_tables()).to_string();
                    detail.put("rule", json!({ "priority": rule.priority, "text": text }));
                }
                if let Some((_, (after, before))) = between.filter(|(at, _)| *at == index) {
                    detail.put("priority", json!({ "after": after, "before": before }));
                }
                record::Hop {
                    t_ns: hop.at,
                    point: hop.point.name().into(),
                    layer: hop.point.layer().name().into(),
                    netns: self.netns(hop.place.netns),
                    dev: self.device(hop.place),
                    cpu: hop.cpu,
                    tunneled: hop.tunneled,
                    detail,
                    data: hop.bytes.as_deref().filter(|_| self.data).map(hexadecimal),
                    captured: hop.bytes.as_deref().cloned(),
                }
            })
            .collect()
    }

    fn packet(&self, journey: &Journey) -> record::Packet {
        let headers = &journey.headers;
        let addressed = headers.family != Family::Other;
        let ports = describe::has_ports(headers.family, headers.proto) && !headers.later_fragment;
        let ip = matches!(headers.family, Family::Ipv4 | Family::Ipv6);
        let owner = |address| addressed.then(|| self.names.owner(address)).flatten();
        record::Packet {
            id: packet_id(journey.id),
            parent: journey.parent.map(|parent| packet_id(parent.packet)),
            parent_journey: journey.parent.and_then(|parent| parent.number),
            whole: journey.whole.map(packet_id),
            fragments: journey.fragments.iter().copied().map(packet_id).collect(),
            src: addressed.then(|| headers.src.to_string()),
            dst: addressed.then(|| headers.dst.to_string()),
            src_name: owner(headers.src),
            dst_name: owner(headers.dst),
            sport: ports.then_some(headers.sport),
            dport: ports.then_some(headers.dport),
            ttl: ip.then_some(headers.ttl),
            info: describe::packet(headers),
        }
    }

    fn branch(&self, journey: &Journey, branch: &Branch) -> record::Branch {
        record::Branch {
            packet: packet_id(branch.packet),
            journey: branch.number,
            origin: branch.origin.point().name().into(),
            hop: journey.left_at(branch),
            netns: self.netns(branch.first.netns),
            dev: self.device(branch.first),
            outcome: branch.ended.as_ref().map(|(outcome, place)| record::BranchEnd {
                kind: outcome_kind(outcome),
                netns: self.netns(place.netns),
                dev: self.device(*place),
            }),
        }
    }

    fn netns(&self, inode: u32) -> Shared<record::Netns> {
        let mut known = self.namespaces.borrow_mut();
        let record = known.entry(inode).or_insert_with(|| {
            let NetnsName { name, container, process, label, .. } = self.names.netns(inode);
            Shared::new(record::Netns { inode, name, container, process, label })
        });
        record.clone()
    }

    fn device(&self, place: Place) -> Option<Shared<record::Dev>> {
        if place.ifindex == 0 {
            return None;
        }
        let mut known = self.devices.borrow_mut();
        let record = known.entry(place).or_insert_with(|| {
            let DeviceName { name, bridge, leads_to } = self.names.device(place);
            let (container, leads_to) =
                leads_to.map(|container| (container.full, container.label)).unzip();
            let ifindex = place.ifindex;
            Shared::new(record::Dev { ifindex, name, bridge, container, leads_to })
        });
        Some(record.clone())
    }

    /// An interface of the hop's namespace by its name, else by its index.
    fn interface(&self, hop: &Hop, ifindex: u32) -> Fact {
        let place = Place { netns: hop.place.netns, ifindex };
        match self.device(place).and_then(|device| device.name.clone()) {
            Some(name) => name.into(),
            None => ifindex.into(),
        }
    }

    fn detail(&self, hop: &Hop, headers: &Headers) -> Facts {
        let mut facts = Facts::default();
        match &hop.detail {
            HopDetail::None => {}
            HopDetail::Netfilter { hook, iif, oif, bridged, accepted, spent, decided } => {
                facts.put("family", hook.family.name());
                let decided = decided.as_ref().map(|decided| decided.verdict);
                facts.put_known("verdict", describe::verdict(*accepted, decided));
                if *bridged {
                    facts.put("bridged", true);
                }
                for (key, ifindex) in [("iif", *iif), ("oif", *oif)] {
                    if ifindex != 0 {
                        facts.put(key, self.interface(hop, ifindex));
                    }
                }
                facts.put_known("spent_ns", *spent);
            }
            HopDetail::Nat { kind, from, to } => {
                let ports = describe::has_ports(headers.family, headers.proto)
                    || describe::is_icmp(headers.family, headers.proto);
                facts.put("from", endpoint(*from, ports));
                facts.put("to", endpoint(*to, ports));
                let kind = match kind {
                    NatKind::Snat => "snat",
                    NatKind::Dnat => "dnat",
                };
                facts.put("kind", kind);
            }
            HopDetail::Route { table, gateway, oif, kind, error, reverse } => {
                facts.put("table", self.names.route_tables().name(*table));
                facts.put_known("gateway", *gateway);
                if *oif != 0 {
                    facts.put("oif", self.interface(hop, *oif));
                }
                facts.put_known("type", describe::route_type(*kind));
                if *error != 0 {
                    facts.put("error", describe::route_error(*error));
                }
                if *reverse {
                    facts.put("reverse", true);
                }
            }
            HopDetail::Neigh { state, lladdr } => {
                facts.put("state", describe::neighbour_state(*state));
                let lladdr = lladdr.map(|bytes| bytes.map(|b| format!("{b:02x}")).join(":"));
                facts.put_known("lladdr", lladdr);
            }
            HopDetail::Qdisc { kind, handle, delay } => {
                facts.put("kind", kind.as_str().to_owned());
                facts.put("handle", describe::qdisc_handle(*handle));
                facts.put_known("delay_ns", *delay);
            }
            HopDetail::Socket { pid, comm } => {
                facts.put_known("pid", *pid);
                facts.put_known("comm", comm.as_deref().map(str::to_owned));
            }
            HopDetail::Conntrack { state, status, mark, zone, connection } => {
                facts.put("state", state.name());
                facts.put_known("status", status.map(describe::conntrack_status));
                facts.put_known("mark", *mark);
                facts.put_known("zone", zone.filter(|zone| *zone != 0));
                if let Some(connection) = connection {
                    facts.put("original", tuple(connection, connection.original));
                    facts.put("reply", tuple(connection, connection.reply));
                }
            }
            HopDetail::Born { parent } => facts.put("parent", packet_id(*parent)),
            HopDetail::Drop { reason, location, .. } => {
                let reason = reason.map(|number| reason_name(self.names, number));
                facts.put_known("reason", reason);
                facts.put("location", location_name(self.names, *location));
            }
        }
        facts
    }
}

fn endpoint((address, port): (IpAddr, u16), ports: bool) -> String {
    match address {
        _ if !ports || port == 0 => address.to_string(),
        IpAddr::V4(address) => format!("{address}:{port}"),
        IpAddr::V6(address) => format!("[{address}]:{port}"),
    }
}

/// A tuple of a connection.
fn tuple(connection: &Connection, tuple: Tuple) -> Facts {
    let Tuple { src, dst, sport, dport } = tuple;
    let mut facts = Facts::default();
    let icmp = describe::is_icmp(connection.family, connection.proto);
    let ports = !icmp && describe::has_ports(connection.family, connection.proto);
    facts.put("src", src);
    facts.put_known("sport", ports.then_some(sport));
    facts.put("dst", dst);
    facts.put_known("dport", ports.then_some(dport));
    facts.put_known("icmp_id", icmp.then_some(sport));
    facts
}

fn hexadecimal(captured: &Captured) -> String {
    let mut text = String::with_capacity(captured.data.len() * 2);
    for byte in &captured.data {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn flow(journey: &Journey) -> record::Flow {
    let (flow, headers) = (&journey.flow, &journey.headers);
    let addressed = flow.family != Family::Other;
    // Of a fragment whose first one was not seen they are not known.
    let told = !headers.later_fragment || (flow.sport, flow.dport) != (0, 0);
    let ports = describe::has_ports(flow.family, flow.proto) && told;
    // Of the packet: an error belongs to the flow of what it quotes.
    let icmp = describe::is_icmp(headers.family, headers.proto) && !headers.later_fragment;
    let echo = icmp && describe::is_echo(headers);
    record::Flow {
        id: flow.id.0,
        proto: describe::protocol(flow.family, flow.proto),
        src: addressed.then(|| flow.src.to_string()),
        dst: addressed.then(|| flow.dst.to_string()),
        sport: ports.then_some(flow.sport),
        dport: ports.then_some(flow.dport),
        icmp_type: icmp.then_some(headers.l4_kind),
        icmp_code: icmp.then_some(headers.l4_code),
        icmp_id: echo.then_some(headers.sport),
        icmp_seq: echo.then(|| u16::try_from(headers.seq).unwrap_or_default()),
    }
}

fn packet_id(id: PacketId) -> String {
    format!("{:x}", id.0)
}

fn nat(journey: &Journey) -> record::Nat {
    record::Nat {
        src: journey.nat.src.map(|address| address.to_string()),
        sport: journey.nat.sport,
        dst: journey.nat.dst.map(|address| address.to_string()),
        dport: journey.nat.dport,
    }
}

fn outcome_kind(outcome: &Outcome) -> record::OutcomeKind {
    match outcome {
        Outcome::Transmitted { .. } => record::OutcomeKind::Transmitted,
        Outcome::Delivered { .. } => record::OutcomeKind::Delivered,
        Outcome::Dropped { .. } => record::OutcomeKind::Dropped,
        Outcome::Consumed { .. } => record::OutcomeKind::Consumed,
        Outcome::Lost { .. } => record::OutcomeKind::Lost,
    }
}

fn outcome(outcome: &Outcome, explained: Option<&Explanation>) -> record::Outcome {
    let explained = explained.cloned().unwrap_or_default();
    record::Outcome {
        kind: outcome_kind(outcome),
        hop: outcome.hop(),
        reason: explained.reason,
        location: explained.location,
        rule: explained.rule.map(rule),
        why: (!explained.why.is_empty()).then_some(explained.why),
        advice: explained.advice,
        evidence: explained.evidence,
    }
}

fn rule(decision: Decision) -> record::Rule {
    let Decision { chain, within, handle, number, policy, text, inferred, .. } = decision;
    let (chain_name, base_chain) = match within {
        // Which base chain led there may not be known.
        Some(within) => (within, Some(chain.chain).filter(|name| !name.is_empty())),
        None => (chain.chain, None),
    };
    record::Rule {
        backend: chain.backend,
        family: chain.family,
        table: chain.table,
        chain: chain_name,
        base_chain,
        hook: chain.hook,
        priority: chain.priority,
        handle,
        number,
        policy,
        text,
        inferred,
    }
}
