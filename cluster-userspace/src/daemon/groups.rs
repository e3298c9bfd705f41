//! What other groups and VIPs take of a node: its maps, its addresses and its watch go over to them in an order in which no
//! VIP is ever on an interface without the programs that guard it.
//!
//! First all three know the groups and VIPs of both configurations, then the heartbeat thread goes over, then what the
//! new one does not have is taken off the interfaces, and only after that out of the maps.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use cluster_proto::Settings;

use super::node::Node;
use super::reload::refused;
use crate::config::{self, Local};
use crate::control::ControlError;
use crate::dataplane::{self, GroupSlot, GroupVips};

/// The groups of a configuration, as the data plane is told them.
pub(super) fn group_vips(settings: &Settings, local: &Local) -> Vec<GroupVips> {
    let vip = |vip: &config::Vip| dataplane::Vip { address: vip.address.into(), prefix: vip.prefix };
    let groups = settings.groups.iter().zip(&local.groups);
    groups
        .map(|(group, named)| GroupVips {
            id: group.id,
            vips: named.vips.iter().map(vip).collect(),
            mac: None,
        })
        .collect()
}

/// Each VIP's group.
pub(super) fn watched_vips<'a>(
    groups: impl Iterator<Item = (&'a GroupVips, GroupSlot)>,
) -> BTreeMap<Ipv4Addr, GroupSlot> {
    groups
        .flat_map(|(group, slot)| group.vips.iter().filter_map(move |vip| Some((ipv4(vip.address)?, slot))))
        .collect()
}

/// The address, if it is of the family that the rest of the daemon handles.
pub(super) fn ipv4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

/// Why VIPs cannot go where another configuration has them. One that changes its group would have two holders as long as
/// nodes have different files.
pub(super) fn moved(old: &Local, new: &Local) -> Vec<String> {
    let vips = |local: &Local| -> BTreeMap<Ipv4Addr, (String, u8)> {
        let groups = local.groups.iter();
        groups
            .flat_map(|group| group.vips.iter().map(|vip| (vip.address, (group.name.clone(), vip.prefix))))
            .collect()
    };
    let before = vips(old);
    let moved = vips(new).into_iter().filter_map(|(address, (group, prefix))| {
        let (old_group, old_prefix) = before.get(&address)?;
        if *old_group != group {
            Some(format!("`group.vips`: {address} cannot go from group {old_group} to group {group} at once"))
        } else if *old_prefix != prefix {
            Some(format!("`group.vips`: {address} cannot become a /{prefix} at once"))
        } else {
            None
        }
    });
    moved
        .map(|why| why + "; take it out of the file of all nodes and reload them, then put it in again")
        .collect()
}

/// Which groups and VIPs are other, for people.
pub(super) fn changes(old: &Local, new: &Local) -> Vec<String> {
    let vips = |local: &Local| -> BTreeMap<String, Vec<config::Vip>> {
        local.groups.iter().map(|group| (group.name.clone(), group.vips.clone())).collect()
    };
    let (before, after) = (vips(old), vips(new));
    let added =
        after.keys().filter(|name| !before.contains_key(*name)).map(|name| format!("group {name} added"));
    let gone =
        before.keys().filter(|name| !after.contains_key(*name)).map(|name| format!("group {name} removed"));
    let other = after.iter().filter(|(name, vips)| before.get(*name).is_some_and(|before| before != *vips));
    added.chain(gone).chain(other.map(|(name, _)| format!("VIPs of {name}"))).collect()
}

/// All groups and VIPs of two configurations.
fn union(present: &[GroupVips], coming: &[GroupVips]) -> Vec<GroupVips> {
    let mut all = present.to_vec();
    for group in coming {
        match all.iter_mut().find(|known| known.id == group.id) {
            Some(known) => {
                let new: Vec<_> =
                    group.vips.iter().filter(|vip| !known.vips.contains(vip)).copied().collect();
                known.vips.extend(new);
            }
            None => all.push(group.clone()),
        }
    }
    all
}

