//! The few commands of `bpf(2)` for what aya does not have, or needs more for: loading a netfilter program
//! and linking it to a hook (`BPF_LINK_CREATE` with `struct { pf, hooknum, priority, flags }`, Linux 6.4),
//! programs for tracepoints and kernel functions and what attaches them, a program's missed runs, taking a
//! key out of a map in one step.

use std::{
    collections::HashMap,
    ffi::CString,
    io,
    mem::{size_of, zeroed},
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use aya::Pod;
use aya_obj::generated::{
    BPF_F_RDONLY_PROG, PERF_EVENT_IOC_ENABLE, PERF_EVENT_IOC_SET_BPF, bpf_attr, bpf_btf_info,
    bpf_cmd, bpf_insn, bpf_map_type, bpf_prog_info, perf_event_attr,
};
use rustix::process::{Resource, Rlimit, setrlimit};

/// `BPF_PROG_TYPE_NETFILTER` (Linux 6.4).
const PROG_TYPE_NETFILTER: u32 = 32;
/// `BPF_NETFILTER` of `enum bpf_attach_type` (Linux 6.4).
const ATTACH_TYPE_NETFILTER: u32 = 45;
/// `BPF_PROG_TYPE_KPROBE`.
const PROG_TYPE_KPROBE: u32 = 2;
/// `BPF_TRACE_KPROBE_MULTI` (Linux 5.18).
const ATTACH_TYPE_KPROBE_MULTI: u32 = 42;
/// `BPF_PROG_TYPE_RAW_TRACEPOINT`.
const PROG_TYPE_RAW_TRACEPOINT: u32 = 17;
/// `BPF_PROG_TYPE_TRACING`.
const PROG_TYPE_TRACING: u32 = 26;
/// `BPF_TRACE_RAW_TP`.
const ATTACH_TYPE_TRACEPOINT: u32 = 23;
/// `BPF_TRACE_FENTRY`.
const ATTACH_TYPE_FENTRY: u32 = 24;
/// `BPF_TRACE_FEXIT`.
const ATTACH_TYPE_FEXIT: u32 = 25;
/// Where the kernel describes the event source of kprobes.
const KPROBE_SOURCE: &str = "/sys/bus/event_source/devices/kprobe";
/// `PERF_FLAG_FD_CLOEXEC`.
const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 8;
/// Bytes of the verifier's log that are kept.
const LOG_BYTES: usize = 1 << 20;

/// Why a program was refused.
#[derive(Debug, thiserror::Error)]
#[error("{error}{}", log_tail(.log))]
pub struct LoadError {
    /// What the kernel answered. It is in what this error says, and so not its source.
    pub error: io::Error,
    /// The verifier's log.
    pub log: String,
}

fn log_tail(log: &str) -> String {
    let lines: Vec<_> = log.lines().rev().take(12).collect();
    lines.into_iter().rev().map(|line| format!("\n    {line}")).collect()
}

/// A kernel function, by its BTF.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// Number of its `BTF_KIND_FUNC`.
    pub id: u32,
    /// The BTF object of the module that it is in; none for the kernel image.
    pub object: Option<BorrowedFd<'a>>,
}

