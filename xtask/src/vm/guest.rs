//! A guest: QEMU, the daemon that shares the root with it, and the ports by which it tells.

use std::{
    env, fs,
    io::{self, Read, Write},
    net::Shutdown,
    os::{fd::AsRawFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    process::{self, Child, Command, Stdio},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
        mpsc::{self, RecvTimeoutError, Sender},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::io::{FdFlags, fcntl_setfd};

use super::{initramfs, kernel::Kernel};
use crate::setup;

/// Exit status of a guest that was ended after its time.
const TIMED_OUT: u8 = 124;
/// Exit status of a guest that did not get as far as the command.
pub const NOT_BOOTED: u8 = 125;
/// Exit status of a guest whose kernel died under the command.
const DIED: u8 = 126;

/// The kernel's arguments: quiet, and an end of it when something goes wrong. Emulation is slow and
/// not in time, which is not the kernel's fault.
const ARGUMENTS: &str = "console=ttyS0 quiet loglevel=5 panic=-1 oops=panic mitigations=off \
    tsc=reliable nowatchdog audit=0 rcupdate.rcu_cpu_stall_suppress=1";

/// How long the daemon may take to begin.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a guest is to do, and with what.
pub struct Job {
    /// A script for `sh`, run as root in the current directory.
    pub script: String,
    /// When it is ended.
    pub timeout: Duration,
    /// Processors.
    pub cpus: u32,
    /// Memory, MiB.
    pub mem: u32,
    /// Whether to use KVM instead of emulation.
    pub kvm: bool,
}

/// What a command prints to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

impl Stream {
    /// Prints to this process's own.
    pub fn pass_on(self, bytes: &[u8]) -> Result<()> {
        match self {
            Stream::Out => {
                let mut out = io::stdout().lock();
                out.write_all(bytes)?;
                out.flush()?;
            }
            Stream::Err => io::stderr().lock().write_all(bytes)?,
        }
        Ok(())
    }
}

/// Takes what a command in a guest prints.
pub trait Sink {
    /// Takes some bytes as they come.
    fn take(&mut self, stream: Stream, bytes: &[u8]) -> Result<()>;
    /// The guest is run again: what was taken does not count.
    fn begin_again(&mut self);
}

/// How a guest ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The command ended with this status.
    Exited(u8),
    /// It took too long.
    TimedOut,
    /// The guest's kernel died under it.
    Died,
    /// It was never begun.
    NotBooted,
}

impl Outcome {
    /// The exit status that tells it.
    pub fn status(self) -> u8 {
        match self {
            Outcome::Exited(status) => status,
            Outcome::TimedOut => TIMED_OUT,
            Outcome::Died => DIED,
            Outcome::NotBooted => NOT_BOOTED,
        }
    }
}

/// A guest that is no more.
pub struct Ended {
    /// How it ended.
    pub outcome: Outcome,
    /// What its kernel said.
    pub console: String,
    /// What QEMU said.
    pub emulator: String,
}

/// A directory for one guest's files, gone with it.
struct Work(PathBuf);

impl Work {
    fn new() -> Result<Self> {
        let parent = PathBuf::from("/run/pathtrace-vm");
        fs::create_dir_all(&parent).with_context(|| format!("{} not made", parent.display()))?;
        // A process that was killed has left its own.
        for entry in fs::read_dir(&parent)?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let pid = name.split('-').next().unwrap_or_default();
            if !Path::new("/proc").join(pid).exists() {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        // Several guests of one process run at the same time.
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let work = parent.join(format!("{}-{count}", process::id()));
        let _ = fs::remove_dir_all(&work);
        fs::create_dir(&work).with_context(|| format!("{} not made", work.display()))?;
        Ok(Self(work))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn text(&self, name: &str) -> String {
        let bytes = fs::read(self.file(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Held while a process is started: the sockets that are for one guest must not get into what is
/// started for another at the same time, or they would not close with their guest.
fn one_at_a_time() -> MutexGuard<'static, ()> {
    static STARTING: Mutex<()> = Mutex::new(());
    STARTING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A process that ends with its owner.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Boots a kernel, runs a job, and hands over what it prints.
pub fn run(kernel: &Kernel, job: &Job, sink: &mut dyn Sink) -> Result<Ended> {
    let work = Work::new()?;
    let busybox = setup::find("busybox").context("no busybox; install busybox-static")?;
    let archive = initramfs::build(kernel, &busybox, &script(&job.script)?)
        .with_context(|| format!("kernel {}", kernel.release()))?;
    fs::write(work.file("initrd"), archive)?;
    let _daemon = share_root(&work)?;

    let mut command = qemu(kernel, job, &work)?;
    let (sender, said) = mpsc::channel();
    let (starting, mut guests_ends) = (one_at_a_time(), Vec::new());
    for port in [Port::Out, Port::Err, Port::Control] {
        let (ours, guests) = UnixStream::pair().context("no pair of sockets")?;
        fcntl_setfd(&guests, FdFlags::empty()).context("a socket is not handed on")?;
        let name = port.name();
        command
            .arg("-chardev")
            .arg(format!("socket,id={name},fd={}", guests.as_raw_fd()))
            .arg("-device")
            .arg(format!("virtserialport,chardev={name},name={name}"));
        let sender = sender.clone();
        thread::spawn(move || listen(&ours, port, &sender));
        guests_ends.push(guests);
    }
    drop(sender);
    let start = Instant::now();
    let emulator = command.spawn().map(Running).context("qemu-system-x86_64 did not start")?;
    drop((guests_ends, starting));

    let mut control = String::new();
    let timed_out = loop {
        match said.recv_timeout(job.timeout.saturating_sub(start.elapsed())) {
            Ok((Port::Control, bytes)) => control.push_str(&String::from_utf8_lossy(&bytes)),
            Ok((Port::Out, bytes)) => sink.take(Stream::Out, &bytes)?,
            Ok((Port::Err, bytes)) => sink.take(Stream::Err, &bytes)?,
            Err(RecvTimeoutError::Timeout) => break true,
            Err(RecvTimeoutError::Disconnected) => break false,
        }
    };
    drop(emulator);
    let outcome = if timed_out { Outcome::TimedOut } else { outcome(&control) };
    Ok(Ended { outcome, console: work.text("console"), emulator: work.text("qemu.log") })
}

/// Quotes a word for the shell.
pub fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// What the guest's shell runs: the job's script where this process is.
fn script(job: &str) -> Result<String> {
    let here = env::current_dir().context("no current directory")?;
    Ok(format!(
        "ulimit -l unlimited
export HOME=/root TERM=dumb USER=root LANG=C.UTF-8
cd {} || exit {NOT_BOOTED}
{job}
",
        quote(&here.to_string_lossy())
    ))
}

/// What came by the control port: `up`, then `exit STATUS`.
fn outcome(control: &str) -> Outcome {
    let mut lines = control.lines();
    if lines.next() != Some("up") {
        return Outcome::NotBooted;
    }
    let exit = lines.find_map(|line| line.strip_prefix("exit ")?.parse().ok());
    exit.map_or(Outcome::Died, Outcome::Exited)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Port {
    Out,
    Err,
    Control,
}

impl Port {
    /// As the guest knows it.
    fn name(self) -> &'static str {
        match self {
            Port::Out => "out",
            Port::Err => "err",
            Port::Control => "ctl",
        }
    }
}

fn listen(mut ours: &UnixStream, port: Port, to: &Sender<(Port, Vec<u8>)>) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(length @ 1..) = ours.read(&mut buffer) {
        let bytes = buffer.get(..length).unwrap_or_default().to_owned();
        if to.send((port, bytes)).is_err() {
            break;
        }
    }
    let _ = ours.shutdown(Shutdown::Both);
}

/// A command that is killed when this process ends, however that ends.
fn tied(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program).stdin(Stdio::null());
    command
}

/// Starts the daemon that shares this machine's root, which it cannot write even if asked to.
fn share_root(work: &Work) -> Result<Running> {
    let daemon = setup::find("virtiofsd").context(
        "no virtiofsd, which shares the root with guests; install virtiofsd \
         (Debian 12: qemu-system-common)",
    )?;
    let (socket, root, log) = (work.file("fs.sock"), work.file("root"), work.file("fs.log"));
    fs::create_dir(&root)?;
    let starting = one_at_a_time();
    // The mounts are this daemon's alone.
    let script = r#"mount --make-rprivate / && mount --bind / "$2" && mount -o remount,bind,ro "$2" &&
        exec "$0" --socket-path="$1" -o source="$2" -o sandbox=chroot -o cache=always -o log_level=err"#;
    let child = tied(Path::new("unshare"))
        .args(["--mount", "sh", "-c", script])
        .args([&daemon, &socket, &root])
        .stdout(Stdio::null())
        .stderr(fs::File::create(&log)?)
        .spawn();
    drop(starting);
    let mut running = child.map(Running).context("setpriv did not start; install util-linux")?;
    let start = Instant::now();
    while !socket.exists() {
        if running.0.try_wait()?.is_some() || start.elapsed() > PATIENCE {
            let said = work.text("fs.log");
            bail!("{} did not begin: {}", daemon.display(), said.trim().replace('\n', "; "));
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(running)
}

fn qemu(kernel: &Kernel, job: &Job, work: &Work) -> Result<Command> {
    let program = setup::find("qemu-system-x86_64")
        .context("no qemu-system-x86_64; install qemu-system-x86")?;
    let (accelerator, processor) = if job.kvm { ("kvm", "host") } else { ("tcg", "max") };
    let mut command = tied(&program);
    command
        .args(["-nodefaults", "-no-user-config", "-no-reboot"])
        .args(["-display", "none", "-monitor", "none", "-nic", "none"])
        .args(["-machine", "q35,memory-backend=mem", "-accel", accelerator, "-cpu", processor])
        .args(["-smp", &job.cpus.to_string(), "-m", &job.mem.to_string()])
        .arg("-object")
        .arg(format!("memory-backend-memfd,id=mem,size={}M,share=on", job.mem))
        .arg("-kernel")
        .arg(kernel.image())
        .arg("-initrd")
        .arg(work.file("initrd"))
        .args(["-append", ARGUMENTS])
        .arg("-serial")
        .arg(format!("file:{}", work.file("console").display()))
        .arg("-chardev")
        .arg(format!("socket,id=fs,path={}", work.file("fs.sock").display()))
        .args(["-device", "vhost-user-fs-pci,chardev=fs,tag=root,queue-size=1024"])
        .args(["-device", "virtio-serial-pci"])
        .stdout(Stdio::null())
        .stderr(fs::File::create(work.file("qemu.log"))?);
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_a_shell() {
        assert_eq!(quote("a b"), "'a b'");
        assert_eq!(quote("don't $x"), r"'don'\''t $x'");
    }

    #[test]
    fn a_guest_tells_how_it_ended() {
        assert_eq!(outcome(""), Outcome::NotBooted);
        assert_eq!(outcome("up\n"), Outcome::Died);
        assert_eq!(outcome("up\nexit 3\n"), Outcome::Exited(3));
        assert_eq!(outcome("up\nexi"), Outcome::Died);
        assert_eq!(Outcome::Exited(7).status(), 7);
        assert_eq!(Outcome::TimedOut.status(), 124);
    }
}
