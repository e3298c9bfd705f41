//! An attacker on the lab's switches: what somebody who is on the wire can do to a node, with the key or without it.
//!
//! - [`envelope`]: Ethernet, IPv4 and UDP around a payload, with whatever source it likes.
//! - [`foot`]: the attacker's foot on a switch, through which frames go out as they are.
//! - [`flood`]: many datagrams at a time, as a fast network card delivers them.
//! - [`recording`]: the heartbeats a node really sent, to be changed, or replayed singly or as a session.
//! - [`forgery`]: authentic heartbeats made with the lab's key from recorded ones, each with one thing wrong.
//!
//! Not here: what a node must make of it. That is said by `tests/tests/lab_hostile.rs`.

pub mod envelope;
pub mod flood;
pub mod foot;
pub mod forgery;
pub mod recording;
mod unsafe_packet_socket;

/// The UDP port of the lab's heartbeats, the configuration's default.
pub const PORT: u16 = cluster_userspace::config::DEFAULT_PORT;
