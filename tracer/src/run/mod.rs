//! Wires the rooms together: one task that takes events from the ring buffer, and answers to
//! signals, timers and changes of the machine.

mod attach;
mod beyond;
mod budget;
mod containers;
mod dump;
mod held;
mod machine;
mod memory;
mod nft_trace;
mod replay;
mod rules;
pub(crate) mod sinks;

use std::{
    collections::{BTreeSet, VecDeque},
    io::{self, Write as _},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use aya::maps::{MapData, RingBuf};
use tokio::{
    io::unix::AsyncFd,
    select,
    signal::unix::{Signal, SignalKind, signal},
    task::{JoinError, JoinHandle, spawn_blocking, yield_now},
    time::{MissedTickBehavior, interval, sleep_until},
};
use tracer_common::{filter::Filter, track::Flow};

use crate::{
    capture::Scene,
    cli::{SelectArgs, TraceArgs},
    event::wire,
    explain::{HarmlessEnds, explain},
    host::{
        self,
        clock::{monotonic, monotonic_to_wall, nanoseconds, now, processor_time},
        containers::Containers,
        drop_reasons::DropReasons,
        kernel::Kernel,
        netns::Netns,
        snapshot::Snapshot,
        symbols::Symbols,
        watch::{Change, Watch},
    },
    journey::{Assembler, Chronicle, Journey, Limits, Outcome},
    output::{
        Builder, Clock, Phase, Sink as _, SinkError, Sinks, Standing, Tally, Wish, losses,
        record::{Detail, Events, LeftOut, LostEvents, MissingPoint, Start, WatchedPoint},
    },
    probe::{self, Aside, Code, Mechanism, Mechanisms, Offer, Probes, Request, Sources, Tables},
    select::{self, Selection, expression::Expression},
};
use attach::{Attacher, Watched};
use beyond::Beyond;
use budget::{Budget, Most, Spent};
use containers::Namer;
use dump::Dump;
use held::Held;
use machine::{KernelFacts, Machine};
use nft_trace::NftTrace;
pub use replay::report;
use sinks::Wishes;

/// Packets followed at one time.
const TRACKED: u32 = 65_536;
/// How often the ring buffer is looked at when nobody wakes us, and journeys are ended by time.
const TICK: Duration = Duration::from_millis(10);
/// How long events are taken in one turn, before what they came to is shown: signals are heard, and what the trace costs
/// is looked at, in a flood on a slow machine too.
const TURN: Duration = Duration::from_millis(20);
/// After so many events of a turn the clock is looked at.
const STRETCH: usize = 256;
/// How long packets that are on their way when the trace ends may still take.
const LINGER: Duration = Duration::from_millis(50);
/// How often it is looked, at the end, whether all events have come.
const LAST_LOOKS: usize = 5;
/// How long the beginning waits for the rules and connections of the path, and for containers' names.
const LOOK_AT_START: Duration = Duration::from_secs(3);
/// How long a journey waits for the rules that it met to be read, and those behind it wait with it; and
/// how many do at most. Listing tens of thousands of rules takes seconds.
const RULES_WAIT: Duration = Duration::from_secs(5);
const MOST_WAITING: usize = 65_536;
/// How often is looked for modules that were loaded.
const MODULES_LOOK: Duration = Duration::from_secs(1);
/// How often whoever looks on is told how it stands.
const TELL: Duration = Duration::from_secs(1);
/// How often free memory is given back and learned replies are cleared out, and when first: by then what the start
/// took is free.
const SWEEP: Duration = Duration::from_secs(10);
const FIRST_SWEEP: Duration = Duration::from_secs(1);
/// After what silence learned replies are cleared out.
const LEARNED_IDLE: Duration = Duration::from_secs(120);
/// How long a packet of which nothing is told can still be dropped.
const UNTOLD_FOR: Duration = Duration::from_secs(30);

/// Traces as `args` say, until they or a signal say that it is enough; or shows what was recorded.
///
/// # Errors
/// When tracing is impossible, or the output cannot be written.
pub fn trace(args: &TraceArgs, expression: Option<Expression>) -> anyhow::Result<()> {
    if !args.files.read.is_empty() {
        return replay::replay(args, expression);
    }
    let kernel = able_kernel()?;
    let selection = select::resolve(&args.select, expression.map(Arc::new))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the event loop")?;
    let wanted =
        Wanted { selection, select: args.select.clone(), line: select::words(&args.select) };
    let result = match runtime.block_on(trace_wanted(args, &kernel, wanted)) {
        // Whoever read has seen enough: `| head`.
        Err(Stop::Output(SinkError::Closed)) => Ok(()),
        Err(Stop::Output(error)) => Err(error.into()),
        Err(Stop::Failed(error)) => Err(error),
        Ok(()) => Ok(()),
    };
    // A look-up of the machine that still runs must not hold up the end.
    runtime.shutdown_background();
    result
}

/// Traces one selection after the other, as long as others are wished for.
async fn trace_wanted(args: &TraceArgs, kernel: &Kernel, mut wanted: Wanted) -> Result<(), Stop> {
    let mut signals = Signals::listen()?;
    let scene = Scene::here().map_err(anyhow::Error::from)?;
    let (mut sinks, mut wishes) = sinks::of(args, scene, sinks::Fed::ByTrace)?;
    loop {
        sinks.stand(&Standing { selection: wanted.line.clone(), ..Standing::default() });
        let mut trace = Trace::attach(args, wanted, sinks, &wishes)?;
        let mut end = trace.run(kernel, &mut signals, &mut wishes).await?;
        if let (End::Enough, Wishes::View(_)) = (&end, &wishes) {
            end = trace.stay(&mut signals, &mut wishes).await?;
        }
        match end {
            End::Select(next) => wanted = *next,
            End::Asked | End::Enough => return Ok(()),
        }
        sinks = trace.sinks;
    }
}

/// What this kernel offers with these mechanisms, or with any when none is named: point by point,
/// and for what is told with other points. Kernel functions are attached to for a moment: only that
/// tells whether it works.
///
/// # Errors
/// When tracing is impossible.
pub fn offers(mechanisms: &[Mechanism]) -> anyhow::Result<(Vec<Offer>, Vec<Aside>)> {
    able_kernel()?;
    let request = Request {
        filter: Filter::ANY,
        expression: None,
        snaplen: 0,
        capture_everywhere: false,
        ring_bytes: *crate::probe::RING_BYTES.start(),
        tracked: 1,
        mechanisms: Mechanisms::only(mechanisms),
        tc: true,
    };
    let mut probes = Probes::load(&request, Sources::read(None)?)?;
    probes.attach_functions();
    Ok((probes.offers(), probes.asides()))
}

/// What is wished for while a trace runs, found on this machine.
fn find(select: &SelectArgs) -> anyhow::Result<Selection> {
    let expression = Expression::compile(&select.expression)?;
    // What it cannot do in the kernel is told before the trace that runs is ended.
    expression.as_ref().map(Code::of).transpose()?;
    select::resolve(select, expression.map(Arc::new))
}

fn able_kernel() -> anyhow::Result<Kernel> {
    let kernel = Kernel::read().context("cannot read this process's rights")?;
    match kernel.obstacles().into_iter().next() {
        Some(obstacle) => Err(obstacle.into()),
        None => Ok(kernel),
    }
}

/// Why a trace stops before its time.
enum Stop {
    Output(SinkError),
    Failed(anyhow::Error),
}

impl From<SinkError> for Stop {
    fn from(error: SinkError) -> Self {
        Stop::Output(error)
    }
}

impl From<anyhow::Error> for Stop {
    fn from(error: anyhow::Error) -> Self {
        Stop::Failed(error)
    }
}

/// What is to be traced.
struct Wanted {
    selection: Selection,
    select: SelectArgs,
    /// As on the command line.
    line: String,
}

/// Why a trace is over.
enum End {
    /// It was told to end.
    Asked,
    /// It has what it was to get.
    Enough,
    /// Something else is to be traced.
    Select(Box<Wanted>),
}

/// What may end a trace from outside.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            interrupt: signals(SignalKind::interrupt())?,
            terminate: signals(SignalKind::terminate())?,
        })
    }

    async fn any(&mut self) {
        select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// A trace under way.
struct Trace<'a> {
    args: &'a TraceArgs,
    /// What is selected, as on the command line.
    line: String,
    selection: Selection,
    /// Somebody looks on, who sees how it stands and ends it.
    is_viewed: bool,
    /// How long a journey waits for the rules that it met.
    patience: Duration,
    probes: Probes,
    tables: Tables,
    events: AsyncFd<RingBuf<MapData>>,
    attacher: Attacher,
    watched: Watched,
    beyond: Beyond,
    /// The kernel's own rule tracing, where it was asked for.
    nft_trace: Option<NftTrace>,
    watch: Watch,
    machine: Machine,
    namer: Namer,
    assembler: Assembler<HarmlessEnds<Arc<KernelFacts>>>,
    chronicle: Chronicle,
    /// Journeys that are to be shown next, and since when.
    waiting: VecDeque<(Instant, Journey)>,
    sinks: Sinks,
    tally: Tally,
    clock: Clock,
    /// A new look at the machine, under way.
    looking: Option<JoinHandle<Result<Snapshot, host::Error>>>,
    /// What has changed since it began.
    changed: BTreeSet<Change>,
    /// Events that the kernel side is known to have lost.
    ring_full: u64,
    /// Events that were offered and did not come, as it was found when the trace ended.
    unaccounted: u64,
    /// Journeys that were shown.
    shown: u64,
    undecodable: u64,
    budget: Budget,
    /// What was lost when that was said last.
    lost: LostEvents,
    dump: Option<Dump>,
    held: Held,
}

