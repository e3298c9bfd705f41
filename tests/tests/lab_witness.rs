//! A witness: an ordinary user's daemon that votes and serves nothing, whose loss moves nothing, and whose vote is what one of
//! two nodes goes on with.

use std::time::Duration;

use cluster_tests::lab::clock::Window;
use cluster_tests::lab::cluster::GROUP;
use cluster_tests::lab::{ClusterSettings, Lab, Moment, Process, Timing, may_run};
use cluster_tests::scene::{SOON, Scene};
use serde_json::{Value, json};

const WITNESS: &str = "w";
/// Time enough for every lease and promise to end, and for two elections.
const LONG: Duration = Duration::from_millis(300);

fn lab() -> Lab {
    Lab::with_witnesses(&["a", "b"], &[WITNESS]).expect("a lab")
}

fn scene(lab: &Lab) -> Scene<'_> {
    let mut scene = Scene::start(lab, &ClusterSettings::default()).expect("a cluster");
    scene.cluster.await_votes(SOON).expect("three voters");
    scene
}

/// A line of `/proc/PID/status`.
fn status_line(scene: &mut Scene<'_>, host: &str, key: &str) -> String {
    let pid = scene.cluster.daemon(host).expect("a daemon").pid();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.expect("the line is there").split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn it_runs_as_an_ordinary_user_and_serves_nothing() {
    if !may_run("a witness") {
        return;
    }
    let lab = lab();
    let mut scene = scene(&lab);
    assert_eq!(status_line(&mut scene, WITNESS, "Uid"), "65534 65534 65534 65534");
    // CAP_IPC_LOCK (14) and CAP_SYS_NICE (23), in the place of the limits that its unit sets.
    assert_eq!(status_line(&mut scene, WITNESS, "CapEff"), format!("{:016x}", 1 << 14 | 1 << 23));

    let control = scene.cluster.control(WITNESS);
    let status = control.command("status").expect("a status");
    assert_eq!(
        (&status["kind"], &status["xdp"], &status["interface"]),
        (&json!("witness"), &json!("none"), &json!(""))
    );
    assert_eq!(status["groups"][0]["role"], "witness");
    assert_eq!(status["groups"][0]["holder"], scene.settle().expect("a settled cluster").as_str());
    assert_eq!((&status["quorum"]["voters"], &status["quorum"]["needed"]), (&json!(3), &json!(2)));
    assert_eq!(status["warnings"], json!([]));
    for request in [
        json!({ "cmd": "promote", "group": GROUP }),
        json!({ "cmd": "demote", "group": GROUP }),
        json!({ "cmd": "drain" }),
    ] {
        let refusal = control.request(&request).expect_err("a witness has nothing to give or take");
        assert!(refusal.to_string().contains("witness"), "{refusal:#}");
    }
    for node in ["a", "b"] {
        let status = scene.cluster.control(node).command("status").expect("a status");
        let peer =
            status["peers"].as_array().and_then(|peers| peers.iter().find(|peer| peer["name"] == WITNESS));
        assert_eq!(peer.map(|peer| &peer["kind"]), Some(&json!("witness")), "{status}");
    }

    let (_, end) = scene.cluster.stop(WITNESS).expect("a stop");
    assert!(end.success(), "{end}");
    scene.never_two_answers().expect("one answer at most");
}

/// Of three voters any one may be missing. Without the witness the nodes need each other, and a restarted one counts again.
#[test]
fn its_loss_moves_nothing_and_a_restart_brings_the_protection_back() {
    if !may_run("the loss of a witness") {
        return;
    }
    let lab = lab();
    let mut scene = scene(&lab);
    let holder = scene.settle().expect("a settled cluster");
    let other = scene.cluster.other(&holder);
    let upsets = scene.transitions().expect("transitions");

    let from = scene.cluster.kill(WITNESS).expect("a killed witness");
    (from + LONG).sleep();
    let window = Window::since(from);
    let stall = scene.canary.worst(window, false);
    if stall < Timing::NORMAL.lease / 2 {
        assert_eq!(scene.outage_since(from).lost, 0, "the witness is not missed");
        assert_eq!(scene.transitions().expect("transitions"), upsets, "nothing moved");
    }

    lab.deafen(&holder, &[other]).expect("a cut");
    scene.cluster.await_role(&holder, "passive", SOON).expect("a holder without voters is none");
    let dark = Moment::now() + Timing::NORMAL.lease;
    dark.sleep();
    (dark + LONG).sleep();
    let silence = Window { from: dark, to: Moment::now() };
    for node in [holder.as_str(), other] {
        scene.silent(node, silence).expect("nobody serves without a majority");
    }

    // With the witness's vote a node serves, although the nodes still do not hear each other.
    scene.cluster.start(WITNESS).expect("a witness");
    scene.client.await_service(None, SOON).expect("service by one voter and the witness");
    lab.mend_all().expect("mended links");
    scene.cluster.await_votes(SOON).expect("three voters");
    let holder = scene.settle().expect("a settled cluster");
    let other = scene.cluster.other(&holder);

    // And takes over when the other is lost.
    scene.trial(other, |scene| scene.cluster.kill(&holder).map(drop)).expect("the other node takes over");
    scene.cluster.start(&holder).expect("a daemon");
    assert_eq!(scene.settle().expect("a settled cluster"), other, "it stays where it is");
    scene.never_two_answers().expect("one answer at most");
}

/// Two daemons of one witness would promise one group to two nodes.
#[test]
fn a_second_daemon_of_its_name_is_refused() {
    if !may_run("a witness started twice") {
        return;
    }
    let lab = lab();
    let mut scene = scene(&lab);
    let first = scene.cluster.daemon(WITNESS).expect("a daemon").pid();
    let log = lab.directory().join("second.log");
    let mut second =
        Process::start("a second daemon", &scene.cluster.command(WITNESS), &log).expect("a process");
    let end = second.await_end(SOON).expect("an end");
    assert_eq!(end.code(), Some(1), "{}", second.output());
    assert!(second.output().contains("another clusterd runs"), "{}", second.output());
    assert_eq!(scene.cluster.daemon(WITNESS).expect("a daemon").pid(), first);
    let status: Value = scene.cluster.control(WITNESS).command("status").expect("a status");
    assert_eq!(status["kind"], "witness", "the first goes on");
}
