//! A restart in place: another process takes this one's place while the leases it leaves in the map are valid
//! (`docs/election.md`, "Restart in place").
//!
//! The voters are asked to remember longer promises first, then the heartbeats say a longer lease, then what they are
//! acknowledged with makes one. From then on the state stands still until the process is replaced. The next run shortens
//! the leases as soon as it can, and its heartbeats thereby shorten the promises.

use std::time::Duration;

use crate::identity::GroupIndex;
use crate::interface::{CommandId, Effect, Effects, Refusal, Resumed, ResumedGroup, ResumedLease};
use crate::time::Time;
use crate::wire::{RESTART_LEASE, RESTART_PROMISE};

use super::group::{GroupState, Stage, Tenure};
use super::{Core, PeerState};

/// How long the preparation may take: writes to the voters' disks, and hand-overs that are under way. No longer than clients
/// wait.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long all voters that are heard are waited for, before as many as a holder needs are enough.
const ALL_VOTERS: Duration = Duration::from_secs(1);
/// How long the state stands still for a process that is about to be replaced.
const STANDSTILL: Duration = Duration::from_secs(1);
/// What is left of every lease when that begins: none runs out in it.
const LEFT: Duration = Duration::from_millis(1500);

/// A restart in place that is being prepared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Restart {
    step: Step,
    command: CommandId,
    /// When it is given up.
    deadline: Time,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// For another node's restart and for promises of this node's that would outlast its own, for hand-overs, for leases that
    /// have run out, and for voters without whom some holder needs this node's vote.
    Waiting,
    /// For voters to be sure to remember the longer promises. While they do, they are not restarted themselves.
    Asking {
        /// Since when.
        since: Time,
    },
    /// Heartbeats say the longer lease.
    Extending {
        /// Those that were sent from then on.
        since: Time,
    },
    /// The leases are as long as they have to be, and stay so.
    Ready,
}

impl Core {
    /// `None`: answered later.
    pub(super) fn prepare_restart(&mut self, now: Time, command: CommandId) -> Option<Result<(), Refusal>> {
        let busy = |group: &GroupState| {
            let wish = group.wish.is_some_and(|wish| wish.command.is_some());
            let giving = matches!(
                group.stage,
                Stage::Active(Tenure { giving: Some(giving), .. }) if giving.command.is_some()
            );
            wish || giving || group.awaited.is_some()
        };
        if self.restart.is_some() || self.stopping || self.retreat.is_some() || self.groups.iter().any(busy) {
            return Some(Err(Refusal::Busy));
        }
        self.restart = Some(Restart { step: Step::Waiting, command, deadline: now + PATIENCE });
        None
    }

    /// Ends it, without an answer if there was one already.
    pub(super) fn cancel_restart(&mut self, refusal: Refusal, out: &mut Effects) {
        let Some(restart) = self.restart.take() else { return };
        self.news = true;
        if restart.step != Step::Ready {
            out.list.push(Effect::Reply(restart.command, Err(refusal)));
        }
    }

    /// Whether a holder that this node follows would lapse without its vote, as far as this node can know.
    fn is_needed_by_a_holder(&self, now: Time) -> bool {
        let holders = self.groups.iter().filter_map(|group| group.binding_promise(now));
        holders.filter(|promise| promise.holds).any(|promise| {
            self.membership.required.iter().any(|set| {
                let others = self.peers.iter().enumerate().filter(|(place, peer)| {
                    // The word of whoever holds is its own, however short it has been running.
                    set.peers[*place] && peer.is_mutual() && (peer.voting || *place == promise.peer)
                });
                set.majority && set.own && others.count() < set.needed(false)
            })
        })
    }

