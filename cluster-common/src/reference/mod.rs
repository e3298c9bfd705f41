//! What the BPF programs must do with a frame, written for reading: slices, and no thought of speed.
//!
//! The tests hold the programs against it. It shares no code with them but the verdicts' names; even the
//! offsets are written down again, as the RFCs have them.

mod arp;
mod grace;
mod ipv4;
mod ipv6;
mod nd;
mod spread;

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::Verdict;

pub use grace::{Grace, Side};
pub use spread::Spread;

/// A VIP.
#[derive(Clone, Copy, Debug)]
pub struct Vip {
    /// Its address.
    pub address: IpAddr,
    /// The length of its prefix in bits, 0 to 32 or 128.
    pub prefix: u8,
    /// Its group's slot.
    pub group: u32,
    /// The VLAN it is on, the outer identifier and the inner; zeros for none.
    pub vlan: (u16, u16),
    /// Whether the group's lease is valid at the moment.
    pub held: bool,
    /// The hand-over that is under way.
    pub grace: Option<Grace>,
    /// Its group's table, if this node is one of several that may serve it at the moment.
    pub spread: Option<&'static Spread>,
    /// The virtual Ethernet address under which it appears; `None` is the network card's.
    pub face: Option<[u8; 6]>,
}

/// What a node knows when a frame comes by.
#[derive(Clone, Copy, Debug)]
pub struct Node<'a> {
    /// The Ethernet address of its network card.
    pub mac: [u8; 6],
    /// Whether it forwards IPv6 packets.
    pub forwards: bool,
    /// Whether frames that go out do so by the interface of that network card.
    pub sends_by_card: bool,
    /// Whether frames that go out came in by that network card and leave by another interface: only answers of the ingress
    /// program's own do.
    pub sends_back_by_another: bool,
    /// The VLAN of which alone the VIPs count; `None` is all.
    pub vlan: Option<(u16, u16)>,
    /// The VIPs it may serve.
    pub vips: &'a [Vip],
    /// Its own addresses on the service link.
    pub own: (Option<Ipv4Addr>, Option<Ipv6Addr>),
    /// The Ethernet addresses of the cluster's other nodes.
    pub kin: &'a [[u8; 6]],
    /// The TCP connections of its host: where packets of them come from, and where they go.
    pub connections: &'a [(SocketAddr, SocketAddr)],
    /// Its UDP sockets: whose datagrams they take, where not everybody's, and where they are bound.
    pub datagram_sockets: &'a [(Option<SocketAddr>, SocketAddr)],
}

/// What becomes of the frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It goes on.
    Pass,
    /// It was made an answer, or addressed to another node, and goes back.
    Answer,
    /// It is dropped.
    Drop,
}

/// What happens to a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// What becomes of it.
    pub fate: Fate,
    /// What is counted, and for which slot.
    pub counted: Option<(u32, Verdict)>,
    /// The address that is noted as served.
    pub served: Option<IpAddr>,
    /// The claim that is noted as a rival's.
    pub claim: Option<Claim>,
}

/// Somebody outside the cluster says that a VIP is his.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Claim {
    /// What is counted, and for which slot.
    pub counted: (u32, Verdict),
    /// The VIP.
    pub address: IpAddr,
    /// Whose Ethernet address is not the cluster's.
    pub mac: [u8; 6],
}

const FOREIGN: Outcome = Outcome { fate: Fate::Pass, counted: None, served: None, claim: None };

