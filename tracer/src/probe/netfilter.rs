//! BPF netfilter links, which aya does not have: [`own`] programs, linked into hooks.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::Arc,
};

use anyhow::{Context as _, anyhow};
use aya::util::KernelVersion;

use super::{
    brackets::{self, Brackets, HookOccupants, Interval, Occupied, Placed},
    own,
    sys::{self, Kind, NetfilterPlace},
};
use crate::{
    event::{Hook, HookFamily},
    host::netns::Netns,
};

const FAMILIES: [(HookFamily, u32); 2] = [(HookFamily::Ipv4, 2), (HookFamily::Ipv6, 10)];

/// How many neighbouring priorities are tried when another program already sits at the wanted one.
const ATTEMPTS: i32 = 16;

/// The netfilter programs.
pub struct Programs {
    own: Arc<own::Programs>,
    loaded: HashMap<String, OwnedFd>,
}

impl Programs {
    /// Nothing is loaded yet.
    pub fn new(own: Arc<own::Programs>) -> Self {
        Self { own, loaded: HashMap::new() }
    }

    /// Whether this kernel has netfilter links; the reason where it has not.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn check(&mut self) -> anyhow::Result<()> {
        let since = KernelVersion::new(6, 4, 0);
        let is_older = KernelVersion::current().is_ok_and(|now| now < since);
        self.load("nf_enter").map_err(|why| {
            if is_older { anyhow!("netfilter links came with Linux 6.4") } else { why }
        })?;
        self.load("nf_exit").map(drop)
    }

    /// The loaded programs.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.loaded.values().map(|fd| fd.as_fd())
    }

    fn load(&mut self, name: &str) -> anyhow::Result<&OwnedFd> {
        if !self.loaded.contains_key(name) {
            self.loaded.insert(name.to_owned(), self.own.load(name, Kind::Netfilter)?);
        }
        self.loaded.get(name).ok_or_else(|| anyhow!("program {name} is gone"))
    }

    /// Loads what `watch` will need, so that it only links.
    fn load_all(&mut self, between: usize) -> anyhow::Result<()> {
        self.load("nf_enter")?;
        self.load("nf_exit")?;
        for number in 1..=between {
            self.load(&format!("nf_pass_{number}"))?;
        }
        Ok(())
    }

    /// Places observers on all five hooks of a namespace, both families, around its `occupants`,
    /// and notes in `brackets` where they stand. What `observers` holds already and still fits
    /// stays where it is: packets on their way pass it as ever. The links last as long as
    /// `observers`.
    ///
    /// # Errors
    /// When the namespace is gone, or the kernel refuses the links.
    pub fn watch(
        &mut self,
        netns: &Netns,
        occupants: &HookOccupants,
        observers: &mut Observers,
        brackets: &mut Brackets,
    ) -> anyhow::Result<()> {
        let none = Occupied::default();
        let mut wanted = Vec::new();
        for (family, pf) in FAMILIES {
            for hook in Hook::ALL {
                let occupied = occupants.get(&(family, hook)).unwrap_or(&none);
                wanted.push((family, pf, hook, brackets::gaps(occupied)));
            }
        }
        // Some numbers may be taken by what leaves only when its successor is there.
        self.load_all(wanted.iter().map(|(.., gaps)| gaps.len()).max().unwrap_or(0))?;
        let loaded = &self.loaded;
        let placed = netns.enter(|| {
            for (family, pf, hook, gaps) in &wanted {
                let at = Place { loaded, pf: *pf, hook: *hook };
                observers.hooks.entry((*family, *hook)).or_default().place(&at, gaps)?;
            }
            io::Result::Ok(())
        });
        for ((family, hook), observed) in &observers.hooks {
            if let Some(placed) = observed.placed() {
                brackets.insert(netns.inode, *family, *hook, placed);
            }
        }
        let said = || format!("cannot watch netfilter in namespace {}", netns.inode);
        placed.with_context(said)?.with_context(said)
    }
}

/// The observers in the hooks of one namespace.
#[derive(Debug, Default)]
pub struct Observers {
    hooks: HashMap<(HookFamily, Hook), Observed>,
}

/// A link and the priority that it got.
#[derive(Debug)]
struct Observer {
    priority: i32,
    _link: OwnedFd,
}

/// The observers of one hook.
#[derive(Debug, Default)]
struct Observed {
    first: Option<Observer>,
    last: Option<Observer>,
    /// By the number that the packet carries past it.
    between: BTreeMap<u8, Observer>,
}

/// A hook of the calling thread's namespace.
struct Place<'a> {
    loaded: &'a HashMap<String, OwnedFd>,
    pf: u32,
    hook: Hook,
}

impl Observed {
    fn place(&mut self, at: &Place<'_>, gaps: &[Interval]) -> io::Result<()> {
        if self.first.is_none() {
            self.first = at.link("nf_enter", (0..ATTEMPTS).map(|n| brackets::FIRST + n))?;
        }
        if self.last.is_none() {
            self.last = at.link("nf_exit", (0..ATTEMPTS).map(|n| brackets::LAST - n))?;
        }
        self.between.retain(|_, observer| gaps.iter().any(|gap| gap.contains(observer.priority)));
        for gap in gaps {
            if self.between.values().any(|observer| gap.contains(observer.priority)) {
                continue;
            }
            let free = (1..=gaps.len()).filter_map(|n| u8::try_from(n).ok());
            let Some(number) = free.into_iter().find(|n| !self.between.contains_key(n)) else {
                break;
            };
            // Never past the next chain: the packet would seem to have passed that.
            let priorities = (gap.after + 1..gap.before).take(ATTEMPTS as usize);
            if let Some(observer) = at.link(&format!("nf_pass_{number}"), priorities)? {
                self.between.insert(number, observer);
            }
        }
        Ok(())
    }

    fn placed(&self) -> Option<Placed> {
        let (first, last) = (self.first.as_ref()?.priority, self.last.as_ref()?.priority);
        let between = self.between.iter().map(|(number, observer)| (*number, observer.priority));
        Some(Placed::new(first, last, between))
    }
}

impl Place<'_> {
    /// Links at the first of these priorities where nothing else sits; `None` when all are taken.
    fn link(
        &self,
        program: &str,
        priorities: impl Iterator<Item = i32>,
    ) -> io::Result<Option<Observer>> {
        let program = self.loaded.get(program).ok_or(io::ErrorKind::NotFound)?;
        for priority in priorities {
            let place = NetfilterPlace { pf: self.pf, hook: self.hook as u32, priority };
            match sys::link_netfilter(program.as_fd(), place) {
                Ok(link) => return Ok(Some(Observer { priority, _link: link })),
                Err(e) if e.kind() == io::ErrorKind::ResourceBusy => {}
                Err(e) => return Err(e),
            }
        }
        Ok(None)
    }
}
