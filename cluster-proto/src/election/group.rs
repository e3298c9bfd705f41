//! What one node remembers of one group. The rules that change it are in `candidacy.rs` and `tenure.rs`.

use std::time::Duration;

use crate::identity::{Epoch, Mac, NodeId, PathIndex};
use crate::interface::{Cause, CommandId, Rival, Role, Side, Timeline};
use crate::settings::{Settings, SpreadOver};
use crate::time::Time;
use crate::wire::{Claim, Reason};

use super::spread::Spread;

/// One group.
#[derive(Clone, Debug)]
pub(super) struct GroupState {
    pub(super) ranks: Ranks,
    pub(super) stage: Stage,
    /// What the last heartbeat said of it.
    pub(super) told: Option<Claim>,
    /// The state of our claims with which that began.
    pub(super) told_in: u64,
    /// This node's word to another.
    pub(super) promise: Option<Promise>,
    /// A vote asked for while the word was given to another; answered when it is free.
    pub(super) pending: Option<Pending>,
    /// Until when a lease can be valid that rests on this node's promise, or is its own, and takes only the voters before
    /// a change.
    pub(super) unlike_until: Time,
    /// Until when a promise lasts whose candidate is no peer any more.
    pub(super) bound_until: Time,
    /// The highest epoch seen anywhere.
    pub(super) top: Option<Epoch>,
    /// By peer: the send time of our newest heartbeat that it acknowledged with its promise for our present epoch.
    pub(super) acknowledged: Vec<Option<Time>>,
    /// Since when nobody is known to hold it; meaningful while there is no promise.
    pub(super) vacant_since: Time,
    /// Whether anybody was known to hold it since our start; until then a take is a cold start and is probed.
    pub(super) was_held: bool,
    pub(super) probe: Probe,
    pub(super) wish: Option<Wish>,
    /// A demote that has released the group and waits for the other to serve.
    pub(super) awaited: Option<Awaited>,
    /// The peer it was handed to, until that peer serves.
    pub(super) released_to: Option<usize>,
    /// How many answers to [`crate::Effect::AddAddress`] are still to come.
    pub(super) addresses_asked: u32,
    /// When the newest of them was asked.
    pub(super) address_asked: Time,
    /// Given up by force with nobody to take it: not taken again until somebody else held it or an operator says so.
    pub(super) abstains: bool,
    /// This node's tenure was made by hand.
    pub(super) by_hand: bool,
    /// Since when this node could serve it without a break.
    pub(super) fit_since: Option<Time>,
    pub(super) announcing: Option<Announcing>,
    pub(super) grace: Option<Grace>,
    /// Its table, if several nodes serve it.
    pub(super) spread: Option<Box<Spread>>,
    pub(super) timeline: Timeline,
    /// Who claimed a VIP of it last.
    pub(super) rival: Option<Rival>,
    /// When a rival was last told of, and which.
    pub(super) rival_said: Option<(Time, Mac)>,
    /// When this node last answered a rival's claim with its own.
    pub(super) rival_answered: Option<Time>,
    /// When this node, as the holder, next asks whether somebody else has a VIP, and which.
    pub(super) rival_check: Option<(Time, usize)>,
    /// When this node last answered a peer's announcement with its own.
    pub(super) defended: Option<Time>,
    /// A holder whose group returns when it is idle: when it last had no connection.
    pub(super) idle_at: Option<Time>,
    /// Until when it is being watched for that.
    pub(super) watched_until: Time,
    pub(super) answered_said: bool,
    // What was last shown of it.
    pub(super) role: Role,
    pub(super) cause: Cause,
    pub(super) since: Time,
    pub(super) lapses: u64,
    pub(super) transitions: u64,
}

/// Places in the group's order; the lower the better, `usize::MAX` for those that may not hold it.
#[derive(Clone, Debug)]
pub(super) struct Ranks {
    pub(super) own: usize,
    /// By the peer's place in the settings.
    pub(super) peers: Vec<usize>,
}

