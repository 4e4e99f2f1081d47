//! How long something took, many times over: small while there are few times.

use hdrhistogram::Histogram;

/// Times that are kept one by one: most flows of a scan have no more.
const FEW: usize = 12;
/// Significant digits of what comes beyond these: a histogram takes 0.5 KB to 1 KB.
const DIGITS: u8 = 1;

/// A distribution of times in ns.
#[derive(Clone, Debug)]
pub struct Times(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Few(Vec<u64>),
    Many(Box<Histogram<u32>>),
}

impl Default for Times {
    fn default() -> Self {
        Self(Kind::Few(Vec::new()))
    }
}

impl Times {
    /// Takes a time in.
    pub fn add(&mut self, ns: u64) {
        if let Kind::Few(times) = &mut self.0 {
            if times.len() < FEW {
                times.push(ns);
                return;
            }
            if let Ok(mut many) = Histogram::new(DIGITS) {
                for &ns in times.iter() {
                    // It grows by itself as far as a u64 goes.
                    let _ = many.record(ns);
                }
                self.0 = Kind::Many(Box::new(many));
            }
        }
        if let Kind::Many(times) = &mut self.0 {
            let _ = times.record(ns);
        }
    }

    /// The time that `percent` of 100 did not exceed, ns; `None` without any.
    pub fn percentile(&self, percent: u8) -> Option<u64> {
        let fraction = f64::from(percent.min(100)) / 100.0;
        match &self.0 {
            Kind::Few(times) => {
                let mut sorted = times.clone();
                sorted.sort_unstable();
                let rank = (sorted.len() * usize::from(percent.min(100))).div_ceil(100);
                sorted.get(rank.saturating_sub(1)).copied()
            }
            Kind::Many(times) => Some(times.value_at_quantile(fraction)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_times_are_exact() {
        let mut times = Times::default();
        assert_eq!(times.percentile(50), None);
        for ns in [30, 10, 20] {
            times.add(ns);
        }
        assert_eq!(times.percentile(50), Some(20));
        assert_eq!(times.percentile(99), Some(30));
    }

    #[test]
    fn many_times_are_as_exact_as_a_digit() {
        let mut times = Times::default();
        (1..=1000).for_each(|n| times.add(n * 1000));
        let p50 = times.percentile(50).unwrap();
        assert!((470_000..=530_000).contains(&p50), "{p50}");
        let p99 = times.percentile(99).unwrap();
        assert!((940_000..=1_050_000).contains(&p99), "{p99}");
    }
}
