//! What leaves a node with the VIP as its source: an ear on the switch port, before anything can drop it.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::ear::{self, Heard};
use super::worker::Workers;
use crate::lab::clock::{Moment, Window};
use crate::lab::topology::{Lab, Link, VIP};

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
        let socket = ear::open(lab, node, link)?;
        let record = Arc::new(Mutex::new(Record::default()));
        let heard = Arc::clone(&record);
        let mut workers = Workers::default();
        workers.start("capture", move |stop| {
            ear::listen(stop, &socket, |frame| note(frame, address, &heard));
        })?;
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

fn note(heard: Heard<'_>, address: Ipv4Addr, record: &Mutex<Record>) {
    let mut record = record.lock().unwrap_or_else(PoisonError::into_inner);
    match heard {
        Heard::Frame(at, frame) => {
            record.frames += 1;
            record.sightings.extend(source(frame, address).map(|kind| Sighting { at, kind }));
        }
        Heard::Lost(count) => record.lost += count,
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
