//! How fast a workload went under each mode, and what that is of how fast it went under the first.

use std::{fmt, time::Duration};

use super::workload::{Speed, Workload};

/// What pathtrace took while it was attached.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// Of one processor.
    pub processor: f64,
    /// Resident memory at the end, bytes.
    pub memory: u64,
    /// Events that it received, lost and left out: in its own words.
    pub events: Option<[u64; 3]>,
}

/// Speeds, by mode.
pub struct Rates {
    workload: Workload,
    modes: Vec<Measured>,
}

#[derive(Default)]
struct Measured {
    name: String,
    rates: Vec<f64>,
    took: Vec<[Duration; 2]>,
    costs: Vec<Cost>,
    /// Packets a second of which all was told.
    told: Vec<f64>,
}

impl Rates {
    /// For modes of these names; the first is what the others are compared with.
    pub fn new(workload: Workload, names: impl IntoIterator<Item = String>) -> Self {
        let modes = names.into_iter().map(|name| Measured { name, ..Measured::default() });
        Self { workload, modes: modes.collect() }
    }

    /// Adds one that was measured. `told`: packets a second of which all was told.
    pub fn add(&mut self, mode: usize, speed: &Speed, cost: Option<Cost>, told: Option<f64>) {
        if let Some(measured) = self.modes.get_mut(mode) {
            measured.rates.push(speed.per_second);
            measured.took.extend(speed.took);
            measured.costs.extend(cost);
            measured.told.extend(told);
        }
    }

    /// What remains of the first mode's rate under another.
    pub fn ratio(&self, mode: usize) -> Option<f64> {
        let median = |mode: usize| self.modes.get(mode).and_then(|mode| median(&mode.rates));
        Some(median(mode)? / median(0)?)
    }
}

impl fmt::Display for Rates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (workload, unit) = (self.workload, self.workload.unit());
        writeln!(f, "{workload} ({unit} a second)")?;
        writeln!(
            f,
            "{:<36} {:>10} {:>21} {:>12} {:>10} {:>6} {:>7}  events received, lost, left out",
            "attached", "median", "least to most", "of nothing", "told whole", "CPU", "memory"
        )?;
        for (index, measured) in self.modes.iter().enumerate() {
            let Measured { name, rates, took, costs, told } = measured;
            let Some((middle, ratio)) = median(rates).zip(self.ratio(index)) else { continue };
            let least = rates.iter().copied().fold(f64::INFINITY, f64::min);
            let most = rates.iter().copied().fold(0.0, f64::max);
            let percent = 100.0 * ratio;
            write!(f, "{name:<36} {middle:>10.0} {least:>9.0} to {most:>8.0} {percent:>10.1} %")?;
            match median(told) {
                Some(told) => write!(f, " {told:>10.0}")?,
                None => write!(f, " {:>10}", "")?,
            }
            if let Some(processor) = median(&costs.iter().map(|c| c.processor).collect::<Vec<_>>())
            {
                let memory = costs.iter().map(|cost| cost.memory).max().unwrap_or(0) >> 20;
                write!(f, " {:>4.0} % {memory:>4} MB", 100.0 * processor)?;
            }
            if let Some([received, lost, left_out]) = costs.last().and_then(|cost| cost.events) {
                write!(f, "  {received}, {lost}, {left_out}")?;
            }
            let middle_of = |n: usize| {
                median(
                    &took.iter().filter_map(|t| Some(t.get(n)?.as_secs_f64())).collect::<Vec<_>>(),
                )
            };
            if let Some((half, almost_all)) = middle_of(0).zip(middle_of(1)) {
                write!(f, "  p50 {:.1} µs, p99 {:.1} µs", half * 1e6, almost_all * 1e6)?;
            }
            writeln!(f)?;
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
        let names = ["nothing", "something", "never measured"].map(str::to_owned);
        let mut rates = Rates::new(Workload::RoundTrips, names);
        let speed = |per_second| Speed { per_second, took: Some([Duration::from_micros(7); 2]) };
        for (nothing, something) in [(100.0, 50.0), (1000.0, 10.0), (120.0, 60.0)] {
            rates.add(0, &speed(nothing), None, None);
            let cost = Cost { processor: 0.5, ..Cost::default() };
            rates.add(1, &speed(something), Some(cost), Some(something / 2.0));
        }
        assert_eq!(rates.ratio(1), Some(50.0 / 120.0));
        assert_eq!(rates.ratio(2), None);
        let table = rates.to_string();
        for told in ["41.7 %", " 25   50 % ", "p50 7.0 µs"] {
            assert!(table.contains(told), "{table}");
        }
        assert!(!table.contains("never measured"), "{table}");
    }
}
