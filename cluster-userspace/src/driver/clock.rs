//! The lease's clock: `CLOCK_BOOTTIME`, which the BPF programs read as `bpf_ktime_get_boot_ns` (Linux 5.8).

use cluster_proto::Time;
use nix::time::{ClockId, clock_gettime};

/// The time now. Taken before a send, it bounds the lease that the send's acknowledgement can give.
///
/// # Panics
/// Never on Linux: `CLOCK_BOOTTIME` exists since 2.6.39.
#[must_use]
pub fn now() -> Time {
    match clock_gettime(ClockId::CLOCK_BOOTTIME) {
        Ok(now) => {
            let seconds = u64::try_from(now.tv_sec()).unwrap_or(0);
            let nanos = u64::try_from(now.tv_nsec()).unwrap_or(0);
            Time::from_nanos(seconds * 1_000_000_000 + nanos)
        }
        Err(error) => unreachable!("CLOCK_BOOTTIME cannot be read: {error}"),
    }
}
