//! The live view: flows, the path of the selected one, drops and the health of the trace, on a terminal.
//!
//! A [`Live`] is a sink like the others. It hands journeys over to a thread that counts, draws and reads
//! keys ([`view`]), and never waits for it: what comes faster is refused and counted ([`inbox`]). What is
//! known is a pure [`model`], what is shown and selected a pure [`screen`]; each part of the picture is a
//! module that makes lines of them. What the user wishes goes to the trace by a channel ([`Wish`]).

mod cells;
mod draw;
mod drops;
mod export;
mod flows;
mod health;
mod help;
mod inbox;
mod journey;
mod keys;
mod log;
mod model;
mod packets;
mod process;
mod prompt;
mod screen;
mod terminal;
#[cfg(test)]
mod tests;
mod theme;
mod view;

pub use log::Log;
pub use theme::Theme;

use std::{
    env, io,
    io::IsTerminal as _,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::{
    Sink, SinkError, Standing,
    record::{Journey, Start, Summary},
};
use crate::cli::SelectArgs;
use inbox::Inbox;
use view::View;

/// What the user wishes of the trace.
#[derive(Debug)]
pub enum Wish {
    /// That it ends.
    Quit,
    /// That it follows other packets.
    Select {
        /// Which.
        select: Box<SelectArgs>,
        /// The same, as it was typed.
        line: String,
    },
}

/// How often is looked for room, where it is waited for.
const ROOM: Duration = Duration::from_millis(2);

/// How the view is to be.
#[derive(Clone, Debug)]
pub struct Options {
    /// How it looks.
    pub theme: Theme,
    /// Every hop is shown, rather than a line a layer and interface.
    pub all_hops: bool,
    /// Something is traced; otherwise journeys come from a file.
    pub is_trace: bool,
    /// Makes the capture file that a flow is exported as.
    pub capture: ToCapture,
}

/// The bytes of a capture file of these journeys of a trace.
type CaptureOf = dyn Fn(&Start, &[Arc<Journey>]) -> Vec<u8> + Send + Sync;

/// What makes a capture file of journeys of a trace: given by whoever knows such files, which are made of what
/// is shown here.
#[derive(Clone)]
pub struct ToCapture(pub Arc<CaptureOf>);

impl std::fmt::Debug for ToCapture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ToCapture")
    }
}

/// The view as a sink. Dropped, it is closed and the terminal is as it was.
#[derive(Debug)]
pub struct Live {
    inbox: Inbox,
    /// For room in it: a file can wait, packets cannot.
    waits: bool,
    thread: Option<JoinHandle<io::Result<()>>>,
}

/// Whether a terminal is there that the view can be shown on: one for keys and one for pictures, that can
/// move its cursor.
pub fn is_possible() -> bool {
    let can_draw = env::var_os("TERM").is_some_and(|term| !term.is_empty() && term != "dumb");
    can_draw && io::stdin().is_terminal() && io::stdout().is_terminal()
}

impl Live {
    /// Opens it; wishes come out of the other end. When that is closed, the view has ended.
    ///
    /// # Errors
    /// When the terminal cannot be taken over.
    pub fn open(options: Options) -> io::Result<(Self, UnboundedReceiver<Wish>)> {
        let (wishes, wished) = unbounded_channel();
        let inbox = Inbox::default();
        let mut terminal = terminal::Screen::take()?;
        log::divert();
        let view = View {
            inbox: inbox.clone(),
            theme: options.theme,
            all_hops: options.all_hops,
            wishes,
            is_trace: options.is_trace,
            capture: options.capture,
        };
        let thread = thread::Builder::new().name("view".to_owned()).spawn(move || {
            let result = view.run(&mut terminal);
            drop(terminal);
            log::restore();
            result
        })?;
        let waits = !options.is_trace;
        Ok((Self { inbox, waits, thread: Some(thread) }, wished))
    }

    fn is_over(&self) -> bool {
        self.thread.as_ref().is_some_and(JoinHandle::is_finished)
    }

    /// Waits for its end; that of a terminal that is gone is one, too.
    fn close(&mut self) -> io::Result<()> {
        self.inbox.close();
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(io::Error::other("the view failed")),
            None => Ok(()),
        }
    }
}

impl Sink for Live {
    fn start(&mut self, start: &Start) -> Result<(), SinkError> {
        self.inbox.begin(start.clone());
        Ok(())
    }

    fn journey(&mut self, journey: &Journey) -> Result<(), SinkError> {
        self.share(&Arc::new(journey.clone()))
    }

    fn share(&mut self, journey: &Arc<Journey>) -> Result<(), SinkError> {
        while self.waits && self.inbox.is_full() && !self.is_over() {
            thread::sleep(ROOM);
        }
        self.inbox.put(journey);
        Ok(())
    }

    fn stand(&mut self, standing: &Standing) {
        self.inbox.stand(standing.clone());
    }

    fn summary(&mut self, _: &Summary) -> Result<(), SinkError> {
        Ok(())
    }

    fn flush(&mut self) -> Result<(), SinkError> {
        // It ends by itself only where the terminal is gone.
        if self.is_over() {
            self.close()?;
        }
        Ok(())
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        // Whoever wants to know why it failed has flushed.
        let _ = self.close();
    }
}
