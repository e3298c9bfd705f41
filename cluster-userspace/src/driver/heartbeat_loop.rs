//! The heartbeat thread: waits for its sockets or the core's deadline, reads what came, and carries out what the core
//! says, in its order. It decides nothing, never waits for anything else, and allocates nothing while it runs.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::thread::JoinHandle;
use std::time::Duration;

use cluster_proto::{
    Core, Effect, Effects, GroupIndex, Input, Mac, PathIndex, Settings, Side, Start, Time, wire,
};

use super::address_thread::{AddressJob, ThreadJobs};
use super::clock;
use super::mailbox::{LoopCounters, Order, Reconfiguration, Shown, Task, ThreadEnd, mac_of};
use super::path_sockets::{Drain, PathEnds, PathSockets, Replacement};
use super::realtime::{self, Granted};
use super::vlan_links::{Place, VlanLink, VlanLinks};
use crate::dataplane::{GroupSlot, LeaseTable};
use crate::network::arp::{self, Arp, Operation};
use crate::network::heartbeat_socket::{Received, Sent};
use crate::network::ndp::{self, Advertisement};
use crate::network::packet_socket::{LinkSockets, PacketSocket};

/// Frames of ARP, and as many of neighbour discovery, read in one turn.
const FRAMES_A_TURN: usize = 32;
/// What the thread is made of.
#[derive(Debug)]
pub struct Setup {
    /// The core's settings.
    pub settings: Settings,
    /// What else the core needs to start.
    pub start: Start,
    /// The two ends of each path, peer by peer.
    pub paths: PathEnds,
    /// The processor to which the thread is bound, if to one.
    pub cpu: Option<usize>,
    /// What a node serves with; `None` for a witness, whose core never asks for any of it.
    pub serving: Option<Serving>,
    /// This node's own IPv4 address on the service link, the sender of its requests there.
    pub service_address: Option<Ipv4Addr>,
    /// What neighbour discovery says of this host there.
    pub ndp: ndp::Host,
    /// The service interface's sockets, if it is up.
    pub link_sockets: Option<LinkSockets>,
    /// The thread's end of the mailbox.
    pub mailbox: ThreadEnd,
}

/// What a lease means for this host's kernel.
#[derive(Debug)]
pub struct Serving {
    /// Where leases are written.
    pub leases: LeaseTable,
    /// For each group its slot in the lease table.
    pub slots: Vec<GroupSlot>,
    /// The way to the thread that configures addresses.
    pub addresses: ThreadJobs,
}

/// Opens the sockets and starts the thread.
///
/// # Errors
/// A heartbeat socket cannot be opened (the port is taken), or there can be no more threads.
pub fn spawn(setup: Setup) -> io::Result<(JoinHandle<()>, Granted)> {
    let cpu = setup.cpu;
    let mut heartbeat_loop = HeartbeatLoop::new(setup)?;
    let (granted_in, granted_out) = std::sync::mpsc::sync_channel(1);
    let thread = std::thread::Builder::new().name("heartbeat".to_owned()).spawn(move || {
        // The daemon waits for this before it does anything else.
        let _ = granted_in.send(realtime::request(cpu));
        heartbeat_loop.run();
    })?;
    let granted =
        granted_out.recv().map_err(|_| io::Error::other("the heartbeat thread ended at its start"))?;
    Ok((thread, granted))
}

/// What another configuration changes here.
struct Coming {
    generation: u32,
    sockets: Replacement,
    slots: Vec<GroupSlot>,
    vips: Vec<Vec<IpAddr>>,
    service_address: Option<Ipv4Addr>,
    dead_after: Duration,
}

struct HeartbeatLoop {
    core: Core,
    effects: Effects,
    dead_after: Duration,
    sockets: PathSockets,
    service_address: Option<Ipv4Addr>,
    vips: Vec<Vec<IpAddr>>,
    serving: Option<Serving>,
    ndp: ndp::Host,
    link_sockets: Option<LinkSockets>,
    mac: Option<Mac>,
    vlans: Box<VlanLinks>,
    mailbox: ThreadEnd,
    counters: LoopCounters,
    announcements: Vec<u64>,
    /// Groups whose addresses nobody took on to configure: the core is told that it failed.
    addresses_refused: Vec<GroupSlot>,
    /// Likewise a reservation.
    reservation_refused: bool,
    /// Likewise what must not be forgotten.
    memory_refused: bool,
    generation: u32,
    /// What to go over to when the core says so.
    coming: Option<Coming>,
    stopping: bool,
}

