//! When this node may take a group: the vacancy and its probe, standing for votes, and readiness for a hand-over.

use std::net::IpAddr;
use std::time::Duration;

use crate::identity::{GroupIndex, Mac};
use crate::interface::{Cause, Effect, Effects, EventKind, Role, ServiceHealth, Side, Timeline};
use crate::settings::Failback;
use crate::time::Time;
use crate::wire::{Reason, Stand};

use super::group::{Address, Candidacy, Fault, Probe, Stage, Tenure, Wish};
use super::quorum::Basis;
use super::tenure::{cause_of, handover_patience};
use super::{Core, event};

/// How long a VIP that could not be configured is left alone.
const ADDRESS_RETRY: Duration = Duration::from_secs(5);
/// Questions without an answer that outweigh one answer.
const PROBES_AFTER_AN_ANSWER: u32 = 3;

impl Core {
    pub(super) fn candidacy_timers(&mut self, now: Time, index: usize, out: &mut Effects) {
        let fit = self.fit(index);
        let listening = self.listening(now);
        let group = &mut self.groups[index];
        group.fit_since = if fit { group.fit_since.or(Some(now)) } else { None };
        if !fit && matches!(group.probe, Probe::Asked(..)) {
            // By the time it may stand again, nobody's silence will mean anything any more.
            group.probe = Probe::Unasked;
        }
        let promised = group.binding_promise(now).is_some();
        match self.groups[index].stage {
            Stage::Init if !listening => {
                self.groups[index].stage = Stage::Passive;
                self.show_role(now, index, Role::Passive, Cause::Startup, out);
                self.news = true;
                self.consider(now, index, out);
            }
            Stage::Passive => self.consider(now, index, out),
            Stage::Ready(candidacy) if !promised => {
                // The holder that had offered it is gone, or let go without our hearing of it.
                self.end_grace(now, index, out);
                self.groups[index].stage = Stage::Standing(candidacy);
                self.news = true;
            }
            Stage::Standing(candidacy) | Stage::Ready(candidacy)
                if self.address_is_late(now, index, candidacy) =>
            {
                // Somebody else may be able to serve, and gets no vote while this node asks for it.
                let fault = Fault::Address { retry: now + ADDRESS_RETRY };
                self.leave(now, index, Stage::Fault(fault), Cause::Address, out);
            }
            Stage::Standing(candidacy) if !(fit || candidacy.forced && self.able(index)) => {
                self.leave(now, index, Stage::Passive, Cause::Election, out)
            }
            Stage::Fault(Fault::Address { retry }) if now >= retry => {
                self.leave(now, index, Stage::Passive, Cause::Address, out);
            }
            Stage::Init | Stage::Standing(_) | Stage::Ready(_) | Stage::Active(_) | Stage::Fault(_) => {}
        }
    }

    /// Whether the address that a candidate has asked for has not come in a time in which it should have.
    fn address_is_late(&self, now: Time, index: usize, candidacy: Candidacy) -> bool {
        let since = self.groups[index].address_asked;
        let patience = handover_patience(self.settings.timing.dead_after);
        candidacy.address == Address::Pending && now >= since + patience
    }

    /// Whether this node could serve the group now, and hope for the votes it takes, or for what stands for them.
    pub(super) fn fit(&self, index: usize) -> bool {
        self.able(index) && self.hears_majority() && !self.is_cut_off(index)
    }

    /// Whether it could serve the group, had it the votes. Not while it is about to be replaced.
    pub(super) fn able(&self, index: usize) -> bool {
        self.could_serve(index) && !self.asks_for_long_promises()
    }

    /// The same, but for that.
    pub(super) fn could_serve(&self, index: usize) -> bool {
        let group = &self.groups[index];
        let cut_off = self.service.health() == ServiceHealth::Cut
            && self.peers.iter().any(|peer| peer.alive && peer.service == ServiceHealth::Answered);
        self.own_rank(index) != usize::MAX
            && self.link_is_up()
            && !self.drained
            && !self.stopping
            && !group.abstains
            && !cut_off
            && !self.is_full(index)
            && self.epochs.available()
    }

