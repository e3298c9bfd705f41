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
