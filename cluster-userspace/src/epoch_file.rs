//! The file that says which epoch counters may have been used: all below the number in it. It is written before they
//! are, so that no restart ever uses one twice.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use cluster_proto::wire::DAMAGED_COUNTER;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// The file of one node.
#[derive(Clone, Debug)]
pub struct EpochFile {
    path: PathBuf,
}

/// Why it cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EpochFileError {
    /// The system refused.
    #[error(
        "cannot {attempt} {path}: {source}; epochs must survive a restart, so the state directory has to be writable"
    )]
    Io {
        /// What was attempted.
        attempt: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another daemon has it.
    #[error("another clusterd runs with the state directory {0}: one of this name may vote only once")]
    InUse(PathBuf),
    /// It holds something else, or a number that no node comes to.
    #[error(
        "{path} does not hold a number of epochs that a node can have used ({found:?}); if it is damaged, write into it a \
             number above every epoch counter that `clusterctl status` shows on the other nodes, and not much above"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How what it holds begins.
        found: String,
    },
}

impl EpochFile {
    /// The file in a state directory, which is made if it does not exist.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn open(state_directory: &Path) -> Result<Self, EpochFileError> {
        fs::create_dir_all(state_directory).map_err(|source| EpochFileError::Io {
            attempt: "create",
            path: state_directory.to_owned(),
            source,
        })?;
        Ok(Self { path: state_directory.join("epochs") })
    }

    /// Keeps other daemons from the file's directory for as long as the lock lives.
    ///
    /// # Errors
    /// Another daemon has it, or it cannot be locked.
    pub fn lock(&self) -> Result<Flock<File>, EpochFileError> {
        let directory = self.path.parent().unwrap_or(Path::new("/"));
        let failed = |source| EpochFileError::Io { attempt: "lock", path: directory.to_owned(), source };
        let opened = File::open(directory).map_err(failed)?;
        Flock::lock(opened, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
            Errno::EWOULDBLOCK => EpochFileError::InUse(directory.to_owned()),
            errno => failed(errno.into()),
        })
    }

    /// The first counter that was never reserved; 0 if there is no file yet.
    ///
    /// # Errors
    /// It cannot be read, or holds no number, or one that would soon leave this node without epochs.
    pub fn read(&self) -> Result<u64, EpochFileError> {
        match fs::read_to_string(&self.path) {
            Ok(text) => {
                let number = text.trim().parse::<u64>().ok().filter(|&number| number < DAMAGED_COUNTER);
                number.ok_or_else(|| EpochFileError::Damaged {
                    path: self.path.clone(),
                    found: text.chars().take(40).collect(),
                })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(source) => Err(EpochFileError::Io { attempt: "read", path: self.path.clone(), source }),
        }
    }

    /// Replaces the number, and returns once that is on disk.
    ///
    /// # Errors
    /// It cannot be written; the old number stays.
    pub fn write(&self, below: u64) -> Result<(), EpochFileError> {
        replace_durably(&self.path, &format!("{below}\n"))
    }
}

/// Replaces what a file holds, and returns once that is on disk.
///
/// # Errors
/// It cannot be written; what was there stays.
pub(crate) fn replace_durably(path: &Path, text: &str) -> Result<(), EpochFileError> {
    let next = path.with_extension("next");
    let failed = |attempt, path: &Path, source| EpochFileError::Io { attempt, path: path.to_owned(), source };
    let written = File::create(&next).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.map_err(|source| failed("write", &next, source))?;
    fs::rename(&next, path).map_err(|source| failed("replace", path, source))?;
    // The rename itself is on disk once the directory is.
    let directory = path.parent().unwrap_or(Path::new("/"));
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|source| failed("sync", directory, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_damage_is_an_error() {
        let directory = std::env::temp_dir().join(format!("cluster-epochs-{}", std::process::id()));
        let file = EpochFile::open(&directory.join("deep")).unwrap();
        assert_eq!(file.read().unwrap(), 0);
        file.write(1025).unwrap();
        file.write(2049).unwrap();
        assert_eq!(file.read().unwrap(), 2049);
        let lock = file.lock().unwrap();
        assert!(matches!(file.lock(), Err(EpochFileError::InUse(_))), "one daemon at a time");
        drop(lock);
        drop(file.lock().unwrap());
        fs::write(&file.path, (DAMAGED_COUNTER - 1).to_string()).unwrap();
        assert_eq!(file.read().unwrap(), DAMAGED_COUNTER - 1);
        let (too_high, highest) = (DAMAGED_COUNTER.to_string(), u64::MAX.to_string());
        for damaged in ["x", "", "-1", &too_high, &highest] {
            fs::write(&file.path, damaged).unwrap();
            let why = file.read().expect_err(damaged).to_string();
            assert!(why.contains(damaged) && why.contains("clusterctl status"), "{why}");
        }
        fs::remove_dir_all(&directory).unwrap();
    }
}
