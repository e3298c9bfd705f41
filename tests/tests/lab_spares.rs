//! N+M: six groups on three nodes, and two spares that take two groups each. Whoever is lost, its groups go to the spares, and
//! nothing else moves.

use std::collections::BTreeMap;

use cluster_tests::lab::clock::Window;
use cluster_tests::lab::{Cluster, Lab, Moment, await_some, may_run};
use cluster_tests::scene::SOON;
use serde_json::{Value, json};

const SERVING: [&str; 3] = ["a", "b", "c"];
const SPARES: [&str; 2] = ["s", "t"];
/// What a spare takes.
const MOST: usize = 2;
const GROUPS: usize = 6;

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
    for lost in [&["a"][..], &["b", "c"], &["a", "s"], &["s", "t"]] {
        let before = await_all_served(&cluster, &all);
        let running: Vec<&str> = all.iter().copied().filter(|node| !lost.contains(node)).collect();
        let expected = planned(&cluster, running[0], lost);
        let from = Moment::now();
        for node in lost {
            cluster.kill(node).expect("a killed daemon");
        }
        let after = await_all_served(&cluster, &running);
        println!("without {lost:?}: {after:?}, all known after {:?}", Window::since(from).to.since(from));
        for (group, by) in &before {
            let moved = after[group] != *by;
            assert_eq!(moved, lost.contains(&by.as_str()), "{group}: {before:?} {after:?}");
        }
        for spare in SPARES {
            assert!(count(&after, spare) <= MOST, "{after:?}");
        }
        if lost.len() == 1 {
            assert_eq!(after, expected, "one loss goes as it was planned");
        }
        for node in lost {
            cluster.start(node).expect("a restarted daemon");
        }
        cluster.await_votes(SOON).expect("five voters");
        assert_eq!(await_all_served(&cluster, &all), after, "who comes back moves nothing");
        bring_home(&cluster, &home, &all);
    }
    let output = cluster.clusterctl("a", &["plan", "--without", "b"]).expect("clusterctl");
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && shown.starts_with("without b\n"), "{shown}");
    let output = cluster.clusterctl("a", &["plan", "--without", "x"]).expect("clusterctl");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}
