//! What is selected, and how a trace ends.

use std::time::{Duration, Instant};

use anyhow::Result;
use lab::{
    Lab, Trace,
    pace::slowness,
    topology::{self, C1, C2, WORLD},
    traffic::{self, at},
};
use rustix::process::Signal;

/// An echo request and a datagram from c1, and an echo request from c2.
fn mixed(lab: &Lab) -> Result<()> {
    let (c1, c2) = (lab.netns("c1")?, lab.netns("c2")?);
    traffic::ping(c1, WORLD, 1)?;
    traffic::ping(c2, WORLD, 1)?;
    traffic::udp_echo(c1, lab.netns("world")?, at(WORLD, 5353)?, 1)
}

#[test]
fn only_what_was_selected() -> Result<()> {
    let lab = Lab::standard()?;
    let netns = lab.netns("c2")?.path().display().to_string();
    let cases: [(&[&str], &str, &str); 6] = [
        (&["--ip", C2], "icmp", C2),
        (&["--src", "10.0.100.252/31", "--proto", "udp"], "udp", C1),
        (&["--ip", C1, "--proto", "icmp"], "icmp", C1),
        (&["--port", "5000-5400", "--ip", C1], "udp", C1),
        (&["--netns", &netns, "--proto", "icmp"], "icmp", C2),
        (&["--iface", "veth-c2", "--proto", "icmp"], "icmp", C2),
    ];
    for (args, proto, source) in cases {
        let records = Trace::during(&lab, args, || mixed(&lab))?;
        assert!(!records.journeys.is_empty(), "nothing with {args:?}");
        for journey in &records.journeys {
            // ARP of a container is to and from its address as well.
            let arp = journey.proto() == "arp" && proto == "icmp";
            assert!(arp || journey.proto() == proto, "with {args:?} also: {journey}");
            assert!(arp || journey.flow("src") == source, "with {args:?} also: {journey}");
        }
    }
    Ok(())
}

#[test]
fn only_drops() -> Result<()> {
    let lab = Lab::standard()?;
    lab.netns("host")?.nft("add rule inet lab fwd.lxdbr0 udp dport 5353 drop")?;
    let records = Trace::during(&lab, &["--ip", C1, "--drops"], || {
        traffic::ping(lab.netns("c1")?, WORLD, 1)?;
        traffic::udp_send(lab.netns("c1")?, at(WORLD, 5353)?, 1)
    })?;
    assert_eq!(records.journeys.len(), 1, "{records}");
    assert_eq!(records.journeys[0].outcome(), "dropped", "{records}");
    // The summary still counts all that was traced.
    assert!(records.summary["journeys"].as_u64() > Some(1), "{}", records.summary);
    Ok(())
}

#[test]
fn a_container_started_while_tracing() -> Result<()> {
    let mut lab = Lab::standard()?;
    let trace = Trace::start(&lab, &["--ip", "10.0.100.251", "--proto", "icmp", "-s", "64"])?;
    topology::container(&mut lab, "c3", "10.0.100.251", "fd00:100::251")?;
    // The new namespace is noticed a moment after it appears: from then on it is seen whole.
    let apart = (0.25 * f64::from(slowness())).to_string();
    assert_eq!(traffic::ping_with(lab.netns("c3")?, WORLD, &["-c", "16", "-i", &apart])?, 16);
    let records = trace.stop(&lab)?;
    let out = [
        "c3:eth0 nf_output",
        "c3:eth0 tc_egress",
        "c3:eth0 dev_xmit",
        "host:veth-c3 dev_receive",
        "host:veth-c3 tc_ingress",
        "host nf_forward",
        "world:eth0 dev_receive",
    ];
    let back = [
        "host:eth-up dev_receive",
        "host:veth-c3 dev_xmit",
        "c3:eth0 dev_receive",
        "c3:eth0 tc_ingress",
        "c3:eth0 nf_input",
    ];
    for (direction, steps, to) in [("original", &out[..], "world"), ("reply", &back, "c3")] {
        let journeys = records.of("icmp", direction);
        let last = journeys.last().expect("no journey in this direction");
        last.assert_passes(steps).assert_delivered(to);
    }
    Ok(())
}

#[test]
fn ends_after_a_count() -> Result<()> {
    let lab = Lab::standard()?;
    let trace = Trace::start(&lab, &["--src", C1, "--proto", "icmp", "-c", "3"])?;
    traffic::ping(lab.netns("c1")?, WORLD, 5)?;
    let records = trace.wait()?.records(&lab)?;
    assert_eq!(records.journeys.len(), 3, "{records}");
    assert_eq!(records.summary["journeys"], 3, "{}", records.summary);
    Ok(())
}

#[test]
fn ends_after_a_time() -> Result<()> {
    let lab = Lab::standard()?;
    let start = Instant::now();
    let records = Trace::start(&lab, &["--ip", C1, "--duration", "1s"])?.wait()?.records(&lab)?;
    assert!(start.elapsed() >= Duration::from_secs(1));
    let longer = u64::from(slowness()) * 1_000_000_000;
    let duration = records.summary["duration_ns"].as_u64().unwrap_or_default();
    assert!((900_000_000..1_000_000_000 + longer).contains(&duration), "{}", records.summary);
    Ok(())
}

#[test]
fn signals_end_it_with_a_summary() -> Result<()> {
    let lab = Lab::standard()?;
    for signal in [Signal::INT, Signal::TERM] {
        let trace = Trace::start(&lab, &["--ip", C1])?;
        traffic::ping(lab.netns("c1")?, WORLD, 1)?;
        trace.signal(signal)?;
        let records = trace.wait()?.records(&lab)?;
        assert!(records.summary["journeys"].as_u64() > Some(0), "{}", records.summary);
    }
    Ok(())
}

#[test]
fn capturing_bytes_costs_no_point() -> Result<()> {
    let lab = Lab::standard()?;
    let missing = |args: &[&str]| -> Result<_> {
        let args = [args, &["--ip", C1, "--duration", "100ms"]].concat();
        Ok(Trace::start(&lab, &args)?.wait()?.records(&lab)?.start["missing"].clone())
    };
    // With the least there is tc already.
    let least = missing(&["-s", "64"])?;
    for snaplen in ["96", "1500", "65535"] {
        assert_eq!(missing(&["-s", snaplen])?, least, "with -s {snaplen}");
    }
    Ok(())
}
