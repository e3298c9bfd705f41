//! How the state goes over to a new configuration: groups, peers and what they said are found again by their ids. What
//! did not change keeps its lease, its epoch and its promises.

use crate::identity::{GroupId, GroupIndex, NodeId, PathIndex};
use crate::interface::{Cause, CommandId, Effect, Effects, Refusal};
use crate::settings::{Failback, Settings};
use crate::time::Time;
use crate::wire::Authenticator;

use super::gateway::Gateway;
use super::group::{Address, GroupState, Ranks, Stage};
use super::messages::{self, Scratch};
use super::peer::PeerState;
use super::service::ServiceJudge;
use super::{Core, group_places, whole_micros};

/// Where things of the old settings are in the new.
struct Moves {
    /// By the peer's old place.
    peers: Vec<Option<usize>>,
    /// By the group's new place: the old.
    groups: Vec<Option<usize>>,
}

impl Core {
    /// Goes over to new settings, or refuses them and changes nothing.
    pub(super) fn reconfigure(&mut self, now: Time, id: CommandId, new: Settings, out: &mut Effects) {
        if let Err(refusal) = self.admits(&new) {
            out.list.push(Effect::Reply(id, Err(Refusal::Membership(refusal))));
            return;
        }
        self.cancel_restart(Refusal::Superseded, out);
        self.leave_lost_groups(now, &new, out);
        self.take_back_lost_offers(now, &new, out);
        out.list.push(Effect::Reconfigured);
        let moves = Moves {
            peers: self.settings.peers.iter().map(|peer| place_of_peer(&new, peer.id)).collect(),
            groups: new.groups.iter().map(|group| place_of_group(&self.settings, group.id)).collect(),
        };
        let vips_before: Vec<_> = moves
            .groups
            .iter()
            .map(|from| from.map(|from| std::mem::take(&mut self.settings.groups[from].vips)))
            .collect();
        let required = self.membership.requirement();
        self.change_timings(now, new.timing.dead_after);
        self.change_voters(now, &new, out);
        self.move_groups(now, &new, &moves);
        self.move_peers(now, &new, &moves);
        self.take_over(now, new);
        if self.membership.requirement() == required {
            // The peers may have other places.
            self.membership.count(&self.settings);
            self.news = true;
        } else {
            self.requirements_changed(now);
        }
        self.write_memory(now, out);
        // The data plane may have other places for them.
        self.tell_tables(out);
        for (index, before) in vips_before.into_iter().enumerate() {
            let same = before.is_none_or(|before| before == self.settings.groups[index].vips);
            let asked = match self.groups[index].stage {
                Stage::Active(_) => true,
                Stage::Standing(candidacy) | Stage::Ready(candidacy) => candidacy.address != Address::Absent,
                Stage::Init | Stage::Passive | Stage::Fault(_) => false,
            };
            if same || !asked {
                continue;
            }
            // VIPs may have been added: what is there already is left alone.
            self.ask_for_address(now, index, out);
            if self.groups[index].holds(now) {
                self.groups[index].announcing = None;
                self.announce(now, index, out);
            }
        }
        out.list.push(Effect::Reply(id, Ok(())));
    }

    /// Gives up the groups that the new settings do not have, or do not let this node hold.
    fn leave_lost_groups(&mut self, now: Time, new: &Settings, out: &mut Effects) {
        for index in 0..self.groups.len() {
            let place = place_of_group(new, self.settings.groups[index].id);
            let stays = place.is_some_and(|place| new.groups[place].prefer.contains(&new.me));
            if stays {
                continue;
            }
            match self.groups[index].stage {
                Stage::Active(_) | Stage::Standing(_) | Stage::Ready(_) => {
                    self.leave(now, index, Stage::Passive, Cause::Reload, out);
                }
                Stage::Init | Stage::Passive | Stage::Fault(_) => {}
            }
            if self.groups[index].serves_connections() {
                out.list.push(Effect::LetGo { group: GroupIndex(index) });
            }
            self.end_grace(now, index, out);
            let group = &mut self.groups[index];
            let wish = group.wish.take().and_then(|wish| wish.command);
            let awaited = group.awaited.take().map(|awaited| awaited.command);
            for command in [wish, awaited].into_iter().flatten() {
                out.list.push(Effect::Reply(command, Err(Refusal::Superseded)));
            }
        }
    }

    /// Calls off hand-overs to nodes that are no peers any more.
    fn take_back_lost_offers(&mut self, now: Time, new: &Settings, out: &mut Effects) {
        for index in 0..self.groups.len() {
            let Some(giving) = self.groups[index].tenure().and_then(|tenure| tenure.giving) else { continue };
            if place_of_peer(new, self.settings.peers[giving.to].id).is_none() {
                self.cancel_giving(now, index, giving.to, out);
            }
        }
    }

