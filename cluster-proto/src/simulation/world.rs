//! True time and everything that happens in it: arrivals, wakes, troubles.

use std::collections::{BinaryHeap, VecDeque};
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::Duration;

use crate::identity::{GroupIndex, Incarnation, Mac, PathIndex};
use crate::interface::{Command, CommandId, Effects, Input, Link, Snapshot, Start};
use crate::{Core, Time};

use super::check::{Broken, Checks};
use super::clock::{BootClock, MICROSECOND, MILLISECOND, TrueTime};
use super::host::{Daemon, Host, MapEntry, Note, Phase, Socket, node_of_peer, peer_of_node};
use super::network::{Fate, Network, count};
use super::options::{Options, Planted, Profile, Report, Rule};
use super::plan::{CLIENTS, Loss, Plan, What, mac_of};
use super::random::Random;

/// How many datagrams are kept to be replayed.
const RECORDED: usize = 256;
/// How often a holder is told whom it serves.
const SERVED_EVERY: TrueTime = 20 * MILLISECOND;

/// The whole simulation.
pub(super) struct World<'a> {
    pub(super) options: &'a Options,
    pub(super) plan: &'a Plan,
    pub(super) random: Random,
    pub(super) now: TrueTime,
    pub(super) step: u64,
    queue: BinaryHeap<Scheduled>,
    scheduled: u64,
    pub(super) hosts: Vec<Host>,
    pub(super) network: Network,
    pub(super) checks: Checks,
    pub(super) report: Report,
    pub(super) effects: Effects,
    /// By sender, receiver and path of the receiver: datagrams sent.
    recorded: VecDeque<(usize, usize, PathIndex, Rc<[u8]>)>,
    commands: u64,
    pub(super) last_holder: Vec<Option<usize>>,
    /// The survivor of a lost holder, since when it should take over, and by when.
    lost: Option<(usize, TrueTime, TrueTime)>,
    timeline: Option<VecDeque<String>>,
}

/// Something that happens at a point in true time.
#[derive(Clone, Debug)]
enum Happening {
    Boots(usize),
    Arrives { to: usize, path: usize, bytes: Rc<[u8]> },
    Wakes(usize),
    Asked { by: usize, node: usize, address: Ipv4Addr },
    Answered { node: usize, address: Ipv4Addr, mac: Mac },
    AddressDone { node: usize, run: u64 },
    DiskDone { node: usize, run: u64, below: u64 },
    Noted { node: usize, run: u64, link: Link },
    Serves,
    Begins(usize),
    Ends(usize),
    Heals,
    Deadline,
}

/// A happening and its time; of two at the same time the one scheduled first happens first.
#[derive(Clone, Debug)]
struct Scheduled {
    at: TrueTime,
    order: u64,
    happening: Happening,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        // The heap's top is its greatest, and the earliest comes first.
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

/// Writes a line of the timeline, which is formatted only in a run that is repeated for it.
macro_rules! tell {
    ($world:expr, $($words:tt)*) => {
        if $world.is_told() {
            let line = format!($($words)*);
            $world.write(line);
        }
    };
}
pub(super) use tell;

impl<'a> World<'a> {
    /// A world in which nothing has happened yet. `told`: how many lines of the timeline to keep.
    pub(super) fn new(options: &'a Options, plan: &'a Plan, told: usize) -> Self {
        let mut random = Random::new(options.seed.rotate_left(32) ^ 0xdead);
        let nodes = options.nodes;
        let groups = plan.groups.len();
        let hosts =
            plan.hosts.iter().enumerate().map(|(node, host)| {
                Host::new(BootClock::new(0, host.clock_at_boot, host.drift), node, groups)
            });
        let mut world = Self {
            options,
            plan,
            now: 0,
            step: 0,
            queue: BinaryHeap::new(),
            scheduled: 0,
            hosts: hosts.collect(),
            network: Network::new(nodes, &plan.paths, plan.quality),
            checks: Checks::new(nodes, groups, &plan.timing),
            report: Report::default(),
            effects: Effects::default(),
            recorded: VecDeque::new(),
            commands: 0,
            last_holder: vec![None; groups],
            lost: None,
            timeline: (told > 0).then(|| VecDeque::with_capacity(told)),
            random: Random::new(random.next()),
        };
        for (node, host) in plan.hosts.iter().enumerate() {
            world.schedule(host.starts_at, Happening::Boots(node));
        }
        for (place, trouble) in plan.troubles.iter().enumerate() {
            world.schedule(trouble.at, Happening::Begins(place));
            world.schedule(trouble.at.saturating_add(trouble.lasts), Happening::Ends(place));
        }
        world.schedule(plan.heal_at, Happening::Heals);
        world.schedule(SERVED_EVERY, Happening::Serves);
        world
    }

