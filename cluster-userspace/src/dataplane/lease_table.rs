//! The leases that the BPF programs act on, and the tenures that tell a later daemon whose they were.

use std::sync::atomic::{AtomicU64, Ordering};

use aya::maps::MapData;
use cluster_common::maps::{GRACES, Grace, LEASES, MAX_GROUPS, TABLES, TENURES, Tenure};
use cluster_proto::spread::{Table, Version};
use cluster_proto::{Epoch, GroupId, Mac, NodeId, Side, SpreadTable, Time};

use super::error::DataPlaneError;
use super::slots::GroupSlot;
use super::spread_tables::SpreadTables;
use super::unsafe_shared_words::SharedWords;

/// Words of one [`Tenure`].
const TENURE_WORDS: usize = size_of::<Tenure>() / size_of::<u64>();
/// Words of one [`Grace`].
const GRACE_WORDS: usize = size_of::<Grace>() / size_of::<u64>();

/// The leases, tenures and graces of all groups, shared with the programs. Reading and writing is a matter of a few memory
/// accesses: no system call, no lock, no allocation. One thread at a time may write.
#[derive(Debug)]
pub struct LeaseTable {
    leases: SharedWords,
    tenures: SharedWords,
    /// Absent from older layouts.
    graces: Option<SharedWords>,
    /// Likewise.
    tables: Option<SpreadTables>,
}

/// A lease as it stands in the map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tenancy {
    /// In which epoch it was written.
    pub epoch: Epoch,
    /// Until when it is valid.
    pub until: Time,
}

impl LeaseTable {
    pub(super) fn map(
        leases: &MapData,
        tenures: &MapData,
        graces: Option<&MapData>,
        tables: Option<&MapData>,
    ) -> Result<Self, DataPlaneError> {
        let groups = MAX_GROUPS as usize;
        let map = |map: &'static str, data: &MapData, words| {
            SharedWords::map(data.fd(), words).map_err(|source| DataPlaneError::SharedMemory { map, source })
        };
        Ok(Self {
            leases: map(LEASES, leases, groups)?,
            tenures: map(TENURES, tenures, groups * TENURE_WORDS)?,
            graces: graces.map(|graces| map(GRACES, graces, groups * GRACE_WORDS)).transpose()?,
            tables: tables
                .map(|tables| {
                    let refused = |source| DataPlaneError::SharedMemory { map: TABLES, source };
                    SpreadTables::map(tables).map_err(refused)
                })
                .transpose()?,
        })
    }

    /// Holds the group until `until` in the given epoch. Where the epoch is a new one, the slot goes dark for the
    /// moment in which the tenure changes, so that nobody ever reads a lease with another epoch's name.
    pub fn set(&self, slot: GroupSlot, epoch: Epoch, until: Time) {
        let Some((lease, tenure)) = self.slot(slot) else { return };
        let mut new = read_tenure(tenure);
        if new.counter != epoch.counter || new.node != epoch.node.0 {
            new.counter = epoch.counter;
            new.node = epoch.node.0;
            lease.store(0, Ordering::SeqCst);
            write_tenure(tenure, new);
        }
        lease.store(until.as_nanos(), Ordering::SeqCst);
    }

    /// Holds the group no longer, as of this call's return.
    pub fn clear(&self, slot: GroupSlot) {
        if let Some((lease, _)) = self.slot(slot) {
            lease.store(0, Ordering::SeqCst);
        }
    }

    /// From now until then this node and the one with that Ethernet address send each other what is the other's.
    pub fn begin_grace(&self, slot: GroupSlot, side: Side, other: Mac, until: Time) {
        let Some([until_word, rest]) = self.grace(slot) else { return };
        let side = match side {
            Side::New => Grace::NEW,
            Side::Old => Grace::OLD,
        };
        let grace = Grace { until: until.as_nanos(), other: other.0, side };
        let [until, other]: [u64; GRACE_WORDS] = bytemuck::cast(grace);
        if rest.load(Ordering::SeqCst) != other {
            until_word.store(0, Ordering::SeqCst);
            rest.store(other, Ordering::SeqCst);
        }
        until_word.store(until, Ordering::SeqCst);
    }

    /// This node is one of several that serve the group: until then, by the table that was last published. If it gave the group up
    /// just now, it still takes what is sent to the group's virtual Ethernet address.
    pub fn serve(&self, slot: GroupSlot, until: Time, gave_up: bool) {
        let Some([until_word, rest]) = self.grace(slot) else { return };
        let before = rest.load(Ordering::SeqCst);
        let after = by_table(table_of(before), gave_up);
        if !is_member(before) {
            until_word.store(0, Ordering::SeqCst);
        }
        if after != before {
            rest.store(after, Ordering::SeqCst);
        }
        until_word.store(until.as_nanos(), Ordering::SeqCst);
    }

    /// From now on the group's flows go by this table: it is written to where nobody goes by it, and then one word says so.
    /// Returns whether there was room; there is for [`cluster_common::maps::MAX_SPREAD`] groups.
    pub fn publish(
        &self,
        slot: GroupSlot,
        spread: &SpreadTable<'_>,
        mac_of: impl Fn(NodeId) -> Option<Mac>,
    ) -> bool {
        let (Some(tables), Some([until, rest])) = (&self.tables, self.grace(slot)) else { return false };
        let before = rest.load(Ordering::SeqCst);
        let Some(number) = tables.write(slot, table_of(before), spread, mac_of) else { return false };
        if !is_member(before) {
            until.store(0, Ordering::SeqCst);
        }
        rest.store(by_table(Some(number), has_given_up(before)), Ordering::SeqCst);
        true
    }

    /// The table that the group's flows go by.
    #[must_use]
    pub fn published(&self, slot: GroupSlot) -> Option<(Version, Table)> {
        let [_, rest] = self.grace(slot)?;
        self.tables.as_ref()?.read(slot, table_of(rest.load(Ordering::SeqCst))?)
    }

    /// Nothing is sent over, or accepted, any more.
    pub fn end_grace(&self, slot: GroupSlot) {
        if let Some([until, _]) = self.grace(slot) {
            until.store(0, Ordering::SeqCst);
        }
    }

    /// The lease as it stands in the map, whether or not it has run out; `None` if the group is not held.
    #[must_use]
    pub fn read(&self, slot: GroupSlot) -> Option<Tenancy> {
        let (lease, tenure) = self.slot(slot)?;
        let until = lease.load(Ordering::SeqCst);
        let tenure = read_tenure(tenure);
        (until != 0).then_some(Tenancy {
            epoch: Epoch { counter: tenure.counter, node: NodeId(tenure.node) },
            until: Time::from_nanos(until),
        })
    }

    /// Makes every slot what it is in another table. Only while nobody writes to either.
    pub(super) fn copy(&self, from: &Self) {
        let copy = |to: &SharedWords, from: &SharedWords| {
            for (to, from) in to.words().iter().zip(from.words()) {
                to.store(from.load(Ordering::SeqCst), Ordering::SeqCst);
            }
        };
        // A lease with another epoch's name is nobody's.
        copy(&self.tenures, &from.tenures);
        copy(&self.leases, &from.leases);
    }

    /// Holds no group any longer, and serves none.
    pub(super) fn clear_all(&self) {
        for grace in self.graces.iter().flat_map(|graces| graces.words().chunks_exact(GRACE_WORDS)) {
            grace[0].store(0, Ordering::SeqCst);
        }
        for lease in self.leases.words() {
            lease.store(0, Ordering::SeqCst);
        }
    }

    /// The group to which the slot belongs, if it belongs to one.
    pub(super) fn owner(&self, slot: GroupSlot) -> Option<GroupId> {
        let tenure = read_tenure(self.slot(slot)?.1);
        (tenure.used != 0).then_some(GroupId(tenure.group))
    }

    /// Gives the slot, without a lease, to a group or to nobody.
    pub(super) fn assign(&self, slot: GroupSlot, group: Option<GroupId>) {
        let Some((lease, tenure)) = self.slot(slot) else { return };
        lease.store(0, Ordering::SeqCst);
        self.end_grace(slot);
        if let (Some(tables), Some([_, rest])) = (&self.tables, self.grace(slot)) {
            rest.store(0, Ordering::SeqCst);
            tables.free(slot);
        }
        let (group, used) = group.map_or((0, 0), |group| (group.0, 1));
        write_tenure(tenure, Tenure { counter: 0, group, node: 0, used });
    }

    fn grace(&self, slot: GroupSlot) -> Option<&[AtomicU64; GRACE_WORDS]> {
        self.graces.as_ref()?.words().get(slot.index() as usize * GRACE_WORDS..)?.first_chunk()
    }

    fn slot(&self, slot: GroupSlot) -> Option<(&AtomicU64, &[AtomicU64; TENURE_WORDS])> {
        let index = slot.index() as usize;
        let lease = self.leases.words().get(index)?;
        let tenure = self.tenures.words().get(index * TENURE_WORDS..)?.first_chunk()?;
        Some((lease, tenure))
    }
}

