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
    ETHERNET_DESTINATION, ETHERNET_LENGTH, ETHERNET_TYPE, TYPE_ARP, TYPE_IPV4, TYPE_IPV6, TYPE_SERVICE_VLAN,
    TYPE_VLAN, VLAN_TAG_LENGTH,
};
use cluster_common::maps::vlan_tags;

use crate::unsafe_maps::{count, nic, standing, virtual_mac_owner};
use crate::unsafe_packet::{Header, received};
use crate::{Fate, Frame};

/// Judges a received frame. Runts and everything unknown, frames of other VLANs too, pass untouched, unless they are for a
/// virtual Ethernet address of ours: then they come in like frames to the network card's own, or not at all.
#[inline(always)]
#[must_use]
pub fn ingress(context: &XdpContext) -> Fate {
    let frame = received(context);
    let Some(header) = frame.header(ETHERNET_LENGTH) else { return Fate::Pass };
    // The group whose virtual address it is for, if this node takes it in without holding the group.
    let mut stale = None;
    if let Some(group) = virtual_mac_owner(header.mac(ETHERNET_DESTINATION)) {
        match (standing(group), nic()) {
            // From here on it is a frame to this network card. Who gave the group up sends over what still comes from senders,
            // or over switches, that have not heard of it.
            (Some(standing), Some(nic)) if standing.holds || standing.gave_up() => {
                header.set_mac(ETHERNET_DESTINATION, nic.mac);
                if !standing.holds {
                    stale = Some(group);
                }
            }
            (_, _) => {
                count(group, Verdict::VirtualMacDark);
                return Fate::Drop;
            }
        }
    }
    match (network(context, frame, header), stale) {
        // It does so for the VIPs' sake alone.
        (Fate::Pass, Some(group)) => {
            count(group, Verdict::VirtualMacDark);
            Fate::Drop
        }
        (fate, _) => fate,
    }
}

#[inline(always)]
fn network(context: &XdpContext, frame: Frame, header: Header) -> Fate {
    match u16::from_be(header.two(ETHERNET_TYPE)) {
        TYPE_VLAN | TYPE_SERVICE_VLAN => tagged(context, frame),
        untagged => packet::<ETHERNET_LENGTH>(context, frame, untagged, 0),
    }
}

/// Judges a frame with one VLAN tag or two.
#[inline(always)]
fn tagged(context: &XdpContext, frame: Frame) -> Fate {
    const ONE_TAG: usize = ETHERNET_LENGTH + VLAN_TAG_LENGTH;
    const TWO_TAGS: usize = ONE_TAG + VLAN_TAG_LENGTH;
    let Some(header) = frame.header(ONE_TAG) else { return Fate::Pass };
    let outer = u16::from_be(header.two(ETHERNET_LENGTH));
    let ethertype = u16::from_be(header.two(ONE_TAG - 2));
    if !matches!(ethertype, TYPE_VLAN | TYPE_SERVICE_VLAN) {
        return packet::<ONE_TAG>(context, frame, ethertype, vlan_tags(outer, 0));
    }
    let Some(header) = frame.header(TWO_TAGS) else { return Fate::Pass };
    let inner = u16::from_be(header.two(ONE_TAG));
    let ethertype = u16::from_be(header.two(TWO_TAGS - 2));
    packet::<TWO_TAGS>(context, frame, ethertype, vlan_tags(outer, inner))
}

/// Judges the packet of the given type that begins at `AT`, on the VLAN of these tags.
#[inline(always)]
fn packet<const AT: usize>(context: &XdpContext, frame: Frame, ethertype: u16, tags: u32) -> Fate {
    match ethertype {
        TYPE_IPV4 => ipv4::packet::<AT>(context, frame, tags),
        TYPE_IPV6 => ipv6::packet::<AT>(context, frame, tags),
        TYPE_ARP => arp::packet::<AT>(frame, tags),
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
