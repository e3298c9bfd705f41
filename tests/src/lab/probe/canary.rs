//! Whether the machine itself stood still: threads that do nothing but sleep a millisecond, and note when it took longer.
//!
//! A hypervisor can take a processor away for tens of milliseconds, and other load can keep ordinary threads waiting. A
//! trial in which that happened says nothing about the product; it is discarded and counted.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use super::worker::{Stop, Workers};
use crate::lab::clock::{Moment, Window};
use crate::lab::unsafe_calls::run_in_real_time;

/// How long the canaries sleep.
const NAP: Duration = Duration::from_millis(1);
/// What oversleeping is worth noting.
const WORTH_NOTING: Duration = Duration::from_millis(1);
/// Below the kernel's interrupt threads (50) and the daemon's heartbeat thread, above everything else, real-time hogs of the
/// stress ladder included.
const PRIORITY: i32 = 45;

/// A time in which a thread that wanted to run did not.
#[derive(Clone, Copy, Debug)]
pub struct Stall {
    /// When it should have run.
    pub from: Moment,
    /// When it ran.
    pub to: Moment,
    /// Whether the thread was a real-time one: then the machine itself stood still, else it was merely busy.
    pub real_time: bool,
}

impl Stall {
    /// How long it lasted.
    #[must_use]
    pub fn length(&self) -> Duration {
        self.to.since(self.from)
    }
}

/// The canaries: one real-time thread on every processor and one ordinary thread.
#[derive(Debug)]
pub struct Canary {
    stalls: Arc<Mutex<Vec<Stall>>>,
    _workers: Workers,
}

impl Canary {
    /// Starts them.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start() -> anyhow::Result<Self> {
        let stalls = Arc::new(Mutex::new(Vec::new()));
        let mut workers = Workers::default();
        let processors = std::thread::available_parallelism()?.get();
        for processor in (0..processors).map(Some).chain([None]) {
            let stalls = Arc::clone(&stalls);
            workers.start("canary", move |stop| {
                let real_time = processor.is_some_and(settle);
                watch(stop, real_time, &stalls);
            })?;
        }
        Ok(Self { stalls, _workers: workers })
    }

    /// The longest stall that overlaps `window`, zero if none was noted; of the real-time threads alone, or of all.
    #[must_use]
    pub fn worst(&self, window: Window, real_time_only: bool) -> Duration {
        let stalls = self.stalls.lock().unwrap_or_else(PoisonError::into_inner);
        let inside = stalls.iter().filter(|stall| stall.to >= window.from && stall.from <= window.to);
        inside.filter(|stall| stall.real_time || !real_time_only).map(Stall::length).max().unwrap_or_default()
    }

    /// All stalls of more than a millisecond that overlap `window`.
    #[must_use]
    pub fn stalls(&self, window: Window) -> Vec<Stall> {
        let stalls = self.stalls.lock().unwrap_or_else(PoisonError::into_inner);
        stalls.iter().filter(|stall| stall.to >= window.from && stall.from <= window.to).copied().collect()
    }
}

/// Makes the calling thread a real-time one on one processor, as far as it may; says whether it became one.
fn settle(processor: usize) -> bool {
    let mut only = CpuSet::new();
    let pinned = only.set(processor).and_then(|()| sched_setaffinity(Pid::from_raw(0), &only));
    pinned.is_ok() && run_in_real_time(PRIORITY).is_ok()
}

fn watch(stop: &Stop, real_time: bool, stalls: &Mutex<Vec<Stall>>) {
    while !stop.asked() {
        let due = Moment::now() + NAP;
        due.sleep();
        let now = Moment::now();
        if now.since(due) > WORTH_NOTING {
            let stall = Stall { from: due, to: now, real_time };
            stalls.lock().unwrap_or_else(PoisonError::into_inner).push(stall);
        }
    }
}
