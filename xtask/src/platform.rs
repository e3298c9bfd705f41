//! Which distribution this is, whether we are root, and where programs are.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// What decides how a missing package gets onto this machine.
#[derive(Clone, Debug)]
pub(crate) struct Platform {
    /// Whose package manager it has.
    pub(crate) family: Family,
    /// The distribution's own name for itself, for messages.
    pub(crate) name: String,
    /// Whether this process may install packages.
    pub(crate) root: bool,
}

/// Distributions by package manager.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Family {
    /// apt: Debian, Ubuntu and what derives from them.
    Debian,
    /// dnf: Fedora, Red Hat and what derives from them.
    Fedora,
    /// pacman: Arch and what derives from it.
    Arch,
    /// One whose package names we do not know.
    Other,
}

impl Platform {
    /// Reads this machine's; an unreadable `/etc/os-release` makes it [`Family::Other`].
    pub(crate) fn of_this_machine() -> Self {
        let text = fs::read_to_string("/etc/os-release")
            .or_else(|_| fs::read_to_string("/usr/lib/os-release"))
            .unwrap_or_default();
        let (family, name) = parse_os_release(&text);
        Self { family, name, root: is_root() }
    }
}

/// Whether the effective user is root.
pub(crate) fn is_root() -> bool {
    // The owner of a process's directory in /proc is its effective user; this spares a dependency for geteuid.
    fs::metadata("/proc/self").is_ok_and(|entry| entry.uid() == 0)
}

/// Finds a program the way a shell does, and also where administrators' programs are when `PATH` leaves those out, as
/// Debian's does for ordinary users.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    directories_on_path()
        .into_iter()
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|directory| directory.join(name))
        .find(|file| is_executable(file))
}

/// The directories of `PATH`, in order.
pub(crate) fn directories_on_path() -> Vec<PathBuf> {
    std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default()
}

/// Whether this is a file that somebody may execute.
pub(crate) fn is_executable(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|entry| entry.is_file() && entry.permissions().mode() & 0o111 != 0)
}

fn parse_os_release(text: &str) -> (Family, String) {
    let value = |key: &str| {
        text.lines()
            .filter_map(|line| line.trim().split_once('='))
            .find(|(name, _)| *name == key)
            .map(|(_, value)| value.trim_matches(['"', '\'']).to_owned())
    };
    let id = value("ID").unwrap_or_default();
    let like = value("ID_LIKE").unwrap_or_default();
    let family = std::iter::once(id.as_str())
        .chain(like.split_whitespace())
        .find_map(|name| match name {
            "debian" | "ubuntu" => Some(Family::Debian),
            "fedora" | "rhel" | "centos" => Some(Family::Fedora),
            "arch" | "archlinux" => Some(Family::Arch),
            _ => None,
        })
        .unwrap_or(Family::Other);
    let name = value("PRETTY_NAME")
        .or_else(|| (!id.is_empty()).then_some(id))
        .unwrap_or_else(|| "an unknown distribution".to_owned());
    (family, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debian_is_known_by_its_id() {
        let text = "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\nVERSION_ID=\"12\"\n";
        assert_eq!(parse_os_release(text), (Family::Debian, "Debian GNU/Linux 12 (bookworm)".to_owned()));
    }

    #[test]
    fn derivatives_are_known_by_what_they_are_like() {
        let mint = "ID=linuxmint\nID_LIKE=\"ubuntu debian\"\nPRETTY_NAME=\"Linux Mint 22\"\n";
        assert_eq!(parse_os_release(mint).0, Family::Debian);
        let rocky = "ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n";
        assert_eq!(parse_os_release(rocky), (Family::Fedora, "rocky".to_owned()));
        let manjaro = "ID=manjaro\nID_LIKE=arch\n";
        assert_eq!(parse_os_release(manjaro).0, Family::Arch);
    }

    #[test]
    fn what_says_nothing_is_other() {
        assert_eq!(parse_os_release(""), (Family::Other, "an unknown distribution".to_owned()));
        assert_eq!(parse_os_release("no equals sign\n= \nID=\n").0, Family::Other);
        assert_eq!(parse_os_release("ID=alpine\n"), (Family::Other, "alpine".to_owned()));
    }

    #[test]
    fn programs_are_found_outside_the_path_of_ordinary_users() {
        assert!(program("sh").is_some());
        assert_eq!(program("no-such-program-here"), None);
    }
}
