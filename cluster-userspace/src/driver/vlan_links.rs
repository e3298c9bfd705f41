//! The VLANs of the service link, as the heartbeat thread uses them: where each VIP is announced and asked for, and what
//! comes from there.
//!
//! They are opened by the daemon and handed over as a whole whenever something about them is other.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd as _, BorrowedFd};

use cluster_proto::Mac;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

use crate::network::ndp;
use crate::network::packet_socket::LinkSockets;
use crate::network::vlan::Vlan;

/// A VLAN whose interface is there and has a carrier.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VlanPlace {
    /// Which.
    pub vlan: Vlan,
    /// Its interface's number.
    pub ifindex: u32,
    /// Its interface's Ethernet address.
    pub mac: Mac,
    /// This node's own IPv4 address there.
    pub own: Option<Ipv4Addr>,
    /// What neighbour discovery says of this host there.
    pub ndp: ndp::Host,
    /// Whether there are IPv6 VIPs.
    pub with_ndp: bool,
}

/// A network of VIPs that is on a VLAN.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VlanNetwork {
    /// A VIP.
    pub vip: IpAddr,
    /// The length of its network's prefix, in bits.
    pub prefix: u8,
    /// Where it is.
    pub vlan: Vlan,
}

/// Where a frame about an address goes.
#[derive(Debug)]
pub(super) enum Place<'a> {
    /// Onto the service link itself.
    Untagged,
    /// Onto a VLAN of it.
    Vlan(&'a VlanLink),
    /// Onto a VLAN that is not there.
    Nowhere,
}

/// A VLAN and its sockets.
#[derive(Debug)]
pub(super) struct VlanLink {
    pub(super) place: VlanPlace,
    pub(super) sockets: LinkSockets,
}

/// All VLANs that there are.
#[derive(Debug)]
pub struct VlanLinks {
    links: Vec<VlanLink>,
    networks: Vec<VlanNetwork>,
    /// Readable when one of the sockets is.
    any: Option<Epoll>,
}

impl VlanLinks {
    /// None.
    pub(super) fn none() -> Self {
        Self { links: Vec::new(), networks: Vec::new(), any: None }
    }

    /// Opens the sockets.
    ///
    /// # Errors
    /// As [`LinkSockets::open`], or when no descriptors are left.
    pub fn open(places: &[VlanPlace], networks: Vec<VlanNetwork>) -> io::Result<Self> {
        let open = |place: &VlanPlace| {
            Ok(VlanLink { place: *place, sockets: LinkSockets::open(place.ifindex, place.with_ndp)? })
        };
        let links = places.iter().map(open).collect::<io::Result<Vec<_>>>()?;
        if links.is_empty() {
            return Ok(Self { links, networks, any: None });
        }
        let any = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        for VlanLink { sockets: LinkSockets { arp, ndp }, .. } in &links {
            for socket in std::iter::once(arp).chain(ndp) {
                any.add(socket, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
            }
        }
        Ok(Self { links, networks, any: Some(any) })
    }

    /// Where frames about an address go: onto the VLAN of the VIP that it is, or in whose network it is.
    pub(super) fn place_of(&self, address: IpAddr) -> Place<'_> {
        let exact = self.networks.iter().find(|network| network.vip == address);
        let near = || self.networks.iter().find(|network| network.contains(address));
        match exact.or_else(near) {
            None => Place::Untagged,
            Some(network) => match self.links.iter().find(|link| link.place.vlan == network.vlan) {
                Some(link) => Place::Vlan(link),
                None => Place::Nowhere,
            },
        }
    }

    /// The VLANs.
    pub(super) fn links(&self) -> &[VlanLink] {
        &self.links
    }

    /// What is readable when one of the sockets is.
    pub(super) fn any(&self) -> Option<BorrowedFd<'_>> {
        self.any.as_ref().map(|any| any.0.as_fd())
    }
}

impl VlanNetwork {
    fn contains(&self, address: IpAddr) -> bool {
        let differing = match (self.vip, address) {
            (IpAddr::V4(vip), IpAddr::V4(address)) => (vip.to_bits() ^ address.to_bits()).leading_zeros(),
            (IpAddr::V6(vip), IpAddr::V6(address)) => (vip.to_bits() ^ address.to_bits()).leading_zeros(),
            _ => return false,
        };
        differing >= u32::from(self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_go_where_the_vip_or_its_network_is() {
        let network = |vip: [u8; 4], prefix, id| VlanNetwork {
            vip: vip.into(),
            prefix,
            vlan: Vlan::new(id, None).expect("an identifier"),
        };
        let networks = vec![network([10, 1, 0, 100], 24, 1), network([10, 1, 0, 101], 32, 2)];
        let links = VlanLinks { networks, ..VlanLinks::none() };
        let is_untagged = |address: [u8; 4]| matches!(links.place_of(address.into()), Place::Untagged);
        assert!(is_untagged([10, 2, 0, 100]));
        // Their interfaces are not there.
        for address in [[10, 1, 0, 100], [10, 1, 0, 7], [10, 1, 0, 101]] {
            assert!(matches!(links.place_of(address.into()), Place::Nowhere), "{address:?}");
        }
        assert!(matches!(links.place_of(IpAddr::from([0xfd77_u16, 0, 0, 0, 0, 0, 0, 1])), Place::Untagged));
    }
}
