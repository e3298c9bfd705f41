//! Which of an active/active group's nodes a packet goes to (`docs/active-active.md`): the one that its flow's bucket names
//! first; and from there, if it is from the middle of a connection that is not known there, or for a socket that is not there, to
//! the second.
//!
//! How far a packet has come shows in its source address: a node that sends one on puts its mark there, and one that has been sent
//! on twice stays where it is.

use aya_ebpf::programs::XdpContext;
use cluster_common::flow::{By, Flow};
use cluster_common::frame::{ETHERNET_LENGTH, ETHERNET_SOURCE, icmp, icmpv6, ipv4, ipv6, tcp, udp};
use cluster_common::maps::NOBODY;

use crate::unsafe_maps::{Table, bucket_of_fragments, note_fragments, spread_table};
use crate::unsafe_packet::{Frame, Header, received};
use crate::unsafe_sockets::{Ends, has_connection, has_datagram_socket};
use crate::way::{Journey, Way};

/// What a packet shows of its flow.
#[derive(Clone, Copy)]
pub(crate) struct Seen {
    flow: Flow,
    /// What tells whether the flow is known here.
    known_by: KnownBy,
    /// Whether it is a piece of a datagram.
    piece: Piece,
    /// The number of that datagram.
    datagram: u32,
}

/// What tells whether a host knows a flow. A plain number, unlike an option: the kernel takes no debug information of those.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
enum KnownBy {
    /// Nothing: it may be new.
    Nothing,
    /// A connection: it is of TCP, and not the first of one.
    Connection,
    /// A socket: it is of UDP.
    Socket,
}

/// Which piece of a datagram a packet is.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
enum Piece {
    /// All of it.
    Whole,
    /// The first, which alone shows the flow.
    First,
    /// A later one.
    Later,
}

/// Where the IPv4 packet goes that begins at `at` of a frame that came in while this node goes by the table of that number.
#[inline(always)]
pub(crate) fn way_of_ipv4(context: &XdpContext, at: usize, table: u32) -> Way {
    let frame = received(context);
    match (frame.header(ETHERNET_LENGTH), frame.behind(at, ipv4::LENGTH)) {
        (Some(header), Some(packet)) => way(context, header, table, Ipv4 { frame, at, packet }),
        _ => Way::Nowhere,
    }
}

/// The same for IPv6.
#[inline(always)]
pub(crate) fn way_of_ipv6(context: &XdpContext, at: usize, table: u32) -> Way {
    let frame = received(context);
    match (frame.header(ETHERNET_LENGTH), frame.behind(at, ipv6::LENGTH)) {
        (Some(header), Some(packet)) => way(context, header, table, Ipv6 { frame, at, packet }),
        _ => Way::Nowhere,
    }
}

#[inline(always)]
fn way(context: &XdpContext, header: Header, table: u32, packet: impl ShowsFlow) -> Way {
    let Some(table) = spread_table(table) else { return Way::Nowhere };
    let hops = table.hops(header.mac(ETHERNET_SOURCE));
    if hops > 1 {
        return Way::Here;
    }
    let seen = packet.seen();
    let (first, second) = table.bucket(bucket(&table, &seen));
    let me = table.me();
    if hops == 0 && first != me {
        return over(header, &table, first, Journey::Spread);
    }
    let other = if first == me { second } else { first };
    if other == NOBODY {
        return Way::Here;
    }
    let is_known = match seen.known_by {
        KnownBy::Nothing => true,
        KnownBy::Connection => has_connection(context, &packet.ends(&seen.flow)),
        KnownBy::Socket => has_datagram_socket(context, &packet.ends(&seen.flow)),
    };
    if is_known { Way::Here } else { over(header, &table, other, Journey::SecondChance) }
}

