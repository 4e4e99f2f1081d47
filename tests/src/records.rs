//! What `pathtrace -o json` printed, with questions that scenarios ask.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{Sight, capability, notes};

/// Namespaces' inodes and what they are called in the lab.
pub type Names = BTreeMap<u64, String>;

/// The records of one trace, as far as they touch the lab.
#[derive(Debug)]
pub struct Records {
    /// The `start` record.
    pub start: Value,
    /// Journeys with a hop in the lab, in the order printed.
    pub journeys: Vec<Journey>,
    /// The `summary` record.
    pub summary: Value,
    sight: Arc<Sight>,
}

/// One journey.
#[derive(Clone, Debug)]
pub struct Journey {
    /// The record.
    pub record: Value,
    hops: Vec<String>,
    sight: Arc<Sight>,
}

/// An error unless every event that the kernel side offered was received, or is counted as lost: by the `summary`
/// record of a trace.
pub fn account_for_events(summary: &Value) -> Result<()> {
    let events = &summary["events"];
    let count = |value: &Value| value.as_u64().with_context(|| format!("no count: {events}"));
    let lost = &events["lost"];
    let come =
        count(&events["received"])? + count(&lost["ring_full"])? + count(&lost["undecodable"])?;
    ensure!(count(&events["offered"])? == come, "not all events are accounted for: {events}");
    Ok(())
}

impl Records {
    /// From the lines of a trace; `names` are the lab's namespaces, `ruled` tells those with rules.
    pub fn read(
        lines: &[String],
        names: &Names,
        ruled: impl Fn() -> Result<BTreeSet<String>>,
    ) -> Result<Self> {
        let (mut start, mut summary, mut journeys) = (None, None, Vec::new());
        let mut sight = Arc::new(Sight::default());
        for line in lines {
            let record: Value =
                serde_json::from_str(line).with_context(|| format!("not JSON: {line}"))?;
            match record["type"].as_str() {
                Some("start") => {
                    sight = Arc::new(Sight::of(&record, &ruled)?);
                    start = Some(record);
                }
                Some("summary") => summary = Some(record),
                Some("journey") => journeys.extend(Journey::of_lab(record, names, &sight)),
                _ => bail!("a record of no known type: {line}"),
            }
        }
        Ok(Self {
            start: start.context("no start record")?,
            journeys,
            summary: summary.context("no summary record")?,
            sight,
        })
    }

    /// The journeys of which `wanted` holds.
    pub fn select(&self, wanted: impl Fn(&Journey) -> bool) -> Vec<&Journey> {
        self.journeys.iter().filter(|journey| wanted(journey)).collect()
    }

    /// Journeys of a protocol in a direction.
    pub fn of(&self, proto: &str, direction: &str) -> Vec<&Journey> {
        self.select(|journey| journey.proto() == proto && journey.direction() == direction)
    }

    /// Whether the kernel told which rule decided: the chains of nftables are watched.
    pub fn knows_rules(&self) -> bool {
        let is_watched = |name: &str| {
            let details = self.start["details"].as_array();
            details.is_some_and(|details| {
                details.iter().any(|d| d["detail"] == name && d["mechanism"].is_string())
            })
        };
        is_watched("nft_chain") && is_watched("nft_rule")
    }

    /// Asserts that a rule decided about a journey, and that it is this one; by its fields. Where the
    /// kernel does not tell, it must have been inferred.
    pub fn assert_rule(&self, journey: &Journey, fields: &Value) {
        let rule = journey.rule();
        for (field, wanted) in fields.as_object().expect("fields of a rule") {
            assert_eq!(&rule[field], wanted, "{field} of {}", journey.record["outcome"]);
        }
        let inferred = rule["inferred"].as_bool().unwrap_or_default();
        // A legacy rule is always found by its counter.
        let is_told = rule["backend"] == "nftables" && self.knows_rules();
        assert_eq!(inferred, !is_told, "{}", journey.record["outcome"]);
    }

    /// Asserts that no event was lost, by any cause.
    pub fn assert_nothing_lost(&self) {
        let lost = self.summary["events"]["lost"].as_object();
        let mut lost = lost.expect("a summary tells events.lost").values();
        assert!(lost.all(|count| count.as_u64() == Some(0)), "{}", self.summary["events"]);
    }

    /// Asserts that there are journeys of a protocol in a direction, and that each passed these
    /// steps and was delivered at the last. What TCP sent once more, on a machine that was held up, comes
    /// as far, and its receiver has it already.
    pub fn assert_delivered(&self, proto: &str, direction: &str, steps: &[&str]) {
        let journeys = self.of(proto, direction);
        assert!(!journeys.is_empty(), "no {direction} {proto} in:\n{self}");
        let last = steps.last().expect("steps");
        let (netns, _) = last.split_once([':', ' ']).expect("netns:dev point");
        for journey in journeys {
            journey.assert_passes(steps);
            if !journey.reason().starts_with("TCP_OLD_") {
                journey.assert_delivered(netns);
            }
            assert_eq!(journey.record["complete"], true, "{journey}");
        }
    }

