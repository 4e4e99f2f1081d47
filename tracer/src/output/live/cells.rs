//! Texts and numbers, made to fit a column.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// The text in exactly this many columns: cut, with `…` at its end, or filled up.
pub(super) fn fit(text: &str, columns: usize) -> String {
    let mut out = cut(text, columns);
    let filled = out.width();
    out.extend(std::iter::repeat_n(' ', columns.saturating_sub(filled)));
    out
}

/// The same, at the right of its columns.
pub(super) fn right(text: &str, columns: usize) -> String {
    let out = cut(text, columns);
    let room = columns.saturating_sub(out.width());
    format!("{}{out}", " ".repeat(room))
}

/// The text in at most this many columns.
pub(super) fn cut(text: &str, columns: usize) -> String {
    if text.width() <= columns {
        return text.to_owned();
    }
    let mut out = String::new();
    let mut used = 0;
    for c in text.chars() {
        let width = c.width().unwrap_or(0);
        if used + width + 1 > columns {
            break;
        }
        used += width;
        out.push(c);
    }
    if columns > 0 {
        out.push('…');
    }
    out
}

/// The text in at most this many columns, without its middle: names differ at their ends.
pub(super) fn cut_middle(text: &str, columns: usize) -> String {
    if text.width() <= columns {
        return text.to_owned();
    }
    let front = cut(text, columns.div_ceil(2));
    let room = columns.saturating_sub(front.width());
    let mut back = Vec::new();
    let mut used = 0;
    for c in text.chars().rev() {
        used += c.width().unwrap_or(0);
        if used > room {
            break;
        }
        back.push(c);
    }
    front + &back.into_iter().rev().collect::<String>()
}

/// The text in lines of at most this many columns, broken between words where that is possible.
pub(super) fn wrap(text: &str, columns: usize) -> Vec<String> {
    let columns = columns.max(8);
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split(' ') {
        let needed = line.width() + usize::from(!line.is_empty()) + word.width();
        if needed > columns && !line.is_empty() {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
        while line.width() > columns {
            let mut used = 0;
            let split = line
                .char_indices()
                .find(|(_, c)| {
                    used += c.width().unwrap_or(0);
                    used > columns
                })
                .map_or(line.len(), |(at, _)| at);
            let rest = line.split_off(split);
            lines.push(std::mem::replace(&mut line, rest));
        }
    }
    if !line.is_empty() || lines.is_empty() {
        lines.push(line);
    }
    lines
}

/// A count in at most five columns: `9999`, `12.3k`, `123k`, `4.5M`.
pub(super) fn amount(n: u64) -> String {
    const UNITS: [(u64, &str); 4] =
        [(1_000_000_000_000, "T"), (1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")];
    if n < 10_000 {
        return n.to_string();
    }
    let (unit, name) = UNITS.into_iter().find(|(unit, _)| n >= *unit).unwrap_or((1, ""));
    if n / unit < 100 {
        format!("{}.{}{name}", n / unit, n % unit * 10 / unit)
    } else {
        format!("{}{name}", n / unit)
    }
}

/// A time in at most five columns: `850ns`, `12µs`, `1.2ms`, `12s`, `3m`.
pub(super) fn time(ns: u64) -> String {
    let scaled = |unit: u64, name: &str| {
        if ns / unit < 10 {
            format!("{}.{}{name}", ns / unit, ns % unit * 10 / unit)
        } else {
            format!("{}{name}", ns / unit)
        }
    };
    match ns {
        0..1_000 => format!("{ns}ns"),
        1_000..1_000_000 => scaled(1_000, "µs"),
        1_000_000..1_000_000_000 => scaled(1_000_000, "ms"),
        1_000_000_000..60_000_000_000 => scaled(1_000_000_000, "s"),
        _ => format!("{}m", ns / 60_000_000_000),
    }
}

/// Bytes: `812 KB`, `38 MB`.
pub(super) fn bytes(n: u64) -> String {
    match n {
        0..1_024_000 => format!("{} KB", n >> 10),
        _ => format!("{} MB", n >> 20),
    }
}

/// Numbers as a row of bars, as high as the highest of them.
pub(super) fn bars(counts: &[u32]) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = u64::from(counts.iter().copied().max().unwrap_or(0)).max(1);
    counts
        .iter()
        .map(|&count| match u64::from(count) {
            0 => ' ',
            n => BARS.get(((n * 8).div_ceil(most) - 1) as usize).copied().unwrap_or('█'),
        })
        .collect()
}

/// The first row to be shown, so that this one is among those that fit.
pub(super) fn scroll(top: usize, selected: usize, rows: usize, height: usize) -> usize {
    let top = top.min(selected);
    let top = if height > 0 && selected >= top + height { selected + 1 - height } else { top };
    top.min(rows.saturating_sub(height.min(rows)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_take_their_columns_and_no_more() {
        assert_eq!(fit("veth-c1", 9), "veth-c1  ");
        assert_eq!(fit("veth-c1", 5), "veth…");
        assert_eq!(fit("猫猫猫", 4), "猫… ");
        assert_eq!(right("12", 4), "  12");
        assert_eq!(cut("abc", 0), "");
        assert_eq!(cut_middle("pathtrace-c1", 8), "pat…e-c1");
        assert_eq!(cut_middle("pathtrace-c1", 12), "pathtrace-c1");
        assert_eq!(cut_middle("猫猫猫猫", 5), "猫…猫");
    }

    #[test]
    fn lines_break_between_words_or_within_long_ones() {
        assert_eq!(wrap("udp dport 9999 drop", 10), ["udp dport", "9999 drop"]);
        assert_eq!(wrap("abcdefghijkl m", 8), ["abcdefgh", "ijkl m"]);
        assert_eq!(wrap("", 8), [""]);
    }

    #[test]
    fn numbers_fit_five_columns() {
        for n in [0, 9_999, 10_000, 99_999, 100_000, 999_999, 1_000_000, 99_900_000, 123_456_789] {
            assert!(amount(n).width() <= 5, "{}", amount(n));
        }
        assert_eq!(amount(12_345), "12.3k");
        for ns in
            [0, 999, 1_000, 9_999, 10_000, 999_999, 1_000_000, 59_999_999_999, 600_000_000_000]
        {
            assert!(time(ns).width() <= 5, "{}", time(ns));
        }
        assert_eq!(time(1_234_567), "1.2ms");
    }

    #[test]
    fn the_highest_bar_is_full_and_nothing_is_none() {
        assert_eq!(bars(&[0, 1, 4, 8]), " ▁▄█");
        assert_eq!(bars(&[0, 0]), "  ");
    }

    #[test]
    fn what_is_selected_stays_in_sight() {
        assert_eq!(scroll(0, 5, 10, 4), 2);
        assert_eq!(scroll(6, 3, 10, 4), 3);
        assert_eq!(scroll(9, 9, 10, 4), 6);
        assert_eq!(scroll(3, 0, 0, 4), 0);
        assert_eq!(scroll(3, 1, 2, 4), 0);
    }
}
