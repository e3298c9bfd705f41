//! ARP for IPv4 over Ethernet (RFC 826): the frames we send and those we understand.

use std::net::Ipv4Addr;

use cluster_proto::Mac;

/// The length of every frame made here, without padding: the network card's driver pads to Ethernet's 60 bytes.
pub const FRAME_LEN: usize = 42;

/// What an ARP packet says, lower layers checked and left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arp {
    /// Request or reply.
    pub operation: Operation,
    /// `ar$sha`.
    pub sender_mac: Mac,
    /// `ar$spa`.
    pub sender_ip: Ipv4Addr,
    /// `ar$tha`; of no meaning in a request.
    pub target_mac: Mac,
    /// `ar$tpa`.
    pub target_ip: Ipv4Addr,
}

/// `ar$op`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Who has the target address?
    Request,
    /// The sender address is at the sender's hardware address.
    Reply,
}

impl Arp {
    /// Reads a whole Ethernet frame; padding after the packet is ignored. `None` for whatever is not an ARP request or
    /// reply for IPv4 over Ethernet, a frame with a VLAN tag included.
    #[must_use]
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let frame: &[u8; FRAME_LEN] = frame.first_chunk()?;
        if frame[field::ETHER_TYPE] != ETHER_TYPE_ARP || frame[field::FIXED] != FIXED {
            return None;
        }
        let operation = match frame[field::OPERATION] {
            [0, 1] => Operation::Request,
            [0, 2] => Operation::Reply,
            _ => return None,
        };
        Some(Self {
            operation,
            sender_mac: mac(frame, field::SENDER_MAC),
            sender_ip: ip(frame, field::SENDER_IP),
            target_mac: mac(frame, field::TARGET_MAC),
            target_ip: ip(frame, field::TARGET_IP),
        })
    }

    /// The Ethernet frame that carries this packet.
    #[must_use]
    pub fn emit(&self, source: Mac, destination: Mac) -> [u8; FRAME_LEN] {
        let mut frame = [0; FRAME_LEN];
        frame[field::DESTINATION].copy_from_slice(&destination.0);
        frame[field::SOURCE].copy_from_slice(&source.0);
        frame[field::ETHER_TYPE].copy_from_slice(&ETHER_TYPE_ARP);
        frame[field::FIXED].copy_from_slice(&FIXED);
        frame[field::OPERATION].copy_from_slice(match self.operation {
            Operation::Request => &[0, 1],
            Operation::Reply => &[0, 2],
        });
        frame[field::SENDER_MAC].copy_from_slice(&self.sender_mac.0);
        frame[field::SENDER_IP].copy_from_slice(&self.sender_ip.octets());
        frame[field::TARGET_MAC].copy_from_slice(&self.target_mac.0);
        frame[field::TARGET_IP].copy_from_slice(&self.target_ip.octets());
        frame
    }

    /// Whether the packet announces its sender's address rather than asking for another's (RFC 5227 §3): a gratuitous
    /// ARP, in either of its forms.
    #[must_use]
    pub fn is_announcement(&self) -> bool {
        self.sender_ip == self.target_ip && !self.sender_ip.is_unspecified()
    }
}

/// The announcement that `vip` is at `mac` now (RFC 5227 §2.3): a broadcast request with the VIP as both sender and
/// target.
///
/// The request form is the one that every stack must take: RFC 826 merges the sender into an existing entry before it
/// looks at the operation. The reply form would add nothing but a second frame: Linux treats both alike (`arp_is_garp`
/// lets either override an entry younger than the lock time of one second; kernels that lack it, before 4.13, keep the
/// young entry against both, which is what repeating the announcement is for), and with `arp_accept = 0` it makes no
/// new entry from either.
#[must_use]
pub fn announcement(mac: Mac, vip: Ipv4Addr) -> [u8; FRAME_LEN] {
    broadcast_request(mac, vip, vip)
}

