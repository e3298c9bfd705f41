//! Hand-overs and refusals.

use cluster_proto::{Command, Failback, GroupIndex, Link};

use crate::pair::{A, B, Pair, mac};

const GROUP: GroupIndex = GroupIndex(0);

/// Lets a hand-over from A to B happen and returns for how long nobody held.
fn outage(pair: &mut Pair) -> u64 {
    let mut dark = 0;
    for _ in 0..9_000 {
        pair.run(1);
        assert!(!(pair.holds(A) && pair.holds(B)), "{:?}", pair.log);
        dark += u64::from(!pair.holds(A) && !pair.holds(B));
    }
    assert!(pair.holds(B));
    dark
}

#[test]
fn demote_hands_over_and_is_answered_when_the_other_serves() {
    let mut pair = Pair::serving();
    pair.command(A, Command::Demote { group: GROUP, force: false });
    assert_eq!(outage(&mut pair), 100, "one message");
    let expected = [
        "event Handover to 2: Demote",
        "heartbeat 0 Holds 1.1 offered to 2: Demote",
        "heartbeat 1 Holds 1.1 offered to 2: Demote",
        "lease 1.1",
        "dark",
        "remove address",
        "event Active -> Passive: Demote",
        "heartbeat 0 Idle vote 2.2",
        "heartbeat 1 Idle vote 2.2",
        "reply 7 done",
    ];
    assert_eq!(pair.said(A), expected);
    let expected = [
        "add address",
        "heartbeat 0 Ready 2.2 by hand vote 1.1",
        "heartbeat 1 Ready 2.2 by hand vote 1.1",
        "lease 2.2",
        "announce",
        "event Passive -> Active: Demote",
        "heartbeat 0 Holds 2.2 by hand",
        "heartbeat 1 Holds 2.2 by hand",
    ];
    assert_eq!(pair.said(B), expected);
}

#[test]
fn the_holder_is_dark_before_its_vote_goes_out() {
    let mut pair = Pair::serving();
    pair.command(A, Command::Demote { group: GROUP, force: false });
    pair.run(5_000);
    let did = pair.did(A);
    let dark = did.iter().position(|line| *line == "dark").unwrap();
    let vote = did.iter().position(|line| line.contains("vote 2.2")).unwrap();
    assert!(dark < vote);
    assert_eq!(
        did[dark..=vote],
        ["dark", "remove address", "event Active -> Passive: Demote", "ack 0 vote 2.2"]
    );
}

#[test]
fn promote_asks_the_holder_for_it() {
    let mut pair = Pair::serving();
    pair.command(B, Command::Promote { group: GROUP, force: false });
    assert_eq!(outage(&mut pair), 100);
    let expected = [
        "heartbeat 0 Wants(Promote) 1.1 vote 1.1",
        "heartbeat 1 Wants(Promote) 1.1 vote 1.1",
        "add address",
        "heartbeat 0 Ready 2.2 by hand vote 1.1",
        "heartbeat 1 Ready 2.2 by hand vote 1.1",
        "lease 2.2",
        "announce",
        "event Passive -> Active: Promote",
        "reply 7 done",
        "heartbeat 0 Holds 2.2 by hand",
        "heartbeat 1 Holds 2.2 by hand",
    ];
    assert_eq!(pair.said(B), expected);
    let moves: Vec<_> = pair.said(A).into_iter().filter(|line| line.starts_with("event")).collect();
    assert_eq!(moves, ["event Handover to 2: Promote", "event Active -> Passive: Promote"]);
}

#[test]
fn promote_of_what_it_holds_is_done_and_makes_it_stay() {
    let mut pair = Pair::serving();
    pair.command(A, Command::Promote { group: GROUP, force: false });
    let expected = ["reply 7 done", "heartbeat 0 Holds 1.1 by hand", "heartbeat 1 Holds 1.1 by hand"];
    assert_eq!(pair.said(A), expected);
}

#[test]
fn promote_never_takes_from_a_holder_that_is_alive() {
    let mut pair = Pair::serving();
    pair.cut_from(B, true);
    pair.command(B, Command::Promote { group: GROUP, force: true });
    pair.run(6_000_000);
    assert!(pair.holds(A) && !pair.holds(B));
    assert!(pair.said(B).contains(&"reply 7 HolderKept"), "{:?}", pair.said(B));
}

#[test]
fn a_forced_promote_does_not_wait_for_the_start() {
    let mut pair = Pair::new();
    pair.start(B);
    pair.run(1_000);
    pair.command(B, Command::Promote { group: GROUP, force: true });
    assert_eq!(pair.run_until(B, "lease 1.2"), 200, "as soon as the address is there");
    assert!(pair.said(B).contains(&"reply 7 done"));
}

#[test]
fn a_promote_that_is_not_forced_waits_for_the_start() {
    let mut pair = Pair::new();
    pair.start(B);
    pair.run(1_000);
    pair.command(B, Command::Promote { group: GROUP, force: false });
    let took = pair.run_until(B, "lease 1.2");
    assert!(took > 190_000, "{took}");
    assert!(pair.said(B).contains(&"reply 7 done"));
}

