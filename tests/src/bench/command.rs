//! The benchmarks as verbs of `cluster-lab bench`.

use std::time::Duration;

use clap::Subcommand;
use cluster_userspace::config;

use super::contestants::Contestant;
use super::failover::Fault;
use super::load::Rung;
use super::partition::Topology;
use super::report::{Report, earlier};
use super::stress::Who;
use super::switchover::MacMode;
use super::{
    core_alone, failover, failover_report, idle, partition, partition_report, responder, responder_report,
    scale, scale_report, servers, spread, stress, stress_report, switchover, switchover_report, xdp_report,
};
use crate::bench_xdp;
use crate::lab::{Family, Moment, sweep};
use crate::simulate::{self, Plan};

/// What to measure.
#[derive(Subcommand)]
pub enum Bench {
    /// The outage a client sees when the active node fails, beside keepalived and ucarp.
    Failover {
        /// Good trials for each contestant and fault.
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
        trials: u16,
        /// Only these contestants.
        #[arg(long, value_delimiter = ',')]
        only: Vec<Contestant>,
        /// Only these faults.
        #[arg(long, value_delimiter = ',')]
        faults: Vec<Fault>,
        /// Write docs/benchmarks/failover.md, .json and .svg.
        #[arg(long)]
        write: bool,
    },
    /// Who serves when some of three voters do not hear others, every set of cuts in turn.
    Partition {
        /// Good trials for each set of cuts.
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..))]
        trials: u16,
        /// Only these topologies.
        #[arg(long, value_delimiter = ',')]
        only: Vec<Topology>,
        /// Write docs/benchmarks/partition.md and .json.
        #[arg(long)]
        write: bool,
        /// Add to the trials that docs/benchmarks/partition.json has.
        #[arg(long)]
        add: bool,
    },
    /// What a node costs while nothing happens, beside keepalived with as many advertisements.
    Idle {
        /// How many runs of each, in turn.
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
        runs: u16,
        /// How long each lasts.
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
        seconds: u64,
        /// Write docs/benchmarks/idle.md and .json.
        #[arg(long)]
        write: bool,
    },
    /// What many nodes and groups cost, and how long the election of all groups takes.
    Scale {
        /// How many nodes.
        #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u8).range(2..=8))]
        nodes: u8,
        /// How many groups, one cluster after the other; unless given one, and as many as a configuration admits.
        #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..))]
        groups: Vec<u16>,
        /// For how long the cost is measured.
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
        seconds: u64,
        /// How many elections.
        #[arg(long, default_value_t = 10)]
        trials: u16,
        /// For how many seconds of its own time the core is measured alone, in clusters of 32 nodes; 0 leaves it out.
        #[arg(long, default_value_t = 5)]
        core: u64,
        /// Also run simulated clusters of 32 nodes for so many seconds.
        #[arg(long, default_value_t = 0)]
        simulate: u64,
        /// Write docs/benchmarks/scale.md and .json.
        #[arg(long)]
        write: bool,
    },
    /// What a busy machine does to heartbeats, leases and roles, beside keepalived.
    Stress {
        /// How long each load lasts.
        #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
        seconds: u64,
        /// Only these loads.
        #[arg(long, value_delimiter = ',')]
        rungs: Vec<Rung>,
        /// Only these clusters.
        #[arg(long, value_delimiter = ',')]
        only: Vec<Who>,
        /// Write docs/benchmarks/stress.md and .json.
        #[arg(long)]
        write: bool,
        /// Keep what docs/benchmarks/stress.json has of other loads and clusters.
        #[arg(long)]
        add: bool,
    },
    /// What a planned move costs a client that asks 5000 times a second, and open connections.
    Switchover {
        /// Good trials of each kind.
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..))]
        trials: u16,
        /// Only VIPs of these families.
        #[arg(long, value_delimiter = ',')]
        families: Vec<Family>,
        /// Only VIPs with these Ethernet addresses.
        #[arg(long, value_delimiter = ',')]
        macs: Vec<MacMode>,
        /// Write docs/benchmarks/switchover.md and .json.
        #[arg(long)]
        write: bool,
    },
    /// How many questions who has a VIP are answered in a second, by the product and by the kernel itself.
    Responder {
        /// How many rounds.
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=100))]
        rounds: u16,
        /// For how many milliseconds is asked each time.
        #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(10..=2000))]
        milliseconds: u64,
        /// Write docs/benchmarks/responder.md and .json.
        #[arg(long)]
        write: bool,
    },
    /// What spreading flows over nodes costs, how even it is, and for how long a lost node's flows go nowhere.
    Spread {
        /// How often each node is lost.
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=100))]
        trials: u16,
        /// Write docs/benchmarks/spread.md and .json.
        #[arg(long)]
        write: bool,
    },
    /// What wrk sees of nginx on an active/active group, and iperf3 of its streams, while nodes come and go.
    Servers {
        /// Write docs/benchmarks/servers.md and .json.
        #[arg(long)]
        write: bool,
    },
    /// Nanoseconds per packet in the ingress program, beside an empty one.
    Xdp {
        /// Write docs/benchmarks/xdp.md, .json and .svg.
        #[arg(long)]
        write: bool,
    },
}