impl Node {
    /// Has maps, addresses and watch know the groups and VIPs of a configuration besides the present ones. Gives the
    /// slots of its groups.
    pub(super) async fn make_room(
        &mut self,
        settings: &Settings,
        local: &Local,
    ) -> Result<Vec<GroupSlot>, ControlError> {
        let present = group_vips(&self.daemon.settings, &self.daemon.local);
        let coming = group_vips(settings, local);
        if present == coming && !self.unsettled {
            return Ok(self.daemon.slots.clone());
        }
        let all = union(&present, &coming);
        self.unsettled = true;
        self.know(&all).await.map_err(refused)?;
        // Whoever configures one from now on is noticed by the watch.
        let new: Vec<Ipv4Addr> = coming
            .iter()
            .flat_map(|group| &group.vips)
            .map(|vip| vip.address)
            .filter(|address| {
                !present.iter().any(|group| group.vips.iter().any(|vip| vip.address == *address))
            })
            .filter_map(ipv4)
            .collect();
        let foreign = self.tables.foreign(&new).await.map_err(|error| refused(error.to_string()))?;
        if let Some(first) = foreign.first() {
            return Err(refused(format!(
                "the VIP {}/{} is configured on interface {} of this host, and not by the cluster; remove it there",
                first.ip, first.prefix, first.ifindex
            )));
        }
        let known = self.known().await.map_err(refused)?;
        let slots: BTreeMap<_, _> = known.into_iter().map(|(group, slot)| (group.id, slot)).collect();
        Ok(coming.iter().filter_map(|group| slots.get(&group.id).copied()).collect())
    }

    /// Takes what the configuration in use does not have off the interfaces, then out of the maps. What cannot be taken
    /// off stays guarded, and is tried again later.
    pub(super) async fn settle_groups(&mut self) {
        if !self.unsettled {
            return;
        }
        if self.daemon.coming.is_some() {
            // Which one will be in use is not known yet.
            return;
        }
        let wanted = group_vips(&self.daemon.settings, &self.daemon.local);
        match self.know(&wanted).await {
            Ok(()) => self.unsettled = false,
            Err(why) => self.daemon.tell("groups_unsettled", &format!("{why}; tried again every second")),
        }
    }

    /// Makes these the groups and VIPs of addresses, maps and watch.
    async fn know(&mut self, groups: &[GroupVips]) -> Result<(), String> {
        // Those that go leave the interfaces before the maps forget them; those that are new come after.
        for (known, slot) in self.known().await? {
            let wanted = groups.iter().find(|group| group.id == known.id);
            let stays = |vip: &dataplane::Vip| wanted.is_some_and(|wanted| wanted.vips.contains(vip));
            self.set_vips(slot, known.vips.into_iter().filter(stays)).await?;
        }
        let all = groups.to_vec();
        let set = self.on_plane(move |plane| plane.set_groups(all)).await;
        set.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        let known = self.known().await?;
        for (group, slot) in &known {
            self.set_vips(*slot, group.vips.iter().copied()).await?;
        }
        self.watch.set_vips(watched_vips(known.iter().map(|(group, slot)| (group, *slot))));
        self.watch.publish(&self.addresses.state);
        Ok(())
    }

    async fn set_vips(
        &mut self,
        slot: GroupSlot,
        vips: impl Iterator<Item = dataplane::Vip>,
    ) -> Result<(), String> {
        let vips = vips
            .filter_map(|vip| Some(config::Vip { address: ipv4(vip.address)?, prefix: vip.prefix }))
            .collect();
        let set = self.addresses.set_vips(slot, vips);
        self.patiently(set).await
    }

    /// The groups that the data plane knows, and their slots.
    async fn known(&mut self) -> Result<Vec<(GroupVips, GroupSlot)>, String> {
        let known =
            self.on_plane(|plane| plane.groups().map(|(group, slot)| (group.clone(), slot)).collect()).await;
        known.map_err(|error| error.to_string())
    }
}
