//! An active/active group: one VIP that several nodes serve at once. Its flows are spread evenly, and outlast whoever joins,
//! drains or becomes the entry; a node that is lost takes its own along, and no others.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use cluster_tests::lab::clock::Window;
use cluster_tests::lab::cluster::GROUP;
use cluster_tests::lab::probe::connections::{Connections, StreamServer};
use cluster_tests::lab::probe::{Canary, EchoServer, Journeys, RequestProbe};
use cluster_tests::lab::{Cluster, ClusterSettings, Family, Lab, Link, Moment, await_some, may_run};
use cluster_tests::scene::SOON;
use serde_json::Value;

/// Long connections, each with a message this often.
const CONNECTIONS: usize = 200;
const INTERVAL: Duration = Duration::from_millis(50);
/// How often the client asks besides, by datagrams.
const REQUESTS: Duration = Duration::from_millis(2);
/// The longest that a connection may stand still where nothing of its own was lost: a few retransmissions (RFC 6298: after 0.2 s,
/// then 0.4 s).
const PATIENCE: Duration = Duration::from_millis(1500);
/// For how long a change is watched: until all nodes have looked at their connections again.
const WATCHED: Duration = Duration::from_secs(3);

/// Lines of a group whose VIPs appear under a virtual Ethernet address.
const VIRTUAL: &str = "mac = \"virtual\"\nvirtual_id = 7";
/// How often the client asks while the entry moves, how often that is, and how long the machine may stand still in a move whose lost
/// requests count.
const OFTEN: Duration = Duration::from_micros(200);
const MOVES: usize = 4;
const TOLERANCE: Duration = Duration::from_millis(10);

/// What a node says of one member.
#[derive(Clone, PartialEq, Debug)]
struct Member {
    share: f64,
    seconds: u64,
    flows: Option<u64>,
    packets_per_second: u64,
}

struct Scene<'lab> {
    cluster: Cluster<'lab>,
    _servers: (Vec<StreamServer>, Vec<EchoServer>),
    vip: IpAddr,
}

impl<'lab> Scene<'lab> {
    /// A cluster of which these nodes run.
    fn start(lab: &'lab Lab, family: Family, lines: &str, running: &[&str]) -> Self {
        let streams = lab.nodes().iter().map(|node| StreamServer::start(node).expect("a service")).collect();
        let vip = family.vip();
        let echoes =
            lab.nodes().iter().map(|node| EchoServer::start(node, vip).expect("a service")).collect();
        let group_lines = format!("mode = \"active-active\"\n{lines}");
        let settings = ClusterSettings { group_lines, ..ClusterSettings::of(family) };
        let mut cluster = Cluster::new(lab, &settings).expect("a configuration");
        for node in running {
            cluster.start(node).expect("a daemon");
        }
        let scene = Self { cluster, _servers: (streams, echoes), vip };
        scene.await_shares(running, running);
        scene
    }

    fn group(&self, node: &str) -> anyhow::Result<Value> {
        let status = self.cluster.control(node).command("status")?;
        let groups = status["groups"].as_array().cloned().unwrap_or_default();
        Ok(groups.into_iter().find(|group| group["name"] == GROUP).unwrap_or_default())
    }

    fn spread(&self, node: &str) -> anyhow::Result<(String, BTreeMap<String, Member>)> {
        let group = self.group(node)?;
        let spread = &group["spread"];
        let member = |value: &Value| {
            let member = Member {
                share: value["share"].as_f64().unwrap_or_default(),
                seconds: value["seconds"].as_u64().unwrap_or_default(),
                flows: value["flows"].as_u64(),
                packets_per_second: value["packets_per_second"].as_u64().unwrap_or_default(),
            };
            (value["name"].as_str().unwrap_or_default().to_owned(), member)
        };
        let members = spread["members"].as_array().into_iter().flatten().map(member).collect();
        Ok((spread["version"].as_str().unwrap_or_default().to_owned(), members))
    }

    /// Waits until all these nodes go by the same table, in which those have equal shares and no others any.
    fn await_shares(&self, running: &[&str], sharing: &[&str]) -> BTreeMap<String, Member> {
        let weights: Vec<(&str, u32)> = sharing.iter().map(|node| (*node, 1)).collect();
        self.await_weights(running, &weights)
    }

