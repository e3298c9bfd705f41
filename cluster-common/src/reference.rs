//! What the BPF programs must do with a frame, written for reading: slices, and no thought of speed.
//!
//! The tests hold the programs against it. It shares no code with them but the verdicts' names; even the
//! offsets are written down again, as the RFCs have them.

use crate::Verdict;

/// A VIP.
#[derive(Clone, Copy, Debug)]
pub struct Vip {
    /// Its address.
    pub address: [u8; 4],
    /// The length of its prefix in bits, 0 to 32.
    pub prefix: u8,
    /// Its group's slot.
    pub group: u32,
    /// Whether the group's lease is valid at the moment.
    pub held: bool,
}

/// What a node knows when a frame comes by.
#[derive(Clone, Copy, Debug)]
pub struct Node<'a> {
    /// The Ethernet address of its network card.
    pub mac: [u8; 6],
    /// The VIPs it may serve.
    pub vips: &'a [Vip],
}

/// What becomes of the frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It goes on.
    Pass,
    /// It was made an answer, and goes back.
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
    pub served: Option<[u8; 4]>,
}

const FOREIGN: Outcome = Outcome { fate: Fate::Pass, counted: None, served: None };

impl Node<'_> {
    /// What happens to a frame that comes in. An answered request is turned into the answer.
    pub fn receives(&self, frame: &mut [u8]) -> Outcome {
        match frame.get(12..14) {
            Some([0x08, 0x00]) => self.receives_ipv4(frame),
            Some([0x08, 0x06]) => self.receives_arp(frame),
            _ => FOREIGN,
        }
    }

    /// What happens to a frame that is about to go out.
    #[must_use]
    pub fn sends(&self, frame: &[u8]) -> Outcome {
        let Some((_, mut rest)) = frame.split_at_checked(12) else { return FOREIGN };
        for _ in 0..2 {
            if let [0x81, 0x00, _, _, inner @ ..] | [0x88, 0xa8, _, _, inner @ ..] = rest {
                rest = inner;
            }
        }
        match rest {
            [0x08, 0x00, packet @ ..] if packet.len() >= 20 => self.sends_ipv4(packet),
            [0x08, 0x06, packet @ ..] => self.sends_arp(packet),
            _ => FOREIGN,
        }
    }

    fn receives_ipv4(&self, frame: &[u8]) -> Outcome {
        let (Some(source), Some(destination)) = (address(frame, 26), address(frame, 30)) else {
            return FOREIGN;
        };
        match self.vip(destination) {
            None => FOREIGN,
            Some(vip) if vip.held => Outcome {
                fate: Fate::Pass,
                counted: Some((vip.group, Verdict::Ipv4Passed)),
                served: vip.noted(source),
            },
            Some(vip) if self.is_addressed(frame) => {
                Outcome { fate: Fate::Drop, counted: Some((vip.group, Verdict::Ipv4Dark)), served: None }
            }
            Some(_) => FOREIGN,
        }
    }

    fn receives_arp(&self, frame: &mut [u8]) -> Outcome {
        let Some(arp) = frame.get(14..42).and_then(Arp::parse) else { return FOREIGN };
        let Some(vip) = self.vip(arp.target_ip) else { return FOREIGN };
        if !self.is_addressed(frame) {
            return FOREIGN;
        }
        match (arp.operation, arp.sender_ip == arp.target_ip) {
            (1 | 2, true) => {
                Outcome { fate: Fate::Pass, counted: Some((vip.group, Verdict::ArpAnnounced)), served: None }
            }
            (1, false) if vip.held => {
                let mut answer = [0; 42];
                answer[0..6].copy_from_slice(&arp.sender_mac);
                answer[6..12].copy_from_slice(&self.mac);
                answer[12..22].copy_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
                answer[22..28].copy_from_slice(&self.mac);
                answer[28..32].copy_from_slice(&arp.target_ip);
                answer[32..38].copy_from_slice(&arp.sender_mac);
                answer[38..42].copy_from_slice(&arp.sender_ip);
                frame[..42].copy_from_slice(&answer);
                Outcome {
                    fate: Fate::Answer,
                    counted: Some((vip.group, Verdict::ArpAnswered)),
                    served: vip.noted(arp.sender_ip),
                }
            }
            (1, false) => {
                Outcome { fate: Fate::Drop, counted: Some((vip.group, Verdict::ArpDark)), served: None }
            }
            _ => FOREIGN,
        }
    }

    fn sends_ipv4(&self, packet: &[u8]) -> Outcome {
        let Some(vip) = address(packet, 12).and_then(|source| self.vip(source)) else { return FOREIGN };
        if vip.held {
            Outcome { fate: Fate::Pass, counted: Some((vip.group, Verdict::EgressIpv4Passed)), served: None }
        } else {
            Outcome { fate: Fate::Drop, counted: Some((vip.group, Verdict::EgressIpv4Fenced)), served: None }
        }
    }

    fn sends_arp(&self, packet: &[u8]) -> Outcome {
        let Some(arp) = packet.get(..28).and_then(Arp::parse) else { return FOREIGN };
        let Some(vip) = self.vip(arp.sender_ip) else { return FOREIGN };
        let (fate, verdict) = match (arp.operation, vip.held) {
            (2, _) => (Fate::Drop, Verdict::EgressArpReplyFenced),
            (1, true) => (Fate::Pass, Verdict::EgressArpRequestPassed),
            (1, false) => (Fate::Drop, Verdict::EgressArpRequestFenced),
            _ => return FOREIGN,
        };
        Outcome { fate, counted: Some((vip.group, verdict)), served: None }
    }

    fn vip(&self, address: [u8; 4]) -> Option<&Vip> {
        self.vips.iter().find(|vip| vip.address == address)
    }

    fn is_addressed(&self, frame: &[u8]) -> bool {
        frame.first().is_some_and(|byte| byte % 2 == 1) || frame.starts_with(&self.mac)
    }
}

impl Vip {
    /// The client's address, if it is worth noting: on the VIP's link, and an address at all.
    fn noted(&self, client: [u8; 4]) -> Option<[u8; 4]> {
        let network =
            |address: [u8; 4]| u64::from(u32::from_be_bytes(address)) >> (32 - u32::from(self.prefix));
        let is_neighbour = network(client) == network(self.address);
        (is_neighbour && client != self.address && client != [0; 4]).then_some(client)
    }
}

/// An ARP packet for IPv4 over Ethernet.
struct Arp {
    operation: u16,
    sender_mac: [u8; 6],
    sender_ip: [u8; 4],
    target_ip: [u8; 4],
}

impl Arp {
    fn parse(packet: &[u8]) -> Option<Self> {
        let rest = packet.strip_prefix(&[0, 1, 8, 0, 6, 4])?;
        let (operation, rest) = rest.split_first_chunk()?;
        let (sender_mac, rest) = rest.split_first_chunk()?;
        let (sender_ip, rest) = rest.split_first_chunk()?;
        let (_target_mac, rest) = rest.split_first_chunk::<6>()?;
        let (target_ip, _) = rest.split_first_chunk()?;
        Some(Self {
            operation: u16::from_be_bytes(*operation),
            sender_mac: *sender_mac,
            sender_ip: *sender_ip,
            target_ip: *target_ip,
        })
    }
}

fn address(bytes: &[u8], at: usize) -> Option<[u8; 4]> {
    bytes.get(at..)?.first_chunk().copied()
}