    /// Runs to the end of the plan, or to the first broken rule.
    pub(super) fn run(&mut self) -> Result<(), Broken> {
        while let Some(Scheduled { at, happening, .. }) = self.queue.pop() {
            if at > self.plan.end {
                break;
            }
            self.now = at;
            self.step += 1;
            self.happens(happening)?;
            let began = self.checks.holders(&self.hosts, self.step, self.now)?;
            self.report.overlaps += began;
        }
        self.now = self.plan.end;
        self.report.steps = self.step;
        self.report.simulated = Duration::from_nanos(self.plan.end);
        if self.options.profile != Profile::HolderLost {
            self.exactly_one_serves()?;
        }
        Ok(())
    }

    /// The timeline's last lines.
    pub(super) fn take_timeline(&mut self) -> Vec<String> {
        self.timeline.take().map(Vec::from).unwrap_or_default()
    }

    pub(super) fn is_told(&self) -> bool {
        self.timeline.is_some()
    }

    pub(super) fn write(&mut self, line: String) {
        let (step, now) = (self.step, self.now);
        if let Some(timeline) = &mut self.timeline {
            if timeline.len() == timeline.capacity() {
                timeline.pop_front();
            }
            timeline.push_back(format!("{step:>7} {:>12.6} ms  {line}", now as f64 / 1e6));
        }
    }

    fn schedule(&mut self, at: TrueTime, happening: Happening) {
        self.scheduled += 1;
        self.queue.push(Scheduled { at, order: self.scheduled, happening });
    }

    fn happens(&mut self, happening: Happening) -> Result<(), Broken> {
        match happening {
            Happening::Boots(node) => self.start_daemon(node),
            Happening::Arrives { to, path, bytes } => self.arrives(to, path, bytes),
            Happening::Wakes(node) => self.wakes(node)?,
            Happening::Asked { by, node, address } => self.asked(by, node, address),
            Happening::Answered { node, address, mac } => {
                if let Some(daemon) = &mut self.hosts[node].daemon
                    && daemon.arp.len() < 64
                {
                    daemon.arp.push_back((address, mac));
                    self.rouse(node);
                }
            }
            Happening::AddressDone { node, run } => self.address_done(node, run),
            Happening::DiskDone { node, run, below } => self.disk_done(node, run, below),
            Happening::Noted { node, run, link } => self.note(node, run, Note::Link(link)),
            Happening::Serves => self.tell_served(),
            Happening::Begins(place) => self.trouble(place, true)?,
            Happening::Ends(place) => self.trouble(place, false)?,
            Happening::Heals => self.heals(),
            Happening::Deadline => self.survivor_serves()?,
        }
        Ok(())
    }

    // Daemons.

