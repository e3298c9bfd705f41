//! The core's whole interface: what goes in, what comes out, and what it shows of itself.

use std::net::IpAddr;
use std::ops::Range;
use std::time::Duration;

use crate::identity::{Epoch, GroupIndex, Incarnation, Mac, NodeId, PathIndex};
use crate::settings::Settings;
use crate::spread::{Buckets, Load, Table, Version};
use crate::time::Time;
use crate::wire::VoterList;

/// What a starting core is given besides its settings.
#[derive(Clone, Debug)]
pub struct Start {
    /// The time of the start.
    pub now: Time,
    /// This run's random number, never 0.
    pub incarnation: Incarnation,
    /// No epoch counter below this may be used any more: what the last run had reserved on disk, or 0.
    pub reserved_epochs: u64,
    /// What the last run had written by [`Effect::Remember`]; `None` on a node that never ran.
    pub memory: Option<Memory>,
    /// Groups whose lease the data plane still holds from a daemon that died: group, epoch, valid until.
    pub adopted: Vec<(GroupIndex, Epoch, Time)>,
    /// The tables of active/active groups by which the data plane still goes.
    pub tables: Vec<(GroupIndex, Version, Table)>,
    /// What the last run handed on, if it was replaced in place.
    pub resumed: Resumed,
    /// The service interface as it is now.
    pub link: Link,
}

/// What a run that is replaced in place hands to the next one, besides what is in the maps and on disk.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Resumed {
    /// Whether the node is drained.
    pub drained: bool,
    /// The groups of which there is anything to say.
    pub groups: Vec<(GroupIndex, ResumedGroup)>,
}

/// What the next run must know of a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ResumedGroup {
    /// The placement was made by hand.
    pub by_hand: bool,
    /// Given up by force: not taken again until somebody else held it or an operator says so.
    pub abstains: bool,
    /// The lease that was there at the end, if one was.
    pub lease: Option<ResumedLease>,
}

/// A lease that one run hands to the next. It means nothing for any other lease than the one that ends at this time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ResumedLease {
    /// When it ends.
    pub until: Time,
    /// It rests on the votes that it takes, not on anybody's silence.
    pub voted: bool,
    /// An operator vouched that nobody else serves.
    pub forced: bool,
}

/// One thing that happened. Everything the core reacts to is one of these.
#[derive(Clone, Debug)]
pub enum Input<'a> {
    /// A datagram arrived on a path.
    Datagram {
        /// The path, known from the socket it was read from.
        path: PathIndex,
        /// Its bytes, untrusted.
        bytes: &'a [u8],
    },
    /// All sockets were read as far as the bound on reading allows, and time has gone on. Only this runs timers.
    Tick,
    /// The loop woke this much later than it had asked for; what is in the sockets may be old and the newest lost.
    Overslept(Duration),
    /// The kernel dropped heartbeats because a socket's queue was full.
    SocketOverflow,
    /// The service interface changed.
    Link(Link),
    /// The group's VIPs are on the interface, as [`Effect::AddAddress`] asked.
    AddressReady(GroupIndex),
    /// They could not be put there.
    AddressFailed(GroupIndex),
    /// This node has no connection of the group's VIPs, after a hand-over or as [`Effect::WatchConnections`] asked.
    NoConnections(GroupIndex),
    /// The connections of an active/active group's VIPs that this host's kernel knew of at that time, and the packets to them.
    Flows {
        /// Whose.
        group: GroupIndex,
        /// In which buckets.
        busy: &'a Buckets,
        /// How many, and packets.
        load: Load,
        /// When they were asked for.
        since: Time,
    },
    /// An ARP reply or NA for (or an announcement of) one of our VIPs, or of another address that was probed.
    ProbeAnswer {
        /// The address asked for.
        address: IpAddr,
        /// Who has it.
        mac: Mac,
    },
    /// Frames came in in which somebody says that one of our VIPs is his, from an Ethernet address that is none of those the
    /// data plane was told of by [`Effect::Kin`].
    Claimed {
        /// The VIP.
        address: IpAddr,
        /// Whose.
        mac: Mac,
    },
    /// All counters below this are reserved on disk.
    EpochsReserved(u64),
    /// The reservation could not be written.
    ReservationFailed,
    /// What [`Effect::Remember`] asked for is on disk.
    Remembered,
    /// It could not be written.
    NotRemembered,
    /// On-link addresses that were served lately, newest first.
    Served(&'a [IpAddr]),
    /// The configuration was read again. Answered by [`Effect::Reply`] with this id; if it is accepted, effects after
    /// [`Effect::Reconfigured`] and all later inputs mean the new settings' groups, peers and paths. The cluster's and this
    /// node's identity stay.
    Reconfigure(CommandId, Box<Settings>),
    /// An operator's wish; answered by [`Effect::Reply`] with the same id.
    Command(CommandId, Command),
}

