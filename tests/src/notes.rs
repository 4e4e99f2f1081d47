//! What scenarios do not try on the running kernel, told so that it can be counted: Rust's test
//! harness knows passed and failed only.

use std::{env, fs::OpenOptions, io::Write, thread};

/// Names a file that collects what is told; `cargo xtask test` reads it.
const NOTES: &str = "PATHTRACE_TEST_NOTES";

/// Tells that the running scenario is not tried.
pub fn skipped(why: &str) {
    note("skipped", why);
}

/// Tells that the running scenario is tried without expecting this.
pub fn left_out(what: &str) {
    note("left out", what);
}

fn note(kind: &str, what: &str) {
    // The harness names the thread of a test after it.
    let line = format!("{kind}: {}: {what}\n", thread::current().name().unwrap_or("?"));
    let file = env::var_os(NOTES).and_then(|file| {
        // One write for a line, so that lines of tests side by side do not mix.
        OpenOptions::new().create(true).append(true).open(file).ok()
    });
    if file.is_none_or(|mut file| file.write_all(line.as_bytes()).is_err()) {
        eprint!("{line}");
    }
}
