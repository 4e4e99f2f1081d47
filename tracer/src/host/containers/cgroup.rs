//! Whose a process is, by the path of its cgroup. The innermost container counts.

use super::Runtime;

/// What a cgroup is called after.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Called {
    /// A name.
    Name(String),
    /// An id.
    Id(String),
}

/// The container that a process with this `/proc/PID/cgroup` is in.
pub(super) fn container(cgroup: &str) -> Option<(Runtime, Called)> {
    // ID:CONTROLLERS:PATH
    cgroup.lines().filter_map(|line| line.splitn(3, ':').nth(2)).find_map(of_path)
}

fn of_path(path: &str) -> Option<(Runtime, Called)> {
    let parts: Vec<_> = path.split('/').filter(|part| !part.is_empty()).collect();
    (0..parts.len()).rev().find_map(|index| {
        let above = parts.get(..index).unwrap_or_default();
        of_part(parts.get(index)?, above)
    })
}

fn of_part(part: &str, above: &[&str]) -> Option<(Runtime, Called)> {
    if let Some(name) =
        part.strip_prefix("lxc.payload.").or_else(|| part.strip_prefix("lxc.payload/"))
    {
        return Some((Runtime::Lxc, Called::Name(name.to_owned())));
    }
    let unit = part.strip_suffix(".scope").unwrap_or(part);
    if let Some(name) = unit.strip_prefix("machine-").filter(|_| unit != part) {
        return Some((Runtime::Nspawn, Called::Name(unescaped(name))));
    }
    if let Some(name) = part.strip_prefix("systemd-nspawn@") {
        let name = name.strip_suffix(".service").unwrap_or(name);
        return Some((Runtime::Nspawn, Called::Name(unescaped(name))));
    }
    let parent = above.last().copied().unwrap_or_default();
    if parent == "lxc" {
        return Some((Runtime::Lxc, Called::Name(part.to_owned())));
    }
    let in_pod = above.iter().any(|part| part.starts_with("kubepods"));
    // `cri-containerd-ID`, `docker-ID`, `pod…:cri-containerd:ID`, or the id alone.
    let split = unit.rfind(['-', ':']).map_or(0, |at| at + 1);
    let (kind, id) = unit.split_at(split);
    if id.len() != 64 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let runtime = match kind.trim_end_matches(['-', ':']) {
        kind if kind.ends_with("conmon") => return None,
        _ if in_pod => Runtime::K8s,
        "docker" => Runtime::Docker,
        "libpod" => Runtime::Podman,
        "crio" => Runtime::K8s,
        kind if kind.ends_with("cri-containerd") => Runtime::K8s,
        "" if parent == "docker" => Runtime::Docker,
        _ => return None,
    };
    Some((runtime, Called::Id(id.to_owned())))
}

/// The name of a unit, where systemd writes `\x2d` for `-`.
fn unescaped(name: &str) -> String {
    let mut out = Vec::new();
    let mut rest = name;
    while let Some((before, after)) = rest.split_once("\\x") {
        out.extend(before.bytes());
        let byte = after.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        rest = match byte {
            Some(byte) => {
                out.push(byte);
                after.get(2..).unwrap_or_default()
            }
            None => {
                out.extend(b"\\x");
                after
            }
        };
    }
    out.extend(rest.bytes());
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "c564d5c6d9a2d2819484a43b835c2165f5a85b2e68c01783784fd8bd9b4d9582";

    fn id(runtime: Runtime) -> Option<(Runtime, Called)> {
        Some((runtime, Called::Id(ID.into())))
    }

    fn name(runtime: Runtime, name: &str) -> Option<(Runtime, Called)> {
        Some((runtime, Called::Name(name.into())))
    }

    fn of(path: &str) -> Option<(Runtime, Called)> {
        container(&format!("9:name=systemd:/\n0::{}\n", path.replace("ID", ID)))
    }

    #[test]
    fn every_runtime_leaves_its_mark() {
        assert_eq!(of("/docker/ID"), id(Runtime::Docker));
        assert_eq!(of("/system.slice/docker-ID.scope"), id(Runtime::Docker));
        assert_eq!(of("/libpod_parent/libpod-ID"), id(Runtime::Podman));
        assert_eq!(of("/machine.slice/libpod-ID.scope/container"), id(Runtime::Podman));
        assert_eq!(of("/lxc.payload.p2_c9/init.scope"), name(Runtime::Lxc, "p2_c9"));
        assert_eq!(of("/lxc/old"), name(Runtime::Lxc, "old"));
        assert_eq!(
            of(
                "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod7.slice/cri-containerd-ID.scope"
            ),
            id(Runtime::K8s)
        );
        assert_eq!(of("/kubepods/burstable/pod7/ID"), id(Runtime::K8s));
        assert_eq!(of("/kubepods.slice/kubepods-pod7.slice/crio-ID.scope"), id(Runtime::K8s));
        assert_eq!(of("/system.slice/kubepods-pod7.slice:cri-containerd:ID"), id(Runtime::K8s));
        assert_eq!(of(r"/machine.slice/machine-my\x2dbox.scope"), name(Runtime::Nspawn, "my-box"));
        assert_eq!(of("/machine.slice/systemd-nspawn@box.service"), name(Runtime::Nspawn, "box"));
    }

    #[test]
    fn the_innermost_container_counts() {
        assert_eq!(of("/lxc.payload.c1/docker/ID/init.scope"), id(Runtime::Docker));
    }

    #[test]
    fn what_belongs_to_no_container_is_nobodys() {
        for path in [
            "/",
            "/system.slice/ssh.service",
            "/machine.slice/libpod-conmon-ID.scope",
            "/kubepods.slice/crio-conmon-ID.scope",
            "/lxc.monitor.c1",
            "/docker/short",
            r"/machine.slice/x\x",
        ] {
            assert_eq!(of(path), None, "{path}");
        }
        assert_eq!(container("garbage\n::\n"), None);
    }
}
