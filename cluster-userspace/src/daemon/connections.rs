//! What connections a group's VIPs have left on this node after a hand-over: watched, and in the end reset.

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::Duration;

use cluster_proto::Time;

use super::node::Node;
use crate::dataplane::GroupSlot;
use crate::driver::address_thread::AddressOrder;
use crate::driver::clock;
use crate::network::connections;

/// How often connections are counted, at the most. Where that takes the kernel long, it is asked less often.
const PAUSE: Duration = Duration::from_millis(200);

/// What became of a group's connections.
#[derive(Debug)]
pub(super) enum Connections {
    /// None is left.
    None(GroupSlot),
    /// So many were reset; the VIPs may be taken off.
    Reset(GroupSlot, Result<usize, String>),
}

impl Node {
    /// Says when the group has no connection left on this node; of no interest after that time.
    pub(super) fn watch_connections(&self, slot: GroupSlot, until: Time) {
        let vips = self.vips_of(slot);
        let report = self.connections_in.clone();
        drop(tokio::spawn(async move {
            while clock::now() < until {
                let asked = clock::now();
                let vips = vips.clone();
                match tokio::task::spawn_blocking(move || connections::count(&vips)).await {
                    Ok(Ok(0)) => return drop(report.send(Connections::None(slot)).await),
                    Ok(Ok(_)) => {}
                    Ok(Err(error)) => {
                        tracing::warn!(%error, "cannot count the connections that are left; they have until the grace ends");
                        return;
                    }
                    // The daemon stops.
                    Err(_) => return,
                }
                tokio::time::sleep(PAUSE.max(clock::now().since(asked) * 20)).await;
            }
        }));
    }

    /// Resets what is left of the group's connections.
    pub(super) fn reset_connections(&self, slot: GroupSlot) {
        let vips = self.vips_of(slot);
        let state = self.addresses.state.clone();
        let report = self.connections_in.clone();
        drop(tokio::task::spawn_blocking(move || {
            // The node may have taken the group again meanwhile.
            if !state.is_wanted(slot) {
                let outcome = connections::reset(&vips).map_err(|error| error.to_string());
                // The loop is gone only when the daemon stops, and then takes the VIPs off itself.
                drop(report.blocking_send(Connections::Reset(slot, outcome)));
            }
        }));
    }

    pub(super) fn connections(&mut self, what: Connections) {
        match what {
            Connections::None(slot) => self.daemon.order(crate::driver::mailbox::Order::NoConnections(slot)),
            Connections::Reset(slot, outcome) => {
                let group = self.daemon.group_name(slot).unwrap_or_default();
                match outcome {
                    Ok(0) => {}
                    Ok(count) => {
                        tracing::info!(
                            group,
                            count,
                            "the grace is over; connections that were left are reset"
                        );
                    }
                    Err(error) => {
                        tracing::warn!(
                            group,
                            error,
                            "connections that were left cannot be reset; they time out"
                        );
                    }
                }
                self.addresses.order(AddressOrder::Leave(slot));
            }
        }
    }

    fn vips_of(&self, slot: GroupSlot) -> HashSet<IpAddr> {
        let groups = self.daemon.slots.iter().zip(&self.daemon.local.groups);
        let vips = groups.filter(|(other, _)| **other == slot).flat_map(|(_, group)| &group.vips);
        vips.map(|vip| vip.address).collect()
    }
}
