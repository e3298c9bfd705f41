//! Floods as a fast network card delivers them: many datagrams come up the stack together, so that the attacker, who shares
//! the machine's processors with his victim here, needs few of them for himself.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::Duration;

use anyhow::Context as _;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, send};

use super::envelope::Envelope;
use super::unsafe_packet_socket;
use crate::lab::Moment;
use crate::lab::topology::{Lab, Link};

/// Datagrams that come up together: as many heartbeats as an interface with an XDP program takes in one frame.
const TOGETHER: usize = 16;
/// How far behind its pace a flooder catches up; what it owes beyond that is let go.
const CATCH_UP: Duration = Duration::from_millis(100);

/// An attacker in the switch itself, at the port of his victim.
#[derive(Debug)]
pub struct Flooder {
    socket: OwnedFd,
}

/// What a flood was.
#[derive(Clone, Copy, Debug)]
pub struct Flooded {
    /// Datagrams that went out.
    pub datagrams: u64,
    /// In what time.
    pub took: Duration,
}

impl Flooded {
    /// Datagrams per second.
    #[must_use]
    pub fn rate(&self) -> u64 {
        let millis = u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX);
        self.datagrams * 1000 / millis.max(1)
    }
}

impl Flooder {
    /// At the port of `node` on `link`.
    ///
    /// # Errors
    /// When a packet socket cannot be opened.
    pub fn before(lab: &Lab, node: &str, link: Link) -> anyhow::Result<Self> {
        let port = lab.leg(node, link).port;
        let socket = lab.switch().run(|| Ok(unsafe_packet_socket::open_for_segments(&port)?));
        Ok(Self {
            socket: socket.with_context(|| format!("putting a foot before {node} on the {link:?} link"))?,
        })
    }

    /// Sends `rate` datagrams a second, one after the other of `payloads`, for `length`; from an ordinary thread.
    ///
    /// # Errors
    /// When the kernel does not take them.
    ///
    /// # Panics
    /// When the payloads differ in their lengths, which is a mistake in the test.
    pub fn flood(
        &self,
        envelope: &Envelope,
        payloads: &[Vec<u8>],
        rate: u64,
        length: Duration,
    ) -> anyhow::Result<Flooded> {
        let frames: Vec<(Vec<u8>, u64)> = payloads
            .chunks(TOGETHER)
            .map(|together| (envelope.seal_together(together), together.len() as u64))
            .collect();
        let from = Moment::now();
        let (mut due, mut datagrams) = (from, 0);
        for (frame, together) in frames.iter().cycle() {
            due.sleep();
            if due >= from + length {
                break;
            }
            match send(self.socket.as_raw_fd(), frame, MsgFlags::empty()) {
                Ok(_) => datagrams += together,
                Err(Errno::ENOBUFS | Errno::EAGAIN) => {}
                Err(errno) => return Err(errno).context("flooding"),
            }
            due = (due + Duration::from_nanos(1_000_000_000 * together / rate)).max(Moment::now() - CATCH_UP);
        }
        Ok(Flooded { datagrams, took: Moment::now().since(from) })
    }
}