/// Measures and prints, and writes where it is asked to.
///
/// # Errors
/// When nothing can be measured, or the files cannot be written.
pub fn run(bench: Bench) -> anyhow::Result<()> {
    if !matches!(bench, Bench::Xdp { .. }) {
        sweep::on_the_way_out()?;
    }
    match bench {
        Bench::Failover { trials, only, faults, write } => {
            let plan = failover::Plan {
                trials: usize::from(trials),
                contestants: if only.is_empty() { Contestant::ALL.to_vec() } else { only },
                faults: if faults.is_empty() { Fault::ALL.to_vec() } else { faults },
            };
            let cells = failover::run(&plan)?;
            show(&failover_report::table(&cells), write, || failover_report::report(&plan, &cells))
        }
        Bench::Partition { trials, only, write, add } => {
            let before = if add { earlier("partition", "found")? } else { Vec::new() };
            let topologies = if only.is_empty() { Topology::ALL.to_vec() } else { only };
            let plan = partition::Plan { trials: usize::from(trials), topologies };
            let found = partition::run(&plan, before)?;
            show(&partition_report::table(&found), write, || partition_report::report(&found))
        }
        Bench::Idle { runs, seconds, write } => {
            let plan = idle::Plan { runs: usize::from(runs), length: Duration::from_secs(seconds) };
            let runs = idle::run(plan)?;
            show(&idle::table(&runs), write, || idle::report(plan, &runs))
        }
        Bench::Scale { nodes, groups, seconds, trials, core, simulate, write } => {
            let most = vec![1, config::MAX_GROUPS];
            let plan = scale::Plan {
                nodes: usize::from(nodes),
                groups: if groups.is_empty() { most } else { groups.into_iter().map(usize::from).collect() },
                length: Duration::from_secs(seconds),
                trials: usize::from(trials),
            };
            let cells = scale::run(&plan)?;
            let alone = core_alone(&plan, Duration::from_secs(core))?;
            let simulated = if simulate > 0 { Some(large_simulation(simulate)?) } else { None };
            let simulated = simulated.as_deref();
            let tables = [scale_report::table(&cells), scale_report::table_alone(&alone)].join("\n");
            let text = tables + "\n" + simulated.unwrap_or_default();
            show(&text, write, || scale_report::report(&plan, &cells, &alone, simulated))
        }
        Bench::Stress { seconds, rungs, only, write, add } => {
            let before = if add { earlier("stress", "cells")? } else { Vec::new() };
            let plan = stress::Plan {
                length: Duration::from_secs(seconds),
                rungs: if rungs.is_empty() { Rung::ALL.to_vec() } else { rungs },
                who: if only.is_empty() { Who::ALL.to_vec() } else { only },
            };
            let cells = stress::run(&plan, before)?;
            show(&stress_report::table(&cells), write, || stress_report::report(&cells))
        }
        Bench::Switchover { trials, families, macs, write } => {
            let plan = switchover::Plan {
                trials: usize::from(trials),
                families: if families.is_empty() { Family::ALL.to_vec() } else { families },
                macs: if macs.is_empty() { MacMode::ALL.to_vec() } else { macs },
            };
            let cells = switchover::run(&plan)?;
            show(&switchover_report::table(&cells), write, || switchover_report::report(&plan, &cells))
        }
        Bench::Responder { rounds, milliseconds, write } => {
            let plan =
                responder::Plan { rounds: usize::from(rounds), length: Duration::from_millis(milliseconds) };
            let results = responder::run(plan)?;
            show(&responder_report::table(&results), write, || responder_report::report(plan, &results))
        }
        Bench::Spread { trials, write } => {
            let found = spread::run(usize::from(trials))?;
            show(&found.markdown(), write, || found.report())
        }
        Bench::Servers { write } => {
            let found = servers::run()?;
            show(&found.markdown(), write, || found.report())
        }
        Bench::Xdp { write } => {
            let costs = bench_xdp::measure(bench_xdp::Effort::default())?;
            show(&costs.markdown(), write, || xdp_report::report(&costs))
        }
    }
}

/// The core alone, with as many groups as the plan's clusters have.
fn core_alone(plan: &scale::Plan, length: Duration) -> anyhow::Result<Vec<core_alone::Cell>> {
    let groups = plan.groups.iter().filter(|_| !length.is_zero());
    let cell = |&groups: &usize| {
        let cell = core_alone::measure(groups, length)?;
        eprintln!(
            "the core alone, {} nodes, {groups} groups: {:.1} % of a processor",
            cell.nodes, cell.share
        );
        Ok(cell)
    };
    groups.map(cell).collect()
}

/// Simulated clusters of as many nodes as a configuration admits, for so many seconds; what came of it in words.
fn large_simulation(seconds: u64) -> anyhow::Result<String> {
    let plan = Plan {
        seeds: 1_000_000,
        first: 1,
        profile: None,
        nodes: Some(32),
        witnesses: None,
        non_voters: 23,
        groups: None,
        quorum: None,
        // A cluster of this size takes long; so it is at least done.
        heartbeats: Some(30),
        time: Some(Duration::from_secs(seconds)),
    };
    let from = Moment::now();
    let report = simulate::run(&plan)?;
    let took = Moment::now().since(from).as_secs_f64();
    let simulated = report.simulated.as_secs_f64();
    Ok(format!(
        "Simulated clusters of 32 nodes, nine of them voters (`cargo xtask sim --nodes 32 --non-voters 23 --heartbeats 30`): {simulated:.0} cluster-seconds\n\
         in {took:.0} s, {:.0} steps a second, every rule checked after every step, none broken.\n",
        report.steps as f64 / took
    ))
}

fn show(table: &str, write: bool, report: impl FnOnce() -> Report) -> anyhow::Result<()> {
    println!("{table}");
    if write {
        let folder = report().write()?;
        println!("written to {}", folder.display());
    }
    Ok(())
}