/// What the kernel is to take a program for.
#[derive(Clone, Copy, Debug)]
pub enum Kind<'a> {
    /// A netfilter program.
    Netfilter,
    /// Runs when a kernel function is entered.
    Fentry(Target<'a>),
    /// Runs when a kernel function returns.
    Fexit(Target<'a>),
    /// For perf events of kprobes and kretprobes.
    Kprobe,
    /// For fprobes, many at once.
    KprobeMulti,
    /// For a tracepoint of the kernel image, with types of its arguments: the number of its
    /// `BTF_KIND_TYPEDEF`.
    Tracepoint(u32),
    /// For a tracepoint, without types of its arguments.
    RawTracepoint,
    /// A program of tc, which can be run on request.
    #[cfg(test)]
    Classifier,
}

impl Kind<'_> {
    /// `prog_type` and `expected_attach_type`.
    fn numbers(self) -> (u32, u32) {
        match self {
            Kind::Netfilter => (PROG_TYPE_NETFILTER, ATTACH_TYPE_NETFILTER),
            Kind::Fentry(_) => (PROG_TYPE_TRACING, ATTACH_TYPE_FENTRY),
            Kind::Fexit(_) => (PROG_TYPE_TRACING, ATTACH_TYPE_FEXIT),
            Kind::Kprobe => (PROG_TYPE_KPROBE, 0),
            Kind::KprobeMulti => (PROG_TYPE_KPROBE, ATTACH_TYPE_KPROBE_MULTI),
            Kind::Tracepoint(_) => (PROG_TYPE_TRACING, ATTACH_TYPE_TRACEPOINT),
            Kind::RawTracepoint => (PROG_TYPE_RAW_TRACEPOINT, 0),
            // `BPF_PROG_TYPE_SCHED_CLS`.
            #[cfg(test)]
            Kind::Classifier => (3, 0),
        }
    }
}

/// Loads a program.
///
/// # Errors
/// With the verifier's log when it rejects the program.
pub fn load(name: &str, instructions: &[bpf_insn], kind: Kind<'_>) -> Result<OwnedFd, LoadError> {
    // Without a log first: writing one costs far more than verifying. But its last lines, which tell
    // how much there was to verify.
    let mut statistics = vec![0; if log::log_enabled!(log::Level::Debug) { 1024 } else { 0 }];
    match prog_load(name, instructions, kind, LOG_STATISTICS, &mut statistics) {
        Ok(fd) => {
            if !statistics.is_empty() {
                log::debug!("program {name}: {}", text_of(&statistics).replace('\n', ", "));
            }
            Ok(fd)
        }
        // Not the verifier's refusal: the mechanism's.
        Err(error) if is_eperm(&error) => Err(LoadError { error, log: String::new() }),
        Err(error) => {
            let mut log = vec![0; LOG_BYTES];
            // What the kernel answers now may only be that the log has no room (before Linux 6.4).
            prog_load(name, instructions, kind, LOG_STEPS, &mut log)
                .map_err(|_| LoadError { error, log: text_of(&log) })
        }
    }
}

/// Before Linux 5.11 maps and programs count as locked memory, of which a process may have little. Where it cannot
/// be lifted, the kernel refuses what is too much, and that is told.
pub fn lift_memory_limit() {
    let unlimited = Rlimit { current: None, maximum: None };
    if let Err(error) = setrlimit(Resource::Memlock, unlimited) {
        log::debug!("the limit of locked memory stays: {error}");
    }
}

/// The kernel's own, which it lets out all the same: where trampolines are refused, and where a map has
/// no such operation (linux/errno.h).
pub const ENOTSUPP: i32 = 524;

/// `BPF_LOG_LEVEL1` and `BPF_LOG_STATS` of linux/bpf_verifier.h.
const LOG_STEPS: u32 = 1;
const LOG_STATISTICS: u32 = 4;

/// What a log says.
fn text_of(log: &[u8]) -> String {
    let end = log.iter().position(|b| *b == 0).unwrap_or(log.len());
    String::from_utf8_lossy(&log[..end]).trim_end().to_owned()
}

fn is_eperm(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EPERM)
}

/// Loads a program that does nothing, to find out whether the kernel takes this kind.
///
/// # Errors
/// What the kernel says.
pub fn try_load(kind: Kind<'_>) -> io::Result<OwnedFd> {
    // r0 = 0; exit
    let mut instructions = [bpf_insn {
        code: 0xb7,
        _bitfield_align_1: [],
        _bitfield_1: bpf_insn::new_bitfield_1(0, 0),
        off: 0,
        imm: 0,
    }; 2];
    instructions[1].code = 0x95;
    prog_load("pathtrace_try", &instructions, kind, 0, &mut [])
}

