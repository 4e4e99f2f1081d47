//! Why packets are dropped, as a table: what the kernel says, what that means in plain words,
//! and what to check or change.
//!
//! The first row that matches explains a drop. `{…}` in a sentence is filled in by
//! `super::words`; advice that names something unknown is left out.

use crate::{event::Family, journey::HopDetail};

/// One row: which drops it explains, and how. Empty lists match everything.
pub(super) struct Cause {
    /// Names of the reason.
    pub(super) reasons: &'static [&'static str],
    /// Functions that freed the packet.
    pub(super) functions: &'static [&'static str],
    /// What else must hold.
    pub(super) when: fn(&Case) -> bool,
    /// One sentence.
    pub(super) why: &'static str,
    /// Commands to check or settings to change.
    pub(super) advice: &'static [&'static str],
    /// Settings that show whether it is so. Interfaces in them are not quoted for a shell.
    pub(super) sysctls: &'static [&'static str],
}

/// What a row may ask of a dropped packet.
pub(super) struct Case {
    pub(super) family: Family,
    pub(super) proto: u8,
    /// The last look-up of the way forward: `RTN_*` and errno.
    pub(super) route: Option<(u8, i32)>,
    /// It died in one of the five IP hooks.
    pub(super) in_hook: bool,
    /// It died right behind all chains of LOCAL_IN or POST_ROUTING, where connections are confirmed.
    pub(super) confirming: bool,
    pub(super) clone: bool,
    /// It is what a DHCP server sends a client. One that has no address yet reads it from a packet socket, and
    /// IP has no use for it.
    pub(super) dhcp_answer: bool,
}

impl Case {
    /// What a row may ask of the hops of a journey.
    pub(super) fn route_of<'a>(
        hops: impl DoubleEndedIterator<Item = &'a HopDetail>,
    ) -> Option<(u8, i32)> {
        hops.rev().find_map(|detail| match *detail {
            HopDetail::Route { kind, error, reverse: false, .. } => Some((kind, error)),
            _ => None,
        })
    }

    fn routed(&self, wanted_kind: u8, wanted_error: i32) -> bool {
        self.route.is_some_and(|(kind, error)| kind == wanted_kind || error == wanted_error)
    }
}

const ANY: fn(&Case) -> bool = |_| true;
const V4: fn(&Case) -> bool = |case| case.family == Family::Ipv4;
const V6: fn(&Case) -> bool = |case| case.family == Family::Ipv6;
const RTN_BLACKHOLE: u8 = 6;
const RTN_UNREACHABLE: u8 = 7;
const RTN_PROHIBIT: u8 = 8;

const SHOW_ROUTE: &str = "{exec}ip route get {dst} from {src} iif {dev}";

macro_rules! causes {
    ($($reasons:expr, $functions:expr, $when:expr => $why:expr; $advice:expr; $sysctls:expr;)*) => {
        &[$(Cause {
            reasons: &$reasons, functions: &$functions, when: $when,
            why: $why, advice: &$advice, sysctls: &$sysctls,
        }),*]
    };
}

