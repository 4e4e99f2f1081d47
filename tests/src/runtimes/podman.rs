//! Podman, run by root, with its own bridge.

use anyhow::Result;

use super::{Host, ROOT};
use crate::Netns;

/// The image's name.
const IMAGE: &str = "localhost/busybox:1";

/// There is no systemd here that it could ask for cgroups, or tell what happens.
const GLOBAL: [&str; 3] = ["podman", "--cgroup-manager=cgroupfs", "--events-backend=file"];

pub(super) fn start(host: &Host) -> Result<()> {
    let podman = GLOBAL.join(" ");
    host.run("sh", &["-c", &format!("tar -C {ROOT} -c . | {podman} import - {IMAGE}")]).map(drop)
}

/// Starts a container that serves on port 80, with options of `podman run`.
pub fn run<'h>(host: &'h mut Host, name: &str, options: &[&str]) -> Result<&'h Netns> {
    // Its defaults are above what a process may have here.
    let limits = ["--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"];
    let server = ["httpd", "-f", "-p", "80", "-h", "/etc"];
    let run = [&["run", "--detach", "--name", name], &limits[..], options, &[IMAGE], &server];
    podman(host, &run.concat())?;
    let pid = podman(host, &["inspect", "--format", "{{.State.Pid}}", name])?;
    host.adopt(name, &pid)
}

/// The address of a container.
pub fn address(host: &Host, name: &str) -> Result<String> {
    let format = "{{.NetworkSettings.IPAddress}}";
    Ok(podman(host, &["inspect", "--format", format, name])?.trim().to_owned())
}

fn podman(host: &Host, args: &[&str]) -> Result<String> {
    host.run(GLOBAL[0], &[&GLOBAL[1..], args].concat())
}
