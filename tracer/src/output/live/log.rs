//! Where pathtrace's own log goes: to stderr, and while the view is open, to the view.

use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::output::escape::escape;

/// Lines that are kept.
const LINES: usize = 500;

/// The lines that came while a view is open.
static VIEW: Mutex<Option<Lines>> = Mutex::new(None);

/// Log lines, and how many there were.
#[derive(Clone, Debug, Default)]
pub struct Lines {
    /// The last ones, oldest first.
    pub last: VecDeque<String>,
    /// All that there were.
    pub count: u64,
}

/// A target of the logger.
#[derive(Debug, Default)]
pub struct Log;

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut *view() {
            Some(lines) => lines.add(&String::from_utf8_lossy(bytes)),
            // Nobody may be there to read it.
            None => drop(io::stderr().write_all(bytes)),
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Lines {
    fn add(&mut self, text: &str) {
        for line in text.lines() {
            self.last.push_back(escape(line).into_owned());
            self.count += 1;
        }
        let extra = self.last.len().saturating_sub(LINES);
        self.last.drain(..extra);
    }
}

/// From now on, lines are the view's.
pub(super) fn divert() {
    *view() = Some(Lines::default());
}

/// From now on, lines go to stderr.
pub(super) fn restore() {
    *view() = None;
}

/// How many lines there were.
pub(super) fn count() -> u64 {
    view().as_ref().map_or(0, |lines| lines.count)
}

/// The lines so far.
pub(super) fn lines() -> Lines {
    view().clone().unwrap_or_default()
}

fn view() -> MutexGuard<'static, Option<Lines>> {
    VIEW.lock().unwrap_or_else(PoisonError::into_inner)
}
