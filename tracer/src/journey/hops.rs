//! The events of one packet, in order, into hops: which belong together, what NAT rewrote
//! between them, and how the packet ended.

use std::{net::IpAddr, num::NonZeroU32};

use tracer_common::point::Point;

use super::{
    Benign, BenignEnd, Decided, Hop, HopDetail, NatKind, Rewritten, flow::ends, is_delivery,
    is_for_here, sightings::Sighting,
};
use crate::event::{
    Consumer, Family, Headers, Hook, HookFamily, InHook, Origin, PacketId, Place, Verdict, What,
};

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
    /// `pieces`: it was cut into others, which go on in its stead.
    pub(super) fn new(
        parent: Option<(PacketId, Origin)>,
        pieces: bool,
        events: impl ExactSizeIterator<Item = Sighting>,
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
            pieces,
            start: None,
            open: Vec::new(),
            in_bridge: false,
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
        self.place_of(self.hops.len().saturating_sub(1 + end))
    }

    /// The hop that says where the packet was at this one: connection tracking and rewrites are
    /// parts of a hook.
    fn place_of(&self, mut hop: usize) -> usize {
        while hop > 0 && matches!(self.hops[hop].point, Point::Conntrack | Point::Nat) {
            hop -= 1;
        }
        hop
    }

    /// The last thing seen of it is that a hook gave it to somebody else.
    pub(super) fn is_stolen(&self) -> bool {
        matches!(
            self.hops.get(self.last_before_end()).map(|hop| &hop.detail),
            Some(HopDetail::Netfilter {
                decided: Some(Decided { verdict: Verdict::Stolen, .. }),
                ..
            })
        )
    }
}

struct Walk {
    path: Path,
    parent: Option<(PacketId, Origin)>,
    pieces: bool,
    start: Option<u64>,
    /// The netfilter hops that the packet is in, the innermost last: IP's hooks run within those of
    /// a bridge (br_netfilter).
    open: Vec<usize>,
    /// A bridge has it, and neither passed it up nor out by a port.
    in_bridge: bool,
    headers: Option<Headers>,
}

/// What hops made from one event share.
#[derive(Clone, Copy)]
struct Seen {
    tunneled: bool,
    at: u64,
    place: Place,
    cpu: u16,
}

impl Seen {
    fn hop(self, point: Point, detail: HopDetail) -> Hop {
        let Self { at, place, cpu, tunneled } = self;
        Hop { at, point, place, cpu, tunneled, detail, bytes: None }
    }
}

impl Walk {
    fn step(&mut self, event: Sighting, benign: &impl Benign) {
        let first = self.start.is_none();
        let start = *self.start.get_or_insert(event.time);
        let seen = Seen {
            at: event.time.saturating_sub(start),
            place: event.place,
            cpu: event.cpu,
            tunneled: event.tunneled,
        };
        if first && let Some((parent, origin)) = self.parent {
            self.path.hops.push(seen.hop(origin.point(), HopDetail::Born { parent }));
        }
        // In a socket's queue TCP merges what follows into a segment.
        if self.path.taken.is_none() {
            self.path.length = self.path.length.max(event.len);
        }

        let Sighting { headers, what, bytes, .. } = event;
        let rewrites = self.rewrites(&headers);
        // A sighting that cannot tell addresses or ports must not hide a rewrite.
        match &mut self.headers {
            Some(_) if headers.family == Family::Other => {}
            // Addresses it does tell.
            Some(known) if headers.later_fragment && !known.later_fragment => {
                (known.src, known.dst) = (headers.src, headers.dst);
            }
            known => *known = Some(headers),
        }
        self.watch_bridge(&what);
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
            let before = self.path.hops.len();
            self.rewrite(rewrites, seen);
            // What was rewritten is not known when all before was lost.
            if self.path.hops.is_empty() {
                self.path.hops.push(seen.hop(Point::Nat, HopDetail::None));
            }
            if self.path.hops.len() > before
                && let Some(hop) = self.path.hops.last_mut()
            {
                hop.bytes = bytes;
            }
            return;
        }
        let taken_here = is_for_here(&what, &headers) && !self.has_met_hooks_of(seen.place.netns);
        match &what {
            // It may have been rewritten and then dropped in the same hook.
            What::Drop { hook: Some(_), .. } | What::Conntrack { .. } => {}
            What::Drop { hook: None, .. } if self.open_that_decided().is_some() => {}
            What::HookEnter { hook, .. } => {
                if self.resume(*hook, seen.place) {
                    self.rewrite(rewrites, seen);
                    return;
                }
                self.make_way(*hook);
            }
            // A bridge that redirects (DNAT of br_netfilter) asks for a route within its hook.
            What::Route { .. } => self.accept_open(|family| family != HookFamily::Bridge),
            _ => self.accept_open(|_| true),
        }
        self.rewrite(rewrites, seen);

