//! A veth from the lab's client straight to a node, without a switch between, over which benchmarks send what no switch would take.

use crate::lab::Lab;
use crate::lab::topology::{Mac, Node};

/// The interface, at both ends.
pub(super) const WIRE: &str = "wire";
/// The Ethernet addresses of its ends.
pub(super) const NODE_MAC: Mac = Mac([2, 0, 0, 79, 0, 1]);
pub(super) const CLIENT_MAC: Mac = Mac([2, 0, 0, 79, 0, 50]);

/// Makes the wire between the client and the node.
pub(super) fn connect(lab: &Lab, node: &Node) -> anyhow::Result<()> {
    let (client, other) = (lab.client(), node.namespace.name());
    let pair = format!(
        "ip link add {WIRE} address {CLIENT_MAC} type veth peer name {WIRE} address {NODE_MAC} netns {other}"
    );
    client.execute(&pair)?;
    for (namespace, octet) in [(client, 50), (&node.namespace, 1)] {
        namespace.execute(&format!("ip link set {WIRE} up"))?;
        namespace.execute(&format!("ip address add 10.79.0.{octet}/24 dev {WIRE}"))?;
        namespace.execute(&format!("ip address add fd79::{octet}/64 dev {WIRE} nodad"))?;
        // A veth takes redirected frames only where it has a program or this.
        namespace.execute(&format!("ethtool -K {WIRE} gro on"))?;
    }
    Ok(())
}
