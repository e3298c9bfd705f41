//! `cargo xtask setup`: what building and testing need is found, or else installed.
//!
//! Every verb that needs it comes through here, so that the first command on a fresh machine may be any of them. What
//! is there is found anew each time, by looking at files; nothing is remembered that could become untrue.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::command::{CommandLine, seconds, timed};
use crate::packages::{self, Tool};
use crate::platform::{Family, Platform, program};
use crate::toolchain::{self, BpfToolchain, Compiler};

/// How much of it a verb needs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Scope {
    /// The BPF toolchain.
    Build,
    /// That, and the lab's programs.
    Lab,
    /// That, and what the failover benchmark compares with.
    Rivals,
    /// The lab's programs, and the servers and clients of other people's that `bench servers` runs there.
    Servers,
}

/// Sets up for everything but the comparison, and says what was found.
pub(crate) fn report() -> Result<()> {
    let bpf = ensure(Scope::Lab)?;
    println!("BPF toolchain: {}", bpf.describe());
    let lab: Vec<&str> = packages::LAB.iter().map(Tool::name).collect();
    println!("lab:           {}", lab.join(", "));
    println!(
        "test runner:   {}",
        if program("cargo-nextest").is_some() { "cargo-nextest" } else { "cargo test" }
    );
    println!("ready");
    Ok(())
}

/// Finds what the scope needs, after installing what is missing.
///
/// # Errors
/// When something is missing that cannot be installed from here; the commands that would do it have been printed.
pub(crate) fn ensure(scope: Scope) -> Result<BpfToolchain> {
    let found = Found::on_this_machine(scope);
    if let Some(bpf) = found.complete() {
        return Ok(bpf);
    }
    let platform = Platform::of_this_machine();
    found.announce();
    let (result, took) = timed(|| install(&found, &platform));
    result?;
    let found = Found::on_this_machine(scope);
    let Some(bpf) = found.complete() else {
        found.announce();
        bail!("these are still missing although the commands that install them ended well");
    };
    bpf.probe()?;
    println!("set-up: complete after {}", seconds(took));
    Ok(bpf)
}

/// What of a scope is there and what is not.
#[derive(Debug)]
struct Found {
    compiler: Option<Compiler>,
    linker: Option<std::path::PathBuf>,
    missing_lab: Vec<&'static Tool>,
    /// What a benchmark runs beside ours.
    missing_others: Vec<&'static Tool>,
}

impl Found {
    fn on_this_machine(scope: Scope) -> Self {
        let missing = |tools: &'static [Tool]| tools.iter().filter(|tool| !tool.is_present()).collect();
        let lab: &[Tool] = if scope == Scope::Build { &[] } else { packages::LAB };
        let others: &[Tool] = match scope {
            Scope::Build | Scope::Lab => &[],
            Scope::Rivals => packages::RIVALS,
            Scope::Servers => packages::SERVERS,
        };
        Self {
            compiler: Compiler::find(),
            linker: toolchain::find_linker(),
            missing_lab: missing(lab),
            missing_others: missing(others),
        }
    }

    fn complete(&self) -> Option<BpfToolchain> {
        let compiler = self.compiler.clone()?;
        let linker = self.linker.clone()?;
        let tools = self.missing_lab.is_empty() && self.missing_others.is_empty();
        tools.then_some(BpfToolchain { compiler, linker })
    }

    fn announce(&self) {
        println!("set-up: missing on this machine:");
        if self.compiler.is_none() {
            println!("  Rust for BPF: compiles the XDP program (rustup's stable toolchains cannot)");
        }
        if self.linker.is_none() {
            println!("  bpf-linker: links the XDP program");
        }
        for tool in self.missing_lab.iter().chain(&self.missing_others) {
            println!("  {}: {}", tool.name(), tool.purpose);
        }
    }
}

/// Where the compiler for the BPF programs comes from, if it is missing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum CompilerSource {
    /// Debian's packages.
    Packages,
    /// A nightly of rustup's with the library's source.
    Rustup,
    /// The same, but rustup itself is missing.
    RustupToCome,
}

