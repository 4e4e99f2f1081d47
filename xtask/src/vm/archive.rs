//! Debian's kernels, found by series and downloaded through apt, beside the machine's own apt: its
//! lists and settings are left alone.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use super::kernel::Series;
use crate::step;

/// Where kernels are looked for: what of Debian's archive, and the suite. What became old stays in
/// the security archive, what is new comes as a backport.
const SUITES: [(Area, &str); 6] = [
    (Area::Security, "bullseye-security"),
    (Area::Main, "bookworm"),
    (Area::Security, "bookworm-security"),
    (Area::Main, "trixie"),
    (Area::Security, "trixie-security"),
    (Area::Main, "trixie-backports"),
];

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The flavour of kernel: the smallest, and as complete as the lab needs.
const FLAVOUR: &str = "-cloud-amd64";
const IMAGE: &str = "linux-image-";

/// How long lists and a kernel may take to come.
const PATIENCE: Duration = Duration::from_secs(5 * 60);

/// A part of Debian's archive, which mirrors may have at different places.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Area {
    Main,
    Security,
}

/// Debian's archive, as the lists tell that are kept here.
pub struct Archive {
    directory: PathBuf,
    /// What was wrong when the lists were fetched.
    complaint: Option<String>,
}

/// A kernel that the archive has.
#[derive(Debug, PartialEq, Eq)]
pub struct Package {
    /// As `uname -r` tells it: `6.1.0-40-cloud-amd64`.
    pub release: String,
    version: String,
    /// The packages that it consists of.
    parts: Vec<String>,
}

impl Archive {
    /// Fetches the lists of packages into a directory.
    pub fn fetch(directory: &Path) -> Result<Self> {
        for part in ["lists/partial", "cache/archives/partial"] {
            let part = directory.join(part);
            fs::create_dir_all(&part).with_context(|| format!("{} not made", part.display()))?;
        }
        fs::write(directory.join("sources.list"), sources(&mirrors()?)?)?;
        let mut archive = Self { directory: directory.to_owned(), complaint: None };
        let mut update = archive.apt("apt-get");
        // A suite that is gone is no reason to stop: what is missing is told when it is looked for.
        update.args(["-qq", "-o", "APT::Update::Error-Mode=any", "update"]);
        if let Err(error) = step::run("lists of Debian's kernels", &mut update, PATIENCE) {
            let error = error.to_string();
            // The first thing that apt says is the cause of all others.
            let why = error.lines().nth(1).unwrap_or(&error).trim();
            eprintln!("lists of Debian's kernels: not fresh ({why})");
            archive.complaint = Some(why.to_owned());
        }
        Ok(archive)
    }

    /// The newest kernel of a series.
    pub fn find(&self, series: &Series) -> Result<Package> {
        let names = self.ask(&["pkgnames", IMAGE])?;
        let series_here: BTreeSet<(u32, u32)> = names.lines().filter_map(series_of).collect();
        let Some(newest) = series_here.last() else {
            let why = self.complaint.as_deref().unwrap_or("apt-get update brought no lists");
            bail!("no kernels to be had: Debian's archive is not reached ({why})");
        };
        let wanted = match series {
            Series::Newest => *newest,
            Series::Of(major, minor) => (*major, *minor),
        };
        let of_series: Vec<&str> =
            names.lines().filter(|name| series_of(name) == Some(wanted)).collect();
        if of_series.is_empty() {
            let all: Vec<String> =
                series_here.iter().map(|(major, minor)| format!("{major}.{minor}")).collect();
            bail!("Debian has no kernel {series}; it has {}", all.join(" "));
        }
        let stanzas = self.ask(&[&["show"], &of_series[..]].concat())?;
        newest_of(&stanzas, is_newer).with_context(|| format!("apt-cache shows no kernel {series}"))
    }