#[inline(always)]
fn over(header: Header, table: &Table, place: u8, journey: Journey) -> Way {
    let mark = if journey == Journey::Spread { 0 } else { 1 };
    match table.member(place) {
        Some(to) => Way::over(header, to, table.mark(mark), journey),
        None => Way::Nowhere,
    }
}

#[inline(always)]
fn bucket(table: &Table, seen: &Seen) -> usize {
    let by = if table.is_by_source() { By::Source } else { By::Flow };
    let own = seen.flow.bucket(by, table.seed());
    let Flow { source, destination, protocol, .. } = seen.flow;
    match seen.piece {
        Piece::First if by == By::Flow => {
            note_fragments(source, destination, seen.datagram, protocol, own as u32);
            own
        }
        // The first may come later, or have come elsewhere: then all go by their addresses.
        Piece::Later if by == By::Flow => {
            bucket_of_fragments(source, destination, seen.datagram, protocol).map_or(own, |it| it as usize)
        }
        Piece::Whole | Piece::First | Piece::Later => own,
    }
}

/// A packet, which is looked into only where that decides. (A closure would be a function of its own, and the flow would go
/// through memory.)
trait ShowsFlow {
    /// What it shows.
    fn seen(&self) -> Seen;

    /// The ends of a flow of its family.
    fn ends(&self, flow: &Flow) -> Ends;
}

/// The IPv4 packet that begins at `at`.
struct Ipv4 {
    frame: Frame,
    at: usize,
    packet: Header,
}

/// The IPv6 packet that begins at `at`.
struct Ipv6 {
    frame: Frame,
    at: usize,
    packet: Header,
}

impl ShowsFlow for Ipv4 {
    #[inline(always)]
    fn seen(&self) -> Seen {
        let Self { frame, at, packet } = *self;
        let protocol = packet.one(ipv4::PROTOCOL);
        let (source, destination) = (packet.four(ipv4::SOURCE), packet.four(ipv4::DESTINATION));
        let flow =
            Flow { source: [source, 0, 0, 0], destination: [destination, 0, 0, 0], ports: 0, protocol };
        let pieces = u16::from_be(packet.two(ipv4::FRAGMENT)) & ipv4::FRAGMENT_MASK;
        let is_first = pieces & ipv4::OFFSET_MASK == 0;
        let datagram = u32::from(packet.two(ipv4::IDENTIFICATION));
        let piece = match (pieces, is_first) {
            (0, _) => Piece::Whole,
            (_, true) => Piece::First,
            (_, false) => Piece::Later,
        };
        if !is_first {
            return Seen { flow, known_by: KnownBy::Nothing, piece, datagram };
        }
        // The header's length in words of four bytes, from five to fifteen.
        let behind = at + usize::from(packet.one(ipv4::VERSION) & 0x0f) * 4;
        let seen = match protocol {
            tcp::PROTOCOL => of_tcp(flow, frame.behind(behind, tcp::LOOKED_AT)),
            udp::PROTOCOL => of_udp(flow, frame.behind(behind, udp::LOOKED_AT)),
            icmp::PROTOCOL => of_icmp(flow, frame, behind),
            _ => Seen { flow, known_by: KnownBy::Nothing, piece: Piece::Whole, datagram: 0 },
        };
        in_pieces(seen, piece, datagram)
    }

    #[inline(always)]
    fn ends(&self, flow: &Flow) -> Ends {
        let (source_port, destination_port) = ports(flow);
        let ([source, ..], [destination, ..]) = (flow.source, flow.destination);
        Ends::Ipv4 { source, destination, source_port, destination_port }
    }
}

