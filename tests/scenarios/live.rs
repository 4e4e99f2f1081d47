//! The live view, in a real terminal.

use std::{fs, process::Command, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use lab::{
    Lab, Trace, command,
    pace::patience,
    terminal::Terminal,
    topology::{C1, C2, WORLD},
    trace::binary,
    traffic::{self, at},
};

/// Another screen and the mouse are given back, the cursor is to be seen.
const AS_BEFORE: &str = "0 0 1";

/// The view in the lab's host, at work, beside a shell that tells how it ended.
fn open(lab: &Lab, args: &str, columns: u16, lines: u16) -> Result<Terminal> {
    let terminal = show(lab, args, columns, lines)?;
    terminal.wait_for_trace()?;
    Ok(terminal)
}

/// The view in the lab's host, as soon as it is called.
fn show(lab: &Lab, args: &str, columns: u16, lines: u16) -> Result<Terminal> {
    let terminal = Terminal::open(lab.netns("host")?, columns, lines)?;
    terminal.wait_for("$")?;
    let pathtrace = binary()?;
    let (before, after) = (settings(lab, "before"), settings(lab, "after"));
    terminal.line(&format!(
        "stty -g > {before}; {} {args}; echo status-$?; stty -g > {after}",
        pathtrace.display()
    ))?;
    Ok(terminal)
}

/// Where settings of the terminal are written to.
fn settings(lab: &Lab, when: &str) -> String {
    let host = lab.netns("host").map(|host| host.name().to_owned()).unwrap_or_default();
    format!("/tmp/{host}-{}-{when}", std::process::id())
}

/// It has ended well, and the terminal is as it was.
fn assert_restored(lab: &Lab, terminal: &Terminal) -> Result<()> {
    // What was typed has the word too, without a number.
    let picture = terminal.wait("its exit status", |picture| {
        (0..10).any(|digit| picture.contains(&format!("status-{digit}")))
    })?;
    ensure!(picture.contains("status-0"), "{picture}");
    terminal.wait("the settings", |_| fs::exists(settings(lab, "after")).unwrap_or(false))?;
    thread::sleep(patience(Duration::from_millis(100)));
    let (before, after) = (settings(lab, "before"), settings(lab, "after"));
    let (were, are) = (fs::read_to_string(&before)?, fs::read_to_string(&after)?);
    for file in [before, after] {
        fs::remove_file(&file).with_context(|| file.clone())?;
    }
    assert_eq!(are, were);
    assert_eq!(terminal.modes()?, AS_BEFORE, "{picture}");
    assert!(!picture.contains("Journey"), "something of it stayed:\n{picture}");
    Ok(())
}

#[test]
fn a_flow_its_path_and_the_rule_that_drops_it_are_shown() -> Result<()> {
    let lab = Lab::standard()?;
    lab.netns("host")?.nft("add rule inet lab fwd.lxdbr0 udp dport 9999 drop")?;
    let terminal = open(&lab, &format!("--ip {C1}"), 120, 30)?;
    assert_ne!(terminal.modes()?, AS_BEFORE);
    let c1 = lab.netns("c1")?;
    traffic::ping(c1, WORLD, 2)?;
    traffic::udp_send(c1, at(WORLD, 9999)?, 3)?;

    // The flow with drops comes first, and is the one whose path is drawn.
    terminal.wait("two flows", |picture| picture.contains("icmp") && picture.contains(":9999"))?;
    terminal.text("d")?;
    let picture = terminal.wait_for("✗ 3 dropped: NETFILTER_DROP")?;
    for told in ["→ original: 3 packets, 3 dropped", "nf_forward", "┌ ", "Drops 3, 1 cause"] {
        assert!(picture.contains(told), "no {told:?}:\n{picture}");
    }
    // Its packets, and one of them.
    terminal.text("p")?;
    terminal.wait_for(": 3 packets")?;
    terminal.keys(&["Enter"])?;
    terminal.wait_for("hop 1 of")?;
    // Two at once would be another key.
    terminal.keys(&["Escape"])?;
    terminal.wait_for(": 3 packets")?;
    terminal.keys(&["Escape"])?;
    terminal.wait_for("Journey")?;

    // Words that are typed filter at once.
    terminal.text("/icmp")?;
    terminal.wait("only the ping", |picture| {
        picture.contains("Flows 1 of") && picture.contains("find: icmp")
    })?;
    terminal.keys(&["Enter"])?;
    terminal.text("q")?;
    assert_restored(&lab, &terminal)
}

#[test]
fn another_selection_is_traced_when_it_is_typed() -> Result<()> {
    let lab = Lab::standard()?;
    let terminal = open(&lab, &format!("--ip {C1}"), 100, 30)?;
    terminal.text("f")?;
    terminal.wait_for(&format!("trace: --ip {C1}"))?;
    terminal.keys(&["C-u"])?;
    terminal.line("--iface nosuch0")?;
    terminal.wait_for("nosuch0\" in namespace")?;
    terminal.keys(&["C-u"])?;
    terminal.line(&format!("--ip {C2} --proto icmp"))?;
    let begun = format!("--ip {C2} --proto icmp │");
    terminal.wait("the other selection", |picture| {
        picture.starts_with(&begun) && !picture.contains("attaching")
    })?;
    traffic::ping(lab.netns("c1")?, WORLD, 1)?;
    traffic::ping(lab.netns("c2")?, WORLD, 1)?;
    let picture = terminal.wait_for(&format!("icmp {C2}"))?;
    assert!(picture.contains("Flows 1 "), "{picture}");
    terminal.keys(&["C-c"])?;
    assert_restored(&lab, &terminal)
}

#[test]
fn a_signal_gives_the_terminal_back() -> Result<()> {
    let lab = Lab::standard()?;
    let terminal = open(&lab, &format!("--ip {C1}"), 80, 24)?;
    let socket = format!("--ip {C1}");
    // That of this namespace alone: others may trace on this machine.
    let pids = command::run("ip", &["netns", "pids", lab.netns("host")?.name()])?;
    let traced = pids.lines().find(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        line.contains(&socket) && line.split(' ').next().is_some_and(|it| it.ends_with("pathtrace"))
    });
    let pid = traced.with_context(|| format!("no pathtrace among {pids}"))?;
    command::run("kill", &["-TERM", pid])?;
    assert_restored(&lab, &terminal)
}

