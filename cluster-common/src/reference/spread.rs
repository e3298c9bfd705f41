//! Active/active groups: which of several nodes a packet to a VIP is for.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Node;
use crate::flow::{By, Flow};

/// A table of buckets.
#[derive(Clone, Debug)]
pub struct Spread {
    /// This node's place.
    pub me: usize,
    /// By place: the node's Ethernet address.
    pub members: Vec<Option<[u8; 6]>>,
    /// By bucket: the places of first and second; nobody's is beyond the members.
    pub buckets: Vec<(usize, usize)>,
    /// What this node puts into frames as their source when it sends them on, for the first time and for the second.
    pub marks: [[u8; 6]; 2],
    /// Whether all flows of a client are one.
    pub by_source: bool,
    /// What the hash is begun with.
    pub seed: u64,
    /// Whether this node was the entry until just now.
    pub gave_up: bool,
}

/// What a packet shows.
struct Seen {
    client: IpAddr,
    vip: IpAddr,
    protocol: u8,
    /// The ports as they are on the wire: the client's, the VIP's. An echo has its identifier as the first.
    ports: [[u8; 2]; 2],
    /// A segment from the middle of a TCP connection.
    midway: bool,
    /// A UDP datagram, or what is about one, that came in one piece.
    datagram: bool,
}

impl Node<'_> {
    /// To which place a packet goes, and whether for a second chance; `None` if it stays here.
    pub(super) fn goes_to(
        &self,
        vip: IpAddr,
        table: &Spread,
        frame: &[u8],
        packet: &[u8],
    ) -> Option<(usize, bool)> {
        let times = table.times_sent_on(&frame[6..12]);
        if times == 2 {
            return None;
        }
        let seen = Seen::of(vip, packet);
        let (first, second) = table.buckets[seen.bucket(table)];
        if times == 0 && first != table.me {
            return Some((first, false));
        }
        let other = if first == table.me { second } else { first };
        let from = SocketAddr::new(seen.client, u16::from_be_bytes(seen.ports[0]));
        let to = SocketAddr::new(seen.vip, u16::from_be_bytes(seen.ports[1]));
        let is_unknown = seen.midway && !self.connections.contains(&(from, to))
            || seen.datagram && !self.takes_datagram(from, to);
        (is_unknown && other != 255).then_some((other, true))
    }
}

impl Node<'_> {
    /// Whether the host has a UDP socket for a datagram with these ends.
    fn takes_datagram(&self, from: SocketAddr, to: SocketAddr) -> bool {
        self.datagram_sockets.iter().any(|&(peer, local)| {
            let is_bound_there = local.ip().is_unspecified() || local.ip() == to.ip();
            local.port() == to.port() && is_bound_there && peer.is_none_or(|peer| peer == from)
        })
    }
}

impl Spread {
    fn times_sent_on(&self, source: &[u8]) -> usize {
        let [first, second] = self.marks;
        if source[2..4] != first[2..4] {
            0
        } else if source[..2] == first[..2] {
            1
        } else if source[..2] == second[..2] {
            2
        } else {
            0
        }
    }
}

impl Seen {
    /// Of a packet whose fixed header is there; which it is, the VIP's family says.
    fn of(vip: IpAddr, packet: &[u8]) -> Self {
        match vip {
            IpAddr::V4(_) => {
                let seen = Self::of_ipv4(packet);
                let is_whole = u16::from_be_bytes([packet[6], packet[7]]) & 0x3fff == 0;
                Self { datagram: seen.datagram && is_whole, ..seen }
            }
            IpAddr::V6(_) => Self::of_ipv6(packet),
        }
    }

