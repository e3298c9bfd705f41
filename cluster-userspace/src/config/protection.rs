//! What a set-up protects from and what not, in words.

use cluster_proto::{Peer, Quorum, Settings};

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
    /// Of one node's settings. The paths' `service` should be what the daemon found out.
    #[must_use]
    pub fn of(settings: &Settings) -> Self {
        let lease = format_duration(settings.timing.lease);
        let mut said = Self {
            protects: vec![format!(
                "a daemon that is killed or stalls: its node goes dark by itself within {lease}"
            )],
            not: Vec::new(),
        };
        if settings.peers.is_empty() {
            said.not.push("the loss of this node: there is no other".to_owned());
        } else {
            said.say_losses(settings);
            said.say_links(settings);
            said.say_partitions(settings);
        }
        said.not.push(format!(
            "a hypervisor pause that stops the guest's clock: the resumed node may serve for up to {lease}"
        ));
        said
    }

    fn say_losses(&mut self, settings: &Settings) {
        let dead_after = format_duration(settings.timing.dead_after);
        let voters = voters(settings);
        match settings.quorum {
            Quorum::Majority => match (voters - 1) / 2 {
                0 => self.not.push(format!(
                    "the loss of a voter: all {voters} are needed, and without one nobody serves"
                )),
                1 => {
                    self.protects.push(format!("the loss of a node: another one serves after {dead_after}"));
                    self.not.push("the loss of two voters at once: nobody serves".to_owned());
                }
                spare => {
                    self.protects.push(format!(
                        "the loss of a node, and of up to {spare} voters at once: another one serves after {dead_after}"
                    ));
                    self.not.push(format!("the loss of {} voters at once: nobody serves", spare + 1));
                }
            },
            Quorum::Off => {
                let other = if settings.peers.len() == 1 { "the other" } else { "another" };
                self.protects.push(format!("the loss of a node: {other} one serves after {dead_after}"));
            }
        }
    }

    fn say_links(&mut self, settings: &Settings) {
        let service = |peer: &Peer| peer.paths.iter().any(|path| path.service);
        let private = |peer: &Peer| peer.paths.iter().any(|path| !path.service);
        if settings.peers.iter().all(|peer| service(peer) && private(peer)) {
            let other = if settings.peers.len() == 1 { "the other" } else { "another" };
            self.protects.push("a cut of the private link".to_owned());
            self.protects.push(format!("a cut of one node's service link: {other} one serves"));
        } else if settings.peers.iter().all(|peer| peer.paths.len() > 1) {
            self.protects.push("the loss of one heartbeat path".to_owned());
        }
        if !settings.peers.iter().all(service) {
            self.not.push(
                "a cut of the service link that leaves its carrier up: no heartbeat path runs there"
                    .to_owned(),
            );
        }
    }

    fn say_partitions(&mut self, settings: &Settings) {
        match settings.quorum {
            Quorum::Majority => self.protects.push(
                "a partition, whatever is lost between the nodes: only the part with more than half of the voters \
                 serves"
                    .to_owned(),
            ),
            Quorum::Off => {
                let gateway = settings.groups.iter().any(|group| group.gateway.is_some());
                let (paths, mended) = if settings.peers.iter().any(|peer| peer.paths.len() == 1) {
                    ("the only heartbeat path", "it is mended")
                } else {
                    ("all heartbeat paths at once", "one is mended")
                };
                if gateway {
                    self.protects.push(format!(
                        "a cut of {paths} that cuts a node off from its gateway, too: that node serves nothing"
                    ));
                    self.not.push(format!(
                        "a cut of {paths} after which both nodes reach their gateway, but not each other: both may serve"
                    ));
                } else {
                    self.not.push(format!("a cut of {paths}: both nodes may serve until {mended}"));
                }
            }
        }
    }
}

fn voters(settings: &Settings) -> usize {
    settings.peers.iter().filter(|peer| peer.voter).count() + usize::from(settings.voter)
}
