//! Neighbour discovery (RFC 4861).

use alloc::vec::Vec;
use core::net::Ipv6Addr;

use super::ipv6::Packet;
use super::{Claim, FOREIGN, Fate, Node, Outcome, Vip};
use crate::Verdict;

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// An ICMPv6 message that may be one of neighbour discovery.
pub(super) struct Message {
    pub(super) kind: u8,
    code: u8,
    flags: u8,
    pub(super) target: Ipv6Addr,
}

impl Node<'_> {
    /// A solicitation for the VIP.
    pub(super) fn receives_solicitation(&self, frame: &mut Vec<u8>, vip: &Vip) -> Outcome {
        if !vip.held {
            return vip.outcome(Fate::Drop, Verdict::NsDark);
        }
        let Some((asker, mac)) = asker(frame) else {
            return vip.outcome(Fate::Drop, Verdict::NsRefused);
        };
        // An answer always has an option, and the frame grows if the solicitation had none.
        if frame.len() < 86 {
            frame.resize(86, 0);
        }
        let (destination, destination_mac, solicited) = match asker {
            Some(asker) => (asker, mac, 0x40),
            None => (ALL_NODES, [0x33, 0x33, 0, 0, 0, 1], 0),
        };
        let router = if self.forwards { 0x80 } else { 0 };
        let mut packet = [0; 72];
        packet[..8].copy_from_slice(&[0x60, 0, 0, 0, 0, 32, 58, 255]);
        packet[8..24].copy_from_slice(&frame[14 + 48..14 + 64]);
        packet[24..40].copy_from_slice(&destination.octets());
        packet[40] = 136;
        packet[44] = router | solicited | 0x20;
        packet[48..64].copy_from_slice(&frame[14 + 48..14 + 64]);
        packet[64..66].copy_from_slice(&[2, 1]);
        let mac_of_vip = vip.face.unwrap_or(self.mac);
        packet[66..72].copy_from_slice(&mac_of_vip);
        let checksum = checksum(&packet, 32);
        packet[42..44].copy_from_slice(&checksum.to_be_bytes());
        frame[..6].copy_from_slice(&destination_mac);
        frame[6..12].copy_from_slice(&mac_of_vip);
        frame[14..86].copy_from_slice(&packet);
        let served = asker.and_then(|asker| vip.noted(asker.into()));
        Outcome { served, ..vip.outcome(Fate::Answer, Verdict::NsAnswered) }
    }

    /// The VIP that a message that came in says is somebody's, or is to be.
    pub(super) fn claimed_by_nd(&self, frame: &[u8]) -> Option<Claim> {
        let packet = Packet::parse(&frame[14..])?;
        let message = packet.message()?;
        let (claimed, verdict) = match message.kind {
            136 => (message.target, Verdict::NaRival),
            135 if packet.source.is_unspecified() => (message.target, Verdict::NsRival),
            135 => (packet.source, Verdict::NsRival),
            _ => return None,
        };
        if packet.hop_limit == 255 && self.is_addressed(frame) {
            self.claim(claimed, verdict, &[*frame[6..].first_chunk()?])
        } else {
            None
        }
    }

    /// A message that claims a VIP; `None` if it claims none.
    pub(super) fn sends_message(
        &self,
        packet: &Packet<'_>,
        message: &Message,
    ) -> Option<(Outcome, Option<[u8; 6]>)> {
        let vip = self.vip(message.target)?;
        let is_hidden = packet.next_header != 58;
        let is_announcement = message.flags & 0x60 == 0x20 && packet.destination == ALL_NODES;
        let (passed, fenced) = match message.kind {
            136 => (Verdict::EgressNaPassed, Verdict::EgressNaFenced),
            135 if packet.source.is_unspecified() => (Verdict::EgressDadPassed, Verdict::EgressDadFenced),
            _ => return None,
        };
        if !is_hidden && message.kind == 136 && !is_announcement && vip.held && self.sends_back_by_another {
            return Some((FOREIGN, None));
        }
        if is_hidden || message.kind == 136 && !is_announcement {
            return Some((vip.outcome(Fate::Drop, fenced), None));
        }
        match self.vip(packet.source) {
            // It speaks for one VIP with the address of another.
            Some(other) if vip.held && !other.held => {
                Some((other.outcome(Fate::Drop, Verdict::EgressIpv6Fenced), None))
            }
            // A hand-over lets nobody claim it.
            _ if !vip.held => Some((vip.outcome(Fate::Drop, fenced), None)),
            _ => Some((vip.outcome(Fate::Pass, passed), self.face(vip))),
        }
    }
}

