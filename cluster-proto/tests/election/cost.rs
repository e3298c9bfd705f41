//! What the core does when nothing happens, and that it does not do it too often.

use std::time::Duration;

use cluster_proto::{Core, Effect, Effects, Group, GroupId, Incarnation, Input, Link, Resumed, Start, wire};

use crate::pair::{A, B, Pair, at, mac, settings};

#[test]
fn two_packets_a_heartbeat_path_and_direction() {
    let mut pair = Pair::serving();
    pair.run(1_000_000);
    for node in [A, B] {
        for path in [0, 1] {
            let sent = pair.sent.iter().filter(|(from, on, _)| (*from, *on) == (node, path)).count();
            assert!((198..=202).contains(&sent), "node {node}, path {path}: {sent}");
        }
    }
}

#[test]
fn the_deadline_is_never_before_the_latest_input() {
    let mut pair = Pair::new();
    pair.start(A);
    pair.start(B);
    for _ in 0..20_000 {
        pair.run(37);
        for node in [A, B] {
            let Some(state) = &pair.nodes[node] else { continue };
            assert!(state.core.deadline() + Duration::from_micros(1) > at(pair.now), "due and not given");
        }
    }
}

/// A cluster of one with as many groups as a message holds takes them all, renews them alone, and wakes for heartbeats
/// and announcements only.
#[test]
fn one_node_with_many_groups_is_not_busy() {
    let mut settings = settings(A);
    settings.peers.clear();
    let template = settings.groups[0].clone();
    settings.groups = (0..wire::MAX_GROUPS)
        .map(|number| Group { id: GroupId(number as u32 + 1), ..template.clone() })
        .collect();
    let start = Start {
        now: at(0),
        incarnation: Incarnation(1),
        reserved_epochs: 0,
        memory: None,
        adopted: Vec::new(),
        tables: Vec::new(),
        resumed: Resumed::default(),
        link: Link::Up { mac: mac(A) },
    };
    let mut core = Core::new(settings, &start);
    let (mut now, mut ticks, mut leases) = (at(0), 0, 0);
    let mut out = Effects::default();
    while now < at(2_000_000) {
        let mut inputs = vec![None];
        while let Some(input) = inputs.pop() {
            out.clear();
            core.handle(now, input.unwrap_or(Input::Tick), &mut out);
            for effect in &out.list {
                match effect {
                    Effect::AddAddress { group } => inputs.push(Some(Input::AddressReady(*group))),
                    Effect::Remember(_) => inputs.push(Some(Input::Remembered)),
                    Effect::ReserveEpochs { below } => inputs.push(Some(Input::EpochsReserved(*below))),
                    Effect::Lease { .. } => leases += 1,
                    _ => {}
                }
            }
        }
        ticks += 1;
        now = core.deadline().max(now + Duration::from_micros(1));
    }
    assert!(ticks < 260, "{ticks} ticks in two seconds");
    assert!(leases > 24 * 150, "{leases}");
    core.handle(now + Duration::from_millis(30), Input::Overslept(Duration::from_millis(30)), &mut out);
    assert!(core.holds(now + Duration::from_millis(1), cluster_proto::GroupIndex(0)));
}
