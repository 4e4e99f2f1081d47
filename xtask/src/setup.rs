//! `cargo xtask setup`: installs what building and testing need and this machine lacks.

mod runtimes;

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
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

impl Tool {
    /// Whether it is installed. The package `busybox` has one that needs libraries, which no guest and no
    /// container has at first.
    fn is_there(&self) -> bool {
        find(self.command).is_some_and(|file| self.command != "busybox" || is_static(&file))
    }
}

/// What the lab needs.
const TOOLS: [Tool; 3] = [
    Tool { command: "ip", package: "iproute2", why: "the lab's namespaces, links and routes" },
    Tool { command: "nft", package: "nftables", why: "the lab's rules" },
    Tool { command: "ping", package: "iputils-ping", why: "the lab's echo requests" },
];

/// What the scenarios look at the output with.
const TEST_TOOLS: [Tool; 5] = [
    Tool { command: "tmux", package: "tmux", why: "the live view's scenarios" },
    Tool { command: "wg", package: "wireguard-tools", why: "the tunnels' scenarios" },
    Tool { command: "tcpdump", package: "tcpdump", why: "to capture beside pathtrace" },
    Tool { command: "tshark", package: "tshark", why: "to read capture files" },
    Tool { command: "capinfos", package: "wireshark-common", why: "to read capture files" },
];

/// What guests need, and scenarios that are run in them.
const GUEST_TOOLS: [Tool; 6] = [
    Tool { command: "qemu-system-x86_64", package: "qemu-system-x86", why: "the guests" },
    Tool { command: "busybox", package: "busybox-static", why: "the guests' first process" },
    Tool { command: "iptables", package: "iptables", why: "the scenarios' rules" },
    Tool { command: "ebtables", package: "ebtables", why: "the scenarios' rules of bridges" },
    Tool { command: "arptables", package: "arptables", why: "the scenarios' rules of ARP" },
    Tool { command: "conntrack", package: "conntrack", why: "the scenarios' connections" },
];

/// What tracing is measured beside.
const TOOLS_TO_COMPARE: [Tool; 2] = [
    Tool { command: "tcpdump", package: "tcpdump", why: "to be measured beside pathtrace" },
    Tool { command: "bpftrace", package: "bpftrace", why: "to be measured beside pathtrace" },
];

/// Comes with QEMU in Debian 12, and by itself later: looked for when QEMU is there.
const VIRTIOFSD: Tool =
    Tool { command: "virtiofsd", package: "virtiofsd", why: "the guests' root" };

/// What compiles expressions: names of the library, one of which is there, and its package.
const LIBPCAP: [&str; 2] = ["libpcap.so.1", "libpcap.so.0.8"];
const LIBPCAP_PACKAGE: &str = "libpcap0.8";

/// Debian's compiler with a precompiled `core` for BPF.
const SYSTEM_COMPILER: [&str; 3] = ["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf"];

/// The version of bpf-linker that is installed, and the LLVM versions that it can be built with.
const LINKER: &str = "bpf-linker@0.13.0";
const LINKER_LLVM: std::ops::RangeInclusive<u32> = 21..=23;

/// Where commands are beside those on PATH.
const DIRECTORIES: [&str; 5] =
    ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/libexec", "/usr/lib/qemu"];

/// How long downloads and installations may take.
const MINUTE: Duration = Duration::from_secs(60);

/// Installs what is missing. A second run finds everything and is instant.
pub fn run() -> Result<()> {
    let start = Instant::now();
    tools(&TOOLS)?;
    if !LIBPCAP.iter().any(|name| has_library(name)) {
        eprintln!("libpcap is missing (pcap-filter expressions): package {LIBPCAP_PACKAGE}");
        install(&[LIBPCAP_PACKAGE])?;
    }
    if Toolchain::find().is_err() {
        toolchain()?;
    }
    let Toolchain { compiler, linker } = Toolchain::find().map_err(anyhow::Error::msg)?;
    eprintln!("kernel side: {compiler}; {}", linker.display());
    eprintln!("setup: nothing is missing ({:.1} s)", start.elapsed().as_secs_f32());
    Ok(())
}

