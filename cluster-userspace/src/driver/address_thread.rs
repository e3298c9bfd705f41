//! The thread that puts VIPs onto the service interface and takes them off. Configuring an address can wait for the
//! kernel's configuration lock (rtnl), so it must not happen on the heartbeat thread; but a takeover waits for it, so
//! it must not queue behind the daemon's chores either.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;

use cluster_common::maps::MAX_GROUPS;
use nix::sys::eventfd::{EfdFlags, EventFd};
use rtrb::{Consumer, Producer, RingBuffer};
use tokio::sync::{mpsc, oneshot};

use super::realtime;
use super::wake::Wake;
use crate::config::Vip;
use crate::dataplane::GroupSlot;
use crate::network::address_record::AddressRecord;
use crate::network::addresses::{Added, Addresses};

/// Jobs waiting at the same time; a group has one or two.
const CAPACITY: usize = 1024;
/// Groups whose VIPs are put on or taken off together, so that answers come soon even where there are many.
const TOGETHER: usize = 32;

/// What the heartbeat thread wants done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AddressJob {
    /// Put the group's VIPs onto the interface and answer.
    Add(GroupSlot),
    /// Take them off.
    Remove(GroupSlot),
    /// The same, once the connections that are left have been reset: [`AddressReport::Leaving`] asks for that.
    LetGo(GroupSlot),
}

/// What the daemon wants done.
#[derive(Debug)]
pub enum AddressOrder {
    /// The group has these VIPs from now on: those that it no longer has are taken off, those that are new are put on by
    /// the next [`AddressJob::Add`]. Answered when that is done, with the reason if an address could not be taken off;
    /// then the group has the VIPs it had.
    SetVips(GroupSlot, Vec<Vip>, oneshot::Sender<Result<(), String>>),
    /// What [`AddressReport::Leaving`] asked for is done: take the VIPs off, unless they are wanted again.
    Leave(GroupSlot),
    /// Put the VIPs of a group that keeps them where they belong.
    Keep(GroupSlot),
    /// An address was taken off by somebody else: put the group's back if they are still wanted.
    Restore(GroupSlot),
    /// End the thread.
    Stop,
}

/// What the thread tells the daemon.
#[derive(Debug)]
pub enum AddressReport {
    /// The group's VIPs could not be configured.
    Failed(GroupSlot, String),
    /// The group's VIPs could not be taken off.
    NotRemoved(GroupSlot, String),
    /// The group's VIPs are about to be taken off: their connections are to be reset, and [`AddressOrder::Leave`] given.
    Leaving(GroupSlot),
    /// VIPs that somebody else had taken off are back.
    Restored(GroupSlot),
    /// They could not be put back.
    NotRestored(GroupSlot, String),
}

/// What both threads and the daemon know of the interface and the groups.
#[derive(Debug)]
pub struct AddressState {
    groups: Vec<GroupState>,
}

/// What is known of one group.
#[derive(Default, Debug)]
struct GroupState {
    /// The number of the interface where its VIPs go; 0 while there is none.
    ifindex: AtomicU32,
    foreign: AtomicBool,
    wanted: AtomicBool,
    /// Its VIPs are on the loopback interface for as long as the daemon runs, whoever holds it.
    keeps: AtomicBool,
}

impl AddressJob {
    fn slot(self) -> GroupSlot {
        match self {
            Self::Add(slot) | Self::Remove(slot) | Self::LetGo(slot) => slot,
        }
    }
}

impl AddressState {
    /// No interface, nothing wanted.
    fn new() -> Self {
        let groups = (0..MAX_GROUPS).map(|_| GroupState::default()).collect();
        Self { groups }
    }

    fn of(&self, slot: GroupSlot) -> &GroupState {
        &self.groups[slot.index() as usize]
    }

    /// Whether the group's VIPs belong on the interface now.
    #[must_use]
    pub fn is_wanted(&self, slot: GroupSlot) -> bool {
        self.of(slot).wanted.load(Ordering::SeqCst)
    }

    /// Whether the group's VIPs stay where they are, whoever holds it.
    fn keeps(&self, slot: GroupSlot) -> bool {
        self.of(slot).keeps.load(Ordering::SeqCst)
    }

