//! Neighbour discovery for IPv6 over Ethernet (RFC 4861, RFC 2464): the frames we send and those we understand.

use std::net::Ipv6Addr;
use std::ops::Range;

use cluster_proto::Mac;

/// The length of a frame with the option that tells a link-layer address, and of one without.
pub const FRAME_LEN: usize = BARE_LEN + OPTION_LEN;
/// The length of a probe.
pub const BARE_LEN: usize = 78;
const OPTION_LEN: usize = 8;

/// As much of a frame as has to be read: the longest neighbour advertisement whose options anybody sends. Of one that is
/// cut off nothing is believed.
pub const READ_LEN: usize = 512;

/// What neighbour discovery says of this host on its service link.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Host {
    /// An address that is really this node's, by which others may answer it.
    pub address: Option<Ipv6Addr>,
    /// Whether it forwards packets. Whoever has it as a router drops it as one when it says that it is none (RFC 4861
    /// §7.2.5).
    pub is_router: bool,
}

/// A neighbour advertisement, lower layers checked and left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Advertisement {
    /// The address it is about.
    pub target: Ipv6Addr,
    /// Where that is: the option that tells it, or else the frame's source, since an answer to who knows it already may
    /// leave the option out (RFC 4861 §4.4).
    pub mac: Mac,
}

impl Advertisement {
    /// Reads a whole Ethernet frame; padding after the packet is ignored. `None` for whatever is no valid neighbour
    /// advertisement (RFC 4861 §7.1.2), a frame with a VLAN tag included, and for a frame that is cut off.
    #[must_use]
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let fixed: &[u8; BARE_LEN] = frame.first_chunk()?;
        let length = usize::from(u16::from_be_bytes([fixed[18], fixed[19]]));
        let message = frame.get(field::MESSAGE..field::MESSAGE + length)?;
        let destination = address(fixed, field::DESTINATION);
        let target = address(fixed, field::TARGET);
        let solicited = fixed[field::FLAGS] & FLAG_SOLICITED != 0;
        // No router can have passed on a hop limit of 255.
        let valid = fixed[field::ETHER_TYPE] == ETHER_TYPE_IPV6
            && fixed[field::VERSION] >> 4 == 6
            && fixed[field::NEXT_HEADER] == NEXT_HEADER_ICMPV6
            && fixed[field::HOP_LIMIT] == HOP_LIMIT
            && fixed[field::MESSAGE..field::MESSAGE + 2] == [ADVERTISEMENT, 0]
            && length >= BARE_LEN - field::MESSAGE
            && !target.is_multicast()
            && !(destination.is_multicast() && solicited)
            && checksum(address(fixed, field::SOURCE), destination, message) == 0;
        if !valid {
            return None;
        }
        let told = link_layer_address(frame.get(BARE_LEN..field::MESSAGE + length)?)?;
        Some(Self { target, mac: told.unwrap_or_else(|| mac(fixed, field::ETHERNET_SOURCE)) })
    }
}

/// The announcement that `vip` is at `mac` now: an unsolicited advertisement to all nodes that overrides what they know
/// (RFC 4861 §7.2.6), the same bytes that Linux sends with `ndisc_notify`.
///
/// It changes existing entries and makes no new ones (RFC 9131 is for routers, and Linux does so only where
/// `accept_untracked_na` is set).
#[must_use]
pub fn announcement(own: Mac, vip: Ipv6Addr, is_router: bool) -> [u8; FRAME_LEN] {
    let router = if is_router { FLAG_ROUTER } else { 0 };
    let mut frame = [0; FRAME_LEN];
    write(&mut frame, own, vip, ALL_NODES, ADVERTISEMENT, vip);
    frame[field::FLAGS] = router | FLAG_OVERRIDE;
    write_option(&mut frame, TARGET_LINK_LAYER_ADDRESS, own);
    seal(&mut frame);
    frame
}

