//! Calls of kernel functions: their arguments and what they return, however they are watched.
//!
//! fentry and fexit see a call's arguments, fexit its result too. A kretprobe sees the result
//! alone: what the report needs of the arguments is kept from the kprobe at the entry till then. Both
//! belong to one call exactly when they share its place on the stack, which no other call has
//! meanwhile, on whichever CPU, in a task or in a softirq that interrupted it.

use core::{ffi::c_void, hint::black_box};

use aya_ebpf::{bindings::pt_regs, helpers::generated::bpf_get_func_ret, programs::ProbeContext};

use crate::globals::CALLS;

/// A call that is entered.
pub trait Call: Copy {
    /// Argument `n`, from 0; `n` must be a constant once inlined.
    fn argument(self, n: usize) -> u64;

    /// The argument, of at least three, whose number only the running kernel tells. All are read first:
    /// the compiler would make one read at a computed place of it, which the verifier refuses.
    #[inline(always)]
    fn argument_at(self, n: u32) -> u64 {
        let first = black_box(self.argument(0));
        let second = black_box(self.argument(1));
        let third = black_box(self.argument(2));
        match n {
            0 => first,
            1 => second,
            2 => third,
            _ => 0,
        }
    }
}

/// In a fentry or fexit program: arguments are an array of words.
#[derive(Clone, Copy)]
pub struct Traced(pub *mut c_void);

impl Call for Traced {
    #[inline(always)]
    fn argument(self, n: usize) -> u64 {
        // SAFETY: the context of the program is at least as many words as its function has
        // arguments; the verifier refuses more.
        unsafe { self.0.cast::<u64>().add(n).read_volatile() }
    }
}

impl Traced {
    /// What the function returned; only in a fexit program.
    #[inline(always)]
    pub fn result(self) -> u64 {
        let mut result = 0;
        // SAFETY: `result` is a word, as the helper writes.
        unsafe { bpf_get_func_ret(self.0, &raw mut result) };
        result
    }
}

/// In a kprobe program: arguments are in registers.
#[derive(Clone, Copy)]
pub struct Probed(pub *mut c_void);

impl Call for Probed {
    #[inline(always)]
    fn argument(self, n: usize) -> u64 {
        ProbeContext::new(self.0).arg(n).unwrap_or(0)
    }
}

impl Probed {
    /// Keeps what the report of the return needs.
    #[inline(always)]
    pub fn keep(self, kept: &Kept) {
        let _ = CALLS.insert(&(self.stack() + RETURNED), kept, 0);
    }

    #[inline(always)]
    fn stack(self) -> u64 {
        // SAFETY: the context of a kprobe program is a live `pt_regs`.
        unsafe { stack_of(self.0.cast()) }
    }
}

/// In a kretprobe program.
#[derive(Clone, Copy)]
pub struct Returned(pub *mut c_void);

impl Returned {
    /// What was kept of this call at its entry.
    #[inline(always)]
    pub fn kept(self) -> Option<Kept> {
        // SAFETY: the context of a kretprobe program is a live `pt_regs`.
        let key = unsafe { stack_of(self.0.cast()) };
        let kept = CALLS.get_ptr(&key)?;
        // SAFETY: a live map value, which only this call's return takes out.
        let kept = unsafe { *kept };
        let _ = CALLS.remove(&key);
        Some(kept)
    }

    /// What the function returned.
    #[inline(always)]
    pub fn result(self) -> u64 {
        aya_ebpf::programs::RetProbeContext::new(self.0).ret()
    }
}

/// How much further the stack pointer is when a function has returned: x86 has taken the return
/// address from the stack by then.
const RETURNED: u64 = if cfg!(bpf_target_arch = "x86_64") { 8 } else { 0 };

#[cfg(bpf_target_arch = "x86_64")]
#[inline(always)]
unsafe fn stack_of(regs: *const pt_regs) -> u64 {
    // SAFETY: by this function's contract `regs` is live.
    unsafe { (*regs).rsp }
}

#[cfg(not(bpf_target_arch = "x86_64"))]
#[inline(always)]
unsafe fn stack_of(regs: *const pt_regs) -> u64 {
    // SAFETY: by this function's contract `regs` is live.
    unsafe { (*regs).sp }
}

/// What is kept of a call that a followed packet is in.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Kept {
    /// The packet's skb.
    pub skb: u64,
    /// The packet's id: its skb may be another's when the function returns.
    pub id: u64,
    /// Two arguments of the function's own.
    pub more: [u64; 2],
}
