//! Which group has which slot in the maps, and which virtual Ethernet address is whose.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use cluster_common::maps::{Faces, MAX_GROUPS, MAX_VIPS, virtual_mac_place};

use super::error::DataPlaneError;
use super::lease_table::LeaseTable;
use super::options::GroupVips;

/// A group's place in the maps. It stays the group's own over restarts and reloads.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct GroupSlot(u32);

impl GroupSlot {
    /// The slot's number, below 256.
    #[must_use]
    pub fn index(self) -> u32 {
        self.0
    }

    /// That slot, for tests of what is done with slots.
    #[cfg(test)]
    pub(crate) fn at(index: u32) -> Self {
        Self(index)
    }
}

/// Checks that the groups fit into the maps and share nothing.
pub(super) fn check(groups: &[GroupVips]) -> Result<(), DataPlaneError> {
    if groups.len() > MAX_GROUPS as usize {
        return Err(DataPlaneError::TooManyGroups { count: groups.len() });
    }
    let count = groups.iter().map(|group| group.vips.len()).sum();
    if count > MAX_VIPS as usize {
        return Err(DataPlaneError::TooManyVips { count });
    }
    let (mut ids, mut addresses, mut macs) = (HashSet::new(), HashSet::new(), HashSet::new());
    for group in groups {
        if !ids.insert(group.id.0)
            || !group.vips.iter().all(|vip| addresses.insert(vip.address))
            || !group.mac.is_none_or(|mac| macs.insert(mac))
        {
            return Err(DataPlaneError::Duplicate { group: group.id });
        }
    }
    Ok(())
}

/// The groups' slots, in their order, and those among them that no group had before.
pub(super) struct Assigned {
    pub(super) slots: Vec<GroupSlot>,
    pub(super) fresh: Vec<GroupSlot>,
}

/// Gives each group its slot: the one it has, with its lease, or else a free one, without. Slots of groups that are
/// gone are dark first and free afterwards.
pub(super) fn assign(groups: &[GroupVips], table: &LeaseTable) -> Assigned {
    let wanted: HashSet<u32> = groups.iter().map(|group| group.id.0).collect();
    let mut slots = HashMap::new();
    let mut free = Vec::new();
    for slot in (0..MAX_GROUPS).map(GroupSlot) {
        match table.owner(slot) {
            // A second slot of one group can only come from a damaged map.
            Some(group) if wanted.contains(&group.0) && !slots.contains_key(&group.0) => {
                slots.insert(group.0, slot);
            }
            Some(_) => {
                table.assign(slot, None);
                free.push(slot);
            }
            None => {
                table.clear(slot);
                free.push(slot);
            }
        }
    }
    let mut free = free.into_iter();
    let mut assigned = Assigned { slots: Vec::new(), fresh: Vec::new() };
    for group in groups {
        if let Some(slot) = slots.get(&group.id.0) {
            assigned.slots.push(*slot);
        } else if let Some(slot) = free.next() {
            table.assign(slot, Some(group.id));
            assigned.slots.push(slot);
            assigned.fresh.push(slot);
        }
    }
    assigned
}

/// Makes the maps of virtual Ethernet addresses say what the groups say. A group has one for each family that it has VIPs
/// of.
pub(super) fn write_virtual_macs(
    faces: &[AtomicU64],
    owners: &[AtomicU64],
    groups: &[GroupVips],
    slots: &[GroupSlot],
) {
    let mut all = vec![Faces::default(); MAX_GROUPS as usize];
    let mut owned = vec![0_u64; owners.len()];
    for (group, slot) in groups.iter().zip(slots) {
        let Some(virtual_mac) = group.mac else { continue };
        let faces = &mut all[slot.index() as usize];
        let [ipv4, ipv6] = [virtual_mac.ipv4().0, virtual_mac.ipv6().0];
        for vip in &group.vips {
            let (face, mac) = match vip.address {
                IpAddr::V4(_) => (&mut faces.ipv4, ipv4),
                IpAddr::V6(_) => (&mut faces.ipv6, ipv6),
            };
            face.mac = mac;
            if let Some(place) = virtual_mac_place(bytemuck::cast(mac)) {
                owned[place as usize] = u64::from(slot.index()) + 1;
            }
        }
    }
    let all: &[u64] = bytemuck::cast_slice(&all);
    for (word, value) in faces.iter().zip(all).chain(owners.iter().zip(&owned)) {
        word.store(*value, Ordering::SeqCst);
    }
}
