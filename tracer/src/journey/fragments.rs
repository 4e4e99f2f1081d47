//! Which fragments are of one packet, and what tuple that packet has: only its first fragment tells ports.

use std::{net::IpAddr, num::NonZeroUsize};

use lru::LruCache;

use super::flow::Key;
use crate::event::{Family, Headers, PacketId};

/// How long an identification stands for one packet, ns: as long as Linux waits for its fragments
/// (`ipfrag_time`).
const STANDS_FOR: u64 = 30_000_000_000;

/// Most fragments that are remembered of one packet: 64 KiB in fragments of 576 bytes.
const FRAGMENTS_OF_A_PACKET: usize = 120;

/// What fragments of a packet have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Datagram {
    family: Family,
    proto: u8,
    src: IpAddr,
    dst: IpAddr,
    id: u16,
}

impl Datagram {
    /// Of which packet this is a fragment; `None`: it is whole.
    pub(super) fn of(headers: &Headers) -> Option<Self> {
        let &Headers { family, proto, src, dst, fragment_id: id, .. } = headers;
        headers.is_fragment().then_some(Self { family, proto, src, dst, id })
    }
}

#[derive(Debug)]
struct Known {
    /// The tuple that its first fragment tells.
    key: Option<Key>,
    fragments: Vec<PacketId>,
    last_seen: u64,
}

/// The packets of which fragments were seen, those forgotten that were longest not seen when there are too
/// many.
#[derive(Debug)]
pub(super) struct Fragments {
    datagrams: LruCache<Datagram, Known>,
    forgotten: u64,
}

impl Fragments {
    pub(super) fn new(most: usize) -> Self {
        let most = NonZeroUsize::new(most).unwrap_or(NonZeroUsize::MIN);
        Self { datagrams: LruCache::new(most), forgotten: 0 }
    }

    /// Packets, and fragments of one, that were forgotten because there were too many.
    pub(super) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// A fragment was seen at this time (ns).
    pub(super) fn see(&mut self, datagram: Datagram, headers: &Headers, id: PacketId, now: u64) {
        if !self.datagrams.get(&datagram).is_some_and(|known| stands(known, now)) {
            let known = Known { key: None, fragments: Vec::new(), last_seen: now };
            let replaced = self.datagrams.push(datagram, known);
            // One whose time was over is no loss.
            self.forgotten += u64::from(replaced.is_some_and(|(_, known)| stands(&known, now)));
        }
        let Some(known) = self.datagrams.peek_mut(&datagram) else { return };
        known.last_seen = known.last_seen.max(now);
        if !headers.later_fragment {
            known.key = Some(Key::of(headers));
        }
        if !known.fragments.contains(&id) {
            if known.fragments.len() == FRAGMENTS_OF_A_PACKET {
                self.forgotten += 1;
            } else {
                known.fragments.push(id);
            }
        }
    }

    /// The tuple of a fragment's packet: its own where it has ports.
    pub(super) fn key(&self, headers: &Headers, now: u64) -> Key {
        Datagram::of(headers)
            .and_then(|datagram| self.datagrams.peek(&datagram))
            .filter(|known| headers.later_fragment && stands(known, now))
            .and_then(|known| known.key)
            .unwrap_or_else(|| Key::of(headers))
    }

    /// The fragments that were seen of a packet.
    pub(super) fn of(&self, datagram: &Datagram) -> Vec<PacketId> {
        self.datagrams.peek(datagram).map(|known| known.fragments.clone()).unwrap_or_default()
    }
}

/// Whether a fragment that is seen now is of the packet that was meant before.
fn stands(known: &Known, now: u64) -> bool {
    now.saturating_sub(known.last_seen) <= STANDS_FOR
}