    /// The same with these weights.
    fn await_weights(&self, running: &[&str], weights: &[(&str, u32)]) -> BTreeMap<String, Member> {
        let total: u32 = weights.iter().map(|(_, weight)| weight).sum();
        let fair = |name: &str| {
            let weight = weights.iter().find(|(node, _)| *node == name).map_or(0, |(_, weight)| *weight);
            f64::from(weight) / f64::from(total)
        };
        await_some("equal shares", SOON, || {
            let mut versions = Vec::new();
            let mut last = BTreeMap::new();
            for node in running {
                let (version, members) = self.spread(node)?;
                let is_right = members.iter().all(|(name, member)| (member.share - fair(name)).abs() < 0.001);
                anyhow::ensure!(is_right, "{node} has {version} {members:?}");
                versions.push(version);
                last = members;
            }
            anyhow::ensure!(versions.windows(2).all(|pair| pair[0] == pair[1]), "{versions:?}");
            Ok(Some(last))
        })
        .expect("one table with these shares")
    }

    fn entry(&self, running: &[&str]) -> String {
        await_some("an entry", SOON, || {
            for node in running {
                if self.group(node)?["role"] == "active" {
                    return Ok(Some((*node).to_owned()));
                }
            }
            Ok(None)
        })
        .expect("an entry")
    }

    /// How many connections each node has, by its own word, once they are so many together.
    fn await_flows(&self, running: &[&str], total: u64) -> BTreeMap<String, u64> {
        await_some("all connections counted", SOON, || {
            let mut flows = BTreeMap::new();
            for node in running {
                let (_, members) = self.spread(node)?;
                flows.insert((*node).to_owned(), members[*node].flows.unwrap_or_default());
            }
            anyhow::ensure!(flows.values().sum::<u64>() == total, "{flows:?}");
            Ok(Some(flows))
        })
        .expect("connections on the nodes")
    }

    fn clusterctl(&self, node: &str, arguments: &[&str]) {
        let output = self.cluster.clusterctl(node, arguments).expect("clusterctl");
        assert!(output.status.success(), "{arguments:?} on {node}: {output:?}");
    }
}

/// What goes on while things change: long connections, and a client that keeps asking.
struct Load {
    connections: Connections,
    requests: RequestProbe,
}

/// Watches over a change: no connection breaks or stands still for long, and no request is lost.
fn unharmed(Load { connections, requests }: &Load, from: Moment, what: &str) {
    (Moment::now() + WATCHED).sleep();
    let answered = requests.losses(Window { from, to: Moment::now() - PATIENCE }, PATIENCE);
    let fates = connections.fates(Window::since(from));
    let broken: Vec<_> = fates.iter().filter_map(|fate| fate.broke.clone()).collect();
    let stall = fates.iter().map(|fate| fate.stall).max().unwrap_or_default();
    println!("{what}: {} broken, longest stall {stall:?}; {answered:?}", broken.len());
    assert!(answered.asked > 100 && answered.lost == 0, "{what}: {answered:?}");
    assert!(broken.is_empty(), "{what}: {broken:?}");
    assert!(stall <= PATIENCE, "{what}: a connection stood still for {stall:?}");
}