/// The question who has `address` that leaves no trace in anybody's cache, because its sender address is 0.0.0.0
/// (RFC 5227 §1.1, *ARP Probe*).
#[must_use]
pub fn probe(mac: Mac, address: Ipv4Addr) -> [u8; FRAME_LEN] {
    broadcast_request(mac, Ipv4Addr::UNSPECIFIED, address)
}

/// An ordinary request for `target` in the name of `own`, an address that is really this node's. Some routers answer
/// only these and ignore probes.
#[must_use]
pub fn request(mac: Mac, own: Ipv4Addr, target: Ipv4Addr) -> [u8; FRAME_LEN] {
    broadcast_request(mac, own, target)
}

fn broadcast_request(mac: Mac, sender: Ipv4Addr, target: Ipv4Addr) -> [u8; FRAME_LEN] {
    Arp {
        operation: Operation::Request,
        sender_mac: mac,
        sender_ip: sender,
        target_mac: Mac([0; 6]),
        target_ip: target,
    }
    .emit(mac, Mac([0xff; 6]))
}

fn mac(frame: &[u8; FRAME_LEN], range: std::ops::Range<usize>) -> Mac {
    let mut octets = [0; 6];
    octets.copy_from_slice(&frame[range]);
    Mac(octets)
}

fn ip(frame: &[u8; FRAME_LEN], range: std::ops::Range<usize>) -> Ipv4Addr {
    let mut octets = [0; 4];
    octets.copy_from_slice(&frame[range]);
    Ipv4Addr::from(octets)
}

const ETHER_TYPE_ARP: [u8; 2] = [0x08, 0x06];
/// Hardware type Ethernet, protocol type IPv4, their address lengths 6 and 4.
const FIXED: [u8; 6] = [0, 1, 0x08, 0, 6, 4];

mod field {
    use std::ops::Range;

