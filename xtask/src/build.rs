//! `cargo xtask build`.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

/// Builds the binary, unless `$PATHTRACE` names one to use instead, and tells where it is.
pub fn run() -> Result<PathBuf> {
    if let Some(binary) = env::var_os("PATHTRACE") {
        return Ok(binary.into());
    }
    let status = cargo()
        .args(["build", "--release", "--package", "tracer"])
        .status()
        .context("cargo did not start")?;
    ensure!(status.success(), "pathtrace was not built; the compiler's messages are above");
    let binary = target().join("release/pathtrace");
    println!("built {}", shown(&binary).display());
    Ok(binary)
}

/// A cargo command in the workspace.
pub fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace());
    command
}

/// The workspace's directory.
fn workspace() -> &'static Path {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask)
}

fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| workspace().join("target"), |target| workspace().join(target))
}

fn shown(path: &Path) -> &Path {
    env::current_dir().ok().and_then(|here| path.strip_prefix(here).ok()).unwrap_or(path)
}
