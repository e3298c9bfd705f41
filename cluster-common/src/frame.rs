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
/// EtherType of IPv6.
pub const TYPE_IPV6: u16 = 0x86dd;
/// EtherType of a customer VLAN tag.
pub const TYPE_VLAN: u16 = 0x8100;
/// EtherType of a service VLAN tag (IEEE 802.1ad).
pub const TYPE_SERVICE_VLAN: u16 = 0x88a8;

/// Offsets within an IPv4 header (RFC 791 section 3.1).
pub mod ipv4 {
    /// Length of a header without options.
    pub const LENGTH: usize = 20;
    /// The version and the header's length in words of 4 bytes, 4 bits each.
    pub const VERSION: usize = 0;
    /// The number of the datagram, which its fragments share, 2 bytes.
    pub const IDENTIFICATION: usize = 4;
    /// Flags and fragment offset, 2 bytes.
    pub const FRAGMENT: usize = 6;
    /// The protocol of what follows the header, 1 byte.
    pub const PROTOCOL: usize = 9;
    /// The source address, 4 bytes.
    pub const SOURCE: usize = 12;
    /// The destination address, 4 bytes.
    pub const DESTINATION: usize = 16;

    /// Of flags and fragment offset what is 0 in whole packets.
    pub const FRAGMENT_MASK: u16 = 0x3fff;
    /// Of flags and fragment offset the offset.
    pub const OFFSET_MASK: u16 = 0x1fff;
}

/// Offsets within an ICMP message (RFC 792), and its types that are told apart.
pub mod icmp {
    /// The protocol number of ICMP.
    pub const PROTOCOL: u8 = 1;
    /// Length of a message's own header; behind it errors carry the packet that they are about.
    pub const LENGTH: usize = 8;
    /// The type, 1 byte.
    pub const TYPE: usize = 0;
    /// The identifier of an echo, 2 bytes.
    pub const IDENTIFIER: usize = 4;

    /// Type: the answer to an echo.
    pub const ECHO_REPLY: u8 = 0;
    /// Type: destination unreachable, a packet that is too long included.
    pub const UNREACHABLE: u8 = 3;
    /// Type: source quench.
    pub const QUENCH: u8 = 4;
    /// Type: redirect.
    pub const REDIRECT: u8 = 5;
    /// Type: echo.
    pub const ECHO: u8 = 8;
    /// Type: time exceeded.
    pub const TIME_EXCEEDED: u8 = 11;
    /// Type: parameter problem.
    pub const PARAMETER: u8 = 12;
}

/// The same for ICMPv6 (RFC 4443).
pub mod icmpv6 {
    /// Length of a message's own header; behind it errors carry the packet that they are about.
    pub const LENGTH: usize = 8;
    /// The type, 1 byte.
    pub const TYPE: usize = 0;
    /// The identifier of an echo, 2 bytes.
    pub const IDENTIFIER: usize = 4;

    /// Type: destination unreachable, the first of the errors.
    pub const UNREACHABLE: u8 = 1;
    /// Type: parameter problem, the last of the errors.
    pub const PARAMETER: u8 = 4;
    /// Type: echo.
    pub const ECHO: u8 = 128;
    /// Type: the answer to an echo.
    pub const ECHO_REPLY: u8 = 129;
}

/// UDP (RFC 768); the ports lie where TCP has them.
pub mod udp {
    /// The protocol number of UDP in IPv4, and its next header in IPv6.
    pub const PROTOCOL: u8 = 17;
    /// Length of what is looked at.
    pub const LOOKED_AT: usize = 4;
}

/// Offsets within a TCP header (RFC 9293 section 3.1), and the values of its fields.
pub mod tcp {
    /// The source port, 2 bytes.
    pub const SOURCE_PORT: usize = 0;
    /// The destination port, 2 bytes.
    pub const DESTINATION_PORT: usize = 2;
    /// The flags, 1 byte.
    pub const FLAGS: usize = 13;
    /// Length of what is looked at.
    pub const LOOKED_AT: usize = 14;

