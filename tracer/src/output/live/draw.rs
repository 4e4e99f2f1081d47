//! The picture: where each part stands, at any size of the terminal.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::Style,
    text::Line,
    widgets::{Block, Clear, Paragraph},
};

use super::{
    cells::{cut, wrap},
    drops, flows,
    health::{self, Health},
    help, journey, log,
    model::Model,
    packets,
    screen::{Areas, Over, Pane, SECOND, Screen},
    theme::{BAD, DOUBT, FAINT, STRONG},
};
use crate::output::text::{left_out, losses};

/// The least that all panes have room in.
const ALL_PANES: (u16, u16) = (80, 24);
/// From here on, paths need less than half.
const WIDE: u16 = 160;
/// The least that one pane has.
const ONE_PANE: (u16, u16) = (40, 8);

/// Draws all of it. `now`: ns since the view began.
pub(super) fn draw(
    frame: &mut Frame<'_>,
    screen: &mut Screen,
    model: &mut Model,
    health: &Health,
    now: u64,
) {
    let area = frame.area();
    screen.areas = Areas::default();
    if area.width < ONE_PANE.0 || area.height < ONE_PANE.1 {
        too_small(frame, area);
    } else {
        // What stands still is taken out for as long as it is drawn.
        let mut still = screen.paused.take();
        let is_paused = still.is_some();
        let (known, at) = match &mut still {
            Some(still) => (&mut still.model, still.at),
            None => (model, now),
        };
        Picture { screen, known, health, now: at, is_paused }.draw(frame, area);
        screen.paused = still;
    }
    screen.theme.adapt(frame.buffer_mut());
}

fn too_small(frame: &mut Frame<'_>, area: Rect) {
    let (width, height) = ONE_PANE;
    let text = format!(
        "pathtrace: {}×{} is too small, {width}×{height} is the least. It goes on; q quits.",
        area.width, area.height
    );
    let lines: Vec<Line<'_>> = wrap(&text, area.width.into()).into_iter().map(Line::raw).collect();
    frame.render_widget(Paragraph::new(lines), area);
}

struct Picture<'a> {
    screen: &'a mut Screen,
    known: &'a mut Model,
    health: &'a Health,
    now: u64,
    is_paused: bool,
}

impl Picture<'_> {
    fn draw(&mut self, frame: &mut Frame<'_>, area: Rect) {
        let [top, middle, bottom] = area.layout(&Layout::vertical([
            Constraint::Length(1),
            Constraint::Min(1),
            Constraint::Length(1),
        ]));
        frame.render_widget(health::line(self.health, self.is_paused, top.width), top);
        let is_small = area.width < ALL_PANES.0 || area.height < ALL_PANES.1;
        if self.screen.over.is_some() {
            self.over(frame, middle);
        } else if is_small || self.screen.is_zoomed {
            match self.screen.pane {
                Pane::Flows => self.flows(frame, middle),
                Pane::Journey => self.journey(frame, middle),
                Pane::Drops => self.drops(frame, middle),
            }
        } else {
            self.panes(frame, middle);
        }
        self.bottom(frame, bottom, is_small.then_some((area.width, area.height)));
    }

    fn panes(&mut self, frame: &mut Frame<'_>, area: Rect) {
        let causes = u16::try_from(self.known.drops().len()).unwrap_or(u16::MAX);
        let most = (area.height / 4).max(4);
        let drops = (causes.saturating_add(2)).clamp(3, most);
        let [upper, lower] =
            area.layout(&Layout::vertical([Constraint::Min(1), Constraint::Length(drops)]));
        let left = if area.width < WIDE { area.width / 2 } else { area.width * 9 / 20 };
        let [left, right] =
            upper.layout(&Layout::horizontal([Constraint::Length(left), Constraint::Min(1)]));
        self.flows(frame, left);
        self.journey(frame, right);
        self.drops(frame, lower);
    }

    fn flows(&mut self, frame: &mut Frame<'_>, area: Rect) {
        let has_keys = self.has_keys(Pane::Flows);
        let title = flows::title(&self.screen.flows, self.known);
        let inside = pane(frame, area, title, has_keys);
        let second = self.now / SECOND;
        let list = &mut self.screen.flows;
        let lines = flows::lines(list, self.known, inside, second, has_keys);
        frame.render_widget(Paragraph::new(lines), inside);
        self.screen.areas.flows = inside;
    }

    fn journey(&mut self, frame: &mut Frame<'_>, area: Rect) {
        let has_keys = self.has_keys(Pane::Journey);
        let flow = self.screen.flows.selected;
        if let Some(flow) = flow {
            self.known.look_at(flow);
        }
        let width = area.width.saturating_sub(2);
        let drawn = match flow.and_then(|id| self.known.flow(id)) {
            Some(flow) => journey::draw(flow, self.known.paths(flow.id), width),
            None => journey::Drawn {
                lines: vec![Line::styled("no flow is selected", FAINT)],
                died: None,
            },
        };
        let height = usize::from(area.height.saturating_sub(2));
        let most = drawn.lines.len().saturating_sub(height);
        // Until somebody moves it, what is shown is where packets died.
        let top = self.screen.journey_top.unwrap_or_else(|| drawn.sight(height)).min(most);
        self.screen.journey_shown = top;
        self.screen.journey_top = self.screen.journey_top.map(|_| top);
        let lines = drawn.lines;
        let hops = if self.known.shows_all_hops() { ", every hop" } else { "" };
        let title = match lines.len().saturating_sub(top + height) {
            0 if top == 0 => format!(" Journey{hops} "),
            below => format!(" Journey{hops}: ↑ {top} ↓ {below} lines more "),
        };
        let inside = pane(frame, area, title, has_keys);
        let shown: Vec<Line<'_>> = lines.into_iter().skip(top).take(height).collect();
        frame.render_widget(Paragraph::new(shown), inside);
        self.screen.areas.journey = inside;
    }

    fn drops(&mut self, frame: &mut Frame<'_>, area: Rect) {
        let has_keys = self.has_keys(Pane::Drops);
        let inside = pane(frame, area, drops::title(self.known), has_keys);
        let list = &mut self.screen.drops;
        let lines = drops::lines(list, self.known, inside, self.now, has_keys);
        frame.render_widget(Paragraph::new(lines), inside);
        self.screen.areas.drops = inside;
    }

    fn over(&mut self, frame: &mut Frame<'_>, area: Rect) {
        frame.render_widget(Clear, area);
        let (width, height) = (area.width.saturating_sub(2), area.height.saturating_sub(2));
        let (title, lines) = match &mut self.screen.over {
            None => return,
            Some(Over::Help(top)) => {
                let lines = from(top, help::lines(width), height);
                (" Help (Esc: back) ".to_owned(), lines)
            }
            Some(Over::Log(top)) => {
                let lines = from(top, log_lines(self.health, width), height);
                (" Losses and log (Esc: back) ".to_owned(), lines)
            }
            Some(Over::Packets(list)) => {
                let lines = packets::list(list, self.known, width, height);
                (packets::list_title(list, self.known), lines)
            }
            Some(Over::Packet(_, single)) => {
                let title = packets::single_title(single);
                (title, packets::single(single, width, height))
            }
        };
        let inside = pane(frame, area, title, true);
        frame.render_widget(Paragraph::new(lines), inside);
        self.screen.areas.over = inside;
    }

    fn bottom(&mut self, frame: &mut Frame<'_>, area: Rect, small: Option<(u16, u16)>) {
        let width = usize::from(area.width);
        if let Some(prompt) = &self.screen.prompt {
            let (line, cursor) = prompt.line(area.width);
            frame.render_widget(line, area);
            frame.set_cursor_position((area.x + cursor.min(area.width.saturating_sub(1)), area.y));
        } else if let Some(message) = &self.screen.message {
            frame.render_widget(Line::styled(cut(message, width), DOUBT), area);
        } else if let Some((has, have)) = small {
            let (width_of_all, height_of_all) = ALL_PANES;
            let text = format!(
                "{has}×{have}: one pane; {width_of_all}×{height_of_all} has all. Tab: next, ?: help"
            );
            frame.render_widget(Line::styled(cut(&text, width), DOUBT), area);
        } else {
            frame.render_widget(help::hints(area.width), area);
        }
    }

    fn has_keys(&self, pane: Pane) -> bool {
        self.screen.pane == pane && self.screen.over.is_none()
    }
}

