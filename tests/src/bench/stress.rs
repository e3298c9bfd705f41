//! `cluster-lab bench stress`: what a busy machine does to heartbeats, leases and roles, beside keepalived.
//!
//! Every cell is a cluster in a lab of its own under one load. Nothing is broken: nothing may move, no lease may lapse, and
//! nobody may be answered twice, unless the machine itself stood still, which the canary tells.

use std::time::Duration;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::contestants::{Contestant, Running};
use super::load::{Load, Rung};
use super::micros;
use crate::lab::clock::Window;
use crate::lab::probe::beats::Language;
use crate::lab::probe::{AnswerProbe, Beats, Canary, EchoServer, RequestProbe};
use crate::lab::topology::VIP;
use crate::lab::{Lab, Link, Moment, Timing};
use crate::scene::SOON;

/// A stall of the machine from which on it explains a lapse or a transition: half a lease.
pub const STALLED: Duration = Duration::from_millis(20);
/// A timing with room for the 50 ms in which the kernel keeps a processor from all real-time threads.
pub const PATIENT: Timing = Timing::millis(20, 120, 100);
/// How long a cluster is left alone before the load.
const STEADY: Duration = Duration::from_secs(1);

/// Whose cluster.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Who {
    /// Two nodes of the product, at normal timing.
    TwoNodes,
    /// Three nodes of the product, at normal timing.
    ThreeNodes,
    /// keepalived on two nodes, with an advertisement every 10 ms.
    Keepalived,
    /// Two nodes of the product at [`PATIENT`] timing, for the load that normal timing cannot bear.
    PatientNodes,
}

impl Who {
    /// All, in the order they are shown.
    pub const ALL: [Self; 4] = [Self::TwoNodes, Self::ThreeNodes, Self::Keepalived, Self::PatientNodes];

    /// How it is called in the results.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::TwoNodes => "two nodes",
            Self::ThreeNodes => "three nodes",
            Self::Keepalived => "keepalived, 10 ms",
            Self::PatientNodes => "two nodes, 20/120/100 ms",
        }
    }

    /// Whether it is measured under this load unless asked otherwise.
    #[must_use]
    pub fn is_usual(self, rung: Rung) -> bool {
        self != Self::PatientNodes || rung == Rung::RealTimeHogs
    }

    fn lab(self) -> anyhow::Result<Lab> {
        Lab::with_nodes(if self == Self::ThreeNodes { &["a", "b", "c"] } else { &["a", "b"] })
    }

    fn start(self, lab: &Lab) -> anyhow::Result<Running<'_>> {
        match self {
            Self::TwoNodes | Self::ThreeNodes => Contestant::OursNormal.start(lab),
            Self::Keepalived => Contestant::Keepalived10ms.start(lab),
            Self::PatientNodes => Running::ours(lab, PATIENT),
        }
    }

    /// Where its heartbeats are listened to, and in what language.
    fn beats(self) -> (Link, Language) {
        if self == Self::Keepalived {
            (Link::Public, Language::Vrrp)
        } else {
            (Link::Private, Language::Ours)
        }
    }
}

/// What is to be measured.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How long each load lasts.
    pub length: Duration,
    /// The loads.
    pub rungs: Vec<Rung>,
    /// The clusters.
    pub who: Vec<Who>,
}

/// What a load did to a cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cell {
    /// The load.
    pub rung: Rung,
    /// The cluster.
    pub who: Who,
    /// How long it lasted, in seconds.
    pub seconds: u64,
    /// The longest time between two heartbeats of a node at its switch port, in microseconds.
    pub worst_gap_us: u64,
    /// Changes of role and lapses of a lease, all nodes together.
    pub upsets: u64,
    /// The longest time in which the client got no answer, in microseconds.
    pub outage_us: u64,
    /// ARP requests that two nodes answered.
    pub double_answers: usize,
    /// ARP requests that were asked.
    pub asked: usize,
    /// The longest time that a real-time thread that only sleeps was not woken, in microseconds.
    pub machine_stall_us: u64,
    /// The latest that a heartbeat loop of the product has woken since its start, in microseconds.
    pub loop_delay_us: Option<u64>,
}

