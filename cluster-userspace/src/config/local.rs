//! One node's view of the configuration: the core's settings, and what its driver needs besides.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use cluster_proto::placement::{self, Place, Placed};
use cluster_proto::{ClusterId, Mac, NodeId, Path, Peer, Quorum, Settings, Timing, VirtualMac};

use super::hosts::{Host, HostKind, Service};
use super::values::{format_duration, same_network};
use super::{Config, Vip, document};
use crate::network::vlan::Vlan;

/// What the driver of one node needs besides the core's settings.
#[derive(Clone, Debug)]
pub struct Local {
    /// The cluster's name.
    pub cluster: String,
    /// This node's name, or witness's.
    pub node: String,
    /// Where and how this node serves; `None` for a witness.
    pub service: Option<Service>,
    /// The UDP port this node's heartbeat sockets are bound to, on each of its addresses.
    pub port: u16,
    /// The processor its heartbeat thread is bound to; any if `None`.
    pub cpu: Option<usize>,
    /// The timing rules' durations, for advice.
    pub timing: Timing,
    /// Where this node of this cluster keeps its reserved epochs.
    pub state_dir: PathBuf,
    /// The control socket.
    pub socket: PathBuf,
    /// The other nodes and the witnesses, in the order of [`Settings::peers`].
    pub peers: Vec<LocalPeer>,
    /// The groups, in the order of [`Settings::groups`].
    pub groups: Vec<LocalGroup>,
    /// By what groups are placed.
    pub placement: Placement,
    /// What is allowed but probably not meant.
    pub warnings: Vec<Warning>,
    hosts: Vec<(NodeId, String)>,
}

/// By what groups are placed over the nodes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Placement {
    /// The nodes, by name, in the order of the file.
    pub nodes: Vec<(String, Place)>,
    /// The groups, in the order of the file.
    pub groups: Vec<Placed>,
}

impl Placement {
    fn places(&self) -> Vec<Place> {
        self.nodes.iter().map(|(_, place)| *place).collect()
    }

    /// For each group the nodes that may hold it, best first, as places in the list of nodes.
    #[must_use]
    pub fn ranks(&self) -> Vec<Vec<usize>> {
        placement::ranks(&self.places(), &self.groups)
    }

    /// Who would serve each group, if those nodes alone were there and groups stayed where they are.
    #[must_use]
    pub fn plan(&self, present: &[Option<usize>], is_there: impl Fn(usize) -> bool) -> Vec<Option<usize>> {
        placement::plan(&self.places(), &self.groups, present, is_there)
    }
}

/// Another node, or a witness.
#[derive(Clone, Debug)]
pub struct LocalPeer {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: HostKind,
    /// Its paths, in the order of [`cluster_proto::Peer::paths`].
    pub paths: Vec<LocalPath>,
}

/// The two ends of a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LocalPath {
    /// What this node's socket is bound to.
    pub local: SocketAddr,
    /// Where the peer's is.
    pub remote: SocketAddr,
}

/// A group as this node's driver sees it.
#[derive(Clone, Debug)]
pub struct LocalGroup {
    /// Its name.
    pub name: String,
    /// Its virtual addresses, in the order of [`cluster_proto::Group::vips`].
    pub vips: Vec<Vip>,
    /// The names of the nodes that may hold it, best first.
    pub members: Vec<String>,
    /// This node's priority, 200 for the best-ranked member and one less for each that follows; `None` for a node
    /// that is not a member. Only the order matters.
    pub priority: Option<u32>,
    /// The Ethernet addresses under which its VIPs appear; `None` if under the interface's own.
    pub virtual_mac: Option<VirtualMac>,
    /// The VLAN of the service link that its VIPs are on.
    pub vlan: Option<Vlan>,
    /// Whether its VIPs are on the loopback interface for as long as the daemon runs.
    pub keeps_address: bool,
    /// Whether its flows are spread over its members (active/active).
    pub spread: bool,
}

