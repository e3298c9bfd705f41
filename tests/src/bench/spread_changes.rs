//! What becomes of TCP connections to an active/active group's VIP when its nodes come and go.

use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;

use super::spread::{await_spread, clusterctl, connections_of, entry};
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
    _servers: Vec<StreamServer>,
    found: Vec<Change>,
}

pub(super) fn run() -> anyhow::Result<Vec<Change>> {
    let lab = Lab::with_nodes(&NODES)?;
    let mut scene = Scene::start(&lab, &["a", "b", "c"])?;
    scene.watch("a node joins", None, |scene| {
        scene.cluster.start("d")?;
        await_spread(&scene.cluster, &NODES)
    })?;
    scene.watch("a member is drained", None, |scene| {
        clusterctl(&scene.cluster, "b", &["drain"])?;
        await_spread(&scene.cluster, &["a", "c", "d"])
    })?;
    let next = if entry(&scene.cluster)? == "c" { "a" } else { "c" };
    scene.watch("the entry moves (`promote`)", None, |scene| {
        clusterctl(&scene.cluster, next, &["promote", GROUP])
    })?;
    scene.watch("the member is back (`undrain`)", None, |scene| {
        clusterctl(&scene.cluster, "b", &["undrain"])?;
        await_spread(&scene.cluster, &NODES)
    })?;
    scene.lose("another member is cut off", false)?;
    let mut found = scene.found;
    drop(lab);
    // What the lost node still has of connections would be counted with new ones.
    let lab = Lab::with_nodes(&NODES)?;
    let mut scene = Scene::start(&lab, &NODES)?;
    scene.lose("the entry is cut off", true)?;
    found.extend(scene.found);
    Ok(found)
}

impl<'lab> Scene<'lab> {
    /// A cluster of which these nodes run, and connections to it that they know.
    fn start(lab: &'lab Lab, running: &[&str]) -> anyhow::Result<Self> {
        let servers = lab.nodes().iter().map(StreamServer::start).collect::<anyhow::Result<_>>()?;
        let group_lines = "mode = \"active-active\"".to_owned();
        let settings = ClusterSettings { group_lines, ..ClusterSettings::of(Family::Ipv4) };
        let mut cluster = Cluster::new(lab, &settings)?;
        for node in running {
            cluster.start(node)?;
        }
        await_spread(&cluster, running)?;
        let connections = Connections::open_some(lab, Family::Ipv4.vip(), CONNECTIONS, INTERVAL)?;
        let scene = Self { cluster, connections, _servers: servers, found: Vec::new() };
        await_some("all connections to be known", SOON, || {
            let known: u64 = NODES.iter().filter_map(|node| connections_of(&scene.cluster, node)).sum();
            Ok((known == CONNECTIONS as u64).then_some(()))
        })?;
        Ok(scene)
    }

    /// Cuts the entry off, or another node.
    fn lose(&mut self, what: &'static str, of_entry: bool) -> anyhow::Result<()> {
        let entry = entry(&self.cluster)?;
        let lost = NODES.into_iter().find(|node| (*node == entry) == of_entry).context("a node to lose")?;
        let rest: Vec<&str> = NODES.into_iter().filter(|node| *node != lost).collect();
        self.watch(what, Some(lost), |scene| {
            scene.cluster.lab().cut_all(lost)?;
            await_spread(&scene.cluster, &rest)
        })
    }

    /// Carries out a change, which may lose a node, and watches the connections.
    fn watch(
        &mut self,
        what: &'static str,
        lost: Option<&str>,
        change: impl FnOnce(&mut Self) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let were_lost = lost.and_then(|node| connections_of(&self.cluster, node)).unwrap_or_default();
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
}
