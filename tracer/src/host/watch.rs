//! Told when links, addresses or rules change in the watched namespaces, and when namespaces come or
//! go.
//!
//! Each watched namespace has an rtnetlink socket in the groups of links, addresses and routing rules, and one of
//! nfnetlink in that of nf_tables. Such a
//! socket keeps its namespace alive, so it is closed as soon as nothing else leads there: at once
//! for a name that is removed, else when its process is missed ([`GLANCE`]). New names are
//! told by inotify, new namespaces of processes by that look.
//!
//! To miss nothing, [`Watch::follow`] first, and take the snapshot then.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, DirEntry},
    io,
    mem::MaybeUninit,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use netlink_sys::{
    Socket, SocketAddr,
    protocols::{NETLINK_NETFILTER, NETLINK_ROUTE},
};
use rustix::{buffer::spare_capacity, event::epoll, fs::inotify};
use tokio::{
    io::{Interest, unix::AsyncFd},
    task::{JoinHandle, spawn_blocking},
    time::sleep_until,
};

use super::{
    Error,
    netlink::borrow,
    netns::{NAMED, Netns},
};

/// How long changes are gathered after the first: a container's start makes dozens.
const GATHER: Duration = Duration::from_millis(50);

/// How often all namespaces are looked up, at most; on a machine where that takes long, so seldom
/// that it takes a fiftieth of the time.
pub const RESCAN: Duration = Duration::from_secs(2);

/// How often it is asked whether the files that followed namespaces were entered by still lead
/// there. Where one does not, its container has just stopped, and its interfaces wait for us to go.
const GLANCE: Duration = Duration::from_millis(200);

/// When to look again after a name appeared that is no namespace yet: `ip netns add` makes the
/// file first.
const SOON: Duration = Duration::from_millis(200);

/// Groups of linux/rtnetlink.h that are listened to.
const GROUPS: [libc::c_uint; 5] = [
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_IPV4_IFADDR,
    libc::RTNLGRP_IPV6_IFADDR,
    libc::RTNLGRP_IPV4_RULE,
    libc::RTNLGRP_IPV6_RULE,
];

/// What changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// Links, addresses or routing rules of the namespace with this inode.
    Namespace(u32),
    /// Rules of nftables in the namespace with this inode. Legacy tables change in silence.
    Rules(u32),
    /// Namespaces came, went, or got another name.
    Namespaces,
    /// The namespace with this inode is gone. The kernel gives an inode away again at once, so that
    /// what has it now is another.
    Gone(u32),
}

/// Watches namespaces. Needs a tokio runtime with time and I/O.
pub struct Watch {
    /// Readable when any of the sockets, or `names`, is.
    ready: AsyncFd<OwnedFd>,
    sockets: BTreeMap<u32, Socket>,
    /// Of nfnetlink, where there is nf_tables.
    rules: BTreeMap<u32, Socket>,
    /// When changes of rules were noticed, the first and the last since it was asked for.
    noticed: BTreeMap<u32, (Instant, Instant)>,
    followed: Vec<Netns>,
    next_glance: Instant,
    names: OwnedFd,
    /// inotify's number for the directory above [`NAMED`], while that is not there.
    above: Option<i32>,
    known: Known,
    next_scan: Instant,
    scanning: Option<JoinHandle<Option<Scan>>>,
    changes: BTreeSet<Change>,
    /// Until when more changes are gathered: `changed` may be dropped and called anew meanwhile.
    gathering: Option<Instant>,
}

/// How often in a row the sockets are asked for more: changes without end must still be told.
const MOST_ROUNDS: usize = 16;

/// What an epoll event is about: an inode, one with this bit for its rules, or names.
const RULES: u64 = 1 << 32;
const NAMES: u64 = u64::MAX;

