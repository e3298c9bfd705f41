//! IPv4 packets.

use cluster_common::Verdict;
use cluster_common::frame::ipv4;

use super::face;
use crate::Fate;
use crate::unsafe_maps::{count, ipv4_face, standing, vip};
use crate::unsafe_packet::{Buffered, Unreachable};

/// Judges the packet that begins at `AT`, by its source.
#[inline(always)]
pub(super) fn packet<const AT: usize>(frame: &mut Buffered<'_>) -> Result<Fate, Unreachable> {
    let header = frame.reach(AT + ipv4::LENGTH)?;
    let Some(entry) = vip(header.four(AT + ipv4::SOURCE)) else { return Ok(Fate::Pass) };
    if let Some(standing) = standing(entry.group) {
        let mac = face::worn(frame, ipv4_face(entry.group).filter(|_| standing.holds));
        face::put_on(frame, mac)?;
        count(entry.group, Verdict::EgressIpv4Passed);
        Ok(Fate::Admit)
    } else {
        count(entry.group, Verdict::EgressIpv4Fenced);
        Ok(Fate::Drop)
    }
}
