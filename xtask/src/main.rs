//! `cargo xtask`: what a person would otherwise have to remember.

mod bench;
mod build;
mod demo;
mod lab;
mod root;
mod run;
mod setup;
mod step;
mod test;
#[path = "../../tracer/build/toolchain.rs"]
mod toolchain;
mod vm;

use std::{ffi::OsString, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};

/// What pathtrace's developers do, one word each.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what building and testing need and this machine lacks
    Setup,
    /// Build target/release/pathtrace, which needs no other file
    Build,
    /// Build, then run pathtrace as root: cargo xtask run -- --ip 10.0.100.252
    Run {
        /// pathtrace's own arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Run every test: the unit tests, then the scenarios in the lab
    Test(test::Test),
    /// Run a command as root under other kernels: cargo xtask vm --kernel 6.1 -- uname -r
    Vm(vm::Vm),
    /// A network of namespaces to play with
    Lab(lab::Lab),
    /// Show pathtrace at work on a small network, from nothing
    Demo,
    /// Measure what tracing costs
    Bench(bench::Bench),
}

fn main() -> ExitCode {
    match carry_out(Cli::parse().task) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn carry_out(task: Task) -> Result<ExitCode> {
    match task {
        Task::Setup => setup::all()?,
        Task::Build => drop(build::run()?),
        Task::Run { args } => run::run(&args)?,
        Task::Test(test) => return test::run(&test),
        Task::Vm(vm) => return Ok(vm::run(vm)),
        Task::Lab(lab) => lab::run(lab)?,
        Task::Demo => demo::run()?,
        Task::Bench(bench) => bench::run(&bench)?,
    }
    Ok(ExitCode::SUCCESS)
}
