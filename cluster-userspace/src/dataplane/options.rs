//! What the data plane is told when it is opened.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use cluster_proto::{GroupId, VirtualMac};

use crate::network::vlan::Vlan;

/// Where pins live unless told otherwise.
pub const PIN_ROOT: &str = "/sys/fs/bpf/cluster";

/// What the data plane is told when it is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// The directory in the BPF file system below which the pins live, as a rule [`PIN_ROOT`].
    pub pin_root: PathBuf,
    /// The cluster's name.
    pub cluster: String,
    /// This node's name.
    pub node: String,
    /// The name of the interface on which clients reach the VIPs.
    pub interface: String,
    /// How the ingress program is to be attached.
    pub xdp: XdpPreference,
    /// Where the user's XDP program is pinned that gets what ours lets pass.
    pub chain: Option<PathBuf>,
    /// How the egress program is to be attached.
    pub egress: EgressHook,
    /// The groups and their VIPs.
    pub groups: Vec<GroupVips>,
}

/// A group and its VIPs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupVips {
    /// Whether the VIPs are on the loopback interface for as long as the daemon runs.
    pub keeps_address: bool,
    /// The group.
    pub id: GroupId,
    /// Its VIPs.
    pub vips: Vec<Vip>,
    /// Under which Ethernet addresses they appear; `None` is the network card's.
    pub mac: Option<VirtualMac>,
    /// The VLAN that they are on; `None` is the untagged link.
    pub vlan: Option<Vlan>,
}

/// Addresses of this host on a link, in whose name it asks for neighbours there.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct OwnAddresses {
    /// Of IPv4, if there is one.
    pub ipv4: Option<Ipv4Addr>,
    /// Of IPv6, if there is one.
    pub ipv6: Option<Ipv6Addr>,
}

/// A VIP and its prefix.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Vip {
    /// The address.
    pub address: IpAddr,
    /// The length of the prefix that is on the link, in bits: 0 to 32, or to 128 for IPv6.
    pub prefix: u8,
}

/// How the ingress program is to be attached.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum XdpPreference {
    /// By the driver, or else generically.
    #[default]
    Auto,
    /// By the driver.
    Native,
    /// By the kernel, behind the driver.
    Generic,
    /// Not at all: it is pinned for a dispatcher of somebody else's.
    PinOnly,
}

/// How the egress program is to be attached.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum EgressHook {
    /// By TCX where the kernel has it (6.6), or else by clsact.
    #[default]
    Auto,
    /// By TCX.
    Tcx,
    /// By a filter of the clsact queueing discipline.
    Clsact,
}
