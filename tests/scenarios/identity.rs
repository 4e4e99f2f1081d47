//! No packet is taken for another, however many there are.

use std::{
    collections::BTreeSet,
    os::unix::net::UnixDatagram,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use lab::{
    Capability, Lab, Trace,
    pace::patience,
    topology::{self, C1, C2, WORLD},
    trace::{Output, UNLIMITED, binary},
    traffic::{self, MAGIC, Numbered, at},
};
use rustix::process::Signal;
use serde::Deserialize;

const NUMBERED: Numbered = Numbered { flows: 100, packets: 100_000, rate: 5_000 };

/// As much of a record as this scenario reads, 10⁵ times.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Line {
    Start {},
    Journey { direction: String, hops: Vec<Hop>, outcome: Outcome },
    Summary { events: Events },
}

#[derive(Deserialize)]
struct Hop {
    data: Option<String>,
}

#[derive(Deserialize)]
struct Outcome {
    kind: String,
}

#[derive(Deserialize)]
struct Events {
    lost: std::collections::BTreeMap<String, u64>,
}

/// What was found wrong, and how often each number was seen.
struct Seen {
    /// The outcome of each.
    arrived: &'static str,
    journeys_of: Vec<u32>,
    wrong: Vec<String>,
    lost: Option<Events>,
}

#[test]
fn a_hundred_flows_are_not_mixed_up() -> Result<()> {
    let lab = Lab::standard()?;
    let numbered = NUMBERED.paced();
    // Where a delivery is not seen, the kernel is only told to be done with a packet.
    let arrived = if lab.has(Capability::Delivery)? { "delivered" } else { "consumed" };
    let seen = Arc::new(Mutex::new(Seen {
        arrived,
        journeys_of: vec![0; numbered.packets as usize],
        wrong: Vec::new(),
        lost: None,
    }));
    let mut command = std::process::Command::new(binary()?);
    command.args(["--ip", C1, "--proto", "udp", "-s", "96", "--hops", "all", "-o", "json"]);
    // Seconds' worth: that pathtrace gets a processor in time is not what is tested.
    command.args(["--ring-size", "256M"]).args(UNLIMITED);
    let reader = Arc::clone(&seen);
    let read = move |line: &str| {
        if let Ok(mut seen) = reader.lock() {
            seen.read(line);
        }
    };
    let trace = Trace::spawn(lab.netns("host")?, command, Output::Each(Box::new(read)))?;
    let received = numbered.send(lab.netns("c1")?, lab.netns("world")?, at(WORLD, 7)?)?;
    assert_eq!(received, numbered.packets, "the lab itself lost packets");
    thread::sleep(patience(Duration::from_millis(500)));
    trace.signal(Signal::INT)?;
    let ended = trace.wait()?;
    assert!(ended.status.success(), "{}", ended.stderr);

    let seen = seen.lock().expect("no reader panicked");
    let few: Vec<_> = seen.wrong.iter().take(5).collect();
    let lost = &seen.lost.as_ref().context("no summary")?.lost;
    assert!(few.is_empty(), "{} journeys are wrong ({lost:?}): {few:#?}", seen.wrong.len());
    assert!(lost.values().all(|&count| count == 0), "{lost:?}");
    let unseen = seen.journeys_of.iter().filter(|&&count| count == 0).count();
    let twice = seen.journeys_of.iter().filter(|&&count| count > 1).count();
    assert_eq!((unseen, twice), (0, 0), "packets seen never, and more than once");
    Ok(())
}

/// What the thread is called whose datagrams cross no network.
const STRANGER: &str = "stranger";

/// TCP frees segments where nothing tells of it, and what other sockets send takes their memory.
#[test]
fn a_strangers_read_is_not_told_of_a_packet() -> Result<()> {
    let lab = Lab::standard()?;
    let over = Arc::new(AtomicBool::new(false));
    let stranger = {
        let over = Arc::clone(&over);
        thread::Builder::new().name(STRANGER.into()).spawn(move || send_to_self(&over))?
    };
    let records = Trace::during(&lab, &["--ip", C1, "--proto", "tcp"], || {
        let (c1, world) = (lab.netns("c1")?, lab.netns("world")?);
        (0..100).try_for_each(|_| traffic::tcp(c1, world, at(WORLD, 7001)?, 20_000))
    });
    over.store(true, Ordering::Relaxed);
    stranger.join().expect("the stranger did not panic")?;
    for journey in &records?.journeys {
        let hops = journey.record["hops"].as_array().context("no hops")?;
        let read_by = hops.iter().map(|hop| &hop["detail"]["comm"]);
        assert!(read_by.into_iter().all(|comm| comm != STRANGER), "{journey}");
    }
    Ok(())
}

