//! An even sample of what may be much.

/// Keeps some of many items, evenly taken: where there are more than it may keep, every second, fourth, …
/// of them stays.
#[derive(Debug)]
pub(super) struct Sample<T> {
    items: Vec<T>,
    most: usize,
    every: u64,
    seen: u64,
}

impl<T> Sample<T> {
    /// Keeps no more than `most`.
    pub fn of(most: usize) -> Self {
        Self { items: Vec::new(), most, every: 1, seen: 0 }
    }

    /// Takes an item, if it is one of those that are kept.
    pub fn add(&mut self, item: T) {
        let wanted = self.seen.is_multiple_of(self.every);
        self.seen += 1;
        if !wanted {
            return;
        }
        self.items.push(item);
        if self.items.len() > self.most {
            let mut keep = false;
            self.items.retain(|_| {
                keep = !keep;
                keep
            });
            self.every *= 2;
        }
    }

    /// Those that are kept, in their order.
    pub fn items(&self) -> &[T] {
        &self.items
    }

    /// One of how many is kept.
    pub fn every(&self) -> u64 {
        self.every
    }
}

impl Sample<u64> {
    /// Their median; `None` of none.
    pub fn median(&self) -> Option<u64> {
        let mut items = self.items.clone();
        let middle = items.len() / 2;
        (!items.is_empty()).then(|| *items.select_nth_unstable(middle).1)
    }
}
