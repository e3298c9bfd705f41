//! The attacker's foot on a switch: frames go out through it as they are.

use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::Context as _;
use nix::sys::socket::{MsgFlags, send};

use super::envelope::Envelope;
use super::unsafe_packet_socket;
use crate::lab::topology::{CLIENT, Lab, Link};

/// A foot on one switch.
#[derive(Debug)]
pub struct Foot {
    socket: OwnedFd,
}

impl Foot {
    /// On `link`, where the client is plugged in.
    ///
    /// # Errors
    /// When a packet socket cannot be opened.
    pub fn on(lab: &Lab, link: Link) -> anyhow::Result<Self> {
        let interface = lab.leg(CLIENT, link).interface;
        let socket = lab.client().run(|| Ok(unsafe_packet_socket::open(interface, false)?));
        Ok(Self { socket: socket.with_context(|| format!("putting a foot on the {link:?} link"))? })
    }

    /// Sends one datagram.
    ///
    /// # Errors
    /// When the kernel does not take it.
    pub fn send(&self, envelope: &Envelope, payload: &[u8]) -> anyhow::Result<()> {
        for frame in envelope.seal(payload) {
            send(self.socket.as_raw_fd(), &frame, MsgFlags::empty()).context("sending a frame")?;
        }
        Ok(())
    }
}
