//! IPv6 packets (RFC 8200), and the ICMPv6 messages in them (RFC 4443).

use alloc::vec::Vec;
use core::net::Ipv6Addr;

use super::nd::{Message, set_option};
use super::{FOREIGN, Fate, Node, Outcome};
use crate::Verdict;

/// A packet, as far as its fixed header and what is there of the rest go.
pub(super) struct Packet<'p> {
    pub(super) version: u8,
    pub(super) payload_length: usize,
    pub(super) next_header: u8,
    pub(super) hop_limit: u8,
    pub(super) source: Ipv6Addr,
    pub(super) destination: Ipv6Addr,
    /// What follows the fixed header, padding of the frame included.
    pub(super) rest: &'p [u8],
}

impl Node<'_> {
    pub(super) fn receives_ipv6(&self, frame: &mut Vec<u8>) -> Outcome {
        let Some(packet) = Packet::parse(&frame[14..]) else { return FOREIGN };
        let claimed = packet.message().and_then(|message| Some((self.vip(message.target)?, message.kind)));
        let is_addressed = self.is_addressed(frame);
        if let Some((vip, 135)) = claimed
            && is_addressed
        {
            let vip = *vip;
            return self.receives_solicitation(frame, &vip);
        }
        match (self.vip(packet.destination), claimed) {
            (Some(vip), _) => {
                let (vip, source) = (*vip, packet.source.into());
                let segment = (packet.next_header == 6).then(|| packet.rest.to_vec());
                let verdicts = [
                    Verdict::Ipv6Passed,
                    Verdict::Ipv6Dark,
                    Verdict::Ipv6SentOver,
                    Verdict::Ipv6Spread,
                    Verdict::Ipv6SecondChance,
                ];
                let packet = frame[14..].to_vec();
                self.receives_for(frame, vip, source, &packet, segment.as_deref(), verdicts)
            }
            (None, Some((vip, 136))) if is_addressed => vip.outcome(Fate::Pass, Verdict::NaAnnounced),
            (None, _) => FOREIGN,
        }
    }

    pub(super) fn sends_ipv6(&self, bytes: &mut [u8]) -> (Outcome, Option<[u8; 6]>) {
        let Some(packet) = Packet::parse(bytes) else { return (FOREIGN, None) };
        let claim = packet.upper_layer().and_then(|message| self.sends_message(&packet, &message));
        let kind =
            if packet.next_header == 58 { packet.rest.get(..4).map(|message| message[0]) } else { None };
        if let Some((outcome, face)) = claim {
            if let (Some(face), Some(136)) = (face, kind) {
                set_option(bytes, 64, 2, face);
            }
            return (outcome, face);
        }
        let Some(vip) = self.vip(packet.source) else { return (FOREIGN, None) };
        let solicits = packet.message().is_some_and(|message| message.kind == 135);
        if !(solicits && !vip.held && vip.serves()) {
            let face = self.face(vip);
            match (face, kind) {
                (Some(face), Some(135)) => set_option(bytes, 64, 1, face),
                (Some(face), Some(133)) => set_option(bytes, 48, 1, face),
                _ => {}
            }
            return (vip.by_lease(Verdict::EgressIpv6Passed, Verdict::EgressIpv6Fenced), face);
        }
        let Some(own) = self.own.1 else {
            return (vip.outcome(Fate::Drop, Verdict::EgressIpv6Fenced), None);
        };
        // A checksum that was wrong stays as wrong as it was.
        let sum = |address: Ipv6Addr| address.segments().into_iter().map(u32::from).sum::<u32>();
        let checksum = u16::from_be_bytes([bytes[42], bytes[43]]);
        let negated: u32 = packet.source.segments().into_iter().map(|word| u32::from(!word)).sum();
        let mut changed = u32::from(!checksum) + negated + sum(own);
        while changed > 0xffff {
            changed = (changed >> 16) + (changed & 0xffff);
        }
        bytes[8..24].copy_from_slice(&own.octets());
        bytes[42..44].copy_from_slice(&(!(changed as u16)).to_be_bytes());
        (vip.outcome(Fate::Pass, Verdict::EgressNsRenamed), None)
    }
}

impl<'p> Packet<'p> {
    pub(super) fn parse(bytes: &'p [u8]) -> Option<Self> {
        let (header, rest) = bytes.split_first_chunk::<40>()?;
        let address = |at: usize| header[at..].first_chunk::<16>().map(|octets| Ipv6Addr::from(*octets));
        Some(Self {
            version: header[0] >> 4,
            payload_length: usize::from(u16::from_be_bytes([header[4], header[5]])),
            next_header: header[6],
            hop_limit: header[7],
            source: address(8)?,
            destination: address(24)?,
            rest,
        })
    }

    /// The ICMPv6 message, if it follows the fixed header at once and is long enough to have a target.
    pub(super) fn message(&self) -> Option<Message> {
        if self.next_header == 58 { Message::parse(self.rest) } else { None }
    }

    /// The same behind up to six extension headers.
    fn upper_layer(&self) -> Option<Message> {
        let (mut kind, mut rest, mut headers) = (self.next_header, self.rest, 0);
        while kind != 58 {
            let &[next, length, third, fourth, ..] = rest else { return None };
            let length = match kind {
                0 | 43 | 60 => (usize::from(length) + 1) * 8,
                51 => (usize::from(length) + 2) * 4,
                44 if u16::from_be_bytes([third, fourth]) >> 3 == 0 => 8,
                _ => return None,
            };
            headers += 1;
            if headers > 6 {
                return None;
            }
            rest = rest.get(length..)?;
            kind = next;
        }
        Message::parse(rest)
    }
}
