//! The compiled BPF programs, as the build script left them.

use aya::include_bytes_aligned;

/// The product's programs.
pub static DATAPLANE_OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/dataplane.o"));

/// Programs for the switch ports of a lab: XDP `pass` and `loss_in`, classifier `loss_out`, and the array `loss` of two
/// u32: how many of 65 536 frames a port loses of those it receives (entry 0) and of those it sends (entry 1).
pub static LAB_OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lab.o"));

/// Programs that only the benchmark runs: XDP `empty`, and those that make their frame a question again.
pub static BENCH_OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/bench.o"));

/// Both ends of the benchmark of responders: XDP `ask_arp` and `ask_neighbour`, which send what the array `question` has,
/// and `count_answers`, which counts into the per-CPU array `answers`.
pub static TRAFFIC_OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/traffic.o"));
