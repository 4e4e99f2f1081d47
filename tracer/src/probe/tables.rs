//! Keeps the kernel side's tables clean. It removes a packet when it sees its end; what ends
//! unseen (TCP frees segments without a tracepoint) is removed from here.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    os::fd::{AsFd as _, OwnedFd},
    time::Duration,
};

use anyhow::anyhow;
use aya::{
    Ebpf,
    maps::{HashMap, Map, MapData, MapError},
};
use tracer_common::{
    event::Tuple,
    track::{Flow, Followed, ID_TIME_SHIFT, Published, telling},
};

use super::sys;
use crate::{
    event::{Family, Headers, PacketId, wire},
    host::clock::nanoseconds,
    select::mapped,
};

/// Most packets that are looked through at a time: as many as the table holds.
const MOST_READ: usize = 65_536;

/// `BPF_NOEXIST`.
const NOEXIST: u64 = 1;

/// The tables of followed packets and learned replies.
pub struct Tables {
    followed: HashMap<MapData, u64, Followed>,
    /// `followed` again: aya lends no descriptor of a typed map.
    followed_fd: OwnedFd,
    learned: HashMap<MapData, Flow, u64>,
    quoted: HashMap<MapData, u64, Quoted>,
    published: HashMap<MapData, Published, u8>,
    containers: HashMap<MapData, [u8; 16], u8>,
    tracking: HashMap<MapData, u64, u8>,
    /// Tuples that had no room.
    refused: u64,
    /// Published addresses that have none.
    unpublished: u64,
}

/// A value of the map `QUOTED`.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Quoted(Tuple);

// SAFETY: `repr(C)`, integers only, every bit pattern valid.
unsafe impl aya::Pod for Quoted {}

impl Tables {
    pub(super) fn take(ebpf: &mut Ebpf) -> anyhow::Result<Self> {
        let mut take =
            |name| ebpf.take_map(name).ok_or_else(|| anyhow!("map {name} is taken already"));
        let followed = take("FOLLOWED")?;
        let followed_fd = match &followed {
            Map::HashMap(data) => data.fd().as_fd().try_clone_to_owned()?,
            _ => return Err(anyhow!("map FOLLOWED is no hash map")),
        };
        Ok(Self {
            followed: HashMap::try_from(followed)?,
            followed_fd,
            learned: HashMap::try_from(take("LEARNED")?)?,
            quoted: HashMap::try_from(take("QUOTED")?)?,
            published: HashMap::try_from(take("PUBLISHED")?)?,
            containers: HashMap::try_from(take("CONTAINERS")?)?,
            tracking: HashMap::try_from(take("TRACKING")?)?,
            refused: 0,
            unpublished: 0,
        })
    }

    /// Removes the packet with this id, whose skb was at `address`. One that has begun at the same
    /// address since is left alone.
    pub fn retire(&mut self, address: u64, id: PacketId) {
        if !self.followed.get(&address, 0).is_ok_and(|known| known.id == id.0) {
            return;
        }
        match sys::take::<u64, Followed>(self.followed_fd.as_fd(), &address) {
            // Another packet began there between the two calls: back with it, unless it is back.
            Ok(other) if other.id != id.0 => {
                let _ = self.followed.insert(address, other, NOEXIST);
            }
            // Linux before 5.14 does not do it in one step. What may begin there meanwhile loses the
            // rest of its way; what stays here would be taken for another packet sooner or later.
            Err(e) if e.raw_os_error() == Some(sys::ENOTSUPP) => {
                let _ = self.followed.remove(&address);
            }
            _ => {}
        }
    }

    /// The packet that this one quotes, an ICMP error. To be asked once, soon after it has begun.
    pub fn quoted(&mut self, id: PacketId) -> Option<Headers> {
        let Quoted(tuple) = self.quoted.get(&id.0, 0).ok()?;
        let _ = self.quoted.remove(&id.0);
        let headers = wire::headers(&tuple);
        (headers.family != Family::Other).then_some(headers)
    }

    /// The rules of a namespace have changed: whether connections are tracked there has to be seen anew.
    pub fn forget_tracking(&mut self, netns: u32) {
        let old = self.tracking.keys().filter_map(Result::ok);
        for key in old.filter(|key| *key as u32 == netns).collect::<Vec<_>>() {
            let _ = self.tracking.remove(&key);
        }
    }

    /// Packets with this tuple are followed from now on, as if an answer to it had been learned at
    /// `time` (CLOCK_MONOTONIC).
    pub fn learn(&mut self, flow: Flow, time: Duration) {
        let time = nanoseconds(time);
        self.refused += u64::from(self.learned.insert(flow, time, 0).is_err());
    }

    /// Packets to exactly these addresses are followed.
    pub fn publish(&mut self, addresses: &BTreeSet<Published>) {
        let old: Vec<Published> = self.published.keys().filter_map(Result::ok).collect();
        for gone in old.into_iter().filter(|old| !addresses.contains(old)) {
            let _ = self.published.remove(&gone);
        }
        let refused =
            addresses.iter().filter(|address| self.published.insert(*address, 1, 0).is_err());
        self.unpublished = refused.count() as u64;
    }

    /// Packets of containers are those of exactly these addresses.
    pub fn select(&mut self, addresses: &BTreeSet<IpAddr>) {
        let wanted: BTreeSet<[u8; 16]> = addresses.iter().copied().map(mapped).collect();
        let old: Vec<[u8; 16]> = self.containers.keys().filter_map(Result::ok).collect();
        for gone in old.iter().filter(|old| !wanted.contains(*old)) {
            let _ = self.containers.remove(gone);
        }
        for new in wanted.iter().filter(|new| !old.contains(new)) {
            // The table has room for as many as are ever selected.
            if let Err(e) = self.containers.insert(new, 1, 0) {
                log::warn!("an address of a container is not followed: {e}");
            }
        }
    }

    /// How many tuples and addresses had no room.
    pub fn refused(&self) -> u64 {
        self.refused + self.unpublished
    }

    /// Removes reverse tuples that no packet carried since `before` (CLOCK_MONOTONIC, ns).
    pub fn forget_learned(&mut self, before: Duration) {
        let before = nanoseconds(before);
        let old: Vec<Flow> = self
            .learned
            .iter()
            .filter_map(Result::<_, MapError>::ok)
            .filter(|(_, last_seen)| *last_seen < before)
            .map(|(flow, _)| flow)
            .collect();
        for flow in old {
            let _ = self.learned.remove(&flow);
        }
    }

    /// Removes packets of which nothing was told, and that began longer ago than `age` at `now`
    /// (CLOCK_MONOTONIC): nobody but the kernel side knows of them, which does not see every end.
    pub fn forget_untold(&mut self, now: Duration, age: Duration) {
        // The upper bits of an id are the time at which it was given.
        let now = nanoseconds(now) << ID_TIME_SHIFT;
        let age = nanoseconds(age) << ID_TIME_SHIFT;
        let is_old = |known: &Followed| {
            known.telling >= telling::DROP && known.told == 0 && now.wrapping_sub(known.id) > age
        };
        // Where packets end meanwhile it begins anew, perhaps again and again.
        let all = self.followed.iter().take(MOST_READ).filter_map(Result::<_, MapError>::ok);
        let old: Vec<_> = all.filter(|(_, known)| is_old(known)).collect();
        for (address, known) in old {
            self.retire(address, PacketId(known.id));
        }
    }

    /// How many packets are followed now.
    pub fn followed(&self) -> usize {
        self.followed.keys().filter(Result::is_ok).count()
    }
}
