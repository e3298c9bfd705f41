//! What leaves a node with the VIP as its source: an ear on the switch port, before anything can drop it.

use std::io::IoSliceMut;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt};

use super::worker::{Stop, Workers};
use crate::lab::clock::{Moment, Window};
use crate::lab::topology::{Lab, Link, VIP};
use crate::lab::unsafe_calls::{frames_lost, packet_socket, run_in_real_time};

/// In what way a frame names the VIP as its source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// It is the source of an IPv4 packet.
    Ipv4Source,
    /// It is the sender of an ARP request, an announcement or a probe among them.
    ArpRequest,
    /// It is the sender of an ARP reply.
    ArpReply,
}

/// A frame that left the node with the VIP as its source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sighting {
    /// When it reached the switch port, by the kernel's stamp.
    pub at: Moment,
    /// In what way it named the VIP.
    pub kind: Kind,
}

#[derive(Debug, Default)]
struct Record {
    sightings: Vec<Sighting>,
    frames: u64,
    lost: u64,
}

/// The ear. It listens from `start` until it is dropped.
#[derive(Debug)]
pub struct Capture {
    record: Arc<Mutex<Record>>,
    workers: Workers,
}

impl Capture {
    /// Listens on the switch port of `node` on `link` for frames that name the lab's VIP as their source. It hears what
    /// the node sends, cut or not, as long as there is a carrier.
    ///
    /// # Errors
    /// When the packet socket cannot be opened.
    pub fn start(lab: &Lab, node: &str, link: Link) -> anyhow::Result<Self> {
        Self::start_with(lab, node, link, VIP)
    }

    /// As [`Capture::start`], for another address.
    ///
    /// # Errors
    /// When the packet socket cannot be opened.
    pub fn start_with(lab: &Lab, node: &str, link: Link, address: Ipv4Addr) -> anyhow::Result<Self> {
        let port = lab.leg(node, link).port;
        let socket = lab.switch().run(|| {
            let socket = packet_socket(&port)?;
            setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
            Ok(socket)
        });
        let socket = socket.with_context(|| format!("listening on the switch port {port}"))?;
        let record = Arc::new(Mutex::new(Record::default()));
        let heard = Arc::clone(&record);
        let mut workers = Workers::default();
        workers.start("capture", move |stop| hear(stop, &socket, address, &heard))?;
        Ok(Self { record, workers })
    }

    /// Stops listening and leaves the record to be read.
    pub fn stop(&mut self) {
        self.workers.end();
    }

    /// The frames with the VIP as their source that reached the port within `window`.
    #[must_use]
    pub fn sightings(&self, window: Window) -> Vec<Sighting> {
        self.record().sightings.iter().filter(|sighting| window.contains(sighting.at)).copied().collect()
    }

    /// How many frames of any kind the node has sent.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.record().frames
    }

    /// How many frames the capture itself lost; unless it is zero, it may have missed one.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.record().lost
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn hear(stop: &Stop, socket: &OwnedFd, address: Ipv4Addr, record: &Mutex<Record>) {
    // It need not be prompt, for the kernel stamps the frames, but it must not lose any.
    let _ = run_in_real_time(super::echo::PRIORITY);
    let mut frame = [0; 64];
    let mut control = nix::cmsg_space!(nix::sys::time::TimeSpec);
    loop {
        let mut parts = [IoSliceMut::new(&mut frame)];
        let received =
            recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::MSG_DONTWAIT).map(
                |message| {
                    let stamp = message.cmsgs().ok().and_then(|mut messages| {
                        messages.find_map(|message| match message {
                            ControlMessageOwned::ScmTimestampns(stamp) => Some(stamp),
                            _ => None,
                        })
                    });
                    (message.bytes, stamp)
                },
            );
        match received {
            Ok((length, stamp)) => {
                let at = stamp.map_or_else(Moment::now, |stamp| {
                    let stamp = std::time::Duration::from(stamp).as_nanos();
                    Moment::from_realtime(u64::try_from(stamp).unwrap_or(u64::MAX))
                });
                let kind = frame.get(..length).and_then(|frame| source(frame, address));
                let mut record = record.lock().unwrap_or_else(PoisonError::into_inner);
                record.frames += 1;
                record.sightings.extend(kind.map(|kind| Sighting { at, kind }));
            }
            Err(Errno::EAGAIN | Errno::ENETDOWN) => {
                let mut waiting = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
                // A failure only shows as a wait that was too short.
                let _ = poll(&mut waiting, PollTimeout::from(20u8));
                let lost = frames_lost(socket.as_fd()).unwrap_or(0);
                record.lock().unwrap_or_else(PoisonError::into_inner).lost += u64::from(lost);
                // What had reached the port by then has been read: the socket was just seen empty.
                if stop.asked() {
                    return;
                }
            }
            Err(_) => return,
        }
    }
}

/// In what way `frame` names `address` as its source.
fn source(frame: &[u8], address: Ipv4Addr) -> Option<Kind> {
    let at = |from: usize, to: usize| frame.get(from..to);
    match at(12, 14)? {
        [0x08, 0x00] if at(26, 30)? == address.octets() => Some(Kind::Ipv4Source),
        [0x08, 0x06] if at(28, 32)? == address.octets() => match at(20, 22)? {
            [0, 1] => Some(Kind::ArpRequest),
            _ => Some(Kind::ArpReply),
        },
        _ => None,
    }
}
