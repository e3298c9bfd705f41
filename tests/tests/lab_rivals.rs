//! Strangers that claim the VIP: they are seen on every node, told of and shown; the holder shows itself again, now and
//! then, and nothing moves.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::Duration;

use cluster_tests::frames::{ArpFrame, BROADCAST, NdFrame};
use cluster_tests::lab::clock::{Window, await_true};
use cluster_tests::lab::cluster::binary;
use cluster_tests::lab::probe::Announcements;
use cluster_tests::lab::topology::{CLIENT, VIP, VIP6};
use cluster_tests::lab::{Cluster, ClusterSettings, Family, Lab, Link, Moment, Process, may_run};
use cluster_tests::scene::{SOON, Scene};
use cluster_userspace::network::packet_socket::PacketSocket;
use serde_json::{Value, json};

/// A host that is none of the lab's.
const STRANGER: [u8; 6] = [2, 0xee, 0, 0, 0, 0xee];
/// The same, as it is told.
const STRANGERS_MAC: &str = "02:ee:00:00:00:ee";

/// The frames by which a host says that the VIP is its own, and by what they are counted.
fn claims(family: Family) -> Vec<(Vec<u8>, &'static str)> {
    match family {
        Family::Ipv4 => {
            let announcement = ArpFrame {
                destination: BROADCAST,
                source: STRANGER,
                operation: 1,
                sender_mac: STRANGER,
                sender: VIP.octets(),
                target_mac: [0; 6],
                target: VIP.octets(),
            };
            let reply =
                ArpFrame { operation: 2, target: [10, 77, 0, 200], target_mac: STRANGER, ..announcement };
            let request = ArpFrame { target: [10, 77, 0, 200], ..announcement };
            [announcement, reply, request].map(|frame| (frame.bytes(), "arp_rival")).to_vec()
        }
        Family::Ipv6 => {
            let announcement = NdFrame::announcement(STRANGER, VIP6);
            let detection = NdFrame::detection(STRANGER, VIP6);
            vec![(announcement.bytes(), "na_rival"), (detection.bytes(), "ns_rival")]
        }
    }
}

fn counted(cluster: &Cluster<'_>, node: &str, verdict: &str) -> u64 {
    let stats = cluster.control(node).request(&json!({ "cmd": "stats" })).expect("counters");
    stats["groups"][0]["packets"][verdict].as_u64().expect("a counter")
}

fn rivals_told(cluster: &Cluster<'_>, node: &str) -> Vec<Value> {
    let events = cluster.control(node).request(&json!({ "cmd": "events" })).unwrap_or_default();
    let events = events["events"].as_array().cloned().unwrap_or_default();
    events.into_iter().filter(|event| event["kind"] == "rival").collect()
}

fn strangers_are_told_of(family: Family) {
    if !may_run("rivals") {
        return;
    }
    let lab = Lab::new().expect("a lab");
    let mut scene = Scene::start(&lab, &ClusterSettings::of(family)).expect("a cluster");
    let holder = scene.settle().expect("a settled cluster");
    let other = scene.cluster.other(&holder);
    let announcements = Announcements::start(&lab).expect("a listener");
    for node in [holder.as_str(), other] {
        assert!(rivals_told(&scene.cluster, node).is_empty(), "the cluster itself is no rival");
    }
    let upsets = scene.transitions().expect("transitions");
    let interface = lab.leg(CLIENT, Link::Public).interface;
    let foot = lab.client().run(|| {
        let ifindex = nix::net::if_::if_nametoindex(interface)?;
        Ok(PacketSocket::arp(ifindex)?)
    });
    let foot = foot.expect("a foot on the clients' switch");
    // The announcements of the takeover are over before this.
    (Moment::now() + Duration::from_secs(3)).sleep();

    let from = Moment::now();
    let mut expected = std::collections::BTreeMap::new();
    // Often enough that an announcement for each would be seen as such. A detection is answered, each one, by what looks
    // like an announcement (RFC 4862 section 5.4.3).
    let mut answered = 0;
    for round in 0..20 {
        for (frame, verdict) in claims(family) {
            if verdict == "ns_rival" {
                if round > 0 {
                    continue;
                }
                answered += 1;
            }
            foot.send(&frame).expect("a frame sent");
            *expected.entry(verdict).or_insert(0_u64) += 1;
        }
        (Moment::now() + Duration::from_millis(50)).sleep();
    }
    for node in [holder.as_str(), other] {
        for (verdict, count) in &expected {
            let all = || counted(&scene.cluster, node, verdict) >= *count;
            await_true("the claims to be counted", SOON, all).expect("counted");
        }
        await_true("the event", SOON, || !rivals_told(&scene.cluster, node).is_empty()).expect("told of");
        let told = rivals_told(&scene.cluster, node);
        assert_eq!(told.len(), 1, "once in ten seconds: {told:?}");
        let told = [&told[0]["group"], &told[0]["address"], &told[0]["mac"], &told[0]["interface"]];
        let address = family.vip().to_string();
        assert_eq!(
            told,
            [&json!("web"), &json!(address), &json!(STRANGERS_MAC), &json!(Link::Public.interface())]
        );
        let group = scene.cluster.group(node).expect("a group");
        assert_eq!(group["rival"]["mac"], STRANGERS_MAC, "{group}");
        let text = scene.cluster.clusterctl(node, &["status"]).expect("a status").stdout;
        assert!(String::from_utf8_lossy(&text).contains(STRANGERS_MAC));
    }
    // It shows itself, and not as often as it is challenged.
    let shown = || announcements.heard(Window::since(from)).len();
    await_true("the holder to show itself", SOON, || shown() > 0).expect("a defence");
    (Moment::now() + Duration::from_millis(500)).sleep();
    let heard: Vec<_> = announcements.heard(Window::since(from));
    let lasted = Moment::now().since(from);
    println!("{} announcements in {lasted:?} of claims", heard.len());
    assert!(heard.iter().all(|told| told.node == holder), "{heard:?}");
    assert!(heard.len() as u64 <= lasted.as_secs() + 2 + answered, "{heard:?}");
    assert_eq!(scene.transitions().expect("transitions"), upsets, "nothing moved");
    scene.never_two_answers().expect("one answer at most");
}

