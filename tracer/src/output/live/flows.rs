//! The flows: who with whom, how much, how fast, how it stands.

use ratatui::{
    layout::Rect,
    style::Style,
    text::{Line, Span},
};
use unicode_width::UnicodeWidthStr as _;

use super::{
    cells::{amount, bars, cut, cut_middle, fit, right, scroll, time},
    model::{Flow, Model, Side, State},
    theme::{BAD, DOUBT, FAINT, GOOD, MARKED, SELECTED, STRONG},
};

/// What flows are sorted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Sort {
    /// Packets of both sides, most first.
    #[default]
    Packets,
    /// Dropped ones, most first.
    Drops,
    /// Packets in the last second, most first.
    Rate,
    /// The slowest first.
    Slowest,
    /// The one that was active last first.
    Latest,
    /// By name.
    Name,
}

impl Sort {
    const ALL: [Sort; 6] =
        [Sort::Packets, Sort::Drops, Sort::Rate, Sort::Slowest, Sort::Latest, Sort::Name];

    /// In a word.
    pub fn name(self) -> &'static str {
        match self {
            Sort::Packets => "packets",
            Sort::Drops => "drops",
            Sort::Rate => "rate",
            Sort::Slowest => "p99",
            Sort::Latest => "latest",
            Sort::Name => "name",
        }
    }

    /// The next one.
    pub fn next(self) -> Self {
        let at = Self::ALL.iter().position(|sort| *sort == self).unwrap_or(0);
        Self::ALL[(at + 1) % Self::ALL.len()]
    }
}

/// The flows that are shown, in order, and which is selected.
#[derive(Clone, Debug, Default)]
pub(super) struct List {
    /// What they are sorted by.
    pub sort: Sort,
    /// Those with drops before the others.
    pub drops_first: bool,
    /// Words that are to be found in a flow, as they were typed.
    pub filter: String,
    /// Their numbers.
    pub order: Vec<u64>,
    /// The number of the one that is selected.
    pub selected: Option<u64>,
    /// Where it stands.
    pub position: usize,
    /// The first one in sight.
    pub top: usize,
    /// How many are in sight.
    pub height: usize,
    /// Somebody has chosen the one that is selected; otherwise it is the first.
    pub is_chosen: bool,
}

impl List {
    /// Puts the flows in order. Not to be done at every picture.
    pub fn arrange(&mut self, model: &Model, second: u64) {
        let words: Vec<String> = self.filter.split_whitespace().map(str::to_lowercase).collect();
        let key = |flow: &Flow| match self.sort {
            Sort::Packets => flow.packets(),
            Sort::Drops => flow.drops,
            Sort::Rate => flow.rate.last(second).into(),
            Sort::Slowest => flow.times.percentile(99).unwrap_or(0),
            Sort::Latest => flow.last,
            Sort::Name => 0,
        };
        let shown = model.flows().filter(|flow| words.is_empty() || flow.matches(&words));
        if self.sort == Sort::Name {
            let mut keys: Vec<_> = shown
                .map(|flow| {
                    let behind = self.drops_first && flow.drops == 0;
                    (behind, flow.src.short(), flow.dst.short(), flow.id)
                })
                .collect();
            keys.sort_unstable();
            self.order = keys.into_iter().map(|(.., id)| id).collect();
        } else {
            let mut keys: Vec<_> = shown
                .map(|flow| {
                    let behind = self.drops_first && flow.drops == 0;
                    (behind, u64::MAX - key(flow), flow.id)
                })
                .collect();
            keys.sort_unstable();
            self.order = keys.into_iter().map(|(.., id)| id).collect();
        }
        self.find();
    }

    /// Selects a flow by its number, if it is among those shown.
    pub fn select(&mut self, id: u64) -> bool {
        let position = self.order.iter().position(|known| *known == id);
        if let Some(position) = position {
            self.selected = Some(id);
            self.position = position;
        }
        position.is_some()
    }

    /// Selects the one at this place, or the nearest that there is.
    pub fn select_at(&mut self, position: usize) {
        self.position = position.min(self.order.len().saturating_sub(1));
        self.selected = self.order.get(self.position).copied();
    }

