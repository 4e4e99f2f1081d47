//! What pathtrace offers on the running kernel: all that the kernel itself has. Scenarios expect
//! less where pathtrace offers less, so it must not offer less than it could. And with what little is
//! left it traces all the same.

use std::process::Command;

use anyhow::Result;
use lab::{
    Capability, Lab, Trace,
    capability::{knows, release},
    command,
    topology::{C1, WORLD},
    trace, traffic,
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
    let trace = Trace::start(&lab, &["--ip", C1, "-s", "64", "--duration", "100ms"])?;
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

/// What a host with everything forbidden is left with: the older of each two ways to watch, and no
/// functions.
#[test]
fn without_functions_it_traces_what_is_left() -> Result<()> {
    let lab = Lab::standard()?;
    let allowed = ["raw_tracepoint", "clsact"];
    let args = ["--mechanism", "raw_tracepoint,clsact", "--ip", C1, "--proto", "icmp"];
    let records = Trace::during(&lab, &args, || {
        assert_eq!(traffic::ping(lab.netns("c1")?, WORLD, 2)?, 2);
        Ok(())
    })?;
    let points = records.start["points"].as_array().cloned().unwrap_or_default();
    for entry in &points {
        let mechanism = entry["mechanism"].as_str().unwrap_or_default();
        assert!(allowed.contains(&mechanism), "{entry}");
    }
    assert!(points.iter().any(|entry| entry["mechanism"] == "raw_tracepoint"), "{points:?}");
    let missing = records.start["missing"].as_array().cloned().unwrap_or_default();
    for point in ["nf_forward", "ip_forward", "conntrack"] {
        let entry = missing.iter().find(|entry| entry["point"] == point);
        let reason = entry.and_then(|entry| entry["why"].as_str()).unwrap_or_default();
        assert!(reason.contains("left out by --mechanism"), "{point}: {reason}");
    }
    let way =
        ["c1:eth0 dev_xmit", "host:veth-c1 dev_receive", "host route", "host:eth-up dev_xmit"];
    assert_eq!(records.of("icmp", "original").len(), 2, "{records}");
    for journey in records.of("icmp", "original") {
        journey.assert_passes(&way);
    }
    records.assert_nothing_lost();
    Ok(())
}

/// A function that the kernel does not let be watched in this way is named with what is lost.
#[test]
fn a_function_that_cannot_be_watched_is_named() -> Result<()> {
    let lab = Lab::standard()?;
    let mechanisms = "tp_btf,raw_tracepoint,tcx,clsact,fentry";
    let records = Trace::during(&lab, &["--mechanism", mechanisms, "--ip", C1], || {
        assert_eq!(traffic::ping(lab.netns("c1")?, WORLD, 1)?, 1);
        Ok(())
    })?;
    assert!(!records.of("icmp", "original").is_empty(), "{records}");
    let listed = command::finish(
        Command::new(trace::binary()?).args(["probes", "--mechanism", mechanisms]),
        "",
    )?;
    let missing = records.start["missing"].as_array().cloned().unwrap_or_default();
    // Its first argument is a pointer to a pointer, which fentry takes on the newest kernels only; and
    // before Linux 5.11 the types of modules are not known.
    if missing.iter().any(|entry| entry["point"] == "bridge_rx") {
        let line = listed.lines().find(|line| line.starts_with("bridge_rx ")).unwrap_or_default();
        assert!(line.contains("not br_handle_frame: "), "{line}");
        assert!(line.ends_with("so a packet's way through a bridge is shown by its ports only"));
    }
    Ok(())
}

/// Seen from a mount namespace of its own, in which nothing is where the kernel's types are.
#[test]
fn without_types_of_the_kernel_it_says_what_to_do() -> Result<()> {
    let script = r#"mount -t tmpfs none /sys/kernel/btf && exec "$0" --ip 10.0.100.252"#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script]).arg(trace::binary()?);
    let output = command.output()?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let said = format!("cannot trace: kernel {} has no /sys/kernel/btf/vmlinux", release()?);
    assert!(stderr.contains(&said) && stderr.contains("CONFIG_DEBUG_INFO_BTF"), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    Ok(())
}
