//! Kernels ready to boot: downloaded and unpacked once, and kept where all clones find them.

use std::{
    env, fmt,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    str::FromStr,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use super::archive::{Archive, Package};
use crate::{setup, step};

/// How long unpacking may take.
const PATIENCE: Duration = Duration::from_secs(5 * 60);

/// A series of kernels, as people speak of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Series {
    /// 6.1, say.
    Of(u32, u32),
    /// The newest that Debian has.
    Newest,
}

impl FromStr for Series {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        if text == "newest" {
            return Ok(Series::Newest);
        }
        let numbers = text.split_once('.');
        numbers
            .and_then(|(major, minor)| Some(Series::Of(major.parse().ok()?, minor.parse().ok()?)))
            .with_context(|| format!("{text} is no series of kernels, like 6.1, nor newest"))
    }
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Series::Of(major, minor) => write!(f, "{major}.{minor}"),
            Series::Newest => f.write_str("newest"),
        }
    }
}

/// A kernel in the cache.
#[derive(Clone, Debug)]
pub struct Kernel {
    release: String,
    directory: PathBuf,
}

/// The kernels that are here. Clones share them.
pub struct Cache {
    directory: PathBuf,
    /// Held while kernels are looked for: one process at a time changes them.
    _lock: File,
    /// What Debian has, once it was asked.
    archive: Option<Archive>,
}

impl Cache {
    /// `$XDG_CACHE_HOME/pathtrace`, or `~/.cache/pathtrace`.
    pub fn open() -> Result<Self> {
        let named = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let directory = named
            .filter(|path| path.is_absolute())
            .or_else(|| env::home_dir().map(|home| home.join(".cache")))
            .map(|caches| caches.join("pathtrace"))
            .context("no place to keep kernels: neither $XDG_CACHE_HOME nor $HOME is set")?;
        let kernels = directory.join("kernels");
        fs::create_dir_all(&kernels).with_context(|| format!("{} not made", kernels.display()))?;
        let lock = File::create(directory.join("lock"))?;
        lock.lock().context("the cache of kernels is not locked")?;
        Ok(Self { directory, _lock: lock, archive: None })
    }

    /// The kernel of a series; fetched where it is not there, is damaged, or may not be the newest
    /// any more (`refresh`).
    pub fn get(&mut self, series: &Series, refresh: bool) -> Result<Kernel> {
        let kernels = self.directory.join("kernels");
        let link = kernels.join(series.to_string());
        if let Ok(target) = fs::read_link(&link) {
            let kernel = Kernel::at(&kernels, &target.to_string_lossy());
            match kernel.check() {
                Ok(()) if !refresh => return Ok(kernel),
                Ok(()) => {}
                Err(why) => eprintln!("vm {series}: damaged in the cache ({why}): fetched again"),
            }
        }
        if self.archive.is_none() {
            self.archive = Some(Archive::fetch(&self.directory.join("apt"))?);
        }
        let archive = self.archive.as_ref().context("no archive")?;
        let package = archive.find(series)?;
        let kernel = Kernel::at(&kernels, &package.release);
        if kernel.check().is_err() {
            kernel.fetch(archive, &package)?;
        }
        let _ = fs::remove_file(&link);
        std::os::unix::fs::symlink(&kernel.release, &link)
            .with_context(|| format!("{} not made", link.display()))?;
        Ok(kernel)
    }
}

impl Kernel {
    fn at(kernels: &Path, release: &str) -> Self {
        Self { release: release.to_owned(), directory: kernels.join(release) }
    }

    /// As `uname -r` tells it.
    pub fn release(&self) -> &str {
        &self.release
    }

    /// The two numbers that people call it by.
    pub fn series(&self) -> &str {
        let mut dots = self.release.match_indices(['.', '-']).skip(1);
        dots.next().map_or(&self.release, |(at, _)| &self.release[..at])
    }

    /// The file to boot.
    pub fn image(&self) -> PathBuf {
        self.directory.join("vmlinuz")
    }

    /// The directory of its modules.
    pub fn modules(&self) -> PathBuf {
        self.directory.join("lib/modules").join(&self.release)
    }

    /// Downloads and unpacks it, beside its place first: what is there is whole.
    fn fetch(&self, archive: &Archive, package: &Package) -> Result<()> {
        let new = self.directory.with_file_name(".new");
        let _ = fs::remove_dir_all(&new);
        fs::create_dir_all(&new)?;
        archive.download(package, &new)?;
        let unpacked = Self { release: self.release.clone(), directory: new };
        unpacked.unpack().with_context(|| format!("kernel {} not unpacked", self.release))?;
        fs::write(unpacked.seal_file(), unpacked.seal()?)?;
        let _ = fs::remove_dir_all(&self.directory);
        fs::rename(&unpacked.directory, &self.directory)
            .with_context(|| format!("{} not made", self.directory.display()))
    }

