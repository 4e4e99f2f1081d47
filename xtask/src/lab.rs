//! `cargo xtask lab`: the lab of the scenarios, kept to play with.

use std::{ffi::OsString, process};

use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand};
use lab::topology;

use crate::root;

/// Which lab, and what to do with it.
#[derive(Args)]
pub struct Lab {
    /// What its namespaces' names begin with: each who shares a machine has a lab of their own
    #[arg(long, default_value = "pathtrace", global = true)]
    name: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
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
pub fn run(Lab { name, command }: Lab) -> Result<()> {
    root::become_root()?;
    match command {
        Command::Up => up(&name),
        Command::Down => down(&name),
        Command::Shell { netns } => {
            let shell = std::env::var_os("SHELL").unwrap_or_else(|| "sh".into());
            enter(&name, &netns, &[shell])
        }
        Command::Exec { netns, command } => enter(&name, &netns, &command),
    }
}

fn up(name: &str) -> Result<()> {
    ensure!(
        lab::Lab::find(name)?.is_none(),
        "lab {name} is up already; use it, remove it (down), or raise another (--name)"
    );
    let mut lab = lab::Lab::kept(name)?;
    if let Err(error) = topology::standard(&mut lab) {
        lab::Lab::remove(name)?;
        return Err(error);
    }
    println!(
        "
 c1 10.0.100.252 ─┐
                  ├─ lxdbr0 10.0.100.1  host  eth-up 198.51.100.1 ── 198.51.100.2  world  203.0.113.8
 c2 10.0.100.253 ─┘

namespaces {name}-c1, -c2, -host and -world are up; the host masquerades 10.0.100.0/24

    cargo xtask lab exec host target/release/pathtrace --ip 10.0.100.252
    cargo xtask lab exec c1 ping 203.0.113.8
    cargo xtask lab shell host
    cargo xtask lab down"
    );
    Ok(())
}

fn down(name: &str) -> Result<()> {
    ensure!(lab::Lab::find(name)?.is_some(), "lab {name} is not up: nothing to remove");
    lab::Lab::remove(name)?;
    println!("lab {name} is gone");
    Ok(())
}

fn enter(name: &str, netns: &str, command: &[OsString]) -> Result<()> {
    let lab = lab::Lab::find(name)?
        .with_context(|| format!("lab {name} is not up; run: cargo xtask lab up"))?;
    let path = lab.netns(netns)?.path();
    let mut nsenter = process::Command::new("nsenter");
    // Only the network: `ip netns exec` would put another /sys over the one with BPF and cgroups.
    nsenter.arg(format!("--net={}", path.display())).arg("--").args(command);
    Err(root::replace(&mut nsenter))
}
