//! Real-time priority and locked memory for the heartbeat thread. Holds `unsafe` for the scheduling call that no safe
//! wrapper has.

use std::io;

use nix::sys::mman::{MlockAllFlags, mlockall};

/// SCHED_FIFO, above the interrupt threads' 50: at 10 the published BFD measurements were worse than with no real-time
/// priority at all, and from 51 on they were cured.
pub const PRIORITY: i32 = 60;
/// For the thread that configures addresses: below the heartbeats, above everything ordinary, since a takeover waits
/// for it.
pub const ADDRESS_PRIORITY: i32 = 51;

/// What was granted.
#[derive(Clone, Debug)]
pub struct Granted {
    /// Whether the thread runs under SCHED_FIFO, or why not.
    pub priority: Result<(), String>,
    /// Whether the process's memory stays in memory, or why not.
    pub memory: Result<(), String>,
}

impl Granted {
    /// Whether both were.
    #[must_use]
    pub fn whole(&self) -> bool {
        self.priority.is_ok() && self.memory.is_ok()
    }

    /// What an operator should know, if anything was refused.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        let refused: Vec<String> = [
            self.priority.as_ref().err().map(|why| {
                format!(
                    "no real-time priority (SCHED_FIFO {PRIORITY}): {why}; it needs CAP_SYS_NICE, and under \
                         RT_GROUP_SCHED a share for the daemon's cgroup"
                )
            }),
            self.memory
                .as_ref()
                .err()
                .map(|why| format!("memory is not locked: {why}; it needs CAP_IPC_LOCK")),
        ]
        .into_iter()
        .flatten()
        .collect();
        (!refused.is_empty()).then(|| {
            format!("{}. Under load heartbeats may be late and leases may lapse", refused.join(". "))
        })
    }
}

/// Asks for both, for the calling thread and its whole process.
#[must_use]
pub fn request() -> Granted {
    // Pages are locked as they are touched: to populate every thread's stack at once would cost tens of megabytes.
    let flags = MlockAllFlags::MCL_CURRENT
        | MlockAllFlags::MCL_FUTURE
        | MlockAllFlags::from_bits_retain(libc::MCL_ONFAULT);
    Granted {
        priority: fifo(PRIORITY).map_err(|error| error.to_string()),
        memory: mlockall(flags).map_err(|error| error.to_string()),
    }
}

/// Gives the calling thread a real-time priority.
///
/// # Errors
/// When that is not permitted.
pub fn fifo(priority: i32) -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: priority };
    // SAFETY: The kernel only reads `parameters`, which lives until the call returns; 0 is the calling thread.
    let outcome = unsafe {
        libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &raw const parameters)
    };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
