//! How this node keeps a group and how it loses it: leases from acknowledgements, going alone, lapses, hand-over to
//! another, and what happens when two holders meet.

use std::time::Duration;

use crate::identity::{Epoch, GroupIndex};
use crate::interface::{
    Cause, CommandId, Effect, Effects, EventKind, Link, Refusal, Role, ServiceHealth, Side,
};
use crate::settings::Failback;
use crate::time::Time;
use crate::wire::{Reason, Stand};

use super::group::{Address, Awaited, Giving, Lapse, Stage, Tenure};
use super::quorum::Basis;
use super::{Core, event};

/// For how long a group that was seen without connections counts as idle.
const IDLE_FOR: Duration = Duration::from_secs(1);
/// For how long a group that is to return when it is idle is watched at a time.
const WATCHED_FOR: Duration = Duration::from_secs(5);

impl Core {
    pub(super) fn tenure_timers(&mut self, now: Time, index: usize, out: &mut Effects) {
        let Stage::Active(tenure) = self.groups[index].stage else { return };
        if self.groups[index].role == Role::Init {
            // Adopted from a daemon that died: the address may be there already, and asking again does no harm.
            self.ask_for_address(now, index, out);
            let usual = now + self.lease;
            if tenure.alone && tenure.until > usual {
                // It may rest on a silence that is over, and a peer that has just started can consent to the usual term.
                self.groups[index].stage = Stage::Active(Tenure { until: usual, ..tenure });
                out.list.push(Effect::Lease { group: GroupIndex(index), epoch: tenure.epoch, until: usual });
            }
            self.show_role(now, index, Role::Active, Cause::Adopted, out);
            self.news = true;
        }
        match tenure.lapse {
            None if now >= tenure.until => self.lapse(now, index, false, out),
            Some(lapse) if now >= lapse.give_up => {
                // Said to all by the heartbeat that follows, which frees their votes.
                self.leave(now, index, Stage::Passive, Cause::Lapse, out);
            }
            None | Some(_) => {}
        }
        if self.groups[index].announcing.is_some_and(|announcing| now >= announcing.next) {
            if self.groups[index].holds(now) {
                self.announce(now, index, out);
            } else {
                self.groups[index].announcing = None;
            }
        }
        if let Some(giving) = self.groups[index].tenure().and_then(|tenure| tenure.giving)
            && now >= giving.deadline
        {
            self.cancel_giving(now, index, giving.to, out);
        }
    }

    /// Writes the lease that acknowledgements, or the lack of anyone to give them, allow.
    pub(super) fn renew(&mut self, now: Time, index: usize, out: &mut Effects) {
        let Stage::Active(tenure) = self.groups[index].stage else { return };
        if self.awaits_its_replacement() {
            return;
        }
        let valid = now < tenure.until;
        let (sent, alone) = match self.forced_basis(tenure.forced, self.holder_basis(now, index)) {
            Basis::Acknowledged(sent) => (sent, false),
            // A lease that has run out is never renewed by its own timer.
            Basis::Alone(sent) if valid => (sent, true),
            Basis::Alone(_) | Basis::Nothing => return,
        };
        let until = sent + self.lease_term(sent);
        // What the last run's heartbeats were acknowledged with was promised for what that run had said.
        let longer = until > tenure.until && until > now && sent >= self.started;
        if !longer && !self.shortens(now, &tenure, sent) {
            return;
        }
        let group = &mut self.groups[index];
        let forced = tenure.forced && alone;
        group.stage = Stage::Active(Tenure { until, alone, forced, lapse: None, ..tenure });
        out.list.push(Effect::Lease { group: GroupIndex(index), epoch: tenure.epoch, until });
        if let Some(lapse) = tenure.lapse {
            self.publish_anew(now, index);
            event(out, now, EventKind::Regained { group: GroupIndex(index), dark: now.since(lapse.since) });
            self.news = true;
            if lapse.dual {
                // The other has yielded; clients may have learnt its address in the meantime.
                self.groups[index].announcing = None;
                self.announce(now, index, out);
            }
        }
    }

    /// Whether a lease that was made long for a restart becomes as short as any other: as soon as this one would do as well.
    /// The heartbeats that follow say so, and the voters' promises end earlier.
    fn shortens(&self, now: Time, tenure: &Tenure, sent: Time) -> bool {
        let extending = self.asks_for_long_promises();
        let long = tenure.until > now + self.lease;
        // From then on it must be renewed again and again, so that it is not done in the first moments of a run.
        let steady = now >= self.started + self.settings.timing.dead_after;
        let fresh = sent >= self.started && sent + self.lease > now + self.lease / 2;
        !extending && long && fresh && steady
    }

