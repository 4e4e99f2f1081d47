//! Names and texts from outside, made safe for a terminal: what would move its cursor, change its
//! colours or reorder its line is shown as `\u{…}` instead of obeyed.

use std::borrow::Cow;

/// The text without anything that a terminal would act on.
pub fn escape(text: &str) -> Cow<'_, str> {
    if !text.chars().any(acts) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if acts(c) {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

/// Control characters, line separators, and the invisible characters that reorder or join text.
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::escape;

    #[test]
    fn what_a_terminal_would_obey_is_shown() {
        assert_eq!(escape("web1:eth0"), "web1:eth0");
        assert_eq!(escape("grün 猫"), "grün 猫");
        assert_eq!(escape("a\x1b[31mb\n"), r"a\u{1b}[31mb\u{a}");
        assert_eq!(escape("\u{9b}2J"), r"\u{9b}2J");
        assert_eq!(escape("evil\u{202e}0hte"), r"evil\u{202e}0hte");
        assert_eq!(escape("a\u{2028}b\u{feff}"), r"a\u{2028}b\u{feff}");
    }
}
