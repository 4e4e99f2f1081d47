//! Layouts of structures that stand in modules, for kernels before 5.11: those have no BTF of modules
//! (`CONFIG_DEBUG_INFO_BTF_MODULES`). Each is what the headers of Linux 5.10 say on 64-bit machines;
//! nothing relies on it unseen: a handle read so counts only if the rule set has it.

use btf_rs::{Btf, Type};
use tracer_common::config::{ABSENT, Offsets};

/// `struct list_head`.
const LIST: u32 = 16;
/// A pointer, and a `u64`.
const WORD: u32 = 8;

/// Fills in what BTF does not tell. `vmlinux` is the kernel's own BTF.
pub fn fill_in(offsets: &mut Offsets, vmlinux: &Btf) {
    let known = [
        // struct nft_pktinfo { skb; bool tprot_set; u8 tprot; struct xt_action_param xt; }, of
        // which { match; matchinfo; const struct nf_hook_state *state; … }.
        (&mut offsets.nft_pkt_skb, Some(0)),
        (&mut offsets.nft_pkt_xt_state, Some(2 * WORD + 2 * WORD)),
        // struct nft_expr_ops { eval; clone; unsigned int size; … }.
        (&mut offsets.nft_ops_size, Some(2 * WORD)),
        // struct nft_chain { rules_gen_0, rules_gen_1; rules, list, rhlhead; table; u64 handle; … }.
        (&mut offsets.nft_chain_table, Some(2 * WORD + 3 * LIST)),
        (&mut offsets.nft_chain_handle, Some(3 * WORD + 3 * LIST)),
        // struct nft_table { list; struct rhltable chains_ht; chains, sets, objects, flowtables;
        // u64 hgenerator; u64 handle; … }.
        (
            &mut offsets.nft_table_handle,
            size(vmlinux, "rhltable").map(|rhltable| LIST + rhltable + 4 * LIST + WORD),
        ),
        // struct xt_table { list; unsigned int valid_hooks; private; me; u8 af; int priority;
        // table_init; char name[]; }.
        (&mut offsets.xt_table_name, Some(LIST + 5 * WORD)),
        // struct ebt_table { list; char name[]; … }.
        (&mut offsets.ebt_table_name, Some(LIST)),
        // struct net_bridge_port { br; struct net_device *dev; … }.
        (&mut offsets.port_dev, Some(WORD)),
    ];
    for (offset, layout) in known {
        if *offset == ABSENT
            && let Some(layout) = layout
        {
            *offset = layout;
        }
    }
}

/// Bytes of a structure.
fn size(btf: &Btf, structure: &str) -> Option<u32> {
    btf.resolve_types_by_name(structure).ok()?.into_iter().find_map(|t| match t {
        Type::Struct(t) => u32::try_from(t.size()).ok(),
        _ => None,
    })
}
