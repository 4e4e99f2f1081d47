//! Memory that is free goes back to the kernel: what the start took (hundreds of thousands of types), and floods.

/// Gives back this thread's and what no thread uses. The allocator does so by itself only when it is asked for more.
/// Where the program has another allocator nothing of that one's is given back.
pub fn give_back() {
    // SAFETY: no preconditions: any thread may call it at any time.
    unsafe { libmimalloc_sys::mi_collect(true) }
}
