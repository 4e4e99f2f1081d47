//! What pathtrace offers on the running kernel: all that the kernel itself has. Scenarios expect
//! less where pathtrace offers less, so it must not offer less than it could.

use anyhow::Result;
use lab::{
    Capability, Lab, Trace,
    capability::{knows, release},
    topology::C1,
};

/// Points, and what the types of a kernel have that can show them.
const SHOWN_BY: [(&str, &str); 15] = [
    ("dev_queue", "btf_trace_net_dev_queue"),
    ("dev_xmit", "btf_trace_net_dev_start_xmit"),
    ("dev_receive", "btf_trace_netif_receive_skb"),
    ("qdisc_enqueue", "btf_trace_qdisc_enqueue"),
    ("qdisc_dequeue", "btf_trace_qdisc_dequeue"),
    ("route", "btf_trace_fib_table_lookup"),
    ("neigh", "btf_trace_neigh_event_send_done"),
    ("socket", "btf_trace_skb_copy_datagram_iovec"),
    ("drop", "btf_trace_kfree_skb"),
    ("consume", "btf_trace_consume_skb"),
    ("nf_output", LINKS),
    ("nf_prerouting", LINKS),
    ("nf_input", LINKS),
    ("nf_forward", LINKS),
    ("nf_postrouting", LINKS),
];

/// Attaches netfilter links.
const LINKS: &str = "bpf_nf_link_attach";

#[test]
fn what_is_missing_is_missing_in_the_kernel() -> Result<()> {
    let lab = Lab::standard()?;
    let trace = Trace::start(&lab, &["--ip", C1, "--duration", "100ms"])?;
    let start = trace.wait()?.records(&lab)?.start;
    let missing = |point: &str| {
        let entries = start["missing"].as_array();
        entries.is_some_and(|entries| entries.iter().any(|entry| entry["point"] == point))
    };
    for (point, shown_by) in SHOWN_BY {
        let why = format!("{point} on {}, which has {shown_by}: {start}", release()?);
        assert!(!knows(shown_by) || !missing(point), "{why}");
    }
    assert!(!missing("tc_ingress") && !missing("tc_egress"), "{start}");
    assert_eq!(lab.has(Capability::HooksByLink)?, knows(LINKS), "{start}");
    Ok(())
}
