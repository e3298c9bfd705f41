//! ARP for IPv4 over Ethernet (RFC 826, RFC 5227).

use core::net::Ipv4Addr;

use super::{Claim, FOREIGN, Fate, Node, Outcome};
use crate::Verdict;

struct Arp {
    operation: u16,
    sender_mac: [u8; 6],
    sender_ip: Ipv4Addr,
    target_ip: Ipv4Addr,
}

impl Node<'_> {
    pub(super) fn receives_arp(&self, frame: &mut [u8]) -> Outcome {
        let Some(arp) = Arp::parse(&frame[14..]) else { return FOREIGN };
        let Some(vip) = self.vip(arp.target_ip) else { return FOREIGN };
        if !self.is_addressed(frame) {
            return FOREIGN;
        }
        match (arp.operation, arp.sender_ip == arp.target_ip) {
            (1 | 2, true) => vip.outcome(Fate::Pass, Verdict::ArpAnnounced),
            (1, false) if vip.held => {
                let mac = vip.face.unwrap_or(self.mac);
                let mut answer = [0; 42];
                answer[0..6].copy_from_slice(&arp.sender_mac);
                answer[6..12].copy_from_slice(&mac);
                answer[12..22].copy_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
                answer[22..28].copy_from_slice(&mac);
                answer[28..32].copy_from_slice(&arp.target_ip.octets());
                answer[32..38].copy_from_slice(&arp.sender_mac);
                answer[38..42].copy_from_slice(&arp.sender_ip.octets());
                frame[..42].copy_from_slice(&answer);
                let served = vip.noted(arp.sender_ip.into());
                Outcome { served, ..vip.outcome(Fate::Answer, Verdict::ArpAnswered) }
            }
            (1, false) => vip.outcome(Fate::Drop, Verdict::ArpDark),
            _ => FOREIGN,
        }
    }

    /// The VIP that a request or an answer has as its sender.
    pub(super) fn claimed_by_arp(&self, frame: &[u8]) -> Option<Claim> {
        let arp = Arp::parse(&frame[14..]).filter(|arp| matches!(arp.operation, 1 | 2))?;
        let source = *frame[6..].first_chunk()?;
        if self.is_addressed(frame) {
            self.claim(arp.sender_ip, Verdict::ArpRival, &[arp.sender_mac, source])
        } else {
            None
        }
    }

    pub(super) fn sends_arp(&self, packet: &mut [u8]) -> (Outcome, Option<[u8; 6]>) {
        let Some(arp) = Arp::parse(packet) else { return (FOREIGN, None) };
        let Some(vip) = self.vip(arp.sender_ip) else { return (FOREIGN, None) };
        match arp.operation {
            2 if vip.held && self.sends_back_by_another => (FOREIGN, None),
            2 => (vip.outcome(Fate::Drop, Verdict::EgressArpReplyFenced), None),
            1 if vip.held => {
                let face = self.face(vip);
                if let Some(face) = face {
                    packet[8..14].copy_from_slice(&face);
                }
                (vip.outcome(Fate::Pass, Verdict::EgressArpRequestPassed), face)
            }
            1 => match self.own.0 {
                Some(own) if vip.serves() && arp.target_ip != arp.sender_ip => {
                    packet[14..18].copy_from_slice(&own.octets());
                    (vip.outcome(Fate::Pass, Verdict::EgressArpRequestRenamed), None)
                }
                _ => (vip.outcome(Fate::Drop, Verdict::EgressArpRequestFenced), None),
            },
            _ => (FOREIGN, None),
        }
    }
}

impl Arp {
    fn parse(packet: &[u8]) -> Option<Self> {
        let rest = packet.strip_prefix(&[0, 1, 8, 0, 6, 4])?;
        let (operation, rest) = rest.split_first_chunk()?;
        let (sender_mac, rest) = rest.split_first_chunk()?;
        let (sender_ip, rest) = rest.split_first_chunk::<4>()?;
        let (_target_mac, rest) = rest.split_first_chunk::<6>()?;
        let (target_ip, _) = rest.split_first_chunk::<4>()?;
        Some(Self {
            operation: u16::from_be_bytes(*operation),
            sender_mac: *sender_mac,
            sender_ip: (*sender_ip).into(),
            target_ip: (*target_ip).into(),
        })
    }
}