    /// Whether this node has, or is about to take, as many other groups as it may.
    pub(super) fn is_full(&self, index: usize) -> bool {
        let Some(most) = self.settings.max_groups else { return false };
        let others = (0..self.groups.len()).filter(|&other| other != index && self.takes(other));
        others.count() >= most
    }

    /// Whether this node holds the group or is about to take it.
    fn takes(&self, index: usize) -> bool {
        match self.groups[index].stage {
            Stage::Standing(_) | Stage::Ready(_) | Stage::Active(_) => true,
            Stage::Init | Stage::Passive | Stage::Fault(_) => false,
        }
    }

    /// The same of a peer, as it says itself.
    fn peer_takes(&self, index: usize, peer: usize) -> bool {
        let claim = self.peers[peer].claims[index];
        claim.is_some_and(|claim| match claim.stand {
            Stand::Idle | Stand::Unwilling | Stand::Wants(_) => false,
            Stand::Requests | Stand::Suspended | Stand::Ready | Stand::Holds { .. } => true,
        })
    }

    /// Whether a peer is before this node in the line of those that may take the group: who has one that should be apart
    /// from it comes after all others, and else the rank decides.
    fn is_before(&self, index: usize, peer: usize) -> bool {
        let apart = &self.settings.groups[index].apart;
        let own = apart.iter().any(|&other| self.takes(other));
        if own == self.peer_is_apart(index, peer) { own } else { self.outranks(index, peer) }
    }

    /// Whether a peer has no group, and is about to take none, from which this one should be apart.
    pub(super) fn peer_is_apart(&self, index: usize, peer: usize) -> bool {
        !self.settings.groups[index].apart.iter().any(|&other| self.peer_takes(other, peer))
    }

    /// Passive: is it this node's turn?
    fn consider(&mut self, now: Time, index: usize, out: &mut Effects) {
        if !self.fit(index) {
            return;
        }
        self.wish_for_failback(now, index);
        if now < self.vacancy_not_before(index) {
            return;
        }
        let ready_at = self.vacant_at(index);
        if !self.needs_probe(index) {
            if now >= ready_at {
                // Should the peers fall silent now, the VIP is asked for after all; if none has a vote, nobody can hold it.
                let nobody_else_votes = self.partners().next().is_none();
                self.stand(now, index, nobody_else_votes, out);
            }
            return;
        }
        let lead = self.probe_lead();
        let probe = self.groups[index].probe;
        match probe {
            Probe::Unasked if now + lead >= ready_at => self.probe_vips(now, index, 0, out),
            Probe::Asked(_, more) if now >= ready_at && probe.unanswered_for(now, lead * 2 / 3) => {
                match more.checked_sub(1) {
                    Some(more) => self.probe_vips(now, index, more, out),
                    None => self.stand(now, index, true, out),
                }
            }
            Probe::Answered(at, _) if now >= at + self.probe_pause() => {
                self.probe_vips(now, index, PROBES_AFTER_AN_ANSWER - 1, out);
            }
            Probe::Unasked | Probe::Asked(..) | Probe::Answered(..) => {}
        }
    }

    /// When [`Self::consider`] has something to do.
    pub(super) fn vacancy_deadline(&self, index: usize) -> Time {
        if !self.fit(index) {
            return Time::NEVER;
        }
        let ready_at = self.vacant_at(index);
        if !self.needs_probe(index) {
            return ready_at;
        }
        let lead = self.probe_lead();
        match self.groups[index].probe {
            Probe::Unasked => ready_at - lead,
            Probe::Asked(at, _) => ready_at.max(at + lead * 2 / 3),
            Probe::Answered(at, _) => at + self.probe_pause(),
        }
    }

