//! Who is who: nodes, groups, epochs, incarnations and paths.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU8;

/// A node's stable id, 1 to 65 535; 0 is nobody and appears only on the wire.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeId(pub u16);

impl NodeId {
    /// The id of a node that was not given one: its name's FNV-1a hash folded to 16 bits, never 0.
    #[must_use]
    pub fn from_name(name: &str) -> Self {
        let hash = fnv1a_64(name.as_bytes());
        let folded = (hash ^ (hash >> 16) ^ (hash >> 32) ^ (hash >> 48)) as u16;
        Self(folded.max(1))
    }
}

/// A group as named on the wire: the 32-bit fold of its name's FNV-1a hash.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct GroupId(pub u32);

impl GroupId {
    /// The id of the group called `name`. Two names of one file with the same id are refused by the configuration.
    #[must_use]
    pub fn from_name(name: &str) -> Self {
        let hash = fnv1a_64(name.as_bytes());
        Self((hash ^ (hash >> 32)) as u32)
    }
}

/// A cluster as named on the wire: the FNV-1a hash of its name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ClusterId(pub u64);

impl ClusterId {
    /// The id of the cluster called `name`.
    #[must_use]
    pub fn from_name(name: &str) -> Self {
        Self(fnv1a_64(name.as_bytes()))
    }
}

/// A group's place in [`crate::Settings::groups`]; local to one node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct GroupIndex(pub usize);

/// A path: the peer's place in [`crate::Settings::peers`] and the path's place in that peer's list. Local to one node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PathIndex {
    /// The peer's place in [`crate::Settings::peers`].
    pub peer: usize,
    /// The path's place in the peer's list of paths.
    pub path: usize,
}

/// One run of a daemon: a random number, never 0, drawn at each start. A message counts only once its sender has
/// echoed ours, so that a recorded session convinces nobody.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Incarnation(pub u64);

/// The name of one tenure of a group: unique, and ordered by counter, then node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Epoch {
    /// Never decreases, and is reserved ahead on disk by the node that uses it.
    pub counter: u64,
    /// The node that holds, or asks to hold, the group in this epoch.
    pub node: NodeId,
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.counter, self.node.0)
    }
}

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// FNV-1a, 64 bits (draft-eastlake-fnv): stable across versions and machines, which is all that ids need.
pub(crate) const fn fnv1a_64(bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut at = 0;
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u64).wrapping_mul(0x0000_0100_0000_01b3);
        at += 1;
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Vectors of the FNV reference distribution.
    #[test]
    fn fnv_matches_the_published_vectors() {
        assert_eq!(fnv1a_64(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a_64(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a_64(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn epochs_order_by_counter_then_node() {
        let low = Epoch { counter: 1, node: NodeId(9) };
        let high = Epoch { counter: 2, node: NodeId(1) };
        assert!(low < high);
        assert_eq!(high.to_string(), "2.1");
    }
}

/// The number of a group's virtual Ethernet addresses: one for its VIPs of each family (RFC 9568 section 7.3).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct VirtualMac(pub NonZeroU8);

impl VirtualMac {
    /// The address of a group's IPv4 VIPs.
    #[must_use]
    pub const fn ipv4(self) -> Mac {
        Mac([0, 0, 0x5e, 0, 1, self.0.get()])
    }

    /// The address of a group's IPv6 VIPs.
    #[must_use]
    pub const fn ipv6(self) -> Mac {
        Mac([0, 0, 0x5e, 0, 2, self.0.get()])
    }

    /// The address of a VIP.
    #[must_use]
    pub const fn of(self, vip: IpAddr) -> Mac {
        match vip {
            IpAddr::V4(_) => self.ipv4(),
            IpAddr::V6(_) => self.ipv6(),
        }
    }
}