/// Where bpf-linker comes from, if it is missing.
#[derive(Clone, PartialEq, Eq, Debug)]
enum LinkerSource {
    /// Built here with Debian's LLVM of this version, for which these packages are missing.
    Build { llvm: u32, packages: Vec<String> },
    /// Its authors' own binary.
    Prebuilt,
}

fn install(found: &Found, platform: &Platform) -> Result<()> {
    let may_update = platform.family == Family::Debian && platform.root;
    if may_update && !packages::apt_knows(&wished_of_apt(found)) {
        packages::update_lists().run()?;
    }
    let compiler = compiler_source(platform);
    let linker = linker_source(toolchain::linker_llvm(found.compiler.as_ref())?, platform);
    let systemd = Path::new("/run/systemd/system").is_dir();
    let commands = commands_before_linker(found, platform, compiler, systemd);
    let by_hand = compiler == CompilerSource::RustupToCome && found.compiler.is_none()
        || linker == LinkerSource::Prebuilt && found.linker.is_none();
    let linker_commands = commands_for_linker(found, platform, &linker);
    let root_missing = !platform.root && commands.iter().chain(&linker_commands).any(CommandLine::needs_root);
    if platform.family != Family::Debian || by_hand || root_missing {
        let rustup = found.compiler.is_none() && compiler == CompilerSource::RustupToCome;
        print_for_hand(found, platform, rustup, commands.iter().chain(&linker_commands));
        bail!("set-up is incomplete");
    }
    commands.iter().try_for_each(CommandLine::run)?;
    if found.linker.is_none() {
        // Only the compiler that is there now says for certain which LLVM the linker must have.
        let compiler = Compiler::find().context("the compiler that was just installed is not found")?;
        let linker = linker_source(toolchain::linker_llvm(Some(&compiler))?, platform);
        commands_for_linker(found, platform, &linker).iter().try_for_each(CommandLine::run)?;
    }
    Ok(())
}

/// All that apt might be asked for, to see whether its lists are there.
fn wished_of_apt(found: &Found) -> Vec<String> {
    let tools: Vec<&Tool> = found.missing_lab.iter().chain(&found.missing_others).copied().collect();
    let mut packages = packages::packages_of(&tools, Family::Debian);
    if found.compiler.is_none() {
        packages.extend(toolchain::compiler_packages());
    }
    if found.linker.is_none() {
        packages.push("zlib1g-dev".to_owned());
    }
    packages
}

fn compiler_source(platform: &Platform) -> CompilerSource {
    let rustup = program("rustup").is_some();
    // Debian's compiler for BPF takes the place of its other Rust packages; those are somebody's choice.
    let own_rust = ["rustc", "cargo", "rustup"].map(str::to_owned);
    let packaged = platform.family == Family::Debian
        && packages::apt_knows(&toolchain::compiler_packages())
        && packages::not_installed(&own_rust).len() == own_rust.len();
    match (packaged, platform.root, rustup) {
        (true, true, _) | (true, false, false) => CompilerSource::Packages,
        (_, _, true) => CompilerSource::Rustup,
        (false, _, false) => CompilerSource::RustupToCome,
    }
}

fn linker_source(llvm: u32, platform: &Platform) -> LinkerSource {
    let packages = toolchain::linker_packages(llvm);
    if platform.family == Family::Debian && packages::apt_knows(&packages) {
        LinkerSource::Build { llvm, packages: packages::not_installed(&packages) }
    } else {
        LinkerSource::Prebuilt
    }
}

/// The commands that install the tools and the compiler.
fn commands_before_linker(
    found: &Found,
    platform: &Platform,
    source: CompilerSource,
    systemd: bool,
) -> Vec<CommandLine> {
    let mut packages = packages::packages_of(&found.missing_lab, platform.family);
    let mut by_rustup = None;
    if found.compiler.is_none() {
        match source {
            CompilerSource::Packages => packages.extend(toolchain::compiler_packages()),
            CompilerSource::Rustup | CompilerSource::RustupToCome => {
                by_rustup = Some(toolchain::install_nightly());
            }
        }
    }
    let others = packages::packages_of(&found.missing_others, platform.family);
    let others = packages::install(&others, platform);
    let mut commands = packages::install(&packages, platform);
    let ifupdown_is_there = packages::not_installed(&["ifupdown".to_owned()]).is_empty();
    let services = packages::services_of(&found.missing_others, ifupdown_is_there);
    commands.extend(packages::without_services(others, &services, platform.family, systemd));
    commands.extend(by_rustup);
    commands
}

