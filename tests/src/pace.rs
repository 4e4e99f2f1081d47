//! How long things take. An emulated machine needs about ten times as long for what it does, and
//! carries fewer packets a second.

use std::{env, sync::OnceLock, time::Duration};

/// Set to how many times slower than usual this machine is. `cargo xtask test --kernels` sets it in
/// its guests.
const SLOWNESS: &str = "PATHTRACE_TEST_SLOWNESS";

/// How many times slower than usual this machine is; 1 without a word.
pub fn slowness() -> u32 {
    static READ: OnceLock<u32> = OnceLock::new();
    *READ.get_or_init(|| {
        env::var(SLOWNESS).ok().and_then(|text| text.parse().ok()).filter(|&n| n > 0).unwrap_or(1)
    })
}

/// How long to wait here for what usually is there within this time.
pub fn patience(usual: Duration) -> Duration {
    usual * slowness()
}
