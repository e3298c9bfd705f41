//! The data plane's decisions, compiled for the BPF target: what comes in ([`ingress`], [`mend`]), what goes
//! out ([`egress`]).
//!
//! The binaries of this package are the programs' entry points: `dataplane` is the product's, `lab`, `bench` and
//! `traffic` serve the tests. Unknown traffic passes untouched; nothing here logs, or reads a clock for packets that concern
//! no VIP, and only neighbour discovery's options and IPv6's extension headers are walked through, a fixed number of steps at
//! most.
//!
//! What is not here: loading and attaching (`cluster-userspace`), and the map layouts (`cluster-common`).
#![no_std]

mod checksum;
pub mod egress;
mod grace;
pub mod ingress;
pub mod mend;
mod spread;
pub mod trace;
mod unsafe_apart;
mod unsafe_maps;
mod unsafe_packet;
mod unsafe_sockets;
mod way;

pub use unsafe_packet::{Frame, received};

/// What is to be done with a frame.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Concerns no VIP, and goes on as if there were no program.
    Pass,
    /// Concerns a VIP, and goes on.
    Admit,
    /// Was made an answer, or addressed to another node, and goes out where it came in.
    Answer,
    /// Is dropped.
    Drop,
}
