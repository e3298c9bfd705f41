//! Waiting for programs that run at this moment, on all processors.

use std::io;

/// Waits until every BPF program that runs now has ended: one that begins afterwards sees what was written before. Takes some
/// tens of milliseconds (`MEMBARRIER_CMD_GLOBAL`, Linux 4.3: an RCU grace period, and programs run within one).
///
/// # Errors
/// If the kernel has no such call, or refuses it because some processors run without ticks (`nohz_full`).
pub(super) fn await_running_programs() -> io::Result<()> {
    // SAFETY: the call takes plain numbers and touches no memory of this process.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