/// Something that is allowed but probably not meant. The daemon says it once, and `status` for as long as it is so.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Warning {
    /// No path to the peer lies in a VIP's network. The daemon may know better once it has seen which addresses are
    /// on the service interface.
    NoServicePath {
        /// The peer.
        peer: String,
    },
    /// There is only one path to the peer.
    SinglePath {
        /// The peer.
        peer: String,
    },
    /// The lease leaves next to no time for a round trip beyond its three heartbeats.
    LeaseTight {
        /// H.
        heartbeat: Duration,
        /// L.
        lease: Duration,
    },
    /// A starting node listens for less than D.
    StartupWaitShort {
        /// How long it listens.
        startup_wait: Duration,
        /// D.
        dead_after: Duration,
    },
    /// Three or more voters without quorum.
    QuorumOff {
        /// How many.
        voters: usize,
    },
    /// A majority of two is both.
    MajorityOfTwo,
    /// A gateway decides nothing where a majority does.
    GatewayUnused {
        /// Whose.
        group: String,
    },
    /// There are witnesses, but no quorum in which their votes would decide.
    WitnessWithoutMajority {
        /// How many witnesses.
        witnesses: usize,
    },
    /// This node is a member of no group.
    MemberOfNothing,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoServicePath { peer } => write!(
                f,
                "no heartbeat path to {peer} runs over the service interface: a cut of the clients' link alone will \
                 not be noticed; list an address of that link in `addresses` of both nodes"
            ),
            Self::SinglePath { peer } => write!(
                f,
                "there is only one heartbeat path to {peer}: when it is cut while both nodes live, both may serve; \
                 list a second link in `addresses` of both nodes"
            ),
            Self::LeaseTight { heartbeat, lease } => write!(
                f,
                "lease = {} leaves no time for a round trip beyond three heartbeats of {}: lapses are to be expected",
                format_duration(*lease),
                format_duration(*heartbeat)
            ),
            Self::StartupWaitShort { startup_wait, dead_after } => write!(
                f,
                "startup_wait = {} is shorter than dead_after = {}: a starting node may decide before it has heard \
                 its peer",
                format_duration(*startup_wait),
                format_duration(*dead_after)
            ),
            Self::QuorumOff { voters } => write!(
                f,
                "quorum = \"off\" with {voters} voters: in a partition each part serves by itself; with \"majority\" only \
                 the part that has more than half of the voters does"
            ),
            Self::MajorityOfTwo => f.write_str(
                "quorum = \"majority\" with two voters: when one of them is lost, nobody serves; give the cluster a third \
                 voter, or write \"off\"",
            ),
            Self::GatewayUnused { group } => write!(
                f,
                "the gateway of group \"{group}\" is not asked: a majority decides who is cut off"
            ),
            Self::WitnessWithoutMajority { witnesses } => write!(
                f,
                "with quorum = \"off\" {} decides nothing: a witness is there to be one of three or more voters",
                if *witnesses == 1 { "the witness" } else { "a witness" }
            ),
            Self::MemberOfNothing => f.write_str("this node is a member of no group and will serve nothing"),
        }
    }
}

/// The node that was asked for is not in the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnknownNode {
    asked: String,
    known: Vec<String>,
}

impl fmt::Display for UnknownNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known: Vec<_> = self.known.iter().map(String::as_str).collect();
        write!(
            f,
            "no [[node]] or [[witness]] is called \"{}\"; the file has {} (choose with --node; the default is the host name)",
            self.asked,
            document::list(&known)
        )
    }
}

impl std::error::Error for UnknownNode {}

impl Local {
    /// Whether this is a node or a witness.
    #[must_use]
    pub fn kind(&self) -> HostKind {
        if self.service.is_some() { HostKind::Node } else { HostKind::Witness }
    }

    /// The name of the node or witness with this id.
    #[must_use]
    pub fn node_name(&self, id: NodeId) -> Option<&str> {
        self.hosts.iter().find(|(known, _)| *known == id).map(|(_, name)| name.as_str())
    }

