//! Three voters: whatever is cut between them, at most one answers, and wherever two hear each other one serves.

use std::time::Duration;

use cluster_tests::lab::clock::{Window, await_true};
use cluster_tests::lab::cuts::Cuts;
use cluster_tests::lab::{ClusterSettings, Lab, Moment, Timing, may_run};
use cluster_tests::scene::{SOON, Scene, median, trials};

const NODES: [&str; 3] = ["a", "b", "c"];
/// How long a cut lasts: time enough for every lease and promise to end, and for two elections.
const CUT: Duration = Duration::from_millis(300);

/// Clients reach all nodes all the time, so that they would see any two that both serve.
#[test]
fn no_cut_between_three_nodes_makes_two_answers_and_a_majority_serves() {
    if !may_run("partitions of three nodes") {
        return;
    }
    let lab = Lab::with_nodes(&NODES).expect("a lab");
    let mut scene = Scene::start(&lab, &ClusterSettings::default()).expect("a cluster");
    let mut outages = Vec::new();
    let mut silent = 0;
    for cuts in Cuts::all() {
        scene.settle().expect("a settled cluster");
        let from = Moment::now();
        cuts.apply(&lab, NODES).expect("cuts");
        (from + CUT).sleep();
        let window = Window::since(from);
        let serving =
            Window { from: window.to - Duration::from_millis(20), to: window.to - Duration::from_millis(5) };
        let served = !scene.client.served_by(serving).is_empty();
        if cuts.leave_a_majority() {
            // A machine that stands still may need longer, but serve it must.
            let soon = await_true("a majority to serve", SOON, || {
                let now = Moment::now();
                let recent = Window { from: now - Duration::from_millis(20), to: now };
                !scene.client.served_by(recent).is_empty()
            });
            let words = cuts.words(NODES);
            assert!(served || soon.is_ok(), "{words}: two hear each other and nobody serves");
            outages.push(scene.client.outage(window).length);
        } else {
            silent += 1;
            let stall = scene.canary.worst(window, false);
            assert!(!served || stall > CUT / 3, "{}: somebody serves without a majority", cuts.words(NODES));
        }
        let holder = scene.client.last_answer().map(|(_, by)| by);
        let mended = Moment::now();
        lab.mend_all().expect("mended links");
        let settled = scene.settle().expect("a settled cluster");
        let stall = scene.canary.worst(Window::since(mended), false);
        if cuts.leave_a_majority() && stall < Timing::NORMAL.lease / 2 {
            assert_eq!(Some(settled), holder, "{}: healing moved the group", cuts.words(NODES));
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

fn silent_cuts(timing: Timing, bound: Duration) {
    if !may_run("failover of three nodes") {
        return;
    }
    let lab = Lab::with_nodes(&NODES).expect("a lab");
    let mut scene = Scene::start(&lab, &ClusterSettings::with(timing)).expect("a cluster");
    let mut outages = Vec::new();
    for _ in 0..trials(7) {
        let active = scene.settle().expect("a settled cluster");
        let next = NODES.iter().find(|&&node| node != active).expect("three nodes");
        let trial =
            scene.trial(next, |scene| scene.lab.cut_all(&active)).expect("the next in rank takes over");
        outages.push(trial.outage.length);
        lab.mend_all().expect("mended links");
    }
    println!("silent cut of one of three: median {:?} of {outages:?}", median(outages.clone()));
    assert!(median(outages.clone()) <= bound, "{outages:?}");
    scene.never_two_answers().expect("one answer at most");
}

#[test]
fn a_silent_cut_of_one_of_three_costs_no_more_than_one_of_two() {
    silent_cuts(Timing::NORMAL, Duration::from_millis(75));
}

#[test]
fn so_it_is_at_fast_timing() {
    silent_cuts(Timing::FAST, Duration::from_millis(15));
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
