//! `cluster-lab bench scale`: what many nodes and many groups cost, and how long the election of all groups takes after
//! the loss of the node that held them all, against that of a single one.
//!
//! There are no probes, which would share the machine with the nodes: the moments of the election are those of the daemons'
//! own events, in the clock they all share here.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::cost::{Cost, Reading};
use super::micros;
use crate::lab::{Cluster, ClusterSettings, Lab, Moment, await_some};

/// The names of the nodes, the first of which holds everything at first.
const NAMES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];
/// How long a cluster may take to come to rest.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long it is left alone then.
const STEADY: Duration = Duration::from_secs(2);

/// What is to be measured.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How many nodes.
    pub nodes: usize,
    /// How many groups in each cluster, one cluster after the other.
    pub groups: Vec<usize>,
    /// For how long the cost is measured.
    pub length: Duration,
    /// How many elections.
    pub trials: usize,
}

/// A cluster with so many groups.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cell {
    /// How many nodes.
    pub nodes: usize,
    /// How many groups.
    pub groups: usize,
    /// The cost of each node, that of the holder of all groups first.
    pub costs: Vec<Cost>,
    /// From the cut of the holder to the first group that is active elsewhere, of each trial, in microseconds.
    pub first_us: Vec<u64>,
    /// And to the last.
    pub last_us: Vec<u64>,
}

/// Measures, and says on stderr how it goes.
///
/// # Errors
/// When a cluster does not start, or not all groups are served.
pub fn run(plan: &Plan) -> anyhow::Result<Vec<Cell>> {
    let names = NAMES.get(..plan.nodes).with_context(|| format!("at most {} nodes", NAMES.len()))?;
    plan.groups.iter().map(|&groups| cell(plan, names, groups)).collect()
}

fn cell(plan: &Plan, names: &[&str], groups: usize) -> anyhow::Result<Cell> {
    let lab = Lab::with_nodes(names)?;
    let settings = ClusterSettings { tables: further_groups(groups), ..ClusterSettings::default() };
    let mut cluster = Cluster::new(&lab, &settings)?;
    cluster.start_all()?;
    let mut holder = settled(&cluster, groups)?;
    (Moment::now() + STEADY).sleep();
    let costs = costs(&mut cluster, &holder, plan.length)?;
    eprintln!(
        "{} nodes, {groups} groups: {}",
        names.len(),
        costs.iter().map(|cost| format!("{:.1} %", cost.share)).collect::<Vec<_>>().join(", ")
    );
    let (mut first_us, mut last_us) = (Vec::new(), Vec::new());
    for trial in 1..=plan.trials {
        let (first, last) = election(&cluster, &holder, groups)?;
        eprintln!("{groups} groups, election {trial}: first after {first:.1?}, last after {last:.1?}");
        first_us.push(micros(first));
        last_us.push(micros(last));
        lab.mend_all()?;
        holder = settled(&cluster, groups)?;
        (Moment::now() + STEADY).sleep();
    }
    Ok(Cell { nodes: names.len(), groups, costs, first_us, last_us })
}

/// All groups but the lab's own, each with an address of its own.
fn further_groups(groups: usize) -> String {
    let group = |number: usize| {
        let (third, fourth) = (1 + number / 200, 1 + number % 200);
        format!("\n[[group]]\nname = \"g{number}\"\nvips = [\"10.77.{third}.{fourth}/16\"]\n")
    };
    (1..groups).map(group).collect()
}

/// Waits until one node is active in all groups and every other one passive; returns its name.
fn settled(cluster: &Cluster<'_>, groups: usize) -> anyhow::Result<String> {
    let mut holder = None;
    let what = "one node to hold all groups and the others to stand by";
    await_some(what, PATIENCE, || {
        holder = None;
        for node in cluster.lab().nodes() {
            let roles = roles(cluster, &node.name)?;
            ensure!(roles.len() == groups, "{} knows {} groups", node.name, roles.len());
            let count = |role: &str| roles.values().filter(|have| *have == role).count();
            match (count("active"), count("passive")) {
                (0, passive) if passive == groups => {}
                (active, 0) if active == groups && holder.is_none() => holder = Some(node.name.clone()),
                (active, passive) => bail!("{}: {active} active, {passive} passive", node.name),
            }
        }
        Ok(holder.clone())
    })
}

