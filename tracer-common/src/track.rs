//! The layout of the kernel side's tables: followed packets and learned reverse tuples.

use crate::event::{Tuple, detail::Hook};

/// What is known of a followed packet: a value of the map `FOLLOWED`, whose key is the address of
/// the packet's `struct sk_buff`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Followed {
    /// Its id.
    pub id: u64,
    /// When it entered the netfilter hook that it is in, ns.
    pub hook_since: u64,
    /// The namespace where it was last seen, by inode.
    pub netns: u32,
    /// How many events it had; wraps.
    pub events: u16,
    /// It was taken by a stack or a socket: the next life at this address is another packet's.
    pub delivered: u8,
    /// A socket event was sent.
    pub read: u8,
    /// The netfilter hook that it is in.
    pub hook: Hook,
    /// The packet as it was last parsed.
    pub tuple: Tuple,
}

/// A learned reverse tuple: a key of the map `LEARNED`, whose value is when it was last seen (ns).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// Source address, IPv4 in its IPv4-mapped form.
    pub src: [u8; 16],
    /// Destination address, in the same form.
    pub dst: [u8; 16],
    /// Source port or ICMP echo identifier, host order.
    pub sport: u16,
    /// Destination port, host order.
    pub dport: u16,
    /// One of [`family`](crate::event::family).
    pub family: u8,
    /// IP protocol number.
    pub proto: u8,
    /// Unused, 0.
    pub pad: u16,
}

#[cfg(feature = "user")]
mod pod {
    // SAFETY: `repr(C)`, integers only, every bit pattern valid.
    unsafe impl aya::Pod for super::Followed {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Flow {}
}
