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
    when: fn(&Freed) -> bool,
    end: BenignEnd,
}

/// A packet that the kernel freed as if it had dropped it.
struct Freed<'a> {
    headers: &'a Headers,
    /// It is a copy of another packet.
    clone: bool,
    /// The kernel tells reasons. Where none does (before Linux 5.17), a function that frees packets
    /// for good reasons and for bad ones is all there is to know.
    told: bool,
}

impl Freed<'_> {
    fn is_multicast(&self) -> bool {
        match self.headers.dst {
            IpAddr::V4(dst) => dst.is_multicast(),
            IpAddr::V6(dst) => dst.is_multicast(),
        }
    }
}

/// TCP's flag that opens a connection.
const SYN: u8 = 0x02;
/// IP protocols.
const IGMP: u8 = 2;
const ICMPV6: u8 = 58;

/// What a kernel says that gives no reason, or none that tells anything.
const UNSPECIFIED: &str = "NOT_SPECIFIED";

const KINDS: &[Kind] = &[
    // A reply to a ping that reads a raw socket: the socket got a copy, and the packet itself
    // finds no ping socket.
    Kind {
        reasons: &["NO_SOCKET", UNSPECIFIED],
        functions: &["icmp_rcv", "icmpv6_rcv", "ping_rcv"],
        when: |freed| {
            matches!(
                (freed.headers.family, freed.headers.l4_kind),
                (Family::Ipv4, 0) | (Family::Ipv6, 129)
            )
        },
        end: BenignEnd::Delivered,
    },
    // All of ICMPv6 that was worked on, but for replies, before Linux 6.3; a wrong checksum ends there
    // too, and cannot be told from it.
    Kind {
        reasons: &[UNSPECIFIED],
        functions: &["icmpv6_rcv"],
        when: |freed| freed.headers.family == Family::Ipv6 && freed.headers.proto == ICMPV6,
        end: BenignEnd::Delivered,
    },
    // TIME_WAIT, or a SYN that came again: answered where needed, then freed without a reason. A
    // SYN that no socket waits for ends here too: newer kernels say so (NO_SOCKET), older ones do not.
    Kind {
        reasons: &[UNSPECIFIED],
        functions: &["tcp_v4_rcv", "tcp_v6_rcv"],
        when: |freed| freed.headers.proto == 6 && (freed.told || freed.headers.l4_kind & SYN == 0),
        end: BenignEnd::Delivered,
    },
    // A connection was closed: what its socket had taken, and nobody will read (a FIN, mostly).
    Kind {
        reasons: &["QUEUE_PURGE", UNSPECIFIED],
        functions: &["sk_stream_kill_queues", "inet_sock_destruct", "tcp_disconnect"],
        when: |freed| freed.headers.proto == 6,
        end: BenignEnd::Delivered,
    },
    // The pieces of a packet that was put together again: freed with the whole, which was read.
    Kind {
        reasons: &[UNSPECIFIED],
        functions: &["skb_release_data"],
        when: |_| true,
        end: BenignEnd::Consumed,
    },
    // The same before Linux 6.3, where the list of pieces is freed by a function of its own. On 5.10
    // queues free what they have no room for by it as well, so the packet must be such a piece.
    Kind {
        reasons: &[UNSPECIFIED],
        functions: &["kfree_skb_list", "kfree_skb_list_reason"],
        when: |freed| freed.headers.later_fragment,
        end: BenignEnd::Consumed,
    },
    // What other hosts report of their groups is of no use here.
    Kind {
        reasons: &[UNSPECIFIED],
        functions: &["igmp_rcv"],
        when: |freed| freed.headers.family == Family::Ipv4 && freed.headers.proto == IGMP,
        end: BenignEnd::Consumed,
    },
    // Multicast listener reports and queries, freed after they were worked on.
    Kind {
        reasons: &[UNSPECIFIED],
        functions: &["mld_query_work", "mld_report_work", "__mld_query_work", "__mld_report_work"],
        when: |_| true,
        end: BenignEnd::Delivered,
    },
    // A neighbour asks for somebody else: the solicited-node group is shared by many addresses.
    Kind {
        reasons: &["IPV6_NDISC_NS_OTHERHOST"],
        functions: &[],
        when: |_| true,
        end: BenignEnd::Consumed,
    },
    // What a packet socket (tcpdump, a DHCP client) could not or would not take: it was a copy.
    Kind {
        reasons: &[],
        functions: &["packet_rcv", "tpacket_rcv", "packet_rcv_spkt", "packet_rcv_fanout"],
        when: |_| true,
        end: BenignEnd::Consumed,
    },
    Kind {
        reasons: &["PACKET_SOCK_ERROR"],
        functions: &[],
        when: |_| true,
        end: BenignEnd::Consumed,
    },
    // A bridge floods copies to every port; all but one end where they were not meant to go.
    // Copies for raw sockets meet the socket's filter, or its close.
    Kind {
        reasons: &["OTHERHOST", "SOCKET_FILTER", "QUEUE_PURGE"],
        functions: &[],
        when: |freed| freed.clone,
        end: BenignEnd::Consumed,
    },
    // The same where the kernel gives no reason (5.10, and sockets for some releases more).
    Kind {
        reasons: &[UNSPECIFIED],
        functions: &[
            "ip_rcv_core",
            "ip_rcv",
            "ip_list_rcv",
            "ip6_rcv_core",
            "ipv6_rcv",
            "ipv6_list_rcv",
            "raw_rcv",
            "raw_rcv_skb",
            "rawv6_rcv",
            "rawv6_rcv_skb",
            "skb_queue_purge",
            "inet_sock_destruct",
        ],
        when: |freed| freed.clone,
        end: BenignEnd::Consumed,
    },
    // Multicast that no socket here waits for, and copies of a broadcast at the neighbours. These
    // functions give a reason for all else, where there are reasons.
    Kind {
        reasons: &[UNSPECIFIED],
        functions: &[
            "__udp4_lib_mcast_deliver",
            "__udp6_lib_mcast_deliver",
            "__udp4_lib_rcv",
            "__udp6_lib_rcv",
            "udp_rcv",
            "udpv6_rcv",
        ],
        when: |freed| freed.is_multicast() || (freed.clone && freed.told),
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
            "ip6_protocol_deliver_rcu",
        ],
        when: |freed| freed.is_multicast(),
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

    fn is_unspecified(&self, reason: Option<u32>) -> bool {
        reason.is_none_or(|number| {
            self.0.reason(number).is_some_and(|name| name.ends_with(UNSPECIFIED))
        })
    }

    fn end(
        &self,
        reason: Option<u32>,
        location: u64,
        headers: &Headers,
        clone: bool,
    ) -> Option<BenignEnd> {
        let name = match reason {
            None => UNSPECIFIED,
            Some(number) => {
                let name = self.0.reason(number)?;
                name.strip_prefix("SKB_DROP_REASON_").unwrap_or(name)
            }
        };
        let freed = Freed { headers, clone, told: reason.is_some() };
        let symbol = self.0.symbol(location);
        let function = symbol.as_ref().map(|symbol| symbol.in_source());
        KINDS
            .iter()
            .find(|kind| {
                (kind.reasons.is_empty() || kind.reasons.contains(&name))
                    && (kind.functions.is_empty()
                        || function.is_some_and(|name| kind.functions.contains(&name)))
                    && (kind.when)(&freed)
            })
            .map(|kind| kind.end)
    }
}