    /// The place of the group called `name` in [`Local::groups`].
    #[must_use]
    pub fn group_index(&self, name: &str) -> Option<cluster_proto::GroupIndex> {
        self.groups.iter().position(|group| group.name == name).map(cluster_proto::GroupIndex)
    }
}

impl Config {
    /// The view of the node or witness called `node`.
    ///
    /// # Errors
    /// There is none.
    pub fn settings(&self, node: &str) -> Result<(Settings, Local), UnknownNode> {
        let me = self.hosts.iter().find(|known| known.name == node).ok_or_else(|| UnknownNode {
            asked: node.to_owned(),
            known: self.host_names().map(str::to_owned).collect(),
        })?;
        let others = || self.hosts.iter().filter(|other| other.id != me.id);
        let placement = self.placement();
        let ranks = placement.ranks();
        let ranked = || self.groups.iter().zip(&ranks);
        let settings = Settings {
            cluster: ClusterId::from_name(&self.cluster.name),
            me: me.id,
            voter: me.voter,
            quorum: self.cluster.quorum.with(self.hosts.iter().filter(|host| host.voter).count()),
            peers: others()
                .map(|other| Peer { id: other.id, voter: other.voter, paths: self.core_paths(me, other) })
                .collect(),
            groups: ranked().map(|(group, rank)| self.core_group(group, rank)).collect(),
            timing: self.timing,
            keys: self.cluster.keys.clone(),
            max_groups: me.place.max_groups,
        };
        let local = Local {
            cluster: self.cluster.name.clone(),
            node: me.name.clone(),
            service: me.service.clone(),
            port: me.port,
            cpu: me.cpu,
            timing: self.timing,
            state_dir: self.cluster.state_dir.join(&self.cluster.name).join(&me.name),
            socket: self.socket.clone(),
            peers: others().map(|other| local_peer(me, other)).collect(),
            groups: ranked().map(|(group, rank)| self.local_group(me, group, rank)).collect(),
            placement,
            warnings: warnings(&settings, &self.hosts, me, &self.groups),
            hosts: self.hosts.iter().map(|host| (host.id, host.name.clone())).collect(),
        };
        Ok((settings, local))
    }

    /// One path for each pair of addresses. It is on the service link if this node's is in a VIP's network; one to a
    /// witness only if that is there, too, since a path that goes through a router says nothing of the link.
    fn core_paths(&self, me: &Host, other: &Host) -> Vec<Path> {
        let vips = || self.groups.iter().flat_map(|group| &group.vips);
        let routed = other.kind() == HostKind::Witness;
        let path = |(local, remote): (&IpAddr, &IpAddr)| {
            let on_link = |vip: &Vip| {
                same_network(*local, vip.address, vip.prefix)
                    && (!routed || same_network(*remote, vip.address, vip.prefix))
            };
            Path { service: me.service.is_some() && vips().any(on_link) }
        };
        me.addresses.iter().zip(&other.addresses).map(path).collect()
    }

    /// Nodes and groups as far as placement goes.
    fn placement(&self) -> Placement {
        let nodes = self.hosts.iter().filter(|host| host.kind() == HostKind::Node);
        let placed = |group: &super::Group| Placed {
            prefer: group.prefer.clone(),
            members: group.members.clone(),
            apart: group.apart.clone(),
        };
        Placement {
            nodes: nodes.map(|node| (node.name.clone(), node.place)).collect(),
            groups: self.groups.iter().map(placed).collect(),
        }
    }

    fn core_group(&self, group: &super::Group, rank: &[usize]) -> cluster_proto::Group {
        cluster_proto::Group {
            id: group.id,
            vips: group.vips.iter().map(|vip| vip.address).collect(),
            prefer: rank.iter().map(|node| self.hosts[*node].id).collect(),
            failback: group.failback,
            announce: group.announce,
            grace: if group.spread.is_some() { Duration::ZERO } else { group.grace },
            gateway: group.gateway,
            virtual_macs: virtual_macs(group.virtual_mac, &group.vips),
            apart: group.apart.clone(),
            spread: group.spread.map(|spreading| cluster_proto::SpreadOver {
                members: rank.iter().map(|node| spread_member(&self.hosts[*node])).collect(),
                by_source: spreading == super::groups::Spreading::BySource,
            }),
        }
    }

