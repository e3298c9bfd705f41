//! `cluster-lab bench idle`: what a node costs while nothing happens, beside keepalived with as many advertisements.
//!
//! The two take turns, each run in a lab of its own, with nobody who asks for the VIP.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;
use serde_json::json;

use super::contestants::{Contestant, Running};
use super::cost::{Cost, Reading, median};
use super::report::{Machine, Report};
use crate::lab::{Lab, Moment, await_some};
use crate::scene::SOON;

/// How long a cluster is left alone before it is measured.
const STEADY: Duration = Duration::from_secs(2);
/// The ways on which a node of each speaks to the other: the product on both links, keepalived on one.
const CONTESTANTS: [(Contestant, u32); 2] = [(Contestant::OursNormal, 2), (Contestant::Keepalived10ms, 1)];

/// What is to be measured.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How many runs for each contestant.
    pub runs: usize,
    /// How long each lasts.
    pub length: Duration,
}

/// One run of one contestant.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    /// Who.
    pub contestant: &'static str,
    /// The node that served.
    pub active: Cost,
    /// The other one.
    pub passive: Cost,
}

/// Measures, and says on stderr how it goes.
///
/// # Errors
/// When a contestant does not start.
pub fn run(plan: Plan) -> anyhow::Result<Vec<Run>> {
    let mut runs = Vec::new();
    for round in 1..=plan.runs {
        for (who, _) in CONTESTANTS {
            let run = measure(who, plan.length)?;
            eprintln!(
                "run {round}: {who}: active {:.2} %, passive {:.2} % of a processor",
                run.active.share, run.passive.share
            );
            runs.push(run);
        }
    }
    Ok(runs)
}

fn measure(who: Contestant, length: Duration) -> anyhow::Result<Run> {
    let lab = Lab::new()?;
    let mut running = who.start(&lab)?;
    let active = await_some("one node to be active", SOON, || running.active(&lab))?;
    (Moment::now() + STEADY).sleep();
    let mut read = || -> anyhow::Result<Vec<Reading>> {
        let nodes = lab.nodes().iter();
        nodes.map(|node| Reading::take(node, &running.processes(&node.name)?)).collect()
    };
    let (from, before) = (Moment::now(), read()?);
    (from + length).sleep();
    let costs: Vec<(bool, Cost)> = read()?
        .into_iter()
        .zip(before)
        .zip(lab.nodes())
        .map(|((now, before), node)| (node.name == active, now.since(before)))
        .collect();
    let of = |active: bool| costs.iter().find(|(is_active, _)| *is_active == active).map(|(_, cost)| *cost);
    let both = of(true).zip(of(false));
    let (active, passive) = both.ok_or_else(|| anyhow::anyhow!("no node is active, or both are"))?;
    Ok(Run { contestant: who.label(), active, passive })
}

/// The report of these runs.
#[must_use]
pub fn report(plan: Plan, runs: &[Run]) -> Report {
    let machine = Machine::this();
    let markdown = format!(
        "# Idling: what a node costs while nothing happens\n\n\
         Measured by `cargo xtask bench idle --runs {} --seconds {} --write` on {machine}, in the lab that\n\
         [`docs/testing.md`](../testing.md) describes: two nodes, the product at normal timing (10/50/40 ms) with heartbeats on two\n\
         links, keepalived with an advertisement every 10 ms on one. They took turns; medians, and the lowest and highest\n\
         run in brackets. *Packets*: what a node sends, for each interval of 10 ms and path.\n\n{}\n\
         A heartbeat of the product is acknowledged at once, so that two packets for each interval, path and direction are what its\n\
         rules ask for. Of keepalived only the active node speaks.\n",
        plan.runs,
        plan.length.as_secs(),
        table(runs)
    );
    Report { name: "idle", markdown, json: json!({ "machine": machine, "runs": runs }), svg: None }
}

/// The table.
#[must_use]
pub fn table(runs: &[Run]) -> String {
    let mut text = String::from(
        "| | node | percent of a processor | packets | bytes a second |\n|---|---|---:|---:|---:|\n",
    );
    for (who, paths) in CONTESTANTS {
        let of: Vec<&Run> = runs.iter().filter(|run| run.contestant == who.label()).collect();
        for (role, cost) in
            [("active", (|run| run.active) as fn(&Run) -> Cost), ("passive", |run| run.passive)]
        {
            let costs: Vec<Cost> = of.iter().map(|run| cost(run)).collect();
            let middle = |value: fn(&Cost) -> f64| median(costs.iter().map(value).collect()).unwrap_or(0.0);
            let shares = || costs.iter().map(|cost| cost.share);
            let (low, high) = (shares().fold(f64::MAX, f64::min), shares().fold(0.0, f64::max));
            let intervals = f64::from(paths) / who.interval().as_secs_f64();
            let _ = writeln!(
                text,
                "| {who} | {role} | {:.2} ({low:.2} – {high:.2}) | {:.2} | {:.0} |",
                middle(|cost| cost.share),
                middle(|cost| cost.packets) / intervals,
                middle(|cost| cost.bytes)
            );
        }
    }
    text
}

impl Running<'_> {
    /// The node that serves, if one does and the others stand by.
    fn active(&mut self, lab: &Lab) -> anyhow::Result<Option<String>> {
        match self {
            Self::Ours(cluster) => cluster.await_settled(SOON).map(Some),
            Self::Keepalived(_, keepalived) => {
                let nodes = lab.nodes().iter().map(|node| node.name.clone());
                Ok(nodes.into_iter().find(|node| keepalived.is_master(node)))
            }
            Self::Ucarp(_) => Ok(None),
        }
    }
}
