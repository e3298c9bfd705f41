//! Links, addresses, disks, and the service link that is cut while the private one lives.

use cluster_proto::{Effect, Effects, GroupIndex, Input, Link};

use crate::pair::{A, B, CLIENT, Pair, SERVICE, at, mac};

#[test]
fn a_holder_without_carrier_is_in_fault_and_the_other_takes_over_without_waiting() {
    let mut pair = Pair::serving();
    pair.link(A, Link::Down);
    pair.run(5_000);
    let expected = [
        "dark",
        "remove address",
        "event Active -> Fault: Link",
        "heartbeat 0 Unwilling",
        "heartbeat 1 Unwilling",
    ];
    assert_eq!(pair.said(A)[..5], expected);
    let took = pair.log.iter().find(|(_, by, line)| *by == B && line == "lease 2.2").unwrap().0;
    assert_eq!(took - 1_001_000_000, 500, "three messages and the address");

    pair.log.clear();
    pair.link(A, Link::Up { mac: mac(A) });
    pair.run(500_000);
    assert_eq!(pair.said(A)[0], "event Fault -> Passive: Link");
    assert!(pair.holds(B) && !pair.holds(A), "it follows, and takes nothing back");
}

#[test]
fn an_interface_that_vanishes_and_is_made_anew() {
    let mut pair = Pair::serving();
    pair.link(A, Link::Gone);
    pair.run(100_000);
    assert!(pair.holds(B));
    pair.link(A, Link::Up { mac: mac(A) });
    pair.run(100_000);
    pair.kill(B);
    pair.run(100_000);
    assert!(pair.holds(A), "{:?}", pair.said(A));
}

#[test]
fn a_lone_holder_that_loses_its_link_takes_the_group_again_when_it_is_back() {
    let mut pair = Pair::serving();
    pair.kill(B);
    pair.run(100_000);
    pair.link(A, Link::Down);
    pair.run(100_000);
    assert!(!pair.holds(A));
    pair.link(A, Link::Up { mac: mac(A) });
    let took = pair.run_until(A, "event Passive -> Active: Election");
    assert!(took < 20_000, "{took}");
}

#[test]
fn an_address_that_cannot_be_configured_is_a_fault_and_a_resignation() {
    let mut pair = Pair::serving();
    pair.give(A, Input::AddressFailed(GroupIndex(0)));
    pair.run(5_000);
    let expected = ["dark", "remove address", "event Active -> Fault: Address"];
    assert_eq!(pair.said(A)[..3], expected);
    assert!(pair.holds(B));
    pair.run(6_000_000);
    assert!(pair.said(A).contains(&"event Fault -> Passive: Address"), "tried again after a while");
}

#[test]
fn a_candidate_whose_address_fails_leaves_the_group_to_the_other() {
    let mut pair = Pair::new();
    pair.addresses_fail[A] = true;
    pair.start(A);
    pair.start(B);
    pair.run(1_000_000);
    assert!(pair.holds(B));
    assert!(pair.said(A).contains(&"event Passive -> Fault: Address"));
}

#[test]
fn without_epochs_on_disk_nothing_is_taken() {
    let mut pair = Pair::new();
    pair.start(A);
    pair.give(A, Input::ReservationFailed);
    pair.nodes[B] = None;
    // The reservation that is under way is the one that failed.
    pair.kill(A);
    let settings = pair.settings[A].clone();
    let start = cluster_proto::Start {
        now: at(0),
        incarnation: cluster_proto::Incarnation(1),
        reserved_epochs: 0,
        memory: None,
        adopted: Vec::new(),
        tables: Vec::new(),
        resumed: cluster_proto::Resumed::default(),
        link: Link::Up { mac: mac(A) },
    };
    let mut core = cluster_proto::Core::new(settings, &start);
    let mut out = Effects::default();
    let (mut asked, mut leases, mut said) = (0, 0, 0);
    for millis in 0..10_000 {
        out.clear();
        core.handle(at(millis * 1000), Input::Tick, &mut out);
        let asks = out.list.iter().any(|effect| matches!(effect, Effect::ReserveEpochs { .. }));
        asked += u32::from(asks);
        leases += out.list.iter().filter(|effect| matches!(effect, Effect::Lease { .. })).count();
        if asks {
            out.clear();
            core.handle(at(millis * 1000), Input::ReservationFailed, &mut out);
            said += out.list.iter().filter(|effect| matches!(effect, Effect::Event(_))).count();
        }
    }
    assert_eq!((leases, said), (0, 1), "said once");
    assert!((5..=11).contains(&asked), "asked again once a second: {asked}");
}

#[test]
fn a_holder_whose_service_link_is_cut_hands_over_to_the_one_that_gets_answers() {
    let mut pair = Pair::new();
    pair.serves_clients = true;
    pair.settle();
    pair.cut_service(A, true);
    let took = pair.run_until(B, "event Passive -> Active: ServiceCut");
    assert!(took <= 150_000, "{took}");
    let events: Vec<_> = pair.said(A).into_iter().filter(|line| !line.starts_with("heartbeat")).collect();
    let expected = [
        "lease 1.1",
        "probe fd77::50",
        "probe fd77::50",
        "event PathDown 1",
        "probe fd77::50",
        "probe fd77::50",
        "event Service(Cut)",
        "event Handover to 2: ServiceCut",
        "dark",
        "remove address",
        "event Active -> Passive: ServiceCut",
    ];
    assert_eq!(events, expected);
    pair.run(2_000_000);
    assert!(pair.holds(B), "it stays there while the cut lasts");
    pair.log.clear();
    pair.cut_service(A, false);
    pair.run(100_000);
    assert!(pair.holds(B) && pair.said(A).contains(&"event Service(Unjudged)"));
}

#[test]
fn a_passive_node_whose_service_link_is_cut_takes_nothing() {
    let mut pair = Pair::new();
    pair.serves_clients = true;
    pair.settle();
    pair.cut_service(B, true);
    pair.run(2_000_000);
    assert!(pair.holds(A));
    assert!(pair.said(B).contains(&"event Service(Cut)"), "{:?}", pair.said(B));
    assert!(!pair.said(A).contains(&"dark"));
}

#[test]
fn a_switch_between_the_two_is_not_a_cut() {
    // Both get answers, but do not hear each other there.
    let mut pair = Pair::new();
    pair.serves_clients = true;
    pair.settle();
    pair.cut[A][SERVICE] = true;
    pair.cut[B][SERVICE] = true;
    pair.run(2_000_000);
    assert!(pair.holds(A) && !pair.said(A).contains(&"dark"));
    assert!(
        pair.said(A).contains(&"event Service(Answered)")
            && pair.said(B).contains(&"event Service(Answered)")
    );
}

#[test]
fn the_holder_passes_on_whom_it_serves() {
    let mut pair = Pair::new();
    pair.serves_clients = true;
    pair.settle();
    pair.cut_service(A, true);
    pair.run(100_000);
    // B was never told by its own driver, and asks for the client all the same.
    assert!(pair.log.iter().any(|(_, by, line)| *by == B && *line == format!("probe {CLIENT}")));
}
