//! N+M: six groups on three nodes, and two spares that take two groups each. Whoever is lost, its groups go to the spares within the
//! time of a failover, as a client of each group sees it, and nothing else moves.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use cluster_tests::lab::clock::Window;
use cluster_tests::lab::probe::{Canary, EchoServer, RequestProbe};
use cluster_tests::lab::{Cluster, Lab, Moment, Timing, await_some, may_run};
use cluster_tests::scene::{SOON, median};
use serde_json::{Value, json};

const SERVING: [&str; 3] = ["a", "b", "c"];
const SPARES: [&str; 2] = ["s", "t"];
/// What a spare takes.
const MOST: usize = 2;
const GROUPS: usize = 6;
/// How often each group's client asks.
const INTERVAL: Duration = Duration::from_millis(1);
/// The most that the median outage of a group whose node is lost may be: the dead time, and 15 ms for the election.
const BOUND: Duration = Duration::from_millis(Timing::NORMAL.dead_after.as_millis() as u64 + 15);
/// The longest that a client may have to wait whose group does not move: its packets pass processors that others use.
const UNDISTURBED: Duration = Duration::from_millis(40);

/// How nodes are lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Loss {
    /// Their daemons are killed.
    Killed,
    /// Their links are cut.
    Cut,
}

fn vip(group: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, 100 + group as u8)
}

/// A client for each group, and its service on every node.
struct Clients {
    _servers: Vec<EchoServer>,
    probes: BTreeMap<String, RequestProbe>,
    canary: Canary,
}

impl Clients {
    fn start(lab: &Lab) -> Self {
        let on = |group| {
            lab.nodes().iter().map(move |node| EchoServer::start(node, vip(group)).expect("a service"))
        };
        let servers = (1..=GROUPS).flat_map(on).collect();
        let probe = |group| RequestProbe::start_with(lab, vip(group), INTERVAL).expect("a client");
        let probes = (1..=GROUPS).map(|group| (format!("g{group}"), probe(group))).collect();
        Self { _servers: servers, probes, canary: Canary::start().expect("a canary") }
    }

    fn await_service(&self) {
        for probe in self.probes.values() {
            probe.await_service(None, SOON).expect("answers");
        }
    }

    /// For how long each group's client was not served since then, less what the machine stood still for meanwhile.
    fn outages(&self, from: Moment) -> BTreeMap<String, Duration> {
        let stall = self.canary.worst(Window::since(from), false);
        let outage = |probe: &RequestProbe| probe.outage(Window::since(from)).length.saturating_sub(stall);
        self.probes.iter().map(|(group, probe)| (group.clone(), outage(probe))).collect()
    }
}

fn configuration(lab: &Lab) -> String {
    let text = cluster_tests::lab::ClusterSettings::default().toml(lab);
    let (head, _) = text.split_once("\n[[group]]").expect("a group");
    let mut text = head.to_owned();
    for spare in SPARES {
        text = text.replace(
            &format!("name = \"{spare}\"\n"),
            &format!("name = \"{spare}\"\nspare = true\nmax_groups = {MOST}\n"),
        );
    }
    for group in 1..=GROUPS {
        text += &format!("\n[[group]]\nname = \"g{group}\"\nvips = [\"10.77.0.10{group}/24\"]\n");
    }
    text
}

/// Who serves each group, by the status of every daemon that runs; of a group that nobody or more than one serves, nothing.
fn served(cluster: &Cluster<'_>, running: &[&str]) -> anyhow::Result<BTreeMap<String, String>> {
    let mut served = BTreeMap::new();
    let mut twice = Vec::new();
    for node in running {
        let status = cluster.control(node).command("status")?;
        for group in status["groups"].as_array().into_iter().flatten() {
            let name = group["name"].as_str().unwrap_or_default().to_owned();
            if group["role"] == "active" && served.insert(name.clone(), (*node).to_owned()).is_some() {
                twice.push(name);
            }
        }
    }
    served.retain(|name, _| !twice.contains(name));
    Ok(served)
}

fn await_all_served(cluster: &Cluster<'_>, running: &[&str]) -> BTreeMap<String, String> {
    await_some("all groups served", SOON, || {
        let served = served(cluster, running)?;
        Ok((served.len() == GROUPS).then_some(served))
    })
    .expect("somebody for each group")
}

fn count(served: &BTreeMap<String, String>, node: &str) -> usize {
    served.values().filter(|by| *by == node).count()
}

