//! The driver of the election core: one real-time thread that owns the core, its sockets and the lease table, and does
//! nothing that can wait for others.
//!
//! | file | what is in it |
//! |---|---|
//! | `heartbeat_loop.rs` | the thread's loop: wait, read, tick, carry out effects |
//! | `path_sockets.rs` | its sockets: which are ready, and how much is read before timers run |
//! | `vlan_links.rs` | the service link's VLANs: where each address is asked for, and their sockets |
//! | `unsafe_poll.rs` | the wait for them |
//! | `mailbox.rs` | wait-free queues to and from the rest of the daemon |
//! | `address_thread.rs` | the thread that puts VIPs onto the interface, a little below the heartbeat thread |
//! | `wake.rs` | eventfds that tokio awaits |
//! | `clock.rs` | the lease's clock |
//! | `realtime.rs` | priority and locked memory |
//!
//! Not here: what to do (`cluster-proto` decides), and whatever may wait: netlink, disk, control socket, log. The daemon
//! (`crate::daemon`) does that on tokio and answers through the mailbox.

pub mod address_thread;
pub mod clock;
pub mod heartbeat_loop;
pub mod mailbox;
pub mod path_sockets;
pub mod realtime;
mod unsafe_poll;
pub mod vlan_links;
pub mod wake;
