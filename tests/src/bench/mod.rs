//! The benchmarks and how their results are written down.
//!
//! - [`failover`]: the outage a client sees when the active node fails, for the product and its [`contestants`];
//!   [`failover_report`] puts it into words.
//! - [`partition`]: every set of one-way cuts between three voters; [`partition_report`] puts it into words.
//! - [`stress`]: heartbeats, leases and roles under every [`load`]; [`stress_report`] puts it into words.
//! - [`idle`]: the [`cost`] of a node while nothing happens, beside keepalived; [`scale`]: of many nodes and groups, and how long
//!   the election of all groups takes, [`core_alone`] in clusters that the lab cannot hold; [`scale_report`] puts it into words.
//! - [`switchover`]: what a planned move costs requests and connections; [`switchover_report`] puts it into words.
//! - [`responder`]: how many questions who has a VIP are answered in a second, with [`traffic`] to ask them;
//!   [`responder_report`] puts it into words.
//! - [`spread`]: what spreading flows over nodes costs (`spread_costs`, `spread_rate`), and what becomes of connections
//!   (`spread_changes`); [`servers`]: the same seen by wrk and iperf3.
//! - [`xdp_report`]: what a packet costs in the ingress program, as `bench_xdp` measures it.
//! - [`command`]: all of them as verbs of `cluster-lab bench`.
//! - [`report`] and [`chart`]: a result as Markdown, JSON and SVG, under `docs/benchmarks/`.
//!
//! Not here: the lab they run in (`lab`), and the measuring of the BPF programs (`bench_xdp`).

pub mod chart;
pub mod command;
pub mod contestants;
pub mod core_alone;
pub mod cost;
pub mod failover;
pub mod failover_report;
pub mod idle;
pub mod load;
pub mod partition;
pub mod partition_report;
pub mod report;
pub mod responder;
pub mod responder_report;
pub mod scale;
pub mod scale_report;
pub mod servers;
pub mod spread;
mod spread_changes;
mod spread_costs;
mod spread_rate;
pub mod stress;
pub mod stress_report;
pub mod switchover;
pub mod switchover_report;
pub mod traffic;
mod wire;
pub mod xdp_report;

use std::time::Duration;

/// The median of these microseconds, of an even number the mean of the two in the middle.
#[must_use]
pub fn median_us(values: &[u64]) -> Option<u64> {
    let mut values = values.to_vec();
    values.sort_unstable();
    let (low, high) = (values.len().checked_sub(1)? / 2, values.len() / 2);
    Some((values.get(low)? + values.get(high)?) / 2)
}

/// Microseconds in milliseconds, with as many digits as mean something.
#[must_use]
pub fn milliseconds_of(micros: u64) -> String {
    let milliseconds = micros as f64 / 1000.0;
    if milliseconds < 100.0 { format!("{milliseconds:.1} ms") } else { format!("{milliseconds:.0} ms") }
}

/// A duration in whole microseconds.
#[must_use]
pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// These words with a capital letter.
#[must_use]
pub fn capital(words: &str) -> String {
    let mut letters = words.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
