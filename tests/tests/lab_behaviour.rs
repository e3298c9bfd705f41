//! What an administrator relies on: addresses, interfaces, clean stops, clean-up, maintenance.

use std::time::Duration;

use cluster_tests::lab::clock::Window;
use cluster_tests::lab::cluster::{GROUP, binary};
use cluster_tests::lab::topology::CLIENT;
use cluster_tests::lab::{ClusterSettings, Family, Lab, Link, Moment, Timing, await_true, may_run};
use cluster_tests::scene::{SOON, Scene};
use nix::sys::signal::Signal;
use serde_json::Value;

/// What `ip` says about the node's interface.
fn ip(lab: &Lab, node: &str, arguments: &[&str]) -> String {
    let output = lab.node(node).namespace.command("ip").args(arguments).output().expect("`ip` starts");
    assert!(output.status.success(), "ip {arguments:?} on {node}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn has_vip(lab: &Lab, node: &str, family: Family) -> bool {
    let shown = ip(lab, node, &["-o", "address", "show", "dev", Link::Public.interface()]);
    shown.contains(&format!(" {}/", family.vip()))
}

/// Whether anything of the product is on the node's interfaces or pinned.
fn traces(lab: &Lab, node: &str) -> Vec<String> {
    let mut found = Vec::new();
    for link in Link::ALL {
        let shown = ip(lab, node, &["-d", "link", "show", "dev", link.interface()]);
        if shown.contains("prog/xdp") {
            found.push(format!("an XDP program on {}", link.interface()));
        }
    }
    for family in Family::ALL.into_iter().filter(|family| has_vip(lab, node, *family)) {
        found.push(format!("the VIP {}", family.vip()));
    }
    let pins = format!("/sys/fs/bpf/cluster/{}/{node}", lab.name());
    if std::path::Path::new(&pins).exists() {
        found.push(pins);
    }
    found
}

fn kinds(scene: &Scene<'_>, node: &str) -> Vec<String> {
    let output = scene.cluster.clusterctl(node, &["--json", "events"]).expect("events");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let kind = |event: &Value| event.get("kind").and_then(Value::as_str).map(str::to_owned);
    let mut kinds = Vec::new();
    for value in serde_json::Deserializer::from_str(&text).into_iter::<Value>().flatten() {
        let events = value.get("events").and_then(Value::as_array).or(value.as_array()).cloned();
        kinds.extend(events.unwrap_or(vec![value]).iter().filter_map(kind));
    }
    kinds
}

#[test]
fn the_vip_is_on_the_active_node_alone_and_is_put_back_when_somebody_takes_it_off() {
    place_of_the_vip(Family::Ipv4);
}

fn place_of_the_vip(family: Family) {
    if !may_run("addresses of a cluster") {
        return;
    }
    let lab = Lab::new().expect("a lab");
    let mut scene = Scene::start(&lab, &ClusterSettings::of(family)).expect("a cluster");
    let active = scene.settle().expect("a settled cluster");
    let passive = scene.cluster.other(&active);
    assert!(has_vip(&lab, &active, family) && !has_vip(&lab, passive, family));

    ip(&lab, &active, &["address", "del", family.vip_with_prefix(), "dev", Link::Public.interface()]);
    await_true("the VIP to be put back", SOON, || has_vip(&lab, &active, family)).expect("the VIP");
    await_true("the report of it", SOON, || kinds(&scene, &active).contains(&"address_restored".to_owned()))
        .expect("an event");
    assert_eq!(scene.cluster.role(&active).expect("a role"), "active");
}

#[test]
fn a_vip_of_somebody_else_is_an_error_and_is_left_alone() {
    foreign_vips(Family::Ipv4);
}

fn foreign_vips(family: Family) {
    if !may_run("foreign addresses") {
        return;
    }
    let lab = Lab::new().expect("a lab");
    let mut scene = Scene::start(&lab, &ClusterSettings::of(family)).expect("a cluster");
    let active = scene.settle().expect("a settled cluster");
    let passive = scene.cluster.other(&active);
    let vip = family.vip_with_prefix();

    // While it runs: the group is in fault here, and nothing is taken when the other node goes.
    ip(&lab, passive, &["address", "add", vip, "dev", Link::Private.interface()]);
    await_true("the report of it", SOON, || kinds(&scene, passive).contains(&"foreign_address".to_owned()))
        .expect("an event");
    scene.cluster.kill(&active).expect("a killed daemon");
    scene.cluster.await_role(passive, "fault", SOON).expect("the group in fault");
    assert!(
        ip(&lab, passive, &["address", "show"]).contains(&format!(" {vip} ")),
        "it is not ours to delete"
    );
    ip(&lab, passive, &["address", "del", vip, "dev", Link::Private.interface()]);
    // It is tried every five seconds, and a kernel that is busy elsewhere may fail the first of them.
    scene.cluster.await_role(passive, "active", SOON * 2).expect("the group taken once the way is free");

    // At the start: refused.
    scene.cluster.stop(passive).expect("a clean stop");
    ip(&lab, passive, &["address", "add", vip, "dev", Link::Public.interface()]);
    let error = scene.cluster.start(passive).expect_err("a refusal").to_string();
    assert!(error.contains(&format!("VIP {vip}")) && error.contains("not by the cluster"), "{error}");
    assert!(has_vip(&lab, passive, family));
}

#[test]
fn an_interface_that_is_made_again_serves_again() {
    new_interfaces(Family::Ipv4);
}

fn new_interfaces(family: Family) {
    if !may_run("interfaces that come and go") {
        return;
    }
    let lab = Lab::new().expect("a lab");
    let mut scene = Scene::start(&lab, &ClusterSettings::of(family)).expect("a cluster");
    for _ in 0..2 {
        let active = scene.settle().expect("a settled cluster");
        let other = scene.cluster.other(&active);
        let trial = scene
            .trial(other, |scene| scene.lab.remove_interface(&active, Link::Public))
            .expect("a takeover");
        println!("interface removed: {:?}", trial.outage.length);
        scene.cluster.await_role(&active, "fault", SOON).expect("the node without interface in fault");
        lab.create_interface(&active, Link::Public).expect("a new interface");
        scene.cluster.await_role(&active, "passive", SOON).expect("the node back");
        // Heartbeats pass over the new interface too, and the group can move there.
        await_true("both paths up", SOON, || {
            let status = scene.cluster.control(&active).command("status").unwrap_or_default();
            let paths = status["peers"][0]["paths"].as_array().cloned().unwrap_or_default();
            paths.len() == 2 && paths.iter().all(|path| path["state"] == "up")
        })
        .expect("paths");
        let moved = scene.cluster.clusterctl(&active, &["promote", GROUP]).expect("clusterctl");
        assert!(moved.status.success(), "{moved:?}");
        scene.client.await_service(Some(&active), SOON).expect("service over the new interface");
    }
    scene.never_two_answers().expect("one answer at most");
}

#[test]
fn a_clean_stop_leaves_nothing_and_cleanup_removes_what_a_kill_left() {
    clean_stops(Family::Ipv4);
}

fn clean_stops(family: Family) {
    if !may_run("clean stops") {
        return;
    }
    let lab = Lab::new().expect("a lab");
    let mut scene = Scene::start(&lab, &ClusterSettings::of(family)).expect("a cluster");
    let active = scene.settle().expect("a settled cluster");
    let passive = scene.cluster.other(&active);
    let cleanup = |scene: &Scene<'_>, node: &str| {
        let mut command = lab.node(node).namespace.command(binary("clusterd"));
        command.arg("--cleanup").arg("--config").arg(scene.cluster.config()).args(["--node", node]);
        command.output().expect("clusterd starts")
    };

    let refused = cleanup(&scene, &active);
    assert!(!refused.status.success(), "a living daemon's things are not removed: {refused:?}");
    assert!(has_vip(&lab, &active, family));

    scene.cluster.kill(&active).expect("a killed daemon");
    assert!(!traces(&lab, &active).is_empty(), "a killed daemon's programs stay, as a closed door");
    scene.client.await_service(Some(passive), SOON).expect("service by the other");
    let cleaned = cleanup(&scene, &active);
    assert!(cleaned.status.success(), "{cleaned:?}");
    assert_eq!(traces(&lab, &active), Vec::<String>::new());
    let again = cleanup(&scene, &active);
    assert!(again.status.success(), "nothing to do is no error: {again:?}");

    let (_, status) = scene.cluster.stop(passive).expect("a clean stop");
    assert_eq!(status.code(), Some(0));
    assert_eq!(traces(&lab, passive), Vec::<String>::new());
    assert!(!scene.cluster.control(passive).socket().exists(), "the socket is gone");
}

