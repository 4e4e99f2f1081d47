//! Told which rule or policy of nf_tables dropped a packet, in a namespace where packets are traced
//! (`meta nftrace set 1`; whoever sets that is another's business).
//!
//! The kernel tells every rule that matched, in the order of the packet's way, to the multicast
//! group `NFNLGRP_NFTRACE`. What the packet is, only the first message of a base chain tells: a
//! number ties the others to it. Only drops are of use here, so only that first message is
//! remembered.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    num::NonZeroUsize,
};

use lru::LruCache;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use super::{
    Error,
    chains::Family,
    netlink::{Message, attributes, be32_of, be64_of, borrow, messages, string_of},
    netns::Netns,
    owner::Owner,
};
use crate::event;

/// What waits until it is read. The kernel takes twice as much, for its own overhead.
const BUFFER: usize = 8 << 20;
/// More than any one message.
const MESSAGE: usize = 16 << 10;
/// Packets in a base chain at one time that are remembered, and those that have left it unseen.
const PACKETS: NonZeroUsize = NonZeroUsize::new(8192).unwrap();

/// A packet, as nf_tables saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// IPv4 or IPv6.
    pub family: event::Family,
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// IPv4 identification or low bits of the IPv6 flow label.
    pub ip_id: u16,
    /// What lies above; `None` behind IPv6 extension headers.
    pub transport: Option<Transport>,
}

/// What identifies a packet above IP. Fields that it does not have are 0, as in
/// [`Headers`](event::Headers).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transport {
    /// IP protocol number.
    pub proto: u8,
    /// Source port, or the identifier of an ICMP echo.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
    /// TCP sequence number or ICMP echo sequence number.
    pub seq: u32,
}

/// A packet that nf_tables dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TracedDrop {
    /// The packet, as it came into the base chain.
    pub packet: Packet,
    /// Family of the table.
    pub family: Family,
    /// The table.
    pub table: String,
    /// The base chain.
    pub base: String,
    /// Handle of the rule that decided, unique in the table; `None` where it was the base chain's
    /// policy.
    pub rule: Option<u64>,
}

/// Hears of the traced packets of one namespace. Keeps the namespace alive.
pub struct Listener {
    socket: Socket,
    buffer: Vec<u8>,
    packets: Packets,
}

impl Listener {
    /// Listens from now on.
    ///
    /// # Errors
    /// When the namespace is gone, or this kernel has no such group.
    pub fn open(netns: &Netns) -> Result<Self, Error> {
        let fail = |e| Error::new(format!("hear of traced rules in {}", netns.label()), e);
        let socket = netns.enter(listen)?.map_err(fail)?;
        Ok(Self { socket, buffer: Vec::with_capacity(MESSAGE), packets: Packets::default() })
    }

    /// Takes what has come, at most so many messages, and hands on the drops. How often something
    /// was lost: the kernel had no room, or told of a drop whose packet it did not tell.
    pub fn drain(&mut self, most: usize, mut each: impl FnMut(TracedDrop)) -> u64 {
        let mut lost = 0;
        for _ in 0..most {
            self.buffer.clear();
            match self.socket.recv_from(&mut self.buffer, libc::MSG_DONTWAIT) {
                // Only the kernel is 0.
                Ok((_, sender)) if sender.port_number() != 0 => {}
                Ok(_) => {
                    for message in messages(&self.buffer) {
                        match self.packets.take(&message) {
                            Some(Ok(drop)) => each(drop),
                            Some(Err(Unknown)) => lost += 1,
                            None => {}
                        }
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => {
                    lost += 1;
                    // What is remembered may be of others by now.
                    self.packets.0.clear();
                }
                Err(_) => break,
            }
        }
        lost
    }
}

/// A socket in the calling thread's namespace.
fn listen() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind(&SocketAddr::new(0, 0))?;
    // Without the right to have more, there is less.
    let _ = rustix::net::sockopt::set_socket_recv_buffer_size_force(borrow(&socket), BUFFER);
    socket.add_membership(libc::NFNLGRP_NFTRACE as u32)?;
    Ok(socket)
}

/// A drop of a packet that is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Unknown;

/// What the first message told, by the kernel's number of the packet.
struct Packets(LruCache<u32, First>);

struct First {
    packet: Packet,
    base: String,
}

impl Default for Packets {
    fn default() -> Self {
        Self(LruCache::new(PACKETS))
    }
}

impl Packets {
    /// A drop, where the message tells one.
    fn take(&mut self, message: &Message<'_>) -> Option<Result<TracedDrop, Unknown>> {
        const TRACE: u16 = (libc::NFNL_SUBSYS_NFTABLES << 8 | libc::NFT_MSG_TRACE) as u16;
        let step = (message.kind == TRACE).then(|| Step::parse(message.body)).flatten()?;
        if let Some(packet) = packet(step.network, step.transport) {
            self.0.put(step.id, First { packet, base: string_of(step.chain) });
        }
        if !step.drops {
            return None;
        }
        let Some(First { packet, base }) = self.0.pop(&step.id) else { return Some(Err(Unknown)) };
        let rule = step.handle;
        let (family, table) = (step.family, string_of(step.table));
        Some(Ok(TracedDrop { packet, family, table, base, rule }))
    }
}

/// One message.
#[derive(Debug)]
struct Step<'a> {
    id: u32,
    family: Family,
    table: &'a [u8],
    chain: &'a [u8],
    /// `None` for a policy.
    handle: Option<u64>,
    drops: bool,
    /// Empty in all but the first message of a base chain.
    network: &'a [u8],
    transport: &'a [u8],
}

