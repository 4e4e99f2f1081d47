//! Which compiler builds the kernel side, and with which linker. Shared by `tracer/build.rs`,
//! which runs it, and `xtask setup`, which installs what is missing.
//!
//! A BPF program needs a `core` for the BPF target and bpf-linker. There are two ways to `core`:
//! rustup's nightly compiles it from rust-src, and Debian ships it precompiled beside its rustc.

use std::{
    env, fmt,
    path::{Path, PathBuf},
    process::Command,
};

/// The BPF target of this machine's byte order.
pub const TARGET: &str =
    if cfg!(target_endian = "big") { "bpfeb-unknown-none" } else { "bpfel-unknown-none" };

/// A compiler that can build for [`TARGET`].
#[derive(Debug)]
pub enum Compiler {
    /// rustup's nightly with rust-src: `core` is compiled along.
    Nightly,
    /// The distribution's rustc, with a precompiled `core`.
    System,
}

/// A tool that was not found.
#[derive(Debug)]
pub struct Missing {
    /// What.
    pub what: &'static str,
    /// What it is needed for.
    pub why: &'static str,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} not found: {}; run: cargo xtask setup", self.what, self.why)
    }
}

/// Where the distribution's compiler is.
const SYSTEM_RUSTC: &str = "/usr/bin/rustc";
const SYSTEM_CARGO: &str = "/usr/bin/cargo";

impl Compiler {
    /// The compiler to use: nightly where it has rust-src, else the distribution's.
    pub fn find() -> Result<Self, Missing> {
        [Compiler::Nightly, Compiler::System].into_iter().find(Self::is_complete).ok_or(Missing {
            what: "a Rust compiler for BPF (nightly with rust-src, or rustc-web with libstd-rust-web-dev-bpf)",
            why: "it compiles the part of pathtrace that runs in the kernel",
        })
    }

    /// Whether compiler, cargo and `core` (or its source) are all there.
    fn is_complete(&self) -> bool {
        let Some(sysroot) = self.rustc().arg("--print=sysroot").output().ok().and_then(|output| {
            let path = String::from_utf8(output.stdout).ok()?;
            output.status.success().then(|| PathBuf::from(path.trim()))
        }) else {
            return false;
        };
        let rustlib = sysroot.join("lib/rustlib");
        match self {
            Compiler::Nightly => rustlib.join("src/rust/library/core/Cargo.toml").exists(),
            Compiler::System => {
                Path::new(SYSTEM_CARGO).exists() && has_core(&rustlib.join(TARGET).join("lib"))
            }
        }
    }

    /// Its rustc.
    pub fn rustc(&self) -> Command {
        clean(match self {
            Compiler::Nightly => rustup_run("rustc"),
            Compiler::System => Command::new(SYSTEM_RUSTC),
        })
    }

    /// Its `cargo build --release` for [`TARGET`].
    pub fn cargo_build(&self) -> Command {
        let mut command = clean(match self {
            Compiler::Nightly => rustup_run("cargo"),
            Compiler::System => Command::new(SYSTEM_CARGO),
        });
        command.args(["build", "--release", "--target", TARGET]);
        match self {
            Compiler::Nightly => command.arg("-Zbuild-std=core"),
            // A target without a stable standard library is for nightly only; Debian's compiler
            // is told to take it all the same.
            Compiler::System => command.env("RUSTC", SYSTEM_RUSTC).env("RUSTC_BOOTSTRAP", "1"),
        };
        command
    }
}

impl fmt::Display for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Compiler::Nightly => "rustup's nightly, with rust-src",
            Compiler::System => "the system's rustc, with its precompiled core for BPF",
        })
    }
}

/// bpf-linker: on PATH, or where `cargo install` puts it.
pub fn linker() -> Result<PathBuf, Missing> {
    let path = env::var_os("PATH").unwrap_or_default();
    let cargo_home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")));
    env::split_paths(&path)
        .chain(cargo_home.map(|home| home.join("bin")))
        .map(|directory| directory.join("bpf-linker"))
        .find(|linker| linker.is_file())
        .ok_or(Missing {
            what: "bpf-linker",
            why: "it links the part of pathtrace that runs in the kernel",
        })
}

fn rustup_run(tool: &str) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", tool]);
    command
}

/// Without what the cargo around this one set for itself: it would name the wrong compiler, flags
/// and directories.
fn clean(mut command: Command) -> Command {
    const KEPT: [&str; 4] = ["CARGO_HOME", "CARGO_NET_", "CARGO_HTTP_", "CARGO_REGISTR"];
    for (name, _) in env::vars_os() {
        let Some(name) = name.to_str() else { continue };
        let of_cargo = name.starts_with("CARGO") && !KEPT.iter().any(|kept| name.starts_with(kept));
        let of_rustc = name.starts_with("RUSTC") || name.starts_with("RUSTDOC");
        if of_cargo || of_rustc || ["RUSTFLAGS", "RUSTUP_TOOLCHAIN"].contains(&name) {
            command.env_remove(name);
        }
    }
    command
}

fn has_core(directory: &Path) -> bool {
    directory.read_dir().is_ok_and(|files| {
        files.flatten().any(|file| file.file_name().to_string_lossy().starts_with("libcore-"))
    })
}
