//! The events of one packet, in order, into hops: which belong together, what NAT rewrote
//! between them, and how the packet ended.

use std::net::IpAddr;

use tracer_common::point::Point;

use super::{Benign, BenignEnd, Decided, Hop, HopDetail, NatKind, Rewritten, flow::ends};
use crate::event::{Consumer, Event, Family, Headers, Hook, InHook, Origin, PacketId, Place, What};

/// The hops of a packet and what its end rests on.
#[derive(Debug)]
pub(super) struct Path {
    pub(super) hops: Vec<Hop>,
    pub(super) nat: Rewritten,
    pub(super) length: u32,
    pub(super) end: End,
    /// The hop where the local stack or a socket took it, unless it went on from there.
    pub(super) taken: Option<usize>,
    /// The hop of a `dev_xmit` that nothing but an end followed.
    pub(super) sent: Option<usize>,
}

/// What ended a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Nothing that was seen.
    None,
    /// `consume`.
    Consume,
    /// A drop.
    Drop { hop: usize, reason: Option<u32>, location: u64, in_hook: Option<InHook> },
    /// A drop that is none.
    Benign(BenignEnd),
}

impl Path {
    /// Puts the events of one packet together; they are in the packet's order, at least one.
    pub(super) fn new(
        parent: Option<(PacketId, Origin)>,
        events: impl ExactSizeIterator<Item = Event>,
        benign: &impl Benign,
    ) -> Self {
        let mut walk = Walk {
            path: Path {
                hops: Vec::with_capacity(events.len() + 2),
                nat: Rewritten::default(),
                length: 0,
                end: End::None,
                taken: None,
                sent: None,
            },
            parent,
            start: None,
            open: None,
            headers: None,
        };
        for event in events {
            walk.step(event, benign);
        }
        walk.path
    }

    /// The last hop before the packet's end; the end itself where there is nothing else.
    pub(super) fn last_before_end(&self) -> usize {
        let end = usize::from(self.end != End::None);
        self.hops.len().saturating_sub(1 + end)
    }
}

struct Walk {
    path: Path,
    parent: Option<(PacketId, Origin)>,
    start: Option<u64>,
    /// The netfilter hop that the packet is in.
    open: Option<usize>,
    headers: Option<Headers>,
}

/// What hops made from one event share.
#[derive(Clone, Copy)]
struct Seen {
    at: u64,
    place: Place,
    cpu: u16,
}

impl Seen {
    fn hop(self, point: Point, detail: HopDetail) -> Hop {
        Hop { at: self.at, point, place: self.place, cpu: self.cpu, detail, bytes: None }
    }
}