/// A set of voters, and whether a lease takes more than half of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VoterSet {
    /// Who.
    pub voters: VoterList,
    /// Whether a lease takes the votes of more than half of them ([`crate::Quorum::Majority`]).
    pub majority: bool,
}

/// How far a change of voters is, as seen by one node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// A lease takes the former voters and the new ones; the former ones may still elect somebody who does not.
    Open,
    /// This node votes for nobody any more who takes only the former voters.
    Closed,
}

/// What a node must not forget over a restart, besides its epochs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Memory {
    /// The voters of its configuration.
    pub current: VoterSet,
    /// The voters before a change that is not through yet.
    pub former: Option<(VoterSet, Phase)>,
    /// No promise it gave lasts longer than this, from when it was given.
    pub longest_promise: Duration,
}

/// Why the voters of a configuration cannot take the place of those before.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MembershipRefusal {
    /// A change is under way.
    #[error(
        "an earlier change of the voters is not through yet; wait until `clusterctl status` shows no change under way on \
         any node, or go back to the file before it"
    )]
    Unsettled,
    /// Less than a majority of the voters stays.
    #[error("no majority of the present voters would be left; remove them in several steps")]
    TooFewStay,
    /// The new voters could decide alone.
    #[error("the voters that are new would be a majority by themselves; add them in several steps")]
    TooManyNew,
}

/// Links a command with its reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CommandId(pub u64);

/// What an operator asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// Take the group. `force` does not wait for silence or start-up, but never takes from a live holder.
    Promote {
        /// Which.
        group: GroupIndex,
        /// Without waiting until that is proven to be safe.
        force: bool,
    },
    /// Give up the group; `force` even if nobody else can serve it.
    Demote {
        /// Which.
        group: GroupIndex,
        /// Even if nobody else can serve it.
        force: bool,
    },
    /// Give up every group and take none; `force` even if nobody else can serve them.
    Drain {
        /// Even if nobody else can serve them.
        force: bool,
    },
    /// End the drain.
    Undrain,
    /// Give up every group, as for a clean stop, whether or not somebody takes over. The reply says that all are dark.
    Resign,
    /// Get ready for another process to take this one's place. The reply says that every lease this node has lasts for
    /// [`crate::wire::RESTART_LEASE`] from some moment just before; for a second the state stays as it is then
    /// ([`Snapshot::resumed`]).
    PrepareRestart,
    /// No other process takes this one's place after all.
    CancelRestart,
}

/// An end of a hand-over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// Who takes the group: it accepts what the old holder sends over although it has no lease yet; once it has, it sends
    /// over what belongs to connections that it does not know.
    New,
    /// Who gave it up: it serves the connections that it knows, and sends everything else over.
    Old,
}

/// The service interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Link {
    /// Present, up, with carrier, and its data plane attached.
    Up {
        /// Its Ethernet address.
        mac: Mac,
    },
    /// Present, but administratively down or without carrier.
    Down,
    /// Absent, or present without our data plane on it.
    Gone,
}

