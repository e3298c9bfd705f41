//! The UDP sockets that heartbeats travel on, for the real-time thread: they never wait, and allocate nothing once open.
//!
//! Each path has a socket of its own, connected to the peer and filtered (`heartbeat_filter`), so that the kernel drops
//! what cannot be the peer's before it costs the thread anything. What comes from elsewhere lands in one more socket on
//! the same address, which drops and counts it.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, SockaddrStorage, bind, connect, recv, send, setsockopt,
    socket, sockopt,
};

pub use super::heartbeat_filter::Sender;
use super::unsafe_socket_options::{self, Queue};
use super::{heartbeat_filter, socket_filter};

/// What the kernel keeps of a path's heartbeats not yet read, in bytes as it counts them, with its own overhead: 1300
/// short ones, 240 to 450 of the longest. That is room for all that a peer sends at once. More would harm: under a
/// flood that is longer than the queue a heartbeat waits for all before it, on all paths, and a lease can rather bear
/// that one in two is lost than that all come too late.
pub const RECEIVE_BUFFER: usize = 1 << 20;

/// Every so many datagrams the queue is looked at: so often that one which has overflowed is still nearly full then.
const READS_A_LOOK: u32 = 8;

/// The precedence *internetwork control* (DSCP CS6, RFC 4594 §3.2), and its equal among the kernel's priorities.
const TOS_CS6: i32 = 48 << 2;
const PRIORITY_CONTROL: i32 = 7;