#[test]
fn what_a_killed_node_still_has_configured_does_not_leave_it() {
    remains_of_the_killed(Family::Ipv4);
}

fn remains_of_the_killed(family: Family) {
    if !may_run("the egress fence") {
        return;
    }
    let lab = Lab::new().expect("a lab");
    let mut scene = Scene::start(&lab, &ClusterSettings::of(family)).expect("a cluster");
    let active = scene.settle().expect("a settled cluster");
    let other = scene.cluster.other(&active);
    let killed = scene.cluster.kill(&active).expect("a killed daemon");
    scene.client.await_service(Some(other), SOON).expect("service by the other");
    assert!(has_vip(&lab, &active, family), "nobody was left to remove it");
    // The kernel is provoked to speak in its name on both links.
    for link in Link::ALL {
        let from = family.vip().to_string();
        let to = lab.leg(CLIENT, link).address_of(family).to_string();
        let _ = lab
            .node(&active)
            .namespace
            .command("ping")
            .args(["-c", "3", "-i", "0.2", "-W", "1", "-I", &from, &to])
            .output();
    }
    scene
        .silent(&active, Window::since(killed + Timing::NORMAL.lease + Duration::from_millis(1)))
        .expect("silence");
    scene.never_two_answers().expect("one answer at most");
}

