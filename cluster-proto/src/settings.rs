//! What one node's core needs to know of the configuration, already checked.

use std::net::IpAddr;
use std::time::Duration;

use crate::identity::{ClusterId, GroupId, Mac, NodeId};

/// The configuration of one node's core.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The cluster, so that two clusters on one wire ignore each other.
    pub cluster: ClusterId,
    /// This node, or witness.
    pub me: NodeId,
    /// Whether this node's promises count.
    pub voter: bool,
    /// How many votes a lease takes.
    pub quorum: Quorum,
    /// The other nodes, and the witnesses.
    pub peers: Vec<Peer>,
    /// The groups, in the configuration's order; [`crate::GroupIndex`] points into this.
    pub groups: Vec<Group>,
    /// The timing rules' three durations and the start-up wait.
    pub timing: Timing,
    /// The keys: the first signs, all verify. Never empty.
    pub keys: Vec<Key>,
    /// How many groups this node takes at most; any number if `None`.
    pub max_groups: Option<usize>,
}

/// How many votes a lease takes, the holder's own included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Quorum {
    /// Those of all peers that are heard: safe against stalls, not against partitions. Meant for two nodes.
    Off,
    /// Those of more than half of the voters, heard or not.
    Majority,
}

/// Another node, or a witness.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its id.
    pub id: NodeId,
    /// Whether its promises count.
    pub voter: bool,
    /// The address pairs its heartbeats travel on; [`crate::PathIndex`] points into this. Never empty.
    pub paths: Vec<Path>,
}

/// One local/remote address pair; the addresses themselves are the driver's business.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    /// Whether it runs over the interface that clients use.
    pub service: bool,
}

/// A group: VIPs that move together.
#[derive(Clone, Debug)]
pub struct Group {
    /// Its id on the wire.
    pub id: GroupId,
    /// Its virtual addresses. Never empty.
    pub vips: Vec<IpAddr>,
    /// All nodes that may hold it, best first. This is the rank.
    pub prefer: Vec<NodeId>,
    /// Whether it returns to the preferred node.
    pub failback: Failback,
    /// How often a takeover is announced.
    pub announce: AnnounceSchedule,
    /// For how long the connections of before a hand-over go on where they were; zero is not at all.
    pub grace: Duration,
    /// With [`Quorum::Off`]: a router on the service link without whose answers a node that hears no peer neither takes
    /// nor keeps the group.
    pub gateway: Option<IpAddr>,
    /// Ethernet addresses under which the VIPs appear wherever they are: only a holder wears them. Empty if they appear under
    /// the holder's own.
    pub virtual_macs: Vec<Mac>,
    /// Other groups, as places in [`Settings::groups`], that should not be on the same node as long as there is another one
    /// that could take this group. Who is in a group's list has that group in its own.
    pub apart: Vec<usize>,
    /// Several nodes serve it at once (active/active); `None` if the holder alone does.
    pub spread: Option<SpreadOver>,
}

/// Over which nodes the flows of a group are spread.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SpreadOver {
    /// The nodes, best first, at most [`crate::spread::MAX_MEMBERS`].
    pub members: Vec<SpreadMember>,
    /// Whether all flows of a client go the same way.
    pub by_source: bool,
}

impl SpreadOver {
    /// Sets to 0 the weights of spares that are not needed: one takes part, in the order of the members, for each of the others that is
    /// missing or takes nothing new. There is a weight for each member; who serves nobody has none, and who takes nothing new has 0.
    pub fn hold_spares_back(&self, weights: &mut [Option<u32>]) {
        let missing = self.members.iter().zip(weights.iter());
        let mut needed = missing.filter(|(member, weight)| !member.spare && weight.unwrap_or(0) == 0).count();
        for (member, weight) in self.members.iter().zip(weights) {
            match weight {
                Some(1..) if member.spare && needed == 0 => *weight = Some(0),
                Some(1..) if member.spare => needed -= 1,
                Some(_) | None => {}
            }
        }
    }

    /// What the hash of flows is begun with, on all nodes alike.
    #[must_use]
    pub fn seed(&self, cluster: ClusterId, group: GroupId) -> u64 {
        cluster.0 ^ u64::from(group.0) << 16
    }
}

/// A node that flows may go to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SpreadMember {
    /// Who.
    pub node: NodeId,
    /// Its share is in proportion to this.
    pub weight: u32,
    /// It takes part only while one of the others is missing.
    pub spare: bool,
}

/// Whether a group returns to a better-ranked node that has come back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failback {
    /// It stays where it is.
    Never,
    /// It returns once the better node has been fit to serve for this long.
    After(Duration),
    /// The same, once the group has no connection on its holder.
    Idle(Duration),
}

/// How often and how far apart a takeover is announced (gratuitous ARP, unsolicited NA); the first at once.
#[derive(Clone, Copy, Debug)]
pub struct AnnounceSchedule {
    /// How many announcements in all, at least 1.
    pub count: u32,
    /// The time between two of them.
    pub interval: Duration,
}

/// The three durations of the election and how long a starting node listens.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// H: the time between two heartbeats, at least 1 ms.
    pub heartbeat: Duration,
    /// L: the term of a lease; at least 3 H.
    pub lease: Duration,
    /// D: how long a promise lasts; at least 1.1 L.
    pub dead_after: Duration,
    /// How long a starting node listens before it may take a VIP without having heard its peers.
    pub startup_wait: Duration,
}

/// A shared secret of 32 bytes.
#[derive(Clone)]
pub struct Key(pub [u8; 32]);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(…)")
    }
}
