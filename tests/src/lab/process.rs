//! A program running in a namespace of the lab: its output kept, its signals sent by pid, its end certain.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Sender};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

use super::clock::{Moment, await_some};

/// A running program. Dropping it kills it and waits for its end.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts `command`, with everything it prints going to the file `log`, which is appended to.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(name: &str, command: &Command, log: &Path) -> anyhow::Result<Self> {
        let file = File::options().create(true).append(true).open(log)?;
        let mut command = bound_to_us(command);
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = spawn(command).with_context(|| format!("starting {name}"))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned(), ended: None })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Sends it a signal. Returns the moment just before.
    ///
    /// # Errors
    /// When it has ended.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<Moment> {
        let before = Moment::now();
        kill(self.pid(), signal).with_context(|| format!("sending {signal} to {}", self.name))?;
        Ok(before)
    }

    /// Kills it and waits for its end. Returns the moment just before.
    pub fn kill(&mut self) -> Moment {
        let before = Moment::now();
        if self.ended.is_none() {
            // Both fail only for a process that has ended already.
            let _ = self.child.kill();
            self.ended = self.child.wait().ok();
        }
        before
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().ok().flatten();
        }
        self.ended.is_none()
    }

    /// Waits for its end and returns its exit status.
    ///
    /// # Errors
    /// When it still runs after `timeout`.
    pub fn await_end(&mut self, timeout: Duration) -> anyhow::Result<ExitStatus> {
        let what = format!("the end of {}", self.name);
        await_some(&what, timeout, || Ok((!self.runs()).then_some(self.ended).flatten()))
    }

    /// All it has printed.
    #[must_use]
    pub fn output(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// The processor time it has used so far, in user space and in the kernel, all threads together.
    ///
    /// # Errors
    /// When it has ended.
    pub fn processor_time(&self) -> anyhow::Result<Duration> {
        let clock =
            clock_getcpuclockid(self.pid()).with_context(|| format!("finding the clock of {}", self.name))?;
        let time = clock_gettime(clock).with_context(|| format!("reading the clock of {}", self.name))?;
        Ok(Duration::from(time))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            let output = self.output();
            let lines: Vec<&str> = output.lines().collect();
            let last = lines.len().saturating_sub(40);
            eprintln!(
                "--- the last lines of {}:\n{}",
                self.name,
                lines.get(last..).unwrap_or_default().join("\n")
            );
        }
    }
}

/// `command`, made to be killed when this process ends, however that happens.
fn bound_to_us(command: &Command) -> Command {
    let mut bound = Command::new("setpriv");
    bound.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program()).args(command.get_args());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => bound.env(key, value),
            None => bound.env_remove(key),
        };
    }
    bound
}

/// Spawns `command` from a thread that lives as long as this process: the kernel sends the parent-death signal
/// when the *thread* that spawned ends.
fn spawn(command: Command) -> std::io::Result<Child> {
    type Order = (Command, Sender<std::io::Result<Child>>);
    static SPAWNER: OnceLock<Mutex<Sender<Order>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, taken) = mpsc::channel::<Order>();
        thread::spawn(move || {
            for (mut command, answer) in taken {
                // Nobody waits any more only where the asking thread has panicked.
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(orders)
    });
    let (answer, answered) = mpsc::channel();
    let ended = |_| std::io::Error::other("the spawning thread has ended");
    spawner.lock().unwrap_or_else(PoisonError::into_inner).send((command, answer)).map_err(|_| ended(()))?;
    answered.recv().map_err(|_| ended(()))?
}
