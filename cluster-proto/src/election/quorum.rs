//! How many votes are enough (design, section 6, "Majority" and "Off"), and what a lease may rest on.

use std::time::Duration;

use crate::time::Time;
use crate::wire::MAX_VOTERS;

use super::Core;
use super::group::Stage;
use super::membership::Counted;
use super::peer::PeerState;

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
    /// Whether a lease takes a majority, of every set of voters that counts: there are two while voters are being changed.
    pub(super) fn by_majority(&self) -> bool {
        self.membership.required.iter().all(|set| set.majority)
    }

    /// Whether a lease takes the majority of some set of voters.
    pub(super) fn needs_majority(&self) -> bool {
        self.membership.required.iter().any(|set| set.majority)
    }

    /// Whether this is one of two nodes without quorum, so that no vote but the other's can be concerned.
    pub(super) fn is_pair(&self) -> bool {
        let [set] = &self.membership.required[..] else { return false };
        !set.majority && self.settings.peers.len() == 1
    }

    /// Whether this node's promises count for anybody.
    pub(super) fn is_voter(&self) -> bool {
        self.membership.required.iter().any(|set| set.own)
    }

    /// The peers whose promises count.
    pub(super) fn voters(&self) -> impl Iterator<Item = &PeerState> {
        let votes = |place: usize| self.membership.required.iter().any(|set| set.peers[place]);
        self.peers.iter().enumerate().filter(move |(place, _)| votes(*place)).map(|(_, peer)| peer)
    }

    /// The peers without whose vote, while they are heard, there is no lease, since no majority decides.
    pub(super) fn partners(&self) -> impl Iterator<Item = &PeerState> {
        let sets = || self.membership.required.iter().filter(|set| !set.majority);
        let votes = move |place: usize| sets().any(|set| set.peers[place]);
        self.peers.iter().enumerate().filter(move |(place, _)| votes(*place)).map(|(_, peer)| peer)
    }

    /// Whether such peers are a majority, with this node, of each set of voters that decides by one. Of others there must be
    /// one, which may be this node.
    fn are_majorities(&self, such: impl Fn(&PeerState) -> bool) -> bool {
        let enough = |set: &Counted| {
            let members = self.peers.iter().zip(&set.peers).filter(|(_, member)| **member);
            let count = members.filter(|(peer, _)| such(peer)).count();
            if set.majority { count >= set.needed(set.own) } else { set.own || count > 0 }
        };
        self.membership.required.iter().all(enough)
    }

    /// Whether this node and enough voters hear each other, so that it can hope for a majority.
    pub(super) fn hears_majority(&self) -> bool {
        self.are_majorities(PeerState::is_mutual)
    }

    /// Whether enough voters were heard within `limit`.
    pub(super) fn hears_majority_within(&self, limit: Duration, now: Time) -> bool {
        self.are_majorities(|peer| peer.silence(now) < limit)
    }

    /// What a holder's lease may rest on. Without quorum a peer that is silent for U is not needed.
    pub(super) fn holder_basis(&self, now: Time, index: usize) -> Basis {
        let silence = self.going_alone_after();
        self.basis(now, index, |peer| peer.silence(now) < silence)
    }

    /// What a candidate's first lease may rest on. Without quorum: the votes of all peers that are alive.
    pub(super) fn candidate_basis(&self, now: Time, index: usize) -> Basis {
        self.basis(now, index, |peer| peer.alive)
    }

    /// What all sets of voters that count allow.
    fn basis(&self, now: Time, index: usize, concerned: impl Fn(&PeerState) -> bool) -> Basis {
        let mut all = None;
        for set in &self.membership.required {
            if !set.majority && set.own && !set.peers.contains(&true) {
                // Its only voter is this node: it adds nothing to what another set asks for.
                continue;
            }
            let basis = if set.majority {
                self.majority_basis(now, index, set)
            } else {
                self.proven_by_gateway(index, self.basis_of_all(index, set, &concerned))
            };
            all = Some(match all {
                None => basis,
                Some(all) => both(all, basis),
            });
        }
        all.unwrap_or_else(|| self.proven_by_gateway(index, Basis::Alone(self.last_sent)))
    }

    /// What a tenure, or a candidacy, that an operator has forced may rest on: as long as too few voters are in hearing
    /// that have a vote to give, on nobody's. Those that have just started have none yet.
    pub(super) fn forced_basis(&self, forced: bool, basis: Basis) -> Basis {
        if !forced {
            return basis;
        }
        let missing = if self.needs_majority() {
            !self.are_majorities(|peer| peer.is_mutual() && peer.voting)
        } else {
            self.voters().all(|peer| !peer.alive)
        };
        if missing { Basis::Alone(self.last_sent) } else { basis }
    }

    /// The oldest of what the voters concerned have acknowledged.
    fn basis_of_all(&self, index: usize, set: &Counted, concerned: impl Fn(&PeerState) -> bool) -> Basis {
        let mut oldest = None;
        for (peer, acknowledged) in self.groups[index].acknowledged.iter().enumerate() {
            if !set.peers[peer] || !concerned(&self.peers[peer]) {
                continue;
            }
            let Some(sent) = *acknowledged else { return Basis::Nothing };
            oldest = Some(oldest.map_or(sent, |oldest: Time| oldest.min(sent)));
        }
        match oldest {
            Some(sent) => Basis::Acknowledged(sent),
            None if set.own => Basis::Alone(self.last_sent),
            // Whoever has no vote has none to give itself: those who have one may hold without it.
            None => Basis::Nothing,
        }
    }

    /// The newest heartbeat that more than half of the voters have acknowledged, this node's own vote included.
    fn majority_basis(&self, now: Time, index: usize, set: &Counted) -> Basis {
        let needed = set.needed(set.own && self.votes_for_itself(now, index));
        let Some(last) = needed.checked_sub(1) else { return Basis::Alone(self.last_sent) };
        let mut newest_first = [None; MAX_VOTERS];
        let voters = self.groups[index].acknowledged.iter().zip(&set.peers);
        let votes = voters.filter(|(_, votes)| **votes).map(|(acknowledged, _)| *acknowledged);
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
        match group.stage {
            Stage::Active(_) => true,
            Stage::Init | Stage::Passive | Stage::Standing(_) | Stage::Ready(_) | Stage::Fault(_) => {
                self.voting(now) && group.binding_promise(now).is_none() && now >= group.bound_until
            }
        }
    }
}

/// What both allow.
fn both(one: Basis, other: Basis) -> Basis {
    match (one, other) {
        (Basis::Nothing, _) | (_, Basis::Nothing) => Basis::Nothing,
        (Basis::Acknowledged(one), Basis::Acknowledged(other)) => Basis::Acknowledged(one.min(other)),
        (Basis::Alone(one) | Basis::Acknowledged(one), Basis::Alone(other) | Basis::Acknowledged(other)) => {
            Basis::Alone(one.min(other))
        }
    }
}