    fn start_daemon(&mut self, node: usize) {
        let groups = self.plan.groups.len();
        let host = &mut self.hosts[node];
        if !host.powered || host.daemon.is_some() {
            return;
        }
        let now = host.clock.shows(self.now);
        let link_up = matches!(host.link, Link::Up { .. });
        let mut adopted = Vec::new();
        for group in 0..groups {
            let entry = host.map[group];
            match entry.epoch {
                Some(epoch) if now < entry.until && link_up => {
                    adopted.push((GroupIndex(group), epoch, entry.until));
                    self.report.adopted += 1;
                }
                Some(_) | None => {
                    host.map[group] = MapEntry::EMPTY;
                    host.addresses[group] = false;
                    self.checks.tenure_ends(node, group);
                }
            }
        }
        host.runs += 1;
        let incarnation = Incarnation(self.random.next().max(1));
        let mut started = now;
        if self.options.planted == Some(Planted::PromisesForgotten) {
            started = now - self.plan.timing.dead_after * 3 - self.plan.timing.startup_wait;
        }
        let start = Start {
            now: started,
            incarnation,
            reserved_epochs: host.disk,
            adopted: adopted.clone(),
            link: host.link,
        };
        let sockets = (self.options.nodes - 1) * self.network.paths();
        host.daemon = Some(Daemon {
            run: host.runs,
            core: Core::new(self.plan.settings(node), &start),
            sockets: vec![Socket::default(); sockets],
            arp: VecDeque::new(),
            notes: VecDeque::new(),
            pending: VecDeque::new(),
            processing: None,
            phase: Phase::Starting,
            armed: now,
            wakes_at: TrueTime::MAX,
            snapshot: Snapshot::default(),
            jobs: VecDeque::new(),
            hurried: 0,
            has_read: false,
        });
        self.checks.goes_on(node);
        if host.paused > 0 {
            self.checks.stops(node, self.now);
        }
        let (run, reserved) = (host.runs, host.disk);
        tell!(self, "node {node}: daemon starts, run {run}, reserved {reserved}, adopts {adopted:?}");
        self.wake_at(node, self.now);
    }

    fn kill_daemon(&mut self, node: usize) {
        if self.hosts[node].daemon.take().is_some() {
            self.checks.stops(node, self.now);
        }
    }

    /// Has the daemon's process go on at that time, if it does not do so earlier.
    pub(super) fn wake_at(&mut self, node: usize, at: TrueTime) {
        let at = at.max(self.now);
        if let Some(daemon) = &mut self.hosts[node].daemon
            && at < daemon.wakes_at
        {
            daemon.wakes_at = at;
            self.schedule(at, Happening::Wakes(node));
        }
    }

    /// Something is there to be read.
    fn rouse(&mut self, node: usize) {
        let waiting = self.hosts[node].daemon.as_ref().is_some_and(|daemon| daemon.phase == Phase::Waiting);
        if waiting {
            let late = self.random.between(0, self.plan.driver.wakes_late);
            self.wake_at(node, self.now + late);
        }
    }

    fn wakes(&mut self, node: usize) -> Result<(), Broken> {
        let host = &mut self.hosts[node];
        let Some(daemon) = &mut host.daemon else { return Ok(()) };
        if daemon.wakes_at != self.now {
            return Ok(());
        }
        if host.paused > 0 {
            // It goes on when it is continued.
            daemon.wakes_at = TrueTime::MAX;
            return Ok(());
        }
        daemon.wakes_at = TrueTime::MAX;
        self.checks.goes_on(node);
        self.go_on(node)
    }

    fn note(&mut self, node: usize, run: u64, note: Note) {
        if let Some(daemon) = &mut self.hosts[node].daemon
            && daemon.run == run
        {
            daemon.notes.push_back(note);
            self.rouse(node);
        }
    }

    // The network.