    /// U: the silence after which a holder no longer waits for a peer. The last thing heard of a peer that died may have
    /// come H and a round trip after the heartbeat that it last voted for, and that vote's lease must still be valid
    /// then: half an interval is left for timers that are late and round trips longer than usual.
    pub(super) fn going_alone_after(&self) -> Duration {
        let beat = self.beat();
        let used_up = beat * 3 / 2 + self.longest_round_trip();
        self.lease.saturating_sub(used_up).max(beat * 5 / 4)
    }

    /// Whether no peer's acknowledgement is needed, since there is no quorum and none is heard.
    pub(super) fn alone(&self, now: Time) -> bool {
        let silence = self.going_alone_after();
        !self.by_majority() && self.partners().all(|peer| peer.silence(now) >= silence)
    }

    /// When a holder whose peers have fallen silent must send and renew at the latest, or never if that is done.
    pub(super) fn going_alone_at(&self) -> Time {
        let holds = self
            .groups
            .iter()
            .any(|group| matches!(group.stage, Stage::Active(tenure) if tenure.lapse.is_none()));
        let silent_since = self.partners().map(super::PeerState::silent_since).max();
        match silent_since {
            Some(since) if holds && !self.by_majority() => {
                let at = since + self.going_alone_after();
                if self.last_sent < at { at } else { Time::NEVER }
            }
            Some(_) | None => Time::NEVER,
        }
    }

    /// A peer is heard: what this node granted itself while alone ends where that peer's last vote ends (I1: two holders
    /// end with the first heartbeat). A majority grants nothing alone.
    pub(super) fn end_alone(&mut self, now: Time, out: &mut Effects) {
        if self.by_majority() || self.alone(now) {
            return;
        }
        for index in 0..self.groups.len() {
            let Stage::Active(tenure) = self.groups[index].stage else { continue };
            if tenure.lapse.is_some() || !tenure.alone {
                continue;
            }
            let until = match self.holder_basis(now, index) {
                Basis::Acknowledged(sent) | Basis::Alone(sent) => sent + self.lease,
                Basis::Nothing => Time::ZERO,
            };
            if until <= now {
                self.lapse(now, index, false, out);
            } else {
                self.groups[index].stage =
                    Stage::Active(Tenure { until: until.min(tenure.until), alone: false, ..tenure });
                if until < tenure.until {
                    out.list.push(Effect::Lease { group: GroupIndex(index), epoch: tenure.epoch, until });
                }
            }
        }
    }

    /// Goes dark, keeps the tenure open for a moment and asks for it again.
    fn lapse(&mut self, now: Time, index: usize, dual: bool, out: &mut Effects) {
        let timing = &self.settings.timing;
        let patience =
            if dual { timing.dead_after } else { timing.heartbeat * 2 + self.longest_round_trip() * 2 };
        // Whoever does not hear its voters has nobody to regain it from.
        let give_up = !self.hears_majority_within(timing.heartbeat * 3, now);
        let group = &mut self.groups[index];
        let Some(tenure) = group.tenure() else { return };
        if give_up {
            group.lapses += 1;
            event(out, now, EventKind::Lapse { group: GroupIndex(index) });
            // Said to all by the heartbeat that follows, which frees their votes.
            self.leave(now, index, Stage::Passive, Cause::Lapse, out);
            return;
        }
        tenure.until = Time::ZERO;
        tenure.alone = false;
        tenure.lapse = Some(Lapse { since: now, give_up: now + patience, dual });
        group.lapses += 1;
        // What was acknowledged before cannot renew it.
        group.acknowledged.fill(None);
        out.list.push(Effect::Dark { group: GroupIndex(index) });
        if !dual {
            event(out, now, EventKind::Lapse { group: GroupIndex(index) });
        }
        self.news = true;
    }

    fn longest_round_trip(&self) -> Duration {
        self.peers.iter().map(super::PeerState::round_trip).max().unwrap_or_default()
    }

    /// This node, holding or regaining, hears that a peer holds a valid lease. Returns whether it follows the peer now.
    pub(super) fn meet_holder(
        &mut self,
        now: Time,
        index: usize,
        peer: usize,
        other: Epoch,
        out: &mut Effects,
    ) -> bool {
        let Stage::Active(tenure) = self.groups[index].stage else { return true };
        if tenure.forced {
            // Nobody voted for this one.
            self.leave(now, index, Stage::Passive, Cause::OtherHolder, out);
            return true;
        }
        let elected = self.by_majority() && now < tenure.until;
        if elected && self.membership.accepts(&self.peers[peer].membership) {
            // Its lease has run out: a message that was long on its way. Or an operator forced it: it yields.
            return false;
        }
        if other > tenure.epoch {
            self.leave(now, index, Stage::Passive, Cause::OtherHolder, out);
            return true;
        }
        if self.by_majority() {
            // It needs other voters, or this one asks its own again, who would have told it of a newer holder.
            return false;
        }
        if tenure.lapse.is_none_or(|lapse| !lapse.dual) {
            event(out, now, EventKind::DualHolder { group: GroupIndex(index), other });
            // Dark until the other has yielded and says so with its vote: two holders end with the first heartbeat.
            self.cancel_giving(now, index, peer, out);
            self.lapse(now, index, true, out);
        }
        false
    }