    /// The selected one has another place, or is gone: then it is another one.
    fn find(&mut self) {
        if !self.is_chosen {
            self.select_at(0);
        } else if !self.selected.is_some_and(|id| self.select(id)) {
            self.select_at(self.position);
        }
    }
}

/// A column beside the names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Column {
    Proto,
    Out,
    Back,
    Drops,
    Rate,
    Median,
    Slowest,
    State,
}

impl Column {
    /// In the order in which they get room.
    const BY_WORTH: [Column; 8] = [
        Column::Drops,
        Column::Out,
        Column::Back,
        Column::Proto,
        Column::State,
        Column::Rate,
        Column::Slowest,
        Column::Median,
    ];
    /// In the order in which they stand.
    const BY_PLACE: [Column; 8] = [
        Column::Proto,
        Column::Out,
        Column::Back,
        Column::Drops,
        Column::Rate,
        Column::Median,
        Column::Slowest,
        Column::State,
    ];

    fn head(self) -> &'static str {
        match self {
            Column::Proto => "proto",
            Column::Out => "→",
            Column::Back => "←",
            Column::Drops => "drops",
            Column::Rate => "rate",
            Column::Median => "p50",
            Column::Slowest => "p99",
            Column::State => "state",
        }
    }

    fn width(self) -> usize {
        match self {
            Column::Rate => 12,
            Column::State => 9,
            _ => 5,
        }
    }

    fn sort(self) -> Option<Sort> {
        match self {
            Column::Out | Column::Back => Some(Sort::Packets),
            Column::Drops => Some(Sort::Drops),
            Column::Rate => Some(Sort::Rate),
            Column::Slowest | Column::Median => Some(Sort::Slowest),
            Column::State => Some(Sort::Latest),
            Column::Proto => None,
        }
    }

    fn cell(self, flow: &Flow, second: u64) -> (String, Style) {
        let width = self.width();
        let number = |text: &str| right(text, width);
        let took = |percent| flow.times.percentile(percent).map(time).unwrap_or_default();
        let none = Style::new();
        match self {
            Column::Proto => (fit(&flow.proto, width), none),
            Column::Out => (number(&amount(flow.out)), none),
            Column::Back => (number(&amount(flow.back)), none),
            Column::Drops if flow.drops == 0 => (number("-"), FAINT),
            Column::Drops => (number(&amount(flow.drops)), BAD),
            Column::Rate => (fit(&bars(&flow.rate.before(second, width)), width), none),
            Column::Median => (number(&took(50)), none),
            Column::Slowest => (number(&took(99)), none),
            Column::State => (fit(flow.state().name(), width), state_style(flow.state())),
        }
    }
}

/// Least room for names before another column gets some.
const NAMES: usize = 17;

/// Columns that fit, and what is left for the names.
fn columns(width: usize) -> (Vec<Column>, usize) {
    let mut left = width.saturating_sub(2);
    let mut shown = Vec::new();
    for column in Column::BY_WORTH {
        let more = if shown.len() < 3 { 12 } else { NAMES + 4 * shown.len().saturating_sub(3) };
        match left.checked_sub(column.width() + 1).filter(|left| *left >= more) {
            Some(rest) => {
                left = rest;
                shown.push(column);
            }
            None => break,
        }
    }
    (Column::BY_PLACE.into_iter().filter(|column| shown.contains(column)).collect(), left)
}

/// What a click on the head at this column sorts by.
pub(super) fn sort_at(width: u16, x: u16) -> Option<Sort> {
    let (columns, names) = columns(width.into());
    let mut end = 2 + names;
    if usize::from(x) < end {
        return Some(Sort::Name);
    }
    columns.into_iter().find_map(|column| {
        end += 1 + column.width();
        (usize::from(x) < end).then_some(column.sort())
    })?
}

