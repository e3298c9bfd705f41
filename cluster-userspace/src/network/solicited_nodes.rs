//! The groups in which solicitations for IPv6 VIPs arrive. A node is in them whether it is active or not, so that a switch
//! which sends multicast only to members (MLD snooping) need not learn of a new one at a takeover.

use std::collections::BTreeSet;
use std::io;
use std::net::Ipv6Addr;
use std::os::fd::OwnedFd;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::{ndp, unsafe_socket_options};

/// Memberships, for as long as this value lives and the interfaces are there.
#[derive(Debug)]
pub struct SolicitedNodes {
    /// Sockets that are members of groups and receive nothing, since they have no port.
    _sockets: Vec<OwnedFd>,
}

impl SolicitedNodes {
    /// Joins the groups of these addresses, each on the interface of this number, as many as can be; and the first error, if
    /// there was one: `ENODEV` without such an interface, `EINVAL` or `EAFNOSUPPORT` without IPv6 on it. Waits for the kernel.
    pub fn join(addresses: impl Iterator<Item = (u32, Ipv6Addr)>) -> (Self, Option<io::Error>) {
        let groups: BTreeSet<(u32, Ipv6Addr)> =
            addresses.map(|(ifindex, address)| (ifindex, ndp::solicited_node(address))).collect();
        let mut sockets: Vec<OwnedFd> = Vec::new();
        let mut refused = None;
        for (ifindex, group) in groups {
            // What one interface refuses, another may grant.
            if let Err(error) = join_by_one_of(&mut sockets, ifindex, group) {
                refused.get_or_insert(error);
            }
        }
        (Self { _sockets: sockets }, refused)
    }
}

/// Joins by the last of the sockets, or by another one if that is full.
fn join_by_one_of(sockets: &mut Vec<OwnedFd>, ifindex: u32, group: Ipv6Addr) -> io::Result<()> {
    if let Some(socket) = sockets.last() {
        match join(socket, ifindex, group) {
            // A socket has room for some hundred memberships (`net.core.optmem_max`).
            Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => {}
            joined => return joined,
        }
    }
    let socket = socket(AddressFamily::Inet6, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    join(&socket, ifindex, group)?;
    sockets.push(socket);
    Ok(())
}

fn join(socket: &OwnedFd, ifindex: u32, group: Ipv6Addr) -> io::Result<()> {
    let request = libc::ipv6_mreq {
        ipv6mr_multiaddr: libc::in6_addr { s6_addr: group.octets() },
        ipv6mr_interface: ifindex,
    };
    unsafe_socket_options::set(socket, libc::IPPROTO_IPV6, libc::IPV6_ADD_MEMBERSHIP, &request)
}
