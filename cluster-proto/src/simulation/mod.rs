//! A simulated cluster: real cores, each on a simulated host with its own clock, map, disk and interface, in a network
//! that loses, delays, doubles and reorders; and the rules I1 to I5 checked after every step.
//!
//! | file | what is in it |
//! |---|---|
//! | `options.rs` | what can be asked for, and what is reported |
//! | `plan.rs` | what a seed means: cluster, timings, clocks, troubles |
//! | `drawing.rs` | which troubles a seed draws |
//! | `world.rs` | true time, arrivals, the hosts' services |
//! | `troubles.rs` | what happens when a trouble begins and ends |
//! | `serving.rs` | whether somebody serves who should, and stays |
//! | `driver.rs` | one daemon's loop, as the real driver's, and the bugs that can be planted in it |
//! | `host.rs` | a host and its daemon |
//! | `network.rs` | who reaches whom |
//! | `clock.rs` | clocks that run at their own rates |
//! | `check.rs` | the rules |
//! | `words.rs` | messages, troubles and events in words |
//! | `random.rs` | chance |
//!
//! Not here: any rule of the election. A test that fails names its seed, and the seed repeats it.

mod check;
mod clock;
mod drawing;
mod driver;
mod host;
mod network;
mod options;
mod plan;
mod random;
mod serving;
mod troubles;
mod words;
mod world;

use std::time::Duration;

pub use options::{Options, Planted, Profile, Report, Rule, Violation};
use plan::Plan;
use world::World;

/// Lines of the timeline that a violation shows.
const TIMELINE: usize = 150;

/// Simulates one cluster.
///
/// # Errors
/// The first rule that was broken, with the faults that are needed for it and the steps before it.
pub fn run(options: &Options) -> Result<Report, Box<Violation>> {
    let plan = Plan::draw(options);
    let mut world = World::new(options, &plan, 0);
    match world.run() {
        Ok(()) => Ok(world.report),
        Err(_) => Err(Box::new(explain(options, plan))),
    }
}

/// Repeats a run and tells what happens in it, the last so many lines, and how it ends.
///
/// # Errors
/// Beside the lines, the rule that was broken and how.
pub fn replay(options: &Options, lines: usize) -> (Vec<String>, Result<Report, (Rule, String)>) {
    let plan = Plan::draw(options);
    let mut world = World::new(options, &plan, lines);
    let outcome = world.run();
    let mut told = describe_plan(&plan);
    told.extend(world.take_timeline());
    (told, outcome.map(|()| world.report))
}

/// Looks for a shorter run, and one of fewer hosts, in which the same seed breaks the same rule.
#[must_use]
pub fn shrink(found: Box<Violation>) -> Box<Violation> {
    let mut smallest = found;
    loop {
        let Options { nodes, witnesses, non_voters, heartbeats, .. } = smallest.options;
        let with = |nodes, witnesses, non_voters: usize, heartbeats| Options {
            nodes,
            witnesses,
            non_voters: non_voters.min(nodes),
            heartbeats,
            ..smallest.options.clone()
        };
        let mut smaller = Vec::new();
        for fewer in [heartbeats / 2, heartbeats * 3 / 4, heartbeats * 9 / 10] {
            smaller.push(with(nodes, witnesses, non_voters, fewer));
        }
        smaller.push(with(nodes, witnesses.saturating_sub(1), non_voters, heartbeats));
        smaller.push(with(nodes.saturating_sub(1), witnesses, non_voters, heartbeats));
        let is_smaller = |options: &Options| {
            options.nodes >= 1
                && options.heartbeats >= 10
                && (options.nodes, options.witnesses, options.heartbeats) != (nodes, witnesses, heartbeats)
        };
        let next = smaller
            .iter()
            .filter(|options| is_smaller(options))
            .find_map(|options| run(options).err().filter(|violation| violation.rule == smallest.rule));
        match next {
            Some(violation) => smallest = violation,
            None => return smallest,
        }
    }
}

/// Simulates many clusters, one for each seed from `first` on, profile after profile. `each` is called after every run.
///
/// # Errors
/// The first violation.
pub fn run_many(
    profiles: &[Profile],
    first: u64,
    seeds: u64,
    mut each: impl FnMut(&Options, &Report),
) -> Result<Report, Box<Violation>> {
    let mut sum = Report::default();
    for seed in first..first.saturating_add(seeds) {
        let turn = usize::try_from(seed).unwrap_or(0) % profiles.len().max(1);
        let Some(&profile) = profiles.get(turn) else { break };
        let options = Options::new(seed, profile);
        let report = run(&options)?;
        sum.add(&report);
        each(&options, &report);
    }
    Ok(sum)
}

/// Drops the faults without which a rule is still broken, and runs what is left once more with its timeline.
fn explain(options: &Options, mut plan: Plan) -> Violation {
    let breaks = |plan: &Plan| World::new(options, plan, 0).run().err().map(|(rule, _)| rule);
    let rule = breaks(&plan);
    let mut place = plan.troubles.len();
    while place > 0 {
        place -= 1;
        let mut fewer = plan.clone();
        fewer.troubles.remove(place);
        if breaks(&fewer) == rule {
            plan = fewer;
        }
    }
    let mut world = World::new(options, &plan, TIMELINE);
    let (rule, what) = world
        .run()
        .err()
        .unwrap_or((Rule::Bounded, "the same options gave another run: the core is not pure".into()));
    Violation {
        options: options.clone(),
        rule,
        step: world.step,
        at: Duration::from_nanos(world.now),
        what,
        faults: describe_plan(&plan),
        timeline: world.take_timeline(),
    }
}

/// The cluster and what goes wrong in it.
fn describe_plan(plan: &Plan) -> Vec<String> {
    let timing = &plan.timing;
    let mut faults = vec![
        format!("{:?}", plan.quorum),
        format!("{timing:?}"),
        format!("paths over the service link: {:?}", plan.paths),
        format!("{:?}", plan.quality),
        format!("{:?}", plan.driver),
    ];
    if plan.files.len() > 1 {
        faults.extend(plan.files.iter().zip(0..).map(|(file, number)| format!("file {number}: {file:?}")));
    }
    faults.extend(plan.hosts.iter().map(|host| format!("{host:?}")));
    faults.extend(
        plan.groups.iter().map(|group| format!("prefers {:?}, failback {:?}", group.prefer, group.failback)),
    );
    faults.extend(plan.troubles.iter().map(|trouble| {
        let from = Duration::from_nanos(trouble.at);
        format!("at {from:?} for {:?}: {}", Duration::from_nanos(trouble.lasts), trouble.what)
    }));
    faults.push(format!(
        "warm at {:?}, healed at {:?}, settled at {:?}",
        Duration::from_nanos(plan.warm_at),
        Duration::from_nanos(plan.heal_at),
        Duration::from_nanos(plan.settled_at)
    ));
    faults
}
