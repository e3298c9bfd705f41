//! What is known of one peer: its run, when and on which paths it was heard, and what it last said.

use std::time::Duration;

use crate::identity::{Incarnation, Mac};
use crate::interface::ServiceHealth;
use crate::replay::ReplayWindow;
use crate::time::Time;
use crate::wire::{Claim, Header, Kind, Membership};

/// Runs of a peer that are over and must not be believed again. A daemon that crashes every second takes a quarter of an
/// hour to push the oldest out.
const RETIRED_RUNS: usize = 1024;

/// One peer.
#[derive(Clone, Debug)]
pub(super) struct PeerState {
    /// The run that is believed: it has echoed ours.
    pub(super) incarnation: Option<Incarnation>,
    /// When that run was first believed.
    run_began: Time,
    retired: Vec<Incarnation>,
    /// Number of its newest heartbeat, that of its first part.
    newest: Option<u64>,
    /// Bit i: part i of that heartbeat was heard.
    parts_heard: u64,
    /// Whether all of it was, and with it every claim that the peer makes.
    pub(super) whole: bool,
    /// Its newest state whose claims are all known here; 0 if none.
    pub(super) known: u64,
    /// By group: the number of the heartbeat that last named it.
    named_by: Vec<u64>,
    /// Our newest state whose claims it knows all; 0 if none.
    pub(super) confirmed: u64,
    /// The number of the next heartbeat to it. Numbers begin with the clock, so that a peer that is removed and added
    /// again does not take ours for copies.
    pub(super) next_heartbeat: u64,
    /// The number of the next acknowledgement, or introduction, to it.
    next_acknowledgement: u64,
    /// `sent` of the newest message whose header was taken in, by its own clock: copies on slower paths and what was
    /// overtaken do not bring back what it said before.
    told: u64,
    /// When, by its own clock, it sent its newest heartbeat, or its introduction before the first: what our messages to
    /// it acknowledge. 0 if none.
    pub(super) newest_sent: u64,
    pub(super) last_heard: Option<Time>,
    /// Silence is counted from here at the earliest: our start, or when we could not have heard it.
    deaf_until: Time,
    /// Whether [`crate::EventKind::PeerUp`] was the last said of it.
    pub(super) alive: bool,
    pub(super) voting: bool,
    /// It is about to be replaced in place, and asks for longer promises.
    pub(super) restarts: bool,
    /// It would remember such a promise.
    pub(super) keeps_long: bool,
    /// When the newest of our heartbeats was sent that it has acknowledged.
    pub(super) answered: Time,
    pub(super) service: ServiceHealth,
    pub(super) mac: Option<Mac>,
    pub(super) lease: Duration,
    /// How long its promises last at least; zero until it is heard.
    pub(super) dead_after: Duration,
    /// Whose votes its leases take.
    pub(super) membership: Membership,
    pub(super) settings: Option<u64>,
    pub(super) heard_paths: u16,
    pub(super) paths: Vec<PathState>,
    /// Its newest claim for each group of ours.
    pub(super) claims: Vec<Option<Claim>>,
    pub(super) gaps: Gaps,
    /// Acknowledgements in a row by which it is too far for the lease.
    pub(super) too_far: u32,
    pub(super) too_far_said: Option<Time>,
    /// When it was last told that its version cannot be read.
    pub(super) version_said: Option<Time>,
}

/// One path to it.
#[derive(Clone, Default, Debug)]
pub(super) struct PathState {
    pub(super) service: bool,
    heartbeats: ReplayWindow,
    acknowledgements: ReplayWindow,
    pub(super) last_heard: Option<Time>,
    pub(super) up: bool,
    pub(super) round_trip: Option<Duration>,
    pub(super) lost: u64,
    /// When a sender that is not believed yet was last answered.
    pub(super) last_introduction: Option<Time>,
}

/// Whether a message is to be taken at its word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Belief {
    /// Of the run already believed.
    Known,
    /// The first of a new run.
    NewRun,
    /// Its sender has not echoed our run.
    Unproven,
    /// Of a run that is over.
    OldRun,
}

