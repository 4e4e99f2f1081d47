//! BPF netfilter links, which aya does not have: the programs are taken out of the same object that
//! aya loaded, given the maps that aya made, loaded by `bpf(2)` and linked into hooks.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd, RawFd},
};

use anyhow::{Context as _, anyhow};
use aya::{Ebpf, maps::Map};
use aya_obj::{Object, generated::bpf_insn};

use super::{
    brackets::{self, Brackets, HookOccupants, Occupied},
    sys::{self, NetfilterPlace},
};
use crate::{
    event::{Family, Hook},
    host::netns::Netns,
};

const FAMILIES: [(Family, u32); 2] = [(Family::Ipv4, 2), (Family::Ipv6, 10)];

/// How many neighbouring priorities are tried when another program already sits at the wanted one.
const ATTEMPTS: i32 = 16;

/// The netfilter programs of one object.
pub struct Programs {
    instructions: HashMap<String, Vec<bpf_insn>>,
    loaded: HashMap<String, OwnedFd>,
}

impl Programs {
    /// Takes the programs named `nf_*` out of `object`, bound to the maps of `ebpf`, which was
    /// loaded from the same bytes.
    ///
    /// # Errors
    /// When the object cannot be relocated.
    pub fn prepare(object: &[u8], ebpf: &Ebpf) -> anyhow::Result<Self> {
        let mut object = Object::parse(object).context("cannot parse the kernel side")?;
        let sections = object.functions.keys().map(|(section, _)| *section).collect();
        let fds: HashMap<&str, RawFd> =
            ebpf.maps().filter_map(|(name, map)| Some((name, descriptor(map)?))).collect();
        let maps = std::mem::take(&mut object.maps);
        object
            .relocate_maps(
                maps.iter()
                    .filter_map(|(name, map)| Some((name.as_str(), *fds.get(name.as_str())?, map))),
                &sections,
            )
            .context("cannot bind the netfilter programs to their maps")?;
        object.relocate_calls(&sections).context("cannot link the netfilter programs")?;
        let instructions = object
            .programs
            .iter()
            .filter(|(name, _)| name.starts_with("nf_"))
            .filter_map(|(name, program)| {
                let function = object.functions.get(&program.function_key())?;
                Some((name.clone(), function.instructions.clone()))
            })
            .collect();
        Ok(Self { instructions, loaded: HashMap::new() })
    }

    /// Whether this kernel has netfilter links; the reason where it has not.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn check(&mut self) -> anyhow::Result<()> {
        self.load("nf_enter").map(|_| ())
    }

    /// The loaded programs.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.loaded.values().map(|fd| fd.as_fd())
    }

    fn load(&mut self, name: &str) -> anyhow::Result<&OwnedFd> {
        if !self.loaded.contains_key(name) {
            let instructions = self
                .instructions
                .get(name)
                .ok_or_else(|| anyhow!("the kernel side has no program {name}"))?;
            let fd = sys::load_netfilter(name, instructions)
                .with_context(|| format!("the kernel refused program {name}"))?;
            self.loaded.insert(name.to_owned(), fd);
        }
        self.loaded.get(name).ok_or_else(|| anyhow!("program {name} is gone"))
    }

    /// Places observers on all five hooks of a namespace, both families, and notes in `brackets`
    /// where they stand. The links last as long as what is returned.
    ///
    /// # Errors
    /// When the namespace is gone, or the kernel refuses the links.
    pub fn watch(
        &mut self,
        netns: &Netns,
        occupants: &HookOccupants,
        brackets: &mut Brackets,
    ) -> anyhow::Result<Vec<OwnedFd>> {
        let mut wanted = Vec::new();
        for (family, pf) in FAMILIES {
            for hook in Hook::ALL {
                let none = Occupied::default();
                let between = brackets::between(occupants.get(&(family, hook)).unwrap_or(&none));
                let place = |priority| NetfilterPlace { pf, hook: hook as u32, priority };
                wanted.push((String::from("nf_enter"), place(brackets::FIRST)));
                for (n, priority) in between.iter().enumerate() {
                    wanted.push((format!("nf_pass_{}", n + 1), place(*priority)));
                }
                wanted.push((String::from("nf_exit"), place(brackets::LAST)));
                brackets.insert(netns.inode, family, hook, between);
            }
        }
        for (name, _) in &wanted {
            self.load(name)?;
        }
        let loaded = &self.loaded;
        let links = netns
            .enter(|| {
                wanted
                    .iter()
                    .filter_map(|(name, place)| Some(link(loaded.get(name)?, *place)))
                    .collect::<io::Result<Vec<_>>>()
            })
            .with_context(|| format!("cannot watch netfilter in namespace {}", netns.inode))?;
        links.with_context(|| format!("cannot watch netfilter in namespace {}", netns.inode))
    }
}

/// Links at the wanted priority or, where something sits there already, at one close by that is
/// still on the same side of every chain: upwards from the lowest, downwards from the highest.
fn link(program: &OwnedFd, place: NetfilterPlace) -> io::Result<OwnedFd> {
    let step = if place.priority == brackets::LAST { -1 } else { 1 };
    let mut result = Err(io::ErrorKind::ResourceBusy.into());
    for n in 0..ATTEMPTS {
        let place = NetfilterPlace { priority: place.priority + n * step, ..place };
        result = sys::link_netfilter(program.as_fd(), place);
        match &result {
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy => continue,
            _ => break,
        }
    }
    result
}

fn descriptor(map: &Map) -> Option<RawFd> {
    let data = match map {
        Map::Array(m)
        | Map::HashMap(m)
        | Map::LruHashMap(m)
        | Map::PerCpuArray(m)
        | Map::PerCpuHashMap(m)
        | Map::RingBuf(m) => m,
        _ => return None,
    };
    Some(data.fd().as_fd().as_raw_fd())
}
