//! What is on the screen: which pane, which flow, what is typed. Keys and clicks change it; it does nothing
//! else by itself: what is to be done outside is given back as an [`Effect`].

use std::path::PathBuf;

use ratatui::{
    crossterm::event::{
        Event, KeyCode, KeyEvent, KeyEventKind, MouseButton, MouseEvent, MouseEventKind,
    },
    layout::{Position, Rect},
};
use tui_input::backend::crossterm::EventHandler as _;

use super::{
    drops, flows,
    keys::{self, Action},
    model::Model,
    packets,
    prompt::{Asked, Prompt},
    theme::Theme,
};

/// Lines that the wheel moves.
const WHEEL: usize = 3;
/// ns.
pub(super) const SECOND: u64 = 1_000_000_000;

/// A part of the screen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Pane {
    /// Who with whom.
    #[default]
    Flows,
    /// The path of one.
    Journey,
    /// What was dropped.
    Drops,
}

/// What lies over the panes.
#[derive(Clone, Debug)]
pub(super) enum Over {
    /// The help, from this line on.
    Help(usize),
    /// The log, from this line on.
    Log(usize),
    /// The packets of a flow.
    Packets(packets::List),
    /// One of them.
    Packet(packets::List, packets::Single),
}

/// What is to be done outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// End.
    Quit,
    /// Trace what this line selects.
    Select(String),
    /// Write a flow.
    Export {
        /// Its number.
        flow: u64,
        /// Where to.
        path: PathBuf,
        /// Even if something is there.
        over: bool,
    },
    /// The log is looked at.
    ReadLog,
}

/// Where what was drawn.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Areas {
    /// The inside of each pane; empty where it is not shown.
    pub flows: Rect,
    /// The same.
    pub journey: Rect,
    /// The same.
    pub drops: Rect,
    /// The inside of what lies over them.
    pub over: Rect,
}

/// What was known at some time.
#[derive(Clone, Debug)]
pub(super) struct Still {
    /// All of it.
    pub model: Model,
    /// When: ns since the view began.
    pub at: u64,
}

/// The screen.
#[derive(Debug)]
pub(super) struct Screen {
    /// How it looks.
    pub theme: Theme,
    /// Where keys go.
    pub pane: Pane,
    /// Only that pane is shown.
    pub is_zoomed: bool,
    /// The flows.
    pub flows: flows::List,
    /// First line of the journey that is to be in sight; `None`: where packets died.
    pub journey_top: Option<usize>,
    /// The one that is.
    pub journey_shown: usize,
    /// The drops.
    pub drops: drops::List,
    /// What lies over them.
    pub over: Option<Over>,
    /// What is being typed.
    pub prompt: Option<Prompt>,
    /// What was known when it was told to stand still.
    pub paused: Option<Box<Still>>,
    /// What is to be said once.
    pub message: Option<String>,
    /// Where what was drawn.
    pub areas: Areas,
    /// What is traced, as on the command line; `None` where that cannot be changed.
    pub selection: Option<String>,
}

impl Screen {
    /// Nothing is selected yet.
    pub fn new(theme: Theme) -> Self {
        Self {
            theme,
            pane: Pane::default(),
            is_zoomed: false,
            flows: flows::List::default(),
            journey_top: None,
            journey_shown: 0,
            drops: drops::List::default(),
            over: None,
            prompt: None,
            paused: None,
            message: None,
            areas: Areas::default(),
            selection: None,
        }
    }

    /// Takes what the terminal tells. `now`: ns since the view began.
    pub fn take(&mut self, event: &Event, model: &mut Model, now: u64) -> Option<Effect> {
        match event {
            Event::Key(key) if key.kind != KeyEventKind::Release => {
                self.message = None;
                self.key(event, key, model, now)
            }
            Event::Mouse(mouse) => {
                self.mouse(mouse, model, now);
                None
            }
            Event::Paste(text) => {
                if let Some(prompt) = &mut self.prompt {
                    for c in text.chars().filter(|c| !c.is_control()) {
                        prompt.input.handle(tui_input::InputRequest::InsertChar(c));
                    }
                    self.typed(model, now);
                }
                None
            }
            _ => None,
        }
    }