impl<'a> Trace<'a> {
    /// Attaches everything; no packet is followed yet.
    fn attach(
        args: &'a TraceArgs,
        wanted: Wanted,
        sinks: Sinks,
        wishes: &Wishes,
    ) -> anyhow::Result<Self> {
        let Wanted { mut selection, select, line } = wanted;
        let is_viewed = matches!(wishes, Wishes::View(_));
        let is_tc = |mechanism| matches!(mechanism, &Mechanism::Tcx | &Mechanism::Clsact);
        let snaplen = sinks::snaplen(args, is_viewed);
        let request = Request {
            filter: selection.filter,
            expression: selection.expression.as_deref().map(Code::of).transpose()?,
            snaplen,
            capture_everywhere: sinks::captures_everywhere(args),
            ring_bytes: sinks::ring_bytes(args, is_viewed),
            tracked: TRACKED,
            mechanisms: Mechanisms::only(&args.mechanism),
            tc: snaplen > 0 || selection.expression.is_some() || args.mechanism.iter().any(is_tc),
        };
        let sources = Sources::read(request.expression.as_ref())?;
        let reasons = DropReasons::of(&sources.kernel.image);
        let facts = Arc::new(KernelFacts { reasons, symbols: Symbols::new() });
        let mut probes = Probes::load(&request, sources)?;
        let mut watch = Watch::new()?;
        let snapshot = Snapshot::take()?;
        selection.containers.look(&snapshot);
        let namer = Namer::start(&snapshot, &selection.containers);
        let namespaces = Netns::all()?;
        probes.sweep(&namespaces);
        if args.nft_trace || probe::nft_trace::may_leave_tables() {
            nft_trace::sweep_all(&namespaces);
        }
        let mut nft_trace = args.nft_trace.then(|| NftTrace::new(&selection)).transpose()?;
        let mut attacher = Attacher::new(&select, &selection);
        let watched = attacher.attach(&mut probes, nft_trace.as_mut(), &snapshot);
        let followed = attacher.to_follow(&snapshot);
        follow(&mut watch, &followed);
        probes.attach_tracepoints()?;
        probes.attach_functions();
        let mut tables = probes.take_tables()?;
        tables.select(selection.containers.addresses());
        let limits = Limits::default();
        // SAFETY: the ring buffer owns its descriptor, and keeps it until it is dropped.
        let events = unsafe { AsyncFd::register(probes.take_events()?) }
            .context("cannot wait for events")?;
        let mut machine = Machine::new(snapshot, facts.clone(), !args.no_names);
        machine.brackets = probes.brackets.clone();
        machine.rules.follow(tell_rules(&watch, &followed));
        let mut beyond = Beyond::new(&selection);
        beyond.read_connections(followed);
        Ok(Self {
            beyond,
            args,
            line,
            selection,
            is_viewed,
            patience: RULES_WAIT,
            tables,
            events,
            attacher,
            watched,
            nft_trace,
            watch,
            machine,
            namer,
            assembler: Assembler::new(limits, HarmlessEnds(facts)),
            // Those that settle need a moment more than that to come here.
            chronicle: Chronicle::new(limits.settle_after * 3 / 2, limits.in_flight),
            waiting: VecDeque::new(),
            sinks,
            tally: Tally::default(),
            clock: Clock { offset: monotonic_to_wall() },
            looking: None,
            // What changed between the first look and the watch is not told: look again.
            changed: BTreeSet::from([Change::Namespaces]),
            ring_full: 0,
            unaccounted: 0,
            shown: 0,
            undecodable: 0,
            budget: Budget::new(Most {
                events: args.max_events.into(),
                processor: args.max_cpu.into(),
            }),
            lost: LostEvents::default(),
            dump: args.dump_events.as_deref().map(Dump::create).transpose()?,
            held: Held::new(held::MOST),
            probes,
        })
    }

