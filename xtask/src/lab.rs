//! `cargo xtask lab`: the lab of the scenarios, kept to play with.

use std::{ffi::OsString, process};

use anyhow::{Context, Result, ensure};
use clap::Subcommand;
use lab::{Lab, topology};

use crate::root;

/// What its namespaces' names begin with.
const PREFIX: &str = "pathtrace";

/// What to do with the lab.
#[derive(Subcommand)]
pub enum Command {
    /// Raise it
    Up,
    /// Remove it, and what runs in it
    Down,
    /// A shell in one of its namespaces
    Shell {
        /// c1, c2, host or world
        netns: String,
    },
    /// Run a command in one of its namespaces
    Exec {
        /// c1, c2, host or world
        netns: String,
        /// The command
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<OsString>,
    },
}

/// Carries it out, through sudo when this is not root.
pub fn run(command: Command) -> Result<()> {
    root::become_root()?;
    match command {
        Command::Up => up(),
        Command::Down => down(),
        Command::Shell { netns } => {
            let shell = std::env::var_os("SHELL").unwrap_or_else(|| "sh".into());
            enter(&netns, &[shell])
        }
        Command::Exec { netns, command } => enter(&netns, &command),
    }
}

fn up() -> Result<()> {
    ensure!(
        Lab::find(PREFIX)?.is_none(),
        "the lab is up already; use it, or: cargo xtask lab down"
    );
    let mut lab = Lab::kept(PREFIX)?;
    if let Err(error) = topology::standard(&mut lab) {
        Lab::remove(PREFIX)?;
        return Err(error);
    }
    println!(
        "
 c1 10.0.100.252 ─┐
                  ├─ lxdbr0 10.0.100.1  host  eth-up 198.51.100.1 ── 198.51.100.2  world  203.0.113.8
 c2 10.0.100.253 ─┘

namespaces {PREFIX}-c1, -c2, -host and -world are up; the host masquerades 10.0.100.0/24

    cargo xtask lab exec host target/release/pathtrace --ip 10.0.100.252
    cargo xtask lab exec c1 ping 203.0.113.8
    cargo xtask lab shell host
    cargo xtask lab down"
    );
    Ok(())
}

fn down() -> Result<()> {
    ensure!(Lab::find(PREFIX)?.is_some(), "the lab is not up: nothing to remove");
    Lab::remove(PREFIX)?;
    println!("the lab is gone");
    Ok(())
}

fn enter(netns: &str, command: &[OsString]) -> Result<()> {
    let lab = Lab::find(PREFIX)?.context("the lab is not up; run: cargo xtask lab up")?;
    let path = lab.netns(netns)?.path();
    let mut nsenter = process::Command::new("nsenter");
    // Only the network: `ip netns exec` would put another /sys over the one with BPF and cgroups.
    nsenter.arg(format!("--net={}", path.display())).arg("--").args(command);
    Err(root::replace(&mut nsenter))
}
