//! `cluster-lab`: the benchmarks and the demonstration, in network namespaces of their own. `cargo xtask` starts it.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::ensure;
use clap::{Parser, Subcommand};
use cluster_tests::bench::command::{self, Bench};
use cluster_tests::demo;
use cluster_tests::lab::{Family, sweep};
use cluster_tests::simulate::{self, Plan};

/// Measures and shows the cluster in network namespaces on this machine. Needs root.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure.
    #[command(subcommand)]
    Bench(Bench),
    /// Run simulated clusters of the election core and check the rules at every step. Needs no root.
    Sim {
        /// How many seeds.
        #[arg(long, default_value_t = 10_000)]
        seeds: u64,
        /// The first seed.
        #[arg(long, default_value_t = 1_000_000)]
        first: u64,
        /// Only this profile of faults; all in turn unless given.
        #[arg(long)]
        profile: Option<String>,
        /// So many nodes in each cluster; several sizes in turn unless given.
        #[arg(long, value_parser = clap::value_parser!(u8).range(1..=32))]
        nodes: Option<u8>,
        /// So many witnesses in each cluster.
        #[arg(long, value_parser = clap::value_parser!(u8).range(0..=8))]
        witnesses: Option<u8>,
        /// So many of the nodes have no vote.
        #[arg(long, default_value_t = 0)]
        non_voters: u8,
        /// How many groups, 1 to 256; otherwise the seed decides, from one to three
        #[arg(long, value_parser = clap::value_parser!(u16).range(1..=256))]
        groups: Option<u16>,
        /// How many votes a lease takes; drawn for pairs and the majority for others unless given.
        #[arg(long)]
        quorum: Option<Quorum>,
        /// How long things go wrong in each cluster, in heartbeat intervals.
        #[arg(long, value_parser = clap::value_parser!(u32).range(10..=1_000_000))]
        heartbeats: Option<u32>,
        /// End after so many seconds, even if seeds are left.
        #[arg(long)]
        seconds: Option<u64>,
        /// Run this seed alone and print its timeline, with the options that a violation prints.
        #[arg(long, value_name = "SEED")]
        replay: Option<u64>,
        /// With --replay: only so many lines before the end.
        #[arg(long, requires = "replay")]
        lines: Option<usize>,
    },
    /// Show a cluster of two nodes, with keys to break it; as lines of text where there is no terminal.
    Demo {
        /// End by itself after so many seconds, with exit code 0 if the client was served.
        #[arg(long = "for", value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
        seconds: Option<u64>,
        /// The families of the VIPs.
        #[arg(long, value_delimiter = ',', default_value = "ipv4")]
        families: Vec<Family>,
        /// One node serves the VIP, or all at once.
        #[arg(long, value_enum, default_value_t = Mode::ActivePassive)]
        mode: Mode,
        /// How many nodes serve; with spares each has a VIP. Two, or three with spares or active/active, unless given.
        #[arg(long, value_parser = clap::value_parser!(u8).range(1..=8))]
        nodes: Option<u8>,
        /// How many nodes stand by for any of them.
        #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=4))]
        spares: u8,
    },
}

/// How a demonstration's nodes share the work.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Mode {
    /// One serves, the others stand by.
    ActivePassive,
    /// All serve at once.
    ActiveActive,
}

/// The configuration's words.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Quorum {
    /// For pairs: all peers that are heard.
    Off,
    /// More than half of the voters.
    Majority,
    /// The seed decides for pairs, and it is the majority for others.
    Drawn,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cluster-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Sim {
            seeds,
            first,
            profile,
            nodes,
            witnesses,
            non_voters,
            groups,
            quorum,
            heartbeats,
            seconds,
            replay,
            lines,
        } => {
            let total = usize::from(nodes.unwrap_or(7)) + usize::from(witnesses.unwrap_or(0));
            ensure!(total <= 32, "nodes and witnesses together are at most 32");
            let pair = total <= 2 && nodes.is_some();
            ensure!(
                !matches!(quorum, Some(Quorum::Off)) || pair,
                "without quorum there are two nodes: add --nodes 2"
            );
            let quorum = match quorum {
                Some(Quorum::Off) => Some(cluster_proto::Quorum::Off),
                Some(Quorum::Majority) => Some(cluster_proto::Quorum::Majority),
                Some(Quorum::Drawn) | None => None,
            };
            let plan = Plan {
                seeds,
                first,
                profile,
                nodes: nodes.map(usize::from),
                witnesses: witnesses.map(usize::from),
                non_voters: usize::from(non_voters),
                groups: groups.map(usize::from),
                quorum,
                heartbeats,
                time: seconds.map(Duration::from_secs),
            };
            match replay {
                Some(seed) => simulate::replay(&plan, seed, lines),
                None => simulate::run(&plan).map(drop),
            }
        }
        Command::Bench(bench) => {
            needs_root()?;
            command::run(bench)
        }
        Command::Demo { seconds, families, mode, nodes, spares } => {
            needs_root()?;
            sweep::on_a_panic();
            let spreads = mode == Mode::ActiveActive;
            ensure!(!(spreads && spares > 0), "spares are shown with `--mode active-passive`");
            let usual = if spreads || spares > 0 { 3 } else { 2 };
            let cast = demo::Cast {
                families,
                nodes: usize::from(nodes.unwrap_or(usual)),
                spares: usize::from(spares),
                spreads,
            };
            demo::run(seconds.map(Duration::from_secs), &cast)
        }
    }
}

fn needs_root() -> anyhow::Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "network namespaces need root; run it with sudo");
    Ok(())
}
