//! The two families of addresses, so that what is tried with one can be tried with the other.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::topology::{VIP, VIP_WITH_PREFIX, VIP6, VIP6_WITH_PREFIX};

/// A family of addresses.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4, whose neighbours ask by ARP.
    Ipv4,
    /// IPv6, whose neighbours ask by neighbour discovery.
    Ipv6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Ipv4, Self::Ipv6];

    /// That of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::Ipv4 } else { Self::Ipv6 }
    }

    /// The lab's virtual address of this family.
    #[must_use]
    pub fn vip(self) -> IpAddr {
        match self {
            Self::Ipv4 => VIP.into(),
            Self::Ipv6 => VIP6.into(),
        }
    }

    /// The same as the configurations write it.
    #[must_use]
    pub fn vip_with_prefix(self) -> &'static str {
        match self {
            Self::Ipv4 => VIP_WITH_PREFIX,
            Self::Ipv6 => VIP6_WITH_PREFIX,
        }
    }

    /// How it is called.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
        }
    }
}