    /// Downloads a kernel's packages into a directory.
    pub fn download(&self, package: &Package, into: &Path) -> Result<()> {
        let parts: Vec<String> =
            package.parts.iter().map(|part| format!("{part}={}", package.version)).collect();
        let mut apt = self.apt("apt-get");
        apt.args(["-qq", "download"]).args(&parts).current_dir(into);
        step::run(&format!("kernel {}", package.release), &mut apt, PATIENCE)
    }

    fn ask(&self, args: &[&str]) -> Result<String> {
        let output = self.apt("apt-cache").args(args).output();
        said(output.context("apt-cache did not start")?)
    }

    /// A tool of apt that works on the lists here alone.
    fn apt(&self, tool: &str) -> Command {
        let directory = self.directory.display();
        let mut command = Command::new(tool);
        for option in [
            format!("Dir::Etc::SourceList={directory}/sources.list"),
            "Dir::Etc::SourceParts=/dev/null".to_owned(),
            format!("Dir::State::Lists={directory}/lists"),
            format!("Dir::Cache={directory}/cache"),
            "Dir::State::status=/dev/null".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
            "APT::Sandbox::User=root".to_owned(),
            "APT::Architecture=amd64".to_owned(),
        ] {
            command.args(["-o", &option]);
        }
        command
    }
}

/// The mirrors that the machine's apt is set up with.
fn mirrors() -> Result<Vec<(Area, String)>> {
    let format = "$(CREATED_BY) $(LABEL) $(REPO_URI)";
    let output = Command::new("apt-get").args(["indextargets", "--format", format]).output();
    let targets = said(output.context("apt-get did not start; kernels come from Debian by apt")?)?;
    Ok(targets.lines().filter_map(mirror).collect())
}

fn mirror(target: &str) -> Option<(Area, String)> {
    let mut words = target.split_whitespace();
    let area = match (words.next()?, words.next()?) {
        ("Packages", "Debian") => Area::Main,
        ("Packages", "Debian-Security") => Area::Security,
        _ => return None,
    };
    Some((area, words.next()?.to_owned()))
}

