//! Daemons that are replaced in place, while their leases last.

use std::time::Duration;

use cluster_proto::wire::{RESTART_LEASE, RESTART_PROMISE};
use cluster_proto::{Command, Failback, Refusal};

use crate::many::Many;
use crate::pair::{A, B, Pair, at};

/// Lets time pass in steps, in each of which one of the two holds, and only one.
fn served(pair: &mut Pair, micros: u64) {
    for _ in 0..micros / 50 {
        pair.run(50);
        assert!(pair.holds(A) != pair.holds(B), "at {}: {:?}", pair.now, pair.log);
    }
}

fn moves(pair: &Pair, node: usize) -> Vec<&str> {
    let said = pair.said(node).into_iter();
    said.filter(|line| line.contains("->") || line.contains("Lapse") || line.contains("dark")).collect()
}

/// The longest promise that a node's disk says it may have given.
fn kept(pair: &Pair, node: usize) -> Duration {
    pair.memories[node].map(|memory| memory.longest_promise).unwrap_or_default()
}

#[test]
fn a_holder_that_is_replaced_serves_on_in_the_same_epoch() {
    for away in [100, 1_000, 30_000, 60_000, 300_000, 1_400_000] {
        let mut pair = Pair::serving();
        let epoch = pair.maps[A].map(|(epoch, _)| epoch);
        pair.replace(A);
        let left = pair.maps[A].map(|(_, until)| until.since(at(pair.now))).unwrap_or_default();
        assert!(left > Duration::from_millis(1900) && left <= RESTART_LEASE, "{left:?}");
        served(&mut pair, away);
        pair.log.clear();
        pair.start(A);
        served(&mut pair, 500_000);
        assert_eq!(pair.maps[A].map(|(epoch, _)| epoch), epoch, "away for {away}");
        assert_eq!(moves(&pair, A), ["event Init -> Active: Adopted"], "away for {away}");
        assert!(moves(&pair, B).is_empty(), "away for {away}: {:?}", pair.said(B));
        // What was promised for long ends with the usual lease, on disk, too, and a failover is as quick as ever.
        assert_eq!(kept(&pair, B), Duration::from_millis(50), "away for {away}");
        pair.kill(A);
        let took = pair.run_until(B, "event Passive -> Active: HolderSilent");
        assert!(took < 52_000, "away for {away}: {took}");
    }
}

#[test]
fn what_is_promised_for_a_restart_is_on_disk_before_it_is_promised() {
    let mut pair = Pair::serving();
    assert_eq!(kept(&pair, B), Duration::from_millis(50));
    pair.replace(A);
    assert_eq!(kept(&pair, B), RESTART_PROMISE);
}

#[test]
fn a_holder_that_never_comes_back_is_followed_when_its_lease_is_over() {
    let mut pair = Pair::serving();
    pair.replace(A);
    let took = pair.run_until(B, "event Passive -> Active: HolderSilent");
    assert!(!pair.holds(A), "its lease is over");
    assert!((2_199_000..2_203_000).contains(&took), "{took}");
    pair.start(A);
    served(&mut pair, 500_000);
    assert!(pair.holds(B));
}

/// Being told to restart does not keep the other from serving.
#[test]
fn one_that_waits_for_its_own_restart_follows_a_holder_that_never_comes_back() {
    let mut pair = Pair::serving();
    pair.replace(A);
    pair.run(100_000);
    pair.command(B, Command::PrepareRestart);
    let took = pair.run_until(B, "event Passive -> Active: HolderSilent");
    assert!((2_099_000..2_103_000).contains(&took), "{took}");
    // Then it may go, too, alone as it is.
    pair.run_until(B, "reply 7 done");
    assert!(pair.holds(B));
}

#[test]
fn one_that_comes_back_without_its_lease_frees_the_voter_at_once() {
    let mut pair = Pair::serving();
    pair.replace(A);
    pair.run(100_000);
    pair.maps[A] = None;
    pair.start(A);
    pair.run(200_000);
    assert!(pair.holds(A) != pair.holds(B), "{:?}", pair.log);
}

#[test]
fn a_passive_node_that_is_replaced_costs_nothing() {
    for away in [1_000, 24_000, 60_000, 1_000_000] {
        let mut pair = Pair::serving();
        pair.log.clear();
        pair.replace(B);
        served(&mut pair, away);
        pair.start(B);
        served(&mut pair, 500_000);
        assert!(moves(&pair, A).is_empty(), "away for {away}: {:?}", pair.said(A));
        pair.kill(A);
        pair.run(100_000);
        assert!(pair.holds(B));
    }
}

