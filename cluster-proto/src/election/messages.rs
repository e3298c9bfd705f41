//! What a received message means, and what ours say.

use std::time::Duration;

use crate::identity::{Epoch, GroupId, PathIndex};
use crate::interface::{Cause, Effect, Effects, EventKind};
use crate::settings::Settings;
use crate::time::Time;
use crate::wire::{self, Claim, Content, Header, Kind, Message, Reason, Stand, Vote, WireError};

use super::group::{Pending, Promise, Stage};
use super::peer::{Belief, Place};
use super::{Core, event, promise_term};

/// Acknowledgements in a row by which a peer is too far for the lease, before that is told: one that was held up is
/// forgotten by then.
const TOO_FAR: u32 = 64;

impl Core {
    pub(super) fn datagram(&mut self, now: Time, path: PathIndex, bytes: &[u8], out: &mut Effects) {
        let Some(message) = self.admit(now, path, bytes, out) else { return };
        let header = message.header;
        let echoed = header.echo == Some(self.incarnation);
        match self.peers[path.peer].weigh(&header, echoed) {
            Belief::OldRun => self.dropped.old_incarnation += 1,
            Belief::Unproven => {
                self.dropped.unproven += 1;
                if header.kind == Kind::Heartbeat {
                    self.introduce(now, path, &message, out);
                }
            }
            Belief::NewRun => {
                self.peers[path.peer].begin_run(now, header.incarnation);
                self.member_starts_anew(now, path.peer);
                self.entry_starts_anew(path.peer);
                self.tell_soon(now);
                self.believed(now, path, &message, out);
            }
            Belief::Known => self.believed(now, path, &message, out),
        }
    }

