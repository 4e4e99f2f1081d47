//! What the command line asks for, done.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::{CommandFactory as _, error::ErrorKind};
use tracer_common::point::Point;

use crate::{
    cli::{Cli, Command},
    output::schema,
    probe::Offer,
    run, select,
};

/// Does it.
///
/// # Errors
/// When it cannot be done: what, why, and what to do, in one line.
pub fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        None => {
            if let Some(why) = select::contradiction(&cli.trace.select) {
                Cli::command().error(ErrorKind::ArgumentConflict, why).exit();
            }
            log_to_stderr(cli.trace.verbose);
            run::trace(&cli.trace)?;
        }
        Some(Command::Probes) => {
            log_to_stderr(0);
            print(&probes(&run::offers()?))?;
        }
        Some(Command::Schema) => print(&format!("{:#}\n", schema()))?,
        Some(Command::Completions { shell }) => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "pathtrace", &mut script);
            print(&String::from_utf8_lossy(&script))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn log_to_stderr(verbose: u8) {
    let level = match verbose {
        0 => "warn",
        1 => "tracer=info,warn",
        _ => "tracer=debug,info",
    };
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(level))
        .format(|out, record| {
            writeln!(
                out,
                "pathtrace: {}: {}",
                record.level().as_str().to_lowercase(),
                record.args()
            )
        })
        .init();
}

/// A reader that has seen enough is no failure.
fn print(text: &str) -> io::Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// One line a point: by what it is watched, or why it is not.
fn probes(offers: &[Offer]) -> String {
    let mut offers: Vec<&Offer> = offers.iter().collect();
    offers.sort_by_key(|offer| offer.point);
    let mut text = String::new();
    for offer in offers {
        let how = match &offer.how {
            Ok(mechanism) => mechanism.name().to_owned(),
            Err(why) => format!("- {why}"),
        };
        let (point, layer) = (offer.point.name(), layer(offer.point));
        text.push_str(&format!("{point:<15} {layer:<10} {how}\n"));
    }
    text
}

fn layer(point: Point) -> String {
    format!("{:?}", point.layer()).to_lowercase()
}