/// One thing to do, in the order given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Send these bytes of [`Effects::bytes`] on the path.
    Send {
        /// The path.
        path: PathIndex,
        /// Where in [`Effects::bytes`].
        bytes: Range<usize>,
    },
    /// Write the lease into the map: valid until then. The epoch is written before the lease.
    Lease {
        /// Whose.
        group: GroupIndex,
        /// The tenure.
        epoch: Epoch,
        /// Until when.
        until: Time,
    },
    /// Clear the lease in the map. Comes before any message that tells others so.
    Dark {
        /// Whose.
        group: GroupIndex,
    },
    /// Put the group's VIPs onto the interface; answered by [`Input::AddressReady`] or [`Input::AddressFailed`].
    AddAddress {
        /// Whose.
        group: GroupIndex,
    },
    /// Take the group's VIPs off the interface. Not answered.
    RemoveAddress {
        /// Whose.
        group: GroupIndex,
    },
    /// The group is being handed over: until then this node and the one at the other end send each other what is the
    /// other's. Written before the lease that begins, or ends, with it.
    Grace {
        /// Whose.
        group: GroupIndex,
        /// Which end this node is.
        side: Side,
        /// The Ethernet address of the other.
        other: Mac,
        /// Until when.
        until: Time,
    },
    /// The hand-over's grace is over, or was in vain.
    EndGrace {
        /// Whose.
        group: GroupIndex,
    },
    /// Say when the group's VIPs have no connection here: [`Input::NoConnections`]. Of no interest after that time.
    WatchConnections {
        /// Whose.
        group: GroupIndex,
        /// Until then.
        until: Time,
    },
    /// Write the table of an active/active group ([`crate::Core::spread_table`]) into the map. Comes before the lease of a new
    /// entry.
    Table {
        /// Whose.
        group: GroupIndex,
    },
    /// This node may serve what the group's table gives it, until then; [`Time::ZERO`] is not at all.
    Serve {
        /// Whose.
        group: GroupIndex,
        /// Until when.
        until: Time,
        /// It was the entry until just now: what is still sent to the group's virtual Ethernet address here is to be sent on. Written
        /// before the lease ends.
        gave_up: bool,
    },
    /// Reset what connections the group's VIPs still have here, and take the VIPs off the interface. Not answered.
    LetGo {
        /// Whose.
        group: GroupIndex,
    },
    /// Announce the group's VIPs once (gratuitous ARP, unsolicited NA).
    Announce {
        /// Whose.
        group: GroupIndex,
    },
    /// Ask on the service link who has this address (ARP, NS).
    Probe {
        /// The address.
        address: IpAddr,
    },
    /// A peer's Ethernet address on the service link became known, or changed: it may claim VIPs.
    Kin {
        /// What it was before, as far as anybody had said so.
        was: Option<Mac>,
        /// What it is.
        is: Mac,
    },
    /// Write to disk that counters below this are in use; answered by [`Input::EpochsReserved`] or
    /// [`Input::ReservationFailed`].
    ReserveEpochs {
        /// The first counter that is not reserved.
        below: u64,
    },
    /// Write this to disk; answered by [`Input::Remembered`] or [`Input::NotRemembered`].
    Remember(Memory),
    /// From here on groups, peers and paths are those of the new settings.
    Reconfigured,
    /// The answer to a command.
    Reply(CommandId, Result<(), Refusal>),
    /// Tell the operator.
    Event(Event),
}

/// The effects of one input and the bytes they send. Cleared and used again, so that a running core allocates nothing.
#[derive(Clone, Default, Debug)]
pub struct Effects {
    /// What to do, in order.
    pub list: Vec<Effect>,
    /// The bytes that [`Effect::Send`] points into.
    pub bytes: Vec<u8>,
}

impl Effects {
    /// Forgets everything, keeping the memory.
    pub fn clear(&mut self) {
        self.list.clear();
        self.bytes.clear();
    }
}

