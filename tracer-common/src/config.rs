//! What the user side tells the kernel side before it is loaded: written into `.rodata`, so that
//! the verifier knows every value as a constant and prunes what is not wanted.

/// The offset of a field that this kernel does not have.
pub const ABSENT: u32 = u32::MAX;

macro_rules! offsets {
    ($($(#[$doc:meta])* $field:ident: $structure:literal, $path:literal;)*) => {
        /// Byte offsets of the kernel fields that are read, from the running kernel's BTF;
        /// [`ABSENT`] where it has no such field.
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct Offsets { $($(#[$doc])* pub $field: u32,)* }

        impl Offsets {
            /// All absent.
            pub const ABSENT: Self = Self { $($field: ABSENT,)* };

            /// For each field: the structure and the path of members to it, and where to put the offset.
            pub fn fields(&mut self) -> impl Iterator<Item = (&'static str, &'static str, &mut u32)> {
                [$(($structure, $path, &mut self.$field)),*].into_iter()
            }
        }
    };
}

offsets! {
    /// Device that the packet is on.
    skb_dev: "sk_buff", "dev";
    /// Socket that it belongs to.
    skb_sk: "sk_buff", "sk";
    /// Bytes, fragments included.
    skb_len: "sk_buff", "len";
    /// Bytes in page fragments.
    skb_data_len: "sk_buff", "data_len";
    /// Ethertype, network order.
    skb_protocol: "sk_buff", "protocol";
    /// Offset of the network header from `head`.
    skb_network_header: "sk_buff", "network_header";
    /// Offset of the network header of what a tunnel carries, from `head`.
    skb_inner_network_header: "sk_buff", "inner_network_header";
    /// Offset of the link-layer header from `head`.
    skb_mac_header: "sk_buff", "mac_header";
    /// Where a bit says whether there is a VLAN tag beside the bytes; until Linux 6.1.
    skb_vlan_present: "sk_buff", "__pkt_vlan_present_offset";
    /// Kind of that tag, network order.
    skb_vlan_proto: "sk_buff", "vlan_proto";
    /// That tag, native order.
    skb_vlan_tci: "sk_buff", "vlan_tci";
    /// Start of the buffer.
    skb_head: "sk_buff", "head";
    /// Start of the packet.
    skb_data: "sk_buff", "data";
    /// Route that was chosen, a tagged pointer to `struct dst_entry`.
    skb_dst: "sk_buff", "_skb_refdst";
    /// Interface index.
    dev_ifindex: "net_device", "ifindex";
    /// Network namespace, a pointer to `struct net`.
    dev_net: "net_device", "nd_net.net";
    /// ARPHRD_* of the device.
    dev_type: "net_device", "type";
    /// Inode of the namespace.
    net_inum: "net", "ns.inum";
    /// Network namespace of a socket.
    sk_net: "sock", "__sk_common.skc_net.net";
    /// Hook number.
    nf_hook: "nf_hook_state", "hook";
    /// Protocol family.
    nf_pf: "nf_hook_state", "pf";
    /// Ingress device.
    nf_in: "nf_hook_state", "in";
    /// Egress device.
    nf_out: "nf_hook_state", "out";
    /// Network namespace.
    nf_net: "nf_hook_state", "net";
    /// Kind of qdisc.
    qdisc_ops: "Qdisc", "ops";
    /// Handle.
    qdisc_handle: "Qdisc", "handle";
    /// Parent.
    qdisc_parent: "Qdisc", "parent";
    /// Its transmit queue.
    qdisc_dev_queue: "Qdisc", "dev_queue";
    /// Name of the kind.
    qdisc_ops_id: "Qdisc_ops", "id";
    /// Source address of an IPv4 look-up.
    flowi4_saddr: "flowi4", "saddr";
    /// Destination address of an IPv4 look-up.
    flowi4_daddr: "flowi4", "daddr";
    /// Source address of an IPv6 look-up.
    flowi6_saddr: "flowi6", "saddr";
    /// Destination address of an IPv6 look-up.
    flowi6_daddr: "flowi6", "daddr";
    /// Interface index of the next hop.
    nhc_oif: "fib_nh_common", "nhc_oif";
    /// Address family of the gateway.
    nhc_gw_family: "fib_nh_common", "nhc_gw_family";
    /// Gateway.
    nhc_gw: "fib_nh_common", "nhc_gw";
    /// Family of a next hop: of `AF_INET` it is the first member of a `struct fib_nh`.
    nhc_family: "fib_nh_common", "nhc_family";
    /// The route of an IPv4 next hop; null where the next hop is an object of its own.
    fib_nh_route: "fib_nh", "nh_parent";
    /// Type of an IPv4 route.
    fib_info_type: "fib_info", "fib_type";
    /// Next hop of an IPv6 look-up.
    fib6_result_nh: "fib6_result", "nh";
    /// Route type of an IPv6 look-up.
    fib6_result_type: "fib6_result", "fib6_type";
    /// Common part of an IPv6 next hop.
    fib6_nh_common: "fib6_nh", "nh_common";
    /// Number of an IPv6 table.
    fib6_table_id: "fib6_table", "tb6_id";
    /// NUD_* state.
    neigh_state: "neighbour", "nud_state";
    /// Link-layer address.
    neigh_ha: "neighbour", "ha";
    /// Its device.
    neigh_dev: "neighbour", "dev";
    /// The protocol address that it is for.
    neigh_key: "neighbour", "primary_key";
    /// Family of the gateway of an IPv4 route.
    rtable_gw_family: "rtable", "rt_gw_family";
    /// Gateway of an IPv4 route.
    rtable_gw4: "rtable", "rt_gw4";
    /// Gateway of an IPv6 route.
    rt6_gateway: "rt6_info", "rt6i_gateway";
    /// Connection and what the packet is to it, a tagged pointer to `struct nf_conn`.
    skb_nfct: "sk_buff", "_nfct";
    /// The next of a list of packets.
    skb_next: "sk_buff", "next";
    /// Status bits of a connection.
    nf_conn_status: "nf_conn", "status";
    /// Both tuples of a connection, each behind a `struct hlist_nulls_node`.
    nf_conn_tuples: "nf_conn", "tuplehash";
    /// Zone of a connection.
    nf_conn_zone: "nf_conn", "zone.id";
    /// Mark of a connection.
    nf_conn_mark: "nf_conn", "mark";
    /// Device of a bridge's port.
    port_dev: "net_bridge_port", "dev";
    /// The packet in a chain of nftables.
    nft_pkt_skb: "nft_pktinfo", "skb";
    /// The hook that it is in.
    nft_pkt_state: "nft_pktinfo", "state";
    /// The same, before Linux 5.15.
    nft_pkt_xt_state: "nft_pktinfo", "xt.state";
    /// Handle of a chain.
    nft_chain_handle: "nft_chain", "handle";
    /// Table of a chain.
    nft_chain_table: "nft_chain", "table";
    /// Handle of a table.
    nft_table_handle: "nft_table", "handle";
    /// Bytes of an expression of this kind.
    nft_ops_size: "nft_expr_ops", "size";
    /// Name of a legacy table of iptables or ip6tables.
    xt_table_name: "xt_table", "name";
    /// Name of a legacy table of ebtables.
    ebt_table_name: "ebt_table", "name";
}

/// Which arguments of kernel functions are what: they were reordered in the course of time.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arguments {
    /// `ipt_do_table`, `ip6t_do_table` and `ebt_do_table`: the packet. Before Linux 5.16
    /// `(skb, state, table)`, since then `(table, skb, state)`.
    pub xt_skb: u32,
    /// The hook state.
    pub xt_state: u32,
    /// The table.
    pub xt_table: u32,
}

impl Arguments {
    /// None is known.
    pub const UNKNOWN: Self = Self { xt_skb: ABSENT, xt_state: ABSENT, xt_table: ABSENT };
}

/// Settings of one trace.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Most bytes of a packet to capture; 0 for none.
    pub snaplen: u32,
    /// 1: capture at every point that can see the bytes; 0: only at tc.
    pub capture_everywhere: u32,
    /// `kfree_skb`'s tracepoint tells a reason (Linux 5.17 and newer).
    pub drop_reasons: u32,
    /// 1: `consume_skb`'s tracepoint tells who calls (Linux 6.3 and newer).
    pub consume_locations: u32,
    /// 1: also follow packets that answer a followed flow (learned reverse tuples).
    pub follow_replies: u32,
    /// Waiting bytes in the ring buffer at which the user side is woken. Below it, its timer finds
    /// them: a wake-up an event would cost more than the event.
    pub wake_bytes: u32,
    /// Waiting bytes at which no further packet is begun to be followed.
    pub pause_bytes: u32,
    /// 1: rules of nftables are a list of `struct nft_rule` (before Linux 5.17); 0: a blob of
    /// `struct nft_rule_dp`.
    pub rules_are_listed: u32,
    /// One of [`mode`](crate::expression::mode).
    pub expression: u32,
    /// Bytes of a packet that the expression reads at most; not 0, and no more than
    /// [`VIEW_BYTES`](crate::expression::VIEW_BYTES).
    pub expression_bytes: u32,
}

/// What changes while a trace runs: the one value of the map `STATE`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Not 0: packets may begin to be followed. Set once everything is attached, so that no journey
    /// misses its start; cleared at the end, so that those under way can finish.
    pub armed: u32,
    /// Not 0: it is over, and no event is offered any more: what was is counted.
    pub over: u32,
    /// Not 0: a reverse tuple was learned. Until then no packet is looked up among them.
    pub learned: u32,
    /// Not 0: the hooks of IP are watched by netfilter links, and not by the function behind them.
    pub linked: u32,
    /// Not 0: every expression of nftables that sets a verdict is watched.
    pub rules: u32,
    /// Not 0: the function that looks packets up in connection tracking is watched. Else what it has
    /// found is told at the end of the hook.
    pub tracked: u32,
    /// Not 0: there are [`Published`](crate::track::Published) addresses.
    pub published: u32,
    /// How much is told of packets that begin from now on: one of [`telling`](crate::track::telling).
    pub telling: u32,
    /// Of so many packets one is told, the others only when they are dropped. A power of two.
    pub one_of: u32,
}

#[cfg(feature = "user")]
mod pod {
    // SAFETY: `repr(C)`, integers only, without padding: every byte is initialised.
    unsafe impl aya::Pod for super::Offsets {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Arguments {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Settings {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::State {}
}