    /// Whether somebody who takes the group's VIPs off is in the wrong.
    #[must_use]
    pub fn belongs(&self, slot: GroupSlot) -> bool {
        self.is_wanted(slot) || self.keeps(slot)
    }

    /// Says which groups' VIPs are kept.
    pub fn set_keeping(&self, slots: &BTreeSet<GroupSlot>) {
        let slots: BTreeSet<u32> = slots.iter().map(|slot| slot.index()).collect();
        for (slot, group) in (0..).zip(&self.groups) {
            group.keeps.store(slots.contains(&slot), Ordering::SeqCst);
        }
    }

    fn set_wanted(&self, slot: GroupSlot, wanted: bool) {
        self.of(slot).wanted.store(wanted, Ordering::SeqCst);
    }

    /// Says where VIPs go: those of the groups named to these interfaces, all others to the service interface. 0 is none.
    pub fn set_interfaces(&self, service: u32, others: &BTreeMap<GroupSlot, u32>) {
        let others: BTreeMap<u32, u32> =
            others.iter().map(|(slot, ifindex)| (slot.index(), *ifindex)).collect();
        for (slot, group) in (0..).zip(&self.groups) {
            group.ifindex.store(others.get(&slot).copied().unwrap_or(service), Ordering::SeqCst);
        }
    }

    fn ifindex(&self, slot: GroupSlot) -> u32 {
        self.of(slot).ifindex.load(Ordering::SeqCst)
    }

    fn is_foreign(&self, slot: GroupSlot) -> bool {
        self.of(slot).foreign.load(Ordering::SeqCst)
    }

    /// Says of which groups one of the VIPs is configured by somebody else.
    pub fn set_foreign(&self, slots: &BTreeSet<GroupSlot>) {
        let slots: BTreeSet<u32> = slots.iter().map(|slot| slot.index()).collect();
        for (slot, group) in (0..).zip(&self.groups) {
            group.foreign.store(slots.contains(&slot), Ordering::SeqCst);
        }
    }
}

/// The heartbeat thread's end.
#[derive(Debug)]
pub struct ThreadJobs {
    jobs: Producer<AddressJob>,
    /// Those for which there was no room, and of which nobody hears; one for each group at most.
    left: Vec<AddressJob>,
    done: Consumer<(GroupSlot, bool)>,
    wake: Arc<EventFd>,
}

impl ThreadJobs {
    /// Hands over a job. Returns whether it will be done: without room an addition is not, and a removal is kept for
    /// [`Self::repeat`].
    pub fn job(&mut self, job: AddressJob) -> bool {
        // What was to become of the group before is no longer wanted.
        self.left.retain(|left| left.slot() != job.slot());
        let taken = self.jobs.push(job).is_ok();
        let _ = self.wake.write(1);
        match job {
            AddressJob::Add(_) => taken,
            AddressJob::Remove(_) | AddressJob::LetGo(_) => {
                if !taken {
                    self.left.push(job);
                }
                true
            }
        }
    }

    /// Hands over what was kept, as far as there is room.
    pub fn repeat(&mut self) {
        while let Some(&job) = self.left.last() {
            if self.jobs.push(job).is_err() {
                break;
            }
            self.left.pop();
            let _ = self.wake.write(1);
        }
    }

    /// The next group whose VIPs are on the interface, or could not be put there.
    pub fn done(&mut self) -> Option<(GroupSlot, bool)> {
        self.done.pop().ok()
    }
}

/// The daemon's end.
#[derive(Debug)]
pub struct AddressThread {
    /// What is known of the interface and the groups.
    pub state: Arc<AddressState>,
    orders: mpsc::Sender<AddressOrder>,
    thread: Option<JoinHandle<()>>,
}

impl AddressThread {
    /// Tells the thread something. It is lost only if the thread no longer runs, or a thousand orders wait.
    pub fn order(&self, order: AddressOrder) {
        if let Err(lost) = self.orders.try_send(order) {
            tracing::warn!(order = ?lost.into_inner(), "the address thread does not take orders");
        }
    }

    /// Gives a group other VIPs; see [`AddressOrder::SetVips`].
    ///
    /// # Errors
    /// Why an address could not be taken off, for people.
    pub fn set_vips(
        &self,
        slot: GroupSlot,
        vips: Vec<Vip>,
    ) -> impl Future<Output = Result<(), String>> + use<> {
        let (done_in, done) = oneshot::channel();
        self.order(AddressOrder::SetVips(slot, vips, done_in));
        async { done.await.unwrap_or_else(|_| Err("the address thread has ended".to_owned())) }
    }