/// The lines of the pane: the head first.
pub(super) fn lines(
    list: &mut List,
    model: &Model,
    area: Rect,
    second: u64,
    has_keys: bool,
) -> Vec<Line<'static>> {
    let (columns, names) = columns(area.width.into());
    let height = usize::from(area.height).saturating_sub(1);
    list.height = height;
    list.top = scroll(list.top, list.position, list.order.len(), height);
    let mut head = fit("  who", names + 2);
    for column in &columns {
        head.push(' ');
        let text = column.head();
        head.push_str(&match column {
            Column::Proto | Column::Rate | Column::State => fit(text, column.width()),
            _ => right(text, column.width()),
        });
    }
    let mut lines = vec![Line::styled(head, FAINT)];
    if list.order.is_empty() {
        let text = match (model.is_empty(), list.filter.is_empty()) {
            (true, _) => "  no packet yet",
            (false, false) => "  none has all these words (Esc: show all)",
            (false, true) => "",
        };
        lines.push(Line::styled(cut(text, area.width.into()), FAINT));
    }
    for id in list.order.iter().skip(list.top).take(height) {
        // Between two arrangements one may be gone.
        let Some(flow) = model.flow(*id) else {
            lines.push(Line::styled("  (forgotten)", FAINT));
            continue;
        };
        let (mark, style) = mark(flow);
        let mut spans = vec![
            Span::styled(format!("{mark} "), style),
            Span::styled(fit(&who_in(flow, names), names), Style::new()),
        ];
        for column in &columns {
            let (text, style) = column.cell(flow, second);
            spans.push(Span::raw(" "));
            spans.push(Span::styled(text, style));
        }
        let line = Line::from(spans);
        lines.push(match list.selected == Some(*id) {
            true if has_keys => line.style(SELECTED),
            true => line.style(MARKED),
            false => line,
        });
    }
    lines
}

/// The title of the pane.
pub(super) fn title(list: &List, model: &Model) -> String {
    let mut title = match list.order.len() {
        shown if list.filter.is_empty() => format!(" Flows {shown}"),
        shown => format!(" Flows {shown} of {}", model.len()),
    };
    title.push_str(&format!(" by {}", list.sort.name()));
    if list.drops_first {
        title.push_str(", drops first");
    }
    if !list.filter.is_empty() {
        title.push_str(&format!(", /{}", crate::output::escape::escape(&list.filter)));
    }
    let forgotten = model.counts().flows_forgotten;
    if forgotten > 0 {
        title.push_str(&format!(", {} forgotten", amount(forgotten)));
    }
    title.push(' ');
    title
}

/// `c1:41133 ↔ world:9999`; an arrow where only one side was seen.
pub(super) fn who(flow: &Flow) -> String {
    format!("{} {} {}", flow.src.short(), between(flow), flow.dst.short())
}

/// The same in this many columns: without the port of the side that began, then with shorter names.
fn who_in(flow: &Flow, columns: usize) -> String {
    let whole = who(flow);
    if whole.width() <= columns {
        return whole;
    }
    let src = Side { port: None, ..flow.src.clone() }.short();
    let dst = flow.dst.short();
    let room = columns.saturating_sub(3);
    // What one side does not need is the other's.
    let half = room / 2;
    let left = src.width().min(half.max(room.saturating_sub(dst.width())));
    let right = room.saturating_sub(left);
    let dst = match (&flow.dst.port, dst.width() > right) {
        (Some(port), true) => {
            let port = format!(":{port}");
            let name = Side { port: None, ..flow.dst.clone() }.short();
            format!("{}{port}", cut_middle(&name, right.saturating_sub(port.width())))
        }
        _ => cut_middle(&dst, right),
    };
    format!("{} {} {dst}", cut_middle(&src, left), between(flow))
}

fn between(flow: &Flow) -> &'static str {
    match (flow.out, flow.back) {
        (_, 0) => "→",
        (0, _) => "←",
        _ => "↔",
    }
}

fn mark(flow: &Flow) -> (char, Style) {
    match (flow.drops, flow.lost) {
        (0, 0) => ('✓', GOOD),
        (0, _) => ('?', DOUBT),
        _ => ('✗', BAD),
    }
}

fn state_style(state: State) -> Style {
    match state {
        State::Dropped | State::Reset => BAD,
        State::NoAnswer | State::Opening => DOUBT,
        State::Open | State::Answered => STRONG,
        State::Closing | State::Closed => FAINT,
    }
}
