//! What is shown: text and JSON, each a [`Sink`] fed with the same records.
//!
//! [`Builder`] makes a [`record::Journey`] of a journey, its explanation and names; [`Tally`]
//! counts them for the summary. The sinks only render.

mod build;
pub mod containers;
mod describe;
pub mod escape;
mod json;
mod latency;
mod path;
pub mod record;
mod report;
mod tally;
#[cfg(test)]
mod tests;
mod text;

pub use build::{Builder, Clock};
pub use json::{Json, schema};
pub use report::Report;
pub use tally::Tally;
pub use text::{Hops, Text, use_colour};

use std::io;

/// Where results go.
pub trait Sink {
    /// The trace begins.
    ///
    /// # Errors
    /// [`SinkError`] when the results cannot be written; so for all of these.
    fn start(&mut self, start: &record::Start) -> Result<(), SinkError>;

    /// A journey is finished.
    ///
    /// # Errors
    /// As [`Sink::start`].
    fn journey(&mut self, journey: &record::Journey) -> Result<(), SinkError>;

    /// The trace is over.
    ///
    /// # Errors
    /// As [`Sink::start`].
    fn summary(&mut self, summary: &record::Summary) -> Result<(), SinkError>;

    /// Nothing else is to be written for now: what was held back goes out.
    ///
    /// # Errors
    /// As [`Sink::start`].
    fn flush(&mut self) -> Result<(), SinkError>;
}

/// Several sinks, each fed with all.
#[derive(Default)]
pub struct Sinks(Vec<Box<dyn Sink>>);

impl Sinks {
    /// Adds one.
    pub fn add(&mut self, sink: impl Sink + 'static) {
        self.0.push(Box::new(sink));
    }
}

impl Sink for Sinks {
    fn start(&mut self, start: &record::Start) -> Result<(), SinkError> {
        self.0.iter_mut().try_for_each(|sink| sink.start(start))
    }

    fn journey(&mut self, journey: &record::Journey) -> Result<(), SinkError> {
        self.0.iter_mut().try_for_each(|sink| sink.journey(journey))
    }

    fn summary(&mut self, summary: &record::Summary) -> Result<(), SinkError> {
        self.0.iter_mut().try_for_each(|sink| sink.summary(summary))
    }

    fn flush(&mut self) -> Result<(), SinkError> {
        self.0.iter_mut().try_for_each(|sink| sink.flush())
    }
}

/// Why results cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// Whoever read them has gone (`| head`): time to end, not a failure.
    #[error("nobody reads the output any more")]
    Closed,
    /// Writing failed.
    #[error("cannot write the output")]
    Io(#[source] io::Error),
}

impl From<io::Error> for SinkError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => SinkError::Closed,
            _ => SinkError::Io(error),
        }
    }
}