    fn local_group(&self, me: &Host, group: &super::Group, rank: &[usize]) -> LocalGroup {
        let own = rank.iter().position(|node| self.hosts[*node].id == me.id);
        LocalGroup {
            name: group.name.clone(),
            vips: group.vips.clone(),
            members: rank.iter().map(|node| self.hosts[*node].name.clone()).collect(),
            priority: own.map(|rank| 200_u32.saturating_sub(u32::try_from(rank).unwrap_or(u32::MAX))),
            virtual_mac: group.virtual_mac,
            vlan: group.vlan,
            keeps_address: group.keeps_address,
            spread: group.spread.is_some(),
        }
    }
}

fn spread_member(host: &Host) -> cluster_proto::SpreadMember {
    cluster_proto::SpreadMember { node: host.id, weight: host.place.weight, spare: host.place.spare }
}

/// The virtual Ethernet addresses that VIPs have, each once.
fn virtual_macs(virtual_mac: Option<VirtualMac>, vips: &[Vip]) -> Vec<Mac> {
    let mut macs: Vec<_> =
        virtual_mac.into_iter().flat_map(|mac| vips.iter().map(move |vip| mac.of(vip.address))).collect();
    macs.sort_by_key(|mac| mac.0);
    macs.dedup();
    macs
}

fn local_peer(me: &Host, other: &Host) -> LocalPeer {
    let path = |(local, remote): (&IpAddr, &IpAddr)| LocalPath {
        local: SocketAddr::new(*local, me.port),
        remote: SocketAddr::new(*remote, other.port),
    };
    LocalPeer {
        name: other.name.clone(),
        kind: other.kind(),
        paths: me.addresses.iter().zip(&other.addresses).map(path).collect(),
    }
}

fn warnings(settings: &Settings, hosts: &[Host], me: &Host, groups: &[super::Group]) -> Vec<Warning> {
    let mut warnings = Vec::new();
    for peer in &settings.peers {
        let Some(host) = hosts.iter().find(|host| host.id == peer.id) else { continue };
        let both_serve = me.service.is_some() && host.service.is_some();
        if both_serve && !peer.paths.iter().any(|path| path.service) {
            warnings.push(Warning::NoServicePath { peer: host.name.clone() });
        }
        if both_serve && peer.paths.len() == 1 && settings.quorum == Quorum::Off {
            warnings.push(Warning::SinglePath { peer: host.name.clone() });
        }
    }
    let voters = hosts.iter().filter(|host| host.voter).count();
    let witnesses = hosts.iter().filter(|host| host.service.is_none()).count();
    match settings.quorum {
        Quorum::Off if voters >= 3 => warnings.push(Warning::QuorumOff { voters }),
        Quorum::Off if witnesses > 0 => warnings.push(Warning::WitnessWithoutMajority { witnesses }),
        Quorum::Majority if voters == 2 => warnings.push(Warning::MajorityOfTwo),
        Quorum::Off | Quorum::Majority => {}
    }
    if settings.quorum == Quorum::Majority {
        let with_gateway = groups.iter().filter(|group| group.gateway.is_some());
        warnings.extend(with_gateway.map(|group| Warning::GatewayUnused { group: group.name.clone() }));
    }
    let Timing { heartbeat, lease, dead_after, startup_wait } = settings.timing;
    // A round trip on a LAN, the two loops' wake-ups included.
    let round_trip = Duration::from_micros(500);
    if lease < 3 * heartbeat + round_trip {
        warnings.push(Warning::LeaseTight { heartbeat, lease });
    }
    if startup_wait < dead_after {
        warnings.push(Warning::StartupWaitShort { startup_wait, dead_after });
    }
    let is_member = |group: &super::Group| group.members.iter().any(|node| hosts[*node].id == me.id);
    if me.service.is_some() && !groups.iter().any(is_member) {
        warnings.push(Warning::MemberOfNothing);
    }
    warnings
}
