//! Numbers of protocols and kernels in the words that `ip`, `tc` and `tcpdump` use for them.

use pnet_packet::{ip::IpNextHeaderProtocol, tcp::TcpFlags};

use crate::event::{Family, Headers, Verdict};

/// A protocol as `--proto` takes it.
pub(super) fn protocol(family: Family, proto: u8) -> String {
    match (family, proto) {
        (Family::Arp, _) => "arp".to_owned(),
        (_, 1) => "icmp".to_owned(),
        (_, 6) => "tcp".to_owned(),
        (_, 17) => "udp".to_owned(),
        (_, 58) => "icmp6".to_owned(),
        (_, 132) => "sctp".to_owned(),
        (_, other) => other.to_string(),
    }
}

/// Whether its ports are ports.
pub(super) fn has_ports(family: Family, proto: u8) -> bool {
    matches!(family, Family::Ipv4 | Family::Ipv6) && matches!(proto, 6 | 17 | 33 | 132 | 136)
}

/// Whether it is ICMP of its family.
pub(super) fn is_icmp(family: Family, proto: u8) -> bool {
    matches!((family, proto), (Family::Ipv4, 1) | (Family::Ipv6, 58))
}

/// Whether it is an ICMP echo, request or reply.
pub(super) fn is_echo(h: &Headers) -> bool {
    match h.family {
        Family::Ipv4 => h.proto == 1 && matches!(h.l4_kind, 0 | 8),
        Family::Ipv6 => h.proto == 58 && matches!(h.l4_kind, 128 | 129),
        Family::Arp | Family::Other => false,
    }
}

/// What a packet is, in words.
pub(super) fn packet(h: &Headers) -> String {
    if h.later_fragment {
        return format!("later fragment, IP id {}", h.ip_id);
    }
    match (h.family, h.proto) {
        (Family::Arp, _) => match h.l4_kind {
            1 => format!("who has {}? tell {}", h.dst, h.src),
            2 => format!("{} is at its sender", h.src),
            other => format!("operation {other}"),
        },
        _ if is_echo(h) => {
            let kind = if matches!(h.l4_kind, 8 | 128) { "request" } else { "reply" };
            format!("echo {kind} id {} seq {}", h.sport, h.seq)
        }
        (Family::Ipv4, 1) => match (h.l4_kind, h.l4_code) {
            (3, 0) => "network unreachable".to_owned(),
            (3, 1) => "host unreachable".to_owned(),
            (3, 3) => "port unreachable".to_owned(),
            (3, 4) => "fragmentation needed".to_owned(),
            (3, 9 | 10 | 13) => "prohibited".to_owned(),
            (3, code) => format!("unreachable, code {code}"),
            (5, _) => "redirect".to_owned(),
            (11, _) => "time exceeded".to_owned(),
            (kind, code) => format!("type {kind} code {code}"),
        },
        (Family::Ipv6, 58) => match (h.l4_kind, h.l4_code) {
            (1, 0) => "no route".to_owned(),
            (1, 4) => "port unreachable".to_owned(),
            (1, code) => format!("unreachable, code {code}"),
            (2, _) => "packet too big".to_owned(),
            (3, _) => "time exceeded".to_owned(),
            (133, _) => "router solicitation".to_owned(),
            (134, _) => "router advertisement".to_owned(),
            (135, _) => "neighbour solicitation".to_owned(),
            (136, _) => "neighbour advertisement".to_owned(),
            (143, _) => "multicast listener report".to_owned(),
            (kind, code) => format!("type {kind} code {code}"),
        },
        (_, 6) => {
            let flags = tcp_flags(h.l4_kind);
            if h.l4_kind & TcpFlags::ACK != 0 {
                format!("{flags} seq {} ack {}", h.seq, h.ack)
            } else {
                format!("{flags} seq {}", h.seq)
            }
        }
        (Family::Other, _) => "neither IP nor ARP".to_owned(),
        (_, 17) => String::new(),
        // The name that IANA gave to the number.
        (_, proto) => IpNextHeaderProtocol(proto).to_string(),
    }
}

