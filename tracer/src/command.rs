//! What the command line asks for, done.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::{CommandFactory as _, error::ErrorKind};
use clap_complete::env::Shells;
use tracer_common::point::{Layer, Point};

use crate::{
    cli::{Cli, Command, ListFormat},
    host::{containers::Sources, snapshot::Snapshot},
    output::{Log, SinkError, containers, schema},
    probe::{Aside, Code, Function, Mechanism, Offer},
    run,
    select::{
        self,
        expression::{Expression, Refusal},
    },
};

/// Does it.
///
/// # Errors
/// When it cannot be done: what, why, and what to do, in one line.
pub fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        None => {
            let trace = &cli.trace;
            let contradiction = select::contradiction(&trace.select);
            if let Some(why) = contradiction.or_else(|| run::sinks::contradiction(trace)) {
                Cli::command().error(ErrorKind::ArgumentConflict, why).exit();
            }
            log_to_stderr(trace.verbose);
            let expression = expression(&trace.select.expression)?;
            match run::trace(trace, expression) {
                Err(e) if matches!(e.downcast_ref(), Some(SinkError::Told)) => {
                    return Ok(ExitCode::FAILURE);
                }
                result => result?,
            }
        }
        Some(Command::Probes { mechanism }) => {
            log_to_stderr(0);
            let (offers, asides) = run::offers(&mechanism)?;
            print(&probes(offers, asides))?;
        }
        Some(Command::Containers { output }) => {
            log_to_stderr(0);
            let snapshot = Snapshot::take_all(&Sources::of_this_machine())?;
            for problem in &snapshot.containers.problems {
                log::warn!("{}", problem.text);
            }
            let listed = containers::list(&snapshot);
            print(&match output {
                ListFormat::Text => containers::text(&listed),
                ListFormat::Json => containers::json(&listed)?,
            })?;
        }
        Some(Command::Report { files, output }) => {
            log_to_stderr(0);
            run::report(&files, &output)?;
        }
        Some(Command::Schema) => print(&format!("{:#}\n", schema()))?,
        Some(Command::Completions { shell }) => {
            let mut script = Vec::new();
            let shells = Shells::builtins();
            let writer = shells.completer(&shell.to_string()).context("no such shell")?;
            writer.write_registration(
                "COMPLETE",
                "pathtrace",
                "pathtrace",
                "pathtrace",
                &mut script,
            )?;
            print(&String::from_utf8_lossy(&script))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The expression; a wrong one ends it as bad usage.
fn expression(words: &[String]) -> anyhow::Result<Option<Expression>> {
    let wrong = |why: String| Cli::command().error(ErrorKind::ValueValidation, why).exit();
    let expression = match Expression::compile(words) {
        Ok(expression) => expression,
        Err(Refusal::Wrong(why)) => wrong(why),
        Err(missing) => return Err(missing.into()),
    };
    if let Some(Err(why)) = expression.as_ref().map(Code::of) {
        wrong(why.to_string());
    }
    Ok(expression)
}

/// While the live view is open, the log is shown there.
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
        .target(env_logger::Target::Pipe(Box::new(Log)))
        .init();
}

/// A reader that has seen enough is no failure.
fn print(text: &str) -> io::Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// One line a point: by what it is watched, or why it is not. Then what is told with other points.
fn probes(mut offers: Vec<Offer>, asides: Vec<Aside>) -> String {
    offers.sort_by_key(|offer| Point::ALL.iter().position(|point| *point == offer.point));
    let points = offers.into_iter().map(|o| (o.point.name(), o.point.layer(), o.how, o.functions));
    let asides = asides.into_iter().map(|a| (a.name, a.layer, a.how, a.functions));
    let line = |(name, layer, how, functions): (&str, Layer, Result<Mechanism, String>, _)| {
        format!("{name:<16} {:<10} {}\n", layer.name(), watched(&how, functions))
    };
    points.chain(asides).map(line).collect()
}

/// The mechanism and the functions; or why there is none, and what is lost.
fn watched(how: &Result<Mechanism, String>, functions: Vec<Function>) -> String {
    let mechanism = match how {
        Err(why) if functions.is_empty() => return format!("- {why}"),
        Err(why) => {
            // Of a point that other programs show too, their reason comes first.
            let known = functions.iter().any(|f| f.how.as_ref().is_err_and(|its| its == why));
            let other = if known { String::new() } else { format!("{why}; ") };
            return format!("- {other}{}", missing(&functions));
        }
        Ok(mechanism) => *mechanism,
    };
    let (there, gone): (Vec<_>, Vec<_>) = functions.into_iter().partition(|f| f.how.is_ok());
    let there: Vec<String> = there
        .iter()
        .map(|function| match function.how {
            Ok(other) if other != mechanism => format!("{} by {}", function.name, other.name()),
            _ => function.name.to_owned(),
        })
        .collect();
    let mut text = mechanism.name().to_owned();
    if !there.is_empty() {
        text.push_str(&format!(" {}", there.join(", ")));
    }
    if !gone.is_empty() {
        text.push_str(&format!(" ({})", missing(&gone)));
    }
    text
}

/// Which functions are not watched, why, and what is lost: what is the same is said once. Without a
/// module nothing is lost: nothing there is called.
fn missing(functions: &[Function]) -> String {
    let mut reasons: Vec<(&Function, Vec<&str>)> = Vec::new();
    let mut modules: Vec<&str> = Vec::new();
    for function in functions {
        if let Some(module) = function.waits_for {
            if !modules.contains(&module) {
                modules.push(module);
            }
            continue;
        }
        let same =
            |known: &Function| known.how == function.how && known.without == function.without;
        match reasons.iter_mut().find(|(known, _)| same(known)) {
            Some((_, names)) => names.push(function.name),
            None => reasons.push((function, vec![function.name])),
        }
    }
    let clause = |(function, names): &(&Function, Vec<&str>)| {
        let why = function.how.as_ref().err().map_or("", String::as_str);
        format!("not {}: {why}; so {}", names.join(", "), function.without)
    };
    let mut clauses: Vec<_> = reasons.iter().map(clause).collect();
    if !modules.is_empty() {
        clauses.push(format!("not loaded: {}", modules.join(", ")));
    }
    clauses.join("; ")
}
