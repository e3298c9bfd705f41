//! Whose votes a lease takes, and how that changes while voters are being changed: joint majorities
//! (`docs/adr/0004-changes-of-the-voters-go-through-joint-majorities.md`). Also what a node must not forget over a restart.

use std::time::Duration;

use crate::interface::{Effect, Effects, EventKind, MembershipRefusal, Memory, Phase, VoterSet};
use crate::settings::{Quorum, Settings};
use crate::time::Time;
use crate::wire::{self, Former};

use super::peer::PeerState;
use super::{Core, event};

/// How long after a failure the memory is written again.
const RETRY: Duration = Duration::from_secs(1);

/// The voters of this node's file, and those before a change that is not through yet.
#[derive(Clone, Debug)]
pub(super) struct Membership {
    pub(super) current: VoterSet,
    current_hash: u64,
    former: Option<Before>,
    /// Nothing was on disk: this node has never known other voters, and the others may be changing theirs.
    fresh: bool,
    /// Only what was sent from then on is acknowledged under what is required now.
    pub(super) since: Time,
    /// What is on disk.
    durable: Option<Memory>,
    asked: Option<Memory>,
    /// What the disk says of the longest promise, at least: a write that failed may have succeeded.
    kept: Duration,
    retry: Time,
    /// The longest promise that may still be given, by this run or the last, and when it is certainly over.
    longest: (Duration, Time),
    /// Whose votes are counted, by the peers' places: the current voters and the former.
    pub(super) required: Vec<Counted>,
}

/// Voters before a change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Before {
    set: VoterSet,
    hash: u64,
    phase: Phase,
}

/// A set of voters as this node counts them.
#[derive(Clone, Debug)]
pub(super) struct Counted {
    pub(super) majority: bool,
    /// Whether this node is one.
    pub(super) own: bool,
    /// By the peer's place in the settings.
    pub(super) peers: Vec<bool>,
    /// How many they are, with those that are no peers of this node any more.
    count: usize,
}

impl Counted {
    fn of(set: &VoterSet, settings: &Settings) -> Self {
        Self {
            majority: set.majority,
            own: set.voters.contains(settings.me),
            peers: settings.peers.iter().map(|peer| set.voters.contains(peer.id)).collect(),
            count: set.voters.count(),
        }
    }

    /// How many votes besides this node's own make a majority.
    pub(super) fn needed(&self, own: bool) -> usize {
        (self.count / 2 + 1).saturating_sub(usize::from(own))
    }
}

impl VoterSet {
    /// Those of a configuration.
    #[must_use]
    pub fn of(settings: &Settings) -> Self {
        let own = Some(settings.me).filter(|_| settings.voter);
        let peers = settings.peers.iter().filter(|peer| peer.voter).map(|peer| peer.id);
        Self { voters: wire::VoterList::new(peers.chain(own)), majority: settings.quorum == Quorum::Majority }
    }

    fn hash(&self) -> u64 {
        let mut bytes = [0; 2 * wire::MAX_VOTERS + 1];
        bytes[0] = u8::from(self.majority);
        for (place, voter) in self.voters.iter().enumerate() {
            bytes[1 + 2 * place..3 + 2 * place].copy_from_slice(&voter.0.to_be_bytes());
        }
        crate::identity::fnv1a_64(&bytes)
    }

    fn from_wire(former: &Former) -> Self {
        Self { voters: former.voters, majority: former.majority }
    }
}

impl Memory {
    /// Whether a node that remembers this may go over to a configuration.
    ///
    /// # Errors
    /// The change is too large for one step, or one before it is not through yet.
    pub fn admits(&self, settings: &Settings) -> Result<(), MembershipRefusal> {
        let new = VoterSet::of(settings);
        if new == self.current {
            return Ok(());
        }
        let before = match self.former {
            // While the change is open, nothing rests on it yet: this node is as good as on the file before.
            Some((former, Phase::Open)) if former == new => return Ok(()),
            // The others may be through with it already, and leave voters that this node would know nothing of.
            Some((_, Phase::Open | Phase::Closed)) => return Err(MembershipRefusal::Unsettled),
            None => self.current,
        };
        let known = |voter| voter == settings.me || settings.peers.iter().any(|peer| peer.id == voter);
        let staying = before.voters.iter().filter(|&voter| known(voter)).count();
        if before.majority && staying <= before.voters.count() / 2 {
            return Err(MembershipRefusal::TooFewStay);
        }
        let added = new.voters.iter().filter(|&voter| !before.voters.contains(voter)).count();
        if new.majority && added > new.voters.count() / 2 {
            return Err(MembershipRefusal::TooManyNew);
        }
        Ok(())
    }
}

