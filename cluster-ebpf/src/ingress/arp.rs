//! ARP: requests for a VIP, announcements of one, and who else claims one.

use cluster_common::Verdict;
use cluster_common::frame::{ETHERNET_DESTINATION, ETHERNET_SOURCE, TYPE_IPV4, arp};

use super::is_for_us;
use crate::unsafe_maps::{count, count_served, ipv4_face, is_kin, nic, note_claim, valid_lease, vip_on};
use crate::unsafe_packet::Header;
use crate::{Fate, Frame};

/// Judges the ARP packet that begins at `AT`.
#[inline(always)]
pub(super) fn packet<const AT: usize>(frame: Frame, tags: u32) -> Fate {
    let Some(header) = frame.header(AT + arp::LENGTH) else { return Fate::Pass };
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
    if !(operation == arp::REQUEST || operation == arp::REPLY) || !is_for_us(header) {
        return Fate::Pass;
    }
    let is_rivals = note_rival::<AT>(header, sender, tags);
    let other = if is_rivals { Fate::Admit } else { Fate::Pass };
    if operation == arp::REPLY && !announcement {
        return other;
    }
    let Some(entry) = vip_on(tags, target) else { return other };
    if announcement {
        count(entry.group, Verdict::ArpAnnounced);
        return Fate::Admit;
    }
    match (valid_lease(entry.group), nic()) {
        (Some(now), Some(nic)) => {
            let mac = ipv4_face(entry.group).unwrap_or(nic.mac);
            answer::<AT>(header, mac, sender, target);
            count_served(entry, Verdict::ArpAnswered, now, sender, target);
            Fate::Answer
        }
        (None, _) | (_, None) => {
            count(entry.group, Verdict::ArpDark);
            Fate::Drop
        }
    }
}

/// Whoever sends with a VIP as the sender's address says that it is his, and neighbours believe him (RFC 826): be it an
/// answer, an announcement or a request for another address. Who would like to have an address (RFC 5227 section 2.1.1)
/// sends without one, as switches and monitors do that only look who is there; that is no claim.
#[inline(always)]
fn note_rival<const AT: usize>(header: Header, sender: u32, tags: u32) -> bool {
    let Some(entry) = vip_on(tags, sender) else { return false };
    let (said, sent) = (header.mac(AT + arp::SENDER_MAC), header.mac(ETHERNET_SOURCE));
    let stranger = match (is_kin(said), is_kin(sent)) {
        (false, _) => said,
        (true, false) => sent,
        (true, true) => return false,
    };
    note_claim(entry.group, Verdict::ArpRival, 4, [sender, 0, 0, 0], stranger);
    true
}

/// Makes a request its own answer (RFC 826): sender and target change places, and the answer goes to the sender's
/// hardware address, as the kernel's own would.
#[inline(always)]
fn answer<const AT: usize>(header: Header, mac: [u16; 3], sender: u32, target: u32) {
    let asker = header.mac(AT + arp::SENDER_MAC);
    header.set_mac(ETHERNET_DESTINATION, asker);
    header.set_mac(ETHERNET_SOURCE, mac);
    header.set_two(AT + arp::OPERATION, arp::REPLY.to_be());
    header.set_mac(AT + arp::SENDER_MAC, mac);
    header.set_four_in_halves(AT + arp::SENDER_IP, target);
    header.set_mac(AT + arp::TARGET_MAC, asker);
    header.set_four(AT + arp::TARGET_IP, sender);
}
