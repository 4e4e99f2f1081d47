//! Keeps the names of containers fresh: a look after namespaces or links came or went, some more soon
//! after, for a namespace is there before its runtime tells of it, and one now and then where a runtime
//! can be asked, for containers can be renamed. Never on the way of events.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::task::{JoinHandle, spawn_blocking};

use crate::{
    host::{
        containers::{Containers, Sources},
        snapshot::Snapshot,
    },
    select::container::Selected,
};

/// When to look after something changed: a container takes this long to start.
const AFTER_CHANGE: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(300), Duration::from_secs(1), Duration::from_secs(3)];
/// How often to look when nothing changed.
const REGULARLY: Duration = Duration::from_secs(5);
/// How long to leave runtimes alone between two looks, however much changes.
const APART: Duration = Duration::from_millis(200);

/// Looks for containers.
pub struct Namer {
    sources: Arc<Sources>,
    looking: Option<JoinHandle<Containers>>,
    /// When to look next, and after that.
    due: VecDeque<Instant>,
    not_before: Instant,
    /// Namespaces, and the links of this one: what containers are known by.
    shape: BTreeSet<(u32, u32)>,
    /// Problems that were told already.
    told: BTreeSet<String>,
}

impl Namer {
    /// On a machine that looks like this, for a trace of these; the first look begins.
    pub fn start(snapshot: &Snapshot, selected: &Selected) -> Self {
        let now = Instant::now();
        let sources = Sources::of_this_machine();
        let sources = if selected.has_machines() { sources.with_addresses() } else { sources };
        let mut namer = Self {
            sources: Arc::new(sources),
            looking: None,
            due: VecDeque::from([now]),
            not_before: now,
            shape: shape(snapshot),
            told: BTreeSet::new(),
        };
        namer.look(snapshot);
        namer
    }

    /// The machine looks like this now.
    pub fn follow(&mut self, snapshot: &Snapshot) {
        let shape = shape(snapshot);
        if shape != self.shape {
            self.shape = shape;
            let now = Instant::now();
            self.due = AFTER_CHANGE.iter().map(|after| now + *after).collect();
        }
    }

    /// Begins a look when it is time for one.
    pub fn look(&mut self, snapshot: &Snapshot) {
        let now = Instant::now();
        let is_due = self.due.front().is_some_and(|due| *due <= now);
        if self.looking.is_some() || !is_due || now < self.not_before {
            return;
        }
        self.due.retain(|due| *due > now);
        let (sources, behind) = (self.sources.clone(), snapshot.behind());
        self.looking = Some(spawn_blocking(move || Containers::read(&sources, &behind)));
    }

    /// Waits for the look under way: for ever without one.
    pub async fn read(&mut self) -> Option<Containers> {
        let read = super::finished(&mut self.looking).await;
        self.looking = None;
        let now = Instant::now();
        self.not_before = now + APART;
        if self.due.is_empty() && !self.sources.present().is_empty() {
            self.due.push_back(now + REGULARLY);
        }
        match read {
            Ok(containers) => {
                for problem in &containers.problems {
                    if self.told.insert(problem.text.clone()) {
                        log::warn!("{}", problem.text);
                    }
                }
                Some(containers)
            }
            Err(error) => {
                log::warn!("looking for containers failed: {error}");
                None
            }
        }
    }

    /// Whether a look is under way.
    pub fn is_looking(&self) -> bool {
        self.looking.is_some()
    }
}

fn shape(snapshot: &Snapshot) -> BTreeSet<(u32, u32)> {
    let namespaces = snapshot.namespaces.keys().map(|inode| (*inode, 0));
    let own = snapshot.namespaces.get(&snapshot.own);
    let links =
        own.into_iter().flat_map(|n| n.links.keys().map(|ifindex| (snapshot.own, *ifindex)));
    namespaces.chain(links).collect()
}
