//! More than can be told, or may be: what is left out is counted, and nothing of it was a drop.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use lab::{
    Lab, Records, Trace,
    pace::{patience, slowness},
    topology::{self, C1, WORLD},
    traffic::{self, Numbered, at},
};
use rustix::process::Signal;
use serde_json::Value;

/// The port that a rule forbids.
const FORBIDDEN: u16 = 9999;
/// Datagrams to it.
const FORBIDDEN_SENT: usize = 20;

fn number(of: &Value) -> u64 {
    of.as_u64().unwrap_or_default()
}

/// Losses of all causes.
fn lost(records: &Records) -> u64 {
    let lost = records.summary["events"]["lost"].as_object();
    lost.into_iter().flat_map(|lost| lost.values()).map(number).sum()
}

#[test]
fn above_the_budget_less_is_told_but_every_packet_is_counted_and_every_drop_told() -> Result<()> {
    let lab = Lab::standard()?;
    lab.netns("host")?.nft("add rule inet lab fwd.lxdbr0 udp dport 9999 drop")?;
    let (c1, world) = (lab.netns("c1")?, lab.netns("world")?);
    let load = Numbered { flows: 10, packets: 20_000, rate: 4_000 }.paced();
    let args = ["--ip", C1, "--proto", "udp", "--max-events", "1000"];
    let trace = Trace::start(&lab, &args)?;
    // The load goes on while some are sent that are dropped.
    let arrived = thread::scope(|scope| -> Result<u64> {
        let loaded = scope.spawn(|| load.send(c1, world, at(WORLD, 7)?));
        let whole = load.packets * 1_000_000_000 / load.rate;
        thread::sleep(Duration::from_nanos(whole * 3 / 4));
        traffic::udp_send(c1, at(WORLD, FORBIDDEN)?, FORBIDDEN_SENT)?;
        loaded.join().expect("the load did not panic")
    })?;
    assert_eq!(arrived, load.packets, "the lab itself lost packets");
    let records = trace.stop(&lab)?;

    assert_eq!(lost(&records), 0, "{}", records.summary);
    // Exactly counted.
    let left_out = &records.summary["events"]["left_out"];
    let sent = load.packets + FORBIDDEN_SENT as u64;
    assert_eq!(
        records.journeys.len() as u64 + number(&left_out["packets"]),
        sent,
        "{}",
        records.summary
    );
    assert!(number(&left_out["events"]) > load.packets, "{left_out}");
    let one_of = number(&left_out["one_of"]);
    assert!(one_of > 1 && one_of.is_power_of_two(), "{left_out}");

    let forbidden = records.select(|j| j.record["flow"]["dport"] == FORBIDDEN);
    assert_eq!(forbidden.len(), FORBIDDEN_SENT, "{records}");
    for journey in forbidden {
        assert_eq!(journey.record["outcome"]["kind"], "dropped", "{journey}");
        assert_eq!(journey.record["outcome"]["rule"]["table"], "lab", "{journey}");
        // A slow machine may come to it later than these.
        if slowness() == 1 {
            assert_eq!(journey.record["thinned"], true, "{journey}");
        }
        assert_eq!(journey.record["complete"], true, "{journey}");
    }
    // What is told of the others ends as it would have.
    for journey in records.select(|j| j.record["flow"]["dport"] == 7) {
        let kind = &journey.record["outcome"]["kind"];
        assert!(kind == "delivered" || kind == "transmitted" || kind == "consumed", "{journey}");
    }
    Ok(())
}

#[test]
fn a_trace_that_cannot_take_its_events_says_what_it_lost() -> Result<()> {
    let lab = Lab::standard()?;
    let load = Numbered { flows: 10, packets: 20_000, rate: 5_000 }.paced();
    let args = ["--ip", C1, "--proto", "udp", "--ring-size", "64K"];
    let trace = Trace::start(&lab, &args)?;
    // Stopped and continued, again and again.
    let arrived = thread::scope(|scope| -> Result<u64> {
        let loaded =
            scope.spawn(|| load.send(lab.netns("c1")?, lab.netns("world")?, at(WORLD, 7)?));
        while !loaded.is_finished() {
            trace.signal(Signal::STOP)?;
            thread::sleep(Duration::from_millis(100));
            trace.signal(Signal::CONT)?;
            thread::sleep(patience(Duration::from_millis(100)));
        }
        loaded.join().expect("the load did not panic")
    })?;
    assert_eq!(arrived, load.packets, "the lab itself lost packets");
    // The summary may be hours away: it is said within a second or so.
    thread::sleep(patience(Duration::from_millis(1500)));
    trace.signal(Signal::INT)?;
    let ended = trace.wait()?;
    let records = ended.records(&lab)?;

    let said = "packets not followed: events came faster than they were taken";
    assert!(ended.stderr.contains(said), "{}", ended.stderr);
    let lost = &records.summary["events"]["lost"];
    let behind = number(&lost["behind"]);
    assert!(behind > load.packets / 10, "{lost}");
    // Every packet is a journey, or was not followed and is counted.
    let journeys = records.journeys.len() as u64;
    assert_eq!(journeys + behind + number(&lost["tracking_full"]), load.packets, "{lost}");
    // Each event was received, or is told to be lost where it belongs.
    let incomplete = records.select(|j| j.record["complete"] == false).len();
    assert_eq!(incomplete > 0, number(&lost["ring_full"]) > 0, "{incomplete} {lost}");
    Ok(())
}