    /// Takes the next step as soon as it is possible.
    pub(super) fn advance_restart(&mut self, now: Time, out: &mut Effects) {
        let Some(restart) = self.restart else { return };
        if now >= restart.deadline {
            let refusal = match restart.step {
                Step::Waiting if self.is_needed_by_a_holder(now) => Refusal::VoteNeeded,
                Step::Waiting if !self.stands_still(now) => Refusal::Busy,
                Step::Waiting => Refusal::PeerRestarts,
                Step::Asking { .. } | Step::Extending { .. } | Step::Ready => Refusal::NotPromised,
            };
            self.cancel_restart(refusal, out);
            return;
        }
        let holds = self.groups.iter().any(|group| matches!(group.stage, Stage::Active(_)));
        let step = match restart.step {
            Step::Waiting
                if self.has_promised_for_long()
                    || self.peers.iter().any(|peer| peer.restarts && peer.silence(now) < RESTART_PROMISE)
                    || self.is_needed_by_a_holder(now)
                    || !self.stands_still(now) =>
            {
                Step::Waiting
            }
            // A heartbeat that left in this very instant did not ask.
            Step::Waiting => {
                Step::Asking { since: now + Duration::from_nanos(u64::from(self.last_sent == now)) }
            }
            Step::Asking { .. }
                if self.yields_to_a_restart()
                    || self.another_may_be_away(now)
                    || self.is_needed_by_a_holder(now)
                    || !self.stands_still(now) =>
            {
                Step::Waiting
            }
            Step::Asking { since } => {
                let all = now.since(since) < ALL_VOTERS;
                let kept = self.are_kept(now, all) && self.have_heard(since);
                if kept && holds {
                    // A heartbeat that left in this very instant spoke of the usual lease.
                    let instant = Duration::from_nanos(u64::from(self.last_sent == now));
                    Step::Extending { since: now + instant }
                } else if kept || !holds && !all && self.have_heard(since) {
                    // Nobody's lease depends on those that do not keep them.
                    Step::Ready
                } else {
                    Step::Asking { since }
                }
            }
            Step::Extending { .. } if self.stands_still(now) && self.last_beyond(now + LEFT) => Step::Ready,
            Step::Extending { since } => Step::Extending { since },
            Step::Ready if self.stands_still(now) && self.last_beyond(restart.deadline) => Step::Ready,
            Step::Ready => {
                // A lease was cut or has ended: it must be possible to renew it.
                self.cancel_restart(Refusal::NotPromised, out);
                return;
            }
        };
        if step == restart.step {
            return;
        }
        self.news = true;
        let deadline = if step == Step::Ready { now + STANDSTILL } else { restart.deadline };
        self.restart = Some(Restart { step, deadline, ..restart });
        if let Step::Extending { .. } = step {
            self.longest_lease = self.longest_lease.max(RESTART_LEASE);
        }
        if step == Step::Ready {
            out.list.push(Effect::Reply(restart.command, Ok(())));
        }
    }

    /// When something has to be done about it at the latest.
    pub(super) fn restart_deadline(&self) -> Time {
        self.restart.map_or(Time::NEVER, |restart| match restart.step {
            Step::Asking { since } if self.latest < since + ALL_VOTERS => {
                restart.deadline.min(since + ALL_VOTERS)
            }
            Step::Waiting | Step::Asking { .. } | Step::Extending { .. } | Step::Ready => restart.deadline,
        })
    }

    /// Whether heartbeats ask for promises of [`crate::wire::RESTART_PROMISE`].
    pub(super) fn asks_for_long_promises(&self) -> bool {
        self.restart.is_some_and(|restart| restart.step != Step::Waiting)
    }

    /// Whether another node's restart may rely on this one's remembering: not if it is about to go itself.
    pub(super) fn keeps_long_promises(&self) -> bool {
        let goes =
            matches!(self.restart.map(|restart| restart.step), Some(Step::Extending { .. } | Step::Ready));
        self.membership.keeps_long() && !goes
    }

    /// Whether leases stay as they are.
    pub(super) fn awaits_its_replacement(&self) -> bool {
        self.restart.is_some_and(|restart| restart.step == Step::Ready)
    }

    /// The term of a lease that rests on a heartbeat sent then.
    pub(super) fn lease_term(&self, sent: Time) -> Duration {
        match self.restart.map(|restart| restart.step) {
            Some(Step::Extending { since }) if sent >= since => self.lease.max(RESTART_LEASE),
            _ => self.lease,
        }
    }

    /// What messages say of the lease: for how long from now on a lease of this node's can be valid at the most, those that it
    /// has and those that an answer can give.
    pub(super) fn told_lease(&self, now: Time) -> Duration {
        let left = |group: &GroupState| match group.stage {
            Stage::Active(tenure) => tenure.until.since(now),
            Stage::Init | Stage::Passive | Stage::Standing(_) | Stage::Ready(_) | Stage::Fault(_) => {
                Duration::ZERO
            }
        };
        let longest = self.groups.iter().map(left).max().unwrap_or_default();
        // One instant later: it may be sent in the instant after which the longer term begins.
        longest.max(self.lease_term(now + Duration::from_nanos(1)))
    }

    /// Whether this node has to wait after a restart for longer than for its usual promises, or had to if it were restarted
    /// now.
    fn has_promised_for_long(&self) -> bool {
        !self.membership.keeps_only(self.settings.timing.dead_after)
    }

