//! IPv4 packets.

use cluster_common::Verdict;
use cluster_common::frame::ipv4;

use crate::Fate;
use crate::unsafe_maps::{count, standing, vip};
use crate::unsafe_packet::{Outgoing, Unreachable};

/// Judges the packet that begins at `AT`, by its source.
#[inline(always)]
pub(super) fn packet<const AT: usize>(frame: &mut Outgoing<'_>) -> Result<Fate, Unreachable> {
    let header = frame.reach(AT + ipv4::LENGTH)?;
    let Some(entry) = vip(header.four(AT + ipv4::SOURCE)) else { return Ok(Fate::Pass) };
    if standing(entry.group).is_some() {
        count(entry.group, Verdict::EgressIpv4Passed);
        Ok(Fate::Admit)
    } else {
        count(entry.group, Verdict::EgressIpv4Fenced);
        Ok(Fate::Drop)
    }
}
