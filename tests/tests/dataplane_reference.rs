//! The BPF programs against the reference, on generated, mutated and random frames.
//!
//! `CLUSTER_FRAMES` says how many frames (default 200 000), `CLUSTER_SEED` from which seed; both are printed when a
//! frame is judged differently.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cluster_common::Verdict;
use cluster_common::flow::BUCKETS;
use cluster_common::maps::Nic;
use cluster_common::reference::{Fate, Grace, Node, Outcome, Side, Spread, Vip};
use cluster_tests::frames::{ArpFrame, BROADCAST, NdFrame, ipv4, ipv6, set_icmpv6_checksum, tagged};
use cluster_tests::netns::{Netns, available};
use cluster_tests::programs::{NETWORK_CARD, Programs};
use cluster_userspace::dataplane::DATAPLANE_OBJECT;

const MAC: [u8; 6] = NETWORK_CARD.mac;
const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xdd];
const KIN: [[u8; 6]; 2] = [OTHER_MAC, [2, 0, 0, 0, 0, 0x0b]];
const STRANGER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xee];

/// Held, never held, run out, held; of all kinds of prefixes. The third slot has two of a family.
const VIPS: [Vip; 28] = [
    vip4([10, 77, 0, 100], 24, 0, true),
    vip4([10, 77, 0, 101], 24, 1, false),
    vip4([172, 16, 3, 4], 12, 2, false),
    vip4([172, 16, 3, 5], 32, 2, false),
    vip4([192, 0, 2, 1], 0, 255, true),
    shared(vip4([10, 77, 0, 103], 24, 3, false), Side::New),
    shared(vip4([10, 77, 0, 104], 24, 4, true), Side::New),
    shared(vip4([10, 77, 0, 105], 24, 5, false), Side::Old),
    shared(vip4([10, 77, 0, 106], 24, 6, true), Side::Old),
    on((100, 0), vip4([10, 77, 0, 107], 24, 7, true)),
    on((200, 100), vip4([10, 77, 0, 108], 24, 8, true)),
    vip4([10, 77, 0, 109], 24, 9, true),
    vip4([10, 77, 0, 110], 24, 10, false),
    vip4([10, 77, 0, 111], 24, 11, false),
    vip6([0xfd77, 0, 0, 0, 0, 0, 0, 0x100], 64, 0, true),
    vip6([0xfd77, 0, 0, 0, 0, 0, 0, 0x101], 64, 1, false),
    vip6([0xfd77, 0, 0, 9, 0, 0, 0, 1], 61, 2, false),
    vip6([0xfd77, 0, 0, 9, 0, 0, 0, 2], 128, 2, false),
    vip6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 0, 255, true),
    shared(vip6([0xfd77, 0, 0, 0, 0, 0, 0, 0x103], 64, 3, false), Side::New),
    shared(vip6([0xfd77, 0, 0, 0, 0, 0, 0, 0x104], 64, 4, true), Side::New),
    shared(vip6([0xfd77, 0, 0, 0, 0, 0, 0, 0x105], 64, 5, false), Side::Old),
    shared(vip6([0xfd77, 0, 0, 0, 0, 0, 0, 0x106], 64, 6, true), Side::Old),
    on((100, 0), vip6([0xfd77, 0, 0, 0, 0, 0, 0, 0x107], 64, 7, true)),
    on((200, 100), vip6([0xfd77, 0, 0, 0, 0, 0, 0, 0x108], 64, 8, true)),
    vip6([0xfd77, 0, 0, 0, 0, 0, 0, 0x109], 64, 9, true),
    vip6([0xfd77, 0, 0, 0, 0, 0, 0, 0x10a], 64, 10, false),
    vip6([0xfd77, 0, 0, 0, 0, 0, 0, 0x10b], 64, 11, false),
];
/// Four are being handed over, three are spread over several nodes; the second of all had been handed over once.
const LEASES: [(u32, u64); 13] = [
    (0, u64::MAX),
    (1, 0),
    (2, 1),
    (255, u64::MAX),
    (3, 0),
    (4, u64::MAX),
    (5, 1),
    (6, u64::MAX),
    (7, u64::MAX),
    (8, u64::MAX),
    (9, u64::MAX),
    (10, 0),
    (11, 0),
];
const OWN: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(10, 77, 0, 1), Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0xff, 0xfe00, 0x0a));

const fn on(vlan: (u16, u16), vip: Vip) -> Vip {
    Vip { vlan, ..vip }
}

const fn shared(vip: Vip, side: Side) -> Vip {
    Vip { grace: Some(Grace { side, other: OTHER_MAC }), ..vip }
}