impl Membership {
    /// Of a node that starts with this configuration and remembers that. What `Memory::admits` refuses is the caller's error;
    /// the stricter of the two readings is taken then.
    pub(super) fn start(settings: &Settings, memory: Option<Memory>, now: Time) -> Self {
        let current = VoterSet::of(settings);
        let dead_after = settings.timing.dead_after;
        let longest = memory.map_or(dead_after, |memory| memory.longest_promise.max(dead_after));
        let former = memory.and_then(|memory| match memory.former {
            former if memory.current == current => former,
            Some((former, Phase::Open)) if former == current => None,
            Some((former, phase)) => Some((former, phase)),
            None => Some((memory.current, Phase::Open)),
        });
        let mut membership = Self {
            current,
            current_hash: current.hash(),
            former: former.map(|(set, phase)| Before { set, hash: set.hash(), phase }),
            fresh: memory.is_none(),
            // What the last run's heartbeats were acknowledged with counts if they required the same.
            since: if memory.is_some_and(|memory| (memory.current, memory.former) == (current, former)) {
                Time::ZERO
            } else {
                now
            },
            durable: memory,
            asked: None,
            kept: memory.map_or(Duration::ZERO, |memory| memory.longest_promise),
            retry: Time::ZERO,
            longest: (longest, now + longest),
            required: Vec::new(),
        };
        membership.count(settings);
        membership
    }

    /// Whose votes a lease takes.
    pub(super) fn requirement(&self) -> (VoterSet, Option<VoterSet>) {
        (self.current, self.former.map(|former| former.set))
    }

    pub(super) fn count(&mut self, settings: &Settings) {
        let sets = self.former.iter().map(|former| former.set).chain([self.current]);
        self.required = sets.map(|set| Counted::of(&set, settings)).collect();
    }

    /// How long a node that has just started keeps its word to itself: its last run may have promised for as long.
    pub(super) fn restart_wait(&self) -> Duration {
        self.longest.0
    }

    /// Whether a promise of this term would be kept over a restart.
    pub(super) fn remembers(&self, term: Duration) -> bool {
        term <= self.kept
    }

    /// Whether a promise of [`wire::RESTART_PROMISE`] would be kept.
    pub(super) fn keeps_long(&self) -> bool {
        self.remembers(wire::RESTART_PROMISE)
    }

    /// Whether nothing longer than this is on disk, or is to be.
    pub(super) fn keeps_only(&self, term: Duration) -> bool {
        self.longest.0 <= term && self.durable.is_none_or(|memory| memory.longest_promise <= term)
    }

    /// How long this node's promises are sure to last: its D, once that is on disk.
    pub(super) fn dead_after(&self, configured: Duration) -> Duration {
        if self.durable.is_some() { configured.min(self.kept) } else { configured }
    }

    /// What should be on disk.
    pub(super) fn memory(&self) -> Memory {
        Memory {
            current: self.current,
            former: self.former.map(|former| (former.set, former.phase)),
            longest_promise: self.longest.0,
        }
    }

    /// How far the change is, as others may rely on it: it is on disk.
    fn announced_phase(&self) -> Option<Phase> {
        let former = self.former?;
        let kept = self.durable.is_some_and(|durable| durable.former == Some((former.set, Phase::Closed)));
        Some(if kept { former.phase } else { Phase::Open })
    }

    /// What heartbeats say of it.
    pub(super) fn on_the_wire(&self) -> wire::Membership {
        let former = self.former.map(|former| Former {
            voters: former.set.voters,
            majority: former.set.majority,
            closed: self.announced_phase() == Some(Phase::Closed),
        });
        wire::Membership { voters: self.current_hash, former }
    }

