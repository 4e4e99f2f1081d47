//! Recordings of real traces, put together again: every `tests/fixtures/*.events.jsonl` must give
//! the journeys in the `*.journeys.txt` beside it. `UPDATE_EXPECT=1 cargo test -p tracer` writes
//! these files anew.
//!
//! Drops that are none are recognised by name, and names are the recording kernel's:
//! `*.kernel.json`, where there is one, has `{"reasons": {"3": "NO_SOCKET"},
//! "locations": {"18446744072396668910": "icmp_rcv+0x1e3"}}`.

use std::{
    collections::HashMap,
    error::Error,
    fmt::Write as _,
    fs,
    io::BufReader,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use tracer::{
    event::recording,
    explain::{HarmlessEnds, KernelNames},
    host::symbols::Function,
    journey::{Assembler, Counts, HopDetail, Journey, Limits, Outcome},
};

/// How many recordings there must be, so that a harness that finds none fails.
const AT_LEAST: usize = 4;

#[derive(Default, Deserialize)]
struct Kernel {
    reasons: HashMap<u32, String>,
    locations: HashMap<u64, String>,
}

impl KernelNames for Kernel {
    fn reason(&self, number: u32) -> Option<&str> {
        self.reasons.get(&number).map(String::as_str)
    }

    fn symbol(&self, address: u64) -> Option<Function<'_>> {
        let text = self.locations.get(&address)?;
        let (name, offset) = text.split_once("+0x").unwrap_or((text, "0"));
        Some(Function { name, offset: u64::from_str_radix(offset, 16).unwrap_or(0), module: None })
    }
}

#[test]
fn recordings_give_their_journeys() -> Result<(), Box<dyn Error>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut recordings: Vec<PathBuf> = fs::read_dir(directory)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    recordings.retain(|path| path.to_string_lossy().ends_with(".events.jsonl"));
    recordings.sort();
    assert!(recordings.len() >= AT_LEAST, "{} recordings, not {AT_LEAST}", recordings.len());

    let mut wrong = Vec::new();
    for recording in &recordings {
        let beside = |extension: &str| {
            PathBuf::from(recording.to_string_lossy().replace(".events.jsonl", extension))
        };
        let kernel = match fs::read(beside(".kernel.json")) {
            Ok(json) => serde_json::from_slice(&json)?,
            Err(_) => Kernel::default(),
        };
        let found = replay(recording, kernel)?;
        let expected = beside(".journeys.txt");
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            fs::write(&expected, &found)?;
        } else if fs::read_to_string(&expected).ok().as_deref() != Some(&found) {
            wrong.push(format!("{} is not what comes out:\n{found}", expected.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

fn replay(recording: &Path, kernel: Kernel) -> Result<String, Box<dyn Error>> {
    let events = recording::read(BufReader::new(fs::File::open(recording)?))?;
    let limits = Limits::default();
    let mut assembler = Assembler::new(limits, HarmlessEnds(kernel));
    let (mut journeys, mut now) = (Vec::new(), 0);
    for event in events {
        now = now.max(event.time);
        assembler.push(event, &mut journeys);
        assembler.advance(now, &mut journeys);
    }
    assembler.finish(&mut journeys);
    Ok(render(&journeys, assembler.counts()))
}

/// All that must stay the same: no times, no addresses of memory.
fn render(journeys: &[Journey], counts: Counts) -> String {
    let mut out = String::new();
    for journey in journeys {
        let (flow, h) = (&journey.flow, &journey.headers);
        let whole = if journey.complete { "" } else { " incomplete" };
        let _ = writeln!(
            out,
            "{} packet {} flow {} {:?} {:?}/{} {}:{} > {}:{} kind {} length {}{whole}",
            journey.number,
            journey.id.0,
            flow.id.0,
            journey.direction,
            h.family,
            h.proto,
            h.src,
            h.sport,
            h.dst,
            h.dport,
            h.l4_kind,
            journey.length
        );
        let _ = writeln!(out, "  flow {}:{} > {}:{}", flow.src, flow.sport, flow.dst, flow.dport);
        for hop in &journey.hops {
            let _ = write!(out, "  {}/{} {}", hop.place.netns, hop.place.ifindex, hop.point.name());
            match &hop.detail {
                HopDetail::None => {}
                HopDetail::Netfilter { hook, accepted, .. } => {
                    let _ = write!(out, " accepted {accepted:?} passed {}", hook.passed);
                }
                HopDetail::Qdisc { kind, handle, delay } => {
                    let _ = write!(out, " {kind} {handle:#x} waited {}", delay.is_some());
                }
                HopDetail::Drop { reason, hook, .. } => {
                    let _ = write!(out, " reason {reason:?} hook {hook:?}");
                }
                other => {
                    let _ = write!(out, " {other:?}");
                }
            }
            out.push('\n');
        }
        let _ = match journey.outcome {
            Outcome::Dropped { hop, reason, in_hook, .. } => {
                writeln!(out, "  = Dropped at {hop} reason {reason:?} hook {in_hook:?}\n")
            }
            ref other => writeln!(out, "  = {other:?}\n"),
        };
    }
    let _ = writeln!(out, "{counts:?}");
    out
}