    /// The first of these steps that this kernel shows; the last without asking.
    pub fn first_shown<'a>(&self, steps: &[&'a str]) -> &'a str {
        let shown = steps.iter().find(|step| self.sight.shows(step));
        shown.or(steps.last()).expect("steps")
    }

    /// Asserts that of these journeys exactly the ones `expected` were dropped, at least one,
    /// with this hop and reason, and returns the first. On a kernel that has no such reason, or does
    /// not show such a hop, what it says instead is taken.
    pub fn assert_dropped(
        &self,
        expected: impl Fn(&Journey) -> bool,
        hop: &str,
        reason: &str,
    ) -> &Journey {
        let dropped = self.select(|journey| journey.outcome() == "dropped");
        let others: Vec<_> = dropped.iter().filter(|journey| !expected(journey)).collect();
        assert!(others.is_empty(), "also dropped:\n{}", show(others));
        let Some(first) = dropped.first() else { panic!("nothing dropped in:\n{self}") };
        let has_reason = capability::has_reason(reason);
        if !has_reason {
            notes::left_out(&format!("reason {reason}"));
        }
        let (hop, whole) = self.sight.shown(hop);
        if !whole {
            notes::left_out(&format!("drop at {hop}"));
        }
        for journey in &dropped {
            if has_reason {
                assert_eq!(journey.reason(), reason, "{journey}");
            }
            assert!(
                matches(journey.end(), &hop),
                "died at {}, not {hop}: {journey}",
                journey.end()
            );
        }
        first
    }
}

impl std::fmt::Display for Records {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&show(&self.journeys))
    }
}

fn show<'a>(journeys: impl IntoIterator<Item = impl std::borrow::Borrow<Journey> + 'a>) -> String {
    journeys.into_iter().map(|journey| format!("{}\n", journey.borrow())).collect()
}

impl std::borrow::Borrow<Journey> for &&Journey {
    fn borrow(&self) -> &Journey {
        self
    }
}

impl Journey {
    /// The journey, when one of its hops is in the lab.
    fn of_lab(record: Value, names: &Names, sight: &Arc<Sight>) -> Option<Self> {
        let hops = record["hops"].as_array()?;
        let inode = |hop: &Value| hop["netns"]["inode"].as_u64().unwrap_or_default();
        if !hops.iter().any(|hop| names.contains_key(&inode(hop))) {
            return None;
        }
        let name = |hop: &Value| {
            let netns = names.get(&inode(hop)).map_or("?", String::as_str).to_owned();
            let dev = hop["dev"]["name"].as_str().unwrap_or("-").to_owned();
            // A bridge's own hooks have the names of IP's.
            let of_bridge = if hop["detail"]["family"] == "bridge" { " of the bridge" } else { "" };
            format!("{netns}:{dev} {}{of_bridge}", hop["point"].as_str().unwrap_or("?"))
        };
        let hops = hops.iter().map(name).collect();
        Some(Self { record, hops, sight: Arc::clone(sight) })
    }

    /// `netns:dev point` of each hop, `-` for no device; of a bridge's hooks with ` of the bridge`.
    pub fn hops(&self) -> &[String] {
        &self.hops
    }

    /// What the hops like this step told, in order.
    pub fn details(&self, step: &str) -> Vec<&Value> {
        let hops = self.record["hops"].as_array().into_iter().flatten();
        let named = self.hops.iter().zip(hops).filter(|(hop, _)| matches(hop, step));
        named.map(|(_, hop)| &hop["detail"]).collect()
    }

    /// `tcp`, `udp`, `icmp`, `icmp6`, `arp` …
    pub fn proto(&self) -> &str {
        self.record["flow"]["proto"].as_str().unwrap_or_default()
    }

    /// `original` or `reply`.
    pub fn direction(&self) -> &str {
        self.record["direction"].as_str().unwrap_or_default()
    }

    /// A field of the flow as text: `src`, `dst`, `sport`, `icmp_type` …
    pub fn flow(&self, field: &str) -> String {
        match &self.record["flow"][field] {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        }
    }

    /// Whether the flow goes to this address.
    pub fn is_to(&self, address: &str) -> bool {
        self.flow("dst") == address
    }

    /// `transmitted`, `delivered`, `dropped`, `consumed` or `lost`.
    pub fn outcome(&self) -> &str {
        self.record["outcome"]["kind"].as_str().unwrap_or_default()
    }

    /// The kernel's name of the drop reason; empty where there is none.
    pub fn reason(&self) -> &str {
        self.record["outcome"]["reason"].as_str().unwrap_or_default()
    }

    /// The rule that decided; null where none is told.
    pub fn rule(&self) -> &Value {
        &self.record["outcome"]["rule"]
    }

    /// Why it did not arrive; empty where nothing is said.
    pub fn why(&self) -> &str {
        self.record["outcome"]["why"].as_str().unwrap_or_default()
    }

