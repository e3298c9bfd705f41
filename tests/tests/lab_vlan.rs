//! A group on a VLAN beside one on the untagged link of the same interface: answered, served, announced and moved there; and
//! what becomes of it where the VLAN has no interface.

use std::time::Duration;

use cluster_tests::lab::clock::Window;
use cluster_tests::lab::probe::{Connections, EchoServer, RequestProbe, StreamServer, requests};
use cluster_tests::lab::soft_vlan::{SoftVlan, show_tags};
use cluster_tests::lab::topology::CLIENT;
use cluster_tests::lab::{Cluster, ClusterSettings, Family, Lab, Link, Moment, await_true, may_run};
use cluster_tests::scene::SOON;
use serde_json::Value;

const ID: u16 = 100;
/// Long connections where all nodes serve, each with a message this often, and for how long they are watched.
const CONNECTIONS: usize = 40;
const INTERVAL: Duration = Duration::from_millis(50);
const WATCHED: Duration = Duration::from_secs(1);
const GROUP: &str = "tagged";

fn vip(family: Family) -> std::net::IpAddr {
    match family {
        Family::Ipv4 => [10, 99, 0, 100].into(),
        Family::Ipv6 => [0xfd99, 0, 0, 0, 0, 0, 0, 0x100].into(),
    }
}

fn addresses(octet: u8) -> [String; 2] {
    [format!("10.99.0.{octet}/24"), format!("fd99::{octet}/64")]
}

/// The VLAN's interface of a node or the client.
fn interface(lab: &Lab, owner: &str, octet: u8) -> SoftVlan {
    let leg = lab.leg(owner, Link::Public);
    SoftVlan::start(&leg.namespace, leg.interface, ID, leg.mac, &addresses(octet))
        .expect("a VLAN's interface")
}

fn shown(cluster: &Cluster<'_>, node: &str) -> Value {
    let status = cluster.control(node).command("status").expect("a status");
    let groups = status["groups"].as_array().expect("groups").clone();
    groups.into_iter().find(|group| group["name"] == GROUP).expect("the group")
}

fn role(cluster: &Cluster<'_>, node: &str) -> String {
    shown(cluster, node)["role"].as_str().expect("a role").to_owned()
}

fn await_role(cluster: &Cluster<'_>, node: &str, wanted: &str) {
    await_true(&format!("node {node} {wanted} on the VLAN"), SOON, || role(cluster, node) == wanted)
        .expect("the role");
}

fn serves_on_a_vlan(family: Family, mac: &str) {
    if !may_run("groups on VLANs") {
        return;
    }
    let lab = Lab::new().expect("a lab");
    show_tags(&lab).expect("tags in the frames");
    let _client = interface(&lab, CLIENT, 50);
    let mut vlans: Vec<_> =
        [("a", 1), ("b", 2)].map(|(node, octet)| (node, interface(&lab, node, octet))).into();
    let servers: Vec<_> =
        lab.nodes().iter().map(|node| EchoServer::start(node, vip(family)).expect("a service")).collect();
    let prefix = if family == Family::Ipv4 { 24 } else { 64 };
    let group = format!(
        "\n[[group]]\nname = \"{GROUP}\"\nvips = [\"{}/{prefix}\"]\nvlan = {ID}\nprefer = [\"a\", \"b\"]\n{mac}\n",
        vip(family)
    );
    let text = ClusterSettings::of(family).toml(&lab) + &group;
    let mut cluster = Cluster::with_configuration(&lab, &text).expect("a configuration");
    // Whoever is there first takes the groups, and keeps them.
    cluster.start("a").expect("a daemon");
    await_role(&cluster, "a", "active");
    cluster.start("b").expect("a daemon");
    await_role(&cluster, "b", "passive");
    let client = RequestProbe::start_with(&lab, vip(family), requests::INTERVAL).expect("a client");
    client.await_service(Some("a"), SOON).expect("service on the VLAN");
    let warnings = cluster.control("a").command("status").expect("a status")["warnings"].to_string();
    assert!(!warnings.contains("VLAN"), "{warnings}");

    let output = cluster.clusterctl("b", &["promote", GROUP]).expect("clusterctl");
    assert!(output.status.success(), "{output:?}");
    client.await_service(Some("b"), SOON).expect("service by the other node");
    cluster.kill("b").expect("a killed daemon");
    client.await_service(Some("a"), SOON).expect("service by the survivor");
    cluster.start("b").expect("a restarted daemon");
    await_role(&cluster, "b", "passive");

    // Without its interface the group goes, and nothing else.
    let (_, removed) = vlans.remove(0);
    removed.remove().expect("the interface is gone");
    client.await_service(Some("b"), SOON).expect("service where there is an interface");
    await_role(&cluster, "a", "fault");
    cluster
        .await_role("a", "active", Duration::from_secs(1))
        .expect("the group on the untagged link where it was");
    let events = cluster.clusterctl("a", &["events"]).expect("clusterctl");
    let events = String::from_utf8_lossy(&events.stdout).into_owned();
    assert!(events.contains("has no interface that is up"), "{events}");
    vlans.push(("a", interface(&lab, "a", 1)));
    await_role(&cluster, "a", "passive");
    drop(servers);
}

