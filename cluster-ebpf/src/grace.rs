//! What becomes of a VIP's packets for a while after a hand-over: the new holder and the old one send each other what is
//! the other's (`docs/switchover.md`).

use aya_ebpf::programs::XdpContext;
use cluster_common::frame::{ETHERNET_SOURCE, ipv4, ipv6, tcp};

use crate::unsafe_maps::{Grace, Side, nic};
use crate::unsafe_packet::{Frame, Header};
use crate::unsafe_sockets::{Ends, has_connection};
use crate::way::{Journey, Way};

/// Where a packet goes that came in during a hand-over, while this node holds or does not. Whose connection it belongs to costs to find out,
/// and is asked only where that decides.
#[inline(always)]
pub(crate) fn way(holds: bool, grace: Grace, header: Header, owner: impl FnOnce() -> Owner) -> Way {
    // What was sent over once is never sent over again.
    if header.mac(ETHERNET_SOURCE) == grace.other {
        return Way::Here;
    }
    match (grace.side, holds) {
        (Side::New, false) => Way::Nowhere,
        // An old holder that holds again goes by its lease.
        (Side::Old, true) => Way::Here,
        (Side::New, true) | (Side::Old, false) => match owner() {
            Owner::Here => Way::Here,
            Owner::Elsewhere => over(header, grace.other),
            Owner::Nobody if holds => Way::Here,
            Owner::Nobody => over(header, grace.other),
        },
    }
}

/// To the node at the other end.
#[inline(always)]
fn over(header: Header, to: [u16; 3]) -> Way {
    match nic() {
        Some(nic) => Way::over(header, to, nic.mac, Journey::Handover),
        None => Way::Nowhere,
    }
}

/// Whose connection a packet belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// A connection of this host.
    Here,
    /// It is from the middle of a connection, and none of this host's.
    Elsewhere,
    /// It may begin one, or belongs to none.
    Nobody,
}

/// Whose connection the IPv4 packet that begins at `AT` belongs to. Of fragments nobody can tell.
#[inline(always)]
pub(crate) fn owner_of_ipv4<const AT: usize>(context: &XdpContext, frame: Frame) -> Owner {
    let Some(header) = frame.header(AT + ipv4::LENGTH) else { return Owner::Nobody };
    let fragment = header.two(AT + ipv4::FRAGMENT) & ipv4::FRAGMENT_MASK.to_be() != 0;
    if header.one(AT + ipv4::PROTOCOL) != tcp::PROTOCOL || fragment {
        return Owner::Nobody;
    }
    // The header's length in words of four bytes, from five to fifteen.
    let length = usize::from(header.one(AT + ipv4::VERSION) & 0x0f) * 4;
    let Some(segment) = frame.behind(AT + length, tcp::LOOKED_AT) else { return Owner::Nobody };
    let ends = Ends::Ipv4 {
        source: header.four(AT + ipv4::SOURCE),
        destination: header.four(AT + ipv4::DESTINATION),
        source_port: segment.two(tcp::SOURCE_PORT),
        destination_port: segment.two(tcp::DESTINATION_PORT),
    };
    owner(context, segment.one(tcp::FLAGS), &ends)
}

/// The same for IPv6. Of packets with extension headers nobody can tell.
#[inline(always)]
pub(crate) fn owner_of_ipv6<const AT: usize>(context: &XdpContext, frame: Frame) -> Owner {
    let Some(header) = frame.header(AT + ipv6::LENGTH + tcp::LOOKED_AT) else { return Owner::Nobody };
    if header.one(AT + ipv6::NEXT_HEADER) != tcp::PROTOCOL {
        return Owner::Nobody;
    }
    let ends = Ends::Ipv6 {
        source: header.sixteen(AT + ipv6::SOURCE),
        destination: header.sixteen(AT + ipv6::DESTINATION),
        source_port: header.two(AT + ipv6::LENGTH + tcp::SOURCE_PORT),
        destination_port: header.two(AT + ipv6::LENGTH + tcp::DESTINATION_PORT),
    };
    owner(context, header.one(AT + ipv6::LENGTH + tcp::FLAGS), &ends)
}

#[inline(always)]
fn owner(context: &XdpContext, flags: u8, ends: &Ends) -> Owner {
    // The first packet of a connection has SYN alone (RFC 9293 section 3.5). The new holder takes it even if a connection
    // of these ends is left on the old one.
    if flags & (tcp::SYN | tcp::ACK) == tcp::SYN {
        return Owner::Nobody;
    }
    if has_connection(context, ends) { Owner::Here } else { Owner::Elsewhere }
}
