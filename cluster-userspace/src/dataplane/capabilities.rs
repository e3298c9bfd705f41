//! Whether this process may do what the daemon needs.

use std::fs;

use super::error::DataPlaneError;

const CAP_NET_ADMIN: u32 = 12;
const CAP_NET_RAW: u32 = 13;
const CAP_IPC_LOCK: u32 = 14;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// The process lacks capabilities that the daemon cannot do without.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the daemon needs {}, which this process does not have; run it as root or grant it", .names.join(" and "))]
pub struct MissingCapabilities {
    /// Their names, for example `CAP_BPF`.
    pub names: Vec<&'static str>,
}

/// Whether this process lacks capabilities that the daemon cannot do without, and which: those to load and attach the
/// data plane, and to ask for and announce VIPs by ARP.
///
/// # Errors
/// With those that are missing.
pub fn missing_capabilities() -> Result<(), MissingCapabilities> {
    missing_of(own_capabilities())
}

/// Whether this process may lock memory beyond any limit.
#[must_use]
pub fn may_lock_memory() -> bool {
    own_capabilities() & (1 << CAP_IPC_LOCK) != 0
}

/// Without /proc nothing is known; the system calls themselves will tell.
fn own_capabilities() -> u64 {
    let status = fs::read_to_string("/proc/self/status").ok();
    status.and_then(|status| effective_capabilities(&status)).unwrap_or(u64::MAX)
}

/// Checks everything about the process that would make the data plane fail or, worse, lie.
pub(super) fn check_process() -> Result<(), DataPlaneError> {
    missing_capabilities()?;
    let offsets = fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
    match boot_clock_offset(&offsets) {
        Some(offset) => Err(DataPlaneError::TimeNamespace { offset }),
        None => Ok(()),
    }
}

fn missing_of(effective: u64) -> Result<(), MissingCapabilities> {
    let has = |capability: u32| effective & (1 << capability) != 0;
    // CAP_SYS_ADMIN stands for the two that were split off it (capabilities(7), Linux 5.8). It is needed by itself to
    // see whether our program is still on an interface: nobody else may open a program by its id.
    let needed = [
        ("CAP_BPF", has(CAP_BPF) || has(CAP_SYS_ADMIN)),
        ("CAP_NET_ADMIN", has(CAP_NET_ADMIN)),
        ("CAP_NET_RAW", has(CAP_NET_RAW)),
        ("CAP_PERFMON", has(CAP_PERFMON) || has(CAP_SYS_ADMIN)),
        ("CAP_SYS_ADMIN", has(CAP_SYS_ADMIN)),
    ];
    let names: Vec<_> = needed.into_iter().filter(|(_, there)| !there).map(|(name, _)| name).collect();
    if names.is_empty() { Ok(()) } else { Err(MissingCapabilities { names }) }
}

fn effective_capabilities(status: &str) -> Option<u64> {
    let digits = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(digits.trim(), 16).ok()
}

/// The boot clock's offset in the process's time namespace, if there is one (time_namespaces(7)).
fn boot_clock_offset(offsets: &str) -> Option<String> {
    let fields = offsets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    fields
        .into_iter()
        .find_map(|fields| match fields[..] {
            ["boottime" | "7", seconds, nanoseconds] => Some((seconds.to_owned(), nanoseconds.to_owned())),
            _ => None,
        })
        .filter(|(seconds, nanoseconds)| seconds != "0" || nanoseconds != "0")
        .map(|(seconds, nanoseconds)| format!("{seconds}.{nanoseconds:0>9}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_exactly_what_is_missing() {
        assert_eq!(missing_of(u64::MAX), Ok(()));
        assert_eq!(missing_of(1 << CAP_SYS_ADMIN | 1 << CAP_NET_ADMIN | 1 << CAP_NET_RAW), Ok(()));
        let missing = missing_of(1 << CAP_BPF).expect_err("four are missing");
        assert_eq!(missing.names, ["CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_PERFMON", "CAP_SYS_ADMIN"]);
        let none = missing_of(0).expect_err("all are missing").to_string();
        assert!(none.contains("CAP_BPF and CAP_NET_ADMIN and CAP_NET_RAW and CAP_PERFMON"), "{none}");
        assert!(!none.contains('\n'));
    }

    #[test]
    fn reads_the_effective_set() {
        assert_eq!(
            effective_capabilities("Name:\tx\nCapPrm:\t0\nCapEff:\t000001ffffffffff\n"),
            Some(0x1ff_ffff_ffff)
        );
        assert_eq!(effective_capabilities("CapEff:\tzz\n"), None);
        assert_eq!(effective_capabilities(""), None);
    }

    #[test]
    fn finds_a_shifted_boot_clock() {
        assert_eq!(
            boot_clock_offset("monotonic           0         0\nboottime            0         0\n"),
            None
        );
        assert_eq!(
            boot_clock_offset("monotonic 5 0\nboottime 86400 5\n"),
            Some("86400.000000005".to_owned())
        );
        assert_eq!(boot_clock_offset(""), None);
    }
}
