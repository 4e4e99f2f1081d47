//! Reads `struct sk_buff` and what hangs on it, at the offsets that the running kernel has.

use core::{hint::black_box, marker::PhantomData, mem::MaybeUninit};

use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use tracer_common::{config::ABSENT, same::all_unless_0};

use crate::packet::Tag;

/// One field of [`OFFSETS`](crate::globals::OFFSETS).
macro_rules! offset {
    ($field:ident) => {
        // SAFETY: a live static; volatile, or the compiler would fold the default in.
        unsafe { core::ptr::read_volatile(&raw const $crate::globals::OFFSETS.$field) }
    };
}
pub(crate) use offset;

/// How kernel memory is read.
pub trait Access: Copy {
    /// Reads the `T` at `base + offset`; zeros where it cannot be read or the kernel lacks the field.
    fn read<T: Copy + Default>(base: *const u8, offset: u32) -> T;
}

/// Plain loads through BTF-typed pointers: tp_btf, fentry and netfilter contexts.
#[derive(Clone, Copy)]
pub struct Direct;

impl Access for Direct {
    #[inline(always)]
    fn read<T: Copy + Default>(base: *const u8, offset: u32) -> T {
        if offset == ABSENT {
            return T::default();
        }
        // SAFETY: the verifier knows `base`'s BTF type and `offset` as a constant, and rejects a
        // load that is not a field; a faulting load yields 0.
        unsafe { core::ptr::read_volatile(base.add(offset as usize).cast()) }
    }
}

/// Loads by `bpf_probe_read_kernel`: any context that is allowed to trace.
#[derive(Clone, Copy)]
pub struct Probe;

impl Access for Probe {
    #[inline(always)]
    fn read<T: Copy + Default>(base: *const u8, offset: u32) -> T {
        if offset == ABSENT {
            return T::default();
        }
        let mut value = MaybeUninit::<T>::uninit();
        let from = base.wrapping_add(offset as usize).cast();
        // What it returns is of no use: where it cannot read it writes zeros (`bpf_probe_read_kernel`
        // of kernel/trace/bpf_trace.c, from Linux 5.5 on), and a branch less for each field is much
        // less for the verifier to walk.
        // SAFETY: the helper checks the address itself, and writes the whole value.
        unsafe {
            bpf_probe_read_kernel(value.as_mut_ptr().cast(), size_of::<T>() as u32, from);
            value.assume_init()
        }
    }
}

/// A kernel address without a BTF type, as a value that `Default`s to 0.
type Address = u64;

/// A `struct sk_buff`.
#[derive(Clone, Copy)]
pub struct Skb<A> {
    at: *const u8,
    access: PhantomData<A>,
}

impl<A: Access> Skb<A> {
    /// The skb at this address.
    #[inline(always)]
    pub fn new(at: *const u8) -> Self {
        Self { at, access: PhantomData }
    }

    /// Its address.
    #[inline(always)]
    pub fn address(self) -> u64 {
        self.at as u64
    }

    /// The device that it is on.
    #[inline(always)]
    pub fn dev(self) -> Dev<A> {
        Dev::new(A::read::<Pointer>(self.at, offset!(skb_dev)).0)
    }

    /// Its bytes, page fragments included.
    #[inline(always)]
    pub fn len(self) -> u32 {
        A::read(self.at, offset!(skb_len))
    }

    /// Its ethertype, host order.
    #[inline(always)]
    pub fn protocol(self) -> u16 {
        u16::from_be(A::read(self.at, offset!(skb_protocol)))
    }

    /// Where the packet begins: the link-layer header on the way out, what follows it on the way in.
    #[inline(always)]
    pub fn data(self) -> Address {
        A::read(self.at, offset!(skb_data))
    }

    /// The first address behind its linear part.
    #[inline(always)]
    pub fn linear_end(self) -> Address {
        let paged: u32 = A::read(self.at, offset!(skb_data_len));
        self.data() + u64::from(self.len().wrapping_sub(paged))
    }

    /// Its bytes in page fragments.
    #[inline(always)]
    pub fn paged(self) -> u32 {
        A::read(self.at, offset!(skb_data_len))
    }

    /// The VLAN tag that the kernel keeps beside its bytes. Until Linux 6.1 a bit says whether there is one
    /// (`vlan_present`, the lowest of its byte on machines whose least byte comes first), since then its kind is 0
    /// where there is none.
    #[inline(always)]
    pub fn tag(self) -> Tag {
        let at = offset!(skb_vlan_present);
        if at != ABSENT {
            let bits: u8 = A::read(self.at, at);
            let bit = if cfg!(target_endian = "little") { 1 } else { 0x80 };
            if bits & bit == 0 {
                return Tag::NONE;
            }
        }
        Tag::of(A::read(self.at, offset!(skb_vlan_proto)), A::read(self.at, offset!(skb_vlan_tci)))
    }

    /// Where the network header begins; 0 when that was never said (an skb fresh from a driver).
    #[inline(always)]
    pub fn network_header(self) -> Address {
        let from_head: u16 = A::read(self.at, offset!(skb_network_header));
        let from_head = u64::from(from_head);
        (A::read::<Address>(self.at, offset!(skb_head)) + from_head) & all_unless_0(from_head)
    }

