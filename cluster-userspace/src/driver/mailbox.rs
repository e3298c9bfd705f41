//! Wait-free queues between the heartbeat thread and the rest of the daemon: rings of fixed size, and an eventfd each way
//! that wakes the other side. Neither side ever waits for the other, so a starved tokio cannot hold up a heartbeat.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use cluster_proto::spread::{Buckets, Load};
use cluster_proto::{
    Command, CommandId, Event, Link, Mac, Memory, Refusal, Settings, Snapshot, SpreadView, Time,
};
use nix::sys::eventfd::{EfdFlags, EventFd};
use rtrb::{Consumer, Producer, RingBuffer};

use super::path_sockets::{Leftover, Replacement};
use super::vlan_links::VlanLinks;
use crate::dataplane::GroupSlot;
use crate::network::ndp;
use crate::network::packet_socket::LinkSockets;

/// Orders, requests and answers waiting at the same time; there is about one of each for a group.
const CAPACITY: usize = 1024;
/// Events waiting; more than these are dropped and counted.
const EVENTS: usize = 4096;
/// Served addresses handed over at a time.
pub const SERVED: usize = 8;

/// What the daemon tells the heartbeat thread.
#[derive(Debug)]
pub enum Order {
    /// The service interface changed, or the sockets that are needed there. With `Up` come those.
    Link(Link, Option<LinkSockets>),
    /// The service link's VLANs are other, or the sockets on them.
    Vlans(Box<VlanLinks>),
    /// What neighbour discovery says of this host is other.
    Ndp(ndp::Host),
    /// The group's VIPs are no longer on the interface and could not be put back.
    AddressFailed(GroupSlot),
    /// After a hand-over: no connection of the group's VIPs is left.
    NoConnections(GroupSlot),
    /// The connections of an active/active group's VIPs that the kernel knew of at that time: in which buckets; how many, and packets.
    Flows(GroupSlot, Box<Buckets>, Load, Time),
    /// Epoch counters are on disk.
    EpochsReserved(u64),
    /// They are not.
    ReservationFailed,
    /// What must not be forgotten is on disk.
    Remembered,
    /// It is not.
    NotRemembered,
    /// Addresses served lately: so many of the array, newest first.
    Served([IpAddr; SERVED], usize),
    /// Somebody whose Ethernet address the data plane does not know says that this VIP is his.
    Claimed(IpAddr, Mac),
    /// An operator's command.
    Command(CommandId, Command),
    /// Go over to another configuration, and answer as to a command.
    Reconfigure(Box<Reconfiguration>),
    /// Write the state into this and send it back.
    Show(Box<Shown>),
    /// End the thread, once what it has to send is sent.
    Stop,
}

/// What the heartbeat thread asks of the daemon, in order.
#[derive(Debug)]
pub enum Task {
    /// Write to disk that counters below this are used, and answer.
    ReserveEpochs(u64),
    /// Write to disk what must not be forgotten, and answer.
    Remember(Memory),
    /// Say when the group's VIPs have no connection left; of no interest after that time.
    WatchConnections(GroupSlot, Time),
    /// What [`Order::Flows`] brought, to be freed.
    FlowsSeen(Box<Buckets>),
    /// There is no room for the table of an active/active group.
    NoTable(GroupSlot),
    /// A peer's Ethernet address on the service link, and what it was before.
    Kin(Option<Mac>, Mac),
    /// The outcome of a command.
    Reply(CommandId, Result<(), Refusal>),
    /// The state that was asked for.
    Shown(Box<Shown>),
    /// Sockets to be closed, which can take the kernel a while.
    Close(LinkSockets),
    /// The same of VLANs.
    CloseVlans(Box<VlanLinks>),
    /// Sockets that another configuration has no use for, to be closed.
    CloseAll(Leftover),
}

/// Another configuration, with everything opened and ready that it takes.
#[derive(Debug)]
pub struct Reconfiguration {
    /// What the answer names.
    pub id: CommandId,
    /// What events and states are told by from then on.
    pub generation: u32,
    /// The core's settings.
    pub settings: Box<Settings>,
    /// The sockets of their paths.
    pub sockets: Replacement,
    /// For each group its slot in the lease table; nothing for a witness.
    pub slots: Vec<GroupSlot>,
    /// This node's own IPv4 address on the service link.
    pub service_address: Option<Ipv4Addr>,
}

/// The state of the thread and its core, in memory that the daemon lends.
#[derive(Clone, Default, Debug)]
pub struct Shown {
    /// The core's.
    pub snapshot: Snapshot,
    /// The loop's.
    pub counters: LoopCounters,
    /// Announcements sent, by group.
    pub announcements: Vec<u64>,
    /// The configuration in whose terms it is.
    pub generation: u32,
}

impl Shown {
    /// With room for the state of so many groups, peers and paths, so that nothing is allocated when it is written.
    #[must_use]
    pub fn with_room(groups: usize, peers: usize, paths: usize) -> Self {
        let mut shown = Self::default();
        shown.snapshot.groups.reserve(groups);
        let members = || Vec::with_capacity(peers + 1);
        let view = || SpreadView { members: members(), ..SpreadView::default() };
        shown.snapshot.spreads.resize_with(groups, view);
        shown.snapshot.peers.reserve(peers);
        shown.snapshot.paths.reserve(paths);
        shown.announcements.reserve(groups);
        shown
    }
}