    fn key(
        &mut self,
        event: &Event,
        key: &KeyEvent,
        model: &mut Model,
        now: u64,
    ) -> Option<Effect> {
        let action = keys::action(key);
        if self.prompt.is_none() {
            return self.act(action?, model, now);
        }
        let is_end = action == Some(Action::Quit) && key.code != KeyCode::Char('q');
        if is_end {
            return Some(Effect::Quit);
        }
        match key.code {
            KeyCode::Enter => self.answer(),
            KeyCode::Esc => {
                if self.prompt.take().is_some_and(|prompt| prompt.asked == Asked::Filter) {
                    self.filter(String::new(), model, now);
                }
                None
            }
            code => {
                let prompt = self.prompt.as_mut()?;
                if let Asked::Overwrite { flow, path } = prompt.asked.clone() {
                    self.prompt = None;
                    let yes = matches!(code, KeyCode::Char('y' | 'Y'));
                    return yes.then_some(Effect::Export { flow, path, over: true });
                }
                prompt.error = None;
                prompt.input.handle_event(event);
                self.typed(model, now);
                None
            }
        }
    }

    /// A filter holds while it is typed.
    fn typed(&mut self, model: &Model, now: u64) {
        if let Some(prompt) = &self.prompt
            && prompt.asked == Asked::Filter
        {
            self.filter(prompt.input.value().to_owned(), model, now);
        }
    }

    fn filter(&mut self, filter: String, model: &Model, now: u64) {
        self.flows.filter = filter;
        self.arrange(model, now);
    }

    /// What was typed is meant.
    fn answer(&mut self) -> Option<Effect> {
        let prompt = self.prompt.as_ref()?;
        let typed = prompt.input.value().trim().to_owned();
        match prompt.asked.clone() {
            Asked::Filter => {
                self.prompt = None;
                None
            }
            // It stays open until it is known to be one.
            Asked::Select => Some(Effect::Select(typed)),
            Asked::File { .. } if typed.is_empty() => {
                self.prompt = None;
                None
            }
            Asked::File { flow } => Some(Effect::Export { flow, path: typed.into(), over: false }),
            Asked::Overwrite { .. } => {
                self.prompt = None;
                None
            }
        }
    }

    /// Puts the flows in order anew.
    pub fn arrange(&mut self, model: &Model, now: u64) {
        let before = self.flows.selected;
        match &self.paused {
            Some(still) => self.flows.arrange(&still.model, still.at / SECOND),
            None => self.flows.arrange(model, now / SECOND),
        }
        if self.flows.selected != before {
            self.journey_top = None;
        }
    }

    fn act(&mut self, action: Action, model: &mut Model, now: u64) -> Option<Effect> {
        // Who does something with a flow wants it to stay.
        let is_about_list =
            matches!(action, Action::Sort | Action::DropsFirst | Action::Filter | Action::Help);
        self.flows.is_chosen |= !is_about_list;
        match action {
            Action::Quit => return Some(Effect::Quit),
            Action::Help => {
                self.over = match self.over.take() {
                    Some(Over::Help(_)) => None,
                    _ => Some(Over::Help(0)),
                };
            }
            Action::Log => {
                self.over = match self.over.take() {
                    Some(Over::Log(_)) => None,
                    _ => Some(Over::Log(usize::MAX)),
                };
                return Some(Effect::ReadLog);
            }
            Action::Up => self.step(model, Step::By(-1)),
            Action::Down => self.step(model, Step::By(1)),
            Action::PageUp => self.step(model, Step::Pages(-1)),
            Action::PageDown => self.step(model, Step::Pages(1)),
            Action::First => self.step(model, Step::First),
            Action::Last => self.step(model, Step::Last),
            Action::NextPane if self.over.is_none() => {
                self.pane = match self.pane {
                    Pane::Flows => Pane::Journey,
                    Pane::Journey => Pane::Drops,
                    Pane::Drops => Pane::Flows,
                };
                self.enter(model);
            }
            Action::PreviousPane if self.over.is_none() => {
                self.pane = match self.pane {
                    Pane::Flows => Pane::Drops,
                    Pane::Journey => Pane::Flows,
                    Pane::Drops => Pane::Journey,
                };
                self.enter(model);
            }
            Action::NextPane | Action::PreviousPane => {}
            Action::Open => self.open(model),
            Action::Back => self.back(model, now),
            Action::Packets => self.packets(model),
            Action::Zoom => self.is_zoomed = !self.is_zoomed && self.over.is_none(),
            Action::Filter => {
                (self.over, self.pane) = (None, Pane::Flows);
                self.prompt = Some(Prompt::ask(Asked::Filter, &self.flows.filter));
            }
            Action::Sort => {
                self.flows.sort = self.flows.sort.next();
                self.arrange(model, now);
            }
            Action::DropsFirst => {
                self.flows.drops_first = !self.flows.drops_first;
                self.arrange(model, now);
                if self.flows.drops_first {
                    self.select_at(0);
                }
            }
            Action::AllHops => {
                let all = !model.shows_all_hops();
                model.show_all_hops(all);
                if let Some(still) = &mut self.paused {
                    still.model.show_all_hops(all);
                }
            }
            Action::Pause => {
                self.paused = match self.paused.take() {
                    Some(_) => None,
                    None => Some(Box::new(Still { model: model.clone(), at: now })),
                };
                self.arrange(model, now);
            }
            Action::Clear => self.clear(model),
            Action::Select => match self.selection.clone() {
                Some(selection) => {
                    self.over = None;
                    self.prompt = Some(Prompt::ask(Asked::Select, &selection));
                }
                None => self.message = Some("nothing is traced here: this is a file".to_owned()),
            },
            Action::Export => match self.flows.selected {
                Some(flow) => {
                    let name = format!("flow-{flow}.pcapng");
                    self.prompt = Some(Prompt::ask(Asked::File { flow }, &name));
                }
                None => self.message = Some("no flow is selected".to_owned()),
            },
        }
        None
    }

