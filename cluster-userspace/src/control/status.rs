//! `status`: what this node knows of itself, its groups and its peers.

use cluster_proto::{
    Dropped, Incarnation, NodeId, Phase, Quorum, Role, Settings, Snapshot, SpreadMemberView, SpreadView, Time,
};
use serde::{Deserialize, Serialize};

use super::event::{cause_name, role_name, service_name};
use crate::config::{Local, LocalGroup, Protection, fitting_timings, format_duration, lease_is_too_short};

/// The answer to `status`. Fields may be added.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Status {
    /// This node's name, or witness's.
    pub node: String,
    /// What it is: `node` or `witness`.
    #[serde(default)]
    pub kind: String,
    /// The daemon's version.
    pub version: String,
    /// Which run of the daemon this is: another one after each start and each restart.
    #[serde(default)]
    pub run: String,
    /// How long the daemon has run.
    pub uptime_ms: u64,
    /// How the XDP program is attached: `native` or `generic`; `pinned` if it is not, on purpose; `none` while the interface is gone, and on a witness.
    pub xdp: String,
    /// The name of the user's XDP program that gets what ours lets pass; null without one.
    #[serde(default)]
    pub chain: Option<String>,
    /// Whether this node takes nothing because an operator said so.
    pub drained: bool,
    /// The interface where clients reach the VIPs; empty on a witness.
    #[serde(default)]
    pub interface: String,
    /// The processor to which the heartbeat thread is bound; null if to none.
    #[serde(default)]
    pub cpu: Option<usize>,
    /// What is known of that link beyond its carrier: `unjudged`, `answered` or `cut`.
    #[serde(default)]
    pub service: Option<String>,
    /// The groups, in the configuration's order.
    pub groups: Vec<GroupStatus>,
    /// The other nodes and the witnesses.
    pub peers: Vec<PeerStatus>,
    /// Whose promises count.
    pub quorum: QuorumStatus,
    /// What should be looked into.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// What the set-up protects from and what not.
    #[serde(default)]
    pub protection: Protection,
    /// Datagrams without effect, by kind.
    #[serde(default)]
    pub datagrams_dropped: DatagramsDropped,
}

/// One group as this node sees it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct GroupStatus {
    /// Its name.
    pub name: String,
    /// `active-passive` or `active-active`.
    pub mode: String,
    /// `native`.
    pub protocol: String,
    /// `init`, `passive`, `active` (only while the lease is valid) or `fault`; on a witness always `witness`.
    pub role: String,
    /// Who holds it; null when nobody is known to hold it.
    pub holder: Option<String>,
    /// The highest epoch seen, counter and node id.
    pub epoch: Option<String>,
    /// How long this node's lease is still valid; null without one.
    pub lease_ms: Option<f64>,
    /// The nodes that may hold it, best first.
    pub members: Vec<String>,
    /// This node's priority, higher is better; null for a node that is no member.
    pub priority: Option<u32>,
    /// Its virtual addresses.
    pub vips: Vec<String>,
    /// `interface` if they appear under the holder's own Ethernet address, or `virtual`.
    #[serde(default)]
    pub mac: String,
    /// The virtual Ethernet addresses; none with `interface`.
    #[serde(default)]
    pub virtual_macs: Vec<String>,
    /// For how long the role has been what it is.
    pub since_ms: u64,
    /// Why it is.
    pub cause: String,
    /// Whether the placement was made by hand and stays until the next failover or `undrain`.
    #[serde(default)]
    pub by_hand: bool,
    /// After a hand-over: for how long this node still serves the connections that it had; null if it serves none.
    #[serde(default)]
    pub letting_go_ms: Option<u64>,
    /// Who else claims a VIP of it, if anybody did within the last minute.
    #[serde(default)]
    pub rival: Option<RivalStatus>,
    /// How often this node's lease has run out while it was active.
    #[serde(default)]
    pub lapses: u64,
    /// How often the role has changed.
    #[serde(default)]
    pub transitions: u64,
    /// Over which nodes its flows are spread, as far as this node knows; null unless it is active/active.
    #[serde(default)]
    pub spread: Option<SpreadStatus>,
}

