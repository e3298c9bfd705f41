//! When a node's heartbeats reach its switch port: what a failure detector has to go by, without the detector.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::ear::{self, Heard};
use super::worker::Workers;
use crate::lab::clock::{Moment, Window};
use crate::lab::topology::{Lab, Link};

/// Whose language.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Language {
    /// The product's heartbeats; its acknowledgements are not counted.
    Ours,
    /// VRRP advertisements.
    Vrrp,
}

impl Language {
    /// Whether `frame` is a heartbeat.
    fn speaks(self, frame: &[u8]) -> bool {
        // An IPv4 header of 20 bytes, or an IPv6 header of 40, follows the Ethernet header of 14.
        let (protocol, payload) = match frame.get(12..15) {
            Some([0x08, 0x00, 0x45]) => (frame.get(23), frame.get(34..)),
            Some([0x86, 0xdd, _]) => (frame.get(20), frame.get(54..)),
            _ => (None, None),
        };
        let (Some(protocol), Some(payload)) = (protocol, payload) else { return false };
        match self {
            Self::Ours => {
                // The UDP header has 8 bytes; docs/wire-format.md has the kind at offset 2.
                let port = payload.get(2..4) == Some(&crate::hostile::PORT.to_be_bytes()[..]);
                *protocol == 17 && port && payload.get(10) == Some(&1)
            }
            Self::Vrrp => *protocol == 112,
        }
    }
}

#[derive(Debug, Default)]
struct Record {
    at: Vec<Moment>,
    lost: u64,
}

/// The probe, at one node's port. It listens from `start` until it is dropped.
#[derive(Debug)]
pub struct Beats {
    record: Arc<Mutex<Record>>,
    _workers: Workers,
}

impl Beats {
    /// Listens at the switch port of `node` on `link`.
    ///
    /// # Errors
    /// When the packet socket cannot be opened.
    pub fn start(lab: &Lab, node: &str, link: Link, language: Language) -> anyhow::Result<Self> {
        let socket = ear::open(lab, node, link)?;
        let record = Arc::new(Mutex::new(Record::default()));
        let heard = Arc::clone(&record);
        let mut workers = Workers::default();
        workers.start("beats", move |stop| {
            ear::listen(stop, &socket, |sound| {
                let mut record = heard.lock().unwrap_or_else(PoisonError::into_inner);
                match sound {
                    Heard::Frame(at, frame) if language.speaks(frame) => record.at.push(at),
                    Heard::Frame(..) => {}
                    Heard::Lost(count) => record.lost += count,
                }
            });
        })?;
        Ok(Self { record, _workers: workers })
    }

    /// How many heartbeats reached the port within `window`.
    #[must_use]
    pub fn count(&self, window: Window) -> usize {
        self.record().at.iter().filter(|at| window.contains(**at)).count()
    }

    /// The longest time between two heartbeats within `window`; none where there were less than two.
    #[must_use]
    pub fn worst_gap(&self, window: Window) -> Option<Duration> {
        let record = self.record();
        let mut inside: Vec<Moment> = record.at.iter().copied().filter(|at| window.contains(*at)).collect();
        // The stamps are brought to this clock one by one, which may change the order of two that are close.
        inside.sort_unstable();
        inside.windows(2).map(|pair| pair[1].since(pair[0])).max()
    }

    /// How many frames the probe itself lost.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.record().lost
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heartbeats_are_told_from_acknowledgements_and_advertisements() {
        let mut frame = [0; 64];
        frame[12..15].copy_from_slice(&[0x08, 0x00, 0x45]);
        frame[23] = 17;
        frame[36..38].copy_from_slice(&crate::hostile::PORT.to_be_bytes());
        frame[44] = 1;
        assert!(Language::Ours.speaks(&frame) && !Language::Vrrp.speaks(&frame));
        frame[44] = 2;
        assert!(!Language::Ours.speaks(&frame), "an acknowledgement");
        frame[23] = 112;
        assert!(Language::Vrrp.speaks(&frame));
        assert!(!Language::Vrrp.speaks(&frame[..20]));
        let mut frame = [0; 128];
        frame[12..15].copy_from_slice(&[0x86, 0xdd, 0x60]);
        frame[20] = 17;
        frame[56..58].copy_from_slice(&crate::hostile::PORT.to_be_bytes());
        frame[64] = 1;
        assert!(Language::Ours.speaks(&frame) && !Language::Vrrp.speaks(&frame), "over IPv6");
    }
}
