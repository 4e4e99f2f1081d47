//! What this process takes of the machine.

use std::{
    fs,
    time::{Duration, Instant},
};

use rustix::param::page_size;

use crate::host::clock::processor_time;

/// Memory and processor time, measured now and then.
#[derive(Debug, Default)]
pub(super) struct Process {
    before: Option<(Instant, Duration)>,
    /// Resident memory, bytes.
    pub memory: Option<u64>,
    /// Of one processor since the last time, in percent.
    pub processor: Option<f64>,
}

impl Process {
    /// Measures.
    pub fn measure(&mut self) {
        self.memory = resident();
        let (now, used) = (Instant::now(), processor_time());
        if let Some((then, before)) = self.before {
            let passed = now.duration_since(then).as_secs_f64();
            self.processor =
                (passed > 0.0).then(|| 100.0 * used.saturating_sub(before).as_secs_f64() / passed);
        }
        self.before = Some((now, used));
    }
}

/// The second field of `/proc/self/statm`: pages.
fn resident() -> Option<u64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_takes_something() {
        let mut process = Process::default();
        process.measure();
        process.measure();
        assert!(process.memory.is_some_and(|bytes| bytes > 0));
        assert!(process.processor.is_some());
    }
}