/// Over which nodes a group's flows are spread.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct SpreadStatus {
    /// The table that this node goes by: the epoch of the entry that made it, and its number; null before the first.
    pub version: Option<String>,
    /// How long this node may still serve by it without hearing of the entry; null if it may not.
    pub serves_ms: Option<f64>,
    /// All nodes that may serve it.
    pub members: Vec<SpreadMemberStatus>,
}

/// A node of an active/active group.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct SpreadMemberStatus {
    /// Its name.
    pub name: String,
    /// Its share of new flows, 0 to 1.
    pub share: f64,
    /// The buckets whose flows it gets.
    pub buckets: usize,
    /// The buckets that it had before, and whose flows of then it still serves.
    pub seconds: usize,
    /// Its connections, as it last said (TCP, and UDP sockets that are connected to one client); only the entry and the node itself know.
    pub flows: Option<u32>,
    /// Packets to the VIPs that it let into its stack since its data plane was set up; known where `flows` is.
    #[serde(default)]
    pub packets: Option<u64>,
    /// The same in a second, lately.
    #[serde(default)]
    pub packets_per_second: Option<u32>,
}

/// A host outside the cluster that claims a VIP.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RivalStatus {
    /// The VIP.
    pub address: String,
    /// The host's Ethernet address.
    pub mac: String,
    /// The interface of this node by which it was seen.
    pub interface: String,
    /// How long ago it was seen last.
    pub last_seen_ms: u64,
}

/// Another node, or a witness, as this one sees it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its name.
    pub name: String,
    /// `node` or `witness`.
    pub kind: String,
    /// `alive`, `dead` (silent for longer than `dead_after`) or `unknown` (never heard).
    pub state: String,
    /// When it was last heard; null if never.
    pub last_heard_ms: Option<f64>,
    /// Whether it is one of the voters.
    #[serde(default)]
    pub voter: bool,
    /// Whether its votes count already: `dead_after` has passed since its start.
    #[serde(default)]
    pub voting: bool,
    /// The longest gap between two of its messages while it was alive.
    #[serde(default)]
    pub worst_gap_ms: f64,
    /// The longest of the last minute or two.
    #[serde(default)]
    pub recent_gap_ms: f64,
    /// `dead_after` less the worst gap; null if it was never heard.
    #[serde(default)]
    pub margin_ms: Option<f64>,
    /// How many gaps were longer than half of `dead_after`.
    #[serde(default)]
    pub low_margins: u64,
    /// The longest of its paths' newest round trips; null before the first, or without a path that is up.
    #[serde(default)]
    pub rtt_us: Option<u64>,
    /// Whether its nodes and timings are ours.
    #[serde(default)]
    pub same_settings: bool,
    /// Its paths.
    pub paths: Vec<PathStatus>,
}

/// One path.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PathStatus {
    /// This node's address.
    pub local: String,
    /// The peer's.
    pub remote: String,
    /// `up` or `down`.
    pub state: String,
    /// The newest round trip; null before the first.
    pub rtt_us: Option<u64>,
    /// Heartbeats missing in the peer's sequence.
    pub lost: u64,
    /// Whether it runs over the interface that clients use.
    #[serde(default)]
    pub service: bool,
}

/// Whose promises count.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct QuorumStatus {
    /// `off` or `majority`.
    pub mode: String,
    /// How many nodes vote, this one included if it does.
    pub voters: usize,
    /// How many of them are heard, this one included if it votes.
    pub reachable: usize,
    /// How many votes a lease takes, the holder's own included; null without quorum.
    #[serde(default)]
    pub needed: Option<usize>,
    /// Whether a holder here renews its lease without its peer.
    #[serde(default)]
    pub alone: bool,
    /// A change of the voters that is not through yet; null otherwise.
    #[serde(default)]
    pub change: Option<VotersChange>,
}

