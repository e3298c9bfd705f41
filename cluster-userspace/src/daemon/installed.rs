//! The program this process runs, as it is installed: where it is, whether it would start, and how it takes this process's
//! place.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::handed_on::HandedOn;
use crate::control::{ControlError, ErrorCode};

/// How long the installed program may take to check the configuration.
const CHECK: Duration = Duration::from_secs(10);

/// What is to be run in this process's place. Found out at the start: when a package is upgraded, the file that this process
/// runs loses its name to another.
#[derive(Clone, Debug)]
pub struct Installed {
    program: PathBuf,
    /// As this process was called.
    name: OsString,
    arguments: Vec<OsString>,
}

impl Installed {
    /// The program of this process and its arguments.
    #[must_use]
    pub fn of_this_process() -> Self {
        let mut arguments = env::args_os();
        let name = arguments.next().unwrap_or_default();
        let running = Path::new("/proc/self/exe");
        let inode = |path: &Path| fs::metadata(path).map(|file| (file.dev(), file.ino()));
        let ours = inode(running).ok();
        // By the name it was called, links included: an upgrade may make a link point elsewhere.
        let called = candidates(&name)
            .into_iter()
            .find(|path| inode(path).is_ok_and(|file| ours.is_none_or(|ours| file == ours)));
        let program = called.or_else(|| fs::read_link(running).ok()).unwrap_or_else(|| PathBuf::from(&name));
        Self { program, name, arguments: arguments.collect() }
    }

    /// Where it is.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Makes sure that the program runs and that the configuration is good for it.
    pub(super) async fn check(&self) -> Result<(), ControlError> {
        let refused = |why: String| {
            let program = self.program.display();
            let message = format!("{program} cannot take this daemon's place: {why}\nthis daemon goes on");
            ControlError::new(ErrorCode::BadBinary, message)
        };
        let mut command = tokio::process::Command::new(&self.program);
        command.arg0(&self.name).args(&self.arguments).arg("--check").env_remove(HandedOn::VARIABLE);
        command.stdin(Stdio::null()).kill_on_drop(true);
        let output = match tokio::time::timeout(CHECK, command.output()).await {
            Ok(Ok(output)) => output,
            Ok(Err(error)) => return Err(refused(format!("it cannot be run: {error}"))),
            Err(_) => return Err(refused(format!("it did not check the configuration within {CHECK:?}"))),
        };
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        // Whoever has a whole core dump to say is cut short.
        let said: String = said.trim().chars().take(4000).collect();
        Err(refused(if said.is_empty() { output.status.to_string() } else { said }))
    }

    /// Replaces this process, which keeps its id. To be called on the main thread, whose scheduling the next one inherits.
    /// Returns only if that is not possible: then nothing has changed.
    pub(super) fn take_over(&self, handed_on: &HandedOn) -> io::Error {
        let text = match handed_on.written() {
            Ok(text) => text,
            Err(error) => return error.into(),
        };
        let mut command = Command::new(&self.program);
        // Every descriptor of this process is closed on the way, and every signal is let through again.
        command.arg0(&self.name).args(&self.arguments).env(HandedOn::VARIABLE, text).exec()
    }
}

/// Where a program of that name may be.
fn candidates(name: &OsStr) -> Vec<PathBuf> {
    let path = Path::new(name);
    if path.components().count() > 1 {
        return env::current_dir().map(|directory| directory.join(path)).into_iter().collect();
    }
    let directories = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&directories).map(|directory| directory.join(path)).collect()
}