impl ShowsFlow for Ipv6 {
    /// What is behind other extension headers than a fragment's goes by its addresses.
    #[inline(always)]
    fn seen(&self) -> Seen {
        let Self { frame, at, packet } = *self;
        let behind = at + ipv6::LENGTH;
        let (source, destination) = (packet.sixteen(ipv6::SOURCE), packet.sixteen(ipv6::DESTINATION));
        let protocol = packet.one(ipv6::NEXT_HEADER);
        let flow = Flow { source, destination, ports: 0, protocol };
        let none = Seen { flow, known_by: KnownBy::Nothing, piece: Piece::Whole, datagram: 0 };
        match protocol {
            tcp::PROTOCOL => of_tcp(flow, frame.behind(behind, tcp::LOOKED_AT)),
            udp::PROTOCOL => of_udp(flow, frame.behind(behind, udp::LOOKED_AT)),
            ipv6::ICMPV6 => of_icmpv6(flow, frame, behind),
            ipv6::FRAGMENT => match frame.behind(behind, ipv6::FRAGMENT_LENGTH) {
                Some(header) => {
                    let offset = u16::from_be(header.two(ipv6::FRAGMENT_OFFSET)) >> 3;
                    let datagram = header.four(ipv6::FRAGMENT_ID);
                    let piece = if offset == 0 { Piece::First } else { Piece::Later };
                    let flow = Flow { protocol: header.one(0), ..flow };
                    let behind = behind + ipv6::FRAGMENT_LENGTH;
                    let seen = match flow.protocol {
                        tcp::PROTOCOL if piece == Piece::First => {
                            of_tcp(flow, frame.behind(behind, tcp::LOOKED_AT))
                        }
                        udp::PROTOCOL if piece == Piece::First => {
                            of_udp(flow, frame.behind(behind, udp::LOOKED_AT))
                        }
                        _ => Seen { flow, ..none },
                    };
                    in_pieces(seen, piece, datagram)
                }
                None => none,
            },
            _ => none,
        }
    }

    #[inline(always)]
    fn ends(&self, flow: &Flow) -> Ends {
        let (source_port, destination_port) = ports(flow);
        let &Flow { source, destination, .. } = flow;
        Ends::Ipv6 { source, destination, source_port, destination_port }
    }
}

/// Of a datagram in pieces only the first shows the ports; all have to reach one node, so that no socket is asked for.
#[inline(always)]
fn in_pieces(seen: Seen, piece: Piece, datagram: u32) -> Seen {
    let is_whole = piece == Piece::Whole;
    let known_by = match seen.known_by {
        KnownBy::Socket if !is_whole => KnownBy::Nothing,
        known_by => known_by,
    };
    Seen { known_by, piece, datagram, ..seen }
}

#[inline(always)]
fn of_tcp(flow: Flow, segment: Option<Header>) -> Seen {
    let Some(segment) = segment else {
        return Seen { flow, known_by: KnownBy::Nothing, piece: Piece::Whole, datagram: 0 };
    };
    // The first packet of a connection has SYN alone (RFC 9293 section 3.5).
    let is_first = segment.one(tcp::FLAGS) & (tcp::SYN | tcp::ACK) == tcp::SYN;
    let known_by = if is_first { KnownBy::Nothing } else { KnownBy::Connection };
    Seen { known_by, ..of_ports(flow, segment) }
}

#[inline(always)]
fn of_udp(flow: Flow, datagram: Option<Header>) -> Seen {
    match datagram {
        Some(datagram) => Seen { known_by: KnownBy::Socket, ..of_ports(flow, datagram) },
        None => Seen { flow, known_by: KnownBy::Nothing, piece: Piece::Whole, datagram: 0 },
    }
}

#[inline(always)]
fn of_ports(flow: Flow, header: Header) -> Seen {
    let ports = pair(header.two(tcp::SOURCE_PORT), header.two(tcp::DESTINATION_PORT));
    Seen { flow: Flow { ports, ..flow }, known_by: KnownBy::Nothing, piece: Piece::Whole, datagram: 0 }
}

/// The source's port and the destination's.
#[inline(always)]
fn ports(flow: &Flow) -> (u16, u16) {
    let [a, b, c, d] = flow.ports.to_ne_bytes();
    (u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d]))
}

