//! The project's tasks: `cargo xtask VERB`.
//!
//! A verb is one job of CI and lives in the file of its name. What is not here: the lab, the demonstration, the
//! benchmarks and the simulation themselves, which are the program `cluster-lab` of the crate `cluster-tests`; this
//! crate stays small so that the first command on a fresh machine starts at once.

#[path = "../../cluster-userspace/bpf_build.rs"]
mod bpf_build;
mod build;
mod check;
mod command;
mod fuzz;
mod lab;
mod leftovers;
mod packages;
mod platform;
mod setup;
mod summary;
mod test;
mod toolchain;
mod workspace;

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Sets up, builds, checks, tests and shows the cluster.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Find what building and testing need, and install what is missing.
    Setup,
    /// Build target/release/clusterd and target/release/clusterctl.
    Build,
    /// Check format, lints, documentation and licences, without running anything.
    Check,
    /// Run every test; those in network namespaces need root.
    Test {
        /// Handed to the test runner: names of tests, or flags of `cargo nextest run` or `cargo test`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "RUNNER ARGUMENTS")]
        arguments: Vec<OsString>,
    },
    /// Show a two-node cluster in network namespaces, or run the daemon on this host.
    #[command(after_help = RUN_HELP)]
    Run {
        /// `--for SECONDS`, or `--config FILE --node NAME`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
        arguments: Vec<OsString>,
    },
    /// Measure: failovers, partitions, and what it costs, beside keepalived and ucarp.
    #[command(after_help = "Everything after the name goes to `cluster-lab bench NAME`; try `--help` there.")]
    Bench {
        /// What to measure.
        #[arg(value_enum)]
        subject: lab::Subject,
        /// Arguments of that benchmark.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
        arguments: Vec<OsString>,
    },
    /// Run libFuzzer against whatever reads bytes from outside.
    Fuzz(fuzz::Arguments),
    /// Run the election core through random networks in the simulator.
    #[command(after_help = SIM_HELP)]
    Sim {
        /// Arguments of `cluster-lab sim`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
        arguments: Vec<OsString>,
    },
}

const SIM_HELP: &str = "\
  --seeds N --first SEED --seconds S     how much
  --profile P --nodes N --witnesses N --non-voters N --quorum off|majority|drawn --heartbeats N
                                         which clusters; several of each in turn unless given
  --replay SEED [--lines N]              one run again, as a timeline
Exit code 1 if a rule was broken.";

const RUN_HELP: &str = "\
Without --config: some nodes, a switch and a client on this machine, in network namespaces of their own.
  --mode active-active        all nodes serve the address at once, three unless told otherwise
  --nodes N --spares M        how many nodes serve, and how many stand by: with spares each has an address
  --for SECONDS               end by itself; exit 0 if the client was served
  --families ipv4,ipv6        the families of the virtual addresses
With --config: every argument goes to target/release/clusterd, on this host's real interface.
  --config FILE [--node NAME] the cluster's configuration and which of its nodes this host is";

fn main() -> ExitCode {
    let verb = Arguments::parse().verb;
    match perform(verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(verb: Verb) -> Result<()> {
    match verb {
        Verb::Setup => setup::report(),
        Verb::Build => build::build(),
        Verb::Check => check::check(),
        Verb::Test { arguments } => test::test(&arguments),
        Verb::Run { arguments } => lab::run(&arguments),
        Verb::Bench { subject, arguments } => lab::bench(subject, &arguments),
        Verb::Fuzz(arguments) => fuzz::run(&arguments),
        Verb::Sim { arguments } => lab::simulate(&arguments),
    }
}
