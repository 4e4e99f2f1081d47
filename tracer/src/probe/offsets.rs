//! Offsets of kernel fields and places of arguments, from the running kernel's BTF.

use btf_rs::{Btf, Type};
use tracer_common::config::{Arguments, Offsets};

use super::btf::KernelTypes;

/// The offsets of this kernel; fields that it lacks stay absent.
pub fn resolve(types: &KernelTypes) -> Offsets {
    let mut offsets = Offsets::ABSENT;
    for (structure, path, offset) in offsets.fields() {
        match types.find(|btf| field(btf, structure, path)) {
            Some(bytes) => *offset = bytes,
            None => log::debug!("this kernel has no field {structure}.{path}"),
        }
    }
    offsets
}

/// The arguments of this kernel's functions; of those that its BTF does not list, the fallback.
pub fn resolve_arguments(types: &KernelTypes) -> Arguments {
    let mut arguments = Arguments::FALLBACK;
    for (function, wanted, index) in arguments.wanted() {
        let found = wanted.iter().find_map(|wanted| types.argument_index(function, wanted));
        *index = found.unwrap_or(*index);
    }
    arguments
}

/// Byte offset of `path` (members joined by dots) in `structure`.
fn field(btf: &Btf, structure: &str, path: &str) -> Option<u32> {
    btf.resolve_types_by_name(structure)
        .ok()?
        .into_iter()
        .filter(|t| matches!(t, Type::Struct(_)))
        .find_map(|t| {
            path.split('.').try_fold((t, 0), |(t, bytes), name| {
                let (member_type, bits) = member(btf, &t, name)?;
                Some((member_type, bytes + bits / 8))
            })
        })
        .map(|(_, bytes)| bytes)
}

/// A member of a structure, looked for inside its anonymous members too: its type and bit offset.
fn member(btf: &Btf, of: &Type, name: &str) -> Option<(Type, u32)> {
    let (Type::Struct(composite) | Type::Union(composite)) = of else { return None };
    composite.members.iter().find_map(|m| {
        let bits = m.bit_offset();
        let member_type = strip(btf, btf.resolve_chained_type(m).ok()?)?;
        match btf.resolve_name(m) {
            Ok(its_name) if its_name == name => Some((member_type, bits)),
            Ok(its_name) if !its_name.is_empty() => None,
            _ => member(btf, &member_type, name).map(|(t, inner)| (t, bits + inner)),
        }
    })
}

/// The type behind typedefs and qualifiers.
fn strip(btf: &Btf, mut t: Type) -> Option<Type> {
    while let Type::Typedef(_) | Type::Const(_) | Type::Volatile(_) | Type::TypeTag(_) = t {
        t = btf.resolve_chained_type(t.as_btf_type()?).ok()?;
    }
    Some(t)
}

/// How many arguments a tracepoint hands to a BTF-typed program on this kernel, its context data
/// not counted; `None` where the kernel has no such tracepoint.
pub fn tracepoint_arguments(btf: &Btf, tracepoint: &str) -> Option<usize> {
    let typedef = btf
        .resolve_types_by_name(&format!("btf_trace_{tracepoint}"))
        .ok()?
        .into_iter()
        .find(|t| matches!(t, Type::Typedef(_)))?;
    let pointer = btf.resolve_chained_type(typedef.as_btf_type()?).ok()?;
    match btf.resolve_chained_type(pointer.as_btf_type()?).ok()? {
        Type::FuncProto(prototype) => Some(prototype.parameters.len().saturating_sub(1)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use tracer_common::config::ABSENT;

    use super::*;

    #[test]
    fn this_kernel_has_every_field_of_the_device_points() {
        let offsets = resolve(&KernelTypes::read().unwrap());

        for offset in [offsets.skb_dev, offsets.skb_head, offsets.dev_net, offsets.net_inum] {
            assert_ne!(offset, ABSENT);
        }
        assert!(offsets.skb_data == offsets.skb_head + 8, "`data` follows `head`: {offsets:?}");
    }

    #[test]
    fn an_unknown_field_has_no_offset() {
        let btf = Btf::from_file("/sys/kernel/btf/vmlinux").unwrap();

        assert_eq!(field(&btf, "sk_buff", "no_such_member"), None);
        assert_eq!(field(&btf, "no_such_struct", "len"), None);
    }

    #[test]
    fn arguments_are_counted_without_the_context() {
        let btf = Btf::from_file("/sys/kernel/btf/vmlinux").unwrap();

        assert_eq!(tracepoint_arguments(&btf, "net_dev_queue"), Some(1));
        assert_eq!(tracepoint_arguments(&btf, "no_such_tracepoint"), None);
    }
}
