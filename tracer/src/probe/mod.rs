//! From a wish to attached programs on *this* kernel: offsets from BTF, loading, attaching to
//! tracepoints, interfaces, netfilter hooks and kernel functions; and what was lost. What the events mean is known
//! to others.

pub mod brackets;
mod btf;
mod clsact;
mod expression;
mod functions;
mod layouts;
mod mechanism;
mod netfilter;
pub mod nft_trace;
mod offers;
mod offsets;
mod own;
mod sources;
mod sys;
mod tables;
mod tracepoints;
mod watches;

use std::{
    collections::HashMap,
    os::fd::AsFd as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use anyhow::{Context as _, anyhow};
use aya::{
    Ebpf,
    maps::{Array, MapData, PerCpuArray, RingBuf},
    programs::{
        LinkOrder, Program, ProgramError, SchedClassifier, TcAttachType,
        tc::{SchedClassifierLink, TcAttachOptions},
    },
};
use aya_log::EbpfLogger;
use brackets::Brackets;
pub use brackets::{HookOccupants, Occupied};
use clsact::Side;
pub use expression::{Code, TooMuch};
use mechanism::LEFT_OUT;
pub use mechanism::{Mechanism, Mechanisms};
pub use offers::{Aside, Function, Offer};
use own::Constants;
pub use sources::Sources;
pub use tables::Tables;
use tracepoints::Tracepoints;
use tracer_common::{
    config::{Arguments, Offsets, Settings, State},
    event::{Loss, Spared},
    expression::mode,
    filter::Filter,
    point::Point,
};
use watches::Watches;

use crate::{
    event::Place,
    host::{link::Link, netns::Netns},
};

/// The kernel side, compiled.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("PATHTRACE_BPF_OBJECT"));

/// Smallest and largest ring buffer, bytes. The kernel wants a power of two of pages.
pub const RING_BYTES: std::ops::RangeInclusive<u32> = 64 << 10..=1 << 30;

/// Waiting bytes at which pathtrace is woken; in a small ring buffer, a quarter of it.
const WAKE_BYTES: u32 = 256 << 10;

/// The tc programs and their points.
const TC: [(&str, Point); 2] = [("tc_ingress", Point::TcIngress), ("tc_egress", Point::TcEgress)];

/// Why tc is not watched where it could be.
const TC_NOT_NEEDED: &str = "tracepoints of devices tell the same; watched for bytes (-s, -w, the live view), for an \
                             expression, where --mechanism names it, and on interfaces above others";

/// The points of netfilter links.
const HOOKS: [Point; 5] =
    [Point::NfOutput, Point::NfPrerouting, Point::NfInput, Point::NfForward, Point::NfPostrouting];

/// What to load.
#[derive(Clone, Debug)]
pub struct Request {
    /// Which packets to follow.
    pub filter: Filter,
    /// The expression that they must match as well.
    pub expression: Option<Code>,
    /// Bytes to capture of each packet, 0 for none.
    pub snaplen: u32,
    /// Capture at every point, not only at tc.
    pub capture_everywhere: bool,
    /// Bytes of the ring buffer; see [`RING_BYTES`].
    pub ring_bytes: u32,
    /// Most packets followed at one time.
    pub tracked: u32,
    /// What may be used to watch.
    pub mechanisms: Mechanisms,
    /// Watch tc at all interfaces. What it tells the tracepoints of devices tell as well, but for the whole packet,
    /// and for interfaces that stand above others.
    pub tc: bool,
}

/// Events and packets given up by the kernel side since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Events for which the ring buffer had no room.
    pub ring_full: u64,
    /// Packets for which the table of followed packets had no room.
    pub tracking_full: u64,
    /// Reverse tuples for which the table of learned replies had no room.
    pub learned_full: u64,
    /// Packets not followed because the ring buffer was filling faster than it was read.
    pub behind: u64,
    /// Program runs that the kernel skipped because the program was already running there, and packets
    /// that were not matched with the expression because another one came in between.
    pub probe_missed: u64,
}

/// What the kernel side has left out since the start, because there was more than there may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Packets of which nothing was told, for they were not dropped.
    pub packets: u64,
    /// Events, of these packets and of others.
    pub events: u64,
}

