//! IPv4 packets (RFC 791).

use core::net::Ipv4Addr;

use super::{FOREIGN, Node, Outcome};
use crate::Verdict;

impl Node<'_> {
    pub(super) fn receives_ipv4(&self, frame: &mut [u8]) -> Outcome {
        let Some((source, destination)) = addresses(&frame[14..]) else { return FOREIGN };
        let Some(vip) = self.vip(destination).copied() else { return FOREIGN };
        let packet = frame[14..].to_vec();
        let length = usize::from(packet[0] & 0x0f) * 4;
        let is_whole = u16::from_be_bytes([packet[6], packet[7]]) & 0x3fff == 0;
        let segment = if packet[9] == 6 && is_whole { packet.get(length..) } else { None };
        let verdicts = [
            Verdict::Ipv4Passed,
            Verdict::Ipv4Dark,
            Verdict::Ipv4SentOver,
            Verdict::Ipv4Spread,
            Verdict::Ipv4SecondChance,
        ];
        self.receives_for(frame, vip, source.into(), &packet, segment, verdicts)
    }

    pub(super) fn sends_ipv4(&self, packet: &[u8]) -> (Outcome, Option<[u8; 6]>) {
        let vip = addresses(packet).and_then(|(source, _)| self.vip(source));
        vip.map_or((FOREIGN, None), |vip| {
            self.in_the_name_of(vip, Verdict::EgressIpv4Passed, Verdict::EgressIpv4Fenced)
        })
    }
}

/// Source and destination.
fn addresses(packet: &[u8]) -> Option<(Ipv4Addr, Ipv4Addr)> {
    let (source, rest) = packet.get(12..20)?.split_first_chunk::<4>()?;
    Some(((*source).into(), (*rest.first_chunk::<4>()?).into()))
}
