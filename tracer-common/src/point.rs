//! The catalogue of points: the places on a packet's way that pathtrace can see.
//!
//! A point is what a user reads (`nf_forward`), not the kernel function behind it. One line in
//! `points!` declares it for both sides; `CONTRIBUTING.md` lists what else a new point needs.

macro_rules! points {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $name:literal, $layer:ident;)*) => {
        /// A place on a packet's way. The number is the wire format: never reuse one.
        #[repr(u8)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Point {
            $($(#[$doc])* $variant = $number,)*
        }

        impl Point {
            /// Every point, in the order in which a packet usually meets them.
            pub const ALL: &'static [Point] = &[$(Point::$variant),*];

            /// The name users see, as in JSON's `point`.
            pub const fn name(self) -> &'static str {
                match self { $(Point::$variant => $name,)* }
            }

            /// The layer it belongs to, as in JSON's `layer`.
            pub const fn layer(self) -> Layer {
                match self { $(Point::$variant => Layer::$layer,)* }
            }

            /// The point with this wire number, or `None` for a number that no point has.
            pub const fn from_wire(number: u8) -> Option<Self> {
                match number { $($number => Some(Point::$variant),)* _ => None }
            }
        }
    };
}

points! {
    /// LOCAL_OUT: sent by a process of this network namespace.
    NfOutput = 1, "nf_output", Netfilter;
    /// Egress of a device, after tc and before its queue (`__dev_queue_xmit`).
    DevQueue = 2, "dev_queue", Device;
    /// tc egress of a device.
    TcEgress = 3, "tc_egress", Tc;
    /// Entered a queueing discipline.
    QdiscEnqueue = 4, "qdisc_enqueue", Qdisc;
    /// Left a queueing discipline.
    QdiscDequeue = 5, "qdisc_dequeue", Qdisc;
    /// Given to the driver (`xmit_one`).
    DevXmit = 6, "dev_xmit", Device;
    /// Received by a device (`__netif_receive_skb_core`).
    DevReceive = 7, "dev_receive", Device;
    /// tc ingress of a device.
    TcIngress = 8, "tc_ingress", Tc;
    /// Received by a port of a bridge (`br_handle_frame`).
    BridgeRx = 20, "bridge_rx", Bridge;
    /// Forwarded to one port of the bridge (`__br_forward`).
    BridgeForward = 21, "bridge_forward", Bridge;
    /// Flooded to the ports of the bridge (`br_flood`).
    BridgeFlood = 22, "bridge_flood", Bridge;
    /// Passed up to the bridge's own device (`br_pass_frame_up`).
    BridgeLocal = 23, "bridge_local", Bridge;
    /// Sent through the bridge's own device (`br_dev_xmit`).
    BridgeXmit = 24, "bridge_xmit", Bridge;
    /// netdev ingress: the chains of one device, before the stack.
    NfIngress = 33, "nf_ingress", Netfilter;
    /// Taken by the IP stack (`ip_rcv`, `ipv6_rcv`).
    IpReceive = 26, "ip_receive", Ip;
    /// PRE_ROUTING.
    NfPrerouting = 9, "nf_prerouting", Netfilter;
    /// Looked up by connection tracking (`nf_conntrack_in`).
    Conntrack = 25, "conntrack", Netfilter;
    /// A routing decision (`fib_table_lookup`, `fib6_table_lookup`).
    Route = 10, "route", Ip;
    /// For this network namespace itself (`ip_local_deliver`, `ip6_input`).
    IpLocalDeliver = 28, "ip_local_deliver", Ip;
    /// LOCAL_IN: for this network namespace itself.
    NfInput = 11, "nf_input", Netfilter;
    /// To be forwarded (`ip_forward`, `ip6_forward`).
    IpForward = 27, "ip_forward", Ip;
    /// FORWARD.
    NfForward = 12, "nf_forward", Netfilter;
    /// On its way out (`ip_output`, `ip6_output`).
    IpOutput = 29, "ip_output", Ip;
    /// POST_ROUTING.
    NfPostrouting = 13, "nf_postrouting", Netfilter;
    /// A destination or source address or port was rewritten.
    Nat = 14, "nat", Netfilter;
    /// netdev egress: the chains of one device, behind the stack.
    NfEgress = 34, "nf_egress", Netfilter;
    /// Waits for, or asks for, the link-layer address of its next hop.
    Neigh = 15, "neigh", Neighbour;
    /// Taken by a socket.
    Socket = 16, "socket", Socket;
    /// A copy that shares the packet's bytes began its own way (bridge flood, taps).
    Clone = 17, "clone", Lifecycle;
    /// The kernel dropped it (`kfree_skb`), with a reason.
    Drop = 18, "drop", End;
    /// The kernel was done with it (`consume_skb`): not a loss.
    Consume = 19, "consume", End;
    /// A copy of the packet and its bytes began its own way (`skb_copy`).
    Copy = 30, "copy", Lifecycle;
    /// A piece cut from a large segment began its own way (`skb_segment`).
    Segment = 31, "segment", Lifecycle;
    /// A fragment of the packet began its own way (`ip_do_fragment`, `ip6_fragment`).
    Fragment = 32, "fragment", Lifecycle;
}

/// The part of the network stack that a point belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Layer {
    /// Network devices.
    Device,
    /// Traffic control, where tc programs run.
    Tc,
    /// Bridges.
    Bridge,
    /// Netfilter hooks, conntrack and NAT.
    Netfilter,
    /// Routing and IP.
    Ip,
    /// ARP and neighbour discovery.
    Neighbour,
    /// Queueing disciplines.
    Qdisc,
    /// Sockets.
    Socket,
    /// Copies and changes of the packet's memory.
    Lifecycle,
    /// The end of a packet.
    End,
}

impl Layer {
    /// Its name in the output.
    pub const fn name(self) -> &'static str {
        match self {
            Layer::Device => "device",
            Layer::Tc => "tc",
            Layer::Bridge => "bridge",
            Layer::Netfilter => "netfilter",
            Layer::Ip => "ip",
            Layer::Neighbour => "neighbour",
            Layer::Qdisc => "qdisc",
            Layer::Socket => "socket",
            Layer::Lifecycle => "lifecycle",
            Layer::End => "end",
        }
    }
}