fn prog_load(
    name: &str,
    instructions: &[bpf_insn],
    kind: Kind<'_>,
    log_level: u32,
    log: &mut [u8],
) -> io::Result<OwnedFd> {
    // Helpers that are for GPL-compatible programs only are used: the object is dual licensed.
    let license = c"Dual MIT/GPL";
    // SAFETY: bpf_attr is a C union of integers, for which all zeros is a value.
    let mut attr: bpf_attr = unsafe { zeroed() };
    // SAFETY: zeros are valid for every member of the union.
    let load = unsafe { &mut attr.__bindgen_anon_3 };
    (load.prog_type, load.expected_attach_type) = kind.numbers();
    match kind {
        Kind::Tracepoint(id) => load.attach_btf_id = id,
        Kind::Fentry(target) | Kind::Fexit(target) => {
            load.attach_btf_id = target.id;
            load.__bindgen_anon_1.attach_btf_obj_fd =
                target.object.map_or(0, |object| object.as_raw_fd() as u32);
        }
        _ => {}
    }
    load.insns = instructions.as_ptr() as u64;
    load.insn_cnt = u32::try_from(instructions.len()).map_err(io::Error::other)?;
    load.license = license.as_ptr() as u64;
    // 15 bytes and a zero, as `BPF_OBJ_NAME_LEN` says.
    let name = CString::new(name).map_err(io::Error::other)?;
    for (to, from) in load.prog_name.iter_mut().zip(name.as_bytes().iter().take(15)) {
        *to = *from as _;
    }
    if !log.is_empty() {
        load.log_level = log_level;
        load.log_buf = log.as_mut_ptr() as u64;
        load.log_size = u32::try_from(log.len()).map_err(io::Error::other)?;
    }
    // SAFETY: `attr` points at instructions, licence and log, which outlive the call.
    unsafe { bpf_fd(bpf_cmd::BPF_PROG_LOAD, &mut attr) }
}

/// One observer's place at a netfilter hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetfilterPlace {
    /// `NFPROTO_IPV4` or `NFPROTO_IPV6`.
    pub pf: u32,
    /// `enum nf_inet_hooks`.
    pub hook: u32,
    /// Where among the hook's functions. The two extremes are refused (`-ERANGE`).
    pub priority: i32,
}

/// Links a netfilter program into the hook of the *calling thread's* network namespace. The link
/// goes with the descriptor.
///
/// # Errors
/// `EBUSY` when something sits at that very priority (`nf_hook_entries_grow`), `EINVAL` on kernels
/// before 6.4, `EPERM` without the capabilities.
pub fn link_netfilter(program: BorrowedFd<'_>, place: NetfilterPlace) -> io::Result<OwnedFd> {
    // SAFETY: as in `prog_load`.
    let mut attr: bpf_attr = unsafe { zeroed() };
    // SAFETY: zeros are valid for every member of the union.
    let link = unsafe { &mut attr.link_create };
    link.__bindgen_anon_1.prog_fd = program.as_raw_fd() as u32;
    link.attach_type = ATTACH_TYPE_NETFILTER;
    link.__bindgen_anon_3.netfilter.pf = place.pf;
    link.__bindgen_anon_3.netfilter.hooknum = place.hook;
    link.__bindgen_anon_3.netfilter.priority = place.priority;
    // SAFETY: `attr` holds no pointers.
    unsafe { bpf_fd(bpf_cmd::BPF_LINK_CREATE, &mut attr) }
}

/// Attaches a program that was loaded for a tracepoint with types, or for entering or leaving a kernel
/// function. The link goes with the descriptor.
///
/// # Errors
/// What the kernel says: `ENOTSUPP` (524) where it has no trampolines for this function.
pub fn attach_tracing(program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: as in `prog_load`.
    let mut attr: bpf_attr = unsafe { zeroed() };
    // No name: what it was loaded for.
    attr.raw_tracepoint.prog_fd = program.as_raw_fd() as u32;
    // SAFETY: `attr` holds no pointers.
    unsafe { bpf_fd(bpf_cmd::BPF_RAW_TRACEPOINT_OPEN, &mut attr) }
}

