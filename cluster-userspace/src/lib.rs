//! The daemon's parts: configuration, control socket, data plane, network, and the driver of the election core.

pub mod config;
pub mod control;
pub mod daemon;
pub mod dataplane;
pub mod driver;
pub mod epoch_file;
pub mod memory_file;
pub mod network;
