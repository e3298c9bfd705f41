//! The sans-IO core of the cluster: wire format and election.
//!
//! It takes bytes, events and the time, and puts out effects. It has no clock, socket, thread or random source of its
//! own, so that the daemon and the simulator run the same code.
//!
//! What is not here: sockets, BPF maps, addresses, files (`cluster-userspace`), and map layouts (`cluster-common`).

mod election;
mod identity;
mod interface;
pub mod placement;
mod replay;
mod settings;
#[cfg(feature = "simulation")]
pub mod simulation;
pub mod spread;
mod time;
pub mod wire;

pub use election::{Core, SpreadTable};
pub use identity::*;
pub use interface::*;
pub use settings::*;
pub use time::Time;