    /// Whether no group is on its way to or from this node, or will soon be, and no lease has run out.
    fn stands_still(&self, now: Time) -> bool {
        self.groups.iter().enumerate().all(|(index, group)| match group.stage {
            Stage::Active(tenure) => tenure.lapse.is_none() && tenure.giving.is_none(),
            Stage::Passive => !self.may_soon_stand(now, index),
            Stage::Init | Stage::Fault(_) => true,
            Stage::Standing(_) | Stage::Ready(_) => false,
        })
    }

    /// Whether nobody is heard who holds the group, and this node could.
    fn may_soon_stand(&self, now: Time, index: usize) -> bool {
        let limit = self.settings.timing.heartbeat * 3;
        let held = self.groups[index]
            .binding_promise(now)
            .is_some_and(|promise| promise.holds && self.peers[promise.peer].silence(now) < limit);
        !held && self.could_serve(index) && self.hears_majority()
    }

    /// Whether another node's restart goes first: of two that begin at the same time, that of the lower id.
    fn yields_to_a_restart(&self) -> bool {
        self.peers.iter().zip(&self.settings.peers).any(|(peer, settings)| {
            let further =
                if self.lease < RESTART_LEASE { peer.lease >= RESTART_LEASE } else { !peer.keeps_long };
            peer.alive && peer.restarts && (settings.id < self.settings.me || further)
        })
    }

    /// Whether all voters that are heard have answered a heartbeat that was sent from then on. Those that began at the same time have said so
    /// with that, and those that have not know that they have to wait.
    fn have_heard(&self, since: Time) -> bool {
        let voters = |peer: usize| self.membership.required.iter().any(|set| set.peers[peer]);
        let mut peers = self.peers.iter().enumerate();
        peers.all(|(place, peer)| !peer.alive || !voters(place) || peer.answered >= since)
    }

    /// Whether a peer's last word was that it is being restarted, and it may have gone since: it asked at the same time, had what
    /// it needs before it heard of this node, and its vote is missing until it is back.
    fn another_may_be_away(&self, now: Time) -> bool {
        let silent = self.going_alone_after();
        let away = |peer: &PeerState| peer.silence(now) >= silent && peer.silence(now) < RESTART_PROMISE;
        self.peers.iter().any(|peer| peer.restarts && away(peer))
    }

    /// Whether those voters are sure to remember the longer promises without whom there is no lease, and if `all`, all that
    /// are heard.
    fn are_kept(&self, now: Time, all: bool) -> bool {
        let silence = self.going_alone_after();
        self.membership.required.iter().all(|set| {
            let voters = || self.peers.iter().zip(&set.peers).filter(|(_, votes)| **votes);
            let every = voters().all(|(peer, _)| peer.keeps_long || peer.silence(now) >= silence);
            if set.majority {
                let kept = voters().filter(|(peer, _)| peer.keeps_long && peer.is_mutual()).count();
                kept >= set.needed(set.own) && (every || !all)
            } else {
                every
            }
        })
    }

    /// Whether every lease is valid then.
    fn last_beyond(&self, then: Time) -> bool {
        self.groups.iter().all(|group| match group.stage {
            Stage::Active(tenure) => tenure.until > then,
            Stage::Init | Stage::Passive | Stage::Standing(_) | Stage::Ready(_) | Stage::Fault(_) => true,
        })
    }

    /// What the next run must know; `None` unless this one waits to be replaced.
    pub(super) fn resumed(&self) -> Option<Resumed> {
        if !self.awaits_its_replacement() {
            return None;
        }
        let groups = self.groups.iter().enumerate().map(|(index, group)| {
            let lease = match group.stage {
                Stage::Active(Tenure { until, alone, forced, .. }) => {
                    Some(ResumedLease { until, voted: !alone, forced })
                }
                Stage::Init | Stage::Passive | Stage::Standing(_) | Stage::Ready(_) | Stage::Fault(_) => None,
            };
            let (by_hand, abstains) = (group.by_hand, group.abstains);
            (GroupIndex(index), ResumedGroup { by_hand, abstains, lease })
        });
        Some(Resumed { drained: self.drained, groups: groups.collect() })
    }

    /// Takes up what the last run has handed on; after the adoption of its leases.
    pub(super) fn resume(&mut self, resumed: &Resumed) {
        self.drained = resumed.drained;
        for &(GroupIndex(index), handed) in &resumed.groups {
            let Some(group) = self.groups.get_mut(index) else { continue };
            group.abstains = handed.abstains;
            if let Stage::Active(tenure) = &mut group.stage
                && let Some(lease) = handed.lease.filter(|lease| lease.until == tenure.until)
            {
                // What rests on the votes of all that were heard need not end where one of them speaks again.
                tenure.alone &= !lease.voted;
                tenure.forced = lease.forced;
                group.by_hand = handed.by_hand;
            }
        }
    }
}
