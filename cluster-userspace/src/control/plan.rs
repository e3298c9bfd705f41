//! The answer to `plan`: who would serve what if some nodes were gone.

use cluster_proto::{NodeId, Settings, Snapshot, SpreadOver};
use serde::{Deserialize, Serialize};

use super::request::{ControlError, ErrorCode};
use crate::config::Local;

/// Who would serve what.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// Nodes that are taken to be gone: those that were asked for, those that this node does not hear, and this node if
    /// it is drained.
    pub without: Vec<String>,
    /// The groups, in the order of the file.
    pub groups: Vec<PlannedGroup>,
}

/// A group and who would serve it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PlannedGroup {
    /// Its name.
    pub name: String,
    /// Who holds it now; null when nobody is known to.
    pub holder: Option<String>,
    /// Who would serve it; null when nobody could.
    pub planned: Option<String>,
    /// The nodes that may hold it, best first.
    pub order: Vec<String>,
    /// Of an active/active group: who would have which share of new flows, the largest first; null for other groups.
    pub shares: Option<Vec<Share>>,
}

/// A node's part in an active/active group.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Share {
    /// The node's name.
    pub name: String,
    /// Of all new flows: more than 0, and 1 at most.
    pub share: f64,
}

impl Plan {
    /// Works it out: groups stay where they are if that node is there, and go by rank otherwise.
    ///
    /// # Errors
    /// If one of the nodes that should be gone is unknown.
    pub fn of(
        settings: &Settings,
        local: &Local,
        snapshot: &Snapshot,
        without: &[String],
    ) -> Result<Self, ControlError> {
        let nodes = &local.placement.nodes;
        let name = |node: usize| nodes[node].0.clone();
        let known = || nodes.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
        if let Some(unknown) = without.iter().find(|asked| !nodes.iter().any(|(name, _)| name == *asked)) {
            let asked: String = unknown.chars().take(60).collect();
            let message = format!("there is no node {asked:?}; there are: {}", known());
            return Err(ControlError::new(ErrorCode::UnknownNode, message));
        }
        let heard = |id: NodeId| {
            let mut peers = settings.peers.iter().zip(&snapshot.peers);
            peers.find(|(peer, _)| peer.id == id).is_some_and(|(_, view)| view.alive)
        };
        let id_of = |name: &str| {
            settings.peers.iter().map(|peer| peer.id).find(|id| local.node_name(*id) == Some(name))
        };
        let is_there = |node: usize| {
            let name = &nodes[node].0;
            let alive = if *name == local.node { !snapshot.drained } else { id_of(name).is_some_and(heard) };
            alive && !without.contains(name)
        };
        let present: Vec<Option<usize>> = snapshot
            .groups
            .iter()
            .map(|group| {
                let holder = local.node_name(group.holder?)?;
                nodes.iter().position(|(name, _)| name == holder)
            })
            .collect();
        let planned = local.placement.plan(&present, is_there);
        let is_member_there = |id: NodeId| {
            let name = local.node_name(id);
            nodes.iter().position(|(known, _)| Some(known.as_str()) == name).is_some_and(is_there)
        };
        let groups = local.groups.iter().zip(&settings.groups).zip(&present).zip(planned);
        Ok(Self {
            without: (0..nodes.len()).filter(|&node| !is_there(node)).map(name).collect(),
            groups: groups
                .map(|(((group, settings), holder), planned)| PlannedGroup {
                    shares: settings.spread.as_ref().map(|over| shares(local, over, is_member_there)),
                    name: group.name.clone(),
                    holder: holder.map(name),
                    planned: planned.map(name),
                    order: group.members.clone(),
                })
                .collect(),
        })
    }
}

/// What the entry would give each member of a group.
fn shares(local: &Local, over: &SpreadOver, is_there: impl Fn(NodeId) -> bool) -> Vec<Share> {
    let mut weights: Vec<Option<u32>> =
        over.members.iter().map(|member| is_there(member.node).then_some(member.weight)).collect();
    over.hold_spares_back(&mut weights);
    let total: f64 = weights.iter().flatten().copied().map(f64::from).sum();
    let mut shares: Vec<Share> = over
        .members
        .iter()
        .zip(weights)
        .filter_map(|(member, weight)| {
            let weight = weight.filter(|weight| *weight > 0)?;
            let name = local.node_name(member.node)?.to_owned();
            Some(Share { name, share: f64::from(weight) / total })
        })
        .collect();
    shares.sort_by(|one, other| other.share.total_cmp(&one.share));
    shares
}
