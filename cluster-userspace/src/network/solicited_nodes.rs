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
    /// Joins the groups of these addresses, each on the interface of this number. Waits for the kernel.
    ///
    /// # Errors
    /// When the kernel refuses: `ENODEV` without such an interface, `EINVAL` or `EAFNOSUPPORT` without IPv6 on it.
    pub fn join(addresses: impl Iterator<Item = (u32, Ipv6Addr)>) -> io::Result<Self> {
        let groups: BTreeSet<(u32, Ipv6Addr)> =
            addresses.map(|(ifindex, address)| (ifindex, ndp::solicited_node(address))).collect();
        let mut sockets: Vec<OwnedFd> = Vec::new();
        for (ifindex, group) in groups {
            if let Some(socket) = sockets.last() {
                match join(socket, ifindex, group) {
                    Ok(()) => continue,
                    // A socket has room for some hundred memberships (`net.core.optmem_max`).
                    Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => {}
                    Err(error) => return Err(error),
                }
            }
            let socket = socket(AddressFamily::Inet6, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
            join(&socket, ifindex, group)?;
            sockets.push(socket);
        }
        Ok(Self { _sockets: sockets })
    }
}

fn join(socket: &OwnedFd, ifindex: u32, group: Ipv6Addr) -> io::Result<()> {
    let request = libc::ipv6_mreq {
        ipv6mr_multiaddr: libc::in6_addr { s6_addr: group.octets() },
        ipv6mr_interface: ifindex,
    };
    unsafe_socket_options::set(socket, libc::IPPROTO_IPV6, libc::IPV6_ADD_MEMBERSHIP, &request)
}
