//! The thread of the view: takes what the trace hands over, reads keys, draws. The trace never waits
//! for it.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Parser as _;
use ratatui::crossterm::event;

use super::{
    ToCapture, Wish,
    draw::draw,
    export,
    health::Health,
    inbox::Inbox,
    log,
    model::Model,
    prompt::{Asked, Prompt},
    screen::{Effect, Screen},
    terminal,
    theme::Theme,
};
use crate::{
    cli::SelectArgs,
    host::clock::nanoseconds,
    output::{Phase, escape::escape, record::Start},
    select,
};

/// Least time between two pictures after a key, and after nothing but packets.
const FRAME: Duration = Duration::from_millis(50);
const PACKETS_FRAME: Duration = Duration::from_millis(200);
/// How often flows are put in order and this process is measured.
const ARRANGE: Duration = Duration::from_secs(1);
/// Of the time, putting them in order takes this part at most.
const ARRANGE_SHARE: u32 = 10;
/// Keys that are taken before anything else is done.
const KEYS: usize = 64;

/// A selection, as it is typed on the command line.
#[derive(Debug, clap::Parser)]
#[command(no_binary_name = true, disable_help_flag = true)]
struct Selected {
    #[command(flatten)]
    select: SelectArgs,
}

/// What the thread has.
pub(super) struct View {
    pub inbox: Inbox,
    pub theme: Theme,
    pub all_hops: bool,
    pub wishes: tokio::sync::mpsc::UnboundedSender<Wish>,
    /// Whether something is traced, that another selection can be wished for.
    pub is_trace: bool,
    /// Makes capture files.
    pub capture: ToCapture,
}

impl View {
    /// Shows what comes until it is told to end, or the terminal is gone.
    ///
    /// # Errors
    /// When the terminal cannot be read or written.
    pub fn run(self, terminal: &mut terminal::Screen) -> io::Result<()> {
        let began = Instant::now();
        let mut state = State {
            model: Model::new(super::model::Limits::default(), self.all_hops),
            screen: Screen::new(self.theme),
            health: Health::default(),
            began,
            read: 0,
            start: None,
        };
        let mut room = Vec::new();
        let mut drawn: Option<Instant> = None;
        let mut next_arrange = began;
        let mut next_measure = began;
        // Since the last picture: a key, or what the trace told.
        let (mut pressed, mut changed) = (true, true);
        loop {
            let content = self.inbox.take(room);
            if content.closed {
                return Ok(());
            }
            room = content.journeys;
            if let Some(start) = content.anew {
                state.start = Some(start);
                state.screen.clear(&mut state.model);
                state.health.begin();
                changed = true;
            }
            let now = state.now();
            changed |= !room.is_empty() && state.screen.paused.is_none();
            let is_first = state.model.is_empty() && !room.is_empty();
            for journey in room.drain(..) {
                state.model.add(journey, now);
            }
            if let Some(standing) = content.standing {
                state.learn(standing, self.is_trace);
                changed = true;
            }
            state.health.refused = content.refused;

            let instant = Instant::now();
            if instant >= next_measure {
                next_measure = instant + ARRANGE;
                state.health.process.measure();
                state.health.unread = log::count().saturating_sub(state.read);
                changed = true;
            }
            if instant >= next_arrange || is_first {
                state.screen.arrange(&state.model, now);
                next_arrange = instant + ARRANGE.max(instant.elapsed() * ARRANGE_SHARE);
            }
            let least = if pressed { FRAME } else { PACKETS_FRAME };
            let due = drawn.is_none_or(|drawn| drawn.elapsed() >= least);
            if (pressed || changed) && due {
                let State { model, screen, health, .. } = &mut state;
                terminal.0.draw(|frame| draw(frame, screen, model, health, now))?;
                drawn = Some(Instant::now());
                (pressed, changed) = (false, false);
            }
            let mut wait = FRAME;
            for _ in 0..KEYS {
                if !event::poll(wait)? {
                    break;
                }
                wait = Duration::ZERO;
                pressed = true;
                let now = state.now();
                let event = event::read()?;
                if let Some(effect) = state.screen.take(&event, &mut state.model, now) {
                    self.do_it(effect, &mut state);
                }
            }
        }
    }