/// A program to be loaded.
struct Job<'a> {
    /// Which offer it is for; none when it keeps for itself what becomes of it.
    offer: Option<usize>,
    load: Box<dyn FnOnce() -> anyhow::Result<()> + Send + 'a>,
}

impl<'a> Job<'a> {
    /// One that keeps for itself what becomes of it.
    fn aside(load: impl FnOnce() + Send + 'a) -> Self {
        let load = move || {
            load();
            Ok(())
        };
        Self { offer: None, load: Box::new(load) }
    }
}

/// Loads them all; which offers do not hold, and why.
fn run(mut jobs: Vec<Job<'_>>) -> Vec<(usize, anyhow::Error)> {
    let workers = thread::available_parallelism().map_or(1, usize::from).min(jobs.len());
    let (queue, refused) = (Mutex::new(jobs.drain(..)), Mutex::new(Vec::new()));
    let next = || lock(&queue).next_back();
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(Job { offer, load }) = next() {
                    if let (Err(why), Some(offer)) = (load(), offer) {
                        lock(&refused).push((offer, why));
                    }
                }
            });
        }
    });
    refused.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The observers in one namespace's hooks.
#[derive(Default)]
struct Hooks {
    /// What they were placed around.
    occupants: HookOccupants,
    observers: netfilter::Observers,
}

/// The loaded kernel side. Everything attached goes with it.
pub struct Probes {
    ebpf: Ebpf,
    netfilter: netfilter::Programs,
    watches: Watches,
    tracepoints: Tracepoints,
    /// Which observers stand where.
    pub brackets: Brackets,
    /// Those of [`TC`], then of [`HOOKS`].
    offers: Vec<(Point, Result<Mechanism, String>)>,
    /// How tc can be watched.
    tc: Option<Mechanism>,
    /// Whether it is at all interfaces.
    tc_everywhere: bool,
    /// Whether tc would be watched by filters, which outlive a pathtrace that is killed.
    leaves_filters: bool,
    interfaces: HashMap<Place, Attached>,
    /// By namespace inode.
    hooks: HashMap<u32, Hooks>,
    netfilter_works: bool,
    armed: bool,
    /// The kernel side's own log, where it is on.
    log: Option<EbpfLogger<&'static dyn log::Log>>,
}

