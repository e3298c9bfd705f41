//! Ethernet frames, put together by hand for the data plane's tests and benchmark.

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
