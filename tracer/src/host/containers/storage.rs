//! Names of Podman's containers from its storage on disk: for those that neither its socket nor their
//! monitor tells. The files of users are as trusted as their answers would be, and a disk may be slow: both
//! size and time are limited.

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs,
    io::{self, Read as _},
    os::{
        fd::AsRawFd as _,
        unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use serde::Deserialize;

use super::{Problem, Runtime};

/// Most bytes of all files together: some ten thousand containers.
const MOST_BYTES: u64 = 16 << 20;
/// Most directories of one storage, one for each driver that keeps layers.
const MOST_DRIVERS: usize = 8;
/// Most files that are told to be of no use.
const MOST_PROBLEMS: usize = 16;
/// Most users whose storage is looked for.
const MOST_USERS: usize = 1024;
/// A user's storage, below the home directory.
const OF_USER: &str = ".local/share/containers/storage";

/// Where Podman keeps what its containers are made of.
#[derive(Clone, Debug, Default)]
pub struct Storage {
    /// Most trusted first.
    directories: Vec<PathBuf>,
    /// Where the users' home directories are.
    homes: Option<PathBuf>,
    /// A file is being read: where that never ends, no second one is begun.
    is_reading: Arc<AtomicBool>,
}

/// What was read.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// By id.
    pub by_id: HashMap<String, String>,
    /// Files that could not be used.
    pub problems: Vec<Problem>,
    /// Bytes that were read.
    bytes: u64,
}

#[derive(Deserialize)]
struct Stored {
    id: String,
    #[serde(default)]
    names: Option<Vec<String>>,
}

impl Storage {
    /// In these directories, and in the homes of users below `homes`.
    pub fn new(directories: Vec<PathBuf>, homes: Option<PathBuf>) -> Self {
        Self { directories, homes, is_reading: Arc::default() }
    }

    /// In a user's home directory.
    pub(super) fn of_home(home: &Path) -> PathBuf {
        home.join(OF_USER)
    }

    /// The names of all containers, if they are read within `patience`.
    pub(super) fn names(&self, patience: Duration) -> Names {
        if self.is_reading.swap(true, Ordering::AcqRel) {
            return Names::default();
        }
        let (sender, receiver) = mpsc::channel();
        let storage = self.clone();
        // Not scoped: who waits for a server of files that is gone waits for ever.
        let reader = move || {
            let names = storage.read();
            storage.is_reading.store(false, Ordering::Release);
            // Nobody may wait any more.
            let _ = sender.send(names);
        };
        if thread::Builder::new().name("storage".into()).spawn(reader).is_err() {
            self.is_reading.store(false, Ordering::Release);
        }
        receiver.recv_timeout(patience).unwrap_or_default()
    }

    fn read(&self) -> Names {
        let homes = self.homes.iter().filter_map(|homes| fs::read_dir(homes).ok());
        let users = homes.flatten().flatten().take(MOST_USERS);
        let mut names = Names::default();
        for directory in &self.directories {
            names.add(directory, None);
        }
        for home in users {
            let owner = home.metadata().map(|home| home.uid());
            names.add(&Self::of_home(&home.path()), owner.ok());
        }
        names
    }
}

impl Names {
    /// Those of a storage. `owner`: whose files they are to be.
    fn add(&mut self, storage: &Path, owner: Option<u32>) {
        // `overlay-containers`, `vfs-containers` …, by the driver that keeps the layers.
        let of_driver = |entry: &fs::DirEntry| {
            Path::new(&entry.file_name()).as_os_str().as_encoded_bytes().ends_with(b"-containers")
        };
        let all = fs::read_dir(storage).into_iter().flatten().flatten();
        for directory in all.filter(of_driver).take(MOST_DRIVERS) {
            for file in ["containers.json", "volatile-containers.json"] {
                let file = directory.path().join(OsStr::new(file));
                match read(&file, owner, MOST_BYTES - self.bytes) {
                    Ok((stored, bytes)) => {
                        self.bytes += bytes;
                        self.take(stored);
                    }
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    Err(_) if self.problems.len() >= MOST_PROBLEMS => {}
                    Err(e) => self.problems.push(Problem {
                        runtime: Runtime::Podman,
                        text: format!(
                            "cannot read names of podman's containers in {}: {e}; they are told by id",
                            file.display()
                        ),
                    }),
                }
            }
        }
    }

    /// Who was told first counts.
    fn take(&mut self, stored: Vec<Stored>) {
        for Stored { id, names } in stored {
            let name = names.into_iter().flatten().find(|name| !name.is_empty());
            if let Some(name) = name {
                self.by_id.entry(id).or_insert(name);
            }
        }
    }
}

