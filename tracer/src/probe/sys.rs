//! The few commands of `bpf(2)` that aya does not have: loading a netfilter program, and linking
//! it to a hook (`BPF_LINK_CREATE` with `struct { pf, hooknum, priority, flags }`, Linux 6.4).

use std::{
    ffi::CString,
    io,
    mem::{size_of, zeroed},
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_insn};

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
    // SAFETY: `attr` points at instructions, licence and log, which outlive the call; on success
    // the kernel answers with a new descriptor.
    unsafe { bpf(bpf_cmd::BPF_PROG_LOAD, &mut attr) }
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
    // SAFETY: `attr` holds no pointers; on success the kernel answers with a new descriptor.
    unsafe { bpf(bpf_cmd::BPF_LINK_CREATE, &mut attr) }
}

/// Calls `bpf(2)` with a command that answers with a descriptor.
///
/// # Safety
/// What `attr` points at must be valid for the command, and the command must answer with a new
/// descriptor.
unsafe fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<OwnedFd> {
    // SAFETY: by this function's contract.
    let fd = unsafe {
        libc::syscall(libc::SYS_bpf, command as libc::c_int, attr, size_of::<bpf_attr>())
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel just made it, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
