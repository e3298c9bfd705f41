//! An `ip`, `bridge` or `tc` that stays open in a namespace and takes one command after the other.
//!
//! Starting a process costs milliseconds and on a busy machine much more; a command written to a waiting one takes
//! some tens of microseconds, which is what a fault needs whose moment matters.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStderr, ChildStdin, Command, Stdio};

use anyhow::{Context as _, bail};

use super::namespace::Namespace;

/// One of iproute2's programs, in batch mode.
#[derive(Debug)]
pub struct Batch {
    tool: &'static str,
    child: Child,
    input: Option<ChildStdin>,
    complaints: BufReader<ChildStderr>,
    line: u64,
}

impl Batch {
    /// Starts `tool` (`ip`, `bridge` or `tc`) in `namespace`.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start(tool: &'static str, namespace: &Namespace) -> anyhow::Result<Self> {
        let mut child = Command::new(tool)
            .args(["-netns", namespace.name(), "-force", "-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting `{tool}`; is iproute2 installed?"))?;
        let (Some(input), Some(complaints)) = (child.stdin.take(), child.stderr.take()) else {
            bail!("`{tool}` was started without pipes");
        };
        Ok(Self { tool, child, input: Some(input), complaints: BufReader::new(complaints), line: 0 })
    }

    /// Carries out `command` and returns when it is done.
    ///
    /// # Errors
    /// When the kernel or the program refuses it, with what it said.
    pub fn run(&mut self, command: &str) -> anyhow::Result<()> {
        self.run_all(&[command])
    }

    /// Carries out several commands with one round trip.
    ///
    /// # Errors
    /// When any of them is refused; the others are carried out all the same.
    pub fn run_all<S: AsRef<str>>(&mut self, commands: &[S]) -> anyhow::Result<()> {
        // The programs say nothing about success, but name the line of every failure on their unbuffered stderr: a
        // last line that must fail tells that all before it are done.
        let mut text = String::new();
        for command in commands {
            text.push_str(command.as_ref());
            text.push('\n');
        }
        text.push_str("end-of-commands\n");
        let Some(input) = &mut self.input else { bail!("`{}` was ended", self.tool) };
        input.write_all(text.as_bytes()).with_context(|| format!("writing to `{} -batch`", self.tool))?;
        input.flush()?;
        let last = self.line + commands.len() as u64 + 1;
        self.line = last;
        let end = format!("Command failed -:{last}");
        let mut said: Vec<String> = Vec::new();
        loop {
            let mut line = String::new();
            if self.complaints.read_line(&mut line)? == 0 {
                bail!("`{} -batch` ended: {}", self.tool, said.join("; "));
            }
            let line = line.trim_end();
            if line == end {
                break;
            }
            said.push(line.to_owned());
        }
        said.retain(|line| !line.contains("end-of-commands"));
        if !said.is_empty() {
            let commands: Vec<&str> = commands.iter().map(AsRef::as_ref).collect();
            bail!("`{}` refused ({}): {}", self.tool, said.join("; "), commands.join("; "));
        }
        Ok(())
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        drop(self.input.take());
        // It ends by itself at the end of its input; should it hang, it must not hang the lab.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
