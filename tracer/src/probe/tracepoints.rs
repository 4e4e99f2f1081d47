//! Tracepoints, which see every device in every namespace: [`own`] programs that know the types of their arguments
//! (`tp_btf`), or where the kernel takes none of those, programs that do not (`raw_tracepoint`).

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use anyhow::Context as _;
use tracer_common::point::Point;

use super::{
    btf::{KernelTypes, TypedTracepoint},
    mechanism::{LEFT_OUT, Mechanism, Mechanisms},
    one_line, own,
    sys::{self, Kind},
};

/// Program, tracepoint, the point that it shows, and the least number of arguments that it must hand over.
const TRACEPOINTS: &[(&str, &str, Point, usize)] = &[
    ("dev_queue", "net_dev_queue", Point::DevQueue, 1),
    ("dev_xmit", "net_dev_start_xmit", Point::DevXmit, 2),
    ("dev_receive", "netif_receive_skb", Point::DevReceive, 1),
    ("qdisc_enqueue", "qdisc_enqueue", Point::QdiscEnqueue, 3),
    ("qdisc_dequeue", "qdisc_dequeue", Point::QdiscDequeue, 4),
    ("route", "fib_table_lookup", Point::Route, 4),
    ("route6", "fib6_table_lookup", Point::Route, 4),
    ("neigh", "neigh_event_send_done", Point::Neigh, 2),
    ("socket", "skb_copy_datagram_iovec", Point::Socket, 2),
    ("drop", "kfree_skb", Point::Drop, 2),
    ("consume", "consume_skb", Point::Consume, 1),
];

/// All of them, watched as long as this value lives.
pub struct Tracepoints(Vec<Tracepoint>);

/// One of them.
struct Tracepoint {
    program: &'static str,
    name: &'static str,
    point: Point,
    /// Number of its type, where this kernel has it as it must be.
    id: Option<u32>,
    /// What it is watched by, or why nothing does.
    loaded: Result<Loaded, String>,
    link: Option<OwnedFd>,
}

struct Loaded {
    mechanism: Mechanism,
    program: OwnedFd,
}

impl Tracepoints {
    /// Those that this kernel has; nothing is loaded yet.
    pub fn plan(types: &KernelTypes) -> Self {
        let plan = |&(program, name, point, needed): &(_, _, _, usize)| {
            let (id, why) = match types.tracepoint(name) {
                None => (None, format!("this kernel has no tracepoint {name}")),
                Some(TypedTracepoint { arguments, .. }) if arguments < needed => {
                    let why =
                        format!("tracepoint {name} has {arguments} arguments, {needed} are needed");
                    (None, why)
                }
                Some(found) => (Some(found.id), "not loaded yet".to_owned()),
            };
            Tracepoint { program, name, point, id, loaded: Err(why), link: None }
        };
        Self(TRACEPOINTS.iter().map(plan).collect())
    }

    /// What is to be done to load each, in parallel with whatever else is loaded; the longest last.
    pub fn loading(
        &mut self,
        own: &own::Programs,
        allowed: Mechanisms,
    ) -> impl Iterator<Item = impl FnOnce() + Send> {
        let length = |program| own.get(program).map_or(0, <[_]>::len);
        let mut tracepoints: Vec<_> =
            self.0.iter_mut().filter_map(|tracepoint| Some((tracepoint.id?, tracepoint))).collect();
        tracepoints.sort_by_key(|(_, tracepoint)| length(tracepoint.program));
        tracepoints.into_iter().map(move |(id, tracepoint)| {
            move || {
                tracepoint.loaded = load(own, tracepoint.program, id, allowed);
            }
        })
    }

    /// Attaches what is loaded.
    ///
    /// # Errors
    /// When the kernel refuses one that it has loaded.
    pub fn attach(&mut self) -> anyhow::Result<()> {
        for tracepoint in &mut self.0 {
            let Ok(Loaded { mechanism, program }) = &tracepoint.loaded else { continue };
            let link = match mechanism {
                Mechanism::RawTracepoint => {
                    sys::attach_raw_tracepoint(program.as_fd(), tracepoint.name)
                }
                _ => sys::attach_tracing(program.as_fd()),
            };
            let said = || format!("cannot attach to tracepoint {}", tracepoint.name);
            tracepoint.link = Some(link.with_context(said)?);
        }
        Ok(())
    }

    /// What shows which point, or why nothing does.
    pub fn offers(&self) -> impl Iterator<Item = (Point, Result<Mechanism, String>)> + '_ {
        self.0.iter().map(|tracepoint| {
            let how = tracepoint.loaded.as_ref().map(|loaded| loaded.mechanism);
            (tracepoint.point, how.map_err(String::clone))
        })
    }

    /// The loaded programs.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.0
            .iter()
            .filter_map(|tracepoint| Some(tracepoint.loaded.as_ref().ok()?.program.as_fd()))
    }
}

/// Loads a program with types, else without. Of two refusals the former is told.
fn load(
    own: &own::Programs,
    program: &str,
    id: u32,
    allowed: Mechanisms,
) -> Result<Loaded, String> {
    let load = |mechanism, name: &str, kind| {
        if !allowed.allow(mechanism) {
            return Err(LEFT_OUT.to_owned());
        }
        let program = own.load(name, kind).map_err(|why| one_line(&why))?;
        Ok(Loaded { mechanism, program })
    };
    load(Mechanism::TpBtf, program, Kind::Tracepoint(id)).or_else(|why| {
        let untyped = format!("{program}__raw");
        let loaded = load(Mechanism::RawTracepoint, &untyped, Kind::RawTracepoint);
        loaded.map_err(|other| if allowed.allow(Mechanism::TpBtf) { why } else { other })
    })
}
