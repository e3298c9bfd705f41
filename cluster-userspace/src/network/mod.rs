//! What the daemon does on the network besides the data plane's programs.
//!
//! Here: the VIPs on the interface ([`addresses`]), the watch over interfaces and addresses ([`links`]), where the
//! default routes point ([`gateways`]), TCP connections ([`connections`]), the multicast groups in which solicitations for
//! VIPs arrive ([`solicited_nodes`]), the Ethernet addresses that the card takes in ([`unicast_filter`]), what the kernel is set to ([`ipv6_settings`])
//! and the card does ([`unsafe_ethtool`]), what a VLAN is ([`vlan`]), settings that keep packets away ([`surroundings`]),
//! frames of ARP and of neighbour discovery ([`arp`], [`ndp`]), and the two kinds of sockets that the real-time thread uses:
//! raw ones for those frames ([`packet_socket`]) and UDP for heartbeats ([`heartbeat_socket`]), both with a filter in the
//! kernel.
//!
//! The first five are for tokio and may wait for the kernel's configuration lock (rtnl), which others can hold for
//! long; nothing of them may run on the real-time thread. The sockets do the opposite: no tokio, no waiting, and no
//! allocation once they are open.
//!
//! Not here: what a heartbeat says and who holds a VIP (`cluster-proto`), when anything is sent (the driver), and
//! XDP, TC and maps (`dataplane`).

pub mod address_record;
pub mod addresses;
pub mod arp;
pub mod connections;
pub mod gateways;
mod heartbeat_filter;
pub mod heartbeat_socket;
pub mod ipv6_settings;
mod link_table;
pub mod links;
pub mod ndp;
pub mod packet_socket;
mod rtnetlink_message;
mod socket_filter;
pub mod solicited_nodes;
pub mod surroundings;
pub mod unicast_filter;
pub mod unsafe_ethtool;
mod unsafe_socket_options;
pub mod vlan;