    /// A daemon sends a heartbeat or an acknowledgement.
    pub(super) fn send(&mut self, from: usize, path: PathIndex, bytes: Rc<[u8]>) {
        let to = node_of_peer(from, path.peer);
        self.report.sent += 1;
        let at_receiver = PathIndex { peer: peer_of_node(to, from), path: path.path };
        if self.recorded.len() == RECORDED {
            self.recorded.pop_front();
        }
        self.recorded.push_back((from, to, at_receiver, Rc::clone(&bytes)));
        match self.network.datagram(&mut self.random, from, to, path.path) {
            Fate::Lost => {
                self.report.lost += 1;
                tell!(self, "node {from}: {} to {to} path {}: lost", describe(&bytes), path.path);
            }
            Fate::Arrives(first, second) => {
                tell!(self, "node {from}: {} to {to} path {}", describe(&bytes), path.path);
                for delay in [Some(first), second].into_iter().flatten() {
                    self.deliver(to, at_receiver, self.now + delay, Rc::clone(&bytes));
                }
            }
        }
    }

    fn deliver(&mut self, to: usize, path: PathIndex, at: TrueTime, bytes: Rc<[u8]>) {
        let path = path.peer * self.network.paths() + path.path;
        // A datagram that is on its way reaches whichever run is there.
        self.schedule(at, Happening::Arrives { to, path, bytes });
    }

    fn arrives(&mut self, to: usize, path: usize, bytes: Rc<[u8]>) {
        let queue = self.plan.driver.queue;
        let Some(daemon) = &mut self.hosts[to].daemon else {
            self.report.lost += 1;
            return;
        };
        let socket = &mut daemon.sockets[path];
        if socket.queue.len() >= queue {
            socket.overflowed = true;
            self.report.lost += 1;
            return;
        }
        socket.queue.push_back(bytes);
        self.rouse(to);
    }

    /// A daemon asks on the service link who has an address.
    pub(super) fn ask(&mut self, by: usize, address: Ipv4Addr) {
        if CLIENTS.contains(&address) && self.network.reaches_clients(by) {
            let round_trip = 2 * self.network.delay() + self.random.between(0, 100 * MICROSECOND);
            let mac = Mac([2, 0, 0, 0, 1, address.octets()[3]]);
            self.schedule(self.now + round_trip, Happening::Answered { node: by, address, mac });
        }
        for node in (0..self.options.nodes).filter(|&node| node != by) {
            if let Some(delay) = self.network.arp(&mut self.random, by, node) {
                self.schedule(self.now + delay, Happening::Asked { by, node, address });
            }
        }
    }

    /// The XDP program of `node` is asked, whether or not a daemon runs there.
    fn asked(&mut self, by: usize, node: usize, address: Ipv4Addr) {
        let group = self.plan.groups.iter().position(|group| group.vips.contains(&address));
        let Some(group) = group.filter(|&group| self.hosts[node].serves(group, self.now)) else { return };
        if let Some(delay) = self.network.arp(&mut self.random, node, by) {
            tell!(self, "node {node}: its data plane answers node {by} for group {group}");
            self.schedule(self.now + delay, Happening::Answered { node: by, address, mac: mac_of(node) });
        }
    }

    /// A daemon announces a group's VIPs.
    pub(super) fn announce(&mut self, by: usize, group: usize) {
        for node in (0..self.options.nodes).filter(|&node| node != by) {
            for place in 0..self.plan.groups[group].vips.len() {
                let address = self.plan.groups[group].vips[place];
                if let Some(delay) = self.network.arp(&mut self.random, by, node) {
                    self.schedule(self.now + delay, Happening::Answered { node, address, mac: mac_of(by) });
                }
            }
        }
    }

    fn tell_served(&mut self) {
        for node in 0..self.options.nodes {
            let serves = (0..self.plan.groups.len()).any(|group| self.hosts[node].serves(group, self.now));
            if serves && self.network.reaches_clients(node) {
                let run = self.hosts[node].runs;
                self.note(node, run, Note::Served(CLIENTS.to_vec()));
            }
        }
        self.schedule(self.now + SERVED_EVERY, Happening::Serves);
    }

    // The host's other services.

