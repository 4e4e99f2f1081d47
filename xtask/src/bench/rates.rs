//! Packets a second under each mode, and what they are of those under the first.

use std::fmt;

/// Rates, by mode.
pub struct Rates {
    modes: Vec<(&'static str, Vec<f64>)>,
}

impl Rates {
    /// For modes of these names; the first is what the others are compared with.
    pub fn new(names: impl IntoIterator<Item = &'static str>) -> Self {
        Self { modes: names.into_iter().map(|name| (name, Vec::new())).collect() }
    }

    /// Adds one that was measured.
    pub fn add(&mut self, mode: usize, rate: f64) {
        if let Some((_, rates)) = self.modes.get_mut(mode) {
            rates.push(rate);
        }
    }

    /// What remains of the first mode's rate under another.
    pub fn ratio(&self, mode: usize) -> Option<f64> {
        let median = |mode: usize| self.modes.get(mode).and_then(|(_, rates)| median(rates));
        Some(median(mode)? / median(0)?)
    }
}

impl fmt::Display for Rates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<36} {:>10} {:>21} {:>11}",
            "attached", "median", "least to most", "of nothing"
        )?;
        for (index, (name, rates)) in self.modes.iter().enumerate() {
            let Some((median, ratio)) = median(rates).zip(self.ratio(index)) else { continue };
            let least = rates.iter().copied().fold(f64::INFINITY, f64::min);
            let most = rates.iter().copied().fold(0.0, f64::max);
            writeln!(
                f,
                "{name:<36} {median:>8.0}/s {least:>9.0} to {most:>7.0}/s {:>10.1} %",
                100.0 * ratio
            )?;
        }
        Ok(())
    }
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_compared_by_their_medians() {
        let mut rates = Rates::new(["nothing", "something", "never measured"]);
        for (nothing, something) in [(100.0, 50.0), (1000.0, 10.0), (120.0, 60.0)] {
            rates.add(0, nothing);
            rates.add(1, something);
        }
        assert_eq!(rates.ratio(1), Some(50.0 / 120.0));
        assert_eq!(rates.ratio(2), None);
        let table = rates.to_string();
        assert!(table.contains("41.7 %") && !table.contains("never measured"), "{table}");
    }
}
