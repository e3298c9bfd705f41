//! Which node of an active/active group serves a flow: a table of buckets, and its form on the wire.
//!
//! A flow's hash names a bucket; the bucket's *first* node gets the flow. Its *second* had the bucket before, and has it
//! as long as flows of then are left. The holder of the group, its *entry*, makes the table and publishes it; everybody goes by what
//! was published. `docs/active-active.md` tells the whole of it.
//!
//! Not here: who the entry is, whom it counts as a member, and when it publishes (`election/spread.rs`).

pub mod message;
mod rendezvous;

use crate::identity::{Epoch, NodeId};

/// Buckets of a table; a power of two.
pub const BUCKETS: usize = 16_384;
/// Nodes that a table has places for.
pub const MAX_MEMBERS: usize = 32;
/// The place of nobody.
pub const NOBODY: u8 = u8::MAX;

/// Which of the tables of a group.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Version {
    /// The tenure of the entry that made it.
    pub epoch: Epoch,
    /// Higher than that of any before; never 0.
    pub number: u32,
}

impl Version {
    /// Whether it is this one or a later one of the same tenure.
    #[must_use]
    pub fn is_at_least(self, other: Self) -> bool {
        self.epoch == other.epoch && self.number >= other.number
    }
}

/// Who gets the flows of a bucket, by their places in the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bucket {
    /// Everything new, and everything that he knows; [`NOBODY`] only while there are no members.
    pub first: u8,
    /// What the first does not know; [`NOBODY`] if no flows of before are left.
    pub second: u8,
}

/// For each bucket whether there is something in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Buckets(Vec<u64>);

impl Default for Buckets {
    fn default() -> Self {
        Self(vec![0; BUCKETS / 64])
    }
}

impl Buckets {
    /// Whether there is something in this one.
    #[must_use]
    pub fn has(&self, bucket: usize) -> bool {
        self.0[bucket / 64] & 1 << (bucket % 64) != 0
    }

    /// Takes note that there is something in this one.
    pub fn insert(&mut self, bucket: usize) {
        self.0[bucket / 64] |= 1 << (bucket % 64);
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.0.fill(0);
    }

    /// How many there is something in.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// The words, 64 buckets each, the lowest bit first.
    #[must_use]
    pub fn words(&self) -> &[u64] {
        &self.0
    }

    pub(crate) fn words_mut(&mut self) -> &mut [u64] {
        &mut self.0
    }
}

/// What a node has to do for a group.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Load {
    /// Connections of the group's VIPs that its kernel knows.
    pub flows: u32,
    /// Packets to the VIPs that it has let into its own stack since its maps were made.
    pub packets: u64,
    /// The same in a second, lately.
    pub rate: u32,
}

/// A node that flows may go to.
#[derive(Clone, Copy, Debug)]
pub struct Member<'a> {
    /// Who.
    pub node: NodeId,
    /// Its share of what is new is in proportion to this; 0 while it only serves the flows that it has.
    pub weight: u32,
    /// Where it has flows; everywhere if nobody knows.
    pub busy: Option<&'a Buckets>,
}

/// A table of buckets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Table {
    /// By place: who has it. Nobody's is `None`.
    members: [Option<NodeId>; MAX_MEMBERS],
    buckets: Vec<Bucket>,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            members: [None; MAX_MEMBERS],
            buckets: vec![Bucket { first: NOBODY, second: NOBODY }; BUCKETS],
        }
    }
}

impl Table {
    /// What was read back from where it had been written to: who has which place, and the buckets, of which those that are not there
    /// are nobody's. Places that nobody has are nobody's.
    pub fn of(
        members: impl IntoIterator<Item = (u8, NodeId)>,
        buckets: impl IntoIterator<Item = Bucket>,
    ) -> Self {
        let mut table = Self::default();
        for (place, node) in members {
            if let Some(member) = table.members.get_mut(usize::from(place)) {
                *member = Some(node);
            }
        }
        let known = |place: u8| if usize::from(place) < MAX_MEMBERS { place } else { NOBODY };
        for (place, bucket) in table.buckets.iter_mut().zip(buckets) {
            *place = Bucket { first: known(bucket.first), second: known(bucket.second) };
        }
        table
    }

