//! The few commands of `bpf(2)` that aya does not have: loading a netfilter program and linking it
//! to a hook (`BPF_LINK_CREATE` with `struct { pf, hooknum, priority, flags }`, Linux 6.4), a
//! program's missed runs, taking a key out of a map in one step.

use std::{
    ffi::CString,
    io,
    mem::{size_of, zeroed},
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use aya::Pod;
use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_insn, bpf_prog_info};

/// `BPF_PROG_TYPE_NETFILTER` (Linux 6.4).
const PROG_TYPE_NETFILTER: u32 = 32;
/// `BPF_NETFILTER` of `enum bpf_attach_type` (Linux 6.4).
const ATTACH_TYPE_NETFILTER: u32 = 45;
/// Bytes of the verifier's log that are kept.
const LOG_BYTES: usize = 1 << 20;

/// Why a program was refused.
#[derive(Debug, thiserror::Error)]
#[error("{error}{}", log_tail(.log))]
pub struct LoadError {
    /// What the kernel answered.
    #[source]
    pub error: io::Error,
    /// The verifier's log.
    pub log: String,
}

fn log_tail(log: &str) -> String {
    let lines: Vec<_> = log.lines().rev().take(12).collect();
    lines.into_iter().rev().map(|line| format!("\n    {line}")).collect()
}

/// Loads a netfilter program.
///
/// # Errors
/// With the verifier's log when it rejects the program.
pub fn load_netfilter(name: &str, instructions: &[bpf_insn]) -> Result<OwnedFd, LoadError> {
    // Without a log first: writing one costs far more than verifying.
    match prog_load(name, instructions, &mut []) {
        Ok(fd) => Ok(fd),
        Err(_) => {
            let mut log = vec![0; LOG_BYTES];
            prog_load(name, instructions, &mut log).map_err(|error| {
                let end = log.iter().position(|b| *b == 0).unwrap_or(log.len());
                let log = String::from_utf8_lossy(&log[..end]).into_owned();
                LoadError { error, log }
            })
        }
    }
}

fn prog_load(name: &str, instructions: &[bpf_insn], log: &mut [u8]) -> io::Result<OwnedFd> {
    // Helpers that are for GPL-compatible programs only are used: the object is dual licensed.
    let license = c"Dual MIT/GPL";
    // SAFETY: bpf_attr is a C union of integers, for which all zeros is a value.
    let mut attr: bpf_attr = unsafe { zeroed() };
    // SAFETY: zeros are valid for every member of the union.
    let load = unsafe { &mut attr.__bindgen_anon_3 };
    load.prog_type = PROG_TYPE_NETFILTER;
    load.expected_attach_type = ATTACH_TYPE_NETFILTER;
    load.insns = instructions.as_ptr() as u64;
    load.insn_cnt = u32::try_from(instructions.len()).map_err(io::Error::other)?;
    load.license = license.as_ptr() as u64;
    // 15 bytes and a zero, as `BPF_OBJ_NAME_LEN` says.
    let name = CString::new(name).map_err(io::Error::other)?;
    for (to, from) in load.prog_name.iter_mut().zip(name.as_bytes().iter().take(15)) {
        *to = *from as _;
    }
    if !log.is_empty() {
        load.log_level = 1;
        load.log_buf = log.as_mut_ptr() as u64;
        load.log_size = u32::try_from(log.len()).map_err(io::Error::other)?;
    }
    // SAFETY: `attr` points at instructions, licence and log, which outlive the call.
    let fd = unsafe { bpf(bpf_cmd::BPF_PROG_LOAD, &mut attr) }?;
    // SAFETY: this command answers with a new descriptor, which nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
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
    let fd = unsafe { bpf(bpf_cmd::BPF_LINK_CREATE, &mut attr) }?;
    // SAFETY: this command answers with a new descriptor, which nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
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
/// `ENOENT` when there is no such key.
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