    async fn run(
        &mut self,
        kernel: &Kernel,
        signals: &mut Signals,
        wishes: &mut Wishes,
    ) -> Result<End, Stop> {
        self.sinks.start(&self.start_record(kernel))?;
        self.look_first().await;
        self.probes.arm(true)?;
        let began = Instant::now();
        if self.is_viewed {
            self.tell(Phase::Tracing)?;
        } else {
            self.say_ready();
        }

        let end = self.args.duration.map(|duration| began + duration);
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut next_sweep = began + FIRST_SWEEP;
        let mut next_modules = began + MODULES_LOOK;
        let mut next_tell = began + TELL;
        let mut is_more = false;
        let why = loop {
            if self.is_enough() {
                break End::Enough;
            }
            // Here, not at the tick: in a flood there is always something to take first.
            self.keep_within_budget()?;
            if Instant::now() >= next_modules {
                next_modules = Instant::now() + MODULES_LOOK;
                self.attach_late();
            }
            if Instant::now() >= next_sweep {
                next_sweep = Instant::now() + SWEEP;
                // In a flood it would be taken again at once.
                if !is_more {
                    memory::give_back();
                }
                self.tables.forget_learned(monotonic().saturating_sub(LEARNED_IDLE));
                self.forget_untold()?;
            }
            if Instant::now() >= next_tell {
                next_tell = Instant::now() + TELL;
                if self.is_viewed {
                    self.tell(Phase::Tracing)?;
                } else {
                    self.tell_losses()?;
                }
            }
            self.look_again();
            self.machine.rules.read_on(now);
            self.namer.look(self.machine.snapshot());
            select! {
                biased;
                () = signals.any() => break End::Asked,
                () = until(end) => break End::Enough,
                wish = wishes.next() => if let Some(end) = self.heed(wish)? {
                    break end;
                },
                changes = self.watch.changed() => self.note(changes),
                read = self.machine.rules.read() => self.take_rules(read),
                flows = self.beyond.connections() => self.follow_answers(flows),
                containers = self.namer.read() => self.know(containers),
                look = finished(&mut self.looking) => self.follow_changes(look),
                ready = self.events.readable_mut() => {
                    if let Ok(mut ready) = ready {
                        ready.clear_ready();
                    }
                    is_more = self.take_events()?;
                }
                _ = tick.tick() => {
                    self.take_traced_rules();
                    is_more = self.take_events()?;
                    self.probes.pass_on_logs();
                }
                // Woken once for what is there, not for what a turn has left.
                () = yield_now(), if is_more => is_more = self.take_events()?,
            }
        };
        if self.is_viewed && !matches!(why, End::Enough) {
            // Whoever looks on waits for the end, or for what comes next.
            self.patience = Duration::ZERO;
        }
        self.finish(began, &why).await?;
        Ok(why)
    }

