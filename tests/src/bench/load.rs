//! What makes a machine busy: the rungs of the stress ladder. All of it is bounded, and ends when it is dropped.

use std::path::Path;
use std::process::Command;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::hostile::envelope::Envelope;
use crate::hostile::flood::Flooder;
use crate::lab::{Lab, Link, Moment, Process, run_in_real_time};

/// What the real-time hogs run at: above most of what runs in real time, below the kernel's interrupt threads.
const HOG_PRIORITY: i32 = 40;
/// Datagrams a second on the public link, to all nodes together.
const FLOOD_RATE: u64 = 100_000;

/// One rung.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Rung {
    /// Nothing.
    Rest,
    /// Two processes on each processor that only compute, at normal priority.
    CpuHogs,
    /// A thread on each processor that only computes, under SCHED_FIFO.
    RealTimeHogs,
    /// Two processes on each processor that start and await other programs all the time.
    ForkStorm,
    /// A process that writes 512 MiB to a file and syncs it, again and again.
    DiskWriter,
    /// Two processes that take a GiB each, touch it and give it back, again and again.
    Memory,
    /// Datagrams for the nodes' heartbeat port on the public link, from a stranger.
    Flood,
}

impl Rung {
    /// All, in the order they are shown.
    pub const ALL: [Self; 7] = [
        Self::Rest,
        Self::CpuHogs,
        Self::RealTimeHogs,
        Self::ForkStorm,
        Self::DiskWriter,
        Self::Memory,
        Self::Flood,
    ];

    /// How it is called in the results.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Rest => "nothing",
            Self::CpuHogs => "two CPU hogs per processor",
            Self::RealTimeHogs => "a SCHED_FIFO 40 hog per processor",
            Self::ForkStorm => "fork storm",
            Self::DiskWriter => "disk writer",
            Self::Memory => "memory, 2 GiB touched and freed",
            Self::Flood => "100 000 datagrams a second",
        }
    }
}

/// A load at work. Dropping it ends it.
#[derive(Debug)]
pub struct Load {
    _processes: Vec<Process>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts it, for at most `length`.
    ///
    /// # Errors
    /// When a process or thread cannot be started.
    pub fn start(rung: Rung, lab: &Lab, length: Duration) -> anyhow::Result<Self> {
        let processors = std::thread::available_parallelism()?.get();
        let mut load = Self { _processes: Vec::new(), threads: Vec::new() };
        let shell = |script: &str, count: usize| -> anyhow::Result<Vec<Process>> {
            (0..count).map(|number| shell(lab, script, number)).collect()
        };
        match rung {
            Rung::Rest => {}
            Rung::CpuHogs => load._processes = shell("while :; do :; done", processors * 2)?,
            Rung::ForkStorm => load._processes = shell("while :; do /bin/true; done", processors * 2)?,
            Rung::DiskWriter => {
                let file = lab.directory().join("written");
                load._processes = shell(&disk_writer(&file), 1)?;
            }
            Rung::Memory => {
                load._processes = shell("while :; do dd if=/dev/zero of=/dev/null bs=1G count=1; done", 2)?;
            }
            Rung::RealTimeHogs => {
                let until = Moment::now() + length;
                for processor in 0..processors {
                    load.threads.push(std::thread::Builder::new().spawn(move || hog(processor, until))?);
                }
            }
            Rung::Flood => {
                for node in lab.nodes() {
                    load.threads.push(flood(lab, &node.name, length)?);
                }
            }
        }
        Ok(load)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // Threads end by themselves when their time is over.
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// A shell in the client's namespace, so that what it has started ends with the lab, too.
fn shell(lab: &Lab, script: &str, number: usize) -> anyhow::Result<Process> {
    let mut command: Command = lab.client().command("sh");
    command.args(["-c", script]);
    Process::start("a load", &command, &lab.directory().join(format!("load-{number}.log")))
}

fn disk_writer(file: &Path) -> String {
    format!("while :; do dd if=/dev/zero of={} bs=1M count=512 conv=fsync 2>/dev/null; done", file.display())
}

fn hog(processor: usize, until: Moment) {
    let mut only = CpuSet::new();
    // A hog that may not be pinned or be in real time is an ordinary one; the daemon has it easier then.
    let _ = only.set(processor).and_then(|()| sched_setaffinity(Pid::from_raw(0), &only));
    let _ = run_in_real_time(HOG_PRIORITY);
    while Moment::now() < until {
        std::hint::spin_loop();
    }
}

fn flood(lab: &Lab, node: &str, length: Duration) -> anyhow::Result<JoinHandle<()>> {
    let peer = lab.nodes().iter().find(|other| other.name != node).context("a lab of one node")?;
    let envelope = Envelope::spoofed(lab, &peer.name, node, Link::Public).strangers(Link::Public);
    let flooder = Flooder::before(lab, node, Link::Public)?;
    let rate = FLOOD_RATE / lab.nodes().len() as u64;
    let payloads = vec![vec![0x55; 120]; 16];
    let flood = move || {
        if let Err(error) = flooder.flood(&envelope, &payloads, rate, length) {
            eprintln!("the flood ended: {error:#}");
        }
    };
    Ok(std::thread::Builder::new().spawn(flood)?)
}
