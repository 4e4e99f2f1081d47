//! What each of pathtrace's programs costs a run, by the kernel's own statistics, their cost
//! included.

use std::{collections::HashSet, fs, path::Path};

use anyhow::{Context, Result};
use aya::{
    programs::loaded_programs,
    sys::{Stats, enable_stats},
};
use lab::Lab;

use super::{load, mode::Mode};

/// Measures them under a load, and prints.
pub fn measure(lab: &Lab, binary: &Path, mode: &Mode) -> Result<()> {
    // Counts from here on, and no more once it is closed.
    let counting = enable_stats(Stats::RunTime).context("the kernel keeps no BPF statistics")?;
    let attached = mode.attach(lab, binary)?;
    let own = attached.pid().map_or_else(HashSet::new, programs_of);
    load(lab)?;
    println!("\n{}: ns a run\n{:<22} {:>12} {:>8}", mode.name, "program", "runs", "ns");
    for program in loaded_programs().flatten().filter(|program| own.contains(&program.id())) {
        let (runs, time) = (program.run_count(), program.run_time());
        if runs > 0 {
            let name = program.name_as_str().unwrap_or("?").to_owned();
            println!("{name:<22} {runs:>12} {:>8.0}", time.as_nanos() as f64 / runs as f64);
        }
    }
    drop(counting);
    attached.end()
}

/// The ids of the BPF programs that a process holds.
fn programs_of(pid: u32) -> HashSet<u32> {
    fs::read_dir(format!("/proc/{pid}/fdinfo"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| fs::read_to_string(entry.path()).ok())
        .filter_map(|info| {
            info.lines().find_map(|line| line.strip_prefix("prog_id:")?.trim().parse().ok())
        })
        .collect()
}
