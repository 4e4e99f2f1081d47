//! Programs that aya does not load. It cannot load netfilter programs and those of kernel functions, which are
//! loaded once for each target; and to find a tracepoint it would have the kernel's types read once more. They are
//! taken out of the same object that aya loaded, bound to the maps that aya made, and go to the kernel by
//! [`sys`](super::sys).
//!
//! In the object those of tracepoints with types stand in `tp_btf/TRACEPOINT`, the others in sections that aya parses and
//! never loads (`classifier/NAME`). A program that has several forms has the form in its name: `NAME__kprobe`.

use std::{
    borrow::Cow,
    collections::HashMap,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    sync::Arc,
    time::Instant,
};

use anyhow::Context as _;
use aya::{Ebpf, maps::Map};
use aya_obj::{Object, generated::bpf_insn};
use tracer_common::{
    config::{Arguments, Offsets, Settings},
    filter::Filter,
};

use super::{TC, btf::KernelTypes, layouts, offsets, sys};

/// The section of constants.
const CONSTANTS: &str = ".rodata";

/// What the user side tells the kernel side before it is loaded.
#[derive(Clone, Copy, Debug)]
pub struct Constants {
    /// Where fields are.
    pub offsets: Offsets,
    /// Which arguments are what.
    pub arguments: Arguments,
    /// Settings of the trace.
    pub settings: Settings,
    /// Which packets to follow.
    pub filter: Filter,
    /// How much the kernel side logs.
    pub log_level: u8,
}

impl Constants {
    /// Takes over what these types tell; whether that is new.
    pub fn know(&mut self, types: &KernelTypes) -> bool {
        let before = (self.offsets, self.arguments, self.settings);
        self.offsets = offsets::resolve(types);
        if !types.of_modules {
            layouts::fill_in(&mut self.offsets, &types.image);
        }
        self.arguments = offsets::resolve_arguments(types);
        self.settings.rules_are_listed = offsets::rules_are_listed(types).into();
        before != (self.offsets, self.arguments, self.settings)
    }

    /// Their names in the object, and what to write there.
    pub fn globals(&self) -> [(&'static str, &[u8]); 5] {
        [
            ("OFFSETS", sys::bytes_of(&self.offsets)),
            ("ARGUMENTS", sys::bytes_of(&self.arguments)),
            ("SETTINGS", sys::bytes_of(&self.settings)),
            ("FILTER", sys::bytes_of(&self.filter)),
            (aya_log::LEVEL, sys::bytes_of(&self.log_level)),
        ]
    }
}

/// The kernel side, read.
pub struct Compiled {
    bytes: Arc<Cow<'static, [u8]>>,
    object: Object,
}

impl Compiled {
    /// Reads it.
    ///
    /// # Errors
    /// When it is no object of BPF programs.
    pub fn read(bytes: impl Into<Arc<Cow<'static, [u8]>>>) -> anyhow::Result<Self> {
        let bytes = bytes.into();
        let object = Object::parse(&bytes).context("cannot parse the kernel side")?;
        Ok(Self { bytes, object })
    }

    /// As it was read.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Programs by name, ready to be loaded.
pub struct Programs {
    /// What they are taken from.
    bytes: Arc<Cow<'static, [u8]>>,
    instructions: HashMap<String, Vec<bpf_insn>>,
    /// The maps that they are bound to.
    maps: Arc<Maps>,
    /// What they have instead of the constants that aya wrote.
    _constants: Option<OwnedFd>,
}

/// The maps that aya made.
struct Maps(HashMap<String, OwnedFd>);

impl Programs {
    /// Takes them out of `compiled`, bound to the maps of `ebpf`, which was loaded from the same
    /// bytes.
    ///
    /// # Errors
    /// When it cannot be relocated.
    pub fn prepare(compiled: Compiled, ebpf: &Ebpf) -> anyhow::Result<Self> {
        let mut maps = HashMap::new();
        for (name, map) in ebpf.maps() {
            if let Some(fd) = descriptor(map) {
                maps.insert(name.to_owned(), fd.try_clone_to_owned()?);
            }
        }
        Self::link(compiled, None, Arc::new(Maps(maps)))
    }

    /// The same with other constants: what is loaded keeps those that it has.
    ///
    /// # Errors
    /// When the kernel refuses the map that holds them.
    pub fn with(&self, constants: &Constants) -> anyhow::Result<Self> {
        Self::link(Compiled::read(self.bytes.clone())?, Some(constants), self.maps.clone())
    }

    fn link(
        compiled: Compiled,
        constants: Option<&Constants>,
        made: Arc<Maps>,
    ) -> anyhow::Result<Self> {
        let Compiled { bytes, mut object } = compiled;
        let constants = constants.map(|constants| written(&mut object, constants)).transpose()?;
        let sections = object.functions.keys().map(|(section, _)| *section).collect();
        object.programs.retain(|name, _| !TC.iter().any(|(tc, _)| tc == name));
        let maps = std::mem::take(&mut object.maps);
        let bound = maps.iter().filter_map(|(name, map)| {
            let own = constants.as_ref().filter(|_| name == CONSTANTS);
            Some((name.as_str(), own.or_else(|| made.0.get(name))?.as_raw_fd(), map))
        });
        object
            .relocate_maps(bound, &sections)
            .context("cannot bind the kernel side to its maps")?;
        object.relocate_calls(&sections).context("cannot link the kernel side")?;
        let instructions = object
            .programs
            .iter()
            .filter_map(|(name, program)| {
                let function = object.functions.remove(&program.function_key())?;
                Some((name.clone(), function.instructions))
            })
            .collect();
        Ok(Self { bytes, instructions, maps: made, _constants: constants })
    }

    /// Has the kernel take a program.
    ///
    /// # Errors
    /// When it refuses it, with the end of the verifier's log; when there is no such program.
    pub fn load(&self, name: &str, kind: sys::Kind<'_>) -> anyhow::Result<OwnedFd> {
        let instructions =
            self.get(name).with_context(|| format!("the kernel side has no program {name}"))?;
        let began = Instant::now();
        let loaded = sys::load(name, instructions, kind);
        log::debug!("program {name}: the verifier took {:?}", began.elapsed());
        loaded
            .with_context(|| format!("the kernel refused program {name}"))
            .inspect_err(|why| log::debug!("{why:#}"))
    }

    /// The instructions of a program, if the object has it.
    pub fn get(&self, name: &str) -> Option<&[bpf_insn]> {
        self.instructions.get(name).map(Vec::as_slice)
    }
}

/// Writes the constants; the map that holds them.
fn written(object: &mut Object, constants: &Constants) -> anyhow::Result<OwnedFd> {
    let globals = constants.globals().map(|(name, bytes)| (name, (bytes, true)));
    object.patch_map_data(globals.into()).context("cannot write the kernel side's constants")?;
    let section = object.maps.get(CONSTANTS).context("the kernel side has no constants")?;
    sys::constant_map(section.data()).context("the kernel refused constants")
}

fn descriptor(map: &Map) -> Option<BorrowedFd<'_>> {
    match map {
        Map::Array(m)
        | Map::HashMap(m)
        | Map::LruHashMap(m)
        | Map::PerCpuArray(m)
        | Map::PerCpuHashMap(m)
        | Map::RingBuf(m) => Some(m.fd().as_fd()),
        _ => None,
    }
}
