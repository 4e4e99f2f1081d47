//! A set of namespaces that is torn down together, however its process ends.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Read,
    os::unix::process::CommandExt,
    path::Path,
    process::{self, Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result};

use crate::{Netns, command, topology};

/// Waits for the end of its input, then kills what runs in the namespaces and cgroups whose names
/// begin with its argument, and deletes them. As a process of its own it outlives a panic, a Ctrl-C and a
/// SIGKILL of the process that owns the lab.
const TEARDOWN: &str = r#"
trap '' INT TERM HUP
cat >/dev/null
for path in /run/netns/"$1"-*; do
    [ -e "$path" ] || continue
    name=${path##*/}
    for pid in $(ip netns pids "$name"); do kill -9 "$pid" 2>/dev/null; done
    ip netns del "$name"
done
# From the innermost on. Whoever was killed leaves a moment later.
find /sys/fs/cgroup -depth -type d -path "*/$1-*" | while read -r cgroup; do
    kill -9 $(cat "$cgroup/cgroup.procs") 2>/dev/null
    for _ in $(seq 100); do
        rmdir "$cgroup" 2>/dev/null && continue 2
        sleep 0.05
    done
    rmdir "$cgroup"
done
"#;

/// One lab of this machine at a time is traced: a trace sees the packets of every namespace.
const TURN: &str = "/run/pathtrace-lab.lock";

/// A set of network namespaces.
#[derive(Debug)]
pub struct Lab {
    prefix: String,
    spaces: BTreeMap<String, Netns>,
    /// Tears the lab down once its input ends. A kept lab has none.
    keeper: Option<Child>,
    _turn: Option<File>,
}

impl Lab {
    /// The standard topology (see [`topology::standard`]) under names of its own. Waits until no
    /// other lab made so is there.
    pub fn standard() -> Result<Self> {
        let mut lab = Self::alone()?;
        topology::standard(&mut lab)?;
        Ok(lab)
    }

    /// A lab without namespaces yet, as [`Lab::new`], once no other of these is there: one to be
    /// traced.
    pub fn alone() -> Result<Self> {
        command::require_root()?;
        let turn = File::create(TURN).with_context(|| format!("{TURN} not created"))?;
        turn.lock().with_context(|| format!("{TURN} not locked"))?;
        let mut lab = Self::new()?;
        lab._turn = Some(turn);
        Ok(lab)
    }

    /// A lab without namespaces yet, under names of its own.
    pub fn new() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        command::require_root()?;
        remove_stale();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("pt{}x{count}", process::id());
        let keeper = teardown(&prefix, Stdio::piped())?;
        Ok(Self { prefix, spaces: BTreeMap::new(), keeper: Some(keeper), _turn: None })
    }

    /// A lab that outlives this process, under a fixed name: found again by [`Lab::find`],
    /// removed by [`Lab::remove`].
    pub fn kept(prefix: &str) -> Result<Self> {
        command::require_root()?;
        Ok(Self { prefix: prefix.into(), spaces: BTreeMap::new(), keeper: None, _turn: None })
    }

    /// The lab of this name, as far as it exists.
    pub fn find(prefix: &str) -> Result<Option<Self>> {
        let mut lab = Self::kept(prefix)?;
        for name in names() {
            if let Some(short) = name.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('-')) {
                lab.spaces.insert(short.into(), Netns::open(&name)?);
            }
        }
        Ok((!lab.spaces.is_empty()).then_some(lab))
    }

    /// Removes every namespace of the lab of this name, and what runs in them.
    pub fn remove(prefix: &str) -> Result<()> {
        finish(teardown(prefix, Stdio::null())?)
    }

    /// What its namespaces' names begin with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Makes a namespace, `short` in this lab.
    pub fn add(&mut self, short: &str) -> Result<&Netns> {
        let netns = Netns::create(&format!("{}-{short}", self.prefix))?;
        Ok(self.spaces.entry(short.into()).or_insert(netns))
    }

    /// Takes in a namespace that something else has made, or another way into one, as `short`.
    pub(crate) fn adopt(&mut self, short: &str, netns: Netns) -> &Netns {
        self.spaces.insert(short.into(), netns);
        &self.spaces[short]
    }

    /// Deletes a namespace and with it its interfaces.
    pub fn delete(&mut self, short: &str) -> Result<()> {
        if let Some(netns) = self.spaces.remove(short) {
            command::run("ip", &["netns", "del", netns.name()])?;
        }
        Ok(())
    }

    /// The namespace `short` of this lab.
    pub fn netns(&self, short: &str) -> Result<&Netns> {
        self.spaces.get(short).with_context(|| {
            let have: Vec<_> = self.spaces.keys().map(String::as_str).collect();
            format!("no {short} in the lab; there are: {}", have.join(" "))
        })
    }

    /// Its namespaces, by what they are called in this lab.
    pub fn spaces(&self) -> impl Iterator<Item = (&str, &Netns)> {
        self.spaces.iter().map(|(short, netns)| (short.as_str(), netns))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.spaces.clear();
        if let Some(keeper) = self.keeper.take()
            && let Err(error) = finish(keeper)
        {
            eprintln!("{error:#}");
        }
    }
}

/// Starts [`TEARDOWN`]; a process group of its own keeps a terminal's Ctrl-C from it.
fn teardown(prefix: &str, input: Stdio) -> Result<Child> {
    Command::new("sh")
        .args(["-c", TEARDOWN, "pathtrace-lab", prefix])
        .stdin(input)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .context("sh did not start")
}

fn finish(mut keeper: Child) -> Result<()> {
    drop(keeper.stdin.take());
    let mut said = String::new();
    if let Some(mut stderr) = keeper.stderr.take() {
        stderr.read_to_string(&mut said)?;
    }
    keeper.wait()?;
    let said = said.trim().replace('\n', "; ");
    anyhow::ensure!(said.is_empty(), "the lab is not torn down whole: {said}");
    Ok(())
}

/// Removes labs whose process is gone without a trace of its keeper, say after a power cut of a
/// virtual machine that was saved and resumed.
fn remove_stale() {
    for name in names() {
        if let Some((prefix, pid)) = owner(&name)
            && !Path::new("/proc").join(pid).exists()
        {
            let _ = Lab::remove(prefix);
        }
    }
}

/// `pt12x0-host` is of the lab `pt12x0`, of process 12.
fn owner(name: &str) -> Option<(&str, &str)> {
    let (prefix, _) = name.split_once('-')?;
    let (pid, count) = prefix.strip_prefix("pt")?.split_once('x')?;
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (number(pid) && number(count)).then_some((prefix, pid))
}

fn names() -> Vec<String> {
    fs::read_dir("/run/netns")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::owner;

    #[test]
    fn knows_whose_a_namespace_is() {
        assert_eq!(owner("pt12x0-host"), Some(("pt12x0", "12")));
        for other in ["pt12-host", "ptx0-host", "pathtrace-host", "pt1x-c1", "c1"] {
            assert_eq!(owner(other), None, "{other}");
        }
    }
}
