//! A packet that a tunnel carries is followed through it: it stays the packet that it was.

use std::path::Path;

use anyhow::Result;
use lab::{
    Lab, Netns, Trace, command, notes,
    topology::{C1, UPLINK, WORLD_LINK},
    traffic::{self, at},
};

/// The far end of the tunnel.
const FAR: &str = "10.77.0.2";

/// A tunnel from the host to the world over the uplink; false where the kernel has no such links.
fn tunnel(lab: &Lab, kind: &str) -> Result<bool> {
    for (name, local, remote, address) in
        [("host", UPLINK, WORLD_LINK, "10.77.0.1"), ("world", WORLD_LINK, UPLINK, FAR)]
    {
        let made = lab.netns(name)?.ip(&format!(
            "link add tun0 type {kind} local {local} remote {remote}
             addr add {address}/24 dev tun0
             link set tun0 up mtu 1400"
        ));
        match made {
            Err(e) if format!("{e:#}").contains("Unknown device type") => return Ok(false),
            made => made?,
        }
    }
    Ok(true)
}

fn is_followed_through(kind: &str) -> Result<()> {
    let lab = Lab::standard()?;
    if !tunnel(&lab, kind)? {
        notes::skipped(&format!("it needs links of type {kind}"));
        return Ok(());
    }
    let records = Trace::during(&lab, &["--ip", C1, "--proto", "udp"], || {
        traffic::udp_echo(lab.netns("c1")?, lab.netns("world")?, at(FAR, 7)?, 3)
    })?;

    let (sent, answered) = (records.of("udp", "original"), records.of("udp", "reply"));
    assert_eq!((sent.len(), answered.len()), (3, 3), "{records}");
    for journey in &sent {
        journey.assert_passes(&[
            "c1:eth0 dev_xmit",
            "host nat",
            "host:tun0 dev_xmit",
            "host:eth-up dev_xmit",
            "world:eth0 dev_receive",
            "world:tun0 dev_receive",
        ]);
    }
    for journey in &answered {
        journey.assert_passes(&[
            "world:tun0 dev_xmit",
            "world:eth0 dev_xmit",
            "host:eth-up dev_receive",
            "host:tun0 dev_receive",
            "host nat",
            "c1:eth0 dev_receive",
        ]);
    }
    for journey in records.select(|journey| journey.proto() == "udp") {
        assert_eq!((journey.flow("src").as_str(), journey.flow("dst").as_str()), (C1, FAR));
        assert_eq!(journey.outcome(), "delivered", "{journey}");
        let hops = journey.record["hops"].as_array().into_iter().flatten();
        let tunneled: Vec<_> = hops.filter(|hop| hop["tunneled"] == true).collect();
        assert!(!tunneled.is_empty(), "{journey}");
        // The tunnel's own device has it as it is; hooks behind it still name that device.
        let at_device = tunneled.iter().filter(|hop| hop["layer"] == "device");
        assert!(at_device.clone().all(|hop| hop["dev"]["name"] != "tun0"), "{journey}");
        assert!(at_device.count() > 0, "{journey}");
    }
    records.assert_nothing_lost();
    Ok(())
}

#[test]
fn through_vxlan() -> Result<()> {
    is_followed_through("vxlan id 42 dstport 4789")
}

#[test]
fn through_gre() -> Result<()> {
    is_followed_through("gre")
}

#[test]
fn through_ip_in_ip() -> Result<()> {
    is_followed_through("ipip")
}

/// WireGuard's link in a namespace, with the key of the other end.
fn wireguard(netns: &Netns, address: &str, own: &Path, other: &str, at: &str) -> Result<()> {
    netns.ip(&format!(
        "addr add {address}/24 dev wg0
         link set wg0 up mtu 1400"
    ))?;
    let (own, at) = (own.display().to_string(), format!("{at}:51820"));
    let peer = ["peer", other, "allowed-ips", "10.77.0.0/24", "endpoint", &at];
    let args = [&["set", "wg0", "listen-port", "51820", "private-key", &own][..], &peer].concat();
    netns.run("wg", &args).map(drop)
}

/// A secret key in this file; its public key.
fn key(file: &Path) -> Result<String> {
    let public =
        command::run("sh", &["-c", &format!("wg genkey | tee {} | wg pubkey", file.display())])?;
    Ok(public.trim().to_owned())
}

/// What it encrypts is no packet any more that could be known again: it ends there, and what comes out at
/// the far end is another one. It is one flow all the same.
#[test]
fn through_wireguard_a_packet_ends_and_begins_anew() -> Result<()> {
    let lab = Lab::standard()?;
    let (host, world) = (lab.netns("host")?, lab.netns("world")?);
    for netns in [host, world] {
        match netns.ip("link add wg0 type wireguard") {
            Err(e) if format!("{e:#}").contains("Unknown device type") => {
                notes::skipped("it needs links of type wireguard");
                return Ok(());
            }
            made => made?,
        }
    }
    let keys = tempfile::tempdir()?;
    let (of_host, of_world) = (keys.path().join("host"), keys.path().join("world"));
    let (host_key, world_key) = (key(&of_host)?, key(&of_world)?);
    wireguard(host, "10.77.0.1", &of_host, &world_key, WORLD_LINK)?;
    wireguard(world, FAR, &of_world, &host_key, UPLINK)?;
    // The first one has them shake hands.
    traffic::ping(host, FAR, 1)?;
    let records = Trace::during(&lab, &["--ip", C1, "--proto", "udp"], || {
        traffic::udp_echo(lab.netns("c1")?, world, at(FAR, 7)?, 3)
    })?;

    let from = |netns: &str| {
        let begins = format!("{netns}:");
        records.select(move |journey| {
            journey.hops().first().is_some_and(|hop| hop.starts_with(&begins))
        })
    };
    let sent = from("c1");
    assert_eq!(sent.len(), 3, "{records}");
    for journey in &sent {
        journey.assert_passes(&["c1:eth0 dev_xmit", "host nat", "host:wg0 dev_xmit"]);
        assert!(journey.hops().iter().all(|hop| !hop.starts_with("host:eth-up")), "{journey}");
    }
    let answered = records.select(|j| j.hops().iter().any(|hop| hop == "c1:eth0 dev_receive"));
    assert_eq!(answered.len(), 3, "{records}");
    for journey in &answered {
        journey.assert_passes(&["host:wg0 dev_receive", "host nat", "c1:eth0 dev_receive"]);
        assert_eq!(journey.outcome(), "delivered", "{journey}");
        assert_eq!(journey.direction(), "reply", "{journey}");
    }
    Ok(())
}
