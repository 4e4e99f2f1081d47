//! libpcap's compiler, opened when an expression is given: everything else works without it.

use std::{
    ffi::{CStr, CString, c_char, c_int, c_uint, c_void},
    ptr::NonNull,
    slice,
};

use libloading::Library;

use super::classic::Raw;

/// Names under which libpcap is installed: as its makers call it, and as Debian does.
const NAMES: [&str; 2] = ["libpcap.so.1", "libpcap.so.0.8"];
/// Bytes that a capture would keep; the program's verdict is not 0.
const SNAPLEN: c_int = 262_144;
/// `PCAP_NETMASK_UNKNOWN`.
const NETMASK_UNKNOWN: c_uint = c_uint::MAX;

/// `struct bpf_program`.
#[repr(C)]
struct Compiled {
    length: c_uint,
    instructions: *mut Raw,
}

type OpenDead = unsafe extern "C" fn(c_int, c_int) -> *mut c_void;
type Compile =
    unsafe extern "C" fn(*mut c_void, *mut Compiled, *const c_char, c_int, c_uint) -> c_int;
type GetError = unsafe extern "C" fn(*mut c_void) -> *const c_char;
type FreeCode = unsafe extern "C" fn(*mut Compiled);
type Close = unsafe extern "C" fn(*mut c_void);

/// What packets begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begins {
    /// An Ethernet header.
    Link,
    /// An IP header.
    Network,
}

impl Begins {
    /// `DLT_*`, the same on every system for the first; `DLT_RAW` is OpenBSD's only in OpenBSD.
    fn number(self) -> c_int {
        match self {
            Begins::Link => 1,
            Begins::Network => 12,
        }
    }
}

/// libpcap, as far as it is needed.
pub struct Libpcap {
    open_dead: OpenDead,
    compile: Compile,
    get_error: GetError,
    free_code: FreeCode,
    close: Close,
    /// The functions above are in it.
    _library: Library,
}

impl Libpcap {
    /// Opens it.
    ///
    /// # Errors
    /// Why it cannot be opened, as the linker says.
    pub fn open() -> Result<Self, libloading::Error> {
        let [first, second] = NAMES;
        // SAFETY: libpcap does nothing when it is loaded.
        let library = unsafe { Library::new(first).or_else(|_| Library::new(second)) }?;
        // SAFETY: these functions have had these types since libpcap 0.8 (pcap/pcap.h); they are kept with
        // the library that they are in.
        unsafe {
            Ok(Self {
                open_dead: *library.get::<OpenDead>(b"pcap_open_dead\0")?,
                compile: *library.get::<Compile>(b"pcap_compile\0")?,
                get_error: *library.get::<GetError>(b"pcap_geterr\0")?,
                free_code: *library.get::<FreeCode>(b"pcap_freecode\0")?,
                close: *library.get::<Close>(b"pcap_close\0")?,
                _library: library,
            })
        }
    }

    /// The program for packets that begin so.
    ///
    /// # Errors
    /// What libpcap says is wrong.
    pub fn compile(&self, expression: &CStr, begins: Begins) -> Result<Vec<Raw>, String> {
        let handle = Handle::new(self, begins).ok_or("out of memory")?;
        let mut compiled = Compiled { length: 0, instructions: std::ptr::null_mut() };
        // SAFETY: the handle is open, and both pointers are valid for the call.
        let code = unsafe {
            let optimize = 1;
            let handle = handle.at.as_ptr();
            (self.compile)(handle, &mut compiled, expression.as_ptr(), optimize, NETMASK_UNKNOWN)
        };
        if code != 0 {
            return Err(handle.error());
        }
        let program = if compiled.instructions.is_null() {
            Vec::new()
        } else {
            // SAFETY: so many instructions are there until they are freed.
            unsafe { slice::from_raw_parts(compiled.instructions, compiled.length as usize) }
                .to_vec()
        };
        // SAFETY: libpcap made it, and nothing points into it any more.
        unsafe { (self.free_code)(&mut compiled) };
        Ok(program)
    }
}

/// A `pcap_t` that captures nothing.
struct Handle<'a> {
    library: &'a Libpcap,
    at: NonNull<c_void>,
}

impl<'a> Handle<'a> {
    fn new(library: &'a Libpcap, begins: Begins) -> Option<Self> {
        // SAFETY: takes no pointers.
        let at = unsafe { (library.open_dead)(begins.number(), SNAPLEN) };
        Some(Self { library, at: NonNull::new(at)? })
    }

    /// What it last said.
    fn error(&self) -> String {
        // SAFETY: the handle is open; its message is a C string within it.
        let said = unsafe { CStr::from_ptr((self.library.get_error)(self.at.as_ptr())) };
        said.to_string_lossy().into_owned()
    }
}

impl Drop for Handle<'_> {
    fn drop(&mut self) {
        // SAFETY: the handle is open, and used no more.
        unsafe { (self.library.close)(self.at.as_ptr()) };
    }
}

/// As libpcap takes it; `None` where there is a zero in it.
pub fn text(expression: &str) -> Option<CString> {
    CString::new(expression).ok()
}
