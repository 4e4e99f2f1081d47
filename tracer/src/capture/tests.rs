//! What is written is read back, whatever becomes of the file in between.

use std::{io::Cursor, path::Path};

use bytes::Bytes;
use proptest::prelude::*;

use super::{
    read::{Damage, Entry, File, Flaw, OpenError},
    write::Pcapng,
    *,
};
use crate::{
    event::Captured,
    output::{
        Hops, Tally,
        record::{Events, Journey, Summary},
        tests::{dropped, start, translated},
    },
};

/// A frame of this many bytes, of which these were captured.
fn frame(captured: usize, length: u32) -> Captured {
    let data: Vec<u8> = (0..captured).map(|byte| byte as u8).collect();
    Captured { link_header: true, length, data: Bytes::from(data) }
}

/// Two journeys with bytes at some of their hops, and the summary.
fn records() -> (Vec<Journey>, Summary) {
    let mut journeys = vec![dropped(), translated()];
    for (number, journey) in journeys.iter_mut().enumerate() {
        journey.id = number as u64 + 1;
        for hop in journey.hops.iter_mut().filter(|hop| hop.layer == "tc") {
            hop.captured = Some(frame(61 + number, 98));
        }
    }
    let mut tally = Tally::default();
    journeys.iter().for_each(|journey| tally.add(&journey.outcome));
    (journeys, tally.summary(5, Events::default()))
}

fn section() -> Section {
    let scene = Scene {
        host: "h1".to_owned(),
        machine: "x86_64".to_owned(),
        command: vec!["pathtrace".to_owned(), "-w".to_owned(), "a b".to_owned()],
        netns: 2,
    };
    scene.begin(&start())
}

/// A file of [`records`], and where each of its journeys ends in it.
fn file() -> (Vec<u8>, Vec<usize>) {
    let (journeys, summary) = records();
    let mut out = Vec::new();
    let mut pcapng = Pcapng::begin(&section(), Hops::All, 65_535, &mut out);
    let mut ends = Vec::new();
    for journey in &journeys {
        pcapng.journey(journey, &mut out);
        ends.push(out.len());
    }
    pcapng.summary(&summary, &mut out);
    (out, ends)
}

/// All that is read of these bytes.
fn read(bytes: &[u8]) -> Result<Vec<Result<Entry, Damage>>, OpenError> {
    let from = Box::new(Cursor::new(bytes.to_vec()));
    Ok(File::of(Path::new("a.pcapng"), from)?.collect())
}

fn journeys(entries: &[Result<Entry, Damage>]) -> Vec<&Journey> {
    let journey = |entry| match entry {
        &Ok(Entry::Journey(ref journey)) => Some(&**journey),
        _ => None,
    };
    entries.iter().filter_map(journey).collect()
}

fn damage(entries: &[Result<Entry, Damage>]) -> Vec<&Damage> {
    entries.iter().filter_map(|entry| entry.as_ref().err()).collect()
}

fn json(record: &impl serde::Serialize) -> String {
    serde_json::to_string(record).unwrap()
}

#[test]
fn records_and_bytes_come_back_as_they_were() {
    let (written, summary) = records();

    let entries = read(&file().0).unwrap();

    let [Ok(Entry::Section(section)), .., Ok(Entry::Summary(told))] = &entries[..] else {
        panic!("{entries:?}")
    };
    assert_eq!((section.host.as_str(), json(&section.start)), ("h1", json(&start())));
    assert_eq!(json(told), json(&summary));
    let read = journeys(&entries);
    assert_eq!(read.len(), written.len());
    for (read, written) in read.iter().zip(&written) {
        assert_eq!(json(read), json(written));
        let bytes = |journey: &Journey| -> Vec<Option<Captured>> {
            journey.hops.iter().map(|hop| hop.captured.clone()).collect()
        };
        assert_eq!(bytes(read), bytes(written));
    }
}

/// Files that are read together.
fn merge(files: &[Vec<u8>]) -> Vec<Journey> {
    let open = |bytes: &Vec<u8>| {
        File::of(Path::new("a.pcapng"), Box::new(Cursor::new(bytes.clone()))).unwrap()
    };
    let journey = |merged| match merged {
        Merged::Journey(journey) => Some(*journey),
        _ => None,
    };
    Merge::new(files.iter().map(open).collect()).filter_map(journey).collect()
}

/// A file of one trace by this name.
fn trace(name: &str, journeys: &[Journey]) -> Vec<u8> {
    let section = Section { trace: name.to_owned(), host: name.to_owned(), ..section() };
    let mut out = Vec::new();
    let mut pcapng = Pcapng::begin(&section, Hops::Main, 65_535, &mut out);
    journeys.iter().for_each(|journey| pcapng.journey(journey, &mut out));
    out
}

#[test]
fn of_two_traces_journeys_have_numbers_of_their_own_and_refer_to_each_other_by_them() {
    let (mut journeys, _) = records();
    journeys[0].time = "2026-01-02T03:04:05.000000001Z".to_owned();
    journeys[1].time = "2026-01-02T03:04:05.000000002Z".to_owned();
    journeys[1].packet.parent_journey = Some(1);
    journeys[1].flow.id = journeys[0].flow.id;

    let merged = merge(&[trace("a", &journeys), trace("b", &journeys)]);

    let told: Vec<_> = merged
        .iter()
        .map(|j| {
            (j.id, j.source.as_ref().unwrap().host.as_str(), j.packet.parent_journey, j.flow.id)
        })
        .collect();
    assert_eq!(
        told,
        [(1, "a", None, 1), (2, "b", None, 2), (3, "a", Some(1), 1), (4, "b", Some(2), 2)]
    );
}

