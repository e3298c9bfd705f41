//! `cluster-lab bench failover`: the outage that a client sees when the active node fails, beside keepalived and ucarp.
//!
//! A trial builds a lab, starts a contestant on both nodes, and breaks the node that serves at a random moment of its
//! rhythm. The client asks four times a millisecond; the outage is the longest time without an answer. Meanwhile every
//! millisecond an ARP request on each link asks for the VIP: one that two nodes answer is a double answer. The contestants
//! take turns, so that whatever slows the machine slows them all. A trial in which the machine itself stood still for longer
//! than the contestant's figures allow is discarded, counted and repeated.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::signal::Signal;
use serde::Serialize;

use super::contestants::{Contestant, Running};
use super::micros;
use crate::lab::clock::Window;
use crate::lab::probe::{AnswerProbe, Canary, EchoServer, RequestProbe};
use crate::lab::topology::VIP;
use crate::lab::{Lab, Link, Moment, await_true};

/// How long the client may have to wait until the other node serves.
const PATIENCE: Duration = Duration::from_secs(12);
/// How long both answering nodes have to show themselves after the failover.
const AFTERMATH: Duration = Duration::from_millis(500);
/// How long a node has to serve undisturbed before it is struck: whom a contestant may ask about a dead link, it has
/// learnt by then.
const STEADY: Duration = Duration::from_millis(1500);
/// How many spoilt trials are repeated for each good one that is wanted.
const REPEATS: usize = 1;

/// What is done to the node that serves.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// All its links are cut, without a sign.
    SilentCut,
    /// Only the link that clients use is cut, without a sign.
    ServiceLinkCut,
    /// All its links lose their carrier.
    CarrierLoss,
    /// Its daemon is killed.
    Sigkill,
    /// Its daemon is stopped.
    Sigstop,
    /// Its daemon is told to end.
    Sigterm,
    /// It is told to give the VIP up.
    Demote,
}

impl Fault {
    /// All, in the order they are shown.
    pub const ALL: [Self; 7] = [
        Self::SilentCut,
        Self::ServiceLinkCut,
        Self::CarrierLoss,
        Self::Sigkill,
        Self::Sigstop,
        Self::Sigterm,
        Self::Demote,
    ];

    /// How it is called in the results.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::SilentCut => "silent cut",
            Self::ServiceLinkCut => "service link cut",
            Self::CarrierLoss => "carrier loss",
            Self::Sigkill => "SIGKILL",
            Self::Sigstop => "SIGSTOP",
            Self::Sigterm => "SIGTERM",
            Self::Demote => "demote",
        }
    }

    /// Whether this contestant can be tried with it: the others have only one link, and no command to move a VIP.
    fn suits(self, contestant: Contestant) -> bool {
        contestant.is_ours() || !matches!(self, Self::ServiceLinkCut | Self::Demote)
    }

    /// Does it to `node`. Returns the moment just before.
    fn strike(self, lab: &Lab, running: &mut Running<'_>, node: &str) -> anyhow::Result<Moment> {
        let now = Moment::now();
        match self {
            Self::SilentCut => lab.cut_all(node).map(|()| now),
            Self::ServiceLinkCut => lab.cut(node, Link::Public).map(|()| now),
            Self::CarrierLoss => lab.carrier_all(node, false).map(|()| now),
            Self::Sigkill => running.kill(node),
            Self::Sigstop => running.signal(node, Signal::SIGSTOP),
            Self::Sigterm => running.signal(node, Signal::SIGTERM),
            Self::Demote => running.demote(node),
        }
    }
}

/// What is to be measured.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Good trials for each contestant and fault.
    pub trials: usize,
    /// The contestants.
    pub contestants: Vec<Contestant>,
    /// The faults.
    pub faults: Vec<Fault>,
}

/// What one trial showed.
#[derive(Clone, Debug, Serialize)]
pub struct Trial {
    /// The longest time the client was not served, in microseconds.
    pub outage_us: u64,
    /// Whether the other node served in the end; if not, `outage_us` is how long the client waited.
    pub taken_over: bool,
    /// How many requests were lost.
    pub lost: usize,
    /// How many ARP requests were answered by both nodes, on either link.
    pub double_answers: usize,
    /// The longest stall of the machine in the trial, in microseconds.
    pub machine_stall_us: u64,
}

/// The trials of one contestant with one fault.
#[derive(Clone, Debug, Serialize)]
pub struct Cell {
    /// Who.
    pub contestant: &'static str,
    /// What happened to its active node.
    pub fault: Fault,
    /// How many trials were discarded because the machine stood still.
    pub spoilt: usize,
    /// How many trials failed before anything could be measured.
    pub failed: usize,
    /// The good trials.
    pub trials: Vec<Trial>,
    #[serde(skip)]
    who: Contestant,
}

impl Cell {
    /// The contestant.
    #[must_use]
    pub fn who(&self) -> Contestant {
        self.who
    }

    /// The median outage.
    #[must_use]
    pub fn median(&self) -> Option<Duration> {
        let mut outages: Vec<u64> = self.trials.iter().map(|trial| trial.outage_us).collect();
        outages.sort_unstable();
        // Of an even number the mean of the two in the middle.
        let (low, high) = (outages.len().checked_sub(1)? / 2, outages.len() / 2);
        Some(Duration::from_micros((outages.get(low)? + outages.get(high)?) / 2))
    }

