//! IPv4 packets (RFC 791).

use core::net::Ipv4Addr;

use super::{FOREIGN, Fate, Node, Outcome};
use crate::Verdict;

impl Node<'_> {
    pub(super) fn receives_ipv4(&self, frame: &[u8]) -> Outcome {
        let Some((source, destination)) = addresses(&frame[14..]) else { return FOREIGN };
        let Some(vip) = self.vip(destination) else { return FOREIGN };
        if !vip.held && !self.is_addressed(frame) {
            return FOREIGN;
        }
        let outcome = vip.by_lease(Verdict::Ipv4Passed, Verdict::Ipv4Dark);
        match outcome.fate {
            Fate::Pass => Outcome { served: vip.noted(source.into()), ..outcome },
            Fate::Answer | Fate::Drop => outcome,
        }
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