    pub(super) fn address_job(&mut self, node: usize, group: usize, add: bool) {
        let Some(daemon) = &mut self.hosts[node].daemon else { return };
        daemon.jobs.push_back((group, add));
        if daemon.jobs.len() == 1 {
            self.work_on_addresses(node);
        }
    }

    /// The worker takes up the next job.
    fn work_on_addresses(&mut self, node: usize) {
        let run = self.hosts[node].runs;
        let took = self.random.between(self.plan.driver.address / 2, self.plan.driver.address);
        self.schedule(self.now + took, Happening::AddressDone { node, run });
    }

    fn address_done(&mut self, node: usize, run: u64) {
        let host = &mut self.hosts[node];
        let Some(daemon) = host.daemon.as_mut().filter(|daemon| daemon.run == run) else { return };
        if host.paused > 0 {
            // All threads of a stopped process are stopped.
            self.schedule(self.now + MILLISECOND, Happening::AddressDone { node, run });
            return;
        }
        let Some((group, add)) = daemon.jobs.pop_front() else { return };
        let more = !daemon.jobs.is_empty();
        let possible = host.address_fails == 0 && host.link != Link::Gone;
        host.addresses[group] = add && possible;
        tell!(self, "node {node}: address of group {group}: add {add}, possible {possible}");
        if add {
            let group = GroupIndex(group);
            self.note(
                node,
                run,
                if possible { Note::AddressReady(group) } else { Note::AddressFailed(group) },
            );
        }
        if more {
            self.work_on_addresses(node);
        }
    }

    pub(super) fn reserve(&mut self, node: usize, below: u64) {
        let run = self.hosts[node].runs;
        let took = self.random.between(self.plan.driver.disk / 4, self.plan.driver.disk);
        self.schedule(self.now + took, Happening::DiskDone { node, run, below });
    }

    fn disk_done(&mut self, node: usize, run: u64, below: u64) {
        let host = &mut self.hosts[node];
        if !host.powered || host.runs != run {
            return;
        }
        if host.disk_fails > 0 {
            self.note(node, run, Note::ReservationFailed);
            return;
        }
        if self.options.planted != Some(Planted::DiskLies) {
            host.disk = host.disk.max(below);
        }
        self.note(node, run, Note::EpochsReserved(below));
    }

    // Troubles.

    fn trouble(&mut self, place: usize, begins: bool) -> Result<(), Broken> {
        let what = self.plan.troubles[place].what;
        tell!(self, "{} {what:?}", if begins { "BEGINS" } else { "ENDS" });
        match what {
            What::PathCut { from, to, path } => self.network.cut(from, to, path, begins),
            What::DirectionCut { from, to } => self.cut_heartbeats(from, to, begins),
            What::HeartbeatsCut { one, other } => {
                self.cut_heartbeats(one, other, begins);
                self.cut_heartbeats(other, one, begins);
            }
            What::Partition { one, other } => self.partition(one, other, begins),
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
            What::AddressFails { node } => count(&mut self.hosts[node].address_fails, begins),
            What::DiskFails { node } => count(&mut self.hosts[node].disk_fails, begins),
            What::Command { node, command } if begins => self.command(node, command),
            What::Garbage { node } if begins => self.garbage(node),
            What::Command { .. } | What::Garbage { .. } => {}
            What::PassiveCrash => {
                let holds = |node: usize| {
                    (0..self.plan.groups.len()).any(|group| self.hosts[node].serves(group, self.now))
                };
                let passive = (0..self.options.nodes).find(|&node| !holds(node));
                match passive {
                    Some(node) if begins => self.crash(node, false, true),
                    _ => self.restart_crashed(),
                }
            }
            What::Torn { node, other, crash } => {
                self.partition(node, other, begins);
                if crash { self.crash(node, false, begins) } else { self.pause(node, begins) }
            }
            What::HolderLost { how } if begins => self.lose_holder(how)?,
            What::HolderLost { .. } => {}
        }
        Ok(())
    }