/// What `clusterctl plan` on a node says would be.
fn planned(cluster: &Cluster<'_>, node: &str, without: &[&str]) -> BTreeMap<String, String> {
    let plan = cluster.control(node).request(&json!({ "cmd": "plan", "without": without })).expect("a plan");
    let groups = plan["groups"].as_array().expect("groups").clone();
    let name = |group: &Value, key: &str| group[key].as_str().unwrap_or_default().to_owned();
    groups.iter().map(|group| (name(group, "name"), name(group, "planned"))).collect()
}

/// The best-ranked node of each group, by `clusterctl plan`.
fn homes(cluster: &Cluster<'_>, node: &str) -> BTreeMap<String, String> {
    let plan = cluster.control(node).request(&json!({ "cmd": "plan" })).expect("a plan");
    let groups = plan["groups"].as_array().expect("groups").clone();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    groups.iter().map(|group| (text(&group["name"]), text(&group["order"][0]))).collect()
}

/// Has every group served by its best-ranked node, by hand.
fn bring_home(cluster: &Cluster<'_>, home: &BTreeMap<String, String>, running: &[&str]) {
    let now = await_all_served(cluster, running);
    for (group, by) in home.iter().filter(|(group, by)| now[*group] != **by) {
        let output = cluster.clusterctl(by, &["promote", group]).expect("clusterctl");
        assert!(output.status.success(), "{output:?}");
    }
    assert_eq!(await_all_served(cluster, running), *home);
}

#[test]
fn spares_take_the_groups_of_lost_nodes_and_nothing_else_moves() {
    if !may_run("spare nodes") {
        return;
    }
    let all: Vec<&str> = SERVING.into_iter().chain(SPARES).collect();
    let lab = Lab::with_nodes(&all).expect("a lab");
    let mut cluster = Cluster::with_configuration(&lab, &configuration(&lab)).expect("a configuration");
    cluster.start_all().expect("daemons");
    cluster.await_votes(SOON).expect("five voters");
    await_all_served(&cluster, &all);
    let home = homes(&cluster, "a");
    // Nodes that come up one after the other leave groups with those that were first.
    bring_home(&cluster, &home, &all);
    for node in SERVING {
        assert_eq!(count(&home, node), 2, "{home:?}");
    }
    let clients = Clients::start(&lab);
    let mut outages = Vec::new();
    for (loss, lost) in [
        (Loss::Killed, &["a"][..]),
        (Loss::Cut, &["b"]),
        (Loss::Cut, &["b", "c"]),
        (Loss::Killed, &["a", "s"]),
        (Loss::Killed, &["s", "t"]),
    ] {
        clients.await_service();
        let before = await_all_served(&cluster, &all);
        let running: Vec<&str> = all.iter().copied().filter(|node| !lost.contains(node)).collect();
        let expected = planned(&cluster, running[0], lost);
        let from = Moment::now();
        for node in lost {
            match loss {
                Loss::Killed => drop(cluster.kill(node).expect("a killed daemon")),
                Loss::Cut => lab.cut_all(node).expect("a cut"),
            }
        }
        let after = await_all_served(&cluster, &running);
        clients.await_service();
        let seen = clients.outages(from);
        println!("without {lost:?} ({loss:?}): {after:?}; clients were not served for {seen:?}");
        for (group, by) in &before {
            let moved = after[group] != *by;
            assert_eq!(moved, lost.contains(&by.as_str()), "{group}: {before:?} {after:?}");
            if moved {
                outages.push(seen[group]);
            } else {
                assert!(seen[group] <= UNDISTURBED, "{group} did not move: {seen:?}");
            }
        }
        for spare in SPARES {
            assert!(count(&after, spare) <= MOST, "{after:?}");
        }
        if lost.len() == 1 {
            assert_eq!(after, expected, "one loss goes as it was planned");
        }
        match loss {
            Loss::Killed => lost.iter().for_each(|node| cluster.start(node).expect("a restarted daemon")),
            Loss::Cut => lab.mend_all().expect("mended links"),
        }
        cluster.await_votes(SOON).expect("five voters");
        assert_eq!(await_all_served(&cluster, &all), after, "who comes back moves nothing");
        bring_home(&cluster, &home, &all);
    }
    let worst = outages.iter().max().copied().unwrap_or_default();
    let middle = median(outages.clone());
    println!("{} groups moved: median outage {middle:?}, worst {worst:?}", outages.len());
    assert!(middle <= BOUND, "{outages:?}");
    let output = cluster.clusterctl("a", &["plan", "--without", "b"]).expect("clusterctl");
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && shown.starts_with("without b\n"), "{shown}");
    let output = cluster.clusterctl("a", &["plan", "--without", "x"]).expect("clusterctl");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}