    /// No later than [`Self::vacancy_deadline`], and quickly found: without the place in the order of candidates.
    pub(super) fn vacancy_not_before(&self, index: usize) -> Time {
        let group = &self.groups[index];
        let free = group.promise.map_or(group.vacant_since, |promise| promise.until);
        match group.probe {
            Probe::Unasked | Probe::Asked(..) => free.max(group.bound_until) - self.probe_lead(),
            Probe::Answered(..) => Time::ZERO,
        }
    }

    /// When the group becomes free as far as this node knows, its place in the order of candidates included.
    fn vacant_at(&self, index: usize) -> Time {
        let group = &self.groups[index];
        let all_heard = self.peers.iter().all(|peer| peer.alive);
        let earliest = if all_heard || self.by_majority() { self.voting_from() } else { self.alone_from() };
        let earliest = earliest.max(group.bound_until);
        match group.promise {
            Some(promise) => promise.until.max(earliest) + self.stagger(index, Some(promise.peer)),
            None => group.vacant_since.max(earliest) + self.stagger(index, None),
        }
    }

    /// How long this node lets those that are before it in the line go first, but for the one whose silence it waits for: D for each that
    /// is heard and able.
    fn stagger(&self, index: usize, silent: Option<usize>) -> Duration {
        let wish = self.groups[index].wish;
        if wish.is_some_and(|wish| wish.reason == Reason::Promote) {
            return Duration::ZERO;
        }
        let better = (0..self.peers.len()).filter(|&peer| {
            let claim = self.peers[peer].claims[index];
            let able = claim.is_some_and(|claim| claim.stand != Stand::Unwilling);
            let state = &self.peers[peer];
            let heard = if self.needs_majority() { state.is_mutual() } else { state.alive };
            // One that needs other voters than this node's may wait for them for ever.
            let heard = heard && self.membership.accepts(&state.membership);
            silent != Some(peer) && heard && able && self.is_before(index, peer)
        });
        let better = u32::try_from(better.count()).unwrap_or(u32::MAX);
        self.settings.timing.dead_after.saturating_mul(better)
    }

    /// Whether the VIP is to be asked for before it is taken: always, but where the holder gave it up and nobody can hold
    /// it unnoticed, since all peers are heard or a majority decides.
    fn needs_probe(&self, index: usize) -> bool {
        let group = &self.groups[index];
        let all_heard =
            self.by_majority() || !self.peers.is_empty() && self.peers.iter().all(|peer| peer.alive);
        group.promise.is_some() || !group.was_held || !all_heard
    }

    /// How long before the end of the wait the probe is sent: late enough that the lease of a holder that died has run
    /// out, early enough for an answer.
    fn probe_lead(&self) -> Duration {
        let timing = &self.settings.timing;
        (timing.dead_after.saturating_sub(timing.lease) * 3 / 4).min(Duration::from_millis(200))
    }

    fn probe_pause(&self) -> Duration {
        self.settings.timing.heartbeat.max(self.probe_lead())
    }

    /// Asks for the VIPs, and means to ask so many times more.
    fn probe_vips(&mut self, now: Time, index: usize, more: u32, out: &mut Effects) {
        for &address in &self.settings.groups[index].vips {
            out.list.push(Effect::Probe { address });
        }
        let group = &mut self.groups[index];
        if group.probe == Probe::Unasked {
            group.timeline = Timeline { probe: Some(now), ..Timeline::default() };
        }
        group.probe = Probe::Asked(now, more);
    }

