//! IPv6 packets.

use cluster_common::Verdict;
use cluster_common::frame::ipv6;

use super::{face, nd};
use crate::Fate;
use crate::unsafe_maps::{Standing, count, ipv6_face, standing, vip6};
use crate::unsafe_packet::{Buffered, Unreachable};

/// Judges the packet that begins at `AT`, by the address that it says something about, if it does, and by its source.
#[inline(always)]
pub(super) fn packet<const AT: usize>(frame: &mut Buffered<'_>) -> Result<Fate, Unreachable> {
    let header = frame.reach(AT + ipv6::LENGTH)?;
    let source = header.sixteen(AT + ipv6::SOURCE);
    let mut solicits = false;
    let next_header = header.one(AT + ipv6::NEXT_HEADER);
    match next_header {
        ipv6::ICMPV6 => {
            solicits = nd::is_solicitation::<AT>(frame)?;
            if let Some(fate) = nd::message::<AT>(frame, source)? {
                return Ok(fate);
            }
        }
        next @ (ipv6::HOP_BY_HOP
        | ipv6::ROUTING
        | ipv6::FRAGMENT
        | ipv6::AUTHENTICATION
        | ipv6::DESTINATION_OPTIONS)
            if nd::is_hidden_claim(frame, AT + ipv6::LENGTH, next, source) =>
        {
            return Ok(Fate::Drop);
        }
        _ => {}
    }
    let Some(entry) = vip6(source) else { return Ok(Fate::Pass) };
    match standing(entry.group) {
        None => {
            count(entry.group, Verdict::EgressIpv6Fenced);
            Ok(Fate::Drop)
        }
        // Whoever hears a solicitation learns where its source is, and only a holder may be that for a VIP.
        Some(Standing { holds: false, .. }) if solicits => {
            Ok(match nd::rename::<AT>(frame, source, entry.group)? {
                true => {
                    count(entry.group, Verdict::EgressNsRenamed);
                    Fate::Admit
                }
                false => {
                    count(entry.group, Verdict::EgressIpv6Fenced);
                    Fate::Drop
                }
            })
        }
        Some(standing) => {
            let mac = face::worn(frame, ipv6_face(entry.group).filter(|_| standing.holds));
            face::put_on(frame, mac)?;
            if let Some(mac) = mac
                && next_header == ipv6::ICMPV6
            {
                nd::name_source::<AT>(frame, mac)?;
            }
            count(entry.group, Verdict::EgressIpv6Passed);
            Ok(Fate::Admit)
        }
    }
}
