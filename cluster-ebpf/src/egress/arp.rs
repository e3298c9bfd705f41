//! ARP with a VIP as its sender.

use cluster_common::Verdict;
use cluster_common::frame::{TYPE_IPV4, arp};

use super::{face, is_ingress_programs};
use crate::Fate;
use crate::unsafe_maps::{Standing, count, ipv4_face, own_ipv4, standing, vip};
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
    let sender = header.four_in_halves(AT + arp::SENDER_IP);
    let Some(entry) = vip(sender) else { return Ok(Fate::Pass) };
    Ok(match u16::from_be(header.two(AT + arp::OPERATION)) {
        arp::REPLY if is_ingress_programs(frame, entry.group) => Fate::Admit,
        arp::REPLY => {
            count(entry.group, Verdict::EgressArpReplyFenced);
            Fate::Drop
        }
        arp::REQUEST => match (standing(entry.group), own_ipv4(entry.group)) {
            (Some(Standing { holds: true, .. }), _) => {
                let mac = face::worn(frame, ipv4_face(entry.group));
                face::put_on(frame, mac)?;
                if let Some(mac) = mac {
                    frame.store(AT + arp::SENDER_MAC, &mac)?;
                }
                count(entry.group, Verdict::EgressArpRequestPassed);
                Fate::Admit
            }
            // Whoever hears a request learns where its sender is, and only a holder may be that for a VIP. An announcement
            // asks for nobody else.
            (Some(_), Some(own)) if header.four(AT + arp::TARGET_IP) != sender => {
                header.set_four_in_halves(AT + arp::SENDER_IP, own);
                count(entry.group, Verdict::EgressArpRequestRenamed);
                Fate::Admit
            }
            (Some(_) | None, _) => {
                count(entry.group, Verdict::EgressArpRequestFenced);
                Fate::Drop
            }
        },
        _ => Fate::Pass,
    })
}
