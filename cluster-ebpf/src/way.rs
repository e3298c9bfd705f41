//! Where a packet to a VIP goes.

use cluster_common::Verdict;
use cluster_common::frame::{ETHERNET_DESTINATION, ETHERNET_SOURCE};

use crate::unsafe_packet::Header;

/// Where a packet to a VIP goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// To this host.
    Here,
    /// To another node.
    Over {
        /// Its Ethernet address.
        to: [u16; 3],
        /// The address that it is sent from.
        from: [u16; 3],
        /// What for.
        journey: Journey,
    },
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

/// Addresses the frame to another node.
#[inline(always)]
pub(crate) fn send_over(header: Header, to: [u16; 3], from: [u16; 3]) {
    header.set_mac(ETHERNET_DESTINATION, to);
    header.set_mac(ETHERNET_SOURCE, from);
}