#[test]
fn refusals_say_why_and_change_nothing() {
    let mut pair = Pair::serving();
    pair.command(B, Command::Demote { group: GROUP, force: true });
    assert!(pair.said(B).contains(&"reply 7 NotHolder"));
    pair.link(B, Link::Down);
    pair.run(50_000);
    pair.command(B, Command::Promote { group: GROUP, force: false });
    assert!(pair.said(B).contains(&"reply 7 Fault"), "{:?}", pair.said(B));
    pair.command(A, Command::Demote { group: GROUP, force: false });
    assert!(pair.said(A).contains(&"reply 7 NobodyElse"), "{:?}", pair.said(A));
    pair.command(A, Command::Drain { force: false });
    pair.run(10_000);
    assert!(pair.holds(A) && !pair.said(A).iter().any(|line| line.starts_with("dark")));

    let mut pair = Pair::serving();
    pair.settings[B].groups[0].prefer.pop();
    pair.kill(B);
    pair.start(B);
    pair.command(B, Command::Promote { group: GROUP, force: true });
    assert!(pair.said(B).contains(&"reply 7 NotMember"));

    let mut pair = Pair::serving();
    pair.command(A, Command::Demote { group: GROUP, force: false });
    pair.command(A, Command::Demote { group: GROUP, force: false });
    assert!(pair.said(A).contains(&"reply 7 Busy"));
}

#[test]
fn a_forced_demote_leaves_nobody_and_stays_so() {
    let mut pair = Pair::serving();
    pair.kill(B);
    pair.run(100_000);
    pair.command(A, Command::Demote { group: GROUP, force: true });
    pair.run(2_000_000);
    assert!(!pair.holds(A), "not taken again by itself");
    pair.command(A, Command::Promote { group: GROUP, force: false });
    pair.run_until(A, "event Passive -> Active: Promote");
}

#[test]
fn the_other_does_not_get_ready_so_nothing_changes() {
    let mut pair = Pair::serving();
    pair.addresses_fail[B] = true;
    pair.command(A, Command::Demote { group: GROUP, force: false });
    for _ in 0..1000 {
        pair.run(100);
        assert!(pair.holds(A));
    }
    let said = pair.said(A);
    assert!(
        said.contains(&"reply 7 PeerNotReady") && said.contains(&"event HandoverFailed to 2"),
        "{said:?}"
    );
    let expected = ["add address", "remove address", "event Passive -> Fault: Address"];
    assert_eq!(pair.said(B)[..3], expected);
}

#[test]
fn drain_gives_up_takes_nothing_and_undrain_returns_what_fails_back() {
    for (failback, returns) in [(Failback::Never, false), (Failback::After(std::time::Duration::ZERO), true)]
    {
        let mut pair = Pair::new();
        for settings in &mut pair.settings {
            settings.groups[0].failback = failback;
        }
        pair.settle();
        pair.command(A, Command::Drain { force: false });
        assert_eq!(outage(&mut pair), 100);
        let said = pair.said(A);
        assert!(
            said.contains(&"event Active -> Passive: Drain") && said.contains(&"reply 7 done"),
            "{said:?}"
        );
        pair.run(500_000);
        assert!(pair.holds(B), "a drained node wants nothing back");
        pair.command(A, Command::Promote { group: GROUP, force: true });
        assert!(pair.said(A).contains(&"reply 7 Drained"));
        pair.command(A, Command::Undrain);
        pair.run(500_000);
        assert_eq!(pair.holds(A), returns);
    }
}

#[test]
fn both_drained_leaves_nobody_only_by_force() {
    let mut pair = Pair::serving();
    pair.command(A, Command::Drain { force: false });
    pair.run(50_000);
    pair.log.clear();
    pair.command(B, Command::Drain { force: false });
    pair.run(50_000);
    assert!(pair.holds(B) && pair.said(B).contains(&"reply 7 NobodyElse"));
    pair.command(B, Command::Drain { force: true });
    pair.run(3_000_000);
    assert!(!pair.holds(A) && !pair.holds(B));
    assert!(pair.said(B).contains(&"reply 7 done"));
    pair.command(A, Command::Undrain);
    pair.run_until(A, "event Passive -> Active: Election");
}

#[test]
fn a_clean_stop_hands_over_and_is_answered_when_all_is_dark() {
    let mut pair = Pair::serving();
    pair.command(A, Command::Resign);
    assert_eq!(outage(&mut pair), 100);
    let said = pair.said(A);
    let dark = said.iter().position(|line| *line == "dark").unwrap();
    let done = said.iter().position(|line| *line == "reply 7 done").unwrap();
    assert!(dark < done);
}

#[test]
fn a_clean_stop_with_nobody_to_take_over_goes_dark_at_once() {
    let mut pair = Pair::serving();
    pair.kill(B);
    pair.run(100_000);
    pair.log.clear();
    pair.command(A, Command::Resign);
    let expected = ["dark", "remove address", "event Active -> Passive: Resign"];
    assert_eq!(pair.said(A)[..3], expected);
    pair.run(20_000);
    assert!(pair.said(A).contains(&"reply 7 done"));
}

#[test]
fn a_hand_over_to_a_node_that_dies_is_called_off() {
    let mut pair = Pair::serving();
    pair.command(A, Command::Demote { group: GROUP, force: false });
    pair.kill(B);
    for _ in 0..20_000 {
        pair.run(100);
        assert!(pair.holds(A));
    }
    assert!(pair.said(A).contains(&"reply 7 PeerNotReady"), "{:?}", pair.said(A));
}

#[test]
fn a_link_that_comes_back_with_another_address_is_announced() {
    let mut pair = Pair::serving();
    let mut other = mac(A);
    other.0[0] = 6;
    pair.link(A, Link::Up { mac: other });
    assert!(pair.said(A).contains(&"announce"), "{:?}", pair.said(A));
    assert!(pair.holds(A));
}
