//! `cargo xtask test`: every test, against the release daemon, and nothing left behind.
//!
//! Tests that need root are the programs in a crate's `tests/` whose names say so: `lab_…`, with daemons in network
//! namespaces, one at a time, because they measure; `dataplane_…` and `network_…`, with one part of the daemon in the
//! kernel, a few at a time. `.config/nextest.toml` says the same to cargo-nextest.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, IsTerminal, Read, Write};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::build;
use crate::command::{not_started, seconds, timed};
use crate::leftovers::Leftovers;
use crate::platform::{is_root, program};
use crate::setup::{self, Scope};
use crate::summary::Counts;
use crate::toolchain::BpfToolchain;
use crate::workspace::{binaries, cargo_with_bpf, in_ci, locked, root};

/// What the names of test programs begin with that need root, and how many of their tests run at a time.
const NEEDING_ROOT: [(&str, &str); 3] = [("lab_", "1"), ("dataplane_", "2"), ("network_", "2")];

/// Sets up, builds, and runs every test that can run here.
pub(crate) fn test(arguments: &[OsString]) -> Result<()> {
    let privileged = is_root();
    if !privileged && in_ci() {
        bail!("the tests in network namespaces need root, and under CI=true none may be skipped");
    }
    let bpf = setup::ensure(Scope::Lab)?;
    build::daemon(&bpf)?;
    let before = Leftovers::now();
    let (outcome, took) = timed(|| {
        if program("cargo-nextest").is_some() {
            with_nextest(&bpf, privileged, arguments)
        } else {
            with_cargo(&bpf, privileged, arguments)
        }
    });
    let outcome = outcome?;
    if !privileged {
        let names: Vec<String> = NEEDING_ROOT.iter().map(|(prefix, _)| format!("{prefix}*")).collect();
        println!("skipped, because they need root: all tests of {}", names.join(", "));
    }
    println!("{} in {}", outcome.counts, seconds(took));
    let remaining = Leftovers::since(&before);
    if !remaining.is_empty() {
        bail!("the tests left behind: {}", remaining.join(", "));
    }
    if !outcome.passed {
        bail!("tests failed");
    }
    Ok(())
}

#[derive(Clone, Copy, Debug)]
struct Outcome {
    passed: bool,
    counts: Counts,
}

impl Outcome {
    fn and(self, next: Self) -> Self {
        let mut counts = self.counts;
        counts += next.counts;
        Self { passed: self.passed && next.passed, counts }
    }
}

fn with_nextest(bpf: &BpfToolchain, privileged: bool, arguments: &[OsString]) -> Result<Outcome> {
    println!("test runner: cargo-nextest");
    let mut nextest = cargo_with_bpf(bpf, &["nextest", "run"]);
    nextest.args(locked());
    if std::io::stderr().is_terminal() {
        nextest.args(["--color", "always"]);
    }
    if !privileged {
        let names: Vec<&str> = NEEDING_ROOT.iter().map(|(prefix, _)| *prefix).collect();
        nextest.arg("--filterset").arg(format!("not binary(/^({})/)", names.join("|")));
    }
    let tests = watched(nextest.args(arguments), Runner::Nextest)?;
    // Examples in the documentation are the one kind of test it does not know.
    if !tests.passed || !arguments.is_empty() {
        return Ok(tests);
    }
    Ok(tests.and(documentation(bpf)?))
}

fn with_cargo(bpf: &BpfToolchain, privileged: bool, arguments: &[OsString]) -> Result<Outcome> {
    println!("test runner: cargo test (cargo-nextest, if installed, is quicker and stops tests that hang)");
    if !arguments.is_empty() {
        // What was chosen by hand may be one of the lab's.
        let mut chosen = cargo_with_bpf(bpf, &["test", "--no-fail-fast"]);
        return watched(
            chosen.env("RUST_TEST_THREADS", "1").args(locked()).args(arguments),
            Runner::CargoTest,
        );
    }
    let programs = test_programs()?;
    let mut ordinary = cargo_with_bpf(bpf, &["test", "--no-fail-fast", "--lib", "--bins"]);
    for program in programs.iter().filter(|program| threads_of(program).is_none()) {
        ordinary.args(["--test", program]);
    }
    let mut outcome = watched(ordinary.args(locked()), Runner::CargoTest)?;
    for (program, threads) in programs.iter().filter_map(|program| Some((program, threads_of(program)?))) {
        if privileged {
            let mut one = cargo_with_bpf(bpf, &["test", "--no-fail-fast", "--test", program]);
            one.env("RUST_TEST_THREADS", threads);
            outcome = outcome.and(watched(one.args(locked()), Runner::CargoTest)?);
        }
    }
    Ok(outcome.and(documentation(bpf)?))
}

