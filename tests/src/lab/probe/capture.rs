//! What leaves a node in the VIPs' name: an ear on the switch port, before anything can drop it.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::ear::{self, Heard};
use super::question::{ADVERTISEMENT, ICMPV6, IPV6};
use super::worker::Workers;
use crate::lab::clock::{Moment, Window};
use crate::lab::family::Family;
use crate::lab::topology::{Lab, Link, Mac};

/// In what way a frame names a VIP, or an Ethernet address, as its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// The VIP is the source of an IPv4 packet.
    Ipv4Source,
    /// The VIP is the sender of an ARP request, an announcement or a probe among them.
    ArpRequest,
    /// The VIP is the sender of an ARP reply.
    ArpReply,
    /// The VIP is the source of an IPv6 packet, other than a neighbour advertisement for it.
    Ipv6Source,
    /// A neighbour advertisement says where the VIP is, an announcement or an answer.
    NeighbourAdvertisement,
    /// The Ethernet address is the frame's source.
    EthernetSource,
    /// An ARP packet, a solicitation or an advertisement gives the Ethernet address as the sender's or the target's own.
    GivenAddress,
}

/// A frame that left the node in the VIP's name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sighting {
    /// When it reached the switch port, by the kernel's stamp.
    pub at: Moment,
    /// In what way it named what was listened for.
    pub kind: Kind,
}

/// What a capture listens for.
#[derive(Clone, Debug)]
pub struct Watched {
    /// Virtual addresses, of either family.
    pub addresses: Vec<IpAddr>,
    /// Ethernet addresses, such as a virtual one.
    pub macs: Vec<Mac>,
}

impl Default for Watched {
    /// The lab's VIPs.
    fn default() -> Self {
        Self { addresses: Family::ALL.map(Family::vip).to_vec(), macs: Vec::new() }
    }
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
    /// Listens on the switch port of `node` on `link` for frames that name one of the lab's VIPs as their source. It hears what
    /// the node sends, cut or not, as long as there is a carrier.
    ///
    /// # Errors
    /// When the packet socket cannot be opened.
    pub fn start(lab: &Lab, node: &str, link: Link) -> anyhow::Result<Self> {
        Self::start_with(lab, node, link, Watched::default())
    }

    /// As [`Capture::start`], for other addresses.
    ///
    /// # Errors
    /// When the packet socket cannot be opened.
    pub fn start_with(lab: &Lab, node: &str, link: Link, watched: Watched) -> anyhow::Result<Self> {
        let socket = ear::open(lab, node, link)?;
        let record = Arc::new(Mutex::new(Record::default()));
        let heard = Arc::clone(&record);
        let mut workers = Workers::default();
        workers.start("capture", move |stop| {
            ear::listen(stop, &socket, |sound| note(sound, &watched, &heard));
        })?;
        Ok(Self { record, workers })
    }

    /// Stops listening and leaves the record to be read.
    pub fn stop(&mut self) {
        self.workers.end();
    }

    /// The frames in the name of what is listened for that reached the port within `window`; one that names it in several ways is
    /// there several times.
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

fn note(heard: Heard<'_>, watched: &Watched, record: &Mutex<Record>) {
    let mut record = record.lock().unwrap_or_else(PoisonError::into_inner);
    match heard {
        Heard::Frame(at, frame) => {
            record.frames += 1;
            let by_address = watched.addresses.iter().filter_map(|address| named(frame, *address));
            let by_mac = watched.macs.iter().flat_map(|mac| given(frame, *mac));
            record.sightings.extend(by_address.chain(by_mac).map(|kind| Sighting { at, kind }));
        }
        Heard::Lost(count) => record.lost += count,
    }
}

/// In what way `frame` names `address` as its own.
fn named(frame: &[u8], address: IpAddr) -> Option<Kind> {
    let at = |from: usize, to: usize| frame.get(from..to);
    match (at(12, 14)?, address) {
        ([0x08, 0x00], IpAddr::V4(address)) => (at(26, 30)? == address.octets()).then_some(Kind::Ipv4Source),
        ([0x08, 0x06], IpAddr::V4(address)) if at(28, 32)? == address.octets() => match at(20, 22)? {
            [0, 1] => Some(Kind::ArpRequest),
            _ => Some(Kind::ArpReply),
        },
        (ethertype, IpAddr::V6(address)) if ethertype == IPV6 => {
            let advertises = (frame.get(20), frame.get(54)) == (Some(&ICMPV6), Some(&ADVERTISEMENT))
                && at(62, 78) == Some(&address.octets());
            if advertises {
                Some(Kind::NeighbourAdvertisement)
            } else {
                (at(22, 38)? == address.octets()).then_some(Kind::Ipv6Source)
            }
        }
        _ => None,
    }
}

/// In what ways `frame` gives `mac` as its sender's.
fn given(frame: &[u8], mac: Mac) -> impl Iterator<Item = Kind> {
    let is_at = |from: usize| frame.get(from..from + 6) == Some(&mac.0);
    // The options of solicitations (135) and advertisements (136) begin at 78; the first, of either, is an address.
    let neighbour = frame.get(12..14) == Some(&IPV6)
        && frame.get(20) == Some(&ICMPV6)
        && frame.get(54).is_some_and(|kind| [135, ADVERTISEMENT].contains(kind));
    let arp = frame.get(12..14) == Some(&[0x08, 0x06]);
    let source = is_at(6).then_some(Kind::EthernetSource);
    source.into_iter().chain((arp && is_at(22) || neighbour && is_at(80)).then_some(Kind::GivenAddress))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::probe::question::{arp_request, neighbour_solicitation};
    use crate::lab::topology::{VIP, VIP6};

    const OWN: Mac = Mac([2, 0, 0, 77, 0, 1]);
    const VIRTUAL: Mac = Mac([0, 0, 0x5e, 0, 2, 7]);

    #[test]
    fn frames_name_a_vip_as_sender_source_or_target() {
        let asks = arp_request(OWN, OWN, VIP, Link::Public.address(50));
        assert_eq!(named(&asks, VIP.into()), Some(Kind::ArpRequest));
        assert_eq!(named(&asks, Link::Public.address(50).into()), None, "it is asked for");
        let mut asks = neighbour_solicitation(OWN, OWN, VIP6, Link::Public.address6(50));
        assert_eq!(named(&asks, VIP6.into()), Some(Kind::Ipv6Source));
        assert_eq!(named(&asks, Link::Public.address6(50).into()), None, "it is asked for");
        asks[54] = ADVERTISEMENT;
        assert_eq!(
            named(&asks, Link::Public.address6(50).into()),
            Some(Kind::NeighbourAdvertisement),
            "whatever the source"
        );
        for length in 0..asks.len() {
            let _ = (named(&asks[..length], VIP6.into()), named(&asks[..length], VIP.into()));
        }
    }

    #[test]
    fn an_ethernet_address_is_seen_in_the_frame_and_in_what_it_says() {
        let kinds = |frame: &[u8]| given(frame, VIRTUAL).collect::<Vec<_>>();
        let client = Link::Public.address(50);
        assert_eq!(kinds(&arp_request(OWN, OWN, VIP, client)), []);
        assert_eq!(kinds(&arp_request(OWN, VIRTUAL, VIP, client)), [Kind::GivenAddress]);
        let asks = neighbour_solicitation(VIRTUAL, VIRTUAL, VIP6, Link::Public.address6(50));
        assert_eq!(kinds(&asks), [Kind::EthernetSource, Kind::GivenAddress]);
        assert_eq!(kinds(&asks[..60]), [Kind::EthernetSource]);
    }
}
