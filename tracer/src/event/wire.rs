//! Ring-buffer records → [`Event`]s. The layout is `tracer_common::event`.

use std::{
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
};

use bytes::Bytes;
use compact_str::CompactString;
use tracer_common::{
    event::{
        self as raw, Tuple, decider, detail::Detail as _, family, flags, link, origin, verdict,
    },
    point::Point,
};

use super::{
    self as event, Captured, Connection, ConntrackState, Consumer, Decider, Event, Family, Headers,
    Hook, HookFamily, InHook, Origin, PacketId, Place, RuleOrPolicy, Verdict, What,
};

/// Why a record could not be read: the kernel side and the user side disagree on the layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The record is shorter than an event and what it says to carry.
    #[error("an event record of {have} bytes where {need} are needed")]
    Short {
        /// Bytes there.
        have: usize,
        /// Bytes needed.
        need: usize,
    },
    /// No point has this number.
    #[error("an event of point number {0}, which this program does not know")]
    UnknownPoint(u8),
    /// A verdict of an unknown kind.
    #[error("a verdict {verdict} of decider {decider}, which this program does not know")]
    UnknownVerdict {
        /// Who decided.
        decider: u8,
        /// What.
        verdict: u8,
    },
    /// A netfilter event with a hook or family that does not exist.
    #[error("a netfilter event of hook {hook}, family {pf}")]
    UnknownHook {
        /// `enum nf_inet_hooks`.
        hook: u8,
        /// `NFPROTO_*`.
        pf: u8,
    },
}

/// The bytes of a packet, with the VLAN tag where it stands on a wire: the kernel keeps the outer one beside
/// them (`skb->vlan_tci`), and a capture has it among them, as tcpdump's.
fn captured(e: &raw::Event, bytes: &[u8]) -> Captured {
    let link_header = e.link & link::HEADER != 0;
    let length = e.len.saturating_add_signed(e.before.into());
    let tag = link_header && e.link & link::TAG != 0;
    let (data, length) = match bytes.split_at_checked(ADDRESSES).filter(|_| tag) {
        Some((addresses, rest)) => {
            let ethertype: u16 = if e.link & link::SERVICE != 0 { 0x88a8 } else { 0x8100 };
            let (ethertype, vlan) = (ethertype.to_be_bytes(), e.vlan.to_be_bytes());
            let mut data = [addresses, &ethertype, &vlan, rest].concat();
            if (bytes.len() as u32) < length {
                // It was cut, and is to be as short as was asked for.
                data.truncate(bytes.len());
            }
            (data.into(), length.saturating_add(TAG))
        }
        None => (Bytes::copy_from_slice(bytes), length),
    };
    Captured { link_header, length: length.max(data.len() as u32), data }
}

/// Bytes of the addresses that an Ethernet header begins with, and of a VLAN tag.
const ADDRESSES: usize = 12;
const TAG: u32 = 4;

/// Reads one record of the ring buffer.
///
/// # Errors
/// [`WireError`] when the record is not one that this version's kernel side writes.
pub fn decode(record: &[u8]) -> Result<Event, WireError> {
    let head = size_of::<raw::Event>();
    let short = |need| WireError::Short { have: record.len(), need };
    if record.len() < head {
        return Err(short(head));
    }
    // SAFETY: the record holds at least size_of::<raw::Event>() bytes, and raw::Event is
    // `repr(C)` of integers, valid for every bit pattern.
    let e = unsafe { record.as_ptr().cast::<raw::Event>().read_unaligned() };
    let behind = head + e.captured as usize;
    let behind = record.get(head..behind).ok_or_else(|| short(behind))?;
    let is_packet = e.flags & flags::CONNECTION == 0 && !behind.is_empty();
    let bytes = is_packet.then(|| Box::new(captured(&e, behind)));
    let begin = e.flags & flags::BEGIN != 0;
    Ok(Event {
        time: e.time,
        id: PacketId(e.id),
        seq: e.seq,
        begin,
        parent: (begin && e.parent != 0).then_some(PacketId(e.parent)),
        origin: match e.origin {
            origin::COPY => Origin::Copy,
            origin::SEGMENT => Origin::Segment,
            origin::FRAGMENT => Origin::Fragment,
            _ => Origin::Clone,
        },
        learned: e.flags & flags::LEARNED != 0,
        thinned: e.flags & flags::THINNED != 0,
        foreign: e.flags & flags::FOREIGN != 0,
        skb: e.skb,
        place: Place { netns: e.netns, ifindex: e.ifindex },
        cpu: e.cpu,
        len: e.len,
        headers: headers(&e.tuple),
        quoted: None,
        tunneled: e.flags & flags::TUNNELED != 0,
        what: what(&e, behind)?,
        bytes,
    })
}

