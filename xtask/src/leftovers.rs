//! What the lab's tests must not leave on the machine: namespaces, pins, daemons.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::workspace::binaries;

/// What the names of everything begin with that a test makes; the id of its process follows.
const PREFIXES: [&str; 2] = ["clt-", "cluster-test"];

/// What there was at one moment.
#[derive(Default, Debug)]
pub(crate) struct Leftovers {
    files: BTreeSet<PathBuf>,
    daemons: BTreeSet<u32>,
}

impl Leftovers {
    /// Looks now.
    pub(crate) fn now() -> Self {
        // Where `ip netns` keeps namespaces, where tests and daemons pin maps and links, and where labs keep files.
        let places =
            ["/run/netns".into(), "/sys/fs/bpf".into(), "/sys/fs/bpf/cluster".into(), std::env::temp_dir()];
        let files = places.iter().flat_map(|place| made_by_tests(place)).collect();
        Self { files, daemons: orphans().into_iter().collect() }
    }

    /// What there is now and was not then, except what belongs to a process that still runs: tests started elsewhere
    /// at the same time.
    pub(crate) fn since(earlier: &Self) -> Vec<String> {
        Self::now().new_since(earlier, |id| Path::new("/proc").join(id.to_string()).exists())
    }

    fn new_since(&self, earlier: &Self, lives: impl Fn(u32) -> bool) -> Vec<String> {
        let files = self.files.difference(&earlier.files);
        let files =
            files.filter(|file| !owner_of(file).is_some_and(&lives)).map(|file| file.display().to_string());
        let daemons = self.daemons.difference(&earlier.daemons).map(|id| format!("clusterd, process {id}"));
        files.chain(daemons).collect()
    }
}

fn made_by_tests(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
    entries
        .filter(|entry| {
            let name = entry.file_name();
            PREFIXES.iter().any(|prefix| name.to_string_lossy().starts_with(prefix))
        })
        .map(|entry| entry.path())
        .collect()
}

/// The process whose id is the first number in the name.
fn owner_of(file: &Path) -> Option<u32> {
    let name = file.file_name()?.to_str()?;
    name.split(|c: char| !c.is_ascii_digit()).find(|digits| !digits.is_empty())?.parse().ok()
}

/// Daemons of ours that nobody waits for any more.
fn orphans() -> Vec<u32> {
    let daemon = binaries().join("clusterd");
    let processes = fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
    processes
        .filter(|entry| fs::read_link(entry.path().join("exe")).is_ok_and(|exe| exe == daemon))
        .filter(|entry| {
            fs::read_to_string(entry.path().join("status")).is_ok_and(|status| parent_of(&status) == Some(1))
        })
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

fn parent_of(status: &str) -> Option<u32> {
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leftovers(files: &[&str], daemons: &[u32]) -> Leftovers {
        Leftovers {
            files: files.iter().map(PathBuf::from).collect(),
            daemons: daemons.iter().copied().collect(),
        }
    }

    #[test]
    fn only_what_is_new_and_ownerless_counts() {
        let before = leftovers(&["/run/netns/clt-7-1-a"], &[5]);
        let after = leftovers(
            &[
                "/run/netns/clt-7-1-a",
                "/run/netns/clt-8-1-a",
                "/run/netns/clt-9-1-a",
                "/sys/fs/bpf/cluster-test",
            ],
            &[5, 9],
        );
        let remaining = after.new_since(&before, |id| id == 9 || id == 1);
        assert_eq!(remaining, ["/run/netns/clt-8-1-a", "/sys/fs/bpf/cluster-test", "clusterd, process 9"]);
    }

    #[test]
    fn the_owner_is_the_first_number_of_the_last_component() {
        assert_eq!(owner_of(Path::new("/run/4/clt-812-1-a")), Some(812));
        assert_eq!(owner_of(Path::new("/sys/fs/bpf/cluster-test-77")), Some(77));
        assert_eq!(owner_of(Path::new("/sys/fs/bpf/cluster-test")), None);
    }

    #[test]
    fn a_parent_is_read_from_a_processs_status() {
        assert_eq!(parent_of("Name:\tclusterd\nPid:\t9\nPPid:\t1\n"), Some(1));
        assert_eq!(parent_of("Name:\tclusterd\n"), None);
    }
}
