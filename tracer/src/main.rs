//! The `pathtrace` command.

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};
use clap_complete::CompleteEnv;
use mimalloc::MiMalloc;
use tracer::cli::Cli;

/// A journey and its record are many small pieces, made and freed a hundred thousand times a second.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    // A shell that completes asks in the environment.
    CompleteEnv::with_factory(Cli::command).complete();
    let cli = Cli::parse();
    match tracer::command::run(cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("pathtrace: {error:#}");
            ExitCode::FAILURE
        }
    }
}