/// `enum nft_trace_attributes` of linux/netfilter/nf_tables.h.
mod trace {
    pub const TABLE: u16 = 1;
    pub const CHAIN: u16 = 2;
    pub const RULE_HANDLE: u16 = 3;
    pub const TYPE: u16 = 4;
    pub const VERDICT: u16 = 5;
    pub const ID: u16 = 6;
    pub const NETWORK_HEADER: u16 = 8;
    pub const TRANSPORT_HEADER: u16 = 9;
    pub const POLICY: u16 = 16;
}

/// `NFTA_VERDICT_CODE`, and `NF_DROP` of linux/netfilter.h.
const VERDICT_CODE: u16 = 1;
const NF_DROP: u32 = 0;

impl<'a> Step<'a> {
    /// `None` for a message that is not whole, or that tells of a table of ours.
    fn parse(body: &'a [u8]) -> Option<Self> {
        let mut step = Step {
            id: 0,
            family: Family::from_number(*body.first()?)?,
            table: &[],
            chain: &[],
            handle: None,
            drops: false,
            network: &[],
            transport: &[],
        };
        let (mut id, mut kind, mut verdict, mut policy) = (None, 0, None, None);
        for (attribute, value) in attributes(body.get(4..)?) {
            match attribute {
                trace::TABLE => step.table = value,
                trace::CHAIN => step.chain = value,
                trace::RULE_HANDLE => step.handle = be64_of(value),
                trace::TYPE => kind = be32_of(value)?,
                trace::VERDICT => {
                    let code = attributes(value).find(|(kind, _)| *kind == VERDICT_CODE);
                    verdict = code.and_then(|(_, code)| be32_of(code));
                }
                trace::ID => id = be32_of(value),
                trace::NETWORK_HEADER => step.network = value,
                trace::TRANSPORT_HEADER => step.transport = value,
                trace::POLICY => policy = be32_of(value),
                _ => {}
            }
        }
        if step.table.starts_with(b"pathtrace-")
            && Owner::of_table(&string_of(step.table)).is_some()
        {
            return None;
        }
        step.id = id?;
        step.drops = match kind as libc::c_int {
            libc::NFT_TRACETYPE_RULE => verdict == Some(NF_DROP) && step.handle.is_some(),
            libc::NFT_TRACETYPE_POLICY => policy == Some(NF_DROP),
            _ => false,
        };
        Some(step)
    }
}

/// The packet whose headers begin so; `None` where it is neither IPv4 nor IPv6, or cut too short.
fn packet(network: &[u8], transport: &[u8]) -> Option<Packet> {
    let two = |at: usize| Some(u16::from_be_bytes(network.get(at..at + 2)?.try_into().ok()?));
    match network.first()? >> 4 {
        4 => {
            let address = |at: usize| {
                let octets: [u8; 4] = network.get(at..at + 4)?.try_into().ok()?;
                Some(IpAddr::V4(Ipv4Addr::from(octets)))
            };
            let is_later_fragment = two(6)? & 0x1fff != 0;
            let proto = *network.get(9)?;
            Some(Packet {
                family: event::Family::Ipv4,
                src: address(12)?,
                dst: address(16)?,
                ip_id: two(4)?,
                transport: Some(above(proto, if is_later_fragment { &[] } else { transport })),
            })
        }
        6 => {
            let address = |at: usize| {
                let octets: [u8; 16] = network.get(at..at + 16)?.try_into().ok()?;
                Some(IpAddr::V6(Ipv6Addr::from(octets)))
            };
            let proto = *network.get(6)?;
            let is_extension = matches!(proto, 0 | 43 | 44 | 51 | 60 | 135);
            Some(Packet {
                family: event::Family::Ipv6,
                src: address(8)?,
                dst: address(24)?,
                ip_id: two(2)?,
                transport: (!is_extension).then(|| above(proto, transport)),
            })
        }
        _ => None,
    }
}