const fn vip4([a, b, c, d]: [u8; 4], prefix: u8, group: u32, held: bool) -> Vip {
    let face = face(group, 1);
    Vip {
        address: IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
        prefix,
        group,
        held,
        grace: None,
        spread: None,
        face,
        vlan: (0, 0),
    }
}

const fn vip6([a, b, c, d, e, f, g, h]: [u16; 8], prefix: u8, group: u32, held: bool) -> Vip {
    let face = face(group, 2);
    Vip {
        address: IpAddr::V6(Ipv6Addr::new(a, b, c, d, e, f, g, h)),
        prefix,
        group,
        held,
        grace: None,
        spread: None,
        face,
        vlan: (0, 0),
    }
}

/// How many nodes serve the groups that are spread.
const MEMBERS: usize = 5;
/// What this node, and another, put into frames that they send on.
const MARKS: [[u8; 6]; 4] =
    [[2, 0xa1, 1, 2, 0, 1], [2, 0xa2, 1, 2, 0, 1], [2, 0xa1, 1, 2, 0, 7], [2, 0xa2, 1, 2, 0, 7]];

/// The VIPs; groups 9 to 11 are spread over some nodes, one of which the table names without an address. This one is the entry of
/// the first, and was that of the last.
fn with_tables() -> Vec<Vip> {
    let table = |group: u32| {
        let mut random = Random(0x5eed + u64::from(group));
        let place = |random: &mut Random| random.one_of(&[0, 1, 2, 3, 4, 255]);
        let buckets = (0..BUCKETS).map(|_| (place(&mut random), place(&mut random))).collect();
        let mac = |place: u8| Some([2, 0, 0, 0, 1, place]).filter(|_| place != 3);
        let members = (0..MEMBERS as u8).map(mac).collect();
        let (me, by_source, seed, gave_up) = (1, group == 10, 77, group == 11);
        let table = Spread { me, members, buckets, marks: [MARKS[0], MARKS[1]], by_source, seed, gave_up };
        let leaked: &'static Spread = Box::leak(Box::new(table));
        leaked
    };
    let tables = [table(9), table(10), table(11)];
    let spread = |group: u32| group.checked_sub(9).and_then(|at| tables.get(at as usize).copied());
    VIPS.iter().map(|vip| Vip { spread: spread(vip.group), ..*vip }).collect()
}

/// Of the groups with a lease, without one, and being handed over some have virtual Ethernet addresses.
const fn face(group: u32, family: u8) -> Option<[u8; 6]> {
    match group {
        2 | 4 | 5 | 6 | 7 | 9 | 10 | 11 | 255 => Some([0, 0, 0x5e, 0, family, group as u8]),
        _ => None,
    }
}

#[test]
fn ingress_does_what_the_reference_does() {
    compare(
        "cluster_ingress",
        |node, frame| node.receives(frame),
        |fate| match fate {
            Fate::Drop => 1,
            Fate::Pass => 2,
            Fate::Answer => 3,
        },
    );
}

#[test]
fn egress_does_what_the_reference_does() {
    compare(
        "cluster_egress",
        |node, frame| node.sends(frame),
        |fate| match fate {
            Fate::Pass | Fate::Answer => u32::MAX,
            Fate::Drop => 2,
        },
    );
}

