//! VIPs under a virtual Ethernet address: what a client knows stays right over every kind of takeover, and only the holder
//! wears it.

use cluster_tests::lab::clock::{Window, await_true};
use cluster_tests::lab::probe::Announcements;
use cluster_tests::lab::probe::capture::{Capture, Watched};
use cluster_tests::lab::topology::{CLIENT, Mac};
use cluster_tests::lab::{ClusterSettings, Family, Lab, Link, Moment, may_run};
use cluster_tests::scene::{SOON, Scene};

/// The number of the group's virtual Ethernet addresses.
const ID: u8 = 7;

fn settings(family: Family) -> ClusterSettings {
    let group_lines = format!("mac = \"virtual\"\nvirtual_id = {ID}");
    ClusterSettings { group_lines, ..ClusterSettings::of(family) }
}

/// RFC 9568 section 7.3.
fn virtual_mac(family: Family) -> Mac {
    match family {
        Family::Ipv4 => Mac([0, 0, 0x5e, 0, 1, ID]),
        Family::Ipv6 => Mac([0, 0, 0x5e, 0, 2, ID]),
    }
}

/// What a program prints in a namespace.
fn printed(namespace: &cluster_tests::lab::namespace::Namespace, command: &str) -> String {
    let mut words = command.split(' ');
    let program = words.next().unwrap_or_default();
    let output = namespace.command(program).args(words).output().expect("a program");
    assert!(output.status.success(), "{command}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What the client's kernel knows of where the VIP is.
fn known_to_client(lab: &Lab, family: Family) -> String {
    let interface = lab.leg(CLIENT, Link::Public).interface;
    printed(lab.client(), &format!("ip neigh show {} dev {interface}", family.vip()))
}

/// Whether the filter of the node's card has the address.
fn takes_in(lab: &Lab, node: &str, mac: Mac) -> bool {
    let entries =
        printed(&lab.node(node).namespace, &format!("bridge fdb show dev {}", Link::Public.interface()));
    entries.lines().any(|line| line.starts_with(&mac.to_string()) && line.contains("self"))
}

fn clients_know_it_for_good(family: Family) {
    if !may_run("virtual MAC addresses") {
        return;
    }
    let lab = Lab::new().expect("a lab");
    let mac = virtual_mac(family);
    let ears: Vec<_> = lab
        .nodes()
        .iter()
        .map(|node| {
            let watched = Watched { addresses: Vec::new(), macs: vec![mac] };
            let ear = Capture::start_with(&lab, &node.name, Link::Public, watched).expect("an ear");
            (node.name.clone(), ear)
        })
        .collect();
    let worn_by = |node: &str, window: Window| {
        let (_, ear) = ears.iter().find(|(name, _)| name == node).expect("an ear for each node");
        ear.sightings(window)
    };
    let mut scene = Scene::start(&lab, &settings(family)).expect("a cluster");
    scene.settle().expect("a settled cluster");
    let announcements = Announcements::start(&lab).expect("a listener");
    for node in lab.nodes() {
        await_true("the card's filter", SOON, || takes_in(&lab, &node.name, mac)).expect("an entry");
    }
    let known = known_to_client(&lab, family);
    assert!(known.contains(&mac.to_string()), "{known}");

    for fault in ["promote", "cut", "kill", "demote"] {
        let old = scene.settle().expect("a settled cluster");
        let new = scene.cluster.other(&old).to_owned();
        let from = Moment::now();
        let trial = scene.trial(&new, |scene| match fault {
            "cut" => scene.lab.cut_all(&old),
            "kill" => scene.cluster.kill(&old).map(drop),
            command => {
                let asked = if command == "promote" { &new } else { &old };
                let output = scene.cluster.clusterctl(asked, &[command, "web"])?;
                anyhow::ensure!(output.status.success(), "{output:?}");
                Ok(())
            }
        });
        let trial = trial.expect("a takeover");
        let known = known_to_client(&lab, family);
        assert!(known.contains(&mac.to_string()), "{fault}: {known}");
        await_true("an announcement", SOON, || announcements.announcers(Window::since(from)).contains(&new))
            .expect("an announcement");
        let told = announcements.heard_since_first_of(&new, Window::since(from));
        assert!(
            told.iter().all(|told| told.node == new && told.mac == mac && told.source == mac),
            "{fault}: {told:?}"
        );
        // From the first frame of the new holder on the old one sends nothing under that address.
        let first = worn_by(&new, Window::since(from)).first().map(|sighting| sighting.at);
        let first = first.expect("the new holder wears it");
        let late = worn_by(&old, Window::since(first));
        assert!(late.is_empty(), "{fault}: {} frames of the old holder, the first {:?}", late.len(), late[0]);
        // Whether a planned move loses a request is judged where each has a second to be answered: lab_switchover.
        println!(
            "{fault}: outage {:?}, {} requests not answered yet, the machine stood still for {:?}",
            trial.outage.length, trial.outage.lost, trial.stall
        );
        match fault {
            "cut" => lab.mend_all().expect("mended links"),
            "kill" => scene.cluster.start(&old).expect("a restarted daemon"),
            _ => {}
        }
    }
    let holder = scene.settle().expect("a settled cluster");
    let other = scene.cluster.other(&holder).to_owned();
    let group = scene.cluster.group(&holder).expect("a group");
    assert_eq!(
        (&group["mac"], &group["virtual_macs"][0]),
        (&"virtual".into(), &mac.to_string().into()),
        "{group}"
    );

    // A reload takes it away, and brings it back.
    let text = settings(family).toml(&lab);
    scene.cluster.configure(&ClusterSettings::of(family).toml(&lab)).expect("a file");
    for node in [&holder, &other] {
        let output = scene.cluster.clusterctl(node, &["reload"]).expect("clusterctl");
        assert!(output.status.success(), "{output:?}");
        await_true("the card's filter", SOON, || !takes_in(&lab, node, mac)).expect("no entry");
    }
    let own = lab.leg(&holder, Link::Public).mac.to_string();
    scene.client.await_service(Some(&holder), SOON).expect("service");
    scene.cluster.configure(&text).expect("a file");
    for node in [&other, &holder] {
        assert!(scene.cluster.clusterctl(node, &["reload"]).is_ok_and(|output| output.status.success()));
        await_true("the card's filter", SOON, || takes_in(&lab, node, mac)).expect("an entry");
    }
    println!("the interface's own address of the holder is {own}");

    // A clean stop leaves nothing; what a killed daemon leaves, `--cleanup` removes.
    let (_, status) = scene.cluster.stop(&other).expect("a stop");
    assert!(status.success(), "{status}");
    assert!(!takes_in(&lab, &other, mac), "a clean stop takes it out of the filter");
    scene.cluster.kill(&holder).expect("a killed daemon");
    assert!(takes_in(&lab, &holder, mac), "a killed daemon's filter stays for the next");
    let mut cleanup = scene.cluster.command(&holder);
    let output = cleanup.arg("--cleanup").output().expect("clusterd");
    assert!(output.status.success(), "{output:?}");
    assert!(!takes_in(&lab, &holder, mac), "--cleanup takes it out of the filter");
}

#[test]
fn what_a_client_knows_stays_right() {
    clients_know_it_for_good(Family::Ipv4);
}

#[test]
fn so_it_does_with_ipv6() {
    clients_know_it_for_good(Family::Ipv6);
}