impl HeartbeatLoop {
    fn new(setup: Setup) -> io::Result<Self> {
        let Setup { settings, start, paths, cpu: _, serving, service_address, ndp, link_sockets, mailbox } =
            setup;
        let sockets = PathSockets::open(&settings, &paths)?;
        let groups = settings.groups.len();
        Ok(Self {
            effects: Effects { list: Vec::with_capacity(256), bytes: Vec::with_capacity(1 << 17) },
            dead_after: settings.timing.dead_after,
            sockets,
            service_address,
            vips: vips_of(&settings),
            serving,
            ndp,
            link_sockets,
            mac: mac_of(start.link),
            vlans: Box::new(VlanLinks::none()),
            mailbox,
            counters: LoopCounters::default(),
            announcements: vec![0; groups],
            addresses_refused: Vec::with_capacity(groups),
            reservation_refused: false,
            memory_refused: false,
            generation: 0,
            coming: None,
            stopping: false,
            core: Core::new(settings, &start),
        })
    }

    fn run(&mut self) {
        self.handle(Input::Tick);
        let mut drain = Drain::default();
        while !self.stopping {
            let deadline = self.core.deadline();
            self.mailbox.flush();
            let readable = self.wait(deadline);
            let woke = clock::now();
            self.counters.wakeups += 1;
            let late = woke.since(deadline);
            self.counters.worst_delay = self.counters.worst_delay.max(late);
            if late >= self.dead_after / 2 {
                self.handle(Input::Overslept(late));
            }
            let mut read = 0;
            if readable {
                read = self.read_heartbeats() + self.read_arp() + self.read_ndp() + self.read_vlans();
                self.read_orders();
            }
            // Whether there is more to read, the next wait says. Timers run once nothing is left.
            if drain.turn(readable, read) {
                self.handle(Input::Tick);
            }
            self.answer_refused();
        }
        self.mailbox.flush();
    }

    /// Waits for the deadline or something to read, and returns whether there is.
    fn wait(&mut self, deadline: Time) -> bool {
        let left = Duration::from_nanos(deadline.as_nanos().saturating_sub(clock::now().as_nanos()));
        // A deadline for ever does not occur: the next heartbeat is always due.
        let left = left.min(Duration::from_secs(3600));
        let (arp, ndp) = match &self.link_sockets {
            Some(LinkSockets { arp, ndp }) => (Some(arp.as_fd()), ndp.as_ref().map(AsFd::as_fd)),
            None => (None, None),
        };
        self.sockets.wait(self.mailbox.wake_fd(), arp, ndp, self.vlans.any(), left)
    }

    /// Reads one datagram from each path that has one; how many.
    fn read_heartbeats(&mut self) -> usize {
        let mut buffer = [0; wire::MAX_LEN];
        let mut read = 0;
        for place in 0..self.sockets.len() {
            let Some((path, received)) = self.sockets.receive(place, &mut buffer) else { continue };
            match received {
                Received::Datagram { len, overflow } => {
                    read += 1;
                    self.counters.received += 1;
                    if overflow {
                        self.counters.overflows += 1;
                        self.handle(Input::SocketOverflow);
                    }
                    self.handle(Input::Datagram { path, bytes: &buffer[..len] });
                }
                Received::Unreachable | Received::Empty | Received::Failed(_) => {}
            }
        }
        read
    }

    /// Reads ARP frames; how many.
    fn read_arp(&mut self) -> usize {
        if !self.sockets.arp_is_ready() {
            return 0;
        }
        for read in 0..FRAMES_A_TURN {
            let Some(LinkSockets { arp, .. }) = &self.link_sockets else { return read };
            let Some(found) = heard_by_arp(arp) else { return read };
            self.found(found);
        }
        FRAMES_A_TURN
    }