/// One path: a UDP socket between one local and one remote address and port.
#[derive(Debug)]
pub struct PathSocket {
    socket: OwnedFd,
    remote: SocketAddr,
    connected: bool,
    /// Datagrams read, to know when to look at the queue.
    reads: u32,
    drops: Drops,
    /// Of these, what was not for want of room, since it was last asked for.
    filtered: u64,
    /// The queue has overflowed, which is told with the next datagram.
    overflowed: bool,
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
    /// A datagram that may be the peer's.
    Datagram {
        /// How many bytes of it are in the buffer.
        len: usize,
        /// Whether the queue has been seen to overflow since the last report, so that heartbeats may be lost.
        overflow: bool,
    },
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
    /// that link works. No router passes them on (a TTL or hop limit of 1), and over IPv4 they are not even sent to one
    /// (`SO_DONTROUTE`).
    ///
    /// # Errors
    /// `EADDRINUSE` when another program has the port, `EACCES` for a port below 1024 without the right to it, `EMFILE`
    /// when the process may have no more files open.
    pub fn open(local: SocketAddr, remote: SocketAddr, on_link: bool, sender: Sender) -> io::Result<Self> {
        let socket = unbound(local)?;
        // Before it is bound, so that nothing slips by the filter.
        heartbeat_filter::attach(&socket, remote, sender)?;
        // The kernel doubles what it is asked for. Beyond the administrator's limit only with CAP_NET_ADMIN.
        let asked = RECEIVE_BUFFER / 2;
        setsockopt(&socket, sockopt::RcvBufForce, &asked)
            .or_else(|_| setsockopt(&socket, sockopt::RcvBuf, &asked))?;
        bind(socket.as_raw_fd(), &SockaddrStorage::from(local))?;
        // Setting IPv4's precedence sets a priority as well, so this order matters.
        match local {
            SocketAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4Tos, &TOS_CS6)?,
            SocketAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6TClass, &TOS_CS6)?,
        }
        setsockopt(&socket, sockopt::Priority, &PRIORITY_CONTROL)
            // Without CAP_NET_ADMIN 6 is the highest.
            .or_else(|_| setsockopt(&socket, sockopt::Priority, &6))?;
        if on_link {
            stay_on_link(&socket, local)?;
        }
        let mut path = Self {
            socket,
            remote,
            connected: false,
            reads: 0,
            drops: Drops::default(),
            filtered: 0,
            overflowed: false,
        };
        path.try_connect();
        Ok(path)
    }

    /// Connects the socket if it is not connected yet, which needs a route and the local address; whether it is now.
    /// One system call, and none once connected; [`Self::send`] calls it too. A connection outlasts its route, its
    /// address and its interface.
    pub fn try_connect(&mut self) -> bool {
        if !self.connected {
            self.connected = connect(self.socket.as_raw_fd(), &SockaddrStorage::from(self.remote)).is_ok();
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

    /// Reads one datagram, without waiting; what of it is longer than the buffer is lost. [`cluster_proto::wire::MAX_LEN`]
    /// bytes hold whatever the filter lets in.
    pub fn receive(&mut self, buffer: &mut [u8]) -> Received {
        let len = match recv(self.socket.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(len) => len,
            Err(Errno::EAGAIN) => return Received::Empty,
            Err(errno) if errno == Errno::ECONNREFUSED || errno == Errno::EINTR || means_no_way(errno) => {
                return Received::Unreachable;
            }
            Err(errno) => return Received::Failed(errno),
        };
        self.reads = self.reads.wrapping_add(1);
        if self.reads.is_multiple_of(READS_A_LOOK) {
            self.look();
        }
        Received::Datagram { len, overflow: std::mem::take(&mut self.overflowed) }
    }

    /// How many datagrams were dropped because they could not be the peer's, since the last call. While the queue
    /// overflows, not all are counted.
    pub fn filtered(&mut self) -> u64 {
        self.look();
        std::mem::take(&mut self.filtered)
    }

    /// Bytes of heartbeats that the kernel keeps, as it counts them, if that is less than [`RECEIVE_BUFFER`].
    #[must_use]
    pub fn short_of_room(&self) -> Option<u32> {
        let queue = unsafe_socket_options::queue(&self.socket).ok()?;
        (u64::from(queue.room) < RECEIVE_BUFFER as u64).then_some(queue.room)
    }

    /// Looks whether the queue has overflowed since the last look.
    ///
    /// The kernel has one count for whatever it drops: what the filter rejects and what has a wrong checksum, as well as
    /// what finds no room (`SO_RXQ_OVFL` tells the same). Anybody can make the first two, one at a time, and an overflow
    /// starts dead timers again: taken for one, they would hold up takeovers for ever. A queue that has overflowed was
    /// full, and is still nearly full a few datagrams later.
    fn look(&mut self) {
        let Ok(queue) = unsafe_socket_options::queue(&self.socket) else { return };
        let dropped = self.drops.since(queue);
        if dropped == 0 {
            return;
        }
        if queue.used >= queue.room - queue.room / 4 {
            self.overflowed = true;
        } else {
            self.filtered += dropped;
        }
    }
}

impl AsFd for PathSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// What no path's socket takes: a socket that is connected to nobody, on the local address of paths. Nobody reads it; the
/// kernel drops and counts what comes.
#[derive(Debug)]
pub struct StrangerSocket {
    socket: OwnedFd,
    drops: Drops,
}

impl StrangerSocket {
    /// Opens the socket; before or after the paths on the same address, which may not exist yet.
    ///
    /// # Errors
    /// As [`PathSocket::open`].
    pub fn open(local: SocketAddr) -> io::Result<Self> {
        let socket = unbound(local)?;
        socket_filter::attach_drop_all(&socket)?;
        bind(socket.as_raw_fd(), &SockaddrStorage::from(local))?;
        Ok(Self { socket, drops: Drops::default() })
    }

    /// How many datagrams have come since the last call.
    pub fn dropped(&mut self) -> u64 {
        unsafe_socket_options::queue(&self.socket).map_or(0, |queue| self.drops.since(queue))
    }
}

/// A socket's count of what was dropped before its queue, as last seen.
#[derive(Clone, Copy, Default, Debug)]
struct Drops(u32);

impl Drops {
    fn since(&mut self, queue: Queue) -> u64 {
        u64::from(queue.drops.wrapping_sub(std::mem::replace(&mut self.0, queue.drops)))
    }
}

/// A socket of this address' family.
fn unbound(local: SocketAddr) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let family = match local {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let socket = socket(family, SockType::Datagram, flags, None)?;
    // Paths to several peers, and the strangers' socket, share one local address and port.
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    match local {
        SocketAddr::V4(_) => setsockopt(&socket, sockopt::IpFreebind, &true)?,
        SocketAddr::V6(_) => {
            setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
            unsafe_socket_options::set(&socket, libc::IPPROTO_IPV6, libc::IPV6_FREEBIND, &1_i32)?;
        }
    }
    Ok(socket)
}

/// Keeps what is sent on the link.
fn stay_on_link(socket: &OwnedFd, local: SocketAddr) -> io::Result<()> {
    match local {
        SocketAddr::V4(_) => {
            setsockopt(socket, sockopt::Ipv4Ttl, &1)?;
            setsockopt(socket, sockopt::DontRoute, &true)?;
        }
        // Linux' IPv6 takes no notice of `SO_DONTROUTE`.
        SocketAddr::V6(_) => setsockopt(socket, sockopt::Ipv6Ttl, &1)?,
    }
    Ok(())
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