    /// It is over, but what it showed stays to be looked at.
    async fn stay(&mut self, signals: &mut Signals, wishes: &mut Wishes) -> Result<End, Stop> {
        self.tell(Phase::Ended)?;
        loop {
            select! {
                () = signals.any() => return Ok(End::Asked),
                wish = wishes.next() => if let Some(end) = self.heed(wish)? {
                    // Should the view have failed, this is where it is said.
                    self.sinks.flush()?;
                    return Ok(end);
                },
            }
        }
    }

    /// Does what is wished, if that is possible: the end of this trace.
    fn heed(&mut self, wish: Wish) -> Result<Option<End>, Stop> {
        match wish {
            Wish::Quit => Ok(Some(End::Asked)),
            Wish::Select { select, line } => match find(&select) {
                Ok(selection) => {
                    let wanted = Wanted { selection, select: *select, line };
                    Ok(Some(End::Select(Box::new(wanted))))
                }
                Err(error) => {
                    self.tell(Phase::Refused(format!("{error:#}")))?;
                    Ok(None)
                }
            },
        }
    }

    /// Tells less, or more again, where the trace costs other than it may.
    fn keep_within_budget(&mut self) -> anyhow::Result<()> {
        let now = Instant::now();
        if !self.budget.is_due(now) {
            return Ok(());
        }
        let left_out = match self.budget.least().is_all() {
            true => 0,
            false => self.probes.left_out()?.events,
        };
        let spent = Spent {
            at: now,
            received: self.assembler.counts().received,
            left_out,
            processor: processor_time(),
        };
        if let Some(level) = self.budget.look(spent) {
            self.probes.tell(level.telling(), level.one_of())?;
            log::warn!("{level}");
        }
        Ok(())
    }