#[test]
fn drain_gives_everything_up_and_undrain_ends_it() {
    if !may_run("maintenance") {
        return;
    }
    let lab = Lab::new().expect("a lab");
    let mut scene = Scene::start(&lab, &ClusterSettings::default()).expect("a cluster");
    let active = scene.settle().expect("a settled cluster");
    let other = scene.cluster.other(&active);
    let run = |scene: &Scene<'_>, node: &str, arguments: &[&str]| {
        let output = scene.cluster.clusterctl(node, arguments).expect("clusterctl");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(run(&scene, &active, &["drain"]).0, Some(0));
    scene.client.await_service(Some(other), SOON).expect("service by the other");
    let (code, why) = run(&scene, other, &["demote", GROUP]);
    assert_eq!(code, Some(1), "nobody is left to take it: {why}");
    let (code, why) = run(&scene, &active, &["promote", GROUP]);
    assert_eq!(code, Some(1), "a drained node takes nothing: {why}");
    assert_eq!(run(&scene, other, &["drain"]).0, Some(1), "nobody would serve");
    assert_eq!(run(&scene, &active, &["undrain"]).0, Some(0));
    assert_eq!(run(&scene, other, &["promote", GROUP]).0, Some(0), "it has it already");
    assert_eq!(run(&scene, &active, &["demote", GROUP]).0, Some(1), "it does not have it");
    assert_eq!(run(&scene, other, &["demote", GROUP]).0, Some(0));
    scene.client.await_service(Some(&active), SOON).expect("service moved back by hand");

    // With force the last one gives up too, and takes it again only when told.
    scene.cluster.stop(other).expect("a clean stop");
    assert_eq!(run(&scene, &active, &["demote", GROUP, "--force"]).0, Some(0));
    (Moment::now() + Duration::from_millis(500)).sleep();
    assert_eq!(scene.cluster.role(&active).expect("a role"), "passive");
    assert_eq!(run(&scene, &active, &["promote", GROUP, "--force"]).0, Some(0));
    scene.client.await_service(Some(&active), SOON).expect("service again");
    scene.never_two_answers().expect("one answer at most");
}

