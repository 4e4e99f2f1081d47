//! What a start reads before anything is loaded: the kernel's types, what aya asks the kernel, and the compiled kernel
//! side. Reading takes longest of what is not the verifier's, so all is read at once.

use std::{borrow::Cow, panic::resume_unwind, thread};

use aya::EbpfLoader;

use super::{Code, OBJECT, btf::KernelTypes, own::Compiled, sys};

/// What was read.
pub struct Sources {
    /// The kernel's types.
    pub kernel: KernelTypes,
    /// Without types: those that it reads, on being made, nobody needs.
    pub(super) loader: EbpfLoader<'static>,
    /// The kernel side.
    pub(super) compiled: Compiled,
}

impl Sources {
    /// Reads them; `expression`: what the kernel side is to match packets with as well.
    ///
    /// # Errors
    /// When this kernel has no BTF, or the kernel side has no room for the expression.
    pub fn read(expression: Option<&Code>) -> anyhow::Result<Self> {
        sys::lift_memory_limit();
        let compiled = || {
            let object = expression.map_or(Ok(Cow::Borrowed(OBJECT)), |code| code.put_into(OBJECT));
            Compiled::read(object?)
        };
        let (kernel, loader, compiled) = thread::scope(|scope| {
            let others = scope.spawn(|| {
                let mut loader = EbpfLoader::new();
                loader.btf(None);
                // What this kernel can do aya asks it once, whenever that is needed first.
                aya::features();
                (loader, compiled())
            });
            let kernel = KernelTypes::read();
            let (loader, compiled) = others.join().unwrap_or_else(|panic| resume_unwind(panic));
            (kernel, loader, compiled)
        });
        Ok(Self { kernel: kernel?, loader, compiled: compiled? })
    }
}
