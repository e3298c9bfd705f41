//! IPv4 packets.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::programs::XdpContext;
use cluster_common::Verdict;
use cluster_common::frame::ipv4;

use super::is_for_us;
use crate::grace::{self, owner_of_ipv4};
use crate::unsafe_apart::spread_ipv4;
use crate::unsafe_maps::{Membership, Sharing, count, count_served, standing, vip_on};
use crate::way::Way;
use crate::{Fate, Frame};

/// Judges the packet that begins at `AT`. The destination address stands in the header's fixed part, so options and
/// fragments need no look.
#[inline(always)]
pub(super) fn packet<const AT: usize>(context: &XdpContext, frame: Frame, tags: u32) -> Fate {
    let Some(header) = frame.header(AT + ipv4::LENGTH) else { return Fate::Pass };
    let destination = header.four(AT + ipv4::DESTINATION);
    let Some(entry) = vip_on(tags, destination) else { return Fate::Pass };
    let standing = standing(entry.group);
    let goes_on = standing.is_some_and(|standing| standing.holds && standing.sharing.is_none());
    // A frame for another host, on a port that belongs to a bridge or is promiscuous, is not ours to drop or to send.
    if !goes_on && !is_for_us(header) {
        return Fate::Pass;
    }
    let way = match standing {
        Some(standing) => match standing.sharing {
            None => Way::Here,
            Some(Sharing::Handover(grace)) => {
                grace::way(standing.holds, grace, header, || owner_of_ipv4::<AT>(context, frame))
            }
            Some(Sharing::Spread(Membership { table, .. })) => {
                Way::of_number(spread_ipv4(context.as_ptr().cast(), AT as u32, table))
            }
        },
        None => Way::Nowhere,
    };
    match (way, standing) {
        (Way::Here, Some(standing)) => {
            let source = header.four(AT + ipv4::SOURCE);
            count_served(entry, Verdict::Ipv4Passed, standing.now, source, destination);
            Fate::Admit
        }
        (Way::Over(journey), _) => {
            count(entry.group, journey.of_ipv4());
            Fate::Answer
        }
        (Way::Here | Way::Nowhere, _) => {
            count(entry.group, Verdict::Ipv4Dark);
            Fate::Drop
        }
    }
}
