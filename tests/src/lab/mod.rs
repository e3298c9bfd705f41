//! The lab: a cluster of network namespaces on this machine, with two switches, faults, and probes that look on from outside.
//!
//! A [`Lab`] is one namespace for the switches, one for each node and witness and one for the client. Each has a leg on the
//! private and one on the public switch; the client's private one is only an observer's. Nothing of the
//! lab touches the machine's own interfaces, and everything it made goes when it is dropped; what a killed run left
//! behind is swept by the next one.
//!
//! - [`topology`]: namespaces, switches, legs and addresses of each [`family`]; [`namespace`], [`batch`] and [`process`] are its
//!   tools.
//! - [`delay_line`]: a leg that is long; [`soft_vlan`]: a VLAN's interface, which the test machine's kernel has not.
//! - [`faults`]: cuts, carrier loss, random loss and vanishing interfaces, per leg and direction; [`cuts`]: every set of them
//!   between three members.
//! - [`cluster`]: `clusterd` on nodes and witnesses, driven only through its public interface (configuration, signals,
//!   control socket), on a `witness` as an ordinary user; [`keepalived`] and [`ucarp`] are the same for the programs it is compared with.
//! - [`nginx`]: a service on nodes that is not ours.
//! - [`probe`]: what a client sees (requests, connections, who answers and who announces), what leaves a node, and how the machine
//!   itself behaved.
//!
//! Not here: what must be true of the product. That is said by the tests that use the lab (`tests/tests/`), and by the
//! bench and the demonstration beside this folder.

pub mod batch;
pub mod clock;
pub mod cluster;
pub mod control;
pub mod cuts;
pub mod delay_line;
pub mod family;
pub mod faults;
pub mod keepalived;
pub mod namespace;
pub mod nginx;
pub mod probe;
pub mod process;
pub mod soft_vlan;
pub mod sweep;
mod switch_ports;
pub mod topology;
pub mod ucarp;
mod unsafe_calls;
mod witness;

pub use clock::{Moment, await_some, await_true};
pub use cluster::{Cluster, ClusterSettings, Timing};
pub use family::Family;
pub use faults::Direction;
pub use process::Process;
pub use topology::{Lab, Leg, Link};
pub(crate) use unsafe_calls::run_in_real_time;

/// Whether this process may build a lab; prints why not and returns false where it may not.
///
/// # Panics
/// Where `CI=true` is set and the lab cannot be built: a skipped lab is a failure there.
#[must_use]
pub fn may_run(what: &str) -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    let reason = format!("SKIPPED {what}: network namespaces need root");
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{reason}, and CI=true allows no skipping");
    eprintln!("{reason}");
    false
}