/// The connection behind an event; zeros where the kernel side could not read it.
fn tuples(behind: &[u8]) -> raw::Connection {
    if behind.len() < size_of::<raw::Connection>() {
        return raw::Connection::default();
    }
    // SAFETY: there are as many bytes, and a `raw::Connection` is `repr(C)` of integers, valid for
    // every bit pattern.
    unsafe { behind.as_ptr().cast::<raw::Connection>().read_unaligned() }
}

fn what(e: &raw::Event, behind: &[u8]) -> Result<What, WireError> {
    let point = Point::from_wire(e.point).ok_or(WireError::UnknownPoint(e.point))?;
    Ok(match point {
        Point::DevQueue => What::DevQueue,
        Point::DevXmit => What::DevXmit,
        Point::DevReceive => What::DevReceive,
        Point::TcIngress => What::TcIngress,
        Point::TcEgress => What::TcEgress,
        Point::Consume => {
            let d = raw::detail::Consume::from_wire(&e.detail);
            let by = || Consumer { location: d.location, pid: d.pid, comm: text(&d.comm) };
            What::Consume { by: (d.location != 0).then(|| Box::new(by())) }
        }
        Point::BridgeRx => What::BridgeRx,
        Point::BridgeForward => What::BridgeForward,
        Point::BridgeFlood => What::BridgeFlood,
        Point::BridgeLocal => What::BridgeLocal,
        Point::BridgeXmit => What::BridgeXmit,
        Point::IpReceive => What::IpReceive,
        Point::IpForward => What::IpForward,
        Point::IpLocalDeliver => What::IpLocalDeliver,
        Point::IpOutput => What::IpOutput,
        Point::Nat => What::Nat,
        Point::Conntrack => {
            let d = raw::detail::Conntrack::from_wire(&e.detail);
            let known = d.known != 0;
            What::Conntrack {
                state: conntrack_state(&d),
                status: known.then_some(d.status),
                mark: known.then_some(d.mark),
                zone: known.then_some(d.zone),
                connection: if e.flags & flags::CONNECTION != 0 {
                    connection(&tuples(behind), d.info).map(Box::new)
                } else {
                    None
                },
            }
        }
        Point::NfPrerouting
        | Point::NfInput
        | Point::NfForward
        | Point::NfOutput
        | Point::NfPostrouting
        | Point::NfIngress
        | Point::NfEgress => hook_event(e)?,
        Point::Route => {
            let d = raw::detail::Route::from_wire(&e.detail);
            What::Route {
                table: d.table,
                gateway: (d.gateway_family != 0).then(|| address(d.gateway, d.gateway_family)),
                oif: d.oif,
                kind: d.kind,
                error: d.error,
                reverse: d.reverse != 0,
            }
        }
        Point::Neigh => {
            let d = raw::detail::Neigh::from_wire(&e.detail);
            What::Neigh { state: d.state, lladdr: (d.known != 0).then_some(d.lladdr) }
        }
        Point::QdiscEnqueue | Point::QdiscDequeue => {
            let d = raw::detail::Qdisc::from_wire(&e.detail);
            let (kind, handle) = (text(&d.kind), d.handle);
            if point == Point::QdiscEnqueue {
                What::QdiscEnqueue { kind, handle }
            } else {
                What::QdiscDequeue { kind, handle }
            }
        }
        Point::Socket => {
            let d = raw::detail::Socket::from_wire(&e.detail);
            What::Socket {
                pid: NonZeroU32::new(d.pid),
                comm: (d.comm[0] != 0).then(|| text(&d.comm)),
            }
        }
        Point::Drop => {
            let d = raw::detail::Drop::from_wire(&e.detail);
            What::Drop {
                reason: (d.reason != 0).then_some(d.reason),
                location: d.location,
                hook: if d.hook.in_hook != 0 { Some(in_hook(d.hook)?) } else { None },
            }
        }
        // Journeys make these from other events; the kernel side never sends them.
        Point::Clone | Point::Copy | Point::Segment | Point::Fragment => {
            return Err(WireError::UnknownPoint(e.point));
        }
    })
}

/// What happened in a hook: entered, left, or a verdict.
fn hook_event(e: &raw::Event) -> Result<What, WireError> {
    if e.flags & flags::VERDICT != 0 {
        let d = raw::detail::Verdict::from_wire(&e.detail);
        let unknown = WireError::UnknownVerdict { decider: d.decider, verdict: d.verdict };
        return Ok(What::Verdict {
            hook: in_hook(d.hook)?,
            by: Box::new(decided_by(&d).ok_or(unknown)?),
            verdict: verdict_of(d.verdict).ok_or(unknown)?,
        });
    }
    let d = raw::detail::Netfilter::from_wire(&e.detail);
    let hook = in_hook(d.hook)?;
    Ok(if e.flags & flags::HOOK_EXIT != 0 {
        What::HookExit { hook, spent: d.spent }
    } else {
        What::HookEnter { hook, iif: d.iif, oif: d.oif }
    })
}

