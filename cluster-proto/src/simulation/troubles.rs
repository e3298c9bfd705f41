//! What goes wrong: each trouble's beginning and end, and the end of all of them.

use crate::interface::{Command, CommandId, Link, Phase, VoterSet};

use super::check::Broken;
use super::clock::{BootClock, MICROSECOND, MILLISECOND, TrueTime};
use super::host::{Note, node_of_peer};
use super::network::count;
use super::options::Profile;
use super::plan::{What, mac_of};
use super::random::Random;
use super::world::{Happening, World, tell};
use crate::identity::PathIndex;
use std::rc::Rc;

impl World<'_> {
    pub(super) fn trouble(&mut self, place: usize, begins: bool) -> Result<(), Broken> {
        let what = self.plan.troubles[place].what;
        tell!(self, "{} {what}", if begins { "BEGINS" } else { "ENDS" });
        self.changes(what, begins);
        match what {
            What::PathCut { from, to, path } => self.network.cut(from, to, path, begins),
            What::DirectionCut { from, to } => self.cut_heartbeats(from, to, begins),
            What::HeartbeatsCut { one, other } => {
                self.cut_heartbeats(one, other, begins);
                self.cut_heartbeats(other, one, begins);
            }
            What::Partition { one, other } => self.partition(one, other, begins),
            What::Split { first, second } => self.split(first, second, begins),
            What::DirectedCuts { seed, chance } => {
                for (from, to) in self.directed(seed, chance) {
                    tell!(self, "  from {from} to {to}");
                    self.cut_heartbeats(from, to, begins);
                }
            }
            What::Deaf { node } => {
                self.others(node).for_each(|other| self.cut_heartbeats(other, node, begins));
            }
            What::Mute { node } => {
                self.others(node).for_each(|other| self.cut_heartbeats(node, other, begins));
            }
            What::ServicePort { node, inward, outward } => {
                let ports = &mut self.network.ports[node];
                if inward {
                    count(&mut ports.service_in_cut, begins);
                }
                if outward {
                    count(&mut ports.service_out_cut, begins);
                }
            }
            What::PrivatePort { node } => count(&mut self.network.ports[node].private_cut, begins),
            What::Slow { from, to, by } => self.network.slow(from, to, by, begins),
            What::Pause { node } => self.pause(node, begins),
            What::Crash { node, disk_lost } => self.crash(node, disk_lost, begins),
            What::PowerOff { node, disk_lost } => self.power_off(node, disk_lost, begins),
            What::Link { node, gone } => self.link(node, gone, begins),
            What::AddressFails { node } => {
                self.hosts[node].spoilt = true;
                count(&mut self.hosts[node].address_fails, begins);
            }
            What::DiskFails { node } => count(&mut self.hosts[node].disk_fails, begins),
            What::Command { node, command } if begins => self.command(node, command),
            What::Garbage { node } if begins => self.garbage(node),
            What::Command { .. } | What::Garbage { .. } => {}
            What::PassiveCrash => {
                let holds = |node: usize| {
                    (0..self.plan.groups.len()).any(|group| self.hosts[node].serves(group, self.now))
                };
                let mut passive = (0..self.hosts.len()).filter(|&node| !holds(node));
                let turn = if self.options.is_pair() { 0 } else { place % self.options.hosts() };
                let passive = passive.clone().nth(turn).or_else(|| passive.next());
                match passive.filter(|_| self.can_spare_one()) {
                    Some(node) if begins => self.crash(node, false, true),
                    _ => self.restart_crashed(),
                }
            }
            What::Torn { node, other, crash } => {
                if self.options.is_pair() {
                    self.partition(node, other, begins);
                } else {
                    self.split(1 << node, 0, begins);
                }
                if crash { self.crash(node, false, begins) } else { self.pause(node, begins) }
            }
            What::HolderLost { how } if begins => self.lose_holder(how)?,
            What::HolderLost { .. } => {}
            What::Reload { node, back } if begins => self.reload(node, back),
            What::Restart { node, away } if begins => self.prepare_restart(node, away),
            What::Reload { .. } | What::Restart { .. } => {}
        }
        Ok(())
    }

    fn others(&self, node: usize) -> impl Iterator<Item = usize> + use<> {
        (0..self.hosts.len()).filter(move |&other| other != node)
    }

    /// The ordered pairs that lose their heartbeats.
    fn directed(&self, seed: u64, chance: u32) -> Vec<(usize, usize)> {
        let mut random = Random::new(seed);
        let pairs = (0..self.hosts.len()).flat_map(|from| self.others(from).map(move |to| (from, to)));
        pairs.filter(|_| random.per_million(chance)).collect()
    }

    pub(super) fn split(&mut self, first: u32, second: u32, begins: bool) {
        let side = |host: usize| (first >> host & 1, second >> host & 1 & !(first >> host));
        for one in 0..self.hosts.len() {
            for other in (one + 1..self.hosts.len()).filter(|&other| side(one) != side(other)) {
                self.partition(one, other, begins);
            }
        }
    }

    /// Whether a passive host may be lost without anything moving: with a majority only while all others vote.
    fn can_spare_one(&self) -> bool {
        let waited = (4 * self.plan.timing.dead_after + self.plan.timing.startup_wait).as_nanos();
        let all_run = self.hosts.iter().all(|host| host.daemon.is_some());
        let all_vote = self.restarted_at.is_none_or(|at| u128::from(self.now - at) > waited);
        !self.plan.by_majority() || (all_run && all_vote && self.options.voters() > self.options.enough())
    }

    fn cut_heartbeats(&mut self, from: usize, to: usize, begins: bool) {
        for path in 0..self.network.paths() {
            self.network.cut(from, to, path, begins);
        }
    }

    pub(super) fn partition(&mut self, one: usize, other: usize, begins: bool) {
        self.cut_heartbeats(one, other, begins);
        self.cut_heartbeats(other, one, begins);
        self.network.cut_link(one, other, begins);
    }

    pub(super) fn pause(&mut self, node: usize, begins: bool) {
        count(&mut self.hosts[node].paused, begins);
        if begins {
            self.checks.stops(node, self.now);
        } else if self.hosts[node].paused == 0 {
            self.wake_at(node, self.now);
        }
    }

    pub(super) fn crash(&mut self, node: usize, disk_lost: bool, begins: bool) {
        count(&mut self.hosts[node].crashed, begins);
        if begins {
            self.kill_daemon(node);
            self.lose_disk(node, disk_lost);
        } else {
            self.restart(node);
        }
    }

    fn restart_crashed(&mut self) {
        for node in 0..self.hosts.len() {
            if self.hosts[node].crashed > 0 {
                self.crash(node, false, false);
            }
        }
    }

    pub(super) fn power_off(&mut self, node: usize, disk_lost: bool, begins: bool) {
        count(&mut self.hosts[node].off, begins);
        if begins {
            self.kill_daemon(node);
            self.lose_disk(node, disk_lost);
            let host = &mut self.hosts[node];
            host.powered = false;
            host.forget_map();
            self.checks.forgets_tables(node);
            host.addresses.fill(false);
            for group in 0..self.plan.groups.len() {
                self.checks.tenure_ends(node, group);
            }
            self.update_link(node);
        } else if self.hosts[node].off == 0 {
            let booted = self.random.between(MILLISECOND, 100 * MILLISECOND);
            let host = &mut self.hosts[node];
            host.powered = true;
            host.clock = BootClock::new(self.now, booted, self.plan.hosts[node].drift);
            self.update_link(node);
            self.restart(node);
        }
    }

    fn lose_disk(&mut self, node: usize, lost: bool) {
        if lost {
            self.hosts[node].disk = 0;
            self.hosts[node].memory = None;
            self.checks.loses_disk(node);
        }
    }

    fn restart(&mut self, node: usize) {
        let host = &self.hosts[node];
        if host.powered && host.crashed == 0 && host.off == 0 && host.daemon.is_none() {
            // Whatever starts it now knows nothing of its being replaced.
            self.hosts[node].resumed = None;
            self.restarted_at = Some(self.now);
            self.start_daemon(node);
        }
    }

    pub(super) fn link(&mut self, node: usize, gone: bool, begins: bool) {
        let host = &mut self.hosts[node];
        count(if gone { &mut host.link_gone } else { &mut host.link_down }, begins);
        if gone && begins {
            host.addresses.fill(false);
        }
        self.update_link(node);
    }

    pub(super) fn update_link(&mut self, node: usize) {
        let host = &mut self.hosts[node];
        let link = if host.witness || host.link_gone > 0 {
            Link::Gone
        } else if host.link_down > 0 {
            Link::Down
        } else {
            Link::Up { mac: mac_of(node) }
        };
        self.network.ports[node].service_down = !host.powered || !matches!(link, Link::Up { .. });
        if host.link != link {
            host.link = link;
            let run = host.runs;
            let seen = self.now + self.random.between(10 * MICROSECOND, 2 * MILLISECOND);
            self.schedule(seen, Happening::Noted { node, run, link });
        }
    }

    fn command(&mut self, node: usize, command: Command) {
        if !matches!(command, Command::Promote { .. } | Command::Undrain) {
            self.hosts[node].spoilt = true;
        }
        self.commands += 1;
        let run = self.hosts[node].runs;
        self.note(node, run, Note::Command(CommandId(self.commands), command));
    }

    fn prepare_restart(&mut self, node: usize, away: Option<TrueTime>) {
        self.commands += 1;
        let id = CommandId(self.commands);
        let run = self.hosts[node].runs;
        if let Some(daemon) = &mut self.hosts[node].daemon
            && daemon.replacement.is_none()
        {
            daemon.replacement = Some((id, away));
            self.note(node, run, Note::Command(id, Command::PrepareRestart));
        }
    }

    /// The daemon has said that it is ready: its process is replaced.
    pub(super) fn replaced(&mut self, node: usize, run: u64) {
        let shown = self.shown(node);
        let host = &mut self.hosts[node];
        if host.paused > 0 {
            self.schedule(self.now + MILLISECOND, Happening::Replaced { node, run });
            return;
        }
        let Some(daemon) = host.daemon.as_mut().filter(|daemon| daemon.run == run) else { return };
        let Some((id, away)) = daemon.replacement.take() else { return };
        daemon.core.show(shown, &mut daemon.snapshot);
        let Some(resumed) = daemon.snapshot.resumed.take() else {
            self.note(node, run, Note::Command(id, Command::CancelRestart));
            return;
        };
        self.report.replaced += 1;
        let holds = resumed.groups.iter().any(|(_, group)| group.lease.is_some());
        self.report.holders_replaced += u64::from(holds);
        host.resumed = Some(resumed);
        host.gone = away.is_none();
        tell!(self, "node {node}: is replaced, away for {away:?}");
        self.kill_daemon(node);
        if let Some(away) = away {
            self.schedule(self.now + away, Happening::Returns(node));
        }
    }

    /// The next daemon runs.
    pub(super) fn returns(&mut self, node: usize) {
        let host = &self.hosts[node];
        if host.powered && host.crashed == 0 && host.off == 0 {
            self.start_daemon(node);
        }
    }

    /// A node goes over to its next file, or to the one before, if it may.
    pub(super) fn reload(&mut self, node: usize, back: bool) {
        let host = &mut self.hosts[node];
        let naive = self.options.planted == Some(super::options::Planted::NaiveReload);
        let has_it = |&file: &usize| self.plan.files[file].hosts[node];
        let file = if back {
            (0..host.file).rev().find(has_it)
        } else {
            (host.file + 1..self.plan.files.len()).find(has_it)
        };
        let Some(file) = file else { return };
        let settings = self.plan.settings(node, file);
        let run = host.runs;
        if !self.plan.turns_round {
            // A careful operator goes one step at a time on every node, and takes back only what nobody can rely on.
            let memory = host.daemon.as_ref().map_or(host.memory, |daemon| Some(daemon.core.memory()));
            let has = VoterSet::of(&self.plan.settings(node, host.file));
            let settled = memory.is_none_or(|memory| memory.former.is_none() && memory.current == has);
            let change = memory.and_then(|memory| memory.former);
            let same_voters = VoterSet::of(&settings) == has;
            let may = if back && !same_voters {
                change == Some((VoterSet::of(&settings), Phase::Open))
            } else {
                settled
            };
            if !may {
                return;
            }
        }
        if naive {
            host.file = file;
            host.memory = None;
            self.kill_daemon(node);
            self.start_daemon(node);
        } else if host.daemon.is_some() {
            self.note(node, run, Note::Reconfigure(file, Box::new(settings)));
        } else if host.memory.is_none_or(|memory| memory.admits(&settings).is_ok()) {
            // Without a disk the file is as good as any.
            host.file = file;
        } else {
            tell!(self, "node {node} would not start with file {file}");
        }
    }

    /// What was sent before arrives again, whole, broken, on other paths and back at its sender.
    fn garbage(&mut self, node: usize) {
        let sockets = (self.hosts.len() - 1) * self.network.paths();
        for _ in 0..self.random.between(20, 200) {
            let Some((from, to, path, bytes)) = self.some_recorded() else { return };
            let mut bytes = bytes.to_vec();
            let place = self.random.next() as usize % bytes.len();
            let same_path = path.peer * self.network.paths() + path.path;
            let any_path = self.random.next() as usize % sockets;
            let sender = node_of_peer(node, any_path / self.network.paths());
            if any_path % self.network.paths() >= self.plan.paths_between(node, sender) {
                continue;
            }
            let path = match self.random.between(0, 5) {
                0 => {
                    bytes[place] ^= 1 << self.random.between(0, 7);
                    any_path
                }
                1 => {
                    bytes.truncate(place);
                    any_path
                }
                2 => {
                    bytes.push(0);
                    any_path
                }
                // Its own messages, from elsewhere.
                3 if from == node => any_path,
                _ if to == node => same_path,
                _ => continue,
            };
            let at = self.now + self.random.between(0, MILLISECOND);
            self.schedule(at, Happening::Arrives { to: node, path, bytes: bytes.into() });
        }
    }

    fn some_recorded(&mut self) -> Option<(usize, usize, PathIndex, Rc<[u8]>)> {
        let place = self.random.next() as usize % self.recorded.len().max(1);
        self.recorded.get(place).cloned()
    }

    pub(super) fn heals(&mut self) {
        if self.options.profile == Profile::HolderLost {
            return;
        }
        tell!(self, "HEALS");
        self.network.heal(u64::try_from(self.plan.timing.heartbeat.as_nanos()).unwrap_or(0));
        for node in 0..self.hosts.len() {
            let stopping = self.hosts[node].daemon.is_some();
            if stopping && self.has_resigned(node) {
                // A daemon that was told to stop ends, and is started again.
                self.kill_daemon(node);
                self.restart(node);
            }
            if std::mem::take(&mut self.hosts[node].gone) {
                self.restart(node);
            }
            // What still waits for its turn to be replaced is called off.
            let waits = self.hosts[node].daemon.as_mut().and_then(|daemon| daemon.replacement.take());
            if let Some((id, _)) = waits {
                let run = self.hosts[node].runs;
                self.note(node, run, Note::Command(id, Command::CancelRestart));
            }
            self.command(node, Command::Undrain);
        }
        if self.options.profile.reloads() {
            let beat = u64::try_from(self.plan.timing.heartbeat.as_nanos()).unwrap_or(0);
            for turn in 1..8 {
                for node in 0..self.hosts.len() {
                    let at = self.now + turn * 8 * beat + self.random.between(0, 4 * beat);
                    self.schedule(at, Happening::Reloads(node));
                }
            }
        }
    }

    fn has_resigned(&self, node: usize) -> bool {
        let resigned = What::Command { node, command: Command::Resign };
        self.plan.troubles.iter().any(|trouble| trouble.what == resigned)
    }
}
