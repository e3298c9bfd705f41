//! The lab's clock, CLOCK_BOOTTIME like the leases', and waiting for conditions with a deadline.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

use anyhow::bail;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, ClockNanosleepFlags, clock_gettime, clock_nanosleep};

/// A moment of CLOCK_BOOTTIME, in nanoseconds since boot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Moment(pub u64);

impl Moment {
    /// Now.
    #[must_use]
    pub fn now() -> Self {
        Self(read(ClockId::CLOCK_BOOTTIME))
    }

    /// The moment at which CLOCK_REALTIME, in which the kernel stamps packets, showed `realtime` nanoseconds.
    ///
    /// Both clocks are read now, so a step of the wall clock between the stamp and this call falsifies it.
    #[must_use]
    pub fn from_realtime(realtime: u64) -> Self {
        let (wall, boot) = (read(ClockId::CLOCK_REALTIME), read(ClockId::CLOCK_BOOTTIME));
        Self(boot.saturating_sub(wall.saturating_sub(realtime)))
    }

    /// How long after `earlier` this is; zero if it is not after it.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// Sleeps until this moment; returns at once when it has passed.
    pub fn sleep(self) {
        // CLOCK_BOOTTIME runs at the monotonic clock's rate while the machine is awake, and an absolute time in it
        // does not drift over many sleeps.
        let until = TimeSpec::from_duration(Duration::from_nanos(self.0));
        let flags = ClockNanosleepFlags::TIMER_ABSTIME;
        while clock_nanosleep(ClockId::CLOCK_BOOTTIME, flags, &until) == Err(nix::errno::Errno::EINTR) {}
    }
}

impl Add<Duration> for Moment {
    type Output = Self;
    fn add(self, later: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(later.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Moment {
    type Output = Self;
    fn sub(self, earlier: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(earlier.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06} s", self.0 / 1_000_000_000, self.0 / 1000 % 1_000_000)
    }
}

/// A stretch of time, for asking a probe about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Window {
    /// Its first moment.
    pub from: Moment,
    /// Its last moment.
    pub to: Moment,
}

impl Window {
    /// All of time.
    pub const ALWAYS: Self = Self { from: Moment(0), to: Moment(u64::MAX) };

    /// From `from` until now.
    #[must_use]
    pub fn since(from: Moment) -> Self {
        Self { from, to: Moment::now() }
    }

    /// Whether `moment` lies in it.
    #[must_use]
    pub fn contains(self, moment: Moment) -> bool {
        self.from <= moment && moment <= self.to
    }
}

/// Asks `condition` every millisecond until it gives something, and returns that.
///
/// # Errors
/// When `timeout` passes first; the message names `what` was awaited. The last refusal of `condition` is its cause.
pub fn await_some<T>(
    what: &str,
    timeout: Duration,
    mut condition: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let deadline = Moment::now() + timeout;
    loop {
        let refusal = match condition() {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        let now = Moment::now();
        if now >= deadline {
            match refusal {
                Some(error) => return Err(error.context(format!("waited {timeout:?} for {what} in vain"))),
                None => bail!("waited {timeout:?} for {what} in vain"),
            }
        }
        (now + Duration::from_millis(1)).sleep();
    }
}

/// As [`await_some`], for a condition that is only true or false.
///
/// # Errors
/// When `timeout` passes first.
pub fn await_true(what: &str, timeout: Duration, mut condition: impl FnMut() -> bool) -> anyhow::Result<()> {
    await_some(what, timeout, || Ok(condition().then_some(())))
}

fn read(clock: ClockId) -> u64 {
    // Both clocks exist on every kernel the product supports; a zero would only make a wait end early.
    clock_gettime(clock)
        .map_or(0, |time| u64::try_from(std::time::Duration::from(time).as_nanos()).unwrap_or(u64::MAX))
}
