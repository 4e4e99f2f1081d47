//! What was seen of a packet in the making: its events, in the packet's own order.
//!
//! Tens of thousands of packets may be on their way, with some twenty events each. So what these have
//! in common is kept once, what few of them have is kept beside, and what is left of an event is as
//! large as a line of the processor's cache.

use crate::event::{Captured, Event, Headers, Place, What};

/// An event's number in its packet, past the wire's 16 bits.
type Number = i32;

/// The events of a packet.
#[derive(Debug, Default)]
pub(super) struct Sightings {
    seen: Vec<Seen>,
    /// The headers that it was seen with, each once.
    headers: Vec<Headers>,
    /// What was captured of it, with the number of the event.
    captured: Vec<(Number, Box<Captured>)>,
    /// Address of the `struct sk_buff` in the last event.
    skb: u64,
    /// Events of it are left out.
    thinned: bool,
}

/// What only one event tells.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) time: u64,
    pub(super) place: Place,
    number: Number,
    len: u32,
    cpu: u16,
    /// Index in [`Sightings::headers`].
    headers: u16,
    tunneled: bool,
    pub(super) what: What,
}

const _: () = assert!(size_of::<Seen>() <= 64);

/// An event, without what is the same for all of its packet.
#[derive(Debug)]
pub(super) struct Sighting {
    pub(super) time: u64,
    pub(super) place: Place,
    pub(super) cpu: u16,
    pub(super) len: u32,
    pub(super) tunneled: bool,
    pub(super) headers: Headers,
    pub(super) what: What,
    pub(super) bytes: Option<Box<Captured>>,
}

/// How many events room is made for at a time: a packet has a few dozen, and doubling would keep room for
/// many that never come.
const ROOM: usize = 8;

impl Sightings {
    /// Puts an event in its place; `false` when it is there already.
    pub(super) fn insert(&mut self, event: Event) -> bool {
        let (number, at) = match self.seen.last() {
            None => (Number::from(event.seq), 0),
            Some(last) => {
                // The nearest number with these low 16 bits.
                let ahead = event.seq.wrapping_sub(last.number as u16) as i16;
                let number = last.number + Number::from(ahead);
                if number > last.number {
                    (number, self.seen.len())
                } else {
                    match self.seen.binary_search_by_key(&number, |seen| seen.number) {
                        Ok(_) => return false,
                        Err(at) => (number, at),
                    }
                }
            }
        };
        let Event { time, place, cpu, len, tunneled, headers, what, bytes, skb, .. } = event;
        self.thinned |= event.thinned;
        if at == self.seen.len() {
            self.skb = skb;
        }
        if let Some(mut bytes) = bytes {
            // What is passed on as it is, is kept once.
            if let Some((_, before)) = self.captured.last()
                && before.data == bytes.data
            {
                bytes.data = before.data.clone();
            }
            self.captured.push((number, bytes));
        }
        if self.seen.len() == self.seen.capacity() {
            self.seen.reserve_exact(ROOM);
        }
        let headers = self.index_of(headers);
        self.seen.insert(at, Seen { time, place, number, len, cpu, headers, tunneled, what });
        true
    }

    /// There are no more headers than events, whose number is bounded far below this one's.
    fn index_of(&mut self, headers: Headers) -> u16 {
        let known = self.headers.iter().rposition(|known| *known == headers);
        let index = known.unwrap_or_else(|| {
            self.headers.push(headers);
            self.headers.len() - 1
        });
        index as u16
    }

    /// How many.
    pub(super) fn len(&self) -> usize {
        self.seen.len()
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }

    /// Every event up to the last one is there. Numbers are unique, so counting is enough.
    pub(super) fn is_whole(&self) -> bool {
        let number = |seen: Option<&Seen>| seen.map(|seen| seen.number);
        number(self.seen.first()) == Some(0)
            && number(self.seen.last()).and_then(|n| usize::try_from(n).ok())
                == Some(self.seen.len() - 1)
    }

    /// The first one.
    pub(super) fn first(&self) -> Option<&Seen> {
        self.seen.first()
    }

    /// The last one.
    pub(super) fn last(&self) -> Option<&Seen> {
        self.seen.last()
    }

    /// All of them.
    pub(super) fn iter(&self) -> std::slice::Iter<'_, Seen> {
        self.seen.iter()
    }

    /// The headers that the packet had there.
    pub(super) fn headers(&self, seen: &Seen) -> &Headers {
        &self.headers[usize::from(seen.headers)]
    }

    /// Address of the `struct sk_buff` where it was last seen.
    pub(super) fn skb(&self) -> u64 {
        self.skb
    }

    /// Whether events of it are left out on purpose.
    pub(super) fn is_thinned(&self) -> bool {
        self.thinned
    }

    /// Takes all of them out, and keeps the room.
    pub(super) fn drain(&mut self) -> impl ExactSizeIterator<Item = Sighting> {
        let Self { seen, headers, captured, .. } = self;
        captured.sort_unstable_by_key(|(number, _)| *number);
        let mut captured = captured.drain(..).peekable();
        seen.drain(..).map(move |seen| Sighting {
            time: seen.time,
            place: seen.place,
            cpu: seen.cpu,
            len: seen.len,
            tunneled: seen.tunneled,
            headers: headers[usize::from(seen.headers)],
            what: seen.what,
            bytes: captured.next_if(|(number, _)| *number == seen.number).map(|(_, bytes)| bytes),
        })
    }

    /// Empty, with the room that there was, for another packet; unless that is more than one is likely to
    /// need.
    pub(super) fn cleared(mut self) -> Self {
        if self.seen.capacity() > 8 * ROOM {
            return Self::default();
        }
        self.seen.clear();
        self.headers.clear();
        self.captured.clear();
        self.thinned = false;
        self
    }
}
