//! Three voters, three nodes or two and a witness: whatever is cut between them, at most one answers, and wherever two hear
//! each other one serves.

use std::time::Duration;

use cluster_tests::lab::clock::{Window, await_true};
use cluster_tests::lab::cuts::Cuts;
use cluster_tests::lab::{ClusterSettings, Lab, Moment, Timing, may_run};
use cluster_tests::scene::{SOON, Scene, median, trials};

const NODES: [&str; 3] = ["a", "b", "c"];
/// How long a cut lasts: time enough for every lease and promise to end, and for two elections.
const CUT: Duration = Duration::from_millis(300);

#[test]
fn no_cut_between_three_nodes_makes_two_answers_and_a_majority_serves() {
    if !may_run("partitions of three nodes") {
        return;
    }
    let lab = Lab::with_nodes(&NODES).expect("a lab");
    every_set_of_cuts(&lab, NODES);
}

#[test]
fn no_cut_between_two_nodes_and_a_witness_makes_two_answers_and_a_majority_serves() {
    if !may_run("partitions of two nodes and a witness") {
        return;
    }
    let lab = Lab::with_witnesses(&["a", "b"], &["w"]).expect("a lab");
    every_set_of_cuts(&lab, ["a", "b", "w"]);
}

/// Clients reach all nodes all the time, so that they would see any two that both serve.
fn every_set_of_cuts(lab: &Lab, voters: [&str; 3]) {
    let mut scene = Scene::start(lab, &ClusterSettings::default()).expect("a cluster");
    scene.cluster.await_votes(SOON).expect("three voters");
    let mut outages = Vec::new();
    let mut silent = 0;
    for cuts in Cuts::all() {
        scene.settle().expect("a settled cluster");
        let words = cuts.words(voters);
        let from = Moment::now();
        cuts.apply(lab, voters).expect("cuts");
        (from + CUT).sleep();
        let window = Window::since(from);
        let serving =
            Window { from: window.to - Duration::from_millis(20), to: window.to - Duration::from_millis(5) };
        let served = scene.client.served_by(serving);
        let stall = scene.canary.worst(window, false);
        for (place, voter) in voters.iter().enumerate() {
            let may = cuts.leave_a_majority_with(place) || stall > CUT / 3;
            assert!(may || !served.contains_key(*voter), "{words}: {voter} serves without a majority");
        }
        if cuts.leave_a_majority() {
            // A machine that stands still may need longer, but serve it must.
            let soon = await_true("a majority to serve", SOON, || {
                let now = Moment::now();
                let recent = Window { from: now - Duration::from_millis(20), to: now };
                !scene.client.served_by(recent).is_empty()
            });
            assert!(!served.is_empty() || soon.is_ok(), "{words}: two hear each other and nobody serves");
            outages.push(scene.client.outage(window).length);
        } else {
            silent += 1;
        }
        let holder = scene.client.last_answer().map(|(_, by)| by);
        let mended = Moment::now();
        lab.mend_all().expect("mended links");
        let settled = scene.settle().expect("a settled cluster");
        let stall = scene.canary.worst(Window::since(mended), false);
        if cuts.leave_a_majority() && stall < Timing::NORMAL.lease / 2 {
            assert_eq!(Some(settled), holder, "{words}: healing moved the group");
        }
    }
    let worst = outages.iter().max().copied().unwrap_or_default();
    let (count, median) = (outages.len(), median(outages));
    println!(
        "{count} cuts that leave a majority: median outage {median:?}, worst {worst:?}; {silent} that leave none"
    );
    assert!(median <= Duration::from_millis(100), "the median outage is {median:?}");
    scene.never_two_answers().expect("one answer at most");
}

fn silent_cuts(lab: &Lab, timing: Timing, bound: Duration) {
    let mut scene = Scene::start(lab, &ClusterSettings::with(timing)).expect("a cluster");
    scene.cluster.await_votes(SOON).expect("three voters");
    let (mut outages, mut own) = (Vec::new(), Vec::new());
    for _ in 0..trials(7) {
        let active = scene.settle().expect("a settled cluster");
        let next = lab.nodes().iter().map(|node| &node.name).find(|node| **node != active);
        let next = next.expect("another node");
        let trial =
            scene.trial(next, |scene| scene.lab.cut_all(&active)).expect("the next in rank takes over");
        outages.push(trial.outage.length);
        own.push(trial.own());
        lab.mend_all().expect("mended links");
    }
    println!("silent cut of one of three: median {:?} of {outages:?}", median(outages.clone()));
    assert!(median(own.clone()) <= bound, "without stalls of the machine: {own:?}");
    scene.never_two_answers().expect("one answer at most");
}

#[test]
fn a_silent_cut_of_one_of_three_costs_no_more_than_one_of_two() {
    if may_run("failover of three nodes") {
        silent_cuts(&Lab::with_nodes(&NODES).expect("a lab"), Timing::NORMAL, Duration::from_millis(75));
    }
}

#[test]
fn so_it_is_at_fast_timing() {
    if may_run("failover of three nodes") {
        silent_cuts(&Lab::with_nodes(&NODES).expect("a lab"), Timing::FAST, Duration::from_millis(15));
    }
}

#[test]
fn so_it_is_with_a_witness_in_the_place_of_the_third_node() {
    if may_run("failover of two nodes with a witness") {
        let lab = Lab::with_witnesses(&["a", "b"], &["w"]).expect("a lab");
        silent_cuts(&lab, Timing::NORMAL, Duration::from_millis(75));
    }
}

/// The holder loses one of two peers, then the other: with the majority it goes dark by itself.
#[test]
fn a_holder_without_a_majority_goes_dark() {
    if !may_run("loss of the majority") {
        return;
    }
    let lab = Lab::with_nodes(&NODES).expect("a lab");
    let mut scene = Scene::start(&lab, &ClusterSettings::default()).expect("a cluster");
    let active = scene.settle().expect("a settled cluster");
    let others: Vec<&str> = NODES.iter().copied().filter(|&node| node != active).collect();
    let from = Moment::now();
    lab.cut_all(others[0]).expect("a cut");
    (from + CUT).sleep();
    assert_eq!(scene.outage_since(from).lost, 0, "one of three is not missed");
    lab.cut_all(others[1]).expect("a cut");
    scene.cluster.await_role(&active, "passive", SOON).expect("a holder without voters is none");
    let since = Moment::now() + Timing::NORMAL.lease;
    since.sleep();
    (since + CUT).sleep();
    scene.silent(&active, Window { from: since, to: Moment::now() }).expect("nothing in the VIP's name");
    lab.mend_all().expect("mended links");
    scene.settle().expect("a settled cluster");
    scene.never_two_answers().expect("one answer at most");
}