/// Installs what is missing, container runtimes for their scenarios too.
pub fn all() -> Result<()> {
    runtimes::run()?;
    for_tests()
}

/// Installs what is missing, with what the scenarios look at the output with.
pub fn for_tests() -> Result<()> {
    tools(&TEST_TOOLS)?;
    run()
}

/// Installs what tracing is measured beside, where it is missing.
pub fn tools_to_compare_with() -> Result<()> {
    tools(&TOOLS_TO_COMPARE)
}

/// Installs what guests need and this machine lacks.
pub fn tools_for_guests() -> Result<()> {
    tools(&GUEST_TOOLS)?;
    tools(&[VIRTIOFSD])
}

fn tools(tools: &[Tool]) -> Result<()> {
    let missing: Vec<&Tool> = tools.iter().filter(|tool| !tool.is_there()).collect();
    for Tool { command, package, why } in &missing {
        eprintln!("{command} is missing ({why}): package {package}");
    }
    let packages: Vec<&str> = missing.iter().map(|tool| tool.package).collect();
    if packages.is_empty() { Ok(()) } else { install(&packages) }
}

/// Whether the linker knows a shared library.
fn has_library(name: &str) -> bool {
    let listed =
        find("ldconfig").and_then(|ldconfig| Command::new(ldconfig).arg("-p").output().ok());
    listed.is_some_and(|output| {
        let text = String::from_utf8_lossy(&output.stdout);
        text.lines().any(|line| line.split_whitespace().next() == Some(name))
    })
}

/// Whether a program needs no other file to run: its ELF header names no interpreter.
fn is_static(program: &Path) -> bool {
    const INTERPRETER: u32 = 3;
    let Ok(elf) = std::fs::read(program) else { return false };
    let bytes = |at: usize, size: usize| elf.get(at..at + size);
    let number = |at: usize, size: usize| {
        let bytes = bytes(at, size)?.iter().rev();
        Some(bytes.fold(0_usize, |number, byte| number << 8 | usize::from(*byte)))
    };
    let (Some(table), Some(size), Some(count)) = (number(32, 8), number(54, 2), number(56, 2))
    else {
        return false;
    };
    (0..count).all(|entry| number(table + entry * size, 4) != Some(INTERPRETER as usize))
}

/// Installs a compiler for BPF and a bpf-linker that fits it: a nightly that is there already,
/// else the distribution's compiler, else a new nightly.
fn toolchain() -> Result<()> {
    if let Some(llvm) = nightly() {
        return linker(llvm);
    }
    if Compiler::System.llvm().is_none() && find("apt-get").is_some() {
        eprintln!("a Rust compiler for BPF is missing: packages {}", SYSTEM_COMPILER.join(" "));
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
            eprintln!("{what}: not to be had");
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
        eprintln!("LLVM {llvm} is missing (bpf-linker is made of it): {}", packages.join(" "));
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
    update()?;
    let mut install = apt(&["install", "--yes", "--quiet", "--no-install-recommends"]);
    step::run(&format!("installing {list}"), install.args(packages), 10 * MINUTE)
}

/// Reads which packages there are; once is enough.
fn update() -> Result<()> {
    static IS_DONE: OnceLock<()> = OnceLock::new();
    if IS_DONE.get().is_none() {
        let mut update = apt(&["update", "--quiet"]);
        step::run("package lists (apt-get update)", &mut update, 5 * MINUTE)?;
        let _ = IS_DONE.set(());
    }
    Ok(())
}

fn apt(args: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").args(args);
    command
}

/// A command on PATH, or where only root's PATH leads, or QEMU's.
pub fn find(command: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(DIRECTORIES.map(PathBuf::from))
        .map(|directory| directory.join(command))
        .find(|file| file.is_file())
}

fn prepend(directory: &Path) -> Result<std::ffi::OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    let directories = std::iter::once(directory.to_owned()).chain(env::split_paths(&path));
    env::join_paths(directories).context("PATH cannot be extended")
}
