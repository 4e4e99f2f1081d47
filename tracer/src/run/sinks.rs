//! Where the results of a trace go, as the command line says.

use std::io::{self, BufWriter};

use crate::{
    cli::{self, TraceArgs},
    output::{Hops, Json, Sinks, Text, use_colour},
};

/// What these arguments ask for.
pub(super) fn of(args: &TraceArgs) -> Sinks {
    let mut sinks = Sinks::default();
    let out = BufWriter::with_capacity(64 << 10, io::stdout());
    let hops = match args.hops {
        cli::Hops::All => Hops::All,
        cli::Hops::Main => Hops::Main,
    };
    match args.output {
        cli::Format::Json => sinks.add(Json::new(out)),
        cli::Format::Auto | cli::Format::Text => {
            let text = Text::new(out, hops, use_colour(&io::stdout()));
            sinks.add(text.with_latency(args.latency));
        }
    }
    sinks
}