impl Probes {
    /// Loads every program that this kernel takes; attaches nothing yet.
    ///
    /// # Errors
    /// When tracing is not possible at all: no permission, a kernel that refuses the maps.
    pub fn load(request: &Request, sources: Sources) -> anyhow::Result<Self> {
        let Sources { kernel, mut loader, compiled } = sources;
        let arguments =
            |tracepoint| kernel.tracepoint(tracepoint).map_or(0, |found| found.arguments);
        let allowed = request.mechanisms;
        let settings = Settings {
            snaplen: request.snaplen,
            capture_everywhere: request.capture_everywhere.into(),
            drop_reasons: (arguments("kfree_skb") >= 3).into(),
            consume_locations: (arguments("consume_skb") >= 2).into(),
            follow_replies: 1,
            wake_bytes: (request.ring_bytes / 4).min(WAKE_BYTES),
            pause_bytes: request.ring_bytes / 4 * 3,
            rules_are_listed: 0,
            expression: request.expression.as_ref().map_or(mode::NONE, Code::mode),
            expression_bytes: request.expression.as_ref().map_or(0, Code::bytes),
        };
        // The kernel side's own log: off, its calls are not even loaded.
        let logs = log::log_enabled!(log::Level::Debug);
        let log_level: u8 = if logs { aya_log::Level::Debug as u8 } else { 0 };
        let mut constants = Constants {
            offsets: Offsets::ABSENT,
            arguments: Arguments::UNKNOWN,
            settings,
            filter: request.filter,
            log_level,
        };
        constants.know(&kernel);
        for (name, bytes) in constants.globals() {
            loader.override_global(name, bytes, true);
        }
        let mut ebpf = loader
            .map_max_entries("EVENTS", request.ring_bytes)
            .map_max_entries("FOLLOWED", request.tracked)
            .load(compiled.bytes())
            .context("the kernel refused pathtrace's maps")?;
        let own = Arc::new(own::Programs::prepare(compiled, &ebpf)?);
        let mut netfilter = netfilter::Programs::new(own.clone());
        let mut watches = Watches::plan(own.clone(), &kernel, constants, allowed);
        let mut tracepoints = Tracepoints::plan(&kernel);

        // Each goes through the verifier by itself: as many at a time as there are processors, from the last
        // one on. The longest come last, or a processor would wait for another one at the end.
        let mut jobs: Vec<Job<'_>> = watches.loading().map(Job::aside).collect();
        jobs.extend(tracepoints.loading(&own, allowed).map(Job::aside));
        let mut offers = Vec::new();
        let mut programs: HashMap<_, _> = ebpf.programs_mut().collect();
        let tc = [Mechanism::Tcx, Mechanism::Clsact]
            .into_iter()
            .find(|tc| allowed.allow(*tc) && (*tc != Mechanism::Tcx || tcx_supported()))
            .ok_or_else(|| LEFT_OUT.to_owned());
        for (name, point) in TC {
            if !request.tc {
                let why = || TC_NOT_NEEDED.to_owned();
                offers.push((point, tc.clone().and_then(|_| Err(why()))));
                continue;
            }
            if let (Some(program), Ok(_)) = (programs.remove(name), &tc) {
                let load = move || load_tc(program, name);
                jobs.push(Job { offer: Some(offers.len()), load: Box::new(load) });
            }
            offers.push((point, tc.clone()));
        }
        let first_hook = TC.len();
        let with_links = allowed.allow(Mechanism::NetfilterLink);
        let links = if with_links { Ok(Mechanism::NetfilterLink) } else { Err(LEFT_OUT.into()) };
        offers.extend(HOOKS.map(|point| (point, links.clone())));
        if with_links {
            jobs.push(Job { offer: Some(first_hook), load: Box::new(|| netfilter.check()) });
        }

        for (offer, why) in run(jobs) {
            offers[offer].1 = Err(one_line(&why));
        }
        let hooks = offers[first_hook].1.clone();
        for (_, how) in &mut offers[first_hook..] {
            *how = hooks.clone();
        }
        // Hundreds of thousands of types: what it takes to free them nobody need wait for.
        thread::spawn(move || drop(kernel));
        let log = if logs {
            let log = EbpfLogger::init(&mut ebpf);
            log.inspect_err(|e| log::warn!("cannot read the kernel side's log: {e}")).ok()
        } else {
            None
        };
        let is_told = |point| tracepoints.offers().any(|(p, how)| p == point && how.is_ok());
        let tc_everywhere = request.tc || !is_told(Point::DevQueue) || !is_told(Point::DevReceive);
        Ok(Self {
            ebpf,
            netfilter,
            watches,
            tracepoints,
            brackets: Brackets::default(),
            offers,
            leaves_filters: tc == Ok(Mechanism::Clsact),
            tc: tc.ok(),
            tc_everywhere,
            interfaces: HashMap::new(),
            hooks: HashMap::new(),
            netfilter_works: hooks.is_ok(),
            armed: false,
            log,
        })
    }

    /// What this kernel offers, point by point. A point that several programs show is there when
    /// any of them is.
    pub fn offers(&self) -> Vec<Offer> {
        let mut programs: Vec<_> = self.tracepoints.offers().collect();
        programs.extend(self.offers.iter().cloned());
        // The end of a hook tells both where the functions that do it are not watched.
        for point in [Point::Conntrack, Point::Nat] {
            if self.netfilter_works && !self.watches.sees(point) {
                programs.push((point, Ok(Mechanism::NetfilterLink)));
            }
        }
        offers::by_point(&programs, self.watches.watched())
    }

    /// What this kernel offers for what is told with other points.
    pub fn asides(&self) -> Vec<Aside> {
        offers::asides(self.watches.watched())
    }

    /// Attaches the tracepoints: they see every device in every namespace.
    ///
    /// # Errors
    /// When the kernel refuses one that it has loaded.
    pub fn attach_tracepoints(&mut self) -> anyhow::Result<()> {
        self.tracepoints.attach()
    }

    /// Attaches to kernel functions. What this kernel refuses is left out, and told by
    /// [`offers`](Self::offers) and [`asides`](Self::asides).
    pub fn attach_functions(&mut self) {
        self.watches.attach();
    }

    /// Attaches to functions of modules that were loaded since, as when the first rule with `reject`
    /// is added. Costs nothing worth naming when no module was.
    ///
    /// # Errors
    /// When the kernel refuses to write the map.
    pub fn attach_late(&mut self) -> anyhow::Result<()> {
        if self.watches.attach_late() { self.tell_state() } else { Ok(()) }
    }

