//! Settings under `/proc/sys/net`, as seen inside a namespace: the kernel shows each thread those
//! of the namespace that the thread is in.

use std::{fs, io::ErrorKind, path::PathBuf};

use super::{Error, netns::Netns};

/// Reads a setting, named as `sysctl` does: `net.ipv4.conf.eth0.rp_filter`, and where the name of
/// an interface has a dot `net.ipv4.conf.eth0/100.rp_filter`, or slashes throughout.
///
/// # Errors
/// When the namespace is gone, or the kernel has no such setting; a name outside `net` is refused.
pub fn read(netns: &Netns, name: &str) -> Result<String, Error> {
    let what = || format!("read sysctl {name} in {}", netns.label());
    let refuse = || Error::other(what(), ErrorKind::InvalidInput, "it is no setting under net");
    let path = path_of(name).ok_or_else(refuse)?;
    let value = netns.enter(|| fs::read_to_string(path))?.map_err(|e| Error::new(what(), e))?;
    Ok(value.trim_end().to_owned())
}

/// As `sysctl(8)` reads names: whichever of `.` and `/` comes first separates; after a dot, a
/// slash stands for a dot within a part.
fn path_of(name: &str) -> Option<PathBuf> {
    let separator = name.chars().find(|c| matches!(c, '.' | '/'))?;
    let within = |part: &str| if separator == '.' { part.replace('/', ".") } else { part.into() };
    let parts: Vec<String> = name.split(separator).map(within).collect();
    let plain = |part: &String| !part.is_empty() && part != "." && part != "..";
    let good = parts.first().is_some_and(|first| first == "net")
        && parts.len() > 1
        && parts.iter().all(plain);
    good.then(|| std::iter::once("/proc/sys".to_owned()).chain(parts).collect())
}

#[cfg(test)]
mod tests {
    use super::{super::testing::TestNetns, *};

    #[test]
    fn each_namespace_tells_its_own() {
        let (a, b) = (TestNetns::new("a"), TestNetns::new("b"));
        a.exec("sysctl", &["-qw", "net.ipv4.ip_forward=1"]);
        b.exec("sysctl", &["-qw", "net.ipv4.ip_forward=0"]);
        a.ip("link add e.1 type veth peer name e2");
        a.exec("sysctl", &["-qw", "net/ipv4/conf/e.1/rp_filter=2"]);
        assert_eq!(read(&a.netns(), "net.ipv4.ip_forward").unwrap(), "1");
        assert_eq!(read(&b.netns(), "net.ipv4.ip_forward").unwrap(), "0");
        assert_eq!(read(&a.netns(), "net/ipv4/conf/e.1/rp_filter").unwrap(), "2");
        let error = read(&b.netns(), "net/ipv4/conf/e.1/rp_filter").unwrap_err();
        assert!(error.is_gone() && error.to_string().contains("rp_filter"), "{error}");
    }

    #[test]
    fn only_names_under_net_are_read() {
        for name in ["kernel.hostname", "net", "net/../kernel/hostname", "net..ipv4", "", "/net/x"]
        {
            assert_eq!(path_of(name), None, "{name}");
        }
        let forward = path_of("net.ipv4.ip_forward").unwrap();
        assert_eq!(forward, PathBuf::from("/proc/sys/net/ipv4/ip_forward"));
    }
}
