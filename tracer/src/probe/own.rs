//! Programs that aya cannot load: netfilter programs, and those of kernel functions, which are
//! loaded once for each target. They are taken out of the same object that aya loaded, bound to the
//! maps that aya made, and go to the kernel by [`sys`](super::sys).
//!
//! In the object they stand in a section that aya parses and never loads (`classifier`); their names
//! tell what they are: `nf_*` for hooks, and a watched function's name with one of [`FORMS`].

use std::{
    collections::HashMap,
    os::fd::{AsFd as _, AsRawFd as _, RawFd},
};

use anyhow::Context as _;
use aya::{Ebpf, maps::Map};
use aya_obj::{Object, generated::bpf_insn};

/// What the names of a function's programs end in.
pub const FORMS: [&str; 4] = ["__fentry", "__fexit", "__kprobe", "__kretprobe"];

/// Programs by name, ready to be loaded.
pub struct Programs {
    instructions: HashMap<String, Vec<bpf_insn>>,
}

impl Programs {
    /// Takes them out of `object`, bound to the maps of `ebpf`, which was loaded from the same
    /// bytes.
    ///
    /// # Errors
    /// When the object cannot be relocated.
    pub fn prepare(object: &[u8], ebpf: &Ebpf) -> anyhow::Result<Self> {
        let mut object = Object::parse(object).context("cannot parse the kernel side")?;
        let sections = object.functions.keys().map(|(section, _)| *section).collect();
        object.programs.retain(|name, _| is_own(name));
        let fds: HashMap<&str, RawFd> =
            ebpf.maps().filter_map(|(name, map)| Some((name, descriptor(map)?))).collect();
        let maps = std::mem::take(&mut object.maps);
        object
            .relocate_maps(
                maps.iter()
                    .filter_map(|(name, map)| Some((name.as_str(), *fds.get(name.as_str())?, map))),
                &sections,
            )
            .context("cannot bind the kernel side to its maps")?;
        object.relocate_calls(&sections).context("cannot link the kernel side")?;
        let instructions = object
            .programs
            .iter()
            .filter_map(|(name, program)| {
                let function = object.functions.get(&program.function_key())?;
                Some((name.clone(), function.instructions.clone()))
            })
            .collect();
        Ok(Self { instructions })
    }

    /// The instructions of a program, if the object has it.
    pub fn get(&self, name: &str) -> Option<&[bpf_insn]> {
        self.instructions.get(name).map(Vec::as_slice)
    }
}

fn is_own(name: &str) -> bool {
    name.starts_with("nf_") || FORMS.iter().any(|form| name.ends_with(form))
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
