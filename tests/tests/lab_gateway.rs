//! Two nodes without quorum that ask a gateway: the node that is cut off from its peer and the gateway goes dark and takes
//! nothing, the other one serves.

use std::time::Duration;

use cluster_tests::lab::clock::{Window, await_true};
use cluster_tests::lab::topology::CLIENT;
use cluster_tests::lab::{ClusterSettings, Lab, Link, Moment, Timing, may_run};
use cluster_tests::scene::{SOON, Scene, median, trials};
use serde_json::{Value, json};

/// Time enough for every lease and promise to end, and for several takeovers.
const LONG: Duration = Duration::from_millis(500);

/// The client's host is what both nodes reach on the clients' link.
fn with_gateway(lab: &Lab) -> ClusterSettings {
    let gateway = lab.leg(CLIENT, Link::Public).address;
    ClusterSettings { group_lines: format!("gateway = \"{gateway}\""), ..ClusterSettings::default() }
}

/// Waits until a node has told that neither peer nor gateway is heard.
fn await_told(scene: &Scene<'_>, node: &str) {
    let told = || {
        let events = scene.cluster.control(node).request(&json!({ "cmd": "events" })).unwrap_or_default();
        let is_it =
            |event: &Value| event["kind"] == "gateway" && event["message"].to_string().contains("neither");
        events["events"].as_array().is_some_and(|events| events.iter().any(is_it))
    };
    await_true("the event of the gateway", SOON, told).expect("it is told");
}

#[test]
fn a_holder_that_is_cut_off_goes_dark_and_the_other_serves() {
    if !may_run("a gateway") {
        return;
    }
    let lab = Lab::new().expect("a lab");
    let mut scene = Scene::start(&lab, &with_gateway(&lab)).expect("a cluster");
    let mut outages = Vec::new();
    for _ in 0..trials(5) {
        let holder = scene.settle().expect("a settled cluster");
        let other = scene.cluster.other(&holder);
        let from = Moment::now();
        let trial = scene.trial(other, |scene| scene.lab.cut_all(&holder)).expect("the other takes over");
        outages.push(trial.outage.length);
        scene.cluster.await_role(&holder, "passive", SOON).expect("who is cut off holds nothing");
        await_told(&scene, &holder);
        // The cut takes some time itself.
        let dark = (from + Timing::NORMAL.lease + Duration::from_millis(20)).max(from + trial.stall * 2);
        (from + LONG).sleep();
        scene.silent(&holder, Window { from: dark, to: Moment::now() }).expect("nothing in the VIP's name");
        assert_eq!(scene.cluster.role(other).expect("a role"), "active");
        lab.mend_all().expect("mended links");
        assert_eq!(scene.settle().expect("a settled cluster"), other, "mending moves nothing");
    }
    println!("a holder cut off: median {:?} of {outages:?}", median(outages.clone()));
    assert!(median(outages.clone()) <= Duration::from_millis(75), "{outages:?}");
    scene.never_two_answers().expect("one answer at most");
}

#[test]
fn a_passive_node_that_is_cut_off_takes_nothing() {
    if !may_run("a gateway") {
        return;
    }
    let lab = Lab::new().expect("a lab");
    let mut scene = Scene::start(&lab, &with_gateway(&lab)).expect("a cluster");
    let holder = scene.settle().expect("a settled cluster");
    let other = scene.cluster.other(&holder);
    let upsets = scene.transitions().expect("transitions");
    let from = Moment::now();
    lab.cut_all(other).expect("a cut");
    await_told(&scene, other);
    (from + LONG).sleep();
    let window = Window::since(from);
    let stall = scene.canary.worst(window, false);
    scene.silent(other, window).expect("nothing in the VIP's name");
    assert_eq!(scene.cluster.role(other).expect("a role"), "passive");
    if stall < Timing::NORMAL.lease / 2 {
        assert_eq!(scene.outage_since(from).lost, 0, "the holder goes on");
        assert_eq!(scene.transitions().expect("transitions"), upsets, "nothing moved");
    }
    lab.mend_all().expect("mended links");
    assert_eq!(scene.settle().expect("a settled cluster"), holder, "mending moves nothing");
    scene.never_two_answers().expect("one answer at most");
}

/// So it is the gateway that keeps it from doing so.
#[test]
fn without_a_gateway_it_would_take_the_group_where_nobody_sees_it() {
    if !may_run("two nodes without a gateway") {
        return;
    }
    let lab = Lab::new().expect("a lab");
    let mut scene = Scene::start(&lab, &ClusterSettings::default()).expect("a cluster");
    let holder = scene.settle().expect("a settled cluster");
    let other = scene.cluster.other(&holder);
    lab.cut_all(other).expect("a cut");
    scene.cluster.await_role(other, "active", SOON).expect("it believes that the holder is dead");
    assert_eq!(scene.cluster.role(&holder).expect("a role"), "active");
}