impl Ranks {
    /// Those of the settings' group of this index.
    pub(super) fn of(settings: &Settings, index: usize) -> Self {
        let prefer = &settings.groups[index].prefer;
        let rank = |node| prefer.iter().position(|&member| member == node).unwrap_or(usize::MAX);
        Self { own: rank(settings.me), peers: settings.peers.iter().map(|peer| rank(peer.id)).collect() }
    }
}

/// Where this node stands in the group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    /// Listening after the start.
    Init,
    /// Following a holder, or waiting for its turn.
    Passive,
    /// Asking for votes.
    Standing(Candidacy),
    /// Offered the group by its holder: getting ready, then waiting for the release.
    Ready(Candidacy),
    /// Holding it, or dark after a lapse but not yet given up.
    Active(Tenure),
    /// Not able to serve.
    Fault(Fault),
}

/// A try to hold the group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Candidacy {
    pub(super) epoch: Epoch,
    pub(super) cause: Cause,
    pub(super) address: Address,
    pub(super) by_hand: bool,
    /// Nobody answered for the VIP on the service link before, so that silence of the peer is enough.
    pub(super) probed: bool,
    /// An operator vouches that nobody else serves.
    pub(super) forced: bool,
}

/// Whether the VIPs are on the interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Address {
    Absent,
    Pending,
    Ready,
}

/// A time as holder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Tenure {
    pub(super) epoch: Epoch,
    /// Until when the lease is valid; what the map says.
    pub(super) until: Time,
    /// Whether the lease may rest on silence: it was granted alone, or adopted without knowing. It ends where the last
    /// vote ends as soon as a peer is heard.
    pub(super) alone: bool,
    /// An operator vouched that nobody else serves; over once enough voters are heard, or another holder.
    pub(super) forced: bool,
    pub(super) lapse: Option<Lapse>,
    pub(super) giving: Option<Giving>,
}

/// The lease ran out, or was given up because another holder was met: dark until an acknowledgement renews it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Lapse {
    pub(super) since: Time,
    /// When the tenure ends if it is not renewed.
    pub(super) give_up: Time,
    /// Because another holder of a lower epoch was met.
    pub(super) dual: bool,
}

/// A hand-over offered to a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Giving {
    /// The peer's place in the settings.
    pub(super) to: usize,
    pub(super) reason: Reason,
    pub(super) deadline: Time,
    pub(super) command: Option<CommandId>,
}

/// Why this node cannot serve.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    /// The service interface is down or gone.
    Link,
    /// The VIP could not be configured; tried again then.
    Address { retry: Time },
}

/// To nobody but `epoch.node`, until then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Promise {
    pub(super) epoch: Epoch,
    /// The peer's place in the settings.
    pub(super) peer: usize,
    pub(super) until: Time,
    /// `sent` of the heartbeat that last extended it, by the peer's clock.
    pub(super) basis: u64,
    /// Whether that heartbeat claimed a valid lease.
    pub(super) holds: bool,
    /// Whether it is a vote. A holder that needs other voters than this one's is followed all the same.
    pub(super) counts: bool,
}

/// A request that came before this node's word was free.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Pending {
    /// The tenure asked for.
    pub(super) epoch: Epoch,
    /// The path it came on, and so the peer's place in the settings.
    pub(super) path: PathIndex,
    /// `sent` of the newest heartbeat that asked, by the peer's clock.
    pub(super) sent: u64,
    /// When that arrived.
    pub(super) at: Time,
}

/// The question on the service link whether somebody answers for the VIP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Probe {
    /// Not asked.
    Unasked,
    /// Asked then, and nobody has answered. To be asked so many times more: one lost question must not make a
    /// holder that answered before look dead.
    Asked(Time, u32),
    /// Somebody in the cluster answered.
    Answered(Time, Mac),
}

/// This node wants the group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Wish {
    pub(super) reason: Reason,
    pub(super) command: Option<CommandId>,
    pub(super) deadline: Time,
    pub(super) force: bool,
}

/// A command that is answered once the other node serves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Awaited {
    pub(super) command: CommandId,
    pub(super) deadline: Time,
}