impl Walk {
    fn step(&mut self, event: Event, benign: &impl Benign) {
        let first = self.start.is_none();
        let start = *self.start.get_or_insert(event.time);
        let seen =
            Seen { at: event.time.saturating_sub(start), place: event.place, cpu: event.cpu };
        if first && let Some((parent, origin)) = self.parent {
            self.path.hops.push(seen.hop(origin.point(), HopDetail::Born { parent }));
        }
        // In a socket's queue TCP merges what follows into a segment.
        if self.path.taken.is_none() {
            self.path.length = self.path.length.max(event.len);
        }

        let Event { headers, what, bytes, .. } = event;
        let rewrites = self.rewrites(&headers);
        // A sighting that cannot tell addresses or ports must not hide a rewrite.
        if self.headers.is_none() || (headers.family != Family::Other && !headers.later_fragment) {
            self.headers = Some(headers);
        }
        // A rewrite that the exit of a hook reports follows that hook's hop; one that shows only
        // later (the exit was lost) comes before the hop that shows it.
        if let What::HookExit { hook, spent } = what {
            let hop = self.leave(hook, spent, seen);
            if bytes.is_some() {
                self.path.hops[hop].bytes = bytes;
            }
            self.rewrite(rewrites, seen);
            self.path.sent = None;
            return;
        }
        // Likewise within the hook that it is in.
        if let What::Verdict { hook, by, verdict } = what {
            self.rewrite(rewrites, seen);
            self.decide(hook, Decided { by, verdict }, seen);
            return;
        }
        if what == What::Nat {
            self.rewrite(rewrites, seen);
            return;
        }
        // It may have been rewritten and then dropped in the same hook.
        if !matches!(what, What::Drop { hook: Some(_), .. }) {
            self.accept_open();
        }
        self.rewrite(rewrites, seen);

        let point = what.point();
        let index = self.path.hops.len();
        let detail = match what {
            What::DevQueue | What::DevXmit | What::DevReceive => {
                self.path.taken = None;
                HopDetail::None
            }
            What::TcIngress
            | What::TcEgress
            | What::BridgeRx
            | What::BridgeForward
            | What::BridgeFlood
            | What::BridgeLocal
            | What::BridgeXmit
            | What::IpReceive
            | What::IpForward
            | What::IpLocalDeliver
            | What::IpOutput => HopDetail::None,
            What::Conntrack { state, status, mark } => HopDetail::Conntrack { state, status, mark },
            What::HookEnter { hook, iif, oif } => {
                self.path.taken = None;
                self.open = Some(index);
                HopDetail::Netfilter { hook, iif, oif, accepted: None, spent: None, decided: None }
            }
            What::HookExit { .. } | What::Verdict { .. } | What::Nat => HopDetail::None,
            What::Route { table, gateway, oif, kind, error, reverse } => {
                HopDetail::Route { table, gateway, oif, kind, error, reverse }
            }
            What::Neigh { state, lladdr } => HopDetail::Neigh { state, lladdr },
            What::QdiscEnqueue { kind, handle } => HopDetail::Qdisc { kind, handle, delay: None },
            What::QdiscDequeue { kind, handle } => {
                let delay = self.enqueued(handle).map(|then| seen.at.saturating_sub(then));
                HopDetail::Qdisc { kind, handle, delay }
            }
            What::Socket { pid, comm } => {
                // From a tun or tap device a program reads what was transmitted there.
                if self.path.sent.is_none() {
                    self.path.taken = Some(index);
                }
                HopDetail::Socket { pid, comm }
            }
            What::Drop { reason, location, hook } => {
                self.drop(reason, location, hook, &headers, seen, benign);
                if let Some(hop) = self.path.hops.last_mut() {
                    hop.bytes = bytes;
                }
                return;
            }
            What::Consume { by } => {
                if let Some(by) = by.filter(|by| benign.is_read(by.location)) {
                    self.read_by(by, seen);
                }
                self.path.end = End::Consume;
                HopDetail::None
            }
        };
        if !matches!(point, Point::Consume | Point::Socket) {
            self.path.sent = (point == Point::DevXmit).then_some(index);
        }
        self.path.hops.push(Hop { bytes, ..seen.hop(point, detail) });
    }

    /// A task has read the packet from its socket, and that was its end.
    fn read_by(&mut self, reader: Consumer, seen: Seen) {
        let hops = &mut self.path.hops;
        if hops.iter().any(|hop| hop.point == Point::Socket) {
            return;
        }
        self.path.taken = Some(hops.len());
        let Consumer { pid, comm, .. } = reader;
        let detail = HopDetail::Socket { pid: Some(pid), comm: Some(comm) };
        hops.push(seen.hop(Point::Socket, detail));
    }

    fn drop(
        &mut self,
        reason: Option<u32>,
        location: u64,
        in_hook: Option<InHook>,
        headers: &Headers,
        seen: Seen,
        benign: &impl Benign,
    ) {
        let hook_hop = in_hook.map(|hook| self.died_in(hook, seen));
        let hop = hook_hop.unwrap_or_else(|| self.path.hops.len().saturating_sub(1));
        let kindly = if in_hook.is_some() {
            None
        } else {
            benign.end(reason, location, headers, self.parent.is_some())
        };
        self.path.end = match kindly {
            Some(end) => End::Benign(end),
            None => End::Drop { hop, reason, location, in_hook },
        };
        let point = if kindly.is_some() { Point::Consume } else { Point::Drop };
        let detail = HopDetail::Drop { reason, location, hook: in_hook };
        self.path.hops.push(seen.hop(point, detail));
    }

    /// The open netfilter hop, if it is in this hook.
    fn open_in(&mut self, hook: InHook) -> Option<usize> {
        let index = self.open?;
        match &self.path.hops.get(index)?.detail {
            HopDetail::Netfilter { hook: open, .. }
                if (open.hook, open.family) == (hook.hook, hook.family) =>
            {
                Some(index)
            }
            _ => None,
        }
    }

