//! The BPF programs against the reference, on generated, mutated and random frames.
//!
//! `CLUSTER_FRAMES` says how many frames (default 200 000), `CLUSTER_SEED` from which seed; both are printed when a
//! frame is judged differently.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use cluster_common::Verdict;
use cluster_common::reference::{Fate, Node, Outcome, Vip};
use cluster_tests::frames::{ArpFrame, BROADCAST, ipv4, tagged};
use cluster_tests::netns::available;
use cluster_tests::programs::Programs;
use cluster_userspace::dataplane::DATAPLANE_OBJECT;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x0a];
const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xdd];

/// Held, never held, run out, held; of all kinds of prefixes. The third slot has two.
const VIPS: [Vip; 5] = [
    Vip { address: [10, 77, 0, 100], prefix: 24, group: 0, held: true },
    Vip { address: [10, 77, 0, 101], prefix: 24, group: 1, held: false },
    Vip { address: [172, 16, 3, 4], prefix: 12, group: 2, held: false },
    Vip { address: [172, 16, 3, 5], prefix: 32, group: 2, held: false },
    Vip { address: [192, 0, 2, 1], prefix: 0, group: 255, held: true },
];
const LEASES: [(u32, u64); 4] = [(0, u64::MAX), (1, 0), (2, 1), (255, u64::MAX)];

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

fn compare(program: &str, judge: impl Fn(&Node<'_>, &mut [u8]) -> Outcome, action: impl Fn(Fate) -> u32) {
    if !available() {
        return;
    }
    let from_environment = |name| std::env::var(name).ok().and_then(|value| value.parse().ok());
    let frames: u64 = from_environment("CLUSTER_FRAMES").unwrap_or(200_000);
    let seed: u64 = from_environment("CLUSTER_SEED").unwrap_or(1);

    let mut programs = Programs::load(DATAPLANE_OBJECT).expect("the kernel takes the programs");
    programs.set_mac(MAC).expect("set the card's address");
    for vip in VIPS {
        programs.set_vip(Ipv4Addr::from(vip.address), vip.prefix.into(), vip.group).expect("set the VIP");
    }
    for (group, until) in LEASES {
        programs.set_lease(group, until).expect("set the lease");
    }
    let node = Node { mac: MAC, vips: &VIPS };
    let mut random = Random(seed);
    let mut counted = [[0_u64; Verdict::COUNT]; 256];
    let mut served: [HashSet<[u8; 4]>; 256] = std::array::from_fn(|_| HashSet::new());
    for number in 0..frames {
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
        // Counters are summed up over CPUs, which is too slow to do for each frame.
        if number % 10_000 == 0 || number + 1 == frames {
            for (group, _) in LEASES {
                let counters = programs.verdicts(group).expect("read the counters");
                assert_eq!(counters, counted[group as usize], "seed {seed}, frame {number}: group {group}");
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

    fn address(&mut self) -> [u8; 4] {
        match self.below(8) {
            0 => (self.next() as u32).to_be_bytes(),
            1 => [10, 77, 0, self.next() as u8],
            2 => [172, 16 + self.below(20) as u8, 3, 4],
            3 => self.one_of(&[[0; 4], [255; 4], [224, 0, 0, 1]]),
            _ => self.one_of(&VIPS).address,
        }
    }

    fn mac(&mut self) -> [u8; 6] {
        self.one_of(&[MAC, MAC, BROADCAST, OTHER_MAC, [1, 0, 0x5e, 0, 0, 1], [0; 6]])
    }

    fn frame(&mut self) -> Vec<u8> {
        let mut frame = match self.below(10) {
            0..5 => {
                let sender = self.address();
                ArpFrame {
                    destination: self.mac(),
                    source: self.mac(),
                    operation: self.one_of(&[1, 1, 1, 2, 2, 3, 0x100]),
                    sender_mac: self.mac(),
                    sender,
                    target_mac: self.mac(),
                    target: if self.below(6) == 0 { sender } else { self.address() },
                }
                .bytes()
            }
            5..9 => {
                let length = 42 + self.below(200);
                ipv4(self.mac(), self.address(), self.address(), length)
            }
            _ => (0..14 + self.below(100)).map(|_| self.next() as u8).collect(),
        };
        if self.below(5) == 0 {
            let tag = |random: &mut Self| (random.one_of(&[0x8100, 0x88a8, 0x9100]), random.next() as u16);
            let tags: Vec<_> = (0..1 + self.below(3)).map(|_| tag(self)).collect();
            frame = tagged(&frame, &tags);
        }
        if self.below(3) == 0 {
            for _ in 0..1 + self.below(3) {
                let at = self.below(frame.len().min(50));
                frame[at] =
                    if self.below(2) == 0 { self.next() as u8 } else { frame[at] ^ (1 << self.below(8)) };
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