    /// A peer went dark in a higher epoch when it met this holder: it has precedence.
    pub(super) fn meet_suspended(&mut self, now: Time, index: usize, other: Epoch, out: &mut Effects) {
        if matches!(self.groups[index].stage, Stage::Active(tenure) if other > tenure.epoch) {
            self.leave(now, index, Stage::Passive, Cause::OtherHolder, out);
        }
    }

    /// Offers the group to a peer.
    pub(super) fn give(
        &mut self,
        now: Time,
        index: usize,
        to: usize,
        reason: Reason,
        command: Option<CommandId>,
        out: &mut Effects,
    ) {
        let deadline = now + handover_patience(self.settings.timing.dead_after);
        let Some(tenure) = self.groups[index].tenure() else { return };
        tenure.giving = Some(Giving { to, reason, deadline, command });
        let to = self.settings.peers[to].id;
        event(out, now, EventKind::Handover { group: GroupIndex(index), to, cause: cause_of(reason) });
        self.news = true;
    }

    /// Takes back an offer to a peer.
    pub(super) fn cancel_giving(&mut self, now: Time, index: usize, peer: usize, out: &mut Effects) {
        let Some(tenure) = self.groups[index].tenure() else { return };
        let Some(giving) = tenure.giving.filter(|giving| giving.to == peer) else { return };
        tenure.giving = None;
        self.news = true;
        if let Some(command) = giving.command {
            out.list.push(Effect::Reply(command, Err(Refusal::PeerNotReady)));
        }
        let to = self.settings.peers[peer].id;
        event(out, now, EventKind::HandoverFailed { group: GroupIndex(index), to });
    }

    /// Whether this node would vote for a peer that asked for the group: to one with other voters, or that does not hear
    /// this node, it could only lose it.
    fn would_follow(&self, peer: usize) -> bool {
        self.may_vote_for(peer) && (!self.needs_majority() || self.peers[peer].is_mutual())
    }

    /// The peer to whom the group was offered is ready: go dark. The vote in the acknowledgement that follows is the
    /// release.
    pub(super) fn release_to(&mut self, now: Time, index: usize, peer: usize, out: &mut Effects) {
        let Some(giving) = self.groups[index].tenure().and_then(|tenure| tenure.giving) else { return };
        // Without a vote to give, going dark would leave nobody serving; the peer says again that it is ready.
        if giving.to != peer || !self.voting(now) || !self.would_follow(peer) {
            return;
        }
        if let Some(tenure) = self.groups[index].tenure() {
            tenure.giving = None;
        }
        self.hand_over_connections(now, index, peer, giving.reason, out);
        self.leave(now, index, Stage::Passive, cause_of(giving.reason), out);
        let deadline = now + handover_patience(self.settings.timing.dead_after);
        let group = &mut self.groups[index];
        group.released_to = Some(peer);
        group.awaited = giving.command.map(|command| Awaited { command, deadline });
    }

    /// A peer that is fit to serve asks for the group.
    pub(super) fn asked_for(
        &mut self,
        now: Time,
        index: usize,
        peer: usize,
        reason: Reason,
        out: &mut Effects,
    ) {
        let group = &self.groups[index];
        let Stage::Active(tenure) = group.stage else { return };
        if self.asks_for_long_promises() {
            return;
        }
        let granted = match reason {
            Reason::Promote | Reason::Undrain => true,
            Reason::Failback => {
                !group.by_hand && self.outranks(index, peer) && self.is_idle_enough(now, index, out)
            }
            Reason::None | Reason::Demote | Reason::Drain | Reason::Resign | Reason::ServiceCut => false,
        };
        if granted && tenure.giving.is_none() && now < tenure.until && self.would_follow(peer) {
            self.give(now, index, peer, reason, None, out);
        }
    }

