//! The other is not heard any more.

use cluster_proto::Input;

use crate::pair::{A, B, Pair};

#[test]
fn a_holder_that_died_is_followed_after_the_dead_time_and_the_probe_costs_nothing() {
    let mut pair = Pair::serving();
    pair.kill(A);
    pair.run(60_000);
    let expected = [
        "heartbeat 0 Idle vote 1.1",
        "heartbeat 1 Idle vote 1.1",
        "probe 10.77.0.100",
        "event PathDown 0",
        "event PathDown 1",
        "event PeerDown 1",
        "add address",
        "heartbeat 0 Requests 2.2",
        "heartbeat 1 Requests 2.2",
        "lease 2.2",
        "announce",
        "event Passive -> Active: HolderSilent",
        "event Alone",
        "heartbeat 0 Holds 2.2",
        "heartbeat 1 Holds 2.2",
    ];
    assert_eq!(pair.said(B), expected);
    let when = |line: &str| pair.log.iter().find(|(_, _, said)| said == line).unwrap().0 - 1_001_000_000;
    // It was last heard 0.1 ms after its last heartbeat: D later it is dead, and 0.2 ms after that the address is there.
    assert_eq!(
        (when("probe 10.77.0.100"), when("event PeerDown 1"), when("lease 2.2")),
        (42_600, 50_100, 50_300)
    );
}

#[test]
fn a_holder_whose_peer_died_goes_on_alone_and_never_lapses() {
    let mut pair = Pair::serving();
    pair.kill(B);
    for _ in 0..2000 {
        pair.run(100);
        assert!(pair.holds(A), "{:?}", pair.log);
    }
    let expected = [
        "heartbeat 0 Holds 1.1",
        "heartbeat 1 Holds 1.1",
        "lease 1.1",
        "event Alone",
        "event PathDown 0",
        "event PathDown 1",
        "event PeerDown 2",
    ];
    assert_eq!(pair.said(A), expected);
    // U is L - 3/2 H - the round trip of 0.2 ms, since B was last heard.
    let alone = pair.log.iter().find(|(_, _, line)| line == "event Alone").unwrap().0;
    assert_eq!(alone - 1_001_000_000, 24_900);
}

#[test]
fn a_holder_that_is_not_heard_but_hears_goes_dark_before_the_other_takes() {
    let mut pair = Pair::serving();
    pair.cut_from(A, true);
    for _ in 0..1000 {
        pair.run(100);
        assert!(!(pair.holds(A) && pair.holds(B)), "{:?}", pair.log);
    }
    let expected = [
        "heartbeat 0 Holds 1.1",
        "heartbeat 1 Holds 1.1",
        "dark",
        "event Lapse",
        "heartbeat 0 Suspended 1.1",
        "heartbeat 1 Suspended 1.1",
        "dark",
        "remove address",
        "event Active -> Passive: OtherHolder",
        "heartbeat 0 Idle vote 2.2",
        "heartbeat 1 Idle vote 2.2",
    ];
    // The last acknowledgements that were under way when the cut began renewed the lease once more.
    let said = pair.said(A);
    assert_eq!(said[said.len() - 11..], expected);
    assert!(pair.holds(B));
}

#[test]
fn a_holder_that_is_heard_but_hears_nothing_goes_on_and_the_other_stays() {
    let mut pair = Pair::serving();
    pair.cut_from(B, true);
    for _ in 0..3000 {
        pair.run(100);
        assert!(pair.holds(A) && !pair.holds(B), "{:?}", pair.log);
    }
    assert_eq!(pair.said(B), ["heartbeat 0 Idle vote 1.1", "heartbeat 1 Idle vote 1.1"]);
}

#[test]
fn whoever_is_answered_by_the_holder_does_not_take_and_one_lost_answer_is_not_enough() {
    let mut pair = Pair::serving();
    pair.cut = [[true; 2]; 2];
    pair.run(500_000);
    assert!(pair.holds(A) && !pair.holds(B));
    assert!(!pair.said(B).contains(&"add address"), "{:?}", pair.said(B));
    // One question is lost.
    let probes = |pair: &Pair| pair.log.iter().filter(|(_, _, line)| line.starts_with("probe")).count();
    let seen = probes(&pair);
    pair.arp_cut = [true; 2];
    while probes(&pair) == seen {
        pair.run(100);
    }
    pair.arp_cut = [false; 2];
    pair.run(500_000);
    assert!(pair.holds(A) && !pair.holds(B));
    // And three are.
    pair.arp_cut = [true; 2];
    pair.run(50_000);
    assert!(pair.holds(A) && pair.holds(B), "nothing passes between the two");
}

#[test]
fn a_loop_that_overslept_counts_the_silence_anew() {
    let mut pair = Pair::serving();
    pair.kill(A);
    pair.run(45_000);
    pair.give(B, Input::Overslept(std::time::Duration::from_millis(25)));
    assert_eq!(pair.said(B).last(), Some(&"event Overslept(25ms)"));
    let took = pair.run_until(B, "lease 2.2");
    assert_eq!(took, 50_200, "D from then, and the address");
}

#[test]
fn datagrams_lost_by_the_kernel_prove_no_silence_either() {
    let mut pair = Pair::serving();
    pair.kill(A);
    pair.run(45_000);
    pair.give(B, Input::SocketOverflow);
    assert_eq!(pair.run_until(B, "lease 2.2"), 50_200);
}

#[test]
fn what_was_granted_alone_ends_with_the_first_message_even_after_oversleeping() {
    let mut pair = Pair::serving();
    pair.partition(true);
    pair.run(45_000);
    assert!(pair.holds(A));
    pair.give(A, Input::Overslept(std::time::Duration::from_millis(25)));
    // What B sent before the cut is all there is of its promise, and that is over.
    pair.cut_from(B, false);
    pair.run(6_000);
    assert!(!pair.holds(A), "{:?}", pair.log);
}