    /// Ends the thread once it has done what was asked before.
    pub fn stop(mut self) {
        self.order(AddressOrder::Stop);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the address thread had panicked");
        }
    }
}

/// Starts the thread, in the calling thread's network namespace. `wake_heartbeats` is written when an answer waits.
///
/// # Errors
/// No file descriptors or threads are left, the kernel refuses a netlink socket.
pub fn spawn(
    record: Arc<AddressRecord>,
    vips: BTreeMap<GroupSlot, Vec<Vip>>,
    wake_heartbeats: Arc<EventFd>,
    reports: mpsc::Sender<AddressReport>,
) -> io::Result<(AddressThread, ThreadJobs)> {
    let wake = Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?);
    let wake_worker = Arc::clone(&wake);
    let (job_in, jobs) = RingBuffer::new(CAPACITY);
    let (done, done_out) = RingBuffer::new(CAPACITY);
    let (order_in, orders) = mpsc::channel(CAPACITY);
    let state = Arc::new(AddressState::new());
    let mut worker = Worker { jobs, done, orders, reports, vips, wake_heartbeats, state: Arc::clone(&state) };
    let (opened_in, opened) = std::sync::mpsc::sync_channel(1);
    let thread = std::thread::Builder::new().name("address".to_owned()).spawn(move || {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_io().build() {
            Ok(runtime) => runtime,
            Err(error) => return drop(opened_in.send(Err(error))),
        };
        runtime.block_on(async {
            let opened = Wake::new(wake).and_then(|wake| Ok((wake, Addresses::connect(record)?)));
            match opened {
                Ok((wake, addresses)) => {
                    // Without it a takeover under load waits longer for its address; the heartbeat thread, which asks
                    // for the same permission, has said so.
                    let _ = realtime::fifo(realtime::ADDRESS_PRIORITY);
                    drop(opened_in.send(Ok(())));
                    worker.run(&wake, &addresses).await;
                }
                Err(error) => drop(opened_in.send(Err(error))),
            }
        });
    })?;
    opened.recv().map_err(|_| io::Error::other("the address thread ended at its start"))??;
    let address_thread = AddressThread { state, orders: order_in, thread: Some(thread) };
    let left = Vec::with_capacity(MAX_GROUPS as usize);
    Ok((address_thread, ThreadJobs { jobs: job_in, left, done: done_out, wake: wake_worker }))
}

/// Jobs of one kind, for several groups.
#[derive(PartialEq, Eq, Debug)]
enum Jobs {
    Add(Vec<GroupSlot>),
    Remove(Vec<GroupSlot>),
    LetGo(Vec<GroupSlot>),
}

struct Worker {
    jobs: Consumer<AddressJob>,
    done: Producer<(GroupSlot, bool)>,
    orders: mpsc::Receiver<AddressOrder>,
    reports: mpsc::Sender<AddressReport>,
    vips: BTreeMap<GroupSlot, Vec<Vip>>,
    wake_heartbeats: Arc<EventFd>,
    state: Arc<AddressState>,
}

impl Worker {
    async fn run(&mut self, wake: &Wake, addresses: &Addresses) {
        loop {
            let order = tokio::select! {
                biased;
                written = wake.written() => match written {
                    Ok(()) => None,
                    Err(_) => return,
                },
                order = self.orders.recv() => Some(order.unwrap_or(AddressOrder::Stop)),
            };
            while let Some(job) = self.next_jobs() {
                self.work(job, addresses).await;
            }
            match order {
                None => {}
                Some(AddressOrder::Leave(group)) if self.state.is_wanted(group) => {}
                Some(AddressOrder::Leave(group)) => self.take_off(&[group], addresses).await,
                Some(AddressOrder::Keep(group)) => {
                    for outcome in self.add(&[group], addresses).await {
                        if let Err(why) = outcome {
                            self.report(AddressReport::NotRestored(group, why));
                        }
                    }
                }
                Some(AddressOrder::Restore(group)) => self.restore(group, addresses).await,
                Some(AddressOrder::SetVips(group, vips, done)) => {
                    // Nobody waits any more only if the daemon ends.
                    let _ = done.send(self.set_vips(group, vips, addresses).await);
                }
                Some(AddressOrder::Stop) => return,
            }
        }
    }

