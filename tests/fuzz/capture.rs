//! `cargo fuzz run capture`: capture files, and whatever is said to be one.

#![no_main]

#[path = "read.rs"]
mod read;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    read::read(bytes);
});
