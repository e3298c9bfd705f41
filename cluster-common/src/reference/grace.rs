//! Hand-overs: which of two nodes a packet to a VIP is for.

use core::net::{IpAddr, SocketAddr};

use super::{FOREIGN, Fate, Node, Outcome, Vip};
use crate::Verdict;

/// A hand-over under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Grace {
    /// Which end this node is.
    pub side: Side,
    /// The Ethernet address of the node at the other.
    pub other: [u8; 6],
}

/// An end of a hand-over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// Who takes the group, or has taken it.
    New,
    /// Who gave it up.
    Old,
}

/// How a packet to a VIP is counted: passed, dropped, sent over, sent on, sent on for a second chance.
pub(super) type Verdicts = [Verdict; 5];

impl Node<'_> {
    /// What happens to a packet to the VIP. `segment`: what follows the IP header, if it is TCP and whole.
    pub(super) fn receives_for(
        &self,
        frame: &mut [u8],
        vip: Vip,
        source: IpAddr,
        packet: &[u8],
        segment: Option<&[u8]>,
        [passed, dark, sent_over, spread, second_chance]: Verdicts,
    ) -> Outcome {
        let goes_on = vip.held && vip.grace.is_none() && vip.spread.is_none();
        if !goes_on && !self.is_addressed(frame) {
            return FOREIGN;
        }
        let here = Outcome { served: vip.noted(source), ..vip.outcome(Fate::Pass, passed) };
        let nowhere = vip.outcome(Fate::Drop, dark);
        if let Some(table) = vip.spread {
            let Some((place, is_second)) = self.goes_to(vip.address, table, frame, packet) else {
                return here;
            };
            let Some(to) = table.members.get(place).copied().flatten() else { return nowhere };
            frame[0..6].copy_from_slice(&to);
            frame[6..12].copy_from_slice(&table.marks[usize::from(is_second)]);
            return vip.outcome(Fate::Answer, if is_second { second_chance } else { spread });
        }
        let Some(grace) = vip.grace else { return if vip.held { here } else { nowhere } };
        if frame[6..12] == grace.other {
            return here;
        }
        let is_known = segment.and_then(|segment| self.knows(source, vip.address, segment));
        let is_here = match (grace.side, vip.held, is_known) {
            (Side::New, false, _) => return nowhere,
            (Side::New, true, known) => known.unwrap_or(true),
            (Side::Old, true, _) => true,
            (Side::Old, false, known) => known.unwrap_or(false),
        };
        if is_here {
            return here;
        }
        frame[0..6].copy_from_slice(&grace.other);
        frame[6..12].copy_from_slice(&self.mac);
        vip.outcome(Fate::Answer, sent_over)
    }

    /// Whether this host has the connection that a segment is from the middle of; `None` if it begins one, or is too short
    /// to tell.
    fn knows(&self, source: IpAddr, destination: IpAddr, segment: &[u8]) -> Option<bool> {
        let &[a, b, c, d, .., flags] = segment.first_chunk::<14>()?;
        if flags & 0x12 == 0x02 {
            return None;
        }
        let from = SocketAddr::new(source, u16::from_be_bytes([a, b]));
        let to = SocketAddr::new(destination, u16::from_be_bytes([c, d]));
        Some(self.connections.contains(&(from, to)))
    }
}