    /// The next jobs that are alike, each for another group, in their order.
    fn next_jobs(&mut self) -> Option<Jobs> {
        let first = self.jobs.pop().ok()?;
        let mut groups = vec![first.slot()];
        let alike = |job: &AddressJob, groups: &[GroupSlot]| {
            std::mem::discriminant(job) == std::mem::discriminant(&first) && !groups.contains(&job.slot())
        };
        while groups.len() < TOGETHER
            && self.jobs.peek().is_ok_and(|next| alike(next, &groups))
            && let Ok(next) = self.jobs.pop()
        {
            groups.push(next.slot());
        }
        Some(match first {
            AddressJob::Add(_) => Jobs::Add(groups),
            AddressJob::Remove(_) => Jobs::Remove(groups),
            AddressJob::LetGo(_) => Jobs::LetGo(groups),
        })
    }

    async fn work(&mut self, jobs: Jobs, addresses: &Addresses) {
        match jobs {
            Jobs::Add(groups) => {
                for &group in &groups {
                    self.state.set_wanted(group, true);
                }
                let outcomes = self.add(&groups, addresses).await;
                for (group, outcome) in groups.into_iter().zip(outcomes) {
                    let ready = outcome.is_ok();
                    if let Err(why) = outcome {
                        self.state.set_wanted(group, false);
                        self.report(AddressReport::Failed(group, why));
                    }
                    // It has room for as many answers as there is room for jobs.
                    let _ = self.done.push((group, ready));
                }
                let _ = self.wake_heartbeats.write(1);
            }
            Jobs::Remove(groups) => {
                for &group in &groups {
                    self.state.set_wanted(group, false);
                }
                self.take_off(&groups, addresses).await;
            }
            Jobs::LetGo(groups) => {
                for group in groups {
                    self.state.set_wanted(group, false);
                    if self.reports.try_send(AddressReport::Leaving(group)).is_err() {
                        // Nobody resets them; without their address they end by themselves.
                        self.take_off(&[group], addresses).await;
                    }
                }
            }
        }
    }

    async fn take_off(&self, groups: &[GroupSlot], addresses: &Addresses) {
        let groups: Vec<GroupSlot> =
            groups.iter().copied().filter(|group| !self.state.keeps(*group)).collect();
        if groups.is_empty() || self.remove(&groups, addresses).await.is_ok() {
            return;
        }
        // Which of them it is is found out one by one.
        for group in groups {
            if let Err(why) = self.remove(&[group], addresses).await {
                self.report(AddressReport::NotRemoved(group, why));
            }
        }
    }

    fn vips_of(&self, group: GroupSlot) -> &[Vip] {
        self.vips.get(&group).map_or(&[], Vec::as_slice)
    }

    async fn set_vips(
        &mut self,
        group: GroupSlot,
        vips: Vec<Vip>,
        addresses: &Addresses,
    ) -> Result<(), String> {
        for old in self.vips_of(group).iter().filter(|old| !vips.contains(old)) {
            addresses.remove(old.address).await.map_err(|error| error.to_string())?;
        }
        self.vips.insert(group, vips);
        Ok(())
    }

    /// Puts the VIPs of these groups onto their interfaces, of each all or none; how many of each were not there.
    async fn add(&self, groups: &[GroupSlot], addresses: &Addresses) -> Vec<Result<usize, String>> {
        let mut outcomes: Vec<Result<usize, String>> = groups.iter().map(|_| Ok(0)).collect();
        let mut by_interface: BTreeMap<u32, Vec<(usize, GroupSlot)>> = BTreeMap::new();
        for (place, &group) in groups.iter().enumerate() {
            by_interface.entry(self.state.ifindex(group)).or_default().push((place, group));
        }
        for (ifindex, placed) in by_interface {
            let groups: Vec<GroupSlot> = placed.iter().map(|(_, group)| *group).collect();
            let added = self.add_to(ifindex, &groups, addresses).await;
            for ((place, _), outcome) in placed.into_iter().zip(added) {
                outcomes[place] = outcome;
            }
        }
        outcomes
    }