/// The question who has `address` from a host that has no address itself: its source is the unspecified one (RFC 4862
/// §5.4.2, duplicate address detection). Whoever has it answers to all nodes.
///
/// Not for other hosts' addresses: one that is about to take its own would give it up.
#[must_use]
pub fn probe(own: Mac, address: Ipv6Addr) -> [u8; BARE_LEN] {
    let mut frame = [0; BARE_LEN];
    write(&mut frame, own, Ipv6Addr::UNSPECIFIED, solicited_node(address), SOLICITATION, address);
    seal(&mut frame);
    frame
}

/// An ordinary solicitation for `target` in the name of `source`, an address that is really this node's.
#[must_use]
pub fn solicitation(own: Mac, source: Ipv6Addr, target: Ipv6Addr) -> [u8; FRAME_LEN] {
    let mut frame = [0; FRAME_LEN];
    write(&mut frame, own, source, solicited_node(target), SOLICITATION, target);
    write_option(&mut frame, SOURCE_LINK_LAYER_ADDRESS, own);
    seal(&mut frame);
    frame
}

/// The group in which whoever has this address listens for solicitations (RFC 4291 §2.7.1).
#[must_use]
pub fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    Ipv6Addr::from_bits(SOLICITED_NODE.to_bits() | address.to_bits() & 0xff_ffff)
}

/// All but the flags, the option and the checksum.
fn write(frame: &mut [u8], own: Mac, source: Ipv6Addr, destination: Ipv6Addr, kind: u8, target: Ipv6Addr) {
    let length = (frame.len() - field::MESSAGE) as u16;
    let [.., a, b, c, d] = destination.octets();
    // RFC 2464 §7.
    frame[field::ETHERNET_DESTINATION].copy_from_slice(&[0x33, 0x33, a, b, c, d]);
    frame[field::ETHERNET_SOURCE].copy_from_slice(&own.0);
    frame[field::ETHER_TYPE].copy_from_slice(&ETHER_TYPE_IPV6);
    frame[field::VERSION] = 6 << 4;
    frame[field::PAYLOAD_LENGTH].copy_from_slice(&length.to_be_bytes());
    frame[field::NEXT_HEADER] = NEXT_HEADER_ICMPV6;
    frame[field::HOP_LIMIT] = HOP_LIMIT;
    frame[field::SOURCE].copy_from_slice(&source.octets());
    frame[field::DESTINATION].copy_from_slice(&destination.octets());
    frame[field::MESSAGE] = kind;
    frame[field::TARGET].copy_from_slice(&target.octets());
}

fn write_option(frame: &mut [u8; FRAME_LEN], kind: u8, own: Mac) {
    frame[BARE_LEN..BARE_LEN + 2].copy_from_slice(&[kind, (OPTION_LEN / OPTION_UNIT) as u8]);
    frame[BARE_LEN + 2..].copy_from_slice(&own.0);
}

fn seal(frame: &mut [u8]) {
    let (source, destination) = (address(frame, field::SOURCE), address(frame, field::DESTINATION));
    let checksum = checksum(source, destination, &frame[field::MESSAGE..]);
    frame[field::CHECKSUM].copy_from_slice(&checksum.to_be_bytes());
}

