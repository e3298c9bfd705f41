//! What the ingress program makes of an active/active group's packets whose bucket has a second, with real connections and sockets on the
//! host: for each place of this node, family, protocol and number of times that the frame was sent on what the reference says.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};

use cluster_common::flow::BUCKETS;
use cluster_common::maps::NOBODY;
use cluster_common::reference::{Fate, Node, Spread, Vip};
use cluster_tests::frames::of_flow;
use cluster_tests::netns::{Netns, available};
use cluster_tests::programs::{NETWORK_CARD, Programs};
use cluster_userspace::dataplane::DATAPLANE_OBJECT;

const MAC: [u8; 6] = NETWORK_CARD.mac;
const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 0x0b];
const CLIENT: [u8; 6] = [2, 0, 0, 0, 0, 0xcc];
const MARKS: [[u8; 6]; 2] = [[2, 0xa1, 7, 7, 0, 1], [2, 0xa2, 7, 7, 0, 1]];
/// A server of TCP; UDP sockets for everybody, on all addresses and on the VIP; one for one client alone.
const PORT: u16 = 7001;
const FOR_ALL: u16 = 7002;
const ON_VIP: u16 = 7003;
const FOR_ONE: u16 = 7004;
const NOTHING: u16 = 7005;
const ACK: u8 = 0x10;
const SYN: u8 = 0x02;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;

#[test]
fn what_is_not_known_here_goes_to_the_second() {
    if !available() {
        return;
    }
    let vips: [IpAddr; 2] =
        [Ipv4Addr::new(10, 77, 0, 100).into(), Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x100).into()];
    let namespace = Netns::with_addresses(&vips).expect("a namespace");
    namespace.run(|| vips.into_iter().for_each(judge_all));
}

fn judge_all(vip: IpAddr) {
    let any: IpAddr = if vip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let listener = TcpListener::bind((vip, PORT)).expect("a listener");
    let client = TcpStream::connect((vip, PORT)).expect("a connection");
    let _served = listener.accept().expect("a connection");
    let known = client.local_addr().expect("an address");
    let unknown = SocketAddr::new(known.ip(), known.port() ^ 1);
    let socket = |ip, port| UdpSocket::bind(SocketAddr::new(ip, port)).expect("a socket");
    let _for_all = (socket(any, FOR_ALL), socket(vip, ON_VIP));
    let for_one = socket(vip, FOR_ONE);
    for_one.connect(known).expect("a socket of one client's");
    let at = |port| SocketAddr::new(vip, port);

    let mut programs = Programs::load(DATAPLANE_OBJECT).expect("the kernel takes the programs");
    programs.set_nic(NETWORK_CARD).expect("set the card's address");
    let prefix = if vip.is_ipv4() { 24 } else { 64 };
    programs.set_vip(vip, prefix, 0).expect("set the VIP");
    programs.set_lease(0, u64::MAX).expect("set the lease");
    let mut chances = 0;
    for (first, second) in [(0, 1), (1, 0), (0, usize::from(NOBODY))] {
        let spread = Spread {
            gave_up: false,
            me: 0,
            members: vec![Some(MAC), Some(OTHER)],
            buckets: vec![(first, second); BUCKETS],
            marks: MARKS,
            by_source: false,
            seed: 7,
        };
        programs.set_spread(0, u64::MAX, 0, &spread).expect("set the table");
        let vips = [Vip {
            address: vip,
            prefix: prefix as u8,
            group: 0,
            held: true,
            grace: None,
            spread: Some(Box::leak(Box::new(spread))),
            face: None,
            vlan: (0, 0),
        }];
        let node = Node {
            mac: MAC,
            forwards: false,
            sends_by_card: true,
            sends_back_by_another: false,
            vlan: None,
            vips: &vips,
            own: (None, None),
            kin: &[],
            connections: &[(known, at(PORT))],
            datagram_sockets: &[
                (None, SocketAddr::new(any, FOR_ALL)),
                (None, at(ON_VIP)),
                (Some(known), at(FOR_ONE)),
            ],
        };
        if vip.is_ipv4() {
            judge_pieces(&programs, &node, unknown, at(NOTHING));
        }
        for port in [PORT, FOR_ALL, ON_VIP, FOR_ONE, NOTHING] {
            for (protocol, flags) in [(TCP, ACK), (TCP, SYN), (UDP, 0), (ICMP, 0)] {
                for (source, from) in [known, unknown]
                    .into_iter()
                    .flat_map(|it| [CLIENT, MARKS[0], MARKS[1]].map(|mac| (it, mac)))
                {
                    let frame = of_flow(MAC, from, source, at(port), protocol, flags);
                    let mut expected = frame.clone();
                    let outcome = node.receives(&mut expected);
                    let ran = programs.run("cluster_ingress", &frame, 1).expect("the program runs");
                    let action = match outcome.fate {
                        Fate::Drop => 1,
                        Fate::Pass => 2,
                        Fate::Answer => 3,
                    };
                    assert_eq!(
                        (ran.action, &ran.frame),
                        (action, &expected),
                        "first {first}, second {second}, {source} to {vip} port {port}, protocol {protocol}, \
                         flags {flags:#x}, from {from:02x?}"
                    );
                    chances += u32::from(ran.frame[6..12] == MARKS[1] && from != MARKS[1]);
                }
            }
        }
    }
    // Of a flow to each of the ports, by a client that is known and one that is not, that is not known here: TCP 9 of 10; UDP 5, to the
    // ports of TCP and of nobody twice each, and the one client's where it is another's. Not sent on yet, or once, where this node
    // is first; once where it is second.
    assert_eq!(chances, (9 + 5) * 3, "to {vip}");
}

/// Of what comes in pieces, and of what is about a datagram and comes in pieces, all has to reach one node: no socket is asked for.
fn judge_pieces(programs: &Programs, node: &Node<'_>, from: SocketAddr, to: SocketAddr) {
    const PACKET: usize = 14;
    const UNREACHABLE: u8 = 3;
    let datagram = of_flow(MAC, CLIENT, from, to, UDP, 0);
    let mut about = of_flow(MAC, CLIENT, from, to, ICMP, 0);
    about.truncate(PACKET + 20);
    about.extend([UNREACHABLE, 3, 0, 0, 0, 0, 0, 0]);
    about.extend(&of_flow(MAC, CLIENT, to, from, UDP, 0)[PACKET..]);
    for (what, whole) in [("a datagram", datagram), ("an error about one", about)] {
        for pieces in [0, 0x20] {
            let mut frame = whole.clone();
            frame[PACKET + 6] = pieces;
            let mut expected = frame.clone();
            let outcome = node.receives(&mut expected);
            let ran = programs.run("cluster_ingress", &frame, 1).expect("the program runs");
            let is_sent_on = outcome.fate == Fate::Answer;
            assert_eq!((ran.action == 3, &ran.frame), (is_sent_on, &expected), "{what}, flags {pieces:#x}");
        }
    }
}