fn connections_outlast_changes(family: Family, lines: &str) {
    if !may_run("a group that several nodes serve at once") {
        return;
    }
    let lab = Lab::with_nodes(&["a", "b", "c", "d"]).expect("a lab");
    let mut scene = Scene::start(&lab, family, lines, &["a", "b", "c"]);
    let journeys = Journeys::start(&lab).expect("ears");
    let connections =
        Connections::open_some(&lab, scene.vip, CONNECTIONS, INTERVAL).expect("connections to the VIP");
    let flows = scene.await_flows(&["a", "b", "c"], CONNECTIONS as u64);
    println!("{flows:?}");
    let requests = RequestProbe::start_with(&lab, scene.vip, REQUESTS).expect("a client");
    requests.await_service(None, SOON).expect("answers");
    let load = Load { connections, requests };
    // 66.7 each; five standard deviations are 33.
    assert!(flows.values().all(|flows| (33..=100).contains(flows)), "{flows:?}");

    let all = ["a", "b", "c", "d"];
    let from = Moment::now();
    scene.cluster.start("d").expect("a daemon");
    scene.await_shares(&all, &all);
    unharmed(&load, from, "d joins");
    let entry = scene.entry(&all);
    await_some("packets of all nodes at the entry", SOON, || {
        let (_, members) = scene.spread(&entry)?;
        // Each connection brings 20 messages a second, and as many acknowledgements at most; d has none yet.
        let expected = |node: &str| {
            members[node].flows.is_some_and(|flows| flows * 10 <= members[node].packets_per_second)
        };
        anyhow::ensure!(all.iter().all(|node| expected(node)), "{members:?}");
        Ok(Some(()))
    })
    .expect("packets of each node");

    let from = Moment::now();
    scene.clusterctl("b", &["drain"]);
    let members = scene.await_shares(&all, &["a", "c", "d"]);
    assert!(members["b"].seconds > 0, "{members:?}");
    unharmed(&load, from, "b drains");
    assert_eq!(scene.await_flows(&all, CONNECTIONS as u64), {
        let mut flows = flows.clone();
        flows.insert("d".to_owned(), 0);
        flows
    });

    let entry = scene.entry(&all);
    let next = if entry == "c" { "a" } else { "c" };
    let from = Moment::now();
    scene.clusterctl(next, &["promote", GROUP]);
    unharmed(&load, from, "the entry moves");
    scene.await_shares(&all, &["a", "c", "d"]);

    let from = Moment::now();
    scene.clusterctl("b", &["undrain"]);
    scene.await_shares(&all, &all);
    unharmed(&load, from, "b is back");

    let from = Moment::now();
    let text = std::fs::read_to_string(scene.cluster.config()).expect("the configuration");
    let text = text.replacen("name = \"a\"\n", "name = \"a\"\nweight = 2\n", 1);
    scene.cluster.configure(&text).expect("another configuration");
    for node in all {
        scene.clusterctl(node, &["reload"]);
    }
    scene.await_weights(&all, &[("a", 2), ("b", 1), ("c", 1), ("d", 1)]);
    unharmed(&load, from, "a counts twice");

    let from = Moment::now();
    scene.clusterctl("d", &["restart"]);
    scene.clusterctl(next, &["restart"]);
    unharmed(&load, from, "daemons are replaced in place");

    let sent = journeys.stop();
    println!("{sent:?}");
    assert!(sent.missed == 0 && sent.once > 0 && sent.twice > 0, "{sent:?}");
    assert!(sent.most <= 2, "a packet was sent on {} times", sent.most);

    // Those that end leave their buckets to the firsts alone.
    drop(load);
    await_some("no seconds left", SOON, || {
        let (_, members) = scene.spread(next)?;
        anyhow::ensure!(members.values().all(|member| member.seconds == 0), "{members:?}");
        Ok(Some(()))
    })
    .expect("buckets without a second");
}

#[test]
fn ipv4_connections_outlast_a_join_a_drain_and_a_move_of_the_entry() {
    connections_outlast_changes(Family::Ipv4, "");
}

#[test]
fn ipv6_connections_outlast_a_join_a_drain_and_a_move_of_the_entry() {
    connections_outlast_changes(Family::Ipv6, "");
}

#[test]
fn connections_to_a_virtual_mac_outlast_a_join_a_drain_and_a_move_of_the_entry() {
    connections_outlast_changes(Family::Ipv4, VIRTUAL);
}

/// The entry moves often while somebody asks 5000 times a second: whoever still sends to the old one, or over a switch that has not
/// heard of the new one, is served all the same.
fn moves_of_the_entry_lose_nothing(family: Family, lines: &str) {
    if !may_run("moves of an active/active group's entry") {
        return;
    }
    let lab = Lab::with_nodes(&["a", "b", "c"]).expect("a lab");
    let all = ["a", "b", "c"];
    let scene = Scene::start(&lab, family, lines, &all);
    let canary = Canary::start().expect("a canary");
    let requests = RequestProbe::start_with(&lab, scene.vip, OFTEN).expect("a client");
    requests.await_service(None, SOON).expect("answers");
    for _ in 0..MOVES {
        let old = scene.entry(&all);
        let new = all[(all.iter().position(|node| *node == old).unwrap_or(0) + 1) % all.len()];
        let from = Moment::now();
        scene.clusterctl(new, &["promote", GROUP]);
        (Moment::now() + PATIENCE).sleep();
        let window = Window::since(from);
        let losses = requests.losses(Window { to: from + PATIENCE / 2, ..window }, PATIENCE / 2);
        let stood_still = canary.worst(window, true);
        println!("{old} to {new}: {losses:?}; the machine stood still for {stood_still:?}");
        // A machine that stands still loses requests by itself: queues run full on both ends.
        assert!(losses.lost == 0 || stood_still > TOLERANCE, "{old} to {new}: {losses:?}");
        scene.await_shares(&all, &all);
    }
}

