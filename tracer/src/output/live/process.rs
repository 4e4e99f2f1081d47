//! What this process takes of the machine.

use std::{
    fs,
    time::{Duration, Instant},
};

use rustix::param::{clock_ticks_per_second, page_size};

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
        let now = processor_time().map(|used| (Instant::now(), used));
        if let (Some((then, before)), Some((now, used))) = (self.before, now) {
            let passed = now.duration_since(then).as_secs_f64();
            self.processor =
                (passed > 0.0).then(|| 100.0 * used.saturating_sub(before).as_secs_f64() / passed);
        }
        self.before = now;
    }
}

/// The second field of `/proc/self/statm`: pages.
fn resident() -> Option<u64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * page_size() as u64)
}

/// Fields 14 and 15 of `/proc/self/stat` (`utime`, `stime`): ticks, behind a name in brackets.
fn processor_time() -> Option<Duration> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    let used = ticks()? + ticks()?;
    Some(Duration::from_secs_f64(used as f64 / clock_ticks_per_second().max(1) as f64))
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
