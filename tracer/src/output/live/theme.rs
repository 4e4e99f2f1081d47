//! How things look: styles that show on light and on dark, and what becomes of a picture where the terminal
//! has no colours or no characters beyond ASCII. No meaning is in colour alone.

use std::env;

use ratatui::{
    buffer::Buffer,
    style::{Color, Modifier, Style},
};

/// What the terminal can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Theme {
    /// Nothing but ASCII.
    pub ascii: bool,
    /// Colours.
    pub colour: bool,
}

/// A name, a heading.
pub(super) const STRONG: Style = Style::new().add_modifier(Modifier::BOLD);
/// What matters less.
pub(super) const FAINT: Style = Style::new().add_modifier(Modifier::DIM);
/// Packets that arrived.
pub(super) const GOOD: Style = Style::new().fg(Color::Green);
/// Packets that were dropped; anything lost.
pub(super) const BAD: Style = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);
/// What is not known, or to be noticed.
pub(super) const DOUBT: Style = Style::new().fg(Color::Magenta);
/// What was changed on the way.
pub(super) const CHANGE: Style = Style::new().fg(Color::Cyan);
/// What is selected, in the pane that the keys go to.
pub(super) const SELECTED: Style = Style::new().add_modifier(Modifier::REVERSED);
/// What is selected in another pane.
pub(super) const MARKED: Style =
    Style::new().add_modifier(Modifier::BOLD).add_modifier(Modifier::UNDERLINED);

impl Theme {
    /// As the environment says (`NO_COLOR`, the locale), or with ASCII only.
    pub fn of_environment(ascii: bool) -> Self {
        let set = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set);
        Self { ascii: ascii || !is_utf8(locale.as_deref()), colour: set("NO_COLOR").is_none() }
    }

    /// Makes a picture one that this terminal can show.
    pub(super) fn adapt(self, picture: &mut Buffer) {
        for cell in &mut picture.content {
            if !self.colour {
                cell.fg = Color::Reset;
                cell.bg = Color::Reset;
            }
            if self.ascii && !cell.symbol().is_ascii() {
                let plain = ascii(cell.symbol());
                cell.set_symbol(plain);
            }
        }
    }
}

/// Whether a locale's characters are those of UTF-8; that of C has none.
fn is_utf8(locale: Option<&str>) -> bool {
    let locale = locale.unwrap_or_default().to_ascii_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}

/// What stands for a character where there is only ASCII: as wide.
fn ascii(symbol: &str) -> &'static str {
    match symbol {
        "→" => ">",
        "←" => "<",
        "↔" => "-",
        "↑" => "^",
        "↓" => "v",
        "│" | "┃" => "|",
        "─" | "━" | "┄" => "-",
        "┌" | "┐" | "└" | "┘" | "├" | "┤" | "┬" | "┴" | "┼" => "+",
        "●" => "o",
        "▶" => ">",
        "✓" => "v",
        "✗" | "×" => "x",
        "µ" => "u",
        "…" => "~",
        "·" => "-",
        "▁" => ".",
        "▂" => ":",
        "▃" => "-",
        "▄" => "=",
        "▅" => "+",
        "▆" => "*",
        "▇" => "#",
        "█" => "@",
        _ => "?",
    }
}

#[cfg(test)]
mod tests {
    use ratatui::layout::Rect;

    use super::*;

    #[test]
    fn a_locale_tells_its_characters() {
        for yes in ["C.UTF-8", "de_AT.utf8", "en_US.UTF-8"] {
            assert!(is_utf8(Some(yes)), "{yes}");
        }
        for no in [None, Some("C"), Some("POSIX"), Some("de_DE.ISO-8859-1")] {
            assert!(!is_utf8(no), "{no:?}");
        }
    }

    #[test]
    fn ascii_is_all_that_is_left_and_in_its_place() {
        let mut picture = Buffer::empty(Rect::new(0, 0, 12, 1));
        picture.set_string(0, 0, "a→b │ 猫 ✗ µ", BAD);
        Theme { ascii: true, colour: false }.adapt(&mut picture);
        let text: String = picture.content.iter().map(|cell| cell.symbol()).collect();
        assert_eq!(text, "a>b | ?  x u");
        assert!(picture.content.iter().all(|cell| cell.fg == Color::Reset));
    }
}
