//! Two nodes that ask a gateway: silence of the other is not enough.

use crate::pair::{A, B, CLIENT, Pair};

/// Two nodes that have been up for a second. The client's host is the gateway.
fn serving() -> Pair {
    let mut pair = Pair::new();
    for settings in &mut pair.settings {
        settings.groups[0].gateway = Some(CLIENT);
    }
    pair.settle();
    pair
}

/// Cuts a node off from the other and the gateway, or mends that.
fn cut_off(pair: &mut Pair, node: usize, cut: bool) {
    pair.cut = [[cut; 2]; 2];
    pair.arp_cut[node] = cut;
}

/// Lets time pass, in which the two never hold together; for how long nobody did.
fn run(pair: &mut Pair, micros: u64) -> u64 {
    let mut dark = 0;
    for _ in 0..micros / 100 {
        pair.run(100);
        assert!(!(pair.holds(A) && pair.holds(B)), "{:#?}", pair.log);
        dark += if pair.holds(A) || pair.holds(B) { 0 } else { 100 };
    }
    dark
}

fn asked_for_it(pair: &Pair, node: usize) -> bool {
    pair.did(node).iter().any(|line| *line == "add address" || line.contains("Requests"))
}

#[test]
fn a_holder_that_is_cut_off_goes_dark_the_other_serves_and_mending_moves_nothing() {
    let mut pair = serving();
    cut_off(&mut pair, A, true);
    // D - L, and an interval and a half round trip.
    assert!(run(&mut pair, 1_000_000) <= 21_000, "{:#?}", pair.said(A));
    assert!(pair.holds(B));
    assert!(!asked_for_it(&pair, A), "{:#?}", pair.said(A));
    assert!(
        pair.said(A).contains(&"event Gateway { address: fd77::50, answers: false }"),
        "{:#?}",
        pair.said(A)
    );
    cut_off(&mut pair, A, false);
    // What B had granted itself ends with A's first message, until A's vote is there.
    assert!(run(&mut pair, 200_000) <= 1_000, "{:#?}", pair.log);
    assert!(pair.holds(B));
    assert!(pair.said(B).contains(&"event Regained"));
}

#[test]
fn a_passive_node_that_is_cut_off_takes_nothing_and_mending_moves_nothing() {
    let mut pair = serving();
    cut_off(&mut pair, B, true);
    assert_eq!(run(&mut pair, 1_000_000), 0, "{:#?}", pair.log);
    assert!(pair.holds(A));
    assert!(!asked_for_it(&pair, B), "{:#?}", pair.said(B));
    cut_off(&mut pair, B, false);
    assert!(run(&mut pair, 200_000) <= 1_000, "{:#?}", pair.log);
    assert!(pair.holds(A));
}

/// The VIP is asked for when a node could take it, not when it was cut off.
#[test]
fn when_the_gateway_answers_again_before_the_peer_is_heard_the_holder_is_asked() {
    for (lost, holder) in [(A, B), (B, A)] {
        let mut pair = serving();
        cut_off(&mut pair, lost, true);
        run(&mut pair, 500_000);
        pair.arp_cut[lost] = false;
        assert_eq!(run(&mut pair, 500_000), 0, "{:#?}", pair.log);
        assert!(pair.holds(holder), "{:#?}", pair.log);
        assert!(pair.said(lost).contains(&"event ProbeAnswered"), "{:#?}", pair.said(lost));
        pair.cut = [[false; 2]; 2];
        assert!(run(&mut pair, 200_000) <= 1_000, "{:#?}", pair.log);
        assert!(pair.holds(holder));
    }
}

#[test]
fn with_the_peer_dead_the_gateway_decides() {
    let mut pair = serving();
    pair.kill(A);
    run(&mut pair, 100_000);
    assert!(pair.holds(B), "the gateway answers");
    pair.arp_cut[B] = true;
    run(&mut pair, 100_000);
    assert!(!pair.holds(B), "nobody answers");
    run(&mut pair, 1_000_000);
    assert!(!pair.holds(B));
    pair.arp_cut[B] = false;
    run(&mut pair, 200_000);
    assert!(pair.holds(B), "the gateway answers again: {:#?}", pair.said(B));
}

/// Whoever has the only vote needs nobody's answer.
#[test]
fn the_only_voter_asks_no_gateway() {
    let mut pair = Pair::new();
    for settings in &mut pair.settings {
        settings.groups[0].gateway = Some(CLIENT);
    }
    pair.settings[A].peers[0].voter = false;
    pair.settings[B].voter = false;
    pair.settle();
    cut_off(&mut pair, A, true);
    assert_eq!(run(&mut pair, 500_000), 0, "{:#?}", pair.log);
    assert!(pair.holds(A));
}
