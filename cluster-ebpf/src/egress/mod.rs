//! What goes out: nothing leaves with a VIP as its source unless the lease is valid, and the kernel never answers for
//! one. The ingress program's answers, and raw sends that bypass the queueing layer, do not come by here.
//!
//! A module for each protocol, as in [`crate::ingress`]; [`face`] is about the virtual Ethernet addresses that what is let
//! out wears.

mod arp;
mod face;
mod ipv4;
mod ipv6;
mod nd;

use aya_ebpf::programs::TcContext;
use cluster_common::Verdict;
use cluster_common::frame::{
    ETHERNET_LENGTH, ETHERNET_SOURCE, ETHERNET_TYPE, TYPE_ARP, TYPE_IPV4, TYPE_IPV6, TYPE_SERVICE_VLAN,
    TYPE_VLAN, VLAN_TAG_LENGTH,
};

use crate::Fate;
use crate::unsafe_maps::{count, service_interface, valid_lease, virtual_mac_owner};
use crate::unsafe_packet::{Buffered, Unreachable};

/// Judges a frame that is about to leave. Up to two VLAN tags are looked through; a tag that the kernel keeps beside
/// the frame is not in the bytes at all.
#[inline(always)]
#[must_use]
pub fn egress(context: &TcContext) -> Fate {
    match through_tags(&mut Buffered::new(context)) {
        Ok(fate) => fate,
        Err(Unreachable::TooShort) => Fate::Pass,
        // A frame whose headers cannot be read cannot be told from one that must not leave.
        Err(Unreachable::NoMemory) => Fate::Drop,
    }
}

#[inline(always)]
fn through_tags(frame: &mut Buffered<'_>) -> Result<Fate, Unreachable> {
    let header = frame.reach(ETHERNET_LENGTH)?;
    // Whatever it carries, switches would learn from it where the VIPs are.
    if let Some(group) = virtual_mac_owner(header.mac(ETHERNET_SOURCE))
        && valid_lease(group).is_none()
    {
        count(group, Verdict::EgressVirtualMacFenced);
        return Ok(Fate::Drop);
    }
    let outer = u16::from_be(header.two(ETHERNET_TYPE));
    if !is_tag(outer) {
        return network::<ETHERNET_LENGTH>(frame, outer);
    }
    const ONE_TAG: usize = ETHERNET_LENGTH + VLAN_TAG_LENGTH;
    let inner = u16::from_be(frame.reach(ONE_TAG)?.two(ETHERNET_TYPE + VLAN_TAG_LENGTH));
    if !is_tag(inner) {
        return network::<ONE_TAG>(frame, inner);
    }
    const TWO_TAGS: usize = ONE_TAG + VLAN_TAG_LENGTH;
    let innermost = u16::from_be(frame.reach(TWO_TAGS)?.two(ETHERNET_TYPE + 2 * VLAN_TAG_LENGTH));
    network::<TWO_TAGS>(frame, innermost)
}

#[inline(always)]
fn is_tag(ethertype: u16) -> bool {
    ethertype == TYPE_VLAN || ethertype == TYPE_SERVICE_VLAN
}

/// Judges the packet of the given type that begins at `AT`.
#[inline(always)]
fn network<const AT: usize>(frame: &mut Buffered<'_>, ethertype: u16) -> Result<Fate, Unreachable> {
    match ethertype {
        TYPE_IPV4 => ipv4::packet::<AT>(frame),
        TYPE_IPV6 => ipv6::packet::<AT>(frame),
        TYPE_ARP => arp::packet::<AT>(frame),
        _ => Ok(Fate::Pass),
    }
}

/// Whether an answer for a VIP of the group is the ingress program's. Where the kernel runs that behind the driver on an
/// interface above others (a bridge, a VLAN or a bond), what it sends back leaves by those and comes by here. The
/// kernel makes answers of its own anew, so that they came in nowhere.
#[inline(always)]
fn is_ingress_programs(frame: &Buffered<'_>, group: u32) -> bool {
    let came_in_by = frame.came_in_by();
    came_in_by != 0
        && service_interface().is_some_and(|card| card == came_in_by && card != frame.interface())
        && valid_lease(group).is_some()
}