#[test]
fn strangers_are_told_of_and_answered_now_and_then() {
    strangers_are_told_of(Family::Ipv4);
}

#[test]
fn so_they_are_with_ipv6() {
    strangers_are_told_of(Family::Ipv6);
}

/// The lab's configuration without the node `s`.
fn of_two(lab: &Lab) -> String {
    let text = ClusterSettings::default().toml(lab);
    let blocks: Vec<&str> = text.split("\n[[").collect();
    let kept: Vec<&str> = blocks.into_iter().filter(|block| !block.contains("name = \"s\"")).collect();
    kept.join("\n[[").replace(", \"s\"]", "]")
}

/// The configuration of another cluster, with a key of its own, that has `s` alone and the same VIP.
fn of_the_other(lab: &Lab) -> String {
    let key = lab.directory().join("other.key");
    let mut file =
        fs::File::options().create_new(true).write(true).mode(0o600).open(&key).expect("a key file");
    writeln!(file, "{}", "77".repeat(32)).expect("a key");
    let node = lab.node("s");
    let addresses = Link::ALL.map(|link| format!("\"{}\"", node.leg(link).address)).join(", ");
    format!(
        "[cluster]\nname = \"{}-other\"\nkey_file = \"{}\"\nstate_dir = \"{}\"\n\n[timing]\nstartup_wait = \"300ms\"\n\n\
         [[node]]\nname = \"s\"\ninterface = \"{}\"\naddresses = [{addresses}]\n\n[[group]]\nname = \"theirs\"\n\
         vips = [\"{VIP}/24\"]\n",
        lab.name(),
        key.display(),
        lab.directory().join("other-state").display(),
        Link::Public.interface(),
    )
}

#[test]
fn a_second_cluster_with_the_same_vip_and_another_key_is_noticed() {
    if !may_run("a second cluster") {
        return;
    }
    let lab = Lab::with_nodes(&["a", "b", "s"]).expect("a lab");
    let mut cluster = Cluster::with_configuration(&lab, &of_two(&lab)).expect("a cluster");
    for node in ["a", "b"] {
        cluster.start(node).expect("a node");
    }
    cluster.await_role("a", "active", SOON).expect("a holder");
    // The other cluster comes up while the link between them is cut, and is silent when it is mended.
    lab.cut("s", Link::Public).expect("a cut");
    let config = lab.directory().join("other.toml");
    fs::write(&config, of_the_other(&lab)).expect("a configuration");
    let mut command = lab.node("s").namespace.command(binary("clusterd"));
    let socket = lab.directory().join("other.sock");
    command.arg("--config").arg(&config).args(["--node", "s"]).arg("--socket").arg(&socket);
    let log = lab.directory().join("other.log");
    let mut other = Process::start("clusterd of the other cluster", &command, &log).expect("another daemon");
    let serves = || fs::read_to_string(&log).is_ok_and(|text| text.contains("-> active"));
    await_true("the other cluster to serve", SOON, serves).expect("a second holder");
    // Its announcements are over as well.
    (Moment::now() + Duration::from_secs(3)).sleep();
    lab.mend_all().expect("mended links");
    let mended = Moment::now();
    let mac = lab.leg("s", Link::Public).mac.to_string();
    let told = || rivals_told(&cluster, "a").iter().any(|event| event["mac"] == mac.as_str());
    await_true("the rival to be told of", Duration::from_secs(15), told).expect("noticed");
    println!("a silent second cluster is noticed after {:?}", Moment::now().since(mended));
    assert_eq!(cluster.role("a").expect("a role"), "active");
    // What is told of it is in the other's log, too: it sees the defence.
    let theirs = || fs::read_to_string(&log).is_ok_and(|text| text.contains("a stranger, MAC"));
    await_true("the other to notice", SOON, theirs).expect("noticed by the other");
    other.signal(nix::sys::signal::Signal::SIGTERM).expect("a signal");
    assert!(other.await_end(SOON).expect("an end").success());
}
