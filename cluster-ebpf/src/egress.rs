//! What goes out: nothing leaves with a VIP as its source unless the lease is valid, and the kernel never answers for
//! one. The ingress program's answers, and raw sends that bypass the queueing layer, do not come by here.

use cluster_common::Verdict;
use cluster_common::frame::{
    ETHERNET_LENGTH, ETHERNET_TYPE, TYPE_ARP, TYPE_IPV4, TYPE_SERVICE_VLAN, TYPE_VLAN, VLAN_TAG_LENGTH, arp,
    ipv4,
};

use crate::unsafe_maps::{count, valid_lease, vip};
use crate::{Fate, Frame};

/// The longest run of bytes that [`egress`] looks at: two VLAN tags and an ARP packet.
pub const LOOKED_AT: usize = ETHERNET_LENGTH + 2 * VLAN_TAG_LENGTH + arp::LENGTH;

/// Judges a frame that is about to leave. Up to two VLAN tags are looked through; a tag that the kernel keeps beside
/// the frame is not in the bytes at all.
#[inline(always)]
#[must_use]
pub fn egress(frame: Frame) -> Fate {
    let Some(header) = frame.header(ETHERNET_LENGTH) else { return Fate::Pass };
    let outer = u16::from_be(header.two(ETHERNET_TYPE));
    if !is_tag(outer) {
        return network::<ETHERNET_LENGTH>(frame, outer);
    }
    const ONE_TAG: usize = ETHERNET_LENGTH + VLAN_TAG_LENGTH;
    let Some(header) = frame.header(ONE_TAG) else { return Fate::Pass };
    let inner = u16::from_be(header.two(ETHERNET_TYPE + VLAN_TAG_LENGTH));
    if !is_tag(inner) {
        return network::<ONE_TAG>(frame, inner);
    }
    const TWO_TAGS: usize = ONE_TAG + VLAN_TAG_LENGTH;
    let Some(header) = frame.header(TWO_TAGS) else { return Fate::Pass };
    network::<TWO_TAGS>(frame, u16::from_be(header.two(ETHERNET_TYPE + 2 * VLAN_TAG_LENGTH)))
}

#[inline(always)]
fn is_tag(ethertype: u16) -> bool {
    ethertype == TYPE_VLAN || ethertype == TYPE_SERVICE_VLAN
}

/// Judges the packet of the given type that begins at `AT`.
#[inline(always)]
fn network<const AT: usize>(frame: Frame, ethertype: u16) -> Fate {
    match ethertype {
        TYPE_IPV4 => ipv4_packet::<AT>(frame),
        TYPE_ARP => arp_packet::<AT>(frame),
        _ => Fate::Pass,
    }
}

#[inline(always)]
fn ipv4_packet<const AT: usize>(frame: Frame) -> Fate {
    let Some(header) = frame.header(AT + ipv4::LENGTH) else { return Fate::Pass };
    let Some(entry) = vip(header.four(AT + ipv4::SOURCE)) else { return Fate::Pass };
    if valid_lease(entry.group).is_some() {
        count(entry.group, Verdict::EgressIpv4Passed);
        Fate::Pass
    } else {
        count(entry.group, Verdict::EgressIpv4Fenced);
        Fate::Drop
    }
}

#[inline(always)]
fn arp_packet<const AT: usize>(frame: Frame) -> Fate {
    let Some(header) = frame.header(AT + arp::LENGTH) else { return Fate::Pass };
    if header.two(AT + arp::HARDWARE_TYPE) != arp::ETHERNET.to_be()
        || header.two(AT + arp::PROTOCOL_TYPE) != TYPE_IPV4.to_be()
        || header.two(AT + arp::ADDRESS_LENGTHS) != arp::LENGTHS_6_AND_4.to_be()
    {
        return Fate::Pass;
    }
    let Some(entry) = vip(header.four_in_halves(AT + arp::SENDER_IP)) else { return Fate::Pass };
    match u16::from_be(header.two(AT + arp::OPERATION)) {
        arp::REPLY => {
            count(entry.group, Verdict::EgressArpReplyFenced);
            Fate::Drop
        }
        arp::REQUEST if valid_lease(entry.group).is_some() => {
            count(entry.group, Verdict::EgressArpRequestPassed);
            Fate::Pass
        }
        arp::REQUEST => {
            count(entry.group, Verdict::EgressArpRequestFenced);
            Fate::Drop
        }
        _ => Fate::Pass,
    }
}
