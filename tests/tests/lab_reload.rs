//! The configuration is changed while the cluster serves: no request is lost, nothing moves, and a bad file changes
//! nothing.

use std::fs;
use std::time::Duration;

use cluster_tests::lab::clock::{Window, await_true};
use cluster_tests::lab::{ClusterSettings, Lab, Moment, may_run};
use cluster_tests::scene::{SOON, Scene};
use serde_json::Value;

const NODES: [&str; 3] = ["a", "b", "c"];

fn status(scene: &Scene<'_>, node: &str) -> Value {
    let output = scene.cluster.clusterctl(node, &["--json", "status"]).expect("clusterctl runs");
    serde_json::from_slice(&output.stdout).expect("a status in JSON")
}

/// Puts this text in the place of the cluster's file and has each node read it.
fn reload_everywhere(scene: &Scene<'_>, text: &str) {
    fs::write(scene.cluster.config(), text).expect("the file can be written");
    for node in NODES {
        let output = scene.cluster.clusterctl(node, &["reload"]).expect("clusterctl runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{node}: {said}");
    }
}

fn settled(scene: &Scene<'_>) {
    for node in NODES {
        let through = await_true("the change of voters to be through everywhere", SOON, || {
            let status = status(scene, node);
            status["quorum"]["change"].is_null()
                && status["peers"]
                    .as_array()
                    .is_some_and(|peers| peers.iter().all(|peer| peer["same_settings"] == Value::Bool(true)))
        });
        assert!(through.is_ok(), "{node}: {}", status(scene, node)["quorum"]);
    }
}

/// Timings, voters and quorum change on all nodes, one after the other; the holder keeps its epoch and every request is
/// answered.
#[test]
fn timings_voters_and_quorum_change_without_a_lost_request() {
    if !may_run("reloads") {
        return;
    }
    let lab = Lab::with_nodes(&NODES).expect("a lab");
    let mut scene = Scene::start(&lab, &ClusterSettings::default()).expect("a cluster");
    let first = fs::read_to_string(scene.cluster.config()).expect("the cluster's file");
    let holder = scene.settle().expect("a settled cluster");
    let epoch = |scene: &Scene<'_>| scene.cluster.group(&holder).expect("the group")["epoch"].clone();
    let (before, upsets) = (epoch(&scene), scene.transitions().expect("transitions"));
    let from = Moment::now();

    let slower = first
        .replace("dead_after = \"50ms\"", "dead_after = \"110ms\"")
        .replace("lease = \"40ms\"", "lease = \"90ms\"");
    assert_ne!(slower, first, "the lab's file names its timings");
    let one_voter_less = slower.replacen("name = \"c\"", "name = \"c\"\nvoter = false", 1);
    let with_majority = one_voter_less.replacen("[cluster]\n", "[cluster]\nquorum = \"majority\"\n", 1);
    for text in [&slower, &with_majority, &slower, &first] {
        reload_everywhere(&scene, text);
        settled(&scene);
    }

    let window = Window::since(from);
    let outage = scene.client.outage(window);
    let stall = scene.canary.worst(window, false);
    println!(
        "longest gap {:?} in {:?}, the machine stood still for {stall:?}",
        outage.length,
        window.to.since(from)
    );
    assert_eq!(epoch(&scene), before, "the holder goes on in its epoch");
    if stall < Duration::from_millis(20) {
        assert_eq!(scene.transitions().expect("transitions"), upsets, "nothing moved");
    }
    scene.never_two_answers().expect("one answer at most");
    // The machine may stand still, but then no request is asked either.
    assert!(outage.length < Duration::from_millis(40).max(stall * 2), "{outage:?}, stall {stall:?}");
}

/// What is wrong with a file is said with line and key; what runs goes on as before, also by SIGHUP.
#[test]
fn a_bad_file_changes_nothing_and_says_why() {
    if !may_run("reloads") {
        return;
    }
    let lab = Lab::with_nodes(&NODES).expect("a lab");
    let mut scene = Scene::start(&lab, &ClusterSettings::default()).expect("a cluster");
    let first = fs::read_to_string(scene.cluster.config()).expect("the cluster's file");
    let holder = scene.settle().expect("a settled cluster");
    let epoch = scene.cluster.group(&holder).expect("the group")["epoch"].clone();
    let bad = [
        (first.replacen("[cluster]\n", "[cluster]\nunknown = 1\n", 1), "unknown"),
        (first.replace("lease = \"40ms\"", "lease = \"4ms\""), "lease"),
        (first.replacen("name = \"a\"\n", "name = \"a\"\nport = 5000\n", 1), "port"),
        ("this is no TOML".to_owned(), ""),
    ];
    for (text, key) in bad {
        assert_ne!(text, first, "{key}: the lab's file is not what this test expects");
        fs::write(scene.cluster.config(), &text).expect("the file can be written");
        let output = scene.cluster.clusterctl("a", &["reload"]).expect("clusterctl runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{key}: {said}");
        assert!(said.contains(key) && said.contains("unchanged"), "{key}: {said}");
    }
    fs::write(scene.cluster.config(), &first).expect("the file can be written");
    let output = scene.cluster.clusterctl("a", &["reload"]).expect("clusterctl runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(scene.cluster.group(&holder).expect("the group")["epoch"], epoch);
    scene.never_two_answers().expect("one answer at most");
}
