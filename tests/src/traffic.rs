//! Packets inside a lab, bounded in count and time. A socket stays in the namespace that it was
//! made in, so only its making happens there.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;

use crate::{
    Netns,
    pace::{patience, slowness},
};

/// How long any answer is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the numbered packets' payload begins with; the number follows, big-endian.
pub const MAGIC: [u8; 8] = *b"numbered";

/// An address and a port.
pub fn at(address: &str, port: u16) -> Result<SocketAddr> {
    let ip = address.parse().with_context(|| format!("{address} is no address"))?;
    Ok(SocketAddr::new(ip, port))
}

/// Sends echo requests a tenth of a second apart and tells how many were answered.
pub fn ping(from: &Netns, to: &str, count: u32) -> Result<u32> {
    ping_with(from, to, &["-c", &count.to_string()])
}

/// As [`ping`], with options of the `ping` command.
pub fn ping_with(from: &Netns, to: &str, options: &[&str]) -> Result<u32> {
    // -W bounds the wait for the last answer: an unanswered ping is a result, no error.
    let wait = slowness().to_string();
    let output = from.enter(|| {
        Command::new("ping").args(["-n", "-i", "0.1", "-W", &wait]).args(options).arg(to).output()
    })?;
    let output = output.context("ping did not start (is it installed? cargo xtask setup)")?;
    let said = String::from_utf8_lossy(&output.stdout);
    said.split(", ")
        .find_map(|part| part.strip_suffix(" received")?.parse().ok())
        .with_context(|| format!("ping {to}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

/// Connects from one namespace to `address` in another, sends `bytes` and closes. Ends when all
/// arrived.
pub fn tcp(from: &Netns, to: &Netns, address: SocketAddr, bytes: usize) -> Result<()> {
    let listener = listen(to, address)?;
    let received = thread::scope(|scope| {
        let server = scope.spawn(|| -> Result<usize> {
            let (mut stream, _) = listener.accept()?;
            stream.set_read_timeout(Some(patience(PATIENCE)))?;
            let mut all = Vec::new();
            Ok(stream.read_to_end(&mut all)?)
        });
        let client = from.enter(|| -> Result<()> {
            let mut stream = TcpStream::connect_timeout(&address, patience(PATIENCE))?;
            stream.set_write_timeout(Some(patience(PATIENCE)))?;
            stream.write_all(&vec![b'x'; bytes])?;
            Ok(())
        })?;
        if client.is_err() {
            // The server waits in accept: this ends it.
            let _ = to.enter(|| TcpStream::connect(address));
        }
        let received = server.join().unwrap_or_else(|panicked| std::panic::resume_unwind(panicked));
        client.and(received)
    })
    .with_context(|| format!("TCP from {} to {address}", from.name()))?;
    ensure!(received == bytes, "TCP to {address}: {received} of {bytes} bytes arrived");
    Ok(())
}

/// Asks a web server for its first page, and tells the first line of the answer.
pub fn http_get(from: &Netns, address: SocketAddr) -> Result<String> {
    let get = || -> Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, patience(PATIENCE))?;
        stream.set_read_timeout(Some(patience(PATIENCE)))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut all = Vec::new();
        stream.read_to_end(&mut all)?;
        let answer = String::from_utf8_lossy(&all);
        Ok(answer.lines().next().context("an empty answer")?.to_owned())
    };
    from.enter(get)?.with_context(|| format!("HTTP from {} to {address}", from.name()))
}

/// A listening TCP socket in a namespace.
pub fn listen(netns: &Netns, address: SocketAddr) -> Result<TcpListener> {
    netns
        .enter(|| TcpListener::bind(address))?
        .with_context(|| format!("{address} not listened at in {}", netns.name()))
}

/// A bound UDP socket in a namespace; reading it gives up after a while.
pub fn udp_socket(netns: &Netns, address: SocketAddr) -> Result<UdpSocket> {
    let socket = netns
        .enter(|| UdpSocket::bind(address))?
        .with_context(|| format!("{address} not bound in {}", netns.name()))?;
    socket.set_read_timeout(Some(patience(PATIENCE)))?;
    // A reader that waits for a processor for a while loses nothing.
    set_socket_recv_buffer_size_force(&socket, 16 << 20).context("no larger receive buffer")?;
    Ok(socket)
}

/// A UDP socket in a namespace, connected to `address`; any port of its own.
pub fn udp_client(netns: &Netns, address: SocketAddr) -> Result<UdpSocket> {
    let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = netns.enter(|| UdpSocket::bind(any))?.context("no UDP socket bound")?;
    socket.set_read_timeout(Some(patience(PATIENCE)))?;
    socket.connect(address).with_context(|| format!("no way to {address}"))?;
    Ok(socket)
}

/// Sends datagrams to an echo server at `address`, each after the answer to the one before.
pub fn udp_echo(from: &Netns, to: &Netns, address: SocketAddr, count: usize) -> Result<()> {
    let server = udp_socket(to, address)?;
    let client = udp_client(from, address)?;
    let mut buffer = [0; 64];
    for _ in 0..count {
        client.send(b"there").with_context(|| format!("UDP to {address}"))?;
        let (length, peer) = server.recv_from(&mut buffer).context("UDP did not arrive")?;
        server.send_to(buffer.get(..length).unwrap_or_default(), peer)?;
        client.recv(&mut buffer).context("UDP was not answered")?;
    }
    Ok(())
}

/// Sends datagrams that nobody needs to answer.
pub fn udp_send(from: &Netns, address: SocketAddr, count: usize) -> Result<()> {
    udp_send_with_ttl(from, address, count, 64)
}

/// As [`udp_send`], with a time to live.
pub fn udp_send_with_ttl(from: &Netns, address: SocketAddr, count: usize, ttl: u32) -> Result<()> {
    let client = udp_client(from, address)?;
    client.set_ttl(ttl)?;
    for _ in 0..count {
        // An earlier datagram's ICMP error is reported here; it is the scenario's, not ours.
        let _ = client.send(b"there");
    }
    Ok(())
}

/// Numbered packets on parallel flows.
#[derive(Clone, Copy, Debug)]
pub struct Numbered {
    /// Flows, each from a port of its own.
    pub flows: usize,
    /// Packets in all, numbered from 0.
    pub packets: u64,
    /// Packets a second.
    pub rate: u64,
}

impl Numbered {
    /// As many, and as fast, as this machine takes without losing some by itself.
    pub fn paced(self) -> Self {
        if slowness() == 1 {
            return self;
        }
        Self { flows: self.flows, packets: self.packets / 10, rate: self.rate / 5 }
    }

    /// Sends them, round the flows, and tells how many arrived.
    pub fn send(self, from: &Netns, to: &Netns, address: SocketAddr) -> Result<u64> {
        let server = udp_socket(to, address)?;
        server.set_read_timeout(Some(patience(Duration::from_secs(2))))?;
        let clients: Vec<_> =
            (0..self.flows).map(|_| udp_client(from, address)).collect::<Result<_>>()?;
        thread::scope(|scope| {
            let arrived = scope.spawn(|| {
                let mut buffer = [0; 64];
                (0..self.packets).take_while(|_| server.recv(&mut buffer).is_ok()).count() as u64
            });
            let start = Instant::now();
            for (number, client) in (0..self.packets).zip(clients.iter().cycle()) {
                let due = start + Duration::from_nanos(number * 1_000_000_000 / self.rate);
                if let Some(wait) = due.checked_duration_since(Instant::now()) {
                    thread::sleep(wait);
                }
                let mut payload = [0; 16];
                payload[..8].copy_from_slice(&MAGIC);
                payload[8..].copy_from_slice(&number.to_be_bytes());
                client.send(&payload).context("a numbered packet was not sent")?;
            }
            Ok(arrived.join().unwrap_or_default())
        })
    }
}
