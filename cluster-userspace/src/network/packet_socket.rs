//! Raw ARP and neighbour discovery on one interface: `AF_PACKET` sockets for the real-time thread. Holds `unsafe` for the
//! call that binds them, for which there is no safe wrapper.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, recv, send, setsockopt, socket, sockopt,
};

use super::socket_filter::{
    self, DROP, Instruction, Size, if_equal, keep_if_equal, load, load_special, statement,
};
use super::{arp, ndp, unsafe_socket_options};

/// The sockets of the service interface.
#[derive(Debug)]
pub struct LinkSockets {
    /// For ARP.
    pub arp: PacketSocket,
    /// For neighbour discovery, where there are IPv6 VIPs.
    pub ndp: Option<PacketSocket>,
}

impl LinkSockets {
    /// Opens the sockets on an Ethernet interface, which may be down still.
    ///
    /// # Errors
    /// As [`PacketSocket::arp`].
    pub fn open(ifindex: u32, with_ndp: bool) -> io::Result<Self> {
        let ndp = with_ndp.then(|| PacketSocket::ndp(ifindex)).transpose()?;
        Ok(Self { arp: PacketSocket::arp(ifindex)?, ndp })
    }
}

/// A socket for the frames of one interface by which hosts tell each other where an address is.
///
/// What it sends passes the egress fence like everything else, so that not even an announcement that was held up leaves
/// without a lease; probes name no VIP as their sender. What it receives is only what can tell who has an address:
/// replies and announcements. On a busy segment the many requests between others do not wake the thread.
///
/// It is bound to the interface's number. When the interface goes down, the next call fails with `ENETDOWN`, and once
/// the interface is up again the socket works as before; when the interface is deleted, calls fail with `ENETDOWN`,
/// `ENXIO` or `ENODEV`, and the owner opens a new socket on the new interface.
#[derive(Debug)]
pub struct PacketSocket {
    socket: OwnedFd,
}

/// How many bytes of frames wait for us at most, in the kernel's way of counting: some 80 frames.
pub const RECEIVE_BUFFER: usize = 1 << 15;

impl PacketSocket {
    /// Opens a socket for ARP on an Ethernet interface, which may be down still.
    ///
    /// # Errors
    /// When the kernel refuses: `EPERM` without `CAP_NET_RAW`, `ENODEV` without such an interface.
    pub fn arp(ifindex: u32) -> io::Result<Self> {
        Self::open(ifindex, libc::ETH_P_ARP, &arp_answers())
    }

    /// Opens a socket for neighbour discovery on an Ethernet interface, which may be down still.
    ///
    /// # Errors
    /// As [`Self::arp`].
    pub fn ndp(ifindex: u32) -> io::Result<Self> {
        Self::open(ifindex, libc::ETH_P_IPV6, &advertisements())
    }

    fn open(ifindex: u32, protocol: i32, filter: &[Instruction]) -> io::Result<Self> {
        // Without a protocol it receives nothing until it is bound, so that no frame slips by the filter.
        let socket = socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC,
            None,
        )?;
        socket_filter::attach(&socket, filter)?;
        setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER)?;
        unsafe_socket_options::set(&socket, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &1_i32)?;
        bind(&socket, ifindex, protocol)?;
        Ok(Self { socket })
    }

    /// Sends a whole Ethernet frame.
    ///
    /// # Errors
    /// `ENETDOWN` and the like as told at [`PacketSocket`]; `ENOBUFS` or `EAGAIN` when the interface's queue is full.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        loop {
            match send(self.socket.as_raw_fd(), frame, MsgFlags::empty()) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Reads one frame into `frame`, cut off to its length; how long it is there. `None`: no frame is waiting.
    /// [`arp::FRAME_LEN`] bytes hold all that [`arp::Arp::parse`] reads, and [`ndp::READ_LEN`] what
    /// [`ndp::Advertisement::parse`] does.
    ///
    /// # Errors
    /// As told at [`PacketSocket`].
    pub fn receive(&self, frame: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            match recv(self.socket.as_raw_fd(), frame, MsgFlags::empty()) {
                Ok(length) => return Ok(Some(length)),
                Err(Errno::EAGAIN) => return Ok(None),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Keeps ARP replies, and requests whose sender asks for its own address (announcements), each addressed to us or to
/// all.
fn arp_answers() -> Vec<Instruction> {
    vec![
        // A load beyond the frame's end drops it; these are the last bytes of an ARP packet.
        load(Size::Word, 38),
        load_packet_type(),
        if_equal(u32::from(libc::PACKET_OTHERHOST), DROP, 0),
        load(Size::Half, 12),
        keep_if_equal(0x0806),
        load(Size::Word, 14),
        keep_if_equal(0x0001_0800),
        load(Size::Half, 18),
        keep_if_equal(0x0604),
        load(Size::Half, 20),
        // A reply goes to the end, a request on to the comparison of its addresses.
        if_equal(2, 6, 0),
        keep_if_equal(1),
        load(Size::Word, 28),
        statement(libc::BPF_MISC | libc::BPF_TAX, 0),
        load(Size::Word, 38),
        statement(libc::BPF_ALU | libc::BPF_SUB | libc::BPF_X, 0),
        keep_if_equal(0),
    ]
}

/// Keeps neighbour advertisements, answers and announcements, each addressed to us or to a group we are in. Most IPv6
/// frames are dropped at the first comparison.
fn advertisements() -> Vec<Instruction> {
    vec![
        // ICMPv6 follows the IPv6 header at once, and no router has passed the packet on.
        load(Size::Half, 20),
        keep_if_equal(58 << 8 | 255),
        // Type and code.
        load(Size::Half, 54),
        keep_if_equal(136 << 8),
        // The last bytes of the target.
        load(Size::Word, 74),
        load_packet_type(),
        if_equal(u32::from(libc::PACKET_OTHERHOST), DROP, 0),
        load(Size::Half, 12),
        keep_if_equal(0x86dd),
    ]
}

/// Frames of a VLAN come here without their tag, if no interface takes that VLAN, and are then marked as for another
/// host: what they tell is another network's and not ours.
fn load_packet_type() -> Instruction {
    load_special(Size::Byte, libc::SKF_AD_OFF, libc::SKF_AD_PKTTYPE)
}

fn bind(socket: &OwnedFd, ifindex: u32, protocol: i32) -> io::Result<()> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (protocol as u16).to_be(),
        sll_ifindex: i32::try_from(ifindex).map_err(|_| io::Error::from_raw_os_error(libc::ENODEV))?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: the address is a whole `sockaddr_ll` that lives over the call, and the length is its own.
    let result = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast::<libc::sockaddr>(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    Errno::result(result).map(drop).map_err(io::Error::from)
}

const _: () = assert!(
    arp::FRAME_LEN == 42 && ndp::BARE_LEN == 78,
    "the filters' offsets are those of an ARP packet and of an advertisement in untagged frames"
);
