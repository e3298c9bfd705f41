//! The one way in which the BPF programs are compiled: by the build script, and by `cargo xtask check`, which finds them compiled and
//! asks for the compiler's warnings. Part of both by its path.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The binaries of `cluster-ebpf`; the crates may use what is unstable in Rust's BPF support, as aya's may.
pub(crate) const PROGRAMS: [&str; 4] = ["dataplane", "lab", "bench", "traffic"];

/// What compiles them, and where.
pub(crate) struct BpfBuild<'a> {
    pub(crate) cargo: &'a Path,
    pub(crate) rustc: &'a Path,
    pub(crate) linker: &'a Path,
    /// What cargo has to be told where there is no prebuilt `core`.
    pub(crate) arguments: &'a [&'a str],
    /// The BPF target's name.
    pub(crate) target: &'a str,
    pub(crate) workspace: &'a Path,
    /// Where the outer cargo puts what it builds, in whatever profile: the programs are the same in all.
    pub(crate) products: &'a Path,
}

impl BpfBuild<'_> {
    pub(crate) fn command(&self) -> Command {
        let mut cargo = Command::new(self.cargo);
        // What the outer cargo, rustup or clippy left for its own compiler must not reach this one.
        for variable in [
            "RUSTFLAGS",
            "CARGO_BUILD_RUSTFLAGS",
            "RUSTC",
            "RUSTC_WRAPPER",
            "RUSTC_WORKSPACE_WRAPPER",
            "RUSTDOC",
            "CARGO",
            "RUSTUP_TOOLCHAIN",
            "CARGO_BUILD_TARGET",
            "CARGO_TARGET_DIR",
            "CARGO_MAKEFLAGS",
            "MAKEFLAGS",
            "CLIPPY_ARGS",
            // Build scripts of aya's ask for it, and run again when it is there in one case and not in the other.
            "HOST",
        ] {
            cargo.env_remove(variable);
        }
        // Version 3 of the instruction set is what kernels from 5.12 on have (32-bit operations); version 4 needs 6.6.
        let linker = format!("-Clinker={}", self.linker.display());
        let flags = ["-Ctarget-cpu=v3", "-Cdebuginfo=2", "-Clink-arg=--btf", &linker];
        cargo
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
            .env("RUSTC_BOOTSTRAP", format!("aya_ebpf,{}", PROGRAMS.join(",")))
            .env("RUSTC", self.rustc)
            .args(["build", "--release", "--package", "cluster-ebpf", "--bins", "--target", self.target])
            .args(self.arguments)
            .arg("--manifest-path")
            .arg(self.workspace.join("Cargo.toml"))
            .arg("--target-dir")
            .arg(self.directory());
        cargo
    }

    /// Where cargo puts what it builds for them.
    pub(crate) fn directory(&self) -> PathBuf {
        self.products.join("bpf-programs")
    }
}
