//! The tables of active/active groups, as the programs go by them: for each group two, of which one is gone by while the
//! other is written.

use std::sync::atomic::Ordering;

use aya::maps::MapData;
use cluster_common::flow::BUCKETS;
use cluster_common::maps::{MAX_MEMBERS, MAX_TABLES, NOBODY, SpreadTable};
use cluster_proto::spread::{Bucket, Table, Version};
use cluster_proto::{ClusterId, Epoch, Mac, NodeId};

use super::slots::GroupSlot;
use super::unsafe_shared_words::SharedWords;

/// Words of one [`SpreadTable`], and of what comes before its members.
const TABLE_WORDS: usize = size_of::<SpreadTable>() / size_of::<u64>();
const HEAD_WORDS: usize = 6;
/// Buckets in a word.
const BUCKETS_A_WORD: usize = 4;

/// The Ethernet addresses that a node puts into frames that it sends on, for the first time and for the second: locally administered
/// (IEEE 802), and nobody's; how often, the cluster, the node.
fn marks(cluster: ClusterId, node: NodeId) -> [Mac; 2] {
    let [a, b, c, d, ..] = cluster.0.to_be_bytes();
    let [high, low] = node.0.to_be_bytes();
    [0xa1, 0xa2].map(|times| Mac([2, times, a ^ c, b ^ d, high, low]))
}

/// All tables.
#[derive(Debug)]
pub(super) struct SpreadTables(SharedWords);

impl SpreadTables {
    pub(super) fn map(tables: &MapData) -> std::io::Result<Self> {
        Ok(Self(SharedWords::map(tables.fd(), MAX_TABLES as usize * TABLE_WORDS)?))
    }

    /// Writes a table for the group in a slot to where nobody goes by it; its number. `None` if there is no room for another
    /// group. `current`: the table that is gone by.
    pub(super) fn write(
        &self,
        slot: GroupSlot,
        current: Option<u32>,
        spread: &cluster_proto::SpreadTable<'_>,
        mac_of: impl Fn(NodeId) -> Option<Mac>,
    ) -> Option<u32> {
        let owner = slot.index() + 1;
        let is_mine = |number: &u32| self.owner(*number) == owner && Some(*number) != current;
        let is_free = |number: &u32| self.owner(*number) == 0;
        let number = (0..MAX_TABLES).find(is_mine).or_else(|| (0..MAX_TABLES).find(is_free))?;
        let words = self.0.words().get(number as usize * TABLE_WORDS..)?.get(..TABLE_WORDS)?;
        let padded = |mac: Mac| {
            let [a, b, c, d, e, f] = mac.0;
            u64::from_ne_bytes([a, b, c, d, e, f, 0, 0])
        };
        let [a, b, c, d] = owner.to_ne_bytes();
        let table = spread.table;
        let me = table.place(spread.me).unwrap_or(NOBODY);
        let [first, second] = marks(spread.cluster, spread.me).map(padded);
        let seed = spread.over.seed(spread.cluster, spread.group);
        let Version { epoch, number: version } = spread.version;
        let [e, f] = epoch.node.0.to_ne_bytes();
        let owner = u64::from_ne_bytes([a, b, c, d, me, spread.over.by_source.into(), e, f]);
        let [g, h, i, j] = version.to_ne_bytes();
        let version = u64::from_ne_bytes([g, h, i, j, 0, 0, 0, 0]);
        let head = [owner, epoch.counter, version, seed, first, second];
        let member = |place: u8| {
            let node = table.member(place)?;
            let [a, b, c, d, e, f] = mac_of(node).unwrap_or_default().0;
            let [g, h] = node.0.to_ne_bytes();
            Some(u64::from_ne_bytes([a, b, c, d, e, f, g, h]))
        };
        let members = (0..MAX_MEMBERS as u8).map(|place| member(place).unwrap_or(0));
        let buckets = table.buckets().chunks_exact(BUCKETS_A_WORD).map(|buckets| {
            let bytes = std::array::from_fn(|at| {
                let bucket = buckets[at / 2];
                if at % 2 == 0 { bucket.first } else { bucket.second }
            });
            u64::from_ne_bytes(bytes)
        });
        for (word, value) in words.iter().zip(head.into_iter().chain(members).chain(buckets)) {
            word.store(value, Ordering::Relaxed);
        }
        Some(number)
    }

    /// A table as it was written for the group in a slot.
    pub(super) fn read(&self, slot: GroupSlot, number: u32) -> Option<(Version, Table)> {
        if self.owner(number) != slot.index() + 1 {
            return None;
        }
        let words = self.0.words().get(number as usize * TABLE_WORDS..)?.get(..TABLE_WORDS)?;
        let mut bytes = words.iter().map(|word| word.load(Ordering::SeqCst).to_ne_bytes());
        let [.., e, f] = bytes.next()?;
        let counter = u64::from_ne_bytes(bytes.next()?);
        let [g, h, i, j, ..] = bytes.next()?;
        let epoch = Epoch { counter, node: NodeId(u16::from_ne_bytes([e, f])) };
        let version = Version { epoch, number: u32::from_ne_bytes([g, h, i, j]) };
        let mut bytes = bytes.skip(HEAD_WORDS - 3);
        let members: Vec<(u8, NodeId)> = (0..MAX_MEMBERS as u8)
            .zip(bytes.by_ref())
            .map(|(place, [.., g, h])| (place, NodeId(u16::from_ne_bytes([g, h]))))
            .filter(|(_, node)| node.0 != 0)
            .collect();
        let buckets = bytes.flat_map(|word| {
            let [a, b, c, d, e, f, g, h] = word;
            [[a, b], [c, d], [e, f], [g, h]].map(|[first, second]| Bucket { first, second })
        });
        Some((version, Table::of(members, buckets)))
    }

    /// Forgets the tables of the group in a slot. Only once nobody goes by them.
    pub(super) fn free(&self, slot: GroupSlot) {
        for number in (0..MAX_TABLES).filter(|number| self.owner(*number) == slot.index() + 1) {
            if let Some(word) = self.0.words().get(number as usize * TABLE_WORDS) {
                word.store(0, Ordering::SeqCst);
            }
        }
    }

    /// The slot whose table it is, counted from 1; 0 if it is free.
    fn owner(&self, number: u32) -> u32 {
        let word = self.0.words().get(number as usize * TABLE_WORDS);
        let [a, b, c, d, ..] = word.map_or(0, |word| word.load(Ordering::SeqCst)).to_ne_bytes();
        u32::from_ne_bytes([a, b, c, d])
    }
}

const _: () = {
    assert!(HEAD_WORDS + MAX_MEMBERS + BUCKETS / BUCKETS_A_WORD == TABLE_WORDS);
    assert!(MAX_MEMBERS == cluster_proto::spread::MAX_MEMBERS && BUCKETS == cluster_proto::spread::BUCKETS);
    assert!(NOBODY == cluster_proto::spread::NOBODY);
};