    /// The hop that the outcome is about.
    pub fn end(&self) -> &str {
        let hop = self.record["outcome"]["hop"].as_u64().unwrap_or(u64::MAX);
        usize::try_from(hop).ok().and_then(|hop| self.hops.get(hop)).map_or("?", String::as_str)
    }

    /// Asserts that these hops were passed, in this order, others between them.
    ///
    /// `netns:dev point` names one device, `netns point` any; point `*` is any. Steps that this
    /// kernel does not show are left out.
    pub fn assert_passes(&self, steps: &[&str]) -> &Self {
        let mut rest = self.hops.iter();
        for step in steps {
            if !self.sight.shows(step) {
                notes::left_out(step);
                continue;
            }
            assert!(
                rest.any(|hop| matches(hop, step)),
                "{step} is missing, or not there, in {self}"
            );
        }
        self
    }

    /// Asserts that it has hops in this namespace of the lab, and that each is told to be in the
    /// container `RUNTIME:NAME`.
    pub fn assert_container(&self, netns: &str, container: &str) -> &Self {
        let mut told = Vec::new();
        let hops = self.record["hops"].as_array().map(Vec::as_slice).unwrap_or_default();
        for (hop, record) in self.hops.iter().zip(hops) {
            if hop.split(':').next() == Some(netns) {
                told.push(&record["netns"]["container"]);
            }
        }
        assert!(!told.is_empty(), "no hop in {netns}: {self}");
        assert!(told.iter().all(|told| **told == container), "{told:?} in {self}");
        self
    }

    /// Asserts that no hop is like this.
    pub fn assert_avoids(&self, step: &str) -> &Self {
        assert!(!self.hops.iter().any(|hop| matches(hop, step)), "{step} is in {self}");
        self
    }

    /// Asserts that it was delivered in a namespace. Where this kernel does not show that, it is
    /// enough that the kernel was done with it there.
    pub fn assert_delivered(&self, netns: &str) -> &Self {
        let is_shown = self.sight.shows_delivery(netns);
        if !is_shown {
            notes::left_out(&format!("delivery in {netns}"));
        }
        let is_good = self.outcome() == "delivered" || !is_shown && self.outcome() == "consumed";
        assert!(is_good, "not delivered: {self}");
        assert!(self.end().starts_with(netns), "{} at {}: {self}", self.outcome(), self.end());
        self
    }

    /// Asserts how and where it ended.
    pub fn assert_ends(&self, kind: &str, hop: &str) -> &Self {
        assert_eq!(self.outcome(), kind, "{self}");
        assert!(matches(self.end(), hop), "ended at {}, not {hop}: {self}", self.end());
        assert_eq!(self.record["complete"], true, "{self}");
        self
    }
}

impl std::fmt::Display for Journey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "{} {} {} -> {} {} {} at {}",
            self.direction(),
            self.proto(),
            self.flow("src"),
            self.flow("dst"),
            self.outcome(),
            self.reason(),
            self.end()
        )?;
        self.hops.iter().try_for_each(|hop| writeln!(f, "    {hop}"))
    }
}

/// Whether `netns:dev point` is what `step` says; a step may leave out the device, and have any
/// point as `*`.
fn matches(hop: &str, step: &str) -> bool {
    let Some((place, point)) = hop.split_once(' ') else { return false };
    let Some((wanted_place, wanted_point)) = step.split_once(' ') else { return false };
    let netns = place.split(':').next();
    (wanted_point == "*" || point == wanted_point)
        && (place == wanted_place || netns == Some(wanted_place))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn journey() -> Journey {
        let hop = |inode, dev, point| json!({"netns": {"inode": inode}, "dev": {"name": dev}, "point": point});
        let record = json!({
            "type": "journey", "direction": "original", "flow": {"proto": "icmp", "dst": "1.2.3.4"},
            "hops": [hop(7, "eth0", "dev_xmit"), hop(8, "br0", "dev_receive"), hop(8, "br0", "route")],
            "outcome": {"kind": "dropped", "hop": 2, "reason": "IP_INNOROUTES"}, "complete": true,
        });
        let names = Names::from([(7, "c1".into()), (8, "host".into())]);
        Journey::of_lab(record, &names, &Arc::default()).unwrap()
    }

    #[test]
    fn names_hops_and_finds_steps_in_order() {
        let journey = journey();
        assert_eq!(journey.hops()[0], "c1:eth0 dev_xmit");
        journey.assert_passes(&["c1 dev_xmit", "host:br0 route"]).assert_avoids("host:br1 route");
        journey.assert_ends("dropped", "host route");
    }

    #[test]
    #[should_panic(expected = "is missing, or not there")]
    fn steps_in_another_order_are_missed() {
        journey().assert_passes(&["host:br0 route", "c1 dev_xmit"]);
    }

    #[test]
    fn what_happens_outside_of_the_lab_is_left_out() {
        assert!(Journey::of_lab(journey().record, &Names::new(), &Arc::default()).is_none());
    }
}
