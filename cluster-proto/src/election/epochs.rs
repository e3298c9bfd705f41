//! The counter that makes epochs unique: it runs ahead of what is used, on disk, so that a restart never uses one twice.

use std::time::Duration;

use crate::identity::{Epoch, NodeId};
use crate::time::Time;
use crate::wire::FOLLOWED_COUNTER;

/// How many counters are reserved at a time, and how few may be left before the next reservation.
const BLOCK: u64 = 1024;
const LOW_WATER: u64 = 256;
/// How long after a failure it is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// The epochs this node may use.
#[derive(Clone, Debug)]
pub(super) struct EpochCounter {
    node: NodeId,
    next: u64,
    reserved: u64,
    asked: Option<u64>,
    retry: Time,
}

impl EpochCounter {
    pub(super) fn new(node: NodeId, reserved_before: u64) -> Self {
        Self { node, next: reserved_before.max(1), reserved: reserved_before, asked: None, retry: Time::ZERO }
    }

    /// Takes note of an epoch seen anywhere: ours must be higher. One that is so high that a damaged file must be behind it
    /// is left to its node, or soon nobody in the cluster would have an epoch left.
    pub(super) fn observe(&mut self, epoch: Epoch) {
        if epoch.counter < FOLLOWED_COUNTER || epoch.node == self.node {
            self.next = self.next.max(epoch.counter + 1);
        }
    }

    /// What is to be reserved now, if anything: the first counter that is not.
    pub(super) fn reservation(&mut self, now: Time) -> Option<u64> {
        if self.asked.is_some() || now < self.retry || self.next + LOW_WATER < self.reserved {
            return None;
        }
        self.asked = Some(self.next + BLOCK);
        self.asked
    }

    /// The reservation is on disk.
    pub(super) fn reserved(&mut self, below: u64) {
        self.reserved = self.reserved.max(below);
        self.asked = None;
    }

    /// It is not; it is asked for again in a while.
    pub(super) fn reservation_failed(&mut self, now: Time) {
        self.asked = None;
        self.retry = now + RETRY;
    }

    /// Whether there is an epoch to use.
    pub(super) fn available(&self) -> bool {
        self.next < self.reserved
    }

    /// The next epoch, if one is reserved.
    pub(super) fn take(&mut self) -> Option<Epoch> {
        let epoch = self.available().then_some(Epoch { counter: self.next, node: self.node })?;
        self.next += 1;
        Some(epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_epoch_is_used_before_it_is_on_disk_nor_twice() {
        let mut epochs = EpochCounter::new(NodeId(1), 0);
        assert_eq!(epochs.take(), None);
        assert_eq!(epochs.reservation(Time::ZERO), Some(1 + BLOCK));
        assert_eq!(epochs.reservation(Time::ZERO), None, "one reservation at a time");
        epochs.reserved(1 + BLOCK);
        assert_eq!(epochs.take(), Some(Epoch { counter: 1, node: NodeId(1) }));

        let mut restarted = EpochCounter::new(NodeId(1), 1 + BLOCK);
        assert_eq!(restarted.take(), None);
        let below = restarted.reservation(Time::ZERO).unwrap();
        restarted.reserved(below);
        assert_eq!(restarted.take(), Some(Epoch { counter: 1 + BLOCK, node: NodeId(1) }));
    }

    #[test]
    fn a_damaged_counter_is_not_followed_but_for_ones_own() {
        let mut epochs = EpochCounter::new(NodeId(1), 500);
        epochs.observe(Epoch { counter: FOLLOWED_COUNTER, node: NodeId(2) });
        assert_eq!(epochs.reservation(Time::ZERO), Some(500 + BLOCK));
        epochs.reserved(500 + BLOCK);
        assert_eq!(epochs.take(), Some(Epoch { counter: 500, node: NodeId(1) }));
        let mut own = EpochCounter::new(NodeId(1), 500);
        own.observe(Epoch { counter: FOLLOWED_COUNTER, node: NodeId(1) });
        assert_eq!(own.reservation(Time::ZERO), Some(FOLLOWED_COUNTER + 1 + BLOCK));
    }

    #[test]
    fn a_seen_epoch_is_exceeded_once_that_is_reserved() {
        let mut epochs = EpochCounter::new(NodeId(1), 0);
        epochs.reserved(500);
        epochs.observe(Epoch { counter: 499, node: NodeId(2) });
        assert_eq!(epochs.take(), None);
        assert_eq!(epochs.reservation(Time::ZERO), Some(500 + BLOCK));
        epochs.reservation_failed(Time::ZERO);
        assert_eq!(epochs.reservation(Time::ZERO), None);
        assert_eq!(epochs.reservation(Time::ZERO + RETRY), Some(500 + BLOCK), "asked for again");
    }
}
