//! The `pathtrace` command.

use std::process::ExitCode;

use clap::Parser as _;
use tracer::cli::Cli;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match tracer::command::run(cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("pathtrace: {error:#}");
            ExitCode::FAILURE
        }
    }
}