#[test]
fn one_trace_is_told_with_the_numbers_that_it_had() {
    let (mut journeys, _) = records();
    journeys[1].packet.parent_journey = Some(7);
    (journeys[0].id, journeys[1].id) = (5, 9);

    let merged = merge(&[trace("a", &journeys)]);

    let told: Vec<_> = merged.iter().map(|j| (j.id, j.packet.parent_journey)).collect();
    assert_eq!(told, [(5, None), (9, Some(7))]);
}

#[test]
fn of_a_file_that_was_cut_off_everything_whole_is_read() {
    let (bytes, ends) = file();
    let first = 1 + ends[0] - (ends[1] - ends[0]) / 2;
    for end in first..bytes.len() {
        let Ok(entries) = read(&bytes[..end]) else { panic!("not read at all when cut at {end}") };

        let whole = ends.iter().filter(|at| **at <= end).count();
        assert_eq!(journeys(&entries).len(), whole, "cut at {end}");
        assert!(!entries.iter().any(|entry| matches!(entry, Ok(Entry::Summary(_)))), "{end}");
    }
}

#[test]
fn a_cut_within_a_block_is_named() {
    let (bytes, _) = file();

    let entries = read(&bytes[..bytes.len() - 5]).unwrap();

    let told = damage(&entries);
    assert!(told.iter().any(|damage| damage.what == Flaw::Truncated), "{told:?}");
}

#[test]
fn what_lies_behind_damage_is_read() {
    let (mut bytes, ends) = file();
    // The last blocks of the first journey.
    for byte in &mut bytes[ends[0] - 40..ends[0]] {
        *byte = 0xa5;
    }

    let entries = read(&bytes).unwrap();

    assert!(!damage(&entries).is_empty());
    let read = journeys(&entries);
    assert_eq!(read.last().map(|journey| journey.id), Some(2), "{entries:?}");
    assert!(matches!(entries.last(), Some(Ok(Entry::Summary(_)))));
}

/// Where each block of a file begins.
fn blocks(bytes: &[u8]) -> Vec<usize> {
    let mut at = 0;
    let begins = |at: usize| {
        let len = bytes.get(at + 4..at + 8)?;
        Some(u32::from_le_bytes(len.try_into().ok()?) as usize)
    };
    let mut all = Vec::new();
    while let Some(len) = begins(at) {
        all.push(at);
        at += len;
    }
    all
}

#[test]
fn a_wrong_length_is_named_and_costs_no_more_than_its_block() {
    let (bytes, _) = file();
    let (written, _) = records();
    let written: Vec<_> = written.iter().map(json).collect();
    let all = blocks(&bytes);
    for (number, &at) in all.iter().enumerate().skip(1) {
        let end = all.get(number + 1).copied().unwrap_or(bytes.len());
        let len = (end - at) as u32;
        // In front, and behind.
        for place in [at + 4, end - 4] {
            for wrong in [0, 1, 11, 12, len - 4, len + 4, 1 << 24, 1 << 31, u32::MAX - 3, u32::MAX]
            {
                let mut changed = bytes.clone();
                changed[place..place + 4].copy_from_slice(&wrong.to_le_bytes());
                if changed == bytes {
                    continue;
                }

                let entries = read(&changed).unwrap();

                let case = format!("block {number} at {at}, {wrong} at {place}");
                assert!(!damage(&entries).is_empty(), "{case}: {entries:?}");
                let told: Vec<_> = journeys(&entries).into_iter().map(json).collect();
                assert!(told.iter().all(|journey| written.contains(journey)), "{case}");
                assert!(told.len() + 1 >= written.len(), "{case}: more than one journey is lost");
            }
        }
    }
}

#[test]
fn a_record_that_was_changed_is_not_believed() {
    let (mut bytes, _) = file();
    let at = bytes.windows(8).position(|part| part == b"dropped\"").unwrap();
    bytes[at] = b'D';

    let entries = read(&bytes).unwrap();

    let told = damage(&entries);
    assert!(told.iter().any(|damage| matches!(damage.what, Flaw::Record { .. })), "{told:?}");
    assert_eq!(journeys(&entries).len(), 1);
}

#[test]
fn captures_of_other_programs_are_refused_by_name() {
    let classic =
        [0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0, 0];
    assert!(matches!(read(&classic), Err(OpenError::Ordinary { .. })));
    for other in [&b""[..], b"{\"type\":\"start\"}\n", &[0; 64]] {
        assert!(matches!(read(other), Err(OpenError::Other { .. })), "{other:?}");
    }
}

#[test]
fn a_file_that_others_wrote_from_ours_is_refused_as_theirs() {
    let (mut bytes, _) = file();
    // An option that is not known is left out when a file is written anew: here it becomes another one.
    let at =
        bytes.windows(2).position(|part| part == super::format::option::OWN.to_le_bytes()).unwrap();
    bytes[at] = 0x51;

    let Err(refusal) = read(&bytes) else { panic!("read") };

    let said = refusal.to_string();
    assert!(said.contains("that another program wrote from one of pathtrace's"), "{said}");
}

proptest! {
    #[test]
    fn no_bytes_make_reading_fail_otherwise(
        bytes in proptest::collection::vec(any::<u8>(), 0..512)
    ) {
        let _ = read(&bytes);
    }

    #[test]
    fn bits_that_flip_harm_no_more_than_their_place(
        flips in proptest::collection::vec((any::<prop::sample::Index>(), 0..8_u8), 1..6)
    ) {
        let (mut bytes, _) = file();
        for (at, bit) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        let (written, _) = records();
        if let Ok(entries) = read(&bytes) {
            for journey in journeys(&entries) {
                // What is told is what was written, or it is not told.
                prop_assert!(written.iter().any(|whole| json(whole) == json(journey)));
            }
        }
    }
}