    /// Attaches the tc programs to an interface, once, where they tell something of their own.
    ///
    /// # Errors
    /// When the interface or its namespace is gone, or the kernel refuses.
    pub fn watch_interface(&mut self, netns: &Netns, link: &Link) -> anyhow::Result<()> {
        let Some(mechanism) = self.tc else { return Ok(()) };
        let (ifindex, name) = (link.ifindex, link.name.as_str());
        let place = Place { netns: netns.inode, ifindex };
        let is_needed = self.tc_everywhere || link.receives_unseen();
        if !is_needed || self.interfaces.contains_key(&place) || !self.has_tc(mechanism) {
            return Ok(());
        }
        let ebpf = &mut self.ebpf;
        let attached = match mechanism {
            Mechanism::Clsact => attach_clsact(ebpf, netns, ifindex),
            _ => netns.enter(|| attach_tcx(ebpf, name)).map_err(Into::into).and_then(|r| r),
        };
        let attached = attached.with_context(|| format!("cannot watch tc of {name}"))?;
        self.interfaces.insert(place, attached);
        Ok(())
    }

    /// Whether the kernel has taken the tc programs, which are loaded where they are needed.
    fn has_tc(&mut self, mechanism: Mechanism) -> bool {
        for (at, (name, point)) in TC.into_iter().enumerate() {
            let is_loaded = matches!(tc_program(&mut self.ebpf, name), Ok(tc) if tc.fd().is_ok());
            // Refused before, it would be again.
            let is_refused = matches!(&self.offers[at].1, Err(why) if why != TC_NOT_NEEDED);
            if is_loaded || is_refused {
                continue;
            }
            let loaded = program(&mut self.ebpf, name).and_then(|program| load_tc(program, name));
            let how = loaded.map(|()| mechanism).map_err(|why| one_line(&why));
            self.offers[at] = (point, how);
        }
        self.offers[..TC.len()].iter().all(|(_, how)| how.is_ok())
    }

    /// Removes what a pathtrace that was killed has left in these namespaces. Only the filters of
    /// clsact qdiscs stay behind.
    pub fn sweep(&self, namespaces: &[Netns]) {
        if !self.leaves_filters {
            return;
        }
        for netns in namespaces {
            match clsact::sweep(netns) {
                Ok(0) => {}
                Ok(n) => log::info!("removed filters of a killed pathtrace from {n} interfaces"),
                Err(e) => log::info!("left filters are not looked for: {e:#}"),
            }
        }
    }

    /// Places observers around everything that sits in a namespace's hooks. Called again, it moves
    /// them where `occupants` changed.
    ///
    /// # Errors
    /// When the namespace is gone, or the kernel refuses.
    pub fn watch_hooks(&mut self, netns: &Netns, occupants: &HookOccupants) -> anyhow::Result<()> {
        if !self.netfilter_works {
            return Ok(());
        }
        if self.hooks.get(&netns.inode).is_some_and(|hooks| hooks.occupants == *occupants) {
            return Ok(());
        }
        let hooks = self.hooks.entry(netns.inode).or_default();
        self.netfilter.watch(netns, occupants, &mut hooks.observers, &mut self.brackets)?;
        hooks.occupants = occupants.clone();
        Ok(())
    }

    /// Forgets interfaces and namespaces that are gone; the kernel has dropped what was attached.
    pub fn retain(
        &mut self,
        interface_is_there: impl Fn(Place) -> bool,
        namespace_is_there: impl Fn(u32) -> bool,
    ) {
        self.interfaces.retain(|place, _| interface_is_there(*place));
        self.hooks.retain(|netns, _| namespace_is_there(*netns));
    }

    /// Passes on what the kernel side has logged.
    pub fn pass_on_logs(&mut self) {
        if let Some(log) = &mut self.log {
            log.flush();
        }
    }

    /// Lets packets begin to be followed, or no more.
    ///
    /// # Errors
    /// When the kernel refuses to write the map.
    pub fn arm(&mut self, armed: bool) -> anyhow::Result<()> {
        self.armed = armed;
        self.tell_state()
    }