    /// The table of followed packets is not to fill with those of which nothing is told: once there was one,
    /// others of them may be left from before.
    fn forget_untold(&mut self) -> anyhow::Result<()> {
        if !self.budget.least().is_all() || self.probes.lost()?.behind > 0 {
            self.tables.forget_untold(monotonic(), UNTOLD_FOR);
        }
        Ok(())
    }

    /// Says what was lost since it was said last: the summary may be hours away.
    fn tell_losses(&mut self) -> anyhow::Result<()> {
        let lost = self.event_counts()?.lost;
        let before = std::mem::replace(&mut self.lost, lost);
        for ((now, what), (before, _)) in losses(&lost).into_iter().zip(losses(&before)) {
            if now > before {
                log::warn!("{} {what}", now - before);
            }
        }
        Ok(())
    }

    /// Tells whoever looks on how it stands.
    fn tell(&mut self, phase: Phase) -> anyhow::Result<()> {
        let offers = self.probes.offers();
        let standing = Standing {
            selection: self.line.clone(),
            phase,
            points: offers.iter().filter(|offer| offer.how.is_ok()).count(),
            points_known: offers.len(),
            interfaces: self.watched.interfaces,
            namespaces: self.watched.namespaces,
            events: self.event_counts()?,
            thinned: self.budget.thinned(),
        };
        self.sinks.stand(&standing);
        Ok(())
    }

    /// Reads the rules and connections of the path, and asks for containers, all at once and for as long
    /// as that may take before it begins: counters of legacy tables tell something only where they were
    /// read before.
    async fn look_first(&mut self) {
        let end = tokio::time::Instant::now() + LOOK_AT_START;
        self.machine.rules.read_on(now);
        while self.machine.rules.is_reading() || self.beyond.is_reading() || self.namer.is_looking()
        {
            select! {
                read = self.machine.rules.read() => self.take_rules(read),
                flows = self.beyond.connections() => self.follow_answers(flows),
                containers = self.namer.read() => self.know(containers),
                () = sleep_until(end) => break,
            }
            self.machine.rules.read_on(now);
        }
    }

    /// The end: no packet begins any more, those on their way get a moment, then the summary.
    async fn finish(&mut self, began: Instant, why: &End) -> Result<(), Stop> {
        self.probes.arm(false)?;
        let duration = began.elapsed();
        if !self.is_enough() {
            tokio::time::sleep(LINGER).await;
        }
        self.take_traced_rules();
        self.take_last_events().await?;
        let mut done = Vec::new();
        self.assembler.finish(&mut done);
        self.retire(done);
        let mut rest = Vec::new();
        self.chronicle.finish(&self.assembler, &mut rest);
        self.wait(rest);
        self.show_waiting()?;
        while !self.waiting.is_empty() {
            self.machine.rules.read_on(now);
            select! {
                read = self.machine.rules.read() => self.take_rules(read),
                () = tokio::time::sleep(TICK) => {}
            }
            self.show_waiting()?;
        }
        log::info!("the table of followed packets holds {} at the end", self.tables.followed());
        let events = self.event_counts()?;
        // What is traced next has the same output.
        if !matches!(why, End::Select(_)) {
            self.sinks.summary(&self.tally.summary(nanoseconds(duration), events))?;
        }
        match self.dump.take() {
            Some(dump) => Ok(dump.finish()?),
            None => Ok(()),
        }
    }

    /// Takes what is left, and looks whether it is all that was offered.
    async fn take_last_events(&mut self) -> Result<(), Stop> {
        self.probes.end()?;
        for _ in 0..LAST_LOOKS {
            // A program that was at it may not be done yet.
            tokio::time::sleep(TICK).await;
            while self.take_events()? {}
            let counts = self.event_counts()?;
            let come = counts.received + counts.lost.ring_full + counts.lost.undecodable;
            self.unaccounted = counts.offered.saturating_sub(come);
            if self.unaccounted == 0 {
                return Ok(());
            }
        }
        log::warn!("{} events were offered and did not come; please report it", self.unaccounted);
        Ok(())
    }

