//! The system calls of the lab for which there is no safe wrapper: packet sockets, real-time scheduling, signals.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicI32, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, socket, sockopt};

/// Opens a packet socket (packet(7)) that gets every frame of `interface` in the calling thread's network namespace, whoever it is
/// addressed to; frames that go out are not among them. Its buffer holds bursts of some ten thousand frames.
pub(super) fn packet_socket(interface: &str) -> io::Result<OwnedFd> {
    let index = nix::net::if_::if_nametoindex(interface)?;
    // It is opened for no protocol and gets one when it is bound, so that no other interface's frame slips in between.
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None::<SockProtocol>)?;
    let fd = socket.as_raw_fd();
    let on: libc::c_int = 1;
    set_packet_option(fd, libc::PACKET_IGNORE_OUTGOING, &on)?;
    let index_signed = i32::try_from(index).map_err(io::Error::other)?;
    let all = libc::packet_mreq {
        mr_ifindex: index_signed,
        mr_type: libc::PACKET_MR_PROMISC as u16,
        mr_alen: 0,
        mr_address: [0; 8],
    };
    set_option(fd, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &all)?;
    setsockopt(&socket, sockopt::RcvBufForce, &(8 << 20))?;
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
        sll_ifindex: index_signed,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: the address is a live sockaddr_ll of the length that is given, and the kernel only reads it.
    let bound = unsafe { libc::bind(fd, (&raw const address).cast(), size_of::<libc::sockaddr_ll>() as u32) };
    if bound < 0 { Err(io::Error::last_os_error()) } else { Ok(socket) }
}

/// As [`packet_socket`], for passing frames on as they are: what is read from one such socket, with the header of
/// virtio-net that is put before each frame, is sent by another.
pub(super) fn end_of_a_wire(interface: &str) -> io::Result<OwnedFd> {
    let socket = packet_socket(interface)?;
    let on: libc::c_int = 1;
    set_option(socket.as_raw_fd(), libc::SOL_PACKET, libc::PACKET_VNET_HDR, &on)?;
    Ok(socket)
}

/// Lets a socket have only what this classic BPF program gives a length for, from now on.
pub(super) fn attach_filter(socket: BorrowedFd<'_>, program: &mut [libc::sock_filter]) -> io::Result<()> {
    let length = u16::try_from(program.len()).map_err(io::Error::other)?;
    let filter = libc::sock_fprog { len: length, filter: program.as_mut_ptr() };
    // `set_option` reads the fprog, and the kernel through it the instructions, which live as long.
    set_option(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &filter)
}

/// How many frames a packet socket has lost for want of room since the last call.
pub(super) fn frames_lost(socket: BorrowedFd<'_>) -> io::Result<u32> {
    let mut counts = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
    let mut length = size_of::<libc::tpacket_stats>() as u32;
    // SAFETY: the kernel writes at most `length` bytes to a live tpacket_stats of that size, all of whose values are valid.
    let outcome = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut counts).cast(),
            &raw mut length,
        )
    };
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(counts.tp_drops) }
}

/// Puts the calling thread under SCHED_FIFO with this priority (1 to 99).
pub(crate) fn run_in_real_time(priority: i32) -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: priority };
    // SAFETY: pid 0 is the calling thread, and the kernel only reads the live sched_param.
    let outcome = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters) };
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Catches SIGINT, SIGTERM and SIGHUP from now on: what is returned becomes the number of the first that came.
pub(super) fn interrupts() -> nix::Result<&'static AtomicI32> {
    static CAUGHT: AtomicI32 = AtomicI32::new(0);
    extern "C" fn catch(signal: libc::c_int) {
        // A second one changes nothing: which of the two is told is of no matter.
        CAUGHT.store(signal, Ordering::Relaxed);
    }
    let action = SigAction::new(SigHandler::Handler(catch), SaFlags::SA_RESTART, SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler does nothing but store to an atomic, which may be done in a signal handler.
        unsafe { sigaction(signal, &action) }?;
    }
    Ok(&CAUGHT)
}

fn set_packet_option(fd: i32, option: i32, value: &libc::c_int) -> io::Result<()> {
    set_option(fd, libc::SOL_PACKET, option, value)
}

fn set_option<T>(fd: i32, level: i32, option: i32, value: &T) -> io::Result<()> {
    // SAFETY: the value is live and of the length that is given, and the kernel only reads it.
    let outcome = unsafe {
        libc::setsockopt(fd, level, option, std::ptr::from_ref(value).cast(), size_of::<T>() as u32)
    };
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