    fn cut_heartbeats(&mut self, from: usize, to: usize, begins: bool) {
        for path in 0..self.network.paths() {
            self.network.cut(from, to, path, begins);
        }
    }

    fn partition(&mut self, one: usize, other: usize, begins: bool) {
        self.cut_heartbeats(one, other, begins);
        self.cut_heartbeats(other, one, begins);
        self.network.cut_link(one, other, begins);
    }

    fn pause(&mut self, node: usize, begins: bool) {
        count(&mut self.hosts[node].paused, begins);
        if begins {
            self.checks.stops(node, self.now);
        } else if self.hosts[node].paused == 0 {
            self.wake_at(node, self.now);
        }
    }

    fn crash(&mut self, node: usize, disk_lost: bool, begins: bool) {
        count(&mut self.hosts[node].crashed, begins);
        if begins {
            self.kill_daemon(node);
            self.lose_disk(node, disk_lost);
        } else {
            self.restart(node);
        }
    }

    fn restart_crashed(&mut self) {
        for node in 0..self.options.nodes {
            if self.hosts[node].crashed > 0 {
                self.crash(node, false, false);
            }
        }
    }

    fn power_off(&mut self, node: usize, disk_lost: bool, begins: bool) {
        count(&mut self.hosts[node].off, begins);
        if begins {
            self.kill_daemon(node);
            self.lose_disk(node, disk_lost);
            let host = &mut self.hosts[node];
            host.powered = false;
            host.map.fill(MapEntry::EMPTY);
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
            self.checks.loses_disk(node);
        }
    }

    fn restart(&mut self, node: usize) {
        let host = &self.hosts[node];
        if host.powered && host.crashed == 0 && host.off == 0 && host.daemon.is_none() {
            self.start_daemon(node);
        }
    }

    fn link(&mut self, node: usize, gone: bool, begins: bool) {
        let host = &mut self.hosts[node];
        count(if gone { &mut host.link_gone } else { &mut host.link_down }, begins);
        if gone && begins {
            host.addresses.fill(false);
        }
        self.update_link(node);
    }

