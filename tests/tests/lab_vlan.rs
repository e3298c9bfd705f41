//! A group on a VLAN beside one on the untagged link of the same interface: answered, served, announced and moved there; and
//! what becomes of it where the VLAN has no interface.

use std::time::Duration;

use cluster_tests::lab::probe::{EchoServer, RequestProbe, requests};
use cluster_tests::lab::soft_vlan::{SoftVlan, show_tags};
use cluster_tests::lab::topology::CLIENT;
use cluster_tests::lab::{Cluster, ClusterSettings, Family, Lab, Link, await_true, may_run};
use cluster_tests::scene::SOON;

const ID: u16 = 100;
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

fn role(cluster: &Cluster<'_>, node: &str) -> String {
    let status = cluster.control(node).command("status").expect("a status");
    let groups = status["groups"].as_array().expect("groups").clone();
    let group = groups.iter().find(|group| group["name"] == GROUP).expect("the group");
    group["role"].as_str().expect("a role").to_owned()
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
    cluster.start_all().expect("daemons");
    await_role(&cluster, "a", "active");
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