/// Attaches a program to a tracepoint. The link goes with the descriptor.
///
/// # Errors
/// `ENOENT` when there is no such tracepoint.
pub fn attach_raw_tracepoint(program: BorrowedFd<'_>, tracepoint: &str) -> io::Result<OwnedFd> {
    let tracepoint = CString::new(tracepoint).map_err(io::Error::other)?;
    // SAFETY: as in `prog_load`.
    let mut attr: bpf_attr = unsafe { zeroed() };
    attr.raw_tracepoint.name = tracepoint.as_ptr() as u64;
    attr.raw_tracepoint.prog_fd = program.as_raw_fd() as u32;
    // SAFETY: `attr` points at a string that outlives the call.
    unsafe { bpf_fd(bpf_cmd::BPF_RAW_TRACEPOINT_OPEN, &mut attr) }
}

/// Attaches a program to the entries of kernel functions by fprobe. The link goes with the
/// descriptor.
///
/// # Errors
/// `ESRCH` when there is no such function to trace, `EOPNOTSUPP` on kernels that are built without
/// fprobe, and where they have it, `EINVAL` for no function at all
/// (`bpf_kprobe_multi_link_attach`).
pub fn attach_kprobe_multi(program: BorrowedFd<'_>, functions: &[&str]) -> io::Result<OwnedFd> {
    let functions: Vec<_> = functions
        .iter()
        .map(|function| CString::new(*function))
        .collect::<Result<_, _>>()
        .map_err(io::Error::other)?;
    let pointers: Vec<_> = functions.iter().map(|function| function.as_ptr()).collect();
    // Nobody asks for them. But newer kernels print them to whoever reads the descriptor's entry
    // in /proc/PID/fdinfo (`bpf_kprobe_multi_show_fdinfo`), and 6.18 dies of it where there are none.
    let cookies = vec![0u64; pointers.len()];
    // SAFETY: as in `prog_load`.
    let mut attr: bpf_attr = unsafe { zeroed() };
    // SAFETY: zeros are valid for every member of the union.
    let link = unsafe { &mut attr.link_create };
    link.__bindgen_anon_1.prog_fd = program.as_raw_fd() as u32;
    link.attach_type = ATTACH_TYPE_KPROBE_MULTI;
    link.__bindgen_anon_3.kprobe_multi.cnt =
        u32::try_from(pointers.len()).map_err(io::Error::other)?;
    link.__bindgen_anon_3.kprobe_multi.syms = pointers.as_ptr() as u64;
    link.__bindgen_anon_3.kprobe_multi.cookies = cookies.as_ptr() as u64;
    // SAFETY: `attr` points at cookies, and at pointers to strings; all outlive the call.
    unsafe { bpf_fd(bpf_cmd::BPF_LINK_CREATE, &mut attr) }
}

/// The event source of kprobes (`perf_event_open(2)`): unlike tracefs, what it makes goes with the
/// process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KprobeSource {
    number: u32,
    /// What of `config` makes it a kretprobe.
    returning: u64,
}

impl KprobeSource {
    /// That of this kernel.
    ///
    /// # Errors
    /// When it has none: it is built without kprobes.
    pub fn find() -> io::Result<Self> {
        let read = |file| std::fs::read_to_string(format!("{KPROBE_SOURCE}/{file}"));
        let bit = |text: String| text.trim().strip_prefix("config:")?.parse::<u32>().ok();
        Ok(Self {
            number: read("type")?.trim().parse().map_err(io::Error::other)?,
            returning: 1 << bit(read("format/retprobe")?).filter(|bit| *bit < 64).unwrap_or(0),
        })
    }

