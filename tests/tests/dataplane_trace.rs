//! What a trace shows: each frame that concerns a VIP of the group, as it was let go on, sent back or dropped, and why.

use std::net::Ipv4Addr;

use cluster_common::Verdict;
use cluster_common::maps::{Nic, TRACED_BYTES, Traced};
use cluster_tests::frames::{ArpFrame, ipv4};
use cluster_tests::netns::available;
use cluster_tests::programs::Programs;
use cluster_userspace::dataplane::DATAPLANE_OBJECT;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x0a];
const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xcc];
const CLIENT: [u8; 4] = [10, 77, 0, 9];
const VIP: [u8; 4] = [10, 77, 0, 100];
const OTHERS_VIP: [u8; 4] = [10, 77, 0, 101];
const GROUP: u32 = 7;
const OTHER_GROUP: u32 = 8;

fn programs() -> Programs {
    let mut programs = Programs::load(DATAPLANE_OBJECT).expect("the kernel takes the programs");
    let nic = Nic { mac: MAC, flags: 0, unused: 0, ifindex: 1, unused2: 0 };
    programs.set_nic(nic).expect("set the card's address");
    for (vip, group) in [(VIP, GROUP), (OTHERS_VIP, OTHER_GROUP)] {
        programs.set_vip(Ipv4Addr::from(vip).into(), 24, group).expect("set the VIP");
        programs.set_lease(group, u64::MAX).expect("set the lease");
    }
    programs
}

/// The verdict on each traced frame.
fn verdicts(traced: &[Traced]) -> Vec<u32> {
    traced.iter().map(|frame| frame.verdict).collect()
}

#[test]
fn frames_of_the_group_are_traced_as_they_are_afterwards() {
    if !available() {
        return;
    }
    let mut programs = programs();
    let frames = [
        ("cluster_ingress", ArpFrame::request(CLIENT_MAC, CLIENT, VIP).bytes(), Verdict::ArpAnswered),
        ("cluster_linear", ipv4(MAC, CLIENT, VIP, 60), Verdict::Ipv4Passed),
        ("cluster_ingress", ipv4(MAC, CLIENT, VIP, 1400), Verdict::Ipv4Passed),
        ("cluster_egress", ipv4(CLIENT_MAC, VIP, CLIENT, 1401), Verdict::EgressIpv4Passed),
    ];
    for (program, frame, _) in &frames {
        programs.run(program, frame, 1).expect("the program runs");
    }
    assert!(programs.traced().expect("read the ring").is_empty(), "nobody asks");

    programs.set_tracing(GROUP, 1, u64::MAX).expect("begin");
    for (program, frame, verdict) in &frames {
        let ran = programs.run(program, frame, 1).expect("the program runs");
        let traced = programs.traced().expect("read the ring");
        assert_eq!(verdicts(&traced), [*verdict as u32], "{program}");
        let [traced] = traced[..] else { continue };
        let captured = ran.frame.len().min(TRACED_BYTES);
        assert_eq!((traced.group, traced.length as usize), (GROUP, ran.frame.len()), "{program}");
        assert_eq!(traced.captured as usize, captured, "{program}");
        assert_eq!(traced.bytes[..captured], ran.frame[..captured], "{program}");
        assert!(traced.at > 0);
    }
    // Dark: dropped, and said why.
    programs.set_lease(GROUP, 0).expect("clear the lease");
    programs.run("cluster_ingress", &ipv4(MAC, CLIENT, VIP, 60), 1).expect("the program runs");
    assert_eq!(verdicts(&programs.traced().expect("read the ring")), [Verdict::Ipv4Dark as u32]);
}

#[test]
fn nothing_else_is_traced() {
    if !available() {
        return;
    }
    let mut programs = programs();
    programs.set_tracing(GROUP, 1, u64::MAX).expect("begin");
    let run = |programs: &mut Programs, vip| {
        programs.run("cluster_ingress", &ipv4(MAC, CLIENT, vip, 60), 1).expect("the program runs");
    };
    run(&mut programs, OTHERS_VIP);
    run(&mut programs, [10, 77, 0, 200]);
    assert!(programs.traced().expect("read the ring").is_empty());
    // A trace that nobody asks for any more has ended by itself.
    programs.set_tracing(GROUP, 1, 1).expect("one that is over");
    run(&mut programs, VIP);
    assert!(programs.traced().expect("read the ring").is_empty());
}

#[test]
fn a_sample_is_each_nth_frame_of_a_cpu() {
    if !available() {
        return;
    }
    let mut programs = programs();
    programs.set_tracing(GROUP, 10, u64::MAX).expect("begin");
    programs.run("cluster_ingress", &ipv4(MAC, CLIENT, VIP, 60), 1000).expect("the program runs");
    assert_eq!(programs.traced().expect("read the ring").len(), 100);
}

#[test]
fn a_full_ring_costs_records_and_nothing_else() {
    if !available() {
        return;
    }
    let mut programs = programs();
    programs.set_tracing(GROUP, 1, u64::MAX).expect("begin");
    let ran = programs.run("cluster_ingress", &ipv4(MAC, CLIENT, VIP, 60), 10_000).expect("the program runs");
    assert_eq!(ran.action, 2);
    let traced = programs.traced().expect("read the ring").len();
    assert!((1_000..10_000).contains(&traced), "{traced}");
    assert_eq!(programs.verdicts(GROUP).expect("read the counters")[Verdict::Ipv4Passed as usize], 10_000);
}
