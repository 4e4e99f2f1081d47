//! What is shown: text, JSON and the live view, each a [`Sink`] fed with the same records.
//!
//! [`Builder`] makes a [`record::Journey`] of a journey, its explanation and names; [`Tally`]
//! counts them for the summary. The sinks only render.

mod build;
pub mod containers;
mod describe;
pub mod escape;
pub mod fact;
mod json;
mod latency;
mod live;
mod path;
pub mod record;
mod report;
pub mod shared;
mod steps;
mod tally;
#[cfg(test)]
pub(crate) mod tests;
mod text;

pub use build::{Builder, Clock};
pub use json::{Json, schema};
pub use live::{
    Live, Log, Options as ViewOptions, Theme, ToCapture, Wish, is_possible as is_view_possible,
};
pub(crate) use path::{details, place};
pub use report::Report;
pub use tally::Tally;
pub use text::{Hops, Text, losses, use_colour};

use std::{io, sync::Arc};

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

    /// A journey is finished, for a sink that keeps it without a copy.
    ///
    /// # Errors
    /// As [`Sink::start`].
    fn share(&mut self, journey: &Arc<record::Journey>) -> Result<(), SinkError> {
        self.journey(journey)
    }

    /// How the trace stands: about once a second, and when that changes.
    fn stand(&mut self, _: &Standing) {}

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

    /// Whether it has had all that it wants, so that the trace may end.
    fn is_done(&self) -> bool {
        false
    }
}

/// How a trace stands, as far as only the trace itself knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// What is selected, as on the command line; empty: every packet.
    pub selection: String,
    /// What it is doing.
    pub phase: Phase,
    /// Points that are watched.
    pub points: usize,
    /// Points that there are.
    pub points_known: usize,
    /// Interfaces that are watched.
    pub interfaces: usize,
    /// Network namespaces that are watched.
    pub namespaces: usize,
    /// Events received and lost so far.
    pub events: record::Events,
    /// Hops are left out now, and of so many packets one is told; `None`: everything is.
    pub thinned: Option<u32>,
}

/// What a trace is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// It attaches, or waits for what it must know first.
    #[default]
    Attaching,
    /// It traces.
    Tracing,
    /// Another selection was wished for, and refused for this reason: it traces as before.
    Refused(String),
    /// It has ended.
    Ended,
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

    fn share(&mut self, journey: &Arc<record::Journey>) -> Result<(), SinkError> {
        self.0.iter_mut().try_for_each(|sink| sink.share(journey))
    }

    fn stand(&mut self, standing: &Standing) {
        self.0.iter_mut().for_each(|sink| sink.stand(standing));
    }

    fn summary(&mut self, summary: &record::Summary) -> Result<(), SinkError> {
        self.0.iter_mut().try_for_each(|sink| sink.summary(summary))
    }

    fn flush(&mut self) -> Result<(), SinkError> {
        self.0.iter_mut().try_for_each(|sink| sink.flush())
    }

    fn is_done(&self) -> bool {
        self.0.iter().any(|sink| sink.is_done())
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
    /// Writing failed, and who is to know has been told.
    #[error("not everything was written")]
    Told,
}

impl From<io::Error> for SinkError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => SinkError::Closed,
            _ => SinkError::Io(error),
        }
    }
}
