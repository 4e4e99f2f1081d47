//! Traffic as fast as it goes, for a time: what is measured under load.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    ops::Range,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::{
    Netns,
    traffic::{listen, udp_client, udp_socket},
};

/// How long a receiver waits until it looks whether all is over.
const LOOK: Duration = Duration::from_millis(50);

/// Small datagrams of so many flows, from one thread in turn: packets a second that arrive in that time.
pub fn udp(
    from: &Netns,
    to: &Netns,
    address: SocketAddr,
    flows: usize,
    time: Duration,
) -> Result<f64> {
    let clients: Vec<_> = (0..flows).map(|_| udp_client(from, address)).collect::<Result<_>>()?;
    let mut clients = clients.iter().cycle();
    arrivals(&udp_socket(to, address)?, time, || {
        // A full queue on the way is what is measured, not an error.
        let _ = clients.next().map(|client| client.send(&SMALL));
    })
}

/// What a small datagram carries.
const SMALL: [u8; 16] = [0; 16];

/// Ports and addresses of [`udp_of_many`], each of one with each of the other.
const PORTS: Range<u16> = 20_000..20_400;
const NET: &str = "203.0.113.0/24";
const ADDRESSES: u8 = 250;

/// Small datagrams of 100,000 flows, all of which are there already: from ports to addresses behind the world.
/// Packets a second that arrive in that time.
pub fn udp_of_many(from: &Netns, to: &Netns, port: u16, time: Duration) -> Result<f64> {
    to.run("ip", &["route", "replace", "local", NET, "dev", "lo"])?;
    let server = udp_socket(to, (Ipv4Addr::UNSPECIFIED, port).into())?;
    // The same ones each time: connection tracking keeps them, and has no room for as many again.
    let clients: Vec<_> = from.enter(|| {
        PORTS.map(|port| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))).collect::<io::Result<_>>()
    })??;
    let flows = (1..=ADDRESSES).flat_map(|last| {
        let address = SocketAddr::from(([203, 0, 113, last], port));
        clients.iter().map(move |client| (client, address))
    });
    let send = |(client, address): (&UdpSocket, SocketAddr)| {
        let _ = client.send_to(&SMALL, address);
    };
    flows.clone().for_each(send);
    // What has arrived of these is not counted.
    server.set_nonblocking(true)?;
    while server.recv(&mut [0; 64]).is_ok() {}
    server.set_nonblocking(false)?;
    let mut flows = flows.cycle();
    arrivals(&server, time, || {
        let _ = flows.next().map(send);
    })
}

/// Sends one after the other: how many a second arrive in that time.
fn arrivals(server: &UdpSocket, time: Duration, mut send: impl FnMut()) -> Result<f64> {
    server.set_read_timeout(Some(LOOK))?;
    let (arrived, over) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = [0; 64];
            while !over.load(Ordering::Relaxed) {
                if server.recv(&mut buffer).is_ok() {
                    arrived.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        let start = Instant::now();
        while start.elapsed() < time {
            for _ in 0..32 {
                send();
            }
        }
        let (arrived, elapsed) = (arrived.load(Ordering::Relaxed), start.elapsed());
        over.store(true, Ordering::Relaxed);
        Ok(arrived as f64 / elapsed.as_secs_f64())
    })
}

/// One TCP connection that sends all that it can: bytes a second that arrive.
pub fn tcp(from: &Netns, to: &Netns, address: SocketAddr, time: Duration) -> Result<f64> {
    with_server(
        from,
        to,
        address,
        |mut stream| {
            let mut buffer = vec![0; 256 << 10];
            let (mut arrived, start) = (0, Instant::now());
            while let Ok(n @ 1..) = stream.read(&mut buffer) {
                arrived += n;
            }
            Ok(arrived as f64 / start.elapsed().as_secs_f64())
        },
        |mut stream| {
            let (data, start) = (vec![0; 256 << 10], Instant::now());
            while start.elapsed() < time {
                stream.write_all(&data)?;
            }
            Ok(())
        },
    )
    .map(|(arrived, ())| arrived)
}

/// One byte each way over one TCP connection, one after the other: how long each took, in order of that.
pub fn tcp_round_trips(
    from: &Netns,
    to: &Netns,
    address: SocketAddr,
    time: Duration,
) -> Result<Vec<Duration>> {
    let (_, mut took) = with_server(
        from,
        to,
        address,
        |mut stream| {
            stream.set_nodelay(true)?;
            let mut byte = [0];
            while let Ok(1) = stream.read(&mut byte) {
                stream.write_all(&byte)?;
            }
            Ok(())
        },
        |mut stream| {
            stream.set_nodelay(true)?;
            let (mut took, start) = (Vec::new(), Instant::now());
            while start.elapsed() < time {
                let sent = Instant::now();
                stream.write_all(&[1])?;
                stream.read_exact(&mut [0])?;
                took.push(sent.elapsed());
            }
            Ok(took)
        },
    )?;
    took.sort_unstable();
    Ok(took)
}

/// TCP connections, opened and closed one after the other: how many a second.
pub fn tcp_connections(
    from: &Netns,
    to: &Netns,
    address: SocketAddr,
    time: Duration,
) -> Result<f64> {
    let listener = listen(to, address)?;
    listener.set_nonblocking(true)?;
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => drop(stream),
                    Err(e) if e.kind() == ErrorKind::WouldBlock => thread::yield_now(),
                    Err(_) => {}
                }
            }
        });
        let connected = from.enter(|| {
            let (mut connections, start) = (0u64, Instant::now());
            while start.elapsed() < time {
                let mut stream = TcpStream::connect(address)?;
                // Until the other side has closed: its ports are not the ones that are used up.
                let _ = stream.read(&mut [0]);
                connections += 1;
            }
            Ok(connections as f64 / start.elapsed().as_secs_f64())
        });
        over.store(true, Ordering::Relaxed);
        connected?
    })
}

/// Both ends of one connection, each in a thread; what each results in.
fn with_server<S: Send, C>(
    from: &Netns,
    to: &Netns,
    address: SocketAddr,
    server: impl FnOnce(TcpStream) -> Result<S> + Send,
    client: impl FnOnce(TcpStream) -> Result<C>,
) -> Result<(S, C)> {
    let listener = listen(to, address)?;
    thread::scope(|scope| {
        let serving = scope.spawn(|| server(listener.accept()?.0));
        let done = match from.enter(|| TcpStream::connect(address))? {
            Ok(stream) => client(stream),
            Err(error) => {
                // The server waits in accept: this ends it.
                let _ = to.enter(|| TcpStream::connect(address));
                Err(error).context("not connected")
            }
        };
        let served = serving.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok((served?, done?))
    })
}
