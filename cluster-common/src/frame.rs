//! Where the fields of an Ethernet frame lie, in bytes, and the values that the programs look for.

/// Length of an Ethernet header without VLAN tags (IEEE 802.3).
pub const ETHERNET_LENGTH: usize = 14;
/// The destination address, 6 bytes.
pub const ETHERNET_DESTINATION: usize = 0;
/// The source address, 6 bytes.
pub const ETHERNET_SOURCE: usize = 6;
/// The EtherType, 2 bytes.
pub const ETHERNET_TYPE: usize = 12;
/// Length of one VLAN tag, EtherType included (IEEE 802.1Q).
pub const VLAN_TAG_LENGTH: usize = 4;

/// EtherType of IPv4.
pub const TYPE_IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const TYPE_ARP: u16 = 0x0806;
/// EtherType of a customer VLAN tag.
pub const TYPE_VLAN: u16 = 0x8100;
/// EtherType of a service VLAN tag (IEEE 802.1ad).
pub const TYPE_SERVICE_VLAN: u16 = 0x88a8;

/// Offsets within an IPv4 header (RFC 791 section 3.1).
pub mod ipv4 {
    /// Length of a header without options.
    pub const LENGTH: usize = 20;
    /// The source address, 4 bytes.
    pub const SOURCE: usize = 12;
    /// The destination address, 4 bytes.
    pub const DESTINATION: usize = 16;
}

/// Offsets within an ARP packet for IPv4 over Ethernet (RFC 826), and the values of its fields.
pub mod arp {
    /// Length of the packet.
    pub const LENGTH: usize = 28;
    /// The hardware type, 2 bytes.
    pub const HARDWARE_TYPE: usize = 0;
    /// The protocol type, 2 bytes.
    pub const PROTOCOL_TYPE: usize = 2;
    /// The lengths of a hardware and of a protocol address, 1 byte each.
    pub const ADDRESS_LENGTHS: usize = 4;
    /// The operation, 2 bytes.
    pub const OPERATION: usize = 6;
    /// The sender's hardware address, 6 bytes.
    pub const SENDER_MAC: usize = 8;
    /// The sender's protocol address, 4 bytes.
    pub const SENDER_IP: usize = 14;
    /// The target's hardware address, 6 bytes.
    pub const TARGET_MAC: usize = 18;
    /// The target's protocol address, 4 bytes.
    pub const TARGET_IP: usize = 24;

    /// Hardware type Ethernet.
    pub const ETHERNET: u16 = 1;
    /// Hardware addresses of 6 bytes, protocol addresses of 4.
    pub const LENGTHS_6_AND_4: u16 = 0x0604;
    /// Operation: who has the target's address?
    pub const REQUEST: u16 = 1;
    /// Operation: the sender has it.
    pub const REPLY: u16 = 2;
}