    /// Attaches a program to the entry of a kernel function, or to its return. It goes with the
    /// descriptor.
    ///
    /// # Errors
    /// `ENOENT` when there is no such function, `EINVAL` when it must not be probed,
    /// `EADDRNOTAVAIL` when there are several of that name.
    pub fn attach(
        self,
        program: BorrowedFd<'_>,
        function: &str,
        returning: bool,
    ) -> io::Result<OwnedFd> {
        let function = CString::new(function).map_err(io::Error::other)?;
        // SAFETY: a C struct of integers, for which all zeros is a value.
        let mut attr: perf_event_attr = unsafe { zeroed() };
        attr.type_ = self.number;
        attr.size = size_of::<perf_event_attr>() as u32;
        attr.config = if returning { self.returning } else { 0 };
        attr.__bindgen_anon_3.kprobe_func = function.as_ptr() as u64;
        // One event for all processes; that it names a CPU is a formality.
        let (pid, cpu, group) = (-1, 0, -1);
        // SAFETY: `attr` points at a string that outlives the call.
        let fd = unsafe {
            let flags = PERF_FLAG_FD_CLOEXEC;
            libc::syscall(libc::SYS_perf_event_open, &raw const attr, pid, cpu, group, flags)
        };
        let fd = i32::try_from(fd).map_err(io::Error::other)?;
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: this call answers with a new descriptor, which nobody else has.
        let event = unsafe { OwnedFd::from_raw_fd(fd) };
        for (request, argument) in
            [(PERF_EVENT_IOC_SET_BPF, program.as_raw_fd()), (PERF_EVENT_IOC_ENABLE, 0)]
        {
            // SAFETY: both requests take a number.
            if unsafe { libc::ioctl(event.as_raw_fd(), request.into(), argument) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(event)
    }
}

/// The BTF objects of modules by name (Linux 5.11): those that `wanted` says.
///
/// # Errors
/// What the kernel says.
pub fn module_types(wanted: impl Fn(&str) -> bool) -> io::Result<HashMap<String, OwnedFd>> {
    let mut objects = HashMap::new();
    let mut id = 0;
    loop {
        // SAFETY: as in `prog_load`.
        let mut attr: bpf_attr = unsafe { zeroed() };
        attr.__bindgen_anon_6.__bindgen_anon_1.start_id = id;
        // SAFETY: `attr` holds no pointers.
        match unsafe { bpf(bpf_cmd::BPF_BTF_GET_NEXT_ID, &mut attr) } {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(objects),
            Err(e) => return Err(e),
        }
        // SAFETY: the command has written this member.
        id = unsafe { attr.__bindgen_anon_6.next_id };
        // SAFETY: as in `prog_load`.
        let mut attr: bpf_attr = unsafe { zeroed() };
        attr.__bindgen_anon_6.__bindgen_anon_1.btf_id = id;
        // SAFETY: `attr` holds no pointers.
        let fd = match unsafe { bpf_fd(bpf_cmd::BPF_BTF_GET_FD_BY_ID, &mut attr) } {
            Ok(fd) => fd,
            // Gone in between.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e),
        };
        if let Some(name) = module_of(fd.as_fd())?.filter(|name| wanted(name)) {
            objects.insert(name, fd);
        }
    }
}

/// The module that a BTF object describes; none for the kernel image and for programs.
fn module_of(object: BorrowedFd<'_>) -> io::Result<Option<String>> {
    // `MODULE_NAME_LEN` is 56.
    let mut name = [0_u8; 64];
    // SAFETY: as in `recursion_misses`.
    let mut info: bpf_btf_info = unsafe { zeroed() };
    info.name = name.as_mut_ptr() as u64;
    info.name_len = name.len() as u32;
    // SAFETY: as in `prog_load`.
    let mut attr: bpf_attr = unsafe { zeroed() };
    attr.info.bpf_fd = object.as_raw_fd() as u32;
    attr.info.info_len = size_of::<bpf_btf_info>() as u32;
    attr.info.info = &raw mut info as u64;
    // SAFETY: `attr` points at `info`, as long as it says, and that at `name`.
    unsafe { bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
    let name = String::from_utf8_lossy(&name[..end]).into_owned();
    Ok((info.kernel_btf != 0 && name != "vmlinux").then_some(name))
}

/// The bytes of a value.
pub fn bytes_of<T: Pod>(value: &T) -> &[u8] {
    // SAFETY: `Pod` promises that every byte of `value` is initialised.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}

/// A map of one value that nobody can change any more: programs that are bound to it have its
/// contents for constants.
///
/// # Errors
/// What the kernel says.
pub fn constant_map(contents: &[u8]) -> io::Result<OwnedFd> {
    // SAFETY: as in `prog_load`.
    let mut attr: bpf_attr = unsafe { zeroed() };
    // SAFETY: zeros are valid for every member of the union.
    let create = unsafe { &mut attr.__bindgen_anon_1 };
    create.map_type = bpf_map_type::BPF_MAP_TYPE_ARRAY as u32;
    create.key_size = size_of::<u32>() as u32;
    create.value_size = u32::try_from(contents.len()).map_err(io::Error::other)?;
    create.max_entries = 1;
    create.map_flags = BPF_F_RDONLY_PROG;
    // SAFETY: `attr` holds no pointers.
    let map = unsafe { bpf_fd(bpf_cmd::BPF_MAP_CREATE, &mut attr) }?;

    let key = 0_u32;
    // SAFETY: as in `prog_load`.
    let mut attr: bpf_attr = unsafe { zeroed() };
    // SAFETY: zeros are valid for every member of the union.
    let element = unsafe { &mut attr.__bindgen_anon_2 };
    element.map_fd = map.as_raw_fd() as u32;
    element.key = &raw const key as u64;
    element.__bindgen_anon_1.value = contents.as_ptr() as u64;
    // SAFETY: `attr` points at a key and a value of the sizes that the map was made with.
    unsafe { bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr) }?;

    // SAFETY: as in `prog_load`.
    let mut attr: bpf_attr = unsafe { zeroed() };
    attr.__bindgen_anon_2.map_fd = map.as_raw_fd() as u32;
    // SAFETY: `attr` holds no pointers.
    unsafe { bpf(bpf_cmd::BPF_MAP_FREEZE, &mut attr) }?;
    Ok(map)
}

/// How many runs of a program the kernel skipped because it was already running on that CPU.
///
/// # Errors
/// What the kernel says.
pub fn recursion_misses(program: BorrowedFd<'_>) -> io::Result<u64> {
    // SAFETY: as in `prog_load`.
    let mut info: bpf_prog_info = unsafe { zeroed() };
    // SAFETY: as in `prog_load`.
    let mut attr: bpf_attr = unsafe { zeroed() };
    attr.info.bpf_fd = program.as_raw_fd() as u32;
    attr.info.info_len = size_of::<bpf_prog_info>() as u32;
    attr.info.info = &raw mut info as u64;
    // SAFETY: `attr` points at `info`, as long as it says.
    unsafe { bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    Ok(info.recursion_misses)
}

/// Removes a key of a hash map and tells its value in one step (`BPF_MAP_LOOKUP_AND_DELETE_ELEM`,
/// for hash maps since Linux 5.14).
///
/// # Errors
/// `ENOENT` when there is no such key; [`ENOTSUPP`] on older kernels.
pub fn take<K: Pod, V: Pod>(map: BorrowedFd<'_>, key: &K) -> io::Result<V> {
    // SAFETY: `V` is plain old data, for which all zeros is a value.
    let mut value: V = unsafe { zeroed() };
    // SAFETY: as in `prog_load`.
    let mut attr: bpf_attr = unsafe { zeroed() };
    // SAFETY: zeros are valid for every member of the union.
    let element = unsafe { &mut attr.__bindgen_anon_2 };
    element.map_fd = map.as_raw_fd() as u32;
    element.key = std::ptr::from_ref(key) as u64;
    element.__bindgen_anon_1.value = &raw mut value as u64;
    // SAFETY: `attr` points at a key and a value of the sizes that the map was made with.
    unsafe { bpf(bpf_cmd::BPF_MAP_LOOKUP_AND_DELETE_ELEM, &mut attr) }?;
    Ok(value)
}

/// Calls `bpf(2)` with a command that answers with a descriptor.
///
/// # Safety
/// As [`bpf`].
unsafe fn bpf_fd(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<OwnedFd> {
    // SAFETY: by this function's contract.
    let fd = unsafe { bpf(command, attr) }?;
    // SAFETY: such a command answers with a new descriptor, which nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Calls `bpf(2)`; what it answers, where that is no error.
///
/// # Safety
/// What `attr` points at must be valid for the command.
unsafe fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i32> {
    // SAFETY: by this function's contract.
    let answer = unsafe {
        libc::syscall(libc::SYS_bpf, command as libc::c_int, attr, size_of::<bpf_attr>())
    };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(answer).map_err(io::Error::other)
}

/// What tests need beside it: programs that are run on request.
#[cfg(test)]
pub mod testing {
    use super::*;

    /// A map of one value that programs may write to.
    pub fn map(value_size: usize) -> io::Result<OwnedFd> {
        // SAFETY: as in `prog_load`.
        let mut attr: bpf_attr = unsafe { zeroed() };
        // SAFETY: zeros are valid for every member of the union.
        let create = unsafe { &mut attr.__bindgen_anon_1 };
        create.map_type = bpf_map_type::BPF_MAP_TYPE_ARRAY as u32;
        create.key_size = size_of::<u32>() as u32;
        create.value_size = u32::try_from(value_size).map_err(io::Error::other)?;
        create.max_entries = 1;
        // SAFETY: `attr` holds no pointers.
        unsafe { bpf_fd(bpf_cmd::BPF_MAP_CREATE, &mut attr) }
    }

    /// Writes its value, which `value` is as long as.
    pub fn write(map: BorrowedFd<'_>, value: &[u8]) -> io::Result<()> {
        let key = 0_u32;
        // SAFETY: as in `prog_load`.
        let mut attr: bpf_attr = unsafe { zeroed() };
        // SAFETY: zeros are valid for every member of the union.
        let element = unsafe { &mut attr.__bindgen_anon_2 };
        element.map_fd = map.as_raw_fd() as u32;
        element.key = &raw const key as u64;
        element.__bindgen_anon_1.value = value.as_ptr() as u64;
        // SAFETY: `attr` points at a key and a value of the sizes that the map was made with.
        unsafe { bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr) }.map(drop)
    }

    /// Loads a program of tc.
    pub fn load(instructions: &[bpf_insn]) -> Result<OwnedFd, LoadError> {
        super::load("pathtrace_test", instructions, Kind::Classifier)
    }

    /// Runs a program of tc on a packet of zeros: what it returns.
    pub fn run(program: BorrowedFd<'_>) -> io::Result<u32> {
        let packet = [0_u8; 64];
        // SAFETY: as in `prog_load`.
        let mut attr: bpf_attr = unsafe { zeroed() };
        attr.test.prog_fd = program.as_raw_fd() as u32;
        attr.test.data_in = packet.as_ptr() as u64;
        attr.test.data_size_in = packet.len() as u32;
        // SAFETY: `attr` points at a packet, as long as it says.
        unsafe { bpf(bpf_cmd::BPF_PROG_TEST_RUN, &mut attr) }?;
        // SAFETY: the command has written this member.
        Ok(unsafe { attr.test.retval })
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn a_refusal_is_told_once_with_the_end_of_the_verifiers_log() {
        let error = io::Error::from_raw_os_error(libc::EACCES);
        let refused: Result<(), _> = Err(LoadError { error, log: "1: r0 = 0\n2: no".to_owned() });

        let told = format!("{:#}", refused.context("refused").unwrap_err());

        let expected = "refused: Permission denied (os error 13)\n    1: r0 = 0\n    2: no";
        assert_eq!(told, expected);
    }
}