    /// Forgets all that was counted.
    pub fn clear(&mut self, model: &mut Model) {
        model.clear();
        self.paused = None;
        self.flows.order.clear();
        self.flows.selected = None;
        self.flows.position = 0;
        self.flows.is_chosen = false;
        self.drops.selected = None;
        self.journey_top = None;
        if matches!(self.over, Some(Over::Packets(_) | Over::Packet(..))) {
            self.over = None;
        }
    }

    fn packets(&mut self, model: &Model) {
        let known = known(&self.paused, model);
        match self.flows.selected.and_then(|id| known.flow(id)) {
            Some(flow) => self.over = Some(Over::Packets(packets::List::of(flow))),
            None => self.message = Some("no flow is selected".to_owned()),
        }
    }

    fn open(&mut self, model: &Model) {
        match self.over.take() {
            Some(Over::Packets(list)) => {
                self.over = Some(match list.selected.clone() {
                    Some(journey) => Over::Packet(list, packets::Single::of(journey)),
                    None => Over::Packets(list),
                });
            }
            Some(Over::Packet(list, single)) => self.over = Some(Over::Packet(list, single)),
            Some(Over::Help(_) | Over::Log(_)) => {}
            None => match self.pane {
                Pane::Flows => self.pane = Pane::Journey,
                Pane::Journey => self.packets(model),
                Pane::Drops => {
                    self.enter(model);
                    self.pane = Pane::Journey;
                }
            },
        }
    }

    fn back(&mut self, model: &Model, now: u64) {
        self.over = match self.over.take() {
            Some(Over::Packet(list, _)) => Some(Over::Packets(list)),
            Some(_) => None,
            None => {
                if self.is_zoomed {
                    self.is_zoomed = false;
                } else if self.pane != Pane::Flows {
                    self.pane = Pane::Flows;
                } else {
                    self.filter(String::new(), model, now);
                }
                None
            }
        };
    }

    /// In the drops, one is always selected.
    fn enter(&mut self, model: &Model) {
        if self.pane == Pane::Drops {
            let known = known(&self.paused, model);
            let position = self.drops.position(known);
            self.select_drop(model, position);
        }
    }

    /// The flow of a drop is selected with it, even if the filter hides it.
    fn select_drop(&mut self, model: &Model, position: usize) {
        let known = known(&self.paused, model);
        let Some(flow) = self.drops.select_at(known, position) else { return };
        if known.flow(flow).is_none() {
            self.message = Some("its flow was forgotten: too many others came".to_owned());
            return;
        }
        if self.flows.selected != Some(flow) {
            self.journey_top = None;
        }
        if !self.flows.select(flow) {
            self.flows.filter.clear();
            self.flows.order.push(flow);
            self.flows.select(flow);
        }
    }

