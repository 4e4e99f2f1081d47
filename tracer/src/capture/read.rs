//! Reads capture files back: everything that can be read is, and what is damaged is named by its place.

mod blocks;

use std::{
    collections::BTreeMap,
    fmt,
    fs::File as OsFile,
    io::{self, Read},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use serde::Deserialize;

use super::{
    Section,
    format::{self, Broken, Order, link, option},
    target::STANDARD,
};
use crate::{
    event::Captured,
    output::record::{Journey, Summary},
};
use blocks::{Block, Blocks};

/// Most bytes of packets that are kept until their journey comes.
const PENDING: usize = 64 << 20;

/// What a file tells next.
#[derive(Clone, Debug)]
pub enum Entry {
    /// A trace begins, or this file's part of it.
    Section(Box<Section>),
    /// A journey; its hops have the bytes that the file has of them.
    Journey(Box<Journey>),
    /// The file ends here, and the trace goes on in another one.
    Continues,
    /// The trace ends.
    Summary(Box<Summary>),
}

/// A place of a file that cannot be read. What comes behind it can be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at byte {at}: {what}")]
pub struct Damage {
    /// Where, bytes from the file's start.
    pub at: u64,
    /// What is wrong there, and what of it is lost.
    pub what: Flaw,
}

/// What is wrong with a place of a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// The file ends within a block.
    #[error("the file ends within a block: the rest of it was not written, or is cut off")]
    Truncated,
    /// No block begins where one should.
    #[error("{skipped} bytes are no block that holds together, and are left out")]
    Garbage {
        /// Bytes up to the next block.
        skipped: u64,
    },
    /// A record or a section header is not what was written.
    #[error("{what} has other bytes than were written, and is left out")]
    Record {
        /// Which.
        what: &'static str,
    },
    /// A block whose parts do not fit into it.
    #[error("{what} does not hold together, and is left out")]
    Block {
        /// Which.
        what: &'static str,
    },
    /// Packets without their journey.
    #[error("{0} packets have no journey: its record is lost")]
    Orphans(u64),
    /// A record of a format that is not known.
    #[error("a record of format {0} is left out: it is of a later pathtrace")]
    Newer(u16),
    /// What another program has appended.
    #[error("what another program{0} wrote holds packets only, and is left out")]
    Foreign(String),
    /// Reading failed.
    #[error("reading failed: {0}")]
    Io(String),
}

/// Why a file is not read at all.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It cannot be opened.
    #[error("cannot read {path}: {error}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A capture of another program, or classic pcap.
    #[error(
        "{path} is an ordinary capture{of}: it holds packets, but not their journeys, which only the \
         running kernel knew; -r reads the pcapng files that pathtrace -w writes, and this one is for \
         tcpdump -r or wireshark",
        path = path.display()
    )]
    Ordinary {
        /// The file.
        path: PathBuf,
        /// ` by PROGRAM`, or ` (classic pcap)`.
        of: String,
    },
    /// No capture at all.
    #[error(
        "{path} is no capture file; -r reads the pcapng files that pathtrace -w writes",
        path = path.display()
    )]
    Other {
        /// The file.
        path: PathBuf,
    },
}

/// A capture file that is being read.
pub struct File {
    path: PathBuf,
    section: Option<Section>,
    next: Option<Result<Entry, Damage>>,
    damage: Vec<Damage>,
    reader: Reader<Box<dyn Read>>,
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("File").field("path", &self.path).finish_non_exhaustive()
    }
}

impl File {
    /// Opens a file, or stdin as `-`, and reads up to its first entry.
    ///
    /// # Errors
    /// When it cannot be read, or pathtrace did not write it.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let from: Box<dyn Read> = if path.as_os_str() == STANDARD {
            Box::new(io::stdin())
        } else {
            let file = OsFile::open(path);
            Box::new(file.map_err(|error| OpenError::Io { path: path.to_owned(), error })?)
        };
        Self::of(path, from)
    }

    /// The same of bytes from anywhere; `path` is what it is called.
    ///
    /// # Errors
    /// As [`File::open`].
    pub fn of(path: &Path, from: Box<dyn Read>) -> Result<Self, OpenError> {
        let path = path.to_owned();
        let mut reader = Reader::new(from);
        let mut damage = Vec::new();
        loop {
            match reader.next() {
                Some(Ok(entry)) => {
                    reader.is_open = true;
                    let section = match &entry {
                        Entry::Section(section) => Some(Section::clone(section)),
                        _ => None,
                    };
                    return Ok(Self { path, section, next: Some(Ok(entry)), damage, reader });
                }
                Some(Err(Damage { what: Flaw::Io(error), .. })) if reader.first.is_none() => {
                    return Err(OpenError::Io { path, error: io::Error::other(error) });
                }
                Some(Err(found)) => damage.push(found),
                // Of a capture by another program the rest need not be read to know it.
                None => return Err(reader.refusal(path)),
            }
        }
    }

    /// How it is called.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The trace that it is of; none where that place is damaged.
    pub fn section(&self) -> Option<&Section> {
        self.section.as_ref()
    }
}

