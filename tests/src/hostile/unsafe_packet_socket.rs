//! A packet socket bound to one interface: `bind` has no safe wrapper for its kind of address, nor has its option that lets
//! the kernel cut one frame into many.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, socket, sockopt};

/// As [`open`], for sending only: before each frame there is a `struct virtio_net_hdr` (virtio 1.3, section 5.1.6), which
/// can tell the kernel to cut it into datagrams.
pub(super) fn open_for_segments(interface: &str) -> io::Result<OwnedFd> {
    let socket = open(interface, false)?;
    let on: libc::c_int = 1;
    // SAFETY: the value is live and of the length that is given, and the kernel only reads it.
    let outcome = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            PACKET_VNET_HDR,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as u32,
        )
    };
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(socket) }
}

/// linux/if_packet.h.
const PACKET_VNET_HDR: libc::c_int = 15;

/// Opens a packet socket (packet(7)) on `interface` in the calling thread's network namespace, which sends frames as
/// they are and, if it shall `hear`, gets a copy of every frame of the interface, in both directions.
pub(super) fn open(interface: &str, hear: bool) -> io::Result<OwnedFd> {
    let index = nix::net::if_::if_nametoindex(interface)?;
    // It gets a protocol only when it is bound, so that no other interface's frame slips in between.
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None::<SockProtocol>)?;
    if hear {
        setsockopt(&socket, sockopt::RcvBufForce, &(8 << 20))?;
    } else {
        setsockopt(&socket, sockopt::SndBufForce, &(8 << 20))?;
    }
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: if hear { (libc::ETH_P_ALL as u16).to_be() } else { 0 },
        sll_ifindex: i32::try_from(index).map_err(io::Error::other)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = size_of::<libc::sockaddr_ll>() as u32;
    // SAFETY: the address is a live sockaddr_ll of the length that is given, and the kernel only reads it.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    if bound < 0 { Err(io::Error::last_os_error()) } else { Ok(socket) }
}
