//! The configuration file: one TOML file, the same on every node.
//!
//! [`Config::load`] turns the file into a [`Config`] that cannot be wrong, or into *all* that is wrong with it, each
//! with file, line, key and what is allowed. [`Config::settings`] gives one node its share: the election core's
//! [`cluster_proto::Settings`] and what the driver needs besides ([`Local`]).
//!
//! `document` finds keys and their lines, `values` reads single values, `cluster`, `nodes` and `groups` read the
//! sections, `hosts` what nodes and witnesses have in common, `key_file` reads the shared secret, `local` derives one node's view, and `protection` says in words what
//! that set-up protects from, `timing_advice` which timings would fit a network.
//!
//! What is not here: anything that needs the machine to be looked at (interfaces, addresses, kernel features); the
//! daemon finds that out when it starts. Only the key file is read, because a daemon without it cannot start.

mod cluster;
mod document;
mod errors;
mod groups;
mod hosts;
mod key_file;
mod local;
mod nodes;
mod protection;
mod timing_advice;
mod values;

use std::io::Read;
use std::path::{Path, PathBuf};

use cluster_proto::Timing;

pub use errors::{ConfigError, ConfigErrors};
pub use groups::Vip;
pub use hosts::{HostKind, Service, XdpMode};
pub use local::{Local, LocalGroup, LocalPath, LocalPeer, Placement, UnknownNode, Warning};
pub use protection::Protection;
pub use timing_advice::{fitting_timings, lease_is_too_short};
pub use values::format_duration;
pub(crate) use values::same_network;

use cluster::Cluster;
use document::{Findings, Section};
use groups::Group;
use hosts::Host;

/// Where the control socket is when neither the file nor the command line says so.
pub const DEFAULT_SOCKET: &str = "/run/cluster/control.sock";
/// Where reserved epochs are kept when the file does not say so.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/cluster";
/// The UDP port of the heartbeats when a node does not say so.
pub const DEFAULT_PORT: u16 = 4780;
/// As many groups as fit into the data plane's tables, and into the parts of one heartbeat.
pub const MAX_GROUPS: usize = cluster_proto::wire::MAX_GROUPS;
/// As many nodes as a cluster has.
pub const MAX_NODES: usize = 32;
/// As many nodes and witnesses as vote.
pub const MAX_VOTERS: usize = 9;
/// No sensible file comes near this; a wrong path to some huge file should not be read into memory.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// A configuration in which everything holds that the documentation promises.
#[derive(Clone, Debug)]
pub struct Config {
    cluster: Cluster,
    timing: Timing,
    socket: PathBuf,
    /// The nodes, then the witnesses, each in the file's order.
    hosts: Vec<Host>,
    groups: Vec<Group>,
}

impl Config {
    /// Reads and checks the file.
    ///
    /// # Errors
    /// Everything that is wrong with it, in the order of its lines. A file that cannot be read is one such error.
    pub fn load(path: &Path) -> Result<Self, ConfigErrors> {
        let whole_file = |message: String| {
            ConfigErrors::new(vec![ConfigError {
                file: path.to_owned(),
                line: None,
                key: String::new(),
                message,
            }])
        };
        let mut bytes = Vec::new();
        std::fs::File::open(path)
            .and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes))
            .map_err(|error| whole_file(format!("cannot read the configuration: {error}")))?;
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return Err(whole_file(format!("larger than {MAX_FILE_BYTES} bytes; is this the right file?")));
        }
        match std::str::from_utf8(&bytes) {
            Ok(text) => Self::parse(text, path),
            Err(error) => {
                let line = 1 + bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
                Err(ConfigErrors::new(vec![ConfigError {
                    file: path.to_owned(),
                    line: Some(line),
                    key: String::new(),
                    message: "not UTF-8 text; TOML files are".to_owned(),
                }]))
            }
        }
    }

    /// Checks the text of a file that lies at `path`: errors name it, and a relative `key_file` is relative to it.
    ///
    /// # Errors
    /// Everything that is wrong with it, in the order of its lines.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigErrors> {
        let mut findings = Findings::new(text, path);
        let (document, syntax_errors) = toml::de::DeTable::parse_recoverable(text);
        let mut understood = true;
        for error in &syntax_errors {
            // What the parser made of a broken line would only produce errors that nobody can make sense of; of a key
            // that is given twice it keeps the first, so that the rest can still be checked.
            understood &= error.message().starts_with("duplicate key");
            findings.report(error.span().map_or(0, |span| span.start), "", error.message());
        }
        let config = if understood {
            let root = Section::root(document.get_ref());
            Self::read(&root, path, &mut findings)
        } else {
            None
        };
        match (config, findings.finish()) {
            (Some(config), None) => Ok(config),
            (_, Some(errors)) => Err(errors),
            (None, None) => Err(ConfigErrors::new(vec![ConfigError {
                file: path.to_owned(),
                line: None,
                key: String::new(),
                message: "the configuration is incomplete".to_owned(),
            }])),
        }
    }

    fn read(root: &Section<'_>, path: &Path, findings: &mut Findings) -> Option<Self> {
        root.refuse_unknown(
            &["cluster", "timing", "control", "node", "witness", "group"],
            &[("metrics", "metrics are")],
            findings,
        );
        let cluster = cluster::read_cluster(root, path, findings);
        let timing = cluster::read_timing(root, findings);
        let socket = cluster::read_control(root, findings);
        let nodes = nodes::read(root, findings);
        let groups = groups::read(root, &nodes, findings);
        Some(Self {
            cluster: cluster?,
            timing: timing?,
            socket: socket?,
            hosts: nodes.complete()?,
            groups: groups?,
        })
    }

    /// The names of all nodes, in the file's order, and after them those of the witnesses.
    pub fn host_names(&self) -> impl Iterator<Item = &str> {
        self.hosts.iter().map(|host| host.name.as_str())
    }
}
