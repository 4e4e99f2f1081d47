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
    #[error("the name is to end in .pcapng (for Wireshark and -r) or .jsonl (JSON lines)")]
    Format,
    /// Nothing is known of the trace yet.
    #[error("the trace has not begun")]
    TooEarly,
    /// It could not be opened or written.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It could not be written.
    #[error("{0}")]
    Sink(#[from] SinkError),
}

/// Writes them, oldest first. `capture` makes a capture file of them, once the trace has begun.
///
/// # Errors
/// [`Error`]; a file that is there is left alone unless it is to be written over.
pub(super) fn write(
    path: &Path,
    journeys: &[Arc<Journey>],
    over: bool,
    capture: impl FnOnce() -> Option<Vec<u8>>,
) -> Result<(), Error> {
    match path.extension().and_then(|end| end.to_str()) {
        Some("pcapng") => {
            let bytes = capture().ok_or(Error::TooEarly)?;
            open(path, over)?.write_all(&bytes)?;
        }
        Some("jsonl" | "json") => {
            let mut json = Json::new(BufWriter::new(open(path, over)?));
            for journey in journeys {
                json.journey(journey)?;
            }
            json.into_inner().flush()?;
        }
        _ => return Err(Error::Format),
    }
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
