//! Parses the headers of a packet into a [`Tuple`]. VLAN tags are looked through.

use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use tracer_common::{
    event::{Tuple, family, is_icmp_error},
    filter::{Filter, Macs},
    same::{self, OTHERWISE},
};

use crate::{globals::is_of_container, skb::read_into};

/// How the bytes of a packet are read: their addresses are what the reader takes them for.
pub trait Bytes: Copy {
    /// Reads `N` bytes; false when they cannot be read.
    fn read<const N: usize>(self, from: u64, into: &mut [u8; N]) -> bool;

    /// Reads `n` bytes; false when they cannot be read.
    ///
    /// # Safety
    /// `into` has room for them.
    unsafe fn copy(self, from: u64, into: *mut u8, n: u32) -> bool;
}

/// Addresses are those of kernel memory.
#[derive(Clone, Copy)]
pub struct Memory;

impl Bytes for Memory {
    #[inline(always)]
    fn read<const N: usize>(self, from: u64, into: &mut [u8; N]) -> bool {
        read_into(from, into)
    }

    #[inline(always)]
    unsafe fn copy(self, from: u64, into: *mut u8, n: u32) -> bool {
        // SAFETY: by this function's contract; the helper checks `from` itself.
        unsafe { bpf_probe_read_kernel(into.cast(), n, from as *const _) == 0 }
    }
}

const ETH_P_IP: u16 = 0x0800;
const ETH_P_ARP: u16 = 0x0806;
const ETH_P_IPV6: u16 = 0x86dd;
const ETH_P_8021Q: u16 = 0x8100;
const ETH_P_8021AD: u16 = 0x88a8;

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
/// Bytes before what an ICMP error quotes.
const ICMP_HEADER: u64 = 8;

/// Where the headers of a packet lie.
#[derive(Clone, Copy)]
pub struct Headers {
    /// The Ethernet header; 0 where there is none. (Not an `Option`: the compiler would copy the
    /// payload of a `None`, which the verifier does not let it read.)
    pub ethernet: u64,
    /// The network header, 0 where it is not known; where `protocol` is a VLAN's, the Ethernet
    /// header tells better.
    pub network: u64,
    /// The first address behind the linear part.
    pub end: u64,
    /// Ethertype, host order.
    pub protocol: u16,
}

/// What an expression is evaluated on.
#[derive(Clone, Copy)]
pub struct Frame {
    /// Where its headers lie.
    pub headers: Headers,
    /// How many bytes are behind [`Headers::end`].
    pub paged: u32,
    /// The VLAN tag that is not among its bytes.
    pub tag: Tag,
}

/// A VLAN tag that the kernel keeps beside the bytes of a packet: the two words of 16 bits that it has in the
/// frame, the kind in the upper half. 0 for none. (Not an `Option`, as in [`Headers`].)
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Tag(u32);

impl Tag {
    /// There is none.
    pub const NONE: Self = Self(0);

    /// Of this kind, network order, and this content, native order.
    #[inline(always)]
    pub fn of(kind: u16, content: u16) -> Self {
        if kind == 0 {
            Self::NONE
        } else {
            Self(u32::from(u16::from_be(kind)) << 16 | u32::from(content))
        }
    }

    /// Its kind, host order; 0 for none.
    #[inline(always)]
    pub fn kind(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// Its content, host order.
    #[inline(always)]
    pub fn content(self) -> u16 {
        self.0 as u16
    }

    /// As it is in the frame.
    #[inline(always)]
    pub fn bytes(self) -> [u8; 4] {
        self.0.to_be_bytes()
    }
}

impl Headers {
    /// The link-layer addresses.
    #[inline(always)]
    pub fn macs(&self, bytes_of: impl Bytes) -> Option<Macs> {
        let mut bytes = [0; 12];
        if self.ethernet == 0 {
            return None;
        }
        let at = self.ethernet;
        if !bytes_of.read(at, &mut bytes) {
            return None;
        }
        let [a, b, c, d, e, f, g, h, i, j, k, l] = bytes;
        Some(Macs { dst: [a, b, c, d, e, f], src: [g, h, i, j, k, l] })
    }

    /// False: the packet's addresses do not match, whatever else it is. Far cheaper than parsing,
    /// and most packets of a host end here.
    #[inline(always)]
    pub fn may_match(&self, bytes: impl Bytes, filter: &Filter) -> bool {
        !filter.names_addresses() || self.network == 0 || addresses_match(bytes, self, filter)
    }

