//! The kernel that runs and what it lets this process do; and why tracing is impossible, where it
//! is.

use std::{fs, io, os::fd::AsFd, path::Path};

use rustix::{
    fs::{Mode, OFlags, openat},
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen},
    thread::{CapabilitySet, capabilities},
};

/// Where the kernel shows the types that offsets and drop reasons are read from.
const BTF: &str = "/sys/kernel/btf/vmlinux";

/// What is known of the kernel and of this process's rights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// As `uname -r`.
    pub release: String,
    /// The lockdown mode; `None` where it is not told (the kernel is built without it).
    pub lockdown: Option<Lockdown>,
    /// Whether the effective user is root.
    pub root: bool,
    /// The capabilities for tracing that this process lacks.
    pub missing: Vec<Capability>,
    /// Whether the kernel has BTF.
    pub btf: bool,
}

/// `lockdown(7)`: how much of the kernel even root may not touch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lockdown {
    /// Nothing is forbidden.
    None,
    /// Changing the running kernel is forbidden.
    Integrity,
    /// Reading its memory is forbidden as well.
    Confidentiality,
}

impl Lockdown {
    /// The kernel's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Integrity => "integrity",
            Self::Confidentiality => "confidentiality",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        [Self::None, Self::Integrity, Self::Confidentiality].into_iter().find(|m| m.name() == name)
    }
}

/// A capability that tracing needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// Loading programs and maps.
    Bpf,
    /// Programs that follow kernel pointers, and attaching to tracepoints.
    Perfmon,
    /// Attaching to devices and netfilter hooks.
    NetAdmin,
    /// Entering the network namespaces of containers.
    SysAdmin,
}

impl Capability {
    const ALL: [Self; 4] = [Self::Bpf, Self::Perfmon, Self::NetAdmin, Self::SysAdmin];

    /// As `capabilities(7)` has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bpf => "CAP_BPF",
            Self::Perfmon => "CAP_PERFMON",
            Self::NetAdmin => "CAP_NET_ADMIN",
            Self::SysAdmin => "CAP_SYS_ADMIN",
        }
    }

    /// CAP_SYS_ADMIN stands for the two that were once a part of it.
    fn is_in(self, set: CapabilitySet) -> bool {
        let admin = set.contains(CapabilitySet::SYS_ADMIN);
        match self {
            Self::Bpf => admin || set.contains(CapabilitySet::BPF),
            Self::Perfmon => admin || set.contains(CapabilitySet::PERFMON),
            Self::NetAdmin => set.contains(CapabilitySet::NET_ADMIN),
            Self::SysAdmin => admin,
        }
    }
}

/// Why nothing can be traced: what, why, what to do, in one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Obstacle {
    /// Rights are missing.
    #[error("cannot trace: this process lacks {0}; run as root (sudo pathtrace ...)")]
    Rights(String),
    /// The kernel does not describe its types.
    #[error(
        "cannot trace: kernel {0} has no {BTF}, which tells where packets keep their fields; \
         use a kernel built with CONFIG_DEBUG_INFO_BTF=y (Debian 11, Ubuntu 20.10, Fedora 31 and \
         newer have one), and mount sysfs on /sys"
    )]
    NoBtf(String),
    /// Lockdown forbids reading kernel memory.
    #[error(
        "cannot trace: the kernel is locked down in confidentiality mode, which forbids BPF to \
         read packets; boot with lockdown=integrity, or without Secure Boot"
    )]
    Lockdown,
}

impl Kernel {
    /// Looks at the running kernel and at this process.
    ///
    /// # Errors
    /// When the kernel does not tell this process's capabilities.
    pub fn read() -> io::Result<Self> {
        let effective = capabilities(None)?.effective;
        let lacks = |capability: &Capability| !capability.is_in(effective);
        Ok(Self {
            release: rustix::system::uname().release().to_string_lossy().into_owned(),
            lockdown: lockdown(),
            root: rustix::process::geteuid().is_root(),
            missing: Capability::ALL.into_iter().filter(lacks).collect(),
            btf: Path::new(BTF).exists(),
        })
    }

