//! Groups with VIPs of both families, and heartbeats of one family for VIPs of the other.

use std::time::Duration;

use cluster_tests::lab::clock::Window;
use cluster_tests::lab::probe::{Announcements, RequestProbe, requests};
use cluster_tests::lab::{ClusterSettings, Family, Lab, Link, Moment, Timing, await_true, may_run};
use cluster_tests::scene::{SOON, Scene};

fn both() -> ClusterSettings {
    ClusterSettings { vips: Family::ALL.to_vec(), paths: Family::ALL.to_vec(), ..ClusterSettings::default() }
}

/// The nodes that have the VIP of this family on their public interface.
fn hosts(lab: &Lab, family: Family) -> Vec<String> {
    let has = |node: &str| {
        let mut command = lab.node(node).namespace.command("ip");
        let shown = command.args(["-o", "address", "show", "dev", Link::Public.interface()]).output();
        let shown = String::from_utf8_lossy(&shown.expect("`ip` starts").stdout).into_owned();
        shown.contains(&format!(" {}/", family.vip()))
    };
    lab.nodes().iter().map(|node| node.name.clone()).filter(|node| has(node)).collect()
}

#[test]
fn the_vips_of_a_group_are_served_and_announced_by_one_node_and_move_together() {
    if !may_run("groups of both families") {
        return;
    }
    let lab = Lab::new().expect("a lab");
    let mut scene = Scene::start(&lab, &both()).expect("a cluster");
    let further = RequestProbe::start_with(&lab, Family::Ipv6.vip(), requests::INTERVAL).expect("a client");
    let announcements = Announcements::start(&lab).expect("a listener");
    for fault in ["promote", "kill"] {
        let active = scene.settle().expect("a settled cluster");
        further.await_service(Some(&active), SOON).expect("service at the other VIP by the same node");
        let other = scene.cluster.other(&active);
        let from = Moment::now();
        let trial = scene.trial(other, |scene| match fault {
            "promote" => {
                let output = scene.cluster.clusterctl(other, &["promote", "web"])?;
                anyhow::ensure!(output.status.success(), "{output:?}");
                Ok(())
            }
            _ => scene.cluster.kill(&active).map(drop),
        });
        let trial = trial.expect("a takeover");
        further.await_service(Some(other), SOON).expect("service at the other VIP by the same node");
        for family in Family::ALL {
            let heard =
                || announcements.heard(Window::since(from)).iter().any(|told| told.address == family.vip());
            await_true("an announcement of each VIP", SOON, heard).expect("an announcement");
        }
        let announced = announcements.heard_since_first_of(other, Window::since(from));
        assert!(
            !announced.is_empty() && announced.iter().all(|told| told.node == other),
            "{fault}: {announced:?}"
        );
        let outages = [trial.outage.length, further.outage(Window::since(from)).length];
        println!("{fault}: outages {outages:?}, the machine stood still for {:?}", trial.stall);
        if fault == "kill" {
            scene
                .silent(&active, Window::since(from + Timing::NORMAL.lease + Duration::from_millis(1)))
                .expect("a dark node");
            scene.cluster.start(&active).expect("a restarted daemon");
        } else {
            for family in Family::ALL {
                // The old holder keeps them for a moment, for clients that have not heard yet.
                await_true("the VIPs on one host", SOON, || hosts(&lab, family) == [other])
                    .expect("addresses on the new holder alone");
            }
        }
    }
    scene.never_two_answers().expect("one answer at most");
}

#[test]
fn heartbeats_of_either_family_carry_vips_of_the_other() {
    if !may_run("heartbeats of both families") {
        return;
    }
    for (vip, path) in [(Family::Ipv4, Family::Ipv6), (Family::Ipv6, Family::Ipv4)] {
        let lab = Lab::new().expect("a lab");
        let settings = ClusterSettings { vips: vec![vip], paths: vec![path], ..ClusterSettings::default() };
        let mut scene = Scene::start(&lab, &settings).expect("a cluster");
        let active = scene.settle().expect("a settled cluster");
        let other = scene.cluster.other(&active);
        let trial = scene.trial(other, |scene| scene.cluster.kill(&active).map(drop)).expect("a takeover");
        println!("{} with heartbeats over {}: {:?}", vip.label(), path.label(), trial.outage.length);
        scene.never_two_answers().expect("one answer at most");
    }
}

#[test]
fn a_path_of_each_family_on_each_link_is_proven_and_one_is_enough() {
    if !may_run("paths of both families") {
        return;
    }
    let lab = Lab::new().expect("a lab");
    let mut scene = Scene::start(&lab, &both()).expect("a cluster");
    let active = scene.settle().expect("a settled cluster");
    let up = |scene: &Scene<'_>| -> usize {
        let status = scene.cluster.control(&active).command("status").unwrap_or_default();
        let paths = status["peers"][0]["paths"].as_array().cloned().unwrap_or_default();
        paths.iter().filter(|path| path["state"] == "up").count()
    };
    await_true("all four paths up", SOON, || up(&scene) == 4).expect("paths");
    let from = Moment::now();
    lab.cut(scene.cluster.other(&active), Link::Private).expect("a cut");
    await_true("the private paths down", SOON, || up(&scene) == 2).expect("paths");
    lab.mend_all().expect("mended links");
    await_true("all four paths up", SOON, || up(&scene) == 4).expect("paths");
    assert_eq!(scene.outage_since(from).lost, 0, "nothing of it cost a request");
    assert_eq!(scene.cluster.role(&active).expect("a role"), "active");
    scene.never_two_answers().expect("one answer at most");
}