#[test]
fn failback_now_returns_the_group_and_a_placement_by_hand_stays() {
    if !may_run("failback") {
        return;
    }
    let lab = Lab::new().expect("a lab");
    let settings = ClusterSettings {
        group_lines: "failback = \"now\"\nfailback_after = \"200ms\"".to_owned(),
        ..ClusterSettings::default()
    };
    let mut scene = Scene::start(&lab, &settings).expect("a cluster");
    scene.client.await_service(Some("a"), SOON).expect("service by the preferred node");
    scene.cluster.kill("a").expect("a killed daemon");
    scene.client.await_service(Some("b"), SOON).expect("service by the other");
    scene.cluster.start("a").expect("a restarted daemon");
    scene.client.await_service(Some("a"), SOON).expect("service back at the preferred node");
    let moved = scene.cluster.clusterctl("b", &["promote", GROUP]).expect("clusterctl");
    assert!(moved.status.success(), "{moved:?}");
    (Moment::now() + Duration::from_millis(1000)).sleep();
    assert_eq!(scene.cluster.role("b").expect("a role"), "active", "what was placed by hand stays");
    scene.never_two_answers().expect("one answer at most");
}

#[test]
fn generic_mode_serves_as_well_and_says_so() {
    generic_mode(Family::Ipv4);
}

fn generic_mode(family: Family) {
    if !may_run("generic XDP") {
        return;
    }
    let lab = Lab::new().expect("a lab");
    let settings =
        ClusterSettings { node_lines: "xdp = \"generic\"".to_owned(), ..ClusterSettings::of(family) };
    let mut scene = Scene::start(&lab, &settings).expect("a cluster");
    let active = scene.settle().expect("a settled cluster");
    let status = scene.cluster.control(&active).command("status").expect("a status");
    assert_eq!(status["xdp"], "generic");
    let other = scene.cluster.other(&active);
    scene.trial(other, |scene| scene.cluster.kill(&active).map(drop)).expect("a takeover");
    scene.never_two_answers().expect("one answer at most");
}

#[test]
fn two_daemons_of_one_node_and_signals_in_plenty_are_survived() {
    if !may_run("double starts") {
        return;
    }
    let lab = Lab::new().expect("a lab");
    let mut scene = Scene::start(&lab, &ClusterSettings::default()).expect("a cluster");
    let active = scene.settle().expect("a settled cluster");
    let from = Moment::now();
    let mut second = lab.node(&active).namespace.command(binary("clusterd"));
    second.arg("--config").arg(scene.cluster.config()).args(["--node", &active, "--socket"]);
    let output = second.arg(lab.directory().join("second.sock")).output().expect("clusterd starts");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("another clusterd"), "{said}");
    scene.cluster.daemon(&active).and_then(|daemon| daemon.signal(Signal::SIGHUP)).expect("a signal");
    await_true("the answer to SIGHUP", SOON, || kinds(&scene, &active).contains(&"reloaded".to_owned()))
        .expect("an event");
    (Moment::now() + Duration::from_millis(200)).sleep();
    assert_eq!(scene.outage_since(from).lost, 0, "none of it cost a request");
    assert_eq!(scene.cluster.role(&active).expect("a role"), "active");
}

#[test]
fn a_daemon_that_was_killed_and_restarted_late_leaves_nothing_when_it_stops() {
    late_restarts(Family::Ipv4);
}

fn late_restarts(family: Family) {
    if !may_run("a stop after a crash") {
        return;
    }
    let lab = Lab::new().expect("a lab");
    let mut scene = Scene::start(&lab, &ClusterSettings::of(family)).expect("a cluster");
    let active = scene.settle().expect("a settled cluster");
    let other = scene.cluster.other(&active);
    scene.cluster.kill(&active).expect("a killed daemon");
    scene.client.await_service(Some(other), SOON).expect("service by the other");
    scene.cluster.start(&active).expect("a restarted daemon");
    scene.cluster.await_role(&active, "passive", SOON).expect("the restarted node passive");
    assert!(!has_vip(&lab, &active, family), "the VIP is on the active node alone");
    let (_, status) = scene.cluster.stop(&active).expect("a clean stop");
    assert_eq!(status.code(), Some(0));
    assert_eq!(traces(&lab, &active), Vec::<String>::new());
    (Moment::now() + Duration::from_millis(300)).sleep();
    scene.never_two_answers().expect("one answer at most");
}

