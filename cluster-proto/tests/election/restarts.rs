//! Daemons that die and come back.

use std::time::Duration;

use crate::pair::{A, B, Pair};

/// Lets time pass in steps and says for how many of them nobody held.
fn dark_steps(pair: &mut Pair, micros: u64) -> u64 {
    let mut dark = 0;
    for _ in 0..micros / 50 {
        pair.run(50);
        assert!(!(pair.holds(A) && pair.holds(B)), "{:?}", pair.log);
        dark += u64::from(!pair.holds(A) && !pair.holds(B));
    }
    dark
}

#[test]
fn a_passive_node_that_restarts_costs_nothing() {
    for away in [1_000, 12_000, 24_000, 26_000, 45_000, 100_000, 1_000_000] {
        let mut pair = Pair::serving();
        pair.kill(B);
        assert_eq!(dark_steps(&mut pair, away), 0);
        pair.start(B);
        assert_eq!(dark_steps(&mut pair, 500_000), 0, "away for {away}: {:?}", pair.said(A));
        assert!(
            !pair.said(A).iter().any(|line| line.contains("Lapse") || line.contains("->")),
            "{:?}",
            pair.said(A)
        );
        assert!(!pair.said(B).iter().any(|line| line.contains("Active")));
        // And it can take over again.
        pair.kill(A);
        pair.run(100_000);
        assert!(pair.holds(B));
    }
}

#[test]
fn a_holder_that_restarts_within_its_lease_goes_on_in_the_same_epoch() {
    let mut pair = Pair::new();
    for settings in &mut pair.settings {
        settings.timing.lease = Duration::from_secs(2);
        settings.timing.dead_after = Duration::from_millis(2500);
        settings.timing.startup_wait = Duration::from_secs(6);
    }
    pair.start(A);
    pair.start(B);
    pair.run_until(A, "event Passive -> Active: Election");
    pair.run(1_000_000);
    pair.kill(A);
    assert_eq!(dark_steps(&mut pair, 700_000), 0);
    pair.log.clear();
    pair.start(A);
    assert_eq!(dark_steps(&mut pair, 5_000_000), 0, "{:?}", pair.said(A));
    let said = pair.said(A);
    let expected = [
        "add address",
        "event Init -> Active: Adopted",
        "reserve 2049",
        "heartbeat 0 Holds 1.1",
        "heartbeat 1 Holds 1.1",
        "event PeerUp 2",
        "event PathUp 0",
        "event PathUp 1",
        "lease 1.1",
    ];
    assert_eq!(said, expected);
}

#[test]
fn an_adopted_lease_longer_than_ours_is_cut_back_to_what_was_voted() {
    // The timing was shortened between the two runs.
    let mut pair = Pair::serving();
    pair.run(5_000);
    pair.kill(A);
    let (epoch, until) = pair.maps[A].unwrap();
    pair.maps[A] = Some((epoch, until + Duration::from_secs(2)));
    pair.start(A);
    pair.run(1_000);
    assert!(pair.maps[A].unwrap().1 <= until + Duration::from_millis(10), "{:?}", pair.said(A));
    assert!(pair.holds(A));
}

#[test]
fn a_holder_that_restarts_after_its_lease_follows() {
    let mut pair = Pair::serving();
    pair.kill(A);
    pair.run(45_000);
    pair.log.clear();
    pair.start(A);
    pair.run(500_000);
    assert!(pair.holds(B) || pair.holds(A));
    let takes = pair.log.iter().filter(|(_, _, line)| line.starts_with("event Passive -> Active")).count();
    assert_eq!(takes, 1, "{:?}", pair.log);
}

/// What it may have promised before it died is not known to it: nothing is taken on silence alone before two dead times.
#[test]
fn a_node_that_restarted_waits_before_it_takes() {
    let mut pair = Pair::new();
    for settings in &mut pair.settings {
        settings.timing.startup_wait = Duration::ZERO;
    }
    pair.disks[B] = 1;
    pair.start(B);
    let took = pair.run_until(B, "lease 1.2");
    assert!((100_000..102_000).contains(&took), "{took}");
}

#[test]
fn epochs_go_on_after_a_restart() {
    let mut pair = Pair::serving();
    for round in 0..3 {
        pair.kill(A);
        pair.kill(B);
        pair.run(100_000);
        pair.log.clear();
        pair.start(A);
        pair.run(400_000);
        let (epoch, _) = pair.maps[A].unwrap();
        assert_eq!(epoch.counter, 1025 + 1024 * round, "{:?}", pair.said(A));
    }
}