/// The checksum over the pseudo-header and a message (RFC 8200 §8.1); of a message that carries the right one it is 0.
fn checksum(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    let words = |bytes: &[u8]| -> u64 {
        let (pairs, odd) = bytes.as_chunks::<2>();
        let last = odd.first().map_or(0, |&last| u64::from(last) << 8);
        pairs.iter().map(|&pair| u64::from(u16::from_be_bytes(pair))).sum::<u64>() + last
    };
    let pseudo_header = words(&source.octets()) + words(&destination.octets()) + message.len() as u64;
    let mut sum = pseudo_header + u64::from(NEXT_HEADER_ICMPV6) + words(message);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// The link-layer address that the options of an advertisement tell, if they do. `None` for options that are malformed:
/// one of length 0 makes the message invalid.
fn link_layer_address(mut options: &[u8]) -> Option<Option<Mac>> {
    let mut told = None;
    while !options.is_empty() {
        let length = usize::from(*options.get(1)?) * OPTION_UNIT;
        let option = options.get(..length).filter(|option| !option.is_empty())?;
        if option[0] == TARGET_LINK_LAYER_ADDRESS && length == OPTION_LEN {
            told = option[2..].first_chunk().copied().map(Mac);
        }
        options = &options[length..];
    }
    Some(told)
}

fn mac(frame: &[u8], range: Range<usize>) -> Mac {
    let mut octets = [0; 6];
    octets.copy_from_slice(&frame[range]);
    Mac(octets)
}

fn address(frame: &[u8], range: Range<usize>) -> Ipv6Addr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&frame[range]);
    Ipv6Addr::from(octets)
}

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const SOLICITED_NODE: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 0);

const ETHER_TYPE_IPV6: [u8; 2] = [0x86, 0xdd];
const NEXT_HEADER_ICMPV6: u8 = 58;
const HOP_LIMIT: u8 = 255;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const FLAG_ROUTER: u8 = 1 << 7;
const FLAG_SOLICITED: u8 = 1 << 6;
const FLAG_OVERRIDE: u8 = 1 << 5;
const SOURCE_LINK_LAYER_ADDRESS: u8 = 1;
const TARGET_LINK_LAYER_ADDRESS: u8 = 2;
/// Lengths of options count in these.
const OPTION_UNIT: usize = 8;

mod field {
    use std::ops::Range;