fn tcp_flags(bits: u8) -> String {
    const NAMES: [(u8, &str); 8] = [
        (TcpFlags::SYN, "SYN"),
        (TcpFlags::FIN, "FIN"),
        (TcpFlags::RST, "RST"),
        (TcpFlags::PSH, "PSH"),
        (TcpFlags::URG, "URG"),
        (TcpFlags::ACK, "ACK"),
        (TcpFlags::ECE, "ECE"),
        (TcpFlags::CWR, "CWR"),
    ];
    let set: Vec<_> = NAMES.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, n)| *n).collect();
    if set.is_empty() { "no flags".to_owned() } else { set.join("+") }
}

/// `RTN_*` as `ip route` names it.
pub(super) fn route_type(kind: u8) -> Option<&'static str> {
    const NAMES: [&str; 11] = [
        "unicast",
        "local",
        "broadcast",
        "anycast",
        "multicast",
        "blackhole",
        "unreachable",
        "prohibit",
        "throw",
        "nat",
        "xresolve",
    ];
    NAMES.get(usize::from(kind).checked_sub(1)?).copied()
}

/// A negative errno of a routing look-up.
pub(super) fn route_error(error: i32) -> String {
    match error {
        -11 => "no entry in this table".to_owned(),
        -13 => "prohibited".to_owned(),
        -22 => "invalid or blackhole".to_owned(),
        -101 => "network unreachable".to_owned(),
        -113 => "host unreachable".to_owned(),
        other => format!("errno {}", other.unsigned_abs()),
    }
}

/// `NUD_*` bits as `ip neigh` names them.
pub(super) fn neighbour_state(bits: u8) -> String {
    const NAMES: [&str; 8] =
        ["INCOMPLETE", "REACHABLE", "STALE", "DELAY", "PROBE", "FAILED", "NOARP", "PERMANENT"];
    let set: Vec<_> = NAMES
        .iter()
        .enumerate()
        .filter(|(bit, _)| bits & (1 << bit) != 0)
        .map(|(_, name)| *name)
        .collect();
    if set.is_empty() { "NONE".to_owned() } else { set.join(",") }
}

/// Status bits of a connection, as the kernel calls them (`enum ip_conntrack_status`).
pub(super) fn conntrack_status(bits: u32) -> Vec<&'static str> {
    const NAMES: [&str; 16] = [
        "expected",
        "seen_reply",
        "assured",
        "confirmed",
        "src_nat",
        "dst_nat",
        "seq_adjust",
        "src_nat_done",
        "dst_nat_done",
        "dying",
        "fixed_timeout",
        "template",
        "nat_clash",
        "helper",
        "offload",
        "hw_offload",
    ];
    NAMES
        .into_iter()
        .enumerate()
        .filter(|(bit, _)| bits & (1 << bit) != 0)
        .map(|(_, name)| name)
        .collect()
}

/// What became of a packet in a netfilter hook; `None` where that is not known. What was given to a
/// program (queue) or to somebody else (stolen) may be seen again without having been accepted.
pub(super) fn verdict(accepted: Option<bool>, decided: Option<Verdict>) -> Option<&'static str> {
    match (accepted, decided) {
        (Some(false), _) | (None, Some(Verdict::Drop)) => Some("drop"),
        (_, Some(Verdict::Queue)) => Some("queue"),
        (_, Some(Verdict::Stolen)) => Some("stolen"),
        (Some(true), _) => Some("accept"),
        (None, None) => None,
    }
}

/// A qdisc handle as `tc` writes it.
pub(super) fn qdisc_handle(handle: u32) -> String {
    match (handle >> 16, handle & 0xffff) {
        (major, 0) => format!("{major:x}:"),
        (major, minor) => format!("{major:x}:{minor:x}"),
    }
}
