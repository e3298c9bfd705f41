//! keepalived on the lab's nodes, to compare with: VRRPv3 on the public link, the first node preferred, no preemption.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::clock::Moment;
use super::process::Process;
use super::topology::{Lab, Link, VIP_WITH_PREFIX};

/// keepalived on every node. Dropping it kills all of its processes.
#[derive(Debug)]
pub struct Keepalived {
    nodes: BTreeMap<String, Process>,
}

impl Keepalived {
    /// Starts it on all nodes with this advertisement interval (10 ms is its floor).
    ///
    /// # Errors
    /// When it is not installed or does not start.
    pub fn start(lab: &Lab, advertisements: Duration) -> anyhow::Result<Self> {
        let mut keepalived = Self { nodes: BTreeMap::new() };
        for (number, node) in (0..).zip(lab.nodes()) {
            let config = lab.directory().join(format!("keepalived-{}.conf", node.name));
            fs::write(&config, configuration(&node.name, number, advertisements))
                .with_context(|| format!("writing {}", config.display()))?;
            keepalived.start_node(lab, &node.name)?;
        }
        Ok(keepalived)
    }

    /// Starts it on `node` again, after it was killed or stopped.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_node(&mut self, lab: &Lab, node: &str) -> anyhow::Result<()> {
        let file = |suffix: &str| lab.directory().join(format!("keepalived-{node}{suffix}"));
        let mut command = lab.node(node).namespace.command("keepalived");
        command.args(["--dont-fork", "--vrrp", "--log-console", "--use-file"]).arg(file(".conf"));
        command.arg("--pid").arg(file(".pid")).arg("--vrrp_pid").arg(file("-vrrp.pid"));
        // Pid files of a killed run would name processes that are no more.
        for stale in [file(".pid"), file("-vrrp.pid")] {
            let _ = fs::remove_file(stale);
        }
        let process = Process::start(&format!("keepalived of node {node}"), &command, &file(".log"))?;
        self.nodes.insert(node.to_owned(), process);
        Ok(())
    }

    /// Kills both processes of `node` at once, as the out-of-memory killer or a crash of the host's user space would.
    /// Returns the moment just before.
    ///
    /// # Errors
    /// When it does not run there.
    pub fn kill(&mut self, lab: &Lab, node: &str) -> anyhow::Result<Moment> {
        let child = vrrp_process(lab, node)?;
        let parent = self.process(node)?;
        // The parent would start the child anew, and the child resigns in good order when its parent dies first.
        parent.signal(Signal::SIGSTOP)?;
        let at = Moment::now();
        kill(child, Signal::SIGKILL).context("killing keepalived's VRRP process")?;
        parent.kill();
        Ok(at)
    }

    /// Sends a signal to both processes of `node`. Returns the moment just before.
    ///
    /// # Errors
    /// When it does not run there.
    pub fn signal_both(&mut self, lab: &Lab, node: &str, signal: Signal) -> anyhow::Result<Moment> {
        let child = vrrp_process(lab, node)?;
        let at = Moment::now();
        kill(child, signal).with_context(|| format!("sending {signal} to keepalived's VRRP process"))?;
        self.process(node)?.signal(signal)?;
        Ok(at)
    }

    /// Whether `node` is the master, as the last state that it has logged says.
    #[must_use]
    pub fn is_master(&self, node: &str) -> bool {
        let output = self.nodes.get(node).map(Process::output).unwrap_or_default();
        output.lines().rfind(|line| line.contains(") Entering ")).is_some_and(|line| line.contains("MASTER"))
    }

    /// Its processes on `node`: the parent, and the one that speaks VRRP.
    ///
    /// # Errors
    /// When it does not run there.
    pub fn processes(&mut self, lab: &Lab, node: &str) -> anyhow::Result<Vec<Pid>> {
        Ok(vec![self.process(node)?.pid(), vrrp_process(lab, node)?])
    }

    /// How many changes of state all nodes have logged.
    #[must_use]
    pub fn transitions(&self) -> u64 {
        let lines = self.nodes.values().map(|process| process.output().matches(") Entering ").count() as u64);
        lines.sum()
    }

    /// The parent process on `node`.
    ///
    /// # Errors
    /// When it was never started there.
    pub fn process(&mut self, node: &str) -> anyhow::Result<&mut Process> {
        self.nodes.get_mut(node).with_context(|| format!("keepalived was never started on node {node}"))
    }
}

fn vrrp_process(lab: &Lab, node: &str) -> anyhow::Result<Pid> {
    let path = lab.directory().join(format!("keepalived-{node}-vrrp.pid"));
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let pid = text.trim().parse().with_context(|| format!("{} holds no pid: {text:?}", path.display()))?;
    Ok(Pid::from_raw(pid))
}

/// It runs in real time, like the heartbeat thread it is compared with.
fn configuration(node: &str, number: u8, advertisements: Duration) -> String {
    let interface = Link::Public.interface();
    let seconds = advertisements.as_secs_f64();
    format!(
        "global_defs {{\n  router_id {node}\n  vrrp_version 3\n  vrrp_rt_priority 51\n}}\n\
         vrrp_instance lab {{\n  state BACKUP\n  nopreempt\n  interface {interface}\n  virtual_router_id 51\n  \
         priority {}\n  advert_int {seconds}\n  virtual_ipaddress {{\n    {VIP_WITH_PREFIX} dev {interface}\n  }}\n}}\n",
        200 - number * 50
    )
}
