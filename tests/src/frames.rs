//! Ethernet frames, put together by hand for the data plane's tests and benchmark.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Everybody's Ethernet address.
pub const BROADCAST: [u8; 6] = [0xff; 6];

/// An ARP packet for IPv4 over Ethernet (RFC 826), with the frame around it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ArpFrame {
    /// The frame's destination.
    pub destination: [u8; 6],
    /// The frame's source.
    pub source: [u8; 6],
    /// 1 to ask, 2 to answer.
    pub operation: u16,
    /// The sender's hardware address.
    pub sender_mac: [u8; 6],
    /// The sender's address.
    pub sender: [u8; 4],
    /// The target's hardware address.
    pub target_mac: [u8; 6],
    /// The target's address.
    pub target: [u8; 4],
}

impl ArpFrame {
    /// `asker`, at this Ethernet address, asks everybody who has `target`.
    #[must_use]
    pub fn request(mac: [u8; 6], asker: [u8; 4], target: [u8; 4]) -> Self {
        Self {
            destination: BROADCAST,
            source: mac,
            operation: 1,
            sender_mac: mac,
            sender: asker,
            target_mac: [0; 6],
            target,
        }
    }

    /// Its bytes, padded to the shortest frame that Ethernet has (60 bytes without the check sequence).
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = [&self.destination[..], &self.source].concat();
        bytes.extend([8, 6, 0, 1, 8, 0, 6, 4]);
        bytes.extend(self.operation.to_be_bytes());
        bytes.extend(self.sender_mac);
        bytes.extend(self.sender);
        bytes.extend(self.target_mac);
        bytes.extend(self.target);
        bytes.resize(60, 0);
        bytes
    }
}

/// A UDP packet of `length` bytes, frame included and at least 42. Its checksums are wrong; nothing here reads them.
#[must_use]
pub fn ipv4(destination_mac: [u8; 6], source: [u8; 4], destination: [u8; 4], length: usize) -> Vec<u8> {
    let mut bytes = [&destination_mac[..], &[2, 0, 0, 0, 0, 0xcc], &[8, 0]].concat();
    let total = (length - 14) as u16;
    bytes.extend([0x45, 0]);
    bytes.extend(total.to_be_bytes());
    bytes.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    bytes.extend(source);
    bytes.extend(destination);
    bytes.extend([0x30, 0x39, 0, 53]);
    bytes.extend((total - 20).to_be_bytes());
    bytes.extend([0, 0]);
    bytes.resize(length, 0x5a);
    bytes
}

/// A neighbour discovery message (RFC 4861 section 4), with the packet and the frame around it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NdFrame {
    /// The frame's destination.
    pub destination_mac: [u8; 6],
    /// The frame's source.
    pub source_mac: [u8; 6],
    /// The hop limit, 255 in every valid message.
    pub hop_limit: u8,
    /// Who sends it.
    pub source: Ipv6Addr,
    /// Whom it goes to.
    pub destination: Ipv6Addr,
    /// 135 to ask, 136 to tell.
    pub kind: u8,
    /// 0.
    pub code: u8,
    /// The flags of an advertisement: router, solicited, override.
    pub flags: u8,
    /// The address in question.
    pub target: Ipv6Addr,
    /// The options: type, length in units of 8 bytes, and what is in them.
    pub options: Vec<u8>,
}

impl NdFrame {
    /// `asker`, at this Ethernet address, asks everybody who may have `target`.
    #[must_use]
    pub fn solicitation(mac: [u8; 6], asker: Ipv6Addr, target: Ipv6Addr) -> Self {
        let [.., a, b, c] = target.octets();
        let mut options = vec![1, 1];
        options.extend(mac);
        Self {
            destination_mac: [0x33, 0x33, 0xff, a, b, c],
            source_mac: mac,
            hop_limit: 255,
            source: asker,
            destination: solicited_node(target),
            kind: 135,
            code: 0,
            flags: 0,
            target,
            options,
        }
    }

    /// Somebody at this Ethernet address asks whether anybody has `target`, which he would like to have (RFC 4862).
    #[must_use]
    pub fn detection(mac: [u8; 6], target: Ipv6Addr) -> Self {
        Self { options: Vec::new(), ..Self::solicitation(mac, Ipv6Addr::UNSPECIFIED, target) }
    }

