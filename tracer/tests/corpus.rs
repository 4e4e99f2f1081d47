//! The corpus of the fuzzer, and each file of it damaged in some hundred ways: reading takes them all, with
//! no more memory than a small multiple of their size.

#[path = "../../tests/fuzz/read.rs"]
mod fuzzed;

use std::{fs, path::Path};

/// The files of the corpus.
fn corpus() -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus/capture");
    let files = fs::read_dir(directory).expect("the corpus is there");
    let read = |file: std::io::Result<fs::DirEntry>| fs::read(file?.path());
    files.map(|file| read(file).expect("a file of the corpus is readable")).collect()
}

#[test]
fn every_file_of_the_corpus_is_read() {
    let corpus = corpus();
    let readable = corpus.iter().filter(|file| fuzzed::read(file)).count();
    assert!(readable >= 3, "{readable} of {} begin as a capture file does", corpus.len());
}

#[test]
fn every_file_of_the_corpus_may_end_anywhere() {
    for file in corpus() {
        for end in (0..file.len()).step_by(file.len() / 60 + 1) {
            fuzzed::read(&file[..end]);
        }
    }
}

#[test]
fn any_word_of_a_file_may_be_any_other() {
    for file in corpus() {
        for at in (0..file.len().saturating_sub(4)).step_by(file.len() / 40 + 1) {
            for word in [0u32, 1, 0x7fff_ffff, u32::MAX, 0xffff_fff0] {
                let mut damaged = file.clone();
                damaged[at..at + 4].copy_from_slice(&word.to_le_bytes());
                fuzzed::read(&damaged);
            }
        }
    }
}

#[test]
fn a_length_that_is_not_there_costs_no_memory() {
    for file in corpus().into_iter().filter(|file| file.len() > 64) {
        // The length of the second block: the first one's is behind its type.
        let first = file[4..8].try_into().map_or(0, u32::from_le_bytes) as usize;
        let Some(length) = file.get(first + 4..first + 8) else { continue };
        let length = length.to_vec();
        let mut damaged = file.clone();
        damaged[first + 4..first + 8].copy_from_slice(&0xffff_fff0u32.to_le_bytes());
        assert_ne!(&damaged[first + 4..first + 8], length);
        let taken = allocation_counter::measure(|| {
            fuzzed::read(&damaged);
        });
        let most = 64 * file.len() as u64 + (4 << 20);
        assert!(taken.bytes_max < most, "{} bytes for a file of {}", taken.bytes_max, file.len());
    }
}