/// A change of the voters that is not through yet.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VotersChange {
    /// Who voted before: names, or ids of those that are no longer in the file.
    pub from: Vec<String>,
    /// `open`: some node may not have the new file yet; `closed`: the others have to take note.
    pub phase: String,
}

/// Datagrams without effect, by kind.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct DatagramsDropped {
    /// Shorter or longer than their own lengths say.
    pub malformed: u64,
    /// Of a wire version this daemon does not speak.
    pub version: u64,
    /// With a wrong authentication code.
    pub forged: u64,
    /// Of another cluster.
    pub other_cluster: u64,
    /// Of a node that does not belong on that path.
    pub unknown_node: u64,
    /// With this node's own id.
    pub own_id: u64,
    /// Seen before, or too old.
    pub replayed: u64,
    /// Of an earlier run of the peer.
    pub old_incarnation: u64,
    /// Of a sender that had yet to prove it is there now.
    pub unproven: u64,
}

impl From<Dropped> for DatagramsDropped {
    fn from(dropped: Dropped) -> Self {
        let Dropped {
            malformed,
            version,
            forged,
            other_cluster,
            unknown_node,
            own_id,
            replayed,
            old_incarnation,
            unproven,
        } = dropped;
        Self {
            malformed,
            version,
            forged,
            other_cluster,
            unknown_node,
            own_id,
            replayed,
            old_incarnation,
            unproven,
        }
    }
}

/// What the daemon knows at the moment of a `status`.
#[derive(Clone, Copy, Debug)]
pub struct Observation<'a> {
    /// The core's settings; the paths' `service` as the daemon found it out.
    pub settings: &'a Settings,
    /// The node's view of the configuration.
    pub local: &'a Local,
    /// The core's state.
    pub snapshot: &'a Snapshot,
    /// Now.
    pub now: Time,
    /// This run's number.
    pub run: Incarnation,
    /// The daemon's start.
    pub started: Time,
    /// How the XDP program is attached.
    pub xdp: &'a str,
    /// The name of the program that is chained to it.
    pub chain: Option<&'a str>,
    /// All that should be looked into, the configuration's warnings included.
    pub warnings: &'a [String],
}

impl Status {
    /// The answer from what the daemon knows.
    #[must_use]
    pub fn of(observation: &Observation<'_>) -> Self {
        let Observation { settings, local, snapshot, now, run, started, xdp, chain, warnings } = *observation;
        let voters = settings.peers.iter().filter(|peer| peer.voter).count() + usize::from(settings.voter);
        let peers_and_views = settings.peers.iter().zip(&snapshot.peers);
        let heard = peers_and_views.filter(|(peer, view)| peer.voter && view.alive).count();
        Self {
            node: local.node.clone(),
            kind: local.kind().name().to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            run: format!("{:016x}", run.0),
            uptime_ms: whole_millis(now.since(started)),
            xdp: xdp.to_owned(),
            chain: chain.map(str::to_owned),
            drained: snapshot.drained,
            interface: local.service.as_ref().map_or_else(String::new, |service| service.interface.clone()),
            cpu: local.cpu,
            service: snapshot
                .service
                .filter(|_| local.service.is_some())
                .map(|health| service_name(health).to_owned()),
            groups: groups(observation),
            peers: peers(observation),
            quorum: QuorumStatus {
                mode: match settings.quorum {
                    Quorum::Off => "off",
                    Quorum::Majority => "majority",
                }
                .to_owned(),
                voters,
                reachable: heard + usize::from(settings.voter),
                needed: (settings.quorum == Quorum::Majority).then_some(voters / 2 + 1),
                alone: snapshot.alone,
                change: snapshot.change.map(|(from, phase)| VotersChange {
                    from: from
                        .voters
                        .iter()
                        .map(|id| local.node_name(id).map_or_else(|| id.0.to_string(), str::to_owned))
                        .collect(),
                    phase: match phase {
                        Phase::Open => "open",
                        Phase::Closed => "closed",
                    }
                    .to_owned(),
                }),
            },
            warnings: warnings.iter().cloned().chain(short_leases(observation)).collect(),
            protection: Protection::of(settings, local),
            datagrams_dropped: snapshot.dropped.into(),
        }
    }
}