    pub(super) const DESTINATION: Range<usize> = 0..6;
    pub(super) const SOURCE: Range<usize> = 6..12;
    pub(super) const ETHER_TYPE: Range<usize> = 12..14;
    pub(super) const FIXED: Range<usize> = 14..20;
    pub(super) const OPERATION: Range<usize> = 20..22;
    pub(super) const SENDER_MAC: Range<usize> = 22..28;
    pub(super) const SENDER_IP: Range<usize> = 28..32;
    pub(super) const TARGET_MAC: Range<usize> = 32..38;
    pub(super) const TARGET_IP: Range<usize> = 38..42;
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: Mac = Mac([2, 0, 0, 0, 0, 0x0a]);
    const B: Mac = Mac([2, 0, 0, 0, 0, 0x0b]);
    const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);

    /// Linux 6.18 with `arp_notify = 1`, when an interface with 10.77.0.100 came up; captured with tcpdump.
    const LINUX_ANNOUNCEMENT: &str =
        "ffff ffff ffff 0200 0000 000a 0806 0001 0800 0604 0001 0200 0000 000a 0a4d 0064
        0000 0000 0000 0a4d 0064";
    /// `arping -A` (iputils 20221126).
    const ARPING_ANNOUNCEMENT_REPLY: &str =
        "ffff ffff ffff 0200 0000 000a 0806 0001 0800 0604 0002 0200 0000 000a
        0a4d 0064 0200 0000 000a 0a4d 0064";
    /// `arping -D` (iputils 20221126), which fills the target's hardware address with ones.
    const ARPING_PROBE: &str =
        "ffff ffff ffff 0200 0000 000b 0806 0001 0800 0604 0001 0200 0000 000b 0000 0000
        ffff ffff ffff 0a4d 0064";
    /// Linux 6.18's answer to that probe.
    const LINUX_PROBE_REPLY: &str =
        "0200 0000 000b 0200 0000 000a 0806 0001 0800 0604 0002 0200 0000 000a 0a4d 0064
        0200 0000 000b 0000 0000";
    /// Linux 6.18 resolving 10.77.0.1 from 10.77.0.2.
    const LINUX_REQUEST: &str =
        "ffff ffff ffff 0200 0000 000b 0806 0001 0800 0604 0001 0200 0000 000b 0a4d 0002
        0000 0000 0000 0a4d 0001";

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.chars().filter_map(|c| c.to_digit(16)).map(|d| d as u8).collect();
        digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
    }

    #[test]
    fn announcement_is_what_linux_sends() {
        assert_eq!(announcement(A, VIP).as_slice(), bytes(LINUX_ANNOUNCEMENT));
        assert!(Arp::parse(&bytes(LINUX_ANNOUNCEMENT)).unwrap().is_announcement());
    }

    #[test]
    fn request_is_what_linux_sends() {
        let sent = request(B, Ipv4Addr::new(10, 77, 0, 2), Ipv4Addr::new(10, 77, 0, 1));
        assert_eq!(sent.as_slice(), bytes(LINUX_REQUEST));
        assert!(!Arp::parse(&sent).unwrap().is_announcement());
    }

    #[test]
    fn probe_differs_from_arpings_only_in_the_meaningless_field() {
        let (ours, theirs) = (probe(B, VIP), bytes(ARPING_PROBE));
        assert_eq!(ours[..32], theirs[..32]);
        assert_eq!(ours[32..38], [0; 6], "RFC 5227 §2.1.1: SHOULD be all zeroes");
        assert_eq!(ours[38..], theirs[38..]);
        assert!(!Arp::parse(&ours).unwrap().is_announcement());
    }

    #[test]
    fn replies_are_read() {
        let reply = Arp::parse(&bytes(LINUX_PROBE_REPLY)).unwrap();
        let expected = Arp {
            operation: Operation::Reply,
            sender_mac: A,
            sender_ip: VIP,
            target_mac: B,
            target_ip: Ipv4Addr::UNSPECIFIED,
        };
        assert_eq!(reply, expected);
        assert!(!reply.is_announcement());
        let gratuitous = Arp::parse(&bytes(ARPING_ANNOUNCEMENT_REPLY)).unwrap();
        assert_eq!(gratuitous.operation, Operation::Reply);
        assert!(gratuitous.is_announcement());
    }

    #[test]
    fn padding_is_ignored_and_a_runt_refused() {
        let mut frame = bytes(LINUX_PROBE_REPLY);
        assert_eq!(Arp::parse(&frame[..41]), None);
        let plain = Arp::parse(&frame);
        frame.resize(60, 0xee);
        assert_eq!(Arp::parse(&frame), plain);
    }

    #[test]
    fn every_fixed_byte_is_checked() {
        let frame = bytes(LINUX_PROBE_REPLY);
        for at in 12..22 {
            let mut wrong = frame.clone();
            wrong[at] ^= 0x40;
            assert_eq!(Arp::parse(&wrong), None, "byte {at}");
        }
    }

    #[test]
    fn vlan_tagged_frames_are_not_ours() {
        let mut frame = bytes(LINUX_PROBE_REPLY);
        frame.splice(12..12, [0x81, 0x00, 0x00, 0x64]);
        assert_eq!(Arp::parse(&frame), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(frame in proptest::collection::vec(any::<u8>(), 0..1600)) {
            let _ = Arp::parse(&frame);
        }

        #[test]
        fn what_is_emitted_is_read_back(
            reply in any::<bool>(), sender_mac in any::<[u8; 6]>(), sender_ip in any::<u32>(),
            target_mac in any::<[u8; 6]>(), target_ip in any::<u32>(),
        ) {
            let arp = Arp {
                operation: if reply { Operation::Reply } else { Operation::Request },
                sender_mac: Mac(sender_mac),
                sender_ip: sender_ip.into(),
                target_mac: Mac(target_mac),
                target_ip: target_ip.into(),
            };
            prop_assert_eq!(Arp::parse(&arp.emit(A, B)), Some(arp));
        }
    }
}
