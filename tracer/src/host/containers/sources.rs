//! Where containers are looked for, as a value: the environment is asked once.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{Runtime, storage::Storage};

/// How long one runtime may take, for all that it is asked.
const PATIENCE: Duration = Duration::from_secs(2);

/// A runtime's socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Api {
    /// Whose.
    pub runtime: Runtime,
    /// Where.
    pub socket: PathBuf,
}

/// Where containers are looked for.
#[derive(Clone, Debug)]
pub struct Sources {
    /// Where the processes are.
    pub proc: PathBuf,
    /// The sockets that runtimes may listen at, each once.
    pub apis: Vec<Api>,
    /// Where Podman's containers are stored.
    pub storage: Storage,
    /// Whether runtimes are asked for the addresses of virtual machines: they have to ask in there.
    pub addresses: bool,
    /// How long one runtime may take in all; they are asked at once.
    pub patience: Duration,
}

impl Sources {
    /// Those of this machine, by the environment of this process.
    pub fn of_this_machine() -> Self {
        let variable = |name: &str| env::var_os(name).map(PathBuf::from);
        let within = |name: &str, rest: &str| variable(name).map(|directory| directory.join(rest));
        // Anything but a socket of this machine is not about this machine.
        let docker = env::var("DOCKER_HOST")
            .ok()
            .and_then(|host| host.strip_prefix("unix://").map(PathBuf::from));
        let fixed = |path: &str| Some(PathBuf::from(path));
        let all = [
            (Runtime::Lxd, within("LXD_DIR", "unix.socket")),
            (Runtime::Lxd, fixed("/var/snap/lxd/common/lxd/unix.socket")),
            (Runtime::Lxd, fixed("/var/lib/lxd/unix.socket")),
            (Runtime::Incus, variable("INCUS_SOCKET")),
            (Runtime::Incus, within("INCUS_DIR", "unix.socket")),
            (Runtime::Incus, fixed("/run/incus/unix.socket")),
            (Runtime::Incus, fixed("/var/lib/incus/unix.socket")),
            (Runtime::Docker, docker),
            (Runtime::Docker, fixed("/run/docker.sock")),
            (Runtime::Docker, fixed("/var/run/docker.sock")),
            (Runtime::Podman, fixed("/run/podman/podman.sock")),
            (Runtime::Podman, within("XDG_RUNTIME_DIR", "podman/podman.sock")),
        ];
        let apis = all.into_iter().filter_map(|(runtime, socket)| {
            Some(Api { runtime, socket: socket.filter(|path| !path.as_os_str().is_empty())? })
        });
        let stored = [
            fixed("/var/lib/containers/storage"),
            within("XDG_DATA_HOME", "containers/storage"),
            variable("HOME").map(|home| Storage::of_home(&home)),
        ];
        let stored = stored.into_iter().flatten().filter(|path| path.is_absolute());
        let storage = Storage::new(stored.collect(), fixed("/home"));
        Self {
            proc: "/proc".into(),
            apis: apis.collect(),
            storage,
            addresses: false,
            patience: PATIENCE,
        }
    }

    /// The same, and runtimes are asked for the addresses of virtual machines.
    #[must_use]
    pub fn with_addresses(self) -> Self {
        Self { addresses: true, ..self }
    }

    /// The sockets that are there now, each once, whatever names lead to it.
    pub fn present(&self) -> Vec<&Api> {
        let mut seen = BTreeSet::new();
        let is_new = |api: &&Api| match fs::canonicalize(&api.socket) {
            Ok(path) => seen.insert(path),
            // One that may not be looked for is asked, so that it is told.
            Err(error) => error.kind() == std::io::ErrorKind::PermissionDenied,
        };
        self.apis.iter().filter(is_new).collect()
    }

    /// The file of a process.
    pub(super) fn of_process(&self, pid: u32, file: impl AsRef<Path>) -> PathBuf {
        self.proc.join(pid.to_string()).join(file)
    }
}
