//! IPv4 packets.

use cluster_common::Verdict;
use cluster_common::frame::ipv4;

use super::is_for_us;
use crate::unsafe_maps::{count, count_served, valid_lease, vip};
use crate::{Fate, Frame};

/// Judges the packet that begins at `AT`. The destination address stands in the header's fixed part, so options and
/// fragments need no look.
#[inline(always)]
pub(super) fn packet<const AT: usize>(frame: Frame) -> Fate {
    let Some(header) = frame.header(AT + ipv4::LENGTH) else { return Fate::Pass };
    let destination = header.four(AT + ipv4::DESTINATION);
    let Some(entry) = vip(destination) else { return Fate::Pass };
    match valid_lease(entry.group) {
        Some(now) => {
            let source = header.four(AT + ipv4::SOURCE);
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
