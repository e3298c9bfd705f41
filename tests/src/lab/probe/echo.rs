//! The service behind the VIP: it answers every request with the request and the name of the node it runs on.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt,
};

use super::worker::{Stop, Workers};
use crate::lab::topology::Node;
use crate::lab::unsafe_calls::run_in_real_time;

/// The port of the service.
pub const PORT: u16 = 7000;
/// The longest request, and how far into an answer the node's name begins.
pub(super) const REQUEST_LENGTH: usize = 16;
/// Real-time, so that load on the machine does not look like an outage of the VIP, but below the daemon and the canary.
pub(super) const PRIORITY: i32 = 42;

/// A node's service. It runs whether or not the node has the VIP, as a real one would.
#[derive(Debug)]
pub struct EchoServer {
    _workers: Workers,
}

impl EchoServer {
    /// Starts the service on `node` for the VIP `address`.
    ///
    /// # Errors
    /// When the socket cannot be opened.
    pub fn start(node: &Node, address: impl Into<IpAddr>) -> anyhow::Result<Self> {
        let address = address.into();
        let socket = node
            .namespace
            .run(|| open(address))
            .with_context(|| format!("opening the service's socket on node {}", node.name))?;
        let name = node.name.clone();
        let mut workers = Workers::default();
        workers.start("echo", move |stop| serve(stop, &socket, name.as_bytes()))?;
        Ok(Self { _workers: workers })
    }
}

fn open(address: IpAddr) -> anyhow::Result<UdpSocket> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // The VIP may come later than the service, and its answers must come from the VIP. For IPv6 the same option is taken.
    setsockopt(&socket, sockopt::IpFreebind, &true)?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(address, PORT)))?;
    let socket = UdpSocket::from(socket);
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    Ok(socket)
}

fn serve(stop: &Stop, socket: &UdpSocket, name: &[u8]) {
    // Where real time is refused, it serves as an ordinary thread.
    let _ = run_in_real_time(PRIORITY);
    let mut buffer = [0; REQUEST_LENGTH + 64];
    while !stop.asked() {
        let Ok((length, asker)) = socket.recv_from(&mut buffer[..REQUEST_LENGTH]) else { continue };
        let end = length + name.len().min(64);
        if let Some(room) = buffer.get_mut(length..end) {
            room.copy_from_slice(&name[..room.len()]);
        }
        // An answer that cannot be sent is a request that was not served, which is what the client will note.
        let _ = socket.send_to(&buffer[..end], asker);
    }
}
