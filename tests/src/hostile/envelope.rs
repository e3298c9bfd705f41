//! Ethernet, IPv4 and UDP headers around a payload. Nobody checks that the source is the sender's.

use std::net::SocketAddrV4;
use std::sync::atomic::{AtomicU16, Ordering};

use super::PORT;
use crate::lab::topology::{CLIENT, Lab, Link, Mac};

const ETHERNET: usize = 14;
const IPV4: usize = 20;
const UDP: usize = 8;
/// What of an IPv4 packet's contents fits one frame, in the units of eight bytes that fragments are cut in (RFC 791).
const FRAGMENT: usize = (1500 - IPV4) / 8 * 8;

/// From whom and to whom.
#[derive(Clone, Copy, Debug)]
pub struct Envelope {
    /// The pretended sender.
    pub from: SocketAddrV4,
    /// The victim.
    pub to: SocketAddrV4,
    /// The Ethernet source: the attacker's own, lest the switch send him what is the peer's.
    pub source: Mac,
    /// The Ethernet destination.
    pub target: Mac,
}

impl Envelope {
    /// What `peer` would send to `victim` on `link`: it reaches the socket that is connected to the peer.
    #[must_use]
    pub fn spoofed(lab: &Lab, peer: &str, victim: &str, link: Link) -> Self {
        let (peer, victim) = (lab.leg(peer, link), lab.leg(victim, link));
        Self {
            from: SocketAddrV4::new(peer.address, PORT),
            to: SocketAddrV4::new(victim.address, PORT),
            source: lab.leg(CLIENT, link).mac,
            target: victim.mac,
        }
    }

    /// The same from an address that no node has.
    #[must_use]
    pub fn strangers(self, link: Link) -> Self {
        Self { from: SocketAddrV4::new(link.address(66), PORT), ..self }
    }

    /// The frames that carry `payload`: one, or the fragments of a datagram that is too long for one.
    ///
    /// # Panics
    /// When the payload is longer than any datagram, which is a mistake in the test.
    #[must_use]
    #[expect(clippy::expect_used, reason = "no datagram is longer than 65 507 bytes")]
    pub fn seal(&self, payload: &[u8]) -> Vec<Vec<u8>> {
        static IDENTIFICATION: AtomicU16 = AtomicU16::new(1);
        let length = u16::try_from(UDP + payload.len()).expect("a datagram");
        let mut datagram = Vec::with_capacity(usize::from(length));
        datagram.extend_from_slice(&self.from.port().to_be_bytes());
        datagram.extend_from_slice(&self.to.port().to_be_bytes());
        datagram.extend_from_slice(&length.to_be_bytes());
        // Zero says that the sender made no checksum (RFC 768).
        datagram.extend_from_slice(&[0, 0]);
        datagram.extend_from_slice(payload);
        let identification = IDENTIFICATION.fetch_add(1, Ordering::Relaxed);
        let pieces = datagram.chunks(FRAGMENT).enumerate();
        let last = datagram.len().div_ceil(FRAGMENT) - 1;
        pieces
            .map(|(place, piece)| {
                let more = if place < last { 0x2000 } else { 0 };
                let offset = u16::try_from(place * FRAGMENT / 8).expect("an offset within a datagram") | more;
                self.frame(identification, offset, piece)
            })
            .collect()
    }

    /// A frame of many datagrams of the same length, which the kernel is to cut where it delivers it, as it would put
    /// together what a network card receives in one go; with the `struct virtio_net_hdr` that tells it so.
    ///
    /// # Panics
    /// When there is no payload or they differ in their length, which is a mistake in the test.
    #[must_use]
    #[expect(clippy::expect_used, reason = "a few heartbeats make no more than one datagram may hold")]
    pub fn seal_together(&self, payloads: &[Vec<u8>]) -> Vec<u8> {
        /// Flag "needs a checksum", type "UDP segments", the length of all headers.
        const SEGMENTS: [u8; 4] = [1, 5, (ETHERNET + IPV4 + UDP) as u8, 0];
        let each = payloads.first().expect("a payload").len();
        assert!(payloads.iter().all(|payload| payload.len() == each), "segments are of one length");
        let each = u16::try_from(each).expect("a datagram");
        let length = u16::try_from(UDP + payloads.len() * usize::from(each)).expect("a datagram");
        let mut content = Vec::with_capacity(usize::from(length));
        content.extend_from_slice(&self.from.port().to_be_bytes());
        content.extend_from_slice(&self.to.port().to_be_bytes());
        content.extend_from_slice(&length.to_be_bytes());
        // The sum over the pseudo-header alone; the kernel adds the rest (RFC 768).
        let mut pseudo = [self.from.ip().octets(), self.to.ip().octets()].concat();
        pseudo.extend_from_slice(&[0, 17]);
        pseudo.extend_from_slice(&length.to_be_bytes());
        content.extend_from_slice(&(!checksum(&pseudo)).to_be_bytes());
        content.extend(payloads.iter().flatten());
        let mut out = SEGMENTS.to_vec();
        out.extend_from_slice(&each.to_le_bytes());
        // Where the sum begins, and where in what it covers it stands.
        out.extend_from_slice(&((ETHERNET + IPV4) as u16).to_le_bytes());
        out.extend_from_slice(&6_u16.to_le_bytes());
        out.extend_from_slice(&self.frame(0, 0, &content));
        out
    }