    /// Lets in what is authentic and from the path's peer; counts the rest by kind.
    fn admit<'a>(
        &mut self,
        now: Time,
        path: PathIndex,
        bytes: &'a [u8],
        out: &mut Effects,
    ) -> Option<Message<'a>> {
        let message = match Message::parse(bytes) {
            Ok(message) => message,
            Err(WireError::Version) => {
                self.dropped.version += 1;
                self.tell_version(now, path.peer, bytes, out);
                return None;
            }
            Err(WireError::Malformed | WireError::Forged) => {
                self.dropped.malformed += 1;
                return None;
            }
        };
        let header = &message.header;
        let peer = &self.settings.peers[path.peer];
        if header.cluster != self.settings.cluster {
            self.dropped.other_cluster += 1;
        } else if message.authenticate(&self.keys).is_err() {
            self.dropped.forged += 1;
        } else if header.node == self.settings.me {
            self.dropped.own_id += 1;
        } else if header.node != peer.id {
            self.dropped.unknown_node += 1;
        } else if usize::from(header.path) != path.path {
            // Recorded on another path, whose numbers mean nothing here.
            self.dropped.replayed += 1;
        } else {
            return Some(message);
        }
        None
    }

    /// Two that do not understand each other look like two that do not hear each other.
    fn tell_version(&mut self, now: Time, peer: usize, bytes: &[u8], out: &mut Effects) {
        let said = self.peers[peer].version_said;
        if said.is_some_and(|said| now.since(said).as_secs() < 60) {
            return;
        }
        if let Some((version, minimum)) = wire::foreign_version(bytes, &self.keys) {
            self.peers[peer].version_said = Some(now);
            let peer = self.settings.peers[peer].id;
            event(out, now, EventKind::WireVersion { peer, version, minimum });
        }
    }

    /// Tells a sender that has not echoed our run what to echo, what we are, and what we have promised. At most one a
    /// heartbeat interval and path, so that replayed messages cannot make us flood the peer.
    ///
    /// A holder that hears a peer needs its vote. So that the start of one of the two costs no lapse, the first message
    /// that is believed brings it along: for a holder that restarted, the vote that its last run was given; from a node
    /// that restarted, the word of one that could not take the group for D in any case. Nothing the sender says, who is
    /// not believed yet, is acted on.
    fn introduce(&mut self, now: Time, path: PathIndex, message: &Message<'_>, out: &mut Effects) {
        let state = &mut self.peers[path.peer].paths[path.path];
        let pause = self.settings.timing.heartbeat / 2;
        if state.last_introduction.is_some_and(|last| now.since(last) < pause) {
            return;
        }
        state.last_introduction = Some(now);
        let newest = self.peers[path.peer].newest_sent;
        let echo_sent = if newest == 0 { message.header.sent } else { newest };
        let header = Header {
            echo: Some(message.header.incarnation),
            known: message.header.state,
            ..self.header(now, path, Kind::Introduction, echo_sent)
        };
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        scratch.claims.extend((0..self.groups.len()).map(|index| self.own_claim(now, index)));
        self.votes(now, path.peer, newest, false, &mut scratch.votes);
        if newest == 0 {
            let lease = message.header.lease;
            let consents =
                (0..self.groups.len()).filter(|&index| self.consents(now, path.peer, lease, index));
            scratch.votes.extend(
                consents.map(|index| Vote { group: self.settings.groups[index].id, epoch: Vote::CONSENT }),
            );
        }
        let content = Content { claims: &scratch.claims, votes: &scratch.votes, served: &[] };
        self.send_parts(path, &header, content, out);
        self.scratch = scratch;
    }

    /// The word of a node that has just started and could not take the group before a promise would be over.
    /// With more nodes the word may be a third one's.
    fn consents(&self, now: Time, peer: usize, lease: Duration, index: usize) -> bool {
        let takes_from = match self.groups[index].stage {
            Stage::Init => self.alone_from().max(self.started + self.settings.timing.startup_wait),
            Stage::Passive | Stage::Fault(_) => self.alone_from(),
            Stage::Standing(_) | Stage::Ready(_) | Stage::Active(_) => return false,
        };
        let member = self.peer_rank(index, peer) != usize::MAX;
        let term = promise_term(self.settings.timing.dead_after, lease);
        self.is_pair() && member && now + term <= takes_from
    }

    fn believed(&mut self, now: Time, path: PathIndex, message: &Message<'_>, out: &mut Effects) {
        let header = message.header;
        if !self.peers[path.peer].accept(path.path, header.kind, header.sequence) {
            self.dropped.replayed += 1;
            return;
        }
        let dead_after = self.settings.timing.dead_after;
        let peer = &mut self.peers[path.peer];
        let was = peer.mac;
        let low = peer.hear(now, path.path, &header, dead_after);
        if let Some(is) = peer.mac.filter(|_| peer.mac != was) {
            out.list.push(Effect::Kin { was, is });
            self.tell_tables(out);
        }
        self.notice_peer(now, path, &header, out);
        if let Some(gap) = low {
            let peer = self.settings.peers[path.peer].id;
            event(out, now, EventKind::MarginLow { peer, gap });
        }
        match header.kind {
            Kind::Spread => self.spread_message(now, path.peer, message.body(), out),
            Kind::Acknowledgement => {
                self.measure(now, path, header.echo_sent, out);
                self.count_votes(now, path.peer, message);
            }
            Kind::Introduction => {
                self.measure(now, path, header.echo_sent, out);
                self.count_votes(now, path.peer, message);
                if self.peers[path.peer].is_introduction(header.sent) {
                    self.claims(now, path, message, out);
                }
            }
            Kind::Heartbeat => {
                self.count_votes(now, path.peer, message);
                match self.peers[path.peer].place(&header) {
                    Place::News => {
                        self.claims(now, path, message, out);
                        if self.peers[path.peer].whole {
                            self.repeat_claims(now, path, &header, out);
                        }
                    }
                    Place::Copy | Place::Overtaken => {}
                }
            }
        }
        // After the claims, which may end a tenure for a better reason.
        self.end_alone(now, out);
        if header.kind == Kind::Heartbeat {
            self.acknowledge(now, path, message, out);
        }
    }

    /// What a message names.
    fn claims(&mut self, now: Time, path: PathIndex, message: &Message<'_>, out: &mut Effects) {
        for claim in message.claims() {
            let Some(index) = self.group_index(claim.group) else { continue };
            self.peers[path.peer].name(index, claim);
            self.claim(now, path, index, claim, message.header.sent, out);
        }
        self.service.served(message.served());
    }

    /// All of a heartbeat was heard: what it did not name is as it was, or is no more.
    fn repeat_claims(&mut self, now: Time, path: PathIndex, header: &Header, out: &mut Effects) {
        for index in 0..self.groups.len() {
            let peer = &mut self.peers[path.peer];
            let Some(claim) = peer.claims[index].filter(|_| !peer.names(index)) else { continue };
            if header.base == 0 {
                // It knows of no such group any more.
                peer.claims[index] = None;
                self.peer_does_not_hold(now, index, path.peer, Stand::Unwilling, out);
            } else if claim.stand.concerns_votes() {
                self.claim(now, path, index, claim, header.sent, out);
            }
        }
    }

    fn notice_peer(&mut self, now: Time, path: PathIndex, header: &Header, out: &mut Effects) {
        let id = self.settings.peers[path.peer].id;
        if !self.peers[path.peer].alive {
            self.peers[path.peer].alive = true;
            self.member_starts_anew(now, path.peer);
            self.tell_soon(now);
            event(out, now, EventKind::PeerUp(id));
        }
        let peer = &mut self.peers[path.peer];
        if !peer.paths[path.path].up {
            peer.paths[path.path].up = true;
            event(out, now, EventKind::PathUp(path));
        }
        if peer.settings != Some(header.settings) {
            let differed = peer.settings.is_some_and(|before| before != self.settings_hash);
            peer.settings = Some(header.settings);
            if header.settings != self.settings_hash {
                event(out, now, EventKind::SettingsDiffer(id));
            } else if differed {
                event(out, now, EventKind::SettingsAgree(id));
            }
        }
    }

    fn measure(&mut self, now: Time, path: PathIndex, echo_sent: u64, out: &mut Effects) {
        let sent = Time::from_nanos(echo_sent);
        if echo_sent == 0 || sent > now || sent < self.started {
            return;
        }
        let peer = &mut self.peers[path.peer];
        peer.answered = peer.answered.max(sent);
        peer.paths[path.path].measure(now.since(sent));
        let round_trip = peer.round_trip();
        let timing = &self.settings.timing;
        let too_far = timing.lease < timing.heartbeat * 3 + round_trip;
        peer.too_far = if too_far { peer.too_far.saturating_add(1) } else { 0 };
        // What waited for a link to come back was long on its way, and says nothing of the distance.
        let lasting = peer.too_far >= TOO_FAR;
        let said_lately = peer.too_far_said.is_some_and(|said| now.since(said).as_secs() < 60);
        if lasting && !said_lately {
            peer.too_far_said = Some(now);
            let id = self.settings.peers[path.peer].id;
            event(out, now, EventKind::LeaseTooShort { peer: id, round_trip });
        }
    }

    fn count_votes(&mut self, now: Time, peer: usize, message: &Message<'_>) {
        let sent = Time::from_nanos(message.header.echo_sent);
        if sent == Time::ZERO || sent > now || sent < self.membership.since {
            return;
        }
        for vote in message.votes() {
            let Some(index) = self.group_index(vote.group) else { continue };
            let meant = if vote.epoch == Vote::CONSENT {
                self.held_in(index, message.header.known)
            } else {
                self.groups[index].own_epoch() == Some(vote.epoch)
            };
            if meant {
                self.count_vote(index, peer, sent);
            }
        }
        if message.header.held {
            for index in 0..self.groups.len() {
                if self.held_in(index, message.header.known) {
                    self.count_vote(index, peer, sent);
                }
            }
        }
    }

    /// Whether this node's claims up to this state said, as they say now, that it holds the group.
    fn held_in(&self, index: usize, state: u64) -> bool {
        let group = &self.groups[index];
        let epoch = group.own_epoch();
        let held = |claim: Claim| matches!(claim.stand, Stand::Holds { .. }) && Some(claim.epoch) == epoch;
        group.told.is_some_and(held) && group.told_in <= state
    }

    fn count_vote(&mut self, index: usize, peer: usize, sent: Time) {
        let group = &mut self.groups[index];
        if group.promise.is_some_and(|promise| promise.peer == peer) {
            // The holder has gone dark and votes for this node: what was promised to it is over.
            group.promise = None;
        }
        let acknowledged = &mut group.acknowledged[peer];
        *acknowledged = Some(acknowledged.unwrap_or(Time::ZERO).max(sent));
    }

    /// What a peer says of itself for one group.
    fn claim(
        &mut self,
        now: Time,
        path: PathIndex,
        index: usize,
        claim: Claim,
        sent: u64,
        out: &mut Effects,
    ) {
        let peer = path.peer;
        let by_peer = claim.epoch.node == self.settings.peers[peer].id;
        self.epochs.observe(claim.epoch);
        self.groups[index].observe(claim.epoch);
        match claim.stand {
            Stand::Idle | Stand::Unwilling => self.peer_does_not_hold(now, index, peer, claim.stand, out),
            Stand::Wants(reason) => {
                self.peer_does_not_hold(now, index, peer, claim.stand, out);
                self.asked_for(now, index, peer, reason, out);
            }
            Stand::Requests if by_peer => self.peer_requests(now, index, path, claim.epoch, sent, out),
            Stand::Suspended if by_peer => {
                self.meet_suspended(now, index, claim.epoch, out);
                self.peer_requests(now, index, path, claim.epoch, sent, out);
            }
            Stand::Ready if by_peer => {
                self.release_to(now, index, peer, out);
                self.peer_requests(now, index, path, claim.epoch, sent, out);
            }
            Stand::Holds { offered_to, reason } if by_peer => {
                self.peer_holds(now, index, peer, claim.epoch, sent, out);
                let offered = offered_to == Some(self.settings.me);
                self.follow_offer(now, index, offered.then_some(reason), out);
            }
            // No sender writes a claim of its own in another's epoch.
            Stand::Requests | Stand::Suspended | Stand::Ready | Stand::Holds { .. } => {
                self.dropped.malformed += 1;
            }
        }
    }

    fn peer_does_not_hold(&mut self, now: Time, index: usize, peer: usize, stand: Stand, out: &mut Effects) {
        let group = &mut self.groups[index];
        if group.promise.is_some_and(|promise| promise.peer == peer) {
            // It says that it has no lease and has given up what it asked for: the word is free again.
            group.promise = None;
            group.unlike_until = Time::ZERO;
            group.vacant_since = now;
        }
        if group.pending.is_some_and(|pending| pending.path.peer == peer) {
            group.pending = None;
        }
        self.answer_pending(now, index, out);
        if stand == Stand::Unwilling {
            self.cancel_giving(now, index, peer, out);
        }
    }

    /// A peer asks for this node's vote. A request that comes too early is kept.
    fn peer_requests(
        &mut self,
        now: Time,
        index: usize,
        path: PathIndex,
        epoch: Epoch,
        sent: u64,
        out: &mut Effects,
    ) {
        let candidate = &self.peers[path.peer];
        if self.needs_majority() && !candidate.is_mutual() {
            // It could not make use of the vote, and others may.
            return;
        }
        if !self.membership.accepts(&candidate.membership) {
            // It needs other voters than this one's.
            return;
        }
        match self.groups[index].stage {
            // While it holds, or tries to regain, its own word is its own.
            Stage::Active(_) => return,
            Stage::Standing(_) if !self.outranks(index, path.peer) && !self.regains(index, path.peer) => {
                return;
            }
            Stage::Standing(_) => {
                self.leave(now, index, Stage::Passive, Cause::Election, out);
            }
            Stage::Init | Stage::Passive | Stage::Ready(_) | Stage::Fault(_) => {}
        }
        let given = self.groups[index].binding_promise(now).map(|given| given.peer);
        if self.voting(now) && self.promise(now, index, path.peer, epoch, sent, false) {
            if given != Some(path.peer) && matches!(self.groups[index].stage, Stage::Ready(_)) {
                // Its word is another's now: it must not go on asking.
                self.leave(now, index, Stage::Passive, Cause::Election, out);
            }
            return;
        }
        let rank = |path: PathIndex| self.peer_rank(index, path.peer);
        let fresh = now - self.settings.timing.heartbeat * 3;
        let better = self.groups[index].pending.filter(|pending| {
            pending.path.peer != path.peer && pending.at > fresh && rank(pending.path) < rank(path)
        });
        if better.is_none() {
            self.groups[index].pending = Some(Pending { epoch, path, sent, at: now });
        }
    }

    /// Whether a peer asks for a tenure that has lapsed, which goes before one that is to begin. By majority the other
    /// voters know who may have the group.
    fn regains(&self, index: usize, peer: usize) -> bool {
        let claim = self.peers[peer].claims[index];
        !self.needs_majority() && claim.is_some_and(|claim| claim.stand == Stand::Suspended)
    }

    /// Gives the vote that was asked for too early, once the word is free.
    pub(super) fn answer_pending(&mut self, now: Time, index: usize, out: &mut Effects) {
        let group = &self.groups[index];
        let Some(pending) = group.pending else { return };
        let Pending { epoch, path, sent, at } = pending;
        if now.since(at) > self.settings.timing.heartbeat * 3 {
            self.groups[index].pending = None;
            return;
        }
        if !self.voting(now) || group.keeps_its_word() || group.binding_promise(now).is_some() {
            return;
        }
        self.groups[index].pending = None;
        if self.promise(now, index, path.peer, epoch, sent, false) {
            if matches!(self.groups[index].stage, Stage::Ready(_)) {
                self.leave(now, index, Stage::Passive, Cause::Election, out);
            }
            self.answers.push(Answer { path, sent, index });
        }
    }

    /// Sends the votes that were asked for too early, those of one candidate together: the word for all groups of a holder
    /// that died is free at the same time. Said is what is promised now, after all that this input has brought.
    pub(super) fn send_answers(&mut self, now: Time, out: &mut Effects) {
        if self.answers.is_empty() {
            return;
        }
        let mut answers = std::mem::take(&mut self.answers);
        let mut scratch = std::mem::take(&mut self.scratch);
        answers.sort_unstable_by_key(|answer| (answer.path, answer.sent, answer.index));
        for same in answers.chunk_by(|one, other| (one.path, one.sent) == (other.path, other.sent)) {
            let Some(&Answer { path, sent, .. }) = same.first() else { continue };
            scratch.clear();
            let votes = same.iter().filter_map(|answer| self.vote(now, path.peer, sent, answer.index));
            scratch.votes.extend(votes);
            if scratch.votes.is_empty() {
                continue;
            }
            let header = self.header(now, path, Kind::Acknowledgement, sent);
            let content = Content { votes: &scratch.votes, ..Content::default() };
            self.send_parts(path, &header, content, out);
        }
        answers.clear();
        self.scratch = scratch;
        self.answers = answers;
    }

    /// When the word is free for the vote that was asked for too early.
    pub(super) fn pending_deadline(&self, index: usize) -> Time {
        let group = &self.groups[index];
        match (group.pending.filter(|_| !group.keeps_its_word()), group.promise) {
            (Some(_), Some(promise)) => promise.until.max(self.voting_from()),
            (Some(_), None) => self.voting_from(),
            (None, _) => Time::NEVER,
        }
    }

    /// How long a promise to this peer lasts.
    pub(super) fn term_for(&self, peer: usize) -> Duration {
        let dead_after = self.membership.dead_after(self.settings.timing.dead_after);
        promise_term(dead_after, self.peers[peer].lease)
    }

    /// Whether a promise to this peer is a vote: it needs this node's voters, and the promise would survive a restart.
    pub(super) fn may_vote_for(&self, peer: usize) -> bool {
        self.membership.accepts(&self.peers[peer].membership)
            && self.membership.remembers(self.term_for(peer))
    }

    /// Promises, unless the word is given to another or for a later tenure, or should go to another soon.
    fn promise(
        &mut self,
        now: Time,
        index: usize,
        peer: usize,
        epoch: Epoch,
        sent: u64,
        holds: bool,
    ) -> bool {
        let term = self.term_for(peer);
        let counts = self.may_vote_for(peer);
        let unlike = counts && !self.membership.is_needed_by(&self.peers[peer].membership);
        let given = self.groups[index].binding_promise(now);
        if now < self.groups[index].bound_until || !counts && !holds {
            return false;
        }
        if given.is_some_and(|given| given.peer != peer || given.epoch > epoch) {
            return false;
        }
        if given.is_some() && !holds && self.better_waits(now, index, peer) {
            return false;
        }
        let until = match given {
            // It says for how long it can hold at most, and this is the newest that it has said.
            Some(given) if holds && given.epoch == epoch => now + term,
            Some(given) => given.until.max(now + term),
            None => now + term,
        };
        let group = &mut self.groups[index];
        if unlike {
            group.unlike_until = group.unlike_until.max(now + term);
        }
        group.promise = Some(Promise { epoch, peer, until, basis: sent, holds, counts });
        group.probe = super::Probe::Unasked;
        group.answered_said = false;
        true
    }

    /// Whether a better-ranked candidate than this peer asks for the vote: two that keep each other's voters would both
    /// wait for ever.
    fn better_waits(&self, now: Time, index: usize, peer: usize) -> bool {
        let rank = |peer: usize| self.peer_rank(index, peer);
        let fresh = self.settings.timing.heartbeat * 3;
        self.groups[index]
            .pending
            .is_some_and(|pending| now.since(pending.at) <= fresh && rank(pending.path.peer) < rank(peer))
    }

    fn peer_holds(
        &mut self,
        now: Time,
        index: usize,
        peer: usize,
        epoch: Epoch,
        sent: u64,
        out: &mut Effects,
    ) {
        self.groups[index].was_held = true;
        self.groups[index].abstains = false;
        self.other_serves(now, index, peer, out);
        match self.groups[index].stage {
            Stage::Active(_) => {
                if !self.meet_holder(now, index, peer, epoch, out) {
                    return;
                }
            }
            Stage::Standing(_) => self.leave(now, index, Stage::Passive, Cause::OtherHolder, out),
            Stage::Init => self.leave(now, index, Stage::Passive, Cause::Startup, out),
            Stage::Passive | Stage::Ready(_) | Stage::Fault(_) => {}
        }
        if self.promise(now, index, peer, epoch, sent, true) {
            self.follow_entry(now, index, peer);
        }
    }

    /// Whether a peer stands before this node in the group's order.
    pub(super) fn outranks(&self, index: usize, peer: usize) -> bool {
        self.peer_rank(index, peer) < self.own_rank(index)
    }

    /// A peer's place in the group's order; the lower the better.
    pub(super) fn peer_rank(&self, index: usize, peer: usize) -> usize {
        self.groups[index].ranks.peers[peer]
    }

    /// This node's place in the group's order; the lower the better.
    pub(super) fn own_rank(&self, index: usize) -> usize {
        self.groups[index].ranks.own
    }

    pub(super) fn group_index(&self, id: GroupId) -> Option<usize> {
        let place = self.by_id.binary_search_by_key(&id, |&(id, _)| id).ok()?;
        Some(self.by_id[place].1)
    }

    /// Says on the path a heartbeat came on what is promised to its sender. Of one that is not all there yet, for the
    /// groups that this part names.
    fn acknowledge(&mut self, now: Time, path: PathIndex, message: &Message<'_>, out: &mut Effects) {
        let sent = message.header.sent;
        let mut header = self.header(now, path, Kind::Acknowledgement, sent);
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        let peer = &self.peers[path.peer];
        if peer.whole && peer.newest_sent == sent {
            header.held = self.votes(now, path.peer, sent, true, &mut scratch.votes);
        } else {
            for claim in message.claims() {
                let index = self.group_index(claim.group);
                scratch.votes.extend(index.and_then(|index| self.vote(now, path.peer, sent, index)));
            }
        }
        let content = Content { votes: &scratch.votes, ..Content::default() };
        self.send_parts(path, &header, content, out);
        self.scratch = scratch;
    }

    /// Sends acknowledgements, or introductions: as many datagrams as it takes, each complete in itself.
    fn send_parts(&mut self, path: PathIndex, header: &Header, content: Content<'_>, out: &mut Effects) {
        for part in content.parts() {
            let sequence = self.peers[path.peer].number_acknowledgement();
            let header = Header { sequence, ..*header };
            let bytes = wire::emit(&mut out.bytes, &header, part, &self.keys[0]);
            out.list.push(Effect::Send { path, bytes });
        }
    }

    /// Sends a heartbeat to every peer on every path. Its time is that of the input being worked off, so it was taken
    /// before the send.
    pub(super) fn send_heartbeats(&mut self, now: Time, out: &mut Effects) {
        self.news = false;
        if now >= self.told_together_at {
            self.told_soon = now;
        }
        self.told_together_at = Time::NEVER;
        self.last_sent = now;
        if now >= self.next_heartbeat {
            let interval = self.beat();
            let next = self.next_heartbeat + interval;
            self.next_heartbeat = if next > now { next } else { now + interval };
        }
        self.number_claims(now);
        let mut scratch = std::mem::take(&mut self.scratch);
        for peer in 0..self.peers.len() {
            self.send_heartbeat(now, peer, &mut scratch, out);
        }
        self.scratch = scratch;
    }

    /// Takes note of which claims are others than in the last heartbeat.
    fn number_claims(&mut self, now: Time) {
        let mut changed = false;
        for index in 0..self.groups.len() {
            let claim = Some(self.own_claim(now, index));
            let group = &mut self.groups[index];
            if group.told != claim {
                group.told = claim;
                group.told_in = self.state + 1;
                changed = true;
            }
        }
        self.state += u64::from(changed);
    }

    fn send_heartbeat(&mut self, now: Time, peer: usize, scratch: &mut Scratch, out: &mut Effects) {
        scratch.clear();
        let state = &self.peers[peer];
        let (newest, whole) = (state.newest_sent, state.whole);
        let base = if (self.told_anew..=self.state).contains(&state.confirmed) { state.confirmed } else { 0 };
        let changed = self.groups.iter().filter(|group| group.told_in > base);
        scratch.claims.extend(changed.filter_map(|group| group.told));
        let held = self.votes(now, peer, newest, whole, &mut scratch.votes);
        let holder = self.groups.iter().any(|group| group.holds(now));
        let served = if holder { self.service.targets() } else { &[] };
        let content = Content { claims: &scratch.claims, votes: &scratch.votes, served };
        let parts = content.parts();
        let count = u8::try_from(parts.clone().count()).unwrap_or(u8::MAX);
        let first = self.peers[peer].next_heartbeat;
        self.peers[peer].next_heartbeat += u64::from(count);
        for path in 0..self.peers[peer].paths.len() {
            let path = PathIndex { peer, path };
            let whole = self.header(now, path, Kind::Heartbeat, newest);
            for (part, content) in (0..count).zip(parts.clone()) {
                let sequence = first + u64::from(part);
                let header = Header { sequence, state: self.state, base, part, parts: count, held, ..whole };
                let bytes = wire::emit(&mut out.bytes, &header, content, &self.keys[0]);
                out.list.push(Effect::Send { path, bytes });
            }
        }
    }

    fn own_claim(&self, now: Time, index: usize) -> Claim {
        let group = &self.groups[index];
        let able = self.fit(index);
        let (stand, epoch, by_hand) = match group.stage {
            Stage::Active(tenure) if now < tenure.until => {
                let offered_to = tenure.giving.map(|giving| self.settings.peers[giving.to].id);
                let reason = tenure.giving.map_or(Reason::None, |giving| giving.reason);
                (Stand::Holds { offered_to, reason }, Some(tenure.epoch), group.by_hand)
            }
            Stage::Active(tenure) => (Stand::Suspended, Some(tenure.epoch), group.by_hand),
            Stage::Standing(candidacy) => (Stand::Requests, Some(candidacy.epoch), candidacy.by_hand),
            Stage::Ready(candidacy) if candidacy.address == super::group::Address::Ready => {
                (Stand::Ready, Some(candidacy.epoch), candidacy.by_hand)
            }
            Stage::Passive if able && group.wish.is_some() => {
                (Stand::Wants(group.wish.map_or(Reason::None, |wish| wish.reason)), group.top, false)
            }
            Stage::Passive | Stage::Ready(_) if able => (Stand::Idle, group.top, false),
            Stage::Init | Stage::Passive | Stage::Ready(_) | Stage::Fault(_) => {
                (Stand::Unwilling, group.top, false)
            }
        };
        let epoch = epoch.unwrap_or(Epoch { counter: 0, node: self.settings.me });
        let receives = stand == Stand::Ready && group.grace.is_some();
        Claim { group: self.settings.groups[index].id, stand, by_hand, receives, epoch }
    }

    /// Collects the promises to a peer that rest on its heartbeat sent then. If all claims of that heartbeat are known
    /// and every lease among them has this node's promise, those are left out and `true` stands for them.
    fn votes(&self, now: Time, peer: usize, sent: u64, whole: bool, votes: &mut Vec<Vote>) -> bool {
        let holds = |index: usize| {
            let claim = self.peers[peer].claims[index];
            claim.is_some_and(|claim| matches!(claim.stand, Stand::Holds { .. }))
        };
        let mut held = (0..self.groups.len()).filter(|&index| holds(index)).peekable();
        let all_held =
            whole && held.peek().is_some() && held.all(|index| self.vote(now, peer, sent, index).is_some());
        let listed = (0..self.groups.len()).filter(|&index| !(all_held && holds(index)));
        votes.extend(listed.filter_map(|index| self.vote(now, peer, sent, index)));
        all_held
    }

    /// The promise to a peer that rests on its heartbeat sent then. One of two nodes gives its to a holder at once after
    /// its start: it keeps nobody waiting but itself.
    fn vote(&self, now: Time, peer: usize, sent: u64, index: usize) -> Option<Vote> {
        let promise = self.groups[index].binding_promise(now)?;
        let voting = self.is_voter() && self.voting(now);
        let counts = promise.counts
            && (voting || (self.is_pair() && promise.holds))
            && promise.peer == peer
            && promise.basis == sent;
        counts.then_some(Vote { group: self.settings.groups[index].id, epoch: promise.epoch })
    }

    pub(super) fn header(&self, now: Time, path: PathIndex, kind: Kind, echo_sent: u64) -> Header {
        let state = &self.peers[path.peer];
        let limit = self.settings.timing.heartbeat * 3;
        let heard_paths = state.paths.iter().take(16).enumerate().fold(0, |heard, (place, path)| {
            if path.heard_within(now, limit) { heard | (1 << place) } else { heard }
        });
        Header {
            kind,
            node: self.settings.me,
            cluster: self.settings.cluster,
            incarnation: self.incarnation,
            echo: state.incarnation,
            sequence: 0,
            sent: now.as_nanos(),
            echo_sent,
            settings: self.settings_hash,
            heartbeat: self.settings.timing.heartbeat,
            lease: self.told_lease(now),
            dead_after: self.membership.dead_after(self.settings.timing.dead_after),
            service_mac: self.service_mac().unwrap_or_default(),
            heard_paths,
            path: u8::try_from(path.path).unwrap_or(u8::MAX),
            voting: self.voting(now),
            restarts: self.asks_for_long_promises(),
            keeps_long: self.keeps_long_promises(),
            service: self.service.health(),
            state: 0,
            base: 0,
            known: state.known,
            part: 0,
            parts: 1,
            held: false,
            membership: self.membership.on_the_wire(),
        }
    }
}

