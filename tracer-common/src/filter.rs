//! Which packets are followed. The user side fills a [`Filter`]; the kernel side evaluates it.
//!
//! Different criteria must all hold (AND); the values of one criterion are alternatives (OR).
//! A criterion without values holds always.

use crate::event::{Tuple, family};

/// Most values that one criterion can have.
pub const MAX_VALUES: usize = 16;

/// Most addresses of selected containers.
pub const MAX_CONTAINER_ADDRESSES: usize = 1024;

/// A list of at most [`MAX_VALUES`] alternatives.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Values<T> {
    /// How many of `items` count.
    pub len: u64,
    /// The alternatives.
    pub items: [T; MAX_VALUES],
}

impl<T: Copy> Values<T> {
    /// No values: the criterion holds always. `filler` is never looked at.
    pub const fn none(filler: T) -> Self {
        Self { len: 0, items: [filler; MAX_VALUES] }
    }

    /// Adds an alternative; `false` when there is no room.
    pub fn push(&mut self, item: T) -> bool {
        match self.items.get_mut(self.len as usize) {
            Some(slot) => {
                *slot = item;
                self.len += 1;
                true
            }
            None => false,
        }
    }

    /// Whether the criterion was not given.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    #[inline(always)]
    fn any(&self, holds: impl Fn(&T) -> bool) -> bool {
        let mut i = 0;
        while i < MAX_VALUES {
            if i as u64 >= self.len {
                return false;
            }
            if let Some(item) = self.items.get(i)
                && holds(item)
            {
                return true;
            }
            i += 1;
        }
        false
    }
}

/// An address range: an address matches when `address & mask == prefix`.
/// IPv4 in its IPv4-mapped form, so that one comparison serves both families.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Net {
    /// The masked address, as two big-endian halves read natively.
    pub prefix: [u64; 2],
    /// The mask, in the same form.
    pub mask: [u64; 2],
}

impl Net {
    /// The network of `address` (IPv4-mapped for IPv4) with `prefix_len` bits of 128.
    pub fn new(address: [u8; 16], prefix_len: u32) -> Self {
        let bits = if prefix_len == 0 { 0 } else { u128::MAX << (128 - prefix_len.min(128)) };
        let mask = halves(&bits.to_be_bytes());
        let address = halves(&address);
        Self { prefix: [address[0] & mask[0], address[1] & mask[1]], mask }
    }

    #[inline(always)]
    fn contains(&self, address: &Halves) -> bool {
        address[0] & self.mask[0] == self.prefix[0] && address[1] & self.mask[1] == self.prefix[1]
    }
}

/// An (IPv4-mapped) address, as two halves of its bytes, read natively.
pub type Halves = [u64; 2];

/// An address as [`Filter::matches_addresses`] takes it.
#[inline(always)]
pub fn halves(address: &[u8; 16]) -> Halves {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *address;
    [u64::from_ne_bytes([a, b, c, d, e, f, g, h]), u64::from_ne_bytes([i, j, k, l, m, n, o, p])]
}

/// A range of ports, both ends included, host order.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ports {
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
}

impl Ports {
    #[inline(always)]
    fn contains(&self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

/// One protocol: an IP protocol number of either family, or ARP.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Proto {
    /// 0 for any IP family, or [`family::ARP`].
    pub family: u8,
    /// IP protocol number.
    pub number: u8,
}

/// One interface.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Iface {
    /// Inode of its network namespace.
    pub netns: u32,
    /// Its index there.
    pub ifindex: u32,
}

/// The link-layer addresses of a packet, where it has an Ethernet header.
#[derive(Clone, Copy, Debug, Default)]
pub struct Macs {
    /// Destination.
    pub dst: [u8; 6],
    /// Source.
    pub src: [u8; 6],
}

/// Which packets are followed.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Filter {
    /// Not 0: either address is to be one of a selected container's. Which those are changes while packets
    /// are followed, so they are not here: whoever evaluates asks for them.
    pub container: u64,
    /// Either address.
    pub ip: Values<Net>,
    /// Source address.
    pub src: Values<Net>,
    /// Destination address.
    pub dst: Values<Net>,
    /// Either port.
    pub port: Values<Ports>,
    /// Source port.
    pub sport: Values<Ports>,
    /// Destination port.
    pub dport: Values<Ports>,
    /// Protocol.
    pub proto: Values<Proto>,
    /// Either link-layer address; bytes 6 and 7 are 0.
    pub mac: Values<[u8; 8]>,
    /// The interface where the packet is.
    pub iface: Values<Iface>,
    /// The network namespace where the packet is, by inode.
    pub netns: Values<u32>,
}

