//! The clocks of this machine.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// CLOCK_MONOTONIC: what the kernel stamps events with.
pub fn monotonic() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::try_from(now).unwrap_or_default()
}

/// The same, in nanoseconds.
pub fn now() -> u64 {
    nanoseconds(monotonic())
}

/// A time in nanoseconds, as the kernel counts it.
pub fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// ns from CLOCK_MONOTONIC to the time of day.
pub fn monotonic_to_wall() -> i128 {
    let now = clock_gettime(ClockId::Realtime);
    let wall = i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec);
    wall - i128::try_from(monotonic().as_nanos()).unwrap_or_default()
}

/// Processor time that all threads of this process have used.
pub fn processor_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default()
}
