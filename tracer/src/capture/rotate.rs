//! When one file ends and the next begins, and how they are called: as tcpdump's `-C`, `-G` and `-W`.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Context as _;

use super::target::STANDARD;

/// What the command line says of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rotation {
    /// Bytes of a file after which the next begins.
    pub size: Option<u64>,
    /// Time after which the next begins.
    pub every: Option<Duration>,
    /// With `size`: so many files, then the first is written anew. With `every` alone: so many files, and
    /// the trace ends.
    pub files: Option<u32>,
}

/// The files of a trace, one after another.
#[derive(Debug)]
pub(super) struct Names {
    path: PathBuf,
    rotation: Rotation,
    /// Number of the file within a time.
    count: u32,
    /// Files so far, by time.
    times: u32,
    began: Instant,
}

impl Names {
    pub fn new(path: &Path, rotation: Rotation) -> Self {
        Self { path: path.to_owned(), rotation, count: 0, times: 1, began: Instant::now() }
    }

    /// Whether a file of this many bytes is to be followed by another; the next call of
    /// [`name`](Self::name) names that.
    pub fn goes_on(&mut self, bytes: u64) -> bool {
        if let Some(every) = self.rotation.every
            && self.began.elapsed() >= every
        {
            if self.is_over() {
                return false;
            }
            // By whole intervals, so that a quiet time does not move those that follow.
            let passed = self.began.elapsed().as_nanos() / every.as_nanos().max(1);
            let passed = every.checked_mul(u32::try_from(passed).unwrap_or(1));
            self.began += passed.unwrap_or(every);
            self.times += 1;
            self.count = 0;
            return true;
        }
        if self.rotation.size.is_some_and(|most| bytes > most) {
            self.count += 1;
            if self.rotation.files.is_some_and(|files| self.count >= files) {
                self.count = 0;
            }
            return true;
        }
        false
    }

    /// Whether the last file that is wanted has had its time.
    pub fn is_over(&self) -> bool {
        let Rotation { size: None, every: Some(every), files: Some(files) } = self.rotation else {
            return false;
        };
        self.times >= files && self.began.elapsed() >= every
    }

    /// The name of the file that is to be written now.
    ///
    /// # Errors
    /// When the name is no format of a time.
    pub fn name(&self) -> anyhow::Result<PathBuf> {
        let mut name = self.path.to_string_lossy().into_owned();
        if name == STANDARD {
            return Ok(name.into());
        }
        if self.rotation.every.is_some() {
            name = jiff::fmt::strtime::format(&name, &jiff::Zoned::now()).with_context(|| {
                format!("{name:?} cannot be filled in with a time (-G), as strftime(3) does it")
            })?;
        } else if self.rotation.size.is_none() {
            return Ok(self.path.clone());
        }
        if self.rotation.size.is_some() {
            match self.rotation.files {
                Some(files) => {
                    let digits = files.saturating_sub(1).max(1).ilog10() as usize + 1;
                    name.push_str(&format!("{:0digits$}", self.count));
                }
                None if self.count > 0 => name.push_str(&self.count.to_string()),
                None => {}
            }
        }
        Ok(name.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(rotation: Rotation, of: &[u64]) -> Vec<String> {
        let mut names = Names::new(Path::new("/x/a.pcapng"), rotation);
        let mut all = vec![names.name().unwrap()];
        for bytes in of {
            if names.goes_on(*bytes) {
                all.push(names.name().unwrap());
            }
        }
        all.into_iter().map(|name| name.file_name().unwrap().to_string_lossy().into()).collect()
    }

    #[test]
    fn without_a_size_there_is_one_file() {
        assert_eq!(names(Rotation::default(), &[1 << 40]), ["a.pcapng"]);
    }

    #[test]
    fn by_size_files_are_numbered() {
        let rotation = Rotation { size: Some(100), ..Rotation::default() };
        assert_eq!(names(rotation, &[100, 101, 5, 500]), ["a.pcapng", "a.pcapng1", "a.pcapng2"]);
    }

    #[test]
    fn of_a_limited_number_the_first_comes_again() {
        let rotation = Rotation { size: Some(1), files: Some(11), ..Rotation::default() };
        let all = names(rotation, &[2; 11]);
        assert_eq!(all[0], "a.pcapng00");
        assert_eq!(all[10], "a.pcapng10");
        assert_eq!(all[11], "a.pcapng00");
    }

    #[test]
    fn by_time_so_many_files_and_no_more() {
        let every = Duration::from_millis(20);
        let rotation = Rotation { every: Some(every), files: Some(2), size: None };
        let mut names = Names::new(Path::new("a-%Y"), rotation);
        assert!(!names.goes_on(1 << 40));
        std::thread::sleep(every * 3 / 2);
        assert!(names.goes_on(0) && !names.is_over());
        std::thread::sleep(every);
        assert!(!names.goes_on(0) && names.is_over());
        let name = names.name().unwrap().to_string_lossy().into_owned();
        assert!(name.starts_with("a-2") && name.len() == 6, "{name}");
    }

    #[test]
    fn a_name_that_is_no_format_is_refused() {
        let rotation = Rotation { every: Some(Duration::from_secs(1)), ..Rotation::default() };
        let error = Names::new(Path::new("a%"), rotation).name().unwrap_err();
        assert!(error.to_string().contains("a%"), "{error:#}");
    }
}
