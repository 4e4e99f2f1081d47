//! `-r` and `report`: shows what was recorded. It needs neither root nor the machine that was traced.

use std::{
    fs::OpenOptions,
    io::{self, BufWriter},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};

use super::sinks::{self, Fed, Wishes};
use crate::{
    capture::{Ending, Merge, Merged, STANDARD, Scene, read::File},
    cli::{SelectArgs, TraceArgs},
    output::{
        Report, Sink as _, SinkError, Sinks, Tally, Wish,
        record::{Events, Journey, LeftOut, LostEvents, OutcomeKind, Summary},
    },
    select::{expression::Expression, recorded::Recorded},
};

/// Shows what the files hold, as `args` say.
///
/// # Errors
/// When a file cannot be read, or the output cannot be written.
pub(super) fn replay(args: &TraceArgs, expression: Option<Expression>) -> anyhow::Result<()> {
    let merge = open(&args.files.read)?;
    let own = merge.sections().map(|section| section.netns);
    let wanted = Recorded::new(&args.select, expression, own)?;
    let scene = merge.sections().next().map(|section| Scene {
        host: section.host.clone(),
        machine: section.machine.clone(),
        command: section.command.clone(),
        netns: section.netns,
    });
    let scene = match scene {
        Some(scene) => scene,
        None if args.files.write.is_none() => Scene::here()?,
        None => bail!(
            "{} does not tell any more what host it is of, so it cannot be written anew (-w)",
            args.files.read.first().map_or(Path::new(STANDARD), |path| path).display()
        ),
    };
    let (sinks, wishes) = sinks::of(args, scene, Fed::ByFiles)?;
    let shape = Shape {
        is_live: args.files.read.iter().any(|path| path.as_os_str() == STANDARD),
        drops: args.drops,
        most: args.count,
        names: !args.no_names,
        latency: args.latency,
        needs_summary: false,
    };
    ended(Replay::new(shape, wanted, sinks, wishes).run(merge))
}

/// Writes an HTML page of what the files hold.
///
/// # Errors
/// When a file cannot be read, or the page cannot be written.
pub fn report(files: &[PathBuf], page: &Path) -> anyhow::Result<()> {
    let merge = open(files)?;
    let wanted = Recorded::new(&SelectArgs::default(), None, std::iter::empty())?;
    let cannot = || format!("cannot write {}", page.display());
    let mut sinks = Sinks::default();
    if page.as_os_str() == STANDARD {
        sinks.add(Report::new(BufWriter::new(io::stdout())));
    } else {
        // Who talks to whom is nobody else's business.
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        sinks.add(Report::new(BufWriter::new(options.open(page).with_context(cannot)?)));
    }
    let shape = Shape {
        is_live: false,
        drops: false,
        most: None,
        names: true,
        latency: false,
        needs_summary: true,
    };
    ended(Replay::new(shape, wanted, sinks, Wishes::None).run(merge)).with_context(cannot)
}

fn open(files: &[PathBuf]) -> anyhow::Result<Merge> {
    let files: Result<Vec<_>, _> = files.iter().map(|path| File::open(path)).collect();
    Ok(Merge::new(files?))
}

/// A reader that has seen enough is no failure.
fn ended(result: Result<(), SinkError>) -> anyhow::Result<()> {
    match result {
        Err(SinkError::Closed) => Ok(()),
        result => Ok(result?),
    }
}

/// What of the files is shown, and how.
struct Shape {
    /// They are still being written: each journey is shown at once.
    is_live: bool,
    /// Only journeys that ended in a drop.
    drops: bool,
    /// How many at most.
    most: Option<u64>,
    /// With the names of those who own addresses.
    names: bool,
    /// How long packets took is asked for.
    latency: bool,
    /// A summary is made where the files have none.
    needs_summary: bool,
}

/// Files being shown.
struct Replay {
    shape: Shape,
    wanted: Recorded,
    sinks: Sinks,
    wishes: Wishes,
    tally: Tally,
    /// Journeys that were shown.
    shown: u64,
    /// Journeys that were left out: by the selection, or because there were enough.
    cut: u64,
}

impl Replay {
    fn new(shape: Shape, wanted: Recorded, sinks: Sinks, wishes: Wishes) -> Self {
        Self { shape, wanted, sinks, wishes, tally: Tally::default(), shown: 0, cut: 0 }
    }

