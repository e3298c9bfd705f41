//! Threads of a probe, or of the lab's, that are told to stop and are waited for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

/// Threads that end when this is dropped.
#[derive(Debug, Default)]
pub(in crate::lab) struct Workers {
    stop: Stop,
    threads: Vec<JoinHandle<()>>,
}

/// How a worker learns that it shall end.
#[derive(Clone, Debug, Default)]
pub(in crate::lab) struct Stop(Arc<AtomicBool>);

impl Stop {
    pub(in crate::lab) fn asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Workers {
    /// Starts a worker, which has to look at its [`Stop`] at least every 50 ms.
    pub(in crate::lab) fn start(
        &mut self,
        name: &str,
        work: impl FnOnce(&Stop) + Send + 'static,
    ) -> std::io::Result<()> {
        let stop = self.stop.clone();
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || work(&stop))?;
        self.threads.push(thread);
        Ok(())
    }

    /// Ends all workers and waits for them.
    pub(in crate::lab) fn end(&mut self) {
        self.stop.0.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A worker that panicked has said so; the probe's records show what it missed.
            let _ = thread.join();
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.end();
    }
}
