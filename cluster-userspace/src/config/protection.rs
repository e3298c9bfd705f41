//! What a set-up protects from and what not, in words.

use cluster_proto::{Peer, Quorum, Settings};

use super::hosts::HostKind;
use super::local::Local;
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
    /// Of one node's or witness's settings. The paths' `service` should be what the daemon found out.
    #[must_use]
    pub fn of(settings: &Settings, local: &Local) -> Self {
        let lease = format_duration(settings.timing.lease);
        let mut said = Self {
            protects: vec![format!(
                "a daemon that is killed or stalls: its node goes dark by itself within {lease}"
            )],
            not: Vec::new(),
        };
        let witness = local.kind() == HostKind::Witness;
        let peers = || settings.peers.iter().zip(&local.peers);
        let nodes: Vec<&Peer> =
            peers().filter(|(_, named)| named.kind == HostKind::Node).map(|(peer, _)| peer).collect();
        let serving = nodes.len() + usize::from(!witness);
        match (serving, witness) {
            (1, false) => said.not.push("the loss of this node: there is no other".to_owned()),
            (1, true) => said.not.push("the loss of the node: there is no other".to_owned()),
            _ => {}
        }
        said.say_losses(settings, serving);
        let witnesses = peers().count() + 1 - serving;
        if settings.quorum == Quorum::Majority && witnesses > 0 && voters(settings) > 2 {
            let which = if witnesses == 1 { "the witness" } else { "a witness" };
            said.protects
                .push(format!("the loss of {which}: the other voters are enough, and nothing moves"));
        }
        // A witness sees nothing of the nodes' links.
        if !witness && !nodes.is_empty() {
            said.say_links(&nodes);
        }
        if serving > 1 {
            said.say_partitions(settings, &nodes);
        }
        said.not.push(format!(
            "a hypervisor pause that stops the guest's clock: the resumed node may serve for up to {lease}"
        ));
        said
    }

    fn say_losses(&mut self, settings: &Settings, serving: usize) {
        let dead_after = format_duration(settings.timing.dead_after);
        let voters = voters(settings);
        let other = if serving == 2 { "the other" } else { "another" };
        let taken_over = format!("{other} one serves after {dead_after}");
        match settings.quorum {
            Quorum::Majority => {
                let spare = (voters - 1) / 2;
                match spare {
                    0 => {}
                    _ if serving < 2 => {}
                    1 => self.protects.push(format!("the loss of a node: {taken_over}")),
                    spare => self.protects.push(format!(
                        "the loss of a node, and of up to {spare} voters at once: {taken_over}"
                    )),
                }
                self.not.push(match spare {
                    // This node itself, which has been said.
                    0 if settings.peers.is_empty() => return,
                    0 if voters == 1 => "the loss of the only voter: nobody serves".to_owned(),
                    0 => {
                        format!("the loss of a voter: all {voters} are needed, and without one nobody serves")
                    }
                    1 => "the loss of two voters at once: nobody serves".to_owned(),
                    spare => format!("the loss of {} voters at once: nobody serves", spare + 1),
                });
            }
            Quorum::Off if serving > 1 => self.protects.push(format!("the loss of a node: {taken_over}")),
            Quorum::Off => {}
        }
    }

    fn say_links(&mut self, nodes: &[&Peer]) {
        let service = |peer: &&Peer| peer.paths.iter().any(|path| path.service);
        let private = |peer: &&Peer| peer.paths.iter().any(|path| !path.service);
        if nodes.iter().all(|peer| service(peer) && private(peer)) {
            let other = if nodes.len() == 1 { "the other" } else { "another" };
            self.protects.push("a cut of the private link".to_owned());
            self.protects.push(format!("a cut of one node's service link: {other} one serves"));
        } else if nodes.iter().all(|peer| peer.paths.len() > 1) {
            self.protects.push("the loss of one heartbeat path".to_owned());
        }
        if !nodes.iter().all(service) {
            self.not.push(
                "a cut of the service link that leaves its carrier up: no heartbeat path runs there"
                    .to_owned(),
            );
        }
    }

    fn say_partitions(&mut self, settings: &Settings, nodes: &[&Peer]) {
        match settings.quorum {
            Quorum::Majority => self.protects.push(
                "a partition, whatever is lost between the nodes: only the part with more than half of the voters \
                 serves"
                    .to_owned(),
            ),
            Quorum::Off => {
                let gateway = settings.groups.iter().any(|group| group.gateway.is_some());
                let (paths, mended) = if nodes.iter().any(|peer| peer.paths.len() == 1) {
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