impl Watch {
    /// Watches for namespaces that come and go. Which of them are watched for links and addresses
    /// is said by [`follow`](Self::follow).
    ///
    /// # Errors
    /// When the kernel gives no more files, or the namespaces cannot be listed.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O.
    pub fn new() -> Result<Self, Error> {
        let open = || {
            let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
            let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
            let names = inotify::init(flags)?;
            epoll::add(&poll, &names, epoll::EventData::new_u64(NAMES), epoll::EventFlags::IN)?;
            // SAFETY: an OwnedFd stays open, and the same file, until it is dropped.
            let ready = unsafe { AsyncFd::register_with_interest(poll, Interest::READABLE)? };
            Ok((ready, names))
        };
        let (ready, names) =
            open().map_err(|e: io::Error| Error::new("watch for network namespaces", e))?;
        let mut watch = Self {
            ready,
            sockets: BTreeMap::new(),
            rules: BTreeMap::new(),
            noticed: BTreeMap::new(),
            followed: Vec::new(),
            next_glance: Instant::now() + GLANCE,
            names,
            above: None,
            known: BTreeSet::new(),
            next_scan: Instant::now() + RESCAN,
            scanning: None,
            changes: BTreeSet::new(),
            gathering: None,
        };
        watch.watch_names();
        watch.known = known(&Netns::all()?);
        Ok(watch)
    }

    /// Watches links and addresses of exactly these namespaces from now on. Returns those that
    /// cannot be watched; their changes stay unnoticed.
    pub fn follow(&mut self, namespaces: &[Netns]) -> Vec<(u32, Error)> {
        let wanted: BTreeSet<_> = namespaces.iter().map(|n| n.inode).collect();
        // A socket that is closed leaves the epoll set by itself.
        self.sockets.retain(|inode, _| wanted.contains(inode));
        self.rules.retain(|inode, _| wanted.contains(inode));
        self.followed = namespaces.to_vec();
        let mut failed = Vec::new();
        for netns in namespaces {
            if !self.sockets.contains_key(&netns.inode)
                && let Err(e) = self.add(netns)
            {
                failed.push((netns.inode, e));
            }
        }
        failed
    }

    /// Waits for something to change, and tells all that changed within a moment. Dropping the
    /// future loses nothing.
    pub async fn changed(&mut self) -> BTreeSet<Change> {
        while self.changes.is_empty() {
            tokio::select! {
                () = wait_readable(&self.ready) => self.collect(),
                scan = next_scan(&mut self.scanning, self.next_scan) => self.scanned(scan),
                () = sleep_until(self.next_glance.into()) => self.glance(),
            }
        }
        sleep_until((*self.gathering.get_or_insert_with(|| Instant::now() + GATHER)).into()).await;
        self.gathering = None;
        self.collect();
        std::mem::take(&mut self.changes)
    }

    fn add(&mut self, netns: &Netns) -> Result<(), Error> {
        let fail = |e| Error::new(format!("watch the links of {}", netns.label()), e);
        let socket = netns.enter(listen)?.map_err(fail)?;
        let data = epoll::EventData::new_u64(netns.inode.into());
        epoll::add(self.ready.get_ref(), borrow(&socket), data, epoll::EventFlags::IN)
            .map_err(|e| fail(e.into()))?;
        self.sockets.insert(netns.inode, socket);
        self.add_rules(netns);
        Ok(())
    }

    /// Listens to changes of rules, too. A kernel may be without.
    fn add_rules(&mut self, netns: &Netns) {
        let listen = || listen_to(NETLINK_NETFILTER, &[libc::NFNLGRP_NFTABLES as libc::c_uint]);
        let Ok(Ok(socket)) = netns.enter(listen) else { return };
        let data = epoll::EventData::new_u64(RULES | u64::from(netns.inode));
        let poll = self.ready.get_ref();
        if epoll::add(poll, borrow(&socket), data, epoll::EventFlags::IN).is_ok() {
            self.rules.insert(netns.inode, socket);
        }
    }

    /// When the change of rules that was told last was noticed: the first, and the last of it.
    pub fn noticed(&mut self, netns: u32) -> Option<(Instant, Instant)> {
        self.noticed.remove(&netns)
    }

