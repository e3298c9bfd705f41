//! What operators ask for: promote, demote, drain, undrain, and the resignation of a clean stop.

use std::time::Duration;

use crate::identity::GroupIndex;
use crate::interface::{Cause, Command, CommandId, Effect, Effects, EventKind, Refusal};
use crate::settings::Failback;
use crate::time::Time;
use crate::wire::Reason;

use super::group::{Probe, Stage, Wish};
use super::tenure::{cause_of, handover_patience};
use super::{Core, event};

/// All groups are being given up, for a drain or a stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Retreat {
    command: CommandId,
    pub(super) deadline: Time,
    reason: Reason,
    force: bool,
}

impl Core {
    pub(super) fn command(&mut self, now: Time, id: CommandId, command: Command, out: &mut Effects) {
        let outcome = match command {
            // It was named in terms of a configuration before this one.
            Command::Promote { group: GroupIndex(index), .. }
            | Command::Demote { group: GroupIndex(index), .. }
                if index >= self.groups.len() =>
            {
                Some(Err(Refusal::Superseded))
            }
            Command::Promote { .. } | Command::Demote { .. } | Command::Drain { .. }
                if self.restart.is_some() =>
            {
                Some(Err(Refusal::Busy))
            }
            Command::Promote { group: GroupIndex(index), force } => self.promote(now, id, index, force, out),
            Command::Demote { group: GroupIndex(index), force } => self.demote(now, id, index, force, out),
            Command::Drain { force } => self.drain(now, id, force, out),
            Command::Undrain => {
                self.undrain(now);
                Some(Ok(()))
            }
            Command::Resign => {
                self.stopping = true;
                self.cancel_restart(Refusal::Superseded, out);
                self.withdraw_wishes(out);
                self.retreat(now, id, Reason::Resign, true, out);
                None
            }
            Command::PrepareRestart => self.prepare_restart(now, id),
            Command::CancelRestart => {
                self.cancel_restart(Refusal::Superseded, out);
                Some(Ok(()))
            }
        };
        self.news = true;
        if let Some(outcome) = outcome {
            out.list.push(Effect::Reply(id, outcome));
        }
    }

    /// `None`: answered later.
    fn promote(
        &mut self,
        now: Time,
        id: CommandId,
        index: usize,
        force: bool,
        out: &mut Effects,
    ) -> Option<Result<(), Refusal>> {
        if self.own_rank(index) == usize::MAX {
            return Some(Err(Refusal::NotMember));
        }
        if self.groups[index].holds(now) {
            self.groups[index].by_hand = true;
            return Some(Ok(()));
        }
        if self.drained || self.stopping {
            return Some(Err(Refusal::Drained));
        }
        if matches!(self.groups[index].stage, Stage::Fault(_)) {
            return Some(Err(Refusal::Fault));
        }
        if self.is_full(index) {
            return Some(Err(Refusal::Full));
        }
        if self.groups[index].wish.is_some_and(|wish| wish.command.is_some()) {
            return Some(Err(Refusal::Busy));
        }
        let deadline = now + command_patience(self.settings.timing.dead_after);
        let group = &mut self.groups[index];
        group.wish = Some(Wish { reason: Reason::Promote, command: Some(id), deadline, force });
        group.abstains = false;
        if force && !self.has_voters_in_hearing() && !self.hears_holder(now, index) {
            self.force(now, index, out);
        }
        None
    }

    /// Whether those are heard whose votes could be had.
    fn has_voters_in_hearing(&self) -> bool {
        if self.needs_majority() { self.hears_majority() } else { self.peers.iter().any(|peer| peer.alive) }
    }

    fn hears_holder(&self, now: Time, index: usize) -> bool {
        self.groups[index].binding_promise(now).is_some_and(|promise| promise.holds)
    }

    /// Takes the group with no vote but the operator's word that nobody else serves.
    fn force(&mut self, now: Time, index: usize, out: &mut Effects) {
        let group = GroupIndex(index);
        if matches!(self.groups[index].stage, Stage::Init | Stage::Passive) && self.able(index) {
            self.groups[index].stage = Stage::Passive;
            self.stand(now, index, true, out);
        }
        if let Stage::Standing(candidacy) = &mut self.groups[index].stage {
            candidacy.forced = true;
            event(out, now, EventKind::Forced { group });
        }
    }

    fn demote(
        &mut self,
        now: Time,
        id: CommandId,
        index: usize,
        force: bool,
        out: &mut Effects,
    ) -> Option<Result<(), Refusal>> {
        let Stage::Active(tenure) = self.groups[index].stage else { return Some(Err(Refusal::NotHolder)) };
        if tenure.giving.is_some() {
            return Some(Err(Refusal::Busy));
        }
        if let Some(peer) = self.successor(index) {
            self.give(now, index, peer, Reason::Demote, Some(id), out);
            return None;
        }
        if !force {
            return Some(Err(Refusal::NobodyElse));
        }
        self.groups[index].abstains = true;
        self.leave(now, index, Stage::Passive, Cause::Demote, out);
        Some(Ok(()))
    }

    fn drain(
        &mut self,
        now: Time,
        id: CommandId,
        force: bool,
        out: &mut Effects,
    ) -> Option<Result<(), Refusal>> {
        if self.retreat.is_some() || self.stopping {
            return Some(Err(Refusal::Busy));
        }
        let stranded = (0..self.groups.len()).any(|index| {
            matches!(self.groups[index].stage, Stage::Active(_)) && self.successor(index).is_none()
        });
        if stranded && !force {
            return Some(Err(Refusal::NobodyElse));
        }
        self.drained = true;
        self.withdraw_wishes(out);
        self.retreat(now, id, Reason::Drain, force, out);
        None
    }

