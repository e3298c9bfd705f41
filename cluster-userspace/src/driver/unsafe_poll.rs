//! Waiting for many sockets in memory that is kept from one wait to the next. Holds `unsafe` for the system call: the
//! safe wrapper borrows every descriptor anew, so that its list would have to be built at each wait.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

/// What is waited for, by place.
#[derive(Debug)]
pub(super) struct Poll(Vec<libc::pollfd>);

/// What a wait ended with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Waited {
    /// The time was over, and no place has anything to read.
    Nothing,
    /// Some places are ready. The others had nothing when the wait ended.
    Some,
}

impl Poll {
    /// So many places without a descriptor.
    pub(super) fn with_places(places: usize) -> Self {
        Self(vec![libc::pollfd { fd: -1, events: libc::POLLIN, revents: 0 }; places])
    }

    /// Sets or clears a place's descriptor. Whoever closes the descriptor clears it first, or sets another.
    pub(super) fn set(&mut self, place: usize, socket: Option<BorrowedFd<'_>>) {
        // The kernel skips negative ones.
        self.0[place].fd = socket.map_or(-1, |socket| socket.as_raw_fd());
    }

    /// Waits until something can be read or the time is over.
    pub(super) fn wait(&mut self, time: Duration) -> Waited {
        let timeout = libc::timespec {
            tv_sec: libc::time_t::try_from(time.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: time.subsec_nanos().into(),
        };
        // SAFETY: the list and its length are those of one vector, which nothing else touches over the call; the
        // time-out lives as long, and no signal mask is given. A descriptor that was closed is reported, not used.
        let ready = unsafe {
            libc::ppoll(
                self.0.as_mut_ptr(),
                self.0.len() as libc::nfds_t,
                &raw const timeout,
                std::ptr::null(),
            )
        };
        match ready {
            0 => Waited::Nothing,
            // Interrupted, nothing is known of any: all have to be read.
            ..0 => {
                for place in &mut self.0 {
                    place.revents = libc::POLLIN;
                }
                Waited::Some
            }
            1.. => Waited::Some,
        }
    }

    /// Whether the place had something to read, or an error to tell, when the last wait ended.
    pub(super) fn is_ready(&self, place: usize) -> bool {
        self.0[place].revents != 0
    }
}