    /// Whether changes of rules in this namespace are told.
    pub fn tells_rules(&self, netns: u32) -> bool {
        self.rules.contains_key(&netns)
    }

    /// Takes what there is, without waiting.
    fn collect(&mut self) {
        for _ in 0..MOST_ROUNDS {
            let mut events = Vec::with_capacity(64);
            let now = Some(&rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 });
            let got = epoll::wait(self.ready.get_ref(), spare_capacity(&mut events), now);
            if !matches!(got, Ok(n) if n > 0) {
                break;
            }
            for event in events {
                self.take(event.data.u64());
            }
        }
    }

    fn take(&mut self, about: u64) {
        if about == NAMES {
            if drain_names(&self.names, self.above) {
                self.watch_names();
                self.next_scan = self.next_scan.min(Instant::now() + GATHER);
            }
        } else if about & RULES != 0 {
            let inode = about as u32;
            match self.rules.get(&inode).map(drain) {
                None => {}
                Some(Ok(())) => {
                    let now = Instant::now();
                    self.noticed.entry(inode).or_insert((now, now)).1 = now;
                    self.changes.insert(Change::Rules(inode));
                }
                Some(Err(e)) => {
                    log::warn!("cannot watch the rules of network namespace {inode}: {e}");
                    self.rules.remove(&inode);
                }
            }
        } else if let Ok(inode) = u32::try_from(about) {
            match self.sockets.get(&inode).map(drain) {
                None => {}
                Some(Ok(())) => drop(self.changes.insert(Change::Namespace(inode))),
                Some(Err(e)) => {
                    log::warn!("cannot watch the links of network namespace {inode}: {e}");
                    self.sockets.remove(&inode);
                }
            }
        }
    }

    /// Looks at all namespaces soon when one that is followed seems to be gone.
    fn glance(&mut self) {
        self.next_glance = Instant::now() + GLANCE;
        let before = self.followed.len();
        self.followed.retain(|netns| netns.open().is_ok());
        if self.followed.len() < before {
            self.next_scan = Instant::now();
        }
    }

    /// Compares with the namespaces known before, and lets go of those that nothing else leads to.
    fn scanned(&mut self, scan: Option<Scan>) {
        let pause = match scan {
            Some(scan) => {
                if scan.known != self.known {
                    let is_known = |inode: u32| scan.known.iter().any(|(i, ..)| *i == inode);
                    self.sockets.retain(|inode, _| is_known(*inode));
                    self.rules.retain(|inode, _| is_known(*inode));
                    let gone =
                        self.known.iter().map(|(inode, ..)| *inode).filter(|i| !is_known(*i));
                    self.changes.extend(gone.map(Change::Gone));
                    self.known = scan.known;
                    self.changes.insert(Change::Namespaces);
                }
                if scan.unfinished { SOON } else { RESCAN.max(scan.took * 50) }
            }
            None => RESCAN,
        };
        self.next_scan = Instant::now() + pause;
    }

    /// Watches the directory of names, or, until that is made, the one above it. To watch again
    /// what is watched changes nothing.
    fn watch_names(&mut self) {
        let flags = inotify::WatchFlags::CREATE
            | inotify::WatchFlags::DELETE
            | inotify::WatchFlags::MOVE
            | inotify::WatchFlags::DELETE_SELF
            | inotify::WatchFlags::ONLYDIR;
        let is_watched = inotify::add_watch(&self.names, NAMED, flags).is_ok();
        if is_watched && let Some(above) = self.above.take() {
            let _ = inotify::remove_watch(&self.names, above);
        }
        if !is_watched && let Some(above) = Path::new(NAMED).parent() {
            self.above = inotify::add_watch(&self.names, above, flags).ok();
        }
    }
}

/// What a look at all namespaces found.
struct Scan {
    known: Known,
    /// A file was made for a namespace that is not there yet.
    unfinished: bool,
    took: Duration,
}

impl Scan {
    /// `None` when the namespaces cannot be listed.
    fn take() -> Option<Self> {
        let start = Instant::now();
        let known = known(&Netns::all().ok()?);
        Some(Self { known, unfinished: is_unfinished(), took: start.elapsed() })
    }
}