pub(super) const CAUSES: &[Cause] = causes! {
    // Netfilter, outside of the five IP hooks (inside them the bracket tells more).
    ["NETFILTER_DROP"], [], |case| case.family == Family::Arp =>
        "a rule for ARP (arptables or the arp family of nftables) in {netns} dropped it at {dev}";
        ["{exec}nft list ruleset arp", "{exec}arptables -L -v"]; [];
    ["NETFILTER_DROP"], [], |case| case.confirming =>
        "connection tracking in {netns} did not confirm it: its table is full, or another packet was quicker with the same addresses and ports";
        ["{exec}conntrack -S", "{exec}sysctl net.netfilter.nf_conntrack_count net.netfilter.nf_conntrack_max"];
        ["net.netfilter.nf_conntrack_count", "net.netfilter.nf_conntrack_max"];
    ["NETFILTER_DROP"], [], |case| !case.in_hook =>
        "a rule of the bridge family or of a device's ingress or egress hook dropped it at {dev} in {netns}";
        ["{exec}nft list ruleset bridge", "{exec}nft list ruleset netdev", "{exec}ebtables -L --Lc"]; [];

    // Forwarding and routes. With forwarding off IPv4 goes to ip_error() with this reason,
    // whether there is a route or not; IPv6 fails in ip6_forward().
    ["IP_INADDRERRORS", "NOT_SPECIFIED"], ["ip_error"], |case| case.dhcp_answer =>
        "it is the answer of a DHCP server, and {dst} is not an address of {netns} yet; a DHCP client gets it before IP does, by a packet socket";
        ["{exec}ss -0ap"]; [];
    ["IP_INADDRERRORS"], ["ip_error"], V4 =>
        "{dst} is not an address of {netns}, and IP forwarding is off for {dev} there";
        ["{exec}sysctl -w net.ipv4.ip_forward=1"];
        ["net.ipv4.ip_forward", "net.ipv4.conf.{setting}.forwarding"];
    ["IP_INADDRERRORS", "NOT_SPECIFIED"], ["ip6_forward"], V6 =>
        "{dst} is not an address of {netns}, and IPv6 forwarding is off there (or its source may not be forwarded)";
        ["{exec}sysctl -w net.ipv6.conf.all.forwarding=1"];
        ["net.ipv6.conf.all.forwarding"];
    ["IP_INNOROUTES", "IP_INADDRERRORS"], [], ANY =>
        "{netns} has no route to {dst}";
        [SHOW_ROUTE, "{exec}ip route add {dst} via GATEWAY"]; [];
    ["NOT_SPECIFIED"], ["ip_error"], |case| case.routed(RTN_UNREACHABLE, -113) =>
        "the route to {dst} in {netns} is of type unreachable";
        ["{exec}ip route show table all type unreachable", SHOW_ROUTE]; [];
    ["NOT_SPECIFIED"], ["ip_error"], |case| case.routed(RTN_PROHIBIT, -13) =>
        "the route to {dst} in {netns}, or a routing rule, prohibits it";
        ["{exec}ip route show table all type prohibit", "{exec}ip rule show"]; [];
    ["NOT_SPECIFIED"], ["ip_error", "dst_discard", "dst_discard_out"], |case| case.routed(RTN_BLACKHOLE, -22) =>
        "the route to {dst} in {netns} is of type blackhole";
        ["{exec}ip route show table all type blackhole", SHOW_ROUTE]; [];
    ["IP_OUTNOROUTES"], [], ANY =>
        "{netns} has no route to {dst} for a packet of its own";
        ["{exec}ip route get {dst}", "{exec}ip route add {dst} via GATEWAY"]; [];
    ["IP_RPFILTER"], [], ANY =>
        "reverse path filtering: {netns} would not send an answer to {src} through {dev}, where this packet came in";
        ["{exec}ip route get {src}", "{exec}sysctl -w net.ipv4.conf.{conf}.rp_filter=2   # loose; the higher of all and {dev} counts"];
        ["net.ipv4.conf.all.rp_filter", "net.ipv4.conf.{setting}.rp_filter"];
    ["IP_LOCAL_SOURCE"], [], ANY =>
        "its source {src} is an address of {netns} itself, so it cannot have come in through {dev}";
        ["{exec}ip address show to {src}", "{exec}sysctl -w net.ipv4.conf.{conf}.accept_local=1   # only where this is meant"];
        ["net.ipv4.conf.{setting}.accept_local"];
    ["IP_INVALID_SOURCE"], [], ANY =>
        "its source {src} can be nobody's address (martian): multicast, broadcast or zero";
        ["{exec}sysctl -w net.ipv4.conf.{conf}.log_martians=1   # logs who sends them"]; [];
    ["IP_INVALID_DEST"], [], ANY =>
        "its destination {dst} can be nobody's address (martian)";
        ["{exec}sysctl -w net.ipv4.conf.{conf}.log_martians=1   # logs who sends them"]; [];
    ["IP_LOCALNET"], [], ANY =>
        "{src} or {dst} is a loopback address, and {dev} in {netns} takes none";
        ["{exec}sysctl -w net.ipv4.conf.{conf}.route_localnet=1   # only where this is meant"];
        ["net.ipv4.conf.{setting}.route_localnet"];
    ["IP_INHDR"], ["ip_forward", "ip6_forward"], ANY =>
        "its time to live ran out (TTL {ttl} when first seen): it was sent with a small one, or goes in circles";
        [SHOW_ROUTE, "{exec}traceroute -n {dst}"]; [];
    ["IP_INHDR", "IP_CSUM", "PKT_TOO_SMALL", "HDR_TRUNC", "IPV6_BAD_EXTHDR"], [], ANY =>
        "its IP header is damaged or cut short, as {netns} sees it at {dev}";
        ["{exec}ethtool -S {dev}", "{exec}ethtool -K {dev} tx off rx off   # if a checksum offload is at fault"]; [];
    ["PKT_TOO_BIG"], [], ANY =>
        "it is larger than the MTU of the next link{mtu} and may not be fragmented ({length} bytes)";
        ["{exec}ip link show", "{exec}ping -M do -s 1400 {dst}", "{exec}iptables -t mangle -A FORWARD -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu"]; [];
    ["XFRM_POLICY"], [], ANY =>
        "an IPsec policy of {netns} does not let it through";
        ["{exec}ip xfrm policy", "{exec}ip xfrm state"]; [];
    ["IPV6DISABLED"], [], ANY =>
        "IPv6 is disabled on {dev} in {netns}";
        ["{exec}sysctl -w net.ipv6.conf.{conf}.disable_ipv6=0"]; ["net.ipv6.conf.{setting}.disable_ipv6"];
    ["DUP_FRAG", "FRAG_REASM_TIMEOUT", "FRAG_TOO_FAR"], [], ANY =>
        "it is a fragment whose other fragments did not come, or came twice";
        ["{exec}nstat -az IpReasm*"]; [];

    // Neighbours.
    ["NEIGH_FAILED", "NEIGH_DEAD", "NEIGH_CREATEFAIL", "NEIGH_HH_FILLFAIL"], [], ANY =>
        "nobody on {oif} answered for the next hop{gateway}: its link-layer address is not known";
        ["{exec}ip neigh show dev {oif}", "{exec}arping -I {oif} {nexthop}"]; [];
    ["NEIGH_QUEUEFULL"], [], ANY =>
        "the queue of packets that wait for the link-layer address of the next hop{gateway} on {oif} is full";
        ["{exec}ip neigh show dev {oif}", "{exec}arping -I {oif} {nexthop}"];
        ["net.ipv4.neigh.{oif_setting}.unres_qlen_bytes"];

    // Sockets.
    ["NO_SOCKET", "NOT_SPECIFIED"], ["__udp4_lib_mcast_deliver", "__udp4_lib_rcv", "udp_rcv"], |case| case.dhcp_answer =>
        "it is the answer of a DHCP server, and no UDP socket in {netns} waits for it; a DHCP client gets it before IP does, by a packet socket";
        ["{exec}ss -0ap"]; [];
    ["NO_SOCKET"], [], |case| case.proto == 17 =>
        "nothing in {netns} listens on UDP port {dport} of {dst}";
        ["{exec}ss -lunp sport = :{dport}"]; [];
    // A broadcast.
    ["NOT_SPECIFIED"], ["__udp4_lib_mcast_deliver", "__udp4_lib_rcv", "udp_rcv"], |case| case.proto == 17 =>
        "nothing in {netns} listens on UDP port {dport} of {dst}";
        ["{exec}ss -lunp sport = :{dport}"]; [];
    ["NO_SOCKET"], [], |case| case.proto == 6 =>
        "no TCP socket in {netns} is listening or connected at port {dport} of {dst}";
        ["{exec}ss -tanp sport = :{dport}"]; [];
    ["NO_SOCKET"], [], ANY =>
        "no socket in {netns} waits for it";
        ["{exec}ss -anp"]; [];
    ["SOCKET_RCVBUFF", "PROTO_MEM", "SOCKET_BACKLOG"], [], ANY =>
        "the receive buffer of its socket in {netns} is full: the program reads too slowly";
        ["{exec}ss -anmp sport = :{dport}", "{exec}sysctl -w net.core.rmem_max=8388608   # and let the program ask for more (SO_RCVBUF)"];
        ["net.core.rmem_max"];
    ["SOCKET_FILTER"], [], ANY =>
        "a filter that its socket in {netns} has attached refused it";
        ["{exec}ss -anpb"]; [];
    ["SOCKET_CLOSE", "QUEUE_PURGE"], [], ANY =>
        "what it waited in (a socket, a queue, a device) was closed before it was read";
        ["{exec}ss -anp"]; [];
    ["IP_NOPROTO"], [], ANY =>
        "{netns} has nothing that handles IP protocol {proto}";
        ["grep . /proc/net/protocols"]; [];
    ["UDP_CSUM", "TCP_CSUM", "ICMP_CSUM", "SKB_CSUM"], [], ANY =>
        "its checksum is wrong";
        ["{exec}ethtool -k {dev}", "{exec}ethtool -K {dev} tx off   # at the sender, if its offload is at fault"]; [];

    // TCP.
    ["TCP_LISTEN_OVERFLOW"], [], ANY =>
        "the queue of the program that listens on port {dport} in {netns} is full: it accepts too slowly";
        ["{exec}ss -ltn sport = :{dport}", "{exec}nstat -az TcpExtListenOverflows"]; ["net.core.somaxconn"];
    ["TCP_OLD_DATA", "TCP_OFOMERGE", "TCP_OFO_DROP", "TCP_OLD_SEQUENCE"], [], ANY =>
        "the receiver has this data already: a duplicate, nothing is missing";
        ["{exec}nstat -az TcpRetransSegs TcpExtTCPSpuriousRtxHostQueues"]; [];
    ["TCP_OLD_ACK", "TCP_TOO_OLD_ACK"], [], ANY =>
        "an acknowledgement that was overtaken by a newer one: nothing is missing";
        []; [];
    ["TCP_OVERWINDOW", "TCP_ZEROWINDOW", "TCP_OFO_QUEUE_PRUNE"], [], ANY =>
        "the receiver has no room for it: its window is full";
        ["{exec}ss -tanmi sport = :{dport}"]; [];
    ["TCP_RFC7323_PAWS", "TCP_RFC7323_PAWS_ACK", "TCP_RFC7323_TW_PAWS", "TCP_RFC7323_TSECR"], [], ANY =>
        "its TCP timestamp is older than one already seen, as happens when NAT lets several hosts share an address";
        ["{exec}nstat -az TcpExtPAWSEstab TcpExtPAWSActive"]; ["net.ipv4.tcp_timestamps"];
    ["TCP_INVALID_SEQUENCE", "TCP_INVALID_END_SEQUENCE", "TCP_INVALID_ACK_SEQUENCE", "TCP_ACK_UNSENT_DATA"], [], ANY =>
        "its sequence or acknowledgement number does not belong to the connection";
        ["{exec}ss -tani sport = :{dport}"]; [];
    ["TCP_RESET", "TCP_INVALID_SYN", "TCP_FLAGS", "TCP_CLOSE", "TCP_ABORT_ON_DATA", "TCP_FASTOPEN", "TCP_MINTTL"], [], ANY =>
        "its TCP flags do not fit the state of the connection";
        ["{exec}ss -tani sport = :{dport}"]; [];
    ["TCP_MD5NOTFOUND", "TCP_MD5UNEXPECTED", "TCP_MD5FAILURE", "TCP_AONOTFOUND", "TCP_AOUNEXPECTED",
     "TCP_AOKEYNOTFOUND", "TCP_AOFAILURE", "TCP_AUTH_HDR"], [], ANY =>
        "its TCP signature (MD5 or AO) is missing, wrong or not asked for";
        ["{exec}nstat -az TcpExtTCPMD5* TcpExtTCPAO*"]; [];

    // Queues and devices.
    ["QDISC_OVERLIMIT", "QDISC_DROP", "FQ_BAND_LIMIT", "FQ_FLOW_LIMIT"], [], ANY =>
        "the queue of {dev} in {netns} is full: more is sent than it lets out{qdisc}";
        ["{exec}tc -s qdisc show dev {dev}"]; [];
    ["QDISC_CONGESTED", "CAKE_FLOOD", "FQ_HORIZON_LIMIT", "DUALPI2_STEP_DROP"], [], ANY =>
        "the queue of {dev} in {netns} dropped it on purpose, to make the sender slow down{qdisc}";
        ["{exec}tc -s qdisc show dev {dev}"]; [];
    ["TC_INGRESS"], [], ANY =>
        "a tc filter or program at the ingress of {dev} in {netns} dropped it";
        ["{exec}tc -s filter show dev {dev} ingress", "{exec}bpftool net show dev {dev}"]; [];
    ["TC_EGRESS"], [], ANY =>
        "a tc filter or program at the egress of {dev} in {netns} dropped it";
        ["{exec}tc -s filter show dev {dev} egress", "{exec}bpftool net show dev {dev}"]; [];
    ["XDP"], [], ANY =>
        "an XDP program on {dev} in {netns} dropped it";
        ["{exec}ip -d link show dev {dev}", "{exec}bpftool net show dev {dev}"]; [];
    ["BPF_CGROUP_EGRESS", "SECURITY_HOOK"], [], ANY =>
        "a program or policy of the sender's cgroup or security module refused it";
        ["bpftool cgroup tree"]; [];
    ["CPU_BACKLOG"], [], ANY =>
        "the backlog of CPU {cpu} is full: packets come faster than it handles them";
        ["cat /proc/net/softnet_stat", "sysctl -w net.core.netdev_max_backlog=5000"]; ["net.core.netdev_max_backlog"];
    ["DEV_READY"], [], ANY =>
        "{dev} in {netns}, or the other end of it, is not up";
        ["{exec}ip link show dev {dev}", "{exec}ip link set {dev} up"]; [];
    ["FULL_RING"], [], ANY =>
        "the ring that takes packets from {dev} is full: its reader is too slow";
        ["{exec}ip -s link show dev {dev}"]; [];
    ["TAP_FILTER", "TAP_TXFILTER"], [], ANY =>
        "a filter of the tap device {dev} refused it";
        ["{exec}ip -d link show dev {dev}"]; [];
    ["RECURSION_LIMIT"], [], ANY =>
        "devices in {netns} send to each other in a circle";
        ["{exec}ip -d link show"]; [];
    [], ["veth_xmit", "__dev_forward_skb", "__dev_forward_skb2", "____dev_forward_skb"], ANY =>
        "the other end of {dev} did not take it: it is down, or its MTU is smaller";
        ["{exec}ip link show dev {dev}"]; [];

    // Bridge and link layer.
    ["BRIDGE_INGRESS_STP_STATE"], [], ANY =>
        "the bridge port {dev} in {netns} is not forwarding yet (spanning tree)";
        ["{exec}bridge -d link show dev {dev}", "{exec}ip link set {bridge} type bridge forward_delay 0   # without loops in the network"]; [];
    ["NO_TX_TARGET"], [], ANY =>
        "the bridge in {netns} has no port to send it to: nobody else is there, or the ports are isolated or not up";
        ["{exec}bridge -d link show", "{exec}bridge fdb show br {bridge}"]; [];
    ["OTHERHOST"], [], |case| !case.clone =>
        "its destination MAC address is not that of {dev} in {netns}: meant for another host, or sent to an outdated address";
        ["{exec}ip link show dev {dev}", "{exec}bridge fdb show", "ip neigh show   # at the sender"]; [];
    ["LOCAL_MAC", "MAC_INVALID_SOURCE", "MAC_IEEE_MAC_CONTROL"], [], ANY =>
        "its source or destination MAC address is not allowed at {dev}";
        ["{exec}bridge fdb show", "{exec}ip link show dev {dev}"]; [];
    ["UNICAST_IN_L2_MULTICAST"], [], ANY =>
        "it is for one IP address but was sent to a multicast MAC address";
        ["ip neigh show   # at the sender"]; [];
    ["UNHANDLED_PROTO"], [], ANY =>
        "nothing in {netns} handles its protocol on {dev}";
        ["{exec}tcpdump -eni {dev}", "{exec}ip -s -s link show dev {dev}"]; [];
    ["VXLAN_INVALID_HDR", "VXLAN_VNI_NOT_FOUND", "VXLAN_ENTRY_EXISTS", "VXLAN_NO_REMOTE", "IP_TUNNEL_ECN", "TUNNEL_TXINFO"], [], ANY =>
        "the tunnel at {dev} in {netns} has no use for it: its network identifier or its remote side is not known there";
        ["{exec}ip -d link show dev {dev}", "{exec}bridge fdb show dev {dev}"]; [];
    ["NOMEM", "PFMEMALLOC"], [], ANY =>
        "the kernel had no memory for it";
        ["free -m", "{exec}nstat -az"]; [];
};

/// The row that explains a drop.
pub(super) fn find(
    reason: Option<&str>,
    function: Option<&str>,
    case: &Case,
) -> Option<&'static Cause> {
    // A kernel that tells no reason says as much as one that does not specify it.
    let reason = reason.unwrap_or("NOT_SPECIFIED");
    CAUSES.iter().find(|cause| {
        (cause.reasons.is_empty() || cause.reasons.contains(&reason))
            && (cause.functions.is_empty()
                || function.is_some_and(|f| cause.functions.contains(&f)))
            && (cause.when)(case)
    })
}
