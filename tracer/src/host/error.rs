//! Why something about this machine could not be read: what, why, what to do.

use std::{fmt, io};

/// What was being done, why it failed, and, where there is something, what to do about it.
#[derive(Debug)]
pub struct Error {
    what: String,
    source: io::Error,
}

impl Error {
    /// `what` is said as in "cannot {what}".
    pub(super) fn new(what: impl Into<String>, source: io::Error) -> Self {
        Self { what: what.into(), source }
    }

    /// The same, for a reason that is not the kernel's.
    pub(super) fn other(
        what: impl Into<String>,
        kind: io::ErrorKind,
        why: impl Into<String>,
    ) -> Self {
        Self::new(what, io::Error::new(kind, why.into()))
    }

    /// What kind of failure it was.
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }

    /// Whether it failed because the thing is not, or no longer, there.
    pub fn is_gone(&self) -> bool {
        self.kind() == io::ErrorKind::NotFound || self.source.raw_os_error() == Some(libc::ESRCH)
    }

    fn advice(&self) -> Option<&'static str> {
        match self.source.raw_os_error()? {
            libc::EPERM | libc::EACCES => Some("run as root"),
            libc::EMFILE => Some("raise the limit of open files (ulimit -n)"),
            libc::ENFILE => Some("raise the sysctl fs.file-max"),
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}: {}", self.what, self.source)?;
        match self.advice() {
            Some(advice) => write!(f, "; {advice}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    // `source` is already part of the text: told again, it would be printed twice.
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_why_and_what_to_do() {
        let denied = Error::new("enter namespace 7", io::Error::from_raw_os_error(libc::EPERM));
        assert_eq!(
            denied.to_string(),
            "cannot enter namespace 7: Operation not permitted (os error 1); run as root"
        );
        assert!(!denied.is_gone());
        assert!(Error::new("x", io::Error::from_raw_os_error(libc::ENOENT)).is_gone());
    }
}
