//! `cargo xtask build`: the release binaries.

use anyhow::{Result, bail};

use crate::command::succeeds;
use crate::setup::{self, Scope};
use crate::toolchain::BpfToolchain;
use crate::workspace::{binaries, cargo_with_bpf, locked};

/// Sets up and builds the daemon and its control program.
pub(crate) fn build() -> Result<()> {
    let bpf = setup::ensure(Scope::Build)?;
    daemon(&bpf)?;
    println!("{} and clusterctl are built", binaries().join("clusterd").display());
    Ok(())
}

/// Builds `clusterd` and `clusterctl`.
pub(crate) fn daemon(bpf: &BpfToolchain) -> Result<()> {
    // Separately from the lab, whose features (the simulated network) do not belong into the daemon.
    release(bpf, &["--package", "cluster-userspace", "--bins"], "clusterd and clusterctl")
}

/// Builds `cluster-lab`.
pub(crate) fn lab(bpf: &BpfToolchain) -> Result<()> {
    release(bpf, &["--package", "cluster-tests", "--bin", "cluster-lab"], "cluster-lab")
}

fn release(bpf: &BpfToolchain, arguments: &[&str], what: &str) -> Result<()> {
    let mut command = cargo_with_bpf(bpf, &["build", "--release"]);
    command.args(locked()).args(arguments);
    if !succeeds(&mut command)? {
        bail!("building {what} failed; see the compiler's messages above");
    }
    Ok(())
}
