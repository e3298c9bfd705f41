//! A node: a daemon that serves. What it does besides answering the heartbeat thread and clients.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::connections::Connections;
use super::flows::{FlowWatch, Flows};
use super::nic_filter::NicFilter;
use super::reload::refused;
use super::start::find_service_paths;
use super::watch::Watch;
use super::{Asked, CHORES, Daemon, Signals, join};
use crate::config::Service;
use crate::control::{Call, ControlError, ErrorCode, EventBody};
use cluster_proto::Time;

use crate::dataplane::{Claimed, DataPlane};
use crate::driver::address_thread::{AddressReport, AddressThread};
use crate::driver::mailbox::Order;
use crate::network::addresses::Addresses;
use crate::network::surroundings;

/// How often, in rounds of chores, what failed is tried again and the default gateways are asked for. Served addresses
/// are passed on in each, so that a service link that is cut soon after a takeover can be judged.
const SELDOM: u32 = 5;

/// How often, in rounds of chores, this host's settings are looked at.
const HARDLY_EVER: u32 = 300;

/// A running node.
pub(super) struct Node {
    pub(super) daemon: Daemon,
    pub(super) service: Service,
    pub(super) plane: SharedPlane,
    pub(super) addresses: AddressThread,
    pub(super) address_reports: mpsc::Receiver<AddressReport>,
    pub(super) connections_in: mpsc::Sender<Connections>,
    pub(super) connections: mpsc::Receiver<Connections>,
    pub(super) flows_in: mpsc::Sender<std::io::Result<Vec<Flows>>>,
    pub(super) found_flows: mpsc::Receiver<std::io::Result<Vec<Flows>>>,
    pub(super) flow_watch: FlowWatch,
    pub(super) watch: Watch,
    /// Maps, addresses and watch still know groups or VIPs that the configuration does not have, or not any more.
    pub(super) unsettled: bool,
    /// The kernel's address tables, for the end.
    pub(super) tables: Addresses,
    /// Rounds of chores done.
    pub(super) rounds: u32,
    /// What the service interface's card was told to take in.
    pub(super) filter: NicFilter,
    /// When the newest of the claims was made that were passed on.
    pub(super) claims_read: Time,
}

/// The data plane, which several tasks use in turn; each call may wait for the kernel, so none runs on the loop itself.
#[derive(Clone)]
pub(super) struct SharedPlane(Arc<Mutex<Option<DataPlane>>>);

impl SharedPlane {
    pub(super) fn new(plane: DataPlane) -> Self {
        Self(Arc::new(Mutex::new(Some(plane))))
    }

    fn lock(&self) -> MutexGuard<'_, Option<DataPlane>> {
        // A panic ends the process; the lock cannot be poisoned by one that was survived.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a call that may wait for the kernel.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        call: impl FnOnce(&mut DataPlane) -> T + Send + 'static,
    ) -> anyhow::Result<T> {
        let plane = self.clone();
        let work = move || plane.lock().as_mut().map(call).context("the data plane is being removed");
        tokio::task::spawn_blocking(work).await.context("the data plane's task ended")?
    }
}

