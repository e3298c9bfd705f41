//! `cargo xtask run`, `bench` and `sim`: they become the program `cluster-lab`, or the daemon itself.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};
use clap::ValueEnum;

use crate::build;
use crate::command::become_command;
use crate::platform::{is_root, program};
use crate::setup::{self, Scope};
use crate::workspace::binaries;

/// What can be measured.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
pub(crate) enum Subject {
    /// The outage a client sees, beside keepalived and ucarp.
    Failover,
    /// Who serves when some of three voters do not hear others.
    Partition,
    /// What a node costs while nothing happens, beside keepalived.
    Idle,
    /// What many nodes and groups cost, and how long their election takes.
    Scale,
    /// What a busy machine does to heartbeats, leases and roles, beside keepalived.
    Stress,
    /// What a planned move costs requests and open connections.
    Switchover,
    /// How many questions who has a VIP are answered in a second, beside the kernel.
    Responder,
    /// What an active/active group costs, how even it is, and what breaks when nodes come and go.
    Spread,
    /// An active/active group of nginx with wrk as its client, and of iperf3, while nodes come and go.
    Servers,
    /// Nanoseconds per packet, beside an empty program.
    Xdp,
}

/// Becomes the daemon if a configuration is named, else the demonstration.
pub(crate) fn run(arguments: &[OsString]) -> Result<()> {
    if names_configuration(arguments) {
        let bpf = setup::ensure(Scope::Build)?;
        build::daemon(&bpf)?;
        return become_root_command("clusterd", &[], arguments);
    }
    become_lab(Scope::Lab, &["demo"], arguments)
}

/// Becomes a benchmark.
pub(crate) fn bench(subject: Subject, arguments: &[OsString]) -> Result<()> {
    match subject {
        Subject::Failover => become_lab(Scope::Rivals, &["bench", "failover"], arguments),
        Subject::Partition => become_lab(Scope::Lab, &["bench", "partition"], arguments),
        Subject::Idle => become_lab(Scope::Rivals, &["bench", "idle"], arguments),
        Subject::Scale => become_lab(Scope::Lab, &["bench", "scale"], arguments),
        Subject::Stress => become_lab(Scope::Rivals, &["bench", "stress"], arguments),
        Subject::Switchover => become_lab(Scope::Lab, &["bench", "switchover"], arguments),
        Subject::Responder => become_lab(Scope::Lab, &["bench", "responder"], arguments),
        Subject::Spread => become_lab(Scope::Lab, &["bench", "spread"], arguments),
        Subject::Servers => become_lab(Scope::Servers, &["bench", "servers"], arguments),
        Subject::Xdp => become_lab(Scope::Lab, &["bench", "xdp"], arguments),
    }
}

/// Becomes the simulation, which needs no root.
pub(crate) fn simulate(arguments: &[OsString]) -> Result<()> {
    let bpf = setup::ensure(Scope::Build)?;
    build::lab(&bpf)?;
    become_command(Command::new(binaries().join("cluster-lab")).arg("sim").args(arguments))
}

fn become_lab(scope: Scope, subcommand: &[&str], arguments: &[OsString]) -> Result<()> {
    let bpf = setup::ensure(scope)?;
    build::daemon(&bpf)?;
    build::lab(&bpf)?;
    become_root_command("cluster-lab", subcommand, arguments)
}

/// Becomes one of our binaries, by way of sudo if need be: what was built before belongs to the user.
fn become_root_command(binary: &str, subcommand: &[&str], arguments: &[OsString]) -> Result<()> {
    let binary = binaries().join(binary);
    let mut command = if is_root() {
        Command::new(&binary)
    } else {
        let Some(sudo) = program("sudo") else {
            bail!("{} needs root and there is no sudo here; run it as root", shown(&binary, subcommand));
        };
        eprintln!("xtask: {} needs root; starting it by sudo", shown(&binary, subcommand));
        let mut command = Command::new(sudo);
        command.arg(format!("CLUSTER_BIN_DIR={}", binaries().display())).arg(&binary);
        command
    };
    become_command(command.args(subcommand).args(arguments).env("CLUSTER_BIN_DIR", binaries()))
}

fn names_configuration(arguments: &[OsString]) -> bool {
    arguments.iter().any(|argument| {
        let argument = argument.to_string_lossy();
        argument == "--config" || argument.starts_with("--config=")
    })
}

fn shown(binary: &Path, subcommand: &[&str]) -> String {
    let mut words = vec![binary.display().to_string()];
    words.extend(subcommand.iter().map(|&word| word.to_owned()));
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::root;

    #[test]
    fn every_page_of_figures_says_how_to_get_them() {
        let pages = std::fs::read_dir(root().join("docs/benchmarks")).unwrap();
        let names = pages.map(|page| page.unwrap().path());
        let names = names.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
        let mut count = 0;
        for path in names {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            assert!(Subject::from_str(&name, false).is_ok(), "`cargo xtask bench {name}` is not there");
            count += 1;
        }
        assert!(count > 5, "{count} pages");
    }

    #[test]
    fn a_configuration_makes_it_the_daemon() {
        let arguments = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        assert!(names_configuration(&arguments(&["--node", "a", "--config", "/etc/cluster/cluster.toml"])));
        assert!(names_configuration(&arguments(&["--config=x.toml"])));
        assert!(!names_configuration(&arguments(&["--for", "10"])));
        assert!(!names_configuration(&arguments(&["--configure"])));
    }
}
