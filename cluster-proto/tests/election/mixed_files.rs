//! Nodes with different files.

use std::time::Duration;

use cluster_proto::{Failback, Settings};

use crate::many::Many;

/// The preferred node has an old file, with voters that the others have left: they could not vote for it, so the holder
/// does not give the group up for it.
#[test]
fn nobody_hands_over_to_one_for_whom_it_may_not_vote() {
    let mut many = Many::new(4, 40, 50);
    for settings in &mut many.settings {
        settings.groups[0].failback = Failback::After(Duration::ZERO);
    }
    let without_first = |settings: &mut Settings| {
        for peer in &mut settings.peers {
            peer.voter = peer.id.0 != 1;
        }
    };
    for node in [1, 2, 3] {
        many.start(node);
    }
    many.run(1_500_000);
    assert_eq!(many.holders(), [1]);
    for node in [1, 2, 3] {
        many.reload(node, without_first);
    }
    many.run(500_000);
    many.start(0);
    for _ in 0..20_000 {
        many.run(100);
        assert_eq!(many.holders(), [1], "after {} us", many.now);
    }
    // With the file of the others it gets the group at once.
    many.reload(0, |settings| {
        without_first(settings);
        settings.voter = false;
    });
    many.run_until(|many| many.holders() == [0]);
}

/// A group that is taken out of a voter's file and put in again is a new one to the voter, but what it promised before
/// still binds it.
#[test]
fn a_group_that_comes_back_is_promised_to_nobody_else_too_early() {
    let (a, b, c) = (0, 1, 2);
    let mut many = Many::serving(3, 40, 50);
    many.cut(a, b, true);
    many.run(300_000);
    assert_eq!(many.holders(), [a]);
    let group = many.settings[c].groups[0].clone();
    many.run(9_000);
    many.cut(a, c, true);
    many.reload(c, |settings| settings.groups.clear());
    many.run(1_000);
    many.reload(c, |settings| settings.groups.push(group));
    many.run_until(|many| many.holders() == [b]);
}

/// A group that is new in the files is served once the voters have it.
#[test]
fn a_new_group_is_elected_and_one_that_goes_is_dark_at_once() {
    let mut many = Many::new(3, 40, 50);
    let group = many.settings[0].groups[0].clone();
    for node in 0..3 {
        many.settings[node].groups.clear();
        many.start(node);
    }
    many.run(500_000);
    for node in 0..3 {
        many.reload(node, |settings| settings.groups.push(group.clone()));
        many.run(10_000);
    }
    many.run_until(|many| many.holders() == [0]);
    many.reload(0, |settings| settings.groups.clear());
    assert!(many.holders().is_empty());
    many.run_until(|many| many.holders() == [1]);
}
