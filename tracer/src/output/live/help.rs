//! The help: the keys, made of their table, and what the marks mean.

use ratatui::text::{Line, Span};

use super::{
    cells::{cut, fit},
    keys::BINDINGS,
    theme::{BAD, DOUBT, FAINT, GOOD, STRONG},
};

/// Its lines.
pub(super) fn lines(width: u16) -> Vec<Line<'static>> {
    let width = usize::from(width);
    let mut lines = vec![Line::styled("Keys", STRONG)];
    for binding in BINDINGS {
        lines.push(Line::from(vec![
            Span::styled(fit(binding.shown, 14), STRONG),
            Span::raw(cut(binding.does, width.saturating_sub(14))),
        ]));
    }
    lines.push(Line::raw(""));
    let told = [
        "Mouse: a click selects, on a head it sorts; the wheel moves.",
        "",
        "● passed   + time since the step before (half of the packets took no longer)",
        "In flows: → packets of the side that began, ← of the other; ↔ both were seen.",
        "p50, p99: from the first sighting to where it arrived; 50 and 99 of 100 took",
        "no longer.",
        "lost: events or packets that were given up (l tells which); unshown: journeys",
        "that came faster than the view took them.",
    ];
    for (mark, style, text) in [
        ("✓", GOOD, "arrived: delivered, or left the host"),
        ("✗", BAD, "dropped: how many, the kernel's reason, the rule"),
        ("?", DOUBT, "not seen again, or something to be noticed"),
    ] {
        lines.push(Line::from(vec![
            Span::styled(fit(mark, 2), style),
            Span::raw(cut(text, width.saturating_sub(2))),
        ]));
    }
    lines.extend(told.into_iter().map(|text| Line::raw(cut(text, width))));
    lines
}

/// The line at the bottom.
pub(super) fn hints(width: u16) -> Line<'static> {
    let mut spans = Vec::new();
    let mut used = 0;
    for binding in BINDINGS.iter().filter(|binding| !binding.hint.is_empty()) {
        let key = binding.shown.split(',').next().unwrap_or_default();
        let needed = key.chars().count() + 1 + binding.hint.len() + 2;
        if used + needed > usize::from(width) + 2 {
            break;
        }
        used += needed;
        spans.push(Span::styled(key.to_owned(), STRONG));
        spans.push(Span::styled(format!(" {}  ", binding.hint), FAINT));
    }
    Line::from(spans)
}
