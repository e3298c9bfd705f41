//! IPv6 packets.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::programs::XdpContext;
use cluster_common::Verdict;
use cluster_common::frame::{ipv6, nd as field};

use super::{is_for_us, nd};
use crate::grace::{self, owner_of_ipv6};
use crate::unsafe_apart::spread_ipv6;
use crate::unsafe_maps::{Membership, Sharing, count, count_served6, standing, vip6_on};
use crate::way::Way;
use crate::{Fate, Frame};

/// Judges the packet that begins at `AT`. The destination address stands in the fixed header, so extension headers need
/// no look. A neighbour discovery message behind one is none to this program: it is judged by its destination, and
/// what the kernel may answer to it does not leave.
#[inline(always)]
pub(super) fn packet<const AT: usize>(context: &XdpContext, frame: Frame, tags: u32) -> Fate {
    let Some(header) = frame.header(AT + ipv6::LENGTH) else { return Fate::Pass };
    let message = match header.one(AT + ipv6::NEXT_HEADER) {
        ipv6::ICMPV6 => frame.header(AT + field::OPTIONS),
        _ => None,
    };
    let is_rivals = message.is_some_and(|message| nd::note_rival::<AT>(message, tags));
    if let Some(message) = message
        && message.one(AT + field::TYPE) == field::SOLICITATION
        && let Some(entry) = vip6_on(tags, message.sixteen(AT + field::TARGET))
        && is_for_us(message)
    {
        return nd::solicitation::<AT>(context, frame, entry);
    }
    let destination = header.sixteen(AT + ipv6::DESTINATION);
    let Some(entry) = vip6_on(tags, destination) else {
        if let Some(message) = message
            && message.one(AT + field::TYPE) == field::ADVERTISEMENT
            && let Some(entry) = vip6_on(tags, message.sixteen(AT + field::TARGET))
            && is_for_us(message)
        {
            count(entry.group, Verdict::NaAnnounced);
            return Fate::Admit;
        }
        return if is_rivals { Fate::Admit } else { Fate::Pass };
    };
    let standing = standing(entry.group);
    let goes_on = standing.is_some_and(|standing| standing.holds && standing.sharing.is_none());
    // As in IPv4.
    if !goes_on && !is_for_us(header) {
        return Fate::Pass;
    }
    let way = match standing {
        Some(standing) => match standing.sharing {
            None => Way::Here,
            Some(Sharing::Handover(grace)) => {
                grace::way(standing.holds, grace, header, || owner_of_ipv6::<AT>(context, frame))
            }
            Some(Sharing::Spread(Membership { table, .. })) => {
                Way::of_number(spread_ipv6(context.as_ptr().cast(), AT as u32, table))
            }
        },
        None => Way::Nowhere,
    };
    match (way, standing) {
        (Way::Here, Some(standing)) => {
            let source = header.sixteen(AT + ipv6::SOURCE);
            count_served6(entry, Verdict::Ipv6Passed, standing.now, source, destination);
            Fate::Admit
        }
        (Way::Over(journey), _) => {
            count(entry.group, journey.of_ipv6());
            Fate::Answer
        }
        (Way::Here | Way::Nowhere, _) => {
            count(entry.group, Verdict::Ipv6Dark);
            Fate::Drop
        }
    }
}
