//! `cluster-lab bench partition`: every set of one-way cuts between three voters, three nodes or two and a witness, each with
//! every node as the holder in turn.
//!
//! Cuts are between the members only; the client reaches all nodes all the time, so that it would see any two that both
//! answer. A cut lasts long enough for every lease and promise to end and for two elections. Then everything is mended at
//! once. Trials in which the machine itself stood still are left out of the figures, counted and repeated; two answers
//! count in every trial.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{median_us, micros};
use crate::lab::clock::Window;
use crate::lab::cluster::GROUP;
use crate::lab::cuts::Cuts;
use crate::lab::{ClusterSettings, Lab, Moment, Timing};
use crate::scene::{SOON, Scene};

/// How long a cut lasts.
const CUT: Duration = Duration::from_millis(300);
/// How long the machine may stand still in a trial at normal timing, and at fast timing, before it is spoilt.
const TOLERANCE: [Duration; 2] = [Duration::from_millis(5), Duration::from_millis(2)];

/// Who the three voters are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Topology {
    /// Three nodes.
    ThreeNodes,
    /// Two nodes and a witness.
    TwoNodesAndAWitness,
}

impl Topology {
    /// All, in the order they are shown.
    pub const ALL: [Self; 2] = [Self::ThreeNodes, Self::TwoNodesAndAWitness];

    /// How it is called in the results.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::ThreeNodes => "three nodes",
            Self::TwoNodesAndAWitness => "two nodes and a witness",
        }
    }

    /// What the places of a cut's members are called.
    #[must_use]
    pub fn places(self) -> [&'static str; 3] {
        match self {
            Self::ThreeNodes => ["holder", "better", "worse"],
            Self::TwoNodesAndAWitness => ["holder", "other", "witness"],
        }
    }

    /// Who they are, in words.
    #[must_use]
    pub fn places_in_words(self) -> &'static str {
        match self {
            Self::ThreeNodes => "the holder, the better and the worse one of the other nodes",
            Self::TwoNodesAndAWitness => "the holder, the other node and the witness",
        }
    }

    fn lab(self) -> anyhow::Result<Lab> {
        match self {
            Self::ThreeNodes => Lab::with_nodes(&["a", "b", "c"]),
            Self::TwoNodesAndAWitness => Lab::with_witnesses(&["a", "b"], &["w"]),
        }
    }
}

/// What is to be measured.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Good trials for each set of cuts, and for each silent cut.
    pub trials: usize,
    /// The topologies.
    pub topologies: Vec<Topology>,
}

/// What a set of cuts leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Left {
    /// The holder and another voter hear each other.
    HolderWithMajority,
    /// Only the two others hear each other.
    OthersOnly,
    /// No two hear each other.
    Nobody,
}

impl Left {
    fn by(cuts: Cuts) -> Self {
        if cuts.leave_a_majority_with(0) {
            Self::HolderWithMajority
        } else if cuts.leave_a_majority() {
            Self::OthersOnly
        } else {
            Self::Nobody
        }
    }
}

/// The trials of one set of cuts.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Pattern {
    /// The cuts in words.
    pub cuts: String,
    /// What they leave.
    pub left: Left,
    /// The longest time without an answer while the cuts lasted, of each good trial, in microseconds.
    pub outages_us: Vec<u64>,
    /// From mending to the next answer, of each good trial, in microseconds.
    pub back_us: Vec<u64>,
    /// How often nobody served at the end of the cut although two heard each other.
    pub unserved: usize,
    /// How often somebody served at the end of the cut although no two heard each other.
    pub served_alone: usize,
    /// How often the group left a holder that kept a majority.
    pub moved_in_vain: usize,
    /// How often mending moved the group.
    pub moved_by_mending: usize,
    /// How many trials were left out because the machine stood still.
    pub spoilt: usize,
}

/// Silent cuts of the holder at one timing.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SilentCuts {
    /// The timing in words.
    pub timing: String,
    /// The outage of each good trial, in microseconds.
    pub outages_us: Vec<u64>,
    /// How many trials were left out because the machine stood still.
    pub spoilt: usize,
}