    /// Where the network header begins of what a tunnel carries; 0 when that was never said. The
    /// kernel leaves it in place when the tunnel has ended.
    #[inline(always)]
    pub fn inner_network_header(self) -> Address {
        match self.inner_network_offset() {
            0 => 0,
            from_head => A::read::<Address>(self.at, offset!(skb_head)) + u64::from(from_head),
        }
    }

    /// The same, from the buffer's start.
    #[inline(always)]
    pub fn inner_network_offset(self) -> u16 {
        A::read(self.at, offset!(skb_inner_network_header))
    }

    /// Where the link-layer and the network header begin, from the buffer's start. They are
    /// neighbours in the struct: one read where that holds.
    #[inline(always)]
    pub fn header_offsets(self) -> (u16, u16) {
        let (link, network) = (offset!(skb_mac_header), offset!(skb_network_header));
        if link == network.wrapping_add(2) {
            let [a, b, c, d] = A::read::<[u8; 4]>(self.at, network);
            return (u16::from_ne_bytes([c, d]), u16::from_ne_bytes([a, b]));
        }
        (A::read(self.at, link), A::read(self.at, network))
    }

    /// Where the link-layer header begins; 0 when there is none.
    #[inline(always)]
    pub fn ethernet_header(self) -> Address {
        let from_head: u16 = A::read(self.at, offset!(skb_mac_header));
        let from_head = u64::from(from_head);
        // `skb_mac_header_was_set`; an offset of 0 would leave no headroom that any stack has.
        let is_set = all_unless_0(from_head) & all_unless_0(from_head ^ u64::from(u16::MAX));
        (A::read::<Address>(self.at, offset!(skb_head)) + from_head) & is_set
    }

    /// Its connection: a `struct nf_conn`, tagged in the lowest three bits with what the packet is to
    /// it (`enum ip_conntrack_info`).
    #[inline(always)]
    pub fn connection(self) -> Address {
        A::read(self.at, offset!(skb_nfct))
    }

    /// The network namespace of its socket, by inode; 0 when it has none.
    #[inline(always)]
    pub fn socket_netns(self) -> u32 {
        let sk = A::read::<Pointer>(self.at, offset!(skb_sk)).0;
        if sk.is_null() {
            return 0;
        }
        Net::<A>::new(A::read::<Pointer>(sk, offset!(sk_net)).0).inode()
    }
}

/// A pointer that is a field of a kernel structure; keeps its BTF type through a [`Direct`] read.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Pointer(pub *const u8);

impl Default for Pointer {
    fn default() -> Self {
        Self(core::ptr::null())
    }
}

/// A `struct net_device`, possibly none.
#[derive(Clone, Copy)]
pub struct Dev<A> {
    at: *const u8,
    access: PhantomData<A>,
}

impl<A: Access> Dev<A> {
    /// The device at this address, which may be null.
    #[inline(always)]
    pub fn new(at: *const u8) -> Self {
        Self { at, access: PhantomData }
    }

    /// Whether there is none.
    #[inline(always)]
    pub fn is_none(self) -> bool {
        self.at.is_null()
    }

    // What cannot be read is 0 (`Access`): that there is no device needs no branch, which the verifier
    // would walk all that follows for.

    /// Its index; 0 for none.
    #[inline(always)]
    pub fn ifindex(self) -> u32 {
        A::read(self.at, offset!(dev_ifindex))
    }

    /// Its network namespace, by inode; 0 for none.
    #[inline(always)]
    pub fn netns(self) -> u32 {
        Net::<A>::new(A::read::<Pointer>(self.at, offset!(dev_net)).0).inode()
    }

    /// Whether its link-layer header is Ethernet's (`ARPHRD_ETHER`, `ARPHRD_LOOPBACK`): all bits, or none.
    #[inline(always)]
    pub fn is_ethernet(self) -> u64 {
        let kind: u16 = A::read(self.at, offset!(dev_type));
        !(all_unless_0(u64::from(kind ^ 1)) & all_unless_0(u64::from(kind ^ 772)))
    }
}

/// A `struct net`.
#[derive(Clone, Copy)]
pub struct Net<A> {
    at: *const u8,
    access: PhantomData<A>,
}

impl<A: Access> Net<A> {
    /// The namespace at this address.
    #[inline(always)]
    pub fn new(at: *const u8) -> Self {
        Self { at, access: PhantomData }
    }

    /// Its inode.
    #[inline(always)]
    pub fn inode(self) -> u32 {
        A::read(self.at, offset!(net_inum))
    }
}

/// The same value, of which the verifier knows nothing any more: a helper copies it. What follows is then
/// checked once, not once for each way that led to it. `T`: integers without padding.
#[inline(always)]
pub fn unknown<T: Copy>(value: T) -> T {
    let mut copy = MaybeUninit::<T>::uninit();
    let from = black_box(&raw const value);
    // SAFETY: as many bytes of both, and every bit pattern is a `T`. The stack can be read.
    unsafe {
        bpf_probe_read_kernel(copy.as_mut_ptr().cast(), size_of::<T>() as u32, from.cast());
        copy.assume_init()
    }
}

/// Reads packet bytes (or any kernel memory) into `into`; false when they cannot be read.
#[inline(always)]
pub fn read_into<const N: usize>(from: u64, into: &mut [u8; N]) -> bool {
    // SAFETY: `into` is N bytes; the helper checks `from` itself.
    let code =
        unsafe { bpf_probe_read_kernel(into.as_mut_ptr().cast(), N as u32, from as *const _) };
    code == 0
}
