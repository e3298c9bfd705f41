//! The data plane as user space sees it: the BPF programs are loaded, pinned, adopted and attached here, the maps
//! written and read.
//!
//! [`DataPlane`] owns the pins and the links; [`LeaseTable`] is the one thing that the real-time thread needs.
//! `docs/data-plane.md` describes what the programs do and how the pins lie.
//!
//! What is not here: the programs (`cluster-ebpf`), the map layouts (`cluster-common`), addresses on interfaces
//! (`network`), and every decision about who holds a group.

mod capabilities;
mod chain;
mod classifiers;
mod error;
mod holders;
mod ingress;
mod interfaces;
mod lease_table;
mod maps;
mod objects;
mod options;
mod pins;
mod plane;
mod programs;
mod slots;
mod spread_tables;
mod trace;
mod unsafe_membarrier;
mod unsafe_shared_words;
mod vips;

pub use capabilities::{MissingCapabilities, may_lock_memory, missing_capabilities};
pub use chain::ChainedProgram;
pub use classifiers::{Fenced, Hook};
pub use cluster_common::Verdict;
pub use error::DataPlaneError;
pub use ingress::{Attached, Mode};
pub use lease_table::{LeaseTable, Tenancy};
pub use objects::{BENCH_OBJECT, DATAPLANE_OBJECT, LAB_OBJECT, TRAFFIC_OBJECT};
pub use options::{EgressHook, GroupVips, Options, OwnAddresses, PIN_ROOT, Vip, XdpPreference};
pub use plane::{
    Claimed, DataPlane, GroupCount, MapsWere, Noted, Remains, ServedAddress, cleanup, lock_remains,
};
pub use slots::GroupSlot;
pub use trace::{TRACED_FOR, Trace, TracedFrame};
