//! What the core shows of itself.

use crate::identity::PathIndex;
use crate::interface::{GroupView, PathView, PeerView, Role, Snapshot};
use crate::time::Time;

use super::Core;
use super::group::Stage;

impl Core {
    /// Writes the present state into `snapshot`, reusing its memory.
    pub fn show(&self, now: Time, snapshot: &mut Snapshot) {
        snapshot.groups.clear();
        self.show_spreads(&mut snapshot.spreads);
        snapshot.peers.clear();
        snapshot.paths.clear();
        snapshot.groups.extend((0..self.groups.len()).map(|index| self.show_group(now, index)));
        for (index, peer) in self.peers.iter().enumerate() {
            snapshot.peers.push(PeerView {
                alive: peer.alive,
                last_heard: peer.last_heard,
                voting: peer.voting,
                worst_gap: peer.gaps.worst,
                recent_gap: peer.gaps.recent(now),
                low_margins: peer.gaps.low,
                same_settings: peer.settings.is_none_or(|hash| hash == self.settings_hash),
            });
            snapshot.paths.extend(peer.paths.iter().enumerate().map(|(place, path)| PathView {
                path: PathIndex { peer: index, path: place },
                up: path.up,
                round_trip: path.round_trip,
                lost: path.lost,
            }));
        }
        snapshot.drained = self.drained;
        snapshot.alone = self.alone;
        snapshot.change = self.membership.change();
        snapshot.lease = self.lease;
        snapshot.resumed = self.resumed();
        snapshot.service = Some(self.service.health());
        snapshot.dropped = self.dropped;
    }

    fn show_group(&self, now: Time, index: usize) -> GroupView {
        let group = &self.groups[index];
        let lease_until = match group.stage {
            Stage::Active(tenure) if now < tenure.until => Some(tenure.until),
            Stage::Init
            | Stage::Passive
            | Stage::Standing(_)
            | Stage::Ready(_)
            | Stage::Active(_)
            | Stage::Fault(_) => None,
        };
        // Active only while the lease is valid, whatever was last announced.
        let role = match (group.role, lease_until) {
            (Role::Active, None) => Role::Passive,
            (role, _) => role,
        };
        let followed =
            group.binding_promise(now).filter(|promise| promise.holds).map(|promise| promise.epoch.node);
        GroupView {
            role,
            holder: lease_until.map(|_| self.settings.me).or(followed),
            epoch: group.own_epoch().or(group.top),
            lease_until,
            since: group.since,
            cause: group.cause,
            by_hand: group.by_hand,
            letting_go: group.grace.and_then(|grace| grace.let_go),
            rival: self.rival_lately(now, index),
            lapses: group.lapses,
            transitions: group.transitions,
        }
    }

    /// Whether this node holds a valid lease of the group. For the simulation's invariants; the map says the same.
    #[must_use]
    pub fn holds(&self, now: Time, group: crate::GroupIndex) -> bool {
        self.groups[group.0].holds(now)
    }
}
