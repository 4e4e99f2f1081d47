//! Whose something is that can outlive the process that made it. Its name says so: what a process
//! could not take along is found by that, and removed by the next.

use std::{fs, io};

/// A process: its id, and when it began, for ids are used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its id.
    pub pid: u32,
    /// When it began, in ticks since the machine did.
    pub since: u64,
}

/// What the name of every nf_tables table of ours begins with.
const TABLE: &str = "pathtrace-";

impl Owner {
    /// This process.
    ///
    /// # Errors
    /// When `/proc` is not there.
    pub fn own() -> io::Result<Self> {
        let pid = std::process::id();
        let since = start_of(pid).ok_or(io::ErrorKind::NotFound)?;
        Ok(Self { pid, since })
    }

    /// Whether it still runs.
    pub fn is_alive(self) -> bool {
        start_of(self.pid) == Some(self.since)
    }

    /// What its nf_tables tables are called.
    pub fn table(self) -> String {
        format!("{TABLE}{}-{}", self.pid, self.since)
    }

    /// Whose the nf_tables table of this name is; `None` for one that no pathtrace made.
    pub fn of_table(name: &str) -> Option<Self> {
        let (pid, since) = name.strip_prefix(TABLE)?.split_once('-')?;
        Some(Self { pid: pid.parse().ok()?, since: since.parse().ok()? })
    }
}

/// Field 22 of `/proc/PID/stat`, `starttime`. The second, a name in parentheses, may hold anything.
fn start_of(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_id_and_its_start() {
        let own = Owner::own().unwrap();
        assert!(own.is_alive());
        assert!(!Owner { since: own.since + 1, ..own }.is_alive(), "the pid is another's by now");
        assert!(!Owner { pid: u32::MAX, ..own }.is_alive());
    }

    #[test]
    fn a_table_tells_whose_it_is() {
        let own = Owner::own().unwrap();
        assert_eq!(Owner::of_table(&own.table()), Some(own));
        for others in ["", "pathtrace", "pathtrace-", "pathtrace-1", "pathtrace-a-1", "lxd"] {
            assert_eq!(Owner::of_table(others), None, "{others}");
        }
    }
}
