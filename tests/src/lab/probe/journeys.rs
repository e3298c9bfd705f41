//! How often the nodes of an active/active group send a packet on to one another: an ear at each node's switch port for frames that
//! carry a mark.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::ear::{self, Heard};
use super::worker::Workers;
use crate::lab::clock::Moment;
use crate::lab::topology::{Lab, Link};

/// Two frames with the same packet in them are one packet on its way if they come so soon after each other, and else one that was sent
/// again.
const ON_ITS_WAY: Duration = Duration::from_millis(20);
/// What the source addresses of frames that are sent on begin with, for the first time and for the second (`docs/active-active.md`).
const MARKS: [[u8; 2]; 2] = [[2, 0xa1], [2, 0xa2]];
/// Where the packet begins in a frame, and how much of it tells it from all others: headers with the sequence number, and what follows.
const PACKET: usize = 14;
const TOLD_BY: usize = 80;
/// Packets that are remembered before those are forgotten that must have arrived.
const REMEMBERED: usize = 4096;

/// What was heard.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Sent {
    /// Frames with the mark of the first time.
    pub once: u64,
    /// Frames with the mark of the second time.
    pub twice: u64,
    /// The most frames with a mark that one packet was in.
    pub most: u32,
    /// Frames that the ears missed.
    pub missed: u64,
}

#[derive(Debug, Default)]
struct Record {
    sent: Sent,
    /// Packets that may still be on their way: when each was last heard, and in how many frames.
    packets: HashMap<Vec<u8>, (Moment, u32)>,
}

/// The ears. They listen from `start` until they are stopped or dropped.
#[derive(Debug)]
pub struct Journeys {
    record: Arc<Mutex<Record>>,
    workers: Workers,
}

impl Journeys {
    /// Listens at the switch ports of all nodes on the service link.
    ///
    /// # Errors
    /// When a packet socket cannot be opened.
    pub fn start(lab: &Lab) -> anyhow::Result<Self> {
        let record = Arc::new(Mutex::new(Record::default()));
        let mut workers = Workers::default();
        for node in lab.nodes() {
            let socket = ear::open(lab, &node.name, Link::Public)?;
            let heard = Arc::clone(&record);
            workers.start("journeys", move |stop| {
                ear::listen(stop, &socket, |sound| {
                    heard.lock().unwrap_or_else(PoisonError::into_inner).note(sound);
                });
            })?;
        }
        Ok(Self { record, workers })
    }

    /// Stops listening, and says what was heard.
    #[must_use]
    pub fn stop(mut self) -> Sent {
        self.workers.end();
        self.record.lock().unwrap_or_else(PoisonError::into_inner).sent
    }
}

impl Record {
    fn note(&mut self, sound: Heard<'_>) {
        let (at, frame) = match sound {
            Heard::Frame(at, frame) => (at, frame),
            Heard::Lost(count) => {
                self.sent.missed += count;
                return;
            }
        };
        let Some(mark) = frame.get(6..8).and_then(|source| MARKS.iter().position(|mark| source == mark))
        else {
            return;
        };
        match mark {
            0 => self.sent.once += 1,
            _ => self.sent.twice += 1,
        }
        if self.packets.len() >= REMEMBERED {
            self.packets.retain(|_, (heard, _)| at.since(*heard) <= ON_ITS_WAY);
        }
        let packet = &frame[PACKET..frame.len().min(PACKET + TOLD_BY)];
        let (heard, count) = self.packets.entry(packet.to_vec()).or_insert((at, 0));
        // The ears of two ports may be behind by different times.
        let apart = at.since(*heard).max(heard.since(at));
        *count = if apart <= ON_ITS_WAY { *count + 1 } else { 1 };
        *heard = at;
        self.sent.most = self.sent.most.max(*count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(source: [u8; 2], packet: u8) -> Vec<u8> {
        let mut frame = vec![0; 60];
        frame[6..8].copy_from_slice(&source);
        frame[20] = packet;
        frame
    }

    #[test]
    fn packets_are_told_apart_and_counted() {
        let mut record = Record::default();
        let mut hear = |millis: u64, source, packet| {
            record.note(Heard::Frame(Moment(millis * 1_000_000), &frame(source, packet)));
            record.sent
        };
        assert_eq!(hear(0, [2, 0], 1), Sent::default(), "no mark");
        assert_eq!(hear(0, MARKS[0], 1).most, 1);
        assert_eq!(hear(1, MARKS[0], 2).most, 1, "another packet");
        assert_eq!(hear(2, MARKS[1], 1), Sent { once: 2, twice: 1, most: 2, missed: 0 });
        assert_eq!(hear(500, MARKS[0], 1).most, 2, "sent again by the client");
        assert_eq!(hear(501, MARKS[1], 1).most, 2);
        assert_eq!(hear(502, MARKS[1], 1).most, 3, "what must not be is seen");
    }
}