    /// If a parse of this packet gave `tuple` but for its time to live: that. Else, or where only a parse can tell,
    /// [`OTHERWISE`]. Far cheaper than parsing.
    #[inline(always)]
    pub fn time_to_live_of_same(&self, bytes: impl Bytes, tuple: &Tuple) -> u64 {
        match self.protocol {
            _ if self.network == 0 => OTHERWISE,
            ETH_P_IP => time_to_live_ipv4(bytes, self, tuple),
            ETH_P_IPV6 => hop_limit_ipv6(bytes, self, tuple),
            _ => OTHERWISE,
        }
    }

    /// Fills `tuple`; false when the headers are not all there.
    #[inline(always)]
    pub fn parse(self, bytes: impl Bytes, tuple: &mut Tuple) -> bool {
        parse(bytes, &self, tuple)
    }

    /// The headers of what a tunnel carries, whose network header is at `network`; `None`: it is no IP.
    #[inline(always)]
    pub fn tunneled(&self, bytes_of: impl Bytes, network: u64) -> Option<Self> {
        let mut first = [0; 1];
        if network == 0 || !bytes_of.read(network, &mut first) {
            return None;
        }
        let protocol = match first[0] >> 4 {
            4 => ETH_P_IP,
            6 => ETH_P_IPV6,
            _ => return None,
        };
        Some(Self { ethernet: 0, network, end: self.end, protocol })
    }

    /// Where the network header lies that an ICMP error quotes; `tuple` is the error's own. 0: it is
    /// none.
    #[inline(always)]
    pub fn quoted(&self, bytes_of: impl Bytes, tuple: &Tuple) -> u64 {
        if tuple.later_fragment != 0
            || self.network == 0
            || !is_icmp_error(tuple.family, tuple.proto, tuple.l4_kind)
        {
            return 0;
        }
        let mut own = 40;
        if tuple.family == family::IPV4 {
            let mut first = [0; 1];
            if !bytes_of.read(self.network, &mut first) {
                return 0;
            }
            own = u64::from(first[0] & 0x0f) * 4;
        }
        self.network + own + ICMP_HEADER
    }

    #[inline(always)]
    fn find_and_read(mut self, bytes: impl Bytes, tuple: &mut Tuple) -> bool {
        if (is_vlan(self.protocol) || self.network == 0) && !self.skip_vlan(bytes) {
            return false;
        }
        match self.protocol {
            ETH_P_IP => ipv4(bytes, &self, tuple),
            ETH_P_IPV6 => ipv6(bytes, &self, tuple),
            ETH_P_ARP => arp(bytes, &self, tuple),
            _ => true,
        }
    }

    /// Walks up to two tags from the Ethernet header: on the way in the network header is the tag,
    /// on the way out it is what follows, but behind the Ethernet header it is the same.
    #[inline(always)]
    fn skip_vlan(&mut self, bytes_of: impl Bytes) -> bool {
        let ethernet = self.ethernet;
        if ethernet == 0 {
            return false;
        }
        let mut bytes = [0; 10];
        // The outer ethertype, tag, inner ethertype, tag, ethertype.
        if !bytes_of.read(ethernet + 12, &mut bytes) {
            return false;
        }
        let [a, b, _, _, c, d, _, _, e, f] = bytes;
        let types =
            [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]), u16::from_be_bytes([e, f])];
        self.network = ethernet + 14;
        self.protocol = types[0];
        if is_vlan(types[0]) {
            self.network += 4;
            self.protocol = types[1];
            if is_vlan(types[1]) {
                self.network += 4;
                self.protocol = types[2];
            }
        }
        true
    }
}

/// A BPF subprogram, as the parsers are. ICMP may quote a packet whose addresses match.
#[inline(never)]
fn addresses_match<B: Bytes>(bytes: B, headers: &Headers, filter: &Filter) -> bool {
    match headers.protocol {
        ETH_P_IP => {
            // Time to live, protocol, checksum, source, destination.
            let mut ip = [0; 12];
            if headers.network + 20 > headers.end || !bytes.read(headers.network + 8, &mut ip) {
                return true;
            }
            let [_, proto, _, _, a, b, c, d, e, f, g, h] = ip;
            proto == ICMP
                || filter.matches_addresses(
                    &mapped_halves([a, b, c, d]),
                    &mapped_halves([e, f, g, h]),
                    is_of_container,
                )
        }
        ETH_P_IPV6 => {
            let mut ip = [0u64; 5];
            // SAFETY: as many bytes.
            let into: &mut [u8; 40] = unsafe { &mut *(&raw mut ip).cast() };
            if headers.network + 40 > headers.end || !bytes.read(headers.network, into) {
                return true;
            }
            into[6] == ICMPV6
                || filter.matches_addresses(&[ip[1], ip[2]], &[ip[3], ip[4]], is_of_container)
        }
        _ => true,
    }
}

