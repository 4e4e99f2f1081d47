//! The terminal, taken over and given back: whatever ends the view.

use std::{
    io::{self, Stdout, stdout},
    panic,
    sync::{
        Once,
        atomic::{AtomicBool, Ordering},
    },
};

use ratatui::{
    Terminal,
    backend::CrosstermBackend,
    crossterm::{
        cursor::Show,
        event::{
            DisableBracketedPaste, DisableMouseCapture, EnableBracketedPaste, EnableMouseCapture,
        },
        execute,
        terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode},
    },
};

/// Whether the terminal is ours: it is given back once.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// The terminal while it is ours. Dropped, it is as it was.
#[derive(Debug)]
pub(super) struct Screen(pub Terminal<CrosstermBackend<Stdout>>);

impl Screen {
    /// Takes the terminal over: another screen, without echo, with the mouse.
    ///
    /// # Errors
    /// When it cannot be: it is as before, then.
    pub fn take() -> io::Result<Self> {
        restore_on_panic();
        enable_raw_mode()?;
        TAKEN.store(true, Ordering::SeqCst);
        let opened =
            execute!(stdout(), EnterAlternateScreen, EnableMouseCapture, EnableBracketedPaste)
                .and_then(|()| Terminal::new(CrosstermBackend::new(stdout())));
        match opened {
            Ok(terminal) => Ok(Self(terminal)),
            Err(error) => {
                give_back();
                Err(error)
            }
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

/// Gives the terminal back, if it is ours.
fn give_back() {
    if TAKEN.swap(false, Ordering::SeqCst) {
        // It may be gone.
        let _ = execute!(
            stdout(),
            DisableBracketedPaste,
            DisableMouseCapture,
            LeaveAlternateScreen,
            Show
        );
        let _ = disable_raw_mode();
    }
}

/// What a panic says is to be read on the screen that stays.
fn restore_on_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |what| {
            give_back();
            before(what);
        }));
    });
}

#[cfg(test)]
mod tests {
    use std::{
        env,
        process::{Command, Stdio},
    };

    use super::*;

    /// No test by itself: what the next one runs in a terminal of its own.
    #[test]
    #[ignore = "takes the terminal over"]
    fn panic_in_the_view() {
        let _screen = Screen::take().unwrap();
        panic!("the view fell");
    }

    #[test]
    fn a_panic_gives_the_terminal_back_before_it_is_told() {
        let this = env::current_exe().unwrap();
        let inside = "output::live::terminal::tests::panic_in_the_view";
        let commands = format!(
            "stty rows 24 cols 80; echo before=$(stty -g); {} --exact {inside} --ignored --nocapture; \
             echo after=$(stty -g)",
            this.display()
        );

        let mut script = Command::new("script");
        script.args(["-qec", &commands, "/dev/null"]).stdin(Stdio::null());
        let ended = script.output().unwrap();

        let shown = String::from_utf8_lossy(&ended.stdout).into_owned();
        let place =
            |text: &str| shown.find(text).unwrap_or_else(|| panic!("no {text:?}: {shown:?}"));
        let (entered, left) = (place("\x1b[?1049h"), place("\x1b[?1049l"));
        assert!(entered < left && left < place("the view fell"), "{shown:?}");
        assert_eq!(shown.matches("\x1b[?1049l").count(), 1, "given back twice: {shown:?}");
        place("\x1b[?25h");
        let settings = |name: &str| {
            shown.lines().find_map(|line| line.strip_prefix(name)).map(|it| it.trim().to_owned())
        };
        assert!(settings("before=").is_some(), "{shown:?}");
        assert_eq!(settings("before="), settings("after="), "{shown:?}");
    }
}
