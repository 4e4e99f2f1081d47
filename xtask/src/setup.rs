//! `cargo xtask setup`: installs what building and testing need and this machine lacks.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    root, step,
    toolchain::{Compiler, Toolchain},
};

/// A command that is needed, and the package that has it.
struct Tool {
    command: &'static str,
    package: &'static str,
    why: &'static str,
}

const TOOLS: [Tool; 3] = [
    Tool { command: "ip", package: "iproute2", why: "the lab's namespaces, links and routes" },
    Tool { command: "nft", package: "nftables", why: "the lab's rules" },
    Tool { command: "ping", package: "iputils-ping", why: "the lab's echo requests" },
];

/// Debian's compiler with a precompiled `core` for BPF.
const SYSTEM_COMPILER: [&str; 3] = ["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf"];

/// The version of bpf-linker that is installed, and the LLVM versions that it can be built with.
const LINKER: &str = "bpf-linker@0.13.0";
const LINKER_LLVM: std::ops::RangeInclusive<u32> = 21..=23;

/// How long downloads and installations may take.
const MINUTE: Duration = Duration::from_secs(60);

/// Installs what is missing. A second run finds everything and is instant.
pub fn run() -> Result<()> {
    let start = Instant::now();
    tools()?;
    if Toolchain::find().is_err() {
        toolchain()?;
    }
    let Toolchain { compiler, linker } = Toolchain::find().map_err(anyhow::Error::msg)?;
    println!("kernel side: {compiler}; {}", linker.display());
    println!("setup: nothing is missing ({:.1} s)", start.elapsed().as_secs_f32());
    Ok(())
}

fn tools() -> Result<()> {
    let missing: Vec<&Tool> = TOOLS.iter().filter(|tool| find(tool.command).is_none()).collect();
    for Tool { command, package, why } in &missing {
        println!("{command} is missing ({why}): package {package}");
    }
    let packages: Vec<&str> = missing.iter().map(|tool| tool.package).collect();
    if packages.is_empty() { Ok(()) } else { install(&packages) }
}

/// Installs a compiler for BPF and a bpf-linker that fits it: a nightly that is there already,
/// else the distribution's compiler, else a new nightly.
fn toolchain() -> Result<()> {
    if let Some(llvm) = nightly() {
        return linker(llvm);
    }
    if Compiler::System.llvm().is_none() && find("apt-get").is_some() {
        println!("a Rust compiler for BPF is missing: packages {}", SYSTEM_COMPILER.join(" "));
        install(&SYSTEM_COMPILER)?;
    }
    if let Some(llvm) = Compiler::System.llvm() {
        return linker(llvm);
    }
    let rustup = find("rustup").context(
        "no Rust compiler for BPF; install rustup, then: \
         rustup toolchain install nightly --component rust-src",
    )?;
    let args = ["toolchain", "install", "nightly", "--profile", "minimal", "-c", "rust-src"];
    step::run("nightly compiler (rustup)", Command::new(rustup).args(args), 10 * MINUTE)?;
    linker(Compiler::Nightly.llvm().context("rustup's nightly has no rust-src")?)
}

/// Makes a nightly that is there able to build for BPF, where that is possible: its LLVM's
/// version. It is not updated: other projects of this machine may use it.
fn nightly() -> Option<u32> {
    let llvm = Compiler::Nightly.version()?;
    if !LINKER_LLVM.contains(&llvm) || !llvm_available(llvm) {
        return None;
    }
    if Compiler::Nightly.llvm().is_none() {
        let args = ["component", "add", "rust-src", "--toolchain", "nightly"];
        let what = "source of core for the nightly compiler (rustup)";
        // Without a network, say, the next way is taken.
        if step::run(what, Command::new("rustup").args(args), 2 * MINUTE).is_err() {
            println!("{what}: not to be had");
        }
    }
    Compiler::Nightly.llvm()
}

/// Compiles bpf-linker for the LLVM that the compiler has.
fn linker(llvm: u32) -> Result<()> {
    ensure!(
        LINKER_LLVM.contains(&llvm),
        "the compiler has LLVM {llvm}, {LINKER} can be built with {} to {}; use another nightly",
        LINKER_LLVM.start(),
        LINKER_LLVM.end()
    );
    if llvm_prefix(llvm).is_none() {
        let packages = llvm_packages(llvm);
        println!("LLVM {llvm} is missing (bpf-linker is made of it): {}", packages.join(" "));
        install(&packages.each_ref().map(String::as_str))?;
    }
    let prefix = llvm_prefix(llvm).with_context(|| {
        format!("LLVM {llvm} not found; install its development files, llvm-config with them")
    })?;
    let feature = format!("llvm-{llvm}");
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut install = Command::new(cargo);
    install
        .args(["install", LINKER, "--locked", "--force", "--no-default-features"])
        .args(["--features", &feature])
        .env(format!("LLVM_SYS_{llvm}1_PREFIX"), &prefix)
        .env("LLVM_PREFIX", &prefix)
        .env("PATH", prepend(&prefix.join("bin"))?);
    step::run(&format!("compiling {LINKER} with LLVM {llvm}"), &mut install, 15 * MINUTE)
}

fn llvm_packages(llvm: u32) -> [String; 2] {
    [format!("llvm-{llvm}-dev"), format!("libpolly-{llvm}-dev")]
}

/// Where LLVM's development files of this version are.
fn llvm_prefix(llvm: u32) -> Option<PathBuf> {
    let debian = PathBuf::from(format!("/usr/lib/llvm-{llvm}"));
    if debian.join("include/llvm-c").exists() && debian.join("lib/libPolly.a").exists() {
        return Some(debian);
    }
    let config = |option| {
        let output = Command::new(find("llvm-config")?).arg(option).output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    config("--version")?
        .starts_with(&format!("{llvm}."))
        .then(|| config("--prefix").map(PathBuf::from))?
}

/// Whether LLVM of this version is here or can be installed.
fn llvm_available(llvm: u32) -> bool {
    llvm_prefix(llvm).is_some()
        || llvm_packages(llvm).iter().all(|package| {
            Command::new("apt-cache")
                .args(["show", package])
                .output()
                .is_ok_and(|output| output.status.success() && !output.stdout.is_empty())
        })
}

/// Installs Debian packages, or says how to.
fn install(packages: &[&str]) -> Result<()> {
    let list = packages.join(" ");
    if find("apt-get").is_none() {
        bail!("this is no Debian: install what these packages hold: {list}");
    }
    ensure!(
        root::is_root(),
        "not root; run: sudo apt-get update && sudo apt-get install --yes {list}"
    );
    let apt = |args: &[&str]| {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").args(args);
        command
    };
    step::run("package lists (apt-get update)", &mut apt(&["update", "--quiet"]), 5 * MINUTE)?;
    let mut install = apt(&["install", "--yes", "--quiet", "--no-install-recommends"]);
    step::run(&format!("installing {list}"), install.args(packages), 10 * MINUTE)
}

/// A command on PATH, or where only root's PATH leads.
fn find(command: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(command))
        .find(|file| file.is_file())
}

fn prepend(directory: &Path) -> Result<std::ffi::OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    let directories = std::iter::once(directory.to_owned()).chain(env::split_paths(&path));
    env::join_paths(directories).context("PATH cannot be extended")
}
