//! The XDP program on the switches' ports: it lets everything pass.
//!
//! It has to be there, and native: a frame that a node sends back out by `XDP_TX` is lost silently where the other end of its
//! veth has no native XDP program.

use anyhow::{Context as _, anyhow};
use aya::Ebpf;
use aya::programs::{Xdp, XdpMode};
use cluster_userspace::dataplane::LAB_OBJECT;

use super::namespace::Namespace;

/// The name of the program in the lab's BPF object.
const PROGRAM: &str = "pass";

/// The loaded program and its links; they end with it.
#[derive(Debug)]
pub(super) struct SwitchPorts {
    object: Ebpf,
}

impl SwitchPorts {
    /// Loads the program.
    pub(super) fn load() -> anyhow::Result<Self> {
        let mut object = Ebpf::load(LAB_OBJECT).context("reading the lab's BPF object")?;
        program(&mut object)?.load().context("loading the switch ports' XDP program")?;
        Ok(Self { object })
    }

    /// Attaches it to a port in the switches' namespace.
    pub(super) fn attach(&mut self, switch: &Namespace, port: &str) -> anyhow::Result<()> {
        let program = program(&mut self.object)?;
        // An interface is looked up in the namespace of the thread that attaches.
        let attached = switch.run(|| Ok(program.attach(port, XdpMode::Driver)?));
        attached.with_context(|| format!("attaching the XDP program to the switch port {port}"))?;
        Ok(())
    }
}

fn program(object: &mut Ebpf) -> anyhow::Result<&mut Xdp> {
    let program = object
        .program_mut(PROGRAM)
        .ok_or_else(|| anyhow!("the lab's BPF object has no program {PROGRAM}"))?;
    program.try_into().with_context(|| format!("the lab's BPF program {PROGRAM} is no XDP program"))
}
