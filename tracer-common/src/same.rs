//! Whether a packet is what it was when it was last parsed, told by a few words of it: most looks at a followed packet
//! end here. Differences are gathered without branches, which the verifier would walk.

use core::hint::black_box;

use crate::event::{Tuple, family};

/// More than any time to live: the packet is another, or it takes a parse to know.
pub const OTHERWISE: u64 = u64::MAX;

/// So many words of TCP are looked at, up to its flags; as many have to be there of UDP.
const TRANSPORT: usize = 4;

/// What is looked at of IPv4 without options and what follows it: words as they are in the packet.
pub type Ipv4 = [u32; 5 + TRANSPORT];
/// What is looked at of IPv6 and what follows it, in the same form.
pub type Ipv6 = [u32; 10 + TRANSPORT];

const TCP: u8 = 6;
const UDP: u8 = 17;
/// A bit of what stands beside IPv4's identification.
const DONT_FRAGMENT: u32 = 0x4000;

/// All bits where `value` is not 0, none where it is, without a branch: the verifier walks what follows once,
/// not once for each.
#[inline(always)]
pub fn all_unless_0(value: u64) -> u64 {
    // The compiler would see through it, and make a branch of it.
    let negative = black_box(value.wrapping_neg());
    ((value | negative) as i64 >> 63) as u64
}

/// If a parse of this packet gave `tuple` but for its time to live: that. Else, or where it is neither TCP nor UDP, has
/// options of IP or is a fragment: [`OTHERWISE`].
#[inline(always)]
pub fn time_to_live_ipv4(ip: &Ipv4, tuple: &Tuple) -> u64 {
    let [.., src] = quarters(&tuple.src);
    let [.., dst] = quarters(&tuple.dst);
    let [first, id, at_time_to_live] = [ip[0], ip[1], ip[2]].map(u32::from_be);
    let differs = (first >> 24 ^ 0x45)
        | u32::from(tuple.family ^ family::IPV4)
        | (id ^ u32::from(tuple.ip_id) << 16) & !DONT_FRAGMENT
        | (ip[3] ^ src)
        | (ip[4] ^ dst);
    let transport = [ip[5], ip[6], ip[7], ip[8]];
    let proto = (at_time_to_live >> 16) as u8;
    let differs = u64::from(differs) | transport_differs(proto, transport, tuple);
    u64::from(at_time_to_live >> 24) | all_unless_0(differs)
}

/// The same of IPv6 and its hop limit; [`OTHERWISE`] where it has extension headers.
#[inline(always)]
pub fn hop_limit_ipv6(ip: &Ipv6, tuple: &Tuple) -> u64 {
    let (src, dst) = (quarters(&tuple.src), quarters(&tuple.dst));
    let (first, at_hop_limit) = (u32::from_be(ip[0]), u32::from_be(ip[1]));
    let mut differs = (first >> 28 ^ 6)
        | u32::from(tuple.family ^ family::IPV6)
        | u32::from(first as u16 ^ tuple.ip_id);
    let mut i = 0;
    while i < 4 {
        differs |= (ip[2 + i] ^ src[i]) | (ip[6 + i] ^ dst[i]);
        i += 1;
    }
    let transport = [ip[10], ip[11], ip[12], ip[13]];
    let proto = (at_hop_limit >> 8) as u8;
    let differs = u64::from(differs) | transport_differs(proto, transport, tuple);
    u64::from(at_hop_limit as u8) | all_unless_0(differs)
}

/// Whether this is not the beginning of the TCP or UDP header of `tuple`: not 0 then.
#[inline(always)]
fn transport_differs(proto: u8, words: [u32; TRANSPORT], tuple: &Tuple) -> u64 {
    let proto = u64::from(proto);
    let not_tcp = all_unless_0(proto ^ u64::from(TCP));
    let [ends, seq, ack, flags] = words.map(u32::from_be);
    let of_tcp = |value: u32| u64::from(value) & !not_tcp;
    (not_tcp & all_unless_0(proto ^ u64::from(UDP)))
        | (proto ^ u64::from(tuple.proto))
        | u64::from(ends ^ (u32::from(tuple.sport) << 16 | u32::from(tuple.dport)))
        | (of_tcp(seq) ^ u64::from(tuple.seq))
        | (of_tcp(ack) ^ u64::from(tuple.ack))
        | (of_tcp(flags >> 16 & 0xff) ^ u64::from(tuple.l4_kind))
        | u64::from(tuple.l4_code | tuple.later_fragment | tuple.more_fragments)
        | u64::from(tuple.fragment_id)
}