    fn move_groups(&mut self, now: Time, new: &Settings, moves: &Moves) {
        let listening = self.listening(now);
        let mut old: Vec<_> = std::mem::take(&mut self.groups).into_iter().map(Some).collect();
        for (index, from) in moves.groups.iter().enumerate() {
            let ranks = Ranks::of(new, index);
            let group = match from.and_then(|from| old[from].take()) {
                Some(mut group) => {
                    group.move_peers(&moves.peers, ranks, new);
                    // Who was to watch it may have lost sight of it.
                    group.watched_until = Time::ZERO;
                    if new.groups[index].failback == Failback::Never {
                        group.wish = group.wish.filter(|wish| !wish.is_failback());
                    }
                    group
                }
                None => {
                    let mut group = GroupState::new(now, ranks);
                    // It may have been there before, and promised to somebody.
                    group.bound_until = now + self.membership.restart_wait();
                    group.unlike_until = group.bound_until;
                    if !listening {
                        // Somebody may hold it already who could not tell us so far.
                        group.vacant_since = now + new.timing.dead_after;
                    }
                    group
                }
            };
            let mut group = group;
            group.spread_over(new.groups[index].spread.as_ref(), new.me);
            self.groups.push(group);
        }
        self.by_id = group_places(new);
        self.scratch = Scratch::for_groups(new.groups.len());
        // Peers forget the groups that are gone only by a heartbeat that names all there are.
        self.state += 1;
        self.told_anew = self.state;
    }

    fn move_peers(&mut self, now: Time, new: &Settings, moves: &Moves) {
        let present: Vec<_> = self.settings.peers.iter().map(|peer| (peer.id, peer.paths.len())).collect();
        let old = std::mem::take(&mut self.peers);
        for (peer, settings) in old.into_iter().zip(&self.settings.peers) {
            self.removed.push((settings.id, peer));
        }
        for (id, peer) in &mut self.removed {
            if place_of_peer(new, *id).is_none() {
                peer.part();
            }
        }
        for settings in &new.peers {
            let known = self.removed.iter().position(|(id, _)| *id == settings.id);
            let mut peer = match known {
                Some(place) => self.removed.swap_remove(place).1,
                None => PeerState::new(now, &settings.paths, new.groups.len()),
            };
            peer.reconfigure(&settings.paths, &moves.groups);
            if !peer.alive && !present.contains(&(settings.id, settings.paths.len())) {
                // It could not be heard before.
                peer.was_deaf(now);
            }
            self.peers.push(peer);
        }
        // The oldest are forgotten: there are never more nodes than this.
        let excess = self.removed.len().saturating_sub(32);
        self.removed.drain(..excess);
    }

    fn take_over(&mut self, now: Time, new: Settings) {
        let timing = (new.timing.heartbeat, new.timing.dead_after);
        if timing != (self.settings.timing.heartbeat, self.settings.timing.dead_after) {
            self.service = ServiceJudge::new(timing.0, timing.1);
        }
        self.gateways = Gateway::of(&new.groups, &self.gateways);
        self.keys = new.keys.iter().map(Authenticator::new).collect();
        self.settings_hash = messages::settings_hash(&new);
        self.settings = new;
        // No longer than before until the peers are known to promise for longer.
        self.lease = self.lease.min(whole_micros(self.settings.timing.lease));
        self.next_heartbeat = self.next_heartbeat.min(now + self.beat());
    }
}

impl GroupState {
    /// Peers have other places now. A promise to one that is gone binds until it ends.
    fn move_peers(&mut self, places: &[Option<usize>], ranks: Ranks, new: &Settings) {
        let to = |peer: usize| places[peer];
        if let Some(promise) = self.promise {
            match to(promise.peer) {
                Some(peer) => self.promise = Some(super::group::Promise { peer, ..promise }),
                None => {
                    self.bound_until = self.bound_until.max(promise.until);
                    self.vacant_since = self.vacant_since.max(promise.until);
                    self.promise = None;
                }
            }
        }
        self.pending = self.pending.and_then(|pending| {
            let path = PathIndex { peer: to(pending.path.peer)?, ..pending.path };
            // The path may be gone; the candidate asks again.
            new.peers[path.peer].paths.get(path.path)?;
            Some(super::group::Pending { path, ..pending })
        });
        self.released_to = self.released_to.and_then(to);
        if let Some(tenure) = self.tenure() {
            tenure.giving =
                tenure.giving.and_then(|giving| Some(super::group::Giving { to: to(giving.to)?, ..giving }));
        }
        let mut acknowledged = vec![None; ranks.peers.len()];
        for (sent, place) in self.acknowledged.iter().zip(places) {
            if let Some(place) = place {
                acknowledged[*place] = *sent;
            }
        }
        self.acknowledged = acknowledged;
        self.ranks = ranks;
    }
}

fn place_of_peer(settings: &Settings, id: NodeId) -> Option<usize> {
    settings.peers.iter().position(|peer| peer.id == id)
}

fn place_of_group(settings: &Settings, id: GroupId) -> Option<usize> {
    settings.groups.iter().position(|group| group.id == id)
}