    /// Asks for votes. `probed`: silence of all peers is enough.
    pub(super) fn stand(&mut self, now: Time, index: usize, probed: bool, out: &mut Effects) {
        let Some(epoch) = self.epochs.take() else { return };
        let group = &mut self.groups[index];
        let cause = match (group.wish, group.promise) {
            (Some(wish), _) => cause_of(wish.reason),
            (None, Some(promise)) if promise.holds => Cause::HolderSilent,
            (None, _) => Cause::Election,
        };
        let by_hand = group.wish.is_some_and(|wish| wish.reason == Reason::Promote);
        let last_heard = group.promise.and_then(|promise| self.peers[promise.peer].last_heard);
        let probe = if group.probe == Probe::Unasked { None } else { group.timeline.probe };
        group.timeline = Timeline { last_heard, probe, declared: Some(now), ..Timeline::default() };
        group.promise = None;
        group.pending = None;
        group.probe = Probe::Unasked;
        group.acknowledged.fill(None);
        group.observe(epoch);
        let address = Address::Absent;
        let candidacy = Candidacy { epoch, cause, address, by_hand, probed, forced: false };
        group.stage = Stage::Standing(candidacy);
        self.news = true;
        self.show_role(now, index, Role::Passive, cause, out);
    }

    /// An offer from the holder came, or is no longer made.
    pub(super) fn follow_offer(&mut self, now: Time, index: usize, offer: Option<Reason>, out: &mut Effects) {
        match (self.groups[index].stage, offer) {
            (Stage::Passive, Some(reason)) if self.fit(index) => {
                let Some(epoch) = self.epochs.take() else { return };
                let by_hand = matches!(reason, Reason::Promote | Reason::Demote);
                let group = &mut self.groups[index];
                group.acknowledged.fill(None);
                group.observe(epoch);
                group.timeline = Timeline { declared: Some(now), ..Timeline::default() };
                let cause = cause_of(reason);
                let address = Address::Absent;
                let candidacy = Candidacy { epoch, cause, address, by_hand, probed: false, forced: false };
                group.stage = Stage::Ready(candidacy);
                self.ask_for_address(now, index, out);
            }
            (Stage::Ready(_), None) => self.leave(now, index, Stage::Passive, Cause::Election, out),
            (Stage::Init | Stage::Passive | Stage::Standing(_) | Stage::Ready(_) | Stage::Active(_), _)
            | (Stage::Fault(_), _) => {}
        }
    }

    /// Goes as far as votes and the address allow.
    pub(super) fn advance_candidacy(&mut self, now: Time, index: usize, out: &mut Effects) {
        let (candidacy, ready) = match self.groups[index].stage {
            Stage::Standing(candidacy) => (candidacy, false),
            Stage::Ready(candidacy) => (candidacy, true),
            Stage::Init | Stage::Passive | Stage::Active(_) | Stage::Fault(_) => return,
        };
        let group = &self.groups[index];
        if group.binding_promise(now).is_some() || !candidacy.forced && now < group.bound_until {
            // What this node has promised would not survive its own lease.
            return;
        }
        let basis = self.forced_basis(candidacy.forced, self.candidate_basis(now, index));
        let (sent, alone) = match basis {
            Basis::Acknowledged(sent) => (sent, false),
            Basis::Alone(_) if ready && !self.by_majority() => return,
            Basis::Alone(_) if !candidacy.probed && !self.by_majority() => {
                // The peers fell silent while this node was standing: the VIP is asked for before it is taken.
                self.leave(now, index, Stage::Passive, Cause::Election, out);
                return;
            }
            Basis::Alone(sent) => (sent, true),
            Basis::Nothing => return,
        };
        match candidacy.address {
            Address::Absent => self.ask_for_address(now, index, out),
            Address::Pending => {}
            Address::Ready => {
                let until = sent + self.lease;
                if until > now {
                    let Candidacy { epoch, forced, .. } = candidacy;
                    let forced = forced && alone;
                    let tenure = Tenure { epoch, until, alone, forced, lapse: None, giving: None };
                    self.activate(now, index, candidacy, tenure, out);
                }
            }
        }
    }

