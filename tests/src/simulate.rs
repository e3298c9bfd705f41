//! `cluster-lab sim`: many simulated clusters of the real core, with the rules checked at every step. Needs no root.

use std::time::Duration;

use anyhow::{Context as _, bail};
use cluster_proto::simulation::{self, Options, Profile, Report};

use crate::lab::Moment;

/// What to simulate.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How many seeds.
    pub seeds: u64,
    /// The first of them.
    pub first: u64,
    /// Only this profile, or all in turn.
    pub profile: Option<String>,
}

/// Runs the plan, saying how far it is every few seconds.
///
/// # Errors
/// There is no such profile, or a rule was broken: the message says by which seed, and how to repeat it.
pub fn run(plan: &Plan) -> anyhow::Result<Report> {
    let profiles = match &plan.profile {
        Some(name) => {
            let known = || Profile::ALL.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            vec![
                Profile::named(name)
                    .with_context(|| format!("no profile is called {name}; there are {}", known()))?,
            ]
        }
        None => Profile::ALL.to_vec(),
    };
    let started = Moment::now();
    let mut said = started;
    let mut done = 0_u64;
    let each = |_: &Options, _: &Report| {
        done += 1;
        let now = Moment::now();
        if now.since(said) >= Duration::from_secs(5) {
            said = now;
            eprintln!("{done} of {} seeds in {:.0?}", plan.seeds, now.since(started));
        }
    };
    match simulation::run_many(&profiles, plan.first, plan.seeds, each) {
        Ok(report) => {
            let hours = report.simulated.as_secs_f64() / 3600.0;
            println!(
                "{} seeds, {hours:.1} hours of cluster time, no rule broken, in {:.1?}\n{report:#?}",
                plan.seeds,
                Moment::now().since(started)
            );
            Ok(report)
        }
        Err(violation) => bail!("{violation}"),
    }
}
