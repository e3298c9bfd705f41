//! ARP with a VIP as its sender.

use cluster_common::Verdict;
use cluster_common::frame::{TYPE_IPV4, arp};

use super::face;
use crate::Fate;
use crate::unsafe_maps::{count, ipv4_face, valid_lease, vip};
use crate::unsafe_packet::{Buffered, Unreachable};

/// Judges the ARP packet that begins at `AT`.
#[inline(always)]
pub(super) fn packet<const AT: usize>(frame: &mut Buffered<'_>) -> Result<Fate, Unreachable> {
    let header = frame.reach(AT + arp::LENGTH)?;
    if header.two(AT + arp::HARDWARE_TYPE) != arp::ETHERNET.to_be()
        || header.two(AT + arp::PROTOCOL_TYPE) != TYPE_IPV4.to_be()
        || header.two(AT + arp::ADDRESS_LENGTHS) != arp::LENGTHS_6_AND_4.to_be()
    {
        return Ok(Fate::Pass);
    }
    let Some(entry) = vip(header.four_in_halves(AT + arp::SENDER_IP)) else { return Ok(Fate::Pass) };
    Ok(match u16::from_be(header.two(AT + arp::OPERATION)) {
        arp::REPLY => {
            count(entry.group, Verdict::EgressArpReplyFenced);
            Fate::Drop
        }
        arp::REQUEST if valid_lease(entry.group).is_some() => {
            let mac = face::worn(frame, ipv4_face(entry.group));
            face::put_on(frame, mac)?;
            if let Some(mac) = mac {
                frame.store(AT + arp::SENDER_MAC, &mac)?;
            }
            count(entry.group, Verdict::EgressArpRequestPassed);
            Fate::Pass
        }
        arp::REQUEST => {
            count(entry.group, Verdict::EgressArpRequestFenced);
            Fate::Drop
        }
        _ => Fate::Pass,
    })
}
