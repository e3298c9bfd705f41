//! The daemon: everything around the heartbeat thread that may wait for disks, netlink and people.
//!
//! | file | what is in it |
//! |---|---|
//! | `mod.rs` | what every daemon does, a witness's included: heartbeat thread, control socket, epochs, signals |
//! | `node.rs` | what a node does besides: chores, and the removal of all it added |
//! | `start.rs` | the start of a node: what is opened in which order, and what can be adopted |
//! | `watch.rs` | a node's service interface, other interfaces and the VIPs on them |
//! | `vlans.rs` | the interfaces of the VLANs on which groups are |
//! | `witness.rs` | the start and the loop of a witness |
//! | `reload.rs` | going over to another configuration |
//! | `restart.rs` | another process in this one's place |
//! | `installed.rs` | the program that is installed |
//! | `handed_on.rs` | what one process hands to the next |
//! | `groups.rs` | what other groups and VIPs take of a node: maps, addresses, watch |
//! | `nic_filter.rs` | the virtual Ethernet addresses that the service interface's card takes in |
//! | `connections.rs` | a group's connections that are left after a hand-over |
//! | `answers.rs` | the control socket's requests |
//! | `traces.rs` | frames that a client wants to see |
//! | `cleanup.rs` | removing what a dead daemon has left |
//!
//! Not here: when to take or give up a group (`cluster-proto`), and anything the heartbeat thread would have to wait for.

mod answers;
mod cleanup;
mod connections;
mod flows;
mod groups;
mod handed_on;
mod installed;
mod nic_filter;
mod node;
mod reload;
mod restart;
mod start;
mod traces;
mod vlans;
mod watch;
mod witness;

pub use cleanup::{Cleaned, cleanup};
pub use installed::Installed;

use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, bail};
use cluster_proto::{Command, CommandId, EventKind, Incarnation, Mac, Memory, Settings, Time};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use crate::config::{Config, HostKind, Local};
use crate::control::render::{self, Paint};
use crate::control::{Call, ControlError, ControlSocket, EventBody, EventLog};
use crate::dataplane::GroupSlot;
use crate::driver::mailbox::{DaemonEnd, Order, Shown, Task};
use crate::driver::path_sockets::PathEnds;
use crate::driver::wake::Wake;
use crate::driver::{clock, heartbeat_loop};
use crate::epoch_file::{EpochFile, EpochFileError};
use crate::memory_file::{MemoryFile, MemoryFileError};

use answers::{Answers, Counted};
use handed_on::HandedOn;
use node::SharedPlane;
use reload::Coming;
pub use reload::Source;
use restart::Replacing;

/// How long the heartbeat thread may take to resign before the stop goes on without it. It resigns within two seconds
/// even if nobody takes over.
const RESIGN_PATIENCE: Duration = Duration::from_secs(4);
/// Calls of the control socket and reports that wait at the same time.
const QUEUE: usize = 64;
/// How often a daemon looks after what nobody tells it of.
const CHORES: Duration = Duration::from_millis(200);

/// Runs the daemon of one node or witness until SIGTERM or SIGINT, then stops it cleanly: hands over, removes what it
/// added.
///
/// # Errors
/// Something needed cannot be opened, or a part of the daemon has failed while it ran.
pub async fn run(config: &Config, source: Source, installed: Installed) -> anyhow::Result<()> {
    let signals = Signals::new()?;
    let started = clock::now();
    let (settings, local) = source.settings(config).map_err(anyhow::Error::msg)?;
    match local.service.clone() {
        Some(service) => {
            let (node, front) = start::start(settings, local, service, source, (started, installed)).await?;
            front.serve(node.attend(signals)).await
        }
        None => {
            let (witness, front) = witness::start(settings, local, source, (started, installed))?;
            front.serve(witness.attend(signals)).await
        }
    }
}

/// The daemon's side that clients see.
struct Front {
    control: ControlSocket,
    calls: mpsc::Sender<Call>,
    events: EventLog,
}