#[test]
fn moves_of_the_entry_lose_nothing_with_a_virtual_mac() {
    moves_of_the_entry_lose_nothing(Family::Ipv4, VIRTUAL);
}

#[test]
fn moves_of_the_entry_lose_nothing_with_ipv6_and_a_virtual_mac() {
    moves_of_the_entry_lose_nothing(Family::Ipv6, VIRTUAL);
}

/// What of a host's own settings would keep clients' packets out is said, on that host, and nothing is said where nothing is.
#[test]
fn settings_that_are_in_the_way_are_warnings() {
    if !may_run("a host's settings") {
        return;
    }
    let lab = Lab::new().expect("a lab");
    let (public, private) = (Link::Public.interface(), Link::Private.interface());
    let gateway = Link::Private.address(254);
    let host = &lab.node("a").namespace;
    let filter = format!("/proc/sys/net/ipv4/conf/{public}/rp_filter");
    host.run(|| Ok(std::fs::write(&filter, "1")?)).expect("a strict filter");
    host.execute(&format!("ip route add default via {gateway} dev {private}")).expect("a default route");
    let scene = Scene::start(&lab, Family::Ipv4, "", &["a", "b"]);
    let warnings =
        |node: &str| anyhow::Ok(scene.cluster.control(node).command("status")?["warnings"].to_string());
    await_some("a warning", SOON, || {
        let said = warnings("a")?;
        Ok(said.contains(&format!("reverse path filtering is strict on {public}")).then_some(()))
    })
    .expect("a warning on a");
    assert!(!warnings("b").expect("a status").contains("reverse path"), "b has nothing in the way");
    assert!(scene.cluster.output("a").contains("reverse path filtering is strict"), "the log says so, too");
}

/// The plan says who would have which share without a node.
#[test]
fn the_plan_shows_shares() {
    if !may_run("the plan of an active/active group") {
        return;
    }
    let lab = Lab::with_nodes(&["a", "b", "c"]).expect("a lab");
    let all = ["a", "b", "c"];
    let scene = Scene::start(&lab, Family::Ipv4, "", &all);
    let plan = |arguments: &[&str]| {
        let output = scene.cluster.clusterctl("b", &[&["plan"], arguments].concat()).expect("clusterctl");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    for (arguments, wanted) in [
        (&[][..], "a 33 %, b 33 %, c 33 %"),
        (&["--without", "c"], "a 50 %, b 50 %"),
        (&["--without", "a", "--without", "c"], "b 100 %"),
    ] {
        let text = plan(arguments);
        assert!(text.contains("SHARES") && text.contains(wanted), "{arguments:?}: {text}");
    }
}

#[test]
fn a_lost_entry_takes_its_own_connections_along_and_no_others() {
    if !may_run("the loss of an active/active group's entry") {
        return;
    }
    let lab = Lab::with_nodes(&["a", "b", "c"]).expect("a lab");
    let all = ["a", "b", "c"];
    let scene = Scene::start(&lab, Family::Ipv4, "", &all);
    let connections =
        Connections::open_some(&lab, scene.vip, CONNECTIONS, INTERVAL).expect("connections to the VIP");
    let flows = scene.await_flows(&all, CONNECTIONS as u64);
    let entry = scene.entry(&all);
    lab.cut_all(&entry).expect("a cut");
    let rest: Vec<&str> = all.into_iter().filter(|node| *node != entry).collect();
    scene.await_shares(&rest, &rest);
    let from = Moment::now();
    (Moment::now() + PATIENCE + WATCHED).sleep();
    let fates = connections.fates(Window::since(from));
    let lost =
        fates.iter().filter(|fate| fate.broke.is_some() || fate.stall > PATIENCE + WATCHED / 2).count();
    let others = fates.len() - lost;
    println!("{flows:?} before {entry} was cut: {lost} lost, {others} go on");
    assert_eq!(lost as u64, flows[&entry], "{fates:?}");
}