    /// Makes of the downloaded packages what a guest boots from.
    fn unpack(&self) -> Result<()> {
        let tree = self.directory.join("tree");
        for file in files(&self.directory)?.iter().filter(|file| has_ending(file, "deb")) {
            let mut unpack = Command::new("dpkg-deb");
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let unpack = unpack.arg("-x").arg(file).arg(&tree);
            step::run(&format!("unpacking {name}"), unpack, PATIENCE)?;
            fs::remove_file(file)?;
        }
        // Where modules and the image are has changed between releases of Debian.
        let of_release = |parent: &str| tree.join(parent).join(&self.release);
        let modules = ["usr/lib/modules", "lib/modules"].map(of_release);
        let modules = modules.iter().find(|directory| directory.is_dir());
        let modules = modules.context("no modules in its packages")?;
        fs::create_dir_all(self.directory.join("lib/modules"))?;
        fs::rename(modules, self.modules())?;
        let images =
            [self.modules().join("vmlinuz"), tree.join(format!("boot/vmlinuz-{}", self.release))];
        let image = images.iter().find(|image| image.is_file());
        fs::rename(image.context("no vmlinuz in its packages")?, self.image())?;
        fs::remove_dir_all(&tree)?;

        let busybox = setup::find("busybox").context("no busybox; install busybox-static")?;
        // Once here, not whenever a slow guest loads one.
        let packed: Vec<PathBuf> =
            files(&self.modules())?.into_iter().filter(|file| has_ending(file, "xz")).collect();
        for some in packed.chunks(500) {
            let mut unxz = Command::new(&busybox);
            step::run("unpacking modules", unxz.arg("unxz").args(some), PATIENCE)?;
        }
        let mut depmod = Command::new(&busybox);
        depmod.args(["depmod", "-b"]).arg(&self.directory).arg(&self.release);
        step::run("dependencies of modules", &mut depmod, PATIENCE)
    }

    /// Whether all is there as it was unpacked.
    fn check(&self) -> Result<()> {
        let Ok(sealed) = fs::read_to_string(self.seal_file()) else {
            bail!("not unpacked to the end");
        };
        ensure!(self.seal()? == sealed, "its files are not those that were unpacked");
        Ok(())
    }

    fn seal_file(&self) -> PathBuf {
        self.directory.join("seal")
    }

    /// A number that changes with the name and the size of any file, and with the contents of those
    /// that a boot begins with.
    fn seal(&self) -> Result<String> {
        let mut hash = Fnv::new();
        let mut all = files(&self.directory)?;
        all.retain(|file| *file != self.seal_file());
        for file in &all {
            hash.add(file.strip_prefix(&self.directory)?.as_os_str().as_encoded_bytes());
            hash.add(&fs::metadata(file)?.len().to_le_bytes());
        }
        for file in [self.image(), self.modules().join("modules.dep")] {
            hash.add(&fs::read(&file).with_context(|| format!("{} not read", file.display()))?);
        }
        Ok(format!("{:016x}\n", hash.0))
    }
}

fn has_ending(file: &Path, ending: &str) -> bool {
    file.extension().is_some_and(|extension| extension == ending)
}

/// The files below a directory, sorted. Links are not followed.
fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        let entries = fs::read_dir(&directory);
        for entry in entries.with_context(|| format!("{} not read", directory.display()))? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                directories.push(entry.path());
            } else if kind.is_file() {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    Ok(found)
}

/// The hash of Fowler, Noll and Vo: enough against accidents, and the same everywhere.
struct Fnv(u64);

impl Fnv {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_read_and_shown() {
        assert_eq!("6.1".parse::<Series>().unwrap(), Series::Of(6, 1));
        assert_eq!("newest".parse::<Series>().unwrap(), Series::Newest);
        assert_eq!(Series::Of(5, 10).to_string(), "5.10");
        for wrong in ["", "6", "6.1.0", "six.one", "latest"] {
            assert!(wrong.parse::<Series>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_release_tells_its_series() {
        let series = |release| Kernel::at(Path::new("/"), release).series().to_owned();
        assert_eq!(series("6.1.0-40-cloud-amd64"), "6.1");
        assert_eq!(series("7.3.2+deb13-cloud-amd64"), "7.3");
        assert_eq!(series("odd"), "odd");
    }

    #[test]
    fn what_was_cut_short_or_changed_is_damaged() -> Result<()> {
        let kernels = env::temp_dir().join(format!("pathtrace-seal-{}", std::process::id()));
        let kernel = Kernel::at(&kernels, "6.1.0-1");
        fs::create_dir_all(kernel.modules())?;
        let part = |name: &str| kernel.modules().join(name);
        fs::write(kernel.image(), "image")?;
        fs::write(part("modules.dep"), "a.ko:")?;
        fs::write(part("a.ko"), "module")?;
        assert!(kernel.check().is_err(), "without a seal");
        fs::write(kernel.seal_file(), kernel.seal()?)?;
        kernel.check()?;
        fs::write(part("a.ko"), "modul")?;
        assert!(kernel.check().is_err(), "a module is cut short");
        fs::write(part("a.ko"), "module")?;
        kernel.check()?;
        fs::write(kernel.image(), "imagE")?;
        assert!(kernel.check().is_err(), "the image is another");
        fs::remove_file(kernel.image())?;
        assert!(kernel.check().is_err(), "the image is gone");
        fs::remove_dir_all(kernels)?;
        Ok(())
    }
}