impl Front {
    /// Serves clients for as long as the daemon runs, its stop included.
    async fn serve(self, daemon: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
        let (stop, stopped) = oneshot::channel::<()>();
        let server = tokio::spawn(self.control.serve(self.calls, self.events, async {
            let _ = stopped.await;
        }));
        let outcome = daemon.await;
        let _ = stop.send(());
        server.await.context("the control socket's task ended")?.context("the control socket failed")?;
        outcome
    }
}

/// What an operator or the system asks of the process.
enum Asked {
    Reload,
    Stop,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let on = |kind| signal(kind).context("cannot receive signals");
        Ok(Self {
            terminate: on(SignalKind::terminate())?,
            interrupt: on(SignalKind::interrupt())?,
            hangup: on(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::Stop,
            _ = self.interrupt.recv() => Asked::Stop,
            _ = self.hangup.recv() => Asked::Reload,
        }
    }
}

/// What every running daemon has, a node's and a witness's.
struct Daemon {
    settings: Settings,
    local: Local,
    source: Source,
    /// How many configurations there were before this one.
    generation: u32,
    /// The next one, until the heartbeat thread speaks in its terms.
    coming: Option<Coming>,
    /// Clients that wait for a reload.
    reloads: Vec<Call>,
    /// Groups that were handed over, and until when their connections are of interest.
    handed_over: Vec<(GroupSlot, Time)>,
    /// Peers' Ethernet addresses that the data plane has not been told yet: before, and now.
    kin: Vec<(Option<Mac>, Mac)>,
    /// The trace that was last asked for, by its number, and when.
    traced: Option<(u64, Time)>,
    /// A restart that is under way.
    replacing: Option<Replacing>,
    installed: Installed,
    run: Incarnation,
    /// Commands that name a group, until it is known by which configuration.
    held: Vec<Call>,
    started: Time,
    mailbox: DaemonEnd,
    thread: JoinHandle<()>,
    epochs: EpochFile,
    events: EventLog,
    answers: Answers,
    /// The data plane, whose counters clients may ask for; `None` for a witness.
    plane: Option<SharedPlane>,
    /// For each group its slot in the lease table; nothing for a witness.
    slots: Vec<GroupSlot>,
    /// How the XDP program is attached, for people.
    xdp: &'static str,
    /// The name of the program that is chained to it.
    chain: Option<String>,
    inbox: Inbox,
    memory: MemoryFile,
    written: mpsc::Sender<Written>,
    counts: mpsc::Sender<Counted>,
    checks: mpsc::Sender<Result<(), ControlError>>,
}

/// What others tell every daemon.
struct Inbox {
    wake: Wake,
    calls: mpsc::Receiver<Call>,
    /// Counters that a client has asked for, read by a task of their own.
    counts: mpsc::Receiver<Counted>,
    /// Files written by a blocking task.
    written: mpsc::Receiver<Written>,
    /// What the installed program says of the configuration.
    checked: mpsc::Receiver<Result<(), ControlError>>,
}

/// What a blocking task has written to disk, or could not.
#[derive(Debug)]
enum Written {
    /// All counters below this are reserved.
    Epochs(Result<u64, EpochFileError>),
    /// What must not be forgotten is on disk.
    Memory(Result<(), MemoryFileError>),
}

/// What the start of every daemon has got ready before its heartbeat thread.
struct Prepared {
    settings: Settings,
    local: Local,
    source: Source,
    started: Time,
    installed: Installed,
    handed_on: Option<HandedOn>,
    mailbox: DaemonEnd,
    epochs: EpochFile,
    memory: MemoryFile,
    events: EventLog,
}

impl Prepared {
    /// Starts the heartbeat thread, and gives the way by which calls reach the daemon.
    fn begin(self, setup: heartbeat_loop::Setup) -> anyhow::Result<(Daemon, mpsc::Sender<Call>)> {
        let Self { settings, local, source, started, installed, handed_on, mailbox, epochs, memory, events } =
            self;
        let run = setup.start.incarnation;
        let wake = Wake::new(mailbox.wake_daemon()).context("cannot wait for the heartbeat thread")?;
        let (thread, granted) = heartbeat_loop::spawn(setup).with_context(|| {
            format!("cannot open the heartbeat sockets on UDP port {} (is it in use?)", local.port)
        })?;
        let of_start = Vec::from_iter(granted.warning());
        let paths_in_all = settings.peers.iter().map(|peer| peer.paths.len()).sum();
        let room = Shown::with_room(settings.groups.len(), settings.peers.len(), paths_in_all);
        let mut answers = Answers::new(of_start, granted.whole(), room);
        answers.warn(local.warnings.iter().map(ToString::to_string));
        let (calls_in, calls) = mpsc::channel(QUEUE);
        let (written_in, written) = mpsc::channel(QUEUE);
        let (counts_in, counts) = mpsc::channel(QUEUE);
        let (checks, checked) = mpsc::channel(1);
        let daemon = Daemon {
            settings,
            local,
            source,
            generation: 0,
            coming: None,
            reloads: Vec::new(),
            handed_over: Vec::new(),
            kin: Vec::new(),
            traced: None,
            replacing: None,
            installed,
            run,
            held: Vec::new(),
            started,
            mailbox,
            thread,
            epochs,
            events,
            answers,
            plane: None,
            slots: Vec::new(),
            xdp: "none",
            chain: None,
            inbox: Inbox { wake, calls, counts, written, checked },
            memory,
            written: written_in,
            counts: counts_in,
            checks,
        };
        let (kind, name) = (daemon.local.kind().name(), daemon.local.node.as_str());
        tracing::info!(kind, name, socket = %daemon.local.socket.display(), "started");
        daemon.tell_of_restart(handed_on.as_ref());
        Ok((daemon, calls_in))
    }
}

impl Daemon {
    /// Waits for the next thing that is told to every daemon, and sees to it. Nothing is lost if it is dropped before.
    async fn attend(&mut self) -> anyhow::Result<()> {
        tokio::select! {
            written = self.inbox.wake.written() => {
                written.context("cannot wait for the heartbeat thread")?;
                self.take_tasks();
                self.advance_restart();
            }
            Some(outcome) = self.inbox.checked.recv() => self.checked(outcome),
            Some(call) = self.inbox.calls.recv() => self.call(call),
            Some(counted) = self.inbox.counts.recv() => self.counted(counted),
            Some(written) = self.inbox.written.recv() => self.written(written),
        }
        Ok(())
    }

