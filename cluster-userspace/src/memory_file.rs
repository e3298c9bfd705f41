//! The file with what a node must not forget over a restart: its voters, a change of them that is not through, and how
//! long its promises may last. It is written before the election relies on it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use cluster_proto::wire::VoterList;
use cluster_proto::{Memory, NodeId, Phase, VoterSet};
use serde::{Deserialize, Serialize};

use crate::epoch_file::{EpochFileError, replace_durably};

/// No promise lasts longer: a configuration's are over after two minutes.
const LONGEST_PROMISE: Duration = Duration::from_secs(600);

/// The file of one node.
#[derive(Clone, Debug)]
pub struct MemoryFile {
    path: PathBuf,
}

/// Why it cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MemoryFileError {
    /// The system refused.
    #[error(transparent)]
    File(#[from] EpochFileError),
    /// It cannot be read.
    #[error("cannot read {path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It holds something else.
    #[error(
        "{path} does not hold what this node last knew of its voters ({why}); if it is damaged, remove it while no change \
             of the voters is under way on any node"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

impl MemoryFileError {
    /// Whether it is merely not for this user to read.
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        matches!(self, Self::Unreadable { source, .. } if source.kind() == io::ErrorKind::PermissionDenied)
    }
}

#[derive(Serialize, Deserialize)]
struct Saved {
    current: SavedSet,
    former: Option<SavedChange>,
    longest_promise_us: u64,
}

#[derive(Serialize, Deserialize)]
struct SavedSet {
    voters: Vec<u16>,
    majority: bool,
}

#[derive(Serialize, Deserialize)]
struct SavedChange {
    from: SavedSet,
    closed: bool,
}

impl MemoryFile {
    /// The file in a state directory that exists.
    #[must_use]
    pub fn new(state_directory: &Path) -> Self {
        Self { path: state_directory.join("memory") }
    }

    /// What was last written; `None` if nothing ever was.
    ///
    /// # Errors
    /// It cannot be read, or holds something else.
    pub fn read(&self) -> Result<Option<Memory>, MemoryFileError> {
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(MemoryFileError::Unreadable { path: self.path.clone(), source }),
        };
        let damaged = |why: String| MemoryFileError::Damaged { path: self.path.clone(), why };
        let saved: Saved = serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))?;
        let set = |saved: SavedSet| {
            if saved.voters.len() > cluster_proto::wire::MAX_VOTERS {
                return Err(damaged(format!("{} voters", saved.voters.len())));
            }
            // One that stood there twice would count as two of those that are needed.
            let different: BTreeSet<u16> = saved.voters.iter().copied().collect();
            if different.len() < saved.voters.len() || different.contains(&0) {
                return Err(damaged(format!("voters {:?}", saved.voters)));
            }
            let voters = VoterList::new(saved.voters.into_iter().map(NodeId));
            Ok(VoterSet { voters, majority: saved.majority })
        };
        let former = saved.former.map(|change| {
            let phase = if change.closed { Phase::Closed } else { Phase::Open };
            Ok::<_, MemoryFileError>((set(change.from)?, phase))
        });
        let longest_promise = Duration::from_micros(saved.longest_promise_us);
        if longest_promise > LONGEST_PROMISE {
            return Err(damaged(format!(
                "a promise of {longest_promise:?}, which this node would have to wait for"
            )));
        }
        Ok(Some(Memory { current: set(saved.current)?, former: former.transpose()?, longest_promise }))
    }

    /// Replaces it, and returns once that is on disk.
    ///
    /// # Errors
    /// It cannot be written; what was there stays.
    pub fn write(&self, memory: &Memory) -> Result<(), MemoryFileError> {
        let set = |set: &VoterSet| SavedSet {
            voters: set.voters.iter().map(|voter| voter.0).collect(),
            majority: set.majority,
        };
        let saved = Saved {
            current: set(&memory.current),
            former: memory
                .former
                .map(|(from, phase)| SavedChange { from: set(&from), closed: phase == Phase::Closed }),
            // Rounded up: a promise must not last longer than this says.
            longest_promise_us: u64::try_from(memory.longest_promise.as_nanos().div_ceil(1000))
                .unwrap_or(u64::MAX),
        };
        let text = serde_json::to_string(&saved)
            .map_err(|error| MemoryFileError::Damaged { path: self.path.clone(), why: error.to_string() })?;
        Ok(replace_durably(&self.path, &format!("{text}\n"))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_damage_is_an_error() {
        let directory = std::env::temp_dir().join(format!("cluster-memory-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let file = MemoryFile::new(&directory);
        assert_eq!(file.read().unwrap(), None);
        let set = |ids: &[u16], majority| VoterSet {
            voters: VoterList::new(ids.iter().copied().map(NodeId)),
            majority,
        };
        let mut memory = Memory {
            current: set(&[3, 1, 2], true),
            former: Some((set(&[1, 2], false), Phase::Closed)),
            longest_promise: Duration::from_millis(50),
        };
        file.write(&memory).unwrap();
        assert_eq!(file.read().unwrap(), Some(memory));
        memory.former = None;
        file.write(&memory).unwrap();
        assert_eq!(file.read().unwrap(), Some(memory));
        let ten = r#"{"current":{"voters":[1,2,3,4,5,6,7,8,9,10],"majority":true},"former":null,"longest_promise_us":1}"#;
        let saved = |voters: &str, promise: u64| {
            format!(
                r#"{{"current":{{"voters":{voters},"majority":true}},"former":null,"longest_promise_us":{promise}}}"#
            )
        };
        fs::write(&file.path, saved("[1,2,3]", 600_000_000)).unwrap();
        assert!(file.read().unwrap().is_some());
        let (twice, nobody) = (saved("[1,2,2]", 1), saved("[0,1,2]", 1));
        let (long, endless) = (saved("[1,2,3]", 600_000_001), saved("[1,2,3]", u64::MAX));
        for damaged in ["", "{}", ten, &twice, &nobody, &long, &endless] {
            fs::write(&file.path, damaged).unwrap();
            assert!(matches!(file.read(), Err(MemoryFileError::Damaged { .. })), "{damaged}");
        }
        fs::remove_dir_all(&directory).unwrap();
    }
}