    fn of_ipv4(packet: &[u8]) -> Self {
        let address = |at: usize| Ipv4Addr::new(packet[at], packet[at + 1], packet[at + 2], packet[at + 3]);
        let (client, vip) = (address(12).into(), address(16).into());
        let none =
            Self { client, vip, protocol: packet[9], ports: [[0; 2]; 2], midway: false, datagram: false };
        if u16::from_be_bytes([packet[6], packet[7]]) & 0x1fff != 0 {
            return none;
        }
        let Some(upper) = packet.get(usize::from(packet[0] & 0x0f) * 4..) else { return none };
        match (packet[9], upper) {
            (1, &[0 | 8, _, _, _, a, b, _, _, ..]) => Self { ports: [[a, b], [0; 2]], ..none },
            (1, &[3 | 4 | 5 | 11 | 12, _, _, _, _, _, _, _, ref inner @ ..]) => {
                let Some(header) = inner.first_chunk::<20>() else { return none };
                let address =
                    |at: usize| Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]);
                let (client, vip) = (address(16).into(), address(12).into());
                let about = Self { client, vip, protocol: header[9], ..none };
                let is_first = u16::from_be_bytes([header[6], header[7]]) & 0x1fff == 0;
                let upper = inner.get(usize::from(header[0] & 0x0f) * 4..);
                match upper {
                    Some(&[a, b, c, d, ..]) if is_first && matches!(header[9], 6 | 17) => {
                        let (midway, datagram) = (header[9] == 6, header[9] == 17);
                        Self { ports: [[c, d], [a, b]], midway, datagram, ..about }
                    }
                    _ => about,
                }
            }
            _ => none.with_ports(packet[9], upper),
        }
    }

    fn of_ipv6(packet: &[u8]) -> Self {
        let address =
            |bytes: &[u8]| bytes.first_chunk::<16>().map_or(Ipv6Addr::UNSPECIFIED, |it| (*it).into());
        let (client, vip) = (address(&packet[8..]).into(), address(&packet[24..]).into());
        let none =
            Self { client, vip, protocol: packet[6], ports: [[0; 2]; 2], midway: false, datagram: false };
        let upper = &packet[40..];
        match (packet[6], upper) {
            (58, &[128 | 129, _, _, _, a, b, _, _, ..]) => Self { ports: [[a, b], [0; 2]], ..none },
            (58, &[1..=4, _, _, _, _, _, _, _, ref inner @ ..]) => {
                let Some(header) = inner.first_chunk::<40>() else { return none };
                let (client, vip) = (address(&header[24..]).into(), address(&header[8..]).into());
                let about = Self { client, vip, protocol: header[6], ..none };
                match inner.get(40..) {
                    Some(&[a, b, c, d, ..]) if matches!(header[6], 6 | 17) => {
                        let (midway, datagram) = (header[6] == 6, header[6] == 17);
                        Self { ports: [[c, d], [a, b]], midway, datagram, ..about }
                    }
                    _ => about,
                }
            }
            (44, &[next, _, high, low, _, _, _, _, ref rest @ ..]) => {
                let piece = Self { protocol: next, ..none };
                let is_first = u16::from_be_bytes([high, low]) >> 3 == 0;
                let seen = if is_first { piece.with_ports(next, rest) } else { piece };
                Self { datagram: false, ..seen }
            }
            _ => none.with_ports(packet[6], upper),
        }
    }

    fn with_ports(self, protocol: u8, upper: &[u8]) -> Self {
        match (protocol, upper) {
            (6, &[a, b, c, d, .., flags]) if upper.len() == 14 => {
                Self { ports: [[a, b], [c, d]], midway: flags & 0x12 != 0x02, ..self }
            }
            (6, upper) if upper.len() > 14 => self.with_ports(protocol, &upper[..14]),
            (17, &[a, b, c, d, ..]) => Self { ports: [[a, b], [c, d]], datagram: true, ..self },
            _ => self,
        }
    }

    fn bucket(&self, table: &Spread) -> usize {
        let words = |address: IpAddr| match address {
            IpAddr::V4(address) => [u32::from_ne_bytes(address.octets()), 0, 0, 0],
            IpAddr::V6(address) => {
                let octets = address.octets();
                core::array::from_fn(|at| {
                    u32::from_ne_bytes(core::array::from_fn(|byte| octets[at * 4 + byte]))
                })
            }
        };
        let [[a, b], [c, d]] = self.ports;
        let flow = Flow {
            source: words(self.client),
            destination: words(self.vip),
            ports: u32::from_ne_bytes([a, b, c, d]),
            protocol: self.protocol,
        };
        let by = if table.by_source { By::Source } else { By::Flow };
        flow.bucket(by, table.seed)
    }
}

