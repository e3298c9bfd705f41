//! True time and everything that happens in it: arrivals, wakes, troubles.

use std::collections::{BinaryHeap, VecDeque};
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use crate::identity::{GroupIndex, Incarnation, Mac, PathIndex};
use crate::interface::{CommandId, Effects, Input, Link, Memory, Snapshot, Start};
use crate::spread::{Table, Version};
use crate::{Core, Time};

use super::check::{Broken, Checks};
use super::clock::{BootClock, MICROSECOND, MILLISECOND, TrueTime};
use super::host::{Daemon, Host, MapEntry, Note, Phase, Socket, peer_of_node};
use super::network::{Fate, Network};
use super::options::{Options, Planted, Profile, Report};
use super::plan::{CLIENTS, GATEWAY, GATEWAY_MAC, Plan, mac_of, mac_of_client};
use super::random::Random;
use super::words::describe;

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
    pub(super) recorded: VecDeque<(usize, usize, PathIndex, Rc<[u8]>)>,
    pub(super) commands: u64,
    pub(super) restarted_at: Option<TrueTime>,
    pub(super) last_holder: Vec<Option<usize>>,
    /// The holder that was lost, and when.
    pub(super) lost: Option<(usize, TrueTime)>,
    pub(super) calm: super::serving::Calm,
    timeline: Option<VecDeque<String>>,
    /// How many lines it keeps.
    told: usize,
}

/// Something that happens at a point in true time.
#[derive(Clone, Debug)]
pub(super) enum Happening {
    Boots(usize),
    Arrives {
        to: usize,
        path: usize,
        bytes: Rc<[u8]>,
    },
    Wakes(usize),
    Asked {
        by: usize,
        node: usize,
        address: IpAddr,
    },
    Answered {
        node: usize,
        address: IpAddr,
        mac: Mac,
    },
    AddressDone {
        node: usize,
        run: u64,
    },
    DiskDone {
        node: usize,
        run: u64,
        what: Written,
    },
    Noted {
        node: usize,
        run: u64,
        link: Link,
    },
    Serves,
    Begins(usize),
    Ends(usize),
    Heals,
    /// An operator sees to it that the node reads the newest file.
    Reloads(usize),
    /// A daemon that is ready for it is replaced.
    Replaced {
        node: usize,
        run: u64,
    },
    /// The daemon runs that takes its place.
    Returns(usize),
    Deadline,
    /// Nothing has gone wrong, or right, since that change.
    Quiet {
        change: u64,
    },
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

/// What is being written to a disk.
#[derive(Clone, Copy, Debug)]
pub(super) enum Written {
    Epochs(u64),
    Memory(Memory),
}

impl<'a> World<'a> {
    /// A world in which nothing has happened yet. `told`: how many lines of the timeline to keep.
    pub(super) fn new(options: &'a Options, plan: &'a Plan, told: usize) -> Self {
        let mut random = Random::new(options.seed.rotate_left(32) ^ 0xdead);
        let nodes = options.hosts();
        let groups = plan.groups.len();
        let hosts = plan.hosts.iter().enumerate().map(|(node, host)| {
            let clock = BootClock::new(0, host.clock_at_boot, host.drift);
            Host::new(clock, node, groups, options.is_witness(node))
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
            checks: Checks::new(
                nodes,
                groups,
                plan.shortest_heartbeat(),
                plan.timing.lease,
                plan.by_majority(),
                plan.late_gateway(),
            ),
            report: Report::default(),
            effects: Effects::default(),
            recorded: VecDeque::new(),
            commands: 0,
            restarted_at: None,
            last_holder: vec![None; groups],
            lost: None,
            calm: super::serving::Calm::new(groups),
            timeline: (told > 0).then(VecDeque::new),
            told,
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
        }
        self.now = self.plan.end;
        self.report.steps = self.step;
        self.report.simulated = Duration::from_nanos(self.plan.end);
        if self.options.profile != Profile::HolderLost {
            self.exactly_one_serves()?;
            self.one_table_each()?;
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
            if timeline.len() >= self.told {
                timeline.pop_front();
            }
            timeline.push_back(format!("{step:>7} {:>12.6} ms  {line}", now as f64 / 1e6));
        }
    }

    pub(super) fn schedule(&mut self, at: TrueTime, happening: Happening) {
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
            Happening::DiskDone { node, run, what } => self.disk_done(node, run, what),
            Happening::Noted { node, run, link } => self.note(node, run, Note::Link(link)),
            Happening::Serves => self.tell_served(),
            Happening::Begins(place) => self.trouble(place, true)?,
            Happening::Ends(place) => self.trouble(place, false)?,
            Happening::Heals => self.heals(),
            Happening::Reloads(node) => self.reload(node, false),
            Happening::Replaced { node, run } => self.replaced(node, run),
            Happening::Returns(node) => self.returns(node),
            Happening::Deadline => self.survivor_serves()?,
            Happening::Quiet { change } => self.quiet(change)?,
        }
        Ok(())
    }

