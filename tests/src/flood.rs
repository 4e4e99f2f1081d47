//! Traffic as fast as it goes, for a time: what is measured under load.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
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
    let server = udp_socket(to, address)?;
    server.set_read_timeout(Some(LOOK))?;
    let clients: Vec<_> = (0..flows).map(|_| udp_client(from, address)).collect::<Result<_>>()?;
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
        let mut clients = clients.iter().cycle();
        let start = Instant::now();
        while start.elapsed() < time {
            for client in clients.by_ref().take(32) {
                // A full queue on the way is what is measured, not an error.
                let _ = client.send(&[0; 16]);
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
