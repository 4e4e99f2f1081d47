//! The lab itself: its topology carries packets, and nothing of it stays.

use std::{fs, panic, time::Duration};

use anyhow::Result;
use lab::{
    Lab, flood,
    topology::{self, C1, C2, C2_V6, HOST, HOST_V6, WORLD, WORLD_V6},
    traffic::{self, Numbered, at},
};

fn namespaces(prefix: &str) -> Vec<String> {
    fs::read_dir("/run/netns")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with(prefix))
        .collect()
}

#[test]
fn every_host_reaches_the_others() -> Result<()> {
    let lab = Lab::standard()?;
    let (c1, world) = (lab.netns("c1")?, lab.netns("world")?);
    for address in [WORLD, WORLD_V6, HOST, HOST_V6, C2, C2_V6] {
        assert_eq!(traffic::ping(c1, address, 2)?, 2, "{address}");
    }
    assert_eq!(traffic::ping(lab.netns("host")?, C1, 1)?, 1);
    traffic::tcp(c1, world, format!("{WORLD}:8080").parse()?, 1 << 20)?;
    traffic::tcp(c1, world, format!("[{WORLD_V6}]:8080").parse()?, 1 << 20)?;
    traffic::udp_echo(c1, world, format!("{WORLD}:5353").parse()?, 10)
}

#[test]
fn the_host_masquerades_its_containers() -> Result<()> {
    let lab = Lab::standard()?;
    let server = traffic::udp_socket(lab.netns("world")?, format!("{WORLD}:9").parse()?)?;
    traffic::udp_send(lab.netns("c1")?, format!("{WORLD}:9").parse()?, 1)?;
    let (_, peer) = server.recv_from(&mut [0; 16])?;
    assert_eq!(peer.ip().to_string(), topology::UPLINK);
    Ok(())
}

#[test]
fn numbered_packets_all_arrive() -> Result<()> {
    let lab = Lab::standard()?;
    let numbered = Numbered { flows: 10, packets: 1000, rate: 5000 };
    let arrived =
        numbered.send(lab.netns("c1")?, lab.netns("world")?, format!("{WORLD}:7").parse()?)?;
    assert_eq!(arrived, 1000);
    Ok(())
}

#[test]
fn nothing_stays_after_a_panic() -> Result<()> {
    let lab = Lab::standard()?;
    let prefix = format!("{}-", lab.prefix());
    assert_eq!(namespaces(&prefix).len(), 4);
    let panicked = panic::catch_unwind(move || {
        let lab = lab;
        let sleeper = lab
            .netns("c1")
            .and_then(|c1| c1.enter(|| std::process::Command::new("sleep").arg("1000").spawn()));
        assert!(sleeper.is_err(), "a panic while a process runs in the lab");
    });
    assert!(panicked.is_err());
    assert_eq!(namespaces(&prefix), [""; 0]);
    Ok(())
}

#[test]
fn two_labs_live_side_by_side() -> Result<()> {
    let _turn = Lab::standard()?;
    let mut labs = [Lab::new()?, Lab::new()?];
    for lab in &mut labs {
        topology::standard(lab)?;
    }
    for lab in &labs {
        assert_eq!(traffic::ping(lab.netns("c1")?, WORLD, 1)?, 1, "{}", lab.prefix());
    }
    Ok(())
}

#[test]
fn a_container_comes_and_goes() -> Result<()> {
    let mut lab = Lab::standard()?;
    topology::container(&mut lab, "c3", "10.0.100.251", "fd00:100::251")?;
    assert_eq!(traffic::ping(lab.netns("c3")?, WORLD, 1)?, 1);
    lab.delete("c3")?;
    assert!(lab.netns("c3").is_err());
    Ok(())
}

#[test]
fn a_kept_lab_is_found_again_until_removed() -> Result<()> {
    let prefix = format!("ptkept{}", std::process::id());
    let mut kept = Lab::kept(&prefix)?;
    kept.add("host")?;
    drop(kept);
    let found = Lab::find(&prefix)?;
    assert!(found.is_some_and(|lab| lab.netns("host").is_ok()));
    Lab::remove(&prefix)?;
    assert!(Lab::find(&prefix)?.is_none());
    Ok(())
}

#[test]
fn floods_arrive() -> Result<()> {
    let lab = Lab::standard()?;
    let (c1, world, address) = (lab.netns("c1")?, lab.netns("world")?, at(WORLD, 7)?);
    let time = Duration::from_millis(300);
    assert!(flood::udp(c1, world, address, 3, time)? > 0.0);
    assert!(flood::udp_of_many(c1, world, 9, time)? > 0.0);
    assert!(flood::tcp(c1, world, address, time)? > 0.0);
    assert!(flood::tcp_connections(c1, world, address, time)? > 0.0);
    assert!(!flood::tcp_round_trips(c1, world, address, time)?.is_empty());
    Ok(())
}