fn roles(cluster: &Cluster<'_>, node: &str) -> anyhow::Result<BTreeMap<String, String>> {
    let status = cluster.control(node).command("status")?;
    let groups = status.get("groups").and_then(Value::as_array).context("a status without groups")?;
    let role = |group: &Value| {
        Some((group.get("name")?.as_str()?.to_owned(), group.get("role")?.as_str()?.to_owned()))
    };
    groups.iter().map(|group| role(group).context("a group without a role")).collect()
}

fn costs(cluster: &mut Cluster<'_>, holder: &str, length: Duration) -> anyhow::Result<Vec<Cost>> {
    let lab = cluster.lab();
    let mut nodes: Vec<_> = lab.nodes().iter().collect();
    nodes.sort_by_key(|node| node.name != holder);
    let mut read = || -> anyhow::Result<Vec<Reading>> {
        nodes.iter().map(|node| Reading::take(node, &[cluster.daemon(&node.name)?.pid()])).collect()
    };
    let (from, before) = (Moment::now(), read()?);
    (from + length).sleep();
    Ok(read()?.into_iter().zip(before).map(|(now, before)| now.since(before)).collect())
}

/// Cuts the holder off and waits until every group is served elsewhere; how long the first and the last took.
fn election(cluster: &Cluster<'_>, holder: &str, groups: usize) -> anyhow::Result<(Duration, Duration)> {
    let lab = cluster.lab();
    let others = lab.nodes().iter().map(|node| node.name.as_str()).filter(|name| *name != holder);
    let mut others: Vec<(&str, u64)> =
        others.map(|node| Ok((node, events(cluster, node, 0)?.newest))).collect::<anyhow::Result<_>>()?;
    let mut served: BTreeMap<String, Duration> = BTreeMap::new();
    let cut = Moment::now();
    lab.cut_all(holder)?;
    // Events are asked for and not roles, which would keep the heartbeat threads from what is measured.
    let missed = await_some("all groups to be served elsewhere", PATIENCE, || {
        let mut missed = 0;
        for (node, seen) in &mut others {
            let Happened { taken, newest, forgotten } = events(cluster, node, *seen)?;
            *seen = newest;
            missed += forgotten;
            served.extend(taken.into_iter().map(|(group, at)| (group, at.since(cut))));
        }
        // What was forgotten before it was read does not come any more.
        ensure!(missed > 0 || served.len() == groups, "{} of {groups} are", served.len());
        Ok(Some(missed))
    })?;
    ensure!(missed == 0, "{missed} events were forgotten by the daemons before they were read: not measured");
    let times = || served.values().copied();
    times().min().zip(times().max()).context("there are no groups")
}

/// What a node's events say.
struct Happened {
    /// The groups that it became active in, and when.
    taken: Vec<(String, Moment)>,
    /// The number of its newest event.
    newest: u64,
    /// How many it no longer has.
    forgotten: u64,
}

/// What happened on `node` after the event with this number.
fn events(cluster: &Cluster<'_>, node: &str, since: u64) -> anyhow::Result<Happened> {
    let answer = cluster.control(node).request(&json!({ "cmd": "events", "since": since }))?;
    let events = answer.get("events").and_then(Value::as_array).context("an answer without events")?;
    let taken = |event: &Value| {
        let taken = event.get("kind")? == "transition" && event.get("to")? == "active";
        let group = event.get("group")?.as_str()?.to_owned();
        taken.then_some((group, Moment(event.get("boot_ns")?.as_u64()?)))
    };
    let newest = events.iter().filter_map(|event| event.get("seq")?.as_u64()).max();
    Ok(Happened {
        taken: events.iter().filter_map(taken).collect(),
        newest: newest.unwrap_or(since),
        forgotten: answer
            .get("missed")
            .and_then(Value::as_u64)
            .context("an answer without what is missed")?,
    })
}
