//! The running kernel's types: those of the kernel image, and those of the modules that have watched
//! functions, which describe only what the image does not (split BTF, Linux 5.11).

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::Context as _;
use btf_rs::{Btf, BtfType, Type};

use super::functions;

/// Where the kernel keeps its BTF, a file for the image and one for each module.
const DIRECTORY: &str = "/sys/kernel/btf";

/// Where the kernel keeps the image's.
const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// A function that BTF lists. That does not mean that it can be traced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypedFunction {
    /// Number of its `BTF_KIND_FUNC`.
    pub id: u32,
    /// The module that it is in.
    pub module: Option<String>,
}

/// A tracepoint that BTF describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TypedTracepoint {
    /// Number of its `BTF_KIND_TYPEDEF` (`btf_trace_NAME`).
    pub id: u32,
    /// How many arguments it hands to a program, its context data not counted.
    pub arguments: usize,
}

/// Structures, tracepoints, functions and enums of the image and of modules.
pub struct KernelTypes {
    /// The image's.
    pub image: Btf,
    /// Whether this kernel keeps BTF of modules, or could: it is built with
    /// `CONFIG_DEBUG_INFO_BTF_MODULES` (Linux 5.11) and has one, or everything is in the image.
    pub of_modules: bool,
    modules: BTreeMap<String, Btf>,
}

impl KernelTypes {
    /// Reads them.
    ///
    /// # Errors
    /// When this kernel has no BTF.
    pub fn read() -> anyhow::Result<Self> {
        let image = fs::read(VMLINUX).with_context(|| {
            format!(
                "cannot read {VMLINUX}: pathtrace needs a kernel built with CONFIG_DEBUG_INFO_BTF"
            )
        })?;
        let image = Btf::from_bytes(&image)
            .with_context(|| format!("{VMLINUX} is not BTF that pathtrace can read"))?;
        let read = |module: &'static str| {
            let path = Path::new(DIRECTORY).join(module);
            // A module that is not loaded, or whose types this kernel does not keep.
            let types = fs::read(path).ok()?;
            match Btf::from_split_bytes(&types, &image) {
                Ok(types) => Some((module.to_owned(), types)),
                Err(e) => {
                    log::warn!(
                        "the types of module {module} cannot be read, and are not used: {e}"
                    );
                    None
                }
            }
        };
        // Each is a small part of the image's: not worth a thread.
        let modules = functions::modules().into_iter().filter_map(read).collect();
        let of_modules = !Path::new("/proc/modules").exists()
            || fs::read_dir(DIRECTORY).is_ok_and(|files| files.count() > 1);
        Ok(Self { image, of_modules, modules })
    }

    /// The modules whose types are known.
    pub fn modules(&self) -> impl Iterator<Item = &str> {
        self.modules.keys().map(String::as_str)
    }

    /// The first answer that `look` has, in the image and then in each module.
    pub fn find<T>(&self, look: impl Fn(&Btf) -> Option<T>) -> Option<T> {
        look(&self.image).or_else(|| self.modules.values().find_map(look))
    }

    /// The function of this name.
    pub fn function(&self, name: &str) -> Option<TypedFunction> {
        if let Some(id) = function_id(&self.image, name) {
            return Some(TypedFunction { id, module: None });
        }
        self.modules.iter().find_map(|(module, types)| {
            let id = function_id(types, name)?;
            Some(TypedFunction { id, module: Some(module.clone()) })
        })
    }

    /// The image's tracepoint of this name.
    pub fn tracepoint(&self, name: &str) -> Option<TypedTracepoint> {
        let types = &self.image;
        let ids = types.resolve_ids_by_name(&format!("btf_trace_{name}")).ok()?;
        ids.into_iter().find_map(|id| {
            let Type::Typedef(typedef) = types.resolve_type_by_id(id).ok()? else { return None };
            let pointer = types.resolve_chained_type(&typedef).ok()?;
            match types.resolve_chained_type(pointer.as_btf_type()?).ok()? {
                Type::FuncProto(prototype) => {
                    let arguments = prototype.parameters.len().saturating_sub(1);
                    Some(TypedTracepoint { id, arguments })
                }
                _ => None,
            }
        })
    }

    /// Which argument of a function it is: a pointer to a structure of that name, or the argument's
    /// own name. `None` where there is no such function, or it has no such argument.
    pub fn argument_index(&self, function: &str, wanted: &str) -> Option<u32> {
        self.find(|types| {
            let id = function_id(types, function)?;
            let function = types.resolve_type_by_id(id).ok()?;
            let prototype = types.resolve_chained_type(function.as_btf_type()?).ok()?;
            let Type::FuncProto(prototype) = prototype else { return None };
            let is_it = |parameter: &btf_rs::Parameter| {
                types.resolve_name(parameter).is_ok_and(|name| name == wanted)
                    || pointee(types, parameter).is_some_and(|name| name == wanted)
            };
            prototype.parameters.iter().position(is_it).and_then(|index| u32::try_from(index).ok())
        })
    }

    /// Whether an enum of the image has this enumerator.
    pub fn enumerates(&self, name: &str, enumerator: &str) -> bool {
        let types = &self.image;
        let is_it =
            |member: &dyn BtfType| types.resolve_name(member).is_ok_and(|n| n == enumerator);
        types.resolve_types_by_name(name).unwrap_or_default().into_iter().any(|found| match found {
            Type::Enum(found) => found.members.iter().any(|member| is_it(member)),
            Type::Enum64(found) => found.members.iter().any(|member| is_it(member)),
            _ => false,
        })
    }
}