impl Message {
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let target = *bytes.get(8..24)?.first_chunk::<16>()?;
        Some(Self { kind: bytes[0], code: bytes[1], flags: bytes[4], target: target.into() })
    }
}

/// Who sent a solicitation, if it is valid (RFC 4861 section 7.1.1): the address, `None` for the unspecified one, and the
/// Ethernet address that an answer goes to.
fn asker(frame: &[u8]) -> Option<(Option<Ipv6Addr>, [u8; 6])> {
    let bytes = &frame[14..];
    let packet = Packet::parse(bytes)?;
    let message = packet.message()?;
    let mut options = packet.rest.get(24..packet.payload_length)?;
    if packet.version != 6
        || packet.hop_limit != 255
        || message.code != 0
        || options.len() > 64
        || packet.source.is_multicast()
        || packet.source == message.target
        || checksum(bytes, packet.payload_length) != 0
    {
        return None;
    }
    let mut source_mac = None;
    while let &[kind, units, ..] = options {
        let option = options.get(..usize::from(units) * 8).filter(|option| !option.is_empty())?;
        if let (1, [_, _, mac @ ..]) = (kind, option) {
            // Ethernet addresses have six bytes; of options of other lengths nothing is known.
            source_mac = source_mac.or(mac.try_into().ok());
        }
        options = &options[option.len()..];
    }
    if !options.is_empty() {
        return None;
    }
    if !packet.source.is_unspecified() {
        let frames_source = *frame.get(6..12)?.first_chunk::<6>()?;
        return Some((Some(packet.source), source_mac.unwrap_or(frames_source)));
    }
    let solicited_node = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff];
    (packet.destination.octets().starts_with(&solicited_node) && source_mac.is_none())
        .then_some((None, [0; 6]))
}

/// The checksum over the first bytes behind a fixed header, and the pseudo-header for them. It is 0 if the message has
/// the right one in it.
fn checksum(packet: &[u8], length: usize) -> u16 {
    let covered = packet[8..40].chunks(2).chain(packet[40..40 + length].chunks(2));
    let words = covered.map(|chunk| match *chunk {
        [high, low] => u64::from(u16::from_be_bytes([high, low])),
        [high] => u64::from(high) << 8,
        _ => 0,
    });
    let mut sum = words.sum::<u64>() + length as u64 + 58;
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !(sum as u16)
}

/// Makes the Ethernet address in all options of one kind another, as far as the packet is there, and the checksum right by
/// as much (RFC 1624 equation 3). The options begin `first` bytes into the packet; no more than eight are looked at.
pub(super) fn set_option(packet: &mut [u8], first: usize, kind: u8, mac: [u8; 6]) {
    let end = packet.len().min(40 + usize::from(u16::from_be_bytes([packet[4], packet[5]])));
    let mut sum = u64::from(!u16::from_be_bytes([packet[42], packet[43]]));
    let mut at = first;
    for _ in 0..8 {
        let Some(&[found, units]) = packet.get(at..at + 2).filter(|_| at + 8 <= end) else { break };
        if units == 0 {
            break;
        }
        if found == kind && units == 1 {
            for (old, new) in packet[at + 2..at + 8].chunks_mut(2).zip(mac.chunks(2)) {
                sum += u64::from(!u16::from_be_bytes([old[0], old[1]]));
                sum += u64::from(u16::from_be_bytes([new[0], new[1]]));
                old.copy_from_slice(new);
            }
        }
        at += usize::from(units) * 8;
    }
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    packet[42..44].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}