#[inline(always)]
fn pair(source: u16, destination: u16) -> u32 {
    let ([a, b], [c, d]) = (source.to_ne_bytes(), destination.to_ne_bytes());
    u32::from_ne_bytes([a, b, c, d])
}

/// An echo goes by its identifier; an error to where the packet came from that it is about (RFC 792).
#[inline(always)]
fn of_icmp(flow: Flow, frame: Frame, at: usize) -> Seen {
    let none = Seen { flow, known_by: KnownBy::Nothing, piece: Piece::Whole, datagram: 0 };
    let Some(message) = frame.behind(at, icmp::LENGTH) else { return none };
    match message.one(icmp::TYPE) {
        icmp::ECHO | icmp::ECHO_REPLY => {
            let ports = pair(message.two(icmp::IDENTIFIER), 0);
            Seen { flow: Flow { ports, ..flow }, ..none }
        }
        icmp::UNREACHABLE | icmp::QUENCH | icmp::REDIRECT | icmp::TIME_EXCEEDED | icmp::PARAMETER => {
            let Some(inner) = frame.behind(at + icmp::LENGTH, ipv4::LENGTH) else { return none };
            let length = usize::from(inner.one(ipv4::VERSION) & 0x0f) * 4;
            let pieces = inner.two(ipv4::FRAGMENT) & ipv4::OFFSET_MASK.to_be();
            let protocol = inner.one(ipv4::PROTOCOL);
            let flow = Flow {
                source: [inner.four(ipv4::DESTINATION), 0, 0, 0],
                destination: [inner.four(ipv4::SOURCE), 0, 0, 0],
                ports: 0,
                protocol,
            };
            let has_ports = pieces == 0 && (protocol == tcp::PROTOCOL || protocol == udp::PROTOCOL);
            match frame.behind(at + icmp::LENGTH + length, 4) {
                Some(ports) if has_ports => about(flow, ports),
                Some(_) | None => Seen { flow, ..none },
            }
        }
        _ => none,
    }
}

/// The same for IPv6 (RFC 4443).
#[inline(always)]
fn of_icmpv6(flow: Flow, frame: Frame, at: usize) -> Seen {
    let none = Seen { flow, known_by: KnownBy::Nothing, piece: Piece::Whole, datagram: 0 };
    let Some(message) = frame.behind(at, icmpv6::LENGTH) else { return none };
    match message.one(icmpv6::TYPE) {
        icmpv6::ECHO | icmpv6::ECHO_REPLY => {
            let ports = pair(message.two(icmpv6::IDENTIFIER), 0);
            Seen { flow: Flow { ports, ..flow }, ..none }
        }
        icmpv6::UNREACHABLE..=icmpv6::PARAMETER => {
            let start = at + icmpv6::LENGTH;
            let Some(inner) = frame.behind(start, ipv6::LENGTH) else { return none };
            let protocol = inner.one(ipv6::NEXT_HEADER);
            let flow = Flow {
                source: inner.sixteen(ipv6::DESTINATION),
                destination: inner.sixteen(ipv6::SOURCE),
                ports: 0,
                protocol,
            };
            let has_ports = protocol == tcp::PROTOCOL || protocol == udp::PROTOCOL;
            match frame.behind(start + ipv6::LENGTH, 4) {
                Some(ports) if has_ports => about(flow, ports),
                Some(_) | None => Seen { flow, ..none },
            }
        }
        _ => none,
    }
}

/// The flow that a packet of ours belongs to, as its answers show it.
#[inline(always)]
fn about(flow: Flow, ports: Header) -> Seen {
    let ports = pair(ports.two(tcp::DESTINATION_PORT), ports.two(tcp::SOURCE_PORT));
    Seen {
        flow: Flow { ports, ..flow },
        known_by: if flow.protocol == tcp::PROTOCOL { KnownBy::Connection } else { KnownBy::Socket },
        piece: Piece::Whole,
        datagram: 0,
    }
}
