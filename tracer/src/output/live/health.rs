//! The line at the top: what is traced, how much, what was lost, and what it costs.

use std::time::{Duration, Instant};

use ratatui::{
    style::Style,
    text::{Line, Span},
};

use super::{
    cells::{amount, bytes, cut},
    process::Process,
    theme::{BAD, DOUBT, FAINT, STRONG},
};
use crate::output::{Phase, Standing, escape::escape, record::LostEvents};

/// How the trace stands and what this process takes.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// As the trace told last; `None` where there is none, as for a file.
    pub standing: Option<Standing>,
    /// Events a second since the time before.
    pub events_a_second: Option<u64>,
    /// Of this process.
    pub process: Process,
    /// Journeys that came faster than they were taken into the view.
    pub refused: u64,
    /// Lines of the log that nobody has looked at.
    pub unread: u64,
    told: Option<(Instant, u64)>,
}

impl Health {
    /// The trace tells how it stands.
    pub fn learn(&mut self, standing: Standing, now: Instant) {
        let received = standing.events.received;
        if let Some((then, before)) = self.told
            && received >= before
        {
            let passed = now.duration_since(then);
            if passed < Duration::from_millis(500) {
                self.standing = Some(standing);
                return;
            }
            let rate = (received - before) as f64 / passed.as_secs_f64();
            self.events_a_second = Some(rate.round() as u64);
        }
        self.told = Some((now, received));
        self.standing = Some(standing);
    }

    /// Another trace begins: what was told is of no use.
    pub fn begin(&mut self) {
        self.told = None;
        self.events_a_second = None;
    }
}

/// All losses in one number.
pub(super) fn lost(lost: &LostEvents) -> u64 {
    crate::output::text::losses(lost).iter().map(|(count, _)| count).sum()
}

/// The line.
pub(super) fn line(health: &Health, is_paused: bool, width: u16) -> Line<'static> {
    let width = usize::from(width);
    let mut facts: Vec<(String, Style)> = Vec::new();
    let selection = match &health.standing {
        None => "from a file".to_owned(),
        Some(standing) if standing.selection.is_empty() => "every packet".to_owned(),
        Some(standing) => escape(&standing.selection).into_owned(),
    };
    if is_paused {
        facts.push(("PAUSED".to_owned(), DOUBT.patch(STRONG)));
    }
    if let Some(standing) = &health.standing {
        match &standing.phase {
            Phase::Attaching => facts.push(("attaching…".to_owned(), DOUBT.patch(STRONG))),
            Phase::Ended => facts.push(("ended".to_owned(), DOUBT.patch(STRONG))),
            Phase::Tracing | Phase::Refused(_) => {}
        }
        let points = format!("{}/{} points", standing.points, standing.points_known);
        facts.push((points, Style::new()));
        let rate = health.events_a_second.map_or("-".to_owned(), amount);
        facts.push((format!("{rate} ev/s"), Style::new()));
        match standing.thinned {
            None => {}
            Some(1) => facts.push(("? thinned".to_owned(), DOUBT)),
            Some(n) => facts.push((format!("? thinned, 1 of {n}"), DOUBT)),
        }
        match lost(&standing.events.lost) {
            0 => facts.push(("lost 0".to_owned(), Style::new())),
            lost => facts.push((format!("✗ lost {}", amount(lost)), BAD)),
        }
    }
    if health.refused > 0 {
        facts.push((format!("✗ unshown {}", amount(health.refused)), BAD));
    }
    if let Some(memory) = health.process.memory {
        facts.push((bytes(memory), Style::new()));
    }
    if let Some(processor) = health.process.processor {
        facts.push((format!("{processor:.0}% CPU"), Style::new()));
    }
    if health.unread > 0 {
        facts.push((format!("? log {}", amount(health.unread)), DOUBT));
    }
    let taken: usize = facts.iter().map(|(text, _)| text.chars().count() + 3).sum();
    let head = cut(&selection, width.saturating_sub(taken).max(12));
    let mut spans = vec![Span::styled(head, STRONG)];
    for (text, style) in facts {
        spans.push(Span::styled(" │ ", FAINT));
        spans.push(Span::styled(text, style));
    }
    Line::from(spans)
}