    fn update_link(&mut self, node: usize) {
        let host = &mut self.hosts[node];
        let link = if host.link_gone > 0 {
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
        self.commands += 1;
        let run = self.hosts[node].runs;
        self.note(node, run, Note::Command(CommandId(self.commands), command));
    }

    /// What was sent before arrives again, whole, broken, on other paths and back at its sender.
    fn garbage(&mut self, node: usize) {
        let sockets = (self.options.nodes - 1) * self.network.paths();
        for _ in 0..self.random.between(20, 200) {
            let Some((from, to, path, bytes)) = self.some_recorded() else { return };
            let mut bytes = bytes.to_vec();
            let place = self.random.next() as usize % bytes.len();
            let same_path = path.peer * self.network.paths() + path.path;
            let any_path = self.random.next() as usize % sockets;
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

    fn heals(&mut self) {
        if self.options.profile == Profile::HolderLost {
            return;
        }
        tell!(self, "HEALS");
        self.network.heal(u64::try_from(self.plan.timing.heartbeat.as_nanos()).unwrap_or(0));
        for node in 0..self.options.nodes {
            let stopping = self.hosts[node].daemon.is_some();
            if stopping && self.has_resigned(node) {
                // A daemon that was told to stop ends, and is started again.
                self.kill_daemon(node);
                self.restart(node);
            }
            self.command(node, Command::Undrain);
        }
    }

    fn has_resigned(&self, node: usize) -> bool {
        let resigned = What::Command { node, command: Command::Resign };
        self.plan.troubles.iter().any(|trouble| trouble.what == resigned)
    }

    // I3.

    fn holder(&self, group: usize) -> Vec<usize> {
        (0..self.options.nodes).filter(|&node| self.hosts[node].serves(group, self.now)).collect()
    }

    pub(super) fn exactly_one_serves(&self) -> Result<(), Broken> {
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

    fn lose_holder(&mut self, how: Loss) -> Result<(), Broken> {
        self.exactly_one_serves()?;
        let holder = self.holder(0)[0];
        let survivor = (0..self.options.nodes).find(|&node| node != holder).unwrap_or(holder);
        match how {
            Loss::Crash => self.crash(holder, false, true),
            Loss::Pause => self.pause(holder, true),
            Loss::PowerOff => self.power_off(holder, false, true),
            Loss::Partition => self.partition(holder, survivor, true),
            Loss::Carrier => self.link(holder, false, true),
            Loss::ServiceCut => {
                self.network.ports[holder].service_in_cut += 1;
                self.network.ports[holder].service_out_cut += 1;
            }
        }
        let within = self.takeover_bound(how, survivor);
        self.lost = Some((survivor, self.now, self.now + within));
        self.schedule(self.now + within, Happening::Deadline);
        Ok(())
    }

    /// D and two round trips of the last fault (I3), and what this host takes for its chores.
    fn takeover_bound(&self, how: Loss, survivor: usize) -> TrueTime {
        let timing = &self.plan.timing;
        let in_true_time = |duration: Duration| {
            let nanos = i128::try_from(duration.as_nanos()).unwrap_or(0);
            let drift = i128::from(self.plan.hosts[survivor].drift);
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
        if let Some((survivor, since, _)) = self.lost
            && node == survivor
            && self.report.outage.is_none()
        {
            self.report.outage = Some(Duration::from_nanos(self.now - since));
        }
    }

    fn survivor_serves(&mut self) -> Result<(), Broken> {
        let Some((survivor, since, _)) = self.lost else { return Ok(()) };
        if self.hosts[survivor].serves(0, self.now) {
            return Ok(());
        }
        let passed = Duration::from_nanos(self.now - since);
        Err((
            Rule::SomebodyServes,
            format!("node {survivor} does not serve {passed:?} after the holder was lost"),
        ))
    }

    /// Something moved: allowed only while something is wrong.
    pub(super) fn moved(&self, what: &str, node: usize, group: usize) -> Result<(), Broken> {
        if self.now > self.plan.settled_at && self.options.profile != Profile::HolderLost {
            return Err((
                Rule::NoMove,
                format!("{what} of node {node}, group {group}, although all is well"),
            ));
        }
        Ok(())
    }

    /// What the core's clock shows on that host.
    pub(super) fn shown(&self, node: usize) -> Time {
        self.hosts[node].clock.shows(self.now)
    }
}

/// A message in a few words.
pub(super) fn describe(bytes: &[u8]) -> String {
    use crate::wire::{Kind, Message};
    let Ok(message) = Message::parse(bytes) else { return format!("{} broken bytes", bytes.len()) };
    let header = message.header;
    let kind = if header.kind == Kind::Heartbeat { "heartbeat" } else { "ack" };
    let mut words = format!("{kind} #{} of {}", header.sequence, header.node.0);
    if !header.voting {
        words += " (not voting)";
    }
    for claim in message.claims() {
        words += &format!(" {:?} {}", claim.stand, claim.epoch);
    }
    for vote in message.votes() {
        words += &format!(" vote {}", vote.epoch);
    }
    words
}

/// Uses what the driver's file needs of this one's imports.
pub(super) fn input_of(note: &Note) -> Input<'_> {
    match note {
        Note::Link(link) => Input::Link(*link),
        Note::AddressReady(group) => Input::AddressReady(*group),
        Note::AddressFailed(group) => Input::AddressFailed(*group),
        Note::EpochsReserved(below) => Input::EpochsReserved(*below),
        Note::ReservationFailed => Input::ReservationFailed,
        Note::Served(addresses) => Input::Served(addresses),
        Note::Command(id, command) => Input::Command(*id, *command),
    }
}
