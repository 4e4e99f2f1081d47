//! Capture files: what `-w` writes, tshark opens and `-r` reads back.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use lab::{
    Lab, Netns, Trace, command, frames,
    pace::patience,
    topology::{C1, C2, HOST, WORLD},
    trace::{self, Ended, Output, binary},
    traffic::{self, at},
};
use pnet_base::MacAddr;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// What `-r` prints with these arguments.
fn read_back(args: &[&str]) -> Result<Ended> {
    let output = Command::new(binary()?).args(args).stdin(Stdio::null()).output()?;
    Ok(Ended {
        status: output.status,
        lines: String::from_utf8(output.stdout)?.lines().map(str::to_owned).collect(),
        stderr: String::from_utf8_lossy(&output.stderr).into(),
    })
}

/// What tshark prints of a file, a line a packet, the fields apart by a tab; it must have nothing to
/// complain about.
fn tshark(file: &Path, fields: &[&str]) -> Result<Vec<Vec<String>>> {
    let mut command = Command::new("tshark");
    command.arg("-r").arg(file).args(["-T", "fields"]);
    for field in fields {
        command.args(["-e", field]);
    }
    let output = command.output().context("tshark did not start")?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    let complaints: Vec<_> = stderr.lines().filter(|line| !line.contains("Running as")).collect();
    ensure!(output.status.success() && complaints.is_empty(), "tshark: {stderr}");
    let text = String::from_utf8(output.stdout)?;
    Ok(text.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect())
}

