//! The programs of other packages that the verbs need, and the package managers' commands that install them.

use std::process::{Command, Stdio};

use crate::command::CommandLine;
use crate::platform::{Family, Platform, program};

/// A program that a verb runs, and the package it comes in.
#[derive(Debug)]
pub(crate) struct Tool {
    program: &'static str,
    /// What it is needed for; completes "NAME: …".
    pub(crate) purpose: &'static str,
    debian: &'static str,
    fedora: &'static str,
    arch: &'static str,
}

/// What the lab needs, thus `test`, `run` and `bench`.
pub(crate) const LAB: &[Tool] = &[
    Tool {
        program: "ip",
        purpose: "makes the lab's network namespaces and links",
        debian: "iproute2",
        fedora: "iproute",
        arch: "iproute2",
    },
    Tool {
        program: "bridge",
        purpose: "cuts the lab's switch ports",
        debian: "iproute2",
        fedora: "iproute",
        arch: "iproute2",
    },
    Tool {
        program: "tc",
        purpose: "shows what is attached to the lab's links",
        debian: "iproute2",
        fedora: "iproute-tc",
        arch: "iproute2",
    },
    Tool {
        program: "ethtool",
        purpose: "turns off offloads that veth pairs do wrong",
        debian: "ethtool",
        fedora: "ethtool",
        arch: "ethtool",
    },
    Tool {
        program: "nsenter",
        purpose: "starts daemons in the lab's namespaces",
        debian: "util-linux",
        fedora: "util-linux-core",
        arch: "util-linux",
    },
    Tool {
        program: "setpriv",
        purpose: "ends a daemon of the lab with the test that started it",
        debian: "util-linux",
        fedora: "util-linux",
        arch: "util-linux",
    },
];

/// What `bench failover` measures beside ours.
pub(crate) const RIVALS: &[Tool] = &[
    Tool {
        program: "keepalived",
        purpose: "is measured beside ours; its service is left off",
        debian: "keepalived",
        fedora: "keepalived",
        arch: "keepalived",
    },
    Tool {
        program: "ucarp",
        purpose: "is measured beside ours",
        debian: "ucarp",
        fedora: "ucarp",
        arch: "ucarp",
    },
];

/// The servers and clients of `bench servers`.
pub(crate) const SERVERS: &[Tool] = &[
    Tool {
        program: "nginx",
        purpose: "serves in the lab; its service is left off",
        debian: "nginx",
        fedora: "nginx-core",
        arch: "nginx",
    },
    Tool { program: "wrk", purpose: "is its client", debian: "wrk", fedora: "wrk", arch: "wrk" },
    Tool {
        program: "iperf3",
        purpose: "sends streams in the lab",
        debian: "iperf3",
        fedora: "iperf3",
        arch: "iperf3",
    },
];

impl Tool {
    /// Whether this machine has it.
    pub(crate) fn is_present(&self) -> bool {
        program(self.program).is_some()
    }

    /// Its own name.
    pub(crate) fn name(&self) -> &'static str {
        self.program
    }

    /// The package it comes in; none where we do not know the distribution's names.
    fn package(&self, family: Family) -> Option<&'static str> {
        match family {
            Family::Debian => Some(self.debian),
            Family::Fedora => Some(self.fedora),
            Family::Arch => Some(self.arch),
            Family::Other => None,
        }
    }
}

/// The packages that these tools come in, each once; empty where we do not know the distribution's names.
pub(crate) fn packages_of(tools: &[&Tool], family: Family) -> Vec<String> {
    let mut packages: Vec<String> =
        tools.iter().filter_map(|tool| tool.package(family)).map(str::to_owned).collect();
    packages.sort();
    packages.dedup();
    packages
}

