//! What becomes of TCP connections to an active/active group's VIP when its nodes come and go.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde::Serialize;

use super::spread::{await_spread, group};
use crate::lab::clock::Window;
use crate::lab::cluster::{Cluster, ClusterSettings, GROUP};
use crate::lab::probe::connections::{Connections, StreamServer};
use crate::lab::{Family, Lab, Moment, await_some};
use crate::scene::SOON;

const NODES: [&str; 4] = ["a", "b", "c", "d"];
/// Connections, with a message on each so often.
const CONNECTIONS: usize = 200;
const INTERVAL: Duration = Duration::from_millis(50);
/// How long they are watched after a change, and from how long on one that stands still is as good as broken.
const WATCHED: Duration = Duration::from_secs(3);
const BROKEN: Duration = Duration::from_millis(2500);

/// A change, and what became of the connections.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Change {
    /// What changed.
    pub(super) what: &'static str,
    /// Connections.
    pub(super) of: usize,
    /// Those that broke.
    pub(super) broken: usize,
    /// How many were on a node that was lost.
    pub(super) were_lost: u64,
    /// The longest that one of the others stood still, in milliseconds.
    pub(super) stall_ms: f64,
}

struct Scene<'lab> {
    cluster: Cluster<'lab>,
    connections: Connections,
    found: Vec<Change>,
}

pub(super) fn run() -> anyhow::Result<Vec<Change>> {
    let lab = Lab::with_nodes(&NODES)?;
    let _servers = lab.nodes().iter().map(StreamServer::start).collect::<anyhow::Result<Vec<_>>>()?;
    let group_lines = "mode = \"active-active\"".to_owned();
    let settings = ClusterSettings { group_lines, ..ClusterSettings::of(Family::Ipv4) };
    let mut cluster = Cluster::new(&lab, &settings)?;
    let first = ["a", "b", "c"];
    for node in first {
        cluster.start(node)?;
    }
    await_spread(&cluster, &first)?;
    let connections = connect(&lab)?;
    let mut scene = Scene { cluster, connections, found: Vec::new() };
    scene.watch("a node joins", &[], |scene| {
        scene.cluster.start("d")?;
        await_spread(&scene.cluster, &NODES)
    })?;
    scene.watch("a member is drained", &[], |scene| {
        scene.clusterctl("b", &["drain"])?;
        await_spread(&scene.cluster, &["a", "c", "d"])
    })?;
    let entry = scene.entry(&NODES)?;
    let next = if entry == "c" { "a" } else { "c" };
    scene.watch("the entry moves (`promote`)", &[], |scene| scene.clusterctl(next, &["promote", GROUP]))?;
    scene.watch("the member is back (`undrain`)", &[], |scene| {
        scene.clusterctl("b", &["undrain"])?;
        await_spread(&scene.cluster, &NODES)
    })?;
    for (what, of_entry) in [("another member is cut off", false), ("the entry is cut off", true)] {
        scene.connections = connect(&lab)?;
        let entry = scene.entry(&NODES)?;
        let lost = NODES.into_iter().find(|node| (*node == entry) == of_entry).context("a node to lose")?;
        let rest: Vec<&str> = NODES.into_iter().filter(|node| *node != lost).collect();
        scene.watch(what, &[lost], |scene| {
            lab.cut_all(lost)?;
            await_spread(&scene.cluster, &rest)
        })?;
        lab.mend_all()?;
        await_spread(&scene.cluster, &NODES)?;
    }
    Ok(scene.found)
}

fn connect(lab: &Lab) -> anyhow::Result<Connections> {
    Connections::open_some(lab, Family::Ipv4.vip(), CONNECTIONS, INTERVAL)
}

impl Scene<'_> {
    /// Carries out a change that loses these nodes, and watches the connections.
    fn watch(
        &mut self,
        what: &'static str,
        lost: &[&str],
        change: impl FnOnce(&mut Self) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut were_lost = 0;
        for node in lost {
            were_lost += self.flows(node)?;
        }
        let from = Moment::now();
        change(self)?;
        (Moment::now() + WATCHED).sleep();
        let fates = self.connections.fates(Window::since(from));
        let is_broken = |stall: Duration, broke: bool| broke || stall > BROKEN;
        let broken = fates.iter().filter(|fate| is_broken(fate.stall, fate.broke.is_some())).count();
        let others = fates.iter().filter(|fate| !is_broken(fate.stall, fate.broke.is_some()));
        let stall = others.map(|fate| fate.stall).max().unwrap_or_default();
        let stall_ms = stall.as_secs_f64() * 1e3;
        eprintln!("{what}: {broken} of {} broken, {were_lost} were on a lost node", fates.len());
        self.found.push(Change { what, of: fates.len(), broken, were_lost, stall_ms });
        Ok(())
    }

    fn clusterctl(&self, node: &str, arguments: &[&str]) -> anyhow::Result<()> {
        let output = self.cluster.clusterctl(node, arguments)?;
        ensure!(output.status.success(), "{arguments:?} on {node}: {output:?}");
        Ok(())
    }

    fn entry(&self, nodes: &[&str]) -> anyhow::Result<String> {
        await_some("an entry", SOON, || {
            for node in nodes {
                if group(&self.cluster, node)?["role"] == "active" {
                    return Ok(Some((*node).to_owned()));
                }
            }
            Ok(None)
        })
    }

    /// How many connections a node has, by its own word, once all are counted.
    fn flows(&self, of: &str) -> anyhow::Result<u64> {
        await_some("all connections counted", SOON, || {
            let own = |node: &str| -> anyhow::Result<u64> {
                let spread = group(&self.cluster, node)?["spread"].clone();
                let members = spread["members"].as_array().cloned().unwrap_or_default();
                let own = members.into_iter().find(|member| member["name"] == node).unwrap_or_default();
                Ok(own["flows"].as_u64().unwrap_or_default())
            };
            let mut all = 0;
            for node in NODES {
                all += own(node)?;
            }
            if all == CONNECTIONS as u64 { own(of).map(Some) } else { Ok(None) }
        })
    }
}
