//! Packets a second over the last seconds.

/// Seconds that are kept.
pub const SECONDS: usize = 30;

/// Counts by second, the last ones only.
#[derive(Clone, Debug, Default)]
pub struct Rate {
    counts: [u32; SECONDS],
    /// The second that the newest count is of, since the view began.
    newest: u64,
}

impl Rate {
    /// One more in this second.
    pub fn add(&mut self, second: u64) {
        self.pass(second);
        let count = &mut self.counts[slot(self.newest)];
        *count = count.saturating_add(1);
    }

    /// The counts of the last `n` whole seconds before this one, oldest first.
    pub fn before(&self, second: u64, n: usize) -> Vec<u32> {
        let n = n.min(SECONDS - 1) as u64;
        (0..n)
            .rev()
            .map(|ago| {
                let known = second
                    .checked_sub(ago + 1)
                    .filter(|then| *then <= self.newest && self.newest - then < SECONDS as u64);
                known.map_or(0, |then| self.counts[slot(then)])
            })
            .collect()
    }

    /// How many came in the last whole second.
    pub fn last(&self, second: u64) -> u32 {
        self.before(second, 1).first().copied().unwrap_or_default()
    }

    /// Seconds without any are 0.
    fn pass(&mut self, second: u64) {
        if second <= self.newest {
            return;
        }
        for past in (self.newest + 1..=second).rev().take(SECONDS) {
            self.counts[slot(past)] = 0;
        }
        self.newest = second;
    }
}

fn slot(second: u64) -> usize {
    (second % SECONDS as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_told_oldest_first_and_silence_is_zero() {
        let mut rate = Rate::default();
        for second in [1, 1, 1, 3] {
            rate.add(second);
        }
        assert_eq!(rate.before(4, 4), [0, 3, 0, 1]);
        assert_eq!(rate.last(4), 1);
        assert_eq!(rate.last(5), 0);
    }

    #[test]
    fn what_is_long_ago_is_forgotten() {
        let mut rate = Rate::default();
        rate.add(1);
        rate.add(100);
        assert_eq!(rate.before(101, SECONDS).iter().sum::<u32>(), 1);
        assert_eq!(rate.before(500, SECONDS).iter().sum::<u32>(), 0);
    }
}
