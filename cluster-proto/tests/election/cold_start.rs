//! Nobody holds the group yet.

use cluster_proto::{Input, Mac};

use crate::pair::{A, B, Pair, VIP};

#[test]
fn the_better_ranked_takes_it_with_the_others_vote_and_the_other_follows() {
    let mut pair = Pair::new();
    pair.start(A);
    pair.start(B);
    pair.run(150_000);
    let expected = [
        "reserve 1025",
        "heartbeat 0 Unwilling",
        "heartbeat 1 Unwilling",
        "event PeerUp 2",
        "event PathUp 0",
        "event Init -> Passive: Startup",
        "heartbeat 0 Idle",
        "heartbeat 1 Idle",
        "event PathUp 1",
        "probe 10.77.0.100",
        "heartbeat 0 Requests 1.1",
        "heartbeat 1 Requests 1.1",
        "add address",
        "lease 1.1",
        "announce",
        "event Passive -> Active: Election",
        "heartbeat 0 Holds 1.1",
        "heartbeat 1 Holds 1.1",
    ];
    assert_eq!(pair.said(A), expected);
    let expected = [
        "reserve 1025",
        "heartbeat 0 Unwilling",
        "heartbeat 1 Unwilling",
        "event PeerUp 1",
        "event PathUp 0",
        "event Init -> Passive: Startup",
        "event PathUp 1",
        "heartbeat 0 Idle",
        "heartbeat 1 Idle",
        "heartbeat 0 Idle vote 1.1",
        "heartbeat 1 Idle vote 1.1",
    ];
    assert_eq!(pair.said(B), expected);
    assert!(pair.holds(A) && !pair.holds(B));
}

#[test]
fn one_that_hears_nobody_waits_the_start_up_out_and_asks_on_the_service_link() {
    let mut pair = Pair::new();
    pair.start(B);
    let took = pair.run_until(B, "lease 1.2");
    assert!((205_000..206_000).contains(&took), "{took}");
    let said = pair.said(B);
    let from = said.iter().position(|line| line.starts_with("event Init")).unwrap();
    let expected = [
        "event Init -> Passive: Startup",
        "probe 10.77.0.100",
        "heartbeat 0 Idle",
        "heartbeat 1 Idle",
        "add address",
        "heartbeat 0 Requests 1.2",
        "heartbeat 1 Requests 1.2",
        "lease 1.2",
        "announce",
        "event Passive -> Active: Election",
        "event Alone",
        "heartbeat 0 Holds 1.2",
        "heartbeat 1 Holds 1.2",
    ];
    assert_eq!(said[from..], expected);
}

#[test]
fn one_that_hears_nobody_but_is_answered_does_not_take() {
    let mut pair = Pair::serving();
    pair.kill(B);
    // A firewall drops all heartbeats from now on.
    pair.cut = [[true; 2]; 2];
    pair.start(B);
    pair.run(2_000_000);
    assert!(pair.holds(A) && !pair.holds(B));
    assert!(pair.said(B).contains(&"event ProbeAnswered"));
    assert!(!pair.said(B).contains(&"add address"));
}

#[test]
fn a_strangers_answer_is_a_rival_once_the_peer_is_known() {
    let mut pair = Pair::serving();
    let stranger = Mac([2, 9, 9, 9, 9, 9]);
    pair.give(B, Input::ProbeAnswer { address: VIP, mac: stranger });
    assert_eq!(pair.said(B), ["event Rival 02:09:09:09:09:09"]);
    pair.give(B, Input::ProbeAnswer { address: VIP, mac: stranger });
    assert_eq!(pair.said(B).len(), 1, "not said again at once");
    assert!(pair.holds(A));
}

/// Under a virtual Ethernet address nobody can tell who answers, but that somebody holds.
#[test]
fn a_holder_under_a_virtual_address_is_one_of_the_cluster() {
    let mut pair = Pair::new();
    for settings in &mut pair.settings {
        settings.groups[0].virtual_macs = vec![VIRTUAL];
    }
    pair.settle();
    pair.kill(B);
    pair.cut = [[true; 2]; 2];
    pair.start(B);
    pair.run(2_000_000);
    assert!(pair.holds(A) && !pair.holds(B));
    assert!(pair.said(B).contains(&"event ProbeAnswered") && !pair.said(B).contains(&"add address"));
    // Who does not hold sees the holder's claims; to the holder they are somebody else's.
    pair.give(B, Input::Claimed { address: VIP, mac: VIRTUAL });
    pair.give(A, Input::Claimed { address: VIP, mac: VIRTUAL });
    let told = |pair: &Pair, node| pair.did(node).contains(&"event Rival 00:00:5e:00:01:07");
    assert!(!told(&pair, B) && told(&pair, A), "{:?}", pair.log);
}

/// Both ask at the same moment whether somebody holds, both take, and neither has ever heard the other.
#[test]
fn two_that_never_heard_each_other_see_each_others_announcements() {
    two_see_each_others_announcements(&[]);
}

#[test]
fn so_they_do_under_a_virtual_address() {
    two_see_each_others_announcements(&[VIRTUAL]);
}

const VIRTUAL: Mac = Mac([0, 0, 0x5e, 0, 1, 7]);

fn two_see_each_others_announcements(virtual_macs: &[Mac]) {
    let mut pair = Pair::new();
    for settings in &mut pair.settings {
        settings.groups[0].virtual_macs = virtual_macs.to_vec();
    }
    pair.cut = [[true; 2]; 2];
    pair.start(A);
    pair.start(B);
    pair.run(300_000);
    assert!(pair.holds(A) && !pair.holds(B), "{:?}", pair.log);
    let both = pair.log.iter().filter(|(_, _, line)| line.starts_with("event Passive -> Active")).count();
    assert_eq!(both, 2, "they did take it both");
    assert!(pair.said(B).contains(&"event Active -> Passive: OtherHolder"));
}
