//! The benchmarks and how their results are written down.
//!
//! - [`failover`]: the outage a client sees when the active node fails, for the product and its [`contestants`];
//!   [`failover_report`] puts it into words.
//! - [`xdp_report`]: what a packet costs in the ingress program, as `bench_xdp` measures it.
//! - [`report`] and [`chart`]: a result as Markdown, JSON and SVG, under `docs/benchmarks/`.
//!
//! Not here: the lab they run in (`lab`), and the measuring of the BPF programs (`bench_xdp`).

pub mod chart;
pub mod contestants;
pub mod failover;
pub mod failover_report;
pub mod report;
pub mod xdp_report;