fn function_id(types: &Btf, name: &str) -> Option<u32> {
    let ids = types.resolve_ids_by_name(name).ok()?;
    ids.into_iter().find(|id| matches!(types.resolve_type_by_id(*id), Ok(Type::Func(_))))
}

/// The name of the structure that something points at.
fn pointee(types: &Btf, of: &dyn BtfType) -> Option<String> {
    let mut found = types.resolve_chained_type(of).ok()?;
    let mut pointers = 0;
    loop {
        match &found {
            Type::Ptr(_) => pointers += 1,
            Type::Struct(structure) => {
                return types.resolve_name(structure).ok().filter(|_| pointers == 1);
            }
            // Declared in this module, defined in another.
            Type::Fwd(structure) => {
                return types.resolve_name(structure).ok().filter(|_| pointers == 1);
            }
            Type::Const(_) | Type::Volatile(_) | Type::Restrict(_) | Type::TypeTag(_) => {}
            _ => return None,
        }
        found = types.resolve_chained_type(found.as_btf_type()?).ok()?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_of_tracepoints_are_counted_without_the_context() {
        let types = KernelTypes::read().unwrap();

        assert_eq!(types.tracepoint("net_dev_queue").map(|found| found.arguments), Some(1));
        assert_eq!(types.tracepoint("no_such_tracepoint"), None);
    }

    #[test]
    fn functions_and_their_arguments_are_found() {
        let types = KernelTypes::read().unwrap();

        assert_eq!(types.function("ip_rcv").and_then(|found| found.module), None);
        assert_eq!(types.function("no_such_function"), None);
        assert_eq!(types.argument_index("ip_rcv", "sk_buff"), Some(0));
        assert_eq!(types.argument_index("ip_rcv", "orig_dev"), Some(3));
        assert_eq!(types.argument_index("ip_output", "sk_buff"), Some(2));
        assert_eq!(types.argument_index("nf_hook_slow", "nf_hook_state"), Some(1));
        assert_eq!(types.argument_index("ip_rcv", "nf_hook_state"), None);
        assert!(types.enumerates("bpf_func_id", "BPF_FUNC_probe_read_kernel"));
        assert!(!types.enumerates("bpf_func_id", "BPF_FUNC_no_such_helper"));
    }
}
