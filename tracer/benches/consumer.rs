//! How many events a second one core takes: from records of the ring buffer to journeys, and on to what is
//! written of them. `cargo xtask bench --consumer` runs it.

#[path = "../tests/flood/mod.rs"]
mod flood;

use std::{
    error::Error,
    hint::black_box,
    io::{BufWriter, sink},
    time::Duration,
};

use criterion::{
    Bencher, BenchmarkId, Criterion, SamplingMode, Throughput,
    measurement::{Measurement, ValueFormatter, WallTime},
};
use flood::{Flood, record};
use mimalloc::MiMalloc;
use rustix::time::{ClockId, clock_gettime};
use tracer::{
    event::wire,
    journey::{Assembler, Chronicle, Journey, Limits},
    output::{Builder, Clock, Hops, Json, Sink, Tally, Text},
};

/// As in pathtrace.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Packets taken at a time.
const PACKETS: u64 = 20_000;
/// Of few flows, of many, and each packet and its answer of a new one.
const FLOWS: [(&str, u64); 3] =
    [("100 flows", 100), ("10000 flows", 10_000), ("new flows", u64::MAX)];
/// Events taken in one turn, between which time is told.
const TURN: usize = 16_384;

/// What the ring buffer has held of many packets, in the order in which it happened.
struct Records {
    bytes: Vec<u8>,
    count: usize,
}

impl Records {
    /// From this packet on.
    fn of(flood: &Flood, first: u64) -> Self {
        let numbers = first..first + PACKETS;
        let mut events: Vec<_> = numbers.flat_map(|number| flood.packet(number)).collect();
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
    }
}

/// The same, counted and written.
struct Writer<S> {
    consumer: Consumer,
    tally: Tally,
    sink: S,
}

impl<S: Sink> Writer<S> {
    fn new(sink: S) -> Self {
        Self { consumer: Consumer::new(), tally: Tally::default(), sink }
    }

    fn take(&mut self, records: &Records) {
        let builder = Builder::new(&(), Clock::default(), false);
        self.consumer.take(records, |journey| {
            let record = builder.journey(&journey, None);
            self.tally.add(&record.outcome);
            self.tally.time(&journey, &());
            self.sink.journey(&record).expect("nothing is refused");
        });
    }
}

/// This thread's time on a processor: what else the machine does counts less.
struct ProcessorTime(WallTime);

impl Measurement for ProcessorTime {
    type Intermediate = Duration;
    type Value = Duration;

    fn start(&self) -> Duration {
        processor_time()
    }

    fn end(&self, start: Duration) -> Duration {
        processor_time().saturating_sub(start)
    }

    fn add(&self, a: &Duration, b: &Duration) -> Duration {
        *a + *b
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        self.0.to_f64(value)
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        self.0.formatter()
    }
}

/// Measures how long it takes to take packets, always later ones.
fn go(
    bencher: &mut Bencher<'_, ProcessorTime>,
    flood: &Flood,
    next: &mut u64,
    take: &mut dyn FnMut(&Records),
) {
    bencher.iter_custom(|times| {
        let mut spent = Duration::ZERO;
        for _ in 0..times {
            let records = Records::of(flood, *next);
            *next += PACKETS;
            let start = processor_time();
            take(&records);
            spent += processor_time() - start;
        }
        spent
    });
}

fn processor_time() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().unwrap_or_default()
}

fn main() -> Result<(), Box<dyn Error>> {
    let criterion = Criterion::default().with_measurement(ProcessorTime(WallTime));
    let mut criterion = criterion.configure_from_args();
    let mut group = criterion.benchmark_group("events");
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    for (name, flows) in FLOWS {
        let flood = Flood::of(flows)?;
        group.throughput(Throughput::Elements(Records::of(&flood, 0).count as u64));
        let mut measure = |what, take: &mut dyn FnMut(&Records)| {
            let mut next = 0;
            group.bench_function(BenchmarkId::new(what, name), |bencher| {
                go(bencher, &flood, &mut next, take);
            });
        };
        measure("decoded", &mut |records| {
            records.iter().for_each(|record| drop(black_box(wire::decode(record))));
        });
        let mut consumer = Consumer::new();
        measure("assembled", &mut |records| {
            consumer.take(records, |journey| drop(black_box(journey)));
        });
        assert_eq!(consumer.assembler.counts().late, 0);
        let mut json = Writer::new(Json::new(BufWriter::new(sink())));
        measure("json", &mut |records| json.take(records));
        let mut text = Writer::new(Text::new(BufWriter::new(sink()), Hops::Main, false));
        measure("text", &mut |records| text.take(records));
    }
    group.finish();
    criterion.final_summary();
    Ok(())
}
