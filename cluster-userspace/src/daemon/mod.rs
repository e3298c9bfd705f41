//! The daemon: everything around the heartbeat thread that may wait for disks, netlink and people.
//!
//! | file | what is in it |
//! |---|---|
//! | `mod.rs` | the loop that passes on what happens, and the clean stop |
//! | `start.rs` | the start: what is opened in which order, and what can be adopted |
//! | `watch.rs` | the service interface, other interfaces and the VIPs on them |
//! | `answers.rs` | the control socket's requests |
//! | `cleanup.rs` | removing what a dead daemon has left |
//!
//! Not here: when to take or give up a group (`cluster-proto`), and anything the heartbeat thread would have to wait for.

mod answers;
mod cleanup;
mod start;
mod watch;

pub use cleanup::cleanup;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use cluster_proto::{Command, CommandId, Settings, Time};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;

use crate::config::{Config, Local};
use crate::control::render::{self, Paint};
use crate::control::{Call, EventBody, EventLog};
use crate::dataplane::DataPlane;
use crate::driver::address_thread::{AddressReport, AddressThread};
use crate::driver::clock;
use crate::driver::mailbox::{DaemonEnd, Order, Task};
use crate::driver::wake::Wake;
use crate::epoch_file::EpochFile;
use crate::network::addresses::Addresses;

use answers::{Answers, Counted};
use watch::Watch;

/// How long the heartbeat thread may take to resign before the stop goes on without it. It resigns within two seconds
/// even if nobody takes over.
const RESIGN_PATIENCE: Duration = Duration::from_secs(4);
/// How often served addresses are passed on, so that a service link that is cut soon after a takeover can be judged.
const CHORES: Duration = Duration::from_millis(200);
/// How often, in rounds of that, what failed is tried again and the default gateways are asked for.
const SELDOM: u32 = 5;

/// A running daemon.
struct Daemon {
    settings: Settings,
    local: Local,
    started: Time,
    mailbox: DaemonEnd,
    thread: JoinHandle<()>,
    addresses: AddressThread,
    plane: SharedPlane,
    epochs: EpochFile,
    events: EventLog,
    watch: Watch,
    answers: Answers,
    /// The kernel's address tables, for the end.
    tables: Addresses,
    /// Rounds of chores done.
    rounds: u32,
    reservations: mpsc::Sender<Reservation>,
    counts: mpsc::Sender<Counted>,
}

/// A counter, and whether all below it are on disk.
type Reservation = Result<u64, String>;

/// The data plane, which several tasks use in turn; each call may wait for the kernel, so none runs on the loop itself.
#[derive(Clone)]
struct SharedPlane(Arc<Mutex<Option<DataPlane>>>);

impl SharedPlane {
    fn lock(&self) -> MutexGuard<'_, Option<DataPlane>> {
        // A panic ends the process; the lock cannot be poisoned by one that was survived.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a call that may wait for the kernel.
    async fn blocking<T: Send + 'static>(
        &self,
        call: impl FnOnce(&mut DataPlane) -> T + Send + 'static,
    ) -> anyhow::Result<T> {
        let plane = self.clone();
        let work = move || plane.lock().as_mut().map(call).context("the data plane is being removed");
        tokio::task::spawn_blocking(work).await.context("the data plane's task ended")?
    }
}

/// Runs the daemon of one node until SIGTERM or SIGINT, then stops it cleanly: hands over, removes what it added.
///
/// # Errors
/// Something needed cannot be opened, or a part of the daemon has failed while it ran.
pub async fn run(config: &Config, node: &str, socket: Option<&std::path::Path>) -> anyhow::Result<()> {
    let signals = Signals::new()?;
    let (daemon, control, reports, calls) = start::start(config, node, socket).await?;
    let (stop, stopped) = oneshot::channel::<()>();
    let events = daemon.events.clone();
    let server = tokio::spawn(control.serve(calls, events, async {
        let _ = stopped.await;
    }));
    let outcome = daemon.attend(signals, reports).await;
    let _ = stop.send(());
    server.await.context("the control socket's task ended")?.context("the control socket failed")?;
    outcome
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
}