/// What is in a file, and how many bytes that was; `most` may be.
fn read(path: &Path, owner: Option<u32>, most: u64) -> io::Result<(Vec<Stored>, u64)> {
    // What a user has put in its place is not opened before it is known what it is: opening alone may wait,
    // or do something to a device.
    let place = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_NOFOLLOW)
        .open(path)?;
    let found = place.metadata()?;
    if !found.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    if owner.is_some_and(|owner| owner != found.uid()) {
        return Err(io::Error::other("it is somebody else's"));
    }
    let file = fs::File::open(format!("/proc/self/fd/{}", place.as_raw_fd()))?;
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes)?;
    let length = bytes.len() as u64;
    if length > most {
        return Err(io::Error::other(format!("there is more than {} MiB", MOST_BYTES >> 20)));
    }
    Ok((serde_json::from_slice(&bytes)?, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PODMAN: &str = include_str!("fixtures/podman-4.3-containers.json");
    const POD1: &str = "0b416c4d44985595d2d42cbea992ab15fe168235cb86c0214a0d03078c5503f5";

    /// Reads what is stored so.
    fn names(driver: &str, file: &str, contents: &[u8]) -> Names {
        let directory = tempfile::tempdir().unwrap();
        let storage = directory.path().join("storage");
        let of_driver = storage.join(driver);
        fs::create_dir_all(&of_driver).unwrap();
        fs::write(of_driver.join(file), contents).unwrap();
        Storage::new(vec![storage], None).names(Duration::from_secs(20))
    }

    #[test]
    fn names_are_read_whatever_driver_keeps_the_layers() {
        for driver in ["overlay-containers", "vfs-containers"] {
            for file in ["containers.json", "volatile-containers.json"] {
                let names = names(driver, file, PODMAN.as_bytes());
                assert_eq!(names.by_id.get(POD1).map(String::as_str), Some("pod1"), "{driver}");
                assert_eq!((names.by_id.len(), names.problems.len()), (2, 0));
            }
        }
    }

    #[test]
    fn users_have_storages_of_their_own() {
        let homes = tempfile::tempdir().unwrap();
        let of_driver = Storage::of_home(&homes.path().join("anna")).join("overlay-containers");
        fs::create_dir_all(&of_driver).unwrap();
        fs::write(of_driver.join("containers.json"), PODMAN).unwrap();
        let storage = Storage::new(Vec::new(), Some(homes.path().into()));
        assert_eq!(storage.names(Duration::from_secs(20)).by_id.len(), 2);
    }

    #[test]
    fn what_is_not_there_is_no_problem() {
        let storage = Storage::new(vec!["/nowhere".into()], Some("/nowhere".into()));
        let names = storage.names(Duration::from_secs(20));
        assert_eq!((names.by_id.len(), names.problems.len()), (0, 0));
    }

    #[test]
    fn what_is_damaged_or_huge_is_told_and_left_out() {
        let half = &PODMAN.as_bytes()[..PODMAN.len() / 2];
        let huge = vec![b' '; MOST_BYTES as usize + 1];
        for bad in [half, &huge, b"", b"{}", b"[{\"names\":[7]}]", b"\xff\xfe"] {
            let names = names("overlay-containers", "containers.json", bad);
            assert_eq!((names.by_id.len(), names.problems.len()), (0, 1));
        }
        let nameless = br#"[{"id":"a","names":null},{"id":"b"},{"id":"c","names":[""]}]"#;
        assert_eq!(names("overlay-containers", "containers.json", nameless).by_id.len(), 0);
    }

    #[test]
    fn links_are_not_followed_and_files_of_others_not_read() {
        let homes = tempfile::tempdir().unwrap();
        let of_driver = Storage::of_home(&homes.path().join("anna")).join("overlay-containers");
        fs::create_dir_all(&of_driver).unwrap();
        let file = of_driver.join("containers.json");
        let names = || {
            let storage = Storage::new(Vec::new(), Some(homes.path().into()));
            storage.names(Duration::from_secs(20))
        };
        fs::write(homes.path().join("file"), PODMAN).unwrap();
        std::os::unix::fs::symlink(homes.path().join("file"), &file).unwrap();
        assert_eq!((names().by_id.len(), names().problems.len()), (0, 1));
        fs::remove_file(&file).unwrap();
        fs::write(&file, PODMAN).unwrap();
        if std::os::unix::fs::chown(&file, Some(4711), None).is_ok() {
            assert_eq!((names().by_id.len(), names().problems.len()), (0, 1));
        }
    }

    #[test]
    fn what_never_answers_stalls_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let of_driver = directory.path().join("overlay-containers");
        fs::create_dir_all(&of_driver).unwrap();
        let pipe = of_driver.join("containers.json");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, 0o600.into()).unwrap();
        let storage = Storage::new(vec![directory.path().into()], None);
        assert_eq!(storage.names(Duration::from_secs(20)).problems.len(), 1);
        storage.is_reading.store(true, Ordering::Release);
        assert_eq!(storage.names(Duration::from_secs(20)).problems.len(), 0, "the first goes on");
    }
}
