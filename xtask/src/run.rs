//! `cargo xtask run`.

use std::{ffi::OsString, process::Command};

use anyhow::Result;

use crate::{build, root};

/// Builds pathtrace and becomes it, through sudo when this is not root.
pub fn run(args: &[OsString]) -> Result<()> {
    let binary = build::run()?;
    let mut command = if root::is_root() {
        Command::new(binary)
    } else {
        let mut sudo = Command::new("sudo");
        sudo.arg(binary);
        sudo
    };
    Err(root::replace(command.args(args)))
}
