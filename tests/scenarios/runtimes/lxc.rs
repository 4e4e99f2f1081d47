//! LXC on the bridge of lxc-net.

use std::{fs, path::Path};

use anyhow::Result;
use lab::{
    Trace,
    runtimes::{Host, Runtime, lxc},
    topology::{UPLINK, WORLD},
    traffic,
};

const ADDRESS: &str = "10.0.3.50";

#[test]
fn an_lxc_container_reaches_the_world_and_is_answered() -> Result<()> {
    let Some(mut host) = Host::with(&[Runtime::Lxc])? else { return Ok(()) };
    lxc::launch(&mut host, "bb", ADDRESS)?;
    let records = Trace::during(host.lab(), &["--ip", ADDRESS], || {
        assert_eq!(traffic::ping(host.netns("bb")?, WORLD, 2)?, 2);
        Ok(())
    })?;
    let out = [
        "bb:eth0 dev_xmit",
        "host:lxcbr0 dev_receive",
        "host nf_forward",
        "host nat",
        "host:eth-up dev_xmit",
        "world nf_input",
    ];
    records.assert_delivered("icmp", "original", &out);
    let back = [
        "world:eth0 dev_xmit",
        "host:eth-up dev_receive",
        "host nat",
        "host nf_forward",
        "host:lxcbr0 dev_xmit",
        "bb:eth0 dev_receive",
        "bb nf_input",
    ];
    records.assert_delivered("icmp", "reply", &back);
    for journey in records.of("icmp", "original") {
        assert_eq!(journey.record["nat"]["src"], UPLINK, "{journey}");
        journey.assert_container("bb", "lxc:bb");
    }
    records.assert_nothing_lost();
    Ok(())
}

#[test]
fn nothing_stays_of_a_host_with_a_container() -> Result<()> {
    let Some(mut host) = Host::with(&[Runtime::Lxc])? else { return Ok(()) };
    lxc::launch(&mut host, "bb", ADDRESS)?;
    let prefix = format!("{}-", host.lab().prefix());
    assert_eq!(named(Path::new("/run/netns"), &prefix)?, 2, "host and world");
    assert!(named(Path::new("/sys/fs/cgroup"), &prefix)? > 0, "its cgroups");
    drop(host);
    for folder in ["/run/netns", "/sys/fs/cgroup"] {
        assert_eq!(named(Path::new(folder), &prefix)?, 0, "{folder}");
    }
    Ok(())
}

/// How many entries of a folder, or of a folder in it, have a name that begins so.
fn named(folder: &Path, prefix: &str) -> Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        count += usize::from(entry.file_name().to_string_lossy().starts_with(prefix));
        if entry.file_type()?.is_dir() {
            for inner in fs::read_dir(entry.path())?.flatten() {
                count += usize::from(inner.file_name().to_string_lossy().starts_with(prefix));
            }
        }
    }
    Ok(count)
}