/// An address, in words as they are in a packet.
#[inline(always)]
fn quarters(address: &[u8; 16]) -> [u32; 4] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *address;
    [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]].map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::track::Followed;

    /// Where a byte belongs to nothing that tells packets apart: type of service or traffic class, total length,
    /// checksums, the window.
    const IPV4_FREE: [usize; 8] = [1, 2, 3, 10, 11, 32, 34, 35];
    const IPV6_FREE: [usize; 5] = [4, 5, 52, 54, 55];
    const TIME_TO_LIVE: (usize, usize) = (8, 7);

    fn ipv4() -> ([u8; 36], Tuple) {
        let mut bytes = [0; 36];
        bytes[..12].copy_from_slice(&[0x45, 0, 0, 60, 0x12, 0x34, 0x40, 0, 63, 6, 0xaa, 0xbb]);
        bytes[12..20].copy_from_slice(&[10, 0, 100, 2, 203, 0, 113, 8]);
        bytes[20..]
            .copy_from_slice(&[0x9c, 0x40, 1, 187, 1, 2, 3, 4, 5, 6, 7, 8, 0xa0, 0x18, 9, 9]);
        let mapped = |v4: [u8; 4]| {
            let mut address = [0; 16];
            address[10..12].fill(0xff);
            address[12..].copy_from_slice(&v4);
            address
        };
        let tuple = Tuple {
            src: mapped([10, 0, 100, 2]),
            dst: mapped([203, 0, 113, 8]),
            family: family::IPV4,
            ip_id: 0x1234,
            ..tcp()
        };
        (bytes, tuple)
    }

    fn ipv6() -> ([u8; 56], Tuple) {
        let mut bytes = [0; 56];
        bytes[..8].copy_from_slice(&[0x60, 0, 0x56, 0x78, 0, 20, 6, 63]);
        let (src, dst) = ([0xfd; 16], [0x20; 16]);
        bytes[8..24].copy_from_slice(&src);
        bytes[24..40].copy_from_slice(&dst);
        bytes[40..].copy_from_slice(&ipv4().0[20..]);
        (bytes, Tuple { src, dst, family: family::IPV6, ip_id: 0x5678, ..tcp() })
    }

    fn tcp() -> Tuple {
        let (sport, dport, seq, ack) = (40_000, 443, 0x0102_0304, 0x0506_0708);
        Tuple { sport, dport, proto: 6, seq, ack, l4_kind: 0x18, ttl: 64, ..Tuple::default() }
    }

    fn words<const N: usize>(bytes: &[u8]) -> [u32; N] {
        std::array::from_fn(|i| u32::from_ne_bytes(bytes[4 * i..4 * i + 4].try_into().unwrap()))
    }

    fn of_ipv4(bytes: &[u8; 36], tuple: &Tuple) -> u64 {
        time_to_live_ipv4(&words(bytes), tuple)
    }

    fn of_ipv6(bytes: &[u8; 56], tuple: &Tuple) -> u64 {
        hop_limit_ipv6(&words(bytes), tuple)
    }

    #[test]
    fn a_packet_further_on_its_way_is_the_same() {
        let ((v4, before), (v6, before_v6)) = (ipv4(), ipv6());
        assert_eq!((of_ipv4(&v4, &before), of_ipv6(&v6, &before_v6)), (63, 63));
        // What says so is the same packet to whoever parses it.
        for before in [before, before_v6] {
            let now = Tuple { ttl: 63, ..before };
            assert!(Followed { tuple: before, ..Followed::default() }.is(&now, true));
        }
    }

    #[test]
    fn udp_is_told_by_its_ports() {
        let (mut bytes, mut before) = ipv4();
        bytes[9] = 17;
        before = Tuple { proto: 17, seq: 0, ack: 0, l4_kind: 0, ..before };
        assert_eq!(of_ipv4(&bytes, &before), 63);
        // Length, checksum and payload are no part of it.
        bytes[24..36].fill(0xee);
        assert_eq!(of_ipv4(&bytes, &before), 63);
        bytes[23] ^= 1;
        assert_eq!(of_ipv4(&bytes, &before), OTHERWISE);
    }

    #[test]
    fn each_byte_that_tells_packets_apart_does() {
        let ((v4, before), (v6, before_v6)) = (ipv4(), ipv6());
        for at in (0..36).filter(|at| *at != TIME_TO_LIVE.0) {
            let mut bytes = v4;
            bytes[at] ^= 0x20;
            let expected = if IPV4_FREE.contains(&at) { 63 } else { OTHERWISE };
            assert_eq!(of_ipv4(&bytes, &before), expected, "byte {at} of IPv4");
        }
        for at in (0..56).filter(|at| *at != TIME_TO_LIVE.1) {
            let mut bytes = v6;
            bytes[at] ^= 0x20;
            // The upper bits of the flow label are not kept, and the traffic class lies among the first.
            let is_free = IPV6_FREE.contains(&at) || at == 1;
            let expected = if is_free { 63 } else { OTHERWISE };
            assert_eq!(of_ipv6(&bytes, &before_v6), expected, "byte {at} of IPv6");
        }
    }

    #[test]
    fn what_may_be_fragmented_is_a_fragment_only_where_it_says_so() {
        let (mut bytes, before) = ipv4();
        bytes[6] = 0;
        assert_eq!(of_ipv4(&bytes, &before), 63);
        for fragment in [[0x20, 0], [0, 1]] {
            bytes[6..8].copy_from_slice(&fragment);
            assert_eq!(of_ipv4(&bytes, &before), OTHERWISE);
        }
    }

    #[test]
    fn other_protocols_and_what_was_put_together_take_a_parse() {
        let (mut bytes, before) = ipv4();
        assert_eq!(of_ipv4(&bytes, &Tuple { fragment_id: 7, ..before }), OTHERWISE);
        assert_eq!(of_ipv4(&bytes, &Tuple { later_fragment: 1, ..before }), OTHERWISE);
        bytes[9] = 1;
        assert_eq!(of_ipv4(&bytes, &Tuple { proto: 1, ..before }), OTHERWISE);
    }
}
