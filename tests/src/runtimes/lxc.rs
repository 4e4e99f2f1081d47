//! LXC, with bridge `lxcbr0` 10.0.3.1 of lxc-net.

use anyhow::Result;

use super::{Host, ROOT};
use crate::Netns;

/// The gateway of its containers.
pub const GATEWAY: &str = "10.0.3.1";

pub(super) fn start(host: &Host) -> Result<()> {
    host.run("/usr/libexec/lxc/lxc-net", &["start"]).map(drop)
}

/// Starts a container with this address.
pub fn launch<'h>(host: &'h mut Host, name: &str, address: &str) -> Result<&'h Netns> {
    let folder = format!("/var/lib/lxc/{name}");
    host.run("mkdir", &[&folder])?;
    host.run("cp", &["-a", ROOT, &format!("{folder}/rootfs")])?;
    let config = format!(
        "lxc.include = /usr/share/lxc/config/common.conf
lxc.rootfs.path = dir:{folder}/rootfs
lxc.uts.name = {name}
lxc.net.0.type = veth
lxc.net.0.link = lxcbr0
lxc.net.0.flags = up
lxc.net.0.ipv4.address = {address}/24
lxc.net.0.ipv4.gateway = {GATEWAY}
lxc.apparmor.profile = unconfined
"
    );
    host.feed("tee", &[&format!("{folder}/config")], &config)?;
    host.run("lxc-start", &["-n", name])?;
    let pid = host.run("lxc-info", &["-n", name, "-p", "-H"])?;
    host.adopt(name, &pid)
}