#[cfg(test)]
mod tests {
    use std::boxed::Box;
    use std::net::SocketAddr;
    use std::vec;
    use std::vec::Vec;

    use super::super::{Fate, Node, Vip};
    use super::*;
    use crate::flow::BUCKETS;

    const NODES: usize = 4;
    const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);
    const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 9);

    /// The generator is xorshift64* (Marsaglia, Vigna).
    struct Random(u64);

    impl Random {
        fn below(&mut self, limit: usize) -> usize {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            ((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as usize * limit) >> 32
        }
    }

    fn mac(node: usize) -> [u8; 6] {
        [2, 0, 0, 0, 1, node as u8]
    }

    /// A table of a node, of whatever version: any node may be first and second of any bucket, or nobody.
    fn table(random: &mut Random, me: usize) -> &'static Spread {
        let mut place = || [0, 1, 2, 3, 255][random.below(5)];
        let mark = |times| [2, times, 7, 7, 0, me as u8];
        let buckets = (0..BUCKETS).map(|_| (place(), place())).collect();
        let members = (0..NODES).map(|node| Some(mac(node))).collect();
        Box::leak(Box::new(Spread {
            me,
            members,
            buckets,
            marks: [mark(0xa1), mark(0xa2)],
            by_source: false,
            seed: 7,
            gave_up: false,
        }))
    }

    fn segment(port: u16, flags: u8, to: [u8; 6]) -> Vec<u8> {
        let mut frame = vec![0; 54];
        frame[..6].copy_from_slice(&to);
        frame[6..14].copy_from_slice(&[2, 0, 0, 0, 0, 0xcc, 8, 0]);
        frame[14] = 0x45;
        frame[23] = 6;
        frame[26..30].copy_from_slice(&CLIENT.octets());
        frame[30..34].copy_from_slice(&VIP.octets());
        frame[34..36].copy_from_slice(&port.to_be_bytes());
        frame[37] = 80;
        frame[47] = flags;
        frame
    }

    /// Whatever tables the nodes go by and whatever connections they have: a packet is sent on twice at the most, and ends on
    /// a node or nowhere.
    #[test]
    fn no_packet_is_sent_on_more_than_twice() {
        let mut random = Random(0x5eed);
        let mut times = [0_usize; 3];
        for _ in 0..20 {
            let tables: Vec<&'static Spread> = (0..NODES).map(|node| table(&mut random, node)).collect();
            for port in 1..=2000_u16 {
                let flags = [0x02, 0x10, 0x10, 0x11][random.below(4)];
                let owner = random.below(NODES + 1);
                let connection = (SocketAddr::from((CLIENT, port)), SocketAddr::from((VIP, 80)));
                let mut at = random.below(NODES);
                let mut frame = segment(port, flags, mac(at));
                if random.below(4) == 0 {
                    frame[23] = 17;
                }
                let mut sent_on = 0;
                loop {
                    let vips = [Vip {
                        address: VIP.into(),
                        prefix: 24,
                        group: 0,
                        vlan: (0, 0),
                        held: at == 0,
                        grace: None,
                        spread: Some(tables[at]),
                        face: None,
                    }];
                    let (known, socket) = ([connection], [(None, connection.1)]);
                    let node = Node {
                        mac: mac(at),
                        forwards: false,
                        sends_by_card: true,
                        sends_back_by_another: false,
                        vlan: None,
                        vips: &vips,
                        own: (None, None),
                        kin: &[],
                        connections: if owner == at { &known } else { &[] },
                        datagram_sockets: if owner == at { &socket } else { &[] },
                    };
                    if node.receives(&mut frame).fate != Fate::Answer {
                        break;
                    }
                    sent_on += 1;
                    assert!(sent_on <= 2, "port {port}, flags {flags:#x}, owner {owner}: {frame:02x?}");
                    at = usize::from(frame[5]);
                }
                times[sent_on] += 1;
            }
        }
        assert!(times.iter().all(|&times| times > 1000), "{times:?}");
    }
}
