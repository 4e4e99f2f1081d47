//! Captured bytes that are in memory, from when they were taken until what came of them was written. Journeys are
//! held back for half a second, in which a stream of ten gigabits a second brings more than a host may have.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use bytes::Bytes;

use crate::event::Captured;

/// Most bytes that are held.
pub const MOST: usize = 512 << 20;

/// What is kept of each packet when there are so many: its headers.
const HEADERS: usize = 128;

/// Counts them.
#[derive(Debug)]
pub struct Held {
    most: usize,
    held: Arc<AtomicUsize>,
    cut: u64,
}

impl Held {
    /// Lets so many be held.
    pub fn new(most: usize) -> Self {
        Self { most, held: Arc::default(), cut: 0 }
    }

    /// Takes note of these until nobody has them any more; where there is no room for them, all but the headers go.
    pub fn take(&mut self, captured: &mut Captured) {
        let bytes = captured.data.len();
        if bytes > HEADERS && self.held.load(Relaxed) + bytes > self.most {
            self.cut += (bytes - HEADERS) as u64;
            captured.data = Bytes::copy_from_slice(&captured.data[..HEADERS]);
            return;
        }
        self.held.fetch_add(bytes, Relaxed);
        let data = std::mem::take(&mut captured.data);
        captured.data = Bytes::from_owner(Counted { data, held: self.held.clone() });
    }

    /// How many bytes had to go.
    pub fn cut(&self) -> u64 {
        self.cut
    }
}

/// Bytes that are counted as long as there are any of them.
struct Counted {
    data: Bytes,
    held: Arc<AtomicUsize>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.held.fetch_sub(self.data.len(), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(bytes: usize) -> Captured {
        Captured { link_header: true, length: 1500, data: vec![7; bytes].into() }
    }

    #[test]
    fn what_there_is_no_room_for_is_cut_to_its_headers_and_counted() {
        let mut held = Held::new(2500);
        let (mut first, mut second) = (packet(1500), packet(1500));

        held.take(&mut first);
        held.take(&mut second);

        assert_eq!((first.data.len(), second.data.len()), (1500, HEADERS));
        assert_eq!(second.length, 1500);
        assert_eq!(held.cut(), 1500 - HEADERS as u64);
    }

    #[test]
    fn there_is_room_again_when_nobody_has_them_any_more() {
        let mut held = Held::new(2500);
        let mut first = packet(1500);
        held.take(&mut first);
        let shared = first.clone();
        drop(first);
        let mut second = packet(1500);
        held.take(&mut second);
        assert_eq!(second.data.len(), HEADERS, "somebody has them still");

        drop(shared);
        let mut third = packet(1500);
        held.take(&mut third);

        assert_eq!(third.data.len(), 1500);
    }
}