/// A frame with a title; gives its inside.
fn pane(frame: &mut Frame<'_>, area: Rect, title: String, has_keys: bool) -> Rect {
    let room = usize::from(area.width.saturating_sub(4));
    let title = cut(&title, room);
    // The pane that has the keys is told by more than its colour.
    let (title, style) =
        if has_keys { (format!("▶{title}"), STRONG) } else { (title, Style::new()) };
    let border = if has_keys { Style::new() } else { FAINT };
    let block = Block::bordered().border_style(border).title(Line::styled(title, style));
    let inside = block.inner(area);
    frame.render_widget(block, area);
    inside
}

/// The lines from this one on, or from the last one that leaves the pane full.
fn from(top: &mut usize, lines: Vec<Line<'static>>, height: u16) -> Vec<Line<'static>> {
    *top = (*top).min(lines.len().saturating_sub(height.into()));
    lines.into_iter().skip(*top).take(height.into()).collect()
}

fn log_lines(health: &Health, width: u16) -> Vec<Line<'static>> {
    let width = usize::from(width);
    let mut lines = Vec::new();
    if let Some(standing) = &health.standing {
        let text = format!(
            "{} events received; {} of {} points, on {} interfaces in {} network namespaces",
            standing.events.received,
            standing.points,
            standing.points_known,
            standing.interfaces,
            standing.namespaces
        );
        lines.extend(wrap(&text, width).into_iter().map(Line::raw));
        for (count, what) in losses(&standing.events.lost).into_iter().filter(|(n, _)| *n != 0) {
            lines.extend(wrap(&format!("✗ {count} {what}"), width).into_iter().map(bad));
        }
        for (count, what) in left_out(&standing.events.left_out) {
            let doubt = |line| Line::styled(line, DOUBT);
            lines.extend(wrap(&format!("? {count} {what}"), width).into_iter().map(doubt));
        }
    }
    if health.refused > 0 {
        let text = format!("✗ {} journeys came faster than the view took them", health.refused);
        lines.extend(wrap(&text, width).into_iter().map(bad));
    }
    let log::Lines { last, count } = log::lines();
    let kept = last.len() as u64;
    lines.push(Line::raw(""));
    lines.push(Line::styled(
        match count {
            0 => "nothing was logged".to_owned(),
            _ if kept < count => format!("the last {kept} of {count} lines of the log:"),
            _ => format!("{count} lines of the log:"),
        },
        STRONG,
    ));
    lines.extend(last.iter().flat_map(|line| wrap(line, width)).map(Line::raw));
    lines
}

fn bad(text: String) -> Line<'static> {
    Line::styled(text, BAD)
}