impl Node<'_> {
    /// What happens to a frame that comes in. An answered request is turned into the answer; what is for a virtual
    /// Ethernet address becomes the network card's.
    pub fn receives(&self, frame: &mut Vec<u8>) -> Outcome {
        let Some(vip) = self.owner(frame.get(..6)).copied() else { return self.receives_as_its_own(frame) };
        let dark = vip.outcome(Fate::Drop, Verdict::VirtualMacDark);
        let gave_up = vip.grace.is_some_and(|grace| grace.side == Side::Old)
            || vip.spread.is_some_and(|spread| spread.gave_up);
        if !vip.held && !gave_up {
            return dark;
        }
        frame[..6].copy_from_slice(&self.mac);
        let outcome = self.receives_as_its_own(frame);
        // Senders that have not heard of the hand-over are served for the VIPs' sake alone.
        let concerns_no_vip = outcome.counted.is_none() && outcome.claim.is_none();
        if !vip.held && concerns_no_vip { dark } else { outcome }
    }

    /// What happens to a frame that is not for a virtual Ethernet address, or not any more. Its tags stay where they are.
    fn receives_as_its_own(&self, frame: &mut Vec<u8>) -> Outcome {
        if frame.len() < 12 {
            return FOREIGN;
        }
        let mut identifiers = [0; 2];
        let mut end = 12;
        for identifier in &mut identifiers {
            if let Some([0x81, 0x00, high, low] | [0x88, 0xa8, high, low]) = frame.get(end..end + 4) {
                *identifier = u16::from_be_bytes([high & 0x0f, *low]);
                end += 4;
            }
        }
        let tags: Vec<u8> = frame.drain(12..end).collect();
        let there = Node { vlan: Some((identifiers[0], identifiers[1])), ..*self };
        let outcome = there.receives_untagged(frame);
        frame.splice(12..12, tags);
        outcome
    }

    fn receives_untagged(&self, frame: &mut Vec<u8>) -> Outcome {
        match frame.get(12..14) {
            Some([0x08, 0x00]) => self.receives_ipv4(frame),
            Some([0x86, 0xdd]) => {
                let claim = self.claimed_by_nd(frame);
                Outcome { claim, ..self.receives_ipv6(frame) }
            }
            Some([0x08, 0x06]) => {
                let claim = self.claimed_by_arp(frame);
                Outcome { claim, ..self.receives_arp(frame) }
            }
            _ => FOREIGN,
        }
    }

    /// A claim of one of the VIPs by whichever of these is none of the cluster's. A virtual Ethernet address is, unless this
    /// node wears it itself.
    fn claim(&self, address: impl Into<IpAddr>, verdict: Verdict, macs: &[[u8; 6]]) -> Option<Claim> {
        let vip = self.vip(address)?;
        let is_kin = |mac: &[u8; 6]| match self.owner(Some(mac)) {
            Some(owner) => !owner.held,
            None => *mac == self.mac || self.kin.contains(mac),
        };
        let mac = *macs.iter().find(|&mac| !is_kin(mac))?;
        Some(Claim { counted: (vip.group, verdict), address: vip.address, mac })
    }

    /// What happens to a frame that is about to go out. It may be given another source: what is let out in the name of a VIP
    /// with a virtual Ethernet address gets that address.
    pub fn sends(&self, frame: &mut [u8]) -> Outcome {
        if let Some(vip) = self.owner(frame.get(6..12))
            && !vip.held
        {
            return vip.outcome(Fate::Drop, Verdict::EgressVirtualMacFenced);
        }
        let Some((header, mut rest)) = frame.split_at_mut_checked(12) else { return FOREIGN };
        for _ in 0..2 {
            if matches!(rest, [0x81, 0x00, _, _, ..] | [0x88, 0xa8, _, _, ..]) {
                rest = &mut rest[4..];
            }
        }
        let (outcome, face) = match rest {
            [0x08, 0x00, packet @ ..] => self.sends_ipv4(packet),
            [0x86, 0xdd, packet @ ..] => self.sends_ipv6(packet),
            [0x08, 0x06, packet @ ..] => self.sends_arp(packet),
            _ => (FOREIGN, None),
        };
        if let Some(face) = face {
            header[6..].copy_from_slice(&face);
        }
        outcome
    }

    /// The VIP whose virtual Ethernet address this is.
    fn owner(&self, mac: Option<&[u8]>) -> Option<&Vip> {
        let mac = mac?;
        self.vips.iter().find(|vip| vip.face.is_some_and(|face| face == mac))
    }

    fn vip(&self, address: impl Into<IpAddr>) -> Option<&Vip> {
        let address = address.into();
        self.vips.iter().find(|vip| vip.address == address && self.vlan.is_none_or(|vlan| vlan == vip.vlan))
    }

    /// The outcome for a frame of a VIP, and the virtual Ethernet address that it gets.
    fn in_the_name_of(&self, vip: &Vip, passed: Verdict, dropped: Verdict) -> (Outcome, Option<[u8; 6]>) {
        (vip.by_lease(passed, dropped), self.face(vip))
    }

    /// The virtual Ethernet address that a frame of the VIP gets: only the holder's, and only on the service link.
    fn face(&self, vip: &Vip) -> Option<[u8; 6]> {
        vip.face.filter(|_| vip.held && self.sends_by_card)
    }

    fn is_addressed(&self, frame: &[u8]) -> bool {
        frame.first().is_some_and(|byte| byte % 2 == 1) || frame.starts_with(&self.mac)
    }
}

impl Vip {
    fn outcome(&self, fate: Fate, verdict: Verdict) -> Outcome {
        Outcome { fate, counted: Some((self.group, verdict)), ..FOREIGN }
    }

    /// Whether packets may leave with the VIP as source.
    fn serves(&self) -> bool {
        self.held || self.grace.is_some() || self.spread.is_some()
    }

    /// The packet is let through while the lease is valid or a hand-over under way, and else dropped.
    fn by_lease(&self, passed: Verdict, dropped: Verdict) -> Outcome {
        if self.serves() { self.outcome(Fate::Pass, passed) } else { self.outcome(Fate::Drop, dropped) }
    }

    /// The client's address, if it is worth noting: on the VIP's link, and an address at all.
    fn noted(&self, client: IpAddr) -> Option<IpAddr> {
        let is_neighbour = match (client, self.address) {
            (IpAddr::V4(client), IpAddr::V4(vip)) => {
                let network = |address: u32| u64::from(address) >> (32 - u32::from(self.prefix));
                network(client.to_bits()) == network(vip.to_bits())
            }
            (IpAddr::V6(client), IpAddr::V6(vip)) => {
                let differing = (client.to_bits() ^ vip.to_bits()).leading_zeros();
                differing >= u32::from(self.prefix) || client.is_unicast_link_local()
            }
            _ => false,
        };
        (is_neighbour && client != self.address && !client.is_unspecified()).then_some(client)
    }
}