fn virtual_macs(group: &LocalGroup) -> Vec<String> {
    let macs =
        group.virtual_mac.iter().flat_map(|mac| group.vips.iter().map(|vip| mac.of(vip.address).to_string()));
    let mut macs: Vec<_> = macs.collect();
    macs.sort();
    macs.dedup();
    macs
}

fn groups(observation: &Observation<'_>) -> Vec<GroupStatus> {
    let Observation { settings, local, snapshot, now, .. } = *observation;
    let name = |id: NodeId| local.node_name(id).map_or_else(|| format!("#{}", id.0), str::to_owned);
    let group = |(view, group): (&cluster_proto::GroupView, &LocalGroup)| {
        let lease = view.lease_until.filter(|until| *until > now);
        // Between the end of a lease and the moment its core notices, this node does not hold any more.
        let lapsed = view.role == Role::Active && lease.is_none();
        let role = if lapsed { Role::Passive } else { view.role };
        let holder = view.holder.filter(|holder| !(lapsed && *holder == settings.me));
        GroupStatus {
            name: group.name.clone(),
            mode: if group.spread { "active-active" } else { "active-passive" }.to_owned(),
            protocol: "native".to_owned(),
            role: if local.service.is_some() { role_name(role) } else { "witness" }.to_owned(),
            holder: holder.map(name),
            epoch: view.epoch.map(|epoch| epoch.to_string()),
            lease_ms: lease.filter(|_| role == Role::Active).map(|until| millis(until.since(now))),
            members: group.members.clone(),
            priority: group.priority,
            vips: group.vips.iter().map(|vip| vip.address.to_string()).collect(),
            mac: if group.virtual_mac.is_some() { "virtual" } else { "interface" }.to_owned(),
            virtual_macs: virtual_macs(group),
            since_ms: whole_millis(now.since(view.since)),
            cause: cause_name(view.cause).to_owned(),
            by_hand: view.by_hand,
            letting_go_ms: view.letting_go.map(|at| whole_millis(at.since(now))),
            rival: view.rival.map(|rival| RivalStatus {
                address: rival.address.to_string(),
                mac: rival.mac.to_string(),
                interface: local
                    .service
                    .as_ref()
                    .map_or_else(String::new, |service| service.interface.clone()),
                last_seen_ms: whole_millis(now.since(rival.at)),
            }),
            lapses: view.lapses,
            transitions: view.transitions,
            spread: None,
        }
    };
    let groups = snapshot.groups.iter().zip(&local.groups).map(group);
    let spreads = snapshot.spreads.iter().map(Some).chain(std::iter::repeat(None));
    let with_spread = |((group, spread), local): ((GroupStatus, Option<&SpreadView>), &LocalGroup)| {
        let is_entry = group.role == "active";
        let spread = spread.filter(|_| local.spread);
        GroupStatus { spread: spread.map(|spread| spread_status(observation, spread, is_entry)), ..group }
    };
    groups.zip(spreads).zip(&local.groups).map(with_spread).collect()
}