    pub(super) const ETHERNET_DESTINATION: Range<usize> = 0..6;
    pub(super) const ETHERNET_SOURCE: Range<usize> = 6..12;
    pub(super) const ETHER_TYPE: Range<usize> = 12..14;
    pub(super) const VERSION: usize = 14;
    pub(super) const PAYLOAD_LENGTH: Range<usize> = 18..20;
    pub(super) const NEXT_HEADER: usize = 20;
    pub(super) const HOP_LIMIT: usize = 21;
    pub(super) const SOURCE: Range<usize> = 22..38;
    pub(super) const DESTINATION: Range<usize> = 38..54;
    pub(super) const MESSAGE: usize = 54;
    pub(super) const CHECKSUM: Range<usize> = 56..58;
    pub(super) const FLAGS: usize = 58;
    pub(super) const TARGET: Range<usize> = 62..78;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: Mac = Mac([2, 0, 0, 0, 0, 0x0a]);
    const B: Mac = Mac([2, 0, 0, 0, 0, 0x0b]);
    const VIP: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x100);
    const OTHER: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x102);
    const OWN: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2);

    // All from Linux 6.18, captured on the other end of a veth pair.
    /// Announcing fd77::102 with `ndisc_notify = 1` and `forwarding = 1`.
    const LINUX_ROUTERS_ANNOUNCEMENT: &str = "3333 0000 0001 0200 0000 000a 86dd 6000 0000 0020 3aff
        fd77 0000 0000 0000 0000 0000 0000 0102 ff02 0000 0000 0000 0000 0000 0000 0001
        8800 d7a1 a000 0000 fd77 0000 0000 0000 0000 0000 0000 0102 0201 0200 0000 000a";
    /// Answering another host's duplicate address detection for fd77::100, which is the same as announcing it.
    const LINUX_DEFENCE: &str = "3333 0000 0001 0200 0000 000a 86dd 6000 0000 0020 3aff
        fd77 0000 0000 0000 0000 0000 0000 0100 ff02 0000 0000 0000 0000 0000 0000 0001
        8800 57a6 2000 0000 fd77 0000 0000 0000 0000 0000 0000 0100 0201 0200 0000 000a";
    /// Answering fd77::2, which asked for fd77::100.
    const LINUX_ANSWER: &str = "0200 0000 000b 0200 0000 000a 86dd 6000 0000 0020 3aff
        fd77 0000 0000 0000 0000 0000 0000 0100 fd77 0000 0000 0000 0000 0000 0000 0002
        8800 1930 6000 0000 fd77 0000 0000 0000 0000 0000 0000 0100 0201 0200 0000 000a";
    /// Resolving fd77::100 from fd77::2.
    const LINUX_SOLICITATION: &str = "3333 ff00 0100 0200 0000 000b 86dd 6000 0000 0020 3aff
        fd77 0000 0000 0000 0000 0000 0000 0002 ff02 0000 0000 0000 0000 0001 ff00 0100
        8700 7aa2 0000 0000 fd77 0000 0000 0000 0000 0000 0000 0100 0101 0200 0000 000b";
    /// Duplicate address detection for fd77::102 with `enhanced_dad = 0`, and so without a nonce (RFC 7527).
    const LINUX_DETECTION: &str = "3333 ff00 0102 0200 0000 000a 86dd 6000 0000 0018 3aff
        0000 0000 0000 0000 0000 0000 0000 0000 ff02 0000 0000 0000 0000 0001 ff00 0102
        8700 7b2c 0000 0000 fd77 0000 0000 0000 0000 0000 0000 0102";

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.chars().filter_map(|c| c.to_digit(16)).map(|d| d as u8).collect();
        digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
    }

    /// With the right checksum again, over as much as the payload's length says.
    fn resealed(mut frame: Vec<u8>) -> Vec<u8> {
        let length = (frame.len() - field::MESSAGE) as u16;
        frame[field::PAYLOAD_LENGTH].copy_from_slice(&length.to_be_bytes());
        frame[field::CHECKSUM].copy_from_slice(&[0; 2]);
        seal(&mut frame);
        frame
    }

    #[test]
    fn announcements_are_what_linux_sends() {
        assert_eq!(announcement(A, OTHER, true).as_slice(), bytes(LINUX_ROUTERS_ANNOUNCEMENT));
        assert_eq!(announcement(A, VIP, false).as_slice(), bytes(LINUX_DEFENCE));
    }

    #[test]
    fn questions_are_what_linux_sends() {
        assert_eq!(solicitation(B, OWN, VIP).as_slice(), bytes(LINUX_SOLICITATION));
        assert_eq!(probe(A, OTHER).as_slice(), bytes(LINUX_DETECTION));
    }

    #[test]
    fn advertisements_are_read_and_nothing_else() {
        let vip = Some(Advertisement { target: VIP, mac: A });
        assert_eq!(Advertisement::parse(&bytes(LINUX_ANSWER)), vip);
        assert_eq!(Advertisement::parse(&bytes(LINUX_DEFENCE)), vip);
        let routers = Some(Advertisement { target: OTHER, mac: A });
        assert_eq!(Advertisement::parse(&bytes(LINUX_ROUTERS_ANNOUNCEMENT)), routers);
        for question in [LINUX_SOLICITATION, LINUX_DETECTION] {
            assert_eq!(Advertisement::parse(&bytes(question)), None);
        }
    }

    #[test]
    fn padding_is_ignored_and_what_is_cut_off_refused() {
        let frame = bytes(LINUX_ANSWER);
        for length in 0..frame.len() {
            assert_eq!(Advertisement::parse(&frame[..length]), None, "{length}");
        }
        let mut padded = frame.clone();
        padded.extend([0xee; 20]);
        assert_eq!(Advertisement::parse(&padded), Advertisement::parse(&frame));
    }

    #[test]
    fn vlan_tagged_frames_are_not_ours() {
        let mut frame = bytes(LINUX_ANSWER);
        frame.splice(12..12, [0x81, 0x00, 0x00, 0x64]);
        assert_eq!(Advertisement::parse(&frame), None);
    }

    /// The checksum covers all but the Ethernet header, the traffic class, the flow label and the hop limit.
    #[test]
    fn every_flipped_bit_that_matters_is_noticed() {
        let frame = bytes(LINUX_ANSWER);
        let of_no_matter = |at: usize| (0..12).contains(&at) || (15..18).contains(&at);
        for bit in 0..frame.len() * 8 {
            let mut wrong = frame.clone();
            wrong[bit / 8] ^= 1 << (bit % 8);
            let read = Advertisement::parse(&wrong);
            let traffic_class = bit / 8 == field::VERSION && bit % 8 < 4;
            if of_no_matter(bit / 8) || traffic_class {
                assert_eq!(read, Advertisement::parse(&frame), "bit {bit}");
            } else {
                assert_eq!(read, None, "bit {bit}");
            }
        }
    }

    #[test]
    fn what_rfc_4861_calls_invalid_is_refused() {
        let changed = |change: fn(&mut Vec<u8>)| {
            let mut frame = bytes(LINUX_DEFENCE);
            change(&mut frame);
            Advertisement::parse(&resealed(frame))
        };
        assert!(changed(|_| {}).is_some());
        assert_eq!(changed(|frame| frame[field::HOP_LIMIT] = 254), None);
        assert_eq!(changed(|frame| frame[field::MESSAGE + 1] = 1), None, "its code");
        assert_eq!(changed(|frame| frame[field::FLAGS] |= FLAG_SOLICITED), None, "solicited, to a group");
        assert_eq!(changed(|frame| frame[field::TARGET.start] = 0xff), None, "a multicast target");
        assert_eq!(changed(|frame| frame[BARE_LEN + 1] = 0), None, "an option of length 0");
        assert_eq!(changed(|frame| frame[BARE_LEN + 1] = 2), None, "an option that is cut off");
        assert_eq!(changed(|frame| frame.push(1)), None, "half an option");
    }

    #[test]
    fn the_option_tells_the_address_and_without_it_the_frame_does() {
        let with = |options: &[u8]| {
            let mut frame = bytes(LINUX_DEFENCE);
            frame.truncate(BARE_LEN);
            frame.extend_from_slice(options);
            frame[field::ETHERNET_SOURCE].copy_from_slice(&B.0);
            Advertisement::parse(&resealed(frame)).unwrap().mac
        };
        let told = [2, 1, 2, 0, 0, 0, 0, 0x0a];
        assert_eq!(with(&[]), B);
        assert_eq!(with(&told), A);
        let nonce = [14, 1, 1, 2, 3, 4, 5, 6];
        assert_eq!(with(&nonce), B);
        assert_eq!(with(&[nonce, told].concat()), A);
        // One of another link layer's length.
        assert_eq!(with(&[2, 2, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9]), B);
    }

    #[test]
    fn addresses_with_one_end_share_a_group() {
        let group: Ipv6Addr = "ff02::1:ff34:5678".parse().unwrap();
        for address in ["fd77::1234:5678", "2001:db8::ff34:5678"] {
            assert_eq!(solicited_node(address.parse().unwrap()), group);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(frame in proptest::collection::vec(any::<u8>(), 0..1600)) {
            let _ = Advertisement::parse(&frame);
        }

        #[test]
        fn no_options_make_it_panic_or_loop(options in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut frame = bytes(LINUX_DEFENCE);
            frame.truncate(BARE_LEN);
            frame.extend_from_slice(&options);
            let _ = Advertisement::parse(&resealed(frame));
        }

        #[test]
        fn what_is_announced_is_read_back(mac in any::<[u8; 6]>(), vip in any::<u128>(), router in any::<bool>()) {
            let vip = Ipv6Addr::from_bits(vip);
            prop_assume!(!vip.is_multicast());
            let read = Advertisement::parse(&announcement(Mac(mac), vip, router));
            prop_assert_eq!(read, Some(Advertisement { target: vip, mac: Mac(mac) }));
        }
    }
}
