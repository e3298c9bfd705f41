//! Who is compared: the product at two timings, keepalived at two, and ucarp.

use std::fmt;
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::json;

use crate::lab::cluster::GROUP;
use crate::lab::keepalived::Keepalived;
use crate::lab::ucarp::Ucarp;
use crate::lab::{Cluster, ClusterSettings, Lab, Moment, Timing};

/// One of those compared.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, clap::ValueEnum)]
pub enum Contestant {
    /// The product at its shortest timing, 1/5/4 ms.
    OursFast,
    /// The product at its default timing, 10/50/40 ms.
    OursNormal,
    /// keepalived with an advertisement every 10 ms, its shortest.
    #[value(name = "keepalived-10ms")]
    Keepalived10ms,
    /// keepalived with an advertisement every second, its default.
    #[value(name = "keepalived-1s")]
    Keepalived1s,
    /// ucarp with an advertisement every second, its shortest.
    Ucarp,
}

impl Contestant {
    /// All, in the order they are shown.
    pub const ALL: [Self; 5] =
        [Self::OursFast, Self::OursNormal, Self::Keepalived10ms, Self::Keepalived1s, Self::Ucarp];

    /// Whether it is the product.
    #[must_use]
    pub fn is_ours(self) -> bool {
        matches!(self, Self::OursFast | Self::OursNormal)
    }

    /// How it is called in the results.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::OursFast => "cluster, fast (1/5/4 ms)",
            Self::OursNormal => "cluster, normal (10/50/40 ms)",
            Self::Keepalived10ms => "keepalived, 10 ms",
            Self::Keepalived1s => "keepalived, 1 s",
            Self::Ucarp => "ucarp, 1 s",
        }
    }

    /// The time between two of its messages.
    #[must_use]
    pub fn interval(self) -> Duration {
        Duration::from_millis(match self {
            Self::OursFast => 1,
            Self::OursNormal | Self::Keepalived10ms => 10,
            Self::Keepalived1s | Self::Ucarp => 1000,
        })
    }

    /// How long the machine may stand still in a trial before it is spoilt: what would show in this one's figures.
    #[must_use]
    pub fn tolerance(self) -> Duration {
        Duration::from_millis(match self {
            Self::OursFast => 2,
            Self::OursNormal | Self::Keepalived10ms => 5,
            Self::Keepalived1s | Self::Ucarp => 100,
        })
    }

    /// Starts it on all nodes of `lab`.
    ///
    /// # Errors
    /// When it is not installed, or does not start.
    pub fn start(self, lab: &Lab) -> anyhow::Result<Running<'_>> {
        match self {
            Self::OursFast => Running::ours(lab, Timing::FAST),
            Self::OursNormal => Running::ours(lab, Timing::NORMAL),
            Self::Keepalived10ms | Self::Keepalived1s => {
                Keepalived::start(lab, self.interval()).map(|keepalived| Running::Keepalived(lab, keepalived))
            }
            Self::Ucarp => Ucarp::start(lab).map(Running::Ucarp),
        }
    }
}

impl fmt::Display for Contestant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// A contestant at work in a lab. Dropping it kills it.
#[derive(Debug)]
pub enum Running<'lab> {
    /// The product.
    Ours(Cluster<'lab>),
    /// keepalived, and the lab it runs in.
    Keepalived(&'lab Lab, Keepalived),
    /// ucarp.
    Ucarp(Ucarp),
}

impl<'lab> Running<'lab> {
    /// The product at this timing.
    ///
    /// # Errors
    /// When it does not start.
    pub fn ours(lab: &'lab Lab, timing: Timing) -> anyhow::Result<Self> {
        Cluster::started(lab, &ClusterSettings::with(timing)).map(Self::Ours)
    }

    /// Kills what runs on `node`, all its processes at once. Returns the moment just before.
    ///
    /// # Errors
    /// When it does not run there.
    pub fn kill(&mut self, node: &str) -> anyhow::Result<Moment> {
        match self {
            Self::Ours(cluster) => cluster.kill(node),
            Self::Keepalived(lab, keepalived) => keepalived.kill(lab, node),
            Self::Ucarp(ucarp) => Ok(ucarp.process(node)?.kill()),
        }
    }

    /// Sends a signal to what runs on `node`: SIGSTOP to all its processes, SIGTERM to the one that an init system knows.
    /// Returns the moment just before.
    ///
    /// # Errors
    /// When it does not run there.
    pub fn signal(&mut self, node: &str, signal: Signal) -> anyhow::Result<Moment> {
        match self {
            Self::Ours(cluster) => cluster.daemon(node)?.signal(signal),
            Self::Keepalived(_, keepalived) if signal == Signal::SIGTERM => {
                keepalived.process(node)?.signal(signal)
            }
            Self::Keepalived(lab, keepalived) => keepalived.signal_both(lab, node, signal),
            Self::Ucarp(ucarp) => ucarp.process(node)?.signal(signal),
        }
    }

    /// How many changes of role, and lapses of a lease, there have been on all nodes.
    ///
    /// # Errors
    /// When a daemon does not answer.
    pub fn upsets(&self) -> anyhow::Result<u64> {
        match self {
            Self::Ours(cluster) => cluster.lab().nodes().iter().map(|node| cluster.upsets(&node.name)).sum(),
            Self::Keepalived(_, keepalived) => Ok(keepalived.transitions()),
            Self::Ucarp(_) => bail!("ucarp does not say how often its role has changed"),
        }
    }

    /// All processes of what runs on `node`.
    ///
    /// # Errors
    /// When it does not run there.
    pub fn processes(&mut self, node: &str) -> anyhow::Result<Vec<Pid>> {
        match self {
            Self::Ours(cluster) => Ok(vec![cluster.daemon(node)?.pid()]),
            Self::Keepalived(lab, keepalived) => keepalived.processes(lab, node),
            Self::Ucarp(ucarp) => Ok(vec![ucarp.process(node)?.pid()]),
        }
    }

    /// Makes `node` give its group up. Returns the moment just before.
    ///
    /// # Errors
    /// When it refuses, or has no such command.
    pub fn demote(&mut self, node: &str) -> anyhow::Result<Moment> {
        let Self::Ours(cluster) = self else { bail!("only the product can be told to move its VIP") };
        let at = Moment::now();
        let asked = cluster.control(node).request(&json!({ "cmd": "demote", "group": GROUP }));
        asked.with_context(|| format!("demoting node {node}"))?;
        Ok(at)
    }
}
