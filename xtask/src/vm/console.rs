//! What a guest's kernel says on its console, and what is said about a guest.

use std::{fs::OpenOptions, io::Write, path::Path};

use anyhow::{Context, Result};

use super::Kernel;

/// Lines of a console that are shown when a guest did not end well.
const LAST: usize = 30;

/// Most complaints of a guest's kernel that are passed on.
const COMPLAINTS: usize = 10;

/// Says something about a guest, where it does not mix with what its command prints.
pub fn say(kernel: &Kernel, what: &str) {
    eprintln!("vm {}: {what}", kernel.series());
}

/// Adds what a guest's kernel said to a file.
pub fn append(file: &Path, kernel: &Kernel, said: &str) -> Result<()> {
    let mut open = OpenOptions::new();
    open.create(true)
        .append(true)
        .open(file)
        .and_then(|mut file| writeln!(file, "== {}\n{said}", kernel.release()))
        .with_context(|| format!("{} not written", file.display()))
}

/// Whether a kernel died of the emulator: while it patches its own code, QEMU's TCG now and then
/// runs into the breakpoint that stands there for a moment.
pub fn emulators_fault(console: &str) -> bool {
    console.lines().any(|line| line.contains("int3: 0000 [#"))
}

/// What a kernel says when something in it went wrong.
pub fn complaints(console: &str) -> Vec<&str> {
    const SIGNS: [&str; 5] =
        ["WARNING: ", "BUG: ", "Oops: ", "UBSAN: ", "unregister_netdevice: waiting"];
    console
        .lines()
        .filter(|line| SIGNS.iter().any(|sign| line.contains(sign)))
        .map(str::trim)
        .take(COMPLAINTS)
        .collect()
}

/// The end of the console and what the emulator said, indented.
pub fn last_lines(console: &str, emulator: &str) -> String {
    let lines: Vec<&str> = console.lines().collect();
    let last = lines.get(lines.len().saturating_sub(LAST)..).unwrap_or_default();
    let all = last.iter().copied().chain(emulator.lines());
    all.map(|line| format!("    {}", line.trim_end())).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIED: &str = "\
[    9.1] int3: 0000 [#1] PREEMPT SMP NOPTI
[    9.1] CPU: 1 PID: 60 Comm: pathtrace Not tainted
[    9.2] Kernel panic - not syncing: Fatal exception";

    #[test]
    fn knows_the_emulators_fault_from_a_kernels() {
        assert!(emulators_fault(DIED));
        assert!(emulators_fault("[ 1.0] Oops: int3: 0000 [#1] SMP NOPTI"));
        assert!(!emulators_fault("[ 1.0] Oops: 0002 [#1] PREEMPT SMP\n[ 1.0] RIP: int3_emulate"));
        assert!(!emulators_fault(""));
    }

    #[test]
    fn finds_what_a_kernel_complains_of() {
        let console = "booted\r\n[ 2.0] WARNING: CPU: 0 PID: 7 at net/core/dev.c:1\r\nall well";
        assert_eq!(complaints(console), ["[ 2.0] WARNING: CPU: 0 PID: 7 at net/core/dev.c:1"]);
        assert!(complaints("all well").is_empty());
    }

    #[test]
    fn shows_the_end_of_a_console() {
        let console: String = (0..100).map(|number| format!("line {number}\r\n")).collect();
        let last = last_lines(&console, "qemu: no");
        assert_eq!(last.lines().count(), LAST + 1);
        assert!(last.starts_with("    line 70\n") && last.ends_with("\n    qemu: no"), "{last}");
    }
}