/// What the loop has counted since its start.
#[derive(Clone, Copy, Default, Debug)]
pub struct LoopCounters {
    /// How often it woke.
    pub wakeups: u64,
    /// The latest it woke after its deadline.
    pub worst_delay: Duration,
    /// Messages handed to the kernel.
    pub sent: u64,
    /// Messages the kernel refused for want of a route or an address.
    pub not_connected: u64,
    /// Messages the kernel refused for another reason.
    pub send_failed: u64,
    /// Datagrams read.
    pub received: u64,
    /// Datagrams from a peer's address that could not be its heartbeats, dropped in the kernel.
    pub filtered: u64,
    /// Datagrams from addresses that are no peer's, likewise.
    pub strangers: u64,
    /// Times a socket's queue was seen to have overflowed.
    pub overflows: u64,
    /// ARP frames that could not be sent.
    pub arp_failed: u64,
    /// Frames of neighbour discovery that could not be sent.
    pub ndp_failed: u64,
    /// Events dropped because nobody took them.
    pub events_lost: u64,
    /// Tasks dropped because nobody took them; the core is told that they failed.
    pub tasks_lost: u64,
}

/// The heartbeat thread's end.
#[derive(Debug)]
pub struct ThreadEnd {
    orders: Consumer<Order>,
    tasks: Producer<Task>,
    events: Producer<(u32, Event)>,
    wake_thread: Arc<EventFd>,
    wake_daemon: Arc<EventFd>,
    news: bool,
}

/// The daemon's end.
#[derive(Debug)]
pub struct DaemonEnd {
    orders: Producer<Order>,
    tasks: Consumer<Task>,
    events: Consumer<(u32, Event)>,
    wake_thread: Arc<EventFd>,
    wake_daemon: Arc<EventFd>,
}

/// Makes both ends.
///
/// # Errors
/// When the kernel has no file descriptors left.
pub fn mailbox() -> io::Result<(ThreadEnd, DaemonEnd)> {
    let eventfd =
        || Ok::<_, io::Error>(Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?));
    let (wake_thread, wake_daemon) = (eventfd()?, eventfd()?);
    let (order_in, order_out) = RingBuffer::new(CAPACITY);
    let (task_in, task_out) = RingBuffer::new(CAPACITY);
    let (event_in, event_out) = RingBuffer::new(EVENTS);
    let thread = ThreadEnd {
        orders: order_out,
        tasks: task_in,
        events: event_in,
        wake_thread: Arc::clone(&wake_thread),
        wake_daemon: Arc::clone(&wake_daemon),
        news: false,
    };
    let daemon = DaemonEnd { orders: order_in, tasks: task_out, events: event_out, wake_thread, wake_daemon };
    Ok((thread, daemon))
}

impl ThreadEnd {
    /// Readable when there are orders.
    pub fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wake_thread.as_fd()
    }

    /// Forgets that it was woken; before [`Self::order`], so that no order is missed.
    pub fn woken(&self) {
        drain(&self.wake_thread);
    }

    /// The next order.
    pub fn order(&mut self) -> Option<Order> {
        self.orders.pop().ok()
    }

    /// Hands over a task, or gives it back when nobody takes them.
    ///
    /// # Errors
    /// The task.
    pub fn task(&mut self, task: Task) -> Result<(), Task> {
        self.news = true;
        self.tasks.push(task).map_err(|rtrb::PushError::Full(task)| task)
    }

    /// Tells an event, in terms of the configuration of that generation. Returns whether it was taken.
    pub fn event(&mut self, generation: u32, event: Event) -> bool {
        self.news = true;
        self.events.push((generation, event)).is_ok()
    }

    /// Wakes the daemon if there is news for it; once for all effects of a turn of the loop.
    pub fn flush(&mut self) {
        if std::mem::take(&mut self.news) {
            // It cannot fail but for a counter at its maximum, and then the daemon is awake.
            let _ = self.wake_daemon.write(1);
        }
    }
}

impl DaemonEnd {
    /// What wakes the heartbeat thread, for others that have something for it.
    #[must_use]
    pub fn wake_thread(&self) -> Arc<EventFd> {
        Arc::clone(&self.wake_thread)
    }

    /// What is written when there are tasks or events.
    #[must_use]
    pub fn wake_daemon(&self) -> Arc<EventFd> {
        Arc::clone(&self.wake_daemon)
    }

    /// The next task.
    pub fn task(&mut self) -> Option<Task> {
        self.tasks.pop().ok()
    }

    /// The next event, and the generation of the configuration in whose terms it is.
    pub fn event(&mut self) -> Option<(u32, Event)> {
        self.events.pop().ok()
    }

    /// Gives an order. Returns whether the thread has room for it; it takes a thousand, so that a refusal means that
    /// it no longer runs.
    #[must_use]
    pub fn order(&mut self, order: Order) -> bool {
        let taken = self.orders.push(order).is_ok();
        let _ = self.wake_thread.write(1);
        taken
    }
}

fn drain(eventfd: &EventFd) {
    // An eventfd is emptied by one read; EAGAIN says that it was empty.
    let _ = eventfd.read();
}

/// The Ethernet address of an interface that is up.
#[must_use]
pub fn mac_of(link: Link) -> Option<Mac> {
    match link {
        Link::Up { mac } => Some(mac),
        Link::Down | Link::Gone => None,
    }
}
