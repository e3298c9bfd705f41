//! Who announces the VIPs: gratuitous ARP (RFC 5227, section 3) and unsolicited neighbour advertisements (RFC 4861, section 7.2.6),
//! heard at the switch ports of all nodes, so that who has sent one is certain whatever Ethernet address it names.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::ear::{self, Heard};
use super::question::neighbour_advertisement;
use super::worker::Workers;
use crate::lab::clock::{Moment, Window};
use crate::lab::family::Family;
use crate::lab::topology::{Lab, Link, Mac};

/// One announcement.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Announcement {
    /// When it reached the switch port, by the kernel's stamp.
    pub at: Moment,
    /// The node that has sent it.
    pub node: String,
    /// The link it was sent on.
    pub link: Link,
    /// The address it is about.
    pub address: IpAddr,
    /// Where it says that the address is.
    pub mac: Mac,
    /// The Ethernet address it was sent from.
    pub source: Mac,
}

#[derive(Debug, Default)]
struct Record {
    heard: Vec<Announcement>,
    lost: u64,
}

/// The listener. It listens from `start` until it is dropped.
#[derive(Debug)]
pub struct Announcements {
    record: Arc<Mutex<Record>>,
    workers: Workers,
}

impl Announcements {
    /// Listens for announcements of the lab's VIPs by any node, on both links.
    ///
    /// # Errors
    /// When a packet socket cannot be opened.
    pub fn start(lab: &Lab) -> anyhow::Result<Self> {
        Self::start_with(lab, &Family::ALL.map(Family::vip))
    }

    /// Listens for announcements of these addresses.
    ///
    /// # Errors
    /// When a packet socket cannot be opened.
    pub fn start_with(lab: &Lab, addresses: &[IpAddr]) -> anyhow::Result<Self> {
        let record = Arc::new(Mutex::new(Record::default()));
        let mut workers = Workers::default();
        for (node, link) in lab.nodes().iter().flat_map(|node| Link::ALL.map(|link| (node, link))) {
            let socket = ear::open_for_neighbours(lab, &node.name, link)?;
            let (heard, name, addresses) = (Arc::clone(&record), node.name.clone(), addresses.to_vec());
            workers.start("announcements", move |stop| {
                ear::listen(stop, &socket, |sound| {
                    let mut record = heard.lock().unwrap_or_else(PoisonError::into_inner);
                    match sound {
                        Heard::Lost(count) => record.lost += count,
                        Heard::Frame(at, frame) => {
                            let told = announced(frame).filter(|(about, ..)| addresses.contains(about));
                            record.heard.extend(told.map(|(address, mac, source)| {
                                let node = name.clone();
                                Announcement { at, node, link, address, mac, source }
                            }));
                        }
                    }
                });
            })?;
        }
        Ok(Self { record, workers })
    }

    /// Stops listening and leaves the record to be read.
    pub fn stop(&mut self) {
        self.workers.end();
    }

    /// The announcements of `window`.
    #[must_use]
    pub fn heard(&self, window: Window) -> Vec<Announcement> {
        let record = self.record();
        let mut heard: Vec<_> =
            record.heard.iter().filter(|told| window.contains(told.at)).cloned().collect();
        heard.sort_by_key(|told| told.at);
        heard
    }

    /// The announcements of `window` from the first of that node's on: a holder that is still to hand over may announce
    /// before.
    #[must_use]
    pub fn heard_since_first_of(&self, node: &str, window: Window) -> Vec<Announcement> {
        self.heard(window).into_iter().skip_while(|told| told.node != node).collect()
    }

    /// The nodes that announced anything within `window`.
    #[must_use]
    pub fn announcers(&self, window: Window) -> BTreeSet<String> {
        self.heard(window).into_iter().map(|told| told.node).collect()
    }

    /// How many frames the listener itself lost; unless it is zero, it may have missed one.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.record().lost
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What `frame` announces: the address, where it says that is, and the frame's own source.
fn announced(frame: &[u8]) -> Option<(IpAddr, Mac, Mac)> {
    let mac = |from: usize| -> Option<Mac> { frame.get(from..from + 6)?.try_into().ok().map(Mac) };
    let source = mac(6)?;
    if frame.get(12..14)? == [0x08, 0x06] {
        // A request or a reply: what makes it an announcement is that sender and target are the same.
        let (sender, target) = (frame.get(28..32)?, frame.get(38..42)?);
        let sender: [u8; 4] = sender.try_into().ok().filter(|sender| sender == target)?;
        return Some((sender.into(), mac(22)?, source));
    }
    let told = neighbour_advertisement(frame).filter(|told| !told.solicited)?;
    Some((told.target.into(), told.mac, source))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::probe::question::{arp_request, neighbour_solicitation};
    use crate::lab::topology::{VIP, VIP6};

    const OWN: Mac = Mac([2, 0, 0, 77, 0, 1]);
    const VIRTUAL: Mac = Mac([0, 0, 0x5e, 0, 1, 7]);

    #[test]
    fn announcements_are_told_from_questions_and_answers() {
        assert_eq!(announced(&arp_request(OWN, VIRTUAL, VIP, VIP)), Some((VIP.into(), VIRTUAL, OWN)));
        assert_eq!(announced(&arp_request(OWN, OWN, Link::Public.address(1), VIP)), None);
        let mut frame = neighbour_solicitation(OWN, VIRTUAL, VIP6, VIP6);
        assert_eq!(announced(&frame), None, "a solicitation");
        frame[54] = 136;
        frame[78] = 2;
        frame[58] = 0x20;
        assert_eq!(announced(&frame), Some((VIP6.into(), VIRTUAL, OWN)));
        frame[58] = 0x60;
        assert_eq!(announced(&frame), None, "an answer");
        for length in 0..frame.len() {
            let _ = announced(&frame[..length]);
        }
    }
}