/// All nodes serve at once: the entry's frames to the others keep their tags.
fn all_serve_on_a_vlan(family: Family, mac: &str) {
    if !may_run("active/active groups on VLANs") {
        return;
    }
    let lab = Lab::new().expect("a lab");
    show_tags(&lab).expect("tags in the frames");
    let _client = interface(&lab, CLIENT, 50);
    let _vlans = [("a", 1), ("b", 2)].map(|(node, octet)| interface(&lab, node, octet));
    let _servers: Vec<_> =
        lab.nodes().iter().map(|node| StreamServer::start(node).expect("a service")).collect();
    let prefix = if family == Family::Ipv4 { 24 } else { 64 };
    let group = format!(
        "\n[[group]]\nname = \"{GROUP}\"\nvips = [\"{}/{prefix}\"]\nvlan = {ID}\nmode = \"active-active\"\n{mac}\n",
        vip(family)
    );
    let text = ClusterSettings::of(family).toml(&lab) + &group;
    let mut cluster = Cluster::with_configuration(&lab, &text).expect("a configuration");
    cluster.start_all().expect("daemons");
    let member = |cluster: &Cluster<'_>, node: &str, key: &str| {
        let group = shown(cluster, node);
        let members = group["spread"]["members"].as_array().cloned().unwrap_or_default();
        let own = members.into_iter().find(|member| member["name"] == node).unwrap_or_default();
        own[key].as_f64().unwrap_or_default()
    };
    let half = |node| (member(&cluster, node, "share") - 0.5).abs() < 0.001;
    await_true("equal shares", SOON, || half("a") && half("b")).expect("both serve");

    let connections =
        Connections::open_some(&lab, vip(family), CONNECTIONS, INTERVAL).expect("connections on the VLAN");
    let flows = |node| member(&cluster, node, "flows");
    let both = || flows("a") > 0.0 && flows("b") > 0.0 && flows("a") + flows("b") == CONNECTIONS as f64;
    await_true("connections on both nodes", SOON, both).expect("connections on both nodes");
    let entry = if role(&cluster, "a") == "active" { "a" } else { "b" };
    let output = cluster.clusterctl(cluster.other(entry), &["promote", GROUP]).expect("clusterctl");
    assert!(output.status.success(), "{output:?}");
    await_role(&cluster, cluster.other(entry), "active");
    let from = Moment::now();
    (from + WATCHED).sleep();
    let fates = connections.fates(Window::since(from));
    assert!(fates.iter().all(|fate| fate.broke.is_none() && fate.stall < WATCHED), "{fates:?}");
}

#[test]
fn all_serve_ipv4_on_a_vlan() {
    all_serve_on_a_vlan(Family::Ipv4, "");
}

#[test]
fn all_serve_ipv6_with_a_virtual_mac_on_a_vlan() {
    all_serve_on_a_vlan(Family::Ipv6, "mac = \"virtual\"\nvirtual_id = 9");
}

#[test]
fn a_group_of_ipv4_on_a_vlan() {
    serves_on_a_vlan(Family::Ipv4, "");
}

#[test]
fn a_group_of_ipv6_on_a_vlan() {
    serves_on_a_vlan(Family::Ipv6, "");
}

#[test]
fn a_group_with_a_virtual_mac_on_a_vlan() {
    serves_on_a_vlan(Family::Ipv4, "mac = \"virtual\"\nvirtual_id = 9");
}
