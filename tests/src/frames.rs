//! Whole frames: sent as they are from an interface, and taken by a tap device, which ends on this
//! machine as a NIC does.

use std::{
    ffi::CString,
    fs::File,
    io::{Error, Read},
    mem::size_of,
    net::Ipv4Addr,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use pnet_base::MacAddr;
use pnet_packet::{
    ethernet::{EtherTypes, MutableEthernetPacket},
    ip::IpNextHeaderProtocols,
    ipv4::{self, MutableIpv4Packet},
    udp::{self, MutableUdpPacket},
    vlan::{ClassOfService, MutableVlanPacket},
};

use rustix::net::sockopt::{Timeout, set_socket_timeout};

use crate::{Netns, pace::patience};

const ETHERNET: usize = 14;
const VLAN: usize = 4;
const IPV4: usize = 20;
const UDP: usize = 8;

/// A UDP datagram in an Ethernet frame with these VLAN tags, the outermost first.
pub fn tagged_udp(
    (from_mac, from, from_port): (MacAddr, Ipv4Addr, u16),
    (to_mac, to, to_port): (MacAddr, Ipv4Addr, u16),
    tags: &[u16],
    payload: &[u8],
) -> Result<Vec<u8>> {
    let room = "the buffer is as long as the headers";
    let ip_at = ETHERNET + tags.len() * VLAN;
    let mut frame = vec![0; ip_at + IPV4 + UDP + payload.len()];

    let mut ethernet = MutableEthernetPacket::new(&mut frame).context(room)?;
    ethernet.set_source(from_mac);
    ethernet.set_destination(to_mac);
    ethernet.set_ethertype(if tags.is_empty() { EtherTypes::Ipv4 } else { EtherTypes::Vlan });
    for (n, tag) in tags.iter().enumerate() {
        let mut vlan = MutableVlanPacket::new(&mut frame[ETHERNET + n * VLAN..]).context(room)?;
        vlan.set_priority_code_point(ClassOfService(0));
        vlan.set_vlan_identifier(*tag);
        let last = n + 1 == tags.len();
        vlan.set_ethertype(if last { EtherTypes::Ipv4 } else { EtherTypes::Vlan });
    }
    let mut datagram = MutableUdpPacket::new(&mut frame[ip_at + IPV4..]).context(room)?;
    datagram.set_source(from_port);
    datagram.set_destination(to_port);
    datagram.set_length(u16::try_from(UDP + payload.len())?);
    datagram.set_payload(payload);
    let checksum = udp::ipv4_checksum(&datagram.to_immutable(), &from, &to);
    datagram.set_checksum(checksum);

    let mut ip = MutableIpv4Packet::new(&mut frame[ip_at..]).context(room)?;
    ip.set_version(4);
    ip.set_header_length(5);
    ip.set_total_length(u16::try_from(IPV4 + UDP + payload.len())?);
    ip.set_identification(7);
    ip.set_ttl(64);
    ip.set_next_level_protocol(IpNextHeaderProtocols::Udp);
    ip.set_source(from);
    ip.set_destination(to);
    let checksum = ipv4::checksum(&ip.to_immutable());
    ip.set_checksum(checksum);
    Ok(frame)
}

/// Sends a frame from an interface of a namespace, as it is.
pub fn send(from: &Netns, interface: &str, frame: &[u8]) -> Result<()> {
    from.enter(|| {
        let (socket, to) = packet_socket(interface, 0)?;
        // SAFETY: the frame and the address are as long as is said.
        let sent = unsafe {
            libc::sendto(
                socket.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const to).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        ensure!(sent >= 0, "the frame was not sent on {interface}: {}", Error::last_os_error());
        Ok(())
    })?
}

/// A packet socket in the calling thread's namespace, which is not bound yet, and its address there.
fn packet_socket(interface: &str, protocol: u16) -> Result<(OwnedFd, libc::sockaddr_ll)> {
    let name = CString::new(interface)?;
    // SAFETY: takes no pointers; answers with a new descriptor or -1.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    ensure!(fd >= 0, "no packet socket: {}", Error::last_os_error());
    // SAFETY: the kernel just made it, and nobody else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: a C struct of integers, for which all zeros is a value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET)?;
    address.sll_protocol = protocol.to_be();
    // SAFETY: `name` is a C string.
    address.sll_ifindex = i32::try_from(unsafe { libc::if_nametoindex(name.as_ptr()) })?;
    Ok((socket, address))
}

/// A packet socket that takes what of IPv4 arrives at an interface of a namespace, as a DHCP client's does.
#[derive(Debug)]
pub struct Client(File);

impl Client {
    /// Opens it.
    pub fn open(netns: &Netns, interface: &str) -> Result<Self> {
        let socket = netns.enter(|| -> Result<OwnedFd> {
            let (socket, address) = packet_socket(interface, u16::try_from(libc::ETH_P_IP)?)?;
            // SAFETY: the address is as long as is said.
            let bound = unsafe {
                libc::bind(
                    socket.as_raw_fd(),
                    (&raw const address).cast(),
                    size_of::<libc::sockaddr_ll>() as libc::socklen_t,
                )
            };
            ensure!(bound >= 0, "no packet socket at {interface}: {}", Error::last_os_error());
            Ok(socket)
        })??;
        set_socket_timeout(&socket, Timeout::Recv, Some(patience(Duration::from_secs(5))))?;
        Ok(Self(socket.into()))
    }

    /// Reads up to a frame that ends so.
    pub fn wait_for(&mut self, end: &[u8]) -> Result<()> {
        let mut frame = [0; 2048];
        loop {
            let length = self.0.read(&mut frame).context("the frame did not arrive")?;
            if frame[..length].ends_with(end) {
                return Ok(());
            }
        }
    }
}

/// A tap device of a namespace, whose frames are read and forgotten. It goes with this value.
#[derive(Debug)]
pub struct Tap {
    _device: File,
}

impl Tap {
    /// Makes one of this name.
    pub fn create(netns: &Netns, name: &str) -> Result<Self> {
        let device = netns.enter(|| -> Result<File> {
            let device = File::options()
                .read(true)
                .write(true)
                .open("/dev/net/tun")
                .context("no tap device without /dev/net/tun")?;
            // SAFETY: a C struct, for which all zeros is a value.
            let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
            for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(15)) {
                *to = from as libc::c_char;
            }
            request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
            // SAFETY: the request outlives the call and is what TUNSETIFF takes.
            let code =
                unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
            ensure!(code == 0, "no tap device {name}: {}", Error::last_os_error());
            Ok(device)
        })??;
        let mut reader = device.try_clone()?;
        // Ends when the device goes down with its namespace.
        thread::spawn(move || {
            let mut frame = [0; 65_536];
            while reader.read(&mut frame).is_ok_and(|n| n > 0) {}
        });
        Ok(Self { _device: device })
    }
}