    /// Whether a candidate that needs these votes may have this node's (rule 2 of the table).
    pub(super) fn accepts(&self, candidate: &wire::Membership) -> bool {
        let former = candidate.former.map(|former| VoterSet::from_wire(&former).hash());
        let needs = |hash| candidate.voters == hash || former == Some(hash);
        match self.former {
            None => needs(self.current_hash),
            Some(Before { hash, phase: Phase::Open, .. }) => needs(hash),
            Some(Before { hash, phase: Phase::Closed, .. }) => needs(hash) && needs(self.current_hash),
        }
    }

    /// Whether a candidate needs the votes of this node's current voters.
    pub(super) fn is_needed_by(&self, candidate: &wire::Membership) -> bool {
        let former = candidate.former.map(|former| VoterSet::from_wire(&former).hash());
        candidate.voters == self.current_hash || former == Some(self.current_hash)
    }

    /// Whether a peer that says this no longer votes for a candidate that needs only `former`, which this node is leaving,
    /// and nobody whom it once voted for is elected by others in between.
    fn is_past(&self, peer: &wire::Membership, former: &Before) -> bool {
        let hash = peer.former.map(|former| VoterSet::from_wire(&former).hash());
        // A peer that comes from yet other voters says nothing of what those still do, until it is through with them.
        self.relies_on_change(peer)
            && (hash.is_none_or(|hash| hash == former.hash || hash == self.current_hash))
    }

    /// Whether a peer that says this has gone too far with this node's current voters to return from them.
    fn relies_on_change(&self, peer: &wire::Membership) -> bool {
        let closed = peer.former.is_none_or(|former| former.closed);
        let left = peer.former.map(|former| VoterSet::from_wire(&former).hash());
        // One that goes to where this node comes from may not have been here yet: it may be on its way there still.
        let goes_back = self.former.is_some_and(|former| former.hash == peer.voters);
        let went_on = left == Some(self.current_hash) && !goes_back;
        (peer.voters == self.current_hash && closed) || went_on
    }

    /// The former voters and how far the change is, if one is under way: until a restart knows that it is over, too.
    pub(super) fn change(&self) -> Option<(VoterSet, Phase)> {
        match self.former {
            Some(former) => Some((former.set, self.announced_phase()?)),
            None => {
                let durable = self
                    .durable
                    .filter(|durable| (durable.current, durable.former) != (self.current, None))?;
                durable.former.or(Some((durable.current, Phase::Closed)))
            }
        }
    }

    pub(super) fn remembered(&mut self) {
        let Some(memory) = self.asked.take() else { return };
        self.durable = Some(memory);
        self.kept = memory.longest_promise;
    }

    pub(super) fn not_remembered(&mut self, now: Time) {
        self.asked = None;
        self.retry = now + RETRY;
    }

    /// What is to be written now, if anything.
    fn unwritten(&mut self, now: Time) -> Option<Memory> {
        let memory = self.memory();
        if self.asked.is_some() || now < self.retry || self.durable == Some(memory) {
            return None;
        }
        self.asked = Some(memory);
        self.kept = self.kept.min(memory.longest_promise);
        self.asked
    }
}

impl Core {
    /// What this node must not forget over a restart, whether it is on disk already or not.
    #[must_use]
    pub fn memory(&self) -> Memory {
        self.membership.memory()
    }

    /// Takes the steps of a change of voters, and has written what must not be forgotten.
    pub(super) fn membership_timers(&mut self, now: Time, out: &mut Effects) {
        let dead_after = self.settings.timing.dead_after;
        let asked =
            !self.asks_for_long_promises() && self.peers.iter().any(|peer| peer.alive && peer.restarts);
        // A restart from now on waits until the usual time after the last of these.
        let usual = now + dead_after;
        let outstanding = self.groups.iter().any(|group| {
            let promised = group.promise.is_some_and(|promise| promise.counts && promise.until > usual);
            promised || group.bound_until > usual
        });
        let membership = &mut self.membership;
        if asked {
            membership.longest.0 = membership.longest.0.max(wire::RESTART_PROMISE);
        } else if dead_after < membership.longest.0 && now >= membership.longest.1 && !outstanding {
            membership.longest = (dead_after, now);
        }
        match self.membership.former {
            None => self.join_change(now, out),
            Some(former) => match former.phase {
                _ if self.are_past(now, &former) => {
                    self.membership.former = None;
                    self.requirements_changed(now);
                    event(out, now, EventKind::Voters(None));
                }
                Phase::Open if self.can_close(now, &former) => {
                    self.membership.former = Some(Before { phase: Phase::Closed, ..former });
                    event(out, now, EventKind::Voters(Some(Phase::Closed)));
                }
                Phase::Open | Phase::Closed => {}
            },
        }
        self.write_memory(now, out);
    }

