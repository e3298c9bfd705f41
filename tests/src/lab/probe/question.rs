//! The question who has an address, as ARP and neighbour discovery put it, with a number in it that the answer repeats.
//!
//! The number is in the Ethernet address that the asker gives as its own: in an ARP request that of the sender, which an answer
//! names as its target; in a neighbour solicitation the option with the source's link-layer address, to which the answer is sent.
//! The frame itself comes from the asker's true Ethernet address, so that no switch learns the others.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::lab::family::Family;
use crate::lab::topology::{Leg, Mac};

/// What the numbered Ethernet addresses begin with: locally administered, and nobody's in the lab.
const NUMBERED: [u8; 2] = [0x06, 0xa5];

/// The length of an ARP packet for Ethernet and IPv4 with its Ethernet header.
const ARP: usize = 42;
/// ARP for Ethernet and IPv4, up to the operation (RFC 826): EtherType, hardware and protocol type, and their lengths.
const ARP_FOR_IPV4: [u8; 8] = [0x08, 0x06, 0, 1, 0x08, 0, 6, 4];
const REQUEST: [u8; 2] = [0, 1];
const REPLY: [u8; 2] = [0, 2];

/// The length of a neighbour solicitation or advertisement with one link-layer address (RFC 4861, section 4.3) and all headers.
const NEIGHBOUR: usize = 86;
/// The EtherType of IPv6.
pub(super) const IPV6: [u8; 2] = [0x86, 0xdd];
/// ICMPv6 as a next header.
pub(super) const ICMPV6: u8 = 58;
/// The types of the two messages.
const SOLICITATION: u8 = 135;
pub(super) const ADVERTISEMENT: u8 = 136;
/// The types of the options with the link-layer address of the source and of the target, each of one unit of eight bytes.
const SOURCE_ADDRESS: [u8; 2] = [1, 1];
pub(super) const TARGET_ADDRESS: [u8; 2] = [2, 1];

/// An answer: which question, and where it says that the address is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Reply {
    pub(super) number: u32,
    /// The Ethernet address it gives.
    pub(super) mac: Mac,
    /// The one it was sent from.
    pub(super) source: Mac,
}

/// The frame that asks from `leg`, in the name of the asking address, who has `address`.
pub(super) fn question(leg: &Leg, address: IpAddr, number: u32) -> Vec<u8> {
    let [a, b, c, d] = number.to_be_bytes();
    let numbered = Mac([NUMBERED[0], NUMBERED[1], a, b, c, d]);
    match (leg.link.asking_address(Family::of(address)), address) {
        (IpAddr::V4(asker), IpAddr::V4(target)) => arp_request(leg.mac, numbered, asker, target),
        (IpAddr::V6(asker), IpAddr::V6(target)) => neighbour_solicitation(leg.mac, numbered, asker, target),
        // The asking address is of the family that was asked for.
        _ => Vec::new(),
    }
}

/// An ARP request from the Ethernet address `from` that names `asker` at the Ethernet address `at`.
pub(crate) fn arp_request(from: Mac, at: Mac, asker: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = [[0xff; 6], from.0].concat();
    frame.extend(ARP_FOR_IPV4);
    frame.extend(REQUEST);
    frame.extend(at.0);
    frame.extend(asker.octets());
    frame.extend([0; 6]);
    frame.extend(target.octets());
    frame
}

/// A neighbour solicitation from the Ethernet address `from` that names `asker` at the Ethernet address `at`.
pub(crate) fn neighbour_solicitation(from: Mac, at: Mac, asker: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let [.., high, middle, low] = target.octets();
    // The solicited-node multicast address (RFC 4291, section 2.7.1) and its Ethernet address (RFC 2464, section 7).
    let group =
        Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(high), u16::from_be_bytes([middle, low]));
    let mut message = vec![SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target.octets());
    message.extend(SOURCE_ADDRESS);
    message.extend(at.0);
    let sum = checksum(asker, group, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());

    let mut frame = [[0x33, 0x33, 0xff, high, middle, low], from.0].concat();
    frame.extend(IPV6);
    // Version 6; the payload's length; the hop limit is 255, as it must be (RFC 4861, section 7.1.1).
    frame.extend([0x60, 0, 0, 0, 0, message.len() as u8, ICMPV6, 255]);
    frame.extend(asker.octets());
    frame.extend(group.octets());
    frame.extend(message);
    frame
}

