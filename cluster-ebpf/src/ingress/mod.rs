//! What comes in: requests for a VIP are answered, and packets to it let through, only while the lease is valid.
//!
//! A module for each protocol: [`arp`] and [`nd`] tell who has an address, [`ipv4`] and [`ipv6`] carry what is for it.

mod arp;
mod ipv4;
mod ipv6;
mod nd;

use aya_ebpf::programs::XdpContext;
use cluster_common::Verdict;
use cluster_common::frame::{
    ETHERNET_DESTINATION, ETHERNET_LENGTH, ETHERNET_TYPE, TYPE_ARP, TYPE_IPV4, TYPE_IPV6,
};

use crate::Fate;
use crate::unsafe_maps::{count, nic, valid_lease, virtual_mac_owner};
use crate::unsafe_packet::{Header, received};

/// Judges a received frame. VLAN-tagged frames, runts and everything unknown pass untouched, unless they are for a virtual
/// Ethernet address of ours: then they come in like frames to the network card's own, or not at all.
#[inline(always)]
#[must_use]
pub fn ingress(context: &XdpContext) -> Fate {
    let frame = received(context);
    let Some(header) = frame.header(ETHERNET_LENGTH) else { return Fate::Pass };
    if let Some(group) = virtual_mac_owner(header.mac(ETHERNET_DESTINATION)) {
        match (valid_lease(group), nic()) {
            // From here on it is a frame to this network card.
            (Some(_), Some(nic)) => header.set_mac(ETHERNET_DESTINATION, nic.mac),
            (None, _) | (_, None) => {
                count(group, Verdict::VirtualMacDark);
                return Fate::Drop;
            }
        }
    }
    match u16::from_be(header.two(ETHERNET_TYPE)) {
        TYPE_IPV4 => ipv4::packet::<ETHERNET_LENGTH>(frame),
        TYPE_IPV6 => ipv6::packet::<ETHERNET_LENGTH>(context, frame),
        TYPE_ARP => arp::packet::<ETHERNET_LENGTH>(frame),
        _ => Fate::Pass,
    }
}

/// Whether the frame is addressed to everybody, to several, or to this network card.
#[inline(always)]
fn is_for_us(header: Header) -> bool {
    let destination = header.mac(ETHERNET_DESTINATION);
    // The lowest bit of the first byte marks a group address (IEEE 802).
    destination[0].to_ne_bytes()[0] & 1 != 0 || nic().is_some_and(|nic| nic.mac == destination)
}
