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

/// The functions that run a legacy table: they take the same arguments, in an order that has changed
/// for all of them at once.
const TABLES: [&str; 3] = ["ipt_do_table", "ip6t_do_table", "ebt_do_table"];

/// The arguments of this kernel's functions. Where its BTF lists none of them, as Linux 5.10 has
/// them: later kernels tell when the module is loaded.
pub fn resolve_arguments(types: &KernelTypes) -> Arguments {
    let place = |wanted: &[&str]| {
        let in_function =
            |function| wanted.iter().find_map(|wanted| types.argument_index(function, wanted));
        TABLES.into_iter().find_map(in_function)
    };
    Arguments {
        xt_skb: place(&["sk_buff"]).unwrap_or(0),
        xt_state: place(&["nf_hook_state"]).unwrap_or(1),
        // net/ipv4/netfilter/ip_tables.c: `table`, or `priv`, which is the table.
        xt_table: place(&["xt_table", "ebt_table", "priv"]).unwrap_or(2),
    }
}

/// Whether the rules of nftables are a list of `struct nft_rule`, and not a blob of
/// `struct nft_rule_dp` (Linux 5.17). Where the kernel does not tell, because its nf_tables is not
/// loaded, the newer form.
pub fn rules_are_listed(types: &KernelTypes) -> bool {
    let is_there = |name: &str| {
        let named = |btf: &Btf| {
            let found = btf.resolve_types_by_name(name).ok()?;
            found.iter().any(|t| matches!(t, Type::Struct(_))).then_some(())
        };
        types.find(named).is_some()
    };
    // Kernels without BTF of modules are older than 5.11.
    !is_there("nft_rule_dp") && (is_there("nft_rule") || !types.of_modules)
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
}
