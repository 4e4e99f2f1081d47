//! The connections that a namespace tracks, by ctnetlink (`conntrack -L`): those that were there before
//! anybody watched.

use std::io;

use super::{
    Error,
    netlink::{Connection as Netlink, Message, attributes, ip_of},
    netns::Netns,
};
use crate::event::{Connection, Family, Tuple};

/// linux/netfilter/nfnetlink_conntrack.h: what is asked, and what comes.
const GET: u16 = (libc::NFNL_SUBSYS_CTNETLINK as u16) << 8 | 1;
const NEW: u16 = (libc::NFNL_SUBSYS_CTNETLINK as u16) << 8;

/// `enum ctattr_type`, `ctattr_tuple`, `ctattr_ip`, `ctattr_l4proto`.
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_PROTO_ICMP_ID: u16 = 4;
const CTA_PROTO_ICMPV6_ID: u16 = 7;

/// Those of a namespace's connections that are wanted: a host has a million of them.
///
/// # Errors
/// When the namespace is gone, may not be entered, or its kernel has no ctnetlink.
pub fn connections(
    netns: &Netns,
    wanted: impl Fn(&Connection) -> bool + Send,
) -> Result<Vec<Connection>, Error> {
    let read = move || {
        // struct nfgenmsg: of any family.
        Netlink::netfilter()?.dump(GET, &[0, 0, 0, 0], |message: &Message<'_>| {
            let connection = (message.kind == NEW).then(|| parse(message.body)).flatten()?;
            wanted(&connection).then_some(connection)
        })
    };
    netns
        .enter(read)?
        .map_err(|e: io::Error| Error::new(format!("read the connections of {}", netns.label()), e))
}

/// `struct nfgenmsg` and attributes.
fn parse(body: &[u8]) -> Option<Connection> {
    let (mut original, mut reply) = (None, None);
    for (kind, value) in attributes(body.get(4..)?) {
        match kind {
            CTA_TUPLE_ORIG => original = tuple(value),
            CTA_TUPLE_REPLY => reply = tuple(value),
            _ => {}
        }
    }
    let (proto, original) = original?;
    let (_, reply) = reply?;
    let family = if original.src.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 };
    Some(Connection { family, proto, original, reply, is_reply: false })
}

fn tuple(bytes: &[u8]) -> Option<(u8, Tuple)> {
    let (mut src, mut dst, mut proto) = (None, None, None);
    let (mut sport, mut dport) = (0, 0);
    let port = |value: &[u8]| Some(u16::from_be_bytes(value.try_into().ok()?));
    for (kind, value) in attributes(bytes) {
        for (inner, value) in attributes(value) {
            match (kind, inner) {
                (CTA_TUPLE_IP, CTA_IP_V4_SRC | CTA_IP_V6_SRC) => src = ip_of(value),
                (CTA_TUPLE_IP, CTA_IP_V4_DST | CTA_IP_V6_DST) => dst = ip_of(value),
                (CTA_TUPLE_PROTO, CTA_PROTO_NUM) => proto = value.first().copied(),
                (CTA_TUPLE_PROTO, CTA_PROTO_SRC_PORT | CTA_PROTO_ICMP_ID | CTA_PROTO_ICMPV6_ID) => {
                    sport = port(value)?
                }
                (CTA_TUPLE_PROTO, CTA_PROTO_DST_PORT) => dport = port(value)?,
                _ => {}
            }
        }
    }
    Some((proto?, Tuple { src: src?, dst: dst?, sport, dport }))
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, UdpSocket};

    use super::{super::testing::TestNetns, *};

    #[test]
    fn a_connection_that_is_rewritten_is_read_with_both_tuples() {
        let test = TestNetns::new("ct");
        test.ip("link set lo up");
        test.ip("address add 10.9.0.1/32 dev lo");
        test.ip("route add 10.9.0.9 dev lo");
        test.nft(
            "table ip t { chain c { type nat hook output priority -100; ip daddr 10.9.0.9 udp dport 53 dnat to 10.9.0.1:5353; }; }",
        );
        let sent = test.netns().enter(|| {
            let socket = UdpSocket::bind("10.9.0.1:0")?;
            socket.send_to(b"?", "10.9.0.9:53")?;
            socket.local_addr()
        });
        let port = sent.unwrap().unwrap().port();

        let all = connections(&test.netns(), |c| c.proto == 17).unwrap();

        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let expected = Connection {
            family: Family::Ipv4,
            proto: 17,
            original: Tuple { src: ip("10.9.0.1"), dst: ip("10.9.0.9"), sport: port, dport: 53 },
            reply: Tuple { src: ip("10.9.0.1"), dst: ip("10.9.0.1"), sport: 5353, dport: port },
            is_reply: false,
        };
        assert_eq!(all, [expected]);
        assert_eq!(connections(&test.netns(), |_| false).unwrap(), []);
    }

    #[test]
    fn damaged_messages_are_no_connections() {
        for body in [&[][..], &[0; 4], &[0, 0, 0, 0, 8, 0, 1, 0, 4, 0, 1, 0], &[255; 40]] {
            assert_eq!(parse(body), None);
        }
    }
}
