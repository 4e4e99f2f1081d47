//! Drops by cause, the newest first.

use ratatui::{
    layout::Rect,
    text::{Line, Span},
};

use super::{
    cells::{amount, cut, fit, right, scroll, time},
    flows::who,
    model::{Cause, Drops, Model},
    theme::{BAD, FAINT, MARKED, SELECTED},
};

/// Which cause is selected.
#[derive(Clone, Debug, Default)]
pub(super) struct List {
    /// That one.
    pub selected: Option<Cause>,
    /// The first one in sight.
    pub top: usize,
    /// How many are in sight.
    pub height: usize,
}

impl List {
    /// Where the selected one stands now.
    pub fn position(&self, model: &Model) -> usize {
        let selected = self.selected.as_ref();
        model.drops().position(|(cause, _)| Some(cause) == selected).unwrap_or(0)
    }

    /// Selects the one at this place, or the nearest that there is; gives the number of its newest flow.
    pub fn select_at(&mut self, model: &Model, position: usize) -> Option<u64> {
        let position = position.min(model.drops().len().saturating_sub(1));
        let (cause, drops) = model.drops().nth(position)?;
        self.selected = Some(cause.clone());
        Some(drops.newest.flow.id)
    }
}

/// The title of the pane.
pub(super) fn title(model: &Model) -> String {
    let counts = model.counts();
    let causes = model.drops().len();
    if causes == 0 {
        return " Drops: none ".to_owned();
    }
    let plural = if causes == 1 { "cause" } else { "causes" };
    let mut title =
        format!(" Drops {}, {causes} {plural}, the newest first", amount(counts.dropped));
    if counts.causes_forgotten > 0 {
        title.push_str(&format!(", {} forgotten", amount(counts.causes_forgotten)));
    }
    title.push(' ');
    title
}

/// The lines of the pane.
pub(super) fn lines(
    list: &mut List,
    model: &Model,
    area: Rect,
    now: u64,
    has_keys: bool,
) -> Vec<Line<'static>> {
    let (width, height) = (usize::from(area.width), usize::from(area.height));
    let position = list.position(model);
    list.height = height;
    list.top = scroll(list.top, position, model.drops().len(), height);
    let line = |(cause, drops): (&Cause, &Drops)| {
        let ago = time(now.saturating_sub(drops.at) / 1_000_000_000 * 1_000_000_000);
        let ago = if ago == "0ns" { "now".to_owned() } else { ago };
        let flow = model.flow(drops.newest.flow.id).map(who).unwrap_or_default();
        let by = cause.rule.clone().unwrap_or_default();
        let place = format!("{} {}", cause.place, cause.point);
        let rest = width.saturating_sub(2 + 5 + 2 + 5 + 2);
        // Reason, rule, place, flow: as far as they fit.
        let reason = cause.reason.chars().count().min(rest);
        let mut text = fit(&cause.reason, reason.max(16.min(rest)));
        for part in [by, place, flow].iter().filter(|part| !part.is_empty()) {
            text.push_str("  ");
            text.push_str(part);
        }
        let line = Line::from(vec![
            Span::styled("✗ ", BAD),
            Span::styled(right(&amount(drops.count), 5), BAD),
            Span::raw("  "),
            Span::styled(right(&ago, 5), FAINT),
            Span::raw("  "),
            Span::raw(cut(&text, rest)),
        ]);
        match list.selected.as_ref() == Some(cause) {
            true if has_keys => line.style(SELECTED),
            true => line.style(MARKED),
            false => line,
        }
    };
    model.drops().skip(list.top).take(height).map(line).collect()
}
