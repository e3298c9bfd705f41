//! Many groups on few nodes: how many a node takes, what should be apart, and what returns when it is idle.

use std::time::Duration;

use cluster_proto::{Failback, GroupIndex, Input, NodeId};

use crate::pair::{A, B, Pair};
use crate::together::{GROUPS, World};

/// How many groups a node has.
fn held_by(world: &World, node: usize) -> usize {
    world.leases.iter().flatten().filter(|(holder, _)| *holder == node).count()
}

fn holder(world: &World, group: usize) -> Option<usize> {
    world.leases[group].map(|(holder, _)| holder)
}

#[test]
fn a_node_takes_no_more_groups_than_it_may() {
    let mut world = World::starting_with(3, |node, settings| {
        if node == 0 {
            settings.max_groups = Some(10);
        }
    });
    world.run(2_000_000);
    assert_eq!([0, 1, 2].map(|node| held_by(&world, node)), [10, GROUPS - 10, 0]);
    let before = world.leases.clone();
    world.cores[1] = None;
    world.run(1_000_000);
    assert_eq!([0, 1, 2].map(|node| held_by(&world, node)), [10, 0, GROUPS - 10], "it is full");
    for (before, after) in before.iter().zip(&world.leases) {
        assert!(before == after || before.is_some_and(|(holder, _)| holder == 1), "{before:?} {after:?}");
    }
}

#[test]
fn what_should_be_apart_is_so_while_there_is_another_node() {
    let mut world = World::starting_with(3, |_, settings| {
        for (group, other) in [(0, 1), (1, 0), (2, 3), (3, 2)] {
            settings.groups[group].apart = vec![other];
        }
        settings.groups[3].prefer = vec![NodeId(1), NodeId(2)];
    });
    world.run(2_000_000);
    let of_first = |world: &World| [0, 1, 2, 3].map(|group| holder(world, group));
    assert_eq!(of_first(&world), [Some(0), Some(1), Some(0), Some(1)]);
    world.cores[1] = None;
    world.run(1_000_000);
    assert_eq!(of_first(&world), [Some(0), Some(2), Some(0), Some(0)], "together rather than not served");
    assert_eq!(held_by(&world, 2), 1);
}

#[test]
fn an_idle_group_returns_and_a_busy_one_stays() {
    let mut pair = Pair::new();
    for settings in &mut pair.settings {
        settings.groups[0].failback = Failback::Idle(Duration::from_millis(30));
    }
    pair.settle();
    pair.kill(A);
    pair.run(100_000);
    pair.start(A);
    pair.run(12_000_000);
    assert!(pair.holds(B), "nobody has said that it is idle");
    let asked = pair.did(B).iter().filter(|line| **line == "watch connections").count();
    assert!((2..=4).contains(&asked), "it is watched all the time, {asked} times anew");
    pair.give(B, Input::NoConnections(GroupIndex(0)));
    pair.run(200_000);
    assert!(pair.holds(A) && !pair.holds(B));
}