/// The second word of a grace by which a node goes by a table.
fn by_table(number: Option<u32>, gave_up: bool) -> u64 {
    let [a, b, c, d] = number.unwrap_or(u32::MAX).to_ne_bytes();
    let grace = Grace { until: 0, other: [a, b, c, d, gave_up.into(), 0], side: Grace::MEMBER };
    let [_, rest]: [u64; GRACE_WORDS] = bytemuck::cast(grace);
    rest
}

fn is_member(rest: u64) -> bool {
    let grace: Grace = bytemuck::cast([0, rest]);
    grace.side == Grace::MEMBER
}

/// Whether such a word says that the node gave the group up just now.
fn has_given_up(rest: u64) -> bool {
    let grace: Grace = bytemuck::cast([0, rest]);
    grace.side == Grace::MEMBER && grace.other[4] != 0
}

/// The table that such a word names, if it names one.
fn table_of(rest: u64) -> Option<u32> {
    let Grace { other: [a, b, c, d, ..], .. } = bytemuck::cast([0, rest]);
    Some(u32::from_ne_bytes([a, b, c, d])).filter(|_| is_member(rest))
}

fn read_tenure(words: &[AtomicU64; TENURE_WORDS]) -> Tenure {
    bytemuck::cast(words.each_ref().map(|word| word.load(Ordering::SeqCst)))
}

fn write_tenure(words: &[AtomicU64; TENURE_WORDS], tenure: Tenure) {
    let values: [u64; TENURE_WORDS] = bytemuck::cast(tenure);
    for (word, value) in words.iter().zip(values) {
        word.store(value, Ordering::SeqCst);
    }
}
