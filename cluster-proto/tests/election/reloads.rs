//! Reloads that concern nobody's VIP, and what may go wrong in them.

use std::time::Duration;

use cluster_proto::wire::MAX_COUNTER;
use cluster_proto::{
    Command, CommandId, Failback, Group, GroupId, GroupIndex, Input, Path, Refusal, Settings,
};

use crate::many::Many;
use crate::pair::{A, B, GATEWAY, Pair};

fn slower(settings: &mut Settings) {
    settings.timing.heartbeat = Duration::from_millis(50);
    settings.timing.lease = Duration::from_millis(200);
    settings.timing.dead_after = Duration::from_millis(250);
}

fn dark_steps(many: &mut Many, micros: u64) -> u64 {
    (0..micros / 50)
        .filter(|_| {
            many.run(50);
            many.holders() != [0]
        })
        .count() as u64
}

/// A: ten milliseconds become fifty, node by node.
#[test]
fn slower_timings_read_node_by_node_move_nothing() {
    let mut dark = Vec::new();
    let mut many = Many::serving(3, 40, 50);
    for node in [0, 1, 2] {
        many.reload(node, slower);
        dark.push(dark_steps(&mut many, 1_000_000) * 50);
    }
    assert_eq!(dark, [0, 0, 0], "us in which the holder did not serve, after each reload");
}

/// A: the same, the holder last.
#[test]
fn slower_timings_read_by_the_passive_ones_first_move_nothing() {
    let mut dark = Vec::new();
    let mut many = Many::serving(3, 40, 50);
    for node in [2, 1, 0] {
        many.reload(node, slower);
        dark.push(dark_steps(&mut many, 1_000_000) * 50);
    }
    assert_eq!(dark, [0, 0, 0], "us in which the holder did not serve, after each reload");
}

fn reload(pair: &mut Pair, node: usize, change: impl FnOnce(&mut Settings)) {
    change(&mut pair.settings[node]);
    let settings = Box::new(pair.settings[node].clone());
    pair.give(node, Input::Reconfigure(CommandId(9), settings));
}

fn pair_dark(pair: &mut Pair, micros: u64) -> u64 {
    (0..micros / 50)
        .filter(|_| {
            pair.run(50);
            !pair.holds(A)
        })
        .count() as u64
        * 50
}

/// B: two nodes, the other is dead.
#[test]
fn a_lone_holder_that_reads_slower_timings_goes_on() {
    let mut pair = Pair::serving();
    pair.kill(B);
    pair.run(1_000_000);
    reload(&mut pair, A, slower);
    assert_eq!(pair_dark(&mut pair, 2_000_000), 0, "{:?}", pair.said(A));
}

/// B: the same file again, at any moment.
#[test]
fn a_lone_holder_that_reads_the_same_file_goes_on() {
    for later in (0..10_000).step_by(500) {
        let mut pair = Pair::serving();
        pair.kill(B);
        pair.run(1_000_000 + later);
        pair.log.clear();
        reload(&mut pair, A, |_| {});
        assert_eq!(pair_dark(&mut pair, 500_000), 0, "{:?}", pair.said(A));
        assert!(!pair.said(A).contains(&"event NotAlone"), "{:?}", pair.said(A));
    }
}

/// C: a far voter; the same file again.
#[test]
fn a_holder_with_far_voters_that_reads_the_same_file_goes_on() {
    let mut dark = Vec::new();
    for later in (0..10_000).step_by(1000) {
        let mut many = Many::new(3, 140, 160);
        many.delay = 50_000;
        for node in 0..3 {
            many.start(node);
        }
        many.run(5_000_000 + later);
        assert_eq!(many.holders(), [0]);
        assert_eq!(dark_steps(&mut many, 200_000), 0, "without a reload");
        many.reload(0, |_| {});
        dark.push(dark_steps(&mut many, 500_000) * 50);
    }
    assert_eq!(dark, [0; 10], "us in which the holder did not serve");
}

/// D: a request that is kept came on a path that goes away.
#[test]
fn a_request_that_is_kept_is_answered_on_a_path_that_there_is() {
    let (a, b, c) = (0, 1, 2);
    for later in (0..12_000).step_by(500) {
        let mut many = Many::new(3, 40, 50);
        for settings in &mut many.settings {
            for peer in &mut settings.peers {
                peer.paths = vec![Path { service: false }; 2];
            }
        }
        for node in [a, b, c] {
            many.start(node);
        }
        many.run(1_500_000);
        assert_eq!(many.holders(), [a]);
        many.cut(a, b, true);
        many.run(200_000);
        many.kill(a);
        many.run(38_000 + later);
        many.reload(c, |settings| {
            for peer in &mut settings.peers {
                peer.paths.truncate(1);
            }
        });
        many.run(30_000);
    }
}