/// All that was found out about one topology.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Found {
    /// Which.
    pub topology: Topology,
    /// The sets of cuts.
    pub patterns: Vec<Pattern>,
    /// Silent cuts of the holder from everything.
    pub silent_cuts: Vec<SilentCuts>,
    /// ARP requests that were asked, on both links together.
    pub asked: usize,
    /// ARP requests that two nodes answered.
    pub double_answers: usize,
}

impl Found {
    fn nothing(topology: Topology) -> Self {
        let pattern = |cuts: Cuts| Pattern {
            cuts: cuts.words(topology.places()),
            left: Left::by(cuts),
            outages_us: Vec::new(),
            back_us: Vec::new(),
            unserved: 0,
            served_alone: 0,
            moved_in_vain: 0,
            moved_by_mending: 0,
            spoilt: 0,
        };
        let silent =
            |timing: &str| SilentCuts { timing: timing.to_owned(), outages_us: Vec::new(), spoilt: 0 };
        Self {
            topology,
            patterns: Cuts::all().map(pattern).collect(),
            silent_cuts: ["normal (10/50/40 ms)", "fast (1/5/4 ms)"].map(silent).to_vec(),
            asked: 0,
            double_answers: 0,
        }
    }
}

/// Runs the trials, adds them to what was found before, and says on stderr how it goes.
///
/// # Errors
/// When a cluster does not start or does not come to rest.
pub fn run(plan: &Plan, mut before: Vec<Found>) -> anyhow::Result<Vec<Found>> {
    for &topology in &plan.topologies {
        let place = before.iter().position(|found| found.topology == topology);
        let mut found = place.map_or_else(|| Found::nothing(topology), |place| before.remove(place));
        ensure!(found.patterns.len() == Cuts::all().count(), "what was found before has other sets of cuts");
        for (silent, (timing, tolerance)) in
            found.silent_cuts.iter_mut().zip([Timing::NORMAL, Timing::FAST].into_iter().zip(TOLERANCE))
        {
            let counts = silent_cuts(topology, plan.trials, timing, tolerance, silent)?;
            found.asked += counts.0;
            found.double_answers += counts.1;
        }
        patterns(topology, plan.trials, &mut found)?;
        before.push(found);
    }
    before.sort_by_key(|found| found.topology);
    Ok(before)
}

fn silent_cuts(
    topology: Topology,
    trials: usize,
    timing: Timing,
    tolerance: Duration,
    silent: &mut SilentCuts,
) -> anyhow::Result<(usize, usize)> {
    let lab = topology.lab()?;
    let mut scene = scene(&lab, timing)?;
    let wanted = silent.outages_us.len() + trials;
    for _ in 0..trials * 2 {
        if silent.outages_us.len() >= wanted {
            break;
        }
        let active = scene.settle()?;
        let next = lab.nodes().iter().find(|node| node.name != active).context("a lab of one node")?;
        let trial = scene.trial(&next.name, |scene| scene.lab.cut_all(&active))?;
        lab.mend_all()?;
        if trial.stall > tolerance {
            silent.spoilt += 1;
        } else {
            silent.outages_us.push(micros(trial.outage.length));
        }
    }
    eprintln!(
        "{}, silent cuts, {}: {} trials, median {} µs",
        topology.label(),
        silent.timing,
        silent.outages_us.len(),
        median_us(&silent.outages_us).unwrap_or(0)
    );
    Ok(answers(&mut scene))
}

