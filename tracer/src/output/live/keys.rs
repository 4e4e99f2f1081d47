//! Keys as data: what each does, and where. The help is made of the same table.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

/// What a key, or a click, asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// One up.
    Up,
    /// One down.
    Down,
    /// A page up.
    PageUp,
    /// A page down.
    PageDown,
    /// To the first.
    First,
    /// To the last.
    Last,
    /// To the next pane.
    NextPane,
    /// To the pane before.
    PreviousPane,
    /// Into what is selected.
    Open,
    /// Out of it.
    Back,
    /// The packets of the flow.
    Packets,
    /// The pane as large as the screen, or not.
    Zoom,
    /// Filter the flows as one types.
    Filter,
    /// Sort by the next column.
    Sort,
    /// Flows with drops first, or not.
    DropsFirst,
    /// Every hop, or a step a layer.
    AllHops,
    /// Stand still, or go on.
    Pause,
    /// Forget what was counted.
    Clear,
    /// Trace other packets.
    Select,
    /// Write what is selected to a file.
    Export,
    /// The log.
    Log,
    /// The help.
    Help,
    /// The end.
    Quit,
}

/// A key.
type Key = (KeyModifiers, KeyCode);

/// Keys that do one thing.
pub(super) struct Binding {
    keys: &'static [Key],
    /// How the keys are called.
    pub shown: &'static str,
    /// What they do.
    pub action: Action,
    /// The same, in words.
    pub does: &'static str,
    /// In a word, for the line at the bottom; empty: not there.
    pub hint: &'static str,
}

const fn plain(c: char) -> Key {
    (KeyModifiers::NONE, KeyCode::Char(c))
}

const fn code(code: KeyCode) -> Key {
    (KeyModifiers::NONE, code)
}

const fn control(c: char) -> Key {
    (KeyModifiers::CONTROL, KeyCode::Char(c))
}

macro_rules! bindings {
    ($($action:ident [$($key:expr),+] $shown:literal $hint:literal $does:literal;)+) => {
        &[$(Binding {
            keys: &[$($key),+],
            shown: $shown,
            action: Action::$action,
            does: $does,
            hint: $hint,
        }),+]
    };
}

/// All of them, as the help lists them.
pub(super) const BINDINGS: &[Binding] = bindings! {
    Help [plain('?'), code(KeyCode::F(1))] "?" "help" "this help";
    Quit [plain('q'), control('c')] "q, Ctrl-C" "quit" "quit";
    Up [code(KeyCode::Up), plain('k')] "↑, k" "" "one up";
    Down [code(KeyCode::Down), plain('j')] "↓, j" "" "one down";
    PageUp [code(KeyCode::PageUp), control('b')] "PgUp" "" "a page up";
    PageDown [code(KeyCode::PageDown), control('f')] "PgDn" "" "a page down";
    First [code(KeyCode::Home), plain('g')] "Home, g" "" "to the first";
    Last [code(KeyCode::End), plain('G')] "End, G" "" "to the last";
    NextPane [code(KeyCode::Tab), code(KeyCode::Right)] "Tab, →" "pane" "to the next pane";
    PreviousPane [code(KeyCode::BackTab), code(KeyCode::Left)] "Shift-Tab, ←" "" "to the pane before";
    Open [code(KeyCode::Enter)] "Enter" "" "flow: its journey; journey: its packets; packet: its hops and bytes";
    Back [code(KeyCode::Esc)] "Esc" "" "back; in the flows: no filter";
    Packets [plain('p')] "p" "packets" "packets of the selected flow";
    Zoom [plain('z')] "z" "zoom" "this pane alone, with all columns, or all panes";
    Filter [plain('/')] "/" "find" "show only flows in which all these words are found";
    Sort [plain('s')] "s" "sort" "sort flows by the next column (a click on its head, too)";
    DropsFirst [plain('d')] "d" "drops" "flows with drops first, or not";
    AllHops [plain('h')] "h" "hops" "every hop, or one line a layer and interface";
    Pause [plain(' ')] "Space" "pause" "stand still while counting goes on, or go on";
    Clear [plain('c')] "c" "clear" "forget what was counted";
    Select [plain('f')] "f" "filter" "trace other packets: the flags of the command line";
    Export [plain('w')] "w" "write" "write the selected flow's packets to a file";
    Log [plain('l')] "l" "log" "what pathtrace itself had to say";
};

/// What this key does.
pub(super) fn action(event: &KeyEvent) -> Option<Action> {
    let modifiers = event.modifiers & (KeyModifiers::CONTROL | KeyModifiers::ALT);
    let pressed = (modifiers, event.code);
    BINDINGS.iter().find(|binding| binding.keys.contains(&pressed)).map(|binding| binding.action)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_does_two_things() {
        let keys: Vec<Key> = BINDINGS.iter().flat_map(|binding| binding.keys).copied().collect();
        for (index, key) in keys.iter().enumerate() {
            assert!(!keys[..index].contains(key), "{key:?}");
        }
    }

    #[test]
    fn letters_are_what_they_are_with_shift() {
        let key = |c, modifiers| action(&KeyEvent::new(KeyCode::Char(c), modifiers));
        assert_eq!(key('G', KeyModifiers::SHIFT), Some(Action::Last));
        assert_eq!(key('c', KeyModifiers::CONTROL), Some(Action::Quit));
        assert_eq!(key('c', KeyModifiers::NONE), Some(Action::Clear));
        assert_eq!(key('x', KeyModifiers::NONE), None);
    }
}
