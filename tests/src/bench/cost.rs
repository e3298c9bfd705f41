//! What a daemon costs while nothing happens: processor time, and what its node sends.

use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::lab::topology::Node;
use crate::lab::{Link, Moment};

/// The counters of a node at a moment.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    at: Moment,
    processor: Duration,
    packets: u64,
    bytes: u64,
}

/// What a node has cost for a while.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Cost {
    /// Percent of one processor.
    pub share: f64,
    /// Packets sent a second, on all links.
    pub packets: f64,
    /// Bytes sent a second, Ethernet headers included.
    pub bytes: f64,
}

impl Reading {
    /// Reads what these processes have used so far and their node has sent.
    ///
    /// # Errors
    /// When a process has ended, or the kernel's table is not as expected.
    pub fn take(node: &Node, processes: &[Pid]) -> anyhow::Result<Self> {
        let (packets, bytes) = node.namespace.run(sent)?;
        let mut processor = Duration::ZERO;
        for &process in processes {
            let clock = clock_getcpuclockid(process).context("finding a process's clock")?;
            processor += Duration::from(clock_gettime(clock).context("reading a process's clock")?);
        }
        Ok(Self { at: Moment::now(), processor, packets, bytes })
    }

    /// What it has cost from an earlier reading until this one.
    #[must_use]
    pub fn since(self, earlier: Self) -> Cost {
        let seconds = self.at.since(earlier.at).as_secs_f64().max(f64::MIN_POSITIVE);
        let processor = self.processor.saturating_sub(earlier.processor);
        Cost {
            share: processor.as_secs_f64() / seconds * 100.0,
            packets: self.packets.saturating_sub(earlier.packets) as f64 / seconds,
            bytes: self.bytes.saturating_sub(earlier.bytes) as f64 / seconds,
        }
    }
}

/// Packets and bytes that the calling thread's namespace has sent on the lab's links.
fn sent() -> anyhow::Result<(u64, u64)> {
    let table = std::fs::read_to_string("/proc/thread-self/net/dev").context("reading /proc/net/dev")?;
    let mut sums = (0, 0);
    for link in Link::ALL {
        // proc_pid_net(5): eight columns of what was received, then what was sent, bytes and packets first.
        let line =
            table.lines().find_map(|line| line.trim().strip_prefix(link.interface())?.strip_prefix(':'));
        let fields: Vec<&str> = line.unwrap_or_default().split_whitespace().collect();
        let (Some(bytes), Some(packets)) = (fields.get(8), fields.get(9)) else {
            bail!("/proc/net/dev has no line for {}", link.interface())
        };
        sums = (sums.0 + packets.parse::<u64>()?, sums.1 + bytes.parse::<u64>()?);
    }
    Ok(sums)
}

/// The median, of an even number the mean of the two in the middle.
#[must_use]
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.len().checked_sub(1)? / 2, values.len() / 2);
    Some((values.get(low)? + values.get(high)?) / 2.0)
}
