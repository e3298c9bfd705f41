//! Who is cut off when heartbeats on the service path stop although the peer is heard elsewhere (design, section 6,
//! "Service path"): addresses recently served are asked for by ARP, and whoever gets answers is not the one.

use std::net::IpAddr;
use std::time::Duration;

use crate::interface::ServiceHealth;
use crate::time::Time;

/// Rounds without an answer that make the verdict.
const ROUNDS: u32 = 3;
/// Rounds at full pace; after them the pace halves each round, down to [`SLOWEST`].
const QUICK_ROUNDS: u32 = 6;
const SLOWEST: Duration = Duration::from_secs(1);
/// At most this many addresses are asked for.
pub(super) const TARGETS: usize = 8;

/// The judge of the service link.
#[derive(Clone, Debug)]
pub(super) struct ServiceJudge {
    pace: Duration,
    patience: Duration,
    /// On-link addresses that answered for certain at some time: those served here or by the peer, newest first.
    targets: Vec<IpAddr>,
    inquiry: Option<Inquiry>,
}

#[derive(Clone, Debug)]
struct Inquiry {
    since: Time,
    rounds: u32,
    unanswered: u32,
    next: Time,
    interval: Duration,
    health: ServiceHealth,
}

impl ServiceJudge {
    /// A judge for heartbeats every H and a dead time of D.
    pub(super) fn new(heartbeat: Duration, dead_after: Duration) -> Self {
        Self {
            pace: heartbeat.max(Duration::from_millis(2)),
            patience: dead_after / 2,
            targets: Vec::with_capacity(TARGETS + 1),
            inquiry: None,
        }
    }

    /// Takes note of addresses served, newest first.
    pub(super) fn served(&mut self, addresses: impl Iterator<Item = IpAddr>) {
        let mut at = 0;
        for address in addresses.take(TARGETS) {
            if let Some(known) = self.targets.iter().position(|&target| target == address) {
                if known < at {
                    continue;
                }
                self.targets.remove(known);
            }
            self.targets.insert(at, address);
            at += 1;
        }
        self.targets.truncate(TARGETS);
    }

    /// The addresses that are asked for, newest first.
    pub(super) fn targets(&self) -> &[IpAddr] {
        &self.targets
    }

    /// What is known.
    pub(super) fn health(&self) -> ServiceHealth {
        self.inquiry.as_ref().map_or(ServiceHealth::Unjudged, |inquiry| inquiry.health)
    }

    /// Judges anew. `suspicious`: a service path is silent in some direction although its peer is heard elsewhere.
    /// Returns whether the targets are to be asked for now.
    pub(super) fn tick(&mut self, now: Time, suspicious: bool) -> bool {
        if !suspicious || self.targets.is_empty() {
            self.inquiry = None;
            return false;
        }
        let inquiry = self.inquiry.get_or_insert(Inquiry {
            since: now,
            rounds: 0,
            unanswered: 0,
            next: now,
            interval: self.pace,
            health: ServiceHealth::Unjudged,
        });
        if now < inquiry.next {
            return false;
        }
        if inquiry.unanswered >= ROUNDS && now.since(inquiry.since) >= self.patience {
            inquiry.health = ServiceHealth::Cut;
        }
        inquiry.rounds += 1;
        inquiry.unanswered += 1;
        if inquiry.rounds > QUICK_ROUNDS {
            inquiry.interval = (inquiry.interval * 2).min(SLOWEST);
        }
        inquiry.next = now + inquiry.interval;
        true
    }

    /// An address answered. Returns whether it is one that was asked for.
    pub(super) fn answered(&mut self, address: IpAddr) -> bool {
        let Some(inquiry) = &mut self.inquiry else { return false };
        if !self.targets.contains(&address) {
            return false;
        }
        inquiry.unanswered = 0;
        inquiry.health = ServiceHealth::Answered;
        true
    }

    /// When to judge next, while judging.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.inquiry.as_ref().map(|inquiry| inquiry.next)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    const NINE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9));

    fn v4(last: u8) -> IpAddr {
        Ipv4Addr::new(10, 0, 0, last).into()
    }

    fn judge() -> ServiceJudge {
        let mut judge = ServiceJudge::new(Duration::from_millis(10), Duration::from_millis(50));
        judge.served([NINE].into_iter());
        judge
    }

    fn at(millis: u64) -> Time {
        Time::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn silence_of_all_targets_is_a_cut_and_one_answer_is_none() {
        let mut cut = judge();
        let mut fine = judge();
        for millis in (0..40).step_by(10) {
            assert_eq!(cut.health(), ServiceHealth::Unjudged);
            assert!(cut.tick(at(millis), true) && fine.tick(at(millis), true));
            assert!(fine.answered(NINE));
        }
        assert_eq!(cut.health(), ServiceHealth::Cut);
        assert_eq!(fine.health(), ServiceHealth::Answered);
        cut.tick(at(50), false);
        assert_eq!(cut.health(), ServiceHealth::Unjudged, "over once heartbeats pass");
    }

    #[test]
    fn without_anyone_to_ask_nothing_is_judged() {
        let mut judge = ServiceJudge::new(Duration::from_millis(10), Duration::from_millis(50));
        assert!(!judge.tick(at(0), true));
        assert_eq!(judge.health(), ServiceHealth::Unjudged);
    }

    #[test]
    fn the_newest_targets_are_kept_without_repetition() {
        let mut judge = judge();
        judge.served((1..=8).map(v4));
        let v6 = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 3));
        judge.served([v4(3), v6, v4(3)].into_iter());
        assert_eq!(judge.targets().len(), TARGETS);
        assert_eq!(judge.targets()[..3], [v4(3), v6, v4(1)]);
    }

    #[test]
    fn the_pace_slows_down_while_the_cut_lasts() {
        let mut judge = judge();
        let asked = (0..60_000).filter(|&millis| judge.tick(at(millis), true)).count();
        assert!((60..90).contains(&asked), "{asked} rounds in a minute");
    }
}
