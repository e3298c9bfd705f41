//! `promote --force`, by which an operator vouches that nobody else serves.

use cluster_proto::Command;

use crate::many::{GROUP, Many};

/// The operator was wrong. The one that nobody voted for yields as soon as the two hear each other, though its epoch is
/// the higher one, and the elected one serves throughout.
#[test]
fn a_forced_holder_yields_to_an_elected_one() {
    let (a, b, c) = (0, 1, 2);
    for first_heard in [a, c] {
        let mut many = Many::serving(3, 40, 50);
        many.cut(c, a, true);
        many.cut(c, b, true);
        many.run(300_000);
        many.may_be_two = true;
        many.command(c, Command::Promote { group: GROUP, force: true });
        many.run_until(|many| many.holders() == [a, c]);
        many.run(100_000);
        assert_eq!(many.holders(), [a, c], "each goes on");
        many.cut_one_way(first_heard, a + c - first_heard, false);
        for _ in 0..400 {
            many.run(50);
            assert!(many.holders().contains(&a), "the elected one serves");
        }
        many.cut(a, c, false);
        many.cut(b, c, false);
        let mended = many.now;
        while many.holders() != [a] {
            many.run(50);
            assert!(many.holders().contains(&a), "the elected one serves");
            assert!(many.now < mended + 25_000, "the forced one yields to the first heartbeat it believes");
        }
        many.may_be_two = false;
        many.run(500_000);
        assert_eq!(many.holders(), [a]);
    }
}

/// The operator was right: it serves alone until it hears others, is elected then, and never dark in between.
#[test]
fn a_forced_holder_without_rival_is_elected_by_the_others_when_they_come_back() {
    let c = 2;
    let mut many = Many::serving(3, 40, 50);
    many.kill(0);
    many.kill(1);
    many.run(300_000);
    assert!(many.holders().is_empty());
    many.command(c, Command::Promote { group: GROUP, force: true });
    many.run_until(|many| many.holders() == [c]);
    many.run(300_000);
    assert_eq!(many.holders(), [c]);
    many.start(0);
    many.start(1);
    for _ in 0..10_000 {
        many.run(100);
        assert_eq!(many.holders(), [c]);
    }
    // It rests on votes now: without them it ends.
    many.kill(0);
    many.kill(1);
    many.run(100_000);
    assert!(many.holders().is_empty());
}
