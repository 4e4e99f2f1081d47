//! A flood of packets as the kernel side tells of it: records of the ring buffer, made of a recorded
//! question and its answer, which a host forwards and masquerades, under other numbers.

use std::{
    error::Error,
    fs::File,
    io::BufReader,
    mem::offset_of,
    net::{IpAddr, Ipv4Addr},
    path::Path,
};

use tracer::event::{Event, Family, Headers, Hook, HookFamily, InHook, What, recording};
use tracer_common::event::{self as raw, detail, detail::Detail as _, flags};

/// A connection that is opened: its first two packets are what the flood is made of.
const RECORDING: &str = "tests/fixtures/tcp_and_a_closed_udp_port.events.jsonl";
/// The ports of that connection.
const CLIENT: u16 = 34_928;
const SERVER: u16 = 8_080;
/// ns from the beginning of a packet to that of the next: 80,000 packets/s, some two million events/s.
const APART: u64 = 12_500;
/// Flows that differ in the client's port; further ones differ in the server's.
const CLIENTS: u64 = 60_000;

/// Packets of many flows, a question and its answer in turns.
pub struct Flood {
    templates: [Vec<raw::Event>; 2],
    flows: u64,
}

impl Flood {
    /// Of this many flows.
    pub fn of(flows: u64) -> Result<Self, Box<dyn Error>> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(RECORDING);
        let events = recording::read(BufReader::new(File::open(path)?))?;
        let mut ids: Vec<_> = events.iter().filter(|event| event.begin).map(|e| e.id).collect();
        ids.truncate(2);
        let &[question, answer] = ids.as_slice() else { return Err("no two packets".into()) };
        let start = events[0].time;
        let template = |id| {
            let own = events.iter().filter(|event| event.id == id);
            own.map(|event| encode(event, start)).collect::<Result<Vec<_>, _>>()
        };
        Ok(Self { templates: [template(question)?, template(answer)?], flows })
    }

    /// The records of a packet, numbered from 0.
    pub fn packet(&self, number: u64) -> impl Iterator<Item = raw::Event> {
        let flow = (number / 2) % self.flows;
        let (client, server) = (1_024 + (flow % CLIENTS) as u16, (flow / CLIENTS) as u16);
        let port = move |port| match port {
            CLIENT => client,
            SERVER => SERVER + server,
            other => other,
        };
        let template = &self.templates[(number % 2) as usize];
        let began = template.first().map_or(0, |first| first.time);
        template.iter().map(move |event| {
            let (sport, dport) = (port(event.tuple.sport), port(event.tuple.dport));
            raw::Event {
                time: event.time - began + number * APART,
                id: (number + 1) << 12,
                skb: event.skb ^ (number << 8),
                tuple: raw::Tuple { sport, dport, ip_id: number as u16, ..event.tuple },
                ..*event
            }
        })
    }
}

const RECORD: usize = size_of::<raw::Event>();

/// The bytes of a record.
pub fn record(event: &raw::Event) -> [u8; RECORD] {
    let mut record = [0; RECORD];
    let mut put = |at: usize, bytes: &[u8]| record[at..at + bytes.len()].copy_from_slice(bytes);
    macro_rules! numbers { ($($($field:ident).+),*) => { $(
        put(offset_of!(raw::Event, $($field).+), &event.$($field).+.to_ne_bytes());
    )* } }
    numbers!(time, id, parent, skb, netns, ifindex, len, captured, seq, cpu, point, flags, link);
    numbers!(origin, vlan, before, tuple.sport, tuple.dport, tuple.family, tuple.proto);
    numbers!(tuple.l4_kind, tuple.l4_code, tuple.seq, tuple.ack, tuple.ip_id, tuple.ttl);
    numbers!(tuple.later_fragment, tuple.fragment_id, tuple.more_fragments);
    put(offset_of!(raw::Event, tuple.src), &event.tuple.src);
    put(offset_of!(raw::Event, tuple.dst), &event.tuple.dst);
    for (n, word) in event.detail.iter().enumerate() {
        put(offset_of!(raw::Event, detail) + 8 * n, &word.to_ne_bytes());
    }
    record
}

/// The record that such an event was read from, as far as the recording has such.
fn encode(event: &Event, start: u64) -> Result<raw::Event, String> {
    let (detail, more) = match &event.what {
        What::HookEnter { hook, iif, oif } => {
            let hook = encode_hook(hook)?;
            (detail::Netfilter { hook, iif: *iif, oif: *oif, spent: 0 }.to_wire(), 0)
        }
        What::HookExit { hook, spent } => {
            let (hook, spent) = (encode_hook(hook)?, *spent);
            let detail = detail::Netfilter { hook, spent, ..Default::default() };
            (detail.to_wire(), flags::HOOK_EXIT)
        }
        &What::Route { table, gateway, oif, kind, error, reverse } => {
            let detail = detail::Route {
                gateway: gateway.map(wire_address).unwrap_or_default(),
                table,
                error,
                oif,
                gateway_family: if gateway.is_some() { raw::family::IPV4 } else { 0 },
                kind,
                reverse: reverse.into(),
                pad: 0,
            };
            (detail.to_wire(), 0)
        }
        What::TcIngress
        | What::TcEgress
        | What::DevQueue
        | What::DevXmit
        | What::DevReceive
        | What::Consume { by: None } => (raw::DetailWire::default(), 0),
        other => return Err(format!("no record is made of {other:?}")),
    };
    Ok(raw::Event {
        time: event.time - start,
        id: event.id.0,
        parent: 0,
        skb: event.skb,
        netns: event.place.netns,
        ifindex: event.place.ifindex,
        len: event.len,
        captured: 0,
        seq: event.seq,
        cpu: event.cpu,
        point: event.what.point() as u8,
        flags: more | if event.begin { flags::BEGIN } else { 0 },
        link: 0,
        origin: raw::origin::NONE,
        tuple: encode_headers(&event.headers)?,
        vlan: 0,
        before: 0,
        detail,
    })
}

fn encode_headers(h: &Headers) -> Result<raw::Tuple, String> {
    if h.family != Family::Ipv4 || h.is_fragment() {
        return Err(format!("no record is made of {h:?}"));
    }
    Ok(raw::Tuple {
        src: wire_address(h.src),
        dst: wire_address(h.dst),
        sport: h.sport,
        dport: h.dport,
        family: raw::family::IPV4,
        proto: h.proto,
        l4_kind: h.l4_kind,
        l4_code: h.l4_code,
        seq: h.seq,
        ack: h.ack,
        ip_id: h.ip_id,
        ttl: h.ttl,
        ..Default::default()
    })
}

fn encode_hook(hook: &InHook) -> Result<detail::Hook, String> {
    let number = Hook::ALL.iter().position(|known| *known == hook.hook);
    match (number, hook.family) {
        (Some(number), HookFamily::Ipv4) => {
            Ok(detail::Hook { in_hook: 1, hook: number as u8, pf: 2, passed: hook.passed })
        }
        _ => Err(format!("no record is made of {hook:?}")),
    }
}

fn wire_address(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => Ipv4Addr::to_ipv6_mapped(&v4).octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}