/// The next look at all namespaces: in a thread of its own, for with thousands it takes long
/// enough to keep events waiting. When this is dropped, the next call takes up where it was.
async fn next_scan(scanning: &mut Option<JoinHandle<Option<Scan>>>, at: Instant) -> Option<Scan> {
    if scanning.is_none() {
        sleep_until(at.into()).await;
    }
    let scan = scanning.get_or_insert_with(|| spawn_blocking(Scan::take)).await;
    *scanning = None;
    scan.ok().flatten()
}

/// Whether a file was made for a namespace that is not there yet.
fn is_unfinished() -> bool {
    let fresh = |entry: &DirEntry| {
        let age = entry.metadata().ok()?.modified().ok()?.elapsed().ok()?;
        Some(age < RESCAN && Netns::by_path(&entry.path()).is_err())
    };
    let names = fs::read_dir(NAMED).into_iter().flatten().flatten();
    names.into_iter().any(|entry| fresh(&entry).unwrap_or(false))
}

async fn wait_readable(fd: &AsyncFd<OwnedFd>) {
    // The guard says that nothing is left; a collection up to the end follows in any case. An
    // error means that the runtime shuts down: then the timer is what ends the wait.
    match fd.readable().await {
        Ok(mut guard) => guard.clear_ready(),
        Err(_) => std::future::pending().await,
    }
}

/// The namespaces there are: inode, name, and the file that leads there, which tells one from another
/// that got its inode since.
type Known = BTreeSet<(u32, Option<String>, PathBuf)>;

fn known(all: &[Netns]) -> Known {
    all.iter().map(|netns| (netns.inode, netns.name.clone(), netns.path().to_owned())).collect()
}

/// A socket that hears of links and addresses of the calling thread's namespace.
fn listen() -> io::Result<Socket> {
    listen_to(NETLINK_ROUTE, &GROUPS)
}

/// A socket that hears of these groups in the calling thread's namespace.
fn listen_to(protocol: isize, groups: &[libc::c_uint]) -> io::Result<Socket> {
    let mut socket = Socket::new(protocol)?;
    socket.bind(&SocketAddr::new(0, 0))?;
    for group in groups {
        socket.add_membership(*group)?;
    }
    socket.set_non_blocking(true)?;
    Ok(socket)
}

/// Takes all messages; what they say is read again from the kernel anyway. ENOBUFS says that some
/// did not fit: that is a change like any other.
fn drain(socket: &Socket) -> io::Result<()> {
    // One byte: the kernel drops the rest of a message that is not asked for.
    let mut byte = [0u8; 1];
    loop {
        match socket.recv(&mut &mut byte[..], 0) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => {}
            Err(e) => return Err(e),
            Ok(_) => {}
        }
    }
}

