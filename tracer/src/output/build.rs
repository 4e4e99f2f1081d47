//! A journey + its explanation + names → the record that is shown.

use std::{fmt::Write as _, net::IpAddr};

use serde_json::{Map, Value, json};

use super::{describe, record};
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
    /// Names of namespaces, interfaces, reasons and functions.
    pub names: &'a N,
    /// The time of day.
    pub clock: Clock,
    /// Put the captured bytes into the records.
    pub data: bool,
}

impl<N: Names + KernelNames + ?Sized> Builder<'_, N> {
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
                    let rule = json!({ "priority": rule.priority, "text": text });
                    detail.insert("rule".to_owned(), rule);
                }
                if let Some((_, (after, before))) = between.filter(|(at, _)| *at == index) {
                    detail
                        .insert("priority".to_owned(), json!({ "after": after, "before": before }));
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

    fn netns(&self, inode: u32) -> record::Netns {
        let known = self.names.netns(inode);
        let NetnsName { name, container, process, label, .. } = known;
        record::Netns { inode, name, container, process, label }
    }

    fn device(&self, place: Place) -> Option<record::Dev> {
        (place.ifindex != 0).then(|| {
            let known = self.names.device(place);
            let (container, leads_to) =
                known.leads_to.map(|container| (container.full, container.label)).unzip();
            let DeviceName { name, bridge, .. } = known;
            record::Dev { ifindex: place.ifindex, name, bridge, container, leads_to }
        })
    }

    /// An interface of the hop's namespace by its name, else by its index.
    fn interface(&self, hop: &Hop, ifindex: u32) -> Value {
        let place = Place { netns: hop.place.netns, ifindex };
        match self.names.device(place).name {
            Some(name) => Value::from(name),
            None => Value::from(ifindex),
        }
    }

    fn detail(&self, hop: &Hop, headers: &Headers) -> Map<String, Value> {
        let mut map = Map::new();
        let mut put = |key: &str, value: Value| {
            if !value.is_null() {
                map.insert(key.to_owned(), value);
            }
        };
        match &hop.detail {
            HopDetail::None => {}
            HopDetail::Netfilter { hook, iif, oif, bridged, accepted, spent, decided } => {
                put("family", hook.family.name().into());
                let decided = decided.as_ref().map(|decided| decided.verdict);
                put("verdict", describe::verdict(*accepted, decided).into());
                if *bridged {
                    put("bridged", true.into());
                }
                for (key, ifindex) in [("iif", *iif), ("oif", *oif)] {
                    if ifindex != 0 {
                        put(key, self.interface(hop, ifindex));
                    }
                }
                put("spent_ns", (*spent).into());
            }
            HopDetail::Nat { kind, from, to } => {
                let ports = describe::has_ports(headers.family, headers.proto)
                    || describe::is_icmp(headers.family, headers.proto);
                put("from", endpoint(*from, ports).into());
                put("to", endpoint(*to, ports).into());
                let kind = match kind {
                    NatKind::Snat => "snat",
                    NatKind::Dnat => "dnat",
                };
                put("kind", kind.into());
            }
            HopDetail::Route { table, gateway, oif, kind, error, reverse } => {
                put("table", self.names.route_tables().name(*table).into());
                put("gateway", gateway.map(|gateway| gateway.to_string()).into());
                if *oif != 0 {
                    put("oif", self.interface(hop, *oif));
                }
                put("type", describe::route_type(*kind).into());
                if *error != 0 {
                    put("error", describe::route_error(*error).into());
                }
                if *reverse {
                    put("reverse", true.into());
                }
            }
            HopDetail::Neigh { state, lladdr } => {
                put("state", describe::neighbour_state(*state).into());
                let lladdr = lladdr.map(|bytes| bytes.map(|b| format!("{b:02x}")).join(":"));
                put("lladdr", lladdr.into());
            }
            HopDetail::Qdisc { kind, handle, delay } => {
                put("kind", kind.as_str().into());
                put("handle", describe::qdisc_handle(*handle).into());
                put("delay_ns", (*delay).into());
            }
            HopDetail::Socket { pid, comm } => {
                put("pid", (*pid).into());
                put("comm", comm.as_deref().into());
            }
            HopDetail::Conntrack { state, status, mark, zone, connection } => {
                put("state", state.name().into());
                put("status", status.map(describe::conntrack_status).into());
                put("mark", (*mark).into());
                put("zone", zone.filter(|zone| *zone != 0).into());
                if let Some(connection) = connection {
                    put("original", tuple(connection, connection.original));
                    put("reply", tuple(connection, connection.reply));
                }
            }
            HopDetail::Born { parent } => put("parent", packet_id(*parent).into()),
            HopDetail::Drop { reason, location, .. } => {
                put("reason", reason.map(|number| reason_name(self.names, number)).into());
                put("location", location_name(self.names, *location).into());
            }
        }
        map
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
fn tuple(connection: &Connection, tuple: Tuple) -> Value {
    let Tuple { src, dst, sport, dport } = tuple;
    if describe::is_icmp(connection.family, connection.proto) {
        return json!({ "src": src, "dst": dst, "icmp_id": sport });
    }
    if !describe::has_ports(connection.family, connection.proto) {
        return json!({ "src": src, "dst": dst });
    }
    json!({ "src": src, "sport": sport, "dst": dst, "dport": dport })
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