/// Where a heartbeat stands among those of its sender.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// A part, not heard before, of the newest.
    News,
    /// A part of the newest that was heard before, on another path.
    Copy,
    /// Older than one heard before.
    Overtaken,
}

impl PeerState {
    pub(super) fn new(now: Time, paths: &[crate::settings::Path], groups: usize) -> Self {
        Self {
            incarnation: None,
            run_began: now,
            retired: Vec::with_capacity(RETIRED_RUNS),
            newest: None,
            parts_heard: 0,
            whole: false,
            known: 0,
            named_by: vec![0; groups],
            confirmed: 0,
            next_heartbeat: now.as_nanos(),
            next_acknowledgement: now.as_nanos(),
            told: 0,
            newest_sent: 0,
            last_heard: None,
            deaf_until: now,
            alive: false,
            voting: false,
            restarts: false,
            keeps_long: false,
            answered: Time::ZERO,
            service: ServiceHealth::Unjudged,
            mac: None,
            lease: Duration::ZERO,
            dead_after: Duration::ZERO,
            membership: Membership { voters: 0, former: None },
            settings: None,
            heard_paths: 0,
            paths: paths
                .iter()
                .map(|path| PathState { service: path.service, ..PathState::default() })
                .collect(),
            claims: vec![None; groups],
            gaps: Gaps::default(),
            too_far: 0,
            too_far_said: None,
            version_said: None,
        }
    }

    /// Weighs a message that may have echoed our run. A run takes the place of the one that is believed only if it has heard
    /// what we sent since: the last words of an earlier one may be long on their way.
    pub(super) fn weigh(&self, header: &Header, echoed: bool) -> Belief {
        let Header { incarnation, echo_sent, .. } = *header;
        let echoed = echoed
            && (self.incarnation.is_none_or(|known| known == incarnation)
                || echo_sent > self.run_began.as_nanos());
        if echoed && self.incarnation == Some(incarnation) {
            Belief::Known
        } else if self.retired.contains(&incarnation) {
            Belief::OldRun
        } else if !echoed {
            Belief::Unproven
        } else {
            Belief::NewRun
        }
    }

    /// Believes a new run and forgets what the last one said.
    pub(super) fn begin_run(&mut self, now: Time, incarnation: Incarnation) {
        self.run_began = now;
        if let Some(old) = self.incarnation.replace(incarnation) {
            if self.retired.len() == RETIRED_RUNS {
                self.retired.remove(0);
            }
            self.retired.push(old);
        }
        self.newest = None;
        self.whole = false;
        self.known = 0;
        self.confirmed = 0;
        self.told = 0;
        self.newest_sent = 0;
        self.voting = false;
        self.restarts = false;
        self.keeps_long = false;
        self.heard_paths = 0;
        self.claims.fill(None);
        for path in &mut self.paths {
            path.heartbeats = ReplayWindow::default();
            path.acknowledgements = ReplayWindow::default();
            // Measured with the last run; a service path that has not carried anything since may not be there any more.
            path.round_trip = None;
        }
    }

    /// Checks a message's number. Returns whether it counts, and counts what is missing before it.
    pub(super) fn accept(&mut self, path: usize, kind: Kind, sequence: u64) -> bool {
        let path = &mut self.paths[path];
        match kind {
            Kind::Heartbeat => match path.heartbeats.accept(sequence) {
                Some(skipped) => {
                    path.lost = path.lost.saturating_add(skipped);
                    true
                }
                None => false,
            },
            Kind::Acknowledgement | Kind::Introduction | Kind::Spread => {
                path.acknowledgements.accept(sequence).is_some()
            }
        }
    }