    fn activate(&mut self, now: Time, index: usize, candidacy: Candidacy, tenure: Tenure, out: &mut Effects) {
        let Tenure { epoch, until, .. } = tenure;
        let group = &mut self.groups[index];
        group.stage = Stage::Active(tenure);
        group.by_hand = candidacy.by_hand;
        group.was_held = true;
        group.promise = None;
        group.abstains = false;
        group.announcing = None;
        group.timeline.lease = Some(now);
        let wish = group.wish.take();
        self.take_connections(now, index, out);
        self.take_spread(now, index, epoch, out);
        out.list.push(Effect::Lease { group: GroupIndex(index), epoch, until });
        self.announce(now, index, out);
        self.show_role(now, index, Role::Active, candidacy.cause, out);
        if let Some(command) = wish.and_then(|wish| wish.command) {
            out.list.push(Effect::Reply(command, Ok(())));
        }
        self.tell_soon(now);
    }

    /// For what comes once for each of many groups or peers: the peers hear at once of a group that was taken, or for which this
    /// node is ready, and of a peer that is heard; of more of that, one after the other, only so often. Votes do not depend on
    /// it, and each heartbeat is one to every peer on every path.
    pub(super) fn tell_soon(&mut self, now: Time) {
        let next = self.told_soon + self.settings.timing.heartbeat / 8;
        if now >= next {
            self.told_soon = now;
            self.news = true;
        } else {
            self.told_together_at = self.told_together_at.min(next);
        }
    }

    pub(super) fn ask_for_address(&mut self, now: Time, index: usize, out: &mut Effects) {
        if self.groups[index].side() == Some(Side::Old) {
            // The VIPs may be there still; they stay now.
            self.end_grace(now, index, out);
        }
        let group = &mut self.groups[index];
        group.address_asked = now;
        group.addresses_asked += 1;
        if let Stage::Standing(candidacy) | Stage::Ready(candidacy) = &mut group.stage {
            candidacy.address = Address::Pending;
        }
        out.list.push(Effect::AddAddress { group: GroupIndex(index) });
    }

    pub(super) fn address_ready(&mut self, now: Time, index: usize, out: &mut Effects) {
        let group = &mut self.groups[index];
        group.addresses_asked = group.addresses_asked.saturating_sub(1);
        // An answer to a question of an earlier candidacy: that address was taken off again since.
        if group.addresses_asked > 0 {
            return;
        }
        if let Stage::Standing(candidacy) | Stage::Ready(candidacy) = &mut group.stage
            && candidacy.address == Address::Pending
        {
            candidacy.address = Address::Ready;
            group.timeline.address = Some(now);
            if matches!(group.stage, Stage::Ready(_)) {
                self.tell_soon(now);
                self.receive_connections(now, index, out);
            }
            self.advance_candidacy(now, index, out);
        }
    }

    pub(super) fn address_failed(&mut self, now: Time, index: usize, out: &mut Effects) {
        let group = &mut self.groups[index];
        group.addresses_asked = group.addresses_asked.saturating_sub(1);
        match group.stage {
            Stage::Standing(_) | Stage::Ready(_) | Stage::Active(_) => {
                let fault = Fault::Address { retry: now + ADDRESS_RETRY };
                self.leave(now, index, Stage::Fault(fault), Cause::Address, out);
            }
            Stage::Init | Stage::Passive => {
                // Told without having asked: a VIP is configured by somebody else.
                let fault = Fault::Address { retry: now + ADDRESS_RETRY };
                self.leave(now, index, Stage::Fault(fault), Cause::Address, out);
            }
            Stage::Fault(Fault::Address { .. }) => {
                group.stage = Stage::Fault(Fault::Address { retry: now + ADDRESS_RETRY });
            }
            Stage::Fault(Fault::Link) => {}
        }
    }

