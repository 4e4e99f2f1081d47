//! Keeps the events of a trace as a test fixture: `NAME.events.jsonl`, and beside it, in
//! `NAME.kernel.json`, what this kernel calls the drop reasons and places that occur in it.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use serde::Serialize;

use crate::{
    event::{Event, What, recording},
    explain::{KernelNames, location_name, reason_name},
};

/// A fixture in the making.
pub struct Dump {
    events: BufWriter<File>,
    path: PathBuf,
    kernel: Kernel,
}

#[derive(Default, Serialize)]
struct Kernel {
    reasons: BTreeMap<u32, String>,
    locations: BTreeMap<u64, String>,
}

impl Dump {
    /// Writes to `path`, from the start.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn create(path: &Path) -> anyhow::Result<Self> {
        let file =
            File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { events: BufWriter::new(file), path: path.to_owned(), kernel: Kernel::default() })
    }

    /// Takes one event.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&mut self, event: &Event, names: &impl KernelNames) -> anyhow::Result<()> {
        if let What::Drop { reason, location, .. } = event.what {
            if let Some(reason) = reason {
                self.kernel.reasons.insert(reason, reason_name(names, reason));
            }
            self.kernel.locations.insert(location, location_name(names, location));
        }
        recording::write(&mut self.events, event).context("cannot write the events")
    }

    /// The trace is over.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn finish(mut self) -> anyhow::Result<()> {
        self.events.flush().context("cannot write the events")?;
        let name = self.path.to_string_lossy();
        let kernel = format!("{}.kernel.json", name.strip_suffix(".events.jsonl").unwrap_or(&name));
        let mut file = File::create(&kernel).with_context(|| format!("cannot write {kernel}"))?;
        serde_json::to_writer_pretty(&mut file, &self.kernel)
            .with_context(|| format!("cannot write {kernel}"))?;
        file.write_all(b"\n").with_context(|| format!("cannot write {kernel}"))
    }
}