/// What capinfos says of a file.
fn capinfos(file: &Path) -> Result<String> {
    let output = Command::new("capinfos").arg(file).output().context("capinfos did not start")?;
    ensure!(output.status.success() && output.stderr.is_empty(), "capinfos: {output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

/// tcpdump beside the trace, ended when this is.
struct Tcpdump(Child);

impl Tcpdump {
    fn start(netns: &Netns, device: &str, file: &Path, filter: &str) -> Result<Self> {
        let mut command = Command::new("tcpdump");
        // Else it holds packets back, and loses them when it is ended.
        command
            .args(["--immediate-mode", "-U", "-Z", "root", "-i", device, "-w"])
            .arg(file)
            .arg(filter);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = netns.enter(|| command.spawn())?.context("tcpdump did not start")?;
        let start = Instant::now();
        // It listens once the file has its header.
        while fs::metadata(file).map_or(0, |known| known.len()) == 0 {
            ensure!(start.elapsed() < patience(Duration::from_secs(10)), "tcpdump does not begin");
            thread::sleep(Duration::from_millis(20));
        }
        Ok(Self(child))
    }

    fn stop(mut self) -> Result<()> {
        thread::sleep(patience(Duration::from_millis(300)));
        let pid = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.context("no process id")?, Signal::INT)?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Tcpdump {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a trace that also writes this file.
fn record(lab: &Lab, file: &Path, args: &[&str]) -> Result<Trace> {
    let mut all = vec!["-w", file.to_str().context("a path that is no text")?];
    all.extend(args);
    Trace::start(lab, &all)
}

/// An echo request out and back, and a datagram that a rule drops.
fn a_ping_and_a_drop(lab: &Lab) -> Result<()> {
    let c1 = lab.netns("c1")?;
    traffic::ping(c1, WORLD, 2)?;
    traffic::udp_send(c1, at(WORLD, 9999)?, 1)
}

#[test]
fn tshark_reads_it_and_counts_as_the_json_does() -> Result<()> {
    let lab = Lab::standard()?;
    lab.netns("host")?.nft("add rule inet lab fwd.lxdbr0 udp dport 9999 drop")?;
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("a.pcapng");
    let trace = record(&lab, &file, &["--ip", C1, "--proto", "icmp", "--proto", "udp"])?;
    a_ping_and_a_drop(&lab)?;
    let records = trace.stop(&lab)?;

    let packets = tshark(&file, &["frame.interface_name", "frame.comment", "ip.src", "frame.len"])?;
    let tc =
        |journey: &lab::Journey| journey.hops().iter().filter(|hop| hop.contains(" tc_")).count();
    let expected: usize = records.journeys.iter().map(tc).sum();
    assert!(expected > 0 && packets.len() == expected, "{} of {expected}", packets.len());
    let mut malformed = Command::new("tshark");
    malformed.arg("-r").arg(&file).args(["-Y", "_ws.malformed || _ws.expert.severity == error"]);
    let output = malformed.output()?;
    ensure!(output.status.success() && output.stdout.is_empty(), "malformed: {output:?}");
    let text = capinfos(&file)?;
    assert!(
        text.contains("Linux ") && text.contains("pathtrace ") && text.contains("--ip"),
        "{text}"
    );
    assert!(text.contains(&format!("Number of packets:   {expected}")), "{text}");
    // Each request is at five devices, the last two behind NAT.
    let sources: Vec<_> =
        packets.iter().filter(|p| p[1].starts_with("#1 ")).map(|p| &*p[2]).collect();
    let nat = "198.51.100.1";
    assert_eq!(sources, [C1, C1, C1, nat, nat], "{packets:?}");
    let dropped: Vec<_> = packets.iter().filter(|p| p[1].contains("dropped: ")).collect();
    assert_eq!(dropped.len(), 1, "{packets:?}");
    let [name, comment, ..] = dropped[0].as_slice() else { unreachable!() };
    assert!(name.ends_with(":lxdbr0"), "{name}");
    assert!(comment.contains("inet lab fwd.lxdbr0"), "{comment}");
    assert_eq!(fs::metadata(&file)?.permissions().mode() & 0o777, 0o600);
    Ok(())
}

#[test]
fn bytes_are_those_that_tcpdump_takes() -> Result<()> {
    let lab = Lab::standard()?;
    let dir = tempfile::tempdir()?;
    let places = [
        ("c1", "eth0"),
        ("host", "veth-c1"),
        ("host", "lxdbr0"),
        ("host", "eth-up"),
        ("world", "eth0"),
    ];
    let (ours, of) =
        (dir.path().join("a.pcapng"), |at: usize| dir.path().join(format!("{at}.pcap")));
    let trace = record(&lab, &ours, &["--ip", C1, "--proto", "tcp", "--proto", "udp"])?;
    let mut beside = Vec::new();
    for (at, (netns, device)) in places.iter().enumerate() {
        beside.push(Tcpdump::start(lab.netns(netns)?, device, &of(at), "tcp or udp")?);
    }
    let (c1, world) = (lab.netns("c1")?, lab.netns("world")?);
    traffic::tcp(c1, world, at(WORLD, 8080)?, 200_000)?;
    traffic::udp_echo(c1, world, at(WORLD, 5353)?, 3)?;
    beside.into_iter().try_for_each(Tcpdump::stop)?;
    trace.stop(&lab)?;

    let fields = ["frame.interface_name", "frame.len", "frame.cap_len", "frame.md5_hash"];
    let mut by_place: BTreeMap<String, Vec<Vec<String>>> = BTreeMap::new();
    for mut packet in hashed(&ours, &fields)? {
        let name = packet.remove(0);
        by_place.entry(name).or_default().push(packet);
    }
    for (at, (netns, device)) in places.iter().enumerate() {
        let name = format!("{}:{device}", lab.netns(netns)?.name());
        let mut ours = by_place.remove(&name).unwrap_or_default();
        let mut theirs = hashed(&of(at), &fields[1..])?;
        ours.sort();
        theirs.sort();
        assert!(!theirs.is_empty(), "nothing at {name}");
        assert_eq!(ours, theirs, "at {name}");
    }
    Ok(())
}

/// As [`tshark`], with a checksum of each packet's bytes.
fn hashed(file: &Path, fields: &[&str]) -> Result<Vec<Vec<String>>> {
    let mut command = Command::new("tshark");
    command.arg("-r").arg(file).args(["-o", "frame.generate_md5_hash:TRUE", "-T", "fields"]);
    for field in fields {
        command.args(["-e", field]);
    }
    let output = command.output().context("tshark did not start")?;
    ensure!(output.status.success(), "tshark: {output:?}");
    let text = String::from_utf8(output.stdout)?;
    Ok(text.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect())
}

#[test]
fn a_tag_that_the_kernel_keeps_apart_is_in_its_place() -> Result<()> {
    let lab = Lab::standard()?;
    let dir = tempfile::tempdir()?;
    let (ours, theirs) = (dir.path().join("a.pcapng"), dir.path().join("b.pcap"));
    let (from, to) = (MacAddr(2, 0, 0, 0, 0, 0x11), MacAddr(2, 0, 0, 0, 0, 0x99));
    let frame =
        frames::tagged_udp((from, C1.parse()?, 4000), (to, C2.parse()?, 5000), &[100], b"tagged")?;
    let trace = record(&lab, &ours, &["--ip", C2, "--dport", "5000"])?;
    let beside = Tcpdump::start(lab.netns("host")?, "veth-c1", &theirs, "")?;
    frames::send(lab.netns("c1")?, "eth0", &frame)?;
    beside.stop()?;
    trace.stop(&lab)?;

    let fields = ["vlan.id", "udp.dstport", "frame.len", "frame.cap_len", "frame.md5_hash"];
    let wanted = |packet: &Vec<String>| packet[1] == "5000";
    let theirs: Vec<_> = hashed(&theirs, &fields)?.into_iter().filter(wanted).collect();
    let ours: Vec<_> = hashed(&ours, &fields)?.into_iter().filter(wanted).collect();
    assert!(!theirs.is_empty() && theirs.iter().all(|packet| packet[0] == "100"), "{theirs:?}");
    assert!(ours.contains(&theirs[0]), "{ours:?} without {theirs:?}");
    assert!(ours.iter().all(|packet| packet[0] == "100"), "{ours:?}");
    Ok(())
}

#[test]
fn a_stream_of_tcp_is_put_together_again() -> Result<()> {
    let lab = Lab::standard()?;
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("a.pcap");
    let bytes = 300_000;
    let trace = record(&lab, &file, &["--ip", C1, "--proto", "tcp"])?;
    traffic::tcp(lab.netns("c1")?, lab.netns("world")?, at(WORLD, 8080)?, bytes)?;
    let records = trace.stop(&lab)?;

    let packets = tshark(&file, &["tcp.len"])?;
    assert_eq!(
        packets.len(),
        records.of("tcp", "original").len() + records.of("tcp", "reply").len()
    );
    let mut follow = Command::new("tshark");
    follow.arg("-r").arg(&file).args(["-q", "-z", "follow,tcp,raw,0"]);
    let output = follow.output()?;
    ensure!(output.status.success(), "tshark: {output:?}");
    let text = String::from_utf8(output.stdout)?;
    let stream: String = text
        .lines()
        .map(str::trim)
        .filter(|line| line.len() > 64 && line.chars().all(|c| c.is_ascii_hexdigit()))
        .collect();
    // What was sent, each byte an x.
    assert!(stream == "78".repeat(bytes), "{} of {bytes} bytes, or others", stream.len() / 2);
    Ok(())
}

#[test]
fn read_back_it_is_the_same_text_and_json() -> Result<()> {
    let lab = Lab::standard()?;
    lab.netns("host")?.nft("add rule inet lab fwd.lxdbr0 udp dport 9999 drop")?;
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("a.pcapng");
    let name = file.to_str().context("no text")?;
    for (format, more) in
        [("json", &[][..]), ("text", &[]), ("text", &["--hops", "all"]), ("json", &["-s", "60"])]
    {
        let mut command = Command::new(binary()?);
        command.args(["-o", format, "--ip", C1, "-w", name]).args(more);
        let trace = Trace::spawn(lab.netns("host")?, command, Output::Keep)?;
        a_ping_and_a_drop(&lab)?;
        thread::sleep(patience(Duration::from_millis(300)));
        trace.signal(Signal::INT)?;
        let written = trace.wait()?;
        assert!(written.lines.len() > 2, "{written:?}");

        let hops = more.iter().filter(|arg| **arg != "-s" && **arg != "60").copied();
        let args: Vec<_> = ["-r", name, "-o", format].into_iter().chain(hops).collect();
        let read = read_back(&args)?;
        assert_eq!(read.lines, written.lines, "{format} {more:?}: {}", read.stderr);
        assert!(read.status.success() && read.stderr.is_empty(), "{}", read.stderr);
    }
    Ok(())
}

#[test]
fn selecting_drops_and_counts_hold_for_a_file_too() -> Result<()> {
    let lab = Lab::standard()?;
    lab.netns("host")?.nft("add rule inet lab fwd.lxdbr0 udp dport 9999 drop")?;
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("a.pcapng");
    let name = file.to_str().context("no text")?;
    let trace = record(&lab, &file, &["--ip", C1])?;
    a_ping_and_a_drop(&lab)?;
    let records = trace.stop(&lab)?;

    let netns = lab.netns("world")?.name().to_owned();
    let protos = |ended: &Ended| -> Result<Vec<(String, String)>> {
        ensure!(ended.status.success(), "{}", ended.stderr);
        let records = ended.lines.iter().map(|line| serde_json::from_str::<Value>(line));
        let records: Vec<Value> = records.collect::<Result<_, _>>()?;
        let of = |r: &Value| (r["flow"]["proto"].to_string(), r["outcome"]["kind"].to_string());
        let all: Vec<_> = records.iter().filter(|r| r["type"] == "journey").map(of).collect();
        let summary = records.last().context("no summary")?;
        ensure!(summary["type"] == "summary", "{summary}");
        Ok(all)
    };
    for (args, expected) in [
        (&["--proto", "udp"][..], records.of("udp", "original").len()),
        (&["--drops"], 1),
        (&["--dport", "9999", "--src", C1], 1),
        (&["--dst", "198.51.100.1", "--proto", "icmp"], 2),
        (&["--netns", &netns, "--proto", "icmp"], 4),
        (&["--iface", "eth-up", "--proto", "udp"], 0),
        (&["--iface", "lxdbr0", "--proto", "udp"], 1),
        (&["-c", "2"], 2),
        (&["--ip", "192.0.2.77"], 0),
    ] {
        let args: Vec<_> = ["-r", name, "-o", "json"].iter().chain(args).copied().collect();
        let found = protos(&read_back(&args)?)?;
        assert_eq!(found.len(), expected, "{args:?}: {found:?}");
    }
    Ok(())
}

#[test]
fn a_killed_process_leaves_a_readable_file() -> Result<()> {
    let lab = Lab::standard()?;
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("a.pcapng");
    let trace = record(&lab, &file, &["--ip", C1, "--proto", "icmp"])?;
    traffic::ping(lab.netns("c1")?, WORLD, 3)?;
    thread::sleep(patience(Duration::from_millis(700)));
    trace.signal(Signal::KILL)?;
    trace.wait()?;

    assert_eq!(tshark(&file, &["frame.comment"])?.len(), 30);
    let read = read_back(&["-r", file.to_str().context("no text")?, "-o", "json"])?;
    assert!(read.status.success(), "{}", read.stderr);
    assert_eq!(read.lines.len(), 1 + 6, "{:?}", read.lines);
    assert!(read.stderr.contains("without a summary"), "{}", read.stderr);
    Ok(())
}

#[test]
fn a_full_disk_is_told_once_and_harms_nothing() -> Result<()> {
    let lab = Lab::standard()?;
    let dir = tempfile::tempdir()?;
    let small = dir.path().join("small");
    fs::create_dir(&small)?;
    command::run(
        "mount",
        &["-t", "tmpfs", "-o", "size=64k", "none", small.to_str().context("text")?],
    )?;
    let file = small.join("a.pcapng");
    let work = || -> Result<()> {
        for alone in [false, true] {
            let mut command = Command::new(binary()?);
            command.args(["-o", if alone { "none" } else { "json" }, "--ip", C1, "-w"]).arg(&file);
            let trace = Trace::spawn(lab.netns("host")?, command, Output::Keep)?;
            for _ in 0..4 {
                traffic::ping(lab.netns("c1")?, WORLD, 10)?;
            }
            thread::sleep(patience(Duration::from_millis(500)));
            if !alone {
                trace.signal(Signal::INT)?;
            }
            let ended = trace.wait()?;
            assert_eq!(ended.status.code(), Some(1), "{ended:?}");
            assert_eq!(ended.stderr.matches("No space left").count(), 1, "{}", ended.stderr);
            if !alone {
                assert!(ended.lines.len() > 80, "{} lines", ended.lines.len());
                assert!(ended.lines.last().is_some_and(|line| line.contains("\"summary\"")));
            }
            let packets = tshark(&file, &["frame.comment"])?.len();
            assert!(packets > 20, "{packets}");
            let read = read_back(&["-r", file.to_str().context("text")?, "-o", "json"])?;
            assert!(!read.stderr.contains("at byte"), "{}", read.stderr);
        }
        Ok(())
    };
    let result = work();
    command::run("umount", &[small.to_str().context("text")?])?;
    result
}

#[test]
fn files_follow_each_other_by_size_and_are_read_as_one() -> Result<()> {
    let lab = Lab::standard()?;
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("a.pcapng");
    let mut command = Command::new(binary()?);
    command.args(["-o", "json", "--ip", C1, "-C", "30k", "-w"]).arg(&file);
    let trace = Trace::spawn(lab.netns("host")?, command, Output::Keep)?;
    traffic::ping(lab.netns("c1")?, WORLD, 10)?;
    thread::sleep(patience(Duration::from_millis(300)));
    trace.signal(Signal::INT)?;
    let written = trace.wait()?;

    let mut files: Vec<_> =
        fs::read_dir(&dir)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    assert!(files.len() > 2, "{files:?}");
    for file in &files {
        assert!(!tshark(file, &["frame.comment"])?.is_empty(), "{}", file.display());
        assert!(fs::metadata(file)?.len() < 60_000);
    }
    // In any order.
    files.sort_by_key(|file| std::cmp::Reverse(file.clone()));
    let mut args = vec!["-o", "json"];
    files.iter().for_each(|file| args.extend(["-r", file.to_str().unwrap_or_default()]));
    let read = read_back(&args)?;
    assert_eq!(read.lines, written.lines, "{}", read.stderr);
    assert!(read.stderr.is_empty(), "{}", read.stderr);
    let first = read_back(&["-o", "json", "-r", file.to_str().context("text")?])?;
    assert!(first.stderr.contains("in another file"), "{}", first.stderr);
    Ok(())
}

#[test]
fn by_time_so_many_files_end_the_trace() -> Result<()> {
    let lab = Lab::standard()?;
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("a-%H%M%S.pcapng");
    let mut command = Command::new(binary()?);
    command.args(["-o", "none", "--ip", C1, "-G", "1", "-W", "2", "-w"]).arg(&file);
    let trace = Trace::spawn(lab.netns("host")?, command, Output::Keep)?;
    let apart = patience(Duration::from_millis(100)).as_secs_f32().to_string();
    traffic::ping_with(lab.netns("c1")?, WORLD, &["-c", "20", "-i", &apart])?;
    let ended = trace.wait()?;
    assert!(ended.status.success(), "{}", ended.stderr);
    assert_eq!(fs::read_dir(&dir)?.count(), 2);
    Ok(())
}

#[test]
fn a_pipe_is_read_live() -> Result<()> {
    let lab = Lab::standard()?;
    let mut command = Command::new("bash");
    command.args(["-c", r#""$0" --ip "$1" --proto icmp -w - | tshark -l -r - -c 5 -T fields -e frame.comment 2>/dev/null"#]);
    command.arg(binary()?).arg(C1);
    let trace = Trace::spawn(lab.netns("host")?, command, Output::Keep)?;
    let start = Instant::now();
    // tshark ends by itself when it has five: that is before the trace would.
    traffic::ping(lab.netns("c1")?, WORLD, 3)?;
    thread::sleep(patience(Duration::from_millis(800)));
    traffic::ping(lab.netns("c1")?, WORLD, 1)?;
    let ended = trace.wait()?;
    assert!(start.elapsed() < patience(Duration::from_secs(20)));
    assert_eq!(ended.lines.len(), 5, "{ended:?}");
    assert!(ended.lines[0].starts_with("#1 "), "{ended:?}");
    Ok(())
}

#[test]
fn files_of_two_traces_are_merged_by_time() -> Result<()> {
    let lab = Lab::standard()?;
    let dir = tempfile::tempdir()?;
    let (a, b) = (dir.path().join("a.pcapng"), dir.path().join("b.pcapng"));
    let traces = [
        record(&lab, &a, &["--ip", C1, "--proto", "icmp"])?,
        record(&lab, &b, &["--ip", C2, "--proto", "icmp"])?,
    ];
    for _ in 0..3 {
        traffic::ping(lab.netns("c1")?, WORLD, 1)?;
        traffic::ping(lab.netns("c2")?, WORLD, 1)?;
    }
    for trace in traces {
        trace.stop(&lab)?;
    }
    let read = read_back(&[
        "-o",
        "json",
        "-r",
        b.to_str().context("text")?,
        "-r",
        a.to_str().context("text")?,
    ])?;
    ensure!(read.status.success(), "{}", read.stderr);
    let records: Vec<Value> =
        read.lines.iter().map(|line| serde_json::from_str(line)).collect::<Result<_, _>>()?;
    let journeys: Vec<_> = records.iter().filter(|record| record["type"] == "journey").collect();
    assert_eq!(journeys.len(), 12, "{:?}", read.lines);
    assert!(journeys.iter().zip(1..).all(|(journey, id)| journey["id"] == id));
    assert!(journeys.is_sorted_by_key(|journey| journey["time"].as_str().map(str::to_owned)));
    let files: std::collections::BTreeSet<_> =
        journeys.iter().map(|j| j["source"]["file"].to_string()).collect();
    let flows: std::collections::BTreeSet<_> = journeys
        .iter()
        .map(|j| (j["source"]["file"].to_string(), j["flow"]["id"].as_u64()))
        .collect();
    let ids: std::collections::BTreeSet<_> =
        journeys.iter().map(|j| j["flow"]["id"].as_u64()).collect();
    assert_eq!(files.len(), 2);
    assert_eq!(flows.len(), ids.len(), "{flows:?}");
    assert_eq!(records.iter().filter(|record| record["type"] == "start").count(), 2);
    assert_eq!(records.last().context("none")?["journeys"], 12);
    Ok(())
}

#[test]
fn what_is_no_file_of_ours_is_refused_with_a_reason() -> Result<()> {
    let lab = Lab::standard()?;
    let dir = tempfile::tempdir()?;
    let (pcap, other) = (dir.path().join("a.pcap"), dir.path().join("b"));
    let beside = Tcpdump::start(lab.netns("c1")?, "eth0", &pcap, "")?;
    traffic::ping(lab.netns("c1")?, HOST, 1)?;
    beside.stop()?;
    fs::write(&other, "no capture at all\n")?;
    let missing = dir.path().join("missing");
    for (file, reason) in
        [(&pcap, "ordinary capture"), (&other, "no capture file"), (&missing, "No such file")]
    {
        let ended = read_back(&["-r", file.to_str().context("text")?])?;
        assert_eq!(ended.status.code(), Some(1), "{ended:?}");
        assert!(ended.stderr.contains(reason), "{}", ended.stderr);
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    }
    for args in [
        &["-w", "-", "-o", "json"][..],
        &["-o", "none"],
        &["-C", "1"],
        &["-w", "x", "-W", "2"],
        &["-r", "x", "-w", "x"],
        &["-r", "x", "--duration", "1s"],
    ] {
        let ended = trace::run(&lab, args)?;
        assert_eq!(ended.status.code(), Some(2), "{args:?}: {}", ended.stderr);
    }
    Ok(())
}

#[test]
fn a_report_is_one_page_that_needs_nothing_else() -> Result<()> {
    let lab = Lab::standard()?;
    lab.netns("host")?.nft("add rule inet lab fwd.lxdbr0 udp dport 9999 drop")?;
    let dir = tempfile::tempdir()?;
    let (file, page) = (dir.path().join("a.pcapng"), dir.path().join("a.html"));
    let trace = record(&lab, &file, &["--ip", C1, "--proto", "icmp", "--proto", "udp"])?;
    a_ping_and_a_drop(&lab)?;
    trace.stop(&lab)?;
    let report = |from: &Path, to: &Path| {
        Command::new(binary()?).arg("report").arg(from).arg("-o").arg(to).output().context("report")
    };

    let ended = report(&file, &page)?;
    assert!(ended.status.success() && ended.stderr.is_empty(), "{ended:?}");
    let html = fs::read_to_string(&page)?;
    let c1 = lab.netns("c1")?.name();
    for told in [c1, WORLD, "NETFILTER_DROP", "inet lab fwd.lxdbr0", "<svg"] {
        assert!(html.contains(told), "no {told:?} in {html}");
    }
    // Whatever a browser would fetch.
    for fetched in ["src=", "<link", "@import", "url(http", "href=\"http"] {
        assert!(!html.contains(fetched), "{fetched:?} in {html}");
    }
    assert_eq!(fs::metadata(&page)?.permissions().mode() & 0o777, 0o600);

    let absent = report(&dir.path().join("absent"), &page)?;
    assert_eq!(absent.status.code(), Some(1), "{absent:?}");
    let told = String::from_utf8_lossy(&absent.stderr).into_owned();
    assert!(told.lines().count() == 1 && told.contains("absent"), "{told}");
    assert_eq!(fs::read_to_string(&page)?, html, "a page that was there was harmed");
    Ok(())
}
