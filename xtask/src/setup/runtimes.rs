//! The container runtimes that scenarios raise. Their services are not wanted: a scenario starts the
//! daemons itself, in a namespace, while a service would add interfaces and rules to this machine.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

use anyhow::{Context, Result};

use super::{Tool, find, install, update};

const TOOLS: [Tool; 9] = [
    Tool { command: "lxd", package: "lxd", why: "scenarios with LXD" },
    Tool { command: "lxc", package: "lxd-client", why: "scenarios with LXD" },
    Tool { command: "lxc-start", package: "lxc", why: "scenarios with LXC" },
    Tool { command: "dockerd", package: "docker.io", why: "scenarios with Docker" },
    Tool { command: "podman", package: "podman", why: "scenarios with Podman" },
    Tool { command: "dnsmasq", package: "dnsmasq-base", why: "addresses of containers" },
    Tool { command: "newuidmap", package: "uidmap", why: "containers that map users" },
    Tool { command: "iptables", package: "iptables", why: "the runtimes' rules" },
    Tool { command: "busybox", package: "busybox-static", why: "what containers run" },
];

/// Asked by packages whether their services may be started.
const POLICY: &str = "/usr/sbin/policy-rc.d";
/// 101: they may not.
const NO_SERVICES: &str = "#!/bin/sh\nexit 101\n";

/// Installs those that are missing and that this distribution has. Without one its scenarios are
/// skipped, so that is told and no error.
pub fn run() -> Result<()> {
    let missing: Vec<&Tool> = TOOLS.iter().filter(|tool| !tool.is_there()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if find("apt-get").is_some() && crate::root::is_root() {
        update()?;
    }
    let (offered, unknown): (Vec<&Tool>, Vec<&Tool>) =
        missing.into_iter().partition(|tool| is_offered(tool.package));
    for Tool { command, package, why } in unknown {
        eprintln!("{command} is not to be had here ({why} are skipped): package {package}");
    }
    for Tool { command, package, why } in &offered {
        eprintln!("{command} is missing ({why}): package {package}");
    }
    let packages: Vec<&str> = offered.iter().map(|tool| tool.package).collect();
    if packages.is_empty() {
        return Ok(());
    }
    let _policy = Policy::without_services()?;
    install(&packages)
}

/// Whether a package can be installed.
fn is_offered(package: &str) -> bool {
    let shown = Command::new("apt-cache").args(["show", "--no-all-versions", package]).output();
    shown.is_ok_and(|output| output.status.success() && !output.stdout.is_empty())
}

/// That no package starts its services, for as long as this is there.
struct Policy {
    is_ours: bool,
}

impl Policy {
    /// Somebody's own policy is left as it is: it is there to forbid.
    fn without_services() -> Result<Self> {
        if Path::new(POLICY).exists() || !crate::root::is_root() {
            return Ok(Self { is_ours: false });
        }
        let mut options = fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .open(POLICY)
            .with_context(|| format!("{POLICY} not written: services would be started"))?;
        let policy = Self { is_ours: true };
        std::io::Write::write_all(&mut file, NO_SERVICES.as_bytes())?;
        file.set_permissions(fs::Permissions::from_mode(0o755))?;
        Ok(policy)
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        if self.is_ours
            && let Err(error) = fs::remove_file(POLICY)
        {
            eprintln!("{POLICY} is left, which keeps services from starting; remove it: {error}");
        }
    }
}