    /// Whether a group may return as far as its connections go. If that depends on them, they are looked at.
    fn is_idle_enough(&mut self, now: Time, index: usize, out: &mut Effects) -> bool {
        let Failback::Idle(_) = self.settings.groups[index].failback else { return true };
        let group = &mut self.groups[index];
        if group.idle_at.is_some_and(|at| now.since(at) < IDLE_FOR) {
            return true;
        }
        if now >= group.watched_until {
            group.watched_until = now + WATCHED_FOR;
            out.list.push(Effect::WatchConnections { group: GroupIndex(index), until: group.watched_until });
        }
        false
    }

    /// This node's service link is cut while a peer's is not: the group must go there.
    pub(super) fn give_for_service(&mut self, now: Time, index: usize, out: &mut Effects) {
        let Stage::Active(tenure) = self.groups[index].stage else { return };
        if tenure.giving.is_some() || self.asks_for_long_promises() {
            return;
        }
        let reached = |peer: usize| self.peers[peer].service == ServiceHealth::Answered;
        if let Some(peer) = self.successor_among(index, reached) {
            self.give(now, index, peer, Reason::ServiceCut, None, out);
        }
    }

    /// The best-ranked peer that is heard and could take the group; one from whose groups it should be apart comes last.
    pub(super) fn successor(&self, index: usize) -> Option<usize> {
        self.successor_among(index, |_| true)
    }

    fn successor_among(&self, index: usize, among: impl Fn(usize) -> bool) -> Option<usize> {
        let able = |peer: &usize| {
            let state = &self.peers[*peer];
            let willing = state.claims[index]
                .is_some_and(|claim| matches!(claim.stand, Stand::Idle | Stand::Wants(_) | Stand::Ready));
            state.alive && willing && self.peer_rank(index, *peer) != usize::MAX && self.would_follow(*peer)
        };
        let candidates = (0..self.peers.len()).filter(able).filter(|&peer| among(peer));
        candidates.min_by_key(|&peer| (!self.peer_is_apart(index, peer), self.peer_rank(index, peer)))
    }

    /// Leaves whatever this node was in the group. Dark first, if it could have been anything else.
    pub(super) fn leave(&mut self, now: Time, index: usize, stage: Stage, cause: Cause, out: &mut Effects) {
        let group = &mut self.groups[index];
        let (was_active, address) = match group.stage {
            Stage::Active(_) => (true, Address::Ready),
            Stage::Standing(candidacy) | Stage::Ready(candidacy) => (false, candidacy.address),
            Stage::Init | Stage::Passive | Stage::Fault(_) => (false, Address::Absent),
        };
        let giving = group.tenure().and_then(|tenure| tenure.giving);
        let keeps_address = group.serves_connections();
        if group.side() == Some(Side::New) {
            self.end_grace(now, index, out);
        }
        let group = &mut self.groups[index];
        group.stage = stage;
        group.acknowledged.fill(None);
        group.vacant_since = now;
        group.probe = super::Probe::Unasked;
        group.announcing = None;
        group.by_hand = false;
        if was_active {
            out.list.push(Effect::Dark { group: GroupIndex(index) });
        }
        if address != Address::Absent && !keeps_address {
            out.list.push(Effect::RemoveAddress { group: GroupIndex(index) });
        }
        if let Some(command) = giving.and_then(|giving| giving.command) {
            out.list.push(Effect::Reply(command, Err(Refusal::Superseded)));
        }
        let role = match stage {
            Stage::Init => Role::Init,
            Stage::Passive | Stage::Standing(_) | Stage::Ready(_) => Role::Passive,
            Stage::Active(_) => Role::Active,
            Stage::Fault(_) => {
                if let Some(command) = self.groups[index].wish.take().and_then(|wish| wish.command) {
                    out.list.push(Effect::Reply(command, Err(Refusal::Fault)));
                }
                Role::Fault
            }
        };
        self.news = true;
        self.show_role(now, index, role, cause, out);
    }

    /// Whether the service interface can be used.
    pub(super) fn link_is_up(&self) -> bool {
        matches!(self.link, Link::Up { .. })
    }
}

/// How long a hand-over may take before it is called off; configuring an address can take that long on a busy host.
pub(super) fn handover_patience(dead_after: Duration) -> Duration {
    (dead_after * 20).clamp(Duration::from_millis(500), Duration::from_secs(2))
}

/// The cause shown for a hand-over.
pub(super) fn cause_of(reason: Reason) -> Cause {
    match reason {
        Reason::None => Cause::Election,
        Reason::Promote => Cause::Promote,
        Reason::Demote => Cause::Demote,
        Reason::Drain | Reason::Undrain => Cause::Drain,
        Reason::Resign => Cause::Resign,
        Reason::Failback => Cause::Failback,
        Reason::ServiceCut => Cause::ServiceCut,
    }
}
