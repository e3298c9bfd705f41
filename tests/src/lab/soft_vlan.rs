//! A VLAN's interface made of a pair of veths and two BPF programs, for kernels that have no VLAN devices. It is called like one
//! (`eth0.100`), and what is sent and received by it is tagged on the interface below.
//!
//! A veth hands the tags of what it is given over beside the frames, as cards do that take tags out themselves. Here they
//! have to be in the frames ([`show_tags`]), or no XDP program sees them.

use anyhow::Context as _;
use aya::Ebpf;
use aya::maps::{Array, MapData};
use aya::programs::SchedClassifier;
use aya::programs::tc::TcAttachType;
use cluster_userspace::dataplane::LAB_OBJECT;
use nix::net::if_::if_nametoindex;

use super::namespace::Namespace;
use super::topology::{Lab, Link, Mac};

/// The interface and its programs. It is usable as long as this value lives.
#[derive(Debug)]
pub struct SoftVlan {
    namespace: Namespace,
    name: String,
    _object: Ebpf,
}

impl SoftVlan {
    /// Makes the interface of VLAN `id` above `below`, with the Ethernet address that has, and these addresses.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn start(
        namespace: &Namespace,
        below: &str,
        id: u16,
        mac: Mac,
        addresses: &[String],
    ) -> anyhow::Result<Self> {
        let (name, other) = (format!("{below}.{id}"), format!("vlan{id}"));
        namespace.execute(&format!("ip link add {name} address {mac} type veth peer name {other}"))?;
        for link in [&name, &other] {
            namespace.execute(&format!("ip link set {link} up"))?;
        }
        for address in addresses {
            let at_once = if address.contains(':') { " nodad" } else { "" };
            namespace.execute(&format!("ip address add {address} dev {name}{at_once}"))?;
        }
        let mut object = Ebpf::load(LAB_OBJECT).context("reading the lab's BPF object")?;
        let indexes = namespace.run(|| Ok([if_nametoindex(below)?, if_nametoindex(other.as_str())?]))?;
        let map = object.map_mut("vlan").context("no map of the VLAN")?;
        let mut entries: Array<&mut MapData, [u32; 2]> = map.try_into()?;
        for (entry, ifindex) in (0..).zip(indexes) {
            entries.set(entry, [u32::from(id), ifindex], 0)?;
        }
        for (program, interface) in [("vlan_out", other.as_str()), ("vlan_in", below)] {
            let classifier: &mut SchedClassifier =
                object.program_mut(program).with_context(|| format!("no program {program}"))?.try_into()?;
            classifier.load().with_context(|| format!("loading {program}"))?;
            let attached = namespace.run(|| Ok(classifier.attach(interface, TcAttachType::Ingress)?));
            attached.with_context(|| format!("attaching {program} to {interface}"))?;
        }
        Ok(Self { namespace: namespace.clone(), name, _object: object })
    }

    /// Takes the interface away, as an administrator would.
    ///
    /// # Errors
    /// When it is not there.
    pub fn remove(self) -> anyhow::Result<()> {
        self.namespace.execute(&format!("ip link delete {}", self.name))
    }
}

/// Has the tags of the public link in the frames, at all its ends.
///
/// # Errors
/// When `ethtool` fails.
pub fn show_tags(lab: &Lab) -> anyhow::Result<()> {
    let legs = lab
        .nodes()
        .iter()
        .map(|node| node.leg(Link::Public))
        .chain([lab.leg(super::topology::CLIENT, Link::Public)]);
    for leg in legs {
        leg.namespace.execute(&format!("ethtool -K {} txvlan off rxvlan off", leg.interface))?;
        lab.switch().execute(&format!("ethtool -K {} txvlan off", leg.port))?;
    }
    Ok(())
}