    /// Has written what must not be forgotten, if it is not on disk.
    pub(super) fn write_memory(&mut self, now: Time, out: &mut Effects) {
        if let Some(memory) = self.membership.unwritten(now) {
            out.list.push(Effect::Remember(memory));
        }
    }

    /// A node that has never known other voters hears that there were some before.
    fn join_change(&mut self, now: Time, out: &mut Effects) {
        let membership = &self.membership;
        if !membership.fresh {
            return;
        }
        let same = |peer: &&PeerState| peer.alive && peer.membership.voters == membership.current_hash;
        let former = self.peers.iter().filter(same).find_map(|peer| peer.membership.former);
        if let Some(former) = former {
            let set = VoterSet::from_wire(&former);
            self.membership.former = Some(Before { set, hash: set.hash(), phase: Phase::Closed });
            self.membership.fresh = false;
            self.requirements_changed(now);
            event(out, now, EventKind::Voters(Some(Phase::Closed)));
        }
    }

    /// Whether those agree, among the peers and with this node, without whom the former voters elect nobody.
    fn are_past(&self, now: Time, former: &Before) -> bool {
        // What the last run had promised may be outstanding until this node votes.
        let own = self.voting(now) && self.membership.announced_phase() == Some(Phase::Closed);
        let past =
            |peer: &PeerState| peer.alive && peer.voting && self.membership.is_past(&peer.membership, former);
        self.agree(former, own, past)
    }

    /// Whether this node may from now on refuse candidates that need only the former voters: nobody whom it hears
    /// would have to do without its vote, and no such promise is outstanding.
    fn can_close(&self, now: Time, former: &Before) -> bool {
        let same = |peer: &PeerState| peer.membership.voters == self.membership.current_hash;
        let all_have_it = self.peers.iter().all(|peer| !peer.alive || same(peer));
        let current = Before { set: self.membership.current, hash: 0, phase: Phase::Open };
        let agree = |set| self.agree(set, true, |peer: &PeerState| peer.alive && same(peer));
        let outstanding = !self.voting(now) || self.groups.iter().any(|group| now < group.unlike_until);
        all_have_it && !outstanding && agree(former) && agree(&current)
    }

    /// Whether enough of a set of voters, this node as `own` says, are such that no others elect anybody: more than half,
    /// or without quorum all that are peers.
    fn agree(&self, set: &Before, own: bool, such: impl Fn(&PeerState) -> bool) -> bool {
        let counted = Counted::of(&set.set, &self.settings);
        let members = || self.peers.iter().zip(&counted.peers).filter(|(_, member)| **member);
        if counted.majority {
            let peers = members().filter(|(peer, _)| such(peer)).count();
            peers >= counted.needed(counted.own && own)
        } else {
            members().all(|(peer, _)| such(peer)) && (own || !counted.own)
        }
    }

    /// Whether this node may go over to a configuration. It leaves voters only once a restart would know them: else it would
    /// come from earlier ones, which the others may have left. What is not on disk is written now, however short ago that failed.
    pub(super) fn admits(&mut self, settings: &Settings) -> Result<(), MembershipRefusal> {
        let membership = &mut self.membership;
        let memory = membership.memory();
        memory.admits(settings)?;
        let new = VoterSet::of(settings);
        let goes_back = memory.former.is_some_and(|(former, _)| former == new);
        let knows = |durable: Memory| (durable.current, durable.former) == (memory.current, memory.former);
        if new != membership.current
            && !goes_back
            && membership.durable.is_some_and(|durable| !knows(durable))
        {
            membership.retry = Time::ZERO;
            return Err(MembershipRefusal::Unsettled);
        }
        self.may_change_its_mind(settings)
    }

