//! Writes the kept journeys of a flow to a file.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufWriter, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt},
    path::Path,
    sync::Arc,
};

use crate::output::{Json, Sink as _, SinkError, record::Journey};

/// Who else may read what packets hold: nobody.
const MODE: u32 = 0o600;

/// Why a flow is not written.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// Something is there, and it was not said to write over it.
    #[error("the file is there already")]
    Exists,
    /// Its name does not tell a format.
    #[error("the name is to end in .jsonl (JSON lines)")]
    Format,
    /// It could not be opened or written.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It could not be written.
    #[error("{0}")]
    Sink(#[from] SinkError),
}

/// Writes them, oldest first.
///
/// # Errors
/// [`Error`]; a file that is there is left alone unless it is to be written over.
pub(super) fn write(path: &Path, journeys: &[Arc<Journey>], over: bool) -> Result<(), Error> {
    let is_json = path.extension().is_some_and(|end| end == "jsonl" || end == "json");
    if !is_json {
        return Err(Error::Format);
    }
    let file = open(path, over)?;
    let mut json = Json::new(BufWriter::new(file));
    for journey in journeys {
        json.journey(journey)?;
    }
    json.into_inner().flush()?;
    Ok(())
}

fn open(path: &Path, over: bool) -> Result<File, Error> {
    let mut options = OpenOptions::new();
    options.write(true).mode(MODE);
    if over {
        // It stays the file that it is, with its owner; what it held is gone.
        let file = options.open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is no plain file").into());
        }
        file.set_permissions(PermissionsExt::from_mode(MODE))?;
        file.set_len(0)?;
        return Ok(file);
    }
    options.create_new(true).open(path).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => Error::Exists,
        _ => error.into(),
    })
}