#[inline(never)]
fn time_to_live_ipv4<B: Bytes>(bytes: B, headers: &Headers, tuple: &Tuple) -> u64 {
    let mut ip = same::Ipv4::default();
    if !read_words(bytes, headers, &mut ip) {
        return OTHERWISE;
    }
    same::time_to_live_ipv4(&ip, tuple)
}

#[inline(never)]
fn hop_limit_ipv6<B: Bytes>(bytes: B, headers: &Headers, tuple: &Tuple) -> u64 {
    let mut ip = same::Ipv6::default();
    if !read_words(bytes, headers, &mut ip) {
        return OTHERWISE;
    }
    same::hop_limit_ipv6(&ip, tuple)
}

/// The words of a packet from its network header on, as they are; false when they are not all there.
#[inline(always)]
fn read_words<const N: usize>(bytes: impl Bytes, headers: &Headers, words: &mut [u32; N]) -> bool {
    let n = size_of::<[u32; N]>() as u32;
    // SAFETY: as many bytes.
    headers.network + u64::from(n) <= headers.end
        && unsafe { bytes.copy(headers.network, words.as_mut_ptr().cast(), n) }
}

// The parsers are BPF subprograms, for each has its own stack: a program's is 512 bytes in all.

/// What a packet's headers say reaches the caller by one copy that a helper makes. The verifier then
/// knows nothing of it, and checks what follows once, not once for each way through the parsers.
#[inline(never)]
fn parse<B: Bytes>(bytes: B, headers: &Headers, tuple: &mut Tuple) -> bool {
    let mut own = Tuple::default();
    let parsed = headers.find_and_read(bytes, &mut own);
    let from = (&raw const own) as u64;
    // SAFETY: a `Tuple` is integers without padding: as many bytes.
    let into: &mut [u8; size_of::<Tuple>()] = unsafe { &mut *(&raw mut *tuple).cast() };
    read_into(core::hint::black_box(from), into) && parsed
}

#[inline(never)]
fn ipv4<B: Bytes>(bytes: B, headers: &Headers, tuple: &mut Tuple) -> bool {
    let mut ip = [0; 20];
    if headers.network + 20 > headers.end || !bytes.read(headers.network, &mut ip) {
        return false;
    }
    let header = u64::from(ip[0] & 0x0f) * 4;
    if ip[0] >> 4 != 4 || header < 20 {
        return false;
    }
    tuple.family = family::IPV4;
    tuple.src = mapped([ip[12], ip[13], ip[14], ip[15]]);
    tuple.dst = mapped([ip[16], ip[17], ip[18], ip[19]]);
    tuple.proto = ip[9];
    tuple.ttl = ip[8];
    tuple.ip_id = u16::from_be_bytes([ip[4], ip[5]]);
    tuple.more_fragments = (ip[6] >> 5) & 1;
    let later = u16::from_be_bytes([ip[6] & 0x1f, ip[7]]) != 0;
    if later || tuple.more_fragments != 0 {
        tuple.fragment_id = tuple.ip_id;
    }
    if later {
        tuple.later_fragment = 1;
        return true;
    }
    // Behind the packet there may be padding. 0 is a segment larger than the field can say.
    let total = u64::from(u16::from_be_bytes([ip[2], ip[3]]));
    let end = headers.network + total;
    let end = if total != 0 && end < headers.end { end } else { headers.end };
    transport(bytes, headers.network + header, end, tuple);
    true
}

