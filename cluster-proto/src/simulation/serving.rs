//! Rule I3 and I5: somebody serves where somebody can, and what is served stays where it is.

use std::time::Duration;

use crate::interface::Link;
use crate::settings::Failback;

use super::check::Broken;
use super::clock::{MICROSECOND, MILLISECOND, TrueTime};
use super::options::{Profile, Rule};
use super::plan::{Loss, What};
use super::world::{Happening, World};

impl World<'_> {
    fn holder(&self, group: usize) -> Vec<usize> {
        (0..self.hosts.len()).filter(|&node| self.hosts[node].serves(group, self.now)).collect()
    }

    pub(super) fn exactly_one_serves(&self) -> Result<(), Broken> {
        if self.plan.turns_round {
            return Ok(());
        }
        for group in 0..self.plan.groups.len() {
            let holders = self.holder(group);
            if holders.len() != 1 {
                let what =
                    format!("group {group} is held by {holders:?} after everything has been well for long");
                return Err((Rule::SomebodyServes, what));
            }
        }
        Ok(())
    }

    /// All nodes that run go by one table for each group that has one; at the end, when everything has been well for long.
    pub(super) fn one_table_each(&self) -> Result<(), Broken> {
        // A daemon that was replaced at the very end has the table of before.
        if self.plan.turns_round || self.options.profile == Profile::Restarts {
            return Ok(());
        }
        (0..self.plan.groups.len()).try_for_each(|group| match self.holder(group)[..] {
            [holder] => self.one_table(group, holder),
            _ => Ok(()),
        })
    }

    /// All nodes that run go by the holder's table, if the group has one.
    fn one_table(&self, group: usize, holder: usize) -> Result<(), Broken> {
        if self.plan.groups[group].spread.is_none() || self.options.profile == Profile::Reloads {
            return Ok(());
        }
        let version = |node: usize| {
            let host = &self.hosts[node];
            let place = self.plan.files[host.file].place_of_group(group)?;
            let core = &host.daemon.as_ref()?.core;
            Some(core.spread_table(crate::GroupIndex(place)).map(|table| table.version))
        };
        // The holder's daemon may be about to be replaced.
        let Some(expected) = version(holder) else { return Ok(()) };
        let nodes = (0..self.hosts.len()).filter(|&node| !self.hosts[node].witness);
        let other =
            nodes.map(|node| (node, version(node))).find(|(_, found)| found.is_some_and(|it| it != expected));
        match other {
            Some((node, found)) => Err((
                Rule::OneTable,
                format!(
                    "node {node} has table {found:?} of group {group}, the holder {expected:?}, after everything has been well for long"
                ),
            )),
            None if expected.is_none() => {
                Err((Rule::OneTable, format!("there is no table of group {group}")))
            }
            None => Ok(()),
        }
    }

    pub(super) fn lose_holder(&mut self, how: Loss) -> Result<(), Broken> {
        self.exactly_one_serves()?;
        let holder = self.holder(0)[0];
        match how {
            Loss::Crash => self.crash(holder, false, true),
            Loss::Pause => self.pause(holder, true),
            Loss::PowerOff => self.power_off(holder, false, true),
            Loss::Partition => self.split(1 << holder, 0, true),
            Loss::Carrier => self.link(holder, false, true),
            Loss::ServiceCut => {
                self.network.ports[holder].service_in_cut += 1;
                self.network.ports[holder].service_out_cut += 1;
            }
        }
        self.lost = Some((holder, self.now));
        let in_time = self.now + self.takeover_bound(how);
        // Of two voters that decide by majority none can go on without the other's word; a host that lives can give it.
        let dumb = matches!(how, Loss::Crash | Loss::Pause | Loss::PowerOff | Loss::Partition);
        let left = self.options.voters() - usize::from(dumb && self.options.votes(holder));
        if !self.plan.by_majority() || left >= self.options.enough() {
            self.schedule(in_time, Happening::Deadline);
        }
        Ok(())
    }

    /// D and two round trips of the last fault (I3), and what this host takes for its chores.
    fn takeover_bound(&self, how: Loss) -> TrueTime {
        let timing = &self.plan.timing;
        let in_true_time = |duration: Duration| {
            let nanos = i128::try_from(duration.as_nanos()).unwrap_or(0);
            let drift = i128::from(self.plan.hosts.iter().map(|host| host.drift).min().unwrap_or(0));
            TrueTime::try_from(nanos * 1_000_000 / (1_000_000 + drift)).unwrap_or(0)
        };
        let chores = self.plan.driver.address + 12 * self.plan.driver.wakes_late + 100 * MICROSECOND;
        let round_trips = 4 * self.network.delay();
        let dead = in_true_time(timing.dead_after.max(timing.lease * 11 / 10));
        match how {
            Loss::Crash | Loss::Pause | Loss::PowerOff | Loss::Partition => dead + round_trips + chores,
            Loss::Carrier => round_trips + chores + 2 * MILLISECOND,
            // Three silent heartbeats, the judgement, and the hand-over.
            Loss::ServiceCut => {
                let pace = timing.heartbeat.max(Duration::from_millis(2));
                in_true_time(timing.heartbeat * 4 + pace * 4 + timing.dead_after) + round_trips + chores
            }
        }
    }

    /// A lease was written.
    pub(super) fn note_survivor(&mut self, node: usize) {
        if let Some((holder, since)) = self.lost
            && node != holder
            && self.report.outage.is_none()
        {
            self.report.outage = Some(Duration::from_nanos(self.now - since));
        }
    }

    pub(super) fn survivor_serves(&mut self) -> Result<(), Broken> {
        let Some((holder, since)) = self.lost else { return Ok(()) };
        if self.others_serve(holder) {
            return Ok(());
        }
        let passed = Duration::from_nanos(self.now - since);
        let what = format!("nobody serves {passed:?} after the holder, node {holder}, was lost");
        Err((Rule::SomebodyServes, what))
    }

    fn others_serve(&self, holder: usize) -> bool {
        (0..self.hosts.len()).any(|node| node != holder && self.hosts[node].serves(0, self.now))
    }

    /// Something moved: allowed only while something is wrong.
    pub(super) fn moved(&self, what: &str, node: usize, group: usize) -> Result<(), Broken> {
        if self.now > self.plan.settled_at
            && !self.plan.turns_round
            && self.options.profile != Profile::HolderLost
        {
            return Err((
                Rule::NoMove,
                format!("{what} of node {node}, group {group}, although all is well"),
            ));
        }
        Ok(())
    }

    // Somebody serves while other things are wrong (I3), and stays when they are mended (I5).

    /// Something begins or ends to be wrong.
    pub(super) fn changes(&mut self, what: What, begins: bool) {
        let mends_network = !begins
            && matches!(
                what,
                What::Split { .. } | What::DirectedCuts { .. } | What::Deaf { .. } | What::Mute { .. }
            );
        let may_stay = mends_network && self.calm.reached && self.nothing_else_moves();
        for group in 0..self.plan.groups.len() {
            let holders = self.holder(group);
            self.calm.stays[group] = holders.first().copied().filter(|_| may_stay && holders.len() == 1);
        }
        self.calm.reached = false;
        self.calm.change += 1;
        if self.plan.by_majority() && self.options.profile != Profile::HolderLost {
            let change = self.calm.change;
            self.schedule(self.now + self.calm_after(), Happening::Quiet { change });
        }
    }

    /// Whether nobody wants to move a group but by way of an election.
    fn nothing_else_moves(&self) -> bool {
        self.plan.is_undisturbed()
            && self.plan.groups.iter().all(|group| group.failback == Failback::Never)
            && self.hosts.iter().all(|host| !host.spoilt)
    }

    /// How long an election may take at the most, with a voter that restarts in the beginning and a candidate of the last
    /// rank.
    fn calm_after(&self) -> TrueTime {
        let timing = &self.plan.timing;
        let dead = timing.dead_after.max(timing.lease * 11 / 10);
        let ranks = u32::try_from(self.options.nodes).unwrap_or(u32::MAX);
        let longest = timing.startup_wait + dead * (3 + ranks) + timing.heartbeat * 12;
        let nanos = TrueTime::try_from(longest.as_nanos()).unwrap_or(TrueTime::MAX / 2);
        let driver = &self.plan.driver;
        nanos * 112 / 100
            + 4 * driver.address
            + 2 * driver.disk
            + 40 * driver.wakes_late
            + 20 * self.network.delay()
    }

    /// Nothing has changed for so long that somebody must serve whom a majority can hear.
    pub(super) fn quiet(&mut self, change: u64) -> Result<(), Broken> {
        if self.options.profile.reloads() || self.options.profile == Profile::FailedRestarts {
            // Who is enough changes from moment to moment; the end shows whether somebody serves.
            return Ok(());
        }
        if change != self.calm.change || self.now >= self.plan.heal_at || !self.plan.is_undisturbed() {
            return Ok(());
        }
        self.calm.reached = true;
        self.report.quiet += 1;
        for group in 0..self.plan.groups.len() {
            if !self.holder(group).is_empty() {
                continue;
            }
            let able = (0..self.options.nodes).filter(|&node| self.is_able(node));
            if let Some((node, others)) = able.map(|node| (node, self.clique(node))).find(|(_, others)| {
                others.iter().filter(|&&other| self.options.votes(other)).count() >= self.options.enough()
            }) {
                let what = format!(
                    "nobody holds group {group}, although node {node} is well and {others:?} have heard one another for long"
                );
                return Err((Rule::SomebodyServes, what));
            }
        }
        Ok(())
    }

    fn runs(&self, node: usize) -> bool {
        let host = &self.hosts[node];
        host.powered && host.paused == 0 && host.daemon.is_some()
    }

    fn is_able(&self, node: usize) -> bool {
        let host = &self.hosts[node];
        self.runs(node)
            && !host.spoilt
            && matches!(host.link, Link::Up { .. })
            && host.disk_fails == 0
            && self.network.reaches_clients(node)
    }

    /// Hosts, `node` among them, of which each hears each.
    fn clique(&self, node: usize) -> Vec<usize> {
        let mut clique = vec![node];
        for other in (0..self.hosts.len()).filter(|&other| other != node && self.runs(other)) {
            let heard = |&one: &usize| {
                let paths = self.plan.paths_between(one, other);
                self.network.is_open(one, other, paths) && self.network.is_open(other, one, paths)
            };
            if clique.iter().all(heard) {
                clique.push(other);
            }
        }
        clique
    }

    /// A tenure begins: not where somebody held through a partition that is over (I5).
    pub(super) fn may_move(&self, node: usize, group: usize) -> Result<(), Broken> {
        match self.calm.stays[group] {
            Some(holder) if holder != node => {
                let what = format!(
                    "node {node} takes group {group}, which node {holder} held when the network healed"
                );
                Err((Rule::NoMove, what))
            }
            Some(_) | None => Ok(()),
        }
    }
}

impl World<'_> {
    /// A tenure begins: the node must not have more groups by it than it may.
    pub(super) fn has_room(&self, node: usize) -> Result<(), Broken> {
        let Some(most) = self.plan.max_groups(node) else { return Ok(()) };
        let held =
            (0..self.plan.groups.len()).filter(|&group| self.hosts[node].serves(group, self.now)).count();
        if held > most {
            return Err((Rule::Capacity, format!("node {node} holds {held} groups, and may take {most}")));
        }
        Ok(())
    }
}

/// What is known of the time since the last change.
#[derive(Clone, Debug)]
pub(super) struct Calm {
    /// Counts changes.
    change: u64,
    /// Enough time has passed since the last one for any election.
    reached: bool,
    /// By group: who held it when the network was mended after such a time.
    stays: Vec<Option<usize>>,
}

impl Calm {
    pub(super) fn new(groups: usize) -> Self {
        Self { change: 0, reached: false, stays: vec![None; groups] }
    }
}
