//! `[cluster]`, `[timing]` and `[control]`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cluster_proto::{Key, Quorum, Timing};

use super::document::{Findings, Item, Section};
use super::values::{self, format_duration};
use super::{DEFAULT_SOCKET, DEFAULT_STATE_DIR, key_file};

/// `[cluster]`.
#[derive(Clone, Debug)]
pub(super) struct Cluster {
    pub(super) name: String,
    /// The first signs, all verify; never empty.
    pub(super) keys: Vec<Key>,
    pub(super) quorum: QuorumRule,
    pub(super) state_dir: PathBuf,
}

/// `quorum`, before the voters are counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum QuorumRule {
    Auto,
    Off,
    Majority,
}

impl QuorumRule {
    /// What it means with so many voters.
    pub(super) fn with(self, voters: usize) -> Quorum {
        match self {
            Self::Auto if voters >= 3 => Quorum::Majority,
            Self::Auto | Self::Off => Quorum::Off,
            Self::Majority => Quorum::Majority,
        }
    }
}

pub(super) fn read_cluster(root: &Section<'_>, file: &Path, findings: &mut Findings) -> Option<Cluster> {
    let section = root
        .required("cluster", "a `[cluster]` section with `name` and `key_file`", findings)?
        .section(findings)?;
    section.refuse_unknown(&["name", "key_file", "key_files", "quorum", "state_dir"], &[], findings);
    let name = section
        .required("name", "the same name on every node, such as \"edge\"", findings)
        .and_then(|item| values::name(&item, findings));
    let quorum = match section.item("quorum") {
        Some(item) => item.choice(&["auto", "off", "majority"], &[], findings).map(|rule| match rule {
            "off" => QuorumRule::Off,
            "majority" => QuorumRule::Majority,
            _ => QuorumRule::Auto,
        }),
        None => Some(QuorumRule::Auto),
    };
    let state_dir = absolute_path(&section, "state_dir", DEFAULT_STATE_DIR, findings);
    let keys = read_keys(&section, file, findings);
    Some(Cluster { name: name?.to_owned(), keys: keys?, quorum: quorum?, state_dir: state_dir? })
}

/// The keys of exactly one of `key_file` and `key_files`.
fn read_keys(section: &Section<'_>, file: &Path, findings: &mut Findings) -> Option<Vec<Key>> {
    let Some(several) = section.item("key_files") else {
        let item = section.required("key_file", "the file `clusterctl keygen` was printed into", findings)?;
        let path = item.string(findings)?;
        return Some(vec![read_key(&item, path, file, findings)?]);
    };
    if section.item("key_file").is_some() {
        several.refuse("give either `key_file` or `key_files`, not both", findings);
        return None;
    }
    let paths = several.strings(findings)?;
    if paths.is_empty() {
        several.refuse("needs at least one file; the first key signs, all verify", findings);
        return None;
    }
    // Every file is read before any failure counts, so that all that is wrong is said at once.
    let keys: Vec<_> = paths.iter().map(|(item, path)| read_key(item, path, file, findings)).collect();
    keys.into_iter().collect()
}

fn read_key(item: &Item<'_>, path: &str, file: &Path, findings: &mut Findings) -> Option<Key> {
    let path = file.parent().unwrap_or(Path::new("")).join(path);
    key_file::read(&path)
        .map_err(|reasons| {
            for reason in reasons {
                item.refuse(format!("{}: {reason}", path.display()), findings);
            }
        })
        .ok()
}

/// `[timing]`, and the rules that make two leases at once impossible.
pub(super) fn read_timing(root: &Section<'_>, findings: &mut Findings) -> Option<Timing> {
    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }
    let section = match root.item("timing") {
        Some(item) => Some(item.section(findings)?),
        None => None,
    };
    if let Some(section) = &section {
        section.refuse_unknown(&["heartbeat", "lease", "dead_after", "startup_wait"], &[], findings);
    }
    let section = section.as_ref();
    let mut read = |key, default, least, most| values::duration(section, key, default, least, most, findings);
    // The upper bounds only catch slips: a minute's lease means a minute's outage.
    let heartbeat = read("heartbeat", ms(10), ms(1), ms(10_000));
    let lease = read("lease", ms(40), ms(3), ms(60_000));
    let dead_after = read("dead_after", ms(50), ms(1), ms(120_000));
    let startup_wait = read("startup_wait", ms(2_000), Duration::ZERO, ms(600_000));

    if let (Some(heartbeat), Some(lease)) = (heartbeat, lease)
        && lease < 3 * heartbeat
    {
        let least = format_duration(3 * heartbeat);
        let why = format!("must be at least 3 heartbeats, {least}");
        refuse_timing(section, ("lease", lease), "heartbeat", &why, findings);
    }
    if let (Some(lease), Some(dead_after)) = (lease, dead_after)
        && 10 * dead_after < 11 * lease
    {
        let least = format_duration(lease * 11 / 10);
        let why = format!("must be at least 1.1 leases, {least}, or two nodes could hold at once");
        refuse_timing(section, ("dead_after", dead_after), "lease", &why, findings);
    }
    Some(Timing {
        heartbeat: heartbeat?,
        lease: lease?,
        dead_after: dead_after?,
        startup_wait: startup_wait?,
    })
}

/// Reports a duration that does not fit another one, at the line of whichever of the two is given.
fn refuse_timing(
    section: Option<&Section<'_>>,
    (key, value): (&str, Duration),
    other: &str,
    why: &str,
    findings: &mut Findings,
) {
    let given = |key| section.and_then(|section| section.item(key));
    let value = format_duration(value);
    match (given(key), given(other)) {
        (Some(item), _) => item.refuse(format!("{why}, not {value}"), findings),
        (None, Some(item)) => findings.report(
            item.at,
            &format!("timing.{key}"),
            format!("{why}, not {value}, its default; give `{key}` too"),
        ),
        // Both are defaults, and those fit.
        (None, None) => {}
    }
}

pub(super) fn read_control(root: &Section<'_>, findings: &mut Findings) -> Option<PathBuf> {
    let Some(item) = root.item("control") else { return Some(DEFAULT_SOCKET.into()) };
    let section = item.section(findings)?;
    section.refuse_unknown(&["socket"], &[], findings);
    let socket = absolute_path(&section, "socket", DEFAULT_SOCKET, findings)?;
    // `sun_path` has 108 bytes, the last of which is 0 (unix(7)).
    const MOST: usize = 107;
    let length = socket.as_os_str().len();
    if length > MOST {
        let item = section.item("socket")?;
        item.refuse(format!("a socket's path has at most {MOST} bytes, this one {length}"), findings);
        return None;
    }
    Some(socket)
}

fn absolute_path(
    section: &Section<'_>,
    key: &str,
    default: &str,
    findings: &mut Findings,
) -> Option<PathBuf> {
    let Some(item) = section.item(key) else { return Some(default.into()) };
    let text = item.string(findings)?;
    if !text.starts_with('/') || text.contains('\0') {
        refuse_path(&item, text, findings);
        return None;
    }
    Some(text.into())
}

fn refuse_path(item: &Item<'_>, text: &str, findings: &mut Findings) {
    item.refuse(format!("must be an absolute path, not {:?}", values::shortened(text)), findings);
}
