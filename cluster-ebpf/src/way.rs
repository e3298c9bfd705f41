//! Where a packet to a VIP goes.

use cluster_common::Verdict;
use cluster_common::frame::{ETHERNET_DESTINATION, ETHERNET_SOURCE};

use crate::unsafe_packet::Header;

/// Where a packet to a VIP goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// To this host.
    Here,
    /// To another node, whose Ethernet address the frame bears already.
    Over(Journey),
    /// Nowhere.
    Nowhere,
}

/// What a packet is sent to another node for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Journey {
    /// It belongs to the node at the other end of a hand-over.
    Handover,
    /// Its flow is the other node's.
    Spread,
    /// Its connection is not known here and may be there.
    SecondChance,
}

impl Way {
    /// Addresses the frame, whose first bytes these are, to another node.
    #[inline(always)]
    pub(crate) fn over(header: Header, to: [u16; 3], from: [u16; 3], journey: Journey) -> Self {
        header.set_mac(ETHERNET_DESTINATION, to);
        header.set_mac(ETHERNET_SOURCE, from);
        Self::Over(journey)
    }

    /// The number of a way, as a function that is [apart](crate::unsafe_apart) returns it.
    #[inline(always)]
    pub(crate) fn number(self) -> u32 {
        match self {
            Self::Nowhere => 0,
            Self::Here => 1,
            Self::Over(Journey::Handover) => 2,
            Self::Over(Journey::Spread) => 3,
            Self::Over(Journey::SecondChance) => 4,
        }
    }

    /// The way of a number.
    #[inline(always)]
    pub(crate) fn of_number(number: u32) -> Self {
        match number {
            1 => Self::Here,
            2 => Self::Over(Journey::Handover),
            3 => Self::Over(Journey::Spread),
            4 => Self::Over(Journey::SecondChance),
            _ => Self::Nowhere,
        }
    }
}

impl Journey {
    /// What an IPv4 packet is counted as.
    #[inline(always)]
    pub(crate) fn of_ipv4(self) -> Verdict {
        match self {
            Self::Handover => Verdict::Ipv4SentOver,
            Self::Spread => Verdict::Ipv4Spread,
            Self::SecondChance => Verdict::Ipv4SecondChance,
        }
    }

    /// What an IPv6 packet is counted as.
    #[inline(always)]
    pub(crate) fn of_ipv6(self) -> Verdict {
        match self {
            Self::Handover => Verdict::Ipv6SentOver,
            Self::Spread => Verdict::Ipv6Spread,
            Self::SecondChance => Verdict::Ipv6SecondChance,
        }
    }
}
