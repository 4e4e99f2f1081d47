//! Cuts a file into blocks, and finds the next one behind a place where none is.

use std::io::{self, Read};

use super::{Damage, Flaw};
use crate::capture::format::{CLASSIC, FRAME, KNOWN, LONGEST, Order, SECTION};

/// Bytes that are asked for at once.
const CHUNK: usize = 256 << 10;

/// A block.
pub(super) struct Block {
    /// Where it begins, bytes from the file's start.
    pub at: u64,
    /// Its type.
    pub kind: u32,
    /// What is between its lengths.
    pub body: Vec<u8>,
}

pub(super) struct Blocks<R> {
    from: R,
    /// What was read and not used yet; `start` of it has been.
    buffer: Vec<u8>,
    start: usize,
    /// Where the buffer begins in the file.
    base: u64,
    is_at_end: bool,
    first: Option<u32>,
}

impl<R: Read> Blocks<R> {
    pub fn new(from: R) -> Self {
        Self { from, buffer: Vec::new(), start: 0, base: 0, is_at_end: false, first: None }
    }

    /// Where the next block is to begin.
    pub fn at(&self) -> u64 {
        self.base + self.start as u64
    }

    /// The first four bytes of the file.
    pub fn first(&self) -> Option<u32> {
        self.first
    }

    /// The next block; `None` at the end of the file.
    pub fn next(&mut self, order: Order) -> Result<Option<Block>, Damage> {
        let at = self.at();
        let failed = |error: io::Error| Damage { at, what: Flaw::Io(error.to_string()) };
        self.fill(FRAME).map_err(failed)?;
        if self.first.is_none() {
            self.first = self.rest().first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
            if self.first.is_some_and(|first| CLASSIC.contains(&first)) {
                // There is no block in it, and it may be long.
                self.start = self.buffer.len();
                self.is_at_end = true;
            }
        }
        if self.rest().is_empty() {
            return Ok(None);
        }
        if let Some(len) = self.length(0, order) {
            self.fill(len).map_err(failed)?;
        }
        match self.whole(0, order) {
            Some(len) => Ok(Some(self.take(len, order))),
            None => Err(self.skip(at, order).map_err(failed)?),
        }
    }

    /// The length that a block at this offset would have, if it can be one.
    fn length(&self, offset: usize, order: Order) -> Option<usize> {
        let head = self.rest().get(offset..)?.first_chunk::<12>()?;
        let [a, b, c, d, e, f, g, h, i, j, k, l] = *head;
        let order =
            if order.u32([a, b, c, d]) == SECTION { Order::of([i, j, k, l])? } else { order };
        let len = order.u32([e, f, g, h]) as usize;
        ((FRAME..=LONGEST).contains(&len) && len.is_multiple_of(4)).then_some(len)
    }

    /// The same, where all of the block is there and it ends with the length it begins with.
    fn whole(&self, offset: usize, order: Order) -> Option<usize> {
        let len = self.length(offset, order)?;
        let block = self.rest().get(offset..)?.get(..len)?;
        (block.get(4..8)? == block.get(len - 4..)?).then_some(len)
    }

    fn take(&mut self, len: usize, order: Order) -> Block {
        let at = self.at();
        let block = &self.rest()[..len];
        let kind = block.first_chunk().map_or(0, |kind| order.u32(*kind));
        let body = block[8..len - 4].to_vec();
        self.start += len;
        Block { at, kind, body }
    }

    /// Passes over what is no block, up to the next one that is of a known type.
    fn skip(&mut self, at: u64, order: Order) -> io::Result<Damage> {
        let was_cut = self.length(0, order).is_some_and(|len| len > self.rest().len());
        let mut offset = 1;
        loop {
            while offset + FRAME <= self.rest().len() {
                if self.is_known(offset, order)
                    && let Some(len) = self.length(offset, order)
                {
                    // What is passed is let go first, or the buffer would grow with every try.
                    self.start += std::mem::take(&mut offset);
                    self.fill(len)?;
                    if self.whole(0, order).is_some() {
                        let skipped = self.at() - at;
                        return Ok(Damage { at, what: Flaw::Garbage { skipped } });
                    }
                }
                offset += 1;
            }
            if self.is_at_end {
                self.start = self.buffer.len();
                let skipped = self.at() - at;
                let is_cut = was_cut || skipped < FRAME as u64;
                let what = if is_cut { Flaw::Truncated } else { Flaw::Garbage { skipped } };
                return Ok(Damage { at, what });
            }
            // The last bytes are looked at again with those behind them.
            self.start += std::mem::take(&mut offset);
            self.fill(CHUNK)?;
        }
    }

    fn is_known(&self, offset: usize, order: Order) -> bool {
        let kind = self.rest().get(offset..).and_then(<[u8]>::first_chunk);
        kind.is_some_and(|kind| KNOWN.contains(&order.u32(*kind)))
    }

    fn rest(&self) -> &[u8] {
        self.buffer.get(self.start..).unwrap_or_default()
    }

    /// Reads until this many bytes are there, or no more come.
    fn fill(&mut self, wanted: usize) -> io::Result<()> {
        while self.rest().len() < wanted && !self.is_at_end {
            if self.start > 0 {
                self.buffer.drain(..self.start);
                self.base += self.start as u64;
                self.start = 0;
            }
            let had = self.buffer.len();
            self.buffer.resize(had + CHUNK, 0);
            let read = self.from.read(&mut self.buffer[had..]);
            self.buffer.truncate(had + *read.as_ref().unwrap_or(&0));
            match read {
                Ok(0) => self.is_at_end = true,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