/// E: a command that was put into words under the file before.
#[test]
fn a_command_for_a_group_that_is_gone_is_refused() {
    let mut many = Many::serving(3, 40, 50);
    many.reload(0, |settings| settings.groups.clear());
    many.command(0, Command::Demote { group: GroupIndex(0), force: false });
    assert!(many.replies.iter().any(|(node, outcome)| *node == 0 && outcome.is_err()));
}

/// H: more groups than one datagram has room for; a voter learns of a group between two parts of a heartbeat.
#[test]
fn a_group_learnt_between_two_parts_of_a_heartbeat_has_one_holder() {
    let (a, b, c) = (0, 1, 2);
    let mut many = Many::new(3, 40, 50);
    many.spread = 50;
    let watched = many.settings[a].groups[0].clone();
    let others: Vec<Group> = (0..120)
        .map(|n| Group { id: GroupId(n), vips: vec![[10, 78, 0, n as u8 + 1].into()], ..watched.clone() })
        .collect();
    for node in [a, b, c] {
        many.settings[node].groups.extend(others.clone());
    }
    many.settings[c].groups.remove(0);
    for node in [a, b, c] {
        many.start(node);
    }
    many.run(1_500_000);
    assert_eq!(many.holders(), [a]);
    // Both read the file, the holder first.
    many.reload(a, |_| {});
    many.run(100);
    many.reload(c, |settings| settings.groups.insert(0, watched));
    many.run(300_000);
    assert_eq!(many.holders(), [a]);
    many.cut(a, b, true);
    many.run(1_000_000);
}

/// G: the node to which the group was offered leaves the file before it is ready.
#[test]
fn a_demote_to_a_node_that_is_removed_is_answered() {
    let mut many = Many::serving(3, 40, 50);
    many.replies.clear();
    many.command(0, Command::Demote { group: GroupIndex(0), force: false });
    many.reload(0, |settings| {
        settings.peers.remove(0);
    });
    assert_eq!(many.replies, [(0, Err(Refusal::PeerNotReady)), (0, Ok(()))], "the demote, then the reload");
    assert_eq!(many.holders(), [0]);
}

/// G: the better-ranked node wants the group back, and then reads that it is to stay where it is.
#[test]
fn a_failback_that_is_not_wanted_any_more_does_not_come_about() {
    let mut pair = Pair::new();
    for settings in &mut pair.settings {
        settings.groups[0].failback = Failback::After(Duration::from_secs(1));
    }
    pair.start(B);
    pair.run(1_000_000);
    pair.start(A);
    pair.run(500_000);
    // The wish is not heard before it is given up.
    pair.cut_from(A, true);
    pair.run(1_000_000);
    assert!(pair.said(A).iter().any(|line| line.contains("Wants(Failback)")), "{:?}", pair.said(A));
    reload(&mut pair, A, |settings| settings.groups[0].failback = Failback::Never);
    pair.cut_from(A, false);
    pair.run(1_000_000);
    assert!(pair.holds(B) && !pair.holds(A), "{:?}", pair.said(A));
}

/// G: what is known of the gateway is known after a reload.
#[test]
fn a_gateway_that_answers_again_after_a_reload_is_told_to_do_so() {
    let mut pair = Pair::new();
    for settings in &mut pair.settings {
        settings.groups[0].gateway = Some(GATEWAY);
    }
    pair.settle();
    pair.kill(B);
    pair.arp_cut[A] = true;
    let told = |pair: &Pair, answers: bool| {
        let line = format!("event Gateway {{ address: {GATEWAY}, answers: {answers} }}");
        pair.said(A).into_iter().filter(|said| *said == line).count()
    };
    pair.run(1_000_000);
    reload(&mut pair, A, |_| {});
    pair.run(1_000_000);
    assert_eq!(told(&pair, false), 1, "{:?}", pair.said(A));
    pair.arp_cut[A] = false;
    pair.run(1_000_000);
    assert_eq!(told(&pair, true), 1, "{:?}", pair.said(A));
    // What it has answered counts, too.
    reload(&mut pair, A, |_| {});
    assert_eq!(pair_dark(&mut pair, 500_000), 0, "{:?}", pair.said(A));
}

/// C: one node's file with its epochs was damaged, and it serves with them.
#[test]
fn the_damaged_epochs_of_one_node_leave_the_others_theirs() {
    let mut many = Many::new(3, 40, 50);
    many.disks[0] = MAX_COUNTER - 2;
    for node in 0..3 {
        many.start(node);
    }
    many.run(1_500_000);
    assert_eq!(many.holders(), [0]);
    many.kill(0);
    many.run_until(|many| many.holders() == [1]);
    for (from, to) in [(1, 2), (2, 1), (1, 2)] {
        many.run(1_000_000);
        many.command(from, Command::Demote { group: GroupIndex(0), force: false });
        many.run_until(|many| many.holders() == [to]);
    }
    assert!(many.disks[1] < 10_000 && many.disks[2] < 10_000, "{:?}", many.disks);
}