    /// Why tracing is impossible here: the first is what to solve first; none when it is possible.
    pub fn obstacles(&self) -> Vec<Obstacle> {
        let mut obstacles = Vec::new();
        if !self.missing.is_empty() {
            let names: Vec<_> = self.missing.iter().map(|c| c.name()).collect();
            obstacles.push(Obstacle::Rights(names.join(", ")));
        }
        if !self.btf {
            obstacles.push(Obstacle::NoBtf(self.release.clone()));
        }
        if self.lockdown == Some(Lockdown::Confidentiality) {
            obstacles.push(Obstacle::Lockdown);
        }
        obstacles
    }
}

/// From securityfs, else what the kernel was booted with.
fn lockdown() -> Option<Lockdown> {
    let mounted = fs::read_to_string("/sys/kernel/security/lockdown");
    let now = mounted.ok().or_else(|| unmounted_lockdown().ok());
    now.and_then(|text| chosen(&text))
        .or_else(|| booted(&fs::read_to_string("/proc/cmdline").ok()?))
}

/// The same file where nobody mounted securityfs (containers, small systems): by a mount that only
/// this file descriptor knows, which is gone with it.
fn unmounted_lockdown() -> io::Result<String> {
    let context = fsopen("securityfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(context.as_fd())?;
    let flags = MountAttrFlags::MOUNT_ATTR_RDONLY;
    let mount = fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, flags)?;
    let file = openat(&mount, "lockdown", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    io::read_to_string(fs::File::from(file))
}

/// The mode in brackets: `none [integrity] confidentiality`.
fn chosen(text: &str) -> Option<Lockdown> {
    let bracketed = |word: &str| word.strip_prefix('[')?.strip_suffix(']').map(str::to_owned);
    Lockdown::from_name(&text.split_whitespace().find_map(bracketed)?)
}

/// The last `lockdown=` of the kernel's command line, which ends at `--`.
fn booted(command_line: &str) -> Option<Lockdown> {
    let words = command_line.split_whitespace().take_while(|word| *word != "--");
    Lockdown::from_name(words.filter_map(|word| word.strip_prefix("lockdown=")).last()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn able() -> Kernel {
        Kernel {
            release: "6.1.0".into(),
            lockdown: Some(Lockdown::Integrity),
            root: true,
            missing: Vec::new(),
            btf: true,
        }
    }

    #[test]
    fn each_obstacle_says_what_to_do() {
        assert_eq!(able().obstacles(), []);
        let unable = Kernel {
            missing: vec![Capability::Bpf, Capability::NetAdmin],
            btf: false,
            lockdown: Some(Lockdown::Confidentiality),
            ..able()
        };
        let lines: Vec<_> = unable.obstacles().iter().map(ToString::to_string).collect();
        assert!(lines[0].contains("CAP_BPF, CAP_NET_ADMIN; run as root"), "{lines:?}");
        assert!(lines[1].contains("6.1.0") && lines[1].contains("CONFIG_DEBUG_INFO_BTF"));
        assert!(lines[2].contains("lockdown=integrity"));
        assert!(lines.iter().all(|line| !line.contains('\n') && line.starts_with("cannot trace")));
    }

    #[test]
    fn the_lockdown_mode_is_the_one_in_brackets_or_of_the_boot() {
        assert_eq!(chosen("none [integrity] confidentiality\n"), Some(Lockdown::Integrity));
        assert_eq!(chosen("[none] integrity"), Some(Lockdown::None));
        assert_eq!(chosen(""), None);
        let confidential = booted("quiet lockdown=integrity lockdown=confidentiality -- x");
        assert_eq!(confidential, Some(Lockdown::Confidentiality));
        assert_eq!(booted("quiet -- lockdown=integrity"), None);
    }

    #[test]
    fn cap_sys_admin_stands_for_bpf_and_perfmon_but_not_for_net_admin() {
        let admin = CapabilitySet::SYS_ADMIN;
        let held: Vec<_> = Capability::ALL.iter().map(|c| c.is_in(admin)).collect();
        assert_eq!(held, [true, true, false, true]);
        assert!(Capability::ALL.iter().all(|c| !c.is_in(CapabilitySet::empty())));
    }

    #[test]
    fn the_running_kernel_is_read() {
        let kernel = Kernel::read().unwrap();
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        assert_eq!(kernel.release, release.trim());
        assert_eq!(kernel.root, rustix::process::geteuid().is_root());
    }
}
