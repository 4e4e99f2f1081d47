//! Where a file's bytes go: a file that only its owner may read, or a pipe. After a failure it ends with
//! a whole block.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, IsTerminal as _, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};

/// The name that stands for stdout, or stdin.
pub const STANDARD: &str = "-";

/// Who may read a file: it has other people's packets.
const MODE: u32 = 0o600;

/// A file or a pipe that is written to.
#[derive(Debug)]
pub(super) struct Target {
    path: PathBuf,
    out: Out,
    written: u64,
}

#[derive(Debug)]
enum Out {
    /// One that can be cut.
    File(File),
    /// A pipe, a device.
    Stream(File),
    Stdout(io::Stdout),
}

impl Target {
    /// Makes it, empty.
    ///
    /// # Errors
    /// When it cannot be written, or is a terminal.
    pub fn create(path: &Path) -> anyhow::Result<Self> {
        let target = |out| Self { path: path.to_owned(), out, written: 0 };
        if path.as_os_str() == STANDARD {
            if io::stdout().is_terminal() {
                bail!("a capture file is nothing for a terminal; pipe it: -w - | tshark -r -");
            }
            return Ok(target(Out::Stdout(io::stdout())));
        }
        let failed = || format!("cannot write {}", path.display());
        // What is cut is what this leads to, so a pipe or a device is left as it is.
        let is_other = fs::metadata(path).is_ok_and(|known| !known.is_file());
        let mut options = OpenOptions::new();
        options.write(true).create(!is_other).mode(MODE);
        let file = options.open(path).with_context(failed)?;
        if is_other || !file.metadata().with_context(failed)?.is_file() {
            return Ok(target(Out::Stream(file)));
        }
        // One that was there may be anyone's to read. First that, then the packets.
        file.set_permissions(Permissions::from_mode(MODE)).with_context(failed)?;
        file.set_len(0).with_context(failed)?;
        Ok(target(Out::File(file)))
    }

    /// How it is called.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes written.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Writes blocks, which end at `ends`. When it fails, what has got there of the last one is taken back.
    pub fn write(&mut self, blocks: &[u8], ends: &[usize]) -> io::Result<()> {
        let mut done = 0;
        while done < blocks.len() {
            let result = match &mut self.out {
                Out::File(file) | Out::Stream(file) => file.write(&blocks[done..]),
                Out::Stdout(stdout) => {
                    stdout.write_all(&blocks[done..]).map(|()| blocks.len() - done)
                }
            };
            match result {
                Ok(0) => return self.fail(done, ends, io::ErrorKind::WriteZero.into()),
                Ok(more) => done += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return self.fail(done, ends, error),
            }
        }
        if let Out::Stdout(stdout) = &mut self.out {
            stdout.flush()?;
        }
        self.written += blocks.len() as u64;
        Ok(())
    }

    fn fail(&mut self, done: usize, ends: &[usize], error: io::Error) -> io::Result<()> {
        let whole = ends.iter().copied().filter(|end| *end <= done).max().unwrap_or(0);
        self.written += whole as u64;
        if let Out::File(file) = &self.out {
            // Where even that fails, readers know a file that ends within a block.
            let _ = file.set_len(self.written);
        }
        Err(error)
    }
}
