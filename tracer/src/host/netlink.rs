//! Asking the kernel over netlink, with attributes read one by one: a message with an attribute
//! that this program does not know, or in a form that a later kernel gave it, still tells the rest.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    time::Duration,
};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NlasIterator,
};
use netlink_sys::{Socket, SocketAddr, protocols};

/// Bytes of `struct nlmsghdr`.
const HEADER: usize = 16;
/// The kernel fills at most 32 KiB of one datagram of a dump, whatever larger buffer it is given.
const BUFFER: usize = 64 * 1024;
/// How often a dump is asked for again when the kernel says that things changed meanwhile.
const ATTEMPTS: usize = 4;
/// The kernel answers at once; this only keeps a surprise from hanging the program.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A socket to ask on. It belongs to the namespace that the thread was in when it was opened.
pub struct Connection {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

/// Something to be done, as a part of a batch.
pub struct Order {
    /// Type of the message.
    pub kind: u16,
    /// Flags beyond those of any request.
    pub flags: libc::c_int,
    /// What follows `struct nlmsghdr`.
    pub body: Vec<u8>,
}

/// One message of the kernel.
pub struct Message<'a> {
    /// Its type.
    pub kind: u16,
    /// What follows `struct nlmsghdr`.
    pub body: &'a [u8],
    flags: u16,
    sequence: u32,
}

#[cfg(test)]
impl<'a> Message<'a> {
    /// One as the kernel could have sent it by itself.
    pub fn new(kind: u16, body: &'a [u8]) -> Self {
        Self { kind, body, flags: 0, sequence: 0 }
    }
}

impl Connection {
    /// To rtnetlink.
    pub fn route() -> io::Result<Self> {
        Self::open(protocols::NETLINK_ROUTE)
    }

    /// To nfnetlink.
    pub fn netfilter() -> io::Result<Self> {
        Self::open(protocols::NETLINK_NETFILTER)
    }

    fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        let timeout = rustix::net::sockopt::Timeout::Recv;
        rustix::net::sockopt::set_socket_timeout(borrow(&socket), timeout, Some(TIMEOUT))?;
        Ok(Self { socket, sequence: 0, buffer: Vec::with_capacity(BUFFER) })
    }

    /// Everything that `read` makes of the messages of a dump. When the kernel says that things
    /// changed meanwhile it is asked again; after some attempts the last answer is taken.
    pub fn dump<T>(
        &mut self,
        kind: u16,
        body: &[u8],
        mut read: impl FnMut(&Message<'_>) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        let mut items = Vec::new();
        for _ in 0..ATTEMPTS {
            items.clear();
            let mut interrupted = false;
            self.ask(kind, NLM_F_REQUEST | NLM_F_DUMP, body, |message| {
                interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
                items.extend(read(message));
            })?;
            if !interrupted {
                break;
            }
        }
        Ok(items)
    }

    /// What `read` makes of the one answer to a request.
    pub fn request<T>(
        &mut self,
        kind: u16,
        body: &[u8],
        mut read: impl FnMut(&Message<'_>) -> Option<T>,
    ) -> io::Result<Option<T>> {
        let mut answer = None;
        self.ask(kind, NLM_F_REQUEST | NLM_F_ACK, body, |message| {
            answer = answer.take().or_else(|| read(message));
        })?;
        Ok(answer)
    }

    /// Has something done that is answered by nothing but success; `flags` beyond those of any
    /// request.
    pub fn order(&mut self, kind: u16, flags: libc::c_int, body: &[u8]) -> io::Result<()> {
        self.ask(kind, NLM_F_REQUEST | NLM_F_ACK | flags as u16, body, |_| {})
    }

    /// Has nf_tables do all of these, or none (`nfnetlink_rcv_batch`).
    pub fn batch(&mut self, orders: &[Order]) -> io::Result<()> {
        // struct nfgenmsg; its res_id names the subsystem of the whole batch.
        let bracket = [&[0, 0][..], &(libc::NFNL_SUBSYS_NFTABLES as u16).to_be_bytes()].concat();
        let mut all = Vec::new();
        let mut put = |kind, flags, body: &[u8]| {
            self.sequence = self.sequence.wrapping_add(1);
            all.extend(encode(kind, NLM_F_REQUEST | flags, self.sequence, body));
            all.resize(all.len().next_multiple_of(4), 0);
            self.sequence
        };
        let first = put(libc::NFNL_MSG_BATCH_BEGIN as u16, 0, &bracket);
        let mut last = first;
        for (index, order) in orders.iter().enumerate() {
            // Each that fails is told; that of the last tells as well that none did.
            let ack = if index + 1 == orders.len() { NLM_F_ACK } else { 0 };
            last = put(order.kind, order.flags as u16 | ack, &order.body);
        }
        put(libc::NFNL_MSG_BATCH_END as u16, 0, &bracket);
        self.socket.send_to(&all, &SocketAddr::new(0, 0), 0)?;
        loop {
            self.receive()?;
            for message in messages(&self.buffer) {
                if i32::from(message.kind) == NLMSG_ERROR_ && message.sequence >= first {
                    ended(&message)?;
                    if message.sequence == last {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Sends a request and hands on every message of the answer, up to its end.
    fn ask(
        &mut self,
        kind: u16,
        flags: u16,
        body: &[u8],
        mut each: impl FnMut(&Message<'_>),
    ) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let request = encode(kind, flags, self.sequence, body);
        self.socket.send_to(&request, &SocketAddr::new(0, 0), 0)?;
        loop {
            self.receive()?;
            for message in messages(&self.buffer).filter(|m| m.sequence == self.sequence) {
                match i32::from(message.kind) {
                    NLMSG_DONE_ | NLMSG_ERROR_ => return ended(&message),
                    _ => each(&message),
                }
            }
        }
    }

    /// Waits for the kernel's next datagram, which is in the buffer then.
    fn receive(&mut self) -> io::Result<()> {
        loop {
            self.buffer.clear();
            let (length, sender) = match self.socket.recv_from(&mut self.buffer, libc::MSG_TRUNC) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                received => received?,
            };
            if length > self.buffer.len() {
                return Err(io::Error::other("the kernel's answer is longer than it can be"));
            }
            // Any process may send to a netlink socket; only the kernel is 0.
            if sender.port_number() == 0 {
                return Ok(());
            }
        }
    }
}

const NLMSG_DONE_: i32 = NLMSG_DONE as i32;
const NLMSG_ERROR_: i32 = NLMSG_ERROR as i32;

/// The socket's file descriptor, borrowed.
pub fn borrow(socket: &Socket) -> BorrowedFd<'_> {
    // SAFETY: `socket` owns this file descriptor and is borrowed for as long as the result.
    unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        borrow(&self.socket)
    }
}

/// The result in a message that ends an answer: 0 or a negative errno. A DONE without one is 0.
fn ended(message: &Message<'_>) -> io::Result<()> {
    match message.body.get(..4).and_then(u32_of) {
        None | Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error((code as i32).wrapping_neg())),
    }
}

fn encode(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let mut request = Vec::with_capacity(HEADER + body.len());
    request.extend(((HEADER + body.len()) as u32).to_ne_bytes());
    request.extend(kind.to_ne_bytes());
    request.extend(flags.to_ne_bytes());
    request.extend(sequence.to_ne_bytes());
    request.extend(0u32.to_ne_bytes());
    request.extend(body);
    request
}

/// The messages in a datagram; ends at the first that is not whole.
pub fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = u32_of(bytes.get(..4)?)? as usize;
        let message = Message {
            kind: u16_of(bytes.get(4..6)?)?,
            flags: u16_of(bytes.get(6..8)?)?,
            sequence: u32_of(bytes.get(8..12)?)?,
            body: bytes.get(HEADER..length)?,
        };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// The attributes in these bytes: type without its flag bits, and value. Ends at the first that
/// is not whole.
pub fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    NlasIterator::new(bytes).map_while(|attribute| {
        let attribute = attribute.ok()?;
        let (kind, length) = (attribute.kind(), usize::from(attribute.length()));
        Some((kind, attribute.into_inner().get(4..length)?))
    })
}

/// An attribute as bytes, to send.
pub fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = 4 + value.len();
    let mut bytes = Vec::with_capacity(length.next_multiple_of(4));
    bytes.extend((length as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(length.next_multiple_of(4), 0);
    bytes
}

/// Attributes within one, as bytes, to send.
pub fn nested(kind: u16, attributes: &[Vec<u8>]) -> Vec<u8> {
    attribute(kind | libc::NLA_F_NESTED as u16, &attributes.concat())
}

/// A native 16-bit value; `None` when it is not that long.
pub fn u16_of(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.try_into().ok()?))
}

