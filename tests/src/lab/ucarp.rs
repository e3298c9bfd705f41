//! ucarp on the lab's nodes, to compare with: CARP on the public link, one advertisement a second, its shortest.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::Context as _;

use super::process::Process;
use super::topology::{Lab, Link, VIP, VIP_WITH_PREFIX};

/// ucarp on every node. Dropping it kills it.
#[derive(Debug)]
pub struct Ucarp {
    nodes: BTreeMap<String, Process>,
}

impl Ucarp {
    /// Starts it on all nodes.
    ///
    /// # Errors
    /// When it is not installed or does not start.
    pub fn start(lab: &Lab) -> anyhow::Result<Self> {
        let mut ucarp = Self { nodes: BTreeMap::new() };
        for (script, verb) in [("up", "add"), ("down", "delete")] {
            let path = lab.directory().join(format!("ucarp-{script}"));
            fs::write(&path, format!("#!/bin/sh\nexec ip address {verb} {VIP_WITH_PREFIX} dev \"$1\"\n"))
                .with_context(|| format!("writing {}", path.display()))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        }
        for node in lab.nodes() {
            ucarp.start_node(lab, &node.name)?;
        }
        Ok(ucarp)
    }

    /// Starts it on `node` again, after it was killed or stopped.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_node(&mut self, lab: &Lab, node: &str) -> anyhow::Result<()> {
        let place = lab.nodes().iter().position(|known| known.name == node).unwrap_or(0);
        let leg = lab.leg(node, Link::Public);
        let file = |name: &str| lab.directory().join(format!("ucarp-{name}"));
        let mut command = lab.node(node).namespace.command("ucarp");
        command
            .args(["-i", leg.interface, "-s", &leg.address.to_string(), "-v", "51", "-p", "lab"])
            .args(["-a", &VIP.to_string(), "-b", "1", "-k", &(place * 50).to_string(), "-z", "-n"])
            .arg("-u")
            .arg(file("up"))
            .arg("-d")
            .arg(file("down"));
        let process =
            Process::start(&format!("ucarp of node {node}"), &command, &file(&format!("{node}.log")))?;
        self.nodes.insert(node.to_owned(), process);
        Ok(())
    }

    /// The process on `node`.
    ///
    /// # Errors
    /// When it was never started there.
    pub fn process(&mut self, node: &str) -> anyhow::Result<&mut Process> {
        self.nodes.get_mut(node).with_context(|| format!("ucarp was never started on node {node}"))
    }
}