    /// The protocol number of TCP in IPv4, and its next header in IPv6.
    pub const PROTOCOL: u8 = 6;
    /// Flag: the first packet of a side.
    pub const SYN: u8 = 0x02;
    /// Flag: acknowledges something.
    pub const ACK: u8 = 0x10;
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

/// Offsets within an IPv6 header (RFC 8200 section 3), and the values of its fields.
pub mod ipv6 {
    /// Length of the fixed header.
    pub const LENGTH: usize = 40;
    /// The version, 4 bits, then traffic class and flow label; 4 bytes together.
    pub const VERSION: usize = 0;
    /// The length of what follows the fixed header, 2 bytes.
    pub const PAYLOAD_LENGTH: usize = 4;
    /// What follows the fixed header, 1 byte.
    pub const NEXT_HEADER: usize = 6;
    /// The hop limit, 1 byte.
    pub const HOP_LIMIT: usize = 7;
    /// The source address, 16 bytes.
    pub const SOURCE: usize = 8;
    /// The destination address, 16 bytes.
    pub const DESTINATION: usize = 24;

    /// Next header: options for every hop.
    pub const HOP_BY_HOP: u8 = 0;
    /// Next header: routing.
    pub const ROUTING: u8 = 43;
    /// Next header: fragment.
    pub const FRAGMENT: u8 = 44;
    /// Length of a fragment header (RFC 8200 section 4.5).
    pub const FRAGMENT_LENGTH: usize = 8;
    /// The fragment offset in it, 13 bits, then flags; 2 bytes.
    pub const FRAGMENT_OFFSET: usize = 2;
    /// The number of the packet in it, which its fragments share, 4 bytes.
    pub const FRAGMENT_ID: usize = 4;
    /// Next header: authentication (RFC 4302).
    pub const AUTHENTICATION: u8 = 51;
    /// Next header: ICMPv6 (RFC 4443).
    pub const ICMPV6: u8 = 58;
    /// Next header: options for the destination.
    pub const DESTINATION_OPTIONS: u8 = 60;

    /// The first 12 bits of an address of this link only (fe80::/10), and which bits those are.
    pub const LINK_LOCAL: (u32, u32) = (0xfe80_0000, 0xffc0_0000);
    /// All nodes on the link (RFC 4291 section 2.7.1), as words.
    pub const ALL_NODES: [u32; 4] = [0xff02_0000, 0, 0, 1];
    /// The first 104 bits of the solicited-node addresses (RFC 4291 section 2.7.1), as words; the last byte is not
    /// among them.
    pub const SOLICITED_NODE: [u32; 4] = [0xff02_0000, 0, 1, 0xff00_0000];
}

/// Offsets of a neighbour discovery message (RFC 4861 section 4) from the start of the IPv6 header that it stands
/// behind, and the values of its fields.
pub mod nd {
    /// The type, 1 byte.
    pub const TYPE: usize = 40;
    /// The code, 1 byte.
    pub const CODE: usize = 41;
    /// The checksum, 2 bytes.
    pub const CHECKSUM: usize = 42;
    /// The flags of an advertisement, 1 byte, and 3 reserved ones; all 4 are reserved in a solicitation.
    pub const FLAGS: usize = 44;
    /// The address in question, 16 bytes.
    pub const TARGET: usize = 48;
    /// The options: of each, type and length in units, 1 byte each, and the rest of its units.
    pub const OPTIONS: usize = 64;
    /// Length of a unit of options.
    pub const OPTION_UNIT: usize = 8;
    /// Length of an answer, IPv6 header included: it has one option of one unit.
    pub const ANSWER_LENGTH: usize = OPTIONS + OPTION_UNIT;
    /// The most options, in units, that a solicitation can have to be answered: 64 bytes. Those of secure neighbour
    /// discovery (RFC 3971) alone are longer, and what sends them takes no answer without their like.
    pub const MAX_OPTION_UNITS: usize = 8;

    /// Where the options of a router solicitation begin, which has no target.
    pub const ROUTER_SOLICITATION_OPTIONS: usize = 48;

    /// Type: are there routers?
    pub const ROUTER_SOLICITATION: u8 = 133;
    /// Type: who has the target?
    pub const SOLICITATION: u8 = 135;
    /// Type: the sender has the target.
    pub const ADVERTISEMENT: u8 = 136;
    /// The hop limit of every message: nobody beyond a router can have sent it.
    pub const HOP_LIMIT: u8 = 255;
    /// Flag: the sender is a router.
    pub const ROUTER: u8 = 0x80;
    /// Flag: this is an answer.
    pub const SOLICITED: u8 = 0x40;
    /// Flag: what was known before is to be forgotten.
    pub const OVERRIDE: u8 = 0x20;
    /// Option: the sender's hardware address.
    pub const SOURCE_MAC: u8 = 1;
    /// Option: the target's hardware address.
    pub const TARGET_MAC: u8 = 2;
    /// The Ethernet address of all nodes on the link (RFC 2464 section 7).
    pub const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
}
