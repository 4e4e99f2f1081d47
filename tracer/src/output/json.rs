//! JSON: one object a line, as scripts read it.

use std::io::Write;

use serde_json::Value;

use super::{
    Sink, SinkError,
    record::{Journey, Line, Record, Start, Summary},
};

/// Writes records as JSON lines. Give it something buffered.
#[derive(Debug)]
pub struct Json<W: Write> {
    out: W,
    /// The line that is being made. Writing its many small pieces costs less here than in a buffered writer.
    line: Vec<u8>,
}

impl<W: Write> Json<W> {
    /// Writes to `out`.
    pub fn new(out: W) -> Self {
        Self { out, line: Vec::new() }
    }

    /// What was written to.
    pub fn into_inner(self) -> W {
        self.out
    }

    fn line(&mut self, line: &Line<'_>) -> Result<(), SinkError> {
        self.line.clear();
        serde_json::to_writer(&mut self.line, line).map_err(std::io::Error::from)?;
        self.line.push(b'\n');
        Ok(self.out.write_all(&self.line)?)
    }
}

impl<W: Write> Sink for Json<W> {
    fn start(&mut self, start: &Start) -> Result<(), SinkError> {
        self.line(&Line::Start(start))?;
        self.flush()
    }

    fn journey(&mut self, journey: &Journey) -> Result<(), SinkError> {
        self.line(&Line::Journey(journey))
    }

    fn summary(&mut self, summary: &Summary) -> Result<(), SinkError> {
        self.line(&Line::Summary(summary))?;
        self.flush()
    }

    fn flush(&mut self) -> Result<(), SinkError> {
        Ok(self.out.flush()?)
    }
}

/// The JSON Schema of a line.
pub fn schema() -> Value {
    let settings = schemars::generate::SchemaSettings::default().for_serialize();
    settings.into_generator().into_root_schema_for::<Record>().to_value()
}
