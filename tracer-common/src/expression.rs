//! What a pcap-filter expression is evaluated on: the layout that the kernel side fills and that the
//! translated program, which the user side puts into the object, reads.

use crate::event::{Tuple, family};

/// Most bytes of a packet that an expression sees: all headers that are usual, and some of what they carry.
/// A power of two.
pub const VIEW_BYTES: usize = 256;

/// Room behind them: what is read last may begin at the last byte, and a VLAN tag that is put in is copied
/// around in a form that every verifier can bound.
const SLACK: usize = 24;

/// Words of memory that a classic BPF program has (`BPF_MEMWORDS`).
pub const MEMORY_WORDS: usize = 16;

/// The start of a packet: the value of the map `VIEW`, one for each CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// The packet that it is of, by the address of its skb: what interrupts its evaluation may take its place.
    pub owner: u64,
    /// How many of `bytes` are the packet's.
    pub captured: u32,
    /// Its length on the wire, from the same byte on.
    pub length: u32,
    /// Its bytes, from the link-layer header or from the network header.
    pub bytes: [u8; VIEW_BYTES + SLACK],
    /// The memory of the program.
    pub memory: [u32; MEMORY_WORDS],
}

/// Values of [`Settings::expression`](crate::config::Settings::expression).
pub mod mode {
    /// There is none: every packet matches.
    pub const NONE: u32 = 0;
    /// There is one.
    pub const PLAIN: u32 = 1;
    /// There is one that speaks of VLANs: a tag that the kernel keeps beside the packet is put back
    /// where it was in the frame. Other expressions look through it, as those of a capturing socket do.
    pub const TAGS: u32 = 2;
}

const IPV4: usize = 20;
const IPV6: usize = 40;
const TRANSPORT: usize = 20;

/// Bytes of the longest headers that [`headers`] writes, and some more.
pub const HEADER_BYTES: usize = 64;

/// The headers of a packet that is still to come, of which no more is known than `tuple`: its network header, and
/// a transport header without options. How many bytes they are.
#[inline(always)]
pub fn headers(tuple: &Tuple, to: &mut [u8; HEADER_BYTES]) -> usize {
    *to = [0; HEADER_BYTES];
    if tuple.family == family::IPV6 {
        to[0] = 0x60;
        to[5] = TRANSPORT as u8;
        to[6] = tuple.proto;
        to[7] = 64;
        to[8..24].copy_from_slice(&tuple.src);
        to[24..40].copy_from_slice(&tuple.dst);
        transport(tuple, to, IPV6);
        IPV6 + TRANSPORT
    } else {
        to[0] = 0x45;
        to[3] = (IPV4 + TRANSPORT) as u8;
        to[8] = 64;
        to[9] = tuple.proto;
        to[12..16].copy_from_slice(&tuple.src[12..16]);
        to[16..20].copy_from_slice(&tuple.dst[12..16]);
        transport(tuple, to, IPV4);
        IPV4 + TRANSPORT
    }
}

/// `at`: a constant.
#[inline(always)]
fn transport(tuple: &Tuple, to: &mut [u8; HEADER_BYTES], at: usize) {
    let ([a, b], [c, d]) = (tuple.sport.to_be_bytes(), tuple.dport.to_be_bytes());
    if matches!(tuple.proto, 1 | 58) {
        to[at] = answering_kind(tuple.l4_kind);
        (to[at + 4], to[at + 5]) = (a, b);
        return;
    }
    (to[at], to[at + 1], to[at + 2], to[at + 3]) = (a, b, c, d);
    if tuple.proto == 6 {
        // No options, and ACK: most segments.
        (to[at + 12], to[at + 13]) = (0x50, 0x10);
    } else {
        to[at + 5] = TRANSPORT as u8;
    }
}

/// The type of ICMP that answers one of this type, as far as there is such a thing.
#[inline(always)]
fn answering_kind(kind: u8) -> u8 {
    match kind {
        8 => 0,
        0 => 8,
        128 => 129,
        129 => 128,
        other => other,
    }
}