/// The commands that install bpf-linker.
fn commands_for_linker(found: &Found, platform: &Platform, source: &LinkerSource) -> Vec<CommandLine> {
    if found.linker.is_some() {
        return Vec::new();
    }
    match source {
        LinkerSource::Build { llvm, packages } => {
            let mut commands = packages::install(packages, platform);
            commands.push(toolchain::install_linker(*llvm));
            commands
        }
        LinkerSource::Prebuilt => toolchain::install_prebuilt_linker(),
    }
}

fn print_for_hand<'a>(
    found: &Found,
    platform: &Platform,
    rustup: bool,
    commands: impl Iterator<Item = &'a CommandLine>,
) {
    let why = if platform.family == Family::Debian && !platform.root {
        "this is not root".to_owned()
    } else {
        format!("this is {}", platform.name)
    };
    println!("set-up: {why}, so nothing was installed. Do this, then the same again:");
    if platform.family == Family::Other {
        for tool in found.missing_lab.iter().chain(&found.missing_others) {
            println!("  install the package that has `{}`", tool.name());
        }
    }
    if rustup {
        println!("  curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh");
    }
    let mut commands = commands.peekable();
    if platform.family == Family::Debian && commands.peek().is_some() {
        println!("  {}", packages::update_lists());
    }
    commands.for_each(|command| println!("  {command}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(family: Family, root: bool) -> Platform {
        Platform { family, name: "some distribution".to_owned(), root }
    }

    fn nothing_there() -> Found {
        Found {
            compiler: None,
            linker: None,
            missing_lab: packages::LAB.iter().collect(),
            missing_others: packages::RIVALS.iter().collect(),
        }
    }

    fn shown(commands: &[CommandLine]) -> Vec<String> {
        commands.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn on_debian_tools_and_compiler_come_in_one_go() {
        let commands = commands_before_linker(
            &nothing_there(),
            &platform(Family::Debian, true),
            CompilerSource::Packages,
            false,
        );
        let shown = shown(&commands);
        assert!(
            shown[0].ends_with("ethtool iproute2 util-linux rustc-web libstd-rust-web-dev-bpf cargo-web"),
            "{shown:?}"
        );
        assert!(shown[1].contains("RUNLEVEL=1") && shown[1].ends_with("keepalived ucarp"), "{shown:?}");
        assert_eq!(shown[2], "sudo update-rc.d keepalived disable");
    }

    #[test]
    fn rustup_needs_no_root() {
        let found = Found { missing_lab: Vec::new(), missing_others: Vec::new(), ..nothing_there() };
        let commands =
            commands_before_linker(&found, &platform(Family::Fedora, false), CompilerSource::Rustup, true);
        assert_eq!(commands.len(), 1);
        assert!(commands.iter().all(|command| !command.needs_root()));
        assert!(shown(&commands)[0].starts_with("rustup toolchain install nightly-"));
    }

    #[test]
    fn the_linkers_packages_precede_it_and_are_only_those_missing() {
        let debian = platform(Family::Debian, true);
        let all_there = LinkerSource::Build { llvm: 22, packages: Vec::new() };
        assert_eq!(commands_for_linker(&nothing_there(), &debian, &all_there).len(), 1);
        let one = LinkerSource::Build { llvm: 22, packages: vec!["llvm-22-dev".to_owned()] };
        let commands = shown(&commands_for_linker(&nothing_there(), &debian, &one));
        assert!(commands[0].ends_with("llvm-22-dev") && commands[1].contains("bpf-linker@"), "{commands:?}");
        let there = Found { linker: Some("/usr/bin/bpf-linker".into()), ..nothing_there() };
        assert!(commands_for_linker(&there, &debian, &one).is_empty());
    }

    #[test]
    fn a_scope_asks_for_no_more_than_it_needs() {
        let found = Found::on_this_machine(Scope::Build);
        assert!(found.missing_lab.is_empty() && found.missing_others.is_empty());
        assert!(Found::on_this_machine(Scope::Lab).missing_others.is_empty());
    }
}
