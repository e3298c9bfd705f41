//! IPv6 packets.

use cluster_common::Verdict;
use cluster_common::frame::ipv6;

use super::{face, nd};
use crate::Fate;
use crate::unsafe_maps::{count, ipv6_face, valid_lease, vip6};
use crate::unsafe_packet::{Buffered, Unreachable};

/// Judges the packet that begins at `AT`, by the address that it says something about, if it does, and by its source.
#[inline(always)]
pub(super) fn packet<const AT: usize>(frame: &mut Buffered<'_>) -> Result<Fate, Unreachable> {
    let header = frame.reach(AT + ipv6::LENGTH)?;
    let source = header.sixteen(AT + ipv6::SOURCE);
    let next_header = header.one(AT + ipv6::NEXT_HEADER);
    match next_header {
        ipv6::ICMPV6 => {
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
    if valid_lease(entry.group).is_some() {
        let mac = face::worn(frame, ipv6_face(entry.group));
        face::put_on(frame, mac)?;
        if let Some(mac) = mac
            && next_header == ipv6::ICMPV6
        {
            nd::name_source::<AT>(frame, mac)?;
        }
        count(entry.group, Verdict::EgressIpv6Passed);
        Ok(Fate::Pass)
    } else {
        count(entry.group, Verdict::EgressIpv6Fenced);
        Ok(Fate::Drop)
    }
}
