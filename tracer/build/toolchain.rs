//! Which compiler builds the kernel side, and with which linker. Shared by `tracer/build.rs`,
//! which runs it, and `xtask setup`, which installs what is missing.
//!
//! A BPF program needs a `core` for the BPF target and bpf-linker. There are two ways to `core`:
//! rustup's nightly compiles it from rust-src, and Debian ships it precompiled beside its rustc.

use std::{
    env, fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The BPF target of this machine's byte order.
pub const TARGET: &str =
    if cfg!(target_endian = "big") { "bpfeb-unknown-none" } else { "bpfel-unknown-none" };

/// A compiler and the linker for what it makes.
#[derive(Debug)]
pub struct Toolchain {
    /// The compiler.
    pub compiler: Compiler,
    /// bpf-linker.
    pub linker: PathBuf,
}

/// A compiler that can build for [`TARGET`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    pub what: String,
    /// What it is needed for.
    pub why: &'static str,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} not found: {}; run: cargo xtask setup", self.what, self.why)
    }
}

/// Where the distribution's compiler is.
const SYSTEM: &str = "/usr/bin";

impl Toolchain {
    /// What to build with: nightly where it is whole, else the distribution's; in any case one
    /// whose output bpf-linker can read.
    pub fn find() -> Result<Self, Missing> {
        let linker = linker().ok_or(Missing {
            what: "bpf-linker".into(),
            why: "it links the part of pathtrace that runs in the kernel",
        })?;
        let newest = llvm_of_linker(&linker);
        let fits = |llvm| newest.is_none_or(|newest| llvm <= newest);
        match Compiler::ALL.into_iter().find(|compiler| compiler.llvm().is_some_and(fits)) {
            Some(compiler) => Ok(Self { compiler, linker }),
            None => Err(Missing {
                what: match newest {
                    Some(llvm) => format!("a Rust compiler for BPF of LLVM {llvm} or older"),
                    None => "a Rust compiler for BPF".into(),
                },
                why: "it compiles the part of pathtrace that runs in the kernel",
            }),
        }
    }
}

impl Compiler {
    /// Both, the preferred one first.
    pub const ALL: [Self; 2] = [Self::Nightly, Self::System];

    /// Major version of its LLVM; `None` unless compiler, cargo and `core` are all there.
    pub fn llvm(self) -> Option<u32> {
        self.has_core().then(|| self.version()).flatten()
    }

    /// Major version of its LLVM, whether or not it has a `core`.
    pub fn version(self) -> Option<u32> {
        let version = printed(self.command("rustc").arg("-vV"))?;
        let llvm = version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
        llvm.split('.').next()?.parse().ok()
    }

    fn has_core(self) -> bool {
        let Some(sysroot) = printed(self.command("rustc").arg("--print=sysroot")) else {
            return false;
        };
        let rustlib = Path::new(sysroot.trim()).join("lib/rustlib");
        match self {
            Self::Nightly => rustlib.join("src/rust/library/core/Cargo.toml").exists(),
            Self::System => {
                let precompiled = rustlib.join(TARGET).join("lib");
                let is_core = |name: &str| name.starts_with("libcore-");
                Path::new(SYSTEM).join("cargo").exists()
                    && precompiled.read_dir().is_ok_and(|files| {
                        files.flatten().any(|file| file.file_name().to_str().is_some_and(is_core))
                    })
            }
        }
    }

    /// Its `rustc` or `cargo`.
    pub fn command(self, tool: &str) -> Command {
        let mut command = match self {
            Self::Nightly => Command::new("rustup"),
            Self::System => Command::new(Path::new(SYSTEM).join(tool)),
        };
        clean(&mut command);
        match self {
            Self::Nightly => command.args(["run", "nightly", tool]),
            // A target without a stable standard library is for nightly only; Debian's compiler
            // is told to take it all the same.
            Self::System => {
                command.env("RUSTC", Path::new(SYSTEM).join("rustc")).env("RUSTC_BOOTSTRAP", "1")
            }
        };
        command
    }
}

impl fmt::Display for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nightly => "rustup's nightly, with rust-src",
            Self::System => "the system's rustc, with its precompiled core for BPF",
        })
    }
}

/// bpf-linker: on PATH, or where `cargo install` puts it.
fn linker() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let cargo_home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")));
    env::split_paths(&path)
        .chain(cargo_home.map(|home| home.join("bin")))
        .map(|directory| directory.join("bpf-linker"))
        .find(|linker| linker.is_file() && printed(Command::new(linker).arg("--version")).is_some())
}

/// Major version of the LLVM that bpf-linker was built with, from the name of the library that it
/// loads (`libLLVM.so.22.1`, `libLLVM-22.so`); `None` when it has its LLVM inside. It reads what
/// this and older versions write.
fn llvm_of_linker(linker: &Path) -> Option<u32> {
    const LIBRARY: &[u8] = b"libLLVM";
    let binary = fs::read(linker).ok()?;
    binary.windows(LIBRARY.len()).enumerate().find_map(|(at, window)| {
        let rest = (window == LIBRARY).then(|| binary.get(at + LIBRARY.len()..)).flatten()?;
        let rest = rest.strip_prefix(b".so.").or_else(|| rest.strip_prefix(b"-"))?;
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        str::from_utf8(&rest[..digits]).ok()?.parse().ok()
    })
}

/// What a command prints; `None` when it fails.
fn printed(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Takes from a command what the cargo around it set for itself: it would name the wrong compiler,
/// flags and directories.
fn clean(command: &mut Command) {
    const KEPT: [&str; 4] = ["CARGO_HOME", "CARGO_NET_", "CARGO_HTTP_", "CARGO_REGISTR"];
    for (name, _) in env::vars_os() {
        let Some(name) = name.to_str() else { continue };
        let of_cargo = name.starts_with("CARGO") && !KEPT.iter().any(|kept| name.starts_with(kept));
        let of_rustc = name.starts_with("RUSTC") || name.starts_with("RUSTDOC");
        if of_cargo || of_rustc || ["RUSTFLAGS", "RUSTUP_TOOLCHAIN"].contains(&name) {
            command.env_remove(name);
        }
    }
}