    /// From now on packets are also looked up among learned tuples, and among published addresses.
    ///
    /// # Errors
    /// When the kernel refuses to write the map.
    pub fn look_beyond(&mut self, learned: bool, published: bool) -> anyhow::Result<()> {
        self.change_state(|state| {
            state.learned |= u32::from(learned);
            state.published |= u32::from(published);
        })
    }

    /// How much is told of packets that begin from now on: one of
    /// [`telling`](tracer_common::track::telling), and of how many packets one is told.
    ///
    /// # Errors
    /// When the kernel refuses to write the map.
    pub fn tell(&mut self, telling: u8, one_of: u32) -> anyhow::Result<()> {
        self.change_state(|state| (state.telling, state.one_of) = (telling.into(), one_of))
    }

    /// Nothing is offered any more: what was can be counted.
    ///
    /// # Errors
    /// When the kernel refuses to write the map.
    pub fn end(&mut self) -> anyhow::Result<()> {
        self.change_state(|state| state.over = 1)
    }

    fn tell_state(&mut self) -> anyhow::Result<()> {
        let armed = self.armed.into();
        let linked = self.netfilter_works.into();
        let rules = self.watches.sees_every_rule().into();
        let tracked = self.watches.sees(Point::Conntrack).into();
        self.change_state(|state| *state = State { armed, linked, rules, tracked, ..*state })
    }

    fn change_state(&mut self, change: impl FnOnce(&mut State)) -> anyhow::Result<()> {
        let map = self.ebpf.map_mut("STATE").ok_or_else(|| anyhow!("the map STATE is missing"))?;
        let mut map: Array<_, State> = Array::try_from(map)?;
        let mut state = map.get(&0, 0).unwrap_or_default();
        change(&mut state);
        map.set(0, state, 0).context("cannot write map STATE")
    }

    /// The ring buffer that events come through. To be taken once.
    ///
    /// # Errors
    /// When it was taken already.
    pub fn take_events(&mut self) -> anyhow::Result<RingBuf<MapData>> {
        let map = self.ebpf.take_map("EVENTS").ok_or_else(|| anyhow!("EVENTS is taken already"))?;
        Ok(RingBuf::try_from(map)?)
    }

    /// The tables of followed packets and learned replies, to keep them clean. To be taken once.
    ///
    /// # Errors
    /// When they were taken already.
    pub fn take_tables(&mut self) -> anyhow::Result<Tables> {
        Tables::take(&mut self.ebpf)
    }

    /// What was given up so far.
    ///
    /// # Errors
    /// When the kernel refuses to read the map.
    pub fn lost(&self) -> anyhow::Result<Lost> {
        Ok(Lost {
            ring_full: self.count(Loss::RingFull)?,
            tracking_full: self.count(Loss::TrackingFull)?,
            learned_full: self.count(Loss::LearnedFull)?,
            behind: self.count(Loss::Behind)?,
            probe_missed: self.missed() + self.count(Loss::Disturbed)?,
        })
    }

    /// Events that the ring buffer had no room for so far. Cheap: to be asked again and again.
    ///
    /// # Errors
    /// When the kernel refuses to read the map.
    pub fn lost_events(&self) -> anyhow::Result<u64> {
        self.count(Loss::RingFull)
    }

    /// Events that the kernel side offered so far: had to tell, whether there was room for them or not.
    ///
    /// # Errors
    /// When the kernel refuses to read the map.
    pub fn events_offered(&self) -> anyhow::Result<u64> {
        self.sum("OFFERED", 0)
    }

    /// What was left out so far. Cheap, too.
    ///
    /// # Errors
    /// When the kernel refuses to read the map.
    pub fn left_out(&self) -> anyhow::Result<LeftOut> {
        Ok(LeftOut {
            packets: self.sum("SPARED", Spared::Packets as u32)?,
            events: self.sum("SPARED", Spared::Events as u32)?,
        })
    }

    fn count(&self, loss: Loss) -> anyhow::Result<u64> {
        self.sum("LOST", loss as u32)
    }

    /// What all CPUs have counted at one place of a map.
    fn sum(&self, name: &str, index: u32) -> anyhow::Result<u64> {
        let map = self.ebpf.map(name).ok_or_else(|| anyhow!("the map {name} is missing"))?;
        let counts: PerCpuArray<_, u64> = PerCpuArray::try_from(map)?;
        let counts = counts.get(&index, 0).with_context(|| format!("cannot read map {name}"))?;
        // One CPU takes back what another has counted: where only the former was read in time, the sum is below 0.
        let sum = counts.iter().fold(0u64, |sum, count| sum.wrapping_add(*count));
        Ok(u64::try_from(sum.cast_signed()).unwrap_or(0))
    }

