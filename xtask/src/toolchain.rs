//! The toolchain for the BPF programs: a Rust compiler with a `core` for that target, and bpf-linker.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::bpf_build::{BpfBuild, PROGRAMS};
use crate::command::CommandLine;
use crate::platform::{directories_on_path, is_executable, program};

/// The version of bpf-linker that is installed; older ones are replaced.
const LINKER_VERSION: Version = Version(0, 13, 0);
/// The LLVM releases that bpf-linker of that version can be built with.
const LINKER_LLVM: std::ops::RangeInclusive<u32> = 21..=23;
/// The nightly that is installed where there is no packaged compiler for the target: one with [`EXPECTED_LLVM`].
const NIGHTLY: &str = "nightly-2026-05-20";
/// The LLVM of the compilers that set-up installs, until they are there to be asked.
const EXPECTED_LLVM: u32 = 22;

/// The crates that may use what is unstable in Rust's BPF support: aya's, and the programs.
pub(crate) fn unstable_crates() -> String {
    format!("aya_ebpf,{}", PROGRAMS.join(","))
}

/// What compiles and links the BPF programs.
#[derive(Clone, Debug)]
pub(crate) struct BpfToolchain {
    /// The compiler.
    pub(crate) compiler: Compiler,
    /// bpf-linker.
    pub(crate) linker: PathBuf,
}

/// A Rust compiler that can compile for the BPF target.
#[derive(Clone, Debug)]
pub(crate) struct Compiler {
    cargo: PathBuf,
    rustc: PathBuf,
    prebuilt_core: bool,
}

impl BpfToolchain {
    /// Names the toolchain to the build script of `cluster-userspace`.
    pub(crate) fn apply(&self, command: &mut Command) {
        command
            .env("CLUSTER_BPF_CARGO", &self.compiler.cargo)
            .env("CLUSTER_BPF_RUSTC", &self.compiler.rustc)
            .env("CLUSTER_BPF_LINKER", &self.linker);
    }

