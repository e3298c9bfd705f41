//! The UDP sockets that heartbeats travel on, for the real-time thread: they never wait, and allocate nothing once open.
//!
//! Each path has a socket of its own, connected to the peer, so that the kernel drops the datagrams of others before
//! they cost the thread anything. Those land in one more socket on the same address, which only counts them.

use std::io::{self, IoSliceMut};
use std::net::SocketAddrV4;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, SockaddrIn, bind, connect, recv,
    recvmsg, send, setsockopt, socket, sockopt,
};

/// What the kernel keeps of heartbeats not yet read, in bytes as it counts them (it doubles the number for its own
/// overhead): a few hundred heartbeats. More would only be older; what overflows is reported.
pub const RECEIVE_BUFFER: usize = 1 << 17;

/// The precedence *internetwork control* (DSCP CS6, RFC 4594 §3.2), and its equal among the kernel's priorities.
const TOS_CS6: i32 = 48 << 2;
const PRIORITY_CONTROL: i32 = 7;

/// One path: a UDP socket between one local and one remote address and port.
#[derive(Debug)]
pub struct PathSocket {
    socket: OwnedFd,
    remote: SocketAddrV4,
    connected: bool,
    /// The kernel's count of datagrams it has dropped for want of room, as last seen.
    dropped: u32,
}

/// What became of a heartbeat.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sent {
    /// It was handed to the kernel whole.
    Sent,
    /// There is no way to the peer now: no route, no interface, or the local address is not configured.
    NotConnected,
    /// The kernel refused for another reason: `EPERM` by a firewall rule, `ENOBUFS` or `EAGAIN` for a full queue.
    Failed(Errno),
}

/// What was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Received {
    /// A datagram from the peer's address and port.
    Datagram {
        /// How many bytes of it are in the buffer.
        len: usize,
        /// Whether it was longer than the buffer.
        truncated: bool,
        /// Whether the kernel has dropped datagrams for want of room before this one arrived, since the last report.
        overflow: bool,
    },
    /// A datagram of somebody else's was read and is to be forgotten; it had come before the socket was connected.
    Stranger,
    /// The peer's host has answered that nobody listens, or that it cannot be reached; read on.
    Unreachable,
    /// No datagram is waiting.
    Empty,
    /// The socket cannot be read.
    Failed(Errno),
}

impl PathSocket {
    /// Opens the path. Neither the local address nor a way to the peer need exist yet.
    ///
    /// `on_link`: the peer must be on the same link, and heartbeats must not reach it any other way: they say whether
    /// that link works. They are not sent to a gateway (`SO_DONTROUTE`), and none passes them on (a TTL of 1).
    ///
    /// # Errors
    /// `EADDRINUSE` when another program has the port, `EACCES` for a port below 1024 without the right to it.
    pub fn open(local: SocketAddrV4, remote: SocketAddrV4, on_link: bool) -> io::Result<Self> {
        let socket = bound(local, RECEIVE_BUFFER)?;
        setsockopt(&socket, sockopt::RxqOvfl, &1)?;
        // Setting the precedence sets a priority as well, so this order matters.
        setsockopt(&socket, sockopt::Ipv4Tos, &TOS_CS6)?;
        setsockopt(&socket, sockopt::Priority, &PRIORITY_CONTROL)
            // Without CAP_NET_ADMIN 6 is the highest.
            .or_else(|_| setsockopt(&socket, sockopt::Priority, &6))?;
        if on_link {
            setsockopt(&socket, sockopt::Ipv4Ttl, &1)?;
            setsockopt(&socket, sockopt::DontRoute, &true)?;
        }
        let mut path = Self { socket, remote, connected: false, dropped: 0 };
        path.try_connect();
        Ok(path)
    }

    /// Connects the socket if it is not connected yet, which needs a route and the local address; whether it is now.
    /// One system call, and none once connected; [`Self::send`] calls it too. A connection outlasts its route, its
    /// address and its interface.
    pub fn try_connect(&mut self) -> bool {
        if !self.connected {
            self.connected = connect(self.socket.as_raw_fd(), &SockaddrIn::from(self.remote)).is_ok();
        }
        self.connected
    }

