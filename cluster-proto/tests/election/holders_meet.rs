//! Two holders after a partition.

use std::time::Duration;

use cluster_proto::{AnnounceSchedule, Failback};

use crate::pair::{A, B, Pair};

#[test]
fn the_higher_epoch_stays_and_announces_again_once_the_other_has_yielded() {
    let mut pair = Pair::serving();
    pair.partition(true);
    pair.run(65_000);
    assert!(pair.holds(A) && pair.holds(B), "nothing passes between the two");
    pair.log.clear();
    pair.partition(false);
    pair.run(9_000);
    let expected = [
        "heartbeat 0 Holds 1.1",
        "heartbeat 1 Holds 1.1",
        "lease 1.1",
        "event PeerUp 2",
        "event PathUp 0",
        "dark",
        "remove address",
        "event Active -> Passive: OtherHolder",
        "event NotAlone",
        "heartbeat 0 Idle vote 2.2",
        "heartbeat 1 Idle vote 2.2",
        "event PathUp 1",
    ];
    assert_eq!(pair.said(A), expected);
    let expected = [
        "heartbeat 0 Holds 2.2",
        "heartbeat 1 Holds 2.2",
        "lease 2.2",
        "event PeerUp 1",
        "event PathUp 0",
        "event DualHolder 1.1",
        "dark",
        "event NotAlone",
        "heartbeat 0 Suspended 2.2",
        "heartbeat 1 Suspended 2.2",
        "event PathUp 1",
        "lease 2.2",
        "event Regained",
        "announce",
        "heartbeat 0 Holds 2.2",
        "heartbeat 1 Holds 2.2",
    ];
    assert_eq!(pair.said(B), expected);
    assert!(!pair.holds(A) && pair.holds(B));
}

#[test]
fn they_end_with_the_first_message_in_whichever_direction() {
    for heard in [A, B] {
        let mut pair = Pair::serving();
        pair.partition(true);
        pair.run(65_000);
        assert!(pair.holds(A) && pair.holds(B));
        pair.cut_from(heard, false);
        pair.run(11_000);
        assert!(!(pair.holds(A) && pair.holds(B)), "{:?}", pair.log);
    }
}

#[test]
fn they_end_when_the_worse_ranked_sees_the_better_ranked_answer() {
    let mut pair = Pair::new();
    for settings in &mut pair.settings {
        settings.groups[0].announce = AnnounceSchedule { count: 100, interval: Duration::from_millis(20) };
    }
    pair.settle();
    pair.partition(true);
    pair.run(65_000);
    assert!(pair.holds(A) && pair.holds(B));
    // ARP passes again, heartbeats do not.
    pair.arp_cut = [false; 2];
    pair.run(30_000);
    assert!(pair.holds(A) && !pair.holds(B), "{:?}", pair.log);
    assert!(pair.said(B).contains(&"event Active -> Passive: OtherHolder"));
}

#[test]
fn healing_moves_nothing_when_only_one_held() {
    let mut pair = Pair::serving();
    pair.cut = [[true; 2]; 2];
    pair.run(300_000);
    assert!(pair.holds(A) && !pair.holds(B), "B was answered by A on the service link");
    pair.log.clear();
    pair.cut = [[false; 2]; 2];
    let mut dark = 0;
    for _ in 0..2000 {
        pair.run(100);
        dark += u32::from(!pair.holds(A));
    }
    assert!(pair.holds(A) && !pair.holds(B));
    // What A granted itself alone ends with the first message, and the vote is back after one more.
    assert!(dark <= 3, "dark for {dark} tenths of a millisecond: {:?}", pair.said(A));
    assert!(!pair.said(A).iter().any(|line| line.contains("->")), "{:?}", pair.said(A));
}

#[test]
fn failback_returns_the_group_and_a_placement_by_hand_stays() {
    let mut pair = Pair::new();
    for settings in &mut pair.settings {
        settings.groups[0].failback = Failback::After(Duration::from_millis(30));
    }
    pair.settle();
    pair.kill(A);
    pair.run(100_000);
    assert!(pair.holds(B));
    pair.log.clear();
    pair.start(A);
    let back = pair.run_until(A, "event Passive -> Active: Failback");
    assert!((30_000..120_000).contains(&back), "{back}");
    let handed: Vec<_> = pair.said(B).into_iter().filter(|line| line.starts_with("event")).collect();
    assert!(
        handed.ends_with(&["event Handover to 1: Failback", "event Active -> Passive: Failback"]),
        "{handed:?}"
    );
    assert!(pair.holds(A) && !pair.holds(B));

    // By hand it stays where it was put.
    pair.run(50_000);
    let group = cluster_proto::GroupIndex(0);
    pair.command(A, cluster_proto::Command::Demote { group, force: false });
    pair.run(1_000_000);
    assert!(pair.holds(B) && !pair.holds(A));
}