    /// Reads frames of neighbour discovery; how many.
    fn read_ndp(&mut self) -> usize {
        if !self.sockets.ndp_is_ready() {
            return 0;
        }
        for read in 0..FRAMES_A_TURN {
            let Some(LinkSockets { ndp: Some(ndp), .. }) = &self.link_sockets else { return read };
            let Some(found) = heard_by_ndp(ndp) else { return read };
            self.found(found);
        }
        FRAMES_A_TURN
    }

    /// Reads frames of both kinds on the VLANs, of each as many; how many.
    fn read_vlans(&mut self) -> usize {
        if !self.sockets.vlans_are_ready() {
            return 0;
        }
        let mut read = 0;
        for place in 0..self.vlans.links().len() {
            for _ in 0..FRAMES_A_TURN {
                let Some(VlanLink { sockets: LinkSockets { arp, .. }, .. }) = self.vlans.links().get(place)
                else {
                    break;
                };
                let Some(found) = heard_by_arp(arp) else { break };
                read += 1;
                self.found(found);
            }
            for _ in 0..FRAMES_A_TURN {
                let Some(VlanLink { sockets: LinkSockets { ndp: Some(ndp), .. }, .. }) =
                    self.vlans.links().get(place)
                else {
                    break;
                };
                let Some(found) = heard_by_ndp(ndp) else { break };
                read += 1;
                self.found(found);
            }
        }
        read
    }

    /// A frame told who has an address, or nothing of interest.
    fn found(&mut self, found: Option<(IpAddr, Mac)>) {
        if let Some((address, mac)) = found {
            self.handle(Input::ProbeAnswer { address, mac });
        }
    }

    fn read_orders(&mut self) {
        if !self.sockets.mailbox_is_ready() {
            return;
        }
        self.mailbox.woken();
        while let Some((slot, ready)) = self.serving.as_mut().and_then(|serving| serving.addresses.done()) {
            // The answer may be for a group that is gone.
            if let Some(group) = self.group_in(slot) {
                self.handle(if ready { Input::AddressReady(group) } else { Input::AddressFailed(group) });
            }
        }
        while let Some(order) = self.mailbox.order() {
            match order {
                Order::Link(link, sockets) => {
                    let old = std::mem::replace(&mut self.link_sockets, sockets);
                    self.mac = mac_of(link);
                    self.handle(Input::Link(link));
                    if let Some(old) = old {
                        // Closing a packet socket waits for the kernel (`synchronize_net`), so others do it.
                        self.task(Task::Close(old));
                    }
                }
                Order::Vlans(vlans) => {
                    let old = std::mem::replace(&mut self.vlans, vlans);
                    self.task(Task::CloseVlans(old));
                }
                Order::Ndp(host) => self.ndp = host,
                Order::AddressFailed(slot) => self.address_failed(slot),
                Order::NoConnections(slot) => {
                    if let Some(group) = self.group_in(slot) {
                        self.handle(Input::NoConnections(group));
                    }
                }
                Order::Flows(slot, busy, load, since) => {
                    if let Some(group) = self.group_in(slot) {
                        self.handle(Input::Flows { group, busy: &busy, load, since });
                    }
                    self.task(Task::FlowsSeen(busy));
                }
                Order::EpochsReserved(below) => self.handle(Input::EpochsReserved(below)),
                Order::ReservationFailed => self.handle(Input::ReservationFailed),
                Order::Remembered => self.handle(Input::Remembered),
                Order::NotRemembered => self.handle(Input::NotRemembered),
                Order::Served(addresses, count) => {
                    self.handle(Input::Served(&addresses[..count.min(addresses.len())]));
                }
                Order::Claimed(address, mac) => self.handle(Input::Claimed { address, mac }),
                Order::Command(id, command) => self.handle(Input::Command(id, command)),
                Order::Reconfigure(reconfiguration) => self.reconfigure(*reconfiguration),
                Order::Show(shown) => self.show(shown),
                Order::Stop => self.stopping = true,
            }
        }
    }

