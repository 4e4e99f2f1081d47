//! One conversation: who with whom, how much, how fast, and how it stands.

use std::{collections::VecDeque, sync::Arc};

use super::{Rate, Times};
use crate::output::{
    escape::escape,
    path,
    record::{Direction, Journey, OutcomeKind},
};

/// A side of a flow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Side {
    /// Address; `None` for what is neither IP nor ARP.
    pub address: Option<String>,
    /// Port, where there is one.
    pub port: Option<u16>,
    /// The container or namespace that owns the address, escaped.
    pub name: Option<String>,
}

impl Side {
    /// `c1:41133`; by its address where it has no name.
    pub fn short(&self) -> String {
        match (&self.name, self.port) {
            (Some(name), Some(port)) => format!("{name}:{port}"),
            (Some(name), None) => name.clone(),
            (None, port) => path::end(self.address.as_deref(), port),
        }
    }

    /// `10.0.100.252:41133 (c1)`
    pub fn long(&self) -> String {
        let end = path::end(self.address.as_deref(), self.port);
        match &self.name {
            Some(name) => format!("{end} ({name})"),
            None => end,
        }
    }
}

/// How a flow stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Its last packet was dropped.
    Dropped,
    /// No packet of the other side was seen.
    NoAnswer,
    /// Both sides were seen; of TCP, neither its beginning nor its end.
    Answered,
    /// TCP: asked for, not answered.
    Opening,
    /// TCP: both sides have agreed to it.
    Open,
    /// TCP: one side has ended it.
    Closing,
    /// TCP: both have.
    Closed,
    /// TCP: one side refused it, or broke it off.
    Reset,
}

impl State {
    /// In a word or two.
    pub fn name(self) -> &'static str {
        match self {
            State::Dropped => "dropped",
            State::NoAnswer => "no answer",
            State::Answered => "answered",
            State::Opening => "opening",
            State::Open => "open",
            State::Closing => "closing",
            State::Closed => "closed",
            State::Reset => "reset",
        }
    }
}

/// What was seen of a TCP connection.
#[derive(Clone, Copy, Debug, Default)]
struct Tcp {
    asked: bool,
    agreed: bool,
    ended: [bool; 2],
    reset: bool,
}

/// A journey that is kept, and its number among all that ever were.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub serial: u64,
    pub journey: Arc<Journey>,
}

/// A flow.
#[derive(Clone, Debug)]
pub struct Flow {
    /// Its number in this trace.
    pub id: u64,
    /// Protocol.
    pub proto: String,
    /// The side that began.
    pub src: Side,
    /// The other.
    pub dst: Side,
    /// Packets of the side that began.
    pub out: u64,
    /// Packets of the other.
    pub back: u64,
    /// Packets that were dropped, of both.
    pub drops: u64,
    /// Packets whose end was not seen, of both.
    pub lost: u64,
    /// Packets a second.
    pub rate: Rate,
    /// How long packets took across the host: from the first sighting to where they arrived.
    pub times: Times,
    /// When its last packet came: ns since the view began.
    pub last: u64,
    /// Its last journeys, oldest first.
    pub(super) recent: VecDeque<Kept>,
    tcp: Tcp,
    is_last_dropped: bool,
    /// What a filter is looked for in, in small letters.
    searched: String,
}

impl Flow {
    /// The flow of this journey, without any packet.
    pub fn of(journey: &Journey) -> Self {
        let flow = &journey.flow;
        let side =
            |address: &Option<String>, port| Side { address: address.clone(), port, name: None };
        Self {
            id: flow.id,
            proto: escape(&flow.proto).into_owned(),
            src: side(&flow.src, flow.sport),
            dst: side(&flow.dst, flow.dport),
            out: 0,
            back: 0,
            drops: 0,
            lost: 0,
            rate: Rate::default(),
            times: Times::default(),
            last: 0,
            recent: VecDeque::new(),
            tcp: Tcp::default(),
            is_last_dropped: false,
            searched: String::new(),
        }
    }