    async fn add_to(
        &self,
        ifindex: u32,
        groups: &[GroupSlot],
        addresses: &Addresses,
    ) -> Vec<Result<usize, String>> {
        let mut outcomes: Vec<Result<usize, String>> = Vec::with_capacity(groups.len());
        let (mut vips, mut places) = (Vec::new(), Vec::new());
        for (place, &group) in groups.iter().enumerate() {
            outcomes.push(if self.state.is_foreign(group) {
                Err("a VIP of the group is configured by somebody else".to_owned())
            } else if ifindex == 0 {
                Err("the interface where its VIPs go is gone".to_owned())
            } else {
                // On the loopback interface a network's prefix would make the whole network this host's.
                let whole = |vip: &Vip| if vip.address.is_ipv4() { 32 } else { 128 };
                let keeps = self.state.keeps(group);
                let prefix = |vip: &Vip| if keeps { whole(vip) } else { vip.prefix };
                vips.extend(self.vips_of(group).iter().map(|vip| (vip.address, prefix(vip))));
                places.resize(vips.len(), place);
                Ok(0)
            });
        }
        let mut incomplete = BTreeSet::new();
        for (place, outcome) in places.into_iter().zip(addresses.add_all(ifindex, &vips).await) {
            match (&mut outcomes[place], outcome) {
                (Ok(added), Ok(Added::Added)) => *added += 1,
                (Ok(_), Ok(Added::AlreadyOurs)) | (Err(_), Ok(_) | Err(_)) => {}
                (Ok(_), Err(error)) => {
                    incomplete.insert(groups[place]);
                    outcomes[place] = Err(error.to_string());
                }
            }
        }
        for group in incomplete {
            // All or none: what was added is taken off again.
            let _ = self.remove(&[group], addresses).await;
        }
        outcomes
    }

    async fn remove(&self, groups: &[GroupSlot], addresses: &Addresses) -> Result<(), String> {
        let vips = groups.iter().flat_map(|&group| self.vips_of(group));
        let vips: Vec<_> = vips.map(|vip| vip.address).collect();
        addresses.remove_all_ours(&vips).await.map(drop).map_err(|error| error.to_string())
    }

    async fn restore(&self, group: GroupSlot, addresses: &Addresses) {
        if !self.state.belongs(group) {
            return;
        }
        for outcome in self.add(&[group], addresses).await {
            match outcome {
                Ok(0) => {}
                Ok(_) => self.report(AddressReport::Restored(group)),
                Err(why) => self.report(AddressReport::NotRestored(group, why)),
            }
        }
    }

    fn report(&self, report: AddressReport) {
        // The daemon is told for the log alone; what matters was told to the heartbeat thread.
        let _ = self.reports.try_send(report);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The jobs of a thread that has room for one, and that thread's end.
    fn narrow() -> (ThreadJobs, Consumer<AddressJob>) {
        let wake = Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC).unwrap());
        let (jobs, worker) = RingBuffer::new(1);
        let (_, done) = RingBuffer::new(1);
        (ThreadJobs { jobs, left: Vec::new(), done, wake }, worker)
    }

    fn slots() -> [GroupSlot; 3] {
        std::array::from_fn(|index| GroupSlot::at(index as u32))
    }

    #[test]
    fn a_removal_without_room_is_repeated_until_it_is_taken() {
        let [one, two, three] = slots();
        let (mut jobs, mut worker) = narrow();
        assert!(jobs.job(AddressJob::Remove(one)) && jobs.job(AddressJob::Remove(two)));
        assert!(jobs.job(AddressJob::Remove(three)));
        let mut taken = Vec::new();
        for _ in 0..4 {
            jobs.repeat();
            taken.extend(worker.pop());
        }
        taken.sort_by_key(|job| job.slot());
        assert_eq!(taken, [one, two, three].map(AddressJob::Remove));
    }

    #[test]
    fn a_removal_is_not_repeated_once_the_group_is_to_be_added() {
        let [one, two, _] = slots();
        let (mut jobs, mut worker) = narrow();
        assert!(jobs.job(AddressJob::Remove(one)) && jobs.job(AddressJob::Remove(two)));
        assert!(!jobs.job(AddressJob::Add(two)), "the core is told that there was no room");
        assert_eq!(worker.pop(), Ok(AddressJob::Remove(one)));
        jobs.repeat();
        assert!(worker.pop().is_err());
    }
}
