//! Groups and VIPs come and go while the cluster serves: what stays loses no request, what is new is served by one node,
//! and what is gone is answered by nobody.

use std::fs;
use std::net::Ipv4Addr;
use std::process::Output;
use std::time::Duration;

use cluster_tests::lab::clock::{Window, await_true};
use cluster_tests::lab::cluster::{Timing, binary};
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

/// The file with a VIP more in the first group.
fn with_more(text: &str) -> String {
    let (one, two) = (format!("vips = [\"{VIP}/24\"]"), format!("vips = [\"{VIP}/24\", \"{MORE}/24\"]"));
    let more = text.replacen(&one, &two, 1);
    assert_ne!(more, text, "the lab's file names its VIP");
    more
}

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

    let with_more = with_more(&with_second);
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
    let _server = EchoServer::start(node, SECOND).expect("a server");
    let client = RequestProbe::start_with(&lab, SECOND, Duration::from_micros(250)).expect("a client");
    client.await_service(Some("a"), SOON).expect("whoever has the address serves there");
    let with_second = format!("{first}{SECOND_GROUP}");
    let from = Moment::now();
    for _ in 0..20 {
        refused(&scene, &with_second, "configured on interface");
    }
    let lost = client.outage(Window { from, to: Moment::now() - Duration::from_millis(20) }).lost;
    assert_eq!(lost, 0, "an address that is not the cluster's goes on serving");
    drop(client);
    assert_eq!(hosts_of(&lab, SECOND), ["a"], "what is not the cluster's is left alone");
    ip(node, &format!("address delete {SECOND}/24 dev {}", Link::Public.interface()));

    reload_everywhere(&scene, &with_second);
    await_true("the new group's VIP to be on one node", SOON, || hosts_of(&lab, SECOND).len() == 1)
        .expect("the new group is served");
    scene.never_two_answers().expect("one answer at most");
}

/// A daemon that was killed is started with a file without one of its VIPs, or without a group: they are on no interface
/// any more, since nobody guards them.
#[test]
fn what_a_file_has_no_more_after_a_crash_is_off_the_interface() {
    if !may_run("crashes between two files") {
        return;
    }
    let lab = Lab::with_nodes(&NODES).expect("a lab");
    // Long enough for a lease to be adopted.
    let settings = ClusterSettings::with(Timing::millis(100, 4000, 3000));
    let mut scene = Scene::start(&lab, &settings).expect("a cluster");
    let first = fs::read_to_string(scene.cluster.config()).expect("the cluster's file");
    let holder = scene.settle().expect("a settled cluster");
    assert_eq!(holder, "a");
    let whole = with_more(&format!("{first}{SECOND_GROUP}"));
    reload_everywhere(&scene, &whole);
    let is_on = |node: &str, address| hosts_of(&lab, address).iter().any(|host| host == node);
    await_true("each VIP to be where it belongs", SOON, || is_on("a", MORE) && is_on("b", SECOND))
        .expect("all are served");
    let epoch = |scene: &Scene<'_>| scene.cluster.group("a").expect("the group")["epoch"].clone();
    let before = epoch(&scene);

    // The group goes on in its tenure, and one VIP of it is gone.
    fs::write(scene.cluster.config(), format!("{first}{SECOND_GROUP}")).expect("the file can be written");
    scene.cluster.kill("a").expect("a killed daemon");
    assert!(is_on("a", MORE), "a killed daemon leaves its VIPs");
    scene.cluster.start("a").expect("a daemon that starts again");
    assert!(!is_on("a", MORE), "{:?}", hosts_of(&lab, MORE));
    assert!(is_on("a", VIP), "the lease was adopted");
    assert_eq!(epoch(&scene), before, "the lease was adopted");

    // The whole group is gone.
    fs::write(scene.cluster.config(), &first).expect("the file can be written");
    scene.cluster.kill("b").expect("a killed daemon");
    assert!(is_on("b", SECOND), "a killed daemon leaves its VIPs");
    scene.cluster.start("b").expect("a daemon that starts again");
    assert!(!is_on("b", SECOND), "{:?}", hosts_of(&lab, SECOND));

    // Without a daemon, by a file that never had it.
    let holds_second = || ["a", "c"].into_iter().find(|node| is_on(node, SECOND));
    await_true("another node to take the group", SOON, || holds_second().is_some()).expect("it is taken");
    let other = holds_second().expect("it was found");
    scene.cluster.kill(other).expect("a killed daemon");
    let mut command = lab.node(other).namespace.command(binary("clusterd"));
    command.arg("--cleanup").arg("--config").arg(scene.cluster.config()).args(["--node", other]);
    let cleaned = command.output().expect("clusterd starts");
    assert!(cleaned.status.success(), "{cleaned:?}");
    assert!(!is_on(other, SECOND), "{:?}", hosts_of(&lab, SECOND));
    scene.never_two_answers().expect("one answer at most");
}
