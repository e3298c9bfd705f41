//! How many packets an active/active group's entry sends on in a second: one flow over a wire, asked and counted by [`super::traffic`].

use std::time::Duration;

use anyhow::{bail, ensure};
use serde::Serialize;

use super::spread::await_spread;
use super::traffic::{Asker, Exchange, Question};
use super::wire::{NODE_MAC, WIRE, connect};
use crate::frames::ipv4;
use crate::lab::cluster::{Cluster, ClusterSettings, GROUP};
use crate::lab::{Family, Lab, Link};
use crate::scene::SOON;

const NODES: [&str; 3] = ["a", "b", "c"];
const LENGTH: Duration = Duration::from_millis(500);
/// As long as the question of a neighbour, whose program sends it.
const FRAME: usize = 86;
/// Flows that are tried until one is another node's.
const TRIED: std::ops::Range<u16> = 40_000..40_032;

/// What was counted.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Rate {
    /// Packets to the VIP.
    pub(super) asked: u64,
    /// Packets that the entry sent on.
    pub(super) back: u64,
    /// For how long.
    pub(super) seconds: f64,
}

pub(super) fn run() -> anyhow::Result<Rate> {
    let lab = Lab::with_nodes(&NODES)?;
    connect(&lab, lab.node("a"))?;
    let mut asker = Asker::on(lab.client(), WIRE)?;
    let mut cluster = Cluster::with_configuration(&lab, &configuration(&lab))?;
    cluster.start_all()?;
    await_spread(&cluster, &NODES)?;
    if cluster.role("a")? != "active" {
        let output = cluster.clusterctl("a", &["promote", GROUP])?;
        ensure!(output.status.success(), "promoting the node at the wire: {output:?}");
    }
    cluster.await_role("a", "active", SOON)?;
    for port in TRIED {
        let mut frame = ipv4(NODE_MAC.0, [10, 79, 0, 50], [10, 79, 0, 100], FRAME);
        frame[34..36].copy_from_slice(&port.to_be_bytes());
        let question = Question { frame, program: "ask_neighbour" };
        let Exchange { answered, .. } = asker.ask(&question, 1, Duration::ZERO)?;
        if answered > 0 {
            let Exchange { asked, answered: back, took } = asker.ask(&question, 1, LENGTH)?;
            ensure!(back <= asked, "{back} packets came back of {asked}");
            return Ok(Rate { asked, back, seconds: took.as_secs_f64() });
        }
    }
    bail!("none of {} flows is another node's", TRIED.len())
}

/// Clients reach the first node over the wire, and the others by the switch. The VIP is one of the wire's network.
fn configuration(lab: &Lab) -> String {
    let group_lines = "mode = \"active-active\"".to_owned();
    let text = ClusterSettings { group_lines, ..ClusterSettings::of(Family::Ipv4) }.toml(lab);
    let own = format!("interface = \"{}\"", Link::Public.interface());
    text.replacen(&own, &format!("interface = \"{WIRE}\""), 1)
        .replace(Family::Ipv4.vip_with_prefix(), "10.79.0.100/24")
}