    fn reconfigure(&mut self, reconfiguration: Reconfiguration) {
        let Reconfiguration { id, generation, settings, sockets, slots, service_address } = reconfiguration;
        let dead_after = settings.timing.dead_after;
        let vips = vips_of(&settings);
        self.coming = Some(Coming { generation, sockets, slots, vips, service_address, dead_after });
        self.handle(Input::Reconfigure(id, settings));
        if let Some(refused) = self.coming.take() {
            drop(refused);
        }
    }

    /// From here on paths, peers and groups are those of the configuration that was handed over.
    fn take_over(&mut self) {
        let Some(coming) = self.coming.take() else { return };
        let Coming { generation, sockets, slots, vips, service_address, dead_after } = coming;
        // What the kernel has dropped on those that go is counted before they do.
        let (filtered, strangers) = self.sockets.dropped();
        self.counters.filtered += filtered;
        self.counters.strangers += strangers;
        let leftover = self.sockets.replace(sockets);
        let announced =
            |slot: &GroupSlot| self.group_in(*slot).map_or(0, |group| self.announcements[group.0]);
        self.announcements = slots.iter().map(announced).collect();
        if let Some(serving) = &mut self.serving {
            serving.slots = slots;
        }
        self.vips = vips;
        self.generation = generation;
        self.service_address = service_address;
        self.dead_after = dead_after;
        self.task(Task::CloseAll(leftover));
    }

    fn show(&mut self, mut shown: Box<Shown>) {
        self.core.show(clock::now(), &mut shown.snapshot);
        let (filtered, strangers) = self.sockets.dropped();
        self.counters.filtered += filtered;
        self.counters.strangers += strangers;
        shown.counters = self.counters;
        shown.generation = self.generation;
        shown.announcements.clear();
        shown.announcements.extend_from_slice(&self.announcements);
        self.task(Task::Shown(shown));
    }

    /// Hands the core one input and carries out what it says. The time is taken here, before anything is sent.
    fn handle(&mut self, input: Input<'_>) {
        let mut effects = std::mem::take(&mut self.effects);
        self.core.handle(clock::now(), input, &mut effects);
        for effect in effects.list.drain(..) {
            self.carry_out(effect, &effects.bytes);
        }
        effects.clear();
        self.effects = effects;
    }

    fn carry_out(&mut self, effect: Effect, bytes: &[u8]) {
        match effect {
            Effect::Send { path, bytes: range } => self.send(path, &bytes[range]),
            Effect::Lease { group, epoch, until } => {
                if let Some(Serving { leases, slots, .. }) = &self.serving {
                    leases.set(slots[group.0], epoch, until);
                }
            }
            Effect::Dark { group } => {
                if let Some(Serving { leases, slots, .. }) = &self.serving {
                    leases.clear(slots[group.0]);
                }
            }
            Effect::Grace { group, side, other, until } => self.begin_grace(group, side, other, until),
            Effect::WatchConnections { group, until } => {
                if let Some(Serving { slots, .. }) = &self.serving {
                    let slot = slots[group.0];
                    self.task(Task::WatchConnections(slot, until));
                }
            }
            Effect::Table { group } => self.publish(group),
            Effect::Serve { group, until, gave_up } => {
                if let Some(Serving { leases, slots, .. }) = &self.serving {
                    leases.serve(slots[group.0], until, gave_up);
                }
            }
            Effect::EndGrace { group } => {
                if let Some(Serving { leases, slots, .. }) = &self.serving {
                    leases.end_grace(slots[group.0]);
                }
            }
            Effect::LetGo { group } => self.address_job(group, AddressJob::LetGo),
            Effect::AddAddress { group } => self.address_job(group, AddressJob::Add),
            Effect::RemoveAddress { group } => self.address_job(group, AddressJob::Remove),
            Effect::Announce { group } => {
                self.announcements[group.0] += 1;
                for place in 0..self.vips[group.0].len() {
                    match self.vips[group.0][place] {
                        IpAddr::V4(vip) => self.send_arp(vip, |mac| arp::announcement(mac, vip)),
                        IpAddr::V6(vip) => {
                            let is_router = self.ndp_of(vip).is_router;
                            self.send_ndp(vip, |mac| ndp::announcement(mac, vip, is_router));
                        }
                    }
                }
            }
            Effect::Probe { address } => {
                let is_vip = self.vips.iter().flatten().any(|&vip| vip == address);
                match address {
                    IpAddr::V4(address) => self.ask_by_arp(address, is_vip),
                    IpAddr::V6(address) => self.ask_by_ndp(address, is_vip),
                }
            }
            Effect::Kin { was, is } => self.task(Task::Kin(was, is)),
            Effect::ReserveEpochs { below } => self.task(Task::ReserveEpochs(below)),
            Effect::Remember(memory) => self.task(Task::Remember(memory)),
            Effect::Reconfigured => self.take_over(),
            Effect::Reply(id, outcome) => self.task(Task::Reply(id, outcome)),
            Effect::Event(event) => {
                if !self.mailbox.event(self.generation, event) {
                    self.counters.events_lost += 1;
                }
            }
        }
    }

