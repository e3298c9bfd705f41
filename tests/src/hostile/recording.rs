//! The heartbeats and acknowledgements a node really sent, as its switch port saw them.

use std::net::SocketAddrV4;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv};

use super::envelope::{self, Envelope};
use super::foot::Foot;
use super::{PORT, unsafe_packet_socket};
use crate::lab::Moment;
use crate::lab::topology::{Lab, Link};

/// One datagram of a recording.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// When it was seen.
    pub at: Moment,
    /// Its payload.
    pub bytes: Vec<u8>,
}

/// What a node sent on one link, in its order.
#[derive(Clone, Debug, Default)]
pub struct Recording(pub Vec<Recorded>);

/// A recorder at work.
#[derive(Debug)]
pub struct Recorder {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Recording>>,
}

impl Recorder {
    /// Records what `node` sends on `link` from now on.
    ///
    /// # Errors
    /// When a packet socket cannot be opened.
    pub fn start(lab: &Lab, node: &str, link: Link) -> anyhow::Result<Self> {
        let leg = lab.leg(node, link);
        let from = SocketAddrV4::new(leg.address, PORT);
        let socket = lab.switch().run(|| Ok(unsafe_packet_socket::open(&leg.port, true)?));
        let socket = socket.with_context(|| format!("listening on the switch port {}", leg.port))?;
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("recorder".to_owned())
            .spawn(move || record(&socket, from, &asked))?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Ends the recording.
    ///
    /// # Errors
    /// When nothing was recorded.
    pub fn stop(mut self) -> anyhow::Result<Recording> {
        self.stop.store(true, Ordering::Relaxed);
        let recording = self.thread.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        ensure!(!recording.0.is_empty(), "the node has sent nothing that could be recorded");
        Ok(recording)
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Recording {
    /// What `node` sends on `link` for so long.
    ///
    /// # Errors
    /// When a packet socket cannot be opened or nothing is sent.
    pub fn of(lab: &Lab, node: &str, link: Link, length: Duration) -> anyhow::Result<Self> {
        let recorder = Recorder::start(lab, node, link)?;
        (Moment::now() + length).sleep();
        recorder.stop()
    }

    /// Sends all of it again, at the pace at which it was recorded; how many datagrams that was.
    ///
    /// # Errors
    /// When the kernel does not take a frame.
    pub fn replay(&self, foot: &Foot, envelope: &Envelope) -> anyhow::Result<u64> {
        let begin = Moment::now();
        let first = self.0.first().map_or(begin, |first| first.at);
        for recorded in &self.0 {
            (begin + recorded.at.since(first)).sleep();
            foot.send(envelope, &recorded.bytes)?;
        }
        Ok(self.0.len() as u64)
    }
}

fn record(socket: &OwnedFd, from: SocketAddrV4, stop: &AtomicBool) -> Recording {
    let mut recording = Recording::default();
    let mut frame = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        let Ok(length) = recv(socket.as_raw_fd(), &mut frame, MsgFlags::MSG_DONTWAIT) else {
            let mut waiting = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
            // A failure only shows as a wait that was too short.
            let _ = poll(&mut waiting, PollTimeout::from(20u8));
            continue;
        };
        if let Some(bytes) = frame.get(..length).and_then(|frame| envelope::open(frame, from)) {
            recording.0.push(Recorded { at: Moment::now(), bytes: bytes.to_vec() });
        }
    }
    recording
}