impl Cell {
    /// Whether something happened that must not.
    #[must_use]
    pub fn upset(&self) -> bool {
        self.upsets > 0 || self.double_answers > 0
    }

    /// Whether the machine stood still for so long that it explains what happened.
    #[must_use]
    pub fn explained(&self) -> bool {
        Duration::from_micros(self.machine_stall_us) >= STALLED
    }
}

/// Measures, in place of what was found before about the same, and says on stderr how it goes.
///
/// # Errors
/// When a cluster or a load does not start.
pub fn run(plan: &Plan, mut cells: Vec<Cell>) -> anyhow::Result<Vec<Cell>> {
    for &rung in &plan.rungs {
        for &who in plan.who.iter().filter(|who| plan.who.len() == 1 || who.is_usual(rung)) {
            let cell = measure(who, rung, plan.length)
                .with_context(|| format!("{} under load: {}", who.label(), rung.label()))?;
            eprintln!(
                "{}, {}: worst gap {:.1} ms, {} upsets, longest outage {:.1} ms, {} double answers, the machine stood still for {:.1} ms",
                rung.label(),
                who.label(),
                cell.worst_gap_us as f64 / 1000.0,
                cell.upsets,
                cell.outage_us as f64 / 1000.0,
                cell.double_answers,
                cell.machine_stall_us as f64 / 1000.0
            );
            cells.retain(|before| (before.rung, before.who) != (rung, who));
            cells.push(cell);
        }
    }
    cells.sort_by_key(|cell| (cell.rung, cell.who));
    Ok(cells)
}

/// One cluster under one load.
///
/// # Errors
/// When the cluster or the load does not start.
pub fn measure(who: Who, rung: Rung, length: Duration) -> anyhow::Result<Cell> {
    let lab = who.lab()?;
    let canary = Canary::start()?;
    let services: anyhow::Result<Vec<EchoServer>> =
        lab.nodes().iter().map(|node| EchoServer::start(node, VIP)).collect();
    let _services = services?;
    let (link, language) = who.beats();
    let beats: anyhow::Result<Vec<Beats>> =
        lab.nodes().iter().map(|node| Beats::start(&lab, &node.name, link, language)).collect();
    let beats = beats?;
    let running = who.start(&lab)?;
    let client = RequestProbe::start(&lab)?;
    let mut answers = AnswerProbe::start(&lab)?;
    client.await_service(None, SOON)?;
    (Moment::now() + STEADY).sleep();

    let before = running.upsets()?;
    let from = Moment::now();
    let load = Load::start(rung, &lab, length)?;
    (from + length).sleep();
    let window = Window { from, to: from + length };
    drop(load);
    // What the load has caused is told only once it is over; a transition takes its time, too.
    (Moment::now() + Duration::from_millis(200)).sleep();
    let upsets = running.upsets()?.saturating_sub(before);
    answers.stop();
    let asked = Link::ALL.iter().map(|&link| answers.asked(link, window)).sum();
    let worst_gap = beats.iter().filter_map(|beats| beats.worst_gap(window)).max();
    Ok(Cell {
        rung,
        who,
        seconds: length.as_secs(),
        worst_gap_us: micros(worst_gap.context("no heartbeat was heard")?),
        upsets,
        outage_us: micros(client.outage(window).length),
        double_answers: answers.double_answers_in(window).len(),
        asked,
        machine_stall_us: micros(canary.worst(window, true)),
        loop_delay_us: loop_delay(&lab, &running)?,
    })
}

fn loop_delay(lab: &Lab, running: &Running<'_>) -> anyhow::Result<Option<u64>> {
    let Running::Ours(cluster) = running else { return Ok(None) };
    let mut worst = 0.0_f64;
    for node in lab.nodes() {
        let stats = cluster.control(&node.name).command("stats")?;
        worst = worst.max(stats.pointer("/loop/worst_delay_ms").and_then(Value::as_f64).unwrap_or(0.0));
    }
    Ok(Some(micros(Duration::from_secs_f64(worst / 1000.0))))
}
