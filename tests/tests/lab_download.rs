//! Downloads from the VIP when the active one of three nodes is cut off: who connects anew is soon accepted, and the old node,
//! which still has the rest of a download to send, sends nothing of it, neither while it is cut off nor when it is mended.

use std::time::Duration;

use cluster_tests::lab::clock::Window;
use cluster_tests::lab::probe::download::{Download, DownloadServer, await_accepted};
use cluster_tests::lab::{ClusterSettings, Family, Lab, Moment, Timing, may_run};
use cluster_tests::scene::{SOON, Scene, median, trials};

/// What is read before the cut.
const ENOUGH: u64 = 4 << 20;
/// A failover by a silent cut, and what one attempt to connect that comes to nothing takes.
const BOUND: Duration = Duration::from_millis(60 + 4);
/// Time enough for the old node's kernel to try again several times (RFC 6298: after 0.2, 0.4, 0.8 s here).
const LONG: Duration = Duration::from_millis(1500);

fn cut_downloads(family: Family) {
    if !may_run("downloads over a cut") {
        return;
    }
    let timing = Timing::NORMAL;
    let lab = Lab::with_nodes(&["a", "b", "c"]).expect("a lab");
    let mut scene = Scene::start(&lab, &ClusterSettings::with(timing).in_family(family)).expect("a cluster");
    let servers: Vec<_> = lab
        .nodes()
        .iter()
        .map(|node| (node.name.clone(), DownloadServer::start(node).expect("a service")))
        .collect();
    let sending = |node: &str| servers.iter().find(|(name, _)| name == node).map(|(_, server)| server.open());
    scene.cluster.await_votes(SOON).expect("three voters");
    let mut own = Vec::new();
    for _ in 0..trials(5) {
        let active = scene.settle().expect("a settled cluster");
        let download = Download::start(&lab, family.vip()).expect("a download");
        let begun = Moment::now();
        download.await_bytes(ENOUGH, SOON).expect("a download that goes on");
        let heard = scene.ears.iter().filter(|(node, ..)| *node == active);
        let heard: usize = heard.map(|(_, _, ear)| ear.sightings(Window::since(begun)).len()).sum();
        assert!(heard > 100, "only {heard} frames of the download were heard on the switch port");

        let cut = Moment::now();
        lab.cut_all(&active).expect("a cut");
        let accepted = await_accepted(&lab, family.vip(), SOON).expect("a connection to the other node");
        let window = Window::since(cut);
        let stall = scene.canary.worst(window, false).max(scene.client.longest_pause(window));
        println!("accepted after {:?}, the machine stood still for {stall:?}", accepted.since(cut));
        own.push(accepted.since(cut).saturating_sub(stall));

        assert!(sending(&active) > Some(0), "the old node has nothing left to send");
        lab.mend_all().expect("mended links");
        scene.cluster.await_role(&active, "passive", SOON).expect("the mended node passive");
        (Moment::now() + LONG).sleep();
        assert!(sending(&active) > Some(0), "the old node had nothing left to send");
        let dark = cut + timing.lease + Duration::from_millis(1);
        scene.silent(&active, Window::since(dark)).expect("a mended node that stays dark");
        drop(download);
    }
    let median = median(own.clone());
    assert!(median <= BOUND, "{median:?} without stalls, more than {BOUND:?}: {own:?}");
    scene.never_two_answers().expect("one answer at most");
}

#[test]
fn a_cut_ipv4_download_is_begun_anew_and_its_old_node_stays_dark() {
    cut_downloads(Family::Ipv4);
}

#[test]
fn a_cut_ipv6_download_is_begun_anew_and_its_old_node_stays_dark() {
    cut_downloads(Family::Ipv6);
}
