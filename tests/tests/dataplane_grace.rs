//! What the ingress program makes of a VIP's packets while a hand-over is under way, with real connections on the host: for
//! each side, family and kind of packet what the reference says.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};

use cluster_common::maps::Nic;
use cluster_common::reference::{Fate, Grace, Node, Side, Vip};
use cluster_tests::frames::of_flow;
use cluster_tests::netns::{Netns, available};
use cluster_tests::programs::Programs;
use cluster_userspace::dataplane::DATAPLANE_OBJECT;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x0a];
/// The node at the other end.
const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 0x0b];
const CLIENT: [u8; 6] = [2, 0, 0, 0, 0, 0xcc];
const PORT: u16 = 7001;
const ACK: u8 = 0x10;
const SYN: u8 = 0x02;
const SYN_ACK: u8 = 0x12;
const RST: u8 = 0x04;
const TCP: u8 = 6;
const UDP: u8 = 17;

fn vips() -> [IpAddr; 2] {
    [Ipv4Addr::new(10, 77, 0, 100).into(), Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x100).into()]
}

/// Connections to the VIP within the namespace, which is what the program asks the kernel for.
fn connect(vip: IpAddr) -> (TcpListener, TcpStream, TcpStream) {
    let listener = TcpListener::bind((vip, PORT)).expect("a listener");
    let client = TcpStream::connect((vip, PORT)).expect("a connection");
    let (served, _) = listener.accept().expect("a connection");
    (listener, client, served)
}

#[test]
fn packets_go_where_their_connection_is() {
    if !available() {
        return;
    }
    let namespace = Netns::with_addresses(&vips()).expect("a namespace");
    namespace.run(|| {
        for vip in vips() {
            let (_listener, client, _served) = connect(vip);
            let known = client.local_addr().expect("an address");
            let unknown = SocketAddr::new(known.ip(), known.port() ^ 1);
            for (side, held) in [(Side::New, false), (Side::New, true), (Side::Old, false), (Side::Old, true)]
            {
                judge_all(vip, known, unknown, side, held);
            }
        }
    });
}

fn judge_all(vip: IpAddr, known: SocketAddr, unknown: SocketAddr, side: Side, held: bool) {
    let grace = Grace { side, other: OTHER };
    let mut programs = Programs::load(DATAPLANE_OBJECT).expect("the kernel takes the programs");
    let nic = Nic { mac: MAC, flags: 0, unused: 0, ifindex: 1, unused2: 0 };
    programs.set_nic(nic).expect("set the card's address");
    let prefix = if vip.is_ipv4() { 24 } else { 64 };
    programs.set_vip(vip, prefix, 0).expect("set the VIP");
    programs.set_lease(0, if held { u64::MAX } else { 0 }).expect("set the lease");
    programs.set_grace(0, u64::MAX, grace).expect("set the hand-over");
    let vips = [Vip {
        address: vip,
        prefix: prefix as u8,
        group: 0,
        held,
        grace: Some(grace),
        spread: None,
        face: None,
        vlan: (0, 0),
    }];
    let connections = [(known, SocketAddr::new(vip, PORT))];
    let node = Node {
        mac: MAC,
        forwards: false,
        sends_by_card: true,
        sends_back_by_another: false,
        vlan: None,
        vips: &vips,
        own: (None, None),
        kin: &[],
        connections: &connections,
        datagram_sockets: &[],
    };
    let mut sent_over = 0;
    for (source, of) in [(known, "of a connection"), (unknown, "of none")] {
        for (protocol, flags) in [(TCP, ACK), (TCP, SYN), (TCP, SYN_ACK), (TCP, RST), (UDP, 0)] {
            for from in [CLIENT, OTHER] {
                let to = SocketAddr::new(vip, PORT);
                let frame = of_flow(MAC, from, source, to, protocol, flags);
                let mut expected = frame.clone();
                let outcome = node.receives(&mut expected);
                let ran = programs.run("cluster_ingress", &frame, 1).expect("the program runs");
                let action = match outcome.fate {
                    Fate::Drop => 1,
                    Fate::Pass => 2,
                    Fate::Answer => 3,
                };
                let what = format!(
                    "{side:?} side, held: {held}, to {vip}, {of}, protocol {protocol}, flags {flags:#x}, from {from:02x?}"
                );
                assert_eq!((ran.action, &ran.frame), (action, &expected), "{what}");
                sent_over += u32::from(outcome.fate == Fate::Answer);
                // What comes from the other end is never sent back there.
                assert!(from != OTHER || outcome.fate == Fate::Pass, "{what}");
            }
        }
    }
    let expected = match (side, held) {
        // The middle of an unknown connection, its end included.
        (Side::New, true) => 3,
        // That, and everything that is not the middle of a known one.
        (Side::Old, false) => 3 + 4,
        (Side::New, false) | (Side::Old, true) => 0,
    };
    assert_eq!(sent_over, expected, "{side:?} side, held: {held}, to {vip}");
}