/// A native 32-bit value.
pub fn u32_of(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

/// A native signed 32-bit value.
pub fn i32_of(bytes: &[u8]) -> Option<i32> {
    Some(i32::from_ne_bytes(bytes.try_into().ok()?))
}

/// A 32-bit value in network order.
pub fn be32_of(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

/// A 64-bit value in network order.
pub fn be64_of(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

/// An address of IPv4 or IPv6.
pub fn ip_of(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
        _ => None,
    }
}

/// A string up to its NUL. Names of links are bytes to the kernel: what is not UTF-8 is replaced.
pub fn string_of(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_and_attributes_come_back_as_sent() {
        let body = [attribute(3, b"eth0\0"), attribute(4 | 0x8000, &7u32.to_ne_bytes())].concat();
        let bytes = [encode(16, 0, 9, &body), encode(3, 0, 9, &[0; 4])].concat();
        let kinds: Vec<_> = messages(&bytes).map(|m| (m.kind, m.sequence)).collect();
        assert_eq!(kinds, [(16, 9), (3, 9)]);
        let got: Vec<_> = attributes(messages(&bytes).next().unwrap().body).collect();
        assert_eq!(got, [(3, &b"eth0\0"[..]), (4, &7u32.to_ne_bytes()[..])]);
        assert_eq!(string_of(got[0].1), "eth0");
    }

    #[test]
    fn an_error_of_the_kernel_is_told() {
        let mut connection = Connection::route().unwrap();
        let unsupported = connection.request(0x7ff0, &[0; 4], |_| Some(()));
        assert_eq!(unsupported.unwrap_err().raw_os_error(), Some(libc::EOPNOTSUPP));
    }

    proptest! {
        #[test]
        fn hostile_bytes_are_read_without_panic(bytes in proptest::collection::vec(0..32u8, 0..200)) {
            for message in messages(&bytes) {
                attributes(message.body).for_each(|(_, value)| drop(string_of(value)));
                let _ = ended(&message);
            }
            attributes(&bytes).for_each(drop);
        }
    }
}
