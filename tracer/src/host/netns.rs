//! The network namespaces of this machine, and how to run code inside one.
//!
//! A namespace is known by the inode of its file on nsfs, which is also the kernel's
//! `net->ns.inum` and so what events carry. [`Netns`] keeps no file open: an open file would keep
//! the namespace alive after its container has gone, and two thousand of them would not fit the
//! usual limit of open files. Instead the path is opened when it is needed, and the inode compared.

use std::{
    collections::HashSet,
    fs,
    io::ErrorKind,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        linux::fs::MetadataExt,
    },
    panic::resume_unwind,
    path::{Path, PathBuf},
    thread,
};

use rustix::{
    fs::{Mode, OFlags},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use super::Error;

/// Where `ip netns` keeps the namespaces that have a name.
pub const NAMED: &str = "/run/netns";

/// Where runtimes keep theirs; the file names there are not names for people.
const UNNAMED: &[&str] = &["/run/docker/netns"];

/// What the namespace of this process is called when it has no name under [`NAMED`].
pub const HOST: &str = "host";

/// A network namespace that was there when it was looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Netns {
    /// Inode of the namespace on nsfs.
    pub inode: u32,
    /// Its name under [`NAMED`], or [`HOST`] for this process's own where that has none.
    pub name: Option<String>,
    path: PathBuf,
}

impl Netns {
    /// The namespace that this process runs in.
    ///
    /// # Errors
    /// When `/proc` is not there.
    pub fn own() -> Result<Self, Error> {
        Self::own_among(named())
    }

    fn own_among(named: impl IntoIterator<Item = Self>) -> Result<Self, Error> {
        let path = Path::new("/proc/self/ns/net");
        let inode = inode_of(path).map_err(|e| Error::new("read this process's netns", e))?;
        let name = named.into_iter().find(|n| n.inode == inode).and_then(|n| n.name);
        Ok(Self { inode, name: name.or_else(|| Some(HOST.into())), path: path.into() })
    }

    /// Every namespace that a name or a process leads to, each once: this process's own first,
    /// then the named ones. One that vanishes meanwhile is left out.
    ///
    /// # Errors
    /// When `/proc` is not there.
    pub fn all() -> Result<Vec<Self>, Error> {
        let named: Vec<_> = named().collect();
        let own = Self::own_among(named.iter().cloned())?;
        let processes =
            fs::read_dir("/proc").map_err(|e| Error::new("list the processes in /proc", e))?;
        let of_processes = processes.flatten().filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            Self::unnamed(process_path(pid))
        });
        let mut seen = HashSet::new();
        let every = std::iter::once(own).chain(named).chain(of_runtimes()).chain(of_processes);
        Ok(every.filter(|netns| seen.insert(netns.inode)).collect())
    }

    /// The namespace with this inode.
    ///
    /// # Errors
    /// When neither a name nor a process leads to it.
    pub fn by_inode(inode: u32) -> Result<Self, Error> {
        Self::all()?.into_iter().find(|n| n.inode == inode).ok_or_else(|| {
            Error::other(
                format!("find network namespace {inode}"),
                ErrorKind::NotFound,
                "no process is in it and no name leads to it; `lsns -t net` lists those there are",
            )
        })
    }

    /// The namespace with this name under [`NAMED`]; [`HOST`] is this process's own where none is
    /// called so.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn by_name(name: &str) -> Result<Self, Error> {
        let wanted = |n: &Self| n.name.as_deref() == Some(name);
        if let Some(found) = named().find(wanted) {
            return Ok(found);
        }
        let own = Self::own()?;
        if wanted(&own) {
            return Ok(own);
        }
        Err(Error::other(
            format!("find network namespace {name:?}"),
            ErrorKind::NotFound,
            format!("{NAMED} has none of that name; `ip netns` lists those there are"),
        ))
    }

    /// The namespace whose file this is.
    ///
    /// # Errors
    /// When there is no such file, or it is not that of a network namespace.
    pub fn by_path(path: &Path) -> Result<Self, Error> {
        let inode = checked_inode(path)
            .map_err(|e| Error::new(format!("use {} as a network namespace", path.display()), e))?;
        let known = named().find(|n| n.inode == inode);
        let name = match known {
            Some(named) => named.name,
            None => Self::own()?.is(inode).then(|| HOST.into()),
        };
        Ok(Self { inode, name, path: path.into() })
    }

    /// The namespace that the process is in.
    ///
    /// # Errors
    /// When there is no such process, or it may not be looked at.
    pub fn of_pid(pid: u32) -> Result<Self, Error> {
        Self::by_path(&process_path(pid))
    }

    /// Its file, held open: keeps the namespace alive for as long.
    ///
    /// # Errors
    /// When the namespace is no longer there.
    pub fn open(&self) -> Result<OwnedFd, Error> {
        let fail = |e| Error::new(format!("open network namespace {}", self.label()), e);
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let fd = rustix::fs::open(&self.path, flags, Mode::empty()).map_err(|e| fail(e.into()))?;
        let stat = rustix::fs::fstat(&fd).map_err(|e| fail(e.into()))?;
        if stat.st_ino != u64::from(self.inode) {
            return Err(fail(ErrorKind::NotFound.into()));
        }
        Ok(fd)
    }

    /// Runs `work` inside the namespace, in a thread of its own: the calling thread stays where
    /// it is. Sockets opened by `work` stay in the namespace, and keep it alive.
    ///
    /// # Errors
    /// When the namespace is no longer there, or this process may not enter it.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
        let file = self.open()?;
        let fail = |e| Error::new(format!("enter network namespace {}", self.label()), e);
        let inside = move || {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
            drop(file);
            Ok::<T, rustix::io::Errno>(work())
        };
        thread::scope(|scope| {
            let thread = thread::Builder::new().name("netns".into());
            match thread.spawn_scoped(scope, inside).map_err(fail)?.join() {
                Ok(result) => result.map_err(|e| fail(e.into())),
                Err(panic) => resume_unwind(panic),
            }
        })
    }

    /// The file by which it was found.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its name, else its inode: for messages.
    pub fn label(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.inode.to_string())
    }

    fn is(&self, inode: u32) -> bool {
        self.inode == inode
    }

    fn unnamed(path: PathBuf) -> Option<Self> {
        Some(Self { inode: inode_of(&path).ok()?, name: None, path })
    }
}