#[test]
fn a_capture_file_is_looked_at_and_a_flow_of_it_exported() -> Result<()> {
    let lab = Lab::standard()?;
    lab.netns("host")?.nft("add rule inet lab fwd.lxdbr0 udp dport 9999 drop")?;
    let dir = tempfile::tempdir()?;
    let text = |name: &str| dir.path().join(name).display().to_string();
    let (file, flow) = (text("a.pcapng"), text("flow.pcapng"));
    let trace =
        Trace::start(&lab, &["-w", &file, "--ip", C1, "--proto", "icmp", "--proto", "udp"])?;
    traffic::ping(lab.netns("c1")?, WORLD, 2)?;
    traffic::udp_send(lab.netns("c1")?, at(WORLD, 9999)?, 3)?;
    trace.stop(&lab)?;

    let terminal = show(&lab, &format!("-o tui -r {file}"), 120, 30)?;
    terminal.wait("both flows", |picture| {
        picture.contains("from a file") && picture.contains("icmp") && picture.contains(":9999")
    })?;
    terminal.text("d")?;
    terminal.wait_for("✗ 3 dropped: NETFILTER_DROP")?;
    terminal.text("w")?;
    terminal.wait_for(".pcapng")?;
    terminal.keys(&["C-u"])?;
    terminal.line(&flow)?;
    terminal.wait("the file", |_| fs::exists(&flow).unwrap_or(false))?;
    terminal.text("q")?;
    assert_restored(&lab, &terminal)?;

    // The flow alone, as it was.
    let journeys = |file: &str| -> Result<Vec<String>> {
        let output = Command::new(binary()?).args(["-o", "json", "-r", file]).output()?;
        ensure!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        let lines = String::from_utf8(output.stdout)?;
        let journeys = lines.lines().filter(|line| line.contains(r#""type":"journey""#));
        Ok(journeys.map(str::to_owned).collect())
    };
    let of_flow: Vec<_> =
        journeys(&file)?.into_iter().filter(|line| line.contains(r#""dport":9999"#)).collect();
    assert_eq!(of_flow.len(), 3, "{of_flow:?}");
    assert_eq!(journeys(&flow)?, of_flow);
    Ok(())
}

#[test]
fn it_follows_the_size_of_the_terminal() -> Result<()> {
    let lab = Lab::standard()?;
    let terminal = open(&lab, &format!("--ip {C1} --ascii"), 80, 24)?;
    // More than ARP: the flow with most packets is shown.
    traffic::ping(lab.netns("c1")?, WORLD, 4)?;
    let picture = terminal.wait_for("icmp 10.0.100.252")?;
    assert!(picture.is_ascii(), "{picture}");
    terminal.resize(60, 20)?;
    terminal.wait_for("one pane; 80x24 has all")?;
    terminal.resize(30, 6)?;
    terminal.wait_for("too small")?;
    terminal.resize(160, 40)?;
    terminal.wait("all panes", |picture| {
        picture.contains("Journey") && picture.contains("Drops") && picture.contains("state")
    })?;
    terminal.text("q")?;
    assert_restored(&lab, &terminal)
}

#[test]
fn without_a_terminal_it_is_refused_or_text() -> Result<()> {
    let lab = Lab::standard()?;
    let ended = lab::trace::run(&lab, &["-o", "tui", "--ip", C1])?;
    assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("needs a terminal"), "{}", ended.stderr);
    let ended = lab::trace::run(&lab, &["--ip", C1, "--duration", "300ms"])?;
    assert!(ended.status.success(), "{}", ended.stderr);
    assert!(ended.lines.iter().any(|line| line.contains("journeys in")), "{:?}", ended.lines);
    Ok(())
}
