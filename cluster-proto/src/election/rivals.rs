//! Strangers: hosts outside the cluster that say that a VIP is theirs (RFC 5227 section 2.4, RFC 4862 section 5.4).
//!
//! A rival changes nothing about who holds: the cluster cannot know who is right, and giving way to whoever claims an
//! address would hand it to anybody. The holder tells the operator and shows itself again, so that its clients come back;
//! at most once a second, so that two clusters with one VIP do not talk each other to death.

use std::net::IpAddr;
use std::time::Duration;

use super::group::Stage;
use super::{Core, event};
use crate::identity::{GroupIndex, Mac};
use crate::interface::{Effect, Effects, EventKind, Rival};
use crate::time::Time;

/// One rival is told of at most this often.
const TOLD_PAUSE: Duration = Duration::from_secs(10);
/// The holder answers rivals' claims at most this often.
const DEFENCE_PAUSE: Duration = Duration::from_secs(1);
/// The holder asks this often whether somebody else has one of the group's VIPs; each of them in its turn.
const CHECK_PAUSE: Duration = Duration::from_secs(10);
/// A rival that was not seen for this long is not shown any more.
const SHOWN_FOR: Duration = Duration::from_secs(60);

impl Core {
    /// Somebody says that a VIP is his, from an Ethernet address that the data plane does not know.
    pub(super) fn claimed(&mut self, now: Time, address: IpAddr, mac: Mac, out: &mut Effects) {
        if self.service_mac() == Some(mac) || self.peers.iter().any(|peer| peer.mac == Some(mac)) {
            return;
        }
        // A peer that has had no time to say what its address is may well be the one.
        let settled = now.since(self.started) >= self.settings.timing.startup_wait;
        if !settled && self.peers.iter().any(|peer| peer.mac.is_none()) {
            return;
        }
        for index in 0..self.groups.len() {
            let group = &self.settings.groups[index];
            // Whoever wears the virtual Ethernet address is the holder, unless that is this node.
            let holders = group.virtual_macs.contains(&mac) && !self.groups[index].holds(now);
            if group.vips.contains(&address) && !holders {
                self.rival(now, index, address, mac, out);
            }
        }
    }

    /// A stranger claims a VIP of the group.
    pub(super) fn rival(&mut self, now: Time, index: usize, address: IpAddr, mac: Mac, out: &mut Effects) {
        let group = &mut self.groups[index];
        group.rival = Some(Rival { address, mac, at: now });
        let told = |&(at, who): &(Time, Mac)| who == mac && now.since(at) < TOLD_PAUSE;
        if !group.rival_said.as_ref().is_some_and(told) {
            group.rival_said = Some((now, mac));
            event(out, now, EventKind::Rival { group: GroupIndex(index), address, mac });
        }
        let answered = group.rival_answered.is_some_and(|at| now.since(at) < DEFENCE_PAUSE);
        if group.holds(now) && !answered {
            group.rival_answered = Some(now);
            out.list.push(Effect::Announce { group: GroupIndex(index) });
        }
    }

    /// A holder asks now and then who has its VIPs: a second cluster with another key, on a link that has come together, may
    /// have nothing to say of its own accord. Nobody of this cluster answers.
    pub(super) fn look_for_rivals(&mut self, now: Time, index: usize, out: &mut Effects) {
        let vips = &self.settings.groups[index].vips;
        let group = &mut self.groups[index];
        let held = matches!(group.stage, Stage::Active(_)) && group.holds(now);
        match group.rival_check.filter(|_| held) {
            Some((at, place)) if now >= at => {
                if let Some(&address) = vips.get(place % vips.len().max(1)) {
                    out.list.push(Effect::Probe { address });
                }
                group.rival_check = Some((now + CHECK_PAUSE, place + 1));
            }
            Some(_) => {}
            // What holds since just now was asked for before it was taken.
            None => group.rival_check = held.then_some((now + CHECK_PAUSE, 0)),
        }
    }

    /// Who claims a VIP of the group, as seen lately.
    pub(super) fn rival_lately(&self, now: Time, index: usize) -> Option<Rival> {
        self.groups[index].rival.filter(|rival| now.since(rival.at) < SHOWN_FOR)
    }
}
