//! Socket options that no safe wrapper has. Holds `unsafe` for the two system calls.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;

/// What the kernel says of a socket's receive queue (`SO_MEMINFO`, Linux 4.12).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Queue {
    /// Bytes in it, as the kernel counts them: with its own overhead.
    pub(super) used: u32,
    /// Bytes it may have, counted likewise.
    pub(super) room: u32,
    /// What was dropped before the queue since the socket was opened, for whichever reason; wraps.
    pub(super) drops: u32,
}

/// Looks at a socket's receive queue.
pub(super) fn queue(socket: &OwnedFd) -> io::Result<Queue> {
    // The order of the kernel's `SK_MEMINFO_…` (linux/sock_diag.h); later kernels may have more, which are cut off.
    const USED: usize = 0;
    const ROOM: usize = 1;
    const DROPS: usize = 8;
    let mut values = [0_u32; 9];
    let mut length = size_of::<[u32; 9]>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes into `values`, which has that many and outlives the call, and
    // any bytes make a `u32`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            values.as_mut_ptr().cast::<libc::c_void>(),
            &raw mut length,
        )
    };
    Errno::result(result)?;
    Ok(Queue { used: values[USED], room: values[ROOM], drops: values[DROPS] })
}

/// Sets an option whose value is a `T`, as the kernel defines it for that option.
pub(super) fn set<T>(socket: &OwnedFd, level: i32, name: i32, value: &T) -> io::Result<()> {
    // SAFETY: the value is a whole `T` that lives over the call, and the length is its own; the kernel reads it before
    // it returns.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast::<libc::c_void>(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    Errno::result(result).map(drop).map_err(io::Error::from)
}

/// Attaches a program of classic BPF: what it returns is how many bytes of a packet are kept, 0 drops it.
pub(super) fn attach_filter(socket: &OwnedFd, program: &mut [libc::sock_filter]) -> io::Result<()> {
    let length = u16::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let filter = libc::sock_fprog { len: length, filter: program.as_mut_ptr() };
    // The kernel copies what the pointer leads to, as long as `length` says, before it returns.
    set(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &filter)
}
