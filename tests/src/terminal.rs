//! A terminal that a scenario looks at and types into: tmux, with a server of its own.

use std::{
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use crate::{Netns, command, pace::patience};

/// How long something may take to be seen.
const PATIENCE: Duration = Duration::from_secs(20);

/// A terminal with a shell in it; gone, with what runs there, when this is dropped.
#[derive(Debug)]
pub struct Terminal {
    socket: String,
}

impl Terminal {
    /// Opens one in a namespace.
    pub fn open(netns: &Netns, columns: u16, lines: u16) -> Result<Self> {
        let terminal = Self { socket: format!("{}-{}", netns.name(), std::process::id()) };
        let (columns, lines) = (columns.to_string(), lines.to_string());
        let size = ["-x", &columns, "-y", &lines];
        let mut tmux = terminal.command(&["-f", "/dev/null", "new-session", "-d"]);
        tmux.args(size).args(["env", "LC_ALL=C.UTF-8", "PS1=$ ", "sh"]);
        netns.enter(|| command::finish(&mut tmux, ""))??;
        Ok(terminal)
    }

    /// Types a line.
    pub fn line(&self, text: &str) -> Result<()> {
        self.text(text)?;
        self.keys(&["Enter"])
    }

    /// Types text.
    pub fn text(&self, text: &str) -> Result<()> {
        self.tmux(&["send-keys", "-l", "--", text]).map(drop)
    }

    /// Presses keys, as tmux calls them.
    pub fn keys(&self, keys: &[&str]) -> Result<()> {
        self.tmux(&[&["send-keys"], keys].concat()).map(drop)
    }

    /// Makes it this large.
    pub fn resize(&self, columns: u16, lines: u16) -> Result<()> {
        let (columns, lines) = (columns.to_string(), lines.to_string());
        self.tmux(&["resize-window", "-x", &columns, "-y", &lines]).map(drop)
    }

    /// What is to be seen.
    pub fn picture(&self) -> Result<String> {
        self.tmux(&["capture-pane", "-p"])
    }

    /// Whether another screen, the mouse and the cursor are as a program set them: `0 0 1` for none.
    pub fn modes(&self) -> Result<String> {
        let modes = "#{alternate_on} #{mouse_any_flag} #{cursor_flag}";
        Ok(self.tmux(&["display-message", "-p", modes])?.trim().to_owned())
    }

    /// Waits until this is to be seen; gives the picture.
    pub fn wait_for(&self, text: &str) -> Result<String> {
        self.wait(text, |picture| picture.contains(text))
    }

    /// Waits until the live view in it traces.
    pub fn wait_for_trace(&self) -> Result<String> {
        self.wait("points, and not attaching", |picture| {
            picture.contains(" points ") && !picture.contains("attaching")
        })
    }

    /// Waits until the picture is so.
    pub fn wait(&self, what: &str, is_so: impl Fn(&str) -> bool) -> Result<String> {
        let start = Instant::now();
        loop {
            let picture = self.picture()?;
            if is_so(&picture) {
                return Ok(picture);
            }
            if start.elapsed() > patience(PATIENCE) {
                bail!("{what:?} is not to be seen in time:\n{picture}");
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn tmux(&self, args: &[&str]) -> Result<String> {
        command::finish(&mut self.command(args), "")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("tmux");
        command.args(["-u", "-L", &self.socket]).args(args).env_remove("TMUX");
        command
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.tmux(&["kill-server"]);
    }
}
