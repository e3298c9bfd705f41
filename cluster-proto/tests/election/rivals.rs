//! Strangers that claim a VIP.

use cluster_proto::{Input, Mac, Snapshot};

use crate::pair::{A, B, Pair, VIP, at, mac};

const STRANGER: Mac = Mac([2, 9, 9, 9, 9, 9]);
const TOLD: &str = "event Rival 02:09:09:09:09:09";

fn claim(pair: &mut Pair, node: usize, by: Mac) {
    pair.give(node, Input::Claimed { address: VIP, mac: by });
}

/// How often a node said that since the last time it was asked.
fn count(pair: &mut Pair, node: usize, line: &str) -> usize {
    let times = pair.said(node).iter().filter(|said| **said == line).count();
    pair.log.clear();
    times
}

#[test]
fn the_holder_tells_of_a_rival_and_shows_itself_and_keeps_the_group() {
    let mut pair = Pair::serving();
    claim(&mut pair, A, STRANGER);
    assert_eq!(pair.said(A), [TOLD, "announce"]);
    pair.log.clear();
    for _ in 0..9 {
        pair.run(100_000);
        claim(&mut pair, A, STRANGER);
    }
    assert_eq!(pair.did(A).iter().filter(|line| **line == "announce").count(), 0, "{:?}", pair.log);
    pair.run(100_000);
    claim(&mut pair, A, STRANGER);
    assert_eq!(count(&mut pair, A, "announce"), 1, "once a second");
    for _ in 0..90 {
        pair.run(100_000);
        claim(&mut pair, A, STRANGER);
    }
    assert_eq!(count(&mut pair, A, TOLD), 1, "told of once in ten seconds");
    assert!(pair.holds(A) && !pair.holds(B));
}

#[test]
fn another_rival_is_told_of_at_once() {
    let mut pair = Pair::serving();
    claim(&mut pair, A, STRANGER);
    pair.log.clear();
    claim(&mut pair, A, Mac([2, 8, 8, 8, 8, 8]));
    assert_eq!(pair.said(A), ["event Rival 02:08:08:08:08:08"]);
}

#[test]
fn who_does_not_hold_tells_of_a_rival_and_announces_nothing() {
    let mut pair = Pair::serving();
    claim(&mut pair, B, STRANGER);
    assert_eq!(pair.said(B), [TOLD]);
    pair.run(2_000_000);
    assert!(pair.holds(A) && !pair.holds(B));
}

#[test]
fn the_cluster_itself_is_no_rival() {
    let mut pair = Pair::serving();
    for (node, by) in [(A, mac(A)), (A, mac(B)), (B, mac(A))] {
        claim(&mut pair, node, by);
    }
    assert!(pair.said(A).is_empty() && pair.said(B).is_empty(), "{:?}", pair.log);
}

/// Before its address is known, a peer's claim may be told as a stranger's.
#[test]
fn nobody_is_a_rival_before_the_peer_has_had_time_to_say_who_it_is() {
    let mut pair = Pair::new();
    pair.cut = [[true; 2]; 2];
    pair.start(A);
    claim(&mut pair, A, STRANGER);
    assert_eq!(count(&mut pair, A, TOLD), 0);
    pair.run(300_000);
    claim(&mut pair, A, STRANGER);
    assert_eq!(count(&mut pair, A, TOLD), 1);
}

#[test]
fn the_data_plane_is_told_the_peers_address_once() {
    let mut pair = Pair::new();
    pair.start(A);
    pair.start(B);
    pair.run(1_000_000);
    let kin = |pair: &Pair, node| pair.did(node).iter().filter(|line| line.starts_with("kin")).count();
    assert_eq!((kin(&pair, A), kin(&pair, B)), (1, 1), "{:?}", pair.log);
    assert!(pair.did(A).contains(&"kin 02:00:00:00:00:02"));
}

#[test]
fn a_holder_asks_now_and_then_whether_somebody_else_has_the_vip() {
    let mut pair = Pair::serving();
    pair.run(40_000_000);
    let asked = |pair: &Pair, node| pair.did(node).iter().filter(|line| line.starts_with("probe")).count();
    assert!((3..=5).contains(&asked(&pair, A)), "{}", asked(&pair, A));
    assert_eq!(asked(&pair, B), 0);
    // A second cluster, whose holder answers.
    pair.log.clear();
    pair.give(A, Input::ProbeAnswer { address: VIP, mac: STRANGER });
    assert_eq!(pair.said(A), [TOLD, "announce"]);
}

#[test]
fn a_rival_is_shown_for_a_minute() {
    let mut pair = Pair::serving();
    claim(&mut pair, A, STRANGER);
    let shown = |pair: &Pair| {
        let mut snapshot = Snapshot::default();
        if let Some(node) = &pair.nodes[A] {
            node.core.show(at(pair.now), &mut snapshot);
        }
        snapshot.groups[0].rival.map(|rival| (rival.address, rival.mac))
    };
    pair.run(59_000_000);
    assert_eq!(shown(&pair), Some((VIP, STRANGER)));
    pair.run(2_000_000);
    assert_eq!(shown(&pair), None);
}