/// Why a command was not carried out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// Demote of a group this node does not hold.
    #[error("this node does not hold the group")]
    NotHolder,
    /// Promote of a group this node may not hold.
    #[error("this node is not a member of the group")]
    NotMember,
    /// Demote or drain with nobody to take over.
    #[error("no other node could serve it; --force gives it up all the same")]
    NobodyElse,
    /// The other node did not get ready in time; nothing was changed.
    #[error("the other node did not get ready in time; nothing was changed")]
    PeerNotReady,
    /// The holder is alive but did not hand over in time.
    #[error("the holder did not hand over in time")]
    HolderKept,
    /// No vote and no proof of silence within the time allowed.
    #[error("the group could not be taken: neither the peer's vote nor its silence")]
    NoVote,
    /// This node is drained.
    #[error("this node is drained; undrain it first")]
    Drained,
    /// This node cannot serve now: its link, address or state is at fault.
    #[error("this node is in fault: its service interface or an address is not usable")]
    Fault,
    /// This node has as many groups as it may.
    #[error("this node has as many groups as `max_groups` allows")]
    Full,
    /// Somebody on the service link answers for the VIP although no heartbeat arrives.
    #[error("another node answers for the VIP on the service link")]
    Answered,
    /// Another command for the same group is under way.
    #[error("another command for this group is under way")]
    Busy,
    /// The voters of the new configuration cannot take the place of the present ones.
    #[error(transparent)]
    Membership(MembershipRefusal),
    /// A newer command or a stop took its place.
    #[error("superseded by a newer command or by a stop")]
    Superseded,
    /// A restart in place for which too few voters have made long promises.
    #[error(
        "too few voters have promised to wait for the restart; nothing was changed. A stop and a start hand the groups \
         over instead"
    )]
    NotPromised,
    /// A restart in place while another node has one, or has just had one.
    #[error("this node has promised to wait for another one's restart; try again in a few seconds")]
    PeerRestarts,
    /// A restart in place of a voter without which a holder has too few votes.
    #[error(
        "another node's leases depend on this node's vote, since other voters are missing; bring those back first. A stop \
         and a start restart it all the same"
    )]
    VoteNeeded,
}

/// A node's role in a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Listening after its start.
    Init,
    /// Ready to take over.
    Passive,
    /// Holds a valid lease.
    Active,
    /// Cannot serve.
    Fault,
}

/// Why a role changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// The daemon started.
    Startup,
    /// Nobody held the group and this node was elected.
    Election,
    /// The holder fell silent.
    HolderSilent,
    /// The lease of a daemon that died was still valid and was adopted.
    Adopted,
    /// An operator's `promote`.
    Promote,
    /// An operator's `demote`.
    Demote,
    /// An operator's `drain`, or its end.
    Drain,
    /// The old holder stopped cleanly.
    Resign,
    /// The better-ranked node came back.
    Failback,
    /// The holder's service link is cut although it hears its peer elsewhere.
    ServiceCut,
    /// The service interface went down, or came back.
    Link,
    /// The VIP could not be configured.
    Address,
    /// The lease ran out and could not be regained in time.
    Lapse,
    /// Another node holds the group in a higher epoch.
    OtherHolder,
    /// The configuration was changed.
    Reload,
}

/// When the steps of a takeover happened; `None` where there was no such step.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Timeline {
    /// The old holder was last heard.
    pub last_heard: Option<Time>,
    /// The first probe for the VIP was sent.
    pub probe: Option<Time>,
    /// The old holder was declared dead (or had handed over, or nobody held), and the vote began.
    pub declared: Option<Time>,
    /// The address was on the interface.
    pub address: Option<Time>,
    /// The lease was written.
    pub lease: Option<Time>,
    /// The first announcement was sent.
    pub announced: Option<Time>,
}

/// Something an operator wants to know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// When.
    pub at: Time,
    /// What.
    pub kind: EventKind,
}