impl Default for Filter {
    fn default() -> Self {
        Self::ANY
    }
}

impl Filter {
    /// Follows every packet.
    pub const ANY: Self = {
        let net = Net { prefix: [0; 2], mask: [0; 2] };
        let ports = Ports { first: 0, last: 0 };
        Self {
            container: 0,
            ip: Values::none(net),
            src: Values::none(net),
            dst: Values::none(net),
            port: Values::none(ports),
            sport: Values::none(ports),
            dport: Values::none(ports),
            proto: Values::none(Proto { family: 0, number: 0 }),
            mac: Values::none([0; 8]),
            iface: Values::none(Iface { netns: 0, ifindex: 0 }),
            netns: Values::none(0),
        }
    };

    /// Whether the place where a packet is (its namespace and interface) is one to follow from.
    /// Cheapest first: the kernel side asks this before it parses the packet.
    #[inline(always)]
    pub fn matches_place(&self, netns: u32, ifindex: u32) -> bool {
        (self.netns.is_empty() || self.netns.any(|n| *n == netns))
            && (self.iface.is_empty()
                || self.iface.any(|i| i.netns == netns && i.ifindex == ifindex))
    }

    /// Whether the packet itself matches. A port criterion never holds for a protocol without
    /// ports or a later fragment. `of_container`: whether either address is one of a selected container's.
    #[inline(always)]
    pub fn matches_packet(
        &self,
        packet: &Tuple,
        of_container: impl Fn(&Halves, &Halves) -> bool,
    ) -> bool {
        let src = halves(&packet.src);
        let dst = halves(&packet.dst);
        let addressed = packet.family != family::OTHER;
        let ported = has_ports(packet);
        (self.proto.is_empty()
            || (addressed
                && self.proto.any(|p| {
                    (packet.family == family::ARP) == (p.family == family::ARP)
                        && packet.proto == p.number
                })))
            && (self.container == 0 || (addressed && of_container(&src, &dst)))
            && (self.ip.is_empty()
                || (addressed && self.ip.any(|net| net.contains(&src) || net.contains(&dst))))
            && (self.src.is_empty() || (addressed && self.src.any(|net| net.contains(&src))))
            && (self.dst.is_empty() || (addressed && self.dst.any(|net| net.contains(&dst))))
            && (self.port.is_empty()
                || (ported
                    && self.port.any(|p| p.contains(packet.sport) || p.contains(packet.dport))))
            && (self.sport.is_empty() || (ported && self.sport.any(|p| p.contains(packet.sport))))
            && (self.dport.is_empty() || (ported && self.dport.any(|p| p.contains(packet.dport))))
    }

    /// Whether any address criterion was given.
    #[inline(always)]
    pub fn names_addresses(&self) -> bool {
        !(self.container == 0 && self.ip.is_empty() && self.src.is_empty() && self.dst.is_empty())
    }

    /// Whether these addresses match. What does not match here matches nowhere: the kernel side asks this
    /// before it parses more. `of_container`: as in [`matches_packet`](Self::matches_packet).
    #[inline(always)]
    pub fn matches_addresses(
        &self,
        src: &Halves,
        dst: &Halves,
        of_container: impl Fn(&Halves, &Halves) -> bool,
    ) -> bool {
        (self.container == 0 || of_container(src, dst))
            && (self.ip.is_empty() || self.ip.any(|net| net.contains(src) || net.contains(dst)))
            && (self.src.is_empty() || self.src.any(|net| net.contains(src)))
            && (self.dst.is_empty() || self.dst.any(|net| net.contains(dst)))
    }

    /// Whether either link-layer address matches; `None`: the packet has no Ethernet header here.
    #[inline(always)]
    pub fn matches_macs(&self, macs: Option<Macs>) -> bool {
        if self.mac.is_empty() {
            return true;
        }
        let Some(macs) = macs else { return false };
        self.mac.any(|m| {
            let [a, b, c, d, e, f, _, _] = *m;
            let m = [a, b, c, d, e, f];
            m == macs.src || m == macs.dst
        })
    }
}

/// Whether `sport` and `dport` of this packet are ports: TCP, UDP, SCTP, DCCP, UDP-Lite.
#[inline(always)]
pub fn has_ports(packet: &Tuple) -> bool {
    matches!(packet.proto, 6 | 17 | 132 | 33 | 136)
        && matches!(packet.family, family::IPV4 | family::IPV6)
        && packet.later_fragment == 0
}

#[cfg(feature = "user")]
// SAFETY: `repr(C)`, integers only; `Values::len` is a u64 so that nothing is padded.
unsafe impl aya::Pod for Filter {}