    /// Takes what the ring buffer holds, as much as a turn has time for; whether there may be more.
    fn take_events(&mut self) -> Result<bool, Stop> {
        let mut done = Vec::new();
        let end = Instant::now() + TURN;
        let mut last = 0;
        let ring = self.events.get_mut();
        let mut taken = 0;
        let is_more = loop {
            let Some(record) = ring.next() else { break false };
            match wire::decode(&record) {
                Ok(mut event) => {
                    if event.begin && event.headers.is_icmp_error() {
                        event.quoted = self.tables.quoted(event.id).map(Box::new);
                    }
                    if let Some(captured) = &mut event.bytes {
                        self.held.take(captured);
                    }
                    if let Some(dump) = &mut self.dump {
                        dump.write(&event, &self.machine)?;
                    }
                    last = event.time;
                    self.assembler.push(event, &mut done);
                }
                Err(error) => {
                    self.undecodable += 1;
                    log::warn!("{error}");
                }
            }
            taken += 1;
            if taken % STRETCH == 0 && Instant::now() >= end {
                break true;
            }
        };
        let now = now();
        let lost = self.probes.lost_events()?;
        if lost > self.ring_full {
            self.ring_full = lost;
            self.assembler.lost_events(now);
        }
        // In a flood there is always more: then what was taken tells how far time has come, for what still waits may be
        // of journeys that would be ended or shown now.
        let until = if is_more { last } else { now };
        self.assembler.advance(until, &mut done);
        self.retire(done);
        let mut next = Vec::new();
        self.chronicle.release(until, &self.assembler, &mut next);
        self.wait(next);
        self.show_waiting()?;
        Ok(is_more)
    }

    fn wait(&mut self, journeys: Vec<Journey>) {
        let now = Instant::now();
        self.waiting.extend(journeys.into_iter().map(|journey| (now, journey)));
    }

    /// Shows the next journeys, up to one that rules are to be read for.
    fn show_waiting(&mut self) -> Result<(), Stop> {
        let mut ready = Vec::new();
        while let Some((since, journey)) = self.waiting.front() {
            let is_patient = since.elapsed() < self.patience && self.waiting.len() < MOST_WAITING;
            if is_patient && self.machine.wants_rules(journey) {
                break;
            }
            ready.extend(self.waiting.pop_front().map(|(_, journey)| journey));
        }
        self.show(&ready)
    }

    /// Takes what was read of rules. Where base chains came or went, observers are to move.
    fn take_rules(&mut self, read: Option<rules::Read>) {
        let moved = self.machine.rules.take(read);
        self.changed.extend(moved.map(Change::Namespace));
        self.publish();
    }

    /// Packets of connections that were there before are followed beyond NAT, too.
    fn follow_answers(&mut self, flows: Vec<Flow>) {
        let now = monotonic();
        let any = !flows.is_empty();
        for flow in flows {
            self.tables.learn(flow, now);
        }
        if any {
            self.look_beyond(true, false);
        }
    }

    /// Packets to what is published for selected addresses are followed from wherever they come.
    fn publish(&mut self) {
        let (rules, snapshot) = (&self.machine.rules, self.machine.snapshot());
        if let Some(addresses) = self.beyond.publish(rules.redirections(), snapshot) {
            self.tables.publish(addresses);
            self.look_beyond(false, true);
        }
    }

    fn look_beyond(&mut self, learned: bool, published: bool) {
        if let Err(e) = self.probes.look_beyond(learned, published) {
            log::warn!("{e:#}; packets are not followed before their NAT is undone");
        }
    }

    fn know(&mut self, containers: Option<Containers>) {
        let Some(containers) = containers else { return };
        let known = &self.machine.snapshot().namespaces;
        // Runtimes tell of a namespace sooner than it is looked for.
        if containers.owners().keys().any(|netns| !known.contains_key(netns)) {
            self.changed.insert(Change::Namespaces);
        }
        self.selection.containers.know(&containers, self.machine.snapshot().own);
        self.machine.know(containers);
        if self.follow_containers() {
            self.attach_anew();
        }
    }

    /// What selected containers have for addresses now is followed; whether that is news.
    fn follow_containers(&mut self) -> bool {
        let is_news = self.selection.containers.look(self.machine.snapshot());
        if is_news {
            self.tables.select(self.selection.containers.addresses());
            self.beyond.select(&self.selection);
            self.attacher.select(&self.selection);
            if let Some(nft_trace) = &mut self.nft_trace {
                nft_trace.select(&self.selection);
            }
        }
        is_news
    }

