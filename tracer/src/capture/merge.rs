//! Several files as one trace: the parts of a rotation one behind the other, the files of several hosts by
//! time, with numbers of their own.

use std::{
    collections::{HashMap, VecDeque},
    num::NonZeroUsize,
    path::PathBuf,
};

use lru::LruCache;

use super::{
    Section,
    read::{Damage, Entry, File},
    write::nanoseconds,
};
use crate::output::record::{Journey, Source, Start, Summary};

/// Flows of a file that are remembered by their number in it. Beyond that, those seen first are forgotten:
/// their later journeys count as another flow.
const FLOWS: usize = 1 << 20;
/// Journeys of a file that others may still refer to: what refers to those before them is left out.
const REFERRED: NonZeroUsize = NonZeroUsize::new(1 << 16).unwrap();

/// What several files tell, as one.
#[derive(Debug)]
pub enum Merged {
    /// The next journey.
    Journey(Box<Journey>),
    /// A place that cannot be read.
    Damage(PathBuf, Damage),
    /// A trace is over: how it ended, where the file has that.
    End(PathBuf, Ending),
}

/// How the files of a trace end.
#[derive(Debug)]
pub enum Ending {
    /// With the trace's summary.
    Summary(Box<Summary>),
    /// The trace went on in a file that is not here.
    Continues,
    /// The trace was killed, or its end is lost.
    Unknown,
}

/// Reads files together.
#[derive(Debug)]
pub struct Merge {
    traces: Vec<Trace>,
    told: VecDeque<Merged>,
    journeys: u64,
    flows: u64,
}

/// The files of one trace.
#[derive(Debug)]
struct Trace {
    files: VecDeque<File>,
    path: PathBuf,
    section: Option<Section>,
    next: Option<(u64, Box<Journey>)>,
    ending: Ending,
    is_over: bool,
    source: Option<Source>,
    flows: HashMap<u64, u64>,
    /// The new numbers of its last journeys.
    numbers: LruCache<u64, u64>,
}

impl Merge {
    /// Of these files, in any order.
    pub fn new(files: Vec<File>) -> Self {
        let mut traces: Vec<Trace> = Vec::new();
        for file in files {
            let name = |section: Option<&Section>| Some(section?.trace.clone());
            let known = name(file.section()).and_then(|file| {
                traces.iter_mut().find(|trace| name(trace.section.as_ref()).as_ref() == Some(&file))
            });
            match known {
                Some(trace) => trace.files.push_back(file),
                None => traces.push(Trace::new(file)),
            }
        }
        let is_several = traces.len() > 1;
        for trace in &mut traces {
            let part = |file: &File| file.section().map_or(0, |section| section.part);
            trace.files.make_contiguous().sort_by_key(part);
            if is_several {
                trace.source = Some(Source {
                    file: trace.path.display().to_string(),
                    host: trace.section.as_ref().map_or_else(String::new, |s| s.host.clone()),
                });
            }
        }
        Self { traces, told: VecDeque::new(), journeys: 0, flows: 0 }
    }

    /// The section of each trace, where it could be read.
    pub fn sections(&self) -> impl Iterator<Item = &Section> {
        self.traces.iter().filter_map(|trace| trace.section.as_ref())
    }

    /// How each trace began; of several, with the file that it is from.
    pub fn starts(&self) -> impl Iterator<Item = Start> {
        self.traces.iter().filter_map(|trace| {
            let start = trace.section.as_ref()?.start.clone();
            Some(Start { source: trace.source.clone(), ..start })
        })
    }

    /// Whether these are several traces.
    pub fn is_several(&self) -> bool {
        self.traces.len() > 1
    }

    fn number(&mut self, trace: usize, mut journey: Box<Journey>) -> Box<Journey> {
        let is_several = self.is_several();
        let Some(trace) = self.traces.get_mut(trace).filter(|_| is_several) else { return journey };
        self.journeys += 1;
        trace.numbers.put(journey.id, self.journeys);
        journey.id = self.journeys;
        let mut renumber = |number: &mut Option<u64>| {
            *number = number.and_then(|number| trace.numbers.get(&number).copied());
        };
        renumber(&mut journey.packet.parent_journey);
        journey.branches.iter_mut().for_each(|branch| renumber(&mut branch.journey));
        if trace.flows.len() >= FLOWS {
            trace.flows.clear();
        }
        journey.flow.id = *trace.flows.entry(journey.flow.id).or_insert_with(|| {
            self.flows += 1;
            self.flows
        });
        journey.source.clone_from(&trace.source);
        journey
    }
}

impl Iterator for Merge {
    type Item = Merged;

    fn next(&mut self) -> Option<Merged> {
        for trace in &mut self.traces {
            trace.fill(&mut self.told);
        }
        if let Some(told) = self.told.pop_front() {
            return Some(told);
        }
        let times = self.traces.iter().enumerate();
        let (index, _) = times
            .filter_map(|(index, trace)| Some((index, trace.next.as_ref()?.0)))
            .min_by_key(|(_, time)| *time)?;
        let (_, journey) = self.traces.get_mut(index)?.next.take()?;
        Some(Merged::Journey(self.number(index, journey)))
    }
}

impl Trace {
    fn new(file: File) -> Self {
        Self {
            path: file.path().to_owned(),
            section: file.section().cloned(),
            files: VecDeque::from([file]),
            next: None,
            ending: Ending::Unknown,
            is_over: false,
            source: None,
            flows: HashMap::new(),
            numbers: LruCache::new(REFERRED),
        }
    }

    /// Reads up to its next journey; what is met on the way is told.
    fn fill(&mut self, told: &mut VecDeque<Merged>) {
        while self.next.is_none() && !self.is_over {
            let Some(file) = self.files.front_mut() else {
                self.is_over = true;
                let ending = std::mem::replace(&mut self.ending, Ending::Unknown);
                told.push_back(Merged::End(self.path.clone(), ending));
                return;
            };
            file.path().clone_into(&mut self.path);
            match file.next() {
                Some(Ok(Entry::Journey(journey))) => {
                    self.next = Some((nanoseconds(&journey.time), journey));
                }
                Some(Ok(Entry::Section(_))) => self.ending = Ending::Unknown,
                Some(Ok(Entry::Continues)) => self.ending = Ending::Continues,
                Some(Ok(Entry::Summary(summary))) => self.ending = Ending::Summary(summary),
                Some(Err(damage)) => {
                    told.push_back(Merged::Damage(self.path.clone(), damage));
                    return;
                }
                None => drop(self.files.pop_front()),
            }
        }
    }
}
