//! `cluster-lab bench switchover`: what a planned move costs a client that asks 5000 times a second, and long-lived connections.
//!
//! A cluster of two nodes serves; the node that does not is told to `promote` the group, again and again. Each time 50 connections
//! are opened to the VIP before, and watched until well after; every request is accounted for, and every announcement of the VIP is
//! heard at the switch port of the node that sends it. Between two moves the grace of the first has passed.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;
use serde_json::json;

use super::micros;
use crate::lab::clock::Window;
use crate::lab::cluster::GROUP;
use crate::lab::probe::{
    Announcements, AnswerProbe, Canary, Connections, EchoServer, RequestProbe, StreamServer, answers,
};
use crate::lab::{Cluster, ClusterSettings, Family, Lab, Moment};

/// 5000 requests a second.
const INTERVAL: Duration = Duration::from_micros(200);
/// A request that is not answered within this time is lost.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long anything may take that is not measured.
const SOON: Duration = Duration::from_secs(10);
/// How long connections say something before the move.
const BEFORE: Duration = Duration::from_millis(300);
/// How long everything is watched after it; the grace lasts longer.
const AFTER: Duration = Duration::from_millis(2500);
/// The time between two moves: the grace (5 s unless configured) and a little more.
const BETWEEN: Duration = Duration::from_millis(5500);
/// How long the machine may stand still in a trial before it is spoilt.
const TOLERANCE: Duration = Duration::from_millis(5);

/// Which Ethernet address the VIP has.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum MacMode {
    /// That of the interface of the node that holds it.
    Interface,
    /// One of its own.
    Virtual,
}

impl MacMode {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Interface, Self::Virtual];

    /// How it is called in configurations and results.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Interface => "interface",
            Self::Virtual => "virtual",
        }
    }

    /// Its lines in the configuration of a group.
    fn lines(self) -> &'static str {
        match self {
            Self::Interface => "",
            Self::Virtual => "mac = \"virtual\"\nvirtual_id = 7\n",
        }
    }
}

/// What is to be measured.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Good trials of each kind.
    pub trials: usize,
    /// The families of the VIP.
    pub families: Vec<Family>,
    /// The Ethernet addresses of the VIP.
    pub macs: Vec<MacMode>,
}

/// What one move showed.
#[derive(Clone, Debug, Serialize)]
pub struct Trial {
    /// Requests from a little before the move on.
    pub asked: usize,
    /// How many of them were never answered, or not within a second.
    pub lost: usize,
    /// The longest that one of the others waited, in microseconds.
    pub slowest_us: u64,
    /// The longest time between two answers, in microseconds.
    pub outage_us: u64,
    /// Who announced the VIP.
    pub announcers: BTreeSet<String>,
    /// Whether that was the new holder alone.
    pub new_holder_alone: bool,
    /// How often it was announced.
    pub announcements: usize,
    /// How many requests who has the VIP two nodes answered.
    pub double_answers: usize,
    /// Open connections.
    pub connections: usize,
    /// How many of them broke.
    pub broken: usize,
    /// The longest that one of them stood still, in microseconds.
    pub stall_us: u64,
    /// How long `promote` took to return, in microseconds.
    pub command_us: u64,
    /// The longest stall of the machine in the trial, in microseconds.
    pub machine_stall_us: u64,
}

/// The trials of one kind.
#[derive(Clone, Debug, Serialize)]
pub struct Cell {
    /// The VIP's family.
    pub family: Family,
    /// Its Ethernet address.
    pub mac: MacMode,
    /// Why none of it could be measured.
    pub refused: Option<String>,
    /// How many trials were discarded because the machine stood still.
    pub spoilt: usize,
    /// The good trials.
    pub trials: Vec<Trial>,
}

/// Measures, and says on stderr how it goes.
///
/// # Errors
/// When a cluster that may be configured does not start, or a move fails.
pub fn run(plan: &Plan) -> anyhow::Result<Vec<Cell>> {
    let kinds = plan.families.iter().flat_map(|&family| plan.macs.iter().map(move |&mac| (family, mac)));
    kinds.map(|(family, mac)| cell(plan.trials, family, mac)).collect()
}

