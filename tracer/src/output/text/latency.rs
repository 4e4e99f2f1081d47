//! How long packets took, as a table: of the host, then of the most active flows.

use std::{
    collections::BTreeMap,
    fmt::{Display, Formatter, Result},
};

use crate::output::{
    path::{duration, end},
    record::{FlowLatency, Latency, Segment, Times},
};

/// Flows that are shown.
const FLOWS: usize = 5;

/// Renders the figures.
pub(super) struct Table<'a>(pub(super) &'a Latency);

impl Display for Table<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let Latency { host, flows, flows_untold, flows_forgotten, incomplete } = self.0;
        let [p50, p90, p99, max] = ["p50", "p90", "p99", "max"];
        writeln!(f)?;
        row(f, "latency", ["count", p50, p90, p99, max].map(str::to_owned))?;
        segments(f, host)?;
        for flow in flows.iter().take(FLOWS) {
            writeln!(f, "{}", head(flow))?;
            segments(f, &flow.segments)?;
        }
        let untold = flows_untold + flows.len().saturating_sub(FLOWS) as u64;
        for (count, what) in [
            (untold, "more flows"),
            (*flows_forgotten, "flows forgotten, the silent ones first: too many at once"),
            (*incomplete, "incomplete journeys left out"),
        ] {
            if count != 0 {
                writeln!(f, "  {count} {what}")?;
            }
        }
        Ok(())
    }
}

fn segments(f: &mut Formatter<'_>, times: &BTreeMap<Segment, Times>) -> Result {
    if times.is_empty() {
        return writeln!(f, "  nothing to tell");
    }
    times.iter().try_for_each(|(segment, times)| {
        let Times { count, p50_ns, p90_ns, p99_ns, max_ns } = *times;
        let [p50, p90, p99, max] = [p50_ns, p90_ns, p99_ns, max_ns].map(duration);
        row(f, &format!("  {}", segment.title()), [count.to_string(), p50, p90, p99, max])
    })
}

fn row(f: &mut Formatter<'_>, name: &str, cells: [String; 5]) -> Result {
    write!(f, "{name:22}")?;
    for cell in cells {
        write!(f, " {cell:>10}")?;
    }
    writeln!(f)
}

/// `flow 3 udp 10.0.0.2:4000 → 203.0.113.8:53`
fn head(flow: &FlowLatency) -> String {
    let (src, dst) = (flow.src.as_deref(), flow.dst.as_deref());
    format!("flow {} {} {} → {}", flow.flow, flow.proto, end(src, flow.sport), end(dst, flow.dport))
}