    /// `target`, at this Ethernet address, tells everybody so.
    #[must_use]
    pub fn announcement(mac: [u8; 6], target: Ipv6Addr) -> Self {
        let mut options = vec![2, 1];
        options.extend(mac);
        Self {
            destination_mac: [0x33, 0x33, 0, 0, 0, 1],
            source_mac: mac,
            hop_limit: 255,
            source: target,
            destination: Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1),
            kind: 136,
            code: 0,
            flags: 0x20,
            target,
            options,
        }
    }

    /// Its bytes, with the right checksum.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut message = vec![self.kind, self.code, 0, 0, self.flags, 0, 0, 0];
        message.extend(self.target.octets());
        message.extend(&self.options);
        let mut bytes =
            ipv6(self.destination_mac, self.source, self.destination, 58, self.hop_limit, &message);
        bytes[6..12].copy_from_slice(&self.source_mac);
        set_icmpv6_checksum(&mut bytes);
        bytes
    }
}

/// The multicast address to which questions about `address` go (RFC 4291 section 2.7.1).
#[must_use]
pub fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., high, low] = address.segments();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | high & 0xff, low)
}

/// An IPv6 packet with this next header and payload.
#[must_use]
pub fn ipv6(
    destination_mac: [u8; 6],
    source: Ipv6Addr,
    destination: Ipv6Addr,
    next_header: u8,
    hop_limit: u8,
    payload: &[u8],
) -> Vec<u8> {
    let mut bytes = [&destination_mac[..], &[2, 0, 0, 0, 0, 0xcc], &[0x86, 0xdd, 0x60, 0, 0, 0]].concat();
    bytes.extend((payload.len() as u16).to_be_bytes());
    bytes.extend([next_header, hop_limit]);
    bytes.extend(source.octets());
    bytes.extend(destination.octets());
    bytes.extend(payload);
    bytes
}

/// Gives the ICMPv6 message of an untagged frame, which follows the fixed header and reaches to the frame's end, its
/// checksum.
pub fn set_icmpv6_checksum(frame: &mut [u8]) {
    let message = 14 + 40;
    frame[message + 2..message + 4].fill(0);
    let addresses_and_message = frame[14 + 8..].chunks(2);
    let words =
        addresses_and_message.map(|two| u32::from(two[0]) << 8 | two.get(1).copied().map_or(0, u32::from));
    let mut sum = words.sum::<u32>() + (frame.len() - message) as u32 + 58;
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    frame[message + 2..message + 4].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}

/// The frame with VLAN tags, the outermost first: EtherType of the tag, and what follows it.
#[must_use]
pub fn tagged(frame: &[u8], tags: &[(u16, u16)]) -> Vec<u8> {
    let mut bytes = frame[..12].to_vec();
    for (ethertype, control) in tags {
        bytes.extend(ethertype.to_be_bytes());
        bytes.extend(control.to_be_bytes());
    }
    bytes.extend(&frame[12..]);
    bytes
}

/// A packet from one end of a flow to the other, of this protocol, with TCP's flags where they would be. Both ends are of one family.
#[must_use]
pub fn of_flow(
    to_mac: [u8; 6],
    from_mac: [u8; 6],
    from: SocketAddr,
    to: SocketAddr,
    protocol: u8,
    flags: u8,
) -> Vec<u8> {
    const TCP_LENGTH: usize = 20;
    let (mut frame, at) = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut frame = ipv4(to_mac, from.octets(), to.octets(), 34 + TCP_LENGTH);
            frame[14 + 9] = protocol;
            (frame, 34)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => (ipv6(to_mac, from, to, protocol, 64, &[0; TCP_LENGTH]), 54),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return Vec::new(),
    };
    frame[6..12].copy_from_slice(&from_mac);
    frame[at..at + 2].copy_from_slice(&from.port().to_be_bytes());
    frame[at + 2..at + 4].copy_from_slice(&to.port().to_be_bytes());
    frame[at + 12] = 5 << 4;
    frame[at + 13] = flags;
    frame
}
