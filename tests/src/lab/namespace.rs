//! A network namespace of the lab, and running code inside it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{Context as _, ensure};
use nix::sched::{CloneFlags, setns};

/// Where `ip netns` keeps its names.
pub const NAMESPACES: &str = "/run/netns";

/// A network namespace known to `ip netns` by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// The namespace called `name`; it need not exist yet.
    #[must_use]
    pub fn named(name: String) -> Self {
        Self { name }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file by which it is entered.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new(NAMESPACES).join(&self.name)
    }

    /// Runs `work` on a thread inside the namespace. Sockets opened there stay in it and may be used from anywhere.
    ///
    /// # Errors
    /// When the namespace cannot be entered, or with the error of `work`.
    #[expect(clippy::panic, reason = "a panic of the work is passed on to the caller")]
    pub fn run<T: Send>(&self, work: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
        let path = self.path();
        thread::scope(|scope| {
            let inside = scope.spawn(move || {
                enter(&path)?;
                work()
            });
            match inside.join() {
                Ok(outcome) => outcome,
                Err(_) => panic!("the work inside a namespace panicked"),
            }
        })
    }

    /// A command that will run inside the namespace, in the machine's own mount namespace. Its pid is the program's own.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg(program);
        command
    }

    /// Runs a program inside the namespace to its end; the words are separated by one space each.
    ///
    /// # Errors
    /// When it does not start, or fails.
    pub fn execute(&self, words: &str) -> anyhow::Result<()> {
        let mut words = words.split(' ');
        let mut command = self.command(words.next().context("an empty command")?);
        let output = command.args(words).output().with_context(|| format!("starting {command:?}"))?;
        ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(())
    }
}

/// Moves the calling thread into the network namespace at `path`, for good.
fn enter(path: &Path) -> anyhow::Result<()> {
    let file = File::open(path).with_context(|| format!("opening the namespace {}", path.display()))?;
    setns(file, CloneFlags::CLONE_NEWNET)
        .with_context(|| format!("entering the namespace {}", path.display()))
}