    /// Takes notice of changes: rules are read again, the rest is looked at.
    fn note(&mut self, changes: BTreeSet<Change>) {
        for change in changes {
            match change {
                Change::Rules(netns) => {
                    let ago =
                        |noticed: Instant| now().saturating_sub(nanoseconds(noticed.elapsed()));
                    let (first, last) = self
                        .watch
                        .noticed(netns)
                        .map_or_else(|| (now(), now()), |(first, last)| (ago(first), ago(last)));
                    self.machine.rules.changed(netns, first, last);
                    self.tables.forget_tracking(netns);
                }
                change => drop(self.changed.insert(change)),
            }
        }
    }

    /// Takes what the kernel has told of traced rules: at every tick, for journeys wait much longer
    /// until they are shown, and a socket that nobody waits at costs the kernel no wake-up.
    fn take_traced_rules(&mut self) {
        if let Some(nft_trace) = &mut self.nft_trace {
            nft_trace.take(nanoseconds(monotonic()), &mut self.machine.traced.borrow_mut());
        }
    }

    /// Takes finished journeys, and their packets out of the kernel side's table where it has not
    /// seen them end.
    fn retire(&mut self, done: Vec<Journey>) {
        for journey in done {
            for hop in journey.hops.chunk_by(|a, b| a.place == b.place).filter_map(<[_]>::first) {
                if self.attacher.meet(hop.place) {
                    self.changed.insert(Change::Namespace(hop.place.netns));
                }
            }
            if let Some(address) = journey.leftover {
                self.tables.retire(address, journey.id);
            }
            self.chronicle.push(journey);
        }
    }

    fn show(&mut self, journeys: &[Journey]) -> Result<(), Stop> {
        let builder = Builder::new(&self.machine, self.clock, self.args.snaplen.is_some());
        for journey in journeys {
            // What comes after the last one wanted is not counted either.
            if self.is_enough() {
                break;
            }
            let explanation = explain(journey, &self.machine);
            self.tally.time(journey, &self.machine);
            let is_dropped = matches!(journey.outcome, Outcome::Dropped { .. });
            if self.args.drops && !is_dropped {
                self.tally.add(&builder.outcome(journey, explanation.as_ref()));
                continue;
            }
            let record = Arc::new(builder.journey(journey, explanation.as_ref()));
            self.tally.add(&record.outcome);
            self.shown += 1;
            self.sinks.share(&record)?;
        }
        if !journeys.is_empty() {
            self.sinks.flush()?;
        }
        Ok(())
    }

    fn is_enough(&self) -> bool {
        self.args.count.is_some_and(|most| self.shown >= most) || self.sinks.is_done()
    }

    /// Looks at the machine when something has changed. Reading thousands of namespaces takes a
    /// while, in which events must not wait: another thread does it.
    fn look_again(&mut self) {
        if self.looking.is_some() || self.changed.is_empty() {
            return;
        }
        let changed = std::mem::take(&mut self.changed);
        for change in &changed {
            if let Change::Gone(inode) = change {
                self.tables.forget_tracking(*inode);
                self.attacher.forget(&mut self.probes, *inode);
                self.selection.containers.forget(*inode);
            }
        }
        let mut snapshot = self.machine.snapshot().clone();
        self.looking = Some(spawn_blocking(move || {
            if changed.contains(&Change::Namespaces) {
                snapshot.refresh()?;
            } else {
                for change in changed {
                    if let Change::Namespace(inode) = change {
                        snapshot.refresh_namespace(inode)?;
                    }
                }
            }
            Ok(snapshot)
        }));
    }

    /// The machine looks like this now: names and probes follow.
    fn follow_changes(&mut self, look: Result<Result<Snapshot, host::Error>, JoinError>) {
        self.looking = None;
        match look {
            Ok(Ok(snapshot)) => {
                self.namer.follow(&snapshot);
                self.machine.look_like(snapshot, now());
            }
            Ok(Err(error)) => log::warn!("{error}; names and paths may be old"),
            Err(error) => log::warn!("looking at the machine failed: {error}"),
        }
        self.follow_containers();
        self.attach_anew();
    }