/// The kinds of events.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EventKind {
    /// A role changed.
    Transition {
        /// Of which group.
        group: GroupIndex,
        /// Before.
        from: Role,
        /// After.
        to: Role,
        /// Why.
        cause: Cause,
        /// The tenure that began or ended, or that this node follows.
        epoch: Option<Epoch>,
        /// The steps that led there.
        timeline: Timeline,
    },
    /// The lease ran out while this node was active; it is dark until an acknowledgement renews it.
    Lapse {
        /// Of which group.
        group: GroupIndex,
    },
    /// The lease was renewed after a lapse, in the same epoch.
    Regained {
        /// Of which group.
        group: GroupIndex,
        /// How long it was dark.
        dark: Duration,
    },
    /// No peer is heard; the holder renews its lease alone.
    Alone,
    /// A peer that votes is heard again after [`EventKind::Alone`].
    NotAlone,
    /// A peer is heard and believed.
    PeerUp(NodeId),
    /// A peer has been silent for D.
    PeerDown(NodeId),
    /// A path carries heartbeats.
    PathUp(PathIndex),
    /// A path has been silent for D.
    PathDown(PathIndex),
    /// A cluster node answers for the VIP on the service link although no heartbeat of a holder arrives: not taken.
    ProbeAnswered {
        /// Of which group.
        group: GroupIndex,
        /// Whose Ethernet address answered.
        mac: Mac,
    },
    /// A stranger answers for or announces the VIP, or sends with it. Told of one Ethernet address at most every ten seconds.
    Rival {
        /// Of which group.
        group: GroupIndex,
        /// The VIP.
        address: IpAddr,
        /// Its Ethernet address.
        mac: Mac,
    },
    /// Two holders met; the other, of a lower epoch, yields.
    DualHolder {
        /// Of which group.
        group: GroupIndex,
        /// The other's epoch.
        other: Epoch,
    },
    /// The planned hand-over of a group began.
    Handover {
        /// Of which group.
        group: GroupIndex,
        /// To whom.
        to: NodeId,
        /// Why.
        cause: Cause,
    },
    /// The planned hand-over did not come about; the group stayed.
    HandoverFailed {
        /// Of which group.
        group: GroupIndex,
        /// To whom it should have gone.
        to: NodeId,
    },
    /// An operator has forced this node to take a group without the votes it takes.
    Forced {
        /// Which.
        group: GroupIndex,
    },
    /// No peer is heard, and a gateway has been silent for D, or answers again.
    Gateway {
        /// Which.
        address: IpAddr,
        /// Whether it answers.
        answers: bool,
    },
    /// What is known of the service link changed.
    Service(ServiceHealth),
    /// The loop woke late.
    Overslept(Duration),
    /// Epochs cannot be reserved on disk; this node cannot take a group once those reserved are used up.
    ReservationFailed,
    /// L is shorter than 3 H and the measured round trip: lapses are to be expected.
    LeaseTooShort {
        /// The peer.
        peer: NodeId,
        /// The measured round trip.
        round_trip: Duration,
    },
    /// A peer that is alive was not heard for more than half of D. Said again only after a minute without such a gap.
    MarginLow {
        /// The peer.
        peer: NodeId,
        /// For how long.
        gap: Duration,
    },
    /// A peer's messages cannot be read: it speaks this wire version and is understood from that one on. Said once a minute.
    WireVersion {
        /// The peer.
        peer: NodeId,
        /// What it speaks.
        version: u8,
        /// The lowest version that understands it.
        minimum: u8,
    },
    /// A peer runs with other nodes or timings.
    SettingsDiffer(NodeId),
    /// A peer that did so runs with this node's nodes and timings now.
    SettingsAgree(NodeId),
    /// A change of the voters began, went on, or (`None`) is through.
    Voters(Option<Phase>),
}

/// What a node knows of its service link beyond its carrier.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ServiceHealth {
    /// Nothing speaks against it: heartbeats pass, or there is nothing to judge by.
    Unjudged,
    /// Heartbeats on the service path stopped, but probed addresses answer.
    Answered,
    /// Heartbeats on the service path stopped, and nothing that was probed answers.
    Cut,
}

/// Datagrams dropped, by kind; all of them without effect.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Dropped {
    /// Shorter than its own lengths say, or longer.
    pub malformed: u64,
    /// A wire version we do not speak.
    pub version: u64,
    /// The authentication code is wrong.
    pub forged: u64,
    /// Another cluster's.
    pub other_cluster: u64,
    /// A node id that is not the path's.
    pub unknown_node: u64,
    /// Our own node id, from elsewhere.
    pub own_id: u64,
    /// Seen before, or older than the window.
    pub replayed: u64,
    /// From an earlier run of the peer.
    pub old_incarnation: u64,
    /// Its sender has not echoed our incarnation yet; it was answered so that it can.
    pub unproven: u64,
}

