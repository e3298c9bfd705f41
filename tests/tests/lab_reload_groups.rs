//! Groups and VIPs come and go while the cluster serves: what stays loses no request, what is new is served by one node,
//! and what is gone is answered by nobody.

use std::fs;
use std::net::Ipv4Addr;
use std::process::Output;
use std::time::Duration;

use cluster_tests::lab::clock::{Window, await_true};
use cluster_tests::lab::probe::{AnswerProbe, EchoServer, RequestProbe};
use cluster_tests::lab::topology::{Node, VIP};
use cluster_tests::lab::{ClusterSettings, Lab, Link, Moment, may_run};
use cluster_tests::scene::{SOON, Scene};

const NODES: [&str; 3] = ["a", "b", "c"];
/// The VIP of the second group.
const SECOND: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 101);
/// A VIP more for the first.
const MORE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 102);
const INTERVAL: Duration = Duration::from_millis(2);

const SECOND_GROUP: &str =
    "\n[[group]]\nname = \"second\"\nvips = [\"10.77.0.101/24\"]\nprefer = [\"b\", \"a\", \"c\"]\n";

fn reload(scene: &Scene<'_>, node: &str, text: &str) -> Output {
    fs::write(scene.cluster.config(), text).expect("the file can be written");
    scene.cluster.clusterctl(node, &["reload"]).expect("clusterctl runs")
}

fn reload_everywhere(scene: &Scene<'_>, text: &str) {
    for node in NODES {
        let output = reload(scene, node, text);
        assert!(output.status.success(), "{node}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

fn ip(node: &Node, arguments: &str) -> String {
    let output = node.namespace.command("ip").args(arguments.split(' ')).output().expect("ip runs");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The nodes that have an address on an interface.
fn hosts_of(lab: &Lab, address: Ipv4Addr) -> Vec<String> {
    let there = |node: &&Node| ip(node, "-o -4 address").contains(&format!(" {address}/"));
    lab.nodes().iter().filter(there).map(|node| node.name.clone()).collect()
}

/// Groups and a VIP are added, then removed.
#[test]
fn groups_and_vips_come_and_go_and_the_rest_loses_nothing() {
    if !may_run("reloads of groups") {
        return;
    }
    let lab = Lab::with_nodes(&NODES).expect("a lab");
    let mut scene = Scene::start(&lab, &ClusterSettings::default()).expect("a cluster");
    let servers =
        lab.nodes().iter().flat_map(|node| [EchoServer::start(node, SECOND), EchoServer::start(node, MORE)]);
    let _servers: Vec<_> = servers.collect::<Result<_, _>>().expect("servers");
    let mut second = AnswerProbe::start_with(&lab, SECOND, INTERVAL).expect("a probe");
    let mut more = AnswerProbe::start_with(&lab, MORE, INTERVAL).expect("a probe");
    let first = fs::read_to_string(scene.cluster.config()).expect("the cluster's file");
    let holder = scene.settle().expect("a settled cluster");
    let epoch = |scene: &Scene<'_>| scene.cluster.group(&holder).expect("the group")["epoch"].clone();
    let (before, upsets) = (epoch(&scene), scene.transitions().expect("transitions"));
    assert!(second.answers(Window::ALWAYS).is_empty() && more.answers(Window::ALWAYS).is_empty());
    let from = Moment::now();

    let with_second = format!("{first}{SECOND_GROUP}");
    reload_everywhere(&scene, &with_second);
    let client = RequestProbe::start_with(&lab, SECOND, INTERVAL).expect("a client");
    client.await_service(None, SOON).expect("the new group is served");
    assert_eq!(hosts_of(&lab, SECOND).len(), 1, "{:?}", hosts_of(&lab, SECOND));

    let with_more = with_second.replacen(
        &format!("vips = [\"{VIP}/24\"]"),
        &format!("vips = [\"{VIP}/24\", \"{MORE}/24\"]"),
        1,
    );
    assert_ne!(with_more, with_second, "the lab's file names its VIP");
    reload_everywhere(&scene, &with_more);
    let client = RequestProbe::start_with(&lab, MORE, INTERVAL).expect("a client");
    client.await_service(Some(&holder), SOON).expect("the new VIP is served where the group's others are");

    reload_everywhere(&scene, &first);
    let without = Moment::now();
    for address in [SECOND, MORE] {
        assert!(hosts_of(&lab, address).is_empty(), "{address} is still on {:?}", hosts_of(&lab, address));
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
    // The machine may stand still, but then no request is asked either.
    assert!(outage.length < Duration::from_millis(40).max(stall * 2), "{outage:?}, stall {stall:?}");

    // An answer that was on its way counts for the time before.
    let after = without + Duration::from_millis(20);
    (after + Duration::from_millis(100)).sleep();
    for probe in [&mut second, &mut more] {
        probe.stop();
        assert!(
            !probe.answers(Window { from, to: without }).is_empty(),
            "it was answered while it was there"
        );
        let late = probe.answers(Window::since(after));
        assert!(
            late.is_empty(),
            "{} answers for a VIP that is gone, the last: {:?}",
            late.len(),
            late.last()
        );
        assert_eq!(probe.double_answers(), []);
    }
    scene.never_two_answers().expect("one answer at most");
}

/// A VIP may not change its group, nor be on the host already; nothing is other after that, and a good file is taken.
#[test]
fn what_cannot_be_done_at_once_is_refused_and_changes_nothing() {
    if !may_run("reloads of groups") {
        return;
    }
    let lab = Lab::with_nodes(&NODES).expect("a lab");
    let mut scene = Scene::start(&lab, &ClusterSettings::default()).expect("a cluster");
    let first = fs::read_to_string(scene.cluster.config()).expect("the cluster's file");
    scene.settle().expect("a settled cluster");
    let refused = |scene: &Scene<'_>, text: &str, why: &str| {
        let output = reload(scene, "a", text);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{why}: {said}");
        assert!(said.contains(why) && said.contains("unchanged"), "{why}: {said}");
        let status = scene.cluster.clusterctl("a", &["--json", "status"]).expect("clusterctl runs");
        let status: serde_json::Value = serde_json::from_slice(&status.stdout).expect("a status in JSON");
        assert_eq!(status["groups"].as_array().map(Vec::len), Some(1));
    };
    let renamed = first.replace("name = \"web\"", "name = \"shop\"");
    assert_ne!(renamed, first, "the lab's file names its group");
    refused(&scene, &renamed, "cannot go from group web to group shop");
    refused(&scene, &first.replace(&format!("{VIP}/24"), &format!("{VIP}/32")), "cannot become a /32");

    let node = lab.node("a");
    ip(node, &format!("address add {SECOND}/24 dev {}", Link::Public.interface()));
    let with_second = format!("{first}{SECOND_GROUP}");
    refused(&scene, &with_second, "configured on interface");
    assert_eq!(hosts_of(&lab, SECOND), ["a"], "what is not the cluster's is left alone");
    ip(node, &format!("address delete {SECOND}/24 dev {}", Link::Public.interface()));

    reload_everywhere(&scene, &with_second);
    await_true("the new group's VIP to be on one node", SOON, || hosts_of(&lab, SECOND).len() == 1)
        .expect("the new group is served");
    scene.never_two_answers().expect("one answer at most");
}
