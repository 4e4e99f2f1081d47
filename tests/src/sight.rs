//! What a trace can show on the running kernel, and what is not expected of it therefore.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use serde_json::Value;

use crate::{
    Lab,
    capability::{self, DELIVERY},
};

/// The point at which the IP stack sends, in any namespace.
const OUTPUT: &str = "ip_output";

/// What one trace can show.
#[derive(Debug, Default)]
pub struct Sight {
    /// Points that this kernel does not offer.
    missing: BTreeSet<String>,
    /// By what the others are seen.
    mechanisms: BTreeMap<String, String>,
    /// Namespaces with rules, where hooks without any are not met.
    ruled: BTreeSet<String>,
}

/// The namespaces of a lab that have rules.
pub(crate) fn ruled(lab: &Lab) -> Result<BTreeSet<String>> {
    let mut ruled = BTreeSet::new();
    for (short, netns) in lab.spaces() {
        if netns.has_rules()? {
            ruled.insert(short.to_owned());
        }
    }
    Ok(ruled)
}

impl Sight {
    /// By what the `start` record of a trace tells. Which namespaces have rules is asked only where
    /// it matters: where hooks without any are not met.
    pub(crate) fn of(
        start: &Value,
        ruled: impl FnOnce() -> Result<BTreeSet<String>>,
    ) -> Result<Self> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let list = |key: &str| start[key].as_array().cloned().unwrap_or_default();
        let missing = list("missing").iter().map(|entry| text(&entry["point"])).collect();
        let mechanisms = list("points");
        let mechanisms: BTreeMap<_, _> = mechanisms
            .iter()
            .map(|entry| (text(&entry["point"]), text(&entry["mechanism"])))
            .collect();
        let by_function = |(point, mechanism): (&String, &String)| {
            is_hook(point) && !capability::sees_empty_hooks(mechanism)
        };
        let ruled = if mechanisms.iter().any(by_function) { ruled()? } else { BTreeSet::new() };
        Ok(Self { missing, mechanisms, ruled })
    }

    /// Whether a hop like this step, `netns:dev point`, can be seen at all.
    pub fn shows(&self, step: &str) -> bool {
        let Some((place, point)) = step.split_once(' ') else { return true };
        let netns = place.split(':').next().unwrap_or_default();
        if self.missing.contains(point) {
            return false;
        }
        // A neighbour's event has no packet: it belongs to the one between those points and the device.
        if point == "neigh" && !self.offers(OUTPUT) {
            return self.shows(&format!("{netns} nf_postrouting"));
        }
        let mechanism = self.mechanisms.get(point).map_or("", String::as_str);
        !is_hook(point)
            || mechanism.is_empty()
            || capability::sees_empty_hooks(mechanism)
            || self.ruled.contains(netns)
    }

    /// Whether a packet's delivery in a namespace is seen, and not only that the kernel was done with
    /// it there.
    pub fn shows_delivery(&self, netns: &str) -> bool {
        self.offers(DELIVERY) || self.shows(&format!("{netns} nf_input"))
    }

    /// Whether the trace has this point.
    fn offers(&self, point: &str) -> bool {
        self.mechanisms.contains_key(point)
    }

    /// The step itself where it can be seen, else any in its namespace; and whether it is itself.
    pub fn shown(&self, step: &str) -> (String, bool) {
        if self.shows(step) {
            return (step.to_owned(), true);
        }
        let netns = step.split([':', ' ']).next().unwrap_or_default();
        (format!("{netns} *"), false)
    }
}

/// Whether a point is one of netfilter's hooks.
fn is_hook(point: &str) -> bool {
    point.starts_with("nf_")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sight(mechanism: &str) -> Sight {
        let ruled = || Ok(BTreeSet::from(["host".to_owned()]));
        let start = json!({
            "points": [{"point": "nf_output", "mechanism": mechanism}],
            "missing": [{"point": "qdisc_enqueue", "reason": "no tracepoint"}],
        });
        Sight::of(&start, ruled).unwrap()
    }

    #[test]
    fn what_the_kernel_lacks_is_not_expected() {
        let sight = sight("netfilter_link");
        assert!(!sight.shows("host:eth-up qdisc_enqueue"));
        assert!(sight.shows("c1 nf_output") && sight.shows("host nf_output"));
        assert!(sight.shows("host nat"), "what is no point of its own is always expected");
        assert_eq!(sight.shown("host qdisc_enqueue"), ("host *".into(), false));
        assert_eq!(sight.shown("c1:eth0 nf_output"), ("c1:eth0 nf_output".into(), true));
    }

    #[test]
    fn functions_are_met_where_something_is_hooked() {
        let sight = sight("fentry");
        assert!(sight.shows("host nf_output"));
        assert!(!sight.shows("c1 nf_output"));
    }

    #[test]
    fn what_rests_on_a_hook_is_not_expected_without_it() {
        let missing = |point: &str| json!({"missing": [{"point": point}]});
        let sight = |point| Sight::of(&missing(point), || Ok(BTreeSet::new())).unwrap();
        assert!(sight("nf_forward").shows("host neigh"));
        assert!(!sight("nf_postrouting").shows("host neigh"));
        assert!(sight("nf_forward").shows_delivery("c1"));
        assert!(!sight("nf_input").shows_delivery("c1"));
    }

    #[test]
    fn functions_of_the_ip_stack_stand_in_for_hooks() {
        let offers = |point: &str| {
            let start = json!({
                "points": [{"point": point, "mechanism": "kprobe"}],
                "missing": [{"point": "nf_input"}, {"point": "nf_postrouting"}],
            });
            Sight::of(&start, || Ok(BTreeSet::new())).unwrap()
        };
        assert!(offers("ip_local_deliver").shows_delivery("c1"));
        assert!(!offers("ip_output").shows_delivery("c1"));
        assert!(offers("ip_output").shows("c1 neigh"));
        assert!(!offers("ip_local_deliver").shows("c1 neigh"));
    }
}