#[inline(never)]
fn ipv6<B: Bytes>(bytes: B, headers: &Headers, tuple: &mut Tuple) -> bool {
    // The addresses go where they belong: the stack has no room for the whole header.
    let mut ip = [0; 8];
    if headers.network + 40 > headers.end
        || !bytes.read(headers.network, &mut ip)
        || !bytes.read(headers.network + 8, &mut tuple.src)
        || !bytes.read(headers.network + 24, &mut tuple.dst)
    {
        return false;
    }
    if ip[0] >> 4 != 6 {
        return false;
    }
    tuple.family = family::IPV6;
    tuple.ttl = ip[7];
    tuple.ip_id = u16::from_be_bytes([ip[2], ip[3]]);
    let mut at = headers.network + 40;
    let mut next = ip[6];
    // Hop-by-hop, routing, fragment, authentication, destination options: real packets carry at
    // most a few.
    let mut seen = 0;
    while seen < 4 {
        let mut extension = [0; 8];
        if !matches!(next, 0 | 43 | 44 | 51 | 60) {
            break;
        }
        if at + 8 > headers.end || !bytes.read(at, &mut extension) {
            break;
        }
        if next == 44 {
            // One that is a packet's only fragment (an atomic one) is both first and last, and so whole.
            let offset = u16::from_be_bytes([extension[2], extension[3]]);
            tuple.more_fragments = (offset & 1) as u8;
            if offset & 0xfff9 != 0 {
                tuple.fragment_id = u16::from_be_bytes([extension[6], extension[7]]);
            }
            if offset & 0xfff8 != 0 {
                tuple.later_fragment = 1;
            }
            at += 8;
        } else if next == 51 {
            at += 8 + u64::from(extension[1]) * 4;
        } else {
            at += 8 + u64::from(extension[1]) * 8;
        }
        next = extension[0];
        seen += 1;
    }
    tuple.proto = next;
    if tuple.later_fragment == 0 {
        transport(bytes, at, headers.end, tuple);
    }
    true
}

/// Ports, sequence numbers, ICMP fields. Left 0 where the header is not (wholly) there.
#[inline(always)]
fn transport(bytes: impl Bytes, at: u64, end: u64, tuple: &mut Tuple) {
    let mut first = [0; 8];
    if at + 8 > end || !bytes.read(at, &mut first) {
        return;
    }
    if matches!(tuple.proto, ICMP | ICMPV6) {
        tuple.l4_kind = first[0];
        tuple.l4_code = first[1];
        let is_echo = match tuple.proto {
            ICMP => matches!(first[0], 0 | 8),
            _ => matches!(first[0], 128 | 129),
        };
        if is_echo {
            tuple.sport = u16::from_be_bytes([first[4], first[5]]);
            tuple.seq = u32::from(u16::from_be_bytes([first[6], first[7]]));
        }
        return;
    }
    // UDP, UDP-Lite, SCTP, DCCP and TCP begin alike.
    if matches!(tuple.proto, TCP | UDP | 33 | 132 | 136) {
        tuple.sport = u16::from_be_bytes([first[0], first[1]]);
        tuple.dport = u16::from_be_bytes([first[2], first[3]]);
    }
    let mut rest = [0; 8];
    if tuple.proto == TCP && at + 16 <= end && bytes.read(at + 8, &mut rest) {
        tuple.seq = u32::from_be_bytes([first[4], first[5], first[6], first[7]]);
        tuple.ack = u32::from_be_bytes([rest[0], rest[1], rest[2], rest[3]]);
        tuple.l4_kind = rest[5];
    }
}

/// ARP for IPv4 over Ethernet; other kinds keep only their family.
#[inline(never)]
fn arp<B: Bytes>(bytes: B, headers: &Headers, tuple: &mut Tuple) -> bool {
    let mut arp = [0; 28];
    tuple.family = family::ARP;
    if headers.network + 28 > headers.end || !bytes.read(headers.network, &mut arp) {
        return false;
    }
    tuple.l4_kind = arp[7];
    if arp[4] == 6 && arp[5] == 4 {
        tuple.src = mapped([arp[14], arp[15], arp[16], arp[17]]);
        tuple.dst = mapped([arp[24], arp[25], arp[26], arp[27]]);
    }
    true
}

#[inline(always)]
fn is_vlan(protocol: u16) -> bool {
    matches!(protocol, ETH_P_8021Q | ETH_P_8021AD)
}

/// An IPv4 address in the form that the filter compares.
#[inline(always)]
fn mapped_halves(v4: [u8; 4]) -> [u64; 2] {
    let [a, b, c, d] = v4;
    [0, u64::from_ne_bytes([0, 0, 0xff, 0xff, a, b, c, d])]
}

#[inline(always)]
fn mapped(v4: [u8; 4]) -> [u8; 16] {
    let [a, b, c, d] = v4;
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}