impl Iterator for File {
    type Item = Result<Entry, Damage>;

    fn next(&mut self) -> Option<Self::Item> {
        if !self.damage.is_empty() {
            return Some(Err(self.damage.remove(0)));
        }
        self.next.take().or_else(|| self.reader.next())
    }
}

/// The records of the blocks.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Record {
    Journey(Box<Journey>),
    Continues,
    Summary(Box<Summary>),
    /// Of a later version that this one need not know.
    #[serde(other)]
    Other,
}

/// Blocks into entries.
struct Reader<R> {
    blocks: Blocks<R>,
    order: Order,
    /// Link types of the section's interfaces.
    links: Vec<u16>,
    /// Packets whose journey has not come yet, by its number: hop and bytes.
    pending: BTreeMap<u64, Vec<(usize, Captured)>>,
    pending_bytes: usize,
    /// Packets whose journey did not come.
    orphans: u64,
    /// Type of the first block.
    first: Option<u32>,
    /// Which other program wrote a section.
    foreign: Option<String>,
    /// Something of pathtrace's was found.
    is_open: bool,
    is_ended: bool,
}

impl<R: Read> Reader<R> {
    fn new(from: R) -> Self {
        Self {
            blocks: Blocks::new(from),
            order: Order::Little,
            links: Vec::new(),
            pending: BTreeMap::new(),
            pending_bytes: 0,
            orphans: 0,
            first: None,
            foreign: None,
            is_open: false,
            is_ended: false,
        }
    }

    fn next(&mut self) -> Option<Result<Entry, Damage>> {
        loop {
            if let Some(orphans) = self.take_orphans() {
                return Some(Err(orphans));
            }
            if self.is_ended {
                return None;
            }
            let block = self.blocks.next(self.order);
            if self.first.is_none() {
                self.first = self.blocks.first();
            }
            match block {
                Ok(Some(block)) => match self.take(&block) {
                    Ok(Some(entry)) => return Some(Ok(entry)),
                    Ok(None) if self.foreign.is_some() && !self.is_open => return None,
                    Ok(None) => {}
                    Err(what) => return Some(Err(Damage { at: block.at, what })),
                },
                Ok(None) => {
                    self.is_ended = true;
                    self.forget(u64::MAX);
                }
                Err(damage) => {
                    self.is_ended |= matches!(damage.what, Flaw::Io(_));
                    return Some(Err(damage));
                }
            }
        }
    }

    fn take(&mut self, block: &Block) -> Result<Option<Entry>, Flaw> {
        match block.kind {
            format::SECTION => self.section(&block.body),
            format::INTERFACE => {
                let link = block.body.first_chunk().map(|link| self.order.u16(*link));
                self.links
                    .push(link.ok_or(Flaw::Block { what: "the description of an interface" })?);
                Ok(None)
            }
            format::PACKET => {
                self.packet(&block.body).ok_or(Flaw::Block { what: "a packet" })?;
                Ok(None)
            }
            format::RECORD => self.record(&block.body),
            _ => Ok(None),
        }
    }

