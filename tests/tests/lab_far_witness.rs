//! A witness that is 20 ms away: with timings that fit, two nodes go on with its vote as with a near one's; with timings
//! that do not, the daemon says so.

use std::time::Duration;

use cluster_tests::lab::clock::{Window, await_some};
use cluster_tests::lab::{Cluster, ClusterSettings, Lab, Moment, Timing, may_run};
use cluster_tests::scene::{SOON, Scene, median, trials};
use serde_json::{Value, json};

const WITNESS: &str = "w";
/// One way.
const AWAY: Duration = Duration::from_millis(10);
/// Room for three heartbeats and the round trip, and some more.
const FITTING: Timing = Timing::millis(10, 100, 80);
/// Time enough for every lease and promise to end, and for two elections.
const LONG: Duration = Duration::from_millis(600);

fn lab() -> Lab {
    let mut lab = Lab::with_witnesses(&["a", "b"], &[WITNESS]).expect("a lab");
    lab.lengthen(WITNESS, AWAY).expect("a witness far away");
    lab
}

fn scene(lab: &Lab) -> Scene<'_> {
    let mut scene = Scene::start(lab, &ClusterSettings::with(FITTING)).expect("a cluster");
    scene.cluster.await_votes(SOON).expect("three voters");
    scene
}

/// What `fault` takes from the holder leaves it the witness's vote, which is enough: no request is lost, no lease lapses.
fn goes_on(scene: &mut Scene<'_>, what: &str, fault: impl FnOnce(&mut Scene<'_>, &str, &str)) {
    let holder = scene.settle().expect("a settled cluster");
    let other = scene.cluster.other(&holder);
    let state = |scene: &Scene<'_>| {
        let group = scene.cluster.group(&holder).expect("the group");
        (group["epoch"].clone(), group["lapses"].clone(), group["transitions"].clone())
    };
    let before = state(scene);
    let from = Moment::now();
    fault(scene, &holder, other);
    (from + LONG).sleep();
    let window = Window::since(from);
    let stall = scene.canary.worst(window, false);
    let after = state(scene);
    let outage = scene.outage_since(from);
    println!("{what}: longest gap {:?} in {LONG:?}, the machine stood still for {stall:?}", outage.length);
    if stall < Duration::from_millis(20) {
        assert_eq!(after, before, "{what}: the holder goes on in its epoch");
        assert_eq!(outage.lost, 0, "{what}: {outage:?}");
    }
    assert!(outage.length < Duration::from_millis(20).max(stall * 2), "{what}: {outage:?}, stall {stall:?}");
}

#[test]
fn the_holder_goes_on_with_its_vote_and_the_other_takes_over_with_it() {
    if !may_run("a witness far away") {
        return;
    }
    let lab = lab();
    let mut scene = scene(&lab);
    for node in ["a", "b"] {
        let status = scene.cluster.control(node).command("status").expect("a status");
        let round_trip = peer(&status).and_then(|peer| peer["rtt_us"].as_u64()).expect("a round trip");
        assert!(round_trip >= 20_000, "{round_trip} µs");
        assert_eq!(status["warnings"], json!([]), "the timings fit");
    }

    goes_on(&mut scene, "nodes that do not hear each other", |scene, holder, other| {
        scene.lab.deafen(holder, &[other]).expect("a cut");
        scene.lab.deafen(other, &[holder]).expect("a cut");
    });
    lab.mend_all().expect("mended links");
    goes_on(&mut scene, "a passive node that is cut off", |scene, _, other| {
        scene.lab.cut_all(other).expect("a cut");
    });
    lab.mend_all().expect("mended links");
    goes_on(&mut scene, "a passive node that is killed", |scene, _, other| {
        scene.cluster.kill(other).expect("a killed daemon");
    });
    let holder = scene.settle().expect("a settled cluster");
    scene.cluster.start(scene.cluster.other(&holder)).expect("a daemon");
    scene.cluster.await_votes(SOON).expect("three voters");

    let mut outages = Vec::new();
    for _ in 0..trials(5) {
        let active = scene.settle().expect("a settled cluster");
        let other = scene.cluster.other(&active);
        let trial = scene.trial(other, |scene| scene.lab.cut_all(&active)).expect("the other takes over");
        outages.push(trial.outage.length);
        lab.mend_all().expect("mended links");
    }
    println!("silent cut of the holder: median {:?} of {outages:?}", median(outages.clone()));
    // D, one and a half round trips to the voter that decides, and what the host needs.
    let bound = FITTING.dead_after + AWAY * 3 + Duration::from_millis(25);
    assert!(median(outages.clone()) <= bound, "{outages:?}");
    let active = scene.settle().expect("a settled cluster");
    let other = scene.cluster.other(&active);
    let trial =
        scene.trial(other, |scene| scene.cluster.kill(&active).map(drop)).expect("the other takes over");
    println!("holder killed: {:?}", trial.outage.length);
    assert!(lab.lines().iter().all(|line| line.lost() == 0), "the wire itself loses nothing");
    scene.never_two_answers().expect("one answer at most");
}

/// What is known of the witness.
fn peer(status: &Value) -> Option<&Value> {
    status["peers"].as_array()?.iter().find(|peer| peer["name"] == WITNESS)
}

#[test]
fn with_a_lease_that_is_too_short_for_it_the_daemon_names_timings_that_would_do() {
    if !may_run("a witness too far away") {
        return;
    }
    let lab = lab();
    let cluster = Cluster::started(&lab, &ClusterSettings::default()).expect("a cluster");
    for node in ["a", "b"] {
        let control = cluster.control(node);
        let event = await_some("the event", SOON, || {
            let events = control.request(&json!({ "cmd": "events" }))?;
            let of = |event: &&Value| event["kind"] == "lease_too_short" && event["peer"] == WITNESS;
            Ok(events["events"].as_array().and_then(|events| events.iter().find(of).cloned()))
        });
        let event = event.expect("it is told as an event");
        assert!(event["duration_us"].as_u64() >= Some(20_000), "{event}");
        assert_would_do(event["message"].as_str().unwrap_or_default());

        let status = control.command("status").expect("a status");
        let warnings: Vec<&str> =
            status["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let of_witness =
            warnings.iter().find(|warning| warning.contains(WITNESS) && warning.contains("lease"));
        assert_would_do(of_witness.unwrap_or_else(|| panic!("no warning in {warnings:?}")));
        let said = String::from_utf8_lossy(&cluster.clusterctl(node, &["status"]).expect("a status").stdout)
            .into_owned();
        assert!(said.contains("would do"), "{said}");
    }
}

/// For a round trip of 20 ms and not much more: three heartbeats and two of it.
fn assert_would_do(message: &str) {
    let leases: Vec<String> =
        (70..=80).map(|lease| format!("lease = \"{lease}ms\" and dead_after = ")).collect();
    let named = leases.iter().any(|lease| message.contains(lease)) && message.contains("would do");
    assert!(named, "{message}");
}
