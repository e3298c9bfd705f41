//! Real-time priority, locked memory and a processor for the heartbeat thread. Holds `unsafe` for the scheduling call that no safe
//! wrapper has.

use std::io;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use nix::unistd::Pid;

use crate::dataplane;

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
    /// Whether the thread is bound to the processor it should be, if to any, or why not.
    pub cpu: Result<(), String>,
}

impl Granted {
    /// Whether all of it was.
    #[must_use]
    pub fn whole(&self) -> bool {
        self.priority.is_ok() && self.memory.is_ok() && self.cpu.is_ok()
    }

    /// What an operator should know, if anything was refused.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        let refused: Vec<String> = [
            self.priority.as_ref().err().map(|why| {
                format!(
                    "no real-time priority (SCHED_FIFO {PRIORITY}): {why}; it needs CAP_SYS_NICE or RLIMIT_RTPRIO, and under \
                         RT_GROUP_SCHED a share for the daemon's cgroup"
                )
            }),
            self.memory
                .as_ref()
                .err()
                .map(|why| format!("memory is not locked: {why}; it needs CAP_IPC_LOCK or an unlimited RLIMIT_MEMLOCK")),
            self.cpu.as_ref().err().map(|why| format!("the heartbeat thread is not bound to its CPU: {why}")),
        ]
        .into_iter()
        .flatten()
        .collect();
        (!refused.is_empty()).then(|| {
            format!("{}. Under load heartbeats may be late and leases may lapse", refused.join(". "))
        })
    }
}

/// Asks for all of it, for the calling thread and its whole process.
#[must_use]
pub fn request(cpu: Option<usize>) -> Granted {
    Granted {
        priority: fifo(PRIORITY).map_err(|error| error.to_string()),
        memory: lock_memory(),
        cpu: cpu.map_or(Ok(()), |cpu| bind_to(cpu).map_err(|errno| format!("{cpu}: {errno}"))),
    }
}

fn lock_memory() -> Result<(), String> {
    let (limit, _) = getrlimit(Resource::RLIMIT_MEMLOCK).map_err(|errno| errno.to_string())?;
    if limit != RLIM_INFINITY && !dataplane::may_lock_memory() {
        // It might do for now, and then every later allocation beyond the limit would fail.
        return Err(format!("RLIMIT_MEMLOCK allows {} KiB", limit / 1024));
    }
    // Pages are locked as they are touched: to populate every thread's stack at once would cost tens of megabytes.
    let flags = MlockAllFlags::MCL_CURRENT
        | MlockAllFlags::MCL_FUTURE
        | MlockAllFlags::from_bits_retain(libc::MCL_ONFAULT);
    mlockall(flags).map_err(|errno| errno.to_string())
}

/// Binds the calling thread to one processor.
fn bind_to(cpu: usize) -> nix::Result<()> {
    let mut only = CpuSet::new();
    only.set(cpu)?;
    sched_setaffinity(THIS_THREAD, &only)
}

/// The calling thread, as the scheduling calls name it.
const THIS_THREAD: Pid = Pid::from_raw(0);

/// Whether this process may run on a processor.
///
/// # Errors
/// In words: there is no such processor, or the process (its cgroup, `taskset`) may not use it.
pub fn check_cpu(cpu: usize) -> Result<(), String> {
    let allowed = sched_getaffinity(THIS_THREAD)
        .map_err(|errno| format!("the processors this process may use are not known: {errno}"))?;
    if allowed.is_set(cpu).unwrap_or(false) {
        return Ok(());
    }
    let some: Vec<String> = (0..CpuSet::count())
        .filter(|&cpu| allowed.is_set(cpu).unwrap_or(false))
        .map(|cpu| cpu.to_string())
        .collect();
    let some = some.join(", ");
    Err(if std::path::Path::new(&format!("/sys/devices/system/cpu/cpu{cpu}")).exists() {
        format!("this process may not use CPU {cpu} of this host, only {some}")
    } else {
        format!("this host has no CPU {cpu}; this process may use {some}")
    })
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