    /// The longest outage.
    #[must_use]
    pub fn worst(&self) -> Option<Duration> {
        self.trials.iter().map(|trial| trial.outage_us).max().map(Duration::from_micros)
    }

    /// In how many trials an ARP request was answered by both nodes.
    #[must_use]
    pub fn with_double_answers(&self) -> usize {
        self.trials.iter().filter(|trial| trial.double_answers > 0).count()
    }

    /// In how many trials the other node never served.
    #[must_use]
    pub fn not_taken_over(&self) -> usize {
        self.trials.iter().filter(|trial| !trial.taken_over).count()
    }
}

/// Runs the trials, the contestants taking turns, and says on stderr how it goes.
///
/// # Errors
/// When not a single trial can be run.
pub fn run(plan: &Plan) -> anyhow::Result<Vec<Cell>> {
    let mut cells: BTreeMap<(Fault, Contestant), Cell> = BTreeMap::new();
    for fault in &plan.faults {
        for who in plan.contestants.iter().filter(|who| fault.suits(**who)) {
            let cell = Cell {
                contestant: who.label(),
                fault: *fault,
                spoilt: 0,
                failed: 0,
                trials: Vec::new(),
                who: *who,
            };
            cells.insert((*fault, *who), cell);
        }
    }
    let mut last_failure = None;
    for round in 0..plan.trials * (1 + REPEATS) {
        for ((fault, who), cell) in &mut cells {
            if cell.trials.len() >= plan.trials || cell.spoilt + cell.failed >= plan.trials.max(4) * REPEATS {
                continue;
            }
            let outcome = trial(*who, *fault);
            let said = match outcome {
                Ok(trial) if Duration::from_micros(trial.machine_stall_us) > who.tolerance() => {
                    cell.spoilt += 1;
                    format!("spoilt: the machine stood still for {} µs", trial.machine_stall_us)
                }
                Ok(trial) => {
                    let said = format!(
                        "{:.1} ms, {} lost, {} double answers{}",
                        trial.outage_us as f64 / 1000.0,
                        trial.lost,
                        trial.double_answers,
                        if trial.taken_over { "" } else { ", never taken over" }
                    );
                    cell.trials.push(trial);
                    said
                }
                Err(error) => {
                    cell.failed += 1;
                    let said = format!("failed: {error:#}");
                    last_failure = Some(error);
                    said
                }
            };
            eprintln!("round {}: {who}, {}: {said}", round + 1, fault.label());
        }
    }
    if let Some(error) = last_failure.filter(|_| cells.values().all(|cell| cell.trials.is_empty())) {
        return Err(error.context("no trial could be run"));
    }
    Ok(cells.into_values().collect())
}

/// One trial in a lab of its own.
fn trial(who: Contestant, fault: Fault) -> anyhow::Result<Trial> {
    let lab = Lab::new()?;
    let canary = Canary::start()?;
    let services: anyhow::Result<Vec<EchoServer>> =
        lab.nodes().iter().map(|node| EchoServer::start(node, VIP)).collect();
    let _services = services?;
    let mut running = who.start(&lab).with_context(|| format!("starting {who}"))?;
    let mut client = RequestProbe::start(&lab)?;
    let mut answers = AnswerProbe::start(&lab)?;
    let active = settled(&client, &answers, who)?;

    let struck = fault.strike(&lab, &mut running, &active)?;
    let by_other = || client.last_answer().is_some_and(|(at, by)| at > struck && by != active);
    let taken_over = await_true("the other node to serve", PATIENCE, by_other).is_ok();
    let after = Moment::now();
    (after + AFTERMATH).sleep();
    client.stop();
    answers.stop();
    let margin = Duration::from_millis(5);
    let outage = client.outage(Window { from: struck - margin, to: after + AFTERMATH });
    // What the machine did before the strike and after the outage has no part in the figure.
    let measured = Window { from: struck - margin, to: outage.to.max(struck) + margin };
    // The client's own pauses are no measure of the machine: it waits while the VIP's Ethernet address is unknown.
    let stall = canary.worst(measured, true);
    Ok(Trial {
        outage_us: micros(outage.length),
        taken_over,
        lost: outage.lost,
        double_answers: answers.double_answers_in(Window::since(struck)).len(),
        machine_stall_us: micros(stall),
    })
}

/// Waits until one node alone serves and has done so for some of the contestant's intervals, then for a random part of
/// one. Returns who serves.
fn settled(client: &RequestProbe, answers: &AnswerProbe, who: Contestant) -> anyhow::Result<String> {
    let begun = client.await_service(None, PATIENCE)?;
    let quiet = who.interval() * 2 + STEADY;
    let mut active = None;
    await_true("one node to serve steadily", PATIENCE, || {
        let now = Moment::now();
        let recent = Window { from: now - quiet, to: now - Duration::from_millis(5) };
        let served = client.served_by(recent);
        let lost = client.requests_in(recent).iter().any(|request| request.answer.is_none());
        active = served.keys().next().cloned().filter(|_| recent.from >= begun && served.len() == 1 && !lost);
        active = active.take().filter(|_| answers.double_answers_in(recent).is_empty());
        active.is_some()
    })?;
    // The clock's low digits are as good as chance for where in its rhythm the contestant is struck.
    let part = Moment::now().0 / 1000 % 1000;
    (Moment::now() + who.interval() * u32::try_from(part).unwrap_or(0) / 1000).sleep();
    active.context("nobody serves")
}
