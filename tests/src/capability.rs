//! What not every kernel has. The running kernel is asked, by pathtrace's own list of points and by
//! its types: its version says little, for distributions add to their kernels and leave out.

use std::{collections::BTreeMap, fmt, fs, process::Command, sync::OnceLock};

use anyhow::{Context, Result, ensure};

use crate::{Lab, command, notes, topology, trace};

/// The mechanism that sees each base chain by itself, and hooks without any.
const BY_LINK: &str = "netfilter_link";

/// The point at which the IP stack delivers, in any namespace.
pub(crate) const DELIVERY: &str = "ip_local_deliver";

/// The mechanism of tc that leaves nothing behind.
const TCX: &str = "tcx";

/// Something that a scenario needs and not every kernel has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// A point, which pathtrace offers on this kernel.
    Point(&'static str),
    /// Hooks that are seen in namespaces where nothing is hooked too.
    HooksByLink,
    /// That of several base chains at one hook the one that decided is told.
    ChainByChain,
    /// That a packet is seen to be delivered where no process reads it yet, in any namespace.
    Delivery,
    /// Tables of nftables that belong to a process, and go with it.
    OwnedTables,
    /// tc programs that go with their process, by links.
    TcByLink,
    /// A drop reason that the kernel has, named without `SKB_DROP_REASON_`.
    Reason(&'static str),
    /// Bridged packets in the hooks of IP.
    BridgeNetfilter,
    /// veth pairs that put segments together as they are received (GRO without an XDP program).
    VethReceiveOffload,
    /// Links of a kind, as `ip link add` makes them.
    Link(&'static str),
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Capability::Point(point) => write!(f, "the point {point} on this kernel"),
            Capability::HooksByLink => f.write_str("netfilter links in this kernel"),
            Capability::ChainByChain => f.write_str("chains told apart on this kernel"),
            Capability::Delivery => f.write_str("deliveries shown on this kernel"),
            Capability::OwnedTables => f.write_str("tables with an owner in this kernel"),
            Capability::TcByLink => f.write_str("tcx links in this kernel"),
            Capability::Reason(reason) => write!(f, "the drop reason {reason} in this kernel"),
            Capability::BridgeNetfilter => f.write_str("br_netfilter in this kernel"),
            Capability::VethReceiveOffload => f.write_str("receive offload of veth in this kernel"),
            Capability::Link(kind) => write!(f, "links of kind {kind} in this kernel"),
        }
    }
}

impl Lab {
    /// Whether a scenario cannot be run here, which is told and counted then. For its first lines:
    ///
    /// ```no_run
    /// # use lab::{Capability, Lab};
    /// # fn scenario() -> anyhow::Result<()> {
    /// let lab = Lab::standard()?;
    /// if lab.lacks(&[Capability::BridgeNetfilter])? {
    ///     return Ok(());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn lacks(&self, needed: &[Capability]) -> Result<bool> {
        for capability in needed {
            if !self.has(*capability)? {
                notes::skipped(&format!("it needs {capability}"));
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether the running kernel has this.
    pub fn has(&self, capability: Capability) -> Result<bool> {
        match capability {
            Capability::Point(point) => offers(point),
            Capability::HooksByLink => is_by("nf_forward", BY_LINK),
            Capability::ChainByChain => Ok(is_by("nf_forward", BY_LINK)? || offers("nft_chain")?),
            Capability::Delivery => Ok(is_by("nf_input", BY_LINK)? || offers(DELIVERY)?),
            Capability::OwnedTables => {
                Ok(knows("NFT_TABLE_F_OWNER") || has(&types("nf_tables"), "NFT_TABLE_F_OWNER"))
            }
            Capability::TcByLink => is_by("tc_ingress", TCX),
            Capability::Reason(reason) => Ok(has_reason(reason)),
            Capability::BridgeNetfilter => topology::has_bridge_netfilter(self.netns("host")?),
            // It came with the function that turns it on and off.
            Capability::VethReceiveOffload => Ok(std::fs::read_to_string("/proc/kallsyms")
                .context("kernel symbols not read")?
                .lines()
                .any(|line| line.split_whitespace().nth(2) == Some("veth_set_features"))),
            Capability::Link(kind) => Ok(topology::makes_links(self.netns("host")?, kind)),
        }
    }
}

fn offers(point: &str) -> Result<bool> {
    Ok(mechanisms()?.contains_key(point))
}

fn is_by(point: &str, mechanism: &str) -> Result<bool> {
    Ok(mechanisms()?.get(point).is_some_and(|by| by == mechanism))
}

/// Whether a point by this mechanism is met in a namespace where nothing is hooked.
pub fn sees_empty_hooks(mechanism: &str) -> bool {
    mechanism == BY_LINK
}

/// Whether the running kernel has a drop reason of this name.
pub fn has_reason(reason: &str) -> bool {
    knows(&format!("SKB_DROP_REASON_{reason}"))
}

/// Whether the types of the running kernel have something of this name: a function, a structure, a
/// value of an enumeration.
pub fn knows(name: &str) -> bool {
    static TYPES: OnceLock<Vec<u8>> = OnceLock::new();
    has(TYPES.get_or_init(|| types("vmlinux")), name)
}

/// The types of the kernel, or of one of its modules; none where it has none.
fn types(of: &str) -> Vec<u8> {
    fs::read(format!("/sys/kernel/btf/{of}")).unwrap_or_default()
}

fn has(types: &[u8], name: &str) -> bool {
    // BTF's strings stand one after another, each with a zero before and behind it.
    let whole = [b"\0", name.as_bytes(), b"\0"].concat();
    types.windows(whole.len()).any(|window| window == whole)
}

/// The points that pathtrace offers here, and by what.
fn mechanisms() -> Result<&'static BTreeMap<String, String>> {
    static ASKED: OnceLock<BTreeMap<String, String>> = OnceLock::new();
    if let Some(known) = ASKED.get() {
        return Ok(known);
    }
    let listed = command::finish(Command::new(trace::binary()?).arg("probes"), "")?;
    let offered: BTreeMap<_, _> = listed.lines().filter_map(offer).collect();
    ensure!(!offered.is_empty(), "pathtrace probes lists no point: {listed}");
    Ok(ASKED.get_or_init(|| offered))
}

/// `nf_input  netfilter  netfilter_link`; where there is no mechanism, a dash and the reason.
fn offer(line: &str) -> Option<(String, String)> {
    let mut words = line.split_whitespace();
    let (point, _layer, mechanism) = (words.next()?, words.next()?, words.next()?);
    (mechanism != "-").then(|| (point.to_owned(), mechanism.to_owned()))
}

/// The running kernel's release, for what is told about it.
pub fn release() -> Result<String> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease");
    Ok(release.context("no kernel release in /proc")?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_probes_lists() {
        let offered = offer("nf_input        netfilter  netfilter_link");
        assert_eq!(offered, Some(("nf_input".into(), "netfilter_link".into())));
        assert_eq!(offer("nf_input  netfilter  - netfilter links came with Linux 6.4"), None);
        assert_eq!(offer(""), None);
    }

    #[test]
    fn a_kernels_types_are_known_by_their_whole_names() {
        assert!(knows("sk_buff"));
        assert!(!knows("sk_buf"));
    }
}
