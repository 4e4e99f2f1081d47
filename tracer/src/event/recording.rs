//! Events as JSON lines: what fixtures of real traces are kept in. One [`Event`] a line, in the
//! order in which they were received.

use std::io::{BufRead, Write};

use anyhow::Context as _;

use super::Event;

/// Writes one event as a line.
///
/// # Errors
/// When `out` refuses it.
pub fn write(out: &mut impl Write, event: &Event) -> std::io::Result<()> {
    serde_json::to_writer(&mut *out, event)?;
    out.write_all(b"\n")
}

/// Reads every event.
///
/// # Errors
/// Names the line that is not an event.
pub fn read(input: impl BufRead) -> anyhow::Result<Vec<Event>> {
    input
        .lines()
        .enumerate()
        .map(|(n, line)| {
            let line = line.with_context(|| format!("cannot read line {} of the events", n + 1))?;
            serde_json::from_str(&line).with_context(|| format!("line {} is not an event", n + 1))
        })
        .collect()
}
