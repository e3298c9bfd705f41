//! Compiles `cluster-ebpf` for the BPF target, so that the binaries carry their programs.
//!
//! The toolchain is the one that `CLUSTER_BPF_CARGO`, `CLUSTER_BPF_RUSTC` and `CLUSTER_BPF_LINKER` name (`cargo xtask`
//! sets them), or else one that is found to have what it takes: a `core` for the BPF target, or a nightly that can
//! build one, and bpf-linker.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

#[path = "bpf_build.rs"]
mod bpf_build;

use bpf_build::{BpfBuild, PROGRAMS};

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!(
                "cannot compile the BPF programs: {reason}\nrun `cargo xtask setup`, which installs what is missing"
            );
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    for variable in ["CLUSTER_BPF_CARGO", "CLUSTER_BPF_RUSTC", "CLUSTER_BPF_LINKER", "PATH"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let package = PathBuf::from(required("CARGO_MANIFEST_DIR")?);
    // Not `package/..`: cargo would take the same files for other packages than `cargo xtask check` does.
    let workspace = package.parent().unwrap_or(&package);
    for source in ["cluster-ebpf", "cluster-common", "Cargo.toml"] {
        println!("cargo::rerun-if-changed={}", workspace.join(source).display());
    }
    let target = match required("CARGO_CFG_TARGET_ENDIAN")?.to_str() {
        Some("big") => "bpfeb-unknown-none",
        _ => "bpfel-unknown-none",
    };
    let out = PathBuf::from(required("OUT_DIR")?);
    // OUT_DIR is <products>/<profile>/build/<package>/out.
    let products = out.ancestors().nth(4).ok_or_else(|| format!("{} is nowhere", out.display()))?;
    let toolchain = Toolchain::find(target)?;
    let build = BpfBuild {
        cargo: &toolchain.cargo,
        rustc: &toolchain.rustc,
        linker: &linker()?,
        arguments: toolchain.arguments,
        target,
        workspace,
        products,
    };
    let mut cargo = build.command();
    let status =
        cargo.status().map_err(|error| format!("{} does not start: {error}", toolchain.cargo.display()))?;
    if !status.success() {
        return Err(format!("{cargo:?} failed ({status}); its own messages stand above"));
    }
    for program in PROGRAMS {
        let object = build.directory().join(target).join("release").join(program);
        std::fs::copy(&object, out.join(format!("{program}.o")))
            .map_err(|error| format!("{} cannot be copied: {error}", object.display()))?;
    }
    Ok(())
}

struct Toolchain {
    cargo: PathBuf,
    rustc: PathBuf,
    arguments: &'static [&'static str],
}

impl Toolchain {
    fn find(target: &str) -> Result<Self, String> {
        let named = |variable| env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
        if let Some(rustc) = named("CLUSTER_BPF_RUSTC") {
            let cargo = named("CLUSTER_BPF_CARGO").unwrap_or_else(|| rustc.with_file_name("cargo"));
            return Self::with(cargo, rustc.clone(), target).ok_or_else(|| {
                format!("{} has neither a core for {target} nor its source", rustc.display())
            });
        }
        let distribution = [PathBuf::from("/usr/bin")];
        let rustup = output(Command::new("rustup").args(["which", "--toolchain", "nightly", "rustc"]));
        let nightly = rustup.and_then(|rustc| Path::new(&rustc).parent().map(Path::to_path_buf));
        distribution
            .into_iter()
            .chain(nightly)
            .find_map(|bin| Self::with(bin.join("cargo"), bin.join("rustc"), target))
            .ok_or_else(|| {
                format!("no Rust toolchain with a core for {target}, and no nightly with rust-src, was found")
            })
    }

    /// The toolchain of these two, if it can compile for the target.
    fn with(cargo: PathBuf, rustc: PathBuf, target: &str) -> Option<Self> {
        let library =
            output(Command::new(&rustc).args(["--print", "sysroot"]).env_remove("RUSTUP_TOOLCHAIN"))?;
        let library = Path::new(&library).join("lib/rustlib");
        if library.join(target).join("lib").is_dir() {
            Some(Self { cargo, rustc, arguments: &[] })
        } else if library.join("src/rust/library/core").is_dir() {
            Some(Self { cargo, rustc, arguments: &["-Zbuild-std=core"] })
        } else {
            None
        }
    }
}

/// bpf-linker, by name or from the places where `cargo install` puts it.
fn linker() -> Result<PathBuf, String> {
    if let Some(linker) = env::var_os("CLUSTER_BPF_LINKER").filter(|value| !value.is_empty()) {
        return Ok(PathBuf::from(linker));
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let cargo_home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo"));
    env::split_paths(&path)
        .chain([cargo_home, home].into_iter().flatten().map(|directory| directory.join("bin")))
        .map(|directory| directory.join("bpf-linker"))
        .find(|linker| linker.is_file())
        .ok_or_else(|| "bpf-linker was not found".to_owned())
}

fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok().map(|text| text.trim().to_owned())
}

fn required(variable: &str) -> Result<OsString, String> {
    env::var_os(variable).ok_or_else(|| format!("cargo did not set {variable}"))
}