#[test]
fn limits_that_make_no_sense_are_refused_by_name() -> Result<()> {
    let lab = Lab::standard()?;
    for (args, told) in [
        (["--max-cpu", "0"], "1..=100000"),
        (["--max-events", "0"], "1000..=100000000"),
        (["--max-events", "99999999999"], "1000..=100000000"),
        (["--ring-size", "64"], "power of two from"),
    ] {
        let ended = lab::trace::run(&lab, &args)?;
        assert_eq!(ended.status.code(), Some(2), "{args:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(told), "{args:?}: {}", ended.stderr);
    }
    Ok(())
}

/// What a trace holds of the machine.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Held {
    descriptors: usize,
    links: usize,
    programs: usize,
}

impl Held {
    fn by(trace: &Trace) -> Result<Self> {
        Ok(Self {
            descriptors: trace.descriptors()?,
            links: trace.links().len(),
            programs: trace.programs().len(),
        })
    }

    /// Waits until no more than this is held.
    fn is_let_go(&self, trace: &Trace) -> Result<()> {
        let start = Instant::now();
        loop {
            let now = Self::by(trace)?;
            if now.descriptors <= self.descriptors
                && now.links <= self.links
                && now.programs <= self.programs
            {
                return Ok(());
            }
            ensure!(
                start.elapsed() < patience(Duration::from_secs(20)),
                "{now:?} is held, and was {self:?} before"
            );
            thread::sleep(Duration::from_millis(100));
        }
    }
}

/// How often containers come and go; with the variable of this name, so often, and each sends more.
const CHURN: &str = "PATHTRACE_TEST_CHURN";

/// Containers that come and go, rules that change, packets by the ten thousand.
#[test]
fn churn_leaves_nothing_in_a_trace() -> Result<()> {
    /// What allocators keep for themselves is not the same each time.
    const NOISE: u64 = 24 << 20;
    let (rounds, sent) = match std::env::var(CHURN) {
        Ok(rounds) => (rounds.parse().with_context(|| format!("{CHURN}={rounds}"))?, 25_000),
        Err(_) => (8, 5_000),
    };
    let mut lab = Lab::standard()?;
    let trace = Trace::start(&lab, &["--ip", "10.0.100.0/24", "--drops"])?;
    let load = Numbered { flows: 50, packets: sent, rate: sent }.paced();
    let mut before: Option<(Held, u64)> = None;
    for round in 0..rounds {
        let name = format!("k{round}");
        let number = 100 + round % 100;
        let v4 = format!("10.0.100.{number}");
        topology::container(&mut lab, &name, &v4, &format!("fd00:100::{number:x}"))?;
        let host = lab.netns("host")?;
        host.nft(&format!("add rule inet lab fwd.lxdbr0 ip saddr {v4} udp dport 9999 drop"))?;
        traffic::udp_send(lab.netns(&name)?, at(WORLD, FORBIDDEN)?, 5)?;
        load.send(lab.netns(&name)?, lab.netns("world")?, at(WORLD, 7)?)?;
        traffic::tcp(lab.netns(&name)?, lab.netns("world")?, at(WORLD, 8080)?, 100_000)?;
        lab.delete(&name)?;
        match &before {
            // The first half makes what is kept for all: the table of flows grows by doubling.
            None if round + 1 == rounds / 2 => {
                thread::sleep(patience(Duration::from_secs(2)));
                before = Some((Held::by(&trace)?, trace.memory()?));
            }
            None => {}
            Some((held, _)) => held.is_let_go(&trace)?,
        }
    }
    let (_, memory) = before.context("too few rounds")?;
    let grown = trace.memory()?.saturating_sub(memory);
    assert!(grown < NOISE, "{grown} bytes more than after half of {rounds} rounds");
    let records = trace.stop(&lab)?;
    assert_eq!(lost(&records), 0, "{}", records.summary);
    // Each by the rule that was added last.
    let dropped = records.select(|j| j.record["flow"]["dport"] == FORBIDDEN);
    assert_eq!(dropped.len(), 5 * rounds, "{records}");
    Ok(())
}

/// Takes a processor away and gives it back, if that is possible here.
struct Offline(&'static str);

impl Offline {
    fn take(processor: &'static str) -> Option<Self> {
        fs::write(processor, "0").ok()?;
        Some(Self(processor))
    }
}

impl Drop for Offline {
    fn drop(&mut self) {
        let _ = fs::write(self.0, "1");
    }
}

#[test]
fn a_processor_goes_and_comes_back_and_nothing_is_lost() -> Result<()> {
    // Of an emulated machine alone: others use the processors of this one.
    if slowness() == 1 {
        lab::notes::left_out("a processor that goes: others work on this machine");
        return Ok(());
    }
    let lab = Lab::standard()?;
    let load = Numbered { flows: 4, packets: 20_000, rate: 2_000 }.paced();
    let trace = Trace::start(&lab, &["--ip", C1, "--proto", "udp"])?;
    let arrived = thread::scope(|scope| -> Result<u64> {
        let loaded =
            scope.spawn(|| load.send(lab.netns("c1")?, lab.netns("world")?, at(WORLD, 7)?));
        thread::sleep(patience(Duration::from_millis(300)));
        let gone = Offline::take("/sys/devices/system/cpu/cpu1/online");
        if gone.is_none() {
            lab::notes::left_out("a processor that goes: there is but one, or it must stay");
        }
        thread::sleep(patience(Duration::from_millis(300)));
        drop(gone);
        loaded.join().expect("the load did not panic")
    })?;
    let records = trace.stop(&lab)?;
    assert_eq!(lost(&records), 0, "{}", records.summary);
    assert_eq!(records.journeys.len() as u64, arrived, "{}", records.summary);
    records.summary["events"]["received"].as_u64().context("no count")?;
    Ok(())
}
