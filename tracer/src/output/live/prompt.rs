//! The line in which one types: a filter, a selection, a file's name, an answer.

use std::path::PathBuf;

use ratatui::text::{Line, Span};
use tui_input::Input;

use super::{
    cells::cut,
    theme::{BAD, FAINT, STRONG},
};
use crate::output::escape::escape;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// Words that flows are to have.
    Filter,
    /// What is to be traced.
    Select,
    /// A file to write the flow to.
    File {
        /// Number of the flow.
        flow: u64,
    },
    /// Whether a file that is there is to be written over.
    Overwrite {
        /// Number of the flow.
        flow: u64,
        /// The file.
        path: PathBuf,
    },
}

impl Asked {
    fn label(&self) -> String {
        match self {
            Asked::Filter => "find: ".to_owned(),
            Asked::Select => "trace: ".to_owned(),
            Asked::File { .. } => "write to: ".to_owned(),
            Asked::Overwrite { path, .. } => {
                format!(
                    "{} is there already. Write over it? (y/n) ",
                    escape(&path.to_string_lossy())
                )
            }
        }
    }
}

/// A line that is being typed.
#[derive(Clone, Debug)]
pub(super) struct Prompt {
    /// What for.
    pub asked: Asked,
    /// What was typed.
    pub input: Input,
    /// What is wrong with it.
    pub error: Option<String>,
}

impl Prompt {
    /// Asks, with an answer that can be changed.
    pub fn ask(asked: Asked, answer: &str) -> Self {
        Self { asked, input: Input::new(answer.to_owned()), error: None }
    }

    /// The line, and the column of the cursor in it.
    pub fn line(&self, width: u16) -> (Line<'static>, u16) {
        let width = usize::from(width);
        let label = cut(&self.asked.label(), width.saturating_sub(12));
        let used = label.chars().count();
        let error = self.error.as_deref().map(|why| format!("  ✗ {why}"));
        let error =
            error.map(|text| cut(&text, width.saturating_sub(used + 12))).unwrap_or_default();
        let room = width.saturating_sub(used + error.chars().count()).max(2) - 1;
        let scrolled = self.input.visual_scroll(room);
        let cursor = used + self.input.visual_cursor().saturating_sub(scrolled);
        let typed: String = self.input.value().chars().skip(scrolled).collect();
        let typed = escape(&typed).into_owned();
        let help = match (&self.asked, typed.is_empty()) {
            (Asked::Filter, true) => "words of names, addresses, ports, protocol, state; Esc: all",
            (Asked::Select, true) => "every packet; or --ip ADDR --proto tcp --container NAME …",
            _ => "",
        };
        let line = Line::from(vec![
            Span::styled(label, STRONG),
            Span::raw(cut(&typed, room)),
            Span::styled(help, FAINT),
            Span::styled(error, BAD),
        ]);
        (line, u16::try_from(cursor).unwrap_or(u16::MAX))
    }
}
