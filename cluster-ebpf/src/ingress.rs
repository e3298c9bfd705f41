//! What comes in: requests for a VIP are answered, and packets to it let through, only while the lease is valid.

use cluster_common::Verdict;
use cluster_common::frame::{
    ETHERNET_DESTINATION, ETHERNET_LENGTH, ETHERNET_SOURCE, ETHERNET_TYPE, TYPE_ARP, TYPE_IPV4, arp, ipv4,
};

use crate::unsafe_maps::{count, count_served, nic, valid_lease, vip};
use crate::unsafe_packet::Header;
use crate::{Fate, Frame};

/// Judges a received frame. VLAN-tagged frames, runts and everything unknown pass untouched.
#[inline(always)]
#[must_use]
pub fn ingress(frame: Frame) -> Fate {
    let Some(header) = frame.header(ETHERNET_LENGTH + ipv4::LENGTH) else { return Fate::Pass };
    match u16::from_be(header.two(ETHERNET_TYPE)) {
        TYPE_IPV4 => ipv4_packet(header),
        TYPE_ARP => match frame.header(ETHERNET_LENGTH + arp::LENGTH) {
            Some(header) => arp_packet(header),
            None => Fate::Pass,
        },
        _ => Fate::Pass,
    }
}

/// The destination address stands in the header's fixed part, so options and fragments need no look.
#[inline(always)]
fn ipv4_packet(header: Header) -> Fate {
    let destination = header.four(ETHERNET_LENGTH + ipv4::DESTINATION);
    let Some(entry) = vip(destination) else { return Fate::Pass };
    match valid_lease(entry.group) {
        Some(now) => {
            let source = header.four(ETHERNET_LENGTH + ipv4::SOURCE);
            count_served(entry, Verdict::Ipv4Passed, now, source, destination);
            Fate::Pass
        }
        // A frame for another host, on a port that belongs to a bridge or is promiscuous, is not ours to drop.
        None if !is_for_us(header) => Fate::Pass,
        None => {
            count(entry.group, Verdict::Ipv4Dark);
            Fate::Drop
        }
    }
}

#[inline(always)]
fn arp_packet(header: Header) -> Fate {
    const AT: usize = ETHERNET_LENGTH;
    if header.two(AT + arp::HARDWARE_TYPE) != arp::ETHERNET.to_be()
        || header.two(AT + arp::PROTOCOL_TYPE) != TYPE_IPV4.to_be()
        || header.two(AT + arp::ADDRESS_LENGTHS) != arp::LENGTHS_6_AND_4.to_be()
    {
        return Fate::Pass;
    }
    let operation = u16::from_be(header.two(AT + arp::OPERATION));
    let sender = header.four_in_halves(AT + arp::SENDER_IP);
    let target = header.four(AT + arp::TARGET_IP);
    // An announcement names one address as sender and as target, in a request or in a reply (RFC 5227 section 3). An
    // answer to it would make two reflectors answer each other for ever.
    let announcement = sender == target;
    if !(operation == arp::REQUEST || operation == arp::REPLY && announcement) || !is_for_us(header) {
        return Fate::Pass;
    }
    let Some(entry) = vip(target) else { return Fate::Pass };
    if announcement {
        count(entry.group, Verdict::ArpAnnounced);
        return Fate::Pass;
    }
    match (valid_lease(entry.group), nic()) {
        (Some(now), Some(mac)) => {
            answer(header, mac, sender, target);
            count_served(entry, Verdict::ArpAnswered, now, sender, target);
            Fate::Answer
        }
        (None, _) | (_, None) => {
            count(entry.group, Verdict::ArpDark);
            Fate::Drop
        }
    }
}

/// Makes a request its own answer (RFC 826): sender and target change places, and the answer goes to the sender's
/// hardware address, as the kernel's own would.
#[inline(always)]
fn answer(header: Header, mac: [u16; 3], sender: u32, target: u32) {
    const AT: usize = ETHERNET_LENGTH;
    let asker = header.mac(AT + arp::SENDER_MAC);
    header.set_mac(ETHERNET_DESTINATION, asker);
    header.set_mac(ETHERNET_SOURCE, mac);
    header.set_two(AT + arp::OPERATION, arp::REPLY.to_be());
    header.set_mac(AT + arp::SENDER_MAC, mac);
    header.set_four_in_halves(AT + arp::SENDER_IP, target);
    header.set_mac(AT + arp::TARGET_MAC, asker);
    header.set_four(AT + arp::TARGET_IP, sender);
}

/// Whether the frame is addressed to everybody, to several, or to this network card.
#[inline(always)]
fn is_for_us(header: Header) -> bool {
    let destination = header.mac(ETHERNET_DESTINATION);
    // The lowest bit of the first byte marks a group address (IEEE 802).
    destination[0].to_ne_bytes()[0] & 1 != 0 || nic() == Some(destination)
}