    /// A daemon without its heartbeat thread is of no use.
    fn check_thread(&self) -> anyhow::Result<()> {
        if self.thread.is_finished() {
            bail!("the heartbeat thread has ended; see the log above");
        }
        Ok(())
    }

    /// Everything the heartbeat thread has for the daemon.
    fn take_tasks(&mut self) {
        while let Some((generation, event)) = self.mailbox.event() {
            self.switch(generation);
            // A witness has no role that could change.
            let is_role = matches!(event.kind, EventKind::Transition { .. });
            if is_role && self.local.kind() == HostKind::Witness {
                continue;
            }
            let record = self.events.record(event.at, EventBody::of(&event.kind, &self.local));
            let text = render::occurrence(&record, Paint::Plain);
            match event.kind {
                EventKind::LeaseTooShort { .. } | EventKind::WireVersion { .. } => tracing::warn!("{text}"),
                _ => tracing::info!("{text}"),
            }
        }
        while let Some(task) = self.mailbox.task() {
            match task {
                Task::ReserveEpochs(below) => {
                    let epochs = self.epochs.clone();
                    self.write(move || Written::Epochs(epochs.write(below).map(|()| below)));
                }
                Task::Remember(memory) => {
                    let file = self.memory.clone();
                    self.write(move || Written::Memory(file.write(&memory)));
                }
                Task::WatchConnections(slot, until) => self.handed_over.push((slot, until)),
                Task::FlowsSeen(busy) => drop(busy),
                Task::NoTable(slot) => {
                    let group = self.group_name(slot);
                    let text = "there is no room for the group's table; it is served by its holder's table of before";
                    self.record(EventBody { group, ..EventBody::told("no_table", text.to_owned()) });
                }
                Task::Kin(was, is) => self.kin.push((was, is)),
                Task::Reply(id, outcome) => self.replied(id, outcome),
                Task::Shown(shown) => self.shown(shown),
                Task::CloseVlans(links) => drop(tokio::task::spawn_blocking(move || drop(links))),
                Task::Close(socket) => drop(tokio::task::spawn_blocking(move || drop(socket))),
                Task::CloseAll(sockets) => drop(tokio::task::spawn_blocking(move || drop(sockets))),
            }
        }
    }