/// A hand-over's grace, as the data plane was told of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Grace {
    pub(super) side: Side,
    pub(super) other: Mac,
    /// When it began.
    pub(super) since: Time,
    /// Until when the data plane goes by it.
    pub(super) until: Time,
    /// When the old holder takes the VIPs off; `None` if they are none of its business any more, or it is the new one.
    pub(super) let_go: Option<Time>,
}

/// Announcements still to be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Announcing {
    pub(super) left: u32,
    pub(super) next: Time,
}

impl GroupState {
    pub(super) fn new(now: Time, ranks: Ranks) -> Self {
        let peers = ranks.peers.len();
        Self {
            ranks,
            stage: Stage::Init,
            told: None,
            told_in: 0,
            promise: None,
            pending: None,
            unlike_until: Time::ZERO,
            bound_until: Time::ZERO,
            top: None,
            acknowledged: vec![None; peers],
            vacant_since: now,
            was_held: false,
            probe: Probe::Unasked,
            wish: None,
            awaited: None,
            released_to: None,
            addresses_asked: 0,
            address_asked: now,
            abstains: false,
            by_hand: false,
            fit_since: None,
            announcing: None,
            grace: None,
            spread: None,
            timeline: Timeline::default(),
            rival: None,
            rival_said: None,
            rival_answered: None,
            rival_check: None,
            defended: None,
            idle_at: None,
            watched_until: Time::ZERO,
            answered_said: false,
            role: Role::Init,
            cause: Cause::Startup,
            since: now,
            lapses: 0,
            transitions: 0,
        }
    }

    /// Has a table if the settings say so.
    pub(super) fn spread_over(&mut self, over: Option<&SpreadOver>, me: NodeId) {
        match (over, &mut self.spread) {
            (Some(over), Some(spread)) => spread.reconfigure(over),
            (Some(over), none) => *none = Some(Box::new(Spread::new(over, me))),
            (None, spread) => *spread = None,
        }
    }

    /// The promise, if it still binds.
    pub(super) fn binding_promise(&self, now: Time) -> Option<Promise> {
        self.promise.filter(|promise| now < promise.until)
    }

    /// Whether this node's word is its own: it holds, or asks for votes.
    pub(super) fn keeps_its_word(&self) -> bool {
        matches!(self.stage, Stage::Active(_) | Stage::Standing(_))
    }

    /// The tenure, valid or lapsed.
    pub(super) fn tenure(&mut self) -> Option<&mut Tenure> {
        match &mut self.stage {
            Stage::Active(tenure) => Some(tenure),
            Stage::Init | Stage::Passive | Stage::Standing(_) | Stage::Ready(_) | Stage::Fault(_) => None,
        }
    }

    /// Whether this node holds a valid lease.
    pub(super) fn holds(&self, now: Time) -> bool {
        matches!(self.stage, Stage::Active(tenure) if now < tenure.until)
    }

    /// The epoch this node asks for or holds.
    pub(super) fn own_epoch(&self) -> Option<Epoch> {
        match self.stage {
            Stage::Standing(candidacy) | Stage::Ready(candidacy) => Some(candidacy.epoch),
            Stage::Active(tenure) => Some(tenure.epoch),
            Stage::Init | Stage::Passive | Stage::Fault(_) => None,
        }
    }

    /// Takes note of an epoch.
    pub(super) fn observe(&mut self, epoch: Epoch) {
        if self.top.is_none_or(|top| top < epoch) {
            self.top = Some(epoch);
        }
    }
}

impl Wish {
    /// Whether it is there because the group returns to its best-ranked node by itself.
    pub(super) fn is_failback(self) -> bool {
        matches!(self.reason, Reason::Failback | Reason::Undrain)
    }
}

impl Probe {
    /// Whether nobody has answered although there was time for it.
    pub(super) fn unanswered_for(self, now: Time, wait: Duration) -> bool {
        matches!(self, Self::Asked(at, _) if now >= at + wait)
    }
}