    // Daemons.

    pub(super) fn start_daemon(&mut self, node: usize) {
        let groups = self.plan.groups.len();
        let plan = self.plan;
        let host = &mut self.hosts[node];
        if !host.powered || host.daemon.is_some() {
            return;
        }
        let now = host.clock.shows(self.now);
        let link_up = matches!(host.link, Link::Up { .. });
        let mut adopted = Vec::new();
        for group in 0..groups {
            let entry = host.map[group];
            let place = plan.files[host.file].place_of_group(group);
            match (entry.epoch, place) {
                (Some(epoch), Some(place)) if now < entry.until && link_up => {
                    adopted.push((GroupIndex(place), epoch, entry.until));
                    self.report.adopted += 1;
                }
                (Some(_) | None, _) => {
                    host.write(group, MapEntry::EMPTY);
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
            memory: host.memory,
            adopted: adopted.clone(),
            tables: tables_by(&plan.files[host.file], &host.tables),
            resumed: host.resumed.take().unwrap_or_default(),
            link: host.link,
        };
        let sockets = (self.options.hosts() - 1) * self.network.paths();
        host.daemon = Some(Daemon {
            run: host.runs,
            core: Core::new(self.plan.settings(node, host.file), &start),
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
            asked: Vec::new(),
            heartbeat_sent: 0,
            replacement: None,
        });
        host.gone = false;
        self.checks.goes_on(node);
        if host.paused > 0 {
            self.checks.stops(node, self.now);
        }
        let (run, reserved) = (host.runs, host.disk);
        tell!(self, "node {node}: daemon starts, run {run}, reserved {reserved}, adopts {adopted:?}");
        self.wake_at(node, self.now);
    }

    pub(super) fn kill_daemon(&mut self, node: usize) {
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

    pub(super) fn note(&mut self, node: usize, run: u64, note: Note) {
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
        let file = &self.plan.files[self.hosts[from].file];
        let Some(to) = file.host_of_peer(from, path.peer) else { return };
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
    pub(super) fn ask(&mut self, by: usize, address: IpAddr) {
        if address == GATEWAY {
            self.ask_gateway(by);
            return;
        }
        let client = CLIENTS.iter().position(|&client| client == address);
        if let Some(client) = client.filter(|_| self.network.reaches_clients(by)) {
            let round_trip = 2 * self.network.delay() + self.random.between(0, 100 * MICROSECOND);
            let mac = mac_of_client(client);
            self.schedule(self.now + round_trip, Happening::Answered { node: by, address, mac });
        }
        for node in (0..self.hosts.len()).filter(|&node| node != by) {
            if let Some(delay) = self.network.arp(&mut self.random, by, node) {
                self.schedule(self.now + delay, Happening::Asked { by, node, address });
            }
        }
    }

    fn ask_gateway(&mut self, by: usize) {
        let reached = self.network.reaches_clients(by);
        if reached {
            self.hosts[by].gateway_answered = Some(self.shown(by));
        } else if self.options.planted != Some(Planted::GatewayForged) {
            return;
        }
        let round_trip = 2 * self.network.delay() + self.random.between(0, 100 * MICROSECOND);
        let (node, address, mac) = (by, GATEWAY, GATEWAY_MAC);
        self.schedule(self.now + round_trip, Happening::Answered { node, address, mac });
    }

    /// The XDP program of `node` is asked, whether or not a daemon runs there.
    fn asked(&mut self, by: usize, node: usize, address: IpAddr) {
        let group = self.plan.groups.iter().position(|group| group.vips.contains(&address));
        let Some(group) = group.filter(|&group| self.hosts[node].serves(group, self.now)) else { return };
        if let Some(delay) = self.network.arp(&mut self.random, node, by) {
            tell!(self, "node {node}: its data plane answers node {by} for group {group}");
            self.schedule(self.now + delay, Happening::Answered { node: by, address, mac: mac_of(node) });
        }
    }

    /// A daemon announces a group's VIPs.
    pub(super) fn announce(&mut self, by: usize, group: usize) {
        for node in (0..self.hosts.len()).filter(|&node| node != by) {
            for place in 0..self.plan.groups[group].vips.len() {
                let address = self.plan.groups[group].vips[place];
                if let Some(delay) = self.network.arp(&mut self.random, by, node) {
                    self.schedule(self.now + delay, Happening::Answered { node, address, mac: mac_of(by) });
                }
            }
        }
    }

    fn tell_served(&mut self) {
        for node in 0..self.hosts.len() {
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

    pub(super) fn write_disk(&mut self, node: usize, what: Written) {
        let run = self.hosts[node].runs;
        let took = self.random.between(self.plan.driver.disk / 4, self.plan.driver.disk);
        self.schedule(self.now + took, Happening::DiskDone { node, run, what });
    }

    fn disk_done(&mut self, node: usize, run: u64, what: Written) {
        let host = &mut self.hosts[node];
        if !host.powered || host.runs != run {
            return;
        }
        let fails = host.disk_fails > 0;
        let note = match what {
            Written::Epochs(_) if fails => Note::ReservationFailed,
            Written::Memory(_) if fails => Note::NotRemembered,
            Written::Epochs(below) => {
                if self.options.planted != Some(Planted::DiskLies) {
                    host.disk = host.disk.max(below);
                }
                Note::EpochsReserved(below)
            }
            Written::Memory(memory) => {
                if self.options.planted != Some(Planted::MemoryLies) {
                    host.memory = Some(memory);
                }
                Note::Remembered
            }
        };
        self.note(node, run, note);
    }

    /// What the core's clock shows on that host.
    pub(super) fn shown(&self, node: usize) -> Time {
        self.hosts[node].clock.shows(self.now)
    }
}

pub(super) fn input_of(note: &Note) -> Input<'_> {
    match note {
        Note::Link(link) => Input::Link(*link),
        Note::AddressReady(group) => Input::AddressReady(*group),
        Note::AddressFailed(group) => Input::AddressFailed(*group),
        Note::NoConnections(group) => Input::NoConnections(*group),
        Note::EpochsReserved(below) => Input::EpochsReserved(*below),
        Note::ReservationFailed => Input::ReservationFailed,
        Note::Remembered => Input::Remembered,
        Note::NotRemembered => Input::NotRemembered,
        Note::Reconfigure(_, settings) => Input::Reconfigure(CommandId(0), settings.clone()),
        Note::Served(addresses) => Input::Served(addresses),
        Note::Command(id, command) => Input::Command(*id, *command),
    }
}

/// The tables that a daemon finds, by the places that its file gives the groups.
fn tables_by(
    file: &super::plan::File,
    tables: &[Option<(Version, Table)>],
) -> Vec<(GroupIndex, Version, Table)> {
    let found = tables.iter().enumerate().filter_map(|(group, table)| {
        let (version, table) = table.as_ref()?;
        Some((GroupIndex(file.place_of_group(group)?), *version, table.clone()))
    });
    found.collect()
}
