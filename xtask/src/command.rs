//! A command that can be shown to the user as it would be typed, or run.

use std::fmt;
use std::io;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// One command of a set-up, as an administrator would type it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct CommandLine {
    environment: Vec<(String, String)>,
    program: String,
    arguments: Vec<String>,
    needs_root: bool,
}

impl CommandLine {
    /// A command any user may run.
    pub(crate) fn new(program: &str, arguments: &[&str]) -> Self {
        Self {
            environment: Vec::new(),
            program: program.to_owned(),
            arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
            needs_root: false,
        }
    }

    /// A command only root may run; shown with `sudo`.
    pub(crate) fn as_root(program: &str, arguments: &[&str]) -> Self {
        Self { needs_root: true, ..Self::new(program, arguments) }
    }

    /// Adds arguments.
    pub(crate) fn with(mut self, more: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.arguments.extend(more.into_iter().map(Into::into));
        self
    }

    /// Adds a variable to its environment.
    pub(crate) fn with_environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Whether only root may run it.
    pub(crate) fn needs_root(&self) -> bool {
        self.needs_root
    }

    /// Shows and runs it, its output going where ours goes, and says how long it took.
    ///
    /// # Errors
    /// When it cannot be started or ends otherwise than with 0.
    pub(crate) fn run(&self) -> Result<()> {
        let mut command = Command::new(&self.program);
        // It runs outside the workspace, so that the workspace's cargo settings do not leak into what it installs.
        command.args(&self.arguments).envs(self.environment.iter().cloned()).current_dir("/");
        command.env_remove("CARGO_TARGET_DIR");
        println!("$ {}", self.without_sudo());
        let (status, took) = timed(|| command.status());
        let status = status.with_context(|| format!("cannot start `{}`", self.program))?;
        if !status.success() {
            bail!("`{self}` failed ({status}); see its output above");
        }
        println!("  done in {}", seconds(took));
        Ok(())
    }

    fn without_sudo(&self) -> Self {
        Self { needs_root: false, ..self.clone() }
    }
}

impl fmt::Display for CommandLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.needs_root {
            f.write_str("sudo ")?;
        }
        for (name, value) in &self.environment {
            write!(f, "{name}={} ", quoted(value))?;
        }
        f.write_str(&quoted(&self.program))?;
        self.arguments.iter().try_for_each(|argument| write!(f, " {}", quoted(argument)))
    }
}

/// Shows a command of one of the verbs and runs it; true if it ended with 0.
///
/// # Errors
/// When it cannot be started.
pub(crate) fn succeeds(command: &mut Command) -> Result<bool> {
    let status = command.status().with_context(|| not_started(command))?;
    Ok(status.success())
}

/// What to say when a command cannot be started.
pub(crate) fn not_started(command: &Command) -> String {
    format!("cannot start `{}`", command.get_program().to_string_lossy())
}

/// Does something and tells how long it took.
#[expect(clippy::disallowed_methods, reason = "a tool that shows the user how long its steps take")]
pub(crate) fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = std::time::Instant::now();
    let result = work();
    (result, start.elapsed())
}

/// A duration as the steps' closing lines show it.
pub(crate) fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

/// Ends this process by becoming the command, so that its signals, terminal and exit code are the caller's.
///
/// # Errors
/// Only if that fails.
pub(crate) fn become_command(command: &mut Command) -> Result<()> {
    let error: io::Error = std::os::unix::process::CommandExt::exec(command);
    Err(error).with_context(|| not_started(command))
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@+%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_it_would_be_typed() {
        let install = CommandLine::as_root("apt-get", &["install", "-y"])
            .with(["a", "b c"])
            .with_environment("DEBIAN_FRONTEND", "noninteractive");
        assert_eq!(install.to_string(), "sudo DEBIAN_FRONTEND=noninteractive apt-get install -y a 'b c'");
        assert_eq!(
            install.without_sudo().to_string(),
            "DEBIAN_FRONTEND=noninteractive apt-get install -y a 'b c'"
        );
    }

    #[test]
    fn quotes_survive_a_shell() {
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
        assert_eq!(quoted("/usr/lib/llvm-22"), "/usr/lib/llvm-22");
    }

    #[test]
    fn a_failing_command_is_named() {
        let error = CommandLine::new("false", &[]).run().expect_err("false fails");
        assert!(error.to_string().contains("`false` failed"), "{error}");
        let error = CommandLine::new("/no/such/program", &[]).run().expect_err("it does not exist");
        assert!(error.to_string().contains("cannot start"), "{error}");
    }
}