/// A vote for the candidate that asked on this path, by its heartbeat that was sent then by its own clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    path: PathIndex,
    sent: u64,
    index: usize,
}

/// Room for one message's content, used again and again.
#[derive(Clone, Default, Debug)]
pub(super) struct Scratch {
    claims: Vec<Claim>,
    votes: Vec<Vote>,
}

impl Scratch {
    pub(super) fn for_groups(count: usize) -> Self {
        Self { claims: Vec::with_capacity(count), votes: Vec::with_capacity(2 * count) }
    }

    fn clear(&mut self) {
        self.claims.clear();
        self.votes.clear();
    }
}

/// FNV-1a over the nodes, the voters and the timings: nodes that differ in it run with different configurations.
pub(super) fn settings_hash(settings: &Settings) -> u64 {
    let me = (settings.me.0, settings.voter);
    let mut nodes: Vec<_> = settings.peers.iter().map(|peer| (peer.id.0, peer.voter)).chain([me]).collect();
    nodes.sort_unstable();
    let mut bytes = vec![u8::from(settings.quorum == crate::settings::Quorum::Majority)];
    for (id, voter) in nodes {
        bytes.extend_from_slice(&id.to_be_bytes());
        bytes.push(u8::from(voter));
    }
    let timing = &settings.timing;
    for duration in [timing.heartbeat, timing.lease, timing.dead_after] {
        bytes.extend_from_slice(&duration.as_nanos().to_be_bytes());
    }
    crate::identity::fnv1a_64(&bytes)
}
