//! What becomes of connections at a hand-over: for the group's grace the new holder and the old one send each other what
//! is the other's, so that connections end where they are and everything new begins on the new holder.
//!
//! Who holds the group is not decided here: a grace gives nobody a lease, and nothing waits for it.

use std::time::Duration;

use crate::identity::GroupIndex;
use crate::interface::{Effect, Effects, Side};
use crate::time::Time;
use crate::wire::Reason;

use super::Core;
use super::group::{Grace, GroupState, Stage};
use super::tenure::handover_patience;

/// How long the old holder sends over what comes to it, though it has no connection left: until then the last clients
/// have heard who holds the group now.
const SETTLING: Duration = Duration::from_secs(1);
/// How long the data plane lets the old holder say goodbye to the connections that are left when the grace ends.
const GOODBYE: Duration = Duration::from_millis(500);

impl Core {
    /// Ready for the group: what its holder sends over when it lets go is accepted from here on, lease or not.
    pub(super) fn receive_connections(&mut self, now: Time, index: usize, out: &mut Effects) {
        let Some(promise) = self.groups[index].promise else { return };
        let Some(other) = self.peers[promise.peer].mac else { return };
        if self.settings.groups[index].grace == Duration::ZERO {
            return;
        }
        let until = now + handover_patience(self.settings.timing.dead_after);
        self.begin_grace(index, Grace { side: Side::New, other, since: now, until, let_go: None }, out);
    }

    /// The lease begins that was waited for: from now on connections that only the old holder knows are sent over.
    pub(super) fn take_connections(&mut self, now: Time, index: usize, out: &mut Effects) {
        let until = now + self.settings.groups[index].grace;
        match self.groups[index].grace {
            Some(grace) if grace.side == Side::New => self.begin_grace(index, Grace { until, ..grace }, out),
            Some(_) => self.end_grace(now, index, out),
            None => {}
        }
    }

    /// About to go dark for a peer that is ready: connections go on here for a while, and everything else goes there.
    pub(super) fn hand_over_connections(
        &mut self,
        now: Time,
        index: usize,
        peer: usize,
        reason: Reason,
        out: &mut Effects,
    ) {
        self.hand_over_entry(now, index, out);
        let term = self.settings.groups[index].grace;
        let receives = self.peers[peer].claims[index].is_some_and(|claim| claim.receives);
        let Some(other) = self.peers[peer].mac.filter(|_| receives && term > Duration::ZERO) else { return };
        // Of a daemon that stops nothing is left to serve connections with, but it can send over what still comes.
        let let_go = (reason != Reason::Resign).then_some(now + term);
        let until =
            let_go.map_or(now + handover_patience(self.settings.timing.dead_after), |at| at + GOODBYE);
        self.begin_grace(index, Grace { side: Side::Old, other, since: now, until, let_go }, out);
    }

    /// The group has no connection on this node, or none any more.
    pub(super) fn no_connections(&mut self, now: Time, index: usize) {
        let group = &mut self.groups[index];
        // Whoever holds it by then has it watched anew.
        group.watched_until = Time::ZERO;
        if matches!(group.stage, Stage::Active(_)) {
            group.idle_at = Some(now);
        }
        if let Some(grace) = &mut self.groups[index].grace
            && let Some(at) = grace.let_go
        {
            grace.let_go = Some(at.min(grace.since + SETTLING));
        }
    }

    pub(super) fn grace_timers(&mut self, now: Time, index: usize, out: &mut Effects) {
        let Some(grace) = &mut self.groups[index].grace else { return };
        if grace.let_go.is_some_and(|at| now >= at) {
            grace.let_go = None;
            out.list.push(Effect::LetGo { group: GroupIndex(index) });
        } else if grace.let_go.is_none() && now >= grace.until {
            self.groups[index].grace = None;
        }
    }

    /// No packet is sent over any more. The VIPs stay where they are.
    pub(super) fn end_grace(&mut self, now: Time, index: usize, out: &mut Effects) {
        if let Some(grace) = self.groups[index].grace.take()
            && now < grace.until
        {
            out.list.push(Effect::EndGrace { group: GroupIndex(index) });
        }
    }

    fn begin_grace(&mut self, index: usize, grace: Grace, out: &mut Effects) {
        self.groups[index].grace = Some(grace);
        let Grace { side, other, until, .. } = grace;
        out.list.push(Effect::Grace { group: GroupIndex(index), side, other, until });
    }
}

impl GroupState {
    /// Which end of a hand-over this node is, if there was one lately.
    pub(super) fn side(&self) -> Option<Side> {
        self.grace.map(|grace| grace.side)
    }

    /// Whether this node has given the group up and still serves the connections that it had.
    pub(super) fn serves_connections(&self) -> bool {
        self.let_go_at() != Time::NEVER
    }

    /// When the VIPs are to be taken off.
    pub(super) fn let_go_at(&self) -> Time {
        self.grace.and_then(|grace| grace.let_go).unwrap_or(Time::NEVER)
    }
}
