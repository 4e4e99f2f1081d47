//! Names of drop reasons, from the running kernel's BTF: the numbers differ between releases.
//!
//! `enum skb_drop_reason` (include/net/dropreason-core.h, Linux 5.17 and newer) has the core's.
//! Since Linux 6.4 the upper 16 bits of a number are the subsystem (`enum skb_drop_reason_subsys`),
//! and each subsystem has an enum of its own, in the BTF of its module where it is one.

use std::{collections::HashMap, path::Path};

use btf_rs::{Btf, BtfType, Type};

/// Where the kernel shows its BTF.
const BTF: &str = "/sys/kernel/btf";

/// The core's reasons.
const CORE: &str = "skb_drop_reason";

/// The subsystems' enums, and the modules that have them (net/mac80211/drop.h,
/// net/openvswitch/drop.h).
const SUBSYSTEMS: &[(&str, &str)] =
    &[("mac80211_drop_reason", "mac80211"), ("ovs_drop_reason", "openvswitch")];

/// Names of the drop reasons of one kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DropReasons {
    names: HashMap<u32, String>,
}

impl DropReasons {
    /// Those of the running kernel, of which these are the types; `None` for one without reasons.
    pub fn of(base: &Btf) -> Option<Self> {
        let core = members(base, CORE)?;
        let mut names: HashMap<_, _> = core.into_iter().filter_map(core_name).collect();
        for (name, module) in SUBSYSTEMS {
            let split = || Btf::from_split_file(Path::new(BTF).join(module), base).ok();
            let found = members(base, name).or_else(|| members(&split()?, name));
            names.extend(found.into_iter().flatten().filter_map(subsystem_name));
        }
        Some(Self { names })
    }

    /// The kernel's name without its prefix (`NETFILTER_DROP`); `None` for a number without one.
    pub fn name(&self, reason: u32) -> Option<&str> {
        self.names.get(&reason).map(String::as_str)
    }
}

/// The enumerators of an enum, in order; `None` where there is no such enum.
fn members(btf: &Btf, name: &str) -> Option<Vec<(u32, String)>> {
    let named = |value: u32, member: &dyn BtfType| Some((value, btf.resolve_name(member).ok()?));
    btf.resolve_types_by_name(name).ok()?.into_iter().find_map(|found| match found {
        Type::Enum(found) => Some(found.members.iter().filter_map(|m| named(m.val(), m)).collect()),
        Type::Enum64(found) => {
            let low = |value: u64| u32::try_from(value).ok();
            Some(found.members.iter().filter_map(|m| named(low(m.val())?, m)).collect())
        }
        _ => None,
    })
}

/// Number and short name; `None` for an enumerator that is no reason.
fn core_name((number, name): (u32, String)) -> Option<(u32, String)> {
    let short = name.strip_prefix("SKB_DROP_REASON_").or_else(|| name.strip_prefix("SKB_"))?;
    (!matches!(short, "MAX" | "SUBSYS_MASK")).then(|| (number, short.to_owned()))
}

/// As [`core_name`], for an enum of a subsystem. Its name of the subsystem is kept: nothing else
/// in the name would tell.
fn subsystem_name((number, name): (u32, String)) -> Option<(u32, String)> {
    let is_reason = number >> 16 != 0 && !name.starts_with("__") && !name.ends_with("_MAX");
    is_reason.then(|| (number, name.strip_prefix("SKB_DROP_REASON_").unwrap_or(&name).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_go_and_what_is_no_reason_is_left_out() {
        let core = |number, name: &str| core_name((number, name.into())).map(|(_, name)| name);
        assert_eq!(core(2, "SKB_DROP_REASON_NOT_SPECIFIED").as_deref(), Some("NOT_SPECIFIED"));
        assert_eq!(core(1, "SKB_CONSUMED").as_deref(), Some("CONSUMED"));
        assert_eq!(core(90, "SKB_DROP_REASON_MAX"), None);
        assert_eq!(core(0xffff_0000, "SKB_DROP_REASON_SUBSYS_MASK"), None);
        let subsystem = |number, name: &str| subsystem_name((number, name.into()));
        let ovs = (0x3_0001, "OVS_DROP_LAST_ACTION".to_owned());
        assert_eq!(subsystem(0x3_0001, "OVS_DROP_LAST_ACTION"), Some(ovs));
        assert_eq!(subsystem(0x3_0000, "__OVS_DROP_REASON"), None);
        assert_eq!(subsystem(1, "RX_CONTINUE"), None);
    }

    #[test]
    fn an_unknown_number_has_no_name() {
        assert_eq!(DropReasons::default().name(70_000), None);
    }

    #[test]
    fn the_running_kernel_tells_its_reasons() {
        let has_reasons = Btf::from_file(Path::new(BTF).join("vmlinux"))
            .is_ok_and(|btf| btf.resolve_ids_by_name(CORE).is_ok_and(|ids| !ids.is_empty()));
        let kernel = Btf::from_file(Path::new(BTF).join("vmlinux")).unwrap();
        let Some(reasons) = DropReasons::of(&kernel) else {
            assert!(!has_reasons, "the enum is there and is not read");
            return;
        };
        let number = |wanted| reasons.names.iter().find(|(_, name)| *name == wanted).unwrap().0;
        for name in ["NETFILTER_DROP", "NOT_SPECIFIED", "NO_SOCKET"] {
            assert_eq!(reasons.name(*number(name)), Some(name));
        }
        assert!(reasons.names.values().all(|name| !name.contains("REASON_")));
    }
}
