//! `cargo xtask fuzz`: libFuzzer against whatever reads bytes from outside.
//!
//! The targets are the programs in `fuzz/src/bin`, a workspace of their own that is built with the compiler's coverage
//! instrumentation, which the stable compiler has. What they find that is new they keep below `target/fuzz/corpus`, and go on
//! from there the next time.

use std::fs;
use std::io::{BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};

use crate::platform::program;
use crate::setup::{self, Scope};
use crate::workspace::{cargo_with_bpf, root, target};

/// What makes the compiler tell the fuzzer where a run has been: counters of edges, and the operands of comparisons.
const INSTRUMENTED: [&str; 6] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "--cfg=fuzzing",
];

/// What reads bytes from outside.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
pub(crate) enum Target {
    /// The heartbeat codec.
    Heartbeat,
    /// The election core, by what happens to it.
    Core,
    /// What the packet programs do with a frame.
    Frames,
    /// Frames of ARP and of neighbour discovery.
    Neighbours,
    /// The configuration file.
    Config,
    /// The control socket, both ends.
    Control,
}

impl Target {
    fn name(self) -> &'static str {
        match self {
            Self::Heartbeat => "heartbeat",
            Self::Core => "core",
            Self::Frames => "frames",
            Self::Neighbours => "neighbours",
            Self::Config => "config",
            Self::Control => "control",
        }
    }

    /// The longest input.
    fn longest(self) -> u32 {
        match self {
            Self::Heartbeat => 1500,
            Self::Core => 4096,
            Self::Frames | Self::Neighbours => 256,
            Self::Config => 4096,
            Self::Control => 2048,
        }
    }

    /// Inputs to begin with, from which a fuzzer without an idea of the format gets further.
    fn seeds(self) -> Vec<(&'static str, Vec<u8>)> {
        match self {
            Self::Config => vec![("good", CONFIGURATION.into())],
            Self::Control => vec![
                ("status", br#"{"cmd":"status"}"#.to_vec()),
                ("promote", br#"{"cmd":"promote","group":"web","force":true}"#.to_vec()),
                ("events", br#"{"cmd":"events","follow":true,"since":7}"#.to_vec()),
                ("trace", br#"{"cmd":"trace","vip":"10.77.0.100","every":7,"trace":9}"#.to_vec()),
            ],
            Self::Neighbours => vec![("arp", ARP.to_vec()), ("advertisement", advertisement())],
            Self::Frames => {
                vec![
                    ("arp", [&[1][..], &ARP].concat()),
                    ("advertisement", [&[1][..], &advertisement()].concat()),
                ]
            }
            // They make valid inputs themselves.
            Self::Heartbeat | Self::Core => Vec::new(),
        }
    }
}

/// A request for the VIP of the targets' node.
const ARP: [u8; 42] = [
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 0xcc, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0,
    0xcc, 10, 77, 0, 9, 0, 0, 0, 0, 0, 0, 10, 77, 0, 100,
];

/// An advertisement of the VIP, with a checksum that is not right.
fn advertisement() -> Vec<u8> {
    let mut frame =
        vec![0x33, 0x33, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0xcc, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 58, 255];
    let vip = [0xfd, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];
    frame.extend(vip);
    frame.extend([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    frame.extend([136, 0, 0, 0, 0x20, 0, 0, 0]);
    frame.extend(vip);
    frame.extend([2, 1, 2, 0, 0, 0, 0, 0xcc]);
    frame
}

const CONFIGURATION: &str = r#"[cluster]
name = "edge"
key_file = "cluster.key"
quorum = "auto"

[timing]
heartbeat = "10ms"
dead_after = "50ms"
lease = "40ms"

[[node]]
name = "a"
interface = "eth0"
addresses = ["10.78.0.1", "10.77.0.1"]

[[node]]
name = "b"
interface = "eth0"
addresses = ["10.78.0.2", "10.77.0.2"]

[[witness]]
name = "w"
addresses = ["10.78.0.9"]

[[group]]
name = "web"
vips = ["10.77.0.100/24", "fd77::100/64"]
prefer = ["a", "b"]
failback = "now"
failback_after = "30s"
mac = "virtual"
virtual_id = 7
grace = "5s"
announce = { count = 5, interval = "500ms" }
"#;

/// What and for how long.
#[derive(Args, Clone, Debug)]
pub(crate) struct Arguments {
    /// What to fuzz; everything, one after the other, unless it is named.
    #[arg(value_enum)]
    targets: Vec<Target>,
    /// For how many seconds, shared by the targets.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// With how many processes at the same time.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    jobs: u32,
}

/// What came of a target.
struct Outcome {
    target: Target,
    executions: u64,
    seconds: f64,
    /// libFuzzer's last line: edges, features and corpus.
    coverage: String,
    /// What was found, if anything.
    finding: Option<PathBuf>,
}

/// Builds the targets and runs them.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let bpf = setup::ensure(Scope::Build)?;
    // The set-up for Debian has brought it along.
    ensure!(
        program("c++").is_some(),
        "libFuzzer is compiled here, for which there is no C++ compiler: install g++ (Debian), gcc-c++ (Fedora) or gcc (Arch)"
    );
    let targets = if arguments.targets.is_empty() { Target::value_variants() } else { &arguments.targets };
    let directory = target().join("fuzz");
    let triple = host_triple()?;
    println!("building the fuzz targets, instrumented");
    let manifest = root().join("fuzz/Cargo.toml");
    // Naming the host as a target keeps the instrumentation out of build scripts.
    let mut build = cargo_with_bpf(&bpf, &["build", "--release", "--bins", "--target", &triple]);
    build.arg("--manifest-path").arg(manifest).arg("--target-dir").arg(&directory);
    build.env("CARGO_ENCODED_RUSTFLAGS", INSTRUMENTED.join("\x1f"));
    ensure!(build.status().context("starting cargo")?.success(), "the fuzz targets could not be built");
    let share = (arguments.seconds / targets.len() as u64).max(1);
    let mut outcomes = Vec::new();
    for batch in targets.chunks(arguments.jobs as usize) {
        let running: Vec<_> =
            batch.iter().map(|&target| start(target, &directory, &triple, share)).collect::<Result<_>>()?;
        for run in running {
            outcomes.push(run.finish()?);
        }
    }
    println!("\ntarget      seconds   executions      per second   coverage");
    for Outcome { target, executions, seconds, coverage, .. } in &outcomes {
        let rate = *executions as f64 / seconds.max(0.001);
        println!("{:10} {seconds:8.0} {executions:12} {rate:15.0}   {coverage}", target.name());
    }
    let findings: Vec<_> =
        outcomes.iter().filter_map(|one| Some((one.target, one.finding.as_ref()?))).collect();
    for (target, file) in &findings {
        let program = built(*target, &directory, &triple);
        println!(
            "FOUND in {}: {}; again: {} {}",
            target.name(),
            file.display(),
            program.display(),
            file.display()
        );
    }
    if !findings.is_empty() {
        bail!("{} of {} targets found something", findings.len(), outcomes.len());
    }
    println!("nothing found");
    Ok(())
}

fn built(target: Target, directory: &Path, triple: &str) -> PathBuf {
    directory.join(triple).join("release").join(target.name())
}

/// A target that runs. It ends with this value.
struct Running {
    target: Target,
    child: Child,
    reader: Option<std::thread::JoinHandle<Heard>>,
    began: Instant,
}

/// What a target has said.
#[derive(Default)]
struct Heard {
    executions: u64,
    coverage: String,
    finding: Option<PathBuf>,
    last: Vec<String>,
}

fn start(target: Target, directory: &Path, triple: &str, seconds: u64) -> Result<Running> {
    let corpus = directory.join("corpus").join(target.name());
    let found = directory.join("found").join(target.name());
    fs::create_dir_all(&corpus).with_context(|| format!("making {}", corpus.display()))?;
    fs::create_dir_all(&found).with_context(|| format!("making {}", found.display()))?;
    for (name, bytes) in target.seeds() {
        let file = corpus.join(format!("seed-{name}"));
        fs::write(&file, bytes).with_context(|| format!("writing {}", file.display()))?;
    }
    println!("{}: {seconds} s", target.name());
    let mut child = Command::new(built(target, directory, triple))
        .arg(&corpus)
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-max_len={}", target.longest()))
        .arg(format!("-artifact_prefix={}/", found.display()))
        // What takes longer than ten seconds is found; what only took long because the machine stood still is not.
        .args(["-print_final_stats=1", "-timeout=10", "-report_slow_units=86400"])
        .args(["-rss_limit_mb=2048", "-use_value_profile=1"])
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting the fuzz target {}", target.name()))?;
    let said = child.stderr.take().context("the target's standard error")?;
    let reader = Some(std::thread::spawn(move || listen(target, BufReader::new(said))));
    Ok(Running { target, child, reader, began: now() })
}

/// Reads what libFuzzer says, and passes on how far it is every ten seconds or so.
fn listen(target: Target, said: impl std::io::BufRead) -> Heard {
    let mut heard = Heard::default();
    let mut shown = now();
    for line in said.lines().map_while(std::result::Result::ok) {
        if let Some(executions) = line.strip_prefix("stat::number_of_executed_units:") {
            heard.executions = executions.trim().parse().unwrap_or(0);
        } else if let Some(at) = line.find("cov: ").filter(|_| line.starts_with('#')) {
            heard.coverage = line[at..].split(" lim:").next().unwrap_or_default().to_owned();
            if shown.elapsed().as_secs() >= 10 {
                shown = now();
                println!("{}: {}", target.name(), line.split(" rss:").next().unwrap_or(&line).trim());
                let _ = std::io::stdout().flush();
            }
        } else if let Some((_, file)) = line.split_once("Test unit written to ") {
            heard.finding = Some(PathBuf::from(file.trim()));
        }
        heard.last.push(line);
        if heard.last.len() > 40 {
            heard.last.remove(0);
        }
    }
    heard
}

impl Running {
    fn finish(mut self) -> Result<Outcome> {
        let status = self.child.wait().context("waiting for a fuzz target")?;
        let seconds = self.began.elapsed().as_secs_f64();
        let Some(Ok(heard)) = self.reader.take().map(std::thread::JoinHandle::join) else {
            bail!("the reader of {} panicked", self.target.name())
        };
        if !status.success() {
            for line in &heard.last {
                eprintln!("{line}");
            }
            ensure!(
                heard.finding.is_some(),
                "{} ended with {status} and without a finding",
                self.target.name()
            );
        }
        Ok(Outcome {
            target: self.target,
            executions: heard.executions,
            seconds,
            coverage: heard.coverage,
            finding: heard.finding,
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended, unless another one could not be started.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[expect(clippy::disallowed_methods, reason = "a tool that shows the user how far it is")]
fn now() -> Instant {
    Instant::now()
}

fn host_triple() -> Result<String> {
    let output = Command::new("rustc").arg("-vV").output().context("starting rustc")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let triple = text.lines().find_map(|line| line.strip_prefix("host: "));
    triple.map(str::to_owned).context("rustc does not say for which host it is")
}
