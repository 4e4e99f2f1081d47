//! A report: one HTML page of what was traced, for a ticket. It needs nothing but itself: no network, no
//! other file.
//!
//! [`Report`] is a sink that keeps what the page shows: flows with the ways that their packets took
//! ([`flows`]), drops by cause, and when which packet took how long ([`timeline`]); [`page`] writes it.

mod drops;
mod flows;
mod page;
mod plot;
mod sample;
mod timeline;

use std::io::Write;

use super::{
    Sink, SinkError,
    record::{Journey, Start, Summary},
};

/// Keeps what the page shows, and writes it when the trace is over. What it keeps is bounded; what it does
/// not show is counted on the page.
#[derive(Debug)]
pub struct Report<W: Write> {
    out: W,
    start: Option<Start>,
    flows: flows::Flows,
    drops: drops::Drops,
    timeline: timeline::Timeline,
}

impl<W: Write> Report<W> {
    /// Writes to `out`.
    pub fn new(out: W) -> Self {
        Self {
            out,
            start: None,
            flows: flows::Flows::default(),
            drops: drops::Drops::default(),
            timeline: timeline::Timeline::default(),
        }
    }

    /// What was written to.
    pub fn into_inner(self) -> W {
        self.out
    }
}

impl<W: Write> Sink for Report<W> {
    fn start(&mut self, start: &Start) -> Result<(), SinkError> {
        self.start.get_or_insert_with(|| start.clone());
        Ok(())
    }

    fn journey(&mut self, journey: &Journey) -> Result<(), SinkError> {
        self.flows.add(journey);
        self.drops.add(journey);
        self.timeline.add(journey);
        Ok(())
    }

    fn summary(&mut self, summary: &Summary) -> Result<(), SinkError> {
        let page = page::page(page::Content {
            start: self.start.as_ref(),
            summary,
            flows: &self.flows,
            drops: &self.drops,
            timeline: &self.timeline,
        });
        self.out.write_all(page.into_string().as_bytes())?;
        self.flush()
    }

    fn flush(&mut self) -> Result<(), SinkError> {
        Ok(self.out.flush()?)
    }
}

#[cfg(test)]
mod tests;
