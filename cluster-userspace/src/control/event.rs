//! One event as the socket tells it: a sequence number, three clocks' worth of "when", a kind, and that kind's fields.

use cluster_proto::{
    Cause, EventKind, GroupIndex, NodeId, PathIndex, Phase, Role, ServiceHealth, Time, Timeline,
};
use serde::{Deserialize, Serialize};

use crate::config::{Local, fitting_timings};

/// An event with its place in the log.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct EventRecord {
    /// Counts from 1 since the daemon's start, without gaps.
    pub seq: u64,
    /// The time of day, RFC 3339 in UTC; it jumps when the host's clock is set.
    pub time: String,
    /// Nanoseconds of `CLOCK_BOOTTIME`; compare times by this one.
    pub boot_ns: u64,
    /// What happened.
    #[serde(flatten)]
    pub body: EventBody,
}

/// What happened. `kind` says which of the other fields there are; docs/control-socket.md has the table.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct EventBody {
    /// The kind, such as `transition` or `peer_down`.
    pub kind: String,
    /// The group it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The role before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The role after.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// The tenure that began or ended, or the other's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<String>,
    /// The steps of a takeover.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeline_us: Option<TimelineMicros>,
    /// The other node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// The path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<EventPath>,
    /// The IP address it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The network interface by which it was seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// The Ethernet address that answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// What is known of the service link.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// How long it lasted, was late, or took, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_us: Option<u64>,
    /// How many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// What happened, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// The two ends of a path.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct EventPath {
    /// This node's address.
    pub local: String,
    /// The peer's.
    pub remote: String,
}

/// When the steps of a takeover happened: microseconds after the first of them. A step that did not occur is left out.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct TimelineMicros {
    /// The old holder was last heard.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_heard: Option<u64>,
    /// The first probe for the VIP was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probe: Option<u64>,
    /// The old holder was declared dead, or had handed over, or nobody held.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub declared: Option<u64>,
    /// The address was on the interface.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<u64>,
    /// The lease was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease: Option<u64>,
    /// The first announcement was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub announced: Option<u64>,
}

impl TimelineMicros {
    /// The steps by name, in the order of their design, those that occurred.
    pub fn steps(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let steps = [
            ("last heard", self.last_heard),
            ("probe", self.probe),
            ("declared", self.declared),
            ("address", self.address),
            ("lease", self.lease),
            ("announced", self.announced),
        ];
        steps.into_iter().filter_map(|(name, at)| at.map(|at| (name, at)))
    }

    fn of(timeline: &Timeline) -> Option<Self> {
        let Timeline { last_heard, probe, declared, address, lease, announced } = *timeline;
        let first = [last_heard, probe, declared, address, lease, announced].into_iter().flatten().min()?;
        let after = |step: Option<Time>| step.map(|at| micros(at.since(first)));
        Some(Self {
            last_heard: after(last_heard),
            probe: after(probe),
            declared: after(declared),
            address: after(address),
            lease: after(lease),
            announced: after(announced),
        })
    }
}

impl EventBody {
    /// Something the daemon itself has to tell, which the election core knows nothing of: `kind` for scripts, such as
    /// `started` or `address_restored`, and a message for people.
    #[must_use]
    pub fn told(kind: &str, message: impl Into<String>) -> Self {
        Self { message: Some(message.into()), ..Self::kind(kind) }
    }