    /// Takes note that it was heard on a path. Returns the gap before it if an operator should know of that.
    pub(super) fn hear(
        &mut self,
        now: Time,
        path: usize,
        header: &Header,
        dead_after: Duration,
    ) -> Option<Duration> {
        let gap = self.last_heard.filter(|_| self.alive).map(|last| now.since(last));
        let low = gap.filter(|&gap| self.gaps.note(now, gap, dead_after));
        self.last_heard = Some(now);
        self.paths[path].last_heard = Some(now);
        if header.sent < self.told {
            return low;
        }
        self.told = header.sent;
        self.voting = header.voting;
        self.restarts = header.restarts;
        self.keeps_long = header.keeps_long;
        self.service = header.service;
        self.lease = header.lease;
        self.dead_after = header.dead_after;
        self.membership = header.membership;
        self.heard_paths = header.heard_paths;
        if header.kind != Kind::Introduction {
            self.confirmed = header.known;
        }
        if header.service_mac != Mac::default() {
            self.mac = Some(header.service_mac);
        }
        low
    }

    /// Whether this node and the peer hear each other, as far as this node can know.
    pub(super) fn is_mutual(&self) -> bool {
        self.alive && self.heard_paths != 0
    }

    /// Takes note of a part of a heartbeat, and of the claims in it when it is the last one missing.
    pub(super) fn place(&mut self, header: &Header) -> Place {
        let number = header.sequence.saturating_sub(u64::from(header.part));
        if self.newest.is_some_and(|newest| number < newest) {
            return Place::Overtaken;
        }
        if self.newest != Some(number) {
            self.newest = Some(number);
            self.newest_sent = header.sent;
            self.parts_heard = 0;
            self.whole = false;
        }
        let part = 1 << header.part.min(63);
        if self.parts_heard & part != 0 {
            return Place::Copy;
        }
        self.parts_heard |= part;
        if self.parts_heard == (1 << header.parts.min(63)) - 1 && header.base <= self.known {
            self.known = header.state;
            self.whole = true;
        }
        Place::News
    }

    /// Whether an introduction speaks for its sender: only before the first heartbeat of its run.
    pub(super) fn is_introduction(&mut self, sent: u64) -> bool {
        let first = self.newest.is_none() && sent >= self.newest_sent;
        if first {
            self.newest_sent = sent;
        }
        first
    }

    /// It is no peer any more. What was heard of it is remembered, so that it does not count twice if it becomes one again.
    pub(super) fn part(&mut self) {
        self.alive = false;
        self.claims.clear();
        self.named_by.clear();
        self.known = 0;
        self.whole = false;
    }

    /// Its paths may be others, and our groups have other places now: for each the one it had. What it says of those that
    /// are new must be asked for.
    pub(super) fn reconfigure(&mut self, paths: &[crate::settings::Path], groups: &[Option<usize>]) {
        self.paths.resize_with(paths.len(), PathState::default);
        for (path, settings) in self.paths.iter_mut().zip(paths) {
            path.service = settings.service;
        }
        let claims = groups.iter().map(|from| self.claims.get((*from)?).copied().flatten());
        let claims = claims.collect();
        let named_by = groups.iter().map(|from| self.named_by.get((*from)?).copied());
        self.named_by = named_by.map(Option::unwrap_or_default).collect();
        self.claims = claims;
        if groups.contains(&None) {
            self.known = 0;
            self.whole = false;
            // Parts heard so far may have named a group that was not known yet.
            self.parts_heard = 0;
        }
    }

    /// Takes note of what it says of a group in its newest heartbeat.
    pub(super) fn name(&mut self, group: usize, claim: Claim) {
        self.claims[group] = Some(claim);
        self.named_by[group] = self.newest.unwrap_or(0);
    }

    /// Whether its newest heartbeat named the group.
    pub(super) fn names(&self, group: usize) -> bool {
        self.newest == Some(self.named_by[group])
    }

    /// The number of an acknowledgement to it.
    pub(super) fn number_acknowledgement(&mut self) -> u64 {
        let number = self.next_acknowledgement;
        self.next_acknowledgement += 1;
        number
    }

    /// How long nothing was heard although it could have been.
    pub(super) fn silence(&self, now: Time) -> Duration {
        now.since(self.silent_since())
    }

    /// The start of the present silence.
    pub(super) fn silent_since(&self) -> Time {
        self.last_heard.unwrap_or(Time::ZERO).max(self.deaf_until)
    }