    /// Somebody on the service link has an address.
    pub(super) fn probe_answer(&mut self, now: Time, address: IpAddr, mac: Mac, out: &mut Effects) {
        if self.service_mac() == Some(mac) {
            return;
        }
        self.gateway_answered(now, address, out);
        if self.service.answered(address) {
            self.tell_service_health(now, out);
        }
        for index in 0..self.groups.len() {
            if self.settings.groups[index].vips.contains(&address) {
                self.vip_answered(now, index, (address, mac), out);
            }
        }
    }

    fn vip_answered(&mut self, now: Time, index: usize, (address, mac): (IpAddr, Mac), out: &mut Effects) {
        let owner = match self.settings.groups[index].virtual_macs.contains(&mac) {
            // Any other member may be the one that wears it; of several the best, to whom a holder would yield first.
            true => (0..self.peers.len()).min_by_key(|&peer| self.peer_rank(index, peer)),
            false => self.peers.iter().position(|peer| peer.mac == Some(mac)),
        };
        // A member that was never heard may well be the one that answers; a majority does not depend on that.
        let unheard = |peer: &usize| {
            let member = self.peer_rank(index, *peer) != usize::MAX;
            !self.by_majority() && member && self.peers[*peer].mac.is_none()
        };
        let owner = owner.or_else(|| (0..self.peers.len()).find(unheard));
        match (self.groups[index].stage, owner) {
            (Stage::Passive, Some(_)) if self.groups[index].probe != Probe::Unasked => {
                self.vip_is_held(now, index, mac, out);
            }
            (Stage::Standing(_), Some(_)) if self.peers.iter().all(|peer| !peer.alive) => {
                self.leave(now, index, Stage::Passive, Cause::OtherHolder, out);
                self.vip_is_held(now, index, mac, out);
            }
            // Two holders that do not hear each other's heartbeats but see each other here: the worse-ranked yields,
            // the better-ranked shows itself so that the other can.
            (Stage::Active(tenure), Some(peer)) if tenure.alone => {
                if self.outranks(index, peer) {
                    self.leave(now, index, Stage::Passive, Cause::OtherHolder, out);
                    self.vip_is_held(now, index, mac, out);
                } else {
                    self.defend(now, index, out);
                }
            }
            (Stage::Init | Stage::Passive | Stage::Standing(_), _)
            | (Stage::Ready(_) | Stage::Active(_) | Stage::Fault(_), _) => {}
        }
        if owner.is_none() {
            self.rival(now, index, address, mac, out);
        }
    }

    fn vip_is_held(&mut self, now: Time, index: usize, mac: Mac, out: &mut Effects) {
        let group = &mut self.groups[index];
        group.probe = Probe::Answered(now, mac);
        if !group.answered_said {
            group.answered_said = true;
            event(out, now, EventKind::ProbeAnswered { group: GroupIndex(index), mac });
        }
    }

    fn defend(&mut self, now: Time, index: usize, out: &mut Effects) {
        let pause = self.settings.timing.heartbeat;
        let group = &mut self.groups[index];
        if group.defended.is_none_or(|last| now.since(last) >= pause) && group.holds(now) {
            group.defended = Some(now);
            out.list.push(Effect::Announce { group: GroupIndex(index) });
        }
    }

    fn wish_for_failback(&mut self, now: Time, index: usize) {
        let wait = match self.settings.groups[index].failback {
            Failback::After(wait) | Failback::Idle(wait) => wait,
            Failback::Never => return,
        };
        let group = &self.groups[index];
        let Some(promise) = group.binding_promise(now) else { return };
        let by_hand = self.peers[promise.peer].claims[index].is_some_and(|claim| claim.by_hand);
        let worse = !self.outranks(index, promise.peer);
        let rested = group.fit_since.is_some_and(|since| now.since(since) >= wait);
        if group.wish.is_none() && promise.holds && worse && rested && !by_hand {
            let wish = Wish { reason: Reason::Failback, command: None, deadline: Time::NEVER, force: false };
            self.groups[index].wish = Some(wish);
            self.news = true;
        }
    }
}
