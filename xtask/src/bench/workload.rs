//! What is sent while something is attached, from c1 to the world.

use std::{fmt, time::Duration};

use anyhow::Result;
use lab::{
    Lab, flood,
    topology::WORLD,
    traffic::{self, Numbered},
};

/// How long each is measured.
pub const ROUND: Duration = Duration::from_secs(2);
const PORT: u16 = 7;

/// A kind of traffic, as fast as it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// Small datagrams of so many flows.
    Udp {
        /// How many.
        flows: usize,
    },
    /// Small datagrams of 100,000 flows that are there already.
    UdpOfMany,
    /// One connection that sends all that it can.
    Tcp,
    /// One byte each way, one after the other.
    RoundTrips,
    /// Connections, opened and closed one after the other.
    Connections,
}

/// All of them. The first is what other tools are compared by.
pub const WORKLOADS: [Workload; 7] = [
    Workload::Udp { flows: 1 },
    Workload::Udp { flows: 16 },
    Workload::Udp { flows: 1000 },
    Workload::UdpOfMany,
    Workload::Tcp,
    Workload::RoundTrips,
    Workload::Connections,
];

/// How fast it went.
#[derive(Clone, Debug)]
pub struct Speed {
    /// Of what the workload counts.
    pub per_second: f64,
    /// How long half of the round trips took at most, and 99 of 100.
    pub took: Option<[Duration; 2]>,
}

impl Workload {
    /// What it counts.
    pub fn unit(self) -> &'static str {
        match self {
            Workload::Udp { .. } | Workload::UdpOfMany => "packets",
            Workload::Tcp => "Mbit",
            Workload::RoundTrips => "round trips",
            Workload::Connections => "connections",
        }
    }

    /// Sends for a while.
    pub fn run(self, lab: &Lab) -> Result<Speed> {
        let (from, to) = (lab.netns("c1")?, lab.netns("world")?);
        let address = traffic::at(WORLD, PORT)?;
        let per_second = match self {
            Workload::Udp { flows } => flood::udp(from, to, address, flows, ROUND)?,
            Workload::UdpOfMany => flood::udp_of_many(from, to, PORT, ROUND)?,
            Workload::Tcp => flood::tcp(from, to, address, ROUND)? * 8.0 / 1e6,
            Workload::Connections => flood::tcp_connections(from, to, address, ROUND)?,
            Workload::RoundTrips => {
                let took = flood::tcp_round_trips(from, to, address, ROUND)?;
                let at = |percent| took.get(took.len() * percent / 100).copied();
                return Ok(Speed {
                    per_second: took.len() as f64 / ROUND.as_secs_f64(),
                    took: at(50).zip(at(99)).map(|(half, most)| [half, most]),
                });
            }
        };
        Ok(Speed { per_second, took: None })
    }
}

/// Sends a few packets, as those of the first workload but with time between them: how many arrived.
pub fn slowly(lab: &Lab) -> Result<u64> {
    Numbered { flows: 1, packets: 100, rate: 200 }.send(
        lab.netns("c1")?,
        lab.netns("world")?,
        traffic::at(WORLD, PORT)?,
    )
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Workload::Udp { flows: 1 } => f.write_str("small datagrams, one flow"),
            Workload::Udp { flows } => write!(f, "small datagrams, {flows} flows"),
            Workload::UdpOfMany => f.write_str("small datagrams, 100000 flows"),
            Workload::Tcp => f.write_str("one TCP connection, all that it can send"),
            Workload::RoundTrips => f.write_str("TCP, a byte each way"),
            Workload::Connections => f.write_str("TCP connections, one after the other"),
        }
    }
}