/// The same fields as the kernel side reads (`packet.rs` there).
fn above(proto: u8, bytes: &[u8]) -> Transport {
    let two = |at: usize| {
        bytes.get(at..at + 2).and_then(|b| b.try_into().ok()).map_or(0, u16::from_be_bytes)
    };
    let none = Transport { proto, ..Transport::default() };
    match (proto, bytes.first()) {
        (1, Some(0 | 8)) | (58, Some(128 | 129)) => {
            Transport { sport: two(4), seq: two(6).into(), ..none }
        }
        (6, _) => {
            let seq = u32::from(two(4)) << 16 | u32::from(two(6));
            Transport { sport: two(0), dport: two(2), seq, ..none }
        }
        (17 | 33 | 132 | 136, _) => Transport { sport: two(0), dport: two(2), ..none },
        _ => none,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::{
            netlink::{attribute, nested},
            testing::TestNetns,
        },
        *,
    };

    const TRACE: u16 = (libc::NFNL_SUBSYS_NFTABLES << 8 | libc::NFT_MSG_TRACE) as u16;

    /// 10.0.100.252:4000 → 203.0.113.8:9999, UDP, identification 0x1234.
    const NETWORK: [u8; 20] =
        [0x45, 0, 0, 33, 0x12, 0x34, 0x40, 0, 64, 17, 0, 0, 10, 0, 100, 252, 203, 0, 113, 8];
    const TRANSPORT: [u8; 8] = [0x0f, 0xa0, 0x27, 0x0f, 0, 13, 0, 0];

    /// A message of a chain in `inet lab`.
    fn message(id: u32, chain: &[u8], more: &[Vec<u8>]) -> Vec<u8> {
        let attributes = [
            attribute(trace::ID, &id.to_be_bytes()),
            attribute(trace::TABLE, b"lab\0"),
            attribute(trace::CHAIN, chain),
        ];
        [vec![1, 0, 0, 0], attributes.concat(), more.concat()].concat()
    }

    fn rule(handle: u64, code: i32) -> Vec<Vec<u8>> {
        vec![
            attribute(trace::TYPE, &3u32.to_be_bytes()),
            attribute(trace::RULE_HANDLE, &handle.to_be_bytes()),
            nested(trace::VERDICT, &[attribute(VERDICT_CODE, &code.to_be_bytes())]),
        ]
    }

    fn headers() -> Vec<Vec<u8>> {
        vec![
            attribute(trace::NETWORK_HEADER, &NETWORK),
            attribute(trace::TRANSPORT_HEADER, &TRANSPORT),
        ]
    }

    fn policy(code: u32) -> Vec<Vec<u8>> {
        vec![
            attribute(trace::TYPE, &1u32.to_be_bytes()),
            attribute(trace::POLICY, &code.to_be_bytes()),
        ]
    }

    fn take(packets: &mut Packets, body: &[u8]) -> Option<Result<TracedDrop, Unknown>> {
        packets.take(&Message::new(TRACE, body))
    }

    #[test]
    fn a_drop_in_a_chain_that_was_jumped_to_has_the_packet_of_its_base_chain() {
        let mut packets = Packets::default();
        let jump = [rule(4, -3), headers()].concat();
        assert_eq!(take(&mut packets, &message(7, b"fwd\0", &jump)), None);
        let drop = take(&mut packets, &message(7, b"sub\0", &rule(9, 0))).unwrap().unwrap();
        assert_eq!((drop.table.as_str(), drop.base.as_str()), ("lab", "fwd"));
        assert_eq!(drop.rule, Some(9));
        let packet = drop.packet;
        assert_eq!((packet.src.to_string(), packet.ip_id), ("10.0.100.252".into(), 0x1234));
        let transport = Transport { proto: 17, sport: 4000, dport: 9999, seq: 0 };
        assert_eq!(packet.transport, Some(transport));
    }

    #[test]
    fn a_policy_drops_without_a_rule_and_an_accepted_packet_is_none() {
        let mut packets = Packets::default();
        let accepted = message(1, b"fwd\0", &[policy(1), headers()].concat());
        assert_eq!(take(&mut packets, &accepted), None);
        let dropped = message(2, b"fwd\0", &[policy(0), headers()].concat());
        assert_eq!(take(&mut packets, &dropped).unwrap().unwrap().rule, None);
    }

    #[test]
    fn a_drop_whose_packet_was_not_told_is_counted() {
        let body = message(3, b"sub\0", &rule(9, 0));
        assert_eq!(take(&mut Packets::default(), &body), Some(Err(Unknown)));
    }

    #[test]
    fn tables_of_ours_are_passed_over() {
        let body = [
            vec![1, 0, 0, 0],
            attribute(trace::ID, &[0; 4]),
            attribute(trace::TABLE, b"pathtrace-1-2\0"),
        ];
        assert!(Step::parse(&body.concat()).is_none());
    }

    /// What Linux 6.18 told of a datagram to 127.0.0.1:9 that a chain which was jumped to dropped:
    /// `meta nftrace set 1`, `jump sub`, `udp dport 9 drop`.
    const RECORDED: [&str; 3] = [
        "8c000000110a000000000000000000000100000008000f0000000002080004000000000308000600\
         667a1ba1080002006f757400080001006c6162000c00030000000000000000040c00050008000100\
         ffffffff08000c000000000106000d0003040000180008004500001d46ee40004011f5df7f000001\
         7f0000010d0009000fa000090009fe1c78000000",
        "5c000000110a000000000000000000000100000008000f0000000002080004000000000308000600\
         667a1ba1080002006f757400080001006c6162000c00030000000000000000051400050008000100\
         fffffffd0800020073756200",
        "54000000110a000000000000000000000100000008000f0000000002080004000000000308000600\
         667a1ba10800020073756200080001006c6162000c00030000000000000000030c00050008000100\
         00000000",
    ];

    #[test]
    fn what_a_kernel_told_is_read() {
        let mut packets = Packets::default();
        let told = RECORDED.map(|text| {
            let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
            let bytes: Vec<u8> = (0..text.len()).step_by(2).map(digit).collect();
            let message = messages(&bytes).next().unwrap();
            packets.take(&message)
        });
        assert_eq!((&told[0], &told[1]), (&None, &None));
        let drop = told[2].clone().unwrap().unwrap();
        assert_eq!((drop.family, drop.table.as_str()), (Family::Inet, "lab"));
        assert_eq!(drop.base, "out");
        assert_eq!(drop.rule, Some(3));
        let Packet { src, ip_id, transport, .. } = drop.packet;
        assert_eq!((src, ip_id), (IpAddr::V4(Ipv4Addr::LOCALHOST), 0x46ee));
        let datagram = Transport { proto: 17, sport: 4000, dport: 9, seq: 0 };
        assert_eq!(transport, Some(datagram));
    }

    #[test]
    fn a_kernel_that_traces_is_heard() {
        let test = TestNetns::new("heard");
        test.ip("link set lo up");
        test.nft(
            "table inet lab {
                chain sub { udp dport 9 counter drop; }
                chain out { type filter hook output priority -5; meta nftrace set 1; jump sub; }
            }",
        );
        let mut listener = Listener::open(&test.netns()).unwrap();
        let send = || {
            let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            let _ = socket.send_to(b"x", "127.0.0.1:9");
            socket.local_addr().unwrap().port()
        };
        let port = test.netns().enter(send).unwrap();
        let mut drops = Vec::new();
        assert_eq!(listener.drain(1000, |drop| drops.push(drop)), 0);
        assert_eq!(drops.len(), 1, "{drops:?}");
        let transport = drops[0].packet.transport.unwrap();
        assert_eq!((transport.sport, transport.dport), (port, 9));
        assert_eq!((drops[0].family, drops[0].base.as_str()), (Family::Inet, "out"));
        assert_eq!(drops[0].rule, Some(3));
    }

    proptest! {
        #[test]
        fn hostile_messages_do_not_panic(at in 0..200usize, byte: u8, length in 0..200usize) {
            let mut body = message(7, b"fwd\0", &[rule(4, 0), headers()].concat());
            let at = at % body.len();
            body[at] = byte;
            body.truncate(length);
            let _ = take(&mut Packets::default(), &body);
        }
    }
}