    /// A change that some node may rely on already has to be gone through with.
    fn may_change_its_mind(&self, settings: &Settings) -> Result<(), MembershipRefusal> {
        let other = self.membership.current != VoterSet::of(settings) && self.membership.former.is_some();
        let relied_on =
            self.peers.iter().any(|peer| peer.alive && self.membership.relies_on_change(&peer.membership));
        if other && relied_on { Err(MembershipRefusal::Unsettled) } else { Ok(()) }
    }

    /// Goes over to the voters of a configuration that was admitted.
    pub(super) fn change_voters(&mut self, now: Time, settings: &Settings, out: &mut Effects) {
        let new = VoterSet::of(settings);
        let membership = &mut self.membership;
        if new == membership.current {
            return;
        }
        let current = Before { set: membership.current, hash: membership.current_hash, phase: Phase::Open };
        let before = membership.former.unwrap_or(current);
        membership.former = Some(before).filter(|before| before.set != new);
        membership.current = new;
        membership.current_hash = new.hash();
        membership.fresh = false;
        for group in &mut self.groups {
            let promised = group.promise.filter(|promise| promise.counts).map(|promise| promise.until);
            let held = group.tenure().map(|tenure| tenure.until);
            let given = promised.max(held).unwrap_or(Time::ZERO).max(group.bound_until);
            group.unlike_until = group.unlike_until.max(given);
        }
        event(out, now, EventKind::Voters(self.membership.former.map(|former| former.phase)));
    }

    /// The configuration's timings change: what was promised under the old ones is kept.
    pub(super) fn change_timings(&mut self, now: Time, dead_after: Duration) {
        let (longest, over) = self.membership.longest;
        let before = longest.max(self.settings.timing.dead_after);
        self.membership.longest = (before.max(dead_after), over.max(now + before));
    }

    /// What a lease takes is another thing from now on: nothing that was acknowledged before counts.
    pub(super) fn requirements_changed(&mut self, now: Time) {
        self.membership.count(&self.settings);
        // A heartbeat that left in this very instant spoke of what was required before.
        self.membership.since = if self.last_sent == now { now + Duration::from_nanos(1) } else { now };
        for group in &mut self.groups {
            group.acknowledged.fill(None);
        }
        self.news = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::NodeId;

    fn voters(ids: &[u16]) -> VoterSet {
        VoterSet { voters: wire::VoterList::new(ids.iter().map(|&id| NodeId(id))), majority: true }
    }

    fn joint(former: Option<(VoterSet, Phase)>, current: VoterSet) -> Membership {
        Membership {
            current,
            current_hash: current.hash(),
            former: former.map(|(set, phase)| Before { set, hash: set.hash(), phase }),
            fresh: false,
            since: Time::ZERO,
            durable: Some(Memory { current, former, longest_promise: Duration::ZERO }),
            asked: None,
            kept: Duration::ZERO,
            retry: Time::ZERO,
            longest: (Duration::ZERO, Time::ZERO),
            required: Vec::new(),
        }
    }

    /// Two changes in succession, and a node that never got the file in between: those that come from the second set to the third do
    /// not keep the second from electing somebody.
    #[test]
    fn only_a_peer_that_leaves_the_same_voters_or_is_through_counts_as_past() {
        let (first, second, third) = (voters(&[1, 2, 3, 4, 5]), voters(&[4, 5, 6, 7]), voters(&[4, 5, 8]));
        let late = joint(Some((first, Phase::Closed)), third);
        let former = late.former.expect("a change is under way");
        let past = |former_of_peer: Option<(VoterSet, Phase)>, current| {
            late.is_past(&joint(former_of_peer, current).on_the_wire(), &former)
        };
        assert!(!past(Some((second, Phase::Closed)), third));
        assert!(!past(Some((first, Phase::Open)), third));
        assert!(!past(None, first));
        assert!(past(Some((first, Phase::Closed)), third));
        assert!(past(None, third));
        assert!(past(Some((third, Phase::Open)), second));
        // It may not be through with the change before this one.
        assert!(!past(Some((third, Phase::Closed)), first));
    }
}