fn cell(trials: usize, family: Family, mac: MacMode) -> anyhow::Result<Cell> {
    let mut cell = Cell { family, mac, refused: None, spoilt: 0, trials: Vec::new() };
    let lab = Lab::new()?;
    let settings = ClusterSettings {
        vips: vec![family],
        group_lines: mac.lines().to_owned(),
        ..ClusterSettings::default()
    };
    let mut cluster = Cluster::new(&lab, &settings)?;
    cell.refused = cluster.refusal()?;
    if let Some(reason) = &cell.refused {
        eprintln!("{}, {} MAC: {reason}", family.label(), mac.label());
        return Ok(cell);
    }
    cluster.start_all()?;
    let mut watchers = Watchers::start(&lab, family)?;
    let mut from = Moment::now();
    // As many again may be spoilt.
    while cell.trials.len() < trials && cell.spoilt < trials {
        let trial = watchers.trial(&mut cluster, from)?;
        from = Moment::now();
        let spoilt = Duration::from_micros(trial.machine_stall_us) > TOLERANCE;
        eprintln!(
            "{}, {} MAC: {} of {} lost, gap {:.1} ms, announced by {:?}, {} of {} connections broke, worst stall {:.1} ms{}",
            family.label(),
            mac.label(),
            trial.lost,
            trial.asked,
            trial.outage_us as f64 / 1000.0,
            trial.announcers,
            trial.broken,
            trial.connections,
            trial.stall_us as f64 / 1000.0,
            if spoilt { "; spoilt by the machine" } else { "" }
        );
        if spoilt {
            cell.spoilt += 1;
        } else {
            cell.trials.push(trial);
        }
    }
    Ok(cell)
}

/// Everything that looks at the cluster, and the services behind its VIP.
struct Watchers<'lab> {
    lab: &'lab Lab,
    family: Family,
    canary: Canary,
    client: RequestProbe,
    answers: AnswerProbe,
    announcements: Announcements,
    _services: Vec<(EchoServer, StreamServer)>,
}

impl<'lab> Watchers<'lab> {
    fn start(lab: &'lab Lab, family: Family) -> anyhow::Result<Self> {
        let vip = family.vip();
        let services =
            lab.nodes().iter().map(|node| Ok((EchoServer::start(node, vip)?, StreamServer::start(node)?)));
        Ok(Self {
            lab,
            family,
            _services: services.collect::<anyhow::Result<_>>()?,
            canary: Canary::start()?,
            client: RequestProbe::start_with(lab, vip, INTERVAL)?,
            answers: AnswerProbe::start_with(lab, vip, answers::INTERVAL)?,
            announcements: Announcements::start(lab)?,
        })
    }

    /// Moves the group to the node that does not have it, the last move having been at `last`.
    fn trial(&mut self, cluster: &mut Cluster<'_>, last: Moment) -> anyhow::Result<Trial> {
        let active = cluster.await_settled(SOON)?;
        let other = cluster.other(&active).to_owned();
        self.client.await_service(Some(&active), SOON)?;
        (last + BETWEEN).sleep();
        self.client.forget_before(last);
        self.answers.forget_until(last);
        let connections = Connections::open(self.lab, self.family.vip())?;
        (Moment::now() + BEFORE).sleep();

        let from = Moment::now();
        let asked =
            cluster.control(&other).request_within(&json!({ "cmd": "promote", "group": GROUP }), SOON);
        asked.with_context(|| format!("promoting node {other}"))?;
        let took = Moment::now().since(from);
        self.client.await_service(Some(&other), SOON)?;
        (Moment::now() + AFTER).sleep();

        let window = Window::since(from - Duration::from_millis(20));
        let settled = Window { to: window.to - PATIENCE, ..window };
        let losses = self.client.losses(settled, PATIENCE);
        let fates = connections.fates(window);
        let announcers = self.announcements.announcers(window);
        Ok(Trial {
            asked: losses.asked,
            lost: losses.lost,
            slowest_us: micros(losses.slowest),
            outage_us: micros(self.client.outage(settled).length),
            new_holder_alone: announcers.iter().eq([&other]),
            announcers,
            announcements: self.announcements.heard(window).len(),
            double_answers: self.answers.double_answers_in(window).len(),
            connections: fates.len(),
            broken: fates.iter().filter(|fate| fate.broke.is_some()).count(),
            stall_us: micros(fates.iter().map(|fate| fate.stall).max().unwrap_or_default()),
            command_us: micros(took),
            machine_stall_us: micros(self.canary.worst(window, true)),
        })
    }
}
