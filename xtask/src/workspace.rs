//! Where the workspace and its products are, and cargo as this workspace calls it.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::toolchain::BpfToolchain;

/// The workspace's root.
pub(crate) fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// Where cargo puts what it builds.
pub(crate) fn target() -> PathBuf {
    // This program stands in that directory, and cargo marks it, wherever configuration and environment put it.
    std::env::current_exe()
        .ok()
        .and_then(|exe| {
            exe.ancestors().find(|directory| directory.join("CACHEDIR.TAG").exists()).map(Path::to_owned)
        })
        .unwrap_or_else(|| root().join("target"))
}

/// Where the release binaries are.
pub(crate) fn binaries() -> PathBuf {
    target().join("release")
}

/// The cargo that runs this program, in the workspace's root.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).args(arguments);
    command
}

/// The same, with what the build script of `cluster-userspace` needs to compile the BPF programs.
pub(crate) fn cargo_with_bpf(bpf: &BpfToolchain, arguments: &[&str]) -> Command {
    let mut command = cargo(arguments);
    bpf.apply(&mut command);
    command
}

/// Whether this runs under continuous integration, where leaving something out is an error.
pub(crate) fn in_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| value == "true" || value == "1")
}

/// `--locked` under continuous integration: there the lock file must already be right.
pub(crate) fn locked() -> &'static [&'static str] {
    if in_ci() { &["--locked"] } else { &[] }
}