fn patterns(topology: Topology, trials: usize, found: &mut Found) -> anyhow::Result<()> {
    let lab = topology.lab()?;
    let mut scene = scene(&lab, Timing::NORMAL)?;
    let wanted: Vec<usize> = found.patterns.iter().map(|pattern| pattern.outages_us.len() + trials).collect();
    let begun = Moment::now();
    for round in 1..=trials * 2 {
        let mut tried = 0;
        for ((cuts, pattern), wanted) in Cuts::all().zip(&mut found.patterns).zip(&wanted) {
            if pattern.outages_us.len() >= *wanted {
                continue;
            }
            tried += 1;
            let holder = &lab.nodes()[(pattern.outages_us.len() + pattern.spoilt) % lab.nodes().len()].name;
            trial(&mut scene, cuts, holder, pattern)
                .with_context(|| format!("with {holder} as the holder and cut: {}", pattern.cuts))?;
        }
        if tried == 0 {
            break;
        }
        let double = scene.answers.double_answers().len();
        eprintln!(
            "{}, round {round}: {tried} sets of cuts tried, {:.0?} so far, {double} double answers",
            topology.label(),
            Moment::now().since(begun)
        );
    }
    let (asked, doubled) = answers(&mut scene);
    found.asked += asked;
    found.double_answers += doubled;
    Ok(())
}

/// The cluster, once the votes of all three count.
fn scene<'lab>(lab: &'lab Lab, timing: Timing) -> anyhow::Result<Scene<'lab>> {
    let mut scene = Scene::start(lab, &ClusterSettings::with(timing))?;
    scene.cluster.await_votes(SOON)?;
    Ok(scene)
}

/// The members, the holder first, the others by rank.
fn members<'lab>(lab: &'lab Lab, holder: &str) -> anyhow::Result<[&'lab str; 3]> {
    let voters = || lab.hosts().map(|host| host.name.as_str());
    let ranked = voters().filter(|name| *name == holder).chain(voters().filter(|name| *name != holder));
    let ranked: Vec<&str> = ranked.collect();
    ranked.try_into().ok().with_context(|| format!("{holder} is none of the lab's three voters"))
}

/// Stops the ARP probe; how many requests it asked, and how many of them were answered twice.
fn answers(scene: &mut Scene<'_>) -> (usize, usize) {
    scene.answers.stop();
    let asked = crate::lab::Link::ALL.iter().map(|&link| scene.answers.asked(link, Window::ALWAYS));
    (asked.sum(), scene.answers.double_answers().len())
}

fn trial(scene: &mut Scene<'_>, cuts: Cuts, wanted: &str, pattern: &mut Pattern) -> anyhow::Result<()> {
    let lab = scene.lab;
    if scene.cluster.role(wanted)? != "active" {
        scene.cluster.control(wanted).request(&json!({ "cmd": "promote", "group": GROUP }))?;
    }
    let holder = scene.settle()?;
    let members = members(lab, &holder)?;

    let from = Moment::now();
    cuts.apply(lab, members)?;
    (from + CUT).sleep();
    let cut = Window::since(from);
    let last = Window { from: cut.to - Duration::from_millis(20), to: cut.to - Duration::from_millis(5) };
    let served = scene.client.served_by(last);
    let mended = Moment::now();
    Cuts::NONE.apply(lab, members)?;
    scene.client.await_service(None, SOON)?;
    let settled = scene.settle()?;

    let stall = scene.canary.worst(Window::since(from), true);
    let outage = scene.client.outage(cut);
    let back = scene.client.requests_in(Window::since(mended));
    let back = back.iter().filter_map(|request| request.answer).map(|(at, _)| at).min();
    scene.client.forget_before(mended);
    if stall > TOLERANCE[0] {
        pattern.spoilt += 1;
        return Ok(());
    }
    pattern.outages_us.push(micros(outage.length));
    pattern.back_us.push(back.map_or(u64::MAX, |back| micros(back.since(mended))));
    pattern.unserved += usize::from(pattern.left != Left::Nobody && served.is_empty());
    pattern.served_alone += usize::from(pattern.left == Left::Nobody && !served.is_empty());
    let moved = served.keys().any(|by| *by != holder);
    pattern.moved_in_vain += usize::from(pattern.left == Left::HolderWithMajority && moved);
    let moved = served.keys().any(|by| *by != settled);
    pattern.moved_by_mending += usize::from(pattern.left != Left::Nobody && moved);
    Ok(())
}