    /// Counts a packet that came at `now`, ns since the view began.
    pub fn add(&mut self, journey: &Journey, now: u64) {
        match journey.direction {
            Direction::Original => self.out += 1,
            Direction::Reply => self.back += 1,
        }
        self.is_last_dropped = journey.outcome.kind == OutcomeKind::Dropped;
        self.drops += u64::from(self.is_last_dropped);
        self.lost += u64::from(journey.outcome.kind == OutcomeKind::Lost);
        self.rate.add(now / 1_000_000_000);
        self.last = now;
        if let Some(took) = across(journey) {
            self.times.add(took);
        }
        if self.proto == "tcp" {
            self.note_flags(journey);
        }
        self.learn_names(journey);
    }

    /// Packets of both sides.
    pub fn packets(&self) -> u64 {
        self.out + self.back
    }

    /// How it stands.
    pub fn state(&self) -> State {
        let tcp = self.tcp;
        match self.back {
            _ if self.is_last_dropped => State::Dropped,
            _ if tcp.reset => State::Reset,
            _ if tcp.ended == [true; 2] => State::Closed,
            _ if tcp.ended != [false; 2] => State::Closing,
            _ if tcp.agreed => State::Open,
            _ if tcp.asked => State::Opening,
            0 => State::NoAnswer,
            _ => State::Answered,
        }
    }

    /// Its kept journeys, newest first.
    pub fn journeys(&self) -> impl DoubleEndedIterator<Item = &Arc<Journey>> + ExactSizeIterator {
        self.recent.iter().rev().map(|kept| &kept.journey)
    }

    /// Whether each of these words is found in its names, addresses, ports, protocol or state.
    pub fn matches(&self, words: &[String]) -> bool {
        words
            .iter()
            .all(|word| self.searched.contains(word) || self.state().name().contains(&**word))
    }

    fn note_flags(&mut self, journey: &Journey) {
        let mut words = journey.packet.info.split(' ');
        let flags = words.next().unwrap_or_default();
        let has = |flag: &str| flags.split('+').any(|word| word == flag);
        let side = match journey.direction {
            Direction::Original => 0,
            Direction::Reply => 1,
        };
        if has("SYN") && !has("ACK") {
            // The same ports, once more.
            self.tcp = Tcp { asked: true, ..Tcp::default() };
        }
        self.tcp.agreed |= has("SYN") && has("ACK");
        self.tcp.ended[side] |= has("FIN");
        self.tcp.reset |= has("RST");
    }

    fn learn_names(&mut self, journey: &Journey) {
        let packet = &journey.packet;
        let (near, far) = match journey.direction {
            Direction::Original => (&mut self.src, &mut self.dst),
            Direction::Reply => (&mut self.dst, &mut self.src),
        };
        let mut changed = self.searched.is_empty();
        // Behind NAT an answer has other addresses, whose owners are others.
        for (side, address, name) in
            [(near, &packet.src, &packet.src_name), (far, &packet.dst, &packet.dst_name)]
        {
            if side.address == *address
                && let Some(name) = name
                && side.name.is_none()
            {
                side.name = Some(escape(name).into_owned());
                changed = true;
            }
        }
        if changed {
            let text = format!("{} {} {}", self.proto, self.src.long(), self.dst.long());
            self.searched =
                format!("{text} {} {}", self.src.short(), self.dst.short()).to_lowercase();
        }
    }
}

/// How long a packet took from its first hop to where it arrived, ns; `None` where it did not, or began on
/// the way. What a process takes to read it is not in it.
fn across(journey: &Journey) -> Option<u64> {
    let arrived = matches!(journey.outcome.kind, OutcomeKind::Transmitted | OutcomeKind::Delivered);
    if !arrived || !journey.complete || journey.packet.parent.is_some() {
        return None;
    }
    let until = journey.hops.get(..=journey.outcome.hop)?;
    let end = until.iter().rfind(|hop| !matches!(&*hop.point, "socket" | "drop" | "consume"))?;
    let start = journey.hops.first()?;
    Some(end.t_ns.saturating_sub(start.t_ns))
}
