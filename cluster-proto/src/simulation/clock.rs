//! A host's boot clock: its own start and its own rate, seen from the true time of the simulation.

use crate::time::Time;

/// Nanoseconds of true time since the simulation began. No host knows it.
pub(super) type TrueTime = u64;

pub(super) const MICROSECOND: TrueTime = 1_000;
pub(super) const MILLISECOND: TrueTime = 1_000_000;
pub(super) const SECOND: TrueTime = 1_000_000_000;

/// One boot of one host.
#[derive(Clone, Copy, Debug)]
pub(super) struct BootClock {
    origin: TrueTime,
    shown_at_origin: u64,
    /// How much faster than true time, in millionths; negative: slower.
    drift: i64,
}

impl BootClock {
    pub(super) fn new(origin: TrueTime, shown_at_origin: u64, drift: i64) -> Self {
        Self { origin, shown_at_origin, drift }
    }

    /// What the clock shows.
    pub(super) fn shows(&self, at: TrueTime) -> Time {
        let passed = i128::from(at) - i128::from(self.origin);
        let shown = i128::from(self.shown_at_origin) + passed + passed * i128::from(self.drift) / 1_000_000;
        Time::from_nanos(u64::try_from(shown).unwrap_or(0))
    }

    /// The first true time at which the clock shows `time` or later.
    pub(super) fn when(&self, time: Time) -> TrueTime {
        if time == Time::NEVER {
            return TrueTime::MAX;
        }
        let passed = i128::from(time.as_nanos()) - i128::from(self.shown_at_origin);
        let guess = i128::from(self.origin) + passed * 1_000_000 / (1_000_000 + i128::from(self.drift)) - 3;
        let mut at = u64::try_from(guess.max(0)).unwrap_or(TrueTime::MAX);
        while self.shows(at) < time {
            at += 1;
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_clock_shows_is_found_again() {
        for drift in [-50_000, 0, 1, 100_000] {
            let clock = BootClock::new(5 * SECOND, 77, drift);
            for at in [5 * SECOND, 6 * SECOND + 12_345, 500 * SECOND] {
                let found = clock.when(clock.shows(at));
                assert!(found <= at && clock.shows(found) >= clock.shows(at), "{drift} {at} {found}");
            }
        }
    }
}