/// What others tell the loop.
struct Reports {
    wake: Wake,
    addresses: mpsc::Receiver<AddressReport>,
    calls: mpsc::Receiver<Call>,
    /// Counters that a client has asked for, read by a task of their own.
    counts: mpsc::Receiver<Counted>,
    /// Reservations written by a blocking task, with their outcome.
    reservations: mpsc::Receiver<Reservation>,
}

impl Daemon {
    async fn attend(mut self, mut signals: Signals, mut reports: Reports) -> anyhow::Result<()> {
        let mut chores = tokio::time::interval(CHORES);
        chores.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                written = reports.wake.written() => {
                    written.context("cannot wait for the heartbeat thread")?;
                    self.take_tasks();
                }
                event = self.watch.next() => self.link_event(event?, &mut reports).await,
                Some(call) = reports.calls.recv() => self.call(call),
                Some(counted) = reports.counts.recv() => self.counted(counted),
                Some(report) = reports.addresses.recv() => self.address_report(report),
                Some(reservation) = reports.reservations.recv() => self.reserved(reservation),
                _ = chores.tick() => self.chores(&mut reports).await,
                _ = signals.hangup.recv() => {
                    self.tell("reload_refused", "reload is not supported yet; the configuration in use is unchanged");
                }
                _ = signals.terminate.recv() => break,
                _ = signals.interrupt.recv() => break,
            }
            if self.thread.is_finished() {
                anyhow::bail!("the heartbeat thread has ended; see the log above");
            }
        }
        self.stop(&mut reports).await
    }

    /// Waits for something that may take the kernel long, and serves clients and the heartbeat thread meanwhile.
    async fn patiently<T>(&mut self, reports: &mut Reports, awaited: impl Future<Output = T>) -> T {
        tokio::pin!(awaited);
        loop {
            tokio::select! {
                biased;
                outcome = &mut awaited => return outcome,
                // The loop that called this hears of a failure soon enough.
                _ = reports.wake.written() => self.take_tasks(),
                Some(call) = reports.calls.recv() => self.call(call),
                Some(counted) = reports.counts.recv() => self.counted(counted),
                Some(reservation) = reports.reservations.recv() => self.reserved(reservation),
            }
        }
    }

    /// Has the data plane do something, patiently.
    async fn on_plane<T: Send + 'static>(
        &mut self,
        reports: &mut Reports,
        work: impl FnOnce(&mut DataPlane) -> T + Send + 'static,
    ) -> anyhow::Result<T> {
        let plane = self.plane.clone();
        self.patiently(reports, async move { plane.blocking(work).await }).await
    }

    /// Everything the heartbeat thread has for the daemon.
    fn take_tasks(&mut self) {
        while let Some(event) = self.mailbox.event() {
            let record = self.events.record(event.at, EventBody::of(&event.kind, &self.local));
            tracing::info!("{}", render::occurrence(&record, Paint::Plain));
        }
        while let Some(task) = self.mailbox.task() {
            match task {
                Task::ReserveEpochs(below) => self.reserve(below),
                Task::Reply(id, outcome) => self.answers.reply(id, outcome),
                Task::Shown(shown) => self.shown(shown),
                Task::Close(socket) => drop(tokio::task::spawn_blocking(move || drop(socket))),
            }
        }
    }

    fn reserve(&self, below: u64) {
        let epochs = self.epochs.clone();
        let outcomes = self.reservations.clone();
        tokio::task::spawn_blocking(move || {
            let outcome = epochs.write(below).map(|()| below).map_err(|error| error.to_string());
            // The loop is gone only when the daemon stops.
            let _ = outcomes.blocking_send(outcome);
        });
    }

    fn reserved(&mut self, reservation: Reservation) {
        match reservation {
            Ok(below) => self.order(Order::EpochsReserved(below)),
            Err(why) => {
                // The core tells it as an event; the reason is for the log.
                tracing::error!("{why}");
                self.order(Order::ReservationFailed);
            }
        }
    }

    fn address_report(&mut self, report: AddressReport) {
        let (kind, group, text) = match report {
            AddressReport::Failed(group, why) => {
                ("address_failed", group, format!("cannot configure the VIPs: {why}"))
            }
            AddressReport::NotRemoved(group, why) => {
                ("address_not_removed", group, format!("cannot take the VIPs off the interface: {why}"))
            }
            AddressReport::Restored(group) => (
                "address_restored",
                group,
                "somebody had taken a VIP off the interface; it is back".to_owned(),
            ),
            AddressReport::NotRestored(group, why) => {
                self.order(Order::AddressFailed(group));
                ("address_not_restored", group, format!("a VIP was taken off and cannot be put back: {why}"))
            }
        };
        let name = self.local.groups[group.0].name.clone();
        let body = EventBody { group: Some(name), ..EventBody::told(kind, text) };
        self.record(body);
    }

    async fn chores(&mut self, reports: &mut Reports) {
        self.rounds = self.rounds.wrapping_add(1);
        if self.rounds % SELDOM == 1 {
            self.retry_attach(reports).await;
            self.tell_foreign();
            self.look_up_gateways(reports).await;
        }
        let served = self.on_plane(reports, |plane| plane.served()).await;
        match served {
            Ok(Ok(served)) => self.pass_on_served(&served),
            Ok(Err(error)) => tracing::warn!(%error, "cannot read the served addresses"),
            Err(error) => tracing::warn!(%error, "cannot read the served addresses"),
        }
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

    fn record(&self, body: EventBody) {
        let record = self.events.record(clock::now(), body);
        tracing::warn!("{}", render::occurrence(&record, Paint::Plain));
    }

    /// Hands over, then removes everything that was added.
    async fn stop(mut self, reports: &mut Reports) -> anyhow::Result<()> {
        tracing::info!("stopping: handing over");
        let id = self.answers.own_command();
        self.order(Order::Command(id, Command::Resign));
        let resigned = tokio::time::timeout(RESIGN_PATIENCE, self.resigned(id, reports)).await;
        if resigned.is_err() {
            tracing::warn!("the heartbeat thread did not resign in time; its leases run out by themselves");
        }
        self.order(Order::Stop);
        let vips: Vec<_> = self.settings.groups.iter().flat_map(|group| group.vips.clone()).collect();
        let Self { thread, addresses, plane, watch, tables, .. } = self;
        drop(watch);
        tokio::task::spawn_blocking(move || {
            if resigned.is_ok() && thread.join().is_err() {
                tracing::error!("the heartbeat thread had panicked");
            }
            // With the jobs of the resignation done, no VIP is on the interface any more.
            addresses.stop();
        })
        .await
        .context("the threads could not be stopped")?;
        // The fence is what keeps the kernel from answering for a VIP, so it stays until they are gone for certain.
        tables.remove_all_ours(&vips).await.context(
            "cannot take the VIPs off the interfaces; the programs stay in place as a closed door, and \
             `clusterd --cleanup` removes both",
        )?;
        let remove = move || plane.lock().take().map_or(Ok(()), DataPlane::detach_and_unpin);
        tokio::task::spawn_blocking(remove)
            .await
            .context("the data plane's task ended")?
            .context("cannot remove the data plane; `clusterd --cleanup` tries again")?;
        tracing::info!("stopped");
        Ok(())
    }

    async fn resigned(&mut self, id: CommandId, reports: &mut Reports) {
        loop {
            if reports.wake.written().await.is_err() {
                return;
            }
            self.take_tasks();
            if self.answers.own_is_done(id) {
                return;
            }
        }
    }
}
