//! `-w`: a [`Sink`] that writes capture files. What goes wrong with them is told once, and harms nothing
//! else.

use std::path::PathBuf;

use super::{
    Rotation, Scene, Section,
    rotate::Names,
    target::{STANDARD, Target},
    write::{Classic, Pcapng},
};
use crate::output::{
    Hops, Sink, SinkError,
    record::{Journey, Start, Summary},
};

/// Bytes that wait at most until somebody flushes.
const BUFFER: usize = 1 << 20;

/// What is to be written, and where.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The file, or `-` for stdout.
    pub path: PathBuf,
    /// Which hops become packets.
    pub hops: Hops,
    /// Most bytes of a packet.
    pub snaplen: u32,
    /// When the next file begins.
    pub rotation: Rotation,
    /// Where the trace runs.
    pub scene: Scene,
    /// The file is all that is wanted of the trace, which therefore ends where writing fails.
    pub alone: bool,
}

/// Writes what a trace tells into a capture file, or several.
pub struct CaptureSink {
    plan: Plan,
    names: Names,
    target: Target,
    section: Option<Section>,
    format: Format,
    /// Whole blocks that are not written yet, and where each journey's end.
    blocks: Vec<u8>,
    ends: Vec<usize>,
    /// Writing has failed, and this was told.
    failed: bool,
}

enum Format {
    Pcapng(Option<Pcapng>),
    Classic(Classic),
}

impl CaptureSink {
    /// Makes the file.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(plan: Plan) -> anyhow::Result<Self> {
        let names = Names::new(&plan.path, plan.rotation);
        let target = Target::create(&names.name()?)?;
        let is_classic = plan.path.extension().is_some_and(|e| e.eq_ignore_ascii_case("pcap"));
        let format = if is_classic {
            Format::Classic(Classic::new(plan.snaplen))
        } else {
            Format::Pcapng(None)
        };
        let (blocks, ends) = (Vec::new(), Vec::new());
        Ok(Self { plan, names, target, section: None, format, blocks, ends, failed: false })
    }

    /// Begins what a file begins with.
    fn begin(&mut self) {
        let Plan { hops, snaplen, .. } = self.plan;
        match (&mut self.format, &self.section) {
            (Format::Pcapng(pcapng), Some(section)) => {
                *pcapng = Some(Pcapng::begin(section, hops, snaplen, &mut self.blocks));
            }
            (Format::Classic(classic), _) => *classic = Classic::new(snaplen),
            (Format::Pcapng(_), None) => {}
        }
        self.ends.push(self.blocks.len());
    }

    /// Goes on in the next file, if it is time for that.
    fn rotate(&mut self) -> Result<(), SinkError> {
        if !self.names.goes_on(self.target.written() + self.blocks.len() as u64) {
            return Ok(());
        }
        match &mut self.format {
            Format::Pcapng(Some(pcapng)) => pcapng.continues(&mut self.blocks),
            Format::Pcapng(None) => {}
            Format::Classic(classic) => classic.end(&mut self.blocks),
        }
        self.ends.push(self.blocks.len());
        self.write()?;
        match self.names.name().and_then(|name| Target::create(&name)) {
            Ok(target) => self.target = target,
            Err(error) => return self.fail(&format!("{error:#}")),
        }
        if let Some(section) = &mut self.section {
            section.part += 1;
        }
        self.begin();
        Ok(())
    }

    fn write(&mut self) -> Result<(), SinkError> {
        if self.failed || self.blocks.is_empty() {
            return Ok(());
        }
        let result = self.target.write(&self.blocks, &self.ends);
        self.blocks.clear();
        self.ends.clear();
        match result {
            Ok(()) => Ok(()),
            Err(error) if self.plan.alone && error.kind() == std::io::ErrorKind::BrokenPipe => {
                Err(SinkError::Closed)
            }
            Err(error) => {
                let path = match self.target.path().to_string_lossy() {
                    name if name == STANDARD => "stdout".into(),
                    name => name,
                };
                self.fail(&format!("cannot write {path}: {error}"))
            }
        }
    }

    /// Tells it, once; from here on nothing is written.
    fn fail(&mut self, why: &str) -> Result<(), SinkError> {
        self.failed = true;
        (self.blocks, self.ends) = (Vec::new(), Vec::new());
        if self.plan.alone {
            log::error!("{why}; the trace ends, what was written stays whole");
            return Err(SinkError::Told);
        }
        log::error!("{why}; the trace goes on without it, what was written stays whole");
        Ok(())
    }
}

impl Sink for CaptureSink {
    fn start(&mut self, start: &Start) -> Result<(), SinkError> {
        self.section = Some(self.plan.scene.clone().begin(start));
        self.begin();
        self.write()
    }

    fn journey(&mut self, journey: &Journey) -> Result<(), SinkError> {
        if self.failed {
            return Ok(());
        }
        self.rotate()?;
        let result = match &mut self.format {
            Format::Pcapng(Some(pcapng)) => {
                pcapng.journey(journey, &mut self.blocks);
                Ok(())
            }
            Format::Pcapng(None) => Ok(()),
            Format::Classic(classic) => classic.journey(journey, &mut self.blocks),
        };
        if let Err(mixed) = result {
            self.write()?;
            let path = self.target.path().display();
            return self.fail(&format!("cannot write {path}: {mixed}"));
        }
        self.ends.push(self.blocks.len());
        if self.blocks.len() > BUFFER { self.write() } else { Ok(()) }
    }

    fn summary(&mut self, summary: &Summary) -> Result<(), SinkError> {
        if !self.failed {
            match &mut self.format {
                Format::Pcapng(Some(pcapng)) => pcapng.summary(summary, &mut self.blocks),
                Format::Pcapng(None) => {}
                Format::Classic(classic) => classic.end(&mut self.blocks),
            }
            self.ends.push(self.blocks.len());
            self.write()?;
        }
        // Told before; a script that asks for the exit code is to know, too.
        if self.failed { Err(SinkError::Told) } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), SinkError> {
        self.write()
    }

    fn is_done(&self) -> bool {
        self.names.is_over()
    }
}
