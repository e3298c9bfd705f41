//! Waking by eventfd: written by threads that must not wait, awaited in tokio. Holds `unsafe` for the registration that
//! tokio leaves to its callers to justify.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use nix::sys::eventfd::EventFd;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// An eventfd that a task can wait for.
#[derive(Debug)]
pub struct Wake(AsyncFd<Shared>);

#[derive(Debug)]
struct Shared(Arc<EventFd>);

impl AsRawFd for Shared {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Wake {
    /// Registers with the runtime that is entered.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn new(eventfd: Arc<EventFd>) -> io::Result<Self> {
        // SAFETY: The descriptor is the eventfd's, which `Shared` keeps open and never replaces for as long as the
        // registration lives.
        let registered = unsafe { AsyncFd::register_with_interest(Shared(eventfd), Interest::READABLE) };
        Ok(Self(registered?))
    }

    /// Waits until it was written since the last wait.
    ///
    /// # Errors
    /// When the runtime is shutting down.
    pub async fn written(&self) -> io::Result<()> {
        let mut guard = self.0.readable().await?;
        // One read empties it; EAGAIN says that it was empty.
        let _ = self.0.get_ref().0.read();
        guard.clear_ready();
        Ok(())
    }
}