fn documentation(bpf: &BpfToolchain) -> Result<Outcome> {
    watched(cargo_with_bpf(bpf, &["test", "--doc", "--quiet"]).args(locked()), Runner::CargoTest)
}

/// How many tests of a program that needs root run at a time; none for a program that does not.
fn threads_of(program: &str) -> Option<&'static str> {
    NEEDING_ROOT.iter().find(|(prefix, _)| program.starts_with(prefix)).map(|(_, threads)| *threads)
}

/// The names of the integration tests of all crates.
fn test_programs() -> Result<Vec<String>> {
    let crates = fs::read_dir(root()).with_context(|| format!("cannot list {}", root().display()))?;
    let mut programs: Vec<String> = crates
        .filter_map(Result::ok)
        .filter(|entry| entry.path().join("Cargo.toml").is_file())
        .filter_map(|entry| fs::read_dir(entry.path().join("tests")).ok())
        .flatten()
        .filter_map(Result::ok)
        .filter_map(|entry| {
            program_of(&entry.file_name().to_string_lossy(), entry.path().join("main.rs").is_file())
        })
        .collect();
    programs.sort();
    Ok(programs)
}

/// The test program that a file of a crate's `tests/` is, if it is one.
fn program_of(file: &str, is_folder_with_main: bool) -> Option<String> {
    if is_folder_with_main { Some(file.to_owned()) } else { file.strip_suffix(".rs").map(str::to_owned) }
}

/// Which runner's report is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Runner {
    /// Reports on stdout.
    CargoTest,
    /// Reports on stderr.
    Nextest,
}

/// Runs a test runner, passing its report on while counting.
fn watched(command: &mut Command, runner: Runner) -> Result<Outcome> {
    command.env("CLUSTER_BIN_DIR", binaries());
    match runner {
        Runner::CargoTest => command.stdout(Stdio::piped()),
        Runner::Nextest => command.stderr(Stdio::piped()),
    };
    let mut child = command.spawn().with_context(|| not_started(command))?;
    let counts = match runner {
        Runner::CargoTest => {
            child.stdout.take().map(|report| counted(report, std::io::stdout(), Counts::of_cargo_test))
        }
        Runner::Nextest => {
            child.stderr.take().map(|report| counted(report, std::io::stderr(), Counts::of_nextest))
        }
    };
    let counts = counts.transpose().context("cannot pass on the test runner's report")?.unwrap_or_default();
    let status = child.wait().context("cannot wait for the test runner")?;
    Ok(Outcome { passed: status.success(), counts })
}

/// Passes a report on, line by line, and adds up the counts in it.
fn counted(
    report: impl Read,
    mut to: impl Write,
    counts_of: impl Fn(&str) -> Option<Counts>,
) -> std::io::Result<Counts> {
    let mut counts = Counts::default();
    let mut report = BufReader::new(report);
    let mut line = Vec::new();
    while report.read_until(b'\n', &mut line)? > 0 {
        to.write_all(&line)?;
        to.flush()?;
        if let Some(more) = counts_of(&String::from_utf8_lossy(&line)) {
            counts += more;
        }
        line.clear();
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_programs_say_how_they_run() {
        assert_eq!(threads_of("lab_failover"), Some("1"));
        assert_eq!(threads_of("dataplane_ingress"), Some("2"));
        assert_eq!(threads_of("simulation"), None);
        assert_eq!(threads_of("collaboration"), None);
    }

    #[test]
    fn files_and_folders_are_test_programs() {
        assert_eq!(program_of("lab_self.rs", false).as_deref(), Some("lab_self"));
        assert_eq!(program_of("lab_bad_input", true).as_deref(), Some("lab_bad_input"));
        assert_eq!(program_of("common", false), None);
    }

    #[test]
    fn the_report_is_passed_on_and_counted() {
        let report = b"\xff\ntest result: ok. 2 passed; 0 failed; 1 ignored\n\ntest result: FAILED. 0 passed; 1 failed; 0 ignored";
        let mut passed_on = Vec::new();
        let counts = counted(report.as_slice(), &mut passed_on, Counts::of_cargo_test).unwrap();
        assert_eq!(counts, Counts { passed: 2, failed: 1, skipped: 1 });
        assert_eq!(passed_on, report);
    }
}