    /// Its buckets, [`BUCKETS`] of them.
    #[must_use]
    pub fn buckets(&self) -> &[Bucket] {
        &self.buckets
    }

    /// Who has a place.
    #[must_use]
    pub fn member(&self, place: u8) -> Option<NodeId> {
        *self.members.get(usize::from(place))?
    }

    /// The places that somebody has.
    pub fn members(&self) -> impl Iterator<Item = (u8, NodeId)> + '_ {
        self.members.iter().zip(0..).filter_map(|(member, place)| Some((place, (*member)?)))
    }

    /// The place of a node.
    #[must_use]
    pub fn place(&self, node: NodeId) -> Option<u8> {
        self.members().find(|&(_, member)| member == node).map(|(place, _)| place)
    }

    /// Makes it right for these members, at most [`MAX_MEMBERS`] of them, with as few moves as that takes. Returns whether
    /// anything changed.
    ///
    /// Each member with a weight is the first of as many buckets as its share, exact to one. Buckets of nodes that are gone, and
    /// what a member has beyond its share, go to those that have less; of these to the one whom rendezvous hashing names
    /// (Thaler and Ravishankar 1998, weighted). A bucket whose second still has flows moves only back to that one: there
    /// is no third place. Where nobody has any yet, they are dealt out one after the other, as any way is as good.
    pub fn rebalance(&mut self, members: &[Member<'_>]) -> bool {
        let mut changed = self.let_go(members);
        changed |= self.take_in(members);
        let weights: [u32; MAX_MEMBERS] = std::array::from_fn(|place| self.weight(place, members));
        let shares = self.shares(&weights);
        if self.buckets.iter().all(|bucket| bucket.first == NOBODY) {
            return self.deal_out(&shares) || changed;
        }
        let mut counts = self.counts();
        let takers = Takers::of(self, &weights);
        for bucket in 0..BUCKETS {
            let Bucket { first, second } = self.buckets[bucket];
            let owned = usize::from(first);
            let beyond = first == NOBODY || counts[owned] > shares[owned];
            if !beyond {
                continue;
            }
            let to = if second == NOBODY {
                let with_room = takers.nearest(bucket, |place| counts[place] < shares[place]);
                // Flows of before may keep more with some than is their share, and so less with nobody.
                let anybody = || takers.nearest(bucket, |place| shares[place] > 0);
                with_room.or_else(|| anybody().filter(|_| first == NOBODY))
            } else {
                let back = usize::from(second);
                let takes = shares[back] > 0 && (counts[back] < shares[back] || shares[owned] == 0);
                takes.then_some(second)
            };
            let Some(to) = to else { continue };
            if first != NOBODY {
                counts[owned] -= 1;
            }
            counts[usize::from(to)] += 1;
            self.buckets[bucket] = Bucket { first: to, second: first };
            changed = true;
        }
        changed
    }

    /// Gives each place its share, in the order of the nodes' ids, which is the same whoever does it. Whether anybody has one.
    fn deal_out(&mut self, shares: &[usize; MAX_MEMBERS]) -> bool {
        let mut order: [usize; MAX_MEMBERS] = std::array::from_fn(|place| place);
        order.sort_unstable_by_key(|&place| self.members[place]);
        // At most MAX_MEMBERS places, which a byte holds.
        let dealt = order.into_iter().flat_map(|place| std::iter::repeat_n(place as u8, shares[place]));
        let mut any = false;
        for (bucket, first) in self.buckets.iter_mut().zip(dealt) {
            *bucket = Bucket { first, second: NOBODY };
            any = true;
        }
        any
    }

    /// Takes nodes out that are gone, and seconds that have no flows left.
    fn let_go(&mut self, members: &[Member<'_>]) -> bool {
        let mut changed = false;
        let mut present: [Option<&Member<'_>>; MAX_MEMBERS] = [None; MAX_MEMBERS];
        for (place, known) in self.members.iter_mut().enumerate() {
            present[place] = members.iter().find(|member| Some(member.node) == *known);
            if present[place].is_none() && known.take().is_some() {
                changed = true;
            }
        }
        let is_present = |place: u8| present.get(usize::from(place)).copied().flatten();
        for (number, bucket) in self.buckets.iter_mut().enumerate() {
            let before = *bucket;
            if is_present(bucket.second)
                .is_none_or(|member| member.busy.is_some_and(|busy| !busy.has(number)))
            {
                bucket.second = NOBODY;
            }
            if is_present(bucket.first).is_none() {
                *bucket = Bucket { first: bucket.second, second: NOBODY };
            }
            changed |= *bucket != before;
        }
        changed
    }

    /// Gives places to those that have none.
    fn take_in(&mut self, members: &[Member<'_>]) -> bool {
        let mut changed = false;
        for member in members {
            if self.place(member.node).is_none()
                && let Some(free) = self.members.iter_mut().find(|place| place.is_none())
            {
                *free = Some(member.node);
                changed = true;
            }
        }
        changed
    }

    /// Of how many buckets each place is the first.
    #[must_use]
    pub fn counts(&self) -> [usize; MAX_MEMBERS] {
        self.count(|bucket| bucket.first)
    }

    /// Of how many buckets each place is the second.
    #[must_use]
    pub fn seconds(&self) -> [usize; MAX_MEMBERS] {
        self.count(|bucket| bucket.second)
    }

    fn count(&self, which: impl Fn(&Bucket) -> u8) -> [usize; MAX_MEMBERS] {
        let mut counts = [0; MAX_MEMBERS];
        for bucket in &self.buckets {
            if let Some(count) = counts.get_mut(usize::from(which(bucket))) {
                *count += 1;
            }
        }
        counts
    }

    fn weight(&self, place: usize, members: &[Member<'_>]) -> u32 {
        let member = members.iter().find(|member| Some(member.node) == self.members[place]);
        member.map_or(0, |member| member.weight)
    }

    /// Of how many buckets each place should be the first: in proportion to the weights, by largest remainders. Of equal ones
    /// those count that have the most already, so that least moves.
    fn shares(&self, weights: &[u32; MAX_MEMBERS]) -> [usize; MAX_MEMBERS] {
        let total: u64 = weights.iter().map(|&weight| u64::from(weight)).sum();
        if total == 0 {
            return [0; MAX_MEMBERS];
        }
        let buckets = BUCKETS as u64;
        let mut shares = weights.map(|weight| (buckets * u64::from(weight) / total) as usize);
        let counts = self.counts();
        let mut order: [usize; MAX_MEMBERS] = std::array::from_fn(|place| place);
        let remainder = |place: usize| buckets * u64::from(weights[place]) % total;
        order.sort_unstable_by_key(|&place| {
            std::cmp::Reverse((remainder(place), counts[place], std::cmp::Reverse(place)))
        });
        let left = BUCKETS - shares.iter().sum::<usize>();
        for &place in &order[..left] {
            shares[place] += 1;
        }
        shares
    }
}

/// Who takes something new.
struct Takers {
    takers: [Taker; MAX_MEMBERS],
    count: usize,
    /// Whether all have the same weight.
    are_equal: bool,
}

/// A place, what of its draws is its node's, and the reciprocal of its weight.
#[derive(Clone, Copy)]
struct Taker {
    place: u8,
    key: u64,
    reciprocal: u64,
}

impl Takers {
    fn of(table: &Table, weights: &[u32; MAX_MEMBERS]) -> Self {
        let nobody = Taker { place: NOBODY, key: 0, reciprocal: 0 };
        let mut takers = Self { takers: [nobody; MAX_MEMBERS], count: 0, are_equal: true };
        for (place, node) in table.members().filter(|&(place, _)| weights[usize::from(place)] > 0) {
            let reciprocal = rendezvous::reciprocal(weights[usize::from(place)]);
            takers.takers[takers.count] = Taker { place, key: rendezvous::of_node(node), reciprocal };
            takers.are_equal &= reciprocal == takers.takers[0].reciprocal;
            takers.count += 1;
        }
        takers
    }

    /// Of the places that may have the bucket the one that rendezvous hashing names.
    fn nearest(&self, bucket: usize, may: impl Fn(usize) -> bool) -> Option<u8> {
        let of_bucket = rendezvous::of_bucket(bucket);
        let such = self.takers[..self.count].iter().filter(|taker| may(usize::from(taker.place)));
        let nearest = if self.are_equal {
            such.max_by_key(|taker| rendezvous::draw(of_bucket, taker.key))
        } else {
            such.min_by_key(|taker| {
                rendezvous::distance(rendezvous::draw(of_bucket, taker.key), taker.reciprocal)
            })
        };
        nearest.map(|taker| taker.place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all<'a>(weights: &[(u16, u32)]) -> Vec<Member<'a>> {
        weights.iter().map(|&(node, weight)| Member { node: NodeId(node), weight, busy: None }).collect()
    }

    fn table(weights: &[(u16, u32)]) -> Table {
        let mut table = Table::default();
        table.rebalance(&all(weights));
        table
    }

    fn share(table: &Table, node: u16) -> usize {
        table.place(NodeId(node)).map_or(0, |place| table.counts()[usize::from(place)])
    }

    fn moved(before: &Table, after: &Table) -> usize {
        let who = |table: &Table, bucket: usize| table.member(table.buckets()[bucket].first);
        (0..BUCKETS).filter(|&bucket| who(before, bucket) != who(after, bucket)).count()
    }

    #[test]
    fn shares_are_exact_to_one() {
        let equal = table(&[(1, 1), (2, 1), (3, 1)]);
        assert_eq!([1, 2, 3].map(|node| share(&equal, node)), [5462, 5461, 5461]);
        let weighted = table(&[(1, 1), (2, 2), (3, 5)]);
        assert_eq!([1, 2, 3].map(|node| share(&weighted, node)), [2048, 4096, 10_240]);
    }

    #[test]
    fn who_joins_takes_his_share_and_nothing_else_moves() {
        let before = table(&[(1, 1), (2, 1), (3, 1)]);
        let mut after = before.clone();
        assert!(after.rebalance(&all(&[(1, 1), (2, 1), (3, 1), (4, 1)])));
        assert_eq!(moved(&before, &after), 4096);
        assert_eq!([1, 2, 3, 4].map(|node| share(&after, node)), [4096; 4]);
        let fourth = after.place(NodeId(4)).unwrap();
        for (old, new) in before.buckets().iter().zip(after.buckets()) {
            let second = if new.first == fourth { old.first } else { NOBODY };
            assert_eq!(new.second, second, "who had it before is its second");
        }
        assert!(!after.rebalance(&all(&[(1, 1), (2, 1), (3, 1), (4, 1)])), "and then it stays");
    }

    #[test]
    fn what_a_dead_node_had_goes_to_the_others_and_nothing_else_moves() {
        let before = table(&[(1, 1), (2, 1), (3, 1)]);
        let mut after = before.clone();
        after.rebalance(&all(&[(1, 1), (3, 1)]));
        assert_eq!(moved(&before, &after), share(&before, 2));
        assert_eq!([1, 3].map(|node| share(&after, node)), [8192; 2]);
        assert!(after.buckets().iter().all(|bucket| bucket.second == NOBODY));
        assert_eq!(after.place(NodeId(2)), None);
    }

    /// A second change within the life of a flow of before the first: the flow's node stays in the bucket.
    #[test]
    fn a_bucket_with_flows_of_before_goes_back_or_stays() {
        let mut table = table(&[(1, 1), (2, 1)]);
        table.rebalance(&all(&[(1, 1), (2, 1), (3, 1)]));
        let third = table.place(NodeId(3)).unwrap();
        let before = table.clone();
        table.rebalance(&all(&[(1, 1), (2, 1), (3, 0)]));
        for (old, new) in before.buckets().iter().zip(table.buckets()) {
            if old.first == third {
                assert_eq!(*new, Bucket { first: old.second, second: third });
            }
        }
        table.rebalance(&all(&[(1, 1), (2, 1), (3, 0), (4, 2)]));
        for (old, new) in before.buckets().iter().zip(table.buckets()) {
            if old.first == third {
                assert_eq!(*new, Bucket { first: old.second, second: third }, "a third place there is not");
            }
        }
        let idle = Buckets::default();
        let mut members = all(&[(1, 1), (2, 1), (3, 0), (4, 2)]);
        members[2].busy = Some(&idle);
        table.rebalance(&members);
        assert_eq!([1, 2, 3, 4].map(|node| share(&table, node)), [4096, 4096, 0, 8192]);
        assert_eq!(table.seconds()[usize::from(third)], 0, "its flows are done");
    }

    #[test]
    fn where_the_first_dies_the_second_takes_over_with_the_flows_it_has() {
        let mut table = table(&[(1, 1)]);
        table.rebalance(&all(&[(1, 1), (2, 1)]));
        let first = table.place(NodeId(1)).unwrap();
        table.rebalance(&all(&[(1, 1)]));
        assert!(table.buckets().iter().all(|bucket| *bucket == Bucket { first, second: NOBODY }));
    }

    #[test]
    fn as_many_members_as_there_can_be_have_equal_shares() {
        let weights: Vec<(u16, u32)> = (1..=32).map(|node| (node, 7)).collect();
        let table = table(&weights);
        assert_eq!(table.counts(), [512; MAX_MEMBERS]);
    }

    proptest! {
        /// Whatever happens: every bucket has a first as long as there is anybody to be it, first and second are two, both are
        /// members, and a bucket loses the flows of no node that is there.
        #[test]
        fn no_flow_of_a_node_that_is_there_is_lost(
            steps in proptest::collection::vec(proptest::collection::vec((1_u16..8, 0_u32..4), 0..8), 1..12),
            seed in any::<u64>(),
        ) {
            let mut table = Table::default();
            for (step, weights) in steps.iter().enumerate() {
                let mut members: Vec<(u16, u32)> = weights.clone();
                members.sort_unstable();
                members.dedup_by_key(|member| member.0);
                let busy: Vec<Buckets> = members.iter().map(|&(node, _)| {
                    let mut busy = Buckets::default();
                    for bucket in 0..BUCKETS {
                        let hash = (bucket as u64 ^ seed ^ (u64::from(node) << 20) ^ ((step as u64) << 40))
                            .wrapping_mul(0x9e37_79b9_7f4a_7c15);
                        if hash >> 63 == 1 {
                            busy.insert(bucket);
                        }
                    }
                    busy
                }).collect();
                let members: Vec<Member<'_>> = members.iter().zip(&busy)
                    .map(|(&(node, weight), busy)| Member { node: NodeId(node), weight, busy: Some(busy) })
                    .collect();
                let before = table.clone();
                table.rebalance(&members);
                let can_serve = members.iter().any(|member| member.weight > 0);
                for bucket in 0..BUCKETS {
                    let Bucket { first, second } = table.buckets()[bucket];
                    prop_assert!(first != NOBODY || !can_serve);
                    prop_assert!(first != second || first == NOBODY);
                    for place in [first, second] {
                        let member = table.member(place);
                        prop_assert!(place == NOBODY || members.iter().any(|m| Some(m.node) == member));
                    }
                    let old = before.buckets()[bucket];
                    for (place, is_first) in [(old.first, true), (old.second, false)] {
                        let Some(node) = before.member(place) else { continue };
                        let Some(at) = members.iter().position(|member| member.node == node) else { continue };
                        if is_first || busy[at].has(bucket) {
                            let kept = table.member(first) == Some(node) || table.member(second) == Some(node);
                            prop_assert!(kept, "bucket {bucket} lost node {node:?} in step {step}");
                        }
                    }
                }
            }
        }
    }
}