    /// Compiles and links the smallest BPF program, to find out at once whether compiler and linker fit together.
    ///
    /// # Errors
    /// When they do not. A compiler that has to build its own `core` first is not tried here.
    pub(crate) fn probe(&self) -> Result<()> {
        const PROGRAM: &str = "#![no_std]\n#![no_main]\n#[unsafe(no_mangle)]\npub extern \"C\" fn probe() -> u32 { 2 }\n\
                               #[panic_handler]\nfn panic(_: &core::panic::PanicInfo) -> ! { loop {} }\n";
        if !self.compiler.prebuilt_core {
            return Ok(());
        }
        let directory = crate::workspace::target().join("bpf-toolchain");
        let source = directory.join("probe.rs");
        fs::create_dir_all(&directory)
            .and_then(|()| fs::write(&source, PROGRAM))
            .with_context(|| format!("cannot write {}", source.display()))?;
        let mut linker = std::ffi::OsString::from("-Clinker=");
        linker.push(&self.linker);
        let output = Command::new(&self.compiler.rustc)
            .args(["--edition=2024", "--target", bpf_target(), "-Cpanic=abort", "-O", "-o"])
            .arg(directory.join("probe.o"))
            .args([linker.as_os_str(), source.as_os_str()])
            .output()
            .with_context(|| format!("cannot start {}", self.compiler.rustc.display()))?;
        if !output.status.success() {
            bail!(
                "{} and {} do not link a BPF program together (were they made for different LLVM releases?):\n{}",
                self.compiler.rustc.display(),
                self.linker.display(),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(())
    }

    /// Compiles the BPF programs, if they are not yet, and gives the compiler's warnings: nothing else is said where that succeeds.
    ///
    /// # Errors
    /// When cargo does not start, or they cannot be compiled.
    pub(crate) fn warnings(&self, products: &Path) -> Result<String> {
        let build = BpfBuild {
            cargo: &self.compiler.cargo,
            rustc: &self.compiler.rustc,
            linker: &self.linker,
            arguments: if self.compiler.prebuilt_core { &[] } else { &["-Zbuild-std=core"] },
            target: bpf_target(),
            workspace: crate::workspace::root(),
            products,
        };
        let output = build.command().arg("--quiet").output();
        let output = output.with_context(|| format!("cannot start {}", self.compiler.cargo.display()))?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if !output.status.success() {
            bail!("the BPF programs cannot be compiled:\n{said}");
        }
        Ok(said)
    }

    /// One line about it.
    pub(crate) fn describe(&self) -> String {
        let core = if self.compiler.prebuilt_core { "prebuilt core" } else { "core from rust-src" };
        format!("{} ({core}), linked by {}", self.compiler.rustc.display(), self.linker.display())
    }
}

impl Compiler {
    /// The one named by `CLUSTER_BPF_RUSTC`, or the first found: packaged with a `core` for the target, then rustup's
    /// with a `core` for it, then a nightly with the library's source.
    pub(crate) fn find() -> Option<Self> {
        if let Some(rustc) = std::env::var_os("CLUSTER_BPF_RUSTC").filter(|name| !name.is_empty()) {
            return Self::named(PathBuf::from(rustc));
        }
        // A compiler in PREFIX/bin has its libraries in PREFIX/lib/rustlib. Of rustup's proxies this is not true, so
        // that they fall out here, and its toolchains are looked at themselves.
        let packaged = std::iter::once(PathBuf::from("/usr/bin")).chain(directories_on_path());
        let packaged = packaged.filter_map(|bin| bin.parent().map(Path::to_owned));
        let by_rustup = rustup_toolchains();
        let mut nightlies: Vec<&PathBuf> = by_rustup.iter().filter(|path| is_nightly(path)).collect();
        nightlies.sort_by_key(|path| !file_name(path).starts_with(NIGHTLY));
        packaged
            .chain(by_rustup.iter().cloned())
            .find_map(|prefix| Self::with_core(&prefix))
            .or_else(|| nightlies.into_iter().find_map(|prefix| Self::with_source(prefix)))
    }

    /// The major version of its LLVM.
    ///
    /// # Errors
    /// When it does not run or does not say.
    pub(crate) fn llvm(&self) -> Result<u32> {
        let output = Command::new(&self.rustc)
            .args(["--version", "--verbose"])
            .env_remove("RUSTUP_TOOLCHAIN")
            .output()
            .with_context(|| format!("cannot start {}", self.rustc.display()))?;
        llvm_of(&String::from_utf8_lossy(&output.stdout))
            .with_context(|| format!("{} does not say which LLVM it has", self.rustc.display()))
    }

    fn named(rustc: PathBuf) -> Option<Self> {
        let output = Command::new(&rustc).args(["--print", "sysroot"]).stderr(Stdio::null()).output().ok()?;
        let prefix = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
        let found = Self::with_core(&prefix).or_else(|| Self::with_source(&prefix))?;
        let cargo = std::env::var_os("CLUSTER_BPF_CARGO").filter(|name| !name.is_empty());
        let cargo = cargo.map_or_else(|| rustc.with_file_name("cargo"), PathBuf::from);
        Some(Self { cargo, rustc, ..found })
    }

    fn with_core(prefix: &Path) -> Option<Self> {
        let libraries = prefix.join("lib/rustlib").join(bpf_target()).join("lib");
        let mut files = fs::read_dir(libraries).ok()?.filter_map(Result::ok);
        files
            .any(|file| {
                let name = file.file_name();
                let name = name.to_string_lossy();
                name.starts_with("libcore-") && name.ends_with(".rlib")
            })
            .then(|| Self::at(prefix, true))
            .flatten()
    }

    fn with_source(prefix: &Path) -> Option<Self> {
        let source = prefix.join("lib/rustlib/src/rust/library/core/Cargo.toml");
        source.is_file().then(|| Self::at(prefix, false)).flatten()
    }

    fn at(prefix: &Path, prebuilt_core: bool) -> Option<Self> {
        let (cargo, rustc) = (prefix.join("bin/cargo"), prefix.join("bin/rustc"));
        (is_executable(&cargo) && is_executable(&rustc)).then_some(Self { cargo, rustc, prebuilt_core })
    }
}

/// bpf-linker, if it is there and new enough.
pub(crate) fn find_linker() -> Option<PathBuf> {
    let named = std::env::var_os("CLUSTER_BPF_LINKER").filter(|name| !name.is_empty()).map(PathBuf::from);
    if named.is_some() {
        return named;
    }
    let installed = cargo_home().map(|home| home.join("bin/bpf-linker"));
    program("bpf-linker").into_iter().chain(installed).find(|linker| {
        let output = Command::new(linker).arg("--version").stderr(Stdio::null()).output();
        output.is_ok_and(|output| {
            version_of(&String::from_utf8_lossy(&output.stdout))
                .is_some_and(|version| version >= LINKER_VERSION)
        })
    })
}

/// Debian's packages of a compiler with a `core` for the BPF target.
pub(crate) fn compiler_packages() -> Vec<String> {
    ["rustc-web", "libstd-rust-web-dev-bpf", "cargo-web"].map(str::to_owned).to_vec()
}

/// Debian's packages that bpf-linker is built with, for a compiler of this LLVM.
pub(crate) fn linker_packages(llvm: u32) -> Vec<String> {
    [format!("llvm-{llvm}-dev"), format!("libpolly-{llvm}-dev")]
        .into_iter()
        .chain(["libzstd-dev", "zlib1g-dev", "g++"].map(str::to_owned))
        .collect()
}

/// The LLVM that bpf-linker has to be built with.
///
/// # Errors
/// When bpf-linker cannot be built with the compiler's.
pub(crate) fn linker_llvm(compiler: Option<&Compiler>) -> Result<u32> {
    let llvm = compiler.map_or(Ok(EXPECTED_LLVM), Compiler::llvm)?;
    if !LINKER_LLVM.contains(&llvm) {
        bail!(
            "the compiler for the BPF programs has LLVM {llvm}, but bpf-linker {LINKER_VERSION} knows only {} to {}; \
             name another compiler in CLUSTER_BPF_RUSTC",
            LINKER_LLVM.start(),
            LINKER_LLVM.end()
        );
    }
    Ok(llvm)
}

/// The command that installs a compiler by rustup, which needs no root.
pub(crate) fn install_nightly() -> CommandLine {
    CommandLine::new(
        "rustup",
        &["toolchain", "install", NIGHTLY, "--profile", "minimal", "--component", "rust-src"],
    )
}

/// The command that builds and installs bpf-linker with Debian's LLVM of this version.
pub(crate) fn install_linker(llvm: u32) -> CommandLine {
    let prefix = format!("/usr/lib/llvm-{llvm}");
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    CommandLine::new(&cargo, &["install", "--locked", "--force", "--no-default-features"])
        .with(["--features".to_owned(), format!("llvm-{llvm}"), format!("bpf-linker@{LINKER_VERSION}")])
        // llvm-sys wants the one, bpf-linker's own build script the other; without it, linking does not find LLVM.
        .with_environment(&format!("LLVM_SYS_{llvm}1_PREFIX"), &prefix)
        .with_environment("LLVM_PREFIX", &prefix)
}

/// The commands that install bpf-linker as its authors built it, which contains its own LLVM.
pub(crate) fn install_prebuilt_linker() -> Vec<CommandLine> {
    vec![
        CommandLine::new("cargo", &["install", "--locked", "cargo-binstall"]),
        CommandLine::new("cargo", &["binstall", "--no-confirm"])
            .with([format!("bpf-linker@{LINKER_VERSION}")]),
    ]
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Version(u32, u32, u32);

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

fn bpf_target() -> &'static str {
    if cfg!(target_endian = "big") { "bpfeb-unknown-none" } else { "bpfel-unknown-none" }
}

fn cargo_home() -> Option<PathBuf> {
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo"));
    std::env::var_os("CARGO_HOME").map(PathBuf::from).or(home)
}

fn rustup_toolchains() -> Vec<PathBuf> {
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".rustup"));
    let Some(home) = std::env::var_os("RUSTUP_HOME").map(PathBuf::from).or(home) else { return Vec::new() };
    let Ok(entries) = fs::read_dir(home.join("toolchains")) else { return Vec::new() };
    let mut toolchains: Vec<PathBuf> = entries.filter_map(Result::ok).map(|entry| entry.path()).collect();
    toolchains.sort();
    toolchains
}