/// What a bridge floods goes to every port and to itself: one packet, and copies of it.
#[test]
fn a_flooded_packet_tells_its_branches_and_they_tell_it() -> Result<()> {
    let mut lab = Lab::standard()?;
    for (name, v4, v6) in
        [("c3", "10.0.100.31", "fd00:100::31"), ("c4", "10.0.100.32", "fd00:100::32")]
    {
        topology::container(&mut lab, name, v4, v6)?;
    }
    let records = Trace::during(&lab, &["--ip", C1, "--proto", "arp"], || {
        lab.netns("c1")?.ip("neigh flush all")?;
        anyhow::ensure!(traffic::ping(lab.netns("c1")?, C2, 1)? == 1, "no answer");
        Ok(())
    })?;

    let requests = records.select(|journey| {
        let packet = &journey.record["packet"];
        packet["src"] == C1 && packet["dst"] == C2 && journey.hops()[0].starts_with("c1:")
    });
    let request = requests.first().with_context(|| format!("no request in:\n{records}"))?;
    let branches = request.record["branches"].as_array().context("no branches")?;
    let ports: BTreeSet<_> = branches.iter().filter_map(|b| b["dev"]["name"].as_str()).collect();
    let to = |port: &str| request.hops().iter().any(|hop| hop.starts_with(&format!("host:{port}")));
    for port in ["veth-c2", "veth-c3", "veth-c4"] {
        assert!(ports.contains(port) || to(port), "nothing went to {port}: {request}");
    }
    assert!(branches.len() >= 3, "three ports and the bridge itself: {request}");
    let left = request.details("host:veth-c1 dev_receive");
    assert_eq!(left.len(), 1, "{request}");
    for branch in branches {
        assert!(["clone", "copy"].contains(&branch["origin"].as_str().unwrap_or_default()));
        let hop = branch["hop"].as_u64().and_then(|hop| usize::try_from(hop).ok());
        let hop = hop.and_then(|hop| request.hops().get(hop)).context("left nowhere")?;
        assert!(hop.starts_with("host:veth-c1 "), "left at {hop}: {request}");
        let child = records.select(|journey| journey.record["packet"]["id"] == branch["packet"]);
        let child = child.first().with_context(|| format!("{branch} is no journey:\n{records}"))?;
        assert_eq!(child.record["packet"]["parent"], request.record["packet"]["id"]);
        assert_eq!(child.record["packet"]["parent_journey"], request.record["id"]);
        assert_eq!(branch["outcome"]["kind"], child.outcome(), "{child}");
    }
    Ok(())
}

fn send_to_self(over: &AtomicBool) -> std::io::Result<()> {
    let (from, to) = UnixDatagram::pair()?;
    while !over.load(Ordering::Relaxed) {
        for _ in 0..8 {
            from.send(&[0; 100])?;
        }
        for _ in 0..8 {
            to.recv(&mut [0; 100])?;
        }
        thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}

impl Seen {
    fn read(&mut self, line: &str) {
        match serde_json::from_str(line) {
            Ok(Line::Start {}) => {}
            Ok(Line::Summary { events }) => self.lost = Some(events),
            Ok(Line::Journey { direction, hops, outcome }) if direction == "original" => {
                let mut numbers: Vec<_> =
                    hops.iter().filter_map(|hop| number(hop.data.as_deref()?)).collect();
                numbers.dedup();
                match numbers[..] {
                    [number] if outcome.kind == self.arrived => {
                        let count = usize::try_from(number)
                            .ok()
                            .and_then(|number| self.journeys_of.get_mut(number));
                        count.map_or_else(|| self.wrong.push(line.into()), |count| *count += 1);
                    }
                    _ => self.wrong.push(format!("{} of {numbers:?}: {line}", outcome.kind)),
                }
            }
            Ok(Line::Journey { .. }) => {}
            Err(error) => self.wrong.push(format!("{error}: {line}")),
        }
    }
}

/// The number that a packet carries, from its bytes as hexadecimal digits.
fn number(data: &str) -> Option<u64> {
    let magic: String = MAGIC.iter().map(|byte| format!("{byte:02x}")).collect();
    let at = data.find(&magic)? + magic.len();
    u64::from_str_radix(data.get(at..at + 16)?, 16).ok()
}
