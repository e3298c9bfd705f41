//! What a set-up protects from and what not, in words.

use cluster_proto::Settings;

use super::values::format_duration;

/// What a set-up protects from and what not; one sentence each.
#[derive(Clone, PartialEq, Eq, Default, Debug, serde::Serialize, serde::Deserialize)]
pub struct Protection {
    /// Faults after which clients are served again.
    pub protects: Vec<String>,
    /// Faults that stop the service, or make two nodes serve at once.
    pub not: Vec<String>,
}

impl Protection {
    /// Of a cluster of one or two nodes without quorum. The paths' `service` should be what the daemon found out.
    #[must_use]
    pub fn of(settings: &Settings) -> Self {
        let lease = format_duration(settings.timing.lease);
        let dead_after = format_duration(settings.timing.dead_after);
        let mut protects =
            vec![format!("a daemon that is killed or stalls: its node goes dark by itself within {lease}")];
        let mut not = Vec::new();
        if settings.peers.is_empty() {
            not.push("the loss of this node: there is no other".to_owned());
        }
        for peer in &settings.peers {
            protects.push(format!("the loss of a node: the other one serves after {dead_after}"));
            let service = peer.paths.iter().filter(|path| path.service).count();
            let private = peer.paths.len() - service;
            if service > 0 && private > 0 {
                protects.push("a cut of the private link".to_owned());
                protects.push("a cut of one node's service link: the other one serves".to_owned());
            } else if peer.paths.len() > 1 {
                protects.push("the loss of one heartbeat path".to_owned());
            }
            if service == 0 {
                not.push(
                    "a cut of the service link that leaves its carrier up: no heartbeat path runs there"
                        .to_owned(),
                );
            }
            if peer.paths.len() == 1 {
                not.push(
                    "a cut of the only heartbeat path: both nodes may serve until it is mended".to_owned(),
                );
            } else {
                not.push(
                    "a cut of all heartbeat paths at once: both nodes may serve until one is mended"
                        .to_owned(),
                );
            }
        }
        not.push(format!(
            "a hypervisor pause that stops the guest's clock: the resumed node may serve for up to {lease}"
        ));
        Self { protects, not }
    }
}