    fn undrain(&mut self, now: Time) {
        self.drained = false;
        for index in 0..self.groups.len() {
            let returns = self.settings.groups[index].failback != Failback::Never;
            let group = &self.groups[index];
            let held_by_worse = group
                .binding_promise(now)
                .is_some_and(|promise| promise.holds && !self.outranks(index, promise.peer));
            let group = &mut self.groups[index];
            group.abstains = false;
            if returns && held_by_worse && group.stage == Stage::Passive {
                group.wish = Some(Wish {
                    reason: Reason::Undrain,
                    command: None,
                    deadline: Time::NEVER,
                    force: false,
                });
            }
        }
    }

    /// Gives every group to whoever can take it. What nobody can take is given up at once if that is forced.
    fn retreat(&mut self, now: Time, command: CommandId, reason: Reason, force: bool, out: &mut Effects) {
        if let Some(earlier) = self.retreat.take() {
            out.list.push(Effect::Reply(earlier.command, Err(Refusal::Superseded)));
        }
        for index in 0..self.groups.len() {
            match self.groups[index].stage {
                Stage::Active(tenure) => {
                    let valid = now < tenure.until;
                    match self.successor(index).filter(|_| valid) {
                        Some(peer) if tenure.giving.is_none() => {
                            self.give(now, index, peer, reason, None, out)
                        }
                        Some(_) => {}
                        // A peer that has just started may be able to take it in a moment.
                        None if valid && self.peers.iter().any(|peer| peer.alive) => {}
                        None => self.leave(now, index, Stage::Passive, cause_of(reason), out),
                    }
                }
                Stage::Standing(_) | Stage::Ready(_) => {
                    self.leave(now, index, Stage::Passive, cause_of(reason), out);
                }
                Stage::Init | Stage::Passive | Stage::Fault(_) => {}
            }
        }
        let patience = handover_patience(self.settings.timing.dead_after);
        self.retreat = Some(Retreat { command, deadline: now + patience, reason, force });
    }

    /// Ends a retreat that is complete, or out of time.
    pub(super) fn retreat_timers(&mut self, now: Time, out: &mut Effects) {
        let Some(retreat) = self.retreat else { return };
        for index in 0..self.groups.len() {
            let Stage::Active(tenure) = self.groups[index].stage else { continue };
            if let Some(peer) =
                self.successor(index).filter(|_| tenure.giving.is_none() && now < tenure.until)
            {
                self.give(now, index, peer, retreat.reason, None, out);
            }
        }
        let held = self.groups.iter().any(|group| matches!(group.stage, Stage::Active(_)));
        let awaited = self.groups.iter().any(|group| group.released_to.is_some());
        if !held && !awaited {
            self.retreat = None;
            out.list.push(Effect::Reply(retreat.command, Ok(())));
            return;
        }
        if now < retreat.deadline {
            return;
        }
        self.retreat = None;
        self.news = true;
        let mut outcome = Ok(());
        for index in 0..self.groups.len() {
            self.groups[index].released_to = None;
            let Stage::Active(tenure) = self.groups[index].stage else { continue };
            if retreat.force {
                self.leave(now, index, Stage::Passive, cause_of(retreat.reason), out);
            } else {
                self.drained = false;
                outcome = Err(Refusal::PeerNotReady);
                if let Some(giving) = tenure.giving {
                    self.cancel_giving(now, index, giving.to, out);
                }
            }
        }
        out.list.push(Effect::Reply(retreat.command, outcome));
    }

    /// Answers commands that have run out of time.
    pub(super) fn command_timers(&mut self, now: Time, index: usize, out: &mut Effects) {
        let group = &mut self.groups[index];
        if let Some(wish) = group.wish.filter(|wish| now >= wish.deadline) {
            group.wish = None;
            let refusal = match (group.binding_promise(now), group.probe) {
                (Some(promise), _) if promise.holds => Refusal::HolderKept,
                (_, Probe::Answered(..)) => Refusal::Answered,
                (_, _) => Refusal::NoVote,
            };
            if let Some(command) = wish.command {
                out.list.push(Effect::Reply(command, Err(refusal)));
            }
            self.news = true;
        }
        let group = &mut self.groups[index];
        if let Some(awaited) = group.awaited.filter(|awaited| now >= awaited.deadline) {
            group.awaited = None;
            group.released_to = None;
            out.list.push(Effect::Reply(awaited.command, Err(Refusal::PeerNotReady)));
        }
    }

    /// A peer serves a group: what waited for that is done.
    pub(super) fn other_serves(&mut self, now: Time, index: usize, peer: usize, out: &mut Effects) {
        let group = &mut self.groups[index];
        if group.released_to == Some(peer) {
            group.released_to = None;
        }
        if let Some(awaited) = group.awaited.take() {
            out.list.push(Effect::Reply(awaited.command, Ok(())));
        }
        self.retreat_timers(now, out);
    }

    fn withdraw_wishes(&mut self, out: &mut Effects) {
        for group in &mut self.groups {
            if let Some(command) = group.wish.take().and_then(|wish| wish.command) {
                out.list.push(Effect::Reply(command, Err(Refusal::Superseded)));
            }
        }
    }
}

/// How long a promote may take: a start-up or a dead time may have to pass first. No longer than clients wait.
fn command_patience(dead_after: Duration) -> Duration {
    (dead_after * 20).clamp(Duration::from_secs(5), Duration::from_secs(12))
}