    fn begin_grace(&mut self, group: GroupIndex, side: Side, other: Mac, until: Time) {
        let Some(Serving { leases, slots, .. }) = &self.serving else { return };
        let slot = slots[group.0];
        leases.begin_grace(slot, side, other, until);
        if side == Side::Old {
            // If nobody takes it, the connections are let go when the grace ends, and not before.
            self.task(Task::WatchConnections(slot, until));
        }
    }

    fn publish(&mut self, group: GroupIndex) {
        let (Some(Serving { leases, slots, .. }), Some(spread)) =
            (&self.serving, self.core.spread_table(group))
        else {
            return;
        };
        let slot = slots[group.0];
        if !leases.publish(slot, &spread, |node| self.core.mac_of(node)) {
            self.task(Task::NoTable(slot));
        }
    }

    fn send(&mut self, path: PathIndex, bytes: &[u8]) {
        match self.sockets.send(path, bytes) {
            Sent::Sent => self.counters.sent += 1,
            Sent::NotConnected => self.counters.not_connected += 1,
            Sent::Failed(_) => self.counters.send_failed += 1,
        }
    }

    fn ask_by_arp(&mut self, address: Ipv4Addr, is_vip: bool) {
        let own = match self.vlans.place_of(address.into()) {
            Place::Vlan(link) => link.place.own,
            Place::Untagged | Place::Nowhere => self.service_address,
        };
        match own.filter(|_| !is_vip) {
            Some(own) => self.send_arp(address, |mac| arp::request(mac, own, address)),
            None => self.send_arp(address, |mac| arp::probe(mac, address)),
        }
    }

    fn ask_by_ndp(&mut self, address: Ipv6Addr, is_vip: bool) {
        match self.ndp_of(address).address {
            Some(own) => self.send_ndp(address, |mac| ndp::solicitation(mac, own, address)),
            None if is_vip => self.send_ndp(address, |mac| ndp::probe(mac, address)),
            // A probe would make a host that is about to take this address give it up.
            None => self.counters.ndp_failed += 1,
        }
    }

    /// What neighbour discovery says of this host where the address is.
    fn ndp_of(&self, address: Ipv6Addr) -> ndp::Host {
        match self.vlans.place_of(address.into()) {
            Place::Vlan(link) => link.place.ndp,
            Place::Untagged | Place::Nowhere => self.ndp,
        }
    }

    /// Sends a frame about an address to where that is.
    fn send_arp(&mut self, about: Ipv4Addr, frame: impl FnOnce(Mac) -> [u8; arp::FRAME_LEN]) {
        let (sockets, mac) = self.there(about.into());
        let sent = sent_on(sockets.map(|sockets| &sockets.arp), mac, frame);
        self.counters.arp_failed += u64::from(!sent);
    }

    fn send_ndp<const LENGTH: usize>(&mut self, about: Ipv6Addr, frame: impl FnOnce(Mac) -> [u8; LENGTH]) {
        let (sockets, mac) = self.there(about.into());
        let sent = sent_on(sockets.and_then(|sockets| sockets.ndp.as_ref()), mac, frame);
        self.counters.ndp_failed += u64::from(!sent);
    }

