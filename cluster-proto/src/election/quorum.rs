//! How many votes are enough (design, section 6, "Majority" and "Off"), and what a lease may rest on.

use std::time::Duration;

use crate::settings::Quorum;
use crate::time::Time;

use super::Core;
use super::group::Stage;
use super::peer::PeerState;

/// Voters in a cluster, at most.
const MAX_VOTERS: usize = 9;

/// What a lease can rest on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Basis {
    /// Not enough voters have acknowledged.
    Nothing,
    /// The newest heartbeat that enough voters have acknowledged.
    Acknowledged(Time),
    /// Nobody is asked: our own newest heartbeat.
    Alone(Time),
}

impl Core {
    /// Whether a lease takes the votes of more than half of the voters.
    pub(super) fn by_majority(&self) -> bool {
        self.settings.quorum == Quorum::Majority
    }

    /// Whether this is one of two nodes without quorum, so that no vote but the other's can be concerned.
    pub(super) fn is_pair(&self) -> bool {
        !self.by_majority() && self.settings.peers.len() == 1
    }

    /// The peers whose promises count.
    pub(super) fn voters(&self) -> impl Iterator<Item = &PeerState> {
        self.peers.iter().zip(&self.settings.peers).filter(|(_, peer)| peer.voter).map(|(state, _)| state)
    }

    /// How many votes besides this node's own make a majority.
    fn votes_needed(&self, own: bool) -> usize {
        let voters = self.settings.peers.iter().filter(|peer| peer.voter).count();
        let majority = (voters + usize::from(self.settings.voter)) / 2 + 1;
        majority - usize::from(own)
    }

    /// Whether this node and enough voters hear each other, so that it can hope for a majority.
    pub(super) fn hears_majority(&self) -> bool {
        let mutual = self.voters().filter(|peer| peer.is_mutual()).count();
        mutual >= self.votes_needed(self.settings.voter)
    }

    /// Whether enough voters were heard within `limit`.
    pub(super) fn hears_majority_within(&self, limit: Duration, now: Time) -> bool {
        let heard = self.voters().filter(|peer| peer.silence(now) < limit).count();
        heard >= self.votes_needed(self.settings.voter)
    }

    /// What a holder's lease may rest on. Without quorum a peer that is silent for U is not needed.
    pub(super) fn holder_basis(&self, now: Time, index: usize) -> Basis {
        if self.by_majority() {
            return self.majority_basis(now, index);
        }
        let silence = self.going_alone_after();
        let basis = self.basis_of_all(index, |peer| self.peers[peer].silence(now) < silence);
        self.proven_by_gateway(index, basis)
    }

    /// What a candidate's first lease may rest on. Without quorum: the votes of all peers that are alive.
    pub(super) fn candidate_basis(&self, now: Time, index: usize) -> Basis {
        if self.by_majority() {
            return self.majority_basis(now, index);
        }
        self.proven_by_gateway(index, self.basis_of_all(index, |peer| self.peers[peer].alive))
    }

    /// What a tenure, or a candidacy, that an operator has forced may rest on: without enough voters in hearing, on
    /// nobody's vote.
    pub(super) fn forced_basis(&self, forced: bool, basis: Basis) -> Basis {
        let missing =
            if self.by_majority() { !self.hears_majority() } else { self.voters().all(|peer| !peer.alive) };
        if forced && missing { Basis::Alone(self.last_sent) } else { basis }
    }

    /// The oldest of what the voters concerned have acknowledged.
    fn basis_of_all(&self, index: usize, concerned: impl Fn(usize) -> bool) -> Basis {
        let mut oldest = None;
        for (peer, acknowledged) in self.groups[index].acknowledged.iter().enumerate() {
            if !self.settings.peers[peer].voter || !concerned(peer) {
                continue;
            }
            let Some(sent) = *acknowledged else { return Basis::Nothing };
            oldest = Some(oldest.map_or(sent, |oldest: Time| oldest.min(sent)));
        }
        oldest.map_or(Basis::Alone(self.last_sent), Basis::Acknowledged)
    }

    /// The newest heartbeat that more than half of the voters have acknowledged, this node's own vote included.
    fn majority_basis(&self, now: Time, index: usize) -> Basis {
        let needed = self.votes_needed(self.votes_for_itself(now, index));
        let Some(last) = needed.checked_sub(1) else { return Basis::Alone(self.last_sent) };
        let mut newest_first = [None; MAX_VOTERS];
        let voters = self.groups[index].acknowledged.iter().zip(&self.settings.peers);
        let votes = voters.filter(|(_, peer)| peer.voter).map(|(acknowledged, _)| *acknowledged);
        for (place, vote) in newest_first.iter_mut().zip(votes) {
            *place = vote;
        }
        newest_first.sort_unstable_by(|one, other| other.cmp(one));
        newest_first.get(last).copied().flatten().map_or(Basis::Nothing, Basis::Acknowledged)
    }

    /// Whether this node's own vote counts for its own candidacy or tenure. A holder's word is its own as long as it has
    /// not let go: a lease that was adopted shows that it was given before the restart. A candidate's is not while it is
    /// given to another, nor before the wait after a restart, since it may have been.
    fn votes_for_itself(&self, now: Time, index: usize) -> bool {
        let group = &self.groups[index];
        self.settings.voter
            && match group.stage {
                Stage::Active(_) => true,
                Stage::Init | Stage::Passive | Stage::Standing(_) | Stage::Ready(_) | Stage::Fault(_) => {
                    self.voting(now) && group.binding_promise(now).is_none()
                }
            }
    }
}
