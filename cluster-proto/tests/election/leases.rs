//! Leases: what renews them and what does not.

use cluster_proto::Input;

use crate::pair::{A, B, Pair, at};

#[test]
fn a_lease_counts_from_the_send_time_of_the_heartbeat_that_was_acknowledged() {
    let mut pair = Pair::serving();
    pair.run(1_000);
    pair.log.clear();
    pair.run(19_150);
    // Sent at 20.0 ms, acknowledged at 20.1, written at 20.2; the one before was sent at 10.0.
    let (epoch, until) = pair.maps[A].unwrap();
    assert_eq!((epoch.to_string(), until), ("1.1".into(), at(1_001_050_000)));
    pair.run(50);
    assert_eq!(pair.maps[A].unwrap().1, at(1_001_060_000));
    let did: Vec<_> = pair.did(A).into_iter().filter(|line| !line.starts_with("ack")).collect();
    let turn = ["heartbeat 0 Holds 1.1", "heartbeat 1 Holds 1.1", "lease 1.1"];
    assert_eq!(did, [turn, turn].concat());
}

#[test]
fn a_lapsed_lease_is_not_renewed_by_time_but_by_an_acknowledgement_in_the_same_epoch() {
    let mut pair = Pair::serving();
    // Whatever A sends is lost, and B is heard, so that A may not go on alone.
    pair.cut_from(A, true);
    pair.run(45_000);
    assert!(!pair.holds(A));
    pair.log.clear();
    pair.cut_from(A, false);
    pair.run(9_000);
    assert!(pair.holds(A) && !pair.holds(B));
    let expected = [
        "heartbeat 0 Suspended 1.1",
        "heartbeat 1 Suspended 1.1",
        "lease 1.1",
        "event Regained",
        "heartbeat 0 Holds 1.1",
        "heartbeat 1 Holds 1.1",
    ];
    assert_eq!(pair.said(A), expected);
}

#[test]
fn dark_comes_before_the_message_that_says_so() {
    let mut pair = Pair::serving();
    pair.cut_from(A, true);
    pair.run_until(A, "dark");
    let did = pair.did(A);
    let dark = did.iter().position(|line| *line == "dark").unwrap();
    assert_eq!(
        did[dark..dark + 4],
        ["dark", "event Lapse", "heartbeat 0 Suspended 1.1", "heartbeat 1 Suspended 1.1"]
    );
    assert!(!did[dark + 1..].iter().any(|line| line.contains("Holds")));
}

#[test]
fn a_lapse_that_lasts_ends_the_tenure_and_frees_the_voter() {
    let mut pair = Pair::serving();
    pair.cut_from(A, true);
    pair.run(39_000);
    // From now on A is heard, but B's acknowledgements are lost: its heartbeats carry no vote for what A asks now.
    pair.cut_from(A, false);
    pair.cut_from(B, true);
    pair.run(41_000);
    let said = pair.said(A);
    assert!(said.contains(&"event Active -> Passive: Lapse") || pair.holds(A), "{said:?}");
    assert!(!(pair.holds(A) && pair.holds(B)));
}

#[test]
fn an_acknowledgement_that_comes_late_renews_nothing() {
    let mut pair = Pair::serving();
    pair.run(1_000);
    pair.cut_from(B, true);
    pair.run(60_000);
    let (_, before) = pair.maps[A].unwrap();
    let late: Vec<_> = pair
        .sent
        .iter()
        .filter(|(from, path, _)| (*from, *path) == (B, 0))
        .map(|(_, _, bytes)| bytes.clone())
        .collect();
    let path = cluster_proto::PathIndex { peer: 0, path: 0 };
    pair.log.clear();
    pair.give(A, Input::Datagram { path, bytes: &late[late.len() - 9] });
    // It proves that B was there once, which is why A is no longer alone; what it votes for is long over.
    assert!(pair.maps[A].is_none_or(|(_, until)| until <= before), "{:?}", pair.log);
}

/// Two nodes of different timings keep to the more cautious one: leases are no longer than the other's promises allow.
#[test]
fn a_holder_with_longer_leases_shortens_them_to_what_is_promised() {
    let mut pair = Pair::new();
    let timing = &mut pair.settings[A].timing;
    timing.lease = std::time::Duration::from_millis(100);
    timing.dead_after = std::time::Duration::from_millis(110);
    timing.startup_wait = std::time::Duration::from_millis(500);
    pair.settle();
    let longest = pair.maps[A].map(|(_, until)| until.since(at(pair.now))).unwrap_or_default();
    assert!(longest.as_micros() <= 45_455, "{longest:?}");
    pair.kill(A);
    let took = pair.run_until(B, "event Passive -> Active: HolderSilent");
    assert!(!pair.holds(A) && (50_000..52_000).contains(&took), "{took}");
}

#[test]
fn different_timings_are_told() {
    let mut pair = Pair::new();
    pair.settings[A].timing.lease = std::time::Duration::from_millis(35);
    pair.start(A);
    pair.start(B);
    pair.run(10_000);
    assert!(pair.said(B).contains(&"event SettingsDiffer(NodeId(1))"), "{:?}", pair.said(B));
    assert!(pair.said(A).contains(&"event SettingsDiffer(NodeId(2))"));
}
