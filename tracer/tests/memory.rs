//! What user space needs of memory: nothing for one more event of a packet that it knows, and so much for
//! each packet on its way and for each flow. Allocations are counted, not measured.

mod flood;

use std::error::Error;

use allocation_counter::measure;
use flood::{Flood, record};
use tracer::{
    event::wire,
    journey::{Assembler, Journey, Limits},
};
use tracer_common::{event as raw, point::Point};

/// Packets on their way, and flows, at a time; and how many bytes they may take together.
const MANY: u64 = 100_000;
const PACKETS_TAKE: u64 = 256 << 20;
const FLOWS_TAKE: u64 = 64 << 20;

/// As for a trace, but with room for many.
fn limits() -> Limits {
    Limits { in_flight: MANY as usize, flows: MANY as usize, ..Limits::default() }
}

fn take(assembler: &mut Assembler, event: &raw::Event, done: &mut Vec<Journey>) {
    let event = wire::decode(&record(event)).expect("the flood is of events");
    assembler.push(event, done);
}

/// What is allocated meanwhile and not freed, bytes.
fn kept(work: impl FnOnce()) -> u64 {
    u64::try_from(measure(work).bytes_current).unwrap_or(0)
}

#[test]
fn an_event_in_the_midst_of_a_journey_allocates_nothing() -> Result<(), Box<dyn Error>> {
    let flood = Flood::of(100)?;
    let mut assembler = Assembler::new(Limits::default(), ());
    let mut done = Vec::with_capacity(4_096);
    // Until every flow is known, and as many have ended as are remembered.
    let known = Limits::default().ended as u64 + 10_000;
    for event in (0..known).flat_map(|number| flood.packet(number).take(1)) {
        take(&mut assembler, &event, &mut done);
        done.clear();
    }
    assembler.finish(&mut done);
    for event in (known..known + 1_000).flat_map(|number| flood.packet(number)) {
        take(&mut assembler, &event, &mut done);
    }
    assembler.advance(u64::MAX, &mut done);
    done.clear();

    let (mut first, mut midst, mut events) = (0, 0, 0);
    for number in known + 1_000..known + 2_000 {
        for event in flood.packet(number) {
            let before = done.len();
            let took = measure(|| take(&mut assembler, &event, &mut done)).count_total;
            if event.seq == 0 {
                first += took;
            } else if done.len() == before {
                (midst, events) = (midst + took, events + 1);
            }
        }
    }

    assert!(events > 20_000, "{events}");
    assert_eq!(midst, 0);
    // One for what is known of it beside its events.
    assert!(first <= 1_100, "{first} for the first events of 1,000 packets");
    Ok(())
}

#[test]
fn packets_on_their_way_take_so_much() -> Result<(), Box<dyn Error>> {
    let flood = Flood::of(1_000)?;
    let mut assembler = None;

    let bytes = kept(|| {
        let assembler = assembler.insert(Assembler::new(limits(), ()));
        for number in 0..MANY {
            // All but the end.
            let events = flood.packet(number).filter(|event| event.point != Point::Consume as u8);
            events.for_each(|event| take(assembler, &event, &mut Vec::new()));
        }
    });

    assert_eq!(assembler.map(|assembler| assembler.in_flight() as u64), Some(MANY));
    println!("{} bytes a packet on its way", bytes / MANY);
    assert!(bytes <= PACKETS_TAKE, "{bytes} bytes, {} each", bytes / MANY);
    Ok(())
}

#[test]
fn idle_flows_take_so_much() -> Result<(), Box<dyn Error>> {
    let flood = Flood::of(MANY)?;
    let mut assembler = None;

    let bytes = kept(|| {
        let assembler = assembler.insert(Assembler::new(limits(), ()));
        let mut done = Vec::new();
        for number in 0..2 * MANY {
            for event in flood.packet(number) {
                take(assembler, &event, &mut done);
            }
            if number % 1_000 == 999 {
                assembler.advance(u64::MAX, &mut done);
                done.clear();
            }
        }
    });

    let left = assembler.map(|assembler| (assembler.in_flight(), assembler.counts().flows_evicted));
    assert_eq!(left, Some((0, 0)));
    println!("{} bytes an idle flow", bytes / MANY);
    assert!(bytes <= FLOWS_TAKE, "{bytes} bytes, {} each", bytes / MANY);
    Ok(())
}
