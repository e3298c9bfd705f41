//! `cargo xtask check`: format, lints, documentation, licences and scripts, without running anything of ours.

use std::process::Command;

use anyhow::{Result, bail};

use crate::command::{seconds, succeeds, timed};
use crate::platform::program;
use crate::setup::{self, Scope};
use crate::toolchain;
use crate::workspace::{cargo, cargo_with_bpf, locked, root, target};

/// Makes every check, also after one has failed, and then says which did.
pub(crate) fn check() -> Result<()> {
    let bpf = setup::ensure(Scope::Build)?;
    let mut checks = Checks::default();
    // The files alone: what is to change in them, `cargo fmt` does by itself.
    checks.command("format", &mut cargo(&["fmt", "--all", "--check", "--", "-l"]))?;
    let of_targets = ["fmt", "--manifest-path", "fuzz/Cargo.toml", "--check", "--", "-l"];
    checks.command("format of the fuzz targets", &mut cargo(&of_targets))?;
    // The build script of cluster-userspace compiles the BPF programs on the way.
    let mut lints = cargo_with_bpf(&bpf, &["clippy", "--all-targets"]);
    checks.command("lints", lints.args(locked()).args(["--", "--deny", "warnings"]))?;
    // Clippy comes with the workspace's compiler, which knows the BPF target by name only; so it reads the programs as
    // if they were for this machine, and the BPF compiler adds its own warnings.
    let mut lints = cargo(&["clippy", "--package", "cluster-ebpf", "--lib", "--bins", "--target-dir"]);
    lints.arg(target().join("bpf-lints")).env("RUSTC_BOOTSTRAP", toolchain::unstable_crates());
    checks.command("lints of the BPF programs", lints.args(locked()).args(["--", "--deny", "warnings"]))?;
    // They are compiled already, and cargo repeats what the compiler had to say.
    checks.judge("warnings of the BPF compiler", || {
        let warnings = bpf.warnings(&target())?;
        eprint!("{warnings}");
        Ok(warnings.is_empty())
    })?;
    let mut documentation = cargo_with_bpf(&bpf, &["doc", "--no-deps"]);
    checks.command("documentation", documentation.args(locked()).env("RUSTDOCFLAGS", "--deny warnings"))?;
    checks.command("syntax of .ci/run", Command::new("bash").args(["-n", ".ci/run"]).current_dir(root()))?;
    if program("cargo-deny").is_some() {
        checks.command(
            "licences and sources",
            &mut cargo(&["deny", "check", "--hide-inclusion-graph", "licenses", "bans", "sources"]),
        )?;
        // Apart, because it fetches the database of advisories.
        checks.command("advisories", &mut cargo(&["deny", "check", "advisories"]))?;
    } else {
        println!(
            "== licences and advisories\n   skipped: cargo-deny is not installed (`cargo install --locked cargo-deny`)"
        );
    }

    if !checks.failed.is_empty() {
        bail!("failed: {}", checks.failed.join(", "));
    }
    Ok(())
}

/// The checks that were made.
#[derive(Default)]
struct Checks {
    failed: Vec<&'static str>,
}

impl Checks {
    fn command(&mut self, name: &'static str, command: &mut Command) -> Result<()> {
        self.judge(name, || succeeds(command))
    }

    fn judge(&mut self, name: &'static str, passes: impl FnOnce() -> Result<bool>) -> Result<()> {
        println!("== {name}");
        let (passed, took) = timed(passes);
        if passed? {
            println!("   {name}: ok in {}", seconds(took));
        } else {
            println!("   {name}: FAILED");
            self.failed.push(name);
        }
        Ok(())
    }
}
