//! What the daemon of a witness runs on: an ordinary user, and a directory of this user's own below the lab's, with the
//! program, the configuration and the key.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use super::cluster::{binary, key_file};
use super::topology::Lab;

/// The user and the group that own nothing anywhere.
const NOBODY: u32 = 65534;
/// What stands for the two limits (RTPRIO, MEMLOCK) that a service manager would give this user: without them the daemon runs
/// all the same, and a busy machine makes its votes late.
const CAPABILITIES: &str = "-all,+sys_nice,+ipc_lock";

/// The directory of one witness.
#[derive(Debug)]
pub(super) struct Home {
    witness: String,
    directory: PathBuf,
}

impl Home {
    /// That of this witness.
    pub(super) fn of(lab: &Lab, witness: &str) -> Self {
        Self { witness: witness.to_owned(), directory: lab.directory().join(witness) }
    }

    /// Its daemon's control socket.
    pub(super) fn socket(&self) -> PathBuf {
        self.directory.join("control.sock")
    }

    /// Makes it and puts into it what its daemon needs besides a configuration.
    pub(super) fn furnish(&self, lab: &Lab) -> anyhow::Result<()> {
        let made = || -> anyhow::Result<()> {
            fs::set_permissions(lab.directory(), Permissions::from_mode(0o755))?;
            fs::create_dir_all(&self.directory)?;
            chown(&self.directory, Some(NOBODY), Some(NOBODY))?;
            // Where the programs were built this user may see nothing.
            if !self.program().exists() && fs::hard_link(binary("clusterd"), self.program()).is_err() {
                fs::copy(binary("clusterd"), self.program()).context("copying the program")?;
            }
            let key = self.directory.join("cluster.key");
            fs::copy(key_file(lab), &key).context("copying the key")?;
            fs::set_permissions(&key, Permissions::from_mode(0o600))?;
            Ok(chown(&key, Some(NOBODY), Some(NOBODY))?)
        };
        made().with_context(|| format!("making {}", self.directory.display()))
    }

    /// Gives it the configuration of the lab's cluster, with this directory in the place of the lab's own.
    pub(super) fn configure(&self, lab: &Lab, text: &str) -> anyhow::Result<()> {
        let shown = |directory: &Path| directory.display().to_string();
        let text = text.replace(&shown(lab.directory()), &shown(&self.directory));
        fs::write(self.config(), text).with_context(|| format!("writing {}", self.config().display()))
    }

    /// Its daemon, as this user.
    pub(super) fn daemon(&self, lab: &Lab) -> Command {
        let mut command = lab.host(&self.witness).namespace.command("setpriv");
        let user = NOBODY.to_string();
        command.args(["--reuid", &user, "--regid", &user, "--clear-groups", "--no-new-privs"]);
        for set in ["--inh-caps", "--ambient-caps", "--bounding-set"] {
            command.arg(format!("{set}={CAPABILITIES}"));
        }
        // A change of the user takes away that it is killed when this process ends.
        command.args(["--pdeathsig", "KILL", "--"]);
        command.arg(self.program()).arg("--config").arg(self.config());
        command
    }

    fn config(&self) -> PathBuf {
        self.directory.join("cluster.toml")
    }

    fn program(&self) -> PathBuf {
        self.directory.join("clusterd")
    }
}
