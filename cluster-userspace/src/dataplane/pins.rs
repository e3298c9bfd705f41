//! The node's directory in the BPF file system, and the lock on it.
//!
//! ```text
//! <root>/<cluster>/<node>/        locked for the daemon's life
//!     v3/vips, leases, …          maps, in a directory named for their layout
//!     xdp                         the link of the ingress program
//!     cluster_ingress, cluster_linear   ingress programs for somebody else's dispatcher (`--pin-only`)
//!     egress-<ifindex>            the link of the egress program on an interface (TCX)
//!     ingress-<ifindex>           the link of the program for virtual Ethernet addresses (TCX)
//!     clsact-<ifindex>-<p>-<m>    a directory that records a filter: priority p, discipline made by us (m = 1) or not
//! ```

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::error::DataPlaneError;

/// Where the BPF file system belongs.
const BPFFS: &str = "/sys/fs/bpf";

/// The node's directory, locked.
#[derive(Debug)]
pub(super) struct PinDirectory {
    path: PathBuf,
    /// The directories above that are ours to remove once they are empty.
    parents: Vec<PathBuf>,
    _lock: Flock<File>,
}

impl PinDirectory {
    /// Opens the node's directory, and makes it, and mounts the BPF file system, if need be.
    pub(super) fn open(root: &Path, cluster: &str, node: &str) -> Result<Self, DataPlaneError> {
        mount_bpffs(root)?;
        let parents = vec![root.join(file_name(cluster)), root.to_owned()];
        let path = parents[0].join(file_name(node));
        // A daemon that cleans up removes the directory that it has locked; whoever waited for that begins again.
        loop {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&path)
                .map_err(failed("make the directory", &path))?;
            if let Some(lock) = try_lock(&path)? {
                return Ok(Self { path, parents, _lock: lock });
            }
        }
    }

    /// Opens the node's directory if there is one.
    pub(super) fn open_existing(
        root: &Path,
        cluster: &str,
        node: &str,
    ) -> Result<Option<Self>, DataPlaneError> {
        let parents = vec![root.join(file_name(cluster)), root.to_owned()];
        let path = parents[0].join(file_name(node));
        while path.is_dir() {
            if let Some(lock) = try_lock(&path)? {
                return Ok(Some(Self { path, parents, _lock: lock }));
            }
        }
        Ok(None)
    }

    /// Where an entry of this name is, or would be.
    pub(super) fn entry(&self, name: impl AsRef<OsStr>) -> PathBuf {
        self.path.join(name.as_ref())
    }

    /// The names of all entries.
    pub(super) fn names(&self) -> Result<Vec<String>, DataPlaneError> {
        names(&self.path)
    }

    /// Removes a pin or a directory of pins, if it is there.
    pub(super) fn remove(&self, name: &str) -> Result<(), DataPlaneError> {
        remove(&self.entry(name))
    }

    /// Removes the directory and everything in it, and the ones above that become empty.
    pub(super) fn remove_all(self) -> Result<(), DataPlaneError> {
        remove(&self.path)?;
        for parent in &self.parents {
            match fs::remove_dir(parent) {
                Ok(()) => {}
                // Somebody else has pins there, or has removed it first.
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOTEMPTY | libc::ENOENT)) => break,
                Err(source) => return Err(failed("remove the directory", parent)(source)),
            }
        }
        Ok(())
    }
}

/// Removes a pin or a directory of pins, if it is there.
fn remove(path: &Path) -> Result<(), DataPlaneError> {
    let removed = match fs::symlink_metadata(path) {
        Ok(there) if there.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove the pin", path)(error)),
        _ => Ok(()),
    }
}

fn names(path: &Path) -> Result<Vec<String>, DataPlaneError> {
    let entries = fs::read_dir(path).map_err(failed("list the directory", path))?;
    entries
        .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<_>>()
        .map_err(failed("list the directory", path))
}

/// The lock, if it was had and the directory is still the one at this path.
fn try_lock(path: &Path) -> Result<Option<Flock<File>>, DataPlaneError> {
    let directory = match File::open(path) {
        Ok(directory) => directory,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(failed("open the directory", path)(source)),
    };
    match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => {
            let inode = |metadata: io::Result<fs::Metadata>| metadata.map(|metadata| metadata.ino()).ok();
            Ok((inode(lock.metadata()) == inode(fs::metadata(path))).then_some(lock))
        }
        Err((_, Errno::EWOULDBLOCK)) => Err(DataPlaneError::Locked { path: path.to_owned() }),
        Err((_, errno)) => Err(failed("lock the directory", path)(errno.into())),
    }
}

/// Makes sure that `root` is, or will be, in a BPF file system.
fn mount_bpffs(root: &Path) -> Result<(), DataPlaneError> {
    if is_bpffs(root) {
        return Ok(());
    }
    if !root.starts_with(BPFFS) {
        return Err(DataPlaneError::NotBpffs { path: root.to_owned() });
    }
    let failed = |source| DataPlaneError::Mount { path: BPFFS.into(), source };
    // Two daemons that start together must not mount it one above the other.
    let above = File::open("/sys/fs").map_err(failed)?;
    let _lock = Flock::lock(above, FlockArg::LockExclusive).map_err(|(_, errno)| failed(errno.into()))?;
    if is_bpffs(root) {
        return Ok(());
    }
    mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), Some("mode=0700"))
        .map_err(|errno| failed(errno.into()))
}

/// Whether the nearest directory that exists, this one or one above, is in a BPF file system.
fn is_bpffs(path: &Path) -> bool {
    path.ancestors()
        .find_map(|path| statfs(path).ok())
        .is_some_and(|there| there.filesystem_type() == BPF_FS_MAGIC)
}

/// The name as a file name. The BPF file system keeps dots to itself, and host names have them; all bytes but
/// letters, digits, `-` and `_` are written as `%` and two hex digits.
fn file_name(name: &str) -> String {
    name.bytes().fold(String::new(), |mut file_name, byte| {
        if byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_' {
            file_name.push(char::from(byte));
        } else {
            file_name.push_str(&format!("%{byte:02x}"));
        }
        file_name
    })
}

fn failed(attempt: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DataPlaneError {
    let path = path.to_owned();
    move |source| DataPlaneError::File { attempt, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_file_names_without_dots_or_slashes() {
        assert_eq!(file_name("edge-1_A"), "edge-1_A");
        assert_eq!(file_name("a.example.org"), "a%2eexample%2eorg");
        assert_eq!(file_name("../x"), "%2e%2e%2fx");
        assert_ne!(file_name("%2e"), file_name("."));
    }

    #[test]
    fn a_directory_elsewhere_is_refused() {
        let refused = PinDirectory::open(Path::new("/tmp/cluster-test"), "c", "n");
        assert!(matches!(refused, Err(DataPlaneError::NotBpffs { .. })), "{refused:?}");
    }
}