impl Node {
    pub(super) async fn attend(mut self, mut signals: Signals) -> anyhow::Result<()> {
        self.keep_addresses();
        let mut chores = tokio::time::interval(CHORES);
        chores.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                attended = self.daemon.attend() => attended?,
                event = self.watch.next() => self.link_event(event?).await,
                Some(report) = self.address_reports.recv() => self.address_report(report),
                Some(connections) = self.connections.recv() => self.connections(connections),
                Some(found) = self.found_flows.recv() => self.flows(found),
                _ = chores.tick() => self.chores().await,
                asked = signals.next() => match asked {
                    Asked::Reload => self.reload(None).await,
                    Asked::Stop => break,
                },
            }
            while let Some(call) = self.daemon.reloads.pop() {
                self.reload(Some(call)).await;
            }
            for (slot, until) in std::mem::take(&mut self.daemon.handed_over) {
                self.watch_connections(slot, until);
            }
            if !self.daemon.kin.is_empty() {
                self.tell_kin().await;
            }
            self.daemon.leave_if_ready().await;
            self.daemon.check_thread()?;
        }
        self.stop().await
    }

    async fn reload(&mut self, asked: Option<Call>) {
        let outcome = self.read_and_go_over().await;
        self.daemon.reloaded(outcome, asked);
    }

    async fn read_and_go_over(&mut self) -> Result<String, ControlError> {
        let (mut settings, mut local) = self.daemon.read_anew()?;
        self.read_chain_again().await?;
        let own = self.tables.list().await.map_err(|error| {
            let why = format!("cannot list the addresses of this host: {error}");
            ControlError::new(ErrorCode::Internal, why)
        })?;
        let service_address = find_service_paths(&mut settings, &mut local, &own, self.watch.ifindex());
        let slots = match self.make_room(&settings, &local).await {
            Ok(slots) => slots,
            Err(error) => {
                self.settle_groups().await;
                return Err(error);
            }
        };
        let outcome = self.daemon.go_over(settings, local, slots, service_address).await;
        self.settle_groups().await;
        outcome
    }

    /// The program that is chained to ours may be pinned anew at its path; before anything else, so that one which is no
    /// good changes nothing.
    async fn read_chain_again(&mut self) -> Result<(), ControlError> {
        let again = self
            .on_plane(|plane| plane.read_chain_again().map(|next| next.cloned()))
            .await
            .map_err(|error| ControlError::new(ErrorCode::Internal, error.to_string()))?;
        if let Some(next) = again.map_err(|error| refused(error.to_string()))? {
            tracing::info!(next = next.name, id = next.id, pin = %next.path.display(), "chained again");
            self.daemon.chain = Some(next.name);
        }
        Ok(())
    }

    /// Waits for something that may take the kernel long, and serves clients and the heartbeat thread meanwhile.
    pub(super) async fn patiently<T>(&mut self, awaited: impl Future<Output = T>) -> T {
        tokio::pin!(awaited);
        loop {
            tokio::select! {
                biased;
                outcome = &mut awaited => return outcome,
                // The loop that called this hears of a failure soon enough.
                _ = self.daemon.attend() => {}
            }
        }
    }

    /// Has the data plane do something, patiently.
    pub(super) async fn on_plane<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut DataPlane) -> T + Send + 'static,
    ) -> anyhow::Result<T> {
        let plane = self.plane.clone();
        self.patiently(async move { plane.blocking(work).await }).await
    }

    fn address_report(&mut self, report: AddressReport) {
        let (kind, group, text) = match report {
            AddressReport::Leaving(group) => return self.reset_connections(group),
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
                self.daemon.order(Order::AddressFailed(group));
                ("address_not_restored", group, format!("a VIP was taken off and cannot be put back: {why}"))
            }
        };
        let body = EventBody { group: self.daemon.group_name(group), ..EventBody::told(kind, text) };
        self.daemon.record(body);
    }

    async fn chores(&mut self) {
        self.rounds = self.rounds.wrapping_add(1);
        if self.rounds % SELDOM == 1 {
            self.retry_attach().await;
            if self.unsettled {
                self.settle_groups().await;
            }
            self.tell_unusable();
            self.tell_ndp();
            self.look_up_gateways().await;
            self.filter.doubt();
        }
        if self.rounds % HARDLY_EVER == 1 {
            self.look_around().await;
        }
        self.look_at_flows();
        self.fit_nic_filter().await;
        self.tell_plane().await;
        let since = self.claims_read;
        let noted = self.on_plane(move |plane| plane.noted(since)).await;
        match noted {
            Ok(Ok(noted)) => {
                self.flow_watch.note_passed(noted.passed);
                self.pass_on_served(&noted.served);
                self.pass_on_claims(&noted.claims);
            }
            Ok(Err(error)) => tracing::warn!(%error, "cannot read who was served and who claims VIPs"),
            Err(error) => tracing::warn!(%error, "cannot read who was served and who claims VIPs"),
        }
    }

    /// Looks at what of this host's settings may keep packets from where they are sent.
    async fn look_around(&mut self) {
        let groups = self.daemon.settings.groups.iter();
        let vips = groups.filter(|group| group.spread.is_some()).flat_map(|group| group.vips.iter().copied());
        let (interface, vips) = (self.service.interface.clone(), vips.collect());
        let looked = tokio::task::spawn_blocking(move || surroundings::look(&interface, &vips));
        if let Ok(found) = self.patiently(looked).await {
            self.daemon.seen_around(found.iter().map(ToString::to_string).collect());
        }
    }

    /// Tells the programs which Ethernet addresses the cluster's nodes have.
    async fn tell_kin(&mut self) {
        let kin = std::mem::take(&mut self.daemon.kin);
        let told = self
            .on_plane(move |plane| kin.into_iter().try_for_each(|(was, is)| plane.set_kin(was, is)))
            .await;
        if let Err(error) | Ok(Err(error)) = told.map(|told| told.map_err(anyhow::Error::from)) {
            tracing::warn!(%error, "the programs take a peer for a rival: they could not be told its Ethernet address");
        }
    }

    /// Tells the core of claims that are newer than those it was told of.
    fn pass_on_claims(&mut self, claims: &[Claimed]) {
        for claim in claims {
            self.claims_read = self.claims_read.max(claim.at);
            self.daemon.order(Order::Claimed(claim.address, claim.mac));
        }
    }

    /// Hands over, then removes everything that was added.
    async fn stop(mut self) -> anyhow::Result<()> {
        let resigned = self.daemon.resign().await;
        let vips = self.on_plane(|plane| plane.vips()).await?;
        let Self { daemon, addresses, plane, watch, tables, filter, .. } = self;
        drop(watch);
        tokio::task::spawn_blocking(move || {
            if resigned {
                join(daemon.thread);
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
        filter.remove().await;
        let remove = move || plane.lock().take().map_or(Ok(()), DataPlane::detach_and_unpin);
        tokio::task::spawn_blocking(remove)
            .await
            .context("the data plane's task ended")?
            .context("cannot remove the data plane; `clusterd --cleanup` tries again")?;
        tracing::info!("stopped");
        Ok(())
    }
}
