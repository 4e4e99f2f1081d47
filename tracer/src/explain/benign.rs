//! The drops that are none: where the kernel calls `kfree_skb` for a packet that had done its
//! work, or that was never meant for this place.
//!
//! Only ends are listed here that an operator would never want to hear of. Duplicates of TCP
//! (`TCP_OLD_DATA`, `TCP_OFOMERGE`) stay drops: somebody sent them for a reason, and
//! [`super::causes`] says that nothing is missing.

use std::net::IpAddr;

use super::facts::KernelNames;
use crate::{
    event::{Family, Headers},
    journey::{Benign, BenignEnd},
};

/// Recognises harmless ends by the names of the kernel that traced.
#[derive(Debug)]
pub struct HarmlessEnds<K>(pub K);

/// One kind of harmless end. Empty lists match everything.
struct Kind {
    reasons: &'static [&'static str],
    functions: &'static [&'static str],
    when: fn(&Headers, bool) -> bool,
    end: BenignEnd,
}

/// What a kernel says that gives no reason, or none that tells anything.
const UNSPECIFIED: &str = "NOT_SPECIFIED";

const KINDS: &[Kind] = &[
    // A reply to a ping that reads a raw socket: the socket got a copy, and the packet itself
    // finds no ping socket.
    Kind {
        reasons: &["NO_SOCKET", UNSPECIFIED],
        functions: &["icmp_rcv", "icmpv6_rcv", "ping_rcv"],
        when: |h, _| matches!((h.family, h.l4_kind), (Family::Ipv4, 0) | (Family::Ipv6, 129)),
        end: BenignEnd::Delivered,
    },
    // TIME_WAIT, or a SYN that came again: answered where needed, then freed without a reason.
    Kind {
        reasons: &[UNSPECIFIED],
        functions: &["tcp_v4_rcv", "tcp_v6_rcv"],
        when: |h, _| h.proto == 6,
        end: BenignEnd::Delivered,
    },
    // A connection was closed: what its socket had taken, and nobody will read (a FIN, mostly).
    Kind {
        reasons: &["QUEUE_PURGE", UNSPECIFIED],
        functions: &["sk_stream_kill_queues", "inet_sock_destruct", "tcp_disconnect"],
        when: |h, _| h.proto == 6,
        end: BenignEnd::Delivered,
    },
    // The pieces of a packet that was put together again: freed with the whole, which was read.
    Kind {
        reasons: &[UNSPECIFIED],
        functions: &["skb_release_data"],
        when: |_, _| true,
        end: BenignEnd::Consumed,
    },
    // Multicast listener reports and queries, freed after they were worked on.
    Kind {
        reasons: &[UNSPECIFIED],
        functions: &["mld_query_work", "mld_report_work", "__mld_query_work", "__mld_report_work"],
        when: |_, _| true,
        end: BenignEnd::Delivered,
    },
    // A neighbour asks for somebody else: the solicited-node group is shared by many addresses.
    Kind {
        reasons: &["IPV6_NDISC_NS_OTHERHOST"],
        functions: &[],
        when: |_, _| true,
        end: BenignEnd::Consumed,
    },
    // What a packet socket (tcpdump, a DHCP client) could not or would not take: it was a copy.
    Kind {
        reasons: &[],
        functions: &["packet_rcv", "tpacket_rcv", "packet_rcv_spkt", "packet_rcv_fanout"],
        when: |_, _| true,
        end: BenignEnd::Consumed,
    },
    Kind {
        reasons: &["PACKET_SOCK_ERROR"],
        functions: &[],
        when: |_, _| true,
        end: BenignEnd::Consumed,
    },
    // A bridge floods copies to every port; all but one end where they were not meant to go.
    // Copies for raw sockets meet the socket's filter, or its close.
    Kind {
        reasons: &["OTHERHOST", "SOCKET_FILTER", "QUEUE_PURGE"],
        functions: &[],
        when: |_, clone| clone,
        end: BenignEnd::Consumed,
    },
    // Multicast of a group that nobody here has joined: what every host of the link gets.
    Kind {
        reasons: &[UNSPECIFIED],
        functions: &[
            "ip_rcv_finish",
            "ip_rcv_finish_core",
            "ip_list_rcv_finish",
            "ip_sublist_rcv_finish",
            "ip6_mc_input",
            "ip6_rcv_finish",
        ],
        when: |h, _| match h.dst {
            IpAddr::V4(dst) => dst.is_multicast(),
            IpAddr::V6(dst) => dst.is_multicast(),
        },
        end: BenignEnd::Consumed,
    },
];

/// Where a task's read from a datagram socket frees the packet (net/ipv4/udp.c, net/core/datagram.c).
const READS: [&str; 5] = [
    "skb_consume_udp",
    "udp_recvmsg",
    "udpv6_recvmsg",
    "skb_free_datagram",
    "__skb_free_datagram_locked",
];

impl<K: KernelNames> Benign for HarmlessEnds<K> {
    fn is_read(&self, location: u64) -> bool {
        self.0.symbol(location).is_some_and(|function| READS.contains(&function.in_source()))
    }

    fn end(
        &self,
        reason: Option<u32>,
        location: u64,
        headers: &Headers,
        clone: bool,
    ) -> Option<BenignEnd> {
        let reason = match reason {
            None => UNSPECIFIED,
            Some(number) => {
                let name = self.0.reason(number)?;
                name.strip_prefix("SKB_DROP_REASON_").unwrap_or(name)
            }
        };
        let symbol = self.0.symbol(location);
        let function = symbol.as_ref().map(|symbol| symbol.in_source());
        KINDS
            .iter()
            .find(|kind| {
                (kind.reasons.is_empty() || kind.reasons.contains(&reason))
                    && (kind.functions.is_empty()
                        || function.is_some_and(|name| kind.functions.contains(&name)))
                    && (kind.when)(headers, clone)
            })
            .map(|kind| kind.end)
    }
}
