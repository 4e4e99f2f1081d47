//! How many events a second one core takes: from records of the ring buffer to journeys, and on to what is
//! written of them. `cargo xtask bench --consumer` runs it.

#[path = "../tests/flood/mod.rs"]
mod flood;

use std::{error::Error, hint::black_box, io};

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};
use flood::{Flood, record};
use tracer::{
    event::wire,
    journey::{Assembler, Chronicle, Journey, Limits},
    output::{Builder, Clock, Hops, Json, Sink, Tally, Text},
};

const PACKETS: u64 = 20_000;
/// Few flows, each in use over and over; and each packet and its answer a flow of its own.
const FLOWS: [u64; 2] = [100, PACKETS / 2];
/// Events taken in one turn, between which time is told.
const TURN: usize = 16_384;

/// What the ring buffer has held of many packets, in the order in which it happened.
struct Records {
    bytes: Vec<u8>,
    count: usize,
}

impl Records {
    fn of(flood: &Flood) -> Self {
        let mut events: Vec<_> = (0..PACKETS).flat_map(|number| flood.packet(number)).collect();
        events.sort_by_key(|event| event.time);
        Self { bytes: events.iter().flat_map(record).collect(), count: events.len() }
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.bytes.chunks_exact(self.bytes.len() / self.count)
    }
}

/// The way from records to journeys, as a trace goes it.
struct Consumer {
    assembler: Assembler,
    chronicle: Chronicle,
    done: Vec<Journey>,
    out: Vec<Journey>,
}

impl Consumer {
    fn new() -> Self {
        let limits = Limits::default();
        Self {
            assembler: Assembler::new(limits, ()),
            chronicle: Chronicle::new(limits.settle_after * 3 / 2, limits.in_flight),
            done: Vec::new(),
            out: Vec::new(),
        }
    }

    /// Takes all of these, and gives each journey to `told`.
    fn take(&mut self, records: &Records, mut told: impl FnMut(Journey)) {
        let (mut now, mut left) = (0, TURN);
        for record in records.iter() {
            let event = wire::decode(record).expect("the flood is of events");
            now = now.max(event.time);
            self.assembler.push(event, &mut self.done);
            left -= 1;
            if left == 0 {
                left = TURN;
                self.assembler.advance(now, &mut self.done);
                self.done.drain(..).for_each(|journey| self.chronicle.push(journey));
                self.chronicle.release(now, &self.assembler, &mut self.out);
                self.out.drain(..).for_each(&mut told);
            }
        }
        self.assembler.finish(&mut self.done);
        self.done.drain(..).for_each(|journey| self.chronicle.push(journey));
        self.chronicle.finish(&self.assembler, &mut self.out);
        self.out.drain(..).for_each(&mut told);
    }
}

/// The same, counted and written.
fn write(records: &Records, sink: &mut impl Sink) {
    let builder = Builder { names: &(), clock: Clock::default(), data: false };
    let mut tally = Tally::default();
    Consumer::new().take(records, |journey| {
        let record = builder.journey(&journey, None);
        tally.add(&record);
        tally.time(&journey, &());
        sink.journey(&record).expect("nothing is refused");
    });
    black_box(tally.journeys());
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("events");
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    for flows in FLOWS {
        let records = Records::of(&Flood::of(flows)?);
        group.throughput(Throughput::Elements(records.count as u64));
        group.bench_function(BenchmarkId::new("decoded", flows), |bencher| {
            bencher
                .iter(|| records.iter().for_each(|record| drop(black_box(wire::decode(record)))));
        });
        group.bench_function(BenchmarkId::new("assembled", flows), |bencher| {
            bencher.iter(|| Consumer::new().take(&records, |journey| drop(black_box(journey))));
        });
        group.bench_function(BenchmarkId::new("json", flows), |bencher| {
            bencher.iter(|| write(&records, &mut Json::new(io::BufWriter::new(io::sink()))));
        });
        group.bench_function(BenchmarkId::new("text", flows), |bencher| {
            let text = || Text::new(io::BufWriter::new(io::sink()), Hops::Main, false);
            bencher.iter(|| write(&records, &mut text()));
        });
    }
    group.finish();
    criterion.final_summary();
    Ok(())
}