    /// Runs skipped because the program was already running on that CPU
    /// (`bpf_prog_inc_misses_counter`, Linux 5.12), over all programs.
    fn missed(&self) -> u64 {
        let of_aya = self.ebpf.programs().filter_map(|(_, p)| Some(p.fd().ok()?.as_fd()));
        of_aya
            .chain(self.netfilter.descriptors())
            .chain(self.watches.descriptors())
            .chain(self.tracepoints.descriptors())
            .filter_map(|fd| sys::recursion_misses(fd).ok())
            .sum()
    }
}

fn tc_program<'a>(ebpf: &'a mut Ebpf, name: &str) -> anyhow::Result<&'a mut SchedClassifier> {
    of_tc(program(ebpf, name)?, name)
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> anyhow::Result<&'a mut Program> {
    ebpf.program_mut(name).ok_or_else(|| anyhow!("the kernel side has no program {name}"))
}

fn of_tc<'a>(program: &'a mut Program, name: &str) -> anyhow::Result<&'a mut SchedClassifier> {
    program.try_into().with_context(|| format!("program {name} is of another type"))
}

fn load_tc(program: &mut Program, name: &str) -> anyhow::Result<()> {
    of_tc(program, name)?.load().map_err(|e| rejected(name, &e))
}

/// What watches an interface's tc. Goes with this value.
enum Attached {
    Tcx { _links: [SchedClassifierLink; 2] },
    Clsact { netns: Netns, ifindex: u32 },
}

impl Drop for Attached {
    fn drop(&mut self) {
        if let Attached::Clsact { netns, ifindex } = self {
            // An interface that is gone has taken its filters along.
            let _ = netns.enter(|| clsact::detach(*ifindex));
        }
    }
}

/// In the thread's namespace. As tcpdump sees it: on the way in before other programs, on the way
/// out behind them.
fn attach_tcx(ebpf: &mut Ebpf, interface: &str) -> anyhow::Result<Attached> {
    let mut attach = |name, side, order| {
        let program = tc_program(ebpf, name)?;
        let order = TcAttachOptions::TcxOrder(order);
        let link = program.attach_with_options(interface, side, order)?;
        anyhow::Ok(program.take_link(link)?)
    };
    let ingress = attach("tc_ingress", TcAttachType::Ingress, LinkOrder::first())?;
    let egress = attach("tc_egress", TcAttachType::Egress, LinkOrder::last())?;
    Ok(Attached::Tcx { _links: [ingress, egress] })
}

fn attach_clsact(ebpf: &Ebpf, netns: &Netns, ifindex: u32) -> anyhow::Result<Attached> {
    let program = |name: &str| {
        let program = ebpf.program(name).ok_or_else(|| anyhow!("no program {name}"))?;
        anyhow::Ok(program.fd()?.as_fd())
    };
    let programs = [(Side::Ingress, program("tc_ingress")?), (Side::Egress, program("tc_egress")?)];
    netns.enter(|| clsact::attach(ifindex, programs))??;
    Ok(Attached::Clsact { netns: netns.clone(), ifindex })
}

/// tcx came with Linux 6.6; whether links can be made shows when the first is made.
fn tcx_supported() -> bool {
    aya::util::KernelVersion::current().is_ok_and(|v| v >= aya::util::KernelVersion::new(6, 6, 0))
}

/// A refusal, with the end of the verifier's log.
fn rejected(program: &str, error: &ProgramError) -> anyhow::Error {
    if let ProgramError::LoadError { io_error, verifier_log } = error {
        let log = verifier_log.to_string();
        let lines: Vec<_> = log.lines().rev().take(12).collect();
        let tail: String = lines.into_iter().rev().map(|line| format!("\n    {line}")).collect();
        log::debug!("the kernel refused program {program}: {io_error}{tail}");
        return anyhow!("the kernel refused program {program}: {io_error}{tail}");
    }
    anyhow!("the kernel refused program {program}: {error}")
}

fn one_line(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    text.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}
