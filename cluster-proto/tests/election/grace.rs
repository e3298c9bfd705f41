//! Connections at a hand-over: who sends what over to whom, from when until when.

use std::time::Duration;

use cluster_proto::spread::BUCKETS;
use cluster_proto::{Command, GroupIndex, Input, NodeId, Side, SpreadMember, SpreadOver};

use crate::pair::{A, B, Pair, mac};

const GROUP: GroupIndex = GroupIndex(0);
const GRACE: Duration = Duration::from_secs(5);

fn with_grace(grace: Duration) -> Pair {
    let mut pair = Pair::new();
    for settings in &mut pair.settings {
        settings.groups[0].grace = grace;
    }
    pair.settle();
    pair.log.clear();
    pair
}

/// What a node said of these kinds, in its order.
fn steps(pair: &Pair, node: usize) -> Vec<String> {
    let kinds = ["grace", "end grace", "let go", "lease", "dark", "remove", "add", "announce", "reply"];
    let of_interest = |line: &&str| kinds.iter().any(|kind| line.starts_with(kind));
    let mut steps: Vec<String> = pair.said(node).into_iter().filter(of_interest).map(str::to_owned).collect();
    // Renewals say nothing new.
    steps.dedup();
    steps
}

#[test]
fn the_new_holder_accepts_before_the_old_one_sends_and_the_old_one_lets_go_at_the_end() {
    let mut pair = with_grace(GRACE);
    pair.command(A, Command::Demote { group: GROUP, force: false });
    pair.run(4_900_000);
    let (old, new) = (steps(&pair, A), steps(&pair, B));
    // What makes a node dark comes after the word where to send: no packet of a client is nobody's.
    assert_eq!(old, ["lease 1.1", "grace Old", "dark", "reply 7 done"]);
    assert_eq!(new, ["add address", "grace New", "lease 2.2", "announce"]);
    assert!(!pair.said(A).contains(&"remove address"), "connections go on");
    pair.run(200_000);
    let old = steps(&pair, A);
    assert_eq!(old.last().map(String::as_str), Some("let go"));
    assert!(!pair.said(A).contains(&"announce"), "one node announces");
}

#[test]
fn without_a_grace_nothing_is_sent_over() {
    let mut pair = with_grace(Duration::ZERO);
    pair.command(A, Command::Demote { group: GROUP, force: false });
    pair.run(100_000);
    assert_eq!(steps(&pair, A), ["lease 1.1", "dark", "remove address", "reply 7 done"]);
    assert!(!steps(&pair, B).iter().any(|step| step.starts_with("grace")));
}

#[test]
fn an_old_holder_without_connections_lets_go_after_a_second() {
    let mut pair = with_grace(GRACE);
    pair.command(A, Command::Demote { group: GROUP, force: false });
    pair.run(300_000);
    pair.give(A, Input::NoConnections(GROUP));
    pair.run(600_000);
    assert!(
        !steps(&pair, A).contains(&"let go".to_owned()),
        "clients that have not heard yet still come here"
    );
    pair.run(200_000);
    assert!(steps(&pair, A).contains(&"let go".to_owned()));
}

#[test]
fn a_clean_stop_sends_over_but_keeps_nothing() {
    let mut pair = with_grace(GRACE);
    pair.command(A, Command::Resign);
    pair.run(100_000);
    assert_eq!(steps(&pair, A), ["lease 1.1", "grace Old", "dark", "remove address", "reply 7 done"]);
}

#[test]
fn back_again_within_the_grace_the_address_stays_and_the_ends_change_places() {
    let mut pair = with_grace(GRACE);
    pair.command(A, Command::Demote { group: GROUP, force: false });
    pair.run(1_000_000);
    pair.log.clear();
    pair.command(A, Command::Promote { group: GROUP, force: false });
    pair.run(5_100_000);
    assert_eq!(
        steps(&pair, A),
        ["end grace", "add address", "grace New", "lease 3.1", "announce", "reply 7 done"]
    );
    let given = steps(&pair, B);
    assert!(given.contains(&"grace Old".to_owned()) && given.contains(&"let go".to_owned()), "{given:?}");
    assert!(pair.holds(A));
}

#[test]
fn the_new_holder_dies_in_the_grace_and_the_old_one_takes_back() {
    let mut pair = with_grace(GRACE);
    pair.command(A, Command::Demote { group: GROUP, force: false });
    pair.run(1_000_000);
    pair.kill(B);
    pair.log.clear();
    pair.run(6_000_000);
    let steps = steps(&pair, A);
    assert_eq!(steps[..4], ["end grace", "add address", "lease 3.1", "announce"], "{steps:?}");
    assert!(pair.holds(A) && !steps.contains(&"let go".to_owned()), "what serves again is not let go");
}

