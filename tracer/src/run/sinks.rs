//! Where the results of a trace go, as the command line says.

use std::io::{self, BufWriter};

use anyhow::{Context as _, bail};
use tokio::sync::mpsc::UnboundedReceiver;

use crate::{
    cli::{self, TraceArgs},
    output::{
        Hops, Json, Live, Sinks, Text, Theme, ViewOptions, Wish, is_view_possible, use_colour,
    },
};

/// Where wishes come from.
pub(super) enum Wishes {
    /// From nowhere: nobody looks on.
    None,
    /// From whoever looks at the live view.
    View(UnboundedReceiver<Wish>),
}

impl Wishes {
    /// The next one; the end, where the view has ended.
    pub async fn next(&mut self) -> Wish {
        match self {
            Wishes::None => std::future::pending().await,
            Wishes::View(wishes) => wishes.recv().await.unwrap_or(Wish::Quit),
        }
    }
}

/// What these arguments ask for.
///
/// # Errors
/// When the live view was asked for and is not possible.
pub(super) fn of(args: &TraceArgs) -> anyhow::Result<(Sinks, Wishes)> {
    let mut sinks = Sinks::default();
    let mut wishes = Wishes::None;
    let out = BufWriter::with_capacity(64 << 10, io::stdout());
    let hops = match args.hops {
        cli::Hops::All => Hops::All,
        cli::Hops::Main => Hops::Main,
    };
    let is_view = match args.output {
        cli::Format::Tui if !is_view_possible() => bail!(
            "the live view needs a terminal that is not dumb for input and output; \
             take -o text or -o json, or set TERM"
        ),
        cli::Format::Auto => is_view_possible(),
        format => format == cli::Format::Tui,
    };
    match args.output {
        _ if is_view => {
            let theme = Theme::of_environment(args.ascii);
            let options = ViewOptions { theme, all_hops: hops == Hops::All, is_trace: true };
            let (live, wished) =
                Live::open(options).context("cannot open the live view; take -o text")?;
            sinks.add(live);
            wishes = Wishes::View(wished);
        }
        cli::Format::Json => sinks.add(Json::new(out)),
        cli::Format::Auto | cli::Format::Text | cli::Format::Tui => {
            let text = Text::new(out, hops, use_colour(&io::stdout()));
            sinks.add(text.with_latency(args.latency));
        }
    }
    Ok((sinks, wishes))
}