    fn section(&mut self, body: &[u8]) -> Result<Option<Entry>, Flaw> {
        let damaged = Flaw::Record { what: "a section header" };
        let magic = body.first_chunk().ok_or(damaged.clone())?;
        self.order = Order::of(*magic).ok_or(damaged.clone())?;
        self.links.clear();
        self.forget(u64::MAX);
        let (mut own, mut application) = (Vec::new(), None);
        for (code, value) in self.order.options(body.get(16..).ok_or(damaged.clone())?) {
            match code {
                option::OWN => own.extend_from_slice(value),
                option::APPLICATION => application = Some(String::from_utf8_lossy(value)),
                _ => {}
            }
        }
        let is_own = |name: &str| name.starts_with("pathtrace ");
        if own.is_empty() {
            let by = match application {
                // As editcap does: it knows what is pathtrace's own as little as others.
                Some(name) if is_own(&name) => {
                    " that another program wrote from one of pathtrace's".to_owned()
                }
                Some(name) => format!(" by {name}"),
                None => String::new(),
            };
            if self.is_open {
                return Err(Flaw::Foreign(by));
            }
            self.foreign = Some(by);
            return Ok(None);
        }
        let text = match format::unseal(&own) {
            Ok(text) => text,
            Err(Broken::Newer(version)) => return Err(Flaw::Newer(version)),
            Err(Broken::Foreign | Broken::Checksum) => return Err(damaged),
        };
        let section = serde_json::from_slice(text).map_err(|_| damaged)?;
        Ok(Some(Entry::Section(Box::new(section))))
    }

    /// Keeps a packet for its journey. `None` where it does not hold together.
    fn packet(&mut self, body: &[u8]) -> Option<()> {
        let (head, rest) = body.split_first_chunk::<20>()?;
        let word = |at: usize| Some(self.order.u32(*head.get(at..)?.first_chunk()?));
        let (interface, captured, length) = (word(0)?, word(12)? as usize, word(16)?);
        let data = rest.get(..captured)?;
        let options = rest.get(captured.checked_next_multiple_of(4)?..)?;
        let own = self.order.options(options).find(|(code, _)| *code == option::OWN);
        // Of somebody who has added packets.
        let Some((_, own)) = own else { return Some(()) };
        let (journey, hop) = own.split_first_chunk()?;
        let hop = u32::from_le_bytes(*hop.first_chunk()?) as usize;
        let link = self.links.get(interface as usize);
        let captured = Captured {
            link_header: link.copied()? == link::ETHERNET,
            length,
            data: Bytes::copy_from_slice(data),
        };
        self.pending_bytes += data.len();
        self.pending.entry(u64::from_le_bytes(*journey)).or_default().push((hop, captured));
        if self.pending_bytes > PENDING {
            let last = self.pending.last_key_value().map_or(0, |(number, _)| *number);
            self.forget(last);
        }
        Some(())
    }

    fn record(&mut self, body: &[u8]) -> Result<Option<Entry>, Flaw> {
        let damaged = Flaw::Record { what: "a record" };
        let text = match format::unseal(body) {
            Ok(text) => text,
            // A block type for local use is anybody's.
            Err(Broken::Foreign) => return Ok(None),
            Err(Broken::Newer(version)) => return Err(Flaw::Newer(version)),
            Err(Broken::Checksum) => return Err(damaged),
        };
        Ok(match serde_json::from_slice(text).map_err(|_| damaged)? {
            Record::Journey(mut journey) => {
                // Journeys come in the order of their numbers.
                self.forget(journey.id);
                for (hop, captured) in self.pending.remove(&journey.id).unwrap_or_default() {
                    self.pending_bytes -= captured.data.len();
                    match journey.hops.get_mut(hop) {
                        Some(hop) => hop.captured = Some(captured),
                        None => self.orphans += 1,
                    }
                }
                Some(Entry::Journey(journey))
            }
            Record::Summary(summary) => Some(Entry::Summary(summary)),
            Record::Continues => Some(Entry::Continues),
            Record::Other => None,
        })
    }

    /// Packets of journeys before this one have none.
    fn forget(&mut self, before: u64) {
        while let Some(entry) = self.pending.first_entry()
            && *entry.key() < before
        {
            let packets = entry.remove();
            self.pending_bytes -= packets.iter().map(|(_, c)| c.data.len()).sum::<usize>();
            self.orphans += packets.len() as u64;
        }
    }

    fn take_orphans(&mut self) -> Option<Damage> {
        let orphans = std::mem::take(&mut self.orphans);
        (orphans > 0).then(|| Damage { at: self.blocks.at(), what: Flaw::Orphans(orphans) })
    }

    /// Why this file is refused, in which there is nothing of pathtrace's.
    fn refusal(&self, path: PathBuf) -> OpenError {
        match (&self.foreign, self.first) {
            (Some(by), _) => OpenError::Ordinary { path, of: by.clone() },
            (None, Some(first)) if format::CLASSIC.contains(&first) => {
                OpenError::Ordinary { path, of: " (classic pcap)".into() }
            }
            _ => OpenError::Other { path },
        }
    }
}