    fn select_at(&mut self, position: usize) {
        let before = self.flows.selected;
        self.flows.select_at(position);
        if self.flows.selected != before {
            self.journey_top = None;
        }
    }

    fn step(&mut self, model: &Model, step: Step) {
        let known = known(&self.paused, model);
        match &mut self.over {
            Some(Over::Help(top) | Over::Log(top)) => {
                *top = step.from(*top, self.areas.over.height.into());
            }
            Some(Over::Packets(list)) => {
                let Some(flow) = known.flow(list.flow) else { return };
                let position = step.from(list.position(flow), list.height);
                list.select_at(known, position);
            }
            Some(Over::Packet(_, single)) => {
                let hop = step.from(single.hop, single.height / 2);
                single.select_at(hop);
            }
            None => match self.pane {
                Pane::Flows => {
                    let position = step.from(self.flows.position, self.flows.height);
                    self.select_at(position);
                }
                Pane::Journey => {
                    let height = self.areas.journey.height.into();
                    self.journey_top = Some(step.from(self.journey_shown, height));
                }
                Pane::Drops => {
                    let position = step.from(self.drops.position(known), self.drops.height);
                    self.select_drop(model, position);
                }
            },
        }
    }

    fn mouse(&mut self, mouse: &MouseEvent, model: &mut Model, now: u64) {
        let at = Position::new(mouse.column, mouse.row);
        self.flows.is_chosen |= matches!(mouse.kind, MouseEventKind::Down(_));
        let Areas { flows, journey, drops, over } = self.areas;
        let pane = [(flows, Pane::Flows), (journey, Pane::Journey), (drops, Pane::Drops)]
            .into_iter()
            .find_map(|(area, pane)| area.contains(at).then_some(pane));
        match mouse.kind {
            MouseEventKind::ScrollUp | MouseEventKind::ScrollDown => {
                self.flows.is_chosen = true;
                if let (None, Some(pane)) = (&self.over, pane) {
                    self.pane = pane;
                }
                let lines = WHEEL as isize;
                let up = mouse.kind == MouseEventKind::ScrollUp;
                self.step(model, Step::By(if up { -lines } else { lines }));
            }
            MouseEventKind::Down(MouseButton::Left) => {
                if let Some(Over::Packets(list)) = &mut self.over {
                    let known = known(&self.paused, model);
                    if over.contains(at) && at.y > over.y {
                        let row = usize::from(at.y - over.y - 1) + list.top;
                        list.select_at(known, row);
                    }
                    return;
                }
                let Some(pane) = pane.filter(|_| self.over.is_none()) else { return };
                self.pane = pane;
                match pane {
                    Pane::Flows if at.y == flows.y => {
                        if let Some(sort) = flows::sort_at(flows.width, at.x - flows.x) {
                            self.flows.sort = sort;
                            self.arrange(model, now);
                        }
                    }
                    Pane::Flows => {
                        self.select_at(usize::from(at.y - flows.y - 1) + self.flows.top);
                    }
                    Pane::Journey => {}
                    Pane::Drops => {
                        let row = usize::from(at.y - drops.y) + self.drops.top;
                        self.select_drop(model, row);
                    }
                }
            }
            _ => {}
        }
    }
}

/// What is shown: what stands still, if that was asked for.
fn known<'a>(paused: &'a Option<Box<Still>>, model: &'a Model) -> &'a Model {
    paused.as_ref().map_or(model, |still| &still.model)
}

/// A move in a list.
#[derive(Clone, Copy, Debug)]
enum Step {
    By(isize),
    Pages(isize),
    First,
    Last,
}

impl Step {
    /// The place that it leads to; behind the last one, too.
    fn from(self, position: usize, page: usize) -> usize {
        let page = isize::try_from(page.saturating_sub(1).max(1)).unwrap_or(1);
        match self {
            Step::By(lines) => position.saturating_add_signed(lines),
            Step::Pages(pages) => position.saturating_add_signed(pages.saturating_mul(page)),
            Step::First => 0,
            Step::Last => usize::MAX,
        }
    }
}