fn is_nightly(toolchain: &Path) -> bool {
    file_name(toolchain).starts_with("nightly")
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The major version in a line such as `LLVM version: 22.1.4` of `rustc --version --verbose`.
fn llvm_of(verbose: &str) -> Option<u32> {
    let version = verbose.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    version.split('.').next()?.trim().parse().ok()
}

/// The version in a line such as `bpf-linker 0.13.0`.
fn version_of(line: &str) -> Option<Version> {
    let version = line.split_whitespace().nth(1)?;
    // What follows a `-` or `+` marks a release candidate or a build.
    let mut numbers = version.split(['-', '+']).next()?.split('.').map(|part| part.parse().ok());
    Some(Version(numbers.next()??, numbers.next()??, numbers.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_llvm_of_a_compiler_is_read() {
        let verbose =
            "rustc 1.96.0 (ac68faa20 2026-05-25)\nbinary: rustc\nrelease: 1.96.0\nLLVM version: 22.1.4\n";
        assert_eq!(llvm_of(verbose), Some(22));
        assert_eq!(llvm_of("LLVM version: 23\n"), Some(23));
        assert_eq!(llvm_of("LLVM version: unknown\n"), None);
        assert_eq!(llvm_of(""), None);
    }

    #[test]
    fn versions_are_read_and_ordered() {
        assert_eq!(version_of("bpf-linker 0.13.0\n"), Some(Version(0, 13, 0)));
        assert_eq!(version_of("bpf-linker 0.14.1-rc.2"), Some(Version(0, 14, 1)));
        assert_eq!(version_of("bpf-linker"), None);
        assert_eq!(version_of("bpf-linker 0.13"), None);
        assert!(Version(0, 9, 15) < LINKER_VERSION && Version(1, 0, 0) > LINKER_VERSION);
    }

    #[test]
    fn a_compiler_needs_a_core_and_its_programs() {
        let prefix = std::env::temp_dir().join(format!("cluster-xtask-compiler-{}", std::process::id()));
        let libraries = prefix.join("lib/rustlib").join(bpf_target()).join("lib");
        fs::create_dir_all(&libraries).unwrap();
        fs::create_dir_all(prefix.join("bin")).unwrap();
        assert!(Compiler::with_core(&prefix).is_none(), "there is no core");
        fs::write(libraries.join("libcore-8056e5e5b270ef4d.rlib"), "").unwrap();
        assert!(Compiler::with_core(&prefix).is_none(), "there is no compiler");
        for name in ["cargo", "rustc"] {
            std::os::unix::fs::symlink("/bin/true", prefix.join("bin").join(name)).unwrap();
        }
        assert!(Compiler::with_core(&prefix).is_some_and(|compiler| compiler.prebuilt_core));
        assert!(Compiler::with_source(&prefix).is_none(), "there is no source");
        fs::remove_dir_all(&prefix).unwrap();
    }

    #[test]
    fn the_linker_is_built_with_the_compilers_llvm() {
        assert_eq!(linker_packages(22).first().map(String::as_str), Some("llvm-22-dev"));
        let command = install_linker(23).to_string();
        assert!(
            command.starts_with("LLVM_SYS_231_PREFIX=/usr/lib/llvm-23 LLVM_PREFIX=/usr/lib/llvm-23 "),
            "{command}"
        );
        assert!(command.ends_with("--features llvm-23 bpf-linker@0.13.0"), "{command}");
    }
}