#[test]
fn a_holder_that_is_alone_can_be_replaced_and_the_other_started_meanwhile() {
    for early in [0, 5_000, 80_000] {
        let mut pair = Pair::serving();
        pair.kill(B);
        pair.run(200_000);
        pair.replace(A);
        served(&mut pair, 100_000 - early);
        pair.start(B);
        served(&mut pair, early);
        pair.start(A);
        served(&mut pair, 500_000);
        assert!(pair.holds(A), "{:?}", pair.log);
        assert!(!pair.said(B).iter().any(|line| line.contains("-> Active")));
    }
}

#[test]
fn a_restart_that_is_called_off_leaves_no_long_lease() {
    let mut pair = Pair::serving();
    pair.command(A, Command::PrepareRestart);
    pair.run_until(A, "reply 7 done");
    pair.command(A, Command::CancelRestart);
    served(&mut pair, 100_000);
    let left = pair.maps[A].map(|(_, until)| until.since(at(pair.now))).unwrap_or_default();
    assert!(left <= Duration::from_millis(40), "{left:?}");
    assert_eq!(kept(&pair, B), Duration::from_millis(50));
    pair.kill(A);
    let took = pair.run_until(B, "event Passive -> Active: HolderSilent");
    assert!(took < 52_000, "{took}");
}

/// The process that was to be replaced is still there a second later.
#[test]
fn one_that_is_ready_and_is_not_replaced_goes_on() {
    let mut pair = Pair::serving();
    pair.command(A, Command::PrepareRestart);
    pair.run_until(A, "reply 7 done");
    pair.log.clear();
    served(&mut pair, 3_000_000);
    assert!(moves(&pair, A).is_empty() && moves(&pair, B).is_empty(), "{:?}", pair.log);
    assert_eq!(kept(&pair, B), Duration::from_millis(50));
    // And it may give the group away again.
    pair.command(A, Command::Demote { group: cluster_proto::GroupIndex(0), force: false });
    pair.run_until(A, "reply 7 done");
    assert!(pair.holds(B));
}

#[test]
fn while_one_gets_ready_it_is_given_no_group_and_takes_no_order() {
    let mut pair = Pair::serving();
    pair.command(B, Command::PrepareRestart);
    pair.command(B, Command::Promote { group: cluster_proto::GroupIndex(0), force: false });
    assert!(pair.said(B).contains(&"reply 7 Busy"), "{:?}", pair.said(B));
    pair.command(B, Command::PrepareRestart);
    assert_eq!(pair.said(B).iter().filter(|line| **line == "reply 7 Busy").count(), 2);
    // A clean stop comes first.
    pair.command(A, Command::PrepareRestart);
    pair.command(A, Command::Resign);
    assert!(pair.said(A).contains(&"reply 7 Superseded"), "{:?}", pair.said(A));
}

/// A hand-over that is under way is waited for.
#[test]
fn a_hand_over_comes_before_the_restart() {
    let mut pair = Pair::serving();
    pair.command(B, Command::Promote { group: cluster_proto::GroupIndex(0), force: false });
    pair.run(250);
    pair.command(A, Command::PrepareRestart);
    pair.run_until(B, "event Passive -> Active: Promote");
    pair.run_until(A, "reply 7 done");
    assert!(pair.holds(B) && !pair.holds(A));
}

#[test]
fn a_placement_by_hand_and_a_drain_outlast_a_restart() {
    let mut pair = Pair::new();
    for settings in &mut pair.settings {
        settings.groups[0].failback = Failback::After(Duration::ZERO);
    }
    pair.settle();
    pair.command(B, Command::Promote { group: cluster_proto::GroupIndex(0), force: false });
    pair.run(500_000);
    assert!(pair.holds(B));
    pair.replace(B);
    pair.run(100_000);
    pair.start(B);
    served(&mut pair, 1_000_000);
    assert!(pair.holds(B), "it was placed there by hand");

    pair.command(B, Command::Drain { force: false });
    pair.run(500_000);
    assert!(pair.holds(A));
    pair.replace(B);
    pair.run(100_000);
    pair.start(B);
    pair.run(500_000);
    pair.kill(A);
    pair.run(1_000_000);
    assert!(!pair.holds(B), "it is drained still");
    pair.command(B, Command::Undrain);
    pair.run(200_000);
    assert!(pair.holds(B));
}