    /// Silence until now proves nothing.
    pub(super) fn was_deaf(&mut self, now: Time) {
        self.deaf_until = now;
    }

    /// The longest of the measured round trips of the paths that are up.
    pub(super) fn round_trip(&self) -> Duration {
        self.paths.iter().filter(|path| path.up).filter_map(|path| path.round_trip).max().unwrap_or_default()
    }
}

/// The gaps between messages of a peer that is alive, its heartbeats and acknowledgements alike.
#[derive(Clone, Default, Debug)]
pub(super) struct Gaps {
    /// The longest.
    pub(super) worst: Duration,
    /// How many were longer than half of D.
    pub(super) low: u64,
    last_low: Option<Time>,
    /// When the present minute began, its longest gap, and that of the minute before.
    minute: Time,
    in_minute: Duration,
    in_last: Duration,
}

impl Gaps {
    const MINUTE: Duration = Duration::from_secs(60);

    /// Takes note of a gap. Returns whether it is the first for a minute that was longer than half of D.
    fn note(&mut self, now: Time, gap: Duration, dead_after: Duration) -> bool {
        let passed = now.since(self.minute);
        if passed >= Self::MINUTE {
            let follows = passed < 2 * Self::MINUTE;
            self.in_last = if follows { self.in_minute } else { Duration::ZERO };
            self.in_minute = Duration::ZERO;
            self.minute = now;
        }
        self.worst = self.worst.max(gap);
        self.in_minute = self.in_minute.max(gap);
        if gap <= dead_after / 2 {
            return false;
        }
        self.low += 1;
        let before = self.last_low.replace(now);
        before.is_none_or(|before| now.since(before) >= Self::MINUTE)
    }

    /// The longest gap of the last minute or two.
    pub(super) fn recent(&self, now: Time) -> Duration {
        match now.since(self.minute) {
            passed if passed < Self::MINUTE => self.in_minute.max(self.in_last),
            passed if passed < 2 * Self::MINUTE => self.in_minute,
            _ => Duration::ZERO,
        }
    }
}

impl PathState {
    /// Takes a measured round trip into the smoothed one, weighing it one eighth (as RFC 6298, section 2, does).
    pub(super) fn measure(&mut self, sample: Duration) {
        self.round_trip = Some(match self.round_trip {
            Some(smoothed) => (smoothed * 7 + sample) / 8,
            None => sample,
        });
    }

    /// Whether a heartbeat arrived within `limit`.
    pub(super) fn heard_within(&self, now: Time, limit: Duration) -> bool {
        self.last_heard.is_some_and(|heard| now.since(heard) < limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: Duration = Duration::from_millis(50);

    fn at(seconds: u64) -> Time {
        Time::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn a_low_margin_is_said_once_until_a_minute_without_has_passed() {
        let mut gaps = Gaps::default();
        let (fine, low) = (D / 2, D / 2 + Duration::from_nanos(1));
        assert!(!gaps.note(at(100), fine, D), "half of D is not less than half");
        assert!(gaps.note(at(101), low, D));
        // As long as it does not recover it is one episode, however long.
        for second in (110..400).step_by(59) {
            assert!(!gaps.note(at(second), low, D));
            assert!(!gaps.note(at(second), fine, D));
        }
        assert!(gaps.note(at(500), low, D), "it had recovered");
        assert_eq!(gaps.low, 7);
    }

    #[test]
    fn the_worst_gap_stays_and_the_recent_one_is_forgotten() {
        let mut gaps = Gaps::default();
        let millis = Duration::from_millis;
        gaps.note(at(100), millis(40), D);
        assert_eq!(gaps.recent(at(159)), millis(40));
        gaps.note(at(160), millis(10), D);
        assert_eq!(gaps.recent(at(219)), millis(40), "of the minute before");
        gaps.note(at(220), millis(12), D);
        assert_eq!((gaps.recent(at(221)), gaps.worst), (millis(12), millis(40)));
        assert_eq!(gaps.recent(at(281)), millis(12));
        assert_eq!(gaps.recent(at(400)), Duration::ZERO, "a peer that is silent has no gaps");
    }
}
