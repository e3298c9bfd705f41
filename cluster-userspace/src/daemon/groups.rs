//! What other groups and VIPs take of a node: its maps, its addresses and its watch go over to them in an order in which no
//! VIP is ever on an interface without the programs that guard it.
//!
//! First all three know the groups and VIPs of both configurations, then the heartbeat thread goes over, then what the
//! new one does not have is taken off the interfaces, and only after that out of the maps.

use std::collections::BTreeMap;
use std::net::IpAddr;

use cluster_proto::wire::MAX_GROUPS;
use cluster_proto::{Settings, VirtualMac};

use super::node::Node;
use super::reload::refused;
use super::watch::WatchedVip;
use crate::config::{self, Local, LocalGroup};
use crate::control::ControlError;
use crate::dataplane::{self, GroupSlot, GroupVips};
use crate::driver::address_thread::AddressOrder;
use crate::network::vlan::Vlan;

/// The groups of a configuration, as the data plane is told them.
pub(super) fn group_vips(settings: &Settings, local: &Local) -> Vec<GroupVips> {
    let vip = |vip: &config::Vip| dataplane::Vip { address: vip.address, prefix: vip.prefix };
    let groups = settings.groups.iter().zip(&local.groups);
    groups
        .map(|(group, named)| GroupVips {
            id: group.id,
            vips: named.vips.iter().map(vip).collect(),
            mac: named.virtual_mac,
            vlan: named.vlan,
            keeps_address: named.keeps_address,
        })
        .collect()
}

/// Each VIP's group and place.
pub(super) fn watched_vips<'a>(
    groups: impl Iterator<Item = (&'a GroupVips, GroupSlot)>,
) -> BTreeMap<IpAddr, WatchedVip> {
    let watched = |(group, slot): (&'a GroupVips, GroupSlot)| {
        let vip = move |vip: &dataplane::Vip| {
            (
                vip.address,
                WatchedVip { group: slot, prefix: vip.prefix, vlan: group.vlan, keeps: group.keeps_address },
            )
        };
        group.vips.iter().map(vip)
    };
    groups.flat_map(watched).collect()
}