/// The commands that install these packages; none if there are none, or where we do not know how.
pub(crate) fn install(packages: &[String], platform: &Platform) -> Vec<CommandLine> {
    if packages.is_empty() {
        return Vec::new();
    }
    let command = match platform.family {
        // Without --no-remove, apt takes away a compiler that conflicts with the one asked for.
        Family::Debian => {
            CommandLine::as_root("apt-get", &["install", "--yes", "--no-install-recommends", "--no-remove"])
                .with_environment("DEBIAN_FRONTEND", "noninteractive")
        }
        Family::Fedora => {
            CommandLine::as_root("dnf", &["install", "--assumeyes", "--setopt=install_weak_deps=False"])
        }
        Family::Arch => CommandLine::as_root("pacman", &["--sync", "--needed", "--noconfirm"]),
        Family::Other => return Vec::new(),
    };
    vec![command.with(packages.iter().cloned())]
}

/// The command that fetches the lists of packages.
pub(crate) fn update_lists() -> CommandLine {
    CommandLine::as_root("apt-get", &["update"])
}

/// The services that installing some of [`RIVALS`] and [`SERVERS`] would enable: their own, and that of ifupdown, which Debian's
/// ucarp brings along where it is not there already.
pub(crate) fn services_of(tools: &[&Tool], ifupdown_is_there: bool) -> Vec<&'static str> {
    let service = |tool: &&Tool| match tool.program {
        "keepalived" => Some("keepalived"),
        "ucarp" if !ifupdown_is_there => Some("networking"),
        "nginx" => Some("nginx"),
        _ => None,
    };
    tools.iter().filter_map(service).collect()
}

/// Wraps an installation such that these services are neither started nor left enabled. Without systemd, the runlevel
/// is what keeps Debian's `invoke-rc.d` from starting them.
pub(crate) fn without_services(
    install: Vec<CommandLine>,
    services: &[&str],
    family: Family,
    systemd: bool,
) -> Vec<CommandLine> {
    if install.is_empty() || services.is_empty() || family == Family::Other {
        return install;
    }
    if systemd {
        let units: Vec<String> = services.iter().map(|service| format!("{service}.service")).collect();
        let systemctl = |arguments: &[&str]| CommandLine::as_root("systemctl", arguments).with(units.clone());
        let after = [systemctl(&["unmask", "--runtime"]), systemctl(&["disable"])];
        [systemctl(&["mask", "--runtime"])].into_iter().chain(install).chain(after).collect()
    } else if family == Family::Debian {
        let install = install.into_iter().map(|command| command.with_environment("RUNLEVEL", "1"));
        let after = services.iter().map(|service| CommandLine::as_root("update-rc.d", &[service, "disable"]));
        install.chain(after).collect()
    } else {
        install
    }
}

/// Whether apt's lists on this machine have every one of these packages.
pub(crate) fn apt_knows(packages: &[String]) -> bool {
    packages.is_empty()
        || Command::new("apt-cache")
            .args(["policy", "--"])
            .args(packages)
            .env("LC_ALL", "C")
            .stderr(Stdio::null())
            .output()
            .is_ok_and(|output| all_have_candidates(&String::from_utf8_lossy(&output.stdout), packages))
}

/// Those of these packages that dpkg does not have installed; all of them where there is no dpkg.
pub(crate) fn not_installed(packages: &[String]) -> Vec<String> {
    let listing = Command::new("dpkg-query")
        .args(["--show", "--showformat=${Package} ${db:Status-Status}\\n", "--"])
        .args(packages)
        .stderr(Stdio::null())
        .output();
    // It ends with 1 when it has not heard of one of them, and still lists the others.
    let listing =
        listing.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let installed = installed(&listing);
    packages.iter().filter(|package| !installed.contains(&package.as_str())).cloned().collect()
}

/// The packages with a candidate, from `apt-cache policy`; it leaves out names it has never heard of.
fn all_have_candidates(policy: &str, packages: &[String]) -> bool {
    let mut current = "";
    let mut available = Vec::new();
    for line in policy.lines() {
        if let Some(name) = line.strip_suffix(':').filter(|_| !line.starts_with(' ')) {
            current = name;
        } else if let Some(version) = line.trim().strip_prefix("Candidate: ")
            && version != "(none)"
        {
            available.push(current);
        }
    }
    packages.iter().all(|package| available.contains(&package.as_str()))
}