/// A `sources.list` of all suites on these mirrors.
fn sources(mirrors: &[(Area, String)]) -> Result<String> {
    SUITES
        .iter()
        .map(|(area, suite)| {
            let found = mirrors.iter().find(|(of, _)| of == area);
            let (_, mirror) = found.context(
                "apt knows no mirror of Debian with its security archive, which kernels come from; \
                 on a Debian that has them, run: apt-get update",
            )?;
            Ok(format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n"))
        })
        .collect()
}

fn said(output: Output) -> Result<String> {
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "apt: {}", error.trim().lines().next().unwrap_or("failed"));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn is_newer(version: &str, than: &str) -> bool {
    let compare = ["--compare-versions", version, "gt", than];
    Command::new("dpkg").args(compare).status().is_ok_and(|status| status.success())
}

/// `linux-image-6.1.0-40-cloud-amd64` is of series 6.1.
fn series_of(package: &str) -> Option<(u32, u32)> {
    let version = package.strip_prefix(IMAGE)?.strip_suffix(FLAVOUR)?;
    let mut numbers = version.split(['.', '-', '+']);
    let (major, minor) = (numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?);
    // Packages that stand for the newest of a series have no third number; others are of another
    // flavour as well (`6.1.0-40-rt`).
    numbers.next()?.parse::<u32>().ok()?;
    numbers
        .all(|part| part.starts_with(|c: char| c.is_ascii_digit()) || is_release(part))
        .then_some((major, minor))
}

/// `deb13`, `bpo`: what kernels of a release of Debian, or its backports, have in their name.
fn is_release(part: &str) -> bool {
    part.starts_with("deb") || part.starts_with("bpo")
}

/// The newest kernel of those that `apt-cache show` tells.
fn newest_of(stanzas: &str, newer: impl Fn(&str, &str) -> bool) -> Option<Package> {
    let mut newest: Option<Package> = None;
    for stanza in stanzas.split("\n\n") {
        let field = |name: &str| {
            stanza.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
        };
        let (Some(name), Some(version)) = (field("Package"), field("Version")) else { continue };
        if newest.as_ref().is_some_and(|newest| !newer(version, &newest.version)) {
            continue;
        }
        let release = name.strip_prefix(IMAGE)?.to_owned();
        // From 6.19 on the package of the image only depends on those that have it.
        let binary = format!("linux-binary-{release} ");
        let split = field("Depends").is_some_and(|depends| depends.contains(&binary));
        let parts = if split {
            ["base", "binary", "modules"].map(|part| format!("linux-{part}-{release}")).into()
        } else {
            vec![name.to_owned()]
        };
        newest = Some(Package { release, version: version.to_owned(), parts });
    }
    newest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_told_by_the_names_of_packages() {
        for (package, series) in [
            ("linux-image-5.10.0-36-cloud-amd64", Some((5, 10))),
            ("linux-image-6.1.0-40-cloud-amd64", Some((6, 1))),
            ("linux-image-6.12.43+deb12-cloud-amd64", Some((6, 12))),
            ("linux-image-7.3.2+deb13-cloud-amd64", Some((7, 3))),
            ("linux-image-6.12.9+bpo-cloud-amd64", Some((6, 12))),
            ("linux-image-cloud-amd64", None),
            ("linux-image-6.1-cloud-amd64", None),
            ("linux-image-6.1.0-40-amd64", None),
            ("linux-image-6.1.0-40-rt-amd64", None),
            ("linux-image-6.1.0-40-cloud-amd64-unsigned", None),
            ("linux-image-6.1.0-40-cloud-amd64-dbg", None),
        ] {
            assert_eq!(series_of(package), series, "{package}");
        }
    }

    #[test]
    fn the_newest_package_of_a_series_is_taken_with_its_parts() {
        let stanzas = "\
Package: linux-image-7.3.1+deb13-cloud-amd64
Version: 7.3.1-1~bpo13+1
Depends: kmod, linux-binary-7.3.1+deb13-cloud-amd64 (= 7.3.1-1~bpo13+1)

Package: linux-image-7.3.2+deb13-cloud-amd64
Version: 7.3.2-1~bpo13+1
Depends: kmod, linux-binary-7.3.2+deb13-cloud-amd64 (= 7.3.2-1~bpo13+1)

Package: linux-image-7.3.0+deb13-cloud-amd64
Version: 7.3.0-1~bpo13+1
";
        let newest = newest_of(stanzas, |version, than| version > than).unwrap();
        assert_eq!(newest.release, "7.3.2+deb13-cloud-amd64");
        assert_eq!(newest.version, "7.3.2-1~bpo13+1");
        assert_eq!(newest.parts.len(), 3, "{newest:?}");
        assert_eq!(newest.parts[1], "linux-binary-7.3.2+deb13-cloud-amd64");

        let whole =
            "Package: linux-image-6.1.0-40-cloud-amd64\nVersion: 6.1.153-1\nDepends: kmod\n";
        let package = newest_of(whole, |_, _| true).unwrap();
        assert_eq!(package.parts, ["linux-image-6.1.0-40-cloud-amd64"]);
        assert_eq!(newest_of("", |_, _| true), None);
    }

    #[test]
    fn suites_are_looked_for_on_the_machines_mirrors() {
        let main = mirror("Packages Debian http://mirror.example/debian/").unwrap();
        let security = mirror("Packages Debian-Security http://mirror.example/security/").unwrap();
        assert_eq!(mirror("DEP-11 Debian http://mirror.example/debian/"), None);
        assert_eq!(mirror("Packages Docker http://elsewhere.example/"), None);
        let sources = sources(&[main, security]).unwrap();
        assert!(sources.contains("http://mirror.example/debian/ trixie-backports main"));
        assert!(sources.contains("http://mirror.example/security/ bullseye-security main"));
        assert!(super::sources(&[]).is_err());
    }
}