    fn do_it(&self, effect: Effect, state: &mut State) {
        match effect {
            Effect::Quit => drop(self.wishes.send(Wish::Quit)),
            Effect::ReadLog => {
                state.read = log::count();
                state.health.unread = 0;
            }
            Effect::Select(line) => match selected(&line) {
                Ok(select) => {
                    let _ = self.wishes.send(Wish::Select { select: Box::new(select), line });
                    state.say("asked for; what was counted is forgotten when it is attached");
                }
                Err(why) => state.refuse(why),
            },
            Effect::Export { flow, path, over } => {
                let known = match &state.screen.paused {
                    Some(still) => &still.model,
                    None => &state.model,
                };
                let journeys: Vec<_> = known
                    .flow(flow)
                    .map(|flow| flow.journeys().rev().map(Arc::clone).collect())
                    .unwrap_or_default();
                let shown = escape(&path.to_string_lossy()).into_owned();
                let capture =
                    || state.start.as_ref().map(|start| (self.capture.0)(start, &journeys));
                match export::write(&path, &journeys, over, capture) {
                    Ok(()) => {
                        state.screen.prompt = None;
                        state.say(&format!("{} packets written to {shown}", journeys.len()));
                    }
                    Err(export::Error::Exists) => {
                        let asked = Asked::Overwrite { flow, path };
                        state.screen.prompt = Some(Prompt::ask(asked, ""));
                    }
                    Err(error) if state.screen.prompt.is_some() => state.refuse(error.to_string()),
                    Err(error) => state.say(&format!("{shown} is not written: {error}")),
                }
            }
        }
    }
}

/// What the view knows and shows.
struct State {
    model: Model,
    screen: Screen,
    health: Health,
    began: Instant,
    /// Lines of the log that were looked at.
    read: u64,
    /// How the trace began.
    start: Option<Box<Start>>,
}

impl State {
    /// ns since the view began.
    fn now(&self) -> u64 {
        nanoseconds(self.began.elapsed())
    }

    fn learn(&mut self, standing: crate::output::Standing, is_trace: bool) {
        match &standing.phase {
            Phase::Refused(why) => {
                let why = escape(why).into_owned();
                match &self.screen.prompt {
                    Some(prompt) if prompt.asked == Asked::Select => self.refuse(why),
                    _ => self.say(&format!("not traced: {why}")),
                }
            }
            Phase::Attaching => {
                // What was asked for is being done.
                let is_asking = |prompt: &Prompt| prompt.asked == Asked::Select;
                if self.screen.prompt.as_ref().is_some_and(is_asking) {
                    self.screen.prompt = None;
                }
                self.screen.message = None;
            }
            Phase::Ended => self.say("the trace has ended; q quits"),
            Phase::Tracing => {}
        }
        self.screen.selection = is_trace.then(|| standing.selection.clone());
        self.health.learn(standing, Instant::now());
    }

    fn say(&mut self, text: &str) {
        self.screen.message = Some(text.to_owned());
    }

    /// The line that was typed is not right.
    fn refuse(&mut self, why: String) {
        if let Some(prompt) = &mut self.screen.prompt {
            prompt.error = Some(why);
        }
    }
}

/// The selection that a line stands for, or what is wrong with it, in a line.
pub(super) fn selected(line: &str) -> Result<SelectArgs, String> {
    let words = shlex::split(line).ok_or("a quotation mark is not closed")?;
    let selected = Selected::try_parse_from(words).map_err(|error| {
        let text = error.render().to_string();
        let first = text.lines().next().unwrap_or_default();
        escape(first.strip_prefix("error: ").unwrap_or(first)).into_owned()
    })?;
    match select::contradiction(&selected.select) {
        Some(why) => Err(why),
        None => Ok(selected.select),
    }
}
