//! What the BPF programs and user space must agree on: map layouts, verdicts, and where the fields of a frame lie.
//!
//! Multi-byte values that stand on the wire (addresses) are byte arrays in network order; everything else is in the
//! host's order, because maps never leave the host. The crate compiles for the BPF target, so it has no `std`.
//!
//! What is not here: the programs (`cluster-ebpf`), and loading them (`cluster-userspace`).
#![no_std]

#[cfg(feature = "reference")]
extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod flow;
pub mod frame;
pub mod maps;
#[cfg(feature = "reference")]
pub mod reference;
mod verdict;

pub use verdict::Verdict;