    fn run(mut self, mut merge: Merge) -> Result<(), SinkError> {
        for start in merge.starts() {
            self.sinks.start(&start)?;
        }
        let is_several = merge.is_several();
        let mut summaries = Vec::new();
        for told in &mut merge {
            if self.is_left() {
                self.wishes = Wishes::None;
                break;
            }
            match told {
                Merged::Journey(journey) => {
                    self.show(*journey)?;
                    if self.shape.is_live {
                        self.sinks.flush()?;
                    }
                }
                Merged::Damage(path, damage) => log::warn!("{}: {damage}", path.display()),
                Merged::End(_, Ending::Summary(summary)) => summaries.push(*summary),
                Merged::End(path, Ending::Continues) => log::warn!(
                    "{} has no summary: the trace went on in another file",
                    path.display()
                ),
                Merged::End(path, Ending::Unknown) => log::warn!(
                    "{} ends without a summary: what wrote it was killed, or its end is lost; {} \
                     journeys were read",
                    path.display(),
                    self.tally.journeys() + self.cut
                ),
            }
        }
        if let Some(why) = self.wanted.untold() {
            log::warn!("{why}");
        }
        self.sinks.flush()?;
        self.stay();
        match <[Summary; 1]>::try_from(summaries) {
            Ok([summary]) if !is_several && self.cut == 0 => self.sinks.summary(&summary),
            Ok([summary]) => self.count_anew(&[summary]),
            Err(summaries) if summaries.is_empty() && !self.shape.needs_summary => Ok(()),
            Err(summaries) => self.count_anew(&summaries),
        }
    }

    /// Whether whoever looks on has had enough.
    fn is_left(&mut self) -> bool {
        match &mut self.wishes {
            Wishes::None => false,
            Wishes::View(wishes) => matches!(wishes.try_recv(), Ok(Wish::Quit)),
        }
    }

    /// Waits until whoever looks on has had enough: at once, where nobody does.
    fn stay(&mut self) {
        if let Wishes::View(wishes) = &mut self.wishes {
            while !matches!(wishes.blocking_recv(), None | Some(Wish::Quit)) {}
        }
    }

    fn show(&mut self, mut journey: Journey) -> Result<(), SinkError> {
        let is_enough = self.shape.most.is_some_and(|most| self.shown >= most);
        if is_enough || !self.wanted.matches(&journey) {
            self.cut += 1;
            return Ok(());
        }
        if !self.shape.names {
            (journey.packet.src_name, journey.packet.dst_name) = (None, None);
        }
        self.tally.add(&journey.outcome);
        if self.shape.drops && journey.outcome.kind != OutcomeKind::Dropped {
            return Ok(());
        }
        self.shown += 1;
        self.sinks.journey(&journey)
    }

    /// The summary of what was shown. Events are counted by trace and not by journey, so they stay.
    fn count_anew(&mut self, summaries: &[Summary]) -> Result<(), SinkError> {
        let duration = summaries.iter().map(|summary| summary.duration_ns).max();
        let events = summaries.iter().map(|summary| summary.events).fold(Events::default(), add);
        let summary = self.tally.summary(duration.unwrap_or_default(), events);
        if self.shape.latency {
            log::warn!(
                "how long packets took is known of a whole trace only, and not shown of a part"
            );
        }
        self.sinks.summary(&summary)
    }
}

fn add(a: Events, b: Events) -> Events {
    let (l, m) = (a.lost, b.lost);
    Events {
        offered: a.offered.saturating_add(b.offered),
        received: a.received.saturating_add(b.received),
        lost: LostEvents {
            ring_full: l.ring_full.saturating_add(m.ring_full),
            tracking_full: l.tracking_full.saturating_add(m.tracking_full),
            behind: l.behind.saturating_add(m.behind),
            probe_missed: l.probe_missed.saturating_add(m.probe_missed),
            learned_full: l.learned_full.saturating_add(m.learned_full),
            addresses_full: l.addresses_full.saturating_add(m.addresses_full),
            journeys_evicted: l.journeys_evicted.saturating_add(m.journeys_evicted),
            flows_evicted: l.flows_evicted.saturating_add(m.flows_evicted),
            late: l.late.saturating_add(m.late),
            undecodable: l.undecodable.saturating_add(m.undecodable),
            unaccounted: l.unaccounted.saturating_add(m.unaccounted),
            nft_trace: l.nft_trace.saturating_add(m.nft_trace),
        },
        left_out: LeftOut {
            packets: a.left_out.packets.saturating_add(b.left_out.packets),
            events: a.left_out.events.saturating_add(b.left_out.events),
            one_of: a.left_out.one_of.max(b.left_out.one_of),
            bytes: a.left_out.bytes.saturating_add(b.left_out.bytes),
        },
    }
}