/// Takes all events; whether there was one about the names of namespaces. `above` watches a
/// directory that has many other files.
fn drain_names(names: &OwnedFd, above: Option<i32>) -> bool {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(names, &mut buffer);
    let directory = Path::new(NAMED).file_name().map(|name| name.as_encoded_bytes());
    let mut any = false;
    // The end is EAGAIN.
    while let Ok(event) = reader.next() {
        let file = event.file_name().map(|name| name.to_bytes());
        any |= Some(event.wd()) != above || file == directory;
    }
    any
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::{super::testing::TestNetns, *};

    /// Whether `wanted` is told in time. Other tests make namespaces as well.
    async fn told(watch: &mut Watch, wanted: Change) -> bool {
        let search = async { while !watch.changed().await.contains(&wanted) {} };
        timeout(Duration::from_secs(5), search).await.is_ok()
    }

    #[tokio::test]
    async fn a_changed_link_or_address_is_told_with_its_namespace() {
        let (watched, other) = (TestNetns::new("watch"), TestNetns::new("other"));
        let (inode, other_inode) = (watched.netns().inode, other.netns().inode);
        let mut watch = Watch::new().unwrap();
        assert!(watch.follow(&[watched.netns()]).is_empty());
        for change in ["link add v0 type veth peer name v1", "address add 10.9.0.1/24 dev v0"] {
            other.ip(change);
            watched.ip(change);
            assert!(told(&mut watch, Change::Namespace(inode)).await, "{change}");
        }
        watched.ip("link set v0 up");
        let changes = watch.changed().await;
        assert!(!changes.contains(&Change::Namespace(other_inode)));
    }

    #[tokio::test]
    async fn a_caller_who_is_often_called_away_is_told() {
        let test = TestNetns::new("busy");
        let inode = test.netns().inode;
        let mut watch = Watch::new().unwrap();
        watch.follow(&[test.netns()]);
        test.ip("link add v0 type veth peer name v1");
        let begin = Instant::now();
        let told = loop {
            assert!(begin.elapsed() < Duration::from_secs(5), "never told");
            if let Ok(changes) = timeout(GATHER / 5, watch.changed()).await {
                break changes;
            }
        };
        assert!(told.contains(&Change::Namespace(inode)), "{told:?}");
    }

    #[tokio::test]
    async fn changed_rules_are_told_with_their_namespace_and_time() {
        let test = TestNetns::new("rules");
        let inode = test.netns().inode;
        let mut watch = Watch::new().unwrap();
        watch.follow(&[test.netns()]);
        assert!(watch.tells_rules(inode));
        let before = Instant::now();
        test.nft("table inet t { chain c { }; }");
        assert!(told(&mut watch, Change::Rules(inode)).await);
        let (first, last) = watch.noticed(inode).unwrap();
        assert!(before < first && first <= last);
        assert_eq!(watch.noticed(inode), None);
        watch.follow(&[]);
        assert!(!watch.tells_rules(inode));
    }

    #[tokio::test]
    async fn a_flood_is_told_once_and_an_overrun_is_no_error() {
        let test = TestNetns::new("flood");
        let inode = test.netns().inode;
        let mut watch = Watch::new().unwrap();
        watch.follow(&[test.netns()]);
        watch.sockets[&inode].set_rx_buf_sz(2048).unwrap();
        let add = "for i in $(seq 1 200); do echo address add 10.9.0.$i/24 dev lo; done | ip -b -";
        test.exec("sh", &["-c", add]);
        assert!(told(&mut watch, Change::Namespace(inode)).await);
        assert!(watch.sockets.contains_key(&inode));
        test.ip("link add v0 type veth peer name v1");
        assert!(told(&mut watch, Change::Namespace(inode)).await);
    }

    #[tokio::test]
    async fn a_namespace_that_comes_or_goes_is_told_and_let_go() {
        let mut watch = Watch::new().unwrap();
        let test = TestNetns::new("comes");
        let netns = test.netns();
        while !watch.known.iter().any(|(inode, ..)| *inode == netns.inode) {
            assert!(told(&mut watch, Change::Namespaces).await);
        }
        watch.follow(std::slice::from_ref(&netns));
        drop(test);
        assert!(told(&mut watch, Change::Gone(netns.inode)).await);
        assert!(!watch.sockets.contains_key(&netns.inode));
        assert!(netns.open().is_err());
        let failed = watch.follow(std::slice::from_ref(&netns));
        assert!(failed[0].1.is_gone());
    }

    #[test]
    fn a_directory_that_is_made_later_is_noticed_by_the_one_above() {
        let above = std::env::temp_dir().join(format!("pt-host-{}-above", std::process::id()));
        fs::create_dir(&above).unwrap();
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        let names = inotify::init(flags).unwrap();
        let number = inotify::add_watch(&names, &above, inotify::WatchFlags::CREATE).unwrap();
        fs::write(above.join("something"), "").unwrap();
        let for_another_file = drain_names(&names, Some(number));
        fs::create_dir(above.join("netns")).unwrap();
        let for_the_directory = drain_names(&names, Some(number));
        fs::remove_dir_all(&above).unwrap();
        assert!(!for_another_file && for_the_directory);
    }
}