/// What the core shows of itself.
#[derive(Clone, Default, Debug)]
pub struct Snapshot {
    /// One for each group, in the settings' order.
    pub groups: Vec<GroupView>,
    /// One for each group, in the settings' order; of one that is not active/active without members.
    pub spreads: Vec<SpreadView>,
    /// One for each peer, in the settings' order.
    pub peers: Vec<PeerView>,
    /// One for each path: peer by peer, path by path.
    pub paths: Vec<PathView>,
    /// Whether the node is drained.
    pub drained: bool,
    /// Whether the holder renews alone.
    pub alone: bool,
    /// The service link.
    pub service: Option<ServiceHealth>,
    /// A change of voters that is under way: the former ones, and how far it is.
    pub change: Option<(VoterSet, Phase)>,
    /// The term of leases now: shorter than configured while a peer's promises are.
    pub lease: Duration,
    /// What the next run must know, while this one waits to be replaced.
    pub resumed: Option<Resumed>,
    /// Datagrams dropped, by kind.
    pub dropped: Dropped,
}

/// One group as this node sees it.
#[derive(Clone, Copy, Debug)]
pub struct GroupView {
    /// This node's role.
    pub role: Role,
    /// Who holds it, as far as this node knows for certain.
    pub holder: Option<NodeId>,
    /// The highest epoch seen.
    pub epoch: Option<Epoch>,
    /// Until when this node's lease is valid.
    pub lease_until: Option<Time>,
    /// When the role was taken.
    pub since: Time,
    /// Why.
    pub cause: Cause,
    /// Whether the placement was made by hand.
    pub by_hand: bool,
    /// After a hand-over: until when this node serves the connections that it had, if it was the old holder.
    pub letting_go: Option<Time>,
    /// Who else claims a VIP of it, as seen lately.
    pub rival: Option<Rival>,
    /// How often this node's lease has run out while active.
    pub lapses: u64,
    /// How often each role was taken: init, passive, active, fault.
    pub transitions: u64,
}

/// The table of a group as this node sees it.
#[derive(Clone, Default, Debug)]
pub struct SpreadView {
    /// Which table this node goes by.
    pub version: Option<Version>,
    /// Until when it may serve by it.
    pub serves_until: Time,
    /// Everybody who may be a member.
    pub members: Vec<SpreadMemberView>,
}

/// A node that flows may go to, as this node sees it.
#[derive(Clone, Copy, Debug)]
pub struct SpreadMemberView {
    /// Who.
    pub node: NodeId,
    /// Of how many buckets it is the first.
    pub buckets: usize,
    /// Of how many it is the second.
    pub seconds: usize,
    /// What it last said it has to do.
    pub load: Load,
    /// With which weight the entry counts it, if it does; known to the entry alone.
    pub weight: Option<u32>,
}

/// Somebody outside the cluster who claims a VIP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rival {
    /// The VIP.
    pub address: IpAddr,
    /// His Ethernet address.
    pub mac: Mac,
    /// When he was seen last.
    pub at: Time,
}

/// One peer as this node sees it.
#[derive(Clone, Copy, Debug)]
pub struct PeerView {
    /// Whether it was heard within D, and believed.
    pub alive: bool,
    /// When it was last heard.
    pub last_heard: Option<Time>,
    /// Whether its votes count already (it waits D after its start).
    pub voting: bool,
    /// The longest gap between two of its heartbeats while it was alive.
    pub worst_gap: Duration,
    /// The longest of the last minute or two.
    pub recent_gap: Duration,
    /// How many of these gaps were longer than half of D.
    pub low_margins: u64,
    /// Whether its nodes and timings are ours.
    pub same_settings: bool,
}

/// One path as this node sees it.
#[derive(Clone, Copy, Debug)]
pub struct PathView {
    /// Which.
    pub path: PathIndex,
    /// Whether a heartbeat arrived on it within D.
    pub up: bool,
    /// The newest round trip measured.
    pub round_trip: Option<Duration>,
    /// Heartbeats that are missing in the peer's sequence on this path.
    pub lost: u64,
}