    /// The sockets and the Ethernet address where an address is.
    fn there(&self, address: IpAddr) -> (Option<&LinkSockets>, Option<Mac>) {
        match self.vlans.place_of(address) {
            Place::Untagged => (self.link_sockets.as_ref(), self.mac),
            Place::Vlan(link) => (Some(&link.sockets), Some(link.place.mac)),
            Place::Nowhere => (None, None),
        }
    }

    fn task(&mut self, task: Task) {
        if let Err(task) = self.mailbox.task(task) {
            self.counters.tasks_lost += 1;
            match task {
                Task::ReserveEpochs(_) => self.reservation_refused = true,
                Task::Remember(_) => self.memory_refused = true,
                Task::WatchConnections(..)
                | Task::FlowsSeen(_)
                | Task::NoTable(_)
                | Task::Kin(..)
                | Task::Reply(..)
                | Task::Shown(_)
                | Task::Close(_)
                | Task::CloseVlans(_)
                | Task::CloseAll(_) => {}
            }
        }
    }

    fn address_job(&mut self, group: GroupIndex, job: fn(GroupSlot) -> AddressJob) {
        let Some(serving) = &mut self.serving else { return };
        let slot = serving.slots[group.0];
        let job = job(slot);
        if !serving.addresses.job(job) {
            self.counters.tasks_lost += 1;
            if let AddressJob::Add(slot) = job {
                self.addresses_refused.push(slot);
            }
        }
    }

    /// The group that has this slot, if one has.
    fn group_in(&self, slot: GroupSlot) -> Option<GroupIndex> {
        let slots = &self.serving.as_ref()?.slots;
        slots.iter().position(|&other| other == slot).map(GroupIndex)
    }

    fn address_failed(&mut self, slot: GroupSlot) {
        if let Some(group) = self.group_in(slot) {
            self.handle(Input::AddressFailed(group));
        }
    }

    /// Tells the core that what nobody took has failed, and has addresses taken off for which there was no room before.
    fn answer_refused(&mut self) {
        if let Some(serving) = &mut self.serving {
            serving.addresses.repeat();
        }
        while let Some(slot) = self.addresses_refused.pop() {
            self.address_failed(slot);
        }
        if std::mem::take(&mut self.reservation_refused) {
            self.handle(Input::ReservationFailed);
        }
        if std::mem::take(&mut self.memory_refused) {
            self.handle(Input::NotRemembered);
        }
    }
}

/// Reads a frame of ARP; what it tells, if anything. `None` if there is none to read.
#[expect(clippy::option_option, reason = "no frame is another thing than a frame that tells nothing")]
fn heard_by_arp(socket: &PacketSocket) -> Option<Option<(IpAddr, Mac)>> {
    let mut frame = [0; 128];
    // A socket whose interface is down fails until it is up again; the daemon tells the core of that.
    let length = socket.receive(&mut frame).ok()??;
    let arp = Arp::parse(&frame[..length.min(frame.len())]);
    let telling = arp.filter(|arp| arp.operation == Operation::Reply || arp.is_announcement());
    Some(telling.map(|arp| (arp.sender_ip.into(), arp.sender_mac)))
}

/// Likewise of neighbour discovery.
#[expect(clippy::option_option, reason = "as above")]
fn heard_by_ndp(socket: &PacketSocket) -> Option<Option<(IpAddr, Mac)>> {
    let mut frame = [0; ndp::READ_LEN];
    let length = socket.receive(&mut frame).ok()??;
    let found = Advertisement::parse(&frame[..length.min(frame.len())]);
    Some(found.map(|found| (found.target.into(), found.mac)))
}

/// Sends a frame in the name of the interface, if it is up; whether it was sent.
fn sent_on<const LENGTH: usize>(
    socket: Option<&PacketSocket>,
    mac: Option<Mac>,
    frame: impl FnOnce(Mac) -> [u8; LENGTH],
) -> bool {
    match (socket, mac) {
        (Some(socket), Some(mac)) => socket.send(&frame(mac)).is_ok(),
        (_, _) => false,
    }
}

fn vips_of(settings: &Settings) -> Vec<Vec<IpAddr>> {
    settings.groups.iter().map(|group| group.vips.clone()).collect()
}
