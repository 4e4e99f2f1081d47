//! What each of pathtrace's programs costs a run, by the kernel's own statistics, their cost
//! included.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result};
use aya::{
    programs::loaded_programs,
    sys::{Stats, enable_stats},
};
use lab::Lab;

use super::{load, mode::Mode, workload::ROUND};

/// Measures them under a load, and prints.
pub fn measure(lab: &Lab, binary: &Path, mode: &Mode) -> Result<()> {
    // Counts from here on, and no more once it is closed.
    let counting = enable_stats(Stats::RunTime).context("the kernel keeps no BPF statistics")?;
    let attached = mode.attach(lab, binary)?;
    let own = attached.programs();
    let speed = load(lab)?;
    let packets = speed.per_second * ROUND.as_secs_f64();
    let (mut all_runs, mut all_time) = (0, Duration::ZERO);
    println!("\n{}: ns a run\n{:<22} {:>12} {:>8}", mode.name, "program", "runs", "ns");
    for program in loaded_programs().flatten().filter(|program| own.contains(&program.id())) {
        let (runs, time) = (program.run_count(), program.run_time());
        if runs > 0 {
            let name = program.name_as_str().unwrap_or("?").to_owned();
            (all_runs, all_time) = (all_runs + runs, all_time + time);
            println!("{name:<22} {runs:>12} {:>8.0}", time.as_nanos() as f64 / runs as f64);
        }
    }
    println!(
        "a packet met {:.1} runs, which took {:.0} ns",
        all_runs as f64 / packets,
        all_time.as_nanos() as f64 / packets
    );
    drop(counting);
    attached.end().map(drop)
}
