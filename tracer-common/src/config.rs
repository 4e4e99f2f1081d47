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
    /// Offset of the link-layer header from `head`.
    skb_mac_header: "sk_buff", "mac_header";
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
}

macro_rules! arguments {
    ($($(#[$doc:meta])* $field:ident: $function:literal, $wanted:expr, or $fallback:literal;)*) => {
        /// Which argument of a kernel function it is, counted from 0, from the running kernel's BTF;
        /// where that does not tell, as Linux 5.10 has it.
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct Arguments { $($(#[$doc])* pub $field: u32,)* }

        impl Arguments {
            /// As Linux 5.10 has them.
            pub const FALLBACK: Self = Self { $($field: $fallback,)* };

            /// For each argument: the function, the structure that it points at or its name (the
            /// first that there is), and where to put the index.
            pub fn wanted(
                &mut self,
            ) -> impl Iterator<Item = (&'static str, &'static [&'static str], &mut u32)> {
                let wanted: [(_, &'static [&'static str], _); _] =
                    [$(($function, &$wanted, &mut self.$field)),*];
                wanted.into_iter()
            }
        }
    };
}

// Since Linux 5.16 the three are hook functions themselves, `(priv, skb, state)`.
arguments! {
    /// The packet, of `ipt_do_table`.
    xt_skb: "ipt_do_table", ["sk_buff"], or 0;
    /// `struct nf_hook_state`, of `ipt_do_table`.
    xt_state: "ipt_do_table", ["nf_hook_state"], or 1;
    /// `struct xt_table`, of `ipt_do_table`.
    xt_table: "ipt_do_table", ["xt_table", "priv"], or 2;
    /// The packet, of `ip6t_do_table`.
    xt6_skb: "ip6t_do_table", ["sk_buff"], or 0;
    /// `struct nf_hook_state`, of `ip6t_do_table`.
    xt6_state: "ip6t_do_table", ["nf_hook_state"], or 1;
    /// `struct xt_table`, of `ip6t_do_table`.
    xt6_table: "ip6t_do_table", ["xt_table", "priv"], or 2;
    /// The packet, of `ebt_do_table`.
    eb_skb: "ebt_do_table", ["sk_buff"], or 0;
    /// `struct nf_hook_state`, of `ebt_do_table`.
    eb_state: "ebt_do_table", ["nf_hook_state"], or 1;
    /// `struct ebt_table`, of `ebt_do_table`.
    eb_table: "ebt_do_table", ["ebt_table", "priv"], or 2;
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
}

/// What changes while a trace runs: the one value of the map `STATE`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Not 0: packets may begin to be followed. Set once everything is attached, so that no journey
    /// misses its start; cleared at the end, so that those under way can finish.
    pub armed: u32,
    /// Not 0: a reverse tuple was learned. Until then no packet is looked up among them.
    pub learned: u32,
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