    /// The hook was left: every chain accepted.
    fn leave(&mut self, hook: InHook, spent: u32, seen: Seen) -> usize {
        let index = self.open_in(hook).unwrap_or_else(|| self.enter_unseen(hook, seen));
        self.open = None;
        self.path.taken = (hook.hook == Hook::Input).then_some(index);
        if let HopDetail::Netfilter { hook: open, accepted, spent: time, .. } =
            &mut self.path.hops[index].detail
        {
            *accepted = Some(true);
            *time = Some(spent);
            open.passed = hook.passed;
        }
        index
    }

    /// The packet died in this hook.
    fn died_in(&mut self, hook: InHook, seen: Seen) -> usize {
        let index = self.open_in(hook).unwrap_or_else(|| self.enter_unseen(hook, seen));
        self.open = None;
        if let HopDetail::Netfilter { hook: open, accepted, .. } = &mut self.path.hops[index].detail
        {
            *accepted = Some(false);
            open.passed = hook.passed;
        }
        index
    }

    /// Somebody decided in this hook, which the packet does not leave by that.
    fn decide(&mut self, hook: InHook, by: Decided, seen: Seen) {
        let index = self.open_in(hook).unwrap_or_else(|| self.enter_unseen(hook, seen));
        self.open = Some(index);
        if let HopDetail::Netfilter { decided, .. } = &mut self.path.hops[index].detail {
            *decided = Some(by);
        }
    }

    /// A hop for a hook whose entry was lost.
    fn enter_unseen(&mut self, hook: InHook, seen: Seen) -> usize {
        self.accept_open();
        let detail = HopDetail::Netfilter {
            hook,
            iif: 0,
            oif: 0,
            accepted: None,
            spent: None,
            decided: None,
        };
        self.path.hops.push(seen.hop(hook.hook.point(), detail));
        self.path.hops.len() - 1
    }

    /// The packet was seen past the hook that it was in.
    fn accept_open(&mut self) {
        if let Some(index) = self.open.take()
            && let HopDetail::Netfilter { accepted, .. } = &mut self.path.hops[index].detail
        {
            *accepted = Some(true);
        }
    }

    fn enqueued(&self, wanted: u32) -> Option<u64> {
        self.path.hops.iter().rev().find_map(|hop| match hop.detail {
            HopDetail::Qdisc { handle, .. }
                if hop.point == Point::QdiscEnqueue && handle == wanted =>
            {
                Some(hop.at)
            }
            _ => None,
        })
    }

    fn rewrites(&self, now: &Headers) -> [Option<Rewrite>; 2] {
        let Some(before) = self.headers else { return [None, None] };
        if (before.family, before.proto) != (now.family, now.proto) {
            return [None, None];
        }
        let ports = !before.later_fragment && !now.later_fragment;
        let ((src0, dst0), (src1, dst1)) = (ends(&before), ends(now));
        let changed = |kind, from: (IpAddr, u16), to: (IpAddr, u16)| {
            let differ = from.0 != to.0 || (ports && from.1 != to.1);
            differ.then_some(Rewrite { kind, from, to })
        };
        [changed(NatKind::Snat, src0, src1), changed(NatKind::Dnat, dst0, dst1)]
    }

    fn rewrite(&mut self, rewrites: [Option<Rewrite>; 2], seen: Seen) {
        for Rewrite { kind, from, to } in rewrites.into_iter().flatten() {
            let (address, port) = match kind {
                NatKind::Snat => (&mut self.path.nat.src, &mut self.path.nat.sport),
                NatKind::Dnat => (&mut self.path.nat.dst, &mut self.path.nat.dport),
            };
            if from.0 != to.0 {
                *address = Some(to.0);
            }
            if from.1 != to.1 {
                *port = Some(to.1);
            }
            // NAT happens where the packet was, not where the next event saw it.
            let place = self.path.hops.last().map_or(seen.place, |hop| hop.place);
            let hop = Seen { place, ..seen }.hop(Point::Nat, HopDetail::Nat { kind, from, to });
            self.path.hops.push(hop);
        }
    }
}

#[derive(Clone, Copy)]
struct Rewrite {
    kind: NatKind,
    from: (IpAddr, u16),
    to: (IpAddr, u16),
}
