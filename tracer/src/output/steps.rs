//! Which hops of a journey belong together: the steps of its path, each of which is one line.

use super::record::{Hop, Journey};

/// A step of a path: hops of one layer and device that are told as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// Its hops, as indices in the journey's; the first one is where and when it begins.
    pub hops: Vec<usize>,
    /// The hop whose point it is called by.
    pub named: usize,
    /// The bridge sent copies to all ports in it.
    pub flooded: bool,
}

impl Step {
    /// A hop by itself.
    pub fn single(hop: usize) -> Self {
        Self { hops: vec![hop], named: hop, flooded: false }
    }

    /// The hop that it begins with.
    pub fn first(&self) -> usize {
        self.hops.first().copied().unwrap_or(self.named)
    }

    /// The hop that it ends with.
    pub fn last(&self) -> usize {
        self.hops.last().copied().unwrap_or(self.named)
    }
}

/// What kind of step a hop belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Group {
    Bridge,
    Egress,
    Ingress,
    Hook,
    /// Every hop of it is a step by itself.
    Single,
}

/// One step a layer and device: tc, queue and driver of a device are one, and so is what
/// a bridge does with a packet; rewrites and connection tracking belong to the hook that they are
/// in; steps of IP, look-ups of the way back, sockets without a reader and the end itself are none,
/// unless the outcome is about them.
pub(super) fn main(journey: &Journey) -> Vec<Step> {
    let hops = &journey.hops;
    let mut steps: Vec<Step> = Vec::new();
    let mut open: Option<(Group, usize)> = None;
    let mut flooded = false;
    for (index, hop) in hops.iter().enumerate() {
        let group = match &*hop.point {
            "drop" | "consume" => continue,
            "socket" if hop.detail.is_empty() => continue,
            "ip_receive" | "ip_forward" | "ip_local_deliver" | "ip_output"
                if index != journey.outcome.hop =>
            {
                continue;
            }
            "route" if hop.detail.get("reverse").is_some() && index != journey.outcome.hop => {
                continue;
            }
            _ if hop.layer == "bridge" => {
                let more = goes_on_in_bridge(&hops[index + 1..]);
                flooded |= hop.point == "bridge_flood" && more;
                if more {
                    continue;
                }
                Group::Bridge
            }
            "dev_queue" | "tc_egress" | "qdisc_enqueue" | "qdisc_dequeue" | "dev_xmit" => {
                Group::Egress
            }
            "dev_receive" | "tc_ingress" => Group::Ingress,
            _ if hop.layer == "netfilter" => Group::Hook,
            _ => Group::Single,
        };
        let joins = open.is_some_and(|(open, before)| {
            open == group
                && match group {
                    Group::Hook => matches!(&*hop.point, "nat" | "conntrack"),
                    Group::Egress | Group::Ingress => same_place(&hops[before], hop),
                    Group::Bridge | Group::Single => false,
                }
        });
        match steps.last_mut().filter(|_| joins) {
            Some(step) => {
                step.hops.push(index);
                if group == Group::Egress {
                    step.named = index;
                }
            }
            None => {
                let flooded = group == Group::Bridge && std::mem::take(&mut flooded);
                steps.push(Step { flooded, ..Step::single(index) });
            }
        }
        open = Some((group, index));
    }
    steps
}

/// Whether two hops are at the same interface.
pub(super) fn same_place(a: &Hop, b: &Hop) -> bool {
    let device = |hop: &Hop| hop.dev.as_ref().map(|dev| dev.ifindex);
    a.netns.inode == b.netns.inode && device(a) == device(b)
}

/// Whether the bridge does more with the packet: its step is its last word, wherever hooks and
/// look-ups stand between.
fn goes_on_in_bridge(later: &[Hop]) -> bool {
    let next = later.iter().find(|hop| !matches!(&*hop.layer, "netfilter" | "ip"));
    next.is_some_and(|hop| hop.layer == "bridge")
}
