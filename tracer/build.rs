//! Compiles `tracer-ebpf`, the part that runs in the kernel, and tells the crate where the object
//! is: `PATHTRACE_BPF_OBJECT`.

#[path = "build/toolchain.rs"]
mod toolchain;

use std::{
    env,
    path::{Path, PathBuf},
    process::exit,
};

use toolchain::{Compiler, TARGET, Toolchain};

const SOURCES: [&str; 7] = [
    "build.rs",
    "build",
    "../tracer-ebpf/Cargo.toml",
    "../tracer-ebpf/Cargo.lock",
    "../tracer-ebpf/src",
    "../tracer-common/Cargo.toml",
    "../tracer-common/src",
];

fn main() {
    for source in SOURCES {
        println!("cargo::rerun-if-changed={source}");
    }
    match build() {
        Ok(object) => println!("cargo::rustc-env=PATHTRACE_BPF_OBJECT={}", object.display()),
        Err(why) => println!("cargo::error={why}"),
    }
}

fn build() -> Result<PathBuf, String> {
    let Toolchain { compiler, linker } =
        Toolchain::find().map_err(|missing| missing.to_string())?;
    let target_dir = target_dir()?;
    let status = compiler
        .command("cargo")
        .args(["build", "--release", "--locked", "--target", TARGET])
        // Its `core` has no precompiled form for this target.
        .args((compiler == Compiler::Nightly).then_some("-Zbuild-std=core"))
        .arg("--manifest-path=../tracer-ebpf/Cargo.toml")
        .arg("--target-dir")
        .arg(&target_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", flags(&linker).join("\x1f"))
        .status()
        .map_err(|error| format!("the kernel side was not built: {compiler}: {error}"))?;
    if !status.success() {
        // cargo shows what a build script printed, the compiler's messages, only when it fails.
        exit(1);
    }
    Ok(target_dir.join(TARGET).join("release/tracer-ebpf"))
}

fn flags(linker: &Path) -> [String; 4] {
    let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    // Neither debug information nor BTF of its own: nothing that is loaded needs it, it would be nine tenths of the
    // object, and each start reads that twice.
    [
        format!("-Clinker={}", linker.display()),
        // Otherwise memory is cleared by a call that writes bytes one by one: 300 ns a packet.
        "-Clink-arg=--disable-expand-memcpy-in-order".into(),
        "-Ctarget-cpu=v3".into(),
        format!("--cfg=bpf_target_arch=\"{arch}\""),
    ]
}

/// A directory that all profiles share, so that the kernel side is compiled once.
fn target_dir() -> Result<PathBuf, String> {
    let out = env::var_os("OUT_DIR").ok_or("OUT_DIR is not set: build.rs is run by cargo")?;
    let out = Path::new(&out);
    let root = out.ancestors().find(|dir| dir.join("CACHEDIR.TAG").exists()).unwrap_or(out);
    Ok(root.join("bpf"))
}
