//! Where the results of a trace go, as the command line says.

use std::{
    fs,
    io::{self, BufWriter},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use tokio::sync::mpsc::UnboundedReceiver;

use crate::{
    capture::{CaptureSink, Plan, Rotation, STANDARD, Scene, excerpt},
    cli::{self, Format, TraceArgs},
    output::{
        Hops, Json, Live, Sinks, Text, Theme, ToCapture, ViewOptions, Wish, is_view_possible,
        use_colour,
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

/// Bytes of a packet that a capture file has, when nothing else is said; and the live view.
const SNAPLEN: u32 = 65_535;
const VIEWED: u32 = 128;

/// What the sinks are fed by.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Fed {
    /// A trace under way.
    ByTrace,
    /// Capture files.
    ByFiles,
}

/// What these arguments ask for. The capture file comes last: when it fails, the others have all.
///
/// # Errors
/// When the live view was asked for and is not possible, or a capture file cannot be made.
pub(super) fn of(args: &TraceArgs, scene: Scene, fed: Fed) -> anyhow::Result<(Sinks, Wishes)> {
    let mut sinks = Sinks::default();
    let mut wishes = Wishes::None;
    let out = BufWriter::with_capacity(64 << 10, io::stdout());
    let hops = match args.hops {
        cli::Hops::All => Hops::All,
        cli::Hops::Main => Hops::Main,
    };
    let is_view = match args.output {
        Format::Tui if !is_view_possible() => bail!(
            "the live view needs a terminal that is not dumb for input and output; \
             take -o text or -o json, or set TERM"
        ),
        Format::Auto => is_view_possible() && !to_stdout(args),
        format => format == Format::Tui,
    };
    match args.output {
        _ if is_view => {
            let theme = Theme::of_environment(args.ascii);
            let options = ViewOptions {
                theme,
                all_hops: hops == Hops::All,
                is_trace: fed == Fed::ByTrace,
                capture: {
                    let scene = scene.clone();
                    ToCapture(Arc::new(move |start, journeys| {
                        excerpt(scene.clone(), start, journeys)
                    }))
                },
            };
            let (live, wished) =
                Live::open(options).context("cannot open the live view; take -o text")?;
            sinks.add(live);
            wishes = Wishes::View(wished);
        }
        Format::Json => sinks.add(Json::new(out)),
        Format::None => {}
        Format::Auto if to_stdout(args) => {}
        Format::Auto | Format::Text | Format::Tui => {
            let text = Text::new(out, hops, use_colour(&io::stdout()));
            sinks.add(text.with_latency(args.latency));
        }
    }
    if let Some(path) = &args.files.write {
        sinks.add(CaptureSink::create(Plan {
            path: path.clone(),
            hops,
            snaplen: snaplen(args, is_view),
            rotation: Rotation {
                size: args.files.file_size,
                every: args.files.file_seconds.map(|n| Duration::from_secs(n.into())),
                files: args.files.file_count,
            },
            scene,
            alone: args.output == Format::None || to_stdout(args),
        })?);
    }
    Ok((sinks, wishes))
}

/// Bytes of each packet to capture, 0 for none.
pub(super) fn snaplen(args: &TraceArgs, is_viewed: bool) -> u32 {
    args.snaplen.unwrap_or(match (&args.files.write, is_viewed) {
        (Some(_), _) => SNAPLEN,
        (None, true) => VIEWED,
        (None, false) => 0,
    })
}

/// Bytes of the ring buffer: a large segment takes 64 KiB of it at each device, and they come in bursts.
pub(super) fn ring_bytes(args: &TraceArgs, is_viewed: bool) -> u32 {
    const SMALL: u32 = 16 << 20;
    let has_segments = snaplen(args, is_viewed) > 2048;
    args.ring_size.unwrap_or(if has_segments { 4 * SMALL } else { SMALL })
}

/// Whether they are captured at every point, not only at tc.
pub(super) fn captures_everywhere(args: &TraceArgs) -> bool {
    let all = args.files.write.is_some() && args.hops == cli::Hops::All;
    args.snaplen.is_some() || all
}

/// What is wrong with what is to be written, whatever the machine.
pub(crate) fn contradiction(args: &TraceArgs) -> Option<String> {
    let files = &args.files;
    let rotates = files.file_size.is_some() || files.file_seconds.is_some();
    let Some(path) = &files.write else {
        return (args.output == Format::None).then(|| "-o none shows nothing: it needs -w".into());
    };
    if files.file_count.is_some() && !rotates {
        return Some("-W limits the files of -C or -G, and none of these is given".into());
    }
    if to_stdout(args) {
        if rotates {
            return Some("-C and -G begin further files, and stdout (-w -) is one".into());
        }
        if !matches!(args.output, Format::Auto | Format::None) {
            return Some(
                "stdout is for the capture (-w -): leave out -o, or write to a file".into(),
            );
        }
    }
    let is_read = |read: &&std::path::PathBuf| is_same(read, path);
    files
        .read
        .iter()
        .find(is_read)
        .map(|read| format!("{} cannot be read (-r) and written (-w) at once", read.display()))
}

fn to_stdout(args: &TraceArgs) -> bool {
    args.files.write.as_deref().is_some_and(|path| path.as_os_str() == STANDARD)
}

fn is_same(a: &Path, b: &Path) -> bool {
    let real = |path| fs::canonicalize(path).ok();
    a.as_os_str() != STANDARD && (a == b || real(a).is_some_and(|a| Some(a) == real(b)))
}