    /// Probes are where the path is now, and it is watched.
    fn attach_anew(&mut self) {
        let (probes, nft_trace) = (&mut self.probes, self.nft_trace.as_mut());
        self.watched = self.attacher.attach(probes, nft_trace, self.machine.snapshot());
        self.attach_late();
        self.machine.brackets = self.probes.brackets.clone();
        let followed = self.attacher.to_follow(self.machine.snapshot());
        follow(&mut self.watch, &followed);
        self.machine.rules.follow(tell_rules(&self.watch, &followed));
        self.changed.extend(self.attacher.came().iter().copied().map(Change::Namespace));
        self.publish();
    }

    /// Kernel functions of modules that were loaded since: the first rule of a kind loads its module,
    /// and nothing else tells of it.
    fn attach_late(&mut self) {
        if let Err(e) = self.probes.attach_late() {
            log::warn!("{e:#}; rules of new modules may not be told");
        }
    }

    fn event_counts(&self) -> anyhow::Result<Events> {
        let lost = self.probes.lost()?;
        let left_out = self.probes.left_out()?;
        let least = self.budget.least();
        let counts = self.assembler.counts();
        Ok(Events {
            offered: self.probes.events_offered()?,
            received: counts.received,
            lost: LostEvents {
                ring_full: lost.ring_full,
                tracking_full: lost.tracking_full,
                behind: lost.behind,
                probe_missed: lost.probe_missed,
                addresses_full: self.selection.containers.refused(),
                learned_full: lost.learned_full + self.tables.refused() + self.beyond.left_out(),
                journeys_evicted: counts.evicted,
                flows_evicted: counts.flows_evicted,
                late: counts.late + counts.duplicate,
                undecodable: self.undecodable,
                unaccounted: self.unaccounted,
                nft_trace: self.nft_trace.as_ref().map_or(0, NftTrace::lost)
                    + self.machine.traced.borrow().forgotten(),
            },
            left_out: LeftOut {
                packets: left_out.packets,
                events: left_out.events,
                one_of: if least.is_all() { 0 } else { least.one_of() },
                bytes: self.held.cut(),
            },
        })
    }

    fn start_record(&self, kernel: &Kernel) -> Start {
        let offers = self.probes.offers();
        let points = offers.iter().filter_map(|offer| {
            let mechanism = *offer.how.as_ref().ok()?;
            Some(WatchedPoint {
                point: offer.point.name().into(),
                mechanism: mechanism.name().into(),
            })
        });
        let missing = offers.iter().filter_map(|offer| {
            let why = offer.how.as_ref().err()?.clone();
            Some(MissingPoint { point: offer.point.name().into(), why })
        });
        let details = self.probes.asides().into_iter().map(|aside| {
            let (mechanism, why) = match aside.how {
                Ok(mechanism) => (Some(mechanism.name().to_owned()), None),
                Err(why) => (None, Some(why)),
            };
            Detail { detail: aside.name.into(), mechanism, why }
        });
        let now = now();
        Start {
            version: env!("CARGO_PKG_VERSION").into(),
            kernel: kernel.release.clone(),
            time: self.clock.wall(now),
            points: points.collect(),
            missing: missing.collect(),
            details: details.collect(),
            source: None,
        }
    }

    /// The line that scripts wait for.
    fn say_ready(&self) {
        let offers = self.probes.offers();
        let points = offers.iter().filter(|offer| offer.how.is_ok()).count();
        let Watched { interfaces, namespaces } = self.watched;
        let line = format!(
            "tracing at {points} of {} points, on {interfaces} interfaces in {namespaces} network \
             namespaces; Ctrl-C ends\n",
            offers.len()
        );
        // Nobody may be there to read it.
        let _ = io::stderr().write_all(line.as_bytes());
    }
}

fn follow(watch: &mut Watch, namespaces: &[Netns]) {
    for (_, error) in watch.follow(namespaces) {
        log::warn!("{error}; its changes are not noticed");
    }
}

/// Those of these namespaces whose rules are followed.
fn tell_rules(watch: &Watch, followed: &[Netns]) -> impl Iterator<Item = u32> {
    followed.iter().map(|netns| netns.inode).filter(|inode| watch.tells_rules(*inode))
}

fn signals(kind: SignalKind) -> anyhow::Result<Signal> {
    signal(kind).context("cannot listen to signals")
}

/// The result of a task, when it has one; never without a task.
async fn finished<T>(task: &mut Option<JoinHandle<T>>) -> Result<T, JoinError> {
    match task {
        Some(task) => task.await,
        None => std::future::pending().await,
    }
}

async fn until(end: Option<Instant>) {
    match end {
        Some(end) => sleep_until(end.into()).await,
        None => std::future::pending().await,
    }
}
