//! A bridge as the service interface: what the ingress program answers there leaves by the bridge's ports.

use std::time::Duration;

use cluster_tests::lab::clock::Window;
use cluster_tests::lab::{Cluster, ClusterSettings, Family, Lab, Link, Moment, Timing, may_run};
use cluster_tests::scene::{SOON, Scene};

const BRIDGE: &str = "br0";

/// Makes the public interface of every node a port of a bridge, which takes its addresses over.
fn bridged(lab: &Lab) {
    let port = Link::Public.interface();
    for node in lab.nodes() {
        let leg = node.leg(Link::Public);
        for words in [
            format!("ip link add {BRIDGE} address {} type bridge forward_delay 0 mcast_snooping 0", leg.mac),
            format!("ip address flush dev {port}"),
            format!("ip link set {port} master {BRIDGE}"),
            format!("ip link set {BRIDGE} up"),
            format!("ip address add {}/24 dev {BRIDGE}", leg.address_of(Family::Ipv4)),
            format!("ip address add {}/64 dev {BRIDGE} nodad", leg.address_of(Family::Ipv6)),
        ] {
            node.namespace.execute(&words).expect("a bridge");
        }
    }
}

fn a_bridge_serves(family: Family) {
    if !may_run("a bridge as the service interface") {
        return;
    }
    let lab = Lab::new().expect("a lab");
    bridged(&lab);
    let settings = ClusterSettings::of(family);
    let text = settings.toml(&lab).replace("interface = \"eth0\"", &format!("interface = \"{BRIDGE}\""));
    let cluster = Cluster::with_configuration(&lab, &text).expect("a configuration");
    let mut scene = Scene::start_cluster(cluster, &settings).expect("a cluster");
    for fault in ["promote", "kill"] {
        let active = scene.settle().expect("a settled cluster");
        let status = scene.cluster.control(&active).command("status").expect("a status");
        assert_eq!((&status["xdp"], &status["interface"]), (&"generic".into(), &BRIDGE.into()));
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
        println!("{fault}: {:?}", trial.expect("a takeover"));
        if fault == "kill" {
            let dark = from + Timing::NORMAL.lease + Duration::from_millis(1);
            scene.silent(&active, Window::since(dark)).expect("a dark node");
            scene.cluster.start(&active).expect("a restarted daemon");
        }
        scene.cluster.await_settled(SOON).expect("a settled cluster");
    }
    scene.never_two_answers().expect("one answer at most");
}

#[test]
fn a_bridge_serves_ipv4() {
    a_bridge_serves(Family::Ipv4);
}

#[test]
fn a_bridge_serves_ipv6() {
    a_bridge_serves(Family::Ipv6);
}