fn spread_status(observation: &Observation<'_>, spread: &SpreadView, is_entry: bool) -> SpreadStatus {
    let Observation { settings, local, now, .. } = *observation;
    let member = |member: &SpreadMemberView| {
        let load = Some(member.load).filter(|_| is_entry || member.node == settings.me);
        SpreadMemberStatus {
            name: local.node_name(member.node).map_or_else(|| format!("#{}", member.node.0), str::to_owned),
            share: member.buckets as f64 / cluster_proto::spread::BUCKETS as f64,
            buckets: member.buckets,
            seconds: member.seconds,
            flows: load.map(|load| load.flows),
            packets: load.map(|load| load.packets),
            packets_per_second: load.map(|load| load.rate),
        }
    };
    SpreadStatus {
        version: spread.version.map(|version| format!("{}/{}", version.epoch, version.number)),
        serves_ms: Some(spread.serves_until)
            .filter(|until| *until > now)
            .map(|until| millis(until.since(now))),
        members: spread.members.iter().map(member).collect(),
    }
}

fn peers(observation: &Observation<'_>) -> Vec<PeerStatus> {
    let Observation { settings, local, snapshot, now, .. } = *observation;
    let path = |view: &cluster_proto::PathView| {
        let ends = local.peers.get(view.path.peer)?.paths.get(view.path.path)?;
        let service = settings.peers.get(view.path.peer)?.paths.get(view.path.path)?.service;
        Some(PathStatus {
            local: ends.local.ip().to_string(),
            remote: ends.remote.ip().to_string(),
            state: if view.up { "up" } else { "down" }.to_owned(),
            rtt_us: view.round_trip.map(whole_micros),
            lost: view.lost,
            service,
        })
    };
    let peer = |(index, (view, peer)): (usize, (&cluster_proto::PeerView, &crate::config::LocalPeer))| {
        let state = match (view.alive, view.last_heard) {
            (true, _) => "alive",
            (false, Some(_)) => "dead",
            (false, None) => "unknown",
        };
        PeerStatus {
            name: peer.name.clone(),
            kind: peer.kind.name().to_owned(),
            state: state.to_owned(),
            last_heard_ms: view.last_heard.map(|at| millis(now.since(at))),
            voter: settings.peers.get(index).is_some_and(|peer| peer.voter),
            voting: view.voting,
            worst_gap_ms: millis(view.worst_gap),
            recent_gap_ms: millis(view.recent_gap),
            margin_ms: margin(view, local),
            low_margins: view.low_margins,
            rtt_us: round_trip(snapshot, index).map(whole_micros),
            same_settings: view.same_settings,
            paths: snapshot.paths.iter().filter(|view| view.path.peer == index).filter_map(path).collect(),
        }
    };
    snapshot.peers.iter().zip(&local.peers).enumerate().map(peer).collect()
}

/// Peers so far away that the lease has no room for a round trip to them.
fn short_leases(observation: &Observation<'_>) -> impl Iterator<Item = String> {
    let Observation { local, snapshot, .. } = *observation;
    local.peers.iter().enumerate().filter_map(|(index, peer)| {
        let round_trip = round_trip(snapshot, index)?;
        lease_is_too_short(&local.timing, round_trip).then(|| {
            format!(
                "lease = {} is too short for three heartbeats and the round trip to {}, {:.1} ms: lapses are to be \
                 expected when its vote is needed; {}",
                format_duration(local.timing.lease),
                peer.name,
                millis(round_trip),
                fitting_timings(&local.timing, round_trip)
            )
        })
    })
}

/// The longest of the round trips of a peer's paths that are up: a vote may come by any of them.
pub(crate) fn round_trip(snapshot: &Snapshot, peer: usize) -> Option<std::time::Duration> {
    let paths = snapshot.paths.iter().filter(|view| view.path.peer == peer && view.up);
    paths.filter_map(|view| view.round_trip).max()
}

/// How far the worst gap stayed from `dead_after`.
pub(crate) fn margin(view: &cluster_proto::PeerView, local: &Local) -> Option<f64> {
    view.last_heard.map(|_| millis(local.timing.dead_after.saturating_sub(view.worst_gap)))
}

/// Milliseconds to three places: a microsecond is as fine as anything here is measured.
pub(crate) fn millis(duration: std::time::Duration) -> f64 {
    duration.as_micros() as f64 / 1_000.0
}

pub(crate) fn whole_micros(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn whole_millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