fn in_hook(raw: raw::detail::Hook) -> Result<InHook, WireError> {
    let unknown = WireError::UnknownHook { hook: raw.hook, pf: raw.pf };
    let family = HookFamily::from_number(raw.pf).ok_or(unknown)?;
    Ok(InHook { hook: Hook::of(family, raw.hook).ok_or(unknown)?, family, passed: raw.passed })
}

/// `info`: `enum ip_conntrack_info`, from 3 on the reply's.
fn connection(raw: &raw::Connection, info: u8) -> Option<Connection> {
    let family = match i32::from(raw.original.l3) {
        libc::NFPROTO_IPV4 => Family::Ipv4,
        libc::NFPROTO_IPV6 => Family::Ipv6,
        _ => return None,
    };
    let proto = raw.original.proto;
    let address = |bytes: [u8; 16]| match family {
        Family::Ipv6 => IpAddr::from(bytes),
        _ => IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]]),
    };
    // Of ICMP the type and the code stand in place of the port.
    let has_ports = !matches!(proto, 1 | 58);
    let tuple = |raw: &raw::ConnectionTuple| event::Tuple {
        src: address(raw.src),
        dst: address(raw.dst),
        sport: u16::from_be_bytes(raw.sport),
        dport: if has_ports { u16::from_be_bytes(raw.dport) } else { 0 },
    };
    let (original, reply) = (tuple(&raw.original), tuple(&raw.reply));
    Some(Connection { family, proto, original, reply, is_reply: matches!(info, 3 | 4) })
}

fn conntrack_state(d: &raw::detail::Conntrack) -> ConntrackState {
    match (d.tracked, d.info) {
        (_, 7) => ConntrackState::Untracked,
        (0, _) => ConntrackState::Invalid,
        (_, 1 | 4) => ConntrackState::Related,
        (_, 2) => ConntrackState::New,
        _ => ConntrackState::Established,
    }
}

fn decided_by(d: &raw::detail::Verdict) -> Option<Decider> {
    let rule = match (d.rule, d.watched) {
        (0, 0) => RuleOrPolicy::Unknown,
        (0, _) => RuleOrPolicy::Policy,
        (handle, _) => RuleOrPolicy::Rule(handle),
    };
    let legacy = |family| Decider::Legacy {
        family,
        table: text(&d.table).into_string(),
        rule: (d.rule != 0).then_some(d.rule),
    };
    Some(match d.decider {
        decider::NFTABLES => {
            Decider::Nftables { table: u64::from_ne_bytes(d.table), chain: d.chain, rule }
        }
        decider::IPTABLES => legacy(HookFamily::Ipv4),
        decider::IP6TABLES => legacy(HookFamily::Ipv6),
        decider::EBTABLES => legacy(HookFamily::Bridge),
        decider::CONNTRACK => Decider::Conntrack,
        decider::CONFIRM => Decider::Confirm,
        _ => return None,
    })
}

fn verdict_of(number: u8) -> Option<Verdict> {
    match number {
        verdict::DROP => Some(Verdict::Drop),
        verdict::STOLEN => Some(Verdict::Stolen),
        verdict::QUEUE => Some(Verdict::Queue),
        _ => None,
    }
}

/// The headers in the form of [`Event::headers`].
pub fn headers(t: &Tuple) -> Headers {
    Headers {
        family: match t.family {
            family::IPV4 => Family::Ipv4,
            family::IPV6 => Family::Ipv6,
            family::ARP => Family::Arp,
            _ => Family::Other,
        },
        proto: t.proto,
        src: address(t.src, t.family),
        dst: address(t.dst, t.family),
        sport: t.sport,
        dport: t.dport,
        l4_kind: t.l4_kind,
        l4_code: t.l4_code,
        seq: t.seq,
        ack: t.ack,
        ip_id: t.ip_id,
        ttl: t.ttl,
        later_fragment: t.later_fragment != 0,
        more_fragments: t.more_fragments != 0,
        fragment_id: t.fragment_id,
    }
}

/// An address of the wire; `::ffff:a.b.c.d` is IPv4 unless the packet itself was IPv6.
fn address(bytes: [u8; 16], family: u8) -> IpAddr {
    let v6 = Ipv6Addr::from(bytes);
    match v6.to_ipv4_mapped() {
        Some(v4) if family != family::IPV6 => IpAddr::V4(v4),
        _ => IpAddr::V6(v6),
    }
}

fn text(padded: &[u8]) -> CompactString {
    let end = padded.iter().position(|b| *b == 0).unwrap_or(padded.len());
    CompactString::from_utf8_lossy(&padded[..end])
}