    /// Sends a heartbeat, without waiting.
    pub fn send(&mut self, bytes: &[u8]) -> Sent {
        if !self.try_connect() {
            return Sent::NotConnected;
        }
        let mut again = true;
        loop {
            match send(self.socket.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT) {
                Ok(_) => return Sent::Sent,
                // The answer to an earlier heartbeat, kept for the next call whichever it is: this one was not sent.
                Err(Errno::ECONNREFUSED | Errno::EINTR) if again => again = false,
                Err(errno) if means_no_way(errno) => return Sent::NotConnected,
                Err(errno) => return Sent::Failed(errno),
            }
        }
    }

    /// Reads one datagram, without waiting.
    pub fn receive(&mut self, buffer: &mut [u8]) -> Received {
        // Room for the one control message asked for, in the alignment that the kernel's header wants.
        let mut control = ControlBuffer([0; 32]);
        let mut parts = [IoSliceMut::new(buffer)];
        let message = match recvmsg::<SockaddrIn>(
            self.socket.as_raw_fd(),
            &mut parts,
            Some(&mut control.0),
            MsgFlags::MSG_DONTWAIT,
        ) {
            Ok(message) => message,
            Err(Errno::EAGAIN) => return Received::Empty,
            Err(errno) if errno == Errno::ECONNREFUSED || errno == Errno::EINTR || means_no_way(errno) => {
                return Received::Unreachable;
            }
            Err(errno) => return Received::Failed(errno),
        };
        if message.address.map(SocketAddrV4::from) != Some(self.remote) {
            return Received::Stranger;
        }
        let mut overflow = false;
        if let Ok(controls) = message.cmsgs() {
            for control in controls {
                if let ControlMessageOwned::RxqOvfl(dropped) = control {
                    overflow |= dropped != self.dropped;
                    self.dropped = dropped;
                }
            }
        }
        let truncated = message.flags.contains(MsgFlags::MSG_TRUNC);
        Received::Datagram { len: message.bytes, truncated, overflow }
    }
}

impl AsFd for PathSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// What no path's socket takes: a socket that is connected to nobody, on the local address of paths.
#[derive(Debug)]
pub struct StrangerSocket {
    socket: OwnedFd,
}

/// Strangers need no room: what is lost here was to be dropped.
const STRANGERS_BUFFER: usize = 1 << 14;

impl StrangerSocket {
    /// Opens the socket; before or after the paths on the same address, which may not exist yet.
    ///
    /// # Errors
    /// `EADDRINUSE` when another program has the port, `EACCES` for a port below 1024 without the right to it.
    pub fn open(local: SocketAddrV4) -> io::Result<Self> {
        bound(local, STRANGERS_BUFFER).map(|socket| Self { socket })
    }

    /// Throws away at most `max` datagrams that are waiting; how many there were.
    pub fn drain(&mut self, max: usize) -> usize {
        let mut drained = 0;
        while drained < max {
            match recv(self.socket.as_raw_fd(), &mut [0; 1], MsgFlags::MSG_DONTWAIT) {
                Ok(_) => drained += 1,
                Err(Errno::EINTR) => {}
                Err(_) => break,
            }
        }
        drained
    }
}

impl AsFd for StrangerSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[repr(align(8))]
struct ControlBuffer([u8; 32]);

fn bound(local: SocketAddrV4, receive_buffer: usize) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Inet, SockType::Datagram, flags, None)?;
    // Paths to several peers, and the strangers' socket, share one local address and port.
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    setsockopt(&socket, sockopt::IpFreebind, &true)?;
    setsockopt(&socket, sockopt::RcvBuf, &receive_buffer)?;
    bind(socket.as_raw_fd(), &SockaddrIn::from(local))?;
    Ok(socket)
}

/// Whether the error says that the peer cannot be reached now. `EINVAL` is the kernel's word for a local address that
/// no interface has.
fn means_no_way(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::ENETUNREACH
            | Errno::EHOSTUNREACH
            | Errno::ENETDOWN
            | Errno::EHOSTDOWN
            | Errno::ENONET
            | Errno::ENODEV
            | Errno::EADDRNOTAVAIL
            | Errno::EINVAL
    )
}