fn process_path(pid: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/ns/net"))
}

/// The namespaces under [`NAMED`], by name; what is no namespace there is left out.
fn named() -> impl Iterator<Item = Netns> {
    files_of(NAMED).into_iter().filter_map(|path| {
        let inode = checked_inode(&path).ok()?;
        let name = path.file_name()?.to_string_lossy().into_owned();
        Some(Netns { inode, name: Some(name), path })
    })
}

fn of_runtimes() -> impl Iterator<Item = Netns> {
    UNNAMED.iter().flat_map(|directory| files_of(directory)).filter_map(|path| {
        let inode = checked_inode(&path).ok()?;
        Some(Netns { inode, name: None, path })
    })
}

/// The entries of a directory, sorted; none where it is not there.
fn files_of(directory: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut files: Vec<_> = entries.map(|entry| entry.path()).collect();
    files.sort();
    files
}

/// Inode of a file that is known to be one of a network namespace. On nsfs they fit 32 bits:
/// the kernel's `struct ns_common` has `unsigned int inum`.
fn inode_of(path: &Path) -> std::io::Result<u32> {
    let inode = fs::metadata(path)?.st_ino();
    u32::try_from(inode).map_err(|_| ErrorKind::InvalidData.into())
}

/// Inode of a file, if it is one of a network namespace. What is not on nsfs is not opened: a
/// pipe would block.
fn checked_inode(path: &Path) -> std::io::Result<u32> {
    let foreign = || std::io::Error::new(ErrorKind::InvalidInput, "it is no network namespace");
    let nsfs = fs::metadata("/proc/self/ns/net")?.st_dev();
    if fs::metadata(path)?.st_dev() != nsfs {
        return Err(foreign());
    }
    let file = fs::File::open(path)?;
    let metadata = file.metadata()?;
    if metadata.st_dev() != nsfs || !is_network(&file) {
        return Err(foreign());
    }
    u32::try_from(metadata.st_ino()).map_err(|_| foreign())
}

