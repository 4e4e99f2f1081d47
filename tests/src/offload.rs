//! What changes packets on their way through a veth pair: a program in its receive path (XDP), and receive
//! offload (GRO).

use std::{
    io::Error,
    mem::size_of,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use anyhow::{Context, Result, ensure};

use crate::Netns;

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_PROG_TYPE_XDP: u32 = 6;
/// `enum bpf_attach_type`.
const BPF_XDP: u32 = 37;
/// The driver runs it, not the stack behind it: veth converts packets for that.
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// `r0 = XDP_PASS; exit`: `struct bpf_insn { u8 code, registers; i16 offset; i32 immediate; }`.
static PASS: [u64; 2] = [0x0000_0002_0000_00b7, 0x0000_0000_0000_0095];

/// The beginning of `union bpf_attr` of BPF_PROG_LOAD.
#[repr(C)]
struct Load {
    kind: u32,
    instructions: u32,
    code: u64,
    license: u64,
}

/// The same of BPF_LINK_CREATE.
#[repr(C)]
struct Create {
    program: u32,
    ifindex: u32,
    attach_type: u32,
    flags: u32,
}

/// An XDP program that passes everything on, for as long as this is kept.
#[derive(Debug)]
pub struct XdpPass {
    _link: OwnedFd,
}

impl XdpPass {
    /// Attaches it to the driver's receive path of an interface.
    pub fn attach(netns: &Netns, device: &str) -> Result<Self> {
        let link = netns.enter(|| -> Result<OwnedFd> {
            let load = Load {
                kind: BPF_PROG_TYPE_XDP,
                instructions: PASS.len() as u32,
                code: PASS.as_ptr() as u64,
                license: c"GPL".as_ptr() as u64,
            };
            let program = bpf(BPF_PROG_LOAD, &load).context("no XDP program loaded")?;
            let create = Create {
                program: program.as_raw_fd() as u32,
                ifindex: rustix::net::netdevice::name_to_index(&socket()?, device)?,
                attach_type: BPF_XDP,
                flags: XDP_FLAGS_DRV_MODE,
            };
            bpf(BPF_LINK_CREATE, &create).with_context(|| format!("no XDP program at {device}"))
        })??;
        Ok(Self { _link: link })
    }
}

fn bpf<T>(command: libc::c_long, attributes: &T) -> Result<OwnedFd> {
    // SAFETY: the kernel reads as many bytes, and what they point to outlives the call.
    let fd = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>())
    };
    ensure!(fd >= 0, "bpf({command}): {}", Error::last_os_error());
    // SAFETY: a new file descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn socket() -> Result<OwnedFd> {
    use rustix::net::{AddressFamily, SocketType};
    Ok(rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None)?)
}

const SIOCETHTOOL: libc::c_ulong = 0x8946;

/// What a device does for the stack, by the command that turns it on or off (linux/ethtool.h).
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
pub enum Offload {
    /// TSO: it takes large segments. Where it does not, the kernel cuts them.
    LargeSegments = 0x1f,
    /// GRO: segments that follow each other are put together as they are received.
    MergeReceived = 0x2c,
}

/// Turns an offload of an interface on or off, as `ethtool -K` does.
pub fn set(netns: &Netns, device: &str, offload: Offload, on: bool) -> Result<()> {
    #[repr(C)]
    struct Value {
        command: u32,
        data: u32,
    }
    netns.enter(|| -> Result<()> {
        let mut value = Value { command: offload as u32, data: u32::from(on) };
        // SAFETY: integers and pointers, for which zeros are good.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(device.bytes().take(15)) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_data = (&raw mut value).cast();
        // SAFETY: the request and the value outlive the call, and are what SIOCETHTOOL takes.
        let code = unsafe { libc::ioctl(socket()?.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
        ensure!(code == 0, "{offload:?} at {device}: {}", Error::last_os_error());
        Ok(())
    })?
}