    /// Has a file written on a thread of its own; the outcome comes back as a report.
    fn write(&self, work: impl FnOnce() -> Written + Send + 'static) {
        let outcomes = self.written.clone();
        // The loop is gone only when the daemon stops.
        drop(tokio::task::spawn_blocking(move || drop(outcomes.blocking_send(work()))));
    }

    /// The core tells a failure as an event; the reason is for the log.
    fn written(&mut self, written: Written) {
        let order = match written {
            Written::Epochs(Ok(below)) => Order::EpochsReserved(below),
            Written::Epochs(Err(why)) => {
                tracing::error!("{why}");
                Order::ReservationFailed
            }
            Written::Memory(Ok(())) => Order::Remembered,
            Written::Memory(Err(why)) => {
                tracing::error!("{why}; this node votes for nobody until it is written");
                Order::NotRemembered
            }
        };
        self.order(order);
    }

    fn order(&mut self, order: Order) {
        if !self.mailbox.order(order) {
            tracing::error!("the heartbeat thread takes no orders");
        }
    }

    /// Tells the operator something that the election core knows nothing of.
    fn tell(&self, kind: &str, text: &str) {
        self.record(EventBody::told(kind, text));
    }

    /// The name of the group that has this slot, if one has.
    fn group_name(&self, slot: GroupSlot) -> Option<String> {
        let index = self.slots.iter().position(|&other| other == slot)?;
        self.local.groups.get(index).map(|group| group.name.clone())
    }

    fn record(&self, body: EventBody) {
        let record = self.events.record(clock::now(), body);
        tracing::warn!("{}", render::occurrence(&record, Paint::Plain));
    }

    /// Has the heartbeat thread hand over and end; whether it did in time, so that it can be waited for.
    async fn resign(&mut self) -> bool {
        tracing::info!("stopping: handing over");
        let id = self.answers.own_command();
        self.order(Order::Command(id, Command::Resign));
        let resigned = tokio::time::timeout(RESIGN_PATIENCE, self.resigned(id)).await.is_ok();
        if !resigned {
            tracing::warn!("the heartbeat thread did not resign in time; its leases run out by themselves");
        }
        self.order(Order::Stop);
        resigned
    }

    async fn resigned(&mut self, id: CommandId) {
        loop {
            if self.inbox.wake.written().await.is_err() {
                return;
            }
            self.take_tasks();
            if self.answers.own_is_done(id) {
                return;
            }
        }
    }
}

/// The two ends of each path, peer by peer.
fn paths_of(local: &Local) -> PathEnds {
    let peers = local.peers.iter();
    peers.map(|peer| peer.paths.iter().map(|path| (path.local, path.remote)).collect()).collect()
}

/// Waits for a heartbeat thread that has been told to end.
fn join(thread: JoinHandle<()>) {
    if thread.join().is_err() {
        tracing::error!("the heartbeat thread had panicked");
    }
}

/// What this node must not have forgotten; whether its voters may become those of the configuration.
fn remembered(file: &MemoryFile, settings: &Settings) -> anyhow::Result<Option<Memory>> {
    let memory = file.read()?;
    if let Some(memory) = &memory {
        memory.admits(settings).context(
            "the voters in the configuration cannot take the place of those this node ran with before",
        )?;
    }
    Ok(memory)
}

/// Whether the voters of the configuration may take the place of those this node ran with before, as far as this user may see
/// that.
///
/// # Errors
/// They may not, or what is on disk is damaged.
pub fn check_memory(config: &Config, node: &str) -> anyhow::Result<()> {
    let (settings, local) = config.settings(node)?;
    match remembered(&MemoryFile::new(&local.state_dir), &settings) {
        Err(error) if error.downcast_ref().is_some_and(MemoryFileError::is_forbidden) => Ok(()),
        remembered => remembered.map(|_| ()),
    }
}

fn incarnation() -> anyhow::Result<Incarnation> {
    let random = getrandom::u64().context("the kernel gives no random number")?;
    // Zero stands for "unknown" on the wire.
    Ok(Incarnation(random.max(1)))
}