    /// An event of the election core, with this node's names for groups, nodes and paths.
    #[must_use]
    pub fn of(kind: &EventKind, local: &Local) -> Self {
        let group = |group: GroupIndex| {
            Some(
                local.groups.get(group.0).map_or_else(|| format!("#{}", group.0), |group| group.name.clone()),
            )
        };
        let peer = |id: NodeId| Some(local.node_name(id).map_or_else(|| format!("#{}", id.0), str::to_owned));
        match *kind {
            EventKind::Transition { group: of, from, to, cause, epoch, timeline } => Self {
                group: group(of),
                from: Some(role_name(from).to_owned()),
                to: Some(role_name(to).to_owned()),
                cause: Some(cause_name(cause).to_owned()),
                epoch: epoch.map(|epoch| epoch.to_string()),
                timeline_us: TimelineMicros::of(&timeline),
                ..Self::kind("transition")
            },
            EventKind::Lapse { group: of } => Self { group: group(of), ..Self::kind("lapse") },
            EventKind::Regained { group: of, dark } => {
                Self { group: group(of), duration_us: Some(micros(dark)), ..Self::kind("regained") }
            }
            EventKind::Alone => Self::kind("alone"),
            EventKind::NotAlone => Self::kind("not_alone"),
            EventKind::PeerUp(id) => Self { peer: peer(id), ..Self::kind("peer_up") },
            EventKind::PeerDown(id) => Self { peer: peer(id), ..Self::kind("peer_down") },
            EventKind::PathUp(path) => Self::on_path("path_up", path, local),
            EventKind::PathDown(path) => Self::on_path("path_down", path, local),
            EventKind::ProbeAnswered { group: of, mac } => {
                Self { group: group(of), mac: Some(mac.to_string()), ..Self::kind("probe_answered") }
            }
            EventKind::Rival { group: of, address, mac } => Self {
                group: group(of),
                address: Some(address.to_string()),
                mac: Some(mac.to_string()),
                interface: local.service.as_ref().map(|service| service.interface.clone()),
                ..Self::kind("rival")
            },
            EventKind::DualHolder { group: of, other } => Self {
                group: group(of),
                peer: peer(other.node),
                epoch: Some(other.to_string()),
                ..Self::kind("dual_holder")
            },
            EventKind::Handover { group: of, to, cause } => Self {
                group: group(of),
                peer: peer(to),
                cause: Some(cause_name(cause).to_owned()),
                ..Self::kind("handover")
            },
            EventKind::HandoverFailed { group: of, to } => {
                Self { group: group(of), peer: peer(to), ..Self::kind("handover_failed") }
            }
            EventKind::Forced { group: of } => Self {
                group: group(of),
                message: Some(
                    "forced: taken on an operator's word that nobody else serves, without the votes it takes"
                        .to_owned(),
                ),
                ..Self::kind("forced")
            },
            EventKind::Gateway { address, answers } => {
                let text = if answers {
                    format!("the gateway {address} answers again")
                } else {
                    format!(
                        "neither a peer nor the gateway {address} is heard: this node is cut off and serves nothing \
                         that depends on it"
                    )
                };
                Self::told("gateway", text)
            }
            EventKind::Service(health) => {
                Self { service: Some(service_name(health).to_owned()), ..Self::kind("service") }
            }
            EventKind::Overslept(late) => Self { duration_us: Some(micros(late)), ..Self::kind("overslept") },
            EventKind::ReservationFailed => Self::kind("reservation_failed"),
            EventKind::LeaseTooShort { peer: id, round_trip } => Self {
                peer: peer(id),
                duration_us: Some(micros(round_trip)),
                message: Some(fitting_timings(&local.timing, round_trip)),
                ..Self::kind("lease_too_short")
            },
            EventKind::MarginLow { peer: id, gap } => {
                Self { peer: peer(id), duration_us: Some(micros(gap)), ..Self::kind("margin_low") }
            }
            EventKind::WireVersion { peer: id, version, minimum } => Self {
                peer: peer(id),
                message: Some(format!(
                    "its messages cannot be read: it speaks wire version {version}, which version {minimum} and later \
                     understand, and this daemon speaks {}; install versions that understand each other",
                    cluster_proto::wire::VERSION
                )),
                ..Self::kind("wire_version")
            },
            EventKind::SettingsDiffer(id) => Self { peer: peer(id), ..Self::kind("settings_differ") },
            EventKind::SettingsAgree(id) => Self { peer: peer(id), ..Self::kind("settings_agree") },
            EventKind::Voters(phase) => Self::told(
                "voters",
                match phase {
                    Some(Phase::Open) => {
                        "the voters are being changed: a lease takes a majority of the former and of the new ones"
                    }
                    Some(Phase::Closed) => {
                        "the voters are being changed: nobody is elected by the former ones alone any more"
                    }
                    None => "no change of the voters is under way any more",
                },
            ),
        }
    }

    pub(super) fn kind(kind: &str) -> Self {
        Self { kind: kind.to_owned(), ..Self::default() }
    }

    fn on_path(kind: &str, index: PathIndex, local: &Local) -> Self {
        let peer = local.peers.get(index.peer);
        Self {
            peer: peer.map(|peer| peer.name.clone()),
            path: peer.and_then(|peer| peer.paths.get(index.path)).map(|path| EventPath {
                local: path.local.ip().to_string(),
                remote: path.remote.ip().to_string(),
            }),
            ..Self::kind(kind)
        }
    }
}

/// A role as it is written everywhere.
#[must_use]
pub fn role_name(role: Role) -> &'static str {
    match role {
        Role::Init => "init",
        Role::Passive => "passive",
        Role::Active => "active",
        Role::Fault => "fault",
    }
}

/// A cause as it is written everywhere.
#[must_use]
pub fn cause_name(cause: Cause) -> &'static str {
    match cause {
        Cause::Startup => "startup",
        Cause::Election => "election",
        Cause::HolderSilent => "holder_silent",
        Cause::Adopted => "adopted",
        Cause::Promote => "promote",
        Cause::Demote => "demote",
        Cause::Drain => "drain",
        Cause::Resign => "resign",
        Cause::Failback => "failback",
        Cause::ServiceCut => "service_cut",
        Cause::Link => "link",
        Cause::Address => "address",
        Cause::Lapse => "lapse",
        Cause::OtherHolder => "other_holder",
        Cause::Reload => "reload",
    }
}

/// What is known of the service link, as it is written everywhere.
pub(super) fn service_name(health: ServiceHealth) -> &'static str {
    match health {
        ServiceHealth::Unjudged => "unjudged",
        ServiceHealth::Answered => "answered",
        ServiceHealth::Cut => "cut",
    }
}

fn micros(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