#[test]
fn a_cluster_of_one_node_serves_again_after_each_loss() {
    if !may_run("a cluster of one node") {
        return;
    }
    let lab = Lab::with_nodes(&["a"]).expect("a lab");
    let mut scene = Scene::start(&lab, &ClusterSettings::default()).expect("a cluster");
    for _ in 0..2 {
        lab.carrier("a", Link::Public, false).expect("no carrier");
        scene.cluster.await_role("a", "fault", SOON).expect("the node in fault");
        lab.mend_all().expect("mended links");
        scene.cluster.await_role("a", "active", SOON).expect("the node active again");
        scene.client.await_service(Some("a"), SOON).expect("service");
    }
    let before =
        scene.cluster.daemon("a").and_then(|daemon| daemon.processor_time()).expect("processor time");
    (Moment::now() + Duration::from_secs(1)).sleep();
    let used = scene.cluster.daemon("a").and_then(|daemon| daemon.processor_time()).expect("processor time")
        - before;
    assert!(used < Duration::from_millis(300), "{used:?} of processor time in a second at rest");
}

/// The same with a VIP and heartbeats of the other family.
mod ipv6 {
    use std::net::{IpAddr, UdpSocket};

    use super::*;

    #[test]
    fn the_vip_is_on_the_active_node_alone_and_is_put_back_when_somebody_takes_it_off() {
        place_of_the_vip(Family::Ipv6);
    }

    #[test]
    fn a_vip_of_somebody_else_is_an_error_and_is_left_alone() {
        foreign_vips(Family::Ipv6);
    }

    #[test]
    fn an_interface_that_is_made_again_serves_again() {
        new_interfaces(Family::Ipv6);
    }

    #[test]
    fn a_clean_stop_leaves_nothing_and_cleanup_removes_what_a_kill_left() {
        clean_stops(Family::Ipv6);
    }

    #[test]
    fn what_a_killed_node_still_has_configured_does_not_leave_it() {
        remains_of_the_killed(Family::Ipv6);
    }

    #[test]
    fn generic_mode_serves_as_well_and_says_so() {
        generic_mode(Family::Ipv6);
    }

    #[test]
    fn a_daemon_that_was_killed_and_restarted_late_leaves_nothing_when_it_stops() {
        late_restarts(Family::Ipv6);
    }

    /// A VIP is usable at once, and nothing that the node sends of its own accord comes from it.
    #[test]
    fn the_vip_is_usable_at_once_and_the_node_does_not_choose_it() {
        if !may_run("choice of addresses") {
            return;
        }
        let lab = Lab::new().expect("a lab");
        let mut scene = Scene::start(&lab, &ClusterSettings::of(Family::Ipv6)).expect("a cluster");
        let active = scene.settle().expect("a settled cluster");
        let shown = ip(&lab, &active, &["-o", "-6", "address", "show", "dev", Link::Public.interface()]);
        let vip = shown.lines().find(|line| line.contains(&format!(" {}/", Family::Ipv6.vip())));
        let vip = vip.expect("the VIP on the active node");
        assert!(!vip.contains("tentative") && vip.contains("deprecated"), "{vip}");
        let chosen = lab.node(&active).namespace.run(|| {
            let socket = UdpSocket::bind(("::", 0))?;
            // From the whole network, the VIP's is the address that is nearest to this one.
            socket.connect(("fd77::101", 7))?;
            Ok(socket.local_addr()?.ip())
        });
        assert_eq!(chosen.expect("a way"), IpAddr::from(lab.leg(&active, Link::Public).address6));
    }
}