#[test]
fn a_hand_over_that_does_not_come_about_ends_the_acceptance() {
    let mut pair = with_grace(GRACE);
    // The new one hears of the offer, gets ready, and is not heard any more.
    pair.command(A, Command::Demote { group: GROUP, force: false });
    pair.cut_from(B, true);
    pair.run(3_000_000);
    let new = steps(&pair, B);
    assert!(pair.holds(A), "{new:?}");
    let last = new.iter().rfind(|step| step.contains("grace"));
    assert!(last.is_none_or(|step| step == "end grace"), "{new:?}");
}

#[test]
fn the_ends_name_each_other_and_agree_on_the_time() {
    let mut pair = with_grace(GRACE);
    pair.command(A, Command::Demote { group: GROUP, force: false });
    pair.run(40_000);
    let graces = &pair.graces;
    let last = |node: usize| graces.iter().rfind(|grace| grace.0 == node).copied();
    let ((_, Side::Old, to, old), (_, Side::New, from, new)) = (last(A).unwrap(), last(B).unwrap()) else {
        panic!("{graces:?}");
    };
    assert_eq!((to, from), (mac(B), mac(A)));
    // The old holder's end outlasts the new one's by its goodbye, so that nothing is sent to where it is not accepted.
    assert!(old > new && old.since(new) < Duration::from_secs(1), "{graces:?}");
}

/// A pair that both serve the group, A being the entry.
fn sharing() -> Pair {
    let mut pair = Pair::new();
    for settings in &mut pair.settings {
        let members = [1, 2].map(|id| SpreadMember { node: NodeId(id), weight: 1, spare: false });
        settings.groups[0].spread = Some(SpreadOver { members: members.to_vec(), by_source: false });
    }
    pair.settle();
    pair.log.clear();
    pair
}

/// Of how many buckets node B is first, and second, by A's table.
fn buckets_of_b(pair: &Pair) -> [usize; 2] {
    let core = &pair.nodes[A].as_ref().unwrap().core;
    let table = core.spread_table(GROUP).unwrap().table;
    let Some(place) = table.place(NodeId(2)) else { return [0, 0] };
    [table.counts()[usize::from(place)], table.seconds()[usize::from(place)]]
}

/// A member that is silent for a moment, because it is busy, keeps its flows; one that stays away does not.
#[test]
fn a_silent_member_is_remembered_for_a_second() {
    let mut pair = sharing();
    pair.run(500_000);
    let [half, _] = buckets_of_b(&pair);
    assert_eq!(half, BUCKETS / 2);
    pair.partition(true);
    pair.run(100_000);
    assert_eq!(buckets_of_b(&pair), [0, half], "new flows go to A, those that B has stay");
    pair.partition(false);
    pair.run(500_000);
    assert_eq!(buckets_of_b(&pair)[0], half, "back where they were");
    // Whoever is the entry by then.
    pair.partition(true);
    pair.run(900_000);
    let [none, kept] = buckets_of_b(&pair);
    assert!(none == 0 && kept >= half, "{kept}");

    let mut pair = sharing();
    pair.run(500_000);
    pair.kill(B);
    pair.run(900_000);
    assert_eq!(buckets_of_b(&pair), [0, half]);
    pair.run(300_000);
    assert_eq!(buckets_of_b(&pair), [0, 0], "who has connections to B is told");
}

/// Several nodes serve: whoever was the entry sends on what still comes to where the entry was, from before it is dark until everybody has
/// heard, and serves as a member all the while.
#[test]
fn an_entry_that_has_given_up_sends_on_for_a_second() {
    let mut pair = sharing();
    pair.command(A, Command::Demote { group: GROUP, force: false });
    pair.run(900_000);
    let did = pair.did(A);
    let at = |line: &str| did.iter().position(|did| *did == line).expect(line);
    assert!(at("serve, having given up") < at("dark"), "no packet to the virtual address is nobody's");
    let after = &did[at("dark")..];
    assert!(!after.contains(&"serve"), "everybody has to hear first");
    pair.log.clear();
    pair.run(200_000);
    let did = pair.did(A);
    assert!(did.contains(&"serve") && did.last() != Some(&"serve, having given up"), "{did:?}");
    assert!(!pair.did(B).contains(&"serve, having given up"));
}
