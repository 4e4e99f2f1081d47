//! Counts tests by what the test harness and the scenarios themselves tell.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// Tests that passed, failed and were skipped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Those that the harness says have passed; skipped ones are among them.
    ended_well: u64,
    failed: u64,
    /// Scenarios that were not tried, and why.
    skipped: BTreeMap<String, String>,
    /// What was not expected, and by which scenarios.
    left_out: BTreeMap<String, BTreeSet<String>>,
}

impl Count {
    /// Counts in a line of the harness, `test result: ok. 4 passed; 0 failed; …`, or of a scenario,
    /// `skipped: NAME: WHY`, `left out: NAME: WHAT`.
    pub fn add(&mut self, line: &str) {
        if let Some((_, result)) =
            line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". "))
        {
            for part in result.split("; ") {
                match part.split_once(' ') {
                    Some((number, "passed")) => self.ended_well += number.parse().unwrap_or(0),
                    Some((number, "failed")) => self.failed += number.parse().unwrap_or(0),
                    _ => {}
                }
            }
        } else if let Some((name, why)) = note(line, "skipped: ") {
            self.skipped.insert(name, why);
        } else if let Some((name, what)) = note(line, "left out: ") {
            self.left_out.entry(what).or_default().insert(name);
        }
    }

    /// Counts a failure that no harness tells: tests that were not run to their end.
    pub fn add_failure(&mut self) {
        self.failed += 1;
    }

    /// Counts in other tests of the same kernel.
    pub fn add_all(&mut self, other: &Self) {
        self.ended_well += other.ended_well;
        self.failed += other.failed;
        self.skipped.extend(other.skipped.clone());
        for (what, names) in &other.left_out {
            self.left_out.entry(what.clone()).or_default().extend(names.clone());
        }
    }

    /// Counts in another kernel's tests. Why something was skipped there is told there.
    pub fn add_kernel(&mut self, other: &Self, of: &str) {
        self.ended_well += other.ended_well;
        self.failed += other.failed;
        let skipped = other.skipped.iter();
        self.skipped.extend(skipped.map(|(name, why)| (format!("{name} ({of})"), why.clone())));
    }

    /// Tests that failed.
    pub fn failed(&self) -> u64 {
        self.failed
    }

    /// Tests that passed.
    pub fn passed(&self) -> u64 {
        self.ended_well.saturating_sub(self.skipped.len() as u64)
    }

    /// What was skipped and left out, a line each.
    pub fn notes(&self) -> impl Iterator<Item = String> {
        let skipped = self.skipped.iter().map(|(name, why)| format!("skipped {name}: {why}"));
        let left_out = self.left_out.iter().map(|(what, names)| match names.len() {
            1 => format!("not expected: {what} (in {})", names.first().map_or("", String::as_str)),
            count => format!("not expected: {what} (in {count} scenarios)"),
        });
        skipped.chain(left_out)
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed(), self.failed)?;
        match self.skipped.len() {
            0 => Ok(()),
            skipped => write!(f, ", {skipped} skipped"),
        }
    }
}

/// `KIND NAME: WHAT`.
fn note(line: &str, kind: &str) -> Option<(String, String)> {
    let (name, what) = line.strip_prefix(kind)?.split_once(": ")?;
    Some((name.to_owned(), what.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(lines: &[&str]) -> Count {
        let mut count = Count::default();
        lines.iter().for_each(|line| count.add(line));
        count
    }

    #[test]
    fn counts_over_all_test_programs() {
        let count = count(&[
            "test result: ok. 4 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.07s",
            "test a ... FAILED",
            "test result: FAILED. 1 passed; 6 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.2s",
        ]);
        assert_eq!(count.to_string(), "5 passed, 6 failed");
        assert_eq!((count.passed(), count.failed()), (5, 6));
    }

    #[test]
    fn what_was_skipped_has_not_passed() {
        let count = count(&[
            "test result: ok. 4 passed; 0 failed; 0 ignored",
            "skipped: bridged: it needs br_netfilter in this kernel",
            "skipped: bridged: it needs br_netfilter in this kernel",
            "left out: ping: host nf_forward",
            "left out: ping: host nf_forward",
            "left out: tcp: host nf_forward",
            "left out: tcp: host qdisc_enqueue",
        ]);
        assert_eq!(count.to_string(), "3 passed, 0 failed, 1 skipped");
        assert_eq!(
            count.notes().collect::<Vec<_>>(),
            [
                "skipped bridged: it needs br_netfilter in this kernel",
                "not expected: host nf_forward (in 2 scenarios)",
                "not expected: host qdisc_enqueue (in tcp)",
            ]
        );
    }

    #[test]
    fn kernels_are_added_up() {
        let one = count(&["test result: ok. 4 passed; 0 failed", "skipped: a: why"]);
        let other = count(&["test result: ok. 2 passed; 1 failed", "skipped: a: why"]);
        let mut all = Count::default();
        all.add_kernel(&one, "6.1");
        all.add_kernel(&other, "6.12");
        all.add_failure();
        assert_eq!(all.to_string(), "4 passed, 2 failed, 2 skipped");
    }
}
