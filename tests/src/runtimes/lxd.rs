//! LXD, with bridge `lxdbr0` 10.0.100.1 as its wizard makes one.

use anyhow::{Result, ensure};

use super::{Host, wait_until};
use crate::Netns;

const SETUP: &str = "
config: {}
storage_pools:
  - {name: default, driver: dir}
networks:
  - name: lxdbr0
    type: bridge
    config: {ipv4.address: 10.0.100.1/24, ipv4.nat: 'true', ipv6.address: none}
profiles:
  - name: default
    devices:
      root: {path: /, pool: default, type: disk}
      eth0: {name: eth0, network: lxdbr0, type: nic}
";

const METADATA: &str = "
architecture: x86_64
creation_date: 1
properties: {description: busybox, os: busybox, release: '1'}
";

/// The image's name.
const IMAGE: &str = "busybox";

pub(super) fn start(host: &Host) -> Result<()> {
    let answers = || host.run("lxd", &["waitready", "--timeout", "1"]).map(drop);
    host.serve("lxd", &["--group", "lxd"], answers)?;
    host.feed("lxd", &["init", "--preseed"], SETUP)?;
    host.feed("tee", &["/run/image/metadata.yaml"], METADATA)?;
    host.run("tar", &["-C", "/run/image", "-cf", "/run/lxd.tar", "metadata.yaml", "rootfs"])?;
    host.run("lxc", &["image", "import", "/run/lxd.tar", "--alias", IMAGE]).map(drop)
}

/// Starts a container on `lxdbr0` and waits until it has this address by DHCP.
pub fn launch<'h>(host: &'h mut Host, name: &str, address: &str) -> Result<&'h Netns> {
    create(host, name, address)?;
    boot(host, name)?;
    wait_for_address(host, name, address)?;
    host.netns(name)
}

/// Waits until a container has this address.
pub fn wait_for_address(host: &Host, name: &str, address: &str) -> Result<()> {
    let netns = host.netns(name)?;
    wait_until(|| {
        let addresses = netns.run("ip", &["-brief", "addr", "show", "eth0"])?;
        ensure!(addresses.contains(address), "container {name} has no address: {addresses}");
        Ok(())
    })
}

/// Makes a container that does not run yet.
pub fn create(host: &Host, name: &str, address: &str) -> Result<()> {
    let address = format!("eth0,ipv4.address={address}");
    host.run("lxc", &["init", "-q", IMAGE, name, "-d", &address]).map(drop)
}

/// Starts a container that is there.
pub fn boot<'h>(host: &'h mut Host, name: &str) -> Result<&'h Netns> {
    host.run("lxc", &["start", name])?;
    let pid = host.run("lxc", &["query", &format!("/1.0/instances/{name}/state")])?;
    let pid: serde_json::Value = serde_json::from_str(&pid)?;
    host.adopt(name, &pid["pid"].to_string())
}
