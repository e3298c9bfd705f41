//! `stats`: what the data plane and the heartbeat loop have counted.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The answer to `stats`. Fields and names of counters may be added.
#[derive(Clone, PartialEq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Stats {
    /// Group by group, in the configuration's order.
    pub groups: Vec<GroupStats>,
    /// The other nodes and the witnesses: how close their heartbeats have come to `dead_after`.
    pub peers: Vec<PeerStats>,
    /// Heartbeat datagrams by what became of them: `sent`, `received`, `send_failed` and the like.
    pub heartbeats: BTreeMap<String, u64>,
    /// The heartbeat loop.
    #[serde(rename = "loop")]
    pub heartbeat_loop: LoopStats,
}

/// One group's counters.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct GroupStats {
    /// Its name.
    pub name: String,
    /// Packets that concerned one of its VIPs, by the data plane's verdict
    /// (`Verdict::name` of `cluster-common`).
    pub packets: BTreeMap<String, u64>,
    /// Announcements sent by this daemon.
    pub announcements: u64,
    /// How often this node's lease has run out while it was active.
    pub lapses: u64,
}

/// How close a peer's heartbeats have come to the limits, since the daemon's start unless said otherwise.
#[derive(Clone, PartialEq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct PeerStats {
    /// Its name.
    pub name: String,
    /// The longest time between two of its messages while it was alive.
    pub worst_gap_ms: f64,
    /// The longest of the last minute or two.
    pub recent_gap_ms: f64,
    /// `dead_after` less the worst gap; null if it was never heard.
    pub margin_ms: Option<f64>,
    /// How many gaps were longer than half of `dead_after`.
    pub low_margins: u64,
    /// The longest of its paths' newest round trips; null before the first.
    pub rtt_us: Option<u64>,
    /// Heartbeats that are missing in its sequence, on all paths.
    pub lost: u64,
}

/// How close the heartbeat loop has come to its limits since the daemon's start.
#[derive(Clone, PartialEq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct LoopStats {
    /// Whether it runs with real-time priority and locked memory.
    pub realtime: bool,
    /// How often it has woken.
    pub wakeups: u64,
    /// How late it has woken at worst, in milliseconds.
    pub worst_delay_ms: f64,
    /// How often the kernel dropped heartbeats because a socket's queue was full.
    pub socket_overflows: u64,
}