/// Whether a file on nsfs is that of a network namespace, not of another kind.
fn is_network(file: &fs::File) -> bool {
    // SAFETY: this request of `ioctl_nsfs(2)` takes no argument and touches no memory.
    let kind = unsafe { libc::ioctl(file.as_raw_fd(), libc::NS_GET_NSTYPE) };
    kind == libc::CLONE_NEWNET
}

#[cfg(test)]
mod tests {
    use super::{super::testing::TestNetns, *};

    #[test]
    fn a_named_namespace_is_found_by_name_path_and_inode() {
        let test = TestNetns::new("find");
        let by_name = Netns::by_name(&test.name).unwrap();
        assert_eq!(by_name, Netns::by_path(&Path::new(NAMED).join(&test.name)).unwrap());
        assert_eq!(by_name, Netns::by_inode(by_name.inode).unwrap());
        assert_eq!(by_name.name.as_deref(), Some(test.name.as_str()));
        assert_eq!(1, Netns::all().unwrap().iter().filter(|n| n.inode == by_name.inode).count());
    }

    #[test]
    fn a_namespace_that_only_a_process_holds_is_found() {
        let mut child = std::process::Command::new("unshare")
            .args(["-n", "sleep", "30"])
            .spawn()
            .expect("unshare of util-linux is needed");
        let own = Netns::own().unwrap();
        let found = (0..100).find_map(|_| {
            thread::sleep(std::time::Duration::from_millis(20));
            Netns::of_pid(child.id()).ok().filter(|n| n.inode != own.inode)
        });
        let all = Netns::all();
        child.kill().unwrap();
        child.wait().unwrap();
        let found = found.expect("unshare -n needs root");
        assert_eq!(None, found.name);
        assert!(all.unwrap().iter().any(|n| n.inode == found.inode));
        assert!(Netns::by_inode(found.inode).is_err_and(|e| e.is_gone()));
    }

    #[test]
    fn own_is_called_host_and_comes_first() {
        let own = Netns::own().unwrap();
        assert_eq!(Some(HOST), own.name.as_deref());
        assert_eq!(own, Netns::all().unwrap()[0]);
        assert_eq!(own.inode, Netns::of_pid(std::process::id()).unwrap().inode);
        assert_eq!(Some(HOST), Netns::of_pid(std::process::id()).unwrap().name.as_deref());
        assert_eq!(own, Netns::by_name(HOST).unwrap());
    }

    #[test]
    fn entering_leaves_the_calling_thread_where_it_is() {
        let test = TestNetns::new("enter");
        let thread_inode = || inode_of(Path::new("/proc/thread-self/ns/net")).unwrap();
        let before = thread_inode();
        assert_eq!(test.netns().inode, test.netns().enter(thread_inode).unwrap());
        assert_eq!(before, thread_inode());
    }

    #[test]
    fn a_vanished_namespace_is_told_and_left_out() {
        let test = TestNetns::new("gone");
        let netns = test.netns();
        drop(test);
        assert!(netns.enter(|| ()).unwrap_err().is_gone());
        assert!(Netns::by_inode(netns.inode).unwrap_err().is_gone());
        let message = Netns::by_name("pt-host-never-there").unwrap_err().to_string();
        assert!(message.contains("ip netns"), "{message}");
    }

    #[test]
    fn what_is_no_network_namespace_is_refused() {
        for path in ["/proc/self/ns/uts", "/etc/passwd", "/proc/0/ns/net", "/dev/null"] {
            assert!(Netns::by_path(Path::new(path)).is_err(), "{path}");
        }
    }

    #[test]
    fn garbage_beside_named_namespaces_is_ignored() {
        let test = TestNetns::new("beside");
        let garbage = Path::new(NAMED).join(format!("{}-garbage", test.name));
        fs::write(&garbage, "not a namespace").unwrap();
        let all = Netns::all();
        let by_path = Netns::by_path(&garbage);
        fs::remove_file(&garbage).unwrap();
        let garbage_name = garbage.file_name().unwrap().to_str();
        assert!(all.unwrap().iter().all(|n| n.name.as_deref() != garbage_name));
        assert!(by_path.unwrap_err().to_string().contains("no network namespace"));
    }
}