/// Why VIPs cannot go where another configuration has them. One that changes its group would have two holders as long as
/// nodes have different files.
pub(super) fn moved(old: &Local, new: &Local) -> Vec<String> {
    let vips = |local: &Local| -> BTreeMap<IpAddr, (String, u8, Option<Vlan>, bool)> {
        let groups = local.groups.iter();
        let placed = |group: &LocalGroup, vip: &config::Vip| {
            (group.name.clone(), vip.prefix, group.vlan, group.keeps_address)
        };
        groups.flat_map(|group| group.vips.iter().map(move |vip| (vip.address, placed(group, vip)))).collect()
    };
    let before = vips(old);
    let moved = vips(new).into_iter().filter_map(|(address, (group, prefix, vlan, keeps))| {
        let (old_group, old_prefix, old_vlan, kept) = before.get(&address)?;
        if *old_group != group {
            Some(format!("`group.vips`: {address} cannot go from group {old_group} to group {group} at once"))
        } else if *old_prefix != prefix {
            Some(format!("`group.vips`: {address} cannot become a /{prefix} at once"))
        } else if *old_vlan != vlan {
            Some(format!("`group.vlan`: {address} cannot go to another VLAN at once"))
        } else if *kept != keeps {
            Some(format!("`group.address`: {address} cannot go from one interface to another at once"))
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
    let macs = |local: &Local| -> BTreeMap<String, Option<VirtualMac>> {
        local.groups.iter().map(|group| (group.name.clone(), group.virtual_mac)).collect()
    };
    let (before, after) = (macs(old), macs(new));
    let other_mac = after.iter().filter(|(name, mac)| before.get(*name).is_some_and(|before| before != *mac));
    let other_mac: Vec<_> = other_mac.map(|(name, _)| format!("MAC of {name}")).collect();
    let (before, after) = (vips(old), vips(new));
    let added =
        after.keys().filter(|name| !before.contains_key(*name)).map(|name| format!("group {name} added"));
    let gone =
        before.keys().filter(|name| !after.contains_key(*name)).map(|name| format!("group {name} removed"));
    let other = after.iter().filter(|(name, vips)| before.get(*name).is_some_and(|before| before != *vips));
    added.chain(gone).chain(other.map(|(name, _)| format!("VIPs of {name}"))).chain(other_mac).collect()
}

/// All groups and VIPs of two configurations, or why they are too many.
fn union(present: &[GroupVips], coming: &[GroupVips]) -> Result<Vec<GroupVips>, String> {
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
    if all.len() > MAX_GROUPS {
        return Err(format!(
            "the file in use and this one have {} groups together, and a node that goes over can know {MAX_GROUPS} at most; remove \
             the old ones by one reload of all nodes, and add the new ones by the next",
            all.len()
        ));
    }
    Ok(all)
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
        let all = union(&present, &coming).map_err(refused)?;
        let new: Vec<IpAddr> = coming
            .iter()
            .flat_map(|group| &group.vips)
            .map(|vip| vip.address)
            .filter(|address| {
                !present.iter().any(|group| group.vips.iter().any(|vip| vip.address == *address))
            })
            .collect();
        // Once it is in the maps, an address that somebody else uses would be cut off.
        self.refuse_foreign(&new).await?;
        self.unsettled = true;
        self.know(&all).await.map_err(refused)?;
        // Whoever has configured one meanwhile did so unnoticed; from now on the watch notices.
        self.refuse_foreign(&new).await?;
        let known = self.known().await.map_err(refused)?;
        let slots: BTreeMap<_, _> = known.into_iter().map(|(group, slot)| (group.id, slot)).collect();
        Ok(coming.iter().filter_map(|group| slots.get(&group.id).copied()).collect())
    }

    /// VIPs that are new must not be on this host.
    async fn refuse_foreign(&self, new: &[IpAddr]) -> Result<(), ControlError> {
        let foreign = self.tables.foreign(new).await.map_err(|error| refused(error.to_string()))?;
        let Some(first) = foreign.first() else { return Ok(()) };
        Err(refused(format!(
            "the VIP {}/{} is configured on interface {} of this host, and not by the cluster; remove it there",
            first.ip, first.prefix, first.ifindex
        )))
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
        self.filter.want(groups);
        self.fit_nic_filter().await;
        let known = self.known().await?;
        for (group, slot) in &known {
            self.set_vips(*slot, group.vips.iter().copied()).await?;
        }
        self.watch.set_vips(watched_vips(known.iter().map(|(group, slot)| (group, *slot))));
        self.watch.publish(&self.addresses.state, &self.service.interface);
        self.keep_addresses();
        self.vips_changed().await;
        Ok(())
    }

    /// Has the VIPs of groups that keep theirs put where they belong.
    pub(super) fn keep_addresses(&self) {
        for slot in self.watch.keeping() {
            self.addresses.order(AddressOrder::Keep(slot));
        }
    }

    async fn set_vips(
        &mut self,
        slot: GroupSlot,
        vips: impl Iterator<Item = dataplane::Vip>,
    ) -> Result<(), String> {
        let vips = vips.map(|vip| config::Vip { address: vip.address, prefix: vip.prefix }).collect();
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

#[cfg(test)]
mod tests {
    use cluster_proto::GroupId;

    use super::*;

    fn groups(ids: std::ops::Range<u32>) -> Vec<GroupVips> {
        let vip = |id| dataplane::Vip {
            address: std::net::Ipv4Addr::from_bits(0x0a4d_0000 + id).into(),
            prefix: 24,
        };
        ids.map(|id| GroupVips {
            id: GroupId(id),
            vips: vec![vip(id)],
            mac: None,
            vlan: None,
            keeps_address: false,
        })
        .collect()
    }

    #[test]
    fn two_files_have_each_group_once_and_no_more_than_fit() {
        assert_eq!(union(&groups(0..200), &groups(150..256)), Ok(groups(0..256)));
        let why = union(&groups(0..200), &groups(200..257)).expect_err("one too many");
        assert!(why.contains("257 groups together") && why.contains("remove the old ones"), "{why}");
    }

    #[test]
    fn a_group_of_two_files_has_the_vips_of_both() {
        let mut coming = groups(0..1);
        coming[0].vips = groups(1..2)[0].vips.clone();
        let all = union(&groups(0..1), &coming).expect("they fit");
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].vips, [groups(0..1)[0].vips[0], groups(1..2)[0].vips[0]]);
    }
}