/// The ICMPv6 checksum (RFC 4443, section 2.3) of a message whose own checksum is zero.
fn checksum(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    let [source, destination] = [source, destination].map(|address| address.octets());
    let pseudo_header = [0, message.len() as u8, 0, ICMPV6];
    let bytes = source.iter().chain(&destination).chain(&pseudo_header).chain(message);
    let bytes: Vec<u8> = bytes.copied().collect();
    let mut sum: u32 =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// The answer that `frame` is, if it answers one of these questions about `address`.
pub(super) fn answer(frame: &[u8], address: IpAddr) -> Option<Reply> {
    let mac = |from: usize| -> Option<Mac> { frame.get(from..from + 6)?.try_into().ok().map(Mac) };
    let (numbered, given) = match address {
        IpAddr::V4(address) => {
            let is_reply = frame.len() >= ARP
                && frame[12..20] == ARP_FOR_IPV4
                && frame[20..22] == REPLY
                && frame[28..32] == address.octets();
            is_reply.then_some((mac(32)?, mac(22)?))?
        }
        IpAddr::V6(address) => {
            let advertisement = neighbour_advertisement(frame).filter(|about| about.target == address)?;
            (mac(0)?, advertisement.mac)
        }
    };
    let Mac([first, second, number @ ..]) = numbered;
    let number = u32::from_be_bytes(number);
    ([first, second] == NUMBERED).then_some(Reply { number, mac: given, source: mac(6)? })
}

/// What a neighbour advertisement says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Advertisement {
    /// The address it is about.
    pub(super) target: Ipv6Addr,
    /// Where it is: the option that says so, or the frame's source.
    pub(super) mac: Mac,
    /// Whether it answers a question.
    pub(super) solicited: bool,
}

/// The neighbour advertisement that `frame` is.
pub(super) fn neighbour_advertisement(frame: &[u8]) -> Option<Advertisement> {
    let mac = |from: usize| -> Option<Mac> { frame.get(from..from + 6)?.try_into().ok().map(Mac) };
    let is_one = frame.get(12..14)? == IPV6 && *frame.get(20)? == ICMPV6 && *frame.get(54)? == ADVERTISEMENT;
    let target: [u8; 16] = frame.get(62..78).filter(|_| is_one)?.try_into().ok()?;
    let option = frame.get(78..NEIGHBOUR).filter(|option| option[..2] == TARGET_ADDRESS);
    let mac = if option.is_some() { mac(80)? } else { mac(6)? };
    // The flags are router, solicited and override, from the highest bit on.
    Some(Advertisement { target: target.into(), mac, solicited: *frame.get(58)? & 0x40 != 0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::namespace::Namespace;
    use crate::lab::topology::{CLIENT, Link, VIP, VIP6};

    const NODE: [u8; 6] = [2, 0, 0, 77, 0, 1];

    fn leg() -> Leg {
        Leg {
            owner: CLIENT.to_owned(),
            namespace: Namespace::named("none".to_owned()),
            link: Link::Public,
            interface: "eth0",
            port: "pub-client".to_owned(),
            address: Link::Public.address(50),
            address6: Link::Public.address6(50),
            mac: Mac([2, 0, 0, 77, 0, 50]),
        }
    }

    /// An answer as the kernel gives it: addresses swapped, its own in the sender's place.
    #[test]
    fn an_arp_answer_names_its_request() {
        let asked = question(&leg(), VIP.into(), 0x0102_0304);
        assert_eq!(answer(&asked, VIP.into()), None, "a request is not an answer");
        let mut given = asked.clone();
        given[0..6].copy_from_slice(&asked[22..28]);
        given[6..12].copy_from_slice(&NODE);
        given[20..22].copy_from_slice(&REPLY);
        given[22..28].copy_from_slice(&NODE);
        given[28..32].copy_from_slice(&VIP.octets());
        given[32..38].copy_from_slice(&asked[22..28]);
        given[38..42].copy_from_slice(&asked[28..32]);
        let expected = Reply { number: 0x0102_0304, mac: Mac(NODE), source: Mac(NODE) };
        assert_eq!(answer(&given, VIP.into()), Some(expected));
        assert_eq!(answer(&given, Link::Public.address(9).into()), None, "it is about another address");
    }

    /// The same for an advertisement: it goes to the address that the option gave.
    #[test]
    fn a_neighbour_advertisement_names_its_solicitation() {
        let asked = question(&leg(), VIP6.into(), 0x0102_0304);
        assert_eq!(asked.len(), NEIGHBOUR);
        assert_eq!(answer(&asked, VIP6.into()), None, "a solicitation is not an answer");
        let mut given = asked.clone();
        given[0..6].copy_from_slice(&asked[80..86]);
        given[6..12].copy_from_slice(&NODE);
        given[54] = ADVERTISEMENT;
        given[58] = 0x60;
        given[78..80].copy_from_slice(&TARGET_ADDRESS);
        given[80..86].copy_from_slice(&NODE);
        let expected = Reply { number: 0x0102_0304, mac: Mac(NODE), source: Mac(NODE) };
        assert_eq!(answer(&given, VIP6.into()), Some(expected));
        assert_eq!(answer(&given[..78], VIP6.into()), Some(expected), "the option may be missing");
        for length in 0..given.len() {
            let _ = answer(&given[..length], VIP6.into());
        }
    }

    /// The checksum of a message that carries its own is zero.
    #[test]
    fn a_solicitation_has_the_right_checksum_and_destination() {
        let asked = question(&leg(), VIP6.into(), 7);
        let address = |from: usize| -> [u8; 16] { asked[from..from + 16].try_into().unwrap() };
        let (source, group) = (Ipv6Addr::from(address(22)), Ipv6Addr::from(address(38)));
        assert_eq!(checksum(source, group, &asked[54..]), 0);
        assert_eq!(group, "ff02::1:ff00:100".parse::<Ipv6Addr>().unwrap());
        assert_eq!(asked[..6], [0x33, 0x33, 0xff, 0, 1, 0]);
    }
}
