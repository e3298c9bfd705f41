//! `cluster-lab sim`: many simulated clusters of the real core, with the rules checked at every step. Needs no root.

use std::cell::RefCell;
use std::num::NonZero;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};
use cluster_proto::Quorum;
use cluster_proto::simulation::{self, Options, Profile, Report, Violation};

use crate::lab::Moment;

/// How often it says how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);
/// Nodes and witnesses of the clusters that take turns unless a size is asked for.
const SIZES: [(usize, usize); 6] = [(2, 0), (3, 0), (5, 0), (7, 0), (2, 1), (4, 1)];

/// What to simulate.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How many seeds.
    pub seeds: u64,
    /// The first of them.
    pub first: u64,
    /// Only this profile, or all in turn.
    pub profile: Option<String>,
    /// So many nodes, or several sizes in turn.
    pub nodes: Option<usize>,
    /// How many witnesses; none if only the nodes are given.
    pub witnesses: Option<usize>,
    /// How many of the nodes have no vote.
    pub non_voters: usize,
    /// How many groups; the seed decides if it is not given.
    pub groups: Option<usize>,
    /// How many votes a lease takes; the seed decides for pairs if it is not given.
    pub quorum: Option<Quorum>,
    /// How long things go wrong in each cluster, in heartbeat intervals.
    pub heartbeats: Option<u32>,
    /// Ends after so long, even if seeds are left.
    pub time: Option<Duration>,
}

impl Plan {
    fn profiles(&self) -> anyhow::Result<Vec<Profile>> {
        let Some(name) = &self.profile else { return Ok(Profile::ALL.to_vec()) };
        let known = || Profile::ALL.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let profile = Profile::named(name)
            .with_context(|| format!("no profile is called {name}; there are {}", known()))?;
        Ok(vec![profile])
    }

    /// What a seed simulates: profiles take turns, and sizes once all profiles had theirs.
    fn options(&self, profiles: &[Profile], seed: u64) -> Options {
        let turns = profiles.len().max(1) as u64;
        let turn = usize::try_from(seed % turns).unwrap_or(0);
        let profile = profiles.get(turn).copied().unwrap_or(Profile::Mixed);
        let size = usize::try_from(seed / turns % SIZES.len() as u64).unwrap_or(0);
        let (nodes, witnesses) = SIZES.get(size).copied().unwrap_or((2, 0));
        let (nodes, witnesses) = match (self.nodes, self.witnesses) {
            (None, None) => (nodes, witnesses),
            (asked, witnesses) => (asked.unwrap_or(nodes), witnesses.unwrap_or(0)),
        };
        let usual = Options::new(seed, profile);
        Options {
            nodes,
            witnesses,
            non_voters: self.non_voters,
            groups: self.groups,
            quorum: self.quorum,
            heartbeats: self.heartbeats.unwrap_or(usual.heartbeats),
            ..usual
        }
    }
}

thread_local! {
    /// What this thread simulates, in case the core panics.
    static UNDER_WAY: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Runs the plan on all processors, saying how far it is every two seconds.
///
/// # Errors
/// There is no such profile, or a rule was broken: the message says by which seed, and how to repeat it.
pub fn run(plan: &Plan) -> anyhow::Result<Report> {
    let profiles = plan.profiles()?;
    name_the_seed_on_panic();
    let started = Moment::now();
    let next = AtomicU64::new(plan.first);
    let stop = AtomicBool::new(false);
    let (sender, receiver) = mpsc::channel();
    let workers = thread::available_parallelism().map_or(1, NonZero::get);
    let mut sum = Report::default();
    let mut done = 0_u64;
    let mut broken: Option<Box<Violation>> = None;
    thread::scope(|scope| {
        for _ in 0..workers {
            let sender = sender.clone();
            scope.spawn(|| work(plan, &profiles, &next, &stop, sender));
        }
        drop(sender);
        let mut said = started;
        loop {
            let now = Moment::now();
            if now.since(said) >= PROGRESS_EVERY {
                said = now;
                say(done, plan.seeds, &sum, now.since(started));
            }
            if plan.time.is_some_and(|time| now.since(started) >= time) {
                stop.store(true, Ordering::Relaxed);
            }
            match receiver.recv_timeout(PROGRESS_EVERY.saturating_sub(now.since(said))) {
                Ok(Ok(report)) => {
                    done += 1;
                    sum.add(&report);
                }
                Ok(Err(violation)) => {
                    stop.store(true, Ordering::Relaxed);
                    let lower =
                        broken.as_ref().is_none_or(|other| violation.options.seed < other.options.seed);
                    if lower {
                        broken = Some(violation);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
    });
    if let Some(violation) = broken {
        eprintln!("a rule is broken by seed {}; looking for a smaller run …", violation.options.seed);
        bail!("{}", simulation::shrink(violation));
    }
    println!(
        "{done} clusters, {:.0} cluster-seconds, no rule broken, in {:.1?}\n{sum:#?}",
        sum.simulated.as_secs_f64(),
        Moment::now().since(started)
    );
    Ok(sum)
}

type Outcome = Result<Report, Box<Violation>>;

/// One thread: takes seed after seed.
fn work(plan: &Plan, profiles: &[Profile], next: &AtomicU64, stop: &AtomicBool, results: Sender<Outcome>) {
    while !stop.load(Ordering::Relaxed) {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed - plan.first >= plan.seeds {
            return;
        }
        let options = plan.options(profiles, seed);
        UNDER_WAY.with(|words| *words.borrow_mut() = options.arguments());
        if results.send(simulation::run(&options)).is_err() {
            return;
        }
    }
}

/// A panic of the core is a violation, too, and takes the process along.
fn name_the_seed_on_panic() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        usual(panic);
        UNDER_WAY.with(|words| eprintln!("replay: cargo xtask sim {}", words.borrow()));
    }));
}

fn say(done: u64, seeds: u64, sum: &Report, passed: Duration) {
    let seconds = passed.as_secs_f64().max(0.001);
    let simulated = sum.simulated.as_secs_f64();
    eprintln!(
        "{done} of {seeds} clusters, {:.1} clusters/s, {simulated:.0} cluster-seconds ({:.0}/s), {:.0} steps/s",
        done as f64 / seconds,
        simulated / seconds,
        sum.steps as f64 / seconds
    );
}

/// Repeats the run of one seed and prints its whole timeline, or as much of its end as is asked for.
///
/// # Errors
/// There is no such profile, or a rule is broken.
pub fn replay(plan: &Plan, seed: u64, lines: Option<usize>) -> anyhow::Result<()> {
    let profiles = plan.profiles()?;
    let options = plan.options(&profiles, seed);
    let (timeline, outcome) = simulation::replay(&options, lines.unwrap_or(usize::MAX));
    for line in timeline {
        println!("{line}");
    }
    match outcome {
        Ok(report) => {
            println!("no rule broken\n{report:#?}");
            Ok(())
        }
        Err((rule, what)) => bail!("{rule:?}: {what}"),
    }
}
