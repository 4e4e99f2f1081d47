//! Docker, with its own bridge `docker0` 172.17.0.1.

use anyhow::Result;

use super::{Host, ROOT};
use crate::Netns;

/// The image's name.
const IMAGE: &str = "busybox:1";

pub(super) fn start(host: &Host, options: &[&str]) -> Result<()> {
    host.serve("dockerd", options, || host.run("docker", &["version"]).map(drop))?;
    let import = format!("tar -C {ROOT} -c . | docker import - {IMAGE}");
    host.run("sh", &["-c", &import]).map(drop)
}

/// Starts a container that serves on port 80, with options of `docker run`.
pub fn run<'h>(host: &'h mut Host, name: &str, options: &[&str]) -> Result<&'h Netns> {
    let server = ["httpd", "-f", "-p", "80", "-h", "/etc"];
    let args = [&["run", "--detach", "--name", name], options, &[IMAGE], &server].concat();
    host.run("docker", &args)?;
    let pid = host.run("docker", &["inspect", "--format", "{{.State.Pid}}", name])?;
    host.adopt(name, &pid)
}