/// The installed ones, from lines of "package status".
fn installed(listing: &str) -> Vec<&str> {
    listing
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter(|(_, status)| *status == "installed")
        .map(|(package, _)| package)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(packages: &[&str]) -> Vec<String> {
        packages.iter().map(|&package| package.to_owned()).collect()
    }

    fn platform(family: Family) -> Platform {
        Platform { family, name: "some distribution".to_owned(), root: true }
    }

    #[test]
    fn several_tools_of_one_package_are_one_package() {
        let tools: Vec<&Tool> = LAB.iter().collect();
        assert_eq!(packages_of(&tools, Family::Debian), ["ethtool", "iproute2", "util-linux"]);
        assert_eq!(packages_of(&tools, Family::Arch), ["ethtool", "iproute2", "util-linux"]);
        assert!(packages_of(&tools, Family::Other).is_empty());
    }

    #[test]
    fn each_package_manager_is_asked_in_its_own_words() {
        let shown = |family| {
            install(&names(&["ethtool"]), &platform(family))
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            shown(Family::Debian),
            [
                "sudo DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends --no-remove \
              ethtool"
            ]
        );
        assert_eq!(
            shown(Family::Fedora),
            ["sudo dnf install --assumeyes --setopt=install_weak_deps=False ethtool"]
        );
        assert_eq!(shown(Family::Arch), ["sudo pacman --sync --needed --noconfirm ethtool"]);
        assert!(shown(Family::Other).is_empty());
        assert!(install(&[], &platform(Family::Debian)).is_empty());
    }

    #[test]
    fn rivals_arrive_without_their_services() {
        let apt = install(&names(&["keepalived", "ucarp"]), &platform(Family::Debian));
        let shown = |systemd, ifupdown| -> Vec<String> {
            let services = services_of(&RIVALS.iter().collect::<Vec<_>>(), ifupdown);
            let commands = without_services(apt.clone(), &services, Family::Debian, systemd);
            commands.iter().map(ToString::to_string).collect()
        };
        let with_systemd = shown(true, false);
        assert_eq!(with_systemd[0], "sudo systemctl mask --runtime keepalived.service networking.service");
        assert!(with_systemd[1].ends_with("keepalived ucarp"));
        assert_eq!(
            with_systemd[2..],
            [
                "sudo systemctl unmask --runtime keepalived.service networking.service",
                "sudo systemctl disable keepalived.service networking.service"
            ]
        );
        let without = shown(false, true);
        assert!(without[0].contains("RUNLEVEL=1"));
        assert_eq!(
            without[1..],
            ["sudo update-rc.d keepalived disable"],
            "the host's own network stays as it is"
        );
        assert!(without_services(Vec::new(), &["keepalived"], Family::Debian, true).is_empty());
        assert_eq!(services_of(&SERVERS.iter().collect::<Vec<_>>(), false), ["nginx"]);
        assert_eq!(without_services(apt.clone(), &[], Family::Debian, true), apt);
    }

    #[test]
    fn candidates_are_read_from_apts_policy() {
        let policy = "llvm-22-dev:\n  Installed: (none)\n  Candidate: 1:22.1.8-1~deb12u1\n  Version table:\n     \
                      1:22.1.8-1~deb12u1 500\n        500 http://deb.debian.org/debian bookworm/main Packages\n\
                      ghost:\n  Installed: (none)\n  Candidate: (none)\n  Version table:\n";
        assert!(all_have_candidates(policy, &names(&["llvm-22-dev"])));
        assert!(!all_have_candidates(policy, &names(&["llvm-22-dev", "ghost"])));
        assert!(!all_have_candidates(policy, &names(&["never-heard-of"])));
        assert!(!all_have_candidates("", &names(&["llvm-22-dev"])));
    }

    #[test]
    fn only_installed_packages_count() {
        assert_eq!(installed("rustc installed\ncargo config-files\nrustup not-installed\n\n"), ["rustc"]);
        assert!(installed("").is_empty());
    }
}