        let point = what.point();
        let index = self.path.hops.len();
        let detail = match what {
            What::DevQueue
            | What::DevXmit
            | What::DevReceive
            | What::BridgeRx
            | What::BridgeXmit
            | What::IpReceive
            | What::IpForward
            | What::IpOutput => {
                self.path.taken = None;
                HopDetail::None
            }
            // Unless LOCAL_IN is seen next, nobody has anything to say against it.
            What::IpLocalDeliver => {
                // A fragment waits here for the others.
                self.path.taken = (!headers.is_fragment()).then_some(index);
                HopDetail::None
            }
            What::TcIngress
            | What::TcEgress
            | What::BridgeForward
            | What::BridgeFlood
            | What::BridgeLocal => HopDetail::None,
            What::Conntrack { state, status, mark, zone, connection } => {
                HopDetail::Conntrack { state, status, mark, zone, connection }
            }
            What::HookEnter { hook, iif, oif } => {
                self.path.taken = None;
                let bridged = self.is_bridged(hook);
                self.open.push(index);
                netfilter(hook, iif, oif, bridged)
            }
            What::HookExit { .. } | What::Verdict { .. } | What::Nat => HopDetail::None,
            What::Route { table, gateway, oif, kind, error, reverse } => {
                if taken_here {
                    self.path.taken = Some(index);
                }
                HopDetail::Route { table, gateway, oif, kind, error, reverse }
            }
            What::Neigh { state, lladdr } => {
                // The function that resolves it and the tracepoint within tell the same.
                if let Some(HopDetail::Neigh { state: told, lladdr: known }) = self.last_detail()
                    && *told == state
                {
                    *known = known.or(lladdr);
                    return;
                }
                HopDetail::Neigh { state, lladdr }
            }
            What::QdiscEnqueue { kind, handle } => HopDetail::Qdisc { kind, handle, delay: None },
            What::QdiscDequeue { kind, handle } => {
                let delay = self.enqueued(handle).map(|then| seen.at.saturating_sub(then));
                HopDetail::Qdisc { kind, handle, delay }
            }
            What::Socket { pid, comm } => {
                let pid = pid.map(NonZeroU32::get);
                // It was queued to a socket, and now a task reads it.
                if let Some(HopDetail::Socket { pid: reader, comm: name }) = self.last_detail()
                    && (reader.is_none() || pid.is_none() || *reader == pid)
                {
                    *reader = reader.or(pid);
                    *name = name.take().or(comm);
                    return;
                }
                // From a tun or tap device a program reads what was transmitted there.
                if self.path.sent.is_none() {
                    self.path.taken = Some(index);
                }
                HopDetail::Socket { pid, comm }
            }
            What::Drop { reason, location, hook } => {
                let hook = hook.or_else(|| self.open_that_decided());
                self.drop(reason, location, hook, &headers, seen, benign);
                if let Some(hop) = self.path.hops.last_mut() {
                    hop.bytes = bytes;
                }
                return;
            }
            What::Consume { by } => {
                if let Some(by) = by.filter(|by| benign.is_read(by.location)) {
                    self.read_by(*by, seen);
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

    fn last_detail(&mut self) -> Option<&mut HopDetail> {
        self.path.hops.last_mut().map(|hop| &mut hop.detail)
    }

    /// Whether a bridge has the packet. Not every bridge has chains, and not every kernel shows
    /// both its steps and its hooks.
    fn watch_bridge(&mut self, what: &What) {
        self.in_bridge = match what {
            What::BridgeRx | What::BridgeForward | What::BridgeFlood | What::BridgeXmit => true,
            What::HookEnter { hook, .. } if hook.family == HookFamily::Bridge => {
                hook.hook != Hook::Input
            }
            What::HookEnter { hook, .. } if hook.family == HookFamily::Netdev => false,
            What::HookEnter { .. }
            | What::HookExit { .. }
            | What::Verdict { .. }
            | What::Conntrack { .. }
            | What::Nat
            | What::Route { .. }
            | What::Neigh { .. } => self.in_bridge,
            _ => false,
        };
    }

    /// An IP hook is entered, and it is a bridge that asks for that (br_netfilter).
    fn is_bridged(&self, hook: InHook) -> bool {
        matches!(hook.family, HookFamily::Ipv4 | HookFamily::Ipv6 | HookFamily::Arp)
            && (self.in_bridge || !self.open.is_empty())
    }

    /// A task has read the packet from its socket, and that was its end.
    fn read_by(&mut self, reader: Consumer, seen: Seen) {
        let hops = &mut self.path.hops;
        let Consumer { pid, comm, .. } = reader;
        let socket = hops.iter_mut().rev().find_map(|hop| match &mut hop.detail {
            HopDetail::Socket { pid, comm } => Some((pid, comm)),
            _ => None,
        });
        if let Some((known, name)) = socket {
            if known.is_none() {
                (*known, *name) = (Some(pid), Some(comm));
            }
            return;
        }
        self.path.taken = Some(hops.len());
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
        let hop =
            hook_hop.unwrap_or_else(|| self.path.place_of(self.path.hops.len().saturating_sub(1)));
        // A driver's copy, which is first met as it is received, goes on alone.
        let alone = self.path.hops.get(1).is_some_and(|first| first.point == Point::DevReceive);
        let shares = match self.parent {
            Some((_, Origin::Clone)) => true,
            Some((_, Origin::Copy)) => !alone,
            _ => false,
        };
        let kindly = if in_hook.is_some() {
            None
        } else {
            benign.end(reason, location, headers, shares).or_else(|| {
                let is_done_with = self.pieces && benign.is_unspecified(reason);
                is_done_with.then_some(BenignEnd::Consumed)
            })
        };
        self.path.end = match kindly {
            Some(end) => End::Benign(end),
            None => End::Drop { hop, reason, location, in_hook },
        };
        let point = if kindly.is_some() { Point::Consume } else { Point::Drop };
        let detail = HopDetail::Drop { reason, location, hook: in_hook };
        self.path.hops.push(seen.hop(point, detail));
    }

    fn has_met_hooks_of(&self, netns: u32) -> bool {
        let mut here = self.path.hops.iter().filter(|hop| hop.place.netns == netns);
        here.any(|hop| matches!(hop.detail, HopDetail::Netfilter { .. }))
    }

    fn hook_of(&self, index: usize) -> Option<InHook> {
        match self.path.hops.get(index)?.detail {
            HopDetail::Netfilter { hook, .. } => Some(hook),
            _ => None,
        }
    }

    fn is_hook(&self, index: usize, hook: InHook) -> bool {
        self.hook_of(index).is_some_and(|at| (at.hook, at.family) == (hook.hook, hook.family))
    }

    /// The hop of a hook that the packet is still in, taken as the innermost; or that it has just
    /// been in: a look-up within the hook was taken for what follows it, or conntrack had a say
    /// behind all that was watched.
    fn hop_in(&mut self, hook: InHook) -> Option<usize> {
        if let Some(depth) = self.open.iter().rposition(|&index| self.is_hook(index, hook)) {
            let index = self.open[depth];
            self.accept_down_to(depth + 1);
            return Some(index);
        }
        let index = self.path.hops.iter().rposition(|hop| {
            !matches!(
                hop.detail,
                HopDetail::Route { .. } | HopDetail::Conntrack { .. } | HopDetail::Nat { .. }
            )
        })?;
        self.is_hook(index, hook).then_some(index)
    }

    /// A hook is entered that the packet is in already: its next chain, where those are all that is
    /// watched; or, behind br_netfilter's hook of IP, the rest of the bridge's.
    fn resume(&mut self, hook: InHook, place: Place) -> bool {
        let depth = self.open.iter().rposition(|&index| {
            self.is_hook(index, hook) && self.path.hops[index].place.netns == place.netns
        });
        if let Some(depth) = depth {
            self.accept_down_to(depth + 1);
        }
        depth.is_some()
    }

    /// This hook is entered: those that it does not run within were left.
    fn make_way(&mut self, hook: InHook) {
        let within = self.open.last().and_then(|&top| self.hook_of(top)).is_some_and(|outer| {
            outer.family == HookFamily::Bridge
                && outer.hook == hook.hook
                && !matches!(hook.family, HookFamily::Bridge | HookFamily::Netdev)
        });
        if !within {
            self.accept_innermost();
            if !self.open.is_empty() {
                self.make_way(hook);
            }
        }
    }

    /// The hook was left: every chain accepted.
    fn leave(&mut self, hook: InHook, spent: u32, seen: Seen) -> usize {
        let index = self.hop_in(hook).unwrap_or_else(|| self.enter_unseen(hook, seen));
        self.open.retain(|open| *open != index);
        self.path.taken = is_delivery(&hook).then_some(index);
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
        let index = self.hop_in(hook).unwrap_or_else(|| self.enter_unseen(hook, seen));
        // What is around it stays open: nobody accepted there.
        self.open.clear();
        if let HopDetail::Netfilter { hook: open, accepted, .. } = &mut self.path.hops[index].detail
        {
            *accepted = Some(false);
            open.passed = hook.passed;
        }
        index
    }

    /// Somebody decided in this hook, which the packet does not leave by that.
    fn decide(&mut self, hook: InHook, by: Decided, seen: Seen) {
        let index = match self.hop_in(hook) {
            Some(index) => index,
            // Whoever took the packet may have sent it on before saying so (nft's fwd).
            None if by.verdict != Verdict::Drop => {
                let here = |n: &usize| {
                    self.is_hook(*n, hook) && self.path.hops[*n].place.netns == seen.place.netns
                };
                match (0..self.path.hops.len()).rev().find(here) {
                    Some(index) => {
                        self.set_decided(index, by);
                        return;
                    }
                    None => self.enter_unseen(hook, seen),
                }
            }
            None => self.enter_unseen(hook, seen),
        };
        self.path.taken = None;
        if !self.open.contains(&index) {
            self.open.push(index);
        }
        self.set_decided(index, by);
    }

    fn set_decided(&mut self, index: usize, by: Decided) {
        if let HopDetail::Netfilter { decided, .. } = &mut self.path.hops[index].detail {
            *decided = Some(by);
        }
    }

    /// The hook that the packet is in, if what was decided there can be its end: it dies there also
    /// where the kernel does not say so.
    fn open_that_decided(&self) -> Option<InHook> {
        match &self.path.hops.get(*self.open.last()?)?.detail {
            HopDetail::Netfilter {
                hook,
                decided: Some(Decided { verdict: Verdict::Drop | Verdict::Queue, .. }),
                ..
            } => Some(*hook),
            _ => None,
        }
    }

    /// A hop for a hook whose entry was lost.
    fn enter_unseen(&mut self, hook: InHook, seen: Seen) -> usize {
        self.make_way(hook);
        let detail = netfilter(hook, 0, 0, self.is_bridged(hook));
        self.path.hops.push(seen.hop(hook.hook.point(), detail));
        self.path.hops.len() - 1
    }

    /// The packet was seen past the hooks that it was in, as far as they are of these families.
    fn accept_open(&mut self, of: impl Fn(HookFamily) -> bool) {
        while self
            .open
            .last()
            .and_then(|&top| self.hook_of(top))
            .is_some_and(|hook| of(hook.family))
        {
            self.accept_innermost();
        }
    }

    /// The same, down to this many.
    fn accept_down_to(&mut self, depth: usize) {
        while self.open.len() > depth {
            self.accept_innermost();
        }
    }

    fn accept_innermost(&mut self) {
        if let Some(index) = self.open.pop()
            && let HopDetail::Netfilter { hook, accepted, decided, .. } =
                &mut self.path.hops[index].detail
        {
            *accepted = Some(true);
            if is_delivery(hook) && decided.is_none() {
                self.path.taken = Some(index);
            }
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

/// A hook of which nothing is known but that it was entered.
fn netfilter(hook: InHook, iif: u32, oif: u32, bridged: bool) -> HopDetail {
    HopDetail::Netfilter { hook, iif, oif, bridged, accepted: None, spent: None, decided: None }
}

#[derive(Clone, Copy)]
struct Rewrite {
    kind: NatKind,
    from: (IpAddr, u16),
    to: (IpAddr, u16),
}
