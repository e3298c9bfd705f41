//! Removing what labs made: their processes, namespaces, BPF pins and directories.
//!
//! A lab's things all begin with `clt-<pid>-<n>`, so those of a run that was killed are known by a pid that lives no more.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::clock::Moment;
use super::namespace::NAMESPACES;
use super::unsafe_calls;

/// What the name of everything that a lab makes begins with.
pub const PREFIX: &str = "clt-";

/// Where the daemons of all labs pin, a directory for each cluster.
const PINS: &str = "/sys/fs/bpf/cluster";

/// Removes what runs left behind whose process is gone. Does its work once a process.
pub fn leftovers_of_the_dead() {
    static ONCE: Once = Once::new();
    ONCE.call_once(everything_of_the_dead);
}

/// Removes what runs left behind whose process is gone.
pub fn everything_of_the_dead() {
    for name in labs() {
        if owner_of(&name).is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            lab(&name);
            // Tests of single parts have one namespace of that very name.
            if Path::new(NAMESPACES).join(&name).exists()
                && run_ip(&format!("netns delete {name}\n")).is_err()
            {
                eprintln!("could not delete the namespace {name}");
            }
        }
    }
}

/// What is 0 until this process is asked to end by a signal, which from now on does not end it; then that signal.
///
/// # Errors
/// When the signal handlers cannot be set.
pub fn interrupted() -> anyhow::Result<&'static AtomicI32> {
    unsafe_calls::interrupts().context("catching signals")
}

/// Removes everything of all labs of this process, when it is interrupted or panics; for programs that do not unwind.
///
/// # Errors
/// When the signal handlers cannot be set.
pub fn on_the_way_out() -> anyhow::Result<()> {
    on_a_panic();
    let interrupted = interrupted()?;
    std::thread::Builder::new().name("interrupts".to_owned()).spawn(move || {
        let signal = loop {
            match interrupted.load(Ordering::Relaxed) {
                0 => (Moment::now() + Duration::from_millis(20)).sleep(),
                signal => break signal,
            }
        };
        let name = Signal::try_from(signal).map_or("a signal", Signal::as_str);
        eprintln!("ended by {name}; removing the lab");
        own();
        // As a shell tells it of a program that the signal has ended.
        std::process::exit(128 + signal);
    })?;
    Ok(())
}

/// Removes everything of all labs of this process when it panics; for programs that do not unwind.
pub fn on_a_panic() {
    let said = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        said(panic);
        own();
    }));
}

/// Removes everything of all labs of this process; for the way out after a signal or a panic.
pub fn own() {
    let own = std::process::id();
    for name in labs().iter().filter(|name| owner_of(name) == Some(own)) {
        lab(name);
    }
}

/// Removes everything of the lab called `name`, as far as it is there.
pub fn lab(name: &str) {
    let role_follows = format!("{name}-");
    let namespaces: Vec<String> = names_in(Path::new(NAMESPACES))
        .into_iter()
        .filter(|namespace| namespace.starts_with(&role_follows))
        .collect();
    let inodes: Vec<u64> = namespaces
        .iter()
        .filter_map(|namespace| fs::metadata(Path::new(NAMESPACES).join(namespace)).ok())
        .map(|namespace| namespace.ino())
        .collect();
    end_processes_in(&inodes);
    // One process deletes them all; each deletion alone would cost a start of `ip`.
    if !namespaces.is_empty() {
        let script: String =
            namespaces.iter().map(|namespace| format!("netns delete {namespace}\n")).collect();
        if let Err(error) = run_ip(&script) {
            eprintln!("could not delete the namespaces of lab {name}: {error:#}");
        }
    }
    for place in [PathBuf::from(PINS), std::env::temp_dir()] {
        remove(&place.join(name));
    }
}

fn run_ip(script: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    let mut ip =
        Command::new("ip").args(["-force", "-batch", "-"]).stdin(std::process::Stdio::piped()).spawn()?;
    if let Some(mut input) = ip.stdin.take() {
        input.write_all(script.as_bytes())?;
    }
    ip.wait()?;
    Ok(())
}

fn remove(directory: &Path) {
    match fs::remove_dir_all(directory) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => eprintln!("could not remove {}: {error}", directory.display()),
    }
}

/// Kills, by pid, every process whose network namespace is one of these.
fn end_processes_in(namespaces: &[u64]) {
    if namespaces.is_empty() {
        return;
    }
    let own = std::process::id();
    for pid in names_in(Path::new("/proc")).iter().filter_map(|name| name.parse::<u32>().ok()) {
        let inside =
            fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|net| namespaces.contains(&net.ino()));
        if inside && pid != own {
            // It may be gone already, which is what is wanted.
            let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
        }
    }
}

/// The names of all labs of which there is anything.
fn labs() -> BTreeSet<String> {
    let places = [PathBuf::from(NAMESPACES), PathBuf::from(PINS), std::env::temp_dir()];
    places.iter().flat_map(|place| names_in(place)).filter_map(|thing| lab_of(&thing)).collect()
}

fn names_in(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// The lab, `clt-<pid>-<n>`, that a thing of this name belongs to.
fn lab_of(thing: &str) -> Option<String> {
    let mut parts = thing.strip_prefix(PREFIX)?.splitn(3, '-');
    let (pid, count) = (parts.next()?.parse::<u32>().ok()?, parts.next()?.parse::<u32>().ok()?);
    Some(format!("{PREFIX}{pid}-{count}"))
}

fn owner_of(lab: &str) -> Option<u32> {
    lab.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()
}
