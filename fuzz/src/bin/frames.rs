//! What the packet programs must do with a frame, as the reference has it: no frame panics it, and whatever comes,
//! a node without a lease neither answers nor lets in nor lets out.
//!
//! That the programs do as the reference says, the tests show on frames of their own (`dataplane_reference`).
#![no_main]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cluster_common::reference::{Fate, Grace, Node, Side, Vip};
use libfuzzer_sys::fuzz_target;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x0a];
const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 0x0b];

fn vips(held: bool, grace: Option<Grace>, face: bool, vlan: (u16, u16)) -> [Vip; 2] {
    let vip = |address: IpAddr, prefix, family| Vip {
        address,
        prefix,
        group: 0,
        vlan,
        held,
        grace,
        spread: None,
        face: face.then_some([0, 0, 0x5e, 0, family, 7]),
    };
    [
        vip(Ipv4Addr::new(10, 77, 0, 100).into(), 24, 1),
        vip(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x100).into(), 64, 2),
    ]
}

fuzz_target!(|input: (u8, &[u8])| {
    let (flags, bytes) = input;
    let bit = |place: u8| flags & (1 << place) != 0;
    let held = bit(0);
    let side = if bit(2) { Side::Old } else { Side::New };
    let grace = bit(1).then_some(Grace { side, other: OTHER });
    let vlan = if bit(3) { (100, 0) } else { (0, 0) };
    let vips = vips(held, grace, bit(4), vlan);
    let node = Node {
        mac: MAC,
        forwards: bit(5),
        sends_by_card: bit(6),
        sends_back_by_another: bit(7),
        vlan: None,
        vips: &vips,
        own: (Some(Ipv4Addr::new(10, 77, 0, 1)), None),
        kin: &[OTHER],
        connections: &[],
        datagram_sockets: &[],
    };
    let mut frame = bytes.to_vec();
    let outcome = node.receives(&mut frame);
    if !held && grace.is_none() {
        assert!(outcome.fate != Fate::Answer, "a node without a lease answers {bytes:02x?}");
        assert!(outcome.served.is_none());
    }
    match outcome.fate {
        // It may be readdressed, and an answer may be longer than its question by an option.
        Fate::Pass | Fate::Drop => assert_eq!(frame.len(), bytes.len()),
        Fate::Answer => assert!((bytes.len()..=bytes.len() + 8).contains(&frame.len())),
    }
    // What was answered is no question: two that answer each other would do so for ever.
    if outcome.fate == Fate::Answer && grace.is_none() {
        let mut again = frame.clone();
        assert!(node.receives(&mut again).fate != Fate::Answer, "an answer is answered: {frame:02x?}");
    }
    let mut frame = bytes.to_vec();
    let outcome = node.sends(&mut frame);
    assert_eq!(frame.len(), bytes.len());
    if !held && grace.is_none() && outcome.counted.is_some() {
        assert!(outcome.fate == Fate::Drop, "a node without a lease lets out {bytes:02x?}");
    }
});
