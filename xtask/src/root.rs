//! Network namespaces and BPF programs are root's; building is not.

use std::{
    env,
    os::unix::process::CommandExt,
    process::{self, Command},
};

use anyhow::{Result, anyhow};

/// Whether this process is root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Returns when this process is root, and becomes `sudo` running the same task when it is not.
pub fn become_root() -> Result<()> {
    if is_root() {
        return Ok(());
    }
    println!("root is needed for network namespaces and BPF: sudo");
    let mut command = Command::new("sudo");
    command.arg("--preserve-env").arg(env::current_exe()?).args(env::args_os().skip(1));
    Err(replace(&mut command))
}

/// Becomes another command; what is returned says why that failed.
pub fn replace(command: &mut Command) -> anyhow::Error {
    let program = command.get_program().to_string_lossy().into_owned();
    anyhow!("{program} did not start, process {}: {}", process::id(), command.exec())
}
