//! A witness: a daemon that votes and serves nothing. It needs UDP, its state directory and its control socket, and no
//! privileges: it has no interface, no programs, no addresses, and its core is told that there is no service link.

use anyhow::Context as _;
use cluster_proto::{Link, Resumed, Settings, Start, Time};
use nix::fcntl::Flock;
use tokio::time::MissedTickBehavior;

use super::handed_on::HandedOn;
use super::installed::Installed;
use super::reload::Source;
use super::{Asked, CHORES, Daemon, Front, Prepared, Signals, incarnation, join, paths_of, remembered};
use crate::config::Local;
use crate::control::{Call, ControlSocket, EventLog};
use crate::driver::{clock, heartbeat_loop, mailbox};
use crate::epoch_file::EpochFile;
use crate::memory_file::MemoryFile;
use crate::network::ndp;

/// A running witness.
pub(super) struct Witness {
    daemon: Daemon,
    /// While it is held, nobody else votes in this witness's name.
    _lock: Flock<std::fs::File>,
}

/// Opens everything and starts the heartbeat thread.
pub(super) fn start(
    settings: Settings,
    local: Local,
    source: Source,
    (started, installed): (Time, Installed),
) -> anyhow::Result<(Witness, Front)> {
    let epochs = EpochFile::open(&local.state_dir)?;
    // Two of one name would promise the same group to two nodes. A node has the lock of its pins for that.
    let lock = epochs.lock()?;
    let reserved_epochs = epochs.read()?;
    let memory_file = MemoryFile::new(&local.state_dir);
    let memory = remembered(&memory_file, &settings)?;
    let control = ControlSocket::bind(&local.socket)?;
    let (thread_end, mailbox) = mailbox::mailbox().context("cannot make the heartbeat thread's mailbox")?;
    let events = EventLog::new();
    let handed_on = HandedOn::taken();
    let prepared = Prepared {
        settings,
        local,
        source,
        started,
        installed,
        handed_on,
        mailbox,
        epochs,
        memory: memory_file,
        events: events.clone(),
    };
    let setup = heartbeat_loop::Setup {
        settings: prepared.settings.clone(),
        start: Start {
            now: clock::now(),
            incarnation: incarnation()?,
            reserved_epochs,
            memory,
            adopted: Vec::new(),
            tables: Vec::new(),
            resumed: Resumed::default(),
            link: Link::Gone,
        },
        paths: paths_of(&prepared.local),
        cpu: prepared.local.cpu,
        serving: None,
        service_address: None,
        ndp: ndp::Host::default(),
        link_sockets: None,
        mailbox: thread_end,
    };
    let (daemon, calls) = prepared.begin(setup)?;
    Ok((Witness { daemon, _lock: lock }, Front { control, calls, events }))
}

impl Witness {
    pub(super) async fn attend(mut self, mut signals: Signals) -> anyhow::Result<()> {
        let mut chores = tokio::time::interval(CHORES);
        chores.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                attended = self.daemon.attend() => attended?,
                // Nobody else says that the heartbeat thread has ended.
                _ = chores.tick() => {}
                asked = signals.next() => match asked {
                    Asked::Reload => self.reload(None).await,
                    Asked::Stop => break,
                },
            }
            while let Some(call) = self.daemon.reloads.pop() {
                self.reload(Some(call)).await;
            }
            self.daemon.leave_if_ready().await;
            self.daemon.check_thread()?;
        }
        if self.daemon.resign().await {
            let thread = self.daemon.thread;
            tokio::task::spawn_blocking(move || join(thread))
                .await
                .context("the thread could not be stopped")?;
        }
        tracing::info!("stopped");
        Ok(())
    }

    async fn reload(&mut self, asked: Option<Call>) {
        let outcome = match self.daemon.read_anew() {
            Ok((settings, local)) => self.daemon.go_over(settings, local, Vec::new(), None).await,
            Err(error) => Err(error),
        };
        self.daemon.reloaded(outcome, asked);
    }
}