fn ready(many: &mut Many, node: usize) {
    many.replies.clear();
    many.command(node, Command::PrepareRestart);
    many.run_until(|many| !many.replies.is_empty());
    assert_eq!(many.replies, [(node, Ok(()))]);
}

/// Somebody holds in every step.
fn held(many: &mut Many, micros: u64) {
    for _ in 0..micros / 50 {
        many.run(50);
        assert_eq!(many.holders(), [0], "after {} us", many.now - 1_000_000_000);
    }
}

#[test]
fn by_majority_each_node_can_be_replaced() {
    for node in 0..3 {
        for away in [1_000, 60_000, 300_000, 1_400_000] {
            let mut many = Many::serving(3, 40, 50);
            ready(&mut many, node);
            let resumed = many.leave_for_the_next(node);
            held(&mut many, away);
            many.start_next(node, resumed);
            held(&mut many, 1_000_000);
            let kept = many.memories.iter().flatten().map(|memory| memory.longest_promise).max();
            assert_eq!(kept, Some(Duration::from_millis(50)));
            many.kill(0);
            many.run(60_000);
            assert_eq!(many.holders(), [1], "a failover is as quick as ever");
        }
    }
}

/// All at once, as by a script on every node: they go one after the other, and nothing moves.
#[test]
fn of_several_that_are_told_at_once_one_goes_after_the_other() {
    let mut many = Many::serving(3, 40, 50);
    for node in [2, 0, 1] {
        many.command(node, Command::PrepareRestart);
    }
    let mut gone = Vec::new();
    let mut away = None;
    for step in 0_u64..60_000 {
        held(&mut many, 50);
        for (node, outcome) in std::mem::take(&mut many.replies) {
            assert_eq!(outcome, Ok(()), "node {node}");
            assert!(away.is_none(), "node {node} goes while another is away");
            away = Some((step + 2000, node, many.leave_for_the_next(node)));
            gone.push(node);
        }
        if let Some((_, node, resumed)) = away.take_if(|(until, ..)| *until <= step) {
            many.start_next(node, resumed);
        }
    }
    assert_eq!(gone, [0, 1, 2], "within three seconds");
}

#[test]
fn a_voter_on_whom_a_holder_depends_is_not_replaced() {
    let mut many = Many::serving(3, 40, 50);
    many.kill(2);
    many.run(100_000);
    many.command(1, Command::PrepareRestart);
    for _ in 0..5 {
        held(&mut many, 1_001_000);
    }
    assert_eq!(many.replies, [(1, Err(Refusal::VoteNeeded))]);
    // The holder can: the other's promise is enough.
    ready(&mut many, 0);
    let resumed = many.leave_for_the_next(0);
    held(&mut many, 300_000);
    many.start_next(0, resumed);
    held(&mut many, 1_000_000);
}

#[test]
fn without_promises_that_are_remembered_the_holder_stays() {
    let mut many = Many::serving(3, 40, 50);
    for node in [1, 2] {
        many.disk_fails[node] = true;
    }
    many.command(0, Command::PrepareRestart);
    for _ in 0..5 {
        held(&mut many, 1_001_000);
    }
    assert_eq!(many.replies, [(0, Err(Refusal::NotPromised))]);
    // One of them is enough.
    many.disk_fails[1] = false;
    many.run(1_100_000);
    many.replies.clear();
    many.command(0, Command::PrepareRestart);
    held(&mut many, 1_500_000);
    assert_eq!(many.replies, [(0, Ok(()))]);
}

/// A voter that has promised for long is itself killed and started: it votes for nobody while the lease lasts.
#[test]
fn a_long_promise_binds_over_a_restart_of_the_voter() {
    let (a, b, c) = (0, 1, 2);
    let mut many = Many::serving(3, 40, 50);
    ready(&mut many, a);
    drop(many.leave_for_the_next(a));
    for voter in [b, c] {
        many.run(20_000);
        many.kill(voter);
        many.run(5_000);
        many.start(voter);
    }
    let from = many.now;
    many.run(1_900_000);
    assert_eq!(many.holders(), [a]);
    for _ in 0..10 {
        many.run(100_000);
    }
    assert_eq!(many.holders(), [b]);
    assert!(many.now - from < 3_000_000);
}
