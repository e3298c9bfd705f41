//! A planned move breaks nothing: no request is lost, no connection breaks, one node announces.

use std::time::Duration;

use cluster_tests::lab::clock::Window;
use cluster_tests::lab::cluster::GROUP;
use cluster_tests::lab::probe::{Announcements, Connections, StreamServer};
use cluster_tests::lab::{ClusterSettings, Family, Lab, Moment, may_run};
use cluster_tests::scene::{SOON, Scene};
use serde_json::json;

/// How long connections say something before a move.
const BEFORE: Duration = Duration::from_millis(200);
/// How long everything is watched after it.
const AFTER: Duration = Duration::from_millis(1500);
/// A request that is not answered within this time is lost.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long the machine may stand still in a move whose lost requests and announcements count.
const TOLERANCE: Duration = Duration::from_millis(10);

/// Lines of a group whose VIPs appear under a virtual Ethernet address.
const VIRTUAL: &str = "mac = \"virtual\"\nvirtual_id = 7";

fn moves_break_nothing(family: Family, group_lines: &str) {
    if !may_run("switchover") {
        return;
    }
    let lab = Lab::new().expect("a lab");
    let settings = ClusterSettings { group_lines: group_lines.to_owned(), ..ClusterSettings::of(family) };
    let mut scene = Scene::start(&lab, &settings).expect("a cluster");
    let servers: Result<Vec<_>, _> = lab.nodes().iter().map(StreamServer::start).collect();
    let _servers = servers.expect("a service");
    let announcements = Announcements::start(&lab).expect("ears");
    // There, back within the grace, and there again: connections of before the first move are open on the first node.
    for _ in 0..3 {
        let old = scene.settle().expect("a settled cluster");
        let new = scene.cluster.other(&old).to_owned();
        let streams = Connections::open(&lab, family.vip()).expect("connections");
        (Moment::now() + BEFORE).sleep();
        let from = Moment::now();
        let promote = json!({ "cmd": "promote", "group": GROUP });
        scene.cluster.control(&new).request_within(&promote, SOON).expect("a move");
        scene.client.await_service(Some(&new), SOON).expect("service");
        (Moment::now() + AFTER).sleep();
        let window = Window::since(from);
        let losses = scene.client.losses(Window { to: window.to - PATIENCE, ..window }, PATIENCE);
        let stall = streams.fates(window).iter().map(|fate| fate.stall).max().unwrap_or_default();
        println!(
            "{old} to {new}: {} of {} requests lost, the slowest took {:?}, {} of {} connections broke, the longest stall was {stall:?}",
            losses.lost,
            losses.asked,
            losses.slowest,
            streams.broken(),
            streams.fates(window).len(),
        );
        // A machine that stands still loses requests by itself: queues run full on both ends.
        let stood_still = scene.canary.worst(window, true);
        if stood_still <= TOLERANCE {
            assert_eq!(losses.lost, 0, "requests, from {old} to {new}");
        } else {
            println!(
                "the machine stood still for {stood_still:?}; neither lost requests nor announcements count"
            );
        }
        assert_eq!(streams.broken(), 0, "connections, from {old} to {new}");
        if stood_still > TOLERANCE {
            // After a while without heartbeats the group may have moved again.
            continue;
        }
        let announced = announcements.heard_since_first_of(&new, window);
        assert!(!announced.is_empty(), "nobody announced a move from {old} to {new}");
        assert!(announced.iter().all(|told| told.node == new), "{announced:?} of a move from {old} to {new}");
    }
    scene.never_two_answers().expect("one answer at most");
}

#[test]
fn a_move_breaks_nothing() {
    moves_break_nothing(Family::Ipv4, "");
}

#[test]
fn a_move_breaks_nothing_with_ipv6() {
    moves_break_nothing(Family::Ipv6, "");
}

#[test]
fn a_move_breaks_nothing_with_a_virtual_mac() {
    moves_break_nothing(Family::Ipv4, VIRTUAL);
}

#[test]
fn a_move_breaks_nothing_with_ipv6_and_a_virtual_mac() {
    moves_break_nothing(Family::Ipv6, VIRTUAL);
}