    #[expect(clippy::expect_used, reason = "no fragment is longer than a frame")]
    fn frame(&self, identification: u16, offset: u16, content: &[u8]) -> Vec<u8> {
        let total = u16::try_from(IPV4 + content.len()).expect("a fragment");
        let mut frame = Vec::with_capacity(ETHERNET + usize::from(total));
        frame.extend_from_slice(&self.target.0);
        frame.extend_from_slice(&self.source.0);
        frame.extend_from_slice(&[0x08, 0x00, 0x45, 0xc0]);
        frame.extend_from_slice(&total.to_be_bytes());
        frame.extend_from_slice(&identification.to_be_bytes());
        frame.extend_from_slice(&offset.to_be_bytes());
        // A TTL of 1, UDP, and room for the checksum.
        frame.extend_from_slice(&[1, 17, 0, 0]);
        frame.extend_from_slice(&self.from.ip().octets());
        frame.extend_from_slice(&self.to.ip().octets());
        let sum = checksum(&frame[ETHERNET..]);
        frame[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&sum.to_be_bytes());
        frame.extend_from_slice(content);
        frame
    }
}

/// The payload of `frame` if it is a whole heartbeat datagram from `from` to anyone's heartbeat port.
#[must_use]
pub(super) fn open(frame: &[u8], from: SocketAddrV4) -> Option<&[u8]> {
    let whole_ipv4_udp = frame.get(12..15)? == [0x08, 0x00, 0x45]
        && frame.get(20..22)?[0] & 0x3f == 0
        && *frame.get(23)? == 17
        && frame.get(26..30)? == from.ip().octets()
        && frame.get(34..36)? == from.port().to_be_bytes()
        && frame.get(36..38)? == PORT.to_be_bytes();
    let length = usize::from(u16::from_be_bytes(frame.get(38..40)?.try_into().ok()?));
    whole_ipv4_udp.then(|| frame.get(ETHERNET + IPV4 + UDP..ETHERNET + IPV4 + length)).flatten()
}

/// The Internet checksum of an IPv4 header (RFC 791, section 3.1).
fn checksum(header: &[u8]) -> u16 {
    let words = header.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let sum = words.sum::<u32>();
    let folded = (sum & 0xffff) + (sum >> 16);
    !(((folded & 0xffff) + (folded >> 16)) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope() -> Envelope {
        let [from, to] = [2, 1].map(|octet| SocketAddrV4::new(Link::Public.address(octet), PORT));
        Envelope { from, to, source: Mac([2; 6]), target: Mac([4; 6]) }
    }

    #[test]
    fn what_was_sealed_can_be_opened() {
        let frames = envelope().seal(b"heartbeat");
        assert_eq!(frames.len(), 1);
        assert_eq!(open(&frames[0], envelope().from), Some(b"heartbeat".as_slice()));
        assert_eq!(open(&frames[0], envelope().to), None, "somebody else's");
        assert_eq!(checksum(&frames[0][14..34]), 0, "a header with its checksum sums up to nothing");
    }

    #[test]
    fn what_is_too_long_goes_in_fragments() {
        let frames = envelope().seal(&[7; 9000]);
        assert_eq!(frames.len(), 7);
        let content: usize = frames.iter().map(|frame| frame.len() - ETHERNET - IPV4).sum();
        assert_eq!(content, 9000 + UDP);
        assert!(frames.iter().all(|frame| open(frame, envelope().from).is_none()));
    }
}
