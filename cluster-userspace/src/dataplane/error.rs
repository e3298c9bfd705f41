//! Why the data plane could not do something, and what to do about it.

use std::io;
use std::path::PathBuf;

use aya::EbpfError;
use aya::maps::MapError;
use aya::programs::ProgramError;
use aya::programs::links::LinkError;
use cluster_proto::GroupId;

use super::capabilities::MissingCapabilities;

/// Why the data plane could not do something.
#[derive(Debug, thiserror::Error)]
pub enum DataPlaneError {
    /// The process may not use BPF.
    #[error(transparent)]
    Capabilities(#[from] MissingCapabilities),
    /// The process counts boot time differently from the kernel, so that its leases would be wrong.
    #[error(
        "the daemon runs in a time namespace whose boot clock is off by {offset} s, so its leases would not be the \
         kernel's; start it outside the time namespace"
    )]
    TimeNamespace {
        /// The namespace's offset, as the kernel shows it: seconds and nanoseconds.
        offset: String,
    },
    /// The BPF file system could not be mounted.
    #[error("cannot mount the BPF file system at {path}: {source}; mount it with `mount -t bpf bpf {path}`")]
    Mount {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The pin directory is on some other file system.
    #[error("{path} is not in a BPF file system; choose a directory below /sys/fs/bpf")]
    NotBpffs {
        /// The directory.
        path: PathBuf,
    },
    /// Another daemon is at work.
    #[error(
        "another clusterd holds the lock on {path}: it runs as the same node of the same cluster; stop it first"
    )]
    Locked {
        /// The directory that is locked.
        path: PathBuf,
    },
    /// A file operation failed.
    #[error("cannot {attempt} {path}: {source}")]
    File {
        /// What was attempted.
        attempt: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// More groups than the maps hold.
    #[error(
        "{count} groups are configured, but a node can have {} at most",
        cluster_common::maps::MAX_GROUPS
    )]
    TooManyGroups {
        /// How many.
        count: usize,
    },
    /// More VIPs than the maps hold.
    #[error("{count} VIPs are configured, but a node can have {} at most", cluster_common::maps::MAX_VIPS)]
    TooManyVips {
        /// How many.
        count: usize,
    },
    /// A group, a VIP or a virtual Ethernet address was given twice.
    #[error("group {:08x} is configured twice, or shares a VIP or a virtual id with another group", .group.0)]
    Duplicate {
        /// The group.
        group: GroupId,
    },
    /// The object or its maps could not be loaded.
    #[error("cannot load the BPF object: {0}")]
    Object(#[from] EbpfError),
    /// The kernel refused a program.
    #[error("cannot load the BPF program {program}: {source}")]
    Program {
        /// Its name.
        program: &'static str,
        /// Why.
        source: ProgramError,
    },
    /// A map could not be read or written.
    #[error("cannot {attempt} the BPF map {map}: {source}")]
    Map {
        /// What was attempted.
        attempt: &'static str,
        /// Its name.
        map: &'static str,
        /// Why it failed.
        source: MapError,
    },
    /// A map could not be mapped into memory.
    #[error("cannot map the BPF map {map} into memory: {source}")]
    SharedMemory {
        /// Its name.
        map: &'static str,
        /// Why.
        source: io::Error,
    },
    /// There is no such interface.
    #[error("there is no network interface {interface} in this network namespace")]
    NoInterface {
        /// Its name or number.
        interface: String,
    },
    /// The interface does not carry Ethernet.
    #[error("the network interface {interface} is not Ethernet; VIPs need one that is")]
    NotEthernet {
        /// Its name.
        interface: String,
    },
    /// The kernel could not be asked about interfaces.
    #[error("cannot {attempt}: {source}")]
    Netlink {
        /// What was attempted.
        attempt: String,
        /// Why it failed.
        source: io::Error,
    },
    /// Somebody else's XDP program is on the interface.
    #[error(
        "the network interface {interface} already has an XDP program: id {id}, name {name:?}, {mode}{holders}; detach it \
         (`{detach}`, or stop its owner: `bpftool prog show id {id}` tells more), or, if it is to stay in use, pin it, \
         detach it, and give the node `xdp = \"chain\"` and `chain = \"/sys/fs/bpf/…\"` so that it gets what the cluster's \
         program lets pass, or use another interface"
    )]
    ForeignProgram {
        /// The interface.
        interface: String,
        /// The program's id.
        id: u32,
        /// Its name, empty if the kernel does not tell.
        name: String,
        /// In which mode it is attached.
        mode: &'static str,
        /// What else the kernel tells: its tag, its link, who has it open, where it is pinned.
        holders: String,
        /// The command that detaches it.
        detach: String,
    },
    /// The user's program cannot be called after ours.
    #[error(
        "cannot chain to the program at {path}: {reason}; pin an XDP program there (`bpftool prog load FILE {path} type \
         xdp`), or do without `xdp = \"chain\"`"
    )]
    Chain {
        /// Where it is, or should be, pinned.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The ingress program could not be attached.
    #[error("cannot attach the ingress program to {interface}: {reasons}")]
    Attach {
        /// The interface.
        interface: String,
        /// Each mode that was tried, and why it did not work.
        reasons: String,
    },
    /// The kernel attached the program in a way that cannot be pinned.
    #[error(
        "the kernel attached the program to {interface} without a BPF link, so it would not survive the daemon; \
         remove it with `ip link set dev {interface} xdp off` and use Linux 5.15 or newer"
    )]
    NotALink {
        /// The interface.
        interface: String,
    },
    /// A program of the queueing layer could not be attached or removed.
    #[error("cannot {attempt} {program} on {interface}: {source}")]
    Classifier {
        /// What was attempted.
        attempt: &'static str,
        /// Which program.
        program: &'static str,
        /// The interface.
        interface: String,
        /// Why it failed.
        source: Box<ClassifierFailure>,
    },
    /// A link could not be pinned or read from its pin.
    #[error("cannot {attempt} {path}: {source}")]
    Pin {
        /// What was attempted.
        attempt: &'static str,
        /// The pin.
        path: PathBuf,
        /// Why it failed.
        source: LinkError,
    },
}

/// Why a program of the queueing layer could not be attached or removed.
#[derive(Debug, thiserror::Error)]
pub enum ClassifierFailure {
    /// By way of the program.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// By way of the link.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// By way of the queueing discipline.
    #[error(transparent)]
    Tc(#[from] aya::programs::tc::TcError),
    /// By way of netlink.
    #[error(transparent)]
    Io(#[from] io::Error),
}
