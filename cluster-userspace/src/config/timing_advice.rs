//! Which timings would fit, in words, for a lease that turns out too short for the network.

use std::time::Duration;

use cluster_proto::Timing;

use super::values::format_duration;

/// Whether the lease has no room for a round trip besides its three heartbeats (design, section 6).
#[must_use]
pub fn lease_is_too_short(timing: &Timing, round_trip: Duration) -> bool {
    timing.lease < 3 * timing.heartbeat + round_trip
}

/// What to write into the file instead: room for twice the round trip, since the newest is seldom the longest.
#[must_use]
pub fn fitting_timings(timing: &Timing, round_trip: Duration) -> String {
    let lease = whole_millis(3 * timing.heartbeat + 2 * round_trip).max(timing.lease);
    let dead_after = whole_millis(lease * 11 / 10).max(timing.dead_after);
    format!(
        "lease = \"{}\" and dead_after = \"{}\" would do",
        format_duration(lease),
        format_duration(dead_after)
    )
}

/// Rounded up.
fn whole_millis(duration: Duration) -> Duration {
    Duration::from_millis(u64::try_from(duration.as_micros().div_ceil(1000)).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timing(heartbeat: u64, lease: u64, dead_after: u64) -> Timing {
        let ms = Duration::from_millis;
        Timing {
            heartbeat: ms(heartbeat),
            lease: ms(lease),
            dead_after: ms(dead_after),
            startup_wait: ms(2000),
        }
    }

    #[test]
    fn what_is_advised_fits_and_keeps_the_rules() {
        let normal = timing(10, 40, 50);
        assert!(!lease_is_too_short(&normal, Duration::from_millis(10)));
        assert!(lease_is_too_short(&normal, Duration::from_micros(10_001)));
        let said = fitting_timings(&normal, Duration::from_millis(20));
        assert_eq!(said, "lease = \"70ms\" and dead_after = \"77ms\" would do");
        assert!(!lease_is_too_short(&timing(10, 70, 77), Duration::from_millis(20)));
        // Rounded up, and a longer dead_after is left as it is.
        let said = fitting_timings(&timing(10, 40, 500), Duration::from_micros(20_100));
        assert_eq!(said, "lease = \"71ms\" and dead_after = \"500ms\" would do");
    }
}
