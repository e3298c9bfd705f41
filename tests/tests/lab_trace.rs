//! `clusterctl trace`: what becomes of the VIP's frames on each node, and why.

use std::fs;
use std::time::Duration;

use cluster_tests::lab::{ClusterSettings, Family, Lab, Moment, may_run};
use cluster_tests::scene::Scene;
use serde_json::{Value, json};

/// The frames that a node shows.
fn traced(scene: &Scene<'_>, node: &str, arguments: &[&str]) -> Vec<Value> {
    let arguments = [&["--json", "trace"], arguments].concat();
    let output = scene.cluster.clusterctl(node, &arguments).expect("clusterctl");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("text");
    text.lines().map(|line| serde_json::from_str(line).expect("a frame")).collect()
}

fn frames_are_shown(family: Family) {
    if !may_run("traces") {
        return;
    }
    let lab = Lab::new().expect("a lab");
    let mut scene = Scene::start(&lab, &ClusterSettings::of(family)).expect("a cluster");
    let holder = scene.settle().expect("a settled cluster");
    let vip = family.vip().to_string();

    // The client asks the holder, and the prober asks everybody who has the VIP.
    let frames = traced(&scene, &holder, &[&vip, "--count", "40"]);
    assert_eq!(frames.len(), 40);
    let (passed, left, answered) = match family {
        Family::Ipv4 => ("ipv4_passed", "egress_ipv4_passed", "arp_answered"),
        Family::Ipv6 => ("ipv6_passed", "egress_ipv6_passed", "ns_answered"),
    };
    let of = |verdict: &str| frames.iter().filter(|frame| frame["verdict"] == verdict).collect::<Vec<_>>();
    assert!(!of(passed).is_empty() && !of(left).is_empty(), "{frames:#?}");
    assert!(of(passed).iter().all(|frame| frame["action"] == "passed" && frame["direction"] == "in"));
    assert!(of(left).iter().all(|frame| frame["direction"] == "out"));
    let times: Vec<_> = frames.iter().filter_map(|frame| frame["boot_ns"].as_u64()).collect();
    assert!(times.len() == 40 && times.is_sorted());

    // The other is dark: nothing but refusals.
    let (other, dark) = (scene.cluster.other(&holder), ["arp_dark", "ns_dark"]);
    let frames = traced(&scene, other, &[&vip, "--count", "3"]);
    assert!(
        frames.iter().all(|frame| dark.contains(&frame["verdict"].as_str().unwrap_or_default())),
        "{frames:#?}"
    );

    // In words, and as a capture.
    let output = scene.cluster.clusterctl(other, &["trace", &vip, "--count", "1"]);
    // The trace before is another client's until three seconds after it was last asked for.
    let refused = output.expect("clusterctl");
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    (Moment::now() + Duration::from_millis(3_200)).sleep();
    let output = scene.cluster.clusterctl(&holder, &["trace", &vip, "--count", "30"]).expect("clusterctl");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("UDP") && text.contains("this node holds the group"), "{text}");
    (Moment::now() + Duration::from_millis(3_200)).sleep();
    let file = lab.directory().join("trace.pcap");
    let path = file.display().to_string();
    let output = scene.cluster.clusterctl(&holder, &["trace", &vip, "--seconds", "1", "--write", &path]);
    assert!(output.is_ok_and(|output| output.status.success()));
    let capture = fs::read(&file).expect("a capture");
    assert!(capture.len() > 24 + 16 && capture[..4] == 0xa1b2_3c4d_u32.to_le_bytes());
    println!("one second of frames takes {} bytes of capture; answered as {answered}", capture.len());

    let refused =
        scene.cluster.control(&holder).request(&json!({ "cmd": "trace", "vip": "192.0.2.1", "trace": 1 }));
    assert!(refused.is_err_and(|error| format!("{error:#}").contains("192.0.2.1")));
    scene.never_two_answers().expect("one answer at most");
}

#[test]
fn frames_are_shown_with_what_became_of_them() {
    frames_are_shown(Family::Ipv4);
}

#[test]
fn so_they_are_with_ipv6() {
    frames_are_shown(Family::Ipv6);
}
