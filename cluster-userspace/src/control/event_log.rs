//! The newest events, kept in a ring. A follower holds its own place in it, so that a slow one costs no memory: what
//! the ring has forgotten by the time it looks is counted as missed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cluster_proto::Time;
use nix::time::{ClockId, clock_gettime};
use tokio::sync::watch;

use super::event::{EventBody, EventRecord};
use super::wall_clock;

/// How many events are kept.
pub const KEPT_EVENTS: usize = 1000;

/// The log; clones share it. Recording neither waits nor needs a runtime, but takes a lock and memory: not for the
/// heartbeat thread.
#[derive(Clone, Debug)]
pub struct EventLog {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    ring: Mutex<VecDeque<Arc<EventRecord>>>,
    /// The newest sequence number.
    newest: watch::Sender<u64>,
}

/// What the log holds after some sequence number.
#[derive(Clone, Default, Debug)]
pub struct EventBatch {
    /// How many events between that number and the first of these are forgotten already.
    pub missed: u64,
    /// The events, oldest first.
    pub events: Vec<Arc<EventRecord>>,
}

impl Default for EventLog {
    fn default() -> Self {
        Self::new()
    }
}

impl EventLog {
    /// An empty log.
    #[must_use]
    pub fn new() -> Self {
        Self { shared: Arc::new(Shared { ring: Mutex::default(), newest: watch::Sender::new(0) }) }
    }

    /// Notes what happened at a point in time and tells the followers.
    pub fn record(&self, at: Time, body: EventBody) -> Arc<EventRecord> {
        let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(at, |now| {
            let (seconds, nanos) = (now.tv_sec().max(0) as u64, now.tv_nsec().max(0) as u64);
            Time::from_nanos(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
        });
        let wall = wall_clock::now();
        let wall = wall.checked_sub(now.since(at)).unwrap_or(wall);

        let mut ring = self.ring();
        let seq = 1 + *self.shared.newest.borrow();
        let time = wall_clock::rfc3339(wall);
        let record = Arc::new(EventRecord { seq, time, boot_ns: at.as_nanos(), body });
        if ring.len() == KEPT_EVENTS {
            ring.pop_front();
        }
        ring.push_back(Arc::clone(&record));
        self.shared.newest.send_replace(seq);
        record
    }

    /// At most `most` of the events after the sequence number `since`, oldest first.
    #[must_use]
    pub fn after(&self, since: u64, most: usize) -> EventBatch {
        let ring = self.ring();
        let from = ring.partition_point(|record| record.seq <= since);
        let events: Vec<_> = ring.iter().skip(from).take(most).cloned().collect();
        // The sequence has no gaps, so whatever lies between was forgotten.
        let missed = events.first().map_or(0, |first| first.seq - since - 1);
        EventBatch { missed, events }
    }

    /// Tells when there is something new.
    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        self.shared.newest.subscribe()
    }

    fn ring(&self) -> MutexGuard<'_, VecDeque<Arc<EventRecord>>> {
        // Nothing panics while it holds the lock; if it did, the ring would still be whole.
        self.shared.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_forgets_the_oldest_and_counts_them() {
        let log = EventLog::new();
        assert!(log.after(0, 10).events.is_empty());
        for _ in 0..KEPT_EVENTS + 5 {
            log.record(Time::ZERO, EventBody::told("started", "x"));
        }
        let all = log.after(0, usize::MAX);
        assert_eq!((all.events.len(), all.missed), (KEPT_EVENTS, 5));
        assert_eq!(all.events.first().map(|event| event.seq), Some(6));

        let some = log.after(1000, 3);
        assert_eq!(some.missed, 0);
        assert_eq!(some.events.iter().map(|event| event.seq).collect::<Vec<_>>(), [1001, 1002, 1003]);
        assert!(log.after(1005, 3).events.is_empty());
        assert!(log.after(u64::MAX, 3).events.is_empty());
    }
}