fn compare(
    program: &str,
    judge: impl Fn(&Node<'_>, &mut Vec<u8>) -> Outcome + Send,
    action: impl Fn(Fate) -> u32 + Send,
) {
    if !available() {
        return;
    }
    // Where there are no connections and no sockets.
    let namespace = Netns::new().expect("a namespace");
    namespace.run(|| compare_here(program, judge, action));
}

fn compare_here(
    program: &str,
    judge: impl Fn(&Node<'_>, &mut Vec<u8>) -> Outcome,
    action: impl Fn(Fate) -> u32,
) {
    let from_environment = |name| std::env::var(name).ok().and_then(|value| value.parse().ok());
    let frames: u64 = from_environment("CLUSTER_FRAMES").unwrap_or(200_000);
    let seed: u64 = from_environment("CLUSTER_SEED").unwrap_or(1);

    let mut programs = Programs::load(DATAPLANE_OBJECT).expect("the kernel takes the programs");
    for group in [2, 4, 5, 6, 7, 9, 10, 11, 255] {
        programs.set_virtual_mac(group.into(), group, true).expect("set the virtual addresses");
    }
    for vip in VIPS {
        programs.set_vip_on(vip.vlan, vip.address, vip.prefix.into(), vip.group).expect("set the VIP");
    }
    for (group, until) in LEASES {
        programs.set_lease(group, until).expect("set the lease");
    }
    let vips = with_tables();
    for (number, vip) in (0..).zip(&vips) {
        if let Some(spread) = vip.spread {
            programs.set_spread(vip.group, u64::MAX, number, spread).expect("set the table");
        }
    }
    for vip in VIPS {
        if let Some(grace) = vip.grace {
            programs.set_grace(vip.group, u64::MAX, grace).expect("set the hand-over");
        }
    }
    // One that is over changes nothing.
    let over = Grace { side: Side::New, other: OTHER_MAC };
    programs.set_grace(1, 1, over).expect("set the hand-over");
    programs.set_own(OWN.0, OWN.1).expect("set the node's own addresses");
    programs.set_kin(&KIN).expect("set the cluster's addresses");
    let mut node = Node {
        mac: MAC,
        forwards: false,
        sends_by_card: false,
        sends_back_by_another: false,
        vlan: None,
        vips: &vips,
        own: (Some(OWN.0), Some(OWN.1)),
        kin: &KIN,
        connections: &[],
        datagram_sockets: &[],
    };
    let mut random = Random(seed);
    let mut claimed: [HashSet<(IpAddr, [u8; 6])>; 256] = std::array::from_fn(|_| HashSet::new());
    let mut counted = [[0_u64; Verdict::COUNT]; 256];
    let mut served: [HashSet<IpAddr>; 256] = std::array::from_fn(|_| HashSet::new());
    for number in 0..frames {
        if number % 1000 == 0 {
            node.forwards = random.below(2) == 0;
            let flags = if node.forwards { Nic::FORWARDS } else { 0 };
            // Frames run here leave by interface 1.
            let ifindex = [1, 7][random.below(2)];
            let came_in_by = [0, ifindex][random.below(2)];
            node.sends_by_card = ifindex == 1;
            node.sends_back_by_another = came_in_by == 7;
            programs.set_came_in_by(came_in_by);
            let nic = Nic { flags, ifindex, ..NETWORK_CARD };
            programs.set_nic(nic).expect("set the card's address");
        }
        let frame = random.frame();
        if program == "cluster_egress" && is_refused(&frame) {
            continue;
        }
        let mut expected = frame.clone();
        let outcome = judge(&node, &mut expected);
        let ran = programs.run(program, &frame, 1).expect("the program runs");
        assert!(
            ran.action == action(outcome.fate) && ran.frame == expected,
            "seed {seed}, frame {number}: {program} gives {} and {:02x?}\nfor {frame:02x?},\nthe reference {outcome:?} \
             and {expected:02x?}",
            ran.action,
            ran.frame,
        );
        if let Some((group, verdict)) = outcome.counted {
            counted[group as usize][verdict as usize] += 1;
            served[group as usize].extend(outcome.served);
        }
        if let Some(claim) = outcome.claim {
            let (group, verdict) = claim.counted;
            counted[group as usize][verdict as usize] += 1;
            claimed[group as usize].insert((claim.address, claim.mac));
        }
        // Counters are summed up over CPUs, which is too slow to do for each frame.
        if number % 10_000 == 0 || number + 1 == frames {
            for (group, _) in LEASES {
                let counters = programs.verdicts(group).expect("read the counters");
                assert_eq!(counters, counted[group as usize], "seed {seed}, frame {number}: group {group}");
                for claim in programs.claims(group).expect("read who claimed a VIP") {
                    assert!(
                        claimed[group as usize].contains(&claim),
                        "seed {seed}: {claim:?} is no stranger's"
                    );
                }
                for address in programs.served(group).expect("read who was served") {
                    assert!(
                        served[group as usize].contains(&address),
                        "seed {seed}: {address:?} was not served"
                    );
                }
            }
        }
    }
    let total: u64 = counted.iter().flatten().sum();
    if program == "cluster_ingress" {
        for verdict in
            [Verdict::Ipv4Spread, Verdict::Ipv6Spread, Verdict::Ipv4SecondChance, Verdict::Ipv6SecondChance]
        {
            let times: u64 = counted.iter().map(|counted| counted[verdict as usize]).sum();
            assert!(times > frames / 20_000, "only {times} of {frames} frames came to {verdict:?}");
        }
    }
    assert!(
        total * 10 > frames,
        "only {total} of {frames} frames concerned a VIP; the generator has degenerated"
    );
}

/// Whether the kernel refuses to run a classifier on the frame, which no host would send: an IP packet without a whole
/// header.
fn is_refused(frame: &[u8]) -> bool {
    match frame[12..14] {
        [0x08, 0x00] => frame.len() < 14 + 20,
        [0x86, 0xdd] => frame.len() < 14 + 40,
        _ => false,
    }
}

/// Frames from a seed; the generator is xorshift64* (Marsaglia, Vigna).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        ((self.next() >> 32) as usize * limit) >> 32
    }

    fn one_of<T: Copy>(&mut self, choice: &[T]) -> T {
        choice[self.below(choice.len())]
    }

    fn ipv4_address(&mut self) -> [u8; 4] {
        match self.below(8) {
            0 => (self.next() as u32).to_be_bytes(),
            1 => [10, 77, 0, self.next() as u8],
            2 => [172, 16 + self.below(20) as u8, 3, 4],
            3 => self.one_of(&[[0; 4], [255; 4], [224, 0, 0, 1]]),
            _ => match self.one_of(&VIPS[..13]).address {
                IpAddr::V4(address) => address.octets(),
                IpAddr::V6(_) => [0; 4],
            },
        }
    }

    fn ipv6_address(&mut self) -> Ipv6Addr {
        match self.below(8) {
            0 => Ipv6Addr::from(u128::from(self.next()) << 64 | u128::from(self.next())),
            1 => Ipv6Addr::new(0xfd77, 0, 0, self.below(20) as u16, 0, 0, 0, self.next() as u16),
            2 => Ipv6Addr::new(0xfe80 + self.below(128) as u16, 0, 0, 0, 0, 0, 0, 1),
            3 => self.one_of(&[
                Ipv6Addr::UNSPECIFIED,
                Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1),
                Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 0x100),
                Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xfe00, 0x100),
            ]),
            _ => match self.one_of(&VIPS[13..]).address {
                IpAddr::V6(address) => address,
                IpAddr::V4(_) => Ipv6Addr::LOCALHOST,
            },
        }
    }

    fn mac(&mut self) -> [u8; 6] {
        match self.below(8) {
            0 => self.one_of(&VIPS).face.unwrap_or([0, 0, 0x5e, 0, 1, 1]),
            _ => self.one_of(&[
                MAC,
                MAC,
                BROADCAST,
                OTHER_MAC,
                STRANGER_MAC,
                KIN[1],
                [1, 0, 0x5e, 0, 0, 1],
                [0; 6],
            ]),
        }
    }

    /// Options of neighbour discovery, most of them whole.
    fn options(&mut self) -> Vec<u8> {
        let mut options = Vec::new();
        for _ in 0..self.one_of(&[0, 0, 1, 1, 1, 1, 2, 3, 5]) {
            let units = self.one_of(&[1, 1, 1, 1, 1, 1, 2, 3, 8]);
            options.push(self.one_of(&[1, 1, 1, 2, 14, 200]));
            options.push(if self.below(20) == 0 { self.below(10) as u8 } else { units });
            options.extend((2..units * 8).map(|_| self.next() as u8));
        }
        if self.below(20) == 0 {
            options.truncate(self.below(options.len() + 1));
        }
        options
    }

    fn neighbour_discovery(&mut self) -> Vec<u8> {
        let target = self.ipv6_address();
        let mut message = match self.below(4) {
            0 => NdFrame::detection(self.mac(), target),
            1 => NdFrame::announcement(self.mac(), target),
            _ => NdFrame::solicitation(self.mac(), self.ipv6_address(), target),
        };
        // Each of these on its own leaves a message of a kind that hosts send.
        match self.below(8) {
            0 => message.source = self.ipv6_address(),
            1 => message.destination = self.ipv6_address(),
            2 => message.flags = self.next() as u8,
            3 => message.options = self.options(),
            4 => {
                message.source = self.ipv6_address();
                message.flags = self.one_of(&[0, 0x20, 0x40, 0x60, 0xa0, 0xff]);
                message.options = self.options();
            }
            5 => match self.below(4) {
                0 => message.hop_limit = self.next() as u8,
                1 => message.code = self.next() as u8,
                2 => message.kind = self.one_of(&[133, 134, 135, 136, 137, 128]),
                _ => message.destination = target,
            },
            _ => {}
        }
        if self.below(3) == 0 {
            message.destination_mac = self.mac();
        }
        let mut frame = message.bytes();
        if self.below(6) == 0 {
            frame = self.behind_extensions(&frame);
        }
        if self.below(8) == 0 {
            frame.resize(frame.len() + self.below(30), 0);
        }
        frame
    }

    /// The packet with extension headers put behind its fixed one.
    fn behind_extensions(&mut self, frame: &[u8]) -> Vec<u8> {
        let kinds: Vec<u8> =
            (0..1 + self.below(7)).map(|_| self.one_of(&[0, 60, 43, 44, 51, 60, 59, 50])).collect();
        let mut bytes = frame[..54].to_vec();
        bytes[20] = kinds[0];
        for (place, kind) in kinds.iter().enumerate() {
            let next = kinds.get(place + 1).copied().unwrap_or(frame[20]);
            let units = self.below(3) as u8;
            let (second, length) = match kind {
                44 => (0, 8),
                51 => (units, (usize::from(units) + 2) * 4),
                _ => (units, (usize::from(units) + 1) * 8),
            };
            let start = bytes.len();
            bytes.resize(start + length, 0);
            bytes[start] = next;
            bytes[start + 1] = second;
            if self.below(6) == 0 {
                bytes[start + 2] = self.next() as u8;
                bytes[start + 3] = self.next() as u8;
            }
        }
        bytes.extend(&frame[54..]);
        bytes
    }

    /// The four bits above a VLAN identifier.
    fn priority(&mut self) -> u16 {
        let any = self.next() as u16 & 0xf000;
        self.one_of(&[0, 0, any])
    }

    fn tag(&mut self) -> (u16, u16) {
        let any = self.next() as u16 & 0x0fff;
        let identifier = self.one_of(&[0, 100, 200, any]);
        (self.one_of(&[0x8100, 0x88a8, 0x9100]), self.priority() | identifier)
    }

    /// Makes what begins with an IPv4 header's protocol some packet that is looked into, or leaves it.
    fn upper_layer(&mut self, bytes: &mut [u8]) {
        bytes[0] = self.one_of(&[1, 6, 6, 17, 47]);
        for byte in bytes.iter_mut().skip(11) {
            *byte = self.next() as u8;
        }
        if bytes[0] == 1 {
            bytes[11] = self.one_of(&[0, 3, 8, 11, 13]);
        }
    }

    fn frame(&mut self) -> Vec<u8> {
        let mut is_summed = false;
        let mut frame = match self.below(20) {
            0..5 => {
                let sender = self.ipv4_address();
                ArpFrame {
                    destination: self.mac(),
                    source: self.mac(),
                    operation: self.one_of(&[1, 1, 1, 2, 2, 3, 0x100]),
                    sender_mac: self.mac(),
                    sender,
                    target_mac: self.mac(),
                    target: if self.below(6) == 0 { sender } else { self.ipv4_address() },
                }
                .bytes()
            }
            5..9 => {
                let length = 42 + self.below(200);
                let mut frame = ipv4(self.mac(), self.ipv4_address(), self.ipv4_address(), length);
                // Fragments of one datagram, of which the programs remember where the first went, are another test's.
                frame[18] = self.next() as u8;
                frame[19] = self.next() as u8;
                self.upper_layer(&mut frame[23..]);
                if self.below(4) == 0 {
                    frame[6..12].copy_from_slice(&self.one_of(&MARKS));
                }
                frame
            }
            9..12 => {
                let payload: Vec<u8> = (0..self.below(100)).map(|_| self.next() as u8).collect();
                let next = self.one_of(&[6, 17, 58, 0, 44, 60]);
                let mut frame =
                    ipv6(self.mac(), self.ipv6_address(), self.ipv6_address(), next, 64, &payload);
                if self.below(4) == 0 {
                    frame[6..12].copy_from_slice(&self.one_of(&MARKS));
                }
                frame
            }
            12..19 => {
                is_summed = true;
                self.neighbour_discovery()
            }
            _ => (0..14 + self.below(100)).map(|_| self.next() as u8).collect(),
        };
        let mut is_tagged = false;
        if self.below(4) == 0 {
            let tags = match self.below(3) {
                0 => vec![(0x8100, self.priority() | 100)],
                1 => vec![(0x88a8, self.priority() | 200), (0x8100, self.priority() | 100)],
                _ => (0..1 + self.below(3)).map(|_| self.tag()).collect(),
            };
            frame = tagged(&frame, &tags);
            is_tagged = true;
        }
        if self.below(3) == 0 {
            for _ in 0..1 + self.below(3) {
                let at = self.below(frame.len().min(100));
                frame[at] =
                    if self.below(2) == 0 { self.next() as u8 } else { frame[at] ^ (1 << self.below(8)) };
            }
            // A damaged message is refused for its checksum; with the right one for what else is wrong with it.
            if is_summed && !is_tagged && self.below(2) == 0 {
                set_icmpv6_checksum(&mut frame);
            }
        }
        // The kernel runs programs on nothing shorter than an Ethernet header.
        match self.below(40) {
            0..5 => frame.truncate(14 + self.below(frame.len() - 13)),
            5 => frame.resize(1500 + self.below(1000), 0xee),
            _ => {}
        }
        frame
    }
}
