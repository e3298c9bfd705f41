//! A promise binds to its end: over a change of the timings, over a restart, and the one who gave it. After every step
//! of these stories at most one node holds.

use std::time::Duration;

use cluster_proto::{Command, Settings};

use crate::many::{GROUP, Many};

/// D of the new file.
const SHORT: Duration = Duration::from_millis(50);

/// The new file's timings.
fn halve(settings: &mut Settings) {
    settings.timing.lease = Duration::from_millis(45);
    settings.timing.dead_after = SHORT;
}

/// c promises a for 100 ms, then reads a file with half of that; what a's lease rests on must not end earlier.
#[test]
fn a_promise_never_gets_shorter() {
    let (a, b, c) = (0, 1, 2);
    let mut many = Many::serving(3, 90, 100);
    many.cut(a, b, true);
    many.run(300_000);
    assert_eq!(many.holders(), [a]);
    many.reload(c, halve);
    many.run(12_000);
    many.cut(a, c, true);
    many.run_until(|many| many.holders() != [a]);
    many.run_until(|many| many.holders() == [b]);
}

/// Five voters. z was offered the group and is ready for it; the holder is lost on the way, and z, which is not asking
/// yet, promises y. The votes that come for z after that must not make it a holder beside y.
#[test]
fn one_that_has_promised_the_group_to_another_does_not_take_it() {
    let (p, z, y, a, b) = (0, 1, 2, 3, 4);
    let mut many = Many::new(5, 40, 50);
    let id = many.settings[y].me;
    for settings in &mut many.settings {
        settings.groups[0].prefer.retain(|&other| other != id);
        settings.groups[0].prefer.insert(0, id);
    }
    for node in [p, z, a, b] {
        many.start(node);
    }
    many.cut(y, p, true);
    many.run(1_005_000);
    many.start(y);
    many.run(695_000);
    many.cut(y, b, true);
    many.run(200_000);
    assert_eq!(many.holders(), [p]);
    many.command(p, Command::Drain { force: false });
    many.cut_one_way(z, p, true);
    many.run(14_500);
    many.cut_one_way(a, p, true);
    many.cut_one_way(b, p, true);
    many.cut(y, a, true);
    many.run_until(|many| many.holders() != [p]);
    many.run(1_000);
    many.cut(z, b, true);
    many.cut(y, b, false);
    many.run(15_000);
    many.cut_one_way(z, p, false);
    many.cut_one_way(a, p, false);
    many.cut_one_way(z, y, true);
    many.run_until(|many| !many.holders().is_empty());
    many.run(100_000);
}

/// What `b` promises for the longer time of the file before is to be on its disk until it is over, also what it promises
/// after the new file was read, to a holder that still has the old one.
#[test]
fn the_longest_promise_stays_on_disk_until_it_is_over() {
    let (a, c, b) = (0, 1, 2);
    let mut many = Many::serving(3, 90, 100);
    many.cut_one_way(b, a, true);
    many.reload(b, halve);
    let read = many.now;
    many.run(50_000);
    many.cut(a, c, true);
    many.run(45_000);
    a_lives_by_one_vote_of_b(&mut many);
    many.run_until(|many| many.memories[b].is_some_and(|memory| memory.longest_promise == SHORT));
    assert!(many.now >= read + 100_000, "a was promised 100 ms just before the file was read");
    b_restarts_and_somebody_takes(&mut many);
}

/// A write that failed may have succeeded: the disk is taken to say the shorter of the two times.
#[test]
fn a_shorter_time_that_may_be_on_disk_counts() {
    let (a, c, b) = (0, 1, 2);
    let mut many = Many::serving(3, 90, 100);
    many.cut(b, a, true);
    many.disk_fails[b] = true;
    many.reload(b, halve);
    many.run(110_000);
    assert_eq!(many.memories[b].map(|memory| memory.longest_promise), Some(SHORT));
    many.cut(a, c, true);
    many.run(25_000);
    many.cut_one_way(a, b, false);
    many.run(20_000);
    a_lives_by_one_vote_of_b(&mut many);
    b_restarts_and_somebody_takes(&mut many);
}

/// Lets a, which b hears, hear b until its lease has grown, or for 20 ms.
fn a_lives_by_one_vote_of_b(many: &mut Many) {
    let (a, b) = (0, 2);
    many.cut_one_way(b, a, false);
    let lease = many.lease(a);
    for _ in 0..400 {
        if many.lease(a) != lease {
            break;
        }
        many.run(50);
    }
    many.cut(a, b, true);
}

fn b_restarts_and_somebody_takes(many: &mut Many) {
    let (c, b) = (1, 2);
    many.kill(b);
    many.run(1_000);
    many.start(b);
    many.run_until(|many| many.holders() == [c] || many.holders() == [b]);
    many.run(200_000);
}

/// The holder asks for the vote again while its peers' promises bind, and nobody else takes meanwhile.
#[test]
fn a_holder_that_lost_its_voters_gets_the_group_back_from_them() {
    let (a, b, c) = (0, 1, 2);
    let mut many = Many::serving(3, 40, 50);
    many.cut(a, b, true);
    many.cut(a, c, true);
    many.run_until(|many| many.holders().is_empty());
    many.cut(a, b, false);
    many.cut(a, c, false);
    many.run(3_000);
    many.run_until(|many| !many.holders().is_empty());
    assert_eq!(many.holders(), [a]);
    many.command(a, Command::Demote { group: GROUP, force: false });
    many.run_until(|many| many.holders() == [b]);
}
